"""What other people's code does to modules works on each of ours: one table of modules, one test a deed."""
import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import UnsupportedOperatorException

from helpers.behaviour import replica
from helpers.module_table import MODULES, assert_alike, build, differentiate, run

# Made of what another row has, or differing by a number alone; ReducedAttention's network is one of the whole models.
ALIKE = {"FDConv 3 × 1, 2 sets, local tanh", "TransformerBlock", "VisionTransformer", "bilinear", "encoder",
         "self-attention", "ReducedAttention", "DySample", "FADE-Lite", "FADE without gate"}
every_module = pytest.mark.parametrize("name", [name for name in MODULES if name not in ALIKE])


@every_module
def test_channels_last(name):
    module = build(name)
    expected = run(name, module)
    # torch's GroupNorm crashes in the backward pass of such a map that needs no gradient.
    inputs = [to_channels_last(tensor).requires_grad_() for tensor in MODULES[name].inputs(2)]
    assert_alike(run(name, module, inputs), expected)
    module.to(memory_format=torch.channels_last)
    outputs = run(name, module, inputs)
    assert_alike(outputs, expected)
    differentiate(module, outputs)
    assert all(parameter.grad is not None for parameter in module.parameters())


def to_channels_last(tensor):
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


@every_module
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies(name, way):
    module = build(name)
    duplicate = copy.deepcopy(module) if way == "deepcopy" else pickle.loads(pickle.dumps(module))
    assert_alike(run(name, duplicate), run(name, module))


@every_module
def test_forward_on_the_meta_device(name):
    with torch.device("meta"):
        module = MODULES[name].make()
    inputs = [tensor.to("meta") for tensor in MODULES[name].inputs(2)]
    for context in (torch.enable_grad(), torch.no_grad()):
        with context:
            outputs = run(name, module, inputs)
        assert all(output.is_meta for output in outputs)
    assert [output.shape for output in outputs] == [output.shape for output in run(name, build(name))]


@every_module
@pytest.mark.parametrize("assign", [True, False])
def test_meta_construction_then_loading(name, assign):
    source = build(name)
    with torch.device("meta"):
        module = MODULES[name].make().eval()
    if not assign:
        module.to_empty(device="cpu")
        spoil(module)
    module.load_state_dict(source.state_dict(), assign=assign)
    assert_alike(run(name, module), run(name, source))
    assert list(module.state_dict()) == list(source.state_dict())


def spoil(module):
    """What fresh memory may hold."""
    for tensor in (*module.parameters(), *module.state_dict().values()):
        tensor.detach().fill_(float("nan") if tensor.is_floating_point() else 77)


@every_module
def test_to_empty_then_reset_parameters(name):
    fresh = MODULES[name].make()
    with torch.device("meta"):
        module = MODULES[name].make()
    module.to_empty(device="cpu")
    spoil(module)
    module.apply(lambda part: part.reset_parameters() if hasattr(part, "reset_parameters") else None)
    for key, value in fresh.state_dict().items():
        ours, value = module.state_dict()[key].float(), value.float()
        assert ours.isfinite().all(), key
        if value.unique().numel() == 1:
            assert torch.equal(ours, value), key
        elif value.numel() >= 64:   # fewer random numbers say nothing
            assert 0.5 * value.std() <= ours.std() <= 2 * value.std(), key
    for (key, value), ours in zip(fresh.named_buffers(), module.buffers()):
        assert torch.equal(value, ours), key


@every_module
@pytest.mark.filterwarnings("ignore")
def test_dynamic_quantisation(name):
    module = build(name)
    expected = run(name, module)
    outputs = run(name, torch.ao.quantization.quantize_dynamic(copy.deepcopy(module), {nn.Linear}, torch.qint8))
    for output, value in zip(outputs, expected):
        assert (output - value).abs().mean() <= 0.1 * value.abs().mean()


@every_module
def test_replicas_of_data_parallel(name):
    module = build(name)
    outputs = run(name, replica(module))
    assert_alike(outputs, run(name, module))
    differentiate(module, outputs)
    assert all(parameter.grad is not None for parameter in module.parameters())


@every_module
@pytest.mark.filterwarnings("ignore")
def test_trace(name):
    """Gradients on, as they are where nobody switches them off; saved and loaded."""
    module, inputs = build(name), MODULES[name].inputs(2)
    wrapped = WithRest(module, MODULES[name].rest)
    traced = torch.jit.trace(wrapped, inputs)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    outputs = torch.jit.load(file)(*inputs)
    assert_alike(as_list(outputs), run(name, module))


@every_module
@pytest.mark.filterwarnings("ignore")
def test_export(name):
    module, inputs = build(name), MODULES[name].inputs(2)
    wrapped = WithRest(module, MODULES[name].rest)
    program = torch.export.export(wrapped, inputs)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    outputs = torch.export.load(file).module()(*inputs)
    assert_alike(as_list(outputs), run(name, module))
    assert_alike(run(name, module), run(name, build(name)))     # the module itself is as it was


@every_module
@pytest.mark.filterwarnings("ignore")
def test_export_of_any_number_of_images(name):
    module, inputs = build(name), MODULES[name].inputs(2)
    if any(len(rest) == 1 for rest in MODULES[name].rest if isinstance(rest, torch.Tensor)):
        pytest.skip("the references are those of one picture")
    batch = torch.export.Dim("batch", min=2, max=64)
    try:
        program = torch.export.export(WithRest(module, MODULES[name].rest), inputs, strict=False,
                                      dynamic_shapes=(tuple({0: batch} for _ in inputs),))
    except UnsupportedOperatorException as error:
        if "_fft_" not in str(error.func):
            raise
        pytest.skip(f"torch {torch.__version__} exports no FFT of any number of images")
    more = MODULES[name].inputs(3)
    assert_alike(as_list(program.module()(*more)), run(name, module, more))


@pytest.mark.parametrize("name", ["FDConv", "FDLinear", "FreqFusion", "FreqFusionSum", "AttentionInversion"])
def test_symbolic_recording_keeps_the_module_whole(name):
    """As torchvision's create_feature_extractor records a network."""
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = build(name)

        def forward(self, x, y):
            return self.part(x) if len(MODULES[name].inputs(1)) == 1 else self.part(x, y)

    network, inputs = Network(), [*MODULES[name].inputs(2), None][:2]
    recorded = torch.fx.symbolic_trace(network)
    assert [node.target for node in recorded.graph.nodes if node.op == "call_module"] == ["part"]
    assert_alike(as_list(recorded(*inputs)), run(name, network.part))


@every_module
def test_compile_without_a_graph_break(name):
    module = build(name)
    torch._dynamo.reset()
    compiled = torch.compile(WithRest(module, MODULES[name].rest), backend="eager", fullgraph=True)
    assert_alike(as_list(compiled(*MODULES[name].inputs(2))), run(name, module))


@every_module
def test_gradients_of_torch_func(name):
    module, inputs = build(name), MODULES[name].inputs(2)
    parameters = {key: value.detach() for key, value in module.named_parameters()}
    outputs = run(name, module)
    differentiate(module, outputs)

    def total(parameters):
        outputs = torch.func.functional_call(module, parameters, (*inputs, *MODULES[name].rest))
        return sum((1 * output).sum() for output in as_list(outputs))   # torch 2.6 transforms no expanded gradient

    for key, gradient in torch.func.grad(total)(parameters).items():
        expected = module.get_parameter(key).grad
        assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-4 * (1 + expected.abs().max())), key


class WithRest(nn.Module):
    """A module with all arguments but its tensors bound."""

    def __init__(self, module, rest):
        super().__init__()
        self.module, self.rest = module, rest

    def forward(self, *inputs):
        outputs = self.module(*inputs, *self.rest)
        return outputs if isinstance(outputs, torch.Tensor) else tuple(outputs)


def as_list(outputs):
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)

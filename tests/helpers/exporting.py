"""Networks as torch.export and ONNX record them, and what the recordings compute."""
import io

import onnx
import onnxruntime
import torch
from torch import nn
from torch.export import Dim

from freqdino.ops.modules import sizes_left_open

IMAGES = Dim("images", min=1, max=16)
# No operator that is not of ONNX itself, none that asks for complex numbers, and no control flow.
UNWANTED = {"GridSample", "DFT", "STFT", "Loop", "If", "Scan"}


class Maps(nn.Module):
    """A backbone's maps as a tuple."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, images):
        return tuple(self.backbone(images).values())


class Predictions(nn.Module):
    """What a model's head makes of normalised and padded images, as a tuple."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        if not hasattr(self.model, "features"):
            return self.model.sem_seg_head(self.model.backbone(images))[0]
        last = self.model.sem_seg_head(self.model.features(images)).last
        return tuple(output for output in (last.logits, last.masks, last.boxes) if output is not None)


def off_its_start(module, seed=0):
    """The module in eval mode, its parameters moved from values that hide errors, such as zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def sides(multiple, least=1):
    """Height and width of any multiples, as torch.export's dimensions 2 and 3."""
    return {2: multiple * Dim("rows", min=least, max=64), 3: multiple * Dim("columns", min=least, max=64)}


def export(module, inputs, *dynamic, strict=False):
    with sizes_left_open():
        return torch.export.export(module, inputs, dynamic_shapes=dynamic, strict=strict)


def loaded(program):
    """The program as it comes back from a file; it needs nothing but torch."""
    operators = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert {operator.namespace for operator in operators if hasattr(operator, "namespace")} == {"aten"}
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()


def onnx_session(program, opset=18):
    """An ONNX graph of the program, of ONNX's own operators, ready to run."""
    with sizes_left_open():
        made = torch.onnx.export(program, dynamo=True, opset_version=opset, optimize=False, verbose=False)
    model = made.model_proto
    onnx.checker.check_model(model)
    assert {(imported.domain, imported.version) for imported in model.opset_import} == {("", opset)}
    assert not model.functions
    assert UNWANTED.isdisjoint(node.op_type for node in model.graph.node)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(session, *inputs):
    outputs = session.run(None, {taken.name: tensor.numpy() for taken, tensor in zip(session.get_inputs(), inputs)})
    return [torch.from_numpy(output) for output in outputs]


def assert_near(outputs, expected, tolerance=1e-4):
    outputs, expected = ([each] if isinstance(each, torch.Tensor) else list(each) for each in (outputs, expected))
    assert [output.shape for output in outputs] == [value.shape for value in expected]
    for output, value in zip(outputs, expected):
        assert (output - value).abs().max() <= tolerance * value.abs().max()

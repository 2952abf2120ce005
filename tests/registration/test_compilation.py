"""MODEL.COMPILE: whole graphs that serve all sizes, the same model otherwise, one warning where it does not work."""
import copy
import logging
import pickle
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from freqdino.analysis.costs.measuring import build
from freqdino.engine.weight_averaging import WeightAveraging
from freqdino.registration import compilation, model_parts
from freqdino.registration.compilation import PARTS, compile_parts
from helpers.small_mask_dino import mask_dino_model
from helpers.small_models import example, small_config, small_model

CPU = torch.device("cpu")
# With one layer in the transformer decoder, as each is followed in its turn.
FAMILIES = {"mask2former": partial(small_model, {"MODEL.MASK_FORMER.DEC_LAYERS": 2}),
            "maskdino": partial(mask_dino_model, {"MODEL.MaskDINO.DEC_LAYERS": 1})}
SIZES = [(160, 192), (192, 224), (256, 160)]


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


class Counting:
    """A backend that runs graphs as they are and counts them."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


def graphs_by_size(model, run, sizes):
    """How many graphs there are in all, after each size."""
    backend, found = Counting(), []
    compile_parts(model, CPU, backend)
    backend.graphs = 0      # without that of the trial
    for size in sizes:
        run(model, size)
        found.append(backend.graphs)
    assert not counters["graph_break"]
    return found


def predict(model, size):
    with torch.no_grad():
        model.eval()([example(*size), example(*size)])


def learn(model, size):
    sum(model.train()([example(*size, [0, 1]), example(*size, [1])]).values()).backward()


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("run", [predict, learn])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_graph_a_part_and_another_for_all_other_sizes(family, run):
    assert graphs_by_size(FAMILIES[family](), run, SIZES) == [3, 6, 6]


def test_losses_and_gradients_are_the_same():
    model, batch = FAMILIES["mask2former"]().train(), [example(64, 96, [0, 1]), example(64, 96, [1])]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "sampling_offsets" in name:      # they start on the grid, where a bilinear sample has two slopes
                parameter.add_(0.1 * torch.rand_like(parameter))
    plain = copy.deepcopy(model)
    compile_parts(model, CPU, Counting())
    losses, gradients = [], []
    for network in (model, plain):
        torch.manual_seed(0)        # of the points at which masks are compared
        losses.append(sum(network(batch).values()))
        losses[-1].backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    torch.testing.assert_close(*losses)
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-3, atol=1e-4), name


def failing(graph, inputs):
    raise OSError("no such compiler")


def test_without_a_compiler_one_warning_and_the_model_as_it_is(caplog):
    model = small_model().eval()
    expected = model([{"image": torch.zeros(3, 64, 64)}])[0]["sem_seg"]
    compile_parts(model, CPU, failing)
    [warning] = warnings(caplog)
    assert warning == "MODEL.COMPILE is True, but nothing is compiled: it ends in OSError: no such compiler"
    assert torch.equal(model([{"image": torch.zeros(3, 64, 64)}])[0]["sem_seg"], expected)


def test_a_compiler_that_fails_later(caplog, monkeypatch):
    monkeypatch.setattr(compilation, "PARTS", ("backbone",))
    monkeypatch.setattr(compilation, "reason_against", lambda device, backend: None)
    model = small_model().eval()
    expected = model([{"image": torch.zeros(3, 64, 64)}])[0]["sem_seg"]
    compile_parts(model, CPU, failing)
    for _ in range(2):
        assert torch.equal(model([{"image": torch.zeros(3, 64, 64)}])[0]["sem_seg"], expected)
    [warning] = warnings(caplog)
    assert warning == "MODEL.COMPILE: backbone runs uncompiled, its compilation ends in OSError: no such compiler"


def test_errors_of_the_model_stay_what_they_are():
    model = small_model()
    compile_parts(model, CPU, Counting())
    with pytest.raises(ValueError, match="reads 3 levels, got 0"):
        model.sem_seg_head.predictor([], torch.zeros(1, 16, 8, 8))


def test_names_and_copies():
    plain, model = (FAMILIES["mask2former"]().eval() for _ in range(2))
    backend = Counting()
    compile_parts(model, CPU, backend)
    assert [*model.state_dict()] == [*plain.state_dict()]
    assert [name for name, _ in model.named_modules()] == [name for name, _ in plain.named_modules()]
    plain.load_state_dict(model.state_dict())
    graphs = backend.graphs
    image = [{"image": torch.zeros(3, 64, 64)}]
    expected = plain(image)[0]["sem_seg"]
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(image)[0]["sem_seg"], expected)
    assert backend.graphs == graphs             # copies are not compiled
    torch.testing.assert_close(model(image)[0]["sem_seg"], expected, rtol=1e-4, atol=1e-5)
    assert backend.graphs == graphs + len(PARTS)


def test_the_average_of_a_compiled_model(tmp_path):
    model = small_model()
    compile_parts(model, CPU, Counting())
    averaging = WeightAveraging(model, decay=0.5, output_dir=str(tmp_path))
    averaging.before_train()
    with torch.no_grad():
        model.sem_seg_head.predictor.query_feat.weight.add_(2)
    averaging.after_step()          # the first step's average is the model's
    before = averaging.model.sem_seg_head.predictor.query_feat.weight.clone()
    with torch.no_grad():
        model.sem_seg_head.predictor.query_feat.weight.add_(2)
    averaging.after_step()
    torch.testing.assert_close(averaging.model.sem_seg_head.predictor.query_feat.weight, before + 1)


def test_the_key(monkeypatch):
    compiled = []
    monkeypatch.setattr(model_parts, "compile_parts", lambda model, device: compiled.append(device))
    small_model()
    assert compiled == []
    small_model({"MODEL.COMPILE": True})
    mask_dino_model({"MODEL.COMPILE": True})
    assert compiled == [CPU, CPU]
    build(small_config({"MODEL.COMPILE": True}))            # costs are of the operators that the modules call
    assert len(compiled) == 2


def test_swin_is_compiled_for_each_size():
    options = {"BACKBONE.NAME": "D2SwinTransformer", "SWIN.EMBED_DIM": 8, "SWIN.DEPTHS": [1, 1, 1, 1],
               "SWIN.NUM_HEADS": [1, 1, 2, 2], "SWIN.WINDOW_SIZE": 4}
    model = small_model({f"MODEL.{name}": value for name, value in options.items()})
    backend = Counting()
    compile_parts(model, CPU, backend)
    backend.graphs = 0
    for graphs, size in enumerate([(64, 64), (64, 96)], start=1):
        with torch.no_grad():
            model.eval().backbone(torch.rand(1, 3, *size))
        assert backend.graphs == graphs
    assert not counters["graph_break"]

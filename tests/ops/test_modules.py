"""The parts that keep modules right whatever is done to them."""
import pytest
import torch
from torch import nn

from freqdino.ops.modules import DerivedBuffers, is_plain, parameter_type, with_zero_gradients


class Counter(DerivedBuffers):
    """Two buffers from one argument, beside a parameter."""

    def __init__(self, number):
        super().__init__()
        self.number = number
        self.parameter = nn.Parameter(torch.ones(1))
        self.make_buffers()

    def derived_buffers(self):
        return {"count": torch.arange(self.number), "share": torch.arange(self.number) / self.number}


def assert_right(module, share=torch.float32):
    assert torch.equal(module.count, torch.tensor([0, 1, 2, 3])) and module.count.dtype == torch.int64
    assert module.share.tolist() == [0.0, 0.25, 0.5, 0.75] and module.share.dtype == share
    assert list(module.state_dict()) == ["parameter"]


@pytest.mark.parametrize("deed, share", [
    (lambda module: module.half(), torch.float32),
    (lambda module: module.bfloat16(), torch.float32),
    (lambda module: module.double(), torch.float64),
    (lambda module: module.type(torch.float64), torch.float64),
    (lambda module: module.to_empty(device="cpu"), torch.float32),
    (lambda module: module.share_memory(), torch.float32),
    (lambda module: nn.Sequential(module).half(), torch.float32),
    (lambda module: module.to("meta").to_empty(device="cpu"), torch.float32),
], ids=["half", "bfloat16", "double", "type", "to_empty", "share_memory", "in another", "from meta"])
def test_derived_buffers_keep_their_values(deed, share):
    """Integers stay what they are under .type(), which casts them with all else."""
    module = Counter(4)
    deed(module)
    assert_right(module, share)


def test_derived_buffers_after_assignment():
    with torch.device("meta"):
        module = Counter(4)
    module.materialise()
    assert module.count.is_meta
    module.load_state_dict({"parameter": torch.zeros(1)}, assign=True)
    with torch.inference_mode():
        module.materialise()
    assert_right(module)
    assert not module.count.is_inference()


def test_is_plain():
    layer = nn.Linear(2, 2)
    assert is_plain(layer, nn.Linear) and not is_plain(layer, nn.Conv2d)
    handle = layer.register_full_backward_hook(lambda *_: None)
    assert not is_plain(layer, nn.Linear)
    handle.remove()
    assert is_plain(layer, nn.Linear)
    assert not is_plain(nn.utils.parametrizations.weight_norm(layer), nn.Linear)


def test_parameter_type():
    module = nn.Module()
    assert parameter_type(module) is None
    module.integers = nn.Parameter(torch.zeros(1, dtype=torch.int8), requires_grad=False)
    assert parameter_type(module) is None
    module.numbers = nn.Parameter(torch.zeros(1, dtype=torch.float16))
    assert parameter_type(module) == torch.float16


def test_with_zero_gradients():
    module = nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    y = with_zero_gradients(torch.zeros(0, 3), module)
    assert y.shape == (0, 3)
    y.sum().backward()
    assert module.weight.grad.tolist() == [[0.0, 0.0], [0.0, 0.0]] and module.bias.grad is None

"""Every operator with a gradient rule of its own as torch knows it, by torch's own checks."""
import pytest
import torch

from freqdino.frequency.fdam.scale_spectrum import ScaleSpectrum
from freqdino.frequency.fdconv.fourier_weight import GroupedMatrices
from freqdino.frequency.fdconv.gated_product import Gated, GatedProduct
from freqdino.layers.linear import OneDNNLinear
from freqdino.ops.carafe import CarafeByGathers
from freqdino.ops.ms_deform_attn import MSDeformAttn
from freqdino.ops.registered import RegisteredFunction
from freqdino.ops.weighted_gather import WeightedGather


def rand(*shape, **options):
    return torch.rand(shape, requires_grad=True, **options)


def channels_last(*shape):
    return torch.rand(shape).to(memory_format=torch.channels_last).requires_grad_()


GROUPS = torch.tensor([[0, 1, 1], [1, 0, 1]], dtype=torch.int32)
CALLS = [
    (MSDeformAttn, (rand(1, 10, 2, 3), rand(1, 2, 2, 2, 1, 2), rand(1, 2, 2, 2, 1), [4, 2], [2, 1])),
    (MSDeformAttn, (rand(1, 2, 1, 2, dtype=torch.bfloat16), rand(1, 1, 1, 1, 1, 2), rand(1, 1, 1, 1, 1), [1], [2])),
    (CarafeByGathers, (rand(1, 2, 1, 2), rand(1, 2, 2, 4), 1, 2, 2)),
    (CarafeByGathers, (channels_last(1, 2, 2, 1), rand(1, 9, 2, 1), 3, 1, 1)),
    (WeightedGather, (rand(6, 4), torch.tensor([[0, 5], [2, 2], [1, 0]]), rand(3, 2))),
    (OneDNNLinear, (rand(2, 7, 5), rand(3, 5), rand(3), False)),
    (OneDNNLinear, (torch.rand(5, 7).T.requires_grad_(), torch.rand(5, 3).T.requires_grad_(), None, True)),
    (ScaleSpectrum, (rand(2, 3, 5, 4), rand(2, 3, 5, 3))),
    (ScaleSpectrum, (channels_last(2, 3, 4, 5), rand(2, 3, 4, 3))),
    (Gated, (rand(2, 4, 5), rand(2, 4, 3), rand(2, 3, 5))),
    (GatedProduct, (rand(2, 4, 5), rand(2, 4, 3), rand(2, 3, 5), rand(2, 10, 7))),
    (GroupedMatrices, (rand(2, 2, 3, 2), rand(3, 2, 2), GROUPS, 4)),
]
CHECKS = ["test_schema", "test_autograd_registration", "test_faketensor"]
if torch.torch_version.TorchVersion(torch.__version__) >= "2.7":    # older ones cannot trace FFTs and sums of sizes
    CHECKS.append("test_aot_dispatch_dynamic")


@pytest.mark.parametrize(("function", "inputs"), CALLS, ids=[function.__name__ for function, _ in CALLS])
def test_opcheck(function, inputs):
    torch.library.opcheck(function.apply, inputs, test_utils=CHECKS)


def test_every_operator_is_checked():
    assert set(RegisteredFunction.of_operator.values()) == {function for function, _ in CALLS}

"""deformops' adapter: what it is given and gives, by the package's eager backend."""
import pytest
import torch

from freqdino.ops.ms_deform_attn_fused import trial


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_deformops_on_the_cpu(dtype, tolerance):
    """Its eager backend, given what its kernels get on a GPU: value, and gradients of value, locations and weights."""
    pytest.importorskip("deformops", reason="deformops needs Python 3.12 or 3.13, and torch 2.11")
    results = trial(torch.device("cpu"), dtype)
    assert [actual.dtype for actual, _ in results] == [dtype, dtype, torch.float32, dtype]
    for actual, expected in results:
        largest = float(expected.abs().max())
        torch.testing.assert_close(actual.float(), expected, rtol=tolerance, atol=tolerance * largest)

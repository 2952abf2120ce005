"""The upsamplers on a pretended GPU: no operator mixes devices, the host never waits, results are a CPU's."""
import copy

import pytest
import torch

from freqdino.registration.upsamplers import UPSAMPLERS
from helpers.modules import randomised
from helpers.pretended_gpu import PretendedGPU, backward

ONCE = {"ops/constants.py:_kept"}       # constants go to the device once for each size


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", UPSAMPLERS)
def test_values_and_gradients(name, dtype):
    torch.manual_seed(0)
    module = randomised(UPSAMPLERS[name](hr_channels=32, lr_channels=32)).train()
    module.operators = "torch"
    hr, lr, cotangent = torch.randn(2, 32, 7, 8), torch.randn(2, 32, 4, 4), torch.randn(2, 32, 7, 8)
    on_cpu, maps = copy.deepcopy(module), [hr.clone().requires_grad_(), lr.clone().requires_grad_()]
    expected = on_cpu(*maps)
    expected.backward(cotangent)
    wanted = [expected, *(tensor.grad for tensor in (*maps[not module.reads_hr:], *on_cpu.parameters()))]
    with PretendedGPU() as gpu:
        module, maps = module.cuda(), [feature_map.cuda().requires_grad_() for feature_map in (hr, lr)]
        cotangent = cotangent.cuda()
        gpu.waits.clear()
        with torch.autocast("cuda", dtype, enabled=dtype is not None):
            result = module(*maps)
        backward(result, cotangent)
        assert set(gpu.waits) <= ONCE and result.dtype == torch.float32
        got = [tensor.cpu() for tensor in (
            result.detach(), *(tensor.grad for tensor in (*maps[not module.reads_hr:], *module.parameters())))]
    if dtype is None:
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other.detach(), rtol=1e-4, atol=1e-4)
    assert all(tensor.isfinite().all() for tensor in got)

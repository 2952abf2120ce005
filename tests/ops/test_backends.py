"""Which implementation of an operator runs, and why: asked for, available, and right in its trial."""
import logging

import pytest
import torch

from freqdino.ops import carafe as carafe_module
from freqdino.ops.backends import FusedKernel, unavailable
from freqdino.ops.carafe import carafe, carafe_reference
from helpers.pretended_gpu import PretendedGPU


def kernel(error=0.0, *, needs=("torch",), repeats=True, raises=None, trials=None):
    """A kernel whose results differ from 1, its definition's, by ``error``."""
    def trial(device, dtype):
        if trials is not None:
            trials.append(dtype)
        if raises is not None:
            raise raises
        return [(torch.full((2,), 1 + error, dtype=dtype), torch.ones(2))]

    return FusedKernel("doubling", needs=needs, repeats=repeats, trial=trial)


@pytest.fixture(autouse=True)
def toolchain(monkeypatch):
    monkeypatch.setattr("freqdino.ops.backends.shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("freqdino.ops.backends.Path.is_file", lambda path: True)
    unavailable.cache_clear()
    yield
    unavailable.cache_clear()


def test_the_cpu_has_pytorchs_operators():
    x = torch.ones(1)
    assert not kernel().serves(x, "auto") and not kernel().serves(x, "torch")
    with pytest.raises(RuntimeError, match="operators='fused', but doubling cannot run: cpu is not CUDA"):
        kernel().serves(x, "fused")


def test_a_kernel_is_tried_once_for_each_type():
    trials = []
    tried = kernel(trials=trials)
    with PretendedGPU():
        single, half = torch.ones(1, device="cuda"), torch.ones(1, device="cuda", dtype=torch.float16)
        assert [tried.serves(x, "auto") for x in (single, half, single)] == [True] * 3
        assert not tried.serves(single, "torch")
    assert trials == [torch.float32, torch.float16]


@pytest.mark.parametrize("fault, message", [
    (dict(error=0.01), "it differs from the definition by 0.01"),
    (dict(error=float("nan")), "it differs from the definition by nan"),
    (dict(raises=ValueError("no such\nregister")), "it ends in ValueError: no such"),
])
def test_a_kernel_that_fails_its_trial_is_left_out_with_one_warning(fault, message, caplog):
    wrong = kernel(**fault)
    with PretendedGPU(), caplog.at_level(logging.WARNING, "freqdino"):
        x = torch.ones(1, device="cuda")
        assert not wrong.serves(x, "auto") and not wrong.serves(x, "auto")
        with pytest.raises(RuntimeError, match=f"doubling cannot run: {message}"):
            wrong.serves(x, "fused")
    assert [record.message for record in caplog.records] == [
        f"doubling is not used for torch.float32 on cuda:0, PyTorch's operators are: {message}"]


@pytest.mark.parametrize("target, value, message", [
    ("torch.cuda.get_device_capability", (6, 1), "a pretended GPU has compute capability 6.1, below 7.0"),
    ("freqdino.ops.backends.shutil.which", None, "Triton needs a C compiler"),
    ("freqdino.ops.backends.Path.is_file", False, "Triton needs Python's headers"),
])
def test_what_a_machine_lacks(target, value, message, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    with PretendedGPU():
        monkeypatch.setattr(target, lambda *_: value)
        assert kernel().reason_against(torch.device("cuda", 0), torch.float32) == message
        monkeypatch.undo()


def test_what_a_kernel_lacks():
    with PretendedGPU():
        device = torch.device("cuda", 0)
        assert kernel(needs=("nonesuch",)).reason_against(device, torch.float32) == "nonesuch not installed"
        assert kernel().reason_against(device, torch.int32) == "it has no torch.int32"
        torch.use_deterministic_algorithms(True)
        try:
            assert kernel().reason_against(device, torch.float32) is None
            assert "no fixed order" in kernel(repeats=False).reason_against(device, torch.float32)
        finally:
            torch.use_deterministic_algorithms(False)


def test_carafe_without_its_kernels_computes_the_same(monkeypatch, caplog):
    """Triton finds no driver on the pretended GPU."""
    monkeypatch.setattr(carafe_module.TRITON, "_faults", {})
    x, mask = torch.randn(1, 2, 3, 4), torch.randn(1, 9, 3, 4)
    with PretendedGPU(), caplog.at_level(logging.WARNING, "freqdino"):
        actual = carafe(x.cuda(), mask.cuda(), 3, 1, 1).cpu()
    torch.testing.assert_close(actual, carafe_reference(x, mask, 3, 1, 1))
    assert "CARAFE in Triton is not used for torch.float32 on cuda:0" in caplog.text

"""What each of our modules computes, whatever its types and sizes: one table of modules, one test a promise."""
import pytest
import torch

from freqdino.ops import blocking
from helpers.module_table import HALF, MODULES, SAME, SINGLE, assert_alike, build, differentiate, run

every_module = pytest.mark.parametrize("name", MODULES)
both_halves = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


def assert_near(outputs, expected, tolerance):
    """Of half precision, on the average and at the worst place."""
    for output, value in zip(outputs, expected, strict=True):
        error = (output.float() - value).abs()
        assert error.mean() <= tolerance * value.abs().mean() and error.max() <= tolerance * value.abs().max()


def assert_gradients_are_finite(module, tensors, dtype):
    for tensor in (*tensors, *module.parameters()):
        assert tensor.grad.dtype == dtype and tensor.grad.isfinite().all()


@every_module
@both_halves
def test_half_precision(name, dtype):
    module, inputs = build(name), MODULES[name].inputs(2)
    expected = run(name, module)
    module.to(dtype)
    inputs = [tensor.to(dtype).requires_grad_() for tensor in inputs]
    for gradient in (False, True):
        with torch.set_grad_enabled(gradient):
            outputs = run(name, module, inputs)
        assert all(output.dtype == dtype for output in outputs)
        assert_near(outputs, expected, MODULES[name].half)
    outputs = run(name, module.train(), inputs)
    assert all(output.dtype == dtype for output in outputs)
    sum(output.float().square().mean() for output in outputs).backward()
    assert_gradients_are_finite(module, inputs, dtype)


@every_module
@both_halves
def test_autocast(name, dtype):
    module, inputs = build(name), [tensor.requires_grad_() for tensor in MODULES[name].inputs(2)]
    expected = run(name, module)
    for input_type in (dtype, torch.float32):
        with torch.autocast("cpu", dtype):
            outputs = run(name, module, [tensor.to(input_type) for tensor in inputs])
        assert_near(outputs, expected, MODULES[name].half)
        types = {HALF: dtype, SINGLE: torch.float32, SAME: input_type}
        assert [output.dtype for output in outputs] == [types[kind] for kind in MODULES[name].autocast[:len(outputs)]]
    sum(output.float().square().mean() for output in outputs).backward()
    assert_gradients_are_finite(module, inputs, torch.float32)


@pytest.mark.parametrize("name", [name for name in MODULES if not MODULES[name].places])
def test_gradcheck(name):
    module, inputs = build(name).double(), [tensor.double().requires_grad_() for tensor in MODULES[name].inputs(2)]
    names, values = zip(*module.named_parameters()) if list(module.parameters()) else ((), ())
    rest = MODULES[name].rest

    def compute(*tensors):
        inputs, values = tensors[:-len(names) or None], tensors[len(tensors) - len(names):]
        return torch.func.functional_call(module, dict(zip(names, values)), (*inputs, *rest))

    assert torch.autograd.gradcheck(compute, (*inputs, *values), fast_mode=True)


@every_module
@pytest.mark.parametrize("gradient", [True, False])
def test_piece_by_piece(name, gradient, monkeypatch):
    module = build(name)
    with torch.set_grad_enabled(gradient):
        expected = run(name, module)
        monkeypatch.setitem(blocking.BUDGET, "cpu", 1)
        outputs = run(name, module)
    assert_alike(outputs, expected)
    if gradient:
        differentiate(module, outputs)


@every_module
def test_an_empty_batch_gives_every_parameter_a_zero_gradient(name):
    for module in (build(name).train(), build(name)):
        inputs = [tensor.requires_grad_() for tensor in MODULES[name].inputs(0)]
        before = {key: value.clone() for key, value in module.state_dict().items()}
        outputs = run(name, module, inputs)
        assert [output.shape[1:] for output in outputs] == [output.shape[1:] for output in run(name, build(name))]
        differentiate(module, outputs)
        assert all(tensor.grad is None or tensor.grad.shape == tensor.shape for tensor in inputs)
        for key, parameter in module.named_parameters():
            assert parameter.grad is not None and not parameter.grad.any(), key
        assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
        with torch.no_grad():
            assert [output.shape for output in run(name, module, inputs)] == [output.shape for output in outputs]


@pytest.mark.parametrize("name", [name for name in MODULES if MODULES[name].typed])
def test_an_input_of_another_type_is_refused(name):
    module, inputs = build(name), MODULES[name].inputs(2)
    for place, argument in enumerate(MODULES[name].typed):
        for dtype in (torch.int64, torch.float64, torch.float16):
            others = [tensor.to(dtype) if i == place else tensor for i, tensor in enumerate(inputs)]
            message = f"{argument} must have the type of the parameters, torch.float32, got {dtype}"
            with pytest.raises(ValueError, match=message):
                run(name, module, others)
        others = [tensor.long() if i == place else tensor for i, tensor in enumerate(inputs)]
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(
                ValueError, match=f"{argument} must be of a floating-point type, got torch.int64"):
            run(name, module, others)


@every_module
def test_another_number_of_channels_is_refused(name):
    inputs = [torch.cat([tensor, tensor], dim=1 if tensor.dim() == 4 else -1) for tensor in MODULES[name].inputs(2)[:1]]
    with pytest.raises((ValueError, RuntimeError), match=r"\d"):
        run(name, build(name), (*inputs, *MODULES[name].inputs(2)[1:]))

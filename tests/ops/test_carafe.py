"""CARAFE: the definition against loops, the fast path and its gradient against the definition."""
import pytest
import torch
from torch.autograd import gradcheck
from torch.utils.checkpoint import checkpoint

from freqdino.analysis.benchmarks.measure import allocation_peak
from freqdino.ops import blocking
from freqdino.ops.carafe import carafe, carafe_reference

BOTH = pytest.mark.parametrize("operator", [carafe, carafe_reference])
GEOMETRIES = pytest.mark.parametrize("shape, kernel_size, group, up", [
    ((2, 4, 5, 7), 3, 1, 1),
    ((3, 4, 6, 5), 5, 2, 2),
    ((1, 4, 4, 3), 3, 4, 3),
    ((1, 4, 1, 1), 5, 2, 2),  # a map smaller than the kernel
    ((2, 4, 2, 9), 1, 1, 2),
])


def arguments(shape, kernel_size, group, up, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    batch, _, height, width = shape
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    mask = torch.randn(batch, group * kernel_size**2, height * up, width * up, generator=generator, dtype=torch.float64)
    return tuple(tensor.to(device, dtype).requires_grad_() for tensor in (x, mask))


def by_loops(x, mask, kernel_size, group, up):
    """The formula of the docstring, one multiplication at a time."""
    batch, channels, height, width = x.shape
    radius = kernel_size // 2
    output = torch.zeros(batch, channels, height * up, width * up, dtype=x.dtype)
    for n, c, y, column in torch.cartesian_prod(*map(torch.arange, output.shape)).tolist():
        for i in range(kernel_size):
            for j in range(kernel_size):
                source_y, source_x = y // up + i - radius, column // up + j - radius
                if 0 <= source_y < height and 0 <= source_x < width:
                    tap = (c // (channels // group) * kernel_size + i) * kernel_size + j
                    output[n, c, y, column] += x[n, c, source_y, source_x] * mask[n, tap, y, column]
    return output


@BOTH
@pytest.mark.parametrize("shape, kernel_size, group, up", [((2, 4, 3, 2), 3, 2, 2), ((1, 2, 2, 3), 5, 1, 1)])
def test_formula(operator, shape, kernel_size, group, up):
    x, mask = (tensor.detach() for tensor in arguments(shape, kernel_size, group, up))
    torch.testing.assert_close(operator(x, mask, kernel_size, group, up), by_loops(x, mask, kernel_size, group, up))


@BOTH
def test_centre_tap_alone_repeats_pixels_and_border_taps_are_not_renormalised(operator):
    x = torch.arange(6.0).view(1, 1, 2, 3)
    centre = torch.zeros(1, 9, 4, 6)
    centre[:, 4] = 1
    assert torch.equal(operator(x, centre, 3, 1, 2), x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    mean = torch.full((1, 9, 2, 3), 1 / 9)
    corner = operator(torch.ones(1, 1, 2, 3), mean, 3, 1, 1)[0, 0, 0, 0]
    assert corner.item() == pytest.approx(4 / 9)  # 4 of 9 taps lie inside


@GEOMETRIES
@pytest.mark.parametrize("budget", [400, 8000, 2**21])
def test_value_and_gradient_agree_with_the_definition(shape, kernel_size, group, up, budget, monkeypatch):
    monkeypatch.setitem(blocking.BUDGET, "cpu", budget)
    x, mask = arguments(shape, kernel_size, group, up)
    actual, expected = (operator(x, mask, kernel_size, group, up) for operator in (carafe, carafe_reference))
    torch.testing.assert_close(actual, expected)
    grad_output = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(torch.autograd.grad(actual, (x, mask), grad_output),
                            torch.autograd.grad(expected, (x, mask), grad_output)):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kernel_size, group, up", [(3, 1, 2), (3, 2, 1)])
def test_gradcheck(kernel_size, group, up):
    inputs = arguments((2, 4, 3, 2), kernel_size, group, up)
    assert gradcheck(lambda x, mask: carafe(x, mask, kernel_size, group, up), inputs)


@pytest.mark.parametrize("frozen", [0, 1])
def test_gradient_of_one_input_alone(frozen):
    inputs = list(arguments((1, 2, 3, 3), 3, 1, 2))
    inputs[frozen] = inputs[frozen].detach()
    assert gradcheck(lambda *tensors: carafe(*tensors, 3, 1, 2), inputs)


def test_memory_layouts_of_the_inputs():
    x, mask = (tensor.detach() for tensor in arguments((2, 4, 3, 5), 3, 1, 2))
    expected = carafe_reference(x, mask, 3, 1, 2)
    strided = torch.empty(2, 4, 3, 10, dtype=x.dtype)[..., ::2].copy_(x)
    for map_ in (x.contiguous(memory_format=torch.channels_last), strided):
        torch.testing.assert_close(carafe(map_, mask.contiguous(memory_format=torch.channels_last), 3, 1, 2), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    x, mask = arguments((1, 4, 5, 3), 3, 1, 2, dtype)
    output = carafe(x, mask, 3, 1, 2)
    expected = carafe_reference(x.double(), mask.double(), 3, 1, 2)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-3)
    output.sum().backward()
    assert x.grad.dtype == mask.grad.dtype == dtype and x.grad.isfinite().all()


def test_autocast_with_a_mask_of_another_dtype():
    x, mask = arguments((1, 4, 5, 3), 3, 1, 2, torch.float32)
    expected = carafe_reference(x.bfloat16().float(), mask, 3, 1, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = carafe(x.bfloat16(), mask, 3, 1, 2)
        output.float().sum().backward()
    assert output.dtype == torch.bfloat16 and x.grad.dtype == mask.grad.dtype == torch.float32
    torch.testing.assert_close(output.float(), expected, rtol=0.01, atol=1e-3)


@BOTH
def test_empty_batch(operator):
    x, mask = arguments((0, 4, 5, 3), 3, 1, 2)
    output = operator(x, mask, 3, 1, 2)
    output.sum().backward()
    assert output.shape == (0, 4, 10, 6) and x.grad.shape == x.shape


def test_checkpointing():
    x, mask = arguments((1, 4, 3, 3), 3, 1, 2)
    direct = torch.autograd.grad(carafe(x, mask, 3, 1, 2).square().sum(), (x, mask))
    again = torch.autograd.grad(checkpoint(carafe, x, mask, 3, 1, 2, use_reentrant=False).square().sum(), (x, mask))
    assert all(map(torch.equal, direct, again))


def test_second_derivative_is_refused():
    x, mask = arguments((1, 2, 3, 3), 3, 1, 1)
    (gradient,) = torch.autograd.grad(carafe(x, mask, 3, 1, 1).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@BOTH
@pytest.mark.parametrize("change, message", [
    (dict(x=torch.zeros(4, 5, 3)), "x must have 4 dimensions .* got 3"),
    (dict(mask=torch.zeros(9, 10, 6)), "mask must have 4 dimensions .* got 3"),
    (dict(x=torch.zeros(1, 4, 5, 3, dtype=torch.int64)), "x must be of a floating-point type, got torch.int64"),
    (dict(mask=torch.zeros(1, 9, 10, 6, dtype=torch.bool)), "mask must be of a floating-point type, got torch.bool"),
    (dict(kernel_size=3.0), "kernel_size must be an integer, got 3.0"),
    (dict(group=0.5), "group must be an integer, got 0.5"),
    (dict(up="2"), "up must be an integer, got '2'"),
    (dict(kernel_size=4), "kernel_size must be odd and positive, got 4"),
    (dict(kernel_size=-1), "kernel_size must be odd and positive, got -1"),
    (dict(up=0), "up must be at least 1, got 0"),
    (dict(group=3), "group 3, channels 4"),
    (dict(group=0), "group 0, channels 4"),
    (dict(group=2), r"mask must have the shape .* = \(1, 18, 10, 6\), got \(1, 9, 10, 6\)"),
    (dict(up=1), r"mask must have the shape .* = \(1, 9, 5, 3\), got \(1, 9, 10, 6\)"),
    (dict(mask=torch.zeros(2, 9, 10, 6)), r"= \(1, 9, 10, 6\), got \(2, 9, 10, 6\)"),
])
def test_bad_input(operator, change, message):
    good = dict(x=torch.zeros(1, 4, 5, 3), mask=torch.zeros(1, 9, 10, 6), kernel_size=3, group=1, up=2)
    with pytest.raises(ValueError, match=message):
        operator(**good | change)


@pytest.mark.parametrize("shape, kernel_size, up", [
    ((1, 8, 8, 8), 5, 2), ((1, 8, 16, 16), 3, 1), ((4, 256, 8, 8), 5, 2), ((2, 64, 16, 16), 5, 2),
])
def test_memory_beside_results_is_a_few_output_maps(shape, kernel_size, up):
    x, mask = arguments(shape, kernel_size, 1, up, torch.float32)
    output = carafe(x, mask, kernel_size, 1, up)
    gradient = torch.ones_like(output)
    bytes_of_map, cpu = output.numel() * output.element_size(), torch.device("cpu")
    forward = allocation_peak(lambda: carafe(x.detach(), mask.detach(), kernel_size, 1, up), cpu)
    assert forward <= 3 * bytes_of_map  # the output is one of them
    backward = allocation_peak(lambda: torch.autograd.grad(output, (x, mask), gradient, retain_graph=True), cpu)
    # What goes by the taps, as the indices of a strip do, cannot shrink with the channels.
    largest = max(output.numel(), mask.numel()) * output.element_size()
    assert backward <= (x.numel() + mask.numel()) * x.element_size() + 3 * largest


@pytest.mark.gpu
def test_cuda():
    x, mask = arguments((2, 4, 6, 5), 5, 2, 2, torch.float32, "cuda")
    actual, expected = (operator(x, mask, 5, 2, 2) for operator in (carafe, carafe_reference))
    torch.testing.assert_close(actual, expected)
    for ours, theirs in zip(*(torch.autograd.grad(output.square().sum(), (x, mask)) for output in (actual, expected))):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)

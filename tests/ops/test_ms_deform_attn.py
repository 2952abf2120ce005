"""Multi-scale deformable attention: the definition by hand, the fast path and its gradient against the definition."""
import pytest
import torch
from torch.autograd import gradcheck
from torch.utils.checkpoint import checkpoint

from freqdino.ops import blocking
from freqdino.ops import ms_deform_attn as ms_deform_attn_module
from freqdino.ops.ms_deform_attn import ms_deform_attn, ms_deform_attn_reference


@pytest.fixture(autouse=True, params=[0, float("inf")], ids=["table", "few"])
def route(request, monkeypatch):
    """Every test by both fast paths."""
    monkeypatch.setattr(ms_deform_attn_module, "FEW", request.param)


BOTH = pytest.mark.parametrize("operator", [ms_deform_attn, ms_deform_attn_reference])
SIZES = [(5, 7), (3, 4), (1, 1), (2, 1)]


def arguments(batch=2, queries=6, heads=3, channels=4, sizes=SIZES, points=2, dtype=torch.float64, device="cpu"):
    """value, locations inside the maps and up to 0.4 outside, weights."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(batch, sum(h * w for h, w in sizes), heads, channels, generator=generator, dtype=torch.float64)
    shape = (batch, queries, heads, len(sizes), points)
    locations = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * 1.8 - 0.4
    weights = torch.rand(shape, generator=generator, dtype=torch.float64)
    return tuple(tensor.to(device, dtype).requires_grad_() for tensor in (value, locations, weights))


def sample(operator, image, x, y):
    """Read one (H, W) image at one location, with weight 1."""
    height, width = image.shape
    location = torch.tensor([x, y], dtype=image.dtype).view(1, 1, 1, 1, 1, 2)
    return operator(image.view(1, -1, 1, 1), [(height, width)], location, torch.ones(1, 1, 1, 1, 1).to(image)).item()


@BOTH
def test_known_samples(operator):
    image = torch.tensor([[1.0, 2.0, 4.0], [10.0, 20.0, 40.0]])  # pixel (row, column) has its centre at +0.5
    assert sample(operator, image, 1.5 / 3, 0.5 / 2) == pytest.approx(2)
    assert sample(operator, image, 1.0 / 3, 0.5 / 2) == pytest.approx(1.5)
    assert sample(operator, image, 2.0 / 3, 1.0 / 2) == pytest.approx((2 + 4 + 20 + 40) / 4)
    assert sample(operator, image, 0.0, 0.0) == pytest.approx(1 / 4)  # the corner: three of four pixels are zeros
    assert sample(operator, image, 1.0, 1.0) == pytest.approx(40 / 4)
    assert sample(operator, image, 1.0, 1.5 / 2) == pytest.approx(40 / 2)


@pytest.mark.parametrize("far", [-0.5 / 3, -1.0, -3e38, float("-inf"), 3.5 / 3, 2.0, 3e38, float("inf")])
@pytest.mark.parametrize("axis", [0, 1])
def test_far_outside_is_exactly_zero_and_has_no_gradient(far, axis):
    value = torch.ones(1, 9, 1, 1, requires_grad=True)
    location = torch.full((1, 1, 1, 1, 1, 2), 0.4)
    location[..., axis] = far * 1.01
    location.requires_grad_()
    weight = torch.ones(1, 1, 1, 1, 1, requires_grad=True)
    output = ms_deform_attn(value, [(3, 3)], location, weight)
    output.backward(torch.ones_like(output))
    assert output.item() == 0
    for tensor in (value, location, weight):
        assert torch.equal(tensor.grad, torch.zeros_like(tensor))


@pytest.mark.parametrize("axis", [0, 1])
def test_location_that_is_not_a_number_spoils_its_own_output_alone(axis):
    value, locations, weights = arguments()
    locations.data[1, 2, 0, 1, 0, axis] = float("nan")
    output = ms_deform_attn(value, SIZES, locations, weights)
    spoilt = torch.zeros_like(output, dtype=torch.bool)
    spoilt[1, 2, :4] = True  # head 0's channels
    assert torch.equal(output.isnan(), spoilt)
    output.sum().backward()
    assert locations.grad.isnan().any() and weights.grad.isnan().any()


def test_levels_points_and_heads_add_up():
    """Heads and levels are kept apart: each level holds one constant per head, and every sample lies well inside."""
    sizes, heads = [(4, 4), (6, 8)], 2
    value = torch.cat([torch.full((1, 16, heads, 1), 1.0), torch.full((1, 48, heads, 1), 100.0)], dim=1)
    value[:, :, 1] *= 7
    weights = torch.tensor([[1.0, 2.0, 3.0], [0.1, 0.2, 0.3]]).expand(1, 1, heads, 2, 3)
    output = ms_deform_attn(value, torch.tensor(sizes), torch.full((1, 1, heads, 2, 3, 2), 0.4), weights)
    torch.testing.assert_close(output, torch.tensor([[[66.0, 7 * 66.0]]]))


@pytest.mark.parametrize("budget", [1, 2400, 2**21])
@pytest.mark.parametrize("shape", [{}, dict(batch=1, heads=1, points=1), dict(sizes=[(1, 1)]),
                                   dict(channels=1, points=5)])
def test_value_and_gradient_agree_with_the_definition(shape, budget, monkeypatch):
    monkeypatch.setitem(blocking.BUDGET, "cpu", budget)
    inputs = value, locations, weights = arguments(**shape)
    sizes = shape.get("sizes", SIZES)
    actual, expected = (operator(value, sizes, locations, weights)
                        for operator in (ms_deform_attn, ms_deform_attn_reference))
    torch.testing.assert_close(actual, expected)
    grad_output = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(torch.autograd.grad(actual, inputs, grad_output),
                            torch.autograd.grad(expected, inputs, grad_output)):
        torch.testing.assert_close(ours, theirs)


def test_gradcheck():
    value, locations, weights = arguments(batch=1, queries=3, heads=2, channels=2, sizes=[(3, 4), (2, 2)])
    assert gradcheck(lambda *tensors: ms_deform_attn(tensors[0], [(3, 4), (2, 2)], *tensors[1:]),
                     (value, locations, weights))


@pytest.mark.parametrize("alone", [0, 1, 2])
def test_gradient_of_one_input_alone(alone):
    inputs = [tensor.detach().requires_grad_(position == alone) for position, tensor in enumerate(arguments())]
    expected_inputs = [tensor.detach().requires_grad_(position == alone) for position, tensor in enumerate(inputs)]
    ms_deform_attn(inputs[0], SIZES, *inputs[1:]).sum().backward()
    ms_deform_attn_reference(expected_inputs[0], SIZES, *expected_inputs[1:]).sum().backward()
    torch.testing.assert_close(inputs[alone].grad, expected_inputs[alone].grad)


def test_memory_layouts_of_the_inputs():
    value, locations, weights = (tensor.detach() for tensor in arguments())
    expected = ms_deform_attn_reference(value, SIZES, locations, weights)
    transposed = value.transpose(1, 2).contiguous().transpose(1, 2)
    shared = locations[:, :, :, :1].expand_as(locations)
    torch.testing.assert_close(ms_deform_attn(transposed, SIZES, locations, weights), expected)
    torch.testing.assert_close(ms_deform_attn(value, SIZES, shared, weights),
                               ms_deform_attn_reference(value, SIZES, shared, weights))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    value, locations, weights = arguments(dtype=dtype)
    output = ms_deform_attn(value, SIZES, locations, weights)
    expected = ms_deform_attn_reference(value.double(), SIZES, locations.double(), weights.double())
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-3)
    output.sum().backward()
    for tensor in (value, locations, weights):
        assert tensor.grad.dtype == dtype and tensor.grad.isfinite().all()


def test_autocast_with_inputs_of_several_dtypes():
    value, locations, weights = arguments(dtype=torch.float32)
    expected = ms_deform_attn_reference(value.bfloat16().float(), SIZES, locations, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = ms_deform_attn(value.bfloat16(), SIZES, locations, weights)
        output.float().sum().backward()
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, rtol=0.01, atol=1e-3)
    assert all(tensor.grad.dtype == torch.float32 for tensor in (value, locations, weights))


def test_definition_stays_in_float32_under_autocast():
    value, locations, weights = arguments(dtype=torch.float32)
    expected = ms_deform_attn_reference(value, SIZES, locations, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = ms_deform_attn_reference(value, SIZES, locations, weights)
    torch.testing.assert_close(output, expected)


@BOTH
@pytest.mark.parametrize("empty", [dict(queries=0), dict(batch=0), dict(points=0)])
def test_empty(operator, empty):
    value, locations, weights = arguments(**empty)
    output = operator(value, SIZES, locations, weights)
    output.sum().backward()
    assert output.shape == (*locations.shape[:2], 12)
    assert torch.equal(value.grad, torch.zeros_like(value)) and locations.grad.shape == locations.shape


def test_checkpointing():
    inputs = value, locations, weights = arguments()

    def loss(*tensors):
        return ms_deform_attn(tensors[0], SIZES, *tensors[1:]).square().sum()

    direct = torch.autograd.grad(loss(*inputs), inputs)
    again = torch.autograd.grad(checkpoint(loss, *inputs, use_reentrant=False), inputs)
    assert all(map(torch.equal, direct, again))


def test_no_grad_and_export():
    value, locations, weights = (tensor.detach() for tensor in arguments())

    class Attention(torch.nn.Module):
        def forward(self, value, locations, weights):
            return ms_deform_attn(value, SIZES, locations, weights)

    with torch.no_grad():
        output = ms_deform_attn(value, SIZES, locations, weights)
        exported = torch.export.export(Attention(), (value, locations, weights))
    assert not output.requires_grad
    torch.testing.assert_close(exported.module()(value, locations, weights), output)


def test_second_derivative_is_refused():
    value, locations, weights = arguments()
    output = ms_deform_attn(value, SIZES, locations, weights)
    (gradient,) = torch.autograd.grad(output.square().sum(), weights, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@BOTH
@pytest.mark.parametrize("change, message", [
    (dict(value=torch.zeros(1, 20, 2)), "value must have 4 dimensions .* got 3"),
    (dict(sampling_locations=torch.zeros(1, 3, 2, 2, 4)), "sampling_locations must have 6 dimensions .* got 5"),
    (dict(attention_weights=torch.zeros(1, 3, 2)), "attention_weights must have 5 dimensions .* got 3"),
    (dict(value=torch.zeros(1, 19, 2, 5)), r"value has 19 positions, spatial_shapes \[\(4, 4\), \(2, 2\)\] have 20"),
    (dict(spatial_shapes=[(4, 5)]), "sampling_locations has 2 levels, spatial_shapes 1"),
    (dict(spatial_shapes=torch.tensor([[4, 5]])), "sampling_locations has 2 levels, spatial_shapes 1"),
    (dict(spatial_shapes=[(4, 4, 1), (2, 2, 1)]), r"spatial_shapes must be pairs \(H, W\), got .*4, 4, 1"),
    (dict(spatial_shapes=torch.tensor([20])), r"spatial_shapes must be pairs \(H, W\), got \[20\]"),
    (dict(spatial_shapes=[(20, 1), (0, 3)]), r"positive sizes, got \[\(20, 1\), \(0, 3\)\]"),
    (dict(spatial_shapes=[(4.5, 4), (2, 2)]), r"spatial_shapes must be integers, got \[\(4.5, 4\), \(2, 2\)\]"),
    (dict(value=torch.zeros(1, 20, 2, 5, dtype=torch.int64)), "value must be of a floating-point .* torch.int64"),
    (dict(spatial_shapes=[]), r"at least one level, of positive sizes, got \[\]"),
    (dict(sampling_locations=torch.zeros(1, 3, 2, 2, 4, 3)), r"must end in 2 numbers \(x, y\), got 3"),
    (dict(sampling_locations=torch.zeros(2, 3, 2, 2, 4, 2)), "has batch 2 and 2 heads, value batch 1 and 2 heads"),
    (dict(sampling_locations=torch.zeros(1, 3, 4, 2, 4, 2)), "has batch 1 and 4 heads, value batch 1 and 2 heads"),
    (dict(attention_weights=torch.zeros(1, 3, 2, 2, 5)), r"has the shape \(1, 3, 2, 2, 5\), .* \(1, 3, 2, 2, 4\)"),
])
def test_bad_input(operator, change, message):
    good = dict(value=torch.zeros(1, 20, 2, 5), spatial_shapes=[(4, 4), (2, 2)],
                sampling_locations=torch.zeros(1, 3, 2, 2, 4, 2), attention_weights=torch.zeros(1, 3, 2, 2, 4))
    with pytest.raises(ValueError, match=message):
        operator(**good | change)


@pytest.mark.gpu
def test_cuda():
    inputs = value, locations, weights = arguments(dtype=torch.float32, device="cuda")
    actual, expected = (operator(value, SIZES, locations, weights)
                        for operator in (ms_deform_attn, ms_deform_attn_reference))
    torch.testing.assert_close(actual, expected)
    for ours, theirs in zip(*(torch.autograd.grad(output.square().sum(), inputs) for output in (actual, expected))):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)

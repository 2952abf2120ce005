"""CondConv, DY-Conv, ODConv and KernelWarehouse against their formulas in float64, image by image, term by term."""
import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from freqdino.errors import ArgumentError
from freqdino.frequency.rivals import CondConv, DYConv, KernelWarehouse, ODConv
from freqdino.frequency.rivals.kernel_warehouse import Warehouse
from freqdino.frequency.rivals.temperature import anneal
from helpers.modules import count

KINDS = CondConv, DYConv, ODConv, KernelWarehouse
SHAPES = [dict(padding=1, groups=2), dict(stride=2, padding="valid", dilation=2), dict(padding=1, bias=False)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=["groups", "dilated", "no bias"])


def layer_of(kind, *arguments, **options):
    """In evaluation and float64, nothing of it as it starts."""
    torch.manual_seed(0)
    layer = kind(*arguments, **options).double().eval()
    for name, tensor in layer.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("temperature"):
            tensor.fill_(0.3)
        elif tensor.is_floating_point():
            tensor.normal_(std=0.4)
    return layer


def response(layer, image, weight):
    """Of one image (Ci, H, W), without bias."""
    return F.conv2d(image[None], weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)[0]


def with_bias(layer, y):
    return y if layer.bias is None else y + layer.bias[:, None, None]


def softmax(values):
    exponentials = [math.exp(value) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def linear(layer, features):
    bias = layer.bias if layer.bias is not None else torch.zeros(len(layer.weight))
    rows = layer.weight.flatten(1)
    return [sum(float(row[i]) * features[i] for i in range(len(features))) + float(bias[o])
            for o, row in enumerate(rows)]


def normalised(norm, features):
    return [(value - float(norm.running_mean[i])) / math.sqrt(float(norm.running_var[i]) + norm.eps)
            * float(norm.weight[i]) + float(norm.bias[i]) for i, value in enumerate(features)]


def relu(features):
    return [max(value, 0.0) for value in features]


def pooled(image):
    return [float(channel.mean()) for channel in image]


def condconv(layer, image):
    factors = [sigmoid(value) for value in linear(layer.attention.fc, pooled(image))]
    kernels = layer.kernels.split(layer.out_channels)
    return with_bias(layer, response(layer, image, sum(factor * kernel for factor, kernel in zip(factors, kernels))))


def dyconv(layer, image):
    logits = linear(layer.attention.fc2, relu(linear(layer.attention.fc1, pooled(image))))
    factors = softmax([value / 0.3 for value in logits])
    kernels = layer.kernels.split(layer.out_channels)
    return with_bias(layer, response(layer, image, sum(factor * kernel for factor, kernel in zip(factors, kernels))))


def odconv(layer, image):
    part = layer.attention
    hidden = relu(normalised(part.bn, linear(part.fc, pooled(image))))

    def gates(head, shape):
        if head is None:
            return torch.ones((), dtype=torch.float64)
        return torch.tensor([sigmoid(value / 0.3) for value in linear(head, hidden)], dtype=torch.float64).view(shape)

    factors = [1.0] if part.kernel_fc is None else softmax([value / 0.3 for value in linear(part.kernel_fc, hidden)])
    spatial = gates(part.spatial_fc, layer.kernel_size)
    weight = sum(factor * (spatial * kernel)
                 for factor, kernel in zip(factors, layer.kernels.split(layer.out_channels), strict=True))
    y = response(layer, gates(part.channel_fc, (-1, 1, 1)) * image, weight)
    return with_bias(layer, gates(part.filter_fc, (-1, 1, 1)) * y)


def kernel_warehouse(layer, image):
    part, bank, tau = layer.attention, layer.warehouse, 0.3
    hidden = relu(normalised(part.bn, linear(part.fc1, pooled(image))))
    logits = linear(part.fc2, hidden)
    out_size, in_size = bank.cells.shape[1:]
    cells = len(bank.cells)
    weight = torch.zeros(layer.plain_shape, dtype=torch.float64)
    start = bank.num * sum(math.prod(shape) // (out_size * in_size) for shape in bank.shapes[:layer.place])
    piece = 0
    for y in range(layer.kernel_size[0]):
        for x in range(layer.kernel_size[1]):
            for out in range(0, weight.shape[0], out_size):
                for into in range(0, weight.shape[1], in_size):
                    values = logits[piece * (cells + 1):(piece + 1) * (cells + 1)]
                    total = sum(abs(value) for value in values) + 1e-3
                    mixed = sum((1 - tau) * values[n] / total * bank.cells[n] for n in range(cells))
                    mixed = mixed + tau * bank.cells[start + piece * bank.num]
                    weight[out:out + out_size, into:into + in_size, y, x] = mixed
                    piece += 1
    return with_bias(layer, response(layer, image, weight))


def assert_equal_to(reference, layer, images=2):
    x = torch.randn(images, layer.in_channels, 7, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([reference(layer, image) for image in x])
        actual = layer(x)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@every_shape
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize(("kind", "reference"), [(CondConv, condconv), (DYConv, dyconv)])
def test_mixtures(kind, reference, shape, images):
    assert_equal_to(reference, layer_of(kind, 6, 4, 3, num=3, **shape), images)


@every_shape
@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("kernel_size", [1, (3, 2)])
def test_odconv(shape, num, kernel_size):
    assert_equal_to(odconv, layer_of(ODConv, 6, 4, kernel_size, num=num, **shape))


def test_a_depthwise_odconv_has_no_filter_factors():
    layer = layer_of(ODConv, 6, 6, 3, groups=6, num=2)
    assert layer.attention.filter_fc is None
    assert_equal_to(odconv, layer)


@every_shape
@pytest.mark.parametrize("num", [1, 2])
def test_kernel_warehouse_with_a_bank_of_its_own(shape, num):
    assert_equal_to(kernel_warehouse, layer_of(KernelWarehouse, 6, 4, (2, 3), num=num, **{**shape, "padding": 0}))


@pytest.mark.parametrize("num", [1, 3])
def test_kernel_warehouse_of_several_convolutions(num):
    """Cells of 4 × 2 for weights of 8 × 6 × 1 × 1, 4 × 2 × 3 × 3 and 12 × 4 × 1 × 2: 6, 9 and 12 pieces."""
    bank = Warehouse([(8, 6, 1, 1), (4, 2, 3, 3), (12, 4, 1, 2)], num=num).double()
    assert bank.cells.shape == (num * 27, 4, 2) and bank.counts == [6, 9, 12]
    assert [bank.owned(place) for place in range(3)] == [
        slice(0, 6 * num, num), slice(6 * num, 15 * num, num), slice(15 * num, 27 * num, num)]
    nn.init.normal_(bank.cells)
    for place, arguments in enumerate([(6, 8, 1), (2, 4, 3), (4, 12, (1, 2))]):
        layer = layer_of(KernelWarehouse, *arguments, warehouse=bank, place=place)
        assert "bank" not in dict(layer.named_children())
        assert_equal_to(kernel_warehouse, layer)


def test_pieces_of_a_weight_and_back():
    """4 × 4 × 1 × 2 in cells of 2 × 2: first position first, there the upper left block, then the one to its right."""
    bank = Warehouse([(4, 4, 1, 2), (2, 2, 1, 1)])
    weight = torch.arange(32.).view(4, 4, 1, 2)
    pieces = bank.to_pieces(weight)
    assert len(pieces) == 8
    assert torch.equal(pieces[0], weight[:2, :2, 0, 0]) and torch.equal(pieces[1], weight[:2, 2:, 0, 0])
    assert torch.equal(pieces[2], weight[2:, :2, 0, 0]) and torch.equal(pieces[4], weight[:2, :2, 0, 1])
    assert torch.equal(bank.to_weight(pieces.flatten(1)[None], 0)[0], weight)


@pytest.mark.parametrize(("kind", "num", "expected"), [
    # 8 × 16 channels, 3 × 3: 1,152 weights
    (CondConv, 8, 7 * 1152 + 16 * 8 + 8),
    (DYConv, 4, 3 * 1152 + 16 * 5 + 5 * 4 + 4),
    (ODConv, 1, 16 * 16 + 32 + 16 * 17 + 8 * 17 + 9 * 17),
    (ODConv, 4, 3 * 1152 + 16 * 16 + 32 + 16 * 17 + 8 * 17 + 9 * 17 + 4 * 17),
    # 9 pieces of 8 × 16
    (KernelWarehouse, 1, 16 * 16 + 32 + 17 * 9 * 10),
    (KernelWarehouse, 4, 3 * 1152 + 16 * 16 + 32 + 17 * 9 * 37),
])
def test_what_is_added(kind, num, expected):
    assert count(kind(16, 8, 3, num=num, bias=False)) - 1152 == expected


def test_temperatures_anneal_linearly():
    layers = nn.ModuleList([DYConv(4, 4, 1), ODConv(4, 4, 1), KernelWarehouse(4, 4, 1), CondConv(4, 4, 1)])

    def temperatures():
        return [float(layer.attention.temperature) for layer in layers[:3]]

    assert temperatures() == [30, 30, 1]
    anneal(layers, 0.25)
    assert temperatures() == pytest.approx([22.75, 22.75, 0.75])
    anneal(layers, 1.0)
    assert temperatures() == [1, 1, 0]
    assert not [key for key in layers[3].state_dict() if "temperature" in key]


@pytest.mark.parametrize("kind", KINDS)
def test_the_plain_function(kind):
    """Of a plain state dict, also for features of a network whose normalisations are not loaded yet."""
    torch.manual_seed(0)
    layer, plain = kind(6, 4, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
    layer.load_state_dict(plain.state_dict())
    torch.testing.assert_close(layer.static_weight(), plain.weight, rtol=1e-6, atol=1e-7)
    x = torch.randn(3, 6, 7, 8)
    for factor in (1.0, 1e6):
        expected = plain(factor * x)
        near = (layer.eval()(factor * x) - expected).abs().max() < 2e-6 * expected.abs().max()
        assert near == (kind is not ODConv)


def test_odconv_starts_at_an_eighth():
    """Three σ of 1/2 where the heads give nothing."""
    layer, plain = ODConv(6, 4, 3, num=2, bias=False), nn.Conv2d(6, 4, 3, bias=False)
    layer.load_state_dict(plain.state_dict())
    for head in layer.attention.heads():
        nn.init.zeros_(head.weight)
    x = torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(layer(x), plain(x) / 8)


def test_experts_of_a_plain_weight_can_learn_apart():
    """Their mean is the weight, each differs from it by a hundredth at most, and no two are alike."""
    layer, plain = CondConv(6, 4, 3, num=5), nn.Conv2d(6, 4, 3)
    layer.load_state_dict(plain.state_dict())
    experts = layer.kernels.detach().split(4)
    for number, expert in enumerate(experts):
        assert ((expert - plain.weight).abs() <= 0.0101 * plain.weight.abs()).all()
        assert all((expert - other).abs().max() > 1e-4 for other in experts[:number])
    layer(torch.randn(2, 6, 5, 5)).square().sum().backward()
    rows = layer.attention.fc.weight.grad.flatten(1)
    assert len({tuple(row.tolist()) for row in rows}) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_one_image_in_training(kind):
    """Whose pooled features have no statistics over the batch."""
    layer = kind(16, 8, 3).train()
    anneal(layer, 0.5)
    layer(torch.randn(1, 16, 5, 6)).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_padding_modes_agree_with_padding_before(kind):
    layer = layer_of(kind, 6, 4, 3, padding=(1, 2), padding_mode="reflect")
    bare = layer_of(kind, 6, 4, 3)
    bare.load_state_dict(layer.state_dict())
    x = torch.randn(2, 6, 7, 8, dtype=torch.float64)
    # The mean of x is that of the layer's input.
    padded = F.pad(x, (2, 2, 1, 1), mode="reflect")
    expected = bare.respond_to(padded, x.mean((2, 3)))
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(("kind", "least"), [(CondConv, 2), (DYConv, 2), (ODConv, 1), (KernelWarehouse, 1)])
def test_numbers_that_make_no_sense(kind, least):
    kind(4, 4, 1, num=least)
    with pytest.raises(ArgumentError, match=f"num must be at least {least}, got {least - 1}"):
        kind(4, 4, 1, num=least - 1)
    for number in (2.5, Fraction(1, 2), "4"):
        with pytest.raises(ArgumentError, match="num must be an integer"):
            kind(4, 4, 1, num=number)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("arguments", "options", "message"), [
    ((4, 6, 1), {"groups": 4}, "groups must divide out_channels, got 4 groups and 6 channels"),
    ((5, 4, 1), {"groups": 4}, "groups must divide in_channels, got 4 groups and 5 channels"),
    ((4, 4, 0), {}, "kernel_size must be at least 1, got 0"),
])
def test_arguments_that_make_no_sense(kind, arguments, options, message):
    with pytest.raises(ArgumentError, match=message):
        kind(*arguments, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_that_make_no_sense(kind):
    layer = kind(4, 4, 1)
    with pytest.raises(ValueError, match=f"{kind.__name__}'s x must have in_channels = 4 channels, got 5"):
        layer(torch.zeros(1, 5, 2, 2))
    with pytest.raises(ValueError, match=f"{kind.__name__}'s x must have at least one row and one column"):
        layer(torch.zeros(1, 4, 0, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_weight_of_another_shape(kind):
    with pytest.raises(RuntimeError, match="size mismatch for weight: .* the plain weight has shape .4, 4, 3, 3"):
        kind(4, 4, 3).load_state_dict({**nn.Conv2d(4, 4, 1).state_dict()})

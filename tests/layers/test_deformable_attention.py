"""Deformable attention against nested loops over queries, heads, levels and points; its encoder; reference points."""
import math

import pytest
import torch

from freqdino.layers.deformable_attention import DeformableEncoder, DeformableEncoderLayer, MSDeformAttn, pixel_centres

SHAPES = [(3, 5), (2, 1)]
TOKENS = sum(height * width for height, width in SHAPES)
HEADS, LEVELS, POINTS, DIM = 2, 2, 3, 8


def random_attention():
    attention = MSDeformAttn(dim=DIM, num_heads=HEADS, num_levels=LEVELS, num_points=POINTS)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return attention.double()


def read_bilinear(level, x, y):
    """level (H, W, D) at pixel coordinates, zero outside: the four neighbours by their distance."""
    height, width = level.shape[:2]
    total = torch.zeros(level.shape[2], dtype=level.dtype)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= column < width:
                total += (1 - abs(x - column)) * (1 - abs(y - row)) * level[row, column]
    return total


def attend_slowly(attention, query, reference, source):
    value = attention.value_proj(source)
    offsets = attention.sampling_offsets(query).view(*query.shape[:2], HEADS, LEVELS, POINTS, 2)
    logits = attention.attention_weights(query).view(*query.shape[:2], HEADS, LEVELS * POINTS)
    weights = logits.softmax(-1).view(*query.shape[:2], HEADS, LEVELS, POINTS)
    output = torch.zeros(*query.shape[:2], HEADS, DIM // HEADS, dtype=query.dtype)
    for b in range(query.shape[0]):
        for q in range(query.shape[1]):
            ref = reference[b % reference.shape[0], q].tolist()
            for h in range(HEADS):
                start = 0
                for level, (height, width) in enumerate(SHAPES):
                    channels = slice(h * DIM // HEADS, (h + 1) * DIM // HEADS)
                    rows = value[b, start:start + height * width, channels].view(height, width, -1)
                    start += height * width
                    for p in range(POINTS):
                        dx, dy = offsets[b, q, h, level, p].tolist()
                        if len(ref) == 2:
                            x, y = ref[0] + dx / width, ref[1] + dy / height
                        else:
                            x, y = ref[0] + dx / POINTS * ref[2] / 2, ref[1] + dy / POINTS * ref[3] / 2
                        sample = read_bilinear(rows, x * width - 0.5, y * height - 0.5)
                        output[b, q, h] += weights[b, q, h, level, p] * sample
    return attention.output_proj(output.flatten(2))


@pytest.mark.parametrize("coordinates", [2, 4])
@pytest.mark.parametrize("reference_batch", [1, 2])
@torch.no_grad()
def test_attention_equals_loops(coordinates, reference_batch):
    attention = random_attention()
    query, source = torch.randn(2, 4, DIM).double(), torch.randn(2, TOKENS, DIM).double()
    reference = torch.rand(reference_batch, 4, coordinates).double()
    expected = attend_slowly(attention, query, reference, source)
    actual = attention(query, reference, source, SHAPES)
    assert actual.dtype == query.dtype
    # Places are computed in float32, whatever the rest is in.
    assert torch.allclose(actual, expected, atol=1e-5)


def test_attention_at_the_start_looks_around():
    attention = MSDeformAttn(dim=DIM, num_heads=4, num_levels=2, num_points=2)
    offsets = attention.sampling_offsets.bias.view(4, 2, 2, 2)
    # Four heads look right, down, left, up (x, y), one pixel with the first point and two with the second.
    for level in range(2):
        for point in range(2):
            assert torch.allclose(offsets[:, level, point] / (point + 1),
                                  torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]), atol=1e-6)
    for parameter in (attention.sampling_offsets.weight, attention.attention_weights.weight,
                      attention.attention_weights.bias, attention.value_proj.bias, attention.output_proj.bias):
        assert not parameter.any()


def test_diagonal_heads_reach_the_corner_of_the_square():
    offsets = MSDeformAttn(dim=DIM, num_heads=8, num_levels=1, num_points=1).sampling_offsets.bias.view(8, 2)
    assert torch.allclose(offsets.abs().amax(dim=1), torch.ones(8))
    assert torch.allclose(offsets[1], torch.ones(2), atol=1e-6)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="num_heads must divide the 8 channels, got 3"):
        MSDeformAttn(dim=8, num_heads=3, num_levels=1)


def test_source_that_does_not_fit_the_shapes():
    attention = MSDeformAttn(dim=DIM, num_heads=HEADS, num_levels=LEVELS)
    with pytest.raises(ValueError, match=f"{TOKENS + 1} positions.*{TOKENS} together"):
        attention(torch.zeros(1, 2, DIM), torch.zeros(1, 2, 2), torch.zeros(1, TOKENS + 1, DIM), SHAPES)


def test_no_queries():
    attention = MSDeformAttn(dim=DIM, num_heads=HEADS, num_levels=LEVELS)
    output = attention(torch.zeros(2, 0, DIM), torch.zeros(2, 0, 2), torch.randn(2, TOKENS, DIM), SHAPES)
    assert output.shape == (2, 0, DIM)


def test_gradient_reaches_query_source_and_every_parameter():
    attention = MSDeformAttn(dim=DIM, num_heads=HEADS, num_levels=LEVELS)
    query, source = torch.randn(2, 4, DIM, requires_grad=True), torch.randn(2, TOKENS, DIM, requires_grad=True)
    torch.nn.init.normal_(attention.sampling_offsets.weight, std=0.1)
    torch.nn.init.normal_(attention.attention_weights.weight)
    attention(query, torch.rand(1, 4, 2), source, SHAPES).square().sum().backward()
    for tensor in (query, source, *attention.parameters()):
        assert tensor.grad.abs().sum() > 0


def encoder(layers=2, dropout=0.0):
    return DeformableEncoder(num_layers=layers, dim=DIM, num_heads=HEADS, num_levels=LEVELS, dim_feedforward=16,
                             dropout=dropout)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_encoder_keeps_shapes_and_composes_its_layers(layers):
    module = encoder(layers)
    x, position = torch.randn(2, TOKENS, DIM), torch.randn(1, TOKENS, DIM)
    output = module(x, position, SHAPES)
    assert output.shape == x.shape
    reference = pixel_centres(SHAPES)[None]
    for layer in module.layers:
        attended = layer.norm1(x + layer.self_attn(x + position, reference, x, SHAPES))
        x = layer.norm2(attended + layer.linear2(layer.linear1(attended).clamp(min=0)))
    assert torch.allclose(output, x, atol=1e-6)


def test_encoder_keys():
    attention = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
    parts = (*(f"self_attn.{part}" for part in attention), "norm1", "linear1", "linear2", "norm2")
    assert set(encoder(2).state_dict()) == {
        f"layers.{i}.{part}.{kind}" for i in range(2) for part in parts for kind in ("weight", "bias")}


def test_dropout_acts_in_training_only():
    module = encoder(1, dropout=0.5)
    x, position = torch.randn(1, TOKENS, DIM), torch.randn(1, TOKENS, DIM)
    assert not torch.equal(module(x, position, SHAPES), module(x, position, SHAPES))
    module.eval()
    assert torch.equal(module(x, position, SHAPES), module(x, position, SHAPES))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_places_stay_exact_under_autocast(dtype):
    # One row of 2,000 pixels: in half precision neighbouring centres would fall together.
    shapes = [(1, 2000)]
    layer = DeformableEncoderLayer(dim=8, num_heads=1, num_levels=1, dim_feedforward=8, dropout=0.0).eval()
    attention = layer.self_attn
    torch.nn.init.zeros_(attention.sampling_offsets.bias)
    for projection in (attention.value_proj, attention.output_proj):
        torch.nn.init.eye_(projection.weight)
    # Values alternate between neighbours: a place that is off by half a pixel reads 0.
    source = (torch.arange(2000) % 2 * 2.0 - 1)[None, :, None].expand(1, 2000, 8)
    with torch.autocast("cpu", dtype):
        output = attention(torch.zeros(1, 2000, 8), pixel_centres(shapes)[None], source, shapes)
    assert torch.allclose(output.float(), source, atol=0.02)


def test_pixel_centres():
    centres = pixel_centres([(2, 4), (1, 1)])
    expected = [((x + 0.5) / 4, (y + 0.5) / 2) for y in range(2) for x in range(4)] + [(0.5, 0.5)]
    assert torch.allclose(centres, torch.tensor(expected))


@torch.no_grad()
def test_inversion_sees_value_and_attended_before_the_projection():
    attention = random_attention()
    tokens, position = torch.randn(2, TOKENS, DIM).double(), torch.randn(2, TOKENS, DIM).double()
    reference = pixel_centres(SHAPES)[None].double()
    seen = []

    def invert(value, attended, query):
        seen.extend((value, query, attention.output_proj(attended)))
        return value

    expected = attention(tokens + position, reference, tokens, SHAPES)
    attention.invert = invert
    actual = attention(tokens + position, reference, tokens, SHAPES)
    value, query, output = seen
    assert torch.equal(value, attention.value_proj(tokens)) and torch.equal(query, tokens + position)
    assert torch.allclose(output, expected)
    assert torch.allclose(actual, attention.output_proj(value))


@torch.no_grad()
def test_scaling_reads_the_map_of_each_level_before_the_residual():
    maps = {1: [], 2: []}

    def scale(which, factor):
        def scale_map(x):
            maps[which].append(x)
            return factor * x
        return scale_map

    layer = DeformableEncoderLayer(dim=DIM, num_heads=HEADS, num_levels=LEVELS, dim_feedforward=4, dropout=0.0,
                                   freq_scale_1=scale(1, 2.0), freq_scale_2=scale(2, 3.0))
    x, position, reference = torch.randn(2, TOKENS, DIM), torch.randn(1, TOKENS, DIM), pixel_centres(SHAPES)[None]
    attended = layer.self_attn(x + position, reference, x, SHAPES)
    hidden = layer.norm1(x + 2 * attended)
    transformed = layer.linear2(layer.linear1(hidden).relu())
    assert torch.allclose(layer(x, position, reference, SHAPES), layer.norm2(hidden + 3 * transformed), atol=1e-6)
    for which, tokens in ((1, attended), (2, transformed)):
        start = 0
        for level, (height, width) in zip(maps[which], SHAPES, strict=True):
            expected = tokens[:, start:start + height * width].reshape(2, height, width, DIM).permute(0, 3, 1, 2)
            torch.testing.assert_close(level, expected)
            start += height * width

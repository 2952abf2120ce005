"""Sine encodings against the formula written out number by number."""
import math

import pytest
import torch

from freqdino.layers.position_encoding import sine_box_embedding, sine_position_map


def encode(angle, channels):
    """sin, cos, sin, cos, ... of the angle divided by 10000 ** (2 i / channels), i = 0, 0, 1, 1, ..."""
    numbers = []
    for i in range(channels // 2):
        scaled = angle / 10000 ** (2 * i / channels)
        numbers += [math.sin(scaled), math.cos(scaled)]
    return numbers


@pytest.mark.parametrize(("height", "width", "channels"), [(3, 5, 8), (1, 1, 4), (7, 2, 12), (1, 4, 64)])
def test_position_map(height, width, channels):
    actual = sine_position_map(height, width, channels)
    expected = [encode((y + 1) / (height + 1e-6) * 2 * math.pi, channels // 2)
                + encode((x + 1) / (width + 1e-6) * 2 * math.pi, channels // 2)
                for y in range(height) for x in range(width)]
    assert actual.shape == (height * width, channels)
    assert torch.allclose(actual, torch.tensor(expected), atol=2e-6)


def test_last_row_is_a_full_turn():
    # At y = H the angle is 2 pi: the first pair of channels is (0, 1).
    assert sine_position_map(4, 4, 8)[-1, :2].tolist() == pytest.approx([0, 1], abs=1e-5)


def test_empty_map():
    assert sine_position_map(0, 5, 8).shape == (0, 8)


@pytest.mark.parametrize("channels", [1, 2, 6, 10])
def test_channels_that_do_not_fit(channels):
    with pytest.raises(ValueError, match=f"channels must be divisible by 4, got {channels}"):
        sine_position_map(2, 2, channels)


def test_box_embedding():
    boxes = torch.tensor([[[0.25, 0.5, 0.125, 1.0], [0.0, 0.3, 0.7, 0.2]]])
    actual = sine_box_embedding(boxes, 6)
    assert actual.shape == (1, 2, 24)
    for embedding, (x, y, w, h) in zip(actual[0], boxes[0].tolist()):
        expected = sum((encode(2 * math.pi * part, 6) for part in (y, x, w, h)), [])
        assert torch.allclose(embedding, torch.tensor(expected), atol=1e-6)


def test_box_embedding_of_no_boxes():
    assert sine_box_embedding(torch.zeros(0, 4), 8).shape == (0, 32)


def test_box_embedding_gradient():
    boxes = torch.rand(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b: sine_box_embedding(b, 4), boxes)

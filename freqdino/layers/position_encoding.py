"""Sine position encodings of pixels and of boxes.

Source: DETR (arXiv 2005.12872), appendix A; of boxes: DAB-DETR (arXiv 2201.12329), section 4.1.
H, W: size of a feature map; C: channels of the encoding; N: any leading shape.
"""
import math

import torch
from torch import Tensor

from freqdino.errors import ArgumentError

TEMPERATURE = 10000.0


def _sine(positions, channels):
    """(...) angles -> (..., channels): sines in the even channels, cosines in the odd ones, of falling frequency."""
    index = torch.arange(channels // 2, dtype=torch.float32, device=positions.device)
    angles = positions[..., None] / TEMPERATURE ** (2 * index / channels)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


def sine_position_map(height: int, width: int, channels: int, device=None) -> Tensor:
    """Encoding of every pixel, (H * W, C), row-major: C / 2 channels for y, then C / 2 for x.

    Positions run from 1 / H to 1, times 2 pi. Raises ValueError unless C is divisible by 4.
    """
    if channels % 4:
        raise ArgumentError("channels", f"must be divisible by 4, got {channels}")

    def axis(size):
        positions = torch.arange(1, size + 1, dtype=torch.float32, device=device)
        return _sine(positions / (size + 1e-6) * 2 * math.pi, channels // 2)

    y = axis(height)[:, None].expand(height, width, -1)
    x = axis(width)[None].expand(height, width, -1)
    return torch.cat((y, x), dim=-1).flatten(0, 1)


def sine_box_embedding(boxes: Tensor, channels: int) -> Tensor:
    """Encoding of boxes (N, 4), cxcywh in [0, 1] -> (N, 4 C), C channels each for y, x, w and h."""
    return _sine(boxes[..., [1, 0, 2, 3]] * 2 * math.pi, channels).flatten(-2)

"""Sampling masks at points, and choosing the points where a predicted mask is least certain.

Source: PointRend (arXiv 1912.08193), section 3.1; Mask2Former (arXiv 2112.01527), section 3.3.
N: masks, (H, W): their size, P: points; points are (x, y) in [0, 1] over the whole mask, pixel centres at half pixels.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from freqdino.ops.blocking import slices
from freqdino.ops.weighted_gather import weighted_gather


def sample_each(masks: Tensor, points: Tensor) -> Tensor:
    """Each mask (N, H, W) at its own points (N, P, 2) -> (N, P): bilinear, zero outside."""
    return F.grid_sample(masks[:, None], _grid(points)[:, :, None], align_corners=False)[:, 0, :, 0]


def sample_all(masks: Tensor, points: Tensor) -> Tensor:
    """All masks (N, H, W) at the same points (P, 2) -> (N, P): bilinear, zero outside."""
    return F.grid_sample(masks[None], _grid(points)[None, :, None], align_corners=False)[0, :, :, 0]


def sample_channels(features: Tensor, points: Tensor) -> Tensor:
    """A map of many channels (C, H, W) at points (P, 2) -> (P, C); on the CPU a pixel's channels at a time."""
    if features.device.type != "cpu":
        return sample_all(features, points).T
    height, width = features.shape[1:]
    last = points.new_tensor([width - 1, height - 1])
    place = points * (last + 1) - 0.5
    upper_left = place.floor()
    pixels, weights = [], []
    for offset in ((0, 0), (1, 0), (0, 1), (1, 1)):
        corner = upper_left + points.new_tensor(offset)
        inside = corner.clamp(min=0).minimum(last)
        column, row = inside.long().unbind(dim=1)
        pixels.append(row * width + column)
        weights.append((1 - (place - corner).abs()).prod(dim=1) * (corner == inside).all(dim=1))
    return weighted_gather(features.flatten(1).T.contiguous(), torch.stack(pixels, dim=1), torch.stack(weights, dim=1))


def _grid(points):
    """Points as grid_sample counts them: the mask's corners are (-1, -1) and (1, 1)."""
    return points.mul(2).sub_(1)


@torch.no_grad()
def uncertain_points(logits: Tensor, *, num_points: int, oversample_ratio: float, importance_ratio: float) -> Tensor:
    """Random points (N, P, 2) for mask logits (N, H, W): a share by uncertainty, the rest uniform.

    Of ``oversample_ratio`` * P candidates the ``importance_ratio`` * P with the logit nearest to 0 are taken.
    """
    num_candidates = int(num_points * oversample_ratio)
    num_important = int(num_points * importance_ratio)
    points = logits.new_empty(len(logits), num_points, 2)
    for chunk in slices(len(logits), 2 * num_candidates * points.element_size(), logits.device):
        candidates = torch.rand(len(logits[chunk]), num_candidates, 2, device=logits.device)
        certainty = sample_each(logits[chunk], candidates).abs_()
        chosen = certainty.topk(num_important, dim=1, largest=False, sorted=False).indices
        torch.gather(candidates, 1, chosen[..., None].expand(-1, -1, 2), out=points[chunk, :num_important])
    points[:, num_important:] = torch.rand(len(logits), num_points - num_important, 2, device=logits.device)
    return points

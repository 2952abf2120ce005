"""Sampling masks at points, and choosing the points where a predicted mask is least certain.

Source: PointRend (arXiv 1912.08193), section 3.1; Mask2Former (arXiv 2112.01527), section 3.3.
N: masks, (H, W): their size, P: points; points are (x, y) in [0, 1] over the whole mask, pixel centres at half pixels.
"""
import torch
import torch.nn.functional as F
from torch import Tensor


def sample_each(masks: Tensor, points: Tensor) -> Tensor:
    """Each mask (N, H, W) at its own points (N, P, 2) -> (N, P): bilinear, zero outside."""
    return F.grid_sample(masks[:, None], 2 * points[:, :, None] - 1, align_corners=False)[:, 0, :, 0]


def sample_all(masks: Tensor, points: Tensor) -> Tensor:
    """All masks (N, H, W) at the same points (P, 2) -> (N, P): bilinear, zero outside."""
    return F.grid_sample(masks[None], 2 * points[None, :, None] - 1, align_corners=False)[0, :, :, 0]


@torch.no_grad()
def uncertain_points(logits: Tensor, *, num_points: int, oversample_ratio: float, importance_ratio: float) -> Tensor:
    """Random points (N, P, 2) for mask logits (N, H, W): a share by uncertainty, the rest uniform.

    Of ``oversample_ratio`` * P candidates the ``importance_ratio`` * P with the logit nearest to 0 are taken.
    """
    num_candidates = int(num_points * oversample_ratio)
    num_important = int(num_points * importance_ratio)
    candidates = torch.rand(len(logits), num_candidates, 2, device=logits.device)
    certainty = sample_each(logits, candidates).abs()
    chosen = certainty.topk(num_important, dim=1, largest=False, sorted=False).indices
    important = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    return torch.cat((important, torch.rand(len(logits), num_points - num_important, 2, device=logits.device)), dim=1)

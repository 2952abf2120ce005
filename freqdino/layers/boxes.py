"""Box functions: formats, generalised IoU, the boxes of masks.

Sources: generalised IoU: arXiv 1902.09630. N, M: numbers of boxes; cxcywh: centre and size; xyxy: corners.
"""
import torch
from torch import Tensor

EPSILON = 1e-6


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre and size -> (..., 4) corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) corners -> (..., 4) centre and size."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def generalized_box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of boxes (..., 4) xyxy, elementwise after broadcasting: a[:, None], b[None] gives all pairs.

    Degenerate boxes are allowed: both divisions have an epsilon of 1e-6.
    """
    def area(low, high):
        return (high - low).clamp(min=0).prod(dim=-1)

    intersection = area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    hull = area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    union = (a[..., 2:] - a[..., :2]).prod(dim=-1) + (b[..., 2:] - b[..., :2]).prod(dim=-1) - intersection
    return intersection / (union + EPSILON) - (hull - union) / (hull + EPSILON)


def masks_to_boxes(masks: Tensor) -> Tensor:
    """Boxes (N, 4) float xyxy of bool masks (N, H, W), exclusive maximum; an empty mask has the box 0, 0, 0, 0."""
    if masks.numel() == 0:
        return torch.zeros(len(masks), 4, device=masks.device)

    def extent(occupied):
        """First and one past the last True of each row; 0, 0 for a row without any."""
        index = torch.arange(occupied.shape[1], device=masks.device)
        last = (index + 1).masked_fill(~occupied, 0).amax(dim=1)
        return index.masked_fill(~occupied, occupied.shape[1]).amin(dim=1).minimum(last), last

    x0, x1 = extent(masks.any(dim=1))
    y0, y1 = extent(masks.any(dim=2))
    return torch.stack((x0, y0, x1, y1), dim=1).float()


def inverse_sigmoid(x: Tensor) -> Tensor:
    """Logit of x in [0, 1]; values beyond are clamped, and both sides are kept 1e-5 away from infinity."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=1e-5) / (1 - x).clamp(min=1e-5))

"""Ground truth and predictions that the tests of matcher and criterion share."""
import torch

from freqdino.modeling.prediction import Prediction
from freqdino.modeling.targets import ImageTargets


def image_targets(labels, masks=None, size=(8, 8), boxes=None, name="a.jpg"):
    """Targets with the given class indices; without ``masks`` (G, H, W) every mask is empty."""
    masks = torch.zeros(len(labels), *size, dtype=torch.bool) if masks is None else masks
    boxes = None if boxes is None else torch.tensor(boxes).view(-1, 4)
    return ImageTargets(labels=torch.tensor(labels, dtype=torch.int64), masks=masks, boxes=boxes, name=name)


def predicted(logits, masks=None, boxes=None):
    """A prediction with these masks (B, Q, H, W), by default undecided ones."""
    masks = torch.zeros(*logits.shape[:2], 8, 8) if masks is None else masks
    return Prediction(logits=logits, mask_features=masks, boxes=boxes)


def quadrants(size=16):
    """The four quarters of an image, bool (4, size, size)."""
    masks = torch.zeros(4, size, size, dtype=torch.bool)
    half = size // 2
    for i, (y, x) in enumerate(((0, 0), (0, half), (half, 0), (half, half))):
        masks[i, y:y + half, x:x + half] = True
    return masks


def logits_of(masks, confidence=10.0):
    """Mask logits of that confidence which predict ``masks``."""
    return (masks.float() * 2 - 1) * confidence

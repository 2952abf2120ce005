"""Loss functions and pairwise costs of class, mask and box predictions.

Sources: focal loss: arXiv 1708.02002; dice: V-Net (arXiv 1606.04797), as used by DETR and Mask2Former.
N: predictions, G: ground-truth objects, K: classes, P: points.
"""
import torch.nn.functional as F
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2


def cross_entropy_loss(logits: Tensor, classes: Tensor, class_weight: Tensor) -> Tensor:
    """Weighted mean of the softmax cross-entropy of logits (N, K + 1); class K is "no object"."""
    return F.cross_entropy(logits.float(), classes, class_weight)


def focal_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Sum of the sigmoid focal loss of logits (N, K) with classes (N,) in 0..K, K being background."""
    target = F.one_hot(classes, logits.shape[-1] + 1)[..., :-1]
    return sigmoid_focal_loss(logits, target, alpha=FOCAL_ALPHA, gamma=FOCAL_GAMMA, reduction="sum")


def mask_bce_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of point logits (N, P) to targets in [0, 1]: mean over points, sum over masks."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1).sum()


def mask_dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """One minus the dice coefficient of point logits (N, P) and targets in [0, 1], smoothed by 1; sum over masks."""
    probability = logits.sigmoid()
    overlap = 2 * (probability * targets).sum(dim=1) + 1
    return (1 - overlap / (probability.sum(dim=1) + targets.sum(dim=1) + 1)).sum()


def softmax_class_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """(N, G): minus the softmax probability of each object's class; logits (N, K + 1)."""
    return -logits.float().softmax(dim=-1)[:, labels]


def focal_class_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """(N, G): focal loss of saying each object's class minus that of not saying it; logits (N, K)."""
    probability = logits.float().sigmoid()
    said = FOCAL_ALPHA * (1 - probability) ** FOCAL_GAMMA * -(probability + 1e-8).log()
    unsaid = (1 - FOCAL_ALPHA) * probability ** FOCAL_GAMMA * -(1 - probability + 1e-8).log()
    return (said - unsaid)[:, labels]


def mask_bce_cost(logits: Tensor, targets: Tensor) -> Tensor:
    """(N, G): mean binary cross-entropy of every pair of point logits (N, P) and targets (G, P)."""
    # With softplus(-x) = softplus(x) - x, both halves of the cross-entropy share one softplus and one product.
    return (F.softplus(logits).sum(dim=1, keepdim=True) - logits @ targets.T) / logits.shape[1]


def mask_dice_cost(logits: Tensor, targets: Tensor) -> Tensor:
    """(N, G): dice loss of every pair of point logits (N, P) and targets (G, P)."""
    probability = logits.sigmoid()
    total = probability.sum(dim=1)[:, None] + targets.sum(dim=1)[None]
    return 1 - (2 * probability @ targets.T + 1) / (total + 1)

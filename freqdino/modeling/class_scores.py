"""From class logits to the scores that each task uses: Mask2Former's softmax and Mask DINO's sigmoid rules.

Sources: Mask2Former (arXiv 2112.01527), section 3.4 of MaskFormer; Mask DINO (arXiv 2206.02777), section 3.
Q: queries, K: classes.
"""
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SoftmaxScores:
    """Logits (Q, K + 1), the last column being "no object"."""

    def semantic(self, logits: Tensor) -> Tensor:
        """(Q, K): share of each class in each query."""
        return logits.softmax(dim=-1)[:, :-1]

    def instance(self, logits: Tensor) -> Tensor:
        """(Q, K): score of each pair of query and class."""
        return self.semantic(logits)

    def panoptic(self, logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        """Score and class of each query, (Q,), and which queries count: an object, with more than ``threshold``."""
        scores, classes = logits.softmax(dim=-1).max(dim=-1)
        return scores, classes, (classes != logits.shape[-1] - 1) & (scores > threshold)


@dataclass(frozen=True)
class SigmoidScores:
    """Logits (Q, K), each class on its own. For semantic and panoptic results the probabilities compete through a
    softmax of ``temperature``; None leaves them as they are.
    """

    temperature: float | None

    def semantic(self, logits: Tensor) -> Tensor:
        """(Q, K): share of each class in each query."""
        probability = logits.sigmoid()
        return probability if self.temperature is None else (probability / self.temperature).softmax(dim=-1)

    def instance(self, logits: Tensor) -> Tensor:
        """(Q, K): score of each pair of query and class."""
        return logits.sigmoid()

    def panoptic(self, logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        """Score and class of each query, (Q,), and which queries count: those of a probability above ``threshold``."""
        scores, classes = self.semantic(logits).max(dim=-1)
        return scores, classes, logits.sigmoid().amax(dim=-1) > threshold

"""A prediction whose masks may be computed when somebody asks for them.

B: batch, Q: queries, M: mask width, (H, W): size of the mask features.
"""
import torch
from torch import Tensor


def mask_logits(mask_embedding: Tensor, mask_features: Tensor) -> Tensor:
    """(B, Q, M) and (B, M, H, W) -> (B, Q, H, W): one dot product a query and pixel."""
    return torch.einsum("bqm,bmhw->bqhw", mask_embedding, mask_features)


class DeferredMasksPrediction(dict):
    """A prediction without ``pred_masks``; the first look at that key computes and keeps it.

    The auxiliary masks of a model in evaluation are asked for by few, and cost as much as a decoder layer each.
    """

    def __init__(self, entries: dict, *, mask_embedding: Tensor, mask_features: Tensor):
        super().__init__(entries)
        self._factors = (mask_embedding, mask_features)

    def __missing__(self, key):
        if key != "pred_masks":
            raise KeyError(key)
        self[key] = mask_logits(*self._factors)
        return self[key]

"""A prediction whose masks are computed when somebody asks for them: all, those of some queries, or at some points.

B: batch, Q: queries, M: mask width, (H, W): size of the mask features, P: points, N: matches.
"""
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from freqdino.layers.linear import linear
from freqdino.modeling.point_sampling import sample_all, sample_channels

Match = Sequence[tuple[Tensor, Tensor]]     # for each image the queries and the objects that belong together


def mask_logits(mask_embedding: Tensor, mask_features: Tensor) -> Tensor:
    """(B, Q, M) and (B, M, H, W) -> (B, Q, H, W): one dot product a query and pixel."""
    return torch.einsum("bqm,bmhw->bqhw", mask_embedding, mask_features)


class DeferredMasksPrediction(dict):
    """A prediction without ``pred_masks``; the first look at that key computes and keeps it.

    Few ask for all of them: evaluation reads those of the last prediction only, training a few queries and points, for
    which `matched_masks` and `masks_at_points` go back to the factors in any case.
    """

    def __init__(self, entries: dict, *, mask_embedding: Tensor, mask_features: Tensor):
        super().__init__(entries)
        self.mask_embedding = mask_embedding
        self.mask_features = mask_features

    def __missing__(self, key):
        if key != "pred_masks":
            raise KeyError(key)
        self[key] = mask_logits(self.mask_embedding, self.mask_features)
        return self[key]


def matched_masks(matched: Sequence[tuple[Mapping, Match]]) -> list[Tensor]:
    """For each pair of a prediction and its match the masks (N, H, W) of the matched queries, image by image.

    Deferred masks are computed for these queries only, and for all predictions at once: reading the mask features, and
    adding to their gradient, costs more than a few dot products. Such predictions share the features.
    """
    deferred = [pair for pair in matched if isinstance(pair[0], DeferredMasksPrediction)]
    computed = iter(_compute_masks(deferred) if deferred else ())
    return [next(computed) if isinstance(prediction, DeferredMasksPrediction)
            else torch.cat([masks[queries] for masks, (queries, _) in zip(prediction["pred_masks"], match)])
            for prediction, match in matched]


def _compute_masks(deferred):
    mask_features = deferred[0][0].mask_features
    chosen, counts = [], []     # by image
    for image in range(len(mask_features)):
        embeddings = [prediction.mask_embedding[image, match[image][0]] for prediction, match in deferred]
        chosen.append(torch.cat(embeddings))
        counts.append([len(embedding) for embedding in embeddings])
    masks = mask_logits(pad_sequence(chosen, batch_first=True), mask_features)
    of_predictions = zip(*(own[:sum(sizes)].split(sizes) for own, sizes in zip(masks, counts)))
    return [torch.cat(of_images) for of_images in of_predictions]


def masks_at_points(prediction: Mapping, image: int, points: Tensor) -> Tensor:
    """All masks of an image at ``points`` (P, 2), see `point_sampling`: (Q, P) in float32.

    A mask is linear in the mask features, so that these may be sampled in its place.
    """
    if not isinstance(prediction, DeferredMasksPrediction):
        return sample_all(prediction["pred_masks"][image].float(), points)
    features = sample_channels(prediction.mask_features[image].float(), points)
    return linear(prediction.mask_embedding[image].float(), features, None)

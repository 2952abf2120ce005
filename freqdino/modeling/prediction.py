"""What decoders predict: logits, boxes, and masks that are computed when somebody asks for them: all, those of some
queries, or at some points.

B: batch, Q: queries, K: class logits, M: mask width, (H, W): size of the masks, P: points, N: matches.
"""
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from freqdino.layers.linear import linear
from freqdino.modeling.denoising import NoisedQueries
from freqdino.modeling.point_sampling import sample_all, sample_channels

Match = Sequence[tuple[Tensor, Tensor]]     # for each image the queries and the objects that belong together


def mask_logits(mask_embedding: Tensor, mask_features: Tensor) -> Tensor:
    """(B, Q, M) and (B, M, H, W) -> (B, Q, H, W) of the features' type: one dot product a query and pixel."""
    return torch.einsum("bqm,bmhw->bqhw", mask_embedding.to(mask_features.dtype), mask_features)


class Published(Mapping):
    """What can be read by the published keys, too. To ask which there are computes nothing."""

    def __contains__(self, key: object) -> bool:
        return key in iter(self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(kw_only=True, eq=False)
class Prediction(Published):
    """Logits (B, Q, K), boxes (B, Q, 4) cxcywh in [0, 1] or None, and the factors of the masks: ``mask_embedding``
    (B, Q, M) and ``mask_features`` (B, M, H, W). Without an embedding the features are the masks (B, Q, H, W).

    Keys: ``pred_logits``, ``pred_masks`` and, where there are boxes, ``pred_boxes``.
    """

    logits: Tensor
    mask_features: Tensor
    mask_embedding: Tensor | None = None
    boxes: Tensor | None = None

    @cached_property
    def masks(self) -> Tensor:
        """All masks (B, Q, H, W) as logits. Few ask for them: evaluation for those of the last prediction, training for
        a few queries and points, for which `matched_masks` and `masks_at` go back to the factors in any case.
        """
        features, embedding = self.mask_features, self.mask_embedding
        return features if embedding is None else mask_logits(embedding, features)

    def masks_at(self, image: int, points: Tensor) -> Tensor:
        """All masks of an image at ``points`` (P, 2), see `point_sampling`: (Q, P) in float32.

        A mask is linear in the mask features, so that these may be sampled in its place.
        """
        features = self.mask_features[image].float()
        if self.mask_embedding is None:
            return sample_all(features, points)
        return linear(self.mask_embedding[image].float(), sample_channels(features, points), None)

    def __iter__(self) -> Iterator[str]:
        return iter(("pred_logits", "pred_masks", "pred_boxes")[:2 if self.boxes is None else 3])

    def __getitem__(self, key: str) -> Tensor:
        if key not in self:
            raise KeyError(key)
        return getattr(self, key.removeprefix("pred_"))


@dataclass(kw_only=True, eq=False)
class Outputs(Published):
    """The last prediction, the earlier ones in order, that of the encoder's tokens, and (the same predictions of the
    denoising queries, what these are); None where a decoder has none.

    Keys: those of ``last``, ``aux_outputs``, and where they are there ``interm_outputs`` and ``denoising``.
    """

    last: Prediction
    auxiliary: Sequence[Prediction] = ()
    proposals: Prediction | None = None
    denoising: tuple[Sequence[Prediction], NoisedQueries] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The published dictionary of dictionaries, for who does not know this class; it computes every mask."""
        plain = {**self, "aux_outputs": [dict(prediction) for prediction in self.auxiliary]}
        if "interm_outputs" in self:
            plain["interm_outputs"] = dict(self.proposals)
        if "denoising" in self:
            plain["denoising"] = [dict(prediction) for prediction in self.denoising[0]], self.denoising[1]
        return plain

    def __iter__(self) -> Iterator[str]:
        return iter((*self.last, *self._parts))

    def __getitem__(self, key: str) -> Any:
        return self.last[key] if key in self.last else self._parts[key]

    @property
    def _parts(self):
        parts = {"aux_outputs": self.auxiliary, "interm_outputs": self.proposals, "denoising": self.denoising}
        return {key: part for key, part in parts.items() if part is not None}


def matched_masks(matched: Sequence[tuple[Prediction, Match]]) -> list[Tensor]:
    """For each pair of a prediction and its match the masks (N, H, W) of the matched queries, image by image.

    From factors they are computed for these queries only, and for all predictions at once: reading the mask features,
    and adding to their gradient, costs more than a few dot products. Such predictions share the features.
    """
    factored = [pair for pair in matched if pair[0].mask_embedding is not None]
    computed = iter(_compute_masks(factored) if factored else ())
    return [torch.cat([masks[queries] for masks, (queries, _) in zip(prediction.mask_features, match)])
            if prediction.mask_embedding is None else next(computed) for prediction, match in matched]


def _compute_masks(matched):
    mask_features = matched[0][0].mask_features
    chosen, counts = [], []     # by image
    for image in range(len(mask_features)):
        embeddings = [prediction.mask_embedding[image, match[image][0]] for prediction, match in matched]
        chosen.append(torch.cat(embeddings))
        counts.append([len(embedding) for embedding in embeddings])
    masks = mask_logits(pad_sequence(chosen, batch_first=True), mask_features)
    of_predictions = zip(*(own[:sum(sizes)].split(sizes) for own, sizes in zip(masks, counts)))
    return [torch.cat(of_images) for of_images in of_predictions]

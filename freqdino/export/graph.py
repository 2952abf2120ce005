"""A whole model as one graph: uint8 pictures in, results out, with sizes that may be symbols.

Shape key: B: batch, (H, W): size of the pictures, (h, w): size of the predicted masks, (H', W'): size of the results,
Q: queries, K: classes, N: instances, T: tokens of all levels.
"""
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from detectron2.modeling import SemanticSegmentor
from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.export.batched_results import instances, panoptic, semantic
from freqdino.layers.boxes import cxcywh_to_xyxy
from freqdino.modeling.mask_dino_decoder import MaskDINODecoder
from freqdino.modeling.meta_architecture import MaskClassificationModel

INPUTS = ("image", "output_size")
RESULTS = {
    "semantic": ("semantic_classes", "semantic_scores"),
    "instance": ("instance_scores", "instance_classes", "instance_queries", "instance_valid", "instance_boxes",
                 "instance_masks"),
    "panoptic": ("panoptic_ids", "segment_ids", "segment_classes", "segment_scores", "segment_is_thing",
                 "segment_valid"),
}
# What the results are made of: the last prediction, and the encoder's tokens that Mask DINO takes as queries.
LOGITS, MASKS, BOXES, TOKENS = "logits", "mask_logits", "boxes", "tokens"


class WholeModel(nn.Module):
    """``model``, one of ours or Detectron2's SemanticSegmentor, from pictures in RGB to results.

    ``reverse_channels``: the model wants BGR. ``output_names`` are those of what it returns, in order.

    Raises ArgumentError: a model of another kind, or one that pads to squares.
    """

    def __init__(self, model: nn.Module, *, reverse_channels: bool):
        super().__init__()
        if not isinstance(model, (MaskClassificationModel, SemanticSegmentor)):
            raise ArgumentError("model", f"is a {type(model).__name__}; Mask2Former, Mask DINO and SemanticSegmentor "
                                "can be exported")
        self.model = model
        self.reverse_channels = reverse_channels
        self.semantic_only = isinstance(model, SemanticSegmentor)
        if self.semantic_only and model.backbone.padding_constraints.get("square_size"):
            raise ArgumentError("model", "pads its input to squares, which a graph of any size cannot")
        self.size_divisibility = max(1, model.backbone.size_divisibility if self.semantic_only
                                     else model.size_divisibility)

    @property
    def step(self) -> int:
        """Pixels of one place of the coarsest map, or of the padding."""
        return max(self.size_divisibility, *(shape.stride for shape in self.model.backbone.output_shape().values()))

    @property
    def tasks(self) -> tuple[str, ...]:
        """What it predicts, some of semantic, instance, panoptic."""
        if self.semantic_only:
            return ("semantic",)
        rules = self.model.post_processing
        return tuple(task for task in RESULTS if getattr(rules, task))

    @property
    def output_names(self) -> tuple[str, ...]:
        results = tuple(name for task in self.tasks for name in RESULTS[task])
        if self.semantic_only:
            return (*results, LOGITS)
        decoder = token_decoder(self.model)
        return (*results, LOGITS, MASKS, *((BOXES,) if isinstance(self.model.sem_seg_head.predictor, MaskDINODecoder)
                                           else ()), *((TOKENS,) if decoder else ()))

    def forward(self, image: Tensor, output_size: Tensor) -> tuple[Tensor, ...]:
        """image: uint8 (B, 3, H, W), RGB; output_size: int64 (2,), H' and W', 0 for that of the pictures."""
        size = image.shape[-2:]
        pixels = self._normalised(image.flip(1) if self.reverse_channels else image)
        pixels, padded = pad_to_multiple(pixels, self.size_divisibility)
        # Not one of two numbers, which would make two graphs of it.
        wanted = torch.where(output_size > 0, output_size, torch.stack([torch.tensor(side) for side in size]))
        output = wanted[0].item(), wanted[1].item()
        for side in output:
            torch._check(side >= 2)
            torch._check(side <= LARGEST_SIDE)
        if self.semantic_only:
            logits = self.model.sem_seg_head(self.model.backbone(pixels))[0]
            scores = _resize(_crop(logits, size), output)
            return (scores.argmax(dim=1), scores, logits)
        with recorded_tokens(self.model) as recorded:
            prediction = self.model.sem_seg_head(self.model.features(pixels)).last
        masks = prediction.masks.float()
        results = self._results(prediction.logits.float(), masks, prediction.boxes, padded, size, output)
        boxes = () if prediction.boxes is None else (prediction.boxes,)
        return (*results, prediction.logits, masks, *boxes, *(tokens for _, tokens in recorded))

    def _normalised(self, image):
        return (image.float() - self.model.pixel_mean) / self.model.pixel_std

    def _results(self, logits, masks, boxes, padded, size, output):
        rules = self.model.post_processing
        whole = _resize(masks, padded)
        resized = _resize(_crop(whole, size), output)
        results: list[Tensor] = []
        if rules.semantic:
            shares = rules.scores.semantic(logits)
            scores = (semantic(shares, resized) if rules.resize_before_semantic
                      else _resize(_crop(semantic(shares, whole), size), output))
            results += [scores.argmax(dim=1), scores]
        if rules.instance:
            if boxes is not None:
                scale = torch.stack([torch.tensor(full * wanted / side) for full, wanted, side in
                                     zip(padded[::-1], output[::-1], size[::-1])]).float().repeat(2)
                boxes = cxcywh_to_xyxy(boxes.float()) * scale
            results += instances(rules, logits, resized, boxes)
        if rules.panoptic:
            results += panoptic(rules, logits, resized)
        return results


LARGEST_SIDE = 2 ** 15      # of a result


def pad_to_multiple(pixels: Tensor, step: int) -> tuple[Tensor, tuple[int, int]]:
    """Zeros at the right and the bottom up to multiples of ``step``; the padded size.

    By indices, not by ``F.pad``: it asks whether there is anything to pad, and one graph cannot answer for all sizes.
    """
    height, width = pixels.shape[-2:]
    if step == 1:
        return pixels, (height, width)
    padded = (height + step - 1) // step * step, (width + step - 1) // step * step
    rows, columns = (torch.arange(side, device=pixels.device) for side in padded)
    inside = (rows < height)[:, None] & (columns < width)
    pixels = pixels.index_select(2, rows.clamp(max=height - 1)).index_select(3, columns.clamp(max=width - 1))
    return torch.where(inside, pixels, 0.0), padded


def _crop(maps: Tensor, size: Sequence[int]) -> Tensor:
    """The upper left part, of ``size``; by indices, as in `pad_to_multiple`."""
    for dim, side in ((2, size[0]), (3, size[1])):
        maps = maps.index_select(dim, torch.arange(side, device=maps.device))
    return maps


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def token_decoder(model: nn.Module) -> MaskDINODecoder | None:
    """The decoder that chooses its queries among the encoder's tokens, where there is one."""
    decoder = getattr(model.sem_seg_head, "predictor", None)
    return decoder if isinstance(decoder, MaskDINODecoder) and decoder.two_stage else None


@contextmanager
def recorded_tokens(model: nn.Module, forced: Tensor | None = None) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """In the block the decoder's token scores (B, T) and the indices (B, Q) of those that it takes are recorded; with
    ``forced`` (B, Q) it takes these."""
    decoder, recorded = token_decoder(model), []
    if decoder is None:
        yield recorded
        return
    choose = decoder.choose_tokens

    def record(scores: Tensor) -> Tensor:
        tokens = choose(scores) if forced is None else forced
        recorded.append((scores, tokens))
        return tokens

    decoder.choose_tokens = record
    try:
        yield recorded
    finally:
        del decoder.choose_tokens

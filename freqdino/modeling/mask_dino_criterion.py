"""What Mask DINO's losses add: boxes of things only, the encoder's proposals, and the denoising queries.

Source: Mask DINO (arXiv 2206.02777), sections 3.3 to 3.5.
"""
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from freqdino.modeling.criterion import SetCriterion
from freqdino.modeling.targets import ImageTargets

BOX_TERMS = ("bbox", "giou")
MASK_TERMS = ("mask", "dice")
READERS = {"pred_logits": ("ce",), "pred_masks": MASK_TERMS, "pred_boxes": BOX_TERMS}
DENOISING_KINDS = ("no", "standard", "seg")


class MaskDINOCriterion(SetCriterion):
    """`SetCriterion` with the losses ``*_interm`` of the proposals and ``*_dn``, ``*_dn_0``, ... of denoising.

    ``denoising``: no; standard (classes and boxes); seg (masks too). ``box_loss`` off leaves the box terms to
    denoising. ``box_classes``: the classes whose boxes are supervised, None for all. Raises ValueError for an unknown
    ``denoising`` and where no loss is left.
    """

    def __init__(self, *, denoising: str, box_loss: bool, box_classes: Collection[int] | None, **arguments):
        super().__init__(**arguments)
        if denoising not in DENOISING_KINDS:
            raise ValueError(f"denoising must be one of {DENOISING_KINDS}, got {denoising!r}")
        self.denoising = denoising
        self.matching_terms = [term for term in self.weights if box_loss or term not in BOX_TERMS]
        if not self.matching_terms:
            raise ValueError(f"no loss of the matched queries is left: weights {self.weights}, box_loss {box_loss}")
        self.unread_outputs = [output for output, terms in READERS.items() if not {*terms} & {*self.matching_terms}]
        self.denoising_terms = [term for term in self.weights if denoising == "seg" or term not in MASK_TERMS]
        self.box_classes = None if box_classes is None else torch.tensor(sorted(box_classes), dtype=torch.int64)

    def forward(self, outputs: Mapping, targets: Sequence[ImageTargets]) -> dict[str, Tensor]:
        """As `SetCriterion.forward`, with ``interm_outputs`` and ``denoising`` of `MaskDINODecoder` in the outputs."""
        num_objects = self.count_objects(targets, outputs["pred_logits"].device)
        losses = self.matched_losses(outputs, targets, num_objects)
        if self.denoising != "no":
            losses |= self._denoising_losses(outputs, targets, num_objects)
        # Distributed training wants every parameter in the graph, those of a head without a loss too.
        first = next(iter(losses))
        losses[first] = losses[first] + 0 * sum(outputs[output].float().mean() for output in self.unread_outputs)
        return losses

    def supervised(self, outputs: Mapping) -> dict[str, Mapping]:
        groups = super().supervised(outputs)
        if outputs["interm_outputs"] is not None:
            groups["_interm"] = outputs["interm_outputs"]
        return groups

    def _denoising_losses(self, outputs, targets, num_objects):
        num_auxiliary = len(outputs["aux_outputs"]) if self.deep_supervision else 0
        # The published code begins with the second auxiliary prediction where there are no proposals.
        first = 0 if outputs["interm_outputs"] is not None else 1
        suffixes = {f"_dn_{i}": i for i in range(first, num_auxiliary)} | {"_dn": -1}
        if outputs["denoising"] is None:
            zero = outputs["pred_logits"].new_zeros((), dtype=torch.float32)
            return {f"loss_{term}{suffix}": zero for suffix in suffixes for term in self.denoising_terms}
        predictions, noised = outputs["denoising"]
        matched = {suffix: (predictions[i], noised.matches) for suffix, i in suffixes.items()}
        return self.losses_of(matched, targets, num_objects * noised.groups, self.denoising_terms)

    def _box_losses(self, boxes, targets, match, num_objects):
        if self.box_classes is not None:
            match = [self._of_box_classes(target, *pairs) for target, pairs in zip(targets, match)]
        return super()._box_losses(boxes, targets, match, num_objects)

    def _of_box_classes(self, target, queries, objects):
        keep = torch.isin(target.labels[objects], self.box_classes.to(target.labels.device))
        return queries[keep], objects[keep]

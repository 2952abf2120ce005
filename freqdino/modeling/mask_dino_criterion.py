"""What Mask DINO's losses add: boxes of things only, the encoder's proposals, and the denoising queries.

Source: Mask DINO (arXiv 2206.02777), sections 3.3 to 3.5.
"""
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_choice
from freqdino.modeling.criterion import SetCriterion
from freqdino.modeling.prediction import Outputs, Prediction
from freqdino.modeling.targets import ImageTargets

BOX_TERMS = ("bbox", "giou")
MASK_TERMS = ("mask", "dice")
# Part of a prediction -> the terms that read it.
READ_BY = {"logits": ("ce",), "mask_embedding": MASK_TERMS, "mask_features": MASK_TERMS, "boxes": BOX_TERMS}


class MaskDINOCriterion(SetCriterion):
    """`SetCriterion` with the losses ``*_interm`` of the proposals and ``*_dn``, ``*_dn_0``, ... of denoising.

    ``denoising``: no; standard (classes and boxes); seg (masks too). ``box_loss`` off leaves the box terms to
    denoising. ``box_classes``: the classes whose boxes are supervised, None for all. Raises ValueError for an unknown
    ``denoising`` and where no loss is left.
    """

    def __init__(self, *, denoising: str, box_loss: bool, box_classes: Collection[int] | None, **arguments):
        super().__init__(**arguments)
        check_choice(("no", "standard", "seg"), denoising=denoising)
        self.denoising = denoising
        self.matching_terms = [term for term in self.weights if box_loss or term not in BOX_TERMS]
        if not self.matching_terms:
            raise ArgumentError("weights", f"leave no loss of the matched queries: {self.weights}, box_loss {box_loss}")
        self.unread_parts = [part for part, terms in READ_BY.items() if not {*terms} & {*self.matching_terms}]
        self.denoising_terms = [term for term in self.weights if denoising == "seg" or term not in MASK_TERMS]
        self.box_classes = None if box_classes is None else torch.tensor(sorted(box_classes), dtype=torch.int64)

    def forward(self, outputs: Outputs, targets: Sequence[ImageTargets]) -> dict[str, Tensor]:
        """As `SetCriterion.forward`, with the proposals and the denoising of `MaskDINODecoder` in the outputs."""
        num_objects = self.count_objects(targets, outputs.last.logits.device)
        losses = self.matched_losses(outputs, targets, num_objects)
        if self.denoising != "no":
            losses |= self._denoising_losses(outputs, targets, num_objects)
        # Distributed training wants every parameter in the graph, those of a head without a loss too.
        first = next(iter(losses))
        unread = (getattr(outputs.last, part) for part in self.unread_parts)
        losses[first] = losses[first] + 0 * sum(part.float().mean() for part in unread if part is not None)
        return losses

    def supervised(self, outputs: Outputs) -> dict[str, Prediction]:
        groups = super().supervised(outputs)
        if outputs.proposals is not None:
            groups["_interm"] = outputs.proposals
        return groups

    def _denoising_losses(self, outputs, targets, num_objects):
        num_auxiliary = len(outputs.auxiliary) if self.deep_supervision else 0
        # The published code begins with the second auxiliary prediction where there are no proposals.
        first = 1 if outputs.proposals is None else 0
        suffixes = {f"_dn_{i}": i for i in range(first, num_auxiliary)} | {"_dn": -1}
        if outputs.denoising is None:
            zero = outputs.last.logits.new_zeros((), dtype=torch.float32)
            return {f"loss_{term}{suffix}": zero for suffix in suffixes for term in self.denoising_terms}
        predictions, noised = outputs.denoising
        matched = {suffix: (predictions[i], noised.matches) for suffix, i in suffixes.items()}
        return self.losses_of(matched, targets, num_objects * noised.groups, self.denoising_terms)

    def _box_losses(self, boxes, targets, match, num_objects):
        if self.box_classes is not None:
            match = [self._of_box_classes(target, *pairs) for target, pairs in zip(targets, match)]
        return super()._box_losses(boxes, targets, match, num_objects)

    def _of_box_classes(self, target, queries, objects):
        keep = torch.isin(target.labels[objects], self.box_classes.to(target.labels.device))
        return queries[keep], objects[keep]

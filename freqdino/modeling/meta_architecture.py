"""The whole model: images in, losses or results out. Serves Mask2Former and Mask DINO.

Source: MaskFormer (arXiv 2107.06278), section 3. B: batch.
"""
from collections.abc import Mapping, Sequence

import torch
from detectron2.structures import ImageList
from torch import Tensor, nn

from freqdino.frequency.argument_checks import check_choice
from freqdino.modeling.inference import Inference
from freqdino.modeling.post_processing import Geometry, PostProcessing
from freqdino.modeling.prediction import Outputs
from freqdino.modeling.targets import image_name, prepare_targets
from freqdino.ops.modules import DerivedBuffers, parameter_type


class SegmentationHead(nn.Module):
    """Pixel decoder and predictor; keys ``pixel_decoder.*``, ``predictor.*``."""

    def __init__(self, *, pixel_decoder: nn.Module, predictor: nn.Module):
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor

    def forward(self, features: Mapping[str, Tensor], targets=None) -> Outputs:
        """features: name -> (B, C, H, W); targets: the batch's ground truth, for predictors that learn from it."""
        mask_features, _, levels = self.pixel_decoder.forward_features(features)
        return self.predictor(levels, mask_features, targets)


class MaskClassificationModel(DerivedBuffers):
    """Predicts a set of masks, each with a class, and turns it into semantic, instance and panoptic results.

    ``learns_masks`` and ``box_frame`` say what the criterion reads of the ground truth, see `targets.prepare_targets`;
    ``inference`` which pictures run together in evaluation, by default those of one padded size. Raises ValueError for
    an unknown ``box_frame``.
    Keys: ``backbone.*``, ``sem_seg_head.*``, ``criterion.*``; ``pixel_mean``, ``pixel_std`` are not in the state dict.
    """

    def __init__(self, *, backbone: nn.Module, sem_seg_head: SegmentationHead, criterion: nn.Module,
                 post_processing: PostProcessing, size_divisibility: int, pixel_mean: Sequence[float],
                 pixel_std: Sequence[float], learns_masks: bool = True, box_frame: str | None = None,
                 inference: Inference = Inference()):
        super().__init__()
        check_choice(("image", "padded", None), box_frame=box_frame)
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        self.post_processing = post_processing
        self.size_divisibility = size_divisibility
        self.learns_masks = learns_masks
        self.box_frame = box_frame
        self.inference = inference
        self.normalisation = {"pixel_mean": tuple(pixel_mean), "pixel_std": tuple(pixel_std)}
        self.make_buffers()

    def derived_buffers(self) -> dict[str, Tensor]:
        return {name: torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
                for name, values in self.normalisation.items()}

    @property
    def device(self) -> torch.device:
        self.materialise()
        return self.pixel_mean.device

    def forward(self, batched_inputs: Sequence[dict]) -> dict[str, Tensor] | list[dict]:
        """Detectron2's contract. Each input: ``image`` (3, H, W) in 0..255 and, optionally, ``height`` and ``width`` of
        the result; in training ``instances`` with gt_classes and gt_masks as well.

        Training returns name -> weighted loss; evaluation a list of {sem_seg, instances, panoptic_seg}, as asked for.
        """
        self._check_images(batched_inputs)
        if not self.training:
            return self.inference(self._predict, batched_inputs, self.size_divisibility)
        images = self._images(batched_inputs)
        features = self.features(images.tensor)
        targets = prepare_targets(batched_inputs, tuple(images.tensor.shape[-2:]), self.criterion.num_classes,
                                  self.device, with_masks=self.learns_masks, box_frame=self.box_frame)
        return self.criterion(self.sem_seg_head(features, targets), targets)

    def _predict(self, batched_inputs):
        images = self._images(batched_inputs)
        prediction = self.sem_seg_head(self.features(images.tensor)).last
        return [self._result(prediction, index, example, images) for index, example in enumerate(batched_inputs)]

    def features(self, images: Tensor) -> Mapping[str, Tensor]:
        """Normalised and padded images (B, 3, H, W) -> the maps that the head reads, by name."""
        return self.backbone(images)

    def _check_images(self, batched_inputs):
        if not batched_inputs:
            raise ValueError("a batch needs at least one image")
        for index, example in enumerate(batched_inputs):
            shape = tuple(example["image"].shape)
            if len(shape) != 3 or shape[0] != len(self.pixel_mean):
                raise ValueError(f"{image_name(example, index)}: an image is ({len(self.pixel_mean)}, H, W), got "
                                 f"{shape}")

    def _images(self, batched_inputs):
        """Normalised, then padded with zeros at the right and the bottom to one size that the divisibility allows."""
        images = [(example["image"].to(self.device) - self.pixel_mean) / self.pixel_std for example in batched_inputs]
        images = ImageList.from_tensors(images, self.size_divisibility)
        images.tensor = images.tensor.to(parameter_type(self) or images.tensor.dtype)
        return images

    def _result(self, prediction, index, example, images):
        image_size = tuple(images.image_sizes[index])
        geometry = Geometry(padded=tuple(images.tensor.shape[-2:]), image=image_size,
                            output=(example.get("height", image_size[0]), example.get("width", image_size[1])))
        boxes = None if prediction.boxes is None else prediction.boxes[index]
        return self.post_processing(prediction.logits[index], prediction.masks[index], geometry, boxes)

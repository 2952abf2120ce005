"""What the published code computed, with and without FreqFusion: levels, every prediction, results and losses."""
import math

import pytest
import torch

from helpers.golden import assert_agrees, has_golden, subset
from helpers.golden_models import batch, build_case, losses_by_seed

CASES = ["mask2former_coco_instance", "mask2former_coco_panoptic", "mask2former_ade20k_semantic",
         "freqfusion_mask2former_coco_panoptic", "maskdino_coco_panoptic"]
if has_golden("models/maskdino_coco_instance"):     # large; where FREQDINO_GOLDEN names a folder that has it
    CASES.append("maskdino_coco_instance")
KEYS = ("pred_logits", "pred_masks", "pred_boxes")


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    return build_case(request.param, tmp_path)


def test_levels_and_predictions(case):
    model, tensors, _ = case
    model.eval()
    with torch.no_grad():
        images = model._images(batch(tensors, with_instances=False))
        features = model.backbone(images.tensor)
        mask_features, finest, levels = model.sem_seg_head.pixel_decoder.forward_features(features)
        outputs = model.sem_seg_head.predictor(levels, mask_features)
    stored = subset(tensors, "pixel.")
    assert_agrees(mask_features, stored.pop("mask_features"), "mask features")
    assert len(levels) == len(stored)
    for index, level in enumerate(levels):
        assert_agrees(level, stored[f"level.{index}"], f"level {index}")
    assert finest is max(levels, key=lambda level: level.shape[-1])

    stored = subset(tensors, "head.")
    predictions = {"": outputs}
    predictions |= {f"aux.{index}.": auxiliary for index, auxiliary in enumerate(outputs["aux_outputs"])}
    if "interm_outputs" in outputs:
        predictions["two_stage."] = outputs["interm_outputs"]
    ours = {prefix + key: prediction[key] for prefix, prediction in predictions.items() for key in KEYS
            if prefix + key in stored}
    assert set(ours) == set(stored)
    for name, value in ours.items():
        assert_agrees(value, stored[name], name)


def test_results(case):
    model, tensors, description = case
    model.eval()
    with torch.no_grad():
        results = model(batch(tensors, with_instances=False))
    for index, result in enumerate(results):
        prefix = f"eval.{index}"
        if f"{prefix}.sem_seg" in tensors:
            assert_agrees(result["sem_seg"], tensors[f"{prefix}.sem_seg"].float(), "semantic map", relative=1e-3)
        if f"{prefix}.instances.scores" in tensors:
            ours, order = result["instances"].scores.sort(descending=True)
            theirs, their_order = tensors[f"{prefix}.instances.scores"].sort(descending=True)
            assert_agrees(ours, theirs, "scores")
            assert torch.equal(result["instances"].pred_classes[order],
                               tensors[f"{prefix}.instances.classes"][their_order])
            # A mask's logit may be zero but for rounding, as ties below.
            stored = tensors[f"{prefix}.instances.masks"][their_order] > 0
            assert (result["instances"].pred_masks[order] != stored).float().mean() <= 1e-3
            if model.box_frame is not None:     # Mask2Former was published with boxes of zeros
                assert_agrees(result["instances"].pred_boxes.tensor[order],
                              tensors[f"{prefix}.instances.boxes"][their_order], "boxes")
        if f"{prefix}.panoptic" in tensors:
            segments, info = result["panoptic_seg"]
            # Two queries may tie at a pixel; which of them rounding favours depends on the number of threads.
            assert (segments != tensors[f"{prefix}.panoptic"]).float().mean() <= 1e-3
            assert info == description[f"eval.{index}.segments"]


def test_mean_losses(case):
    model, tensors, description = case
    num_seeds = 6
    ours = losses_by_seed(model, tensors, num_seeds)
    stored = description["losses"]
    assert set(ours) == set(stored)
    for name, values in ours.items():
        values = values.double()
        variance = values.var().item() / num_seeds + stored[name]["std"] ** 2 / description["loss_seeds"]
        difference = abs(values.mean().item() - stored[name]["mean"])
        assert difference <= 4 * math.sqrt(variance) + 1e-3 * abs(stored[name]["mean"]), f"{name}: {difference:.3g}"

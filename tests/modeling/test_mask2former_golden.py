"""Mask2Former computes what the published code computed: levels, every prediction, results and losses."""
import math

import pytest
import torch
from golden_files import assert_agrees
from modeling.golden_models import batch, build_case, losses_by_seed

CASES = ("mask2former_coco_instance", "mask2former_coco_panoptic", "mask2former_ade20k_semantic")


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
    assert finest is levels[-1]
    assert_agrees(mask_features, tensors["pixel.mask_features"], "mask features")
    for index, level in enumerate(levels):
        assert_agrees(level, tensors[f"pixel.level.{index}"], f"level {index}")
    for key in ("pred_logits", "pred_masks"):
        assert_agrees(outputs[key], tensors[f"head.{key}"], key)
    assert f"head.aux.{len(outputs['aux_outputs'])}.pred_logits" not in tensors
    for index, auxiliary in enumerate(outputs["aux_outputs"]):
        for key in ("pred_logits", "pred_masks"):
            assert_agrees(auxiliary[key], tensors[f"head.aux.{index}.{key}"], f"auxiliary {index} {key}")


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
            assert torch.equal(result["instances"].pred_classes[order], tensors[f"{prefix}.instances.classes"][their_order])
            assert torch.equal(result["instances"].pred_masks[order], tensors[f"{prefix}.instances.masks"][their_order] > 0)
        if f"{prefix}.panoptic" in tensors:
            segments, info = result["panoptic_seg"]
            assert torch.equal(segments, tensors[f"{prefix}.panoptic"].int())
            assert info == description[f"eval.{index}.segments"]


def test_mean_losses(case):
    model, tensors, description = case
    num_seeds = 8
    ours = losses_by_seed(model, tensors, num_seeds)
    stored = description["losses"]
    assert set(ours) == set(stored)
    for name, values in ours.items():
        values = values.double()
        variance = values.var().item() / num_seeds + stored[name]["std"] ** 2 / description["loss_seeds"]
        difference = abs(values.mean().item() - stored[name]["mean"])
        assert difference <= 4 * math.sqrt(variance) + 1e-3 * abs(stored[name]["mean"]), f"{name}: {difference:.3g}"

"""Training steps of every family and module on a pretended GPU, in float32 and under CUDA's autocast.

No operator may mix devices, every parameter gets a gradient, float32 computes what the CPU does, and the host waits for
the device no more often than is known.
"""
from functools import lru_cache

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from helpers.pretended_gpu import PretendedGPU
from helpers.small_leaves import small_leaf
from helpers.training_step import scene, without_zeros

# Function -> waits in a step of two images: their copies, the costs to the host and the matches back.
MASKS = {"modeling/meta_architecture.py:_images": 2, "modeling/targets.py:prepare_targets": 6,
         "modeling/matcher.py:to_host": 1, "modeling/matcher.py:match_all": 1}
# Detectron2's copies of images and label maps, and the one look at what the labels are.
LABELS = {"registration/detectron2_models.py:_forward": 4, "modeling/semantic_head.py:_check_labels": 1}
# Constants go to the device once for each size.
ONCE = {"ops/constants.py:_kept", "frequency/fdconv/low_pass.py:row_matrices",
        "frequency/fdconv/low_pass.py:column_matrices", "frequency/fdconv/low_pass.py:masks"}
LEAVES = {
    "coco/panoptic/mask2former_r50.yaml": MASKS,
    "coco/instance/mask2former_r50_freqfusion_fdconv_encfdam.yaml": MASKS,
    "coco/instance/maskdino_r50_12ep_freqfusion_fdconv_encfdam.yaml": MASKS,
    "ade20k/semantic/mask2former_swin_t_fdam.yaml": MASKS,
    "ade20k/semantic/mask2former_deit_s_fdam.yaml": MASKS,
    "ade20k/semantic/mask2former_dinov2_s_fdam.yaml": MASKS,
    "coco/instance/maskdino_dinov3_s_fdam.yaml": MASKS,
    "ade20k/semantic/mask2former_convnext_t_fdconv.yaml": MASKS,
    "ade20k/semantic/segformer_mit_b0_fdam.yaml": LABELS,
    "ade20k/semantic/segnext_mscan_t_freqfusion.yaml": LABELS,
    "ade20k/semantic/upernet_r50_fdconv.yaml": LABELS,
    "coco/instance/mask_rcnn_r50_freqfusion.yaml": None,    # Detectron2's own
}


def step(leaf, device, dtype=None, waits=None):
    """Losses and model after a step from the same seed; ``waits`` forgets what the building took."""
    torch.manual_seed(0)
    model = build_model(small_leaf(leaf, DEVICE=device, OPERATORS="torch")).train()
    without_zeros(model)
    batch = [scene(64, 64, [0, 2]), scene(48, 64, [1])]
    if waits is not None:
        waits.clear()
    with EventStorage(), torch.autocast(device, dtype, enabled=dtype is not None):
        losses = model(batch)
    sum(losses.values()).backward()
    return losses, model


@lru_cache(maxsize=1)
def losses_on_the_cpu(leaf):
    return {name: float(loss) for name, loss in step(leaf, "cpu")[0].items()}


@pytest.mark.parametrize("dtype", [None, torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("leaf", LEAVES)
def test_a_step(leaf, dtype):
    with PretendedGPU() as gpu:
        losses, model = step(leaf, "cuda", dtype, gpu.waits)
        waits = {place: count for place, count in gpu.waits.items() if place not in ONCE}
        losses = {name: float(loss) for name, loss in losses.items()}
        missing = [name for name, parameter in model.named_parameters()
                   if parameter.requires_grad and parameter.grad is None]
    assert missing == []
    tolerance = {"rel": 1e-4} if dtype is None else {"rel": 0.1, "abs": 0.1}
    assert losses == pytest.approx(losses_on_the_cpu(leaf), **tolerance)
    if LEAVES[leaf] is not None:
        assert {place: count for place, count in waits.items() if count > LEAVES[leaf].get(place, 0)} == {}

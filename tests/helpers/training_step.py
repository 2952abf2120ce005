"""One training step of a small model, as a test: every parameter that can be trained gets a gradient and is updated."""
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage

from freqdino.engine.solver import build_optimizer
from freqdino.frequency.rivals.mixtures import KernelMixture
from freqdino.frequency.rivals.temperature import anneal
from helpers.small_models import example

# What may have a gradient of zeros in a model this small, by a part of the parameter's name, and why.
ZERO_IF_SMALL = {
    ".FBM.": "a map of a few pixels has no such frequencies",
    ".reweight.": "all of the few hidden units of the routing may be off",
    ".complex_weights": "the same: the routing is zero then",
    "freqfusions.0.dysampler.offset.weight": "no two pixels of a map of 2 × 2 are 2 apart, as similar ones have to be",
}


def scene(height, width, labels):
    """A random image with everything that any of the models learns from: instances and a semantic map."""
    result = example(height, width, labels)
    masks = BitMasks(result["instances"].gt_masks)
    result["instances"].gt_masks, result["instances"].gt_boxes = masks, masks.get_bounding_boxes()
    result["sem_seg"] = masks.tensor.any(dim=0).long()
    return result


def without_zeros(model):
    """Noise for the parameters that start as zeros: they keep gradients from what stands behind them."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.01)


def under_way(model):
    """Dynamic convolutions after some steps: KernelWarehouse's attention has no part at the start, and a softmax over
    copies of one kernel has no gradient."""
    anneal(model, 0.5)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, KernelMixture):
                module.kernels.mul_(1 + 0.1 * torch.randn_like(module.kernels))


def assert_a_step_reaches_every_parameter(cfg):
    """Finite losses, gradients that are there, finite and, but for `ZERO_IF_SMALL`, not all zero. Returns the model."""
    model = build_model(cfg).train()
    without_zeros(model)
    under_way(model)
    optimizer = build_optimizer(cfg, model)
    with EventStorage():                    # Detectron2's heads want one
        losses = model([scene(64, 64, [0, 2]), scene(48, 64, [1])])
    assert losses and all(loss.isfinite() for loss in losses.values()), losses
    sum(losses.values()).backward()
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in trainable.items() if parameter.grad is None] == []
    assert [name for name, parameter in trainable.items() if not parameter.grad.isfinite().all()] == []
    assert [name for name, parameter in trainable.items() if not parameter.grad.any()
            and not any(part in name for part in ZERO_IF_SMALL)] == []
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(trainable)
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in trainable.values())
    return model

"""Optimiser, gradient clipping and learning-rate schedule from a configuration.

Sources: the settings of the published Mask2Former (arXiv 2112.01527, section 4.1) and Mask DINO (arXiv 2206.02777)
projects: AdamW, a smaller learning rate for the backbone, no weight decay for normalisation and embeddings, the
gradient of the whole model clipped by its norm; for FDAM (arXiv 2507.12006) its recipe: no weight decay for the scales
of branches, a larger learning rate for frequency scaling, a smaller one for each lower block of a ViT. Which parameter
gets what is a list of rules; a model can be given others.
"""
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers.batch_norm import LayerNorm as ChannelLayerNorm
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from detectron2.solver.lr_scheduler import LRMultiplier, WarmupParamScheduler
from detectron2.utils.events import get_event_storage, has_event_storage
from fvcore.common.param_scheduler import StepWithFixedGammaParamScheduler
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from freqdino.engine.progress import METRICS_PERIOD
from freqdino.errors import ConfigError
from freqdino.frequency import FrequencyScale
from freqdino.frequency.fdconv.dynamic_weight import DynamicWeight
from freqdino.modeling.backbones.freezing import FreezableBackbone

NORM_LAYERS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm,
               nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, ChannelLayerNorm)
# Factors of a whole branch by channel: attention inversion's, and LayerScale's by several names.
BRANCH_SCALES = ("lf_gamma", "hf_gamma", "gamma_1", "gamma_2", "gamma")
# Learned tokens beside those of patches, by timm's names; like positions they do not decay (DeiT, arXiv 2012.12877).
EXTRA_TOKENS = ("cls_token", "dist_token", "reg_token")
VIT_BACKBONES = ("build_vit_backbone", "build_fdam_vit_backbone")
LR_SCHEDULERS = ("WarmupPolyLR", "WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")


@dataclass(frozen=True, kw_only=True)
class ParameterRule:
    """What holds for the parameters that ``matches(module_name, parameter_name, module)`` picks.

    ``parameter_name`` is the name inside ``module``. Factors of several matching rules multiply; of their weight decays
    the last one that is not None holds.
    """

    matches: Callable[[str, str, nn.Module], bool]
    lr_factor: float = 1.0
    weight_decay: float | None = None
    decay_factor: float = 1.0


def parameter_rules(cfg: CfgNode, model: nn.Module) -> list[ParameterRule]:
    """The published rules, from the keys of ``cfg.SOLVER``; later rules win. Raises what layer_decay_rules and
    fdconv_rules raise, and ConfigError for a learning rate of frequency scaling in a model without it.
    """
    solver = cfg.SOLVER
    scales = {part for module in model.modules() if isinstance(module, FrequencyScale) for part in module.modules()}
    if solver.FREQ_SCALE_MULTIPLIER != 1 and not scales:
        raise ConfigError(f"SOLVER.FREQ_SCALE_MULTIPLIER is {solver.FREQ_SCALE_MULTIPLIER}, but the model has no "
                          "frequency scaling; set it to 1.0, or switch FDAM on: MODEL.BACKBONE.FDAM.ENABLED, "
                          "MODEL.SEM_SEG_HEAD.FDAM.ENABLED")
    return [
        *layer_decay_rules(cfg, model),
        ParameterRule(matches=lambda module_name, name, module: "backbone" in module_name,
                      lr_factor=solver.BACKBONE_MULTIPLIER),
        ParameterRule(matches=lambda module_name, name, module: name in EXTRA_TOKENS or
                      "relative_position_bias_table" in name or "pos_embed" in name, weight_decay=0.0),
        ParameterRule(matches=lambda module_name, name, module: name in BRANCH_SCALES, weight_decay=0.0),
        ParameterRule(matches=lambda module_name, name, module: module in scales,
                      lr_factor=solver.FREQ_SCALE_MULTIPLIER),
        *fdconv_rules(cfg, model),
        ParameterRule(matches=lambda module_name, name, module: isinstance(module, NORM_LAYERS),
                      weight_decay=solver.WEIGHT_DECAY_NORM),
        ParameterRule(matches=lambda module_name, name, module: isinstance(module, nn.Embedding),
                      weight_decay=solver.WEIGHT_DECAY_EMBED),
        ParameterRule(matches=lambda module_name, name, module: name == "bias",
                      lr_factor=solver.BIAS_LR_FACTOR, weight_decay=solver.WEIGHT_DECAY_BIAS),
    ]


def layer_decay_rules(cfg: CfgNode, model: nn.Module) -> list[ParameterRule]:
    """SOLVER.LAYER_DECAY for a ViT: block i of D learns at decay^(D − i), what precedes the blocks at decay^(D + 1).

    Source: BEiT (arXiv 2106.08254), whose counting FDAM's recipe follows. Raises ConfigError for a decay outside
    (0, 1] and for another backbone.
    """
    decay = cfg.SOLVER.LAYER_DECAY
    if decay == 1:
        return []
    if not 0 < decay < 1:
        raise ConfigError(f"SOLVER.LAYER_DECAY is {decay}; it must be above 0 and at most 1, which switches it off")
    backbone = getattr(model, "backbone", None)
    layers = backbone.layer_parts() if isinstance(backbone, FreezableBackbone) else []
    if not layers:
        raise ConfigError(f"SOLVER.LAYER_DECAY is {decay}, but the backbone {cfg.MODEL.BACKBONE.NAME} has no layers "
                          f"that it is for; set it to 1.0, or MODEL.BACKBONE.NAME to {', '.join(VIT_BACKBONES)}, or to "
                          "build_timm_backbone with a plain vision transformer as MODEL.TIMM.NAME")

    def inside(parts):
        prefixes = tuple(f"backbone.{part}." for part in parts)
        return lambda module_name, name, module: f"{module_name}.{name}.".startswith(prefixes)

    return [ParameterRule(matches=inside(parts), lr_factor=decay ** (len(layers) - index))
            for index, parts in enumerate(layers)]


def fdconv_rules(cfg: CfgNode, model: nn.Module) -> list[ParameterRule]:
    """SOLVER.FDCONV_RATE and SOLVER.FDCONV_MULTIPLIER for the coefficients of FDConv and FDLinear, ``dft_weight``.

    ``equal`` divides a layer's rate by `DynamicWeight.relative_step`, so that the spatial weight moves as far as a
    plain layer's. It multiplies the layer's weight decay by the same: the decay of a step, of rate times weight decay,
    acts on coefficients as on the weight, which they are proportional to, so the spatial weight decays as a plain one
    with either rate. The multiplier takes the decay of a step along, as all factors of a rate do. Clipping reads the
    gradient of the coefficients: its norm is that of the spatial weight's times √2·s/√(RK), whatever the rate.

    FDAM's frequency scaling has no divisor to make up for: steps of r on its filters move the response of a group to
    each frequency by up to r·Σ_f |tanh(routing of filter f)|, which follows from the images, not from the layer's
    shape. Its factor is SOLVER.FREQ_SCALE_MULTIPLIER.

    Raises ConfigError for either key in a model without these layers.
    """
    solver = cfg.SOLVER
    layers = [module for module in model.modules() if isinstance(module, DynamicWeight) and module.has_coefficients()]
    for key, plain in (("FDCONV_RATE", "published"), ("FDCONV_MULTIPLIER", 1)):
        if solver[key] != plain and not layers:
            raise ConfigError(f"SOLVER.{key} is {solver[key]}, but the model has neither FDConv nor FDLinear; set it "
                              f"to {plain}, or switch FDConv on: MODEL.BACKBONE.FDCONV.ENABLED")
    equal, by_sign = solver.FDCONV_RATE == "equal", solver.OPTIMIZER == "ADAMW"
    by_step: defaultdict[float, set[nn.Module]] = defaultdict(set)
    for layer in layers:
        by_step[layer.relative_step(by_sign=by_sign) if equal else 1.0].add(layer)

    def coefficients(of):
        return lambda module_name, name, module: name == "dft_weight" and module in of

    return [ParameterRule(matches=coefficients(some), lr_factor=solver.FDCONV_MULTIPLIER / step, decay_factor=step)
            for step, some in by_step.items()]


def parameter_groups(model: nn.Module, *, lr: float, weight_decay: float, rules: Sequence[ParameterRule]
                     ) -> list[dict[str, Any]]:
    """Optimiser groups {params, lr, weight_decay}: one for each distinct (lr, weight decay), in the order of first use.

    Frozen parameters are left out; a parameter that several modules share counts once, under its first name. Few groups
    let the optimiser update many tensors in one call. Raises ValueError if nothing is trainable.
    """
    groups: dict[tuple, dict[str, Any]] = {}
    seen = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            settings = {"lr": lr, "weight_decay": weight_decay}
            matching = [rule for rule in rules if rule.matches(module_name, name, module)]
            for rule in matching:
                settings["lr"] *= rule.lr_factor
                if rule.weight_decay is not None:
                    settings["weight_decay"] = rule.weight_decay
            settings["weight_decay"] *= math.prod(rule.decay_factor for rule in matching)
            groups.setdefault(tuple(settings.values()), {"params": [], **settings})["params"].append(parameter)
    if not groups:
        raise ValueError(f"{type(model).__name__} has no parameter that requires a gradient: nothing to optimise")
    return list(groups.values())


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """AdamW or SGD, as SOLVER.OPTIMIZER says, that clips gradients before each step if SOLVER.CLIP_GRADIENTS.ENABLED.

    Raises ConfigError for an unknown optimiser or way of clipping and what parameter_rules raises, ValueError if no
    parameter is trainable.
    """
    solver = cfg.SOLVER
    groups = parameter_groups(model, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY,
                              rules=parameter_rules(cfg, model))
    # On CUDA torch's default updates many tensors a call; the fused step would see the gradients of float16 training
    # before their scale is divided out, and clipping with it. On the CPU fused is almost three times faster (R50).
    on_cpu = all(parameter.device.type == "cpu" for group in groups for parameter in group["params"])
    fused = True if on_cpu else None
    optimizer: Optimizer
    if solver.OPTIMIZER == "ADAMW":
        optimizer = torch.optim.AdamW(groups, lr=solver.BASE_LR, fused=fused)
    elif solver.OPTIMIZER == "SGD":
        optimizer = torch.optim.SGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV,
                                    fused=fused)
    else:
        raise ConfigError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; ADAMW or SGD are possible")
    optimizer.register_step_pre_hook(_note_gradient_norm)       # before the gradients are clipped
    if solver.CLIP_GRADIENTS.ENABLED:
        optimizer.register_step_pre_hook(_clip_hook(solver.CLIP_GRADIENTS))
    return optimizer


def _note_gradient_norm(optimizer, args, kwargs):
    """The norm of the whole model's gradient among the metrics, as grad_norm, where a row of them is to be written.

    Not more often: the host would wait for the device in each step.
    """
    if has_event_storage() and (get_event_storage().iter + 1) % METRICS_PERIOD == 0:
        norms = [parameter.grad.norm() for group in optimizer.param_groups for parameter in group["params"]
                 if parameter.grad is not None]
        get_event_storage().put_scalar("grad_norm", torch.stack(norms).norm(), smoothing_hint=False)


def _clip_hook(clip):
    """A hook that runs before ``optimizer.step`` (under mixed precision: after the loss scale has been divided out).

    full_model: one norm over all gradients; norm: the norm of each parameter's gradient; value: each element.
    """
    if clip.CLIP_TYPE not in ("full_model", "norm", "value"):
        raise ConfigError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}; full_model, norm or value "
                          "are possible")
    if clip.CLIP_VALUE <= 0:
        raise ConfigError(f"SOLVER.CLIP_GRADIENTS.CLIP_VALUE is {clip.CLIP_VALUE}; it must be positive "
                          "(SOLVER.CLIP_GRADIENTS.ENABLED False switches clipping off)")
    limit, norm_type = clip.CLIP_VALUE, clip.NORM_TYPE

    def hook(optimizer, args, kwargs):
        parameters = list(itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups))
        if clip.CLIP_TYPE == "value":
            clip_grad_value_(parameters, limit)
        elif clip.CLIP_TYPE == "full_model":
            clip_grad_norm_(parameters, limit, norm_type)
        else:
            for parameter in parameters:
                clip_grad_norm_(parameter, limit, norm_type)

    return hook


class ResumablePolyLR(WarmupPolyLR):
    """DeepLab's polynomial schedule that saves its place and not its length: a resumed run may be longer."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({key: state_dict[key] for key in ("base_lrs", "last_epoch")})


class StepsToTheEnd(StepWithFixedGammaParamScheduler):
    """fvcore's, which has no value at 1, the end; the rate after the last step is asked for, too."""

    def __call__(self, where: float) -> float:
        return super().__call__(min(where, 1 - 2 * self.WHERE_EPSILON))


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
    """DeepLab's polynomial schedule or one of Detectron2's, by SOLVER.LR_SCHEDULER_NAME; else raises ConfigError."""
    if cfg.SOLVER.LR_SCHEDULER_NAME not in LR_SCHEDULERS:
        raise ConfigError(f"SOLVER.LR_SCHEDULER_NAME is {cfg.SOLVER.LR_SCHEDULER_NAME!r}; possible: "
                          f"{', '.join(LR_SCHEDULERS)}")
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupStepWithFixedGammaLR":
        steps = StepsToTheEnd(base_value=1.0, gamma=solver.GAMMA, num_decays=solver.NUM_DECAYS,
                              num_updates=solver.MAX_ITER)
        warmup = min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0)
        multiplier = WarmupParamScheduler(steps, solver.WARMUP_FACTOR, warmup, solver.WARMUP_METHOD,
                                          solver.RESCALE_INTERVAL)
        return LRMultiplier(optimizer, multiplier=multiplier, max_iter=solver.MAX_ITER)
    if solver.LR_SCHEDULER_NAME != "WarmupPolyLR":
        return build_detectron2_lr_scheduler(cfg, optimizer)
    return ResumablePolyLR(optimizer, solver.MAX_ITER, warmup_factor=solver.WARMUP_FACTOR,
                           warmup_iters=solver.WARMUP_ITERS, warmup_method=solver.WARMUP_METHOD,
                           power=solver.POLY_LR_POWER, constant_ending=solver.POLY_LR_CONSTANT_ENDING)

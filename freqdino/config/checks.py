"""What is held against a whole configuration once it is merged: settings that nobody would read, names that are none.

Each check raises ConfigError, with the key, for what cannot be meant.
"""
import difflib

from detectron2.config import CfgNode
from detectron2.layers import get_norm
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, ROI_HEADS_REGISTRY, SEM_SEG_HEADS_REGISTRY

from freqdino.config.bounds import check_bounds
from freqdino.config.effects import FDCONV, HEADS_WITH_FREQFUSION, dynamic_conv, keys_without_effect
from freqdino.config.keys import lookup
from freqdino.errors import ConfigError

# Names of the builders that read MODEL.BACKBONE.FDCONV and MODEL.BACKBONE.FDAM.
FREQUENCY_BACKBONES = (
    "build_resnet_backbone", "build_fdconv_resnet_backbone", "build_fdam_resnet_backbone",
    "build_resnet_freqfusion_fpn_backbone", "D2SwinTransformer", "build_vit_backbone", "build_fdam_vit_backbone",
    "build_mit_backbone", "build_mscan_backbone", "build_timm_backbone",
)
# Of these Detectron2's own: it reads them where our models build it; Detectron2's models call Detectron2's function.
FREQUENCY_IN_OUR_MODELS = ("build_resnet_backbone",)
RIVAL_BACKBONES = ("build_resnet_backbone", "build_fdam_resnet_backbone", "build_resnet_freqfusion_fpn_backbone")
# Values of MODEL.BACKBONE.DYNAMIC_CONV.NAME; all but the first have a place in ResNets alone.
DYNAMIC_CONVOLUTIONS = (FDCONV, "condconv", "dyconv", "odconv", "kernel_warehouse")
# Switch of our models' pixel decoder -> what Detectron2's models have in its place.
HEAD_SWITCHES = {
    "FREQFUSION": "MODEL.BACKBONE.NAME build_resnet_freqfusion_fpn_backbone has FreqFusion in a feature pyramid, "
                  f"MODEL.SEM_SEG_HEAD.NAME {', '.join(HEADS_WITH_FREQFUSION)} in a head",
    "FDAM": "MODEL.BACKBONE.NAME build_fdam_resnet_backbone has FDAM in the backbone",
}
NORMALISATIONS = ("MODEL.SEM_SEG_HEAD.NORM", "MODEL.RESNETS.NORM", "MODEL.FPN.NORM", "MODEL.MSCAN.NORM",
                  "MODEL.ROI_BOX_HEAD.NORM", "MODEL.ROI_MASK_HEAD.NORM")
TRIAL_CHANNELS = 32                         # group normalisation has 32 groups


def check_switches(cfg: CfgNode, *, in_our_models: bool = True) -> None:
    """Raise ConfigError for a switch that is on and that the backbone does not read."""
    name, dynamic = cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.DYNAMIC_CONV.NAME
    readers = [builder for builder in FREQUENCY_BACKBONES if in_our_models or builder not in FREQUENCY_IN_OUR_MODELS]
    where = "" if in_our_models else f" in the meta-architecture {cfg.MODEL.META_ARCHITECTURE}"
    for switch in ("FDCONV", "FDAM"):
        if cfg.MODEL.BACKBONE[switch].ENABLED and name not in readers:
            raise ConfigError(f"MODEL.BACKBONE.{switch}.ENABLED is True, but the backbone {name} does not read it"
                              f"{where}; set it to False, or MODEL.BACKBONE.NAME to one of {', '.join(readers)}")
    if dynamic not in ("", FDCONV):
        readers = [builder for builder in readers if builder in RIVAL_BACKBONES]
    if dynamic and name not in readers:
        raise ConfigError(f"MODEL.BACKBONE.DYNAMIC_CONV.NAME is {dynamic}, but the backbone {name} has no place for it"
                          f"{where}; set it to \"\", or MODEL.BACKBONE.NAME to one of {', '.join(readers)}")


def check_dynamic_conv(cfg: CfgNode) -> None:
    """Raise ConfigError for an unknown dynamic convolution, for two of them, and for a number that is another key's."""
    options = cfg.MODEL.BACKBONE.DYNAMIC_CONV
    if options.NAME not in ("", *DYNAMIC_CONVOLUTIONS):
        raise ConfigError(f"MODEL.BACKBONE.DYNAMIC_CONV.NAME is {options.NAME!r}; known are "
                          f"{', '.join(DYNAMIC_CONVOLUTIONS)} and \"\", none")
    if cfg.MODEL.BACKBONE.FDCONV.ENABLED and options.NAME not in ("", FDCONV):
        raise ConfigError(f"MODEL.BACKBONE.DYNAMIC_CONV.NAME is {options.NAME}, but MODEL.BACKBONE.FDCONV.ENABLED, or "
                          "the name of the backbone, means fdconv; set one of the two")
    if dynamic_conv(cfg) == FDCONV and options.NUM:
        raise ConfigError(f"MODEL.BACKBONE.DYNAMIC_CONV.NUM is {options.NUM}; fdconv does not take it, its number of "
                          "groups is MODEL.BACKBONE.FDCONV.KERNEL_NUM: set NUM to 0")
    if dynamic_conv(cfg) and any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE) and "resnet" in cfg.MODEL.BACKBONE.NAME:
        key = "FDCONV.ENABLED" if cfg.MODEL.BACKBONE.FDCONV.ENABLED else "DYNAMIC_CONV.NAME"
        raise ConfigError(f"{dynamic_conv(cfg)} (MODEL.BACKBONE.{key}) cannot replace deformable convolutions; set "
                          "MODEL.RESNETS.DEFORM_ON_PER_STAGE to [False, False, False, False]")


def check_detectron2_model(cfg: CfgNode) -> None:
    """Raise ConfigError for a frequency switch that is on in a model of Detectron2's that does not read it.

    Other projects' models may build our heads and backbones: what they read is not known here.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in META_ARCH_REGISTRY or not META_ARCH_REGISTRY.get(name).__module__.startswith("detectron2."):
        return
    for switch, instead in HEAD_SWITCHES.items():
        read = switch == "FREQFUSION" and cfg.MODEL.SEM_SEG_HEAD.NAME in HEADS_WITH_FREQFUSION
        if cfg.MODEL.SEM_SEG_HEAD[switch].ENABLED and not read:
            raise ConfigError(f"MODEL.SEM_SEG_HEAD.{switch}.ENABLED is True, but the meta-architecture {name} does not "
                              "read it; set it to False, or MODEL.META_ARCHITECTURE to MaskFormer or MaskDINO; "
                              f"{instead}")
    check_switches(cfg, in_our_models=False)


def check_upsampler(cfg: CfgNode) -> None:
    """Raise ConfigError for an upsampler that the backbone or the semantic head does not read.

    The defaults are let through, and what Detectron2's backbones do anyway.
    """
    head, of_head = cfg.MODEL.SEM_SEG_HEAD.NAME, cfg.MODEL.SEM_SEG_HEAD.UPSAMPLER
    if head != "SegFormerHead" and of_head != "bilinear":
        raise ConfigError(f"MODEL.SEM_SEG_HEAD.UPSAMPLER is {of_head}, but the head {head} does not read it; set it to "
                          "bilinear, or MODEL.SEM_SEG_HEAD.NAME to SegFormerHead")
    name, upsampler = cfg.MODEL.BACKBONE.NAME, cfg.MODEL.FPN.UPSAMPLER
    if name != "build_resnet_freqfusion_fpn_backbone" and upsampler not in ("freqfusion", "nearest"):
        raise ConfigError(f"MODEL.FPN.UPSAMPLER is {upsampler}, but the backbone {name} does not read it; set "
                          "MODEL.BACKBONE.NAME to build_resnet_freqfusion_fpn_backbone")


def check_normalisations(cfg: CfgNode) -> None:
    """Raise ConfigError for a name that Detectron2 does not know."""
    for key in NORMALISATIONS:
        name = lookup(cfg, key)
        try:
            get_norm(name, TRIAL_CHANNELS)
        except KeyError as error:
            raise ConfigError(f"{key} is {name!r}; Detectron2 knows BN, SyncBN, FrozenBN, GN, LN and \"\", "
                              "none") from error


# Key -> the registry that its name must be in.
REGISTRIES = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.SEM_SEG_HEAD.NAME": SEM_SEG_HEADS_REGISTRY,
    "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
}


def check_names(cfg: CfgNode) -> None:
    """Raise ConfigError, with the nearest names, for a part of the model that nobody has registered.

    Asked before a run and not by `load_config`: another project may register its parts in between.
    """
    for key, registry in REGISTRIES.items():
        name, names = lookup(cfg, key), sorted(name for name, _ in registry)
        if name in registry or keys_without_effect(cfg, [key]):
            continue
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names
        raise ConfigError(f"{key} is {name!r}, which is not registered; the nearest are {', '.join(near)}")


# What `load_config` asks, in this order.
CHECKS = (check_bounds, check_upsampler, check_dynamic_conv, check_detectron2_model, check_normalisations)

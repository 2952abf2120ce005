"""Detectron2's own models under their registry names, made to read TEST.GROUP_BY_SIZE and TEST.SLIDING_WINDOW.

So UPerNet, SegFormer and the detectors too give a picture the result that it has alone. The models are of Detectron2's
classes; those that are built come with a forward of their own. A configuration without our keys changes nothing.
"""
import functools
from collections.abc import Sequence

from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from freqdino.modeling.inference import Inference
from freqdino.registration.binding import on_its_device
from freqdino.registration.inference import inference_of

MODELS = ("GeneralizedRCNN", "PanopticFPN", "ProposalNetwork", "RetinaNet", "SemanticSegmentor")


def _forward(model: nn.Module, inference: Inference, size_divisibility: int, batched_inputs: Sequence[dict]
             ) -> list[dict]:
    """Detectron2's; in evaluation called as ``inference`` says."""
    forward = functools.partial(type(model).forward, model)
    return forward(batched_inputs) if model.training else inference(forward, batched_inputs, size_divisibility)


def _replace(published: type) -> None:
    @functools.wraps(published, updated=())     # who asks the registry finds Detectron2's name and module
    def build(cfg):
        model = published(cfg)
        if "GROUP_BY_SIZE" in cfg.TEST:
            backbone = model.backbone
            divisibility = backbone.padding_constraints.get("size_divisibility", backbone.size_divisibility)
            model.forward = functools.partial(_forward, model, inference_of(cfg, divisibility), divisibility)
            on_its_device(cfg, model)
        return model

    META_ARCH_REGISTRY._obj_map[published.__name__] = build


for _name in MODELS:
    _replace(META_ARCH_REGISTRY.get(_name))

"""The small published models of the golden files: built from the resolved configurations, with weights and images."""
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from detectron2.structures import Boxes, Instances
from torch import nn

import freqdino.data
import freqdino.registration  # noqa: F401  fills the registries
from freqdino.config import load_config
from helpers.golden import load_golden, subset

STAGES = {"res2": (8, 4), "res3": (12, 8), "res4": (16, 16), "res5": (16, 32)}


class PatchBackbone(Backbone):
    """One strided convolution a map, as the golden files' README defines it."""

    def __init__(self, cfg, input_shape):
        super().__init__()
        for name, (channels, stride) in STAGES.items():
            self.add_module(name, nn.Conv2d(3, channels, stride, stride))

    def forward(self, x):
        return {name: self.get_submodule(name)(x) for name in STAGES}

    def output_shape(self):
        return {name: ShapeSpec(channels=channels, stride=stride) for name, (channels, stride) in STAGES.items()}


if "PatchBackbone" not in BACKBONE_REGISTRY:
    BACKBONE_REGISTRY.register(PatchBackbone)


def load_case(name, tmp_path):
    """(tensors, case, configuration) of models/<name>."""
    tensors, case = load_golden(f"models/{name}")
    path = tmp_path / "resolved.yaml"
    path.write_text(case["cfg"])
    # The published models see the padding of what shares their batch, and so do the stored numbers.
    return tensors, case, load_config(str(path), ["TEST.GROUP_BY_SIZE", "False"])


def build_case(name, tmp_path, *options):
    """(model with the stored weights, tensors, case)."""
    tensors, case, cfg = load_case(name, tmp_path)
    cfg.merge_from_list(list(options))
    model = build_model(cfg)
    model.load_state_dict({key: value.float() for key, value in subset(tensors, "param.").items()}, strict=True)
    return model, tensors, case


def batch(tensors, with_instances):
    """The stored images as Detectron2's inputs."""
    inputs = []
    for index in range(sum(key.startswith("image.") for key in tensors)):
        image = tensors[f"image.{index}"]
        example = {"image": image, "height": image.shape[1], "width": image.shape[2]}
        if with_instances:
            instances = Instances(tuple(image.shape[1:]))
            instances.gt_classes = tensors[f"gt.{index}.classes"].long()
            instances.gt_masks = tensors[f"gt.{index}.masks"].bool()
            instances.gt_boxes = Boxes(tensors[f"gt.{index}.boxes"].float())
            example["instances"] = instances
        inputs.append(example)
    return inputs


def losses_by_seed(model, tensors, num_seeds):
    """name -> tensor of one value a seed, in training mode; the stored means are over seeds 100, 101, ..."""
    model.train()
    runs = []
    for seed in range(100, 100 + num_seeds):
        torch.manual_seed(seed)
        with torch.no_grad():
            runs.append(model(batch(tensors, with_instances=True)))
    return {name: torch.stack([run[name] for run in runs]) for name in runs[0]}

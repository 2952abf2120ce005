"""Training of a fixed batch by one process or by two, for tests; a module, since processes import it by name.

A batch has two images with one object each, as often as SOLVER.ACCUMULATE has parts. Random points are the same for
every image and in every process.
"""
from unittest.mock import patch

import torch
from detectron2.engine import launch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, Backbone
from detectron2.structures import Instances
from detectron2.utils import comm
from torch import nn

from freqdino.config import load_config
from freqdino.engine.trainer import Trainer

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


@BACKBONE_REGISTRY.register()
class PatchesBackbone(Backbone):
    """Four maps, each one strided convolution."""

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.stages = nn.ModuleDict({name: nn.Conv2d(3, 8, stride, stride) for name, stride in STRIDES.items()})

    def forward(self, x):
        return {name: stage(x) for name, stage in self.stages.items()}

    def output_shape(self):
        return {name: ShapeSpec(channels=8, stride=stride) for name, stride in STRIDES.items()}


@META_ARCH_REGISTRY.register()
class MeanColour(nn.Module):
    """Regresses each image's number of objects from its mean colour: a loss that is a mean over images."""

    def __init__(self, cfg):
        super().__init__()
        self.backbone = nn.Linear(3, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, batched_inputs):
        colours = torch.stack([example["image"].mean(dim=(1, 2)) for example in batched_inputs]) / 255
        counts = torch.tensor([[float(len(example["instances"]))] for example in batched_inputs])
        return {"loss_count": nn.functional.mse_loss(self.head(self.backbone(colours).tanh()), counts)}


def fixed_rand(*size, device=None):
    """Uniform numbers that depend on the last two dimensions alone."""
    values = torch.empty(size[-2:], device=device).uniform_(generator=torch.Generator().manual_seed(0))
    return values.expand(size)


def example(index):
    generator = torch.Generator().manual_seed(index)
    instances = Instances((64, 64))
    instances.gt_classes = torch.tensor([index])
    instances.gt_masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    instances.gt_masks[0, 8:40, 16 * index:48] = True
    return {"image": torch.randint(0, 256, (3, 64, 64), generator=generator).float(), "instances": instances}


class FixedBatchTrainer(Trainer):
    """Each process gets its share of the images, again and again."""

    @staticmethod
    def build_train_loader(cfg):
        share = 2 * cfg.SOLVER.ACCUMULATE // comm.get_world_size()
        first = share * comm.get_rank()
        return [[example(index % 2) for index in range(first, first + share)]] * cfg.SOLVER.MAX_ITER


def train(models, folder):
    """Train each of ``models`` (name -> options) on this process's share of the batch.

    name -> parameters before and after go to <folder>/<number of processes>_<rank>.pth.
    """
    torch.set_num_threads(1)
    before, after = {}, {}
    for name, options in models.items():
        torch.manual_seed(comm.get_rank())  # different weights, until the processes take over the first one's
        with patch("torch.rand", fixed_rand):
            trainer = FixedBatchTrainer(load_config(opts=options))
            before[name] = {key: tensor.clone() for key, tensor in trainer.checkpointer.model.state_dict().items()}
            trainer.train()
        after[name] = trainer.checkpointer.model.state_dict()
    torch.save((before, after), f"{folder}/{comm.get_world_size()}_{comm.get_rank()}.pth")


def train_by_one_and_by_two(models, folder):
    """Parameters (before, after training by one process, on the first of two, on the second), by name of the model."""
    train(models, folder)
    launch(train, 2, dist_url="auto", args=(models, folder))
    (before, one), (_, first), (_, second) = (torch.load(folder / name, weights_only=True)
                                              for name in ("1_0.pth", "2_0.pth", "2_1.pth"))
    return before, one, first, second

"""The losses of training on a test set's pictures: where they rise while those of training fall, it learns by heart."""
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.config import CfgNode
from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from freqdino.data import dataset_records
from freqdino.data.augmentation import inference_recipe
from freqdino.data.catalog import id_of, left_out
from freqdino.data.checks.before_training import check_kind
from freqdino.data.mapper import SegmentationMapper, build_reader, chosen_mapper
from freqdino.data.random_state import random_state_kept, seed_generators
from freqdino.errors import ConfigError

NAME, TOTAL = "validation", "total_loss"    # in metrics.json validation/total_loss


class ValidationLoss:
    """The mean losses of a model over the first of DATASETS.TEST, its pictures as in the evaluation, one at a time.

    Nothing is dropped, no statistics are changed, and what the losses draw, points and noise, is the same each time. To
    be built and called in every process; pictures without an object are left out.

    Raises DataError: the mapper of training does not read what the set has; ConfigError: no picture is left.
    """

    def __init__(self, cfg: CfgNode):
        name, (reader_class, _) = cfg.DATASETS.TEST[0], chosen_mapper(cfg)
        without = left_out(name)
        records = [record for record in dataset_records(name) if id_of(record) not in without]
        if records:
            check_kind(name, records[0], cfg, reader_class)
        if records and "annotations" in records[0]:
            records = filter_images_with_only_crowd_annotations(records)
        if not records:
            raise ConfigError(f"TEST.VALIDATION_LOSS is True, but the data set {name} has no picture with an object; "
                              "set it to False")
        self._records = records
        self._mapper = SegmentationMapper(augmentations=inference_recipe(cfg), image_format=cfg.INPUT.FORMAT,
                                          reader=build_reader(reader_class, cfg.DATASETS.TRAIN[0]))

    def __call__(self, model: nn.Module) -> dict[str, dict[str, float]]:
        """{"validation": mean of each loss of the last layer, and of the sum of all as ``total_loss``}.

        As other results empty in all processes but the first.
        """
        rank, processes = comm.get_rank(), comm.get_world_size()
        sums: dict[str, float] = {}
        # As many in each process, since losses count objects over all: the first ones come again at the end.
        each = -(-len(self._records) // processes)
        numbers = [number % len(self._records) for number in range(rank, each * processes, processes)]
        with random_state_kept(), _as_in_training(model), torch.no_grad(), EventStorage():
            for number in numbers:
                seed_generators(number)
                losses = {key: float(loss) for key, loss in model([self._mapper(self._records[number])]).items()}
                losses[TOTAL] = sum(losses.values())
                for key, loss in losses.items():
                    sums[key] = sums.get(key, 0.0) + loss / len(numbers)
        gathered = comm.all_gather(sums)
        if not comm.is_main_process():
            return {}
        return {NAME: {key: sum(one[key] for one in gathered) / processes for key in sums if not key[-1].isdigit()}}


@contextmanager
def _as_in_training(model: nn.Module) -> Iterator[None]:
    """A model that gives losses, while what drops activations or keeps statistics does as in evaluation."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    part = getattr(model, "backbone", None)
    backbone = {*part.modules()} if isinstance(part, nn.Module) else set()
    for module in before:
        ours = not type(module).__module__.startswith(("torch.", "timm."))
        keeps = hasattr(module, "dropout") or any(True for _ in module.buffers(recurse=False))
        if ours and not keeps and module not in backbone:
            module.training = True
    model.training = True                   # whose buffers are the pictures' mean and deviation
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training

"""Pictures in TensorBoard while a model learns: training samples with their targets, predictions beside the truth."""
import logging

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.evaluation import inference_context
from torch import nn

from freqdino.data import build_mapper, dataset_records
from freqdino.data.catalog import id_of, left_out
from freqdino.data.image_reading import read_image
from freqdino.data.random_state import random_state_kept, seed_generators
from freqdino.engine.progress import PeakMemory, ProgressBar, in_a_terminal
from freqdino.visualization.drawing import Drawing, choose_task, draw_ground_truth, draw_prediction, side_by_side
from freqdino.visualization.training_samples import choose_records, draw_sample

COUNT = 4                                   # pictures of each kind
THRESHOLD = 0.3                             # of the score of what is shown: a model that begins is not sure
logger = logging.getLogger(__name__)


class Pictures(HookBase):
    """Every VIS_PERIOD iterations `COUNT` pictures of DATASETS.TRAIN, annotations on the left and on the right what the
    network sees, and as many of the first of DATASETS.TEST, ground truth on the left and prediction on the right.

    The pictures are the same each time; the training samples are augmented anew. Nothing that training draws is moved.
    To be a hook of the first process, before the writers.

    Args:
        model: the one that is evaluated.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module):
        self._cfg, self._model = cfg, model
        self._training, self._tested = build_mapper(cfg, is_train=True), build_mapper(cfg, is_train=False)
        self._learnt = choose_records(cfg, count=COUNT, seed=0)
        self._metadata, self._shown = None, []
        if cfg.DATASETS.TEST:
            name = cfg.DATASETS.TEST[0]
            without = left_out(name)
            records = [record for record in dataset_records(name) if id_of(record) not in without]
            self._metadata = MetadataCatalog.get(name)
            self._shown = records[::max(1, len(records) // COUNT)][:COUNT]

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._cfg.VIS_PERIOD:
            return
        with random_state_kept():
            for number, record in enumerate(self._learnt):
                seed_generators(done, number)
                self._put(f"training/{number}", lambda record=record: draw_sample(record, self._training, self._cfg,
                                                                                  1.0)[0])
            for number, record in enumerate(self._shown):
                self._put(f"predictions/{number}", lambda record=record: self.prediction(record))

    def prediction(self, record: dict) -> np.ndarray:
        """Ground truth and prediction side by side, RGB uint8 (H, W, 3)."""
        image = read_image(record["file_name"], "RGB")
        with inference_context(self._model), torch.no_grad():
            (output,) = self._model([self._tested(record)])
        task = choose_task(output, None)
        truth, predicted = (Drawing(image, self._metadata) for _ in range(2))
        draw_ground_truth(truth, record, task, self._metadata)
        draw_prediction(predicted, output, task, threshold=THRESHOLD)
        return side_by_side([truth.image, predicted.image])

    def _put(self, name, draw):
        """A picture that cannot be drawn is not worth the training; which one it is, is said each time."""
        try:
            picture = draw()
        except (ValueError, OSError) as error:
            logger.warning("VIS_PERIOD: no picture %s: %s", name, error)
            return
        self.trainer.storage.put_image(name, torch.from_numpy(picture.transpose(2, 0, 1).copy()))


def showing_hooks(cfg: CfgNode, model: nn.Module) -> list[HookBase]:
    """What shows a training's progress, in the first process and before the writers; ``model``: that is evaluated."""
    shown: list[HookBase] = [Pictures(cfg, model)] if cfg.VIS_PERIOD else []
    if cfg.MODEL.DEVICE.startswith("cuda"):
        shown.append(PeakMemory())
    if in_a_terminal():
        shown.append(ProgressBar())
    return shown

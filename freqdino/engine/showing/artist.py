"""A model that draws what it predicts: images one by one, or many shared among processes."""
import functools
import itertools
import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from detectron2.utils.logger import log_first_n, setup_logger
from PIL import Image

from freqdino.data.image_reading import check_image_size, read_image
from freqdino.engine.predictor import Predictor
from freqdino.visualization.drawing import Drawing, choose_task, draw_ground_truth, side_by_side


@dataclass(frozen=True)
class Settings:
    """What every process needs to draw images in the same way; ``source``, ``config_file``, ``options`` and
    ``dataset`` say which model, as `Predictor` is told."""

    source: str | None
    config_file: str | None
    options: tuple
    dataset: str | None
    task: str | None
    threshold: float
    scale: float
    with_ground_truth: bool


def load_predictor(settings: Settings) -> Predictor:
    """Raises ValueError, OSError or KeyError for what cannot be loaded."""
    return Predictor(settings.source, config=settings.config_file, options=settings.options, dataset=settings.dataset)


class Artist:
    """A model that draws what it predicts. Errors as `load_predictor`."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.predictor = load_predictor(settings)

    def draw(self, image: np.ndarray, record: dict | None = None) -> tuple[np.ndarray, str, float]:
        """For an image, RGB: the picture, a count of what is drawn, seconds of the prediction.

        The ground truth of ``record`` stands on the left where it is asked for.
        """
        settings = self.settings
        start = time.perf_counter()
        result = self.predictor(image)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        task = choose_task(result.output, settings.task)
        segments = result.output["panoptic_seg"][1] if task == "panoptic" else []
        if settings.threshold and any("score" not in segment for segment in segments):
            log_first_n(logging.WARNING, "The model gives some segments no score: --confidence-threshold does not "
                        "apply to them.", name="freqdino")
        drawing = Drawing(image, result.metadata, scale=settings.scale)
        count = result.draw_into(drawing, threshold=settings.threshold, task=task)
        pictures = [drawing.image]
        if record is not None and settings.with_ground_truth:
            drawing = Drawing(image, result.metadata, scale=settings.scale)
            draw_ground_truth(drawing, record, task, result.metadata)
            pictures.insert(0, drawing.image)
        return side_by_side(pictures), count, seconds

    def draw_file(self, job: tuple[dict, Path]) -> tuple[bool, str]:
        """Draw a record into a file: whether its image could be read, and a line that says what happened."""
        record, path = job
        try:
            image = read_image(record["file_name"], "RGB")
            check_image_size(record, image.shape[:2])
        except (ValueError, OSError) as error:
            return False, f"skipped {record['file_name']}: {error}"
        picture, count, seconds = self.draw(image, record)
        Image.fromarray(picture).save(path)
        return True, f"{record['file_name']}: {image.shape[1]}x{image.shape[0]}, {count}, {seconds:.2f} s -> {path}"


@functools.lru_cache(maxsize=1)
def artist_of_process(settings: Settings, threads: int) -> Artist:
    torch.set_num_threads(threads)
    setup_logger(name="freqdino")       # on stdout, as in the process that started this one
    return Artist(settings)


def draw_in_process(settings: Settings, threads: int, job: tuple[dict, Path]) -> tuple[bool, str]:
    """`Artist.draw_file` in a worker process, which loads the model at its first job."""
    return artist_of_process(settings, threads).draw_file(job)


def draw_files(settings: Settings, jobs: list[tuple[dict, Path]], processes: int) -> Iterator[tuple[bool, str]]:
    """The answers of `Artist.draw_file`, in the order of the jobs."""
    processes = min(processes, len(jobs))
    if processes <= 1:
        return map(Artist(settings).draw_file, jobs)
    return draw_in_processes(settings, jobs, processes)


def draw_in_processes(settings: Settings, jobs: list[tuple[dict, Path]], processes: int) -> Iterator[tuple[bool, str]]:
    threads = max(1, (os.cpu_count() or 1) // processes)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:   # CUDA does not survive a fork
        try:
            yield from pool.map(draw_in_process, itertools.repeat(settings), itertools.repeat(threads), jobs)
        except BrokenProcessPool as error:
            raise ChildProcessError("one of the processes was ended from outside, as happens for lack of memory; try "
                                    f"fewer than --processes {processes}") from error

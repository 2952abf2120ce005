#!/usr/bin/env python
"""Draw a model's predictions into images, videos or a camera's pictures.

    python tools/demo.py --config-file CONFIG --weights CHECKPOINT --input IMAGE|FOLDER|'GLOB' ... --output DIR|FILE
    python tools/demo.py --config-file CONFIG --weights CHECKPOINT --dataset NAME --with-ground-truth --output DIR
    python tools/demo.py --config-file CONFIG --weights CHECKPOINT --video-input VIDEO --output DIR|FILE
    python tools/demo.py --config-file CONFIG --weights CHECKPOINT --webcam --output FILE      (Ctrl-C ends it)

Class names come from the metadata of --dataset, or of the first known data set of the configuration's DATASETS.TEST and
TRAIN; where none is known, class numbers are drawn. A file that cannot be read is reported and skipped; no input is
overwritten. Exit status: 0 if everything is drawn, 1 if a file was skipped, a video ends before its time or an error
ended the run, 2 for a wrong command line.
"""
import argparse
import functools
import glob
import itertools
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.utils.logger import log_first_n, setup_logger
from PIL import Image
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from drawing import (OUTPUT_KEYS, Drawing, choose_task, draw_ground_truth, draw_prediction,  # noqa: E402  (ROOT first)
                     side_by_side)
from freqdino.config import load_config  # noqa: E402
from freqdino.data import dataset_records, register_custom_datasets  # noqa: E402
from freqdino.data.image_reading import check_image_size, read_image  # noqa: E402
from predictor import USER_ERRORS, Predictor, class_metadata, message_of  # noqa: E402
from videos import VIDEO_CODECS, VideoReader, VideoWriter  # noqa: E402

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
COMPLETE = 0.9      # share of the frames announced with which a video is whole: some files only estimate their number


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="the configuration that the model was trained with")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", help="images, folders, or patterns in quotes")
    source.add_argument("--dataset", help="a registered dataset, or own data as in DATASETS.TEST")
    source.add_argument("--video-input", help="a video file")
    source.add_argument("--webcam", nargs="?", const=0, type=int, metavar="NUMBER", help="a camera (default 0)")
    parser.add_argument("--output", required=True, type=Path,
                        help="folder for the pictures; for a single one or a video also a file "
                             f"({', '.join(sorted(IMAGE_SUFFIXES))}; {', '.join(VIDEO_CODECS)})")
    parser.add_argument("--weights", help="checkpoint; short for the option MODEL.WEIGHTS")
    parser.add_argument("--task", choices=list(OUTPUT_KEYS), help="default: the first of these that the model predicts")
    parser.add_argument("--confidence-threshold", type=float, default=0.5,
                        help="instances and panoptic segments with a lower score are not drawn (default 0.5); a "
                             "semantic map is drawn as it is. Segments below the model's own OBJECT_MASK_THRESHOLD "
                             "under TEST are not even predicted")
    parser.add_argument("--max-images", type=int, help="stop after this number of images or frames")
    parser.add_argument("--processes", type=int, default=1, help="share the images among this number of processes")
    parser.add_argument("--scale", type=float, default=1.0, help="enlarge the pictures, or labels cover small ones")
    parser.add_argument("--with-ground-truth", action="store_true", help="ground truth on the left; needs --dataset")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], dest="named_opts", metavar="KEY VALUE",
                        help="the same as without --opts")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="configuration options: KEY VALUE ...")
    args = parser.parse_args(arguments)
    args.opts += args.named_opts
    if args.input:
        args.input, options = split_options(args.input)
        args.opts = options + args.opts
        if not args.input:
            parser.error("--input names no image")
    if not 0 <= args.confidence_threshold <= 1:
        parser.error(f"--confidence-threshold must be in 0..1, got {args.confidence_threshold}")
    for name, value in (("--max-images", args.max_images), ("--processes", args.processes)):
        if value is not None and value < 1:
            parser.error(f"{name} must be at least 1, got {value}")
    if not args.scale > 0:
        parser.error(f"--scale must be positive, got {args.scale}")
    if args.with_ground_truth and not args.dataset:
        parser.error("--with-ground-truth needs --dataset")
    if args.processes > 1 and not (args.input or args.dataset):
        parser.error("--processes shares images; the frames of a video or camera are drawn one after another")
    return args


def split_options(words: list[str]) -> tuple[list[str], list[str]]:
    """Files and, from the first configuration key that is no file, trailing options: argparse gives --input both."""
    sections = get_cfg()
    for position, word in enumerate(words):
        if word.partition(".")[0] in sections and not Path(word).exists():
            return words[:position], words[position:]
    return words, []


def find_records(args: argparse.Namespace) -> list[dict]:
    """Dataset records to draw; those of files hold ``file_name`` only. ValueError where there is nothing to draw."""
    if args.dataset:
        register_custom_datasets([args.dataset])
        if args.dataset not in DatasetCatalog:
            raise ValueError(f"--dataset {args.dataset} is not registered; registered are "
                             f"{', '.join(sorted(DatasetCatalog))}")
        records = dataset_records(args.dataset)
    else:
        records = [{"file_name": str(path)} for pattern in args.input for path in find_images(pattern)]
    return records[:args.max_images]


def find_images(pattern: str) -> list[Path]:
    """The images of a folder, or the files of a glob pattern, sorted; anything else is taken for one file."""
    if Path(pattern).is_dir():
        found = sorted(path for path in Path(pattern).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise ValueError(f"--input {pattern}: the folder has no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return found
    if glob.has_magic(pattern) and not Path(pattern).exists():
        found = sorted(Path(name) for name in glob.glob(pattern, recursive=True) if Path(name).is_file())
        if not found:
            raise ValueError(f"--input {pattern}: no file matches")
        return found
    return [Path(pattern)]


def output_paths(records: list[dict], output: Path) -> list[Path]:
    """``output`` itself if it is named as an image, which holds one record only.

    Else a PNG in the folder ``output`` for every record, named after its image; images of one name are numbered.
    ValueError for several records and one file, and where a picture would take the place of one of the images.
    """
    if output.suffix.lower() in IMAGE_SUFFIXES and not output.is_dir():
        if len(records) > 1:
            raise ValueError(f"--output {output} is a file, but there are {len(records)} images; name a folder")
        paths = [output] * len(records)
    else:
        seen, names = Counter(), {}     # names: the keys of a dictionary, in their order
        for record in records:
            name = stem = Path(record["file_name"]).stem
            while name in names:        # of an image of the same name, or of one that is called like a numbered one
                seen[stem] += 1
                name = f"{stem}_{seen[stem] + 1}"
            names[name] = None
        paths = [output / f"{name}.png" for name in names]
    refuse_overwriting(paths, [record["file_name"] for record in records])
    return paths


def refuse_overwriting(paths: Iterable[Path], inputs: Iterable[str]) -> None:
    """ValueError if one of ``paths`` is one of the files ``inputs``, under whatever name."""
    read = {os.path.realpath(name) for name in inputs}
    for path in paths:
        if os.path.realpath(path) in read:
            raise ValueError(f"--output would overwrite the input {path}; name another folder or file")


@dataclass(frozen=True)
class Settings:
    """What every process needs to draw images in the same way."""

    config_file: str
    options: tuple
    dataset: str | None
    task: str | None
    threshold: float
    scale: float
    with_ground_truth: bool

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Settings":
        options = (*args.opts, *(("MODEL.WEIGHTS", args.weights) if args.weights else ()))
        return cls(args.config_file, options, args.dataset, args.task, args.confidence_threshold, args.scale,
                   args.with_ground_truth)


class Artist:
    """A model that draws what it predicts. Raises ValueError, OSError or KeyError for what cannot be loaded."""

    def __init__(self, settings: Settings):
        self.settings = settings
        cfg = load_config(settings.config_file, settings.options)
        self.metadata = class_metadata(cfg, settings.dataset)
        self.predictor = Predictor(cfg)

    def draw(self, image: np.ndarray, record: dict | None = None) -> tuple[np.ndarray, str, float]:
        """For an image, RGB: the picture, a count of what is drawn, seconds of the prediction.

        The ground truth of ``record`` stands on the left where it is asked for.
        """
        settings = self.settings
        start = time.perf_counter()
        output = self.predictor(image)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        task = choose_task(output, settings.task)
        segments = output["panoptic_seg"][1] if task == "panoptic" else []
        if settings.threshold and any("score" not in segment for segment in segments):
            log_first_n(logging.WARNING, "The model gives some segments no score: --confidence-threshold does not "
                        "apply to them.", name="freqdino")
        drawing = Drawing(image, self.metadata, scale=settings.scale)
        count = draw_prediction(drawing, output, task, threshold=settings.threshold)
        pictures = [drawing.image]
        if settings.with_ground_truth:
            drawing = Drawing(image, self.metadata, scale=settings.scale)
            draw_ground_truth(drawing, record, task, self.metadata)
            pictures.insert(0, drawing.image)
        return side_by_side(pictures), count, seconds

    def draw_file(self, job: tuple[dict, Path]) -> tuple[bool, str]:
        """Draw a record into a file: whether its image could be read, and a line that says what happened."""
        record, path = job
        try:
            image = read_image(record["file_name"], "RGB")
            check_image_size(record, image)
        except (ValueError, OSError) as error:
            return False, f"skipped {record['file_name']}: {error}"
        picture, count, seconds = self.draw(image, record)
        Image.fromarray(picture).save(path)
        return True, f"{record['file_name']}: {image.shape[1]}x{image.shape[0]}, {count}, {seconds:.2f} s -> {path}"


@functools.lru_cache(maxsize=1)
def artist_of_process(settings: Settings, threads: int) -> Artist:
    torch.set_num_threads(threads)
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


def draw_images(args: argparse.Namespace) -> int:
    """Draw every image; returns the number of files that had to be skipped."""
    records = find_records(args)
    paths = output_paths(records, args.output)
    for folder in {path.parent for path in paths}:
        folder.mkdir(parents=True, exist_ok=True)
    skipped = 0
    answers = draw_files(Settings.of(args), list(zip(records, paths)), args.processes)
    for drawn, line in tqdm(answers, total=len(records), unit="image", disable=len(records) == 1):
        skipped += not drawn
        tqdm.write(line, file=sys.stdout if drawn else sys.stderr)
    print(f"{len(records) - skipped} of {len(records)} images drawn into {args.output}")
    return skipped


def draw_video(args: argparse.Namespace) -> bool:
    """Draw the frames of a video or a camera into a video; returns whether a file gave the frames that it announces."""
    with VideoReader(args.video_input if args.webcam is None else args.webcam) as reader:
        is_folder = args.output.is_dir() or not args.output.suffix
        path = args.output / f"{reader.stem}.mp4" if is_folder else args.output
        refuse_overwriting([path], [args.video_input] if args.video_input else [])
        path.parent.mkdir(parents=True, exist_ok=True)
        artist, times, expected = Artist(Settings.of(args)), [], reader.length(args.max_images)
        with VideoWriter(path, reader.frame_rate) as writer:
            try:
                frames = itertools.islice(reader, args.max_images)
                for frame in tqdm(frames, total=expected, unit="frame"):
                    picture, _, seconds = artist.draw(frame)
                    writer.write(picture)
                    times.append(seconds)
            except KeyboardInterrupt:   # how a camera's recording is ended: what was drawn so far is kept
                expected = None
    if not times:
        raise ValueError(f"{reader.name} gives no frame")
    print(f"{reader.name}: {len(times)} frames, {np.mean(times):.2f} s each -> {path}")
    complete = expected is None or len(times) >= COMPLETE * expected
    if not complete:
        print(f"{reader.name}: only {len(times)} of {expected} frames can be read; the file may be cut off or damaged",
              file=sys.stderr)
    return complete


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    for name in ("freqdino", "detectron2"):
        setup_logger(name=name)
    try:
        if args.input or args.dataset:
            return int(draw_images(args) > 0)
        return int(not draw_video(args))
    except USER_ERRORS as error:
        print(f"demo.py: {message_of(error)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

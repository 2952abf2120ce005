#!/usr/bin/env python
"""Draw a model's predictions into images.

    python tools/demo.py --config-file CONFIG --weights CHECKPOINT --input IMAGE|FOLDER|'GLOB' ... --output DIR
    python tools/demo.py --config-file CONFIG --weights CHECKPOINT --dataset NAME --with-ground-truth --output DIR

Class names come from the metadata of --dataset, or of the configuration's DATASETS.TEST. A file that cannot be read is
reported and skipped. Exit status: 0, 1 if a file was skipped, 2 for an error that ends the run.
"""
import argparse
import glob
import logging
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.logger import log_first_n, setup_logger
from detectron2.utils.visualizer import Visualizer
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from freqdino.checkpoint import load_trained_model  # noqa: E402  (ROOT has to be on the path first)
from freqdino.config import load_config  # noqa: E402
from freqdino.data import build_mapper, register_custom_datasets  # noqa: E402
from freqdino.data.image_reading import read_image, read_label_map  # noqa: E402
from freqdino.evaluation.panoptic_files import read_segment_ids  # noqa: E402

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
OUTPUT_KEYS = {"panoptic": "panoptic_seg", "instance": "instances", "semantic": "sem_seg"}  # the richest first
GROUND_TRUTH_KEYS = {"panoptic": "pan_seg_file_name", "instance": "annotations", "semantic": "sem_seg_file_name"}


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="the configuration that the model was trained with")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", help="images, folders, or patterns in quotes")
    source.add_argument("--dataset", help="a registered dataset, or own data as in DATASETS.TEST")
    parser.add_argument("--output", required=True, type=Path, help="folder for the pictures")
    parser.add_argument("--weights", help="checkpoint; short for the option MODEL.WEIGHTS")
    parser.add_argument("--task", choices=list(OUTPUT_KEYS), help="default: the first of these that the model predicts")
    parser.add_argument("--confidence-threshold", type=float, default=0.5,
                        help="instances and segments with a lower score are not drawn (default 0.5)")
    parser.add_argument("--max-images", type=int, help="stop after this number of images")
    parser.add_argument("--scale", type=float, default=1.0, help="enlarge the pictures, or labels cover small ones")
    parser.add_argument("--with-ground-truth", action="store_true", help="ground truth on the left; needs --dataset")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="configuration options: KEY VALUE ...")
    args = parser.parse_args(arguments)
    if args.input:
        args.input, options = split_options(args.input)
        args.opts = options + args.opts
        if not args.input:
            parser.error("--input names no image")
    if not 0 <= args.confidence_threshold <= 1:
        parser.error(f"--confidence-threshold must be in 0..1, got {args.confidence_threshold}")
    if args.max_images is not None and args.max_images < 1:
        parser.error(f"--max-images must be at least 1, got {args.max_images}")
    if not args.scale > 0:
        parser.error(f"--scale must be positive, got {args.scale}")
    if args.with_ground_truth and not args.dataset:
        parser.error("--with-ground-truth needs --dataset")
    return args


def split_options(words: list[str]) -> tuple[list[str], list[str]]:
    """Files and, from the first configuration key that is no file, trailing options: argparse gives --input both."""
    sections = get_cfg()
    for position, word in enumerate(words):
        if word.partition(".")[0] in sections and not Path(word).exists():
            return words[:position], words[position:]
    return words, []


def setup(args: argparse.Namespace):
    """(model, mapper from a dataset record to the model's input, metadata with the class names)."""
    opts = args.opts + (["MODEL.WEIGHTS", args.weights] if args.weights else [])
    cfg = load_config(args.config_file, opts)
    names = [args.dataset] if args.dataset else [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN][:1]
    if not names:
        raise ValueError(f"{args.config_file}: DATASETS.TEST is empty; the class names come from the dataset it names")
    register_custom_datasets([*names, *cfg.DATASETS.TRAIN])
    cfg.freeze()
    return load_trained_model(cfg), build_mapper(cfg, is_train=False), MetadataCatalog.get(names[0])


def find_records(args: argparse.Namespace) -> list[dict]:
    """Dataset records to draw; those of files hold ``file_name`` only. ValueError where there is nothing to draw."""
    if args.dataset:
        if args.dataset not in DatasetCatalog:
            raise ValueError(f"--dataset {args.dataset} is not registered; registered are "
                             f"{', '.join(sorted(DatasetCatalog))}")
        records = DatasetCatalog.get(args.dataset)
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


def choose_task(output: dict, task: str | None) -> str:
    """``task`` if the model predicts it, the richest that it predicts for None; ValueError otherwise."""
    predicted = [name for name, key in OUTPUT_KEYS.items() if key in output]
    if task is None and predicted:
        return predicted[0]
    if task not in predicted:
        raise ValueError(f"--task {task}: the model predicts {predicted}; its TEST options PANOPTIC_ON, INSTANCE_ON "
                         "and SEMANTIC_ON choose what")
    return task


def draw_panoptic(visualizer: Visualizer, output, threshold: float) -> str:
    ids, segments = output
    if any("score" not in segment for segment in segments) and threshold > 0:
        log_first_n(logging.WARNING, "The model gives its segments no score: --confidence-threshold does not apply to "
                    "them.", name="freqdino")
    shown = [segment for segment in segments if segment.get("score", 1) >= threshold]
    shown_ids = torch.tensor([segment["id"] for segment in shown], dtype=ids.dtype, device=ids.device)
    visualizer.draw_panoptic_seg(torch.where(torch.isin(ids, shown_ids), ids, 0).cpu(), shown)
    return f"{len(shown)} segments"


def draw_instances(visualizer: Visualizer, output, threshold: float) -> str:
    shown = output[output.scores >= threshold].to("cpu")
    visualizer.draw_instance_predictions(shown)
    return f"{len(shown)} instances"


def draw_semantic(visualizer: Visualizer, output, threshold: float) -> str:
    labels = output.argmax(dim=0).cpu()
    visualizer.draw_sem_seg(labels)
    return f"{len(labels.unique())} classes"


DRAW = {"panoptic": draw_panoptic, "instance": draw_instances, "semantic": draw_semantic}


def draw_ground_truth(visualizer: Visualizer, record: dict, task: str):
    """Draw a dataset record's annotations of the task; ValueError if it has none of that kind."""
    truth = record.get(GROUND_TRUTH_KEYS[task])
    if truth is None:
        raise ValueError(f"--with-ground-truth: {record['file_name']} has no {task} ground truth")
    metadata = visualizer.metadata
    if task == "panoptic":
        things = set(metadata.thing_dataset_id_to_contiguous_id.values())
        segments = [{"isthing": segment["category_id"] in things, **segment} for segment in record["segments_info"]]
        visualizer.draw_panoptic_seg(torch.from_numpy(read_segment_ids(truth)), segments)
    elif task == "instance":
        if all("segmentation" in annotation for annotation in truth):
            shapes = {"masks": [annotation["segmentation"] for annotation in truth]}
        else:
            shapes = {"boxes": np.array([BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
                                         for annotation in truth])}
        visualizer.overlay_instances(**shapes,
                                     labels=[metadata.thing_classes[annotation["category_id"]] for annotation in truth])
    else:
        visualizer.draw_sem_seg(read_label_map(truth))


def draw(record: dict, output: dict, task: str, metadata, args: argparse.Namespace) -> tuple[np.ndarray, str]:
    """The picture, RGB, ground truth to its left if asked for, and a count of what is drawn."""
    image = read_image(record["file_name"], "RGB")
    np.random.seed(0)  # the visualizer draws its colours from numpy's generator; this way a run can be repeated
    visualizer = Visualizer(image, metadata, args.scale)
    count = DRAW[task](visualizer, output[OUTPUT_KEYS[task]], args.confidence_threshold)
    pictures = [visualizer.output.get_image()]
    if args.with_ground_truth:
        visualizer = Visualizer(image, metadata, args.scale)
        draw_ground_truth(visualizer, record, task)
        pictures.insert(0, visualizer.output.get_image())
    return np.concatenate(pictures, axis=1), count


def output_paths(records: list[dict], folder: Path) -> list[Path]:
    """A PNG for every record, named after its image; images of one name from several folders are numbered."""
    seen, paths = Counter(), []
    for record in records:
        stem = Path(record["file_name"]).stem
        seen[stem] += 1
        paths.append(folder / (f"{stem}.png" if seen[stem] == 1 else f"{stem}_{seen[stem]}.png"))
    return paths


def run(args: argparse.Namespace) -> int:
    """Draw everything; returns the number of files that had to be skipped."""
    model, mapper, metadata = setup(args)
    records = find_records(args)
    args.output.mkdir(parents=True, exist_ok=True)
    skipped, task = 0, args.task
    for record, path in zip(records, output_paths(records, args.output)):
        try:
            sample = mapper(record)
        except (ValueError, OSError) as error:
            print(f"skipped {record['file_name']}: {error}", file=sys.stderr)
            skipped += 1
            continue
        start = time.perf_counter()
        with torch.no_grad():
            output, = model([sample])
        seconds = time.perf_counter() - start
        task = choose_task(output, task)
        picture, count = draw(record, output, task, metadata, args)
        Image.fromarray(picture).save(path)
        size = f"{sample['width']}x{sample['height']}"
        print(f"{record['file_name']}: {size}, {count}, {seconds:.2f} s -> {path}", flush=True)
    print(f"{len(records) - skipped} of {len(records)} images drawn into {args.output}")
    return skipped


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    for name in ("freqdino", "detectron2"):
        setup_logger(name=name)
    try:
        return int(run(args) > 0)
    except (ValueError, OSError) as error:
        print(f"demo.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

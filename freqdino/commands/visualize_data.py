#!/usr/bin/env python
"""Draw what a configuration trains on: annotations on the left, on the right what the mapper feeds the model.

    python tools/visualize_data.py --config-file CONFIG --output DIR [--max-images N] [--seed N] [KEY VALUE ...]

Images are drawn by lot from DATASETS.TRAIN; the right side is the picture after augmentation with the targets that the
losses see, as INPUT.DATASET_MAPPER_NAME reads them. The same seed gives the same pictures. An image whose files are
damaged is reported and skipped. Exit status: 0 if everything is drawn, 1 if an image was skipped or an error ended the
run, 2 for a wrong command line.
"""
import argparse
import random
import sys
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from demo import output_paths  # noqa: E402  (ROOT has to be on the path first)
from drawing import Drawing, draw_ground_truth, draw_targets, side_by_side  # noqa: E402
from freqdino.config import load_config  # noqa: E402
from freqdino.data import build_mapper, dataset_records, register_custom_datasets  # noqa: E402
from freqdino.data.image_reading import read_image  # noqa: E402
from freqdino.data.mapper import SegmentationMapper  # noqa: E402
from freqdino.data.target_readers import (BoxReader, InstanceReader, PanopticReader, SemanticReader,  # noqa: E402
                                          SeparatedReader)
from predictor import USER_ERRORS, message_of  # noqa: E402

# What each reader reads of a record, as tasks of `draw_ground_truth`, in the order of drawing.
TASKS = {InstanceReader: ("instance",), BoxReader: ("box",), PanopticReader: ("panoptic",),
         SemanticReader: ("semantic",), SeparatedReader: ("semantic", "instance")}


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--output", required=True, type=Path, help="folder for the pictures")
    parser.add_argument("--max-images", type=int, default=10, help="number of images (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice and of the augmentation (default 0)")
    parser.add_argument("--scale", type=float, default=1.0, help="enlarge the pictures, or labels cover small ones")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="configuration options: KEY VALUE ...")
    args = parser.parse_args(arguments)
    if args.max_images < 1:
        parser.error(f"--max-images must be at least 1, got {args.max_images}")
    if args.seed < 0:
        parser.error(f"--seed must be at least 0, got {args.seed}")
    if not args.scale > 0:
        parser.error(f"--scale must be positive, got {args.scale}")
    return args


def choose_records(cfg: CfgNode, *, count: int, seed: int) -> list[dict]:
    """At most ``count`` records of the training sets, drawn by lot, in the order of the sets.

    Raises:
        OSError: files of a set are missing.
        ValueError: there is no training set, one is not registered, or they are empty.
    """
    records = []
    for name in cfg.DATASETS.TRAIN:
        if name not in DatasetCatalog:
            raise ValueError(f"DATASETS.TRAIN: {name} is not registered; registered are "
                             f"{', '.join(sorted(DatasetCatalog))}")
        records += dataset_records(name)
    if not records:
        raise ValueError(f"DATASETS.TRAIN {list(cfg.DATASETS.TRAIN)} holds no image")
    chosen = random.Random(seed).sample(range(len(records)), min(count, len(records)))
    return [records[index] for index in sorted(chosen)]


def draw(record: dict, mapper: SegmentationMapper, cfg: CfgNode, scale: float) -> tuple[np.ndarray, str]:
    """Annotations and training sample of a record beside each other, and a line that says what they hold."""
    metadata, reader = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]), type(mapper.reader)
    sample = mapper(record)
    left = Drawing(read_image(record["file_name"], "RGB"), metadata, scale=scale)
    for task in TASKS[reader]:
        draw_ground_truth(left, record, task, metadata)
    pixels = sample["image"].numpy().transpose(1, 2, 0)
    right = Drawing(pixels if cfg.INPUT.FORMAT == "RGB" else pixels[:, :, ::-1], metadata, scale=scale)
    if "sem_seg" in sample:
        right.draw_label_map(sample["sem_seg"].numpy())
    if reader is not SemanticReader:    # whose objects are the regions of the map
        draw_targets(right, sample["instances"], "stuff" if reader is PanopticReader else "thing")
    line = (f"{sample['width']}x{sample['height']} -> {pixels.shape[1]}x{pixels.shape[0]}, "
            f"{len(sample['instances'])} targets")
    return side_by_side([left.image, right.image]), line


def run(args: argparse.Namespace) -> int:
    """Draw everything; returns the number of images that had to be skipped."""
    cfg = load_config(args.config_file, args.opts)
    register_custom_datasets(cfg.DATASETS.TRAIN)
    mapper = build_mapper(cfg, is_train=True)
    records = choose_records(cfg, count=args.max_images, seed=args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    skipped = 0
    for index, (record, path) in enumerate(zip(records, output_paths(records, args.output))):
        seed_all_rng(args.seed + index)
        try:
            picture, line = draw(record, mapper, cfg, args.scale)
        except (ValueError, OSError) as error:
            print(f"skipped {record['file_name']}: {error}", file=sys.stderr)
            skipped += 1
            continue
        Image.fromarray(picture).save(path)
        print(f"{record['file_name']}: {line} -> {path}", flush=True)
    print(f"{len(records) - skipped} of {len(records)} images drawn into {args.output}")
    return skipped


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    for name in ("freqdino", "detectron2"):
        setup_logger(name=name)
    try:
        return int(run(args) > 0)
    except USER_ERRORS as error:
        print(f"visualize_data.py: {message_of(error)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

"""Draw what a configuration trains on: annotations on the left, on the right what the mapper feeds the model.

    python tools/visualize_data.py --config-file CONFIG --output DIR [--max-images N] [--seed N] [KEY VALUE ...]

Images are drawn by lot from DATASETS.TRAIN; the right side is the picture after augmentation with the targets that the
losses see, as INPUT.DATASET_MAPPER_NAME reads them. The same seed gives the same pictures. An image whose files are
damaged is reported and skipped. Exit status: 0 if everything is drawn, 1 if an image was skipped or an error ended the
run, 2 for a wrong command line.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from freqdino.commands.command_line import exit_status, make_parser, require_at_least_one, start_logging
from freqdino.errors import need_detectron2


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--output", required=True, type=Path, help="folder for the pictures")
    parser.add_argument("--max-images", type=int, default=10, help="number of images (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice and of the augmentation (default 0)")
    parser.add_argument("--scale", type=float, default=1.0, help="enlarge the pictures, or labels cover small ones")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="configuration options: KEY VALUE ...")
    args = parser.parse_args(arguments)
    require_at_least_one(parser, args, "--max-images")
    if args.seed < 0:
        parser.error(f"--seed must be at least 0, got {args.seed}")
    if not args.scale > 0:
        parser.error(f"--scale must be positive, got {args.scale}")
    return args


def work(args: argparse.Namespace) -> int:
    """Draw everything; 1 if an image had to be skipped."""
    need_detectron2()
    from detectron2.utils.env import seed_all_rng
    from PIL import Image

    from freqdino.config import load_config
    from freqdino.data import build_mapper, register_custom_datasets
    from freqdino.visualization.output_files import output_paths
    from freqdino.visualization.training_samples import choose_records, draw_sample

    cfg = load_config(args.config_file, args.opts)      # what it says goes to stderr: stdout is a line a picture
    start_logging()
    register_custom_datasets(cfg.DATASETS.TRAIN)
    mapper = build_mapper(cfg, is_train=True)
    records = choose_records(cfg, count=args.max_images, seed=args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    skipped = 0
    for index, (record, path) in enumerate(zip(records, output_paths(records, args.output))):
        seed_all_rng(args.seed + index)
        try:
            picture, line = draw_sample(record, mapper, cfg, args.scale)
        except (ValueError, OSError) as error:
            print(f"skipped {record['file_name']}: {error}", file=sys.stderr)
            skipped += 1
            continue
        Image.fromarray(picture).save(path)
        print(f"{record['file_name']}: {line} -> {path}", flush=True)
    print(f"{len(records) - skipped} of {len(records)} images drawn into {args.output}")
    return int(skipped > 0)


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_status(lambda: work(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())

"""Draw a model's predictions into images, videos or a camera's pictures, or show them in a web page.

    python tools/demo.py --config-file CONFIG --weights CHECKPOINT --input IMAGE|FOLDER|'GLOB' ... --output DIR|FILE
    python tools/demo.py --config-file CONFIG --weights CHECKPOINT --dataset NAME --with-ground-truth --output DIR
    python tools/demo.py --config-file CONFIG --weights CHECKPOINT --video-input VIDEO --output DIR|FILE
    python tools/demo.py --config-file CONFIG --weights CHECKPOINT --webcam --output FILE      (Ctrl-C ends it)
    python tools/demo.py --config-file CONFIG --weights CHECKPOINT --web [--port PORT]        (Ctrl-C ends it)

Where --weights is the folder of a run of train_net.py, or a file of tools/export.py, --config-file is not needed. The
web page is for a browser on this machine and needs `pip install freqdino[web]`; --input or --dataset are its examples,
sample scenes where neither is given. From another machine it is seen through
`ssh -L 7860:127.0.0.1:7860 THIS_MACHINE`.

Class names come from the metadata of --dataset, or of the first known data set of the configuration's DATASETS.TEST and
TRAIN; where none is known, class numbers are drawn. A file that cannot be read is reported and skipped; no input is
overwritten. Exit status: 0 if everything is drawn, 1 if a file was skipped, a video ends before its time or an error
ended the run, 2 for a wrong command line.
"""
import argparse
import itertools
import os
import signal
import statistics
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from freqdino.commands.command_line import (
    StopSignals,
    exit_status,
    make_parser,
    require_at_least_one,
    start_logging,
    take_options_from_input,
)
from freqdino.errors import Stopped
from freqdino.export import FORMATS, is_exported_file

TASKS = ("panoptic", "instance", "semantic")    # the richest first
PORT, LAST_PORT = 7860, 65535       # the first is Gradio's own
EXAMPLES = 12       # pictures to try in the web page, unless --max-images says how many
SAMPLE_SCENES = ([1, 1], [1, 2], [1, 3])        # of the sample set, pictures to evaluate on
COMPLETE = 0.9      # share of the frames announced with which a video is whole: some files only estimate their number


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--config-file", help="the configuration that the model was trained with; not needed where "
                                              "--weights is the folder of a run, or a file of tools/export.py")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--input", nargs="+", help="images, folders, or patterns in quotes")
    source.add_argument("--dataset", help="a registered dataset, or own data as in DATASETS.TEST")
    source.add_argument("--video-input", help="a video file")
    source.add_argument("--webcam", nargs="?", const=0, type=int, metavar="NUMBER", help="a camera (default 0)")
    parser.add_argument("--web", action="store_true", help="show a page for a browser on this machine")
    parser.add_argument("--port", type=int, help=f"of the page; default {PORT}, 0: a free one")
    parser.add_argument("--output", type=Path,
                        help="folder for the pictures; for a single one or a video also a file (.png, .jpg, ...; "
                             ".mp4, .avi)")
    parser.add_argument("--weights", help="checkpoint; short for the option MODEL.WEIGHTS")
    parser.add_argument("--task", choices=TASKS, help="default: the first of these that the model predicts")
    parser.add_argument("--confidence-threshold", type=float, default=0.5,
                        help="instances and panoptic segments with a lower score are not drawn (default 0.5); a "
                             "semantic map is drawn as it is. Segments below the model's own OBJECT_MASK_THRESHOLD "
                             "under TEST are not even predicted")
    parser.add_argument("--max-images", type=int, help="stop after this number of images or frames; of the page's "
                                                               f"examples there are at most {EXAMPLES} otherwise")
    parser.add_argument("--processes", type=int, default=1, help="share the images among this number of processes")
    parser.add_argument("--scale", type=float, default=1.0, help="enlarge the pictures, or labels cover small ones")
    parser.add_argument("--with-ground-truth", action="store_true", help="ground truth on the left; needs --dataset")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], dest="named_opts", metavar="KEY VALUE",
                        help="the same as without --opts")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="configuration options: KEY VALUE ...")
    args = parser.parse_args(arguments)
    args.opts += args.named_opts
    take_options_from_input(parser, args)
    if not 0 <= args.confidence_threshold <= 1:
        parser.error(f"--confidence-threshold must be in 0..1, got {args.confidence_threshold}")
    require_at_least_one(parser, args, "--max-images", "--processes")
    if not args.scale > 0:
        parser.error(f"--scale must be positive, got {args.scale}")
    if args.with_ground_truth and not args.dataset:
        parser.error("--with-ground-truth needs --dataset")
    if args.processes > 1 and not (args.input or args.dataset):
        parser.error("--processes shares images; the frames of a video or camera are drawn one after another")
    check_ways(parser, args)
    if args.config_file is None and not (args.weights and brings_its_configuration(args.weights)):
        suffixes = " or ".join(FORMATS.values())
        parser.error("--config-file is needed" + (f": --weights {args.weights} is no folder of a run and no {suffixes} "
                                                  "file" if args.weights else ""))
    if args.config_file is not None and is_exported_file(args.weights):
        parser.error("--weights: an exported file is used as it is; leave out --config-file")
    return args


def check_ways(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with the parser's error unless it is said what to draw and where to, or that a page shall show it."""
    if not args.web:
        if args.port is not None:
            parser.error("--port is the web page's; add --web")
        if not (args.input or args.dataset or args.video_input or args.webcam is not None):
            parser.error("one of --input, --dataset, --video-input, --webcam and --web is needed")
        if args.output is None:
            parser.error("--output is needed, or --web")
        return
    for name, given in {"--output": args.output is not None, "--video-input": args.video_input is not None,
                        "--webcam": args.webcam is not None, "--with-ground-truth": args.with_ground_truth,
                        "--processes": args.processes > 1}.items():
        if given:
            parser.error(f"{name} has no use with --web")
    if args.port is not None and not 0 <= args.port <= LAST_PORT:
        parser.error(f"--port must be in 0..{LAST_PORT}, got {args.port}")


def brings_its_configuration(weights: str) -> bool:
    return is_exported_file(weights) or Path(weights).expanduser().is_dir()


def settings_of(args: argparse.Namespace):
    from freqdino.engine.showing.artist import Settings

    source, options = None, tuple(args.opts)
    if args.config_file is None:
        source = args.weights
    elif args.weights:
        options += ("MODEL.WEIGHTS", args.weights)
    return Settings(source, args.config_file, options, args.dataset, args.task, args.confidence_threshold, args.scale,
                    args.with_ground_truth)


def draw_images(args: argparse.Namespace) -> int:
    """Draw every image; returns the number of files that had to be skipped."""
    from freqdino.data.image_files import find_records
    from freqdino.engine.showing.artist import draw_files
    from freqdino.visualization.output_files import output_paths

    records = find_records(args.dataset, args.input, args.max_images)
    paths = output_paths(records, args.output)
    for folder in {path.parent for path in paths}:
        folder.mkdir(parents=True, exist_ok=True)
    skipped = 0
    answers = draw_files(settings_of(args), list(zip(records, paths)), args.processes)
    for drawn, line in tqdm(answers, total=len(records), unit="image", disable=len(records) == 1):
        skipped += not drawn
        tqdm.write(line, file=sys.stdout if drawn else sys.stderr)
    print(f"{len(records) - skipped} of {len(records)} images drawn into {args.output}")
    return skipped


def draw_video(args: argparse.Namespace) -> bool:
    """Draw the frames of a video or a camera into a video; returns whether a file gave the frames that it announces."""
    from freqdino.engine.showing.artist import Artist
    from freqdino.visualization.output_files import refuse_overwriting
    from freqdino.visualization.videos import VideoReader, VideoWriter

    with VideoReader(args.video_input if args.webcam is None else args.webcam) as reader:
        is_folder = args.output.is_dir() or not args.output.suffix
        path = args.output / f"{reader.stem}.mp4" if is_folder else args.output
        refuse_overwriting([path], [args.video_input] if args.video_input else [])
        path.parent.mkdir(parents=True, exist_ok=True)
        artist, times, expected = Artist(settings_of(args)), [], reader.length(args.max_images)
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
    print(f"{reader.name}: {len(times)} frames, {statistics.mean(times):.2f} s each -> {path}")
    complete = expected is None or len(times) >= COMPLETE * expected
    if not complete:
        print(f"{reader.name}: only {len(times)} of {expected} frames can be read; the file may be cut off or damaged",
              file=sys.stderr)
    return complete


def show_page(args: argparse.Namespace) -> None:
    """Serve the web page until Ctrl-C. What it writes goes with it."""
    with StopSignals(), tempfile.TemporaryDirectory(prefix="freqdino_demo_") as name:
        os.environ.setdefault("GRADIO_TEMP_DIR", name)      # before it is imported
        from freqdino.engine.showing.artist import load_predictor
        from freqdino.engine.showing.web_demo import build_page, listen, need_gradio, serving

        need_gradio()
        with listen(PORT if args.port is None else args.port) as listener:
            examples = find_examples(args, Path(name))
            settings = settings_of(args)
            page = build_page(load_predictor(settings), examples, Path(name), task=settings.task,
                              threshold=settings.threshold, scale=settings.scale)
            with serving(page, listener) as address:
                print(f"the page is at {address}, for this machine alone; Ctrl-C ends it", flush=True)
                wait_for_ctrl_c()


def find_examples(args: argparse.Namespace, folder: Path) -> list[Path]:
    """Pictures to try: those that are named, or else sample scenes, which are drawn into ``folder``."""
    from PIL import Image

    from freqdino.data.image_files import find_records
    from freqdino.data.image_reading import read_image_size
    from freqdino.data.scene_drawing import draw_scene

    if args.input or args.dataset:
        paths = [record["file_name"] for record in find_records(args.dataset, args.input, args.max_images or EXAMPLES)]
        for path in paths:
            read_image_size(path)       # what is no picture ends the command here
        return list(map(Path, paths))
    paths = []
    for number, seed in enumerate(SAMPLE_SCENES, start=1):
        paths.append(folder / f"scene_{number}.png")
        Image.fromarray(draw_scene(seed).image).save(paths[-1])
    return paths


def wait_for_ctrl_c() -> None:
    try:
        threading.Event().wait()
    except Stopped as stopped:
        if stopped.number != signal.SIGINT:
            raise
        print("the page is closed")


def work(args: argparse.Namespace) -> int:
    start_logging()
    if args.web:
        show_page(args)
        return 0
    if args.input or args.dataset:
        return int(draw_images(args) > 0)
    return int(not draw_video(args))


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_status(lambda: work(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())

"""Check data sets without training on them: every annotation is read, every picture and label file is opened.

    python tools/check_data.py DATASET [DATASET ...] [--processes N]
    python tools/check_data.py --config-file CONFIG [DATASET ...] [--processes N] [KEY VALUE ...]

DATASET is a registered name or own data as datasets/README.md describes. With a configuration DATASETS.TRAIN is read as
INPUT.DATASET_MAPPER_NAME reads it and DATASETS.TEST as it would be evaluated. Prints how many objects each class has,
by size (small below 32x32 pixels, medium below 96x96, large), and lists every fault on stderr. Exit status: 0 if there
is none, 1 if there is one, 2 for a wrong command line.
"""
import argparse
import sys
from collections.abc import Sequence
from functools import partial

from freqdino.commands.command_line import exit_status, make_parser, require_at_least_one, split_options, start_logging

# The first key of a record that a reader reads -> what the labels are; a class in a label map counts as one object.
LABELS = {"annotations": "annotations", "pan_seg_file_name": "panoptic segments", "sem_seg_file_name": "label maps"}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--config-file", metavar="CONFIG", help="check what this configuration trains and evaluates on")
    parser.add_argument("--processes", type=int, metavar="N",
                        help="that open files (default: one a processor, fewer for few pictures)")
    parser.add_argument("words", nargs="*", metavar="DATASET", help="data sets, then configuration options: KEY VALUE")
    args = parser.parse_args(arguments)
    require_at_least_one(parser, args, "--processes")
    if not args.config_file and not args.words:
        parser.error("name a data set, or a configuration with --config-file")
    return args


def work(args: argparse.Namespace) -> int:
    """Check everything; 1 if there is a fault."""
    start_logging()
    from freqdino.data.checks.inspection import inspect, readers_of_all

    names, options = split_options(args.words)
    if options and not args.config_file:
        raise ValueError(f"{options[0]} is an option of a configuration: name one with --config-file")
    faults, checks = [], [(name, readers_of_all) for name in names]
    if args.config_file:
        more, configured = of_configuration(args.config_file, options)
        faults += more
        checks += configured
    for name, choose_readers in checks:
        found = inspect(name, choose_readers, processes=args.processes, progress=partial(progress_bar, name))
        faults += found.faults
        print(f"{name}: {found.tally.opened} pictures, {len(found.tally.unreadable)} of them cannot be read")
        for number, reader in enumerate(found.readers):
            print(f"{LABELS[reader.keys[0]]}:\n{table_of(name, number, reader, found.tally)}")
    faults = list(dict.fromkeys(faults))
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    print(f"data sets checked: {len(checks)}; faults found: {len(faults)}", flush=True)
    return int(bool(faults))


def of_configuration(config_file: str, options: Sequence[str]):
    """The faults of a configuration's data sets beside each other; what to check of each, and how it is read."""
    from freqdino.config import load_config
    from freqdino.config.keys import FAMILY_SECTIONS
    from freqdino.data import register_custom_datasets
    from freqdino.data.checks.classes import check_classes_of_test_set, check_same_classes
    from freqdino.data.checks.inspection import faults_of, readers_for_evaluation, readers_for_training
    from freqdino.registration.class_tables import check_detector_classes, check_num_classes, with_counted_classes
    from freqdino.registration.predictions import predictions_of

    cfg = load_config(config_file, options)
    predictions, train, test = predictions_of(cfg), cfg.DATASETS.TRAIN, cfg.DATASETS.TEST
    faults = faults_of(lambda: register_custom_datasets((*train, *test)))
    if not faults:
        check_counts = check_num_classes if cfg.MODEL.META_ARCHITECTURE in FAMILY_SECTIONS else check_detector_classes
        for step in (partial(check_same_classes, train, "training"), partial(check_same_classes, test, "test"),
                     *(partial(check_classes_of_test_set, train[0], name) for name in test if train),
                     lambda: check_counts(with_counted_classes(cfg))):
            faults += faults_of(step)
    evaluated = partial(readers_for_evaluation, predictions.tasks, predictions.masks)
    return faults, [(name, partial(readers_for_training, cfg)) for name in train] + [(name, evaluated) for name in test]


def progress_bar(name: str, steps, count: int):
    """The pictures as they come in, with a bar on stderr where that is a terminal."""
    from tqdm import tqdm

    return tqdm(steps, total=count, desc=name, unit=" pictures", disable=None)


def table_of(name: str, number: int, reader, tally) -> str:
    """Objects by class and size, of the labels that one reader reads."""
    from freqdino.data.checks.classes import class_names
    from freqdino.data.checks.scanning import SIZES
    from freqdino.evaluation.tables import markdown_table

    rows = []
    for label, class_name in enumerate(class_names(name, reader)):
        by_size = [tally.objects[number, label, size] for size in SIZES.values()]
        rows.append((class_name, tally.pictures[number, label], sum(by_size), *by_size))
    rows.append(("all classes", tally.opened, *(sum(column) for column in list(zip(*rows))[2:])))
    return markdown_table(("class", "pictures", "objects", *SIZES.values()), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_status(lambda: work(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())

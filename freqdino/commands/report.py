#!/usr/bin/env python
"""One HTML file about a run of train_net.py, to be opened from disk: no network, no server.

    python tools/report.py OUTPUT_DIR [--output FILE] [--max-images N] [KEY VALUE ...]

Sections: how the configuration differs from its base; loss and metrics over the training; the metrics of the last
evaluation with a row for each class; the images of the first test set that the model does best and worst, ground truth
on the left, prediction on the right; what the model costs, as tools/analyze_model.py measures it. The run has to be
evaluated, and its checkpoint and test set have to be there. KEY VALUE pairs change the run's configuration, as in
MODEL.DEVICE cpu. Exit status: 0, 1 for an error, 2 for a wrong command line.
"""
import argparse
import sys
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata
from detectron2.utils.logger import setup_logger
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from analysis.measuring import Analysis, analyze, build, noise  # noqa: E402  (ROOT has to be on the path first)
from analysis.tables import number, parts_of  # noqa: E402
from drawing import (GROUND_TRUTH_KEYS, OUTPUT_KEYS, Drawing, draw_ground_truth, draw_prediction,  # noqa: E402
                     side_by_side)
from freqdino.config import load_config  # noqa: E402
from freqdino.data import dataset_records, register_custom_datasets  # noqa: E402
from freqdino.data.image_reading import read_image  # noqa: E402
from predictor import USER_ERRORS, Predictor, class_metadata, message_of  # noqa: E402
from reporting.charts import line_chart  # noqa: E402
from reporting.image_scores import DESCRIPTIONS, INSTANCE_THRESHOLD, score_image  # noqa: E402
from reporting.page import metrics_tables, page, paragraph, picture, table  # noqa: E402
from reporting.run_files import configuration_differences, find_checkpoint, find_config, read_curves  # noqa: E402
from summarize_run import read_results  # noqa: E402

PICTURE_WIDTH = 300     # pixels of each half of a picture


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="OUTPUT_DIR", help="the folder of the run")
    parser.add_argument("--output", type=Path, help="the file (default: OUTPUT_DIR/report.html)")
    parser.add_argument("--weights", help="checkpoint (default: the run's final one, or the one that was evaluated)")
    parser.add_argument("--max-images", type=int, default=50, help="images of the test set to look at (default 50)")
    parser.add_argument("--shown", type=int, default=4, help="best and worst images to show of either (default 4)")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="configuration options")
    args = parser.parse_intermixed_args(arguments)
    for name, value in (("--max-images", args.max_images), ("--shown", args.shown)):
        if value < 1:
            parser.error(f"{name} must be at least 1, got {value}")
    return args


def configuration_section(run: Path) -> str:
    base, differences = configuration_differences(run)
    rows = [[item.key, item.base, item.value, item.set_by] for item in differences]
    if not rows:
        return paragraph(f"Base: {base}. Nothing differs from it.")
    return paragraph(f"Base: {base}. \"The run\" stands for what was settled at its start, as the device is, and for "
                     "changes of the file since.") + table(["key", "base", "here", "set by"], rows, text_columns=4)


def training_section(run: Path) -> str:
    charts = [line_chart(lines, title=title, x_label="iteration") for title, lines in read_curves(run).items()]
    if not charts:
        return paragraph("There is no metrics.json: nothing was trained in this folder.")
    return f'<div class="charts">{"".join(charts)}</div>'


def test_records(cfg: CfgNode, limit: int) -> list[dict]:
    """The first records of the first test set. ValueError where there is none, OSError where its files are missing."""
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: there are no images to show")
    name = cfg.DATASETS.TEST[0]
    register_custom_datasets([name])
    if name not in DatasetCatalog:
        raise ValueError(f"DATASETS.TEST: {name} is not registered")
    records = dataset_records(name)[:limit]
    if not records:
        raise ValueError(f"DATASETS.TEST: {name} holds no image")
    return records


def choose_common_task(output: dict, record: dict) -> str:
    """The richest task that the model predicts and the data set has ground truth for; ValueError if there is none."""
    predicted = [task for task, key in OUTPUT_KEYS.items() if key in output]
    annotated = [task for task in OUTPUT_KEYS if GROUND_TRUTH_KEYS[task] in record]
    common = [task for task in predicted if task in annotated]
    if not common:
        raise ValueError(f"{record['file_name']}: the model predicts {predicted}, its data set has ground truth for "
                         f"{annotated}")
    return common[0]


def images_section(predictor: Predictor, records: list[dict], metadata: Metadata, shown: int) -> str:
    """Scores every record and draws the best and the worst of them."""
    scores, task = [], None
    for record in tqdm(records, unit="image"):
        output = predictor(read_image(record["file_name"], "RGB"))
        task = task or choose_common_task(output, record)
        scores.append(score_image(output, record, task, metadata))
    ranked = sorted((index for index, score in enumerate(scores) if score is not None), key=lambda i: -scores[i])
    without = len(records) - len(ranked)
    text = f"Of the first {len(records)} images of the test set, by the {DESCRIPTIONS[task]}."
    text += f" {without} without ground truth are left out." if without else ""
    text += " Ground truth on the left, prediction on the right."
    shown = max(1, min(shown, len(ranked) // 2))
    parts = [paragraph(text)]
    for heading, chosen in (("Best", ranked[:shown]), ("Worst", ranked[::-1][:shown])):
        figures = [picture(draw_pair(predictor, records[index], task, metadata),
                           f"{Path(records[index]['file_name']).name}: {scores[index]:.1f}") for index in chosen]
        parts.append(f'<h3>{heading}</h3>\n<div class="images">{"".join(figures)}</div>')
    return "\n".join(parts)


def draw_pair(predictor: Predictor, record: dict, task: str, metadata: Metadata):
    image = read_image(record["file_name"], "RGB")
    left, right = (Drawing(image, metadata, scale=PICTURE_WIDTH / image.shape[1]) for _ in range(2))
    draw_ground_truth(left, record, task, metadata)
    draw_prediction(right, predictor(image), task, threshold=INSTANCE_THRESHOLD if task == "instance" else 0)
    return side_by_side([left.image, right.image])


def cost_section(cfg: CfgNode, image_size: tuple[int, int]) -> str:
    analysis, = analyze([build(cfg)], noise(1, *image_size), timed=True)
    return (paragraph(f"One image of {image_size[1]} x {image_size[0]} pixels (width x height), the size at which the "
                      f"model sees the first test image, on {cfg.MODEL.DEVICE}. 1 FLOP is one multiply-add; see "
                      "analyze_model.py --help.") + cost_table(analysis))


def cost_table(analysis: Analysis) -> str:
    rows = [[part, *(number(figures.get(part)) for figures in analysis.figures.values())]
            for part in parts_of(analysis)]
    return table(["part", *analysis.figures], rows)


def report(args: argparse.Namespace) -> Path:
    """Write the file. Raises what USER_ERRORS names."""
    if not args.run.is_dir():
        raise FileNotFoundError(f"{args.run}: there is no such folder")
    cfg = load_config(str(find_config(args.run)), args.opts)
    results = read_results(args.run)
    cfg.MODEL.WEIGHTS = (args.weights or dict(zip(args.opts[::2], args.opts[1::2])).get("MODEL.WEIGHTS")
                         or find_checkpoint(args.run, cfg))
    metadata = class_metadata(cfg)
    records = test_records(cfg, args.max_images)
    predictor = Predictor(cfg)
    size = predictor.input_size(read_image(records[0]["file_name"], "RGB"))
    sections = {"Configuration": configuration_section(args.run), "Training": training_section(args.run),
                "Metrics": metrics_tables(results),
                "Images": images_section(predictor, records, metadata, args.shown), "Cost": cost_section(cfg, size)}
    introduction = (f"{cfg.MODEL.META_ARCHITECTURE}, {cfg.MODEL.BACKBONE.NAME}, {cfg.MODEL.WEIGHTS}; tested on "
                    f"{', '.join(results)}")
    path = args.output or args.run / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(f"Report: {args.run.resolve().name}", introduction, sections), encoding="utf-8")
    return path


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    for name in ("freqdino", "detectron2"):
        setup_logger(name=name)
    try:
        print(f"report written to {report(args)}")
    except USER_ERRORS as error:
        print(f"report.py: {message_of(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

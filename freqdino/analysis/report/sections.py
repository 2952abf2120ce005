"""The page about a run, section by section: configuration, training, metrics, images, cost."""
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from tqdm import tqdm

from freqdino.analysis.costs.measuring import analyze, build, noise
from freqdino.analysis.costs.tables import part_rows
from freqdino.analysis.report.image_scores import DESCRIPTIONS, INSTANCE_THRESHOLD, score_image
from freqdino.analysis.report.run_files import configuration_differences, read_curves
from freqdino.data import dataset_records, register_custom_datasets
from freqdino.data.image_reading import read_image
from freqdino.engine.predictor import Predictor, configuration
from freqdino.evaluation.results import read_results
from freqdino.visualization.drawing import (
    GROUND_TRUTH_KEYS,
    OUTPUT_KEYS,
    Drawing,
    draw_ground_truth,
    side_by_side,
)
from freqdino.visualization.page import chart, metrics_tables, page, paragraph, picture, table

PICTURE_WIDTH = 300     # pixels of each half of a picture


def write_report(run: Path, *, output: Path | None = None, weights: str | None = None, max_images: int = 50,
                 shown: int = 4, options: Sequence[str] = ()) -> Path:
    """Write the page about a run's folder; returns its path.

    Args:
        output: the file; default report.html in the folder.
        weights: checkpoint; default the run's final one, or the one that was evaluated.
        max_images: images of the test set to look at.
        shown: best and worst images to show of either.
        options: KEY VALUE ... that change the run's configuration.
    Raises ValueError, OSError: the run was not evaluated, or its configuration, checkpoint or test set is not there.
    """
    if not run.is_dir():
        raise FileNotFoundError(f"{run}: there is no such folder")
    path = output or run / "report.html"
    if path.is_dir():
        raise ValueError(f"--output {path} is a folder; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    cfg = configuration(run, None, weights, options)
    results = read_results(run)
    records = test_records(cfg, max_images)
    predictor = Predictor(cfg, dataset=cfg.DATASETS.TEST[0])
    size = predictor.input_size(read_image(records[0]["file_name"], "RGB"))
    sections = {"Configuration": configuration_section(run), "Training": training_section(run),
                "Metrics": metrics_tables(results),
                "Images": images_section(predictor, records, shown), "Cost": cost_section(cfg, size)}
    introduction = (f"{cfg.MODEL.META_ARCHITECTURE}, {cfg.MODEL.BACKBONE.NAME}, {cfg.MODEL.WEIGHTS}; tested on "
                    f"{', '.join(results)}")
    path.write_text(page(f"Report: {run.resolve().name}", introduction, sections), encoding="utf-8")
    return path


def configuration_section(run: Path) -> str:
    base, differences = configuration_differences(run)
    rows = [[item.key, item.base, item.value, item.set_by] for item in differences]
    if not rows:
        return paragraph(f"Base: {base}. Nothing differs from it.")
    return paragraph(f"Base: {base}. \"The run\" stands for what was settled at its start, as the device is, and for "
                     "changes of the file since.") + table(["key", "base", "here", "set by"], rows, text_columns=4)


def training_section(run: Path) -> str:
    charts = [chart(lines, title=title, x_label="iteration") for title, lines in read_curves(run).items()]
    if not charts:
        return paragraph("There is no metrics.json: nothing was trained in this folder, or without json in "
                         "OUTPUT_WRITERS.")
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


def images_section(predictor: Predictor, records: list[dict], shown: int) -> str:
    """Scores every record and draws the best and the worst of them."""
    scores, task = [], None
    for record in tqdm(records, unit="image"):
        result = predictor(record["file_name"])
        task = task or choose_common_task(result.output, record)
        scores.append(score_image(result.output, record, task, result.metadata))
    ranked = sorted((index for index, score in enumerate(scores) if score is not None), key=lambda i: -scores[i])
    without = len(records) - len(ranked)
    text = f"Of the first {len(records)} images of the test set, by the {DESCRIPTIONS[task]}."
    text += f" {without} without ground truth are left out." if without else ""
    text += " Ground truth on the left, prediction on the right."
    shown = max(1, min(shown, len(ranked) // 2))
    parts = [paragraph(text)]
    for heading, chosen in (("Best", ranked[:shown]), ("Worst", ranked[::-1][:shown])):
        figures = [picture(draw_pair(predictor, records[index], task),
                           f"{Path(records[index]['file_name']).name}: {scores[index]:.1f}") for index in chosen]
        parts.append(f'<h3>{heading}</h3>\n<div class="images">{"".join(figures)}</div>')
    return "\n".join(parts)


def draw_pair(predictor: Predictor, record: dict, task: str):
    result = predictor(record["file_name"])
    left, right = (Drawing(result.image, result.metadata, scale=PICTURE_WIDTH / result.image.shape[1])
                   for _ in range(2))
    draw_ground_truth(left, record, task, result.metadata)
    result.draw_into(right, threshold=INSTANCE_THRESHOLD if task == "instance" else 0, task=task)
    return side_by_side([left.image, right.image])


def cost_section(cfg: CfgNode, image_size: tuple[int, int]) -> str:
    analysis, = analyze([build(cfg)], noise(1, *image_size), timed=True)
    return (paragraph(f"One image of {image_size[1]} x {image_size[0]} pixels (width x height), the size at which the "
                      f"model sees the first test image, on {cfg.MODEL.DEVICE}. 1 FLOP is one multiply-add; see "
                      "analyze_model.py --help.") + table(["part", *analysis.figures], part_rows(analysis), digits=2))

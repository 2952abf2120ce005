"""The parts of tools/report.py by hand: axes, differences, curves, image scores, tables, the choice of images."""
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from freqdino.analysis.report import sections
from freqdino.analysis.report.image_scores import score_image
from freqdino.analysis.report.run_files import (
    FILE,
    OPTIONS,
    RUN,
    Difference,
    command_line,
    configuration_differences,
    find_checkpoint,
    read_curves,
)
from freqdino.config import load_config
from freqdino.data.panoptic_png import id_to_rgb
from freqdino.visualization.charts import Axis, line_chart
from freqdino.visualization.page import metrics_tables, page, table

HEIGHT, WIDTH = 20, 40
LEFT = np.tile(np.arange(WIDTH) < WIDTH // 2, (HEIGHT, 1))
PANOPTIC = Metadata().set(thing_dataset_id_to_contiguous_id={1: 0}, ignore_label=255)


@pytest.mark.parametrize(("values", "ticks"), [
    ([0, 1200], [0, 500, 1000, 1500]), ([0, 8.9], [0, 5, 10]), ([-1, 3], [-1, 0, 1, 2, 3]), ([0, 0], [0, 1]),
    ([0, 0.031], [0, 0.01, 0.02, 0.03, 0.04])])
def test_ticks_are_round_and_enclose_the_values(values, ticks):
    axis = Axis(values, 100, 20)
    assert axis.ticks == pytest.approx(ticks)
    assert (axis(ticks[0]), axis(ticks[-1])) == (100, 20)
    assert axis((ticks[0] + ticks[-1]) / 2) == pytest.approx(60)


def test_chart():
    figure = ElementTree.fromstring(line_chart({"a < b": [(0, 1.0), (10, 4.0)], "c": [(10, 2.0)]}, title="T & U",
                                               x_label="iteration"))
    assert figure.find("figcaption").text == "T & U"
    assert [item.find("span").tail for item in figure.iter("li")] == ["a < b", "c"]
    assert [circle.find("title").text for circle in figure.iter("circle")] == ["a < b at 0: 1", "a < b at 10: 4",
                                                                             "c at 10: 2"]
    lines = [line.get("points") for line in figure.iter("polyline")]
    # The axes are 0..10 and 0..4 on 56..616 and 240..12.
    assert lines == ["56.0,183.0 616.0,12.0", "616.0,126.0"]


def write_run(folder, leaf, *, options=(), changes=(), log=True):
    """The config.yaml and the log.txt that a start with ``leaf`` and ``options`` leaves."""
    folder.mkdir(exist_ok=True)
    cfg = load_config(str(leaf), [*options, *changes])
    (folder / "config.yaml").write_text(cfg.dump())
    if log:
        (folder / "log.txt").write_text(
            "[11/21 01:38:51] detectron2 INFO: Command line arguments: Namespace(config_file="
            f"'{leaf}', resume=False, eval_only=False, num_gpus=1, opts={list(options)})\nnext line\n")
    return folder


def test_differences_to_the_base_files(tmp_path):
    (tmp_path / "base.yaml").write_text("SOLVER: {MAX_ITER: 100, BASE_LR: 0.5}\nMODEL: {DEVICE: cpu}\n")
    (tmp_path / "leaf.yaml").write_text("_BASE_: base.yaml\nSOLVER: {MAX_ITER: 200}\nTEST: {EVAL_PERIOD: 5}\n")
    run = write_run(tmp_path / "run", tmp_path / "leaf.yaml", options=["TEST.EVAL_PERIOD", "7"],
                    changes=["SOLVER.STEPS", "(1, 2)"])
    base, differences = configuration_differences(run)
    assert base == f"base.yaml, on which {tmp_path / 'leaf.yaml'} is built"
    assert sorted(differences, key=lambda item: item.key) == [
        Difference("SOLVER.MAX_ITER", 100, 200, FILE), Difference("SOLVER.STEPS", [30000], [1, 2], RUN),
        Difference("TEST.EVAL_PERIOD", 0, 7, OPTIONS)]


@pytest.mark.parametrize(("log", "reason"), [(True, "is not there any more"), (False, "log.txt does not name")])
def test_without_the_configuration_file_the_base_are_the_defaults(tmp_path, log, reason):
    leaf = tmp_path / "leaf.yaml"
    leaf.write_text("SOLVER: {MAX_ITER: 200}\nMODEL: {DEVICE: cpu}\n")
    run = write_run(tmp_path / "run", leaf, log=log)
    leaf.unlink()
    base, differences = configuration_differences(run)
    assert base.startswith("the defaults") and reason in base
    assert {(item.key, item.set_by) for item in differences} == {("SOLVER.MAX_ITER", RUN), ("MODEL.DEVICE", RUN)}


@pytest.mark.parametrize("text", ["Namespace(config_file=", "Namespace(config_file=open('x'))", "'words'"])
def test_arguments_of_another_program(tmp_path, text):
    (tmp_path / "log.txt").write_text(f"Command line arguments: {text}\n")
    assert command_line(tmp_path) == {}


def test_curves(tmp_path):
    rows = [{"iteration": 9, "total_loss": 5.0, "loss_ce": 2.0, "loss_ce_0": 3.0, "loss_dice_dn": 1.0,
             "loss_mask_interm": 1.0, "loss_rpn_cls": 4.0, "lr": 1.0},
            {"iteration": 19, "total_loss": 9.0}, {"iteration": 19, "total_loss": 4.0, "segm/AP": float("nan")},
            {"iteration": 20, "segm/AP": 30.0, "segm/AP50": 50.0, "other/sem_seg/mIoU": 60.0, "segm/AP-cat": 1.0}]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert read_curves(tmp_path) == {
        "Total loss": {"total_loss": [(9, 5.0), (19, 4.0)]},
        "Losses of the last layer": {"loss_ce": [(9, 2.0)], "loss_rpn_cls": [(9, 4.0)]},
        "Evaluation": {"mask AP": [(20, 30.0)], "mIoU other": [(20, 60.0)]}}


def test_damaged_and_absent_curves(tmp_path):
    assert read_curves(tmp_path) == {}
    (tmp_path / "metrics.json").write_text('{"iteration": 1}\n{"iter')
    with pytest.raises(ValueError, match="metrics.json, line 2: expected a JSON object"):
        read_curves(tmp_path)


def test_checkpoints(tmp_path):
    cfg = load_config(opts=["MODEL.DEVICE", "cpu"])
    with pytest.raises(FileNotFoundError, match="holds no checkpoint .model_final.pth.; --weights"):
        find_checkpoint(tmp_path, cfg)
    for name in ("model_0000009.pth", "model_final.pth", "model_final_ema.pth"):
        (tmp_path / name).touch()
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    assert find_checkpoint(tmp_path, cfg) == str(tmp_path / "model_final.pth")
    cfg.MODEL_EMA.ENABLED = True
    assert find_checkpoint(tmp_path, cfg) == str(tmp_path / "model_final_ema.pth")
    cfg.MODEL_EMA.ENABLED = False
    (tmp_path / "model_final.pth").unlink()
    assert find_checkpoint(tmp_path, cfg) == str(tmp_path / "model_0000009.pth")


def test_checkpoint_of_a_run_of_eval_only(tmp_path):
    """The results are of MODEL.WEIGHTS, whatever else lies in the folder; --resume evaluates the folder's own."""
    cfg = load_config(opts=["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "elsewhere/model.pth"])
    (tmp_path / "model_final.pth").touch()
    start = "[01/01] detectron2: Command line arguments: Namespace(config_file='x.yaml', resume={}, eval_only={})\n"
    for resume, eval_only, path in ((False, True, "elsewhere/model.pth"), (True, True, tmp_path / "model_final.pth"),
                                    (False, False, tmp_path / "model_final.pth")):
        (tmp_path / "log.txt").write_text(start.format(resume, eval_only))
        assert find_checkpoint(tmp_path, cfg) == str(path)


@pytest.fixture
def panoptic_record(tmp_path):
    Image.fromarray(id_to_rgb(np.where(LEFT, 7, 9))).save(tmp_path / "segments.png")
    return {"file_name": "x.png", "pan_seg_file_name": str(tmp_path / "segments.png"),
            "segments_info": [{"id": 7, "category_id": 0}, {"id": 9, "category_id": 1}]}


def test_panoptic_score(panoptic_record):
    """The thing is found with an IoU of 3/4, the stuff not at all: PQ is (0.75 + 0) / 2."""
    ids = torch.from_numpy(np.where(LEFT & (np.arange(WIDTH) < 15), 1, 0))
    output = {"panoptic_seg": (ids, [{"id": 1, "isthing": True, "category_id": 0, "score": 0.9}])}
    assert score_image(output, panoptic_record, "panoptic", PANOPTIC) == pytest.approx(37.5)


def test_panoptic_classes_that_are_counted_apart(panoptic_record):
    """Thing 0 and stuff 0 are two classes: predicting the one where the other is gives nothing."""
    panoptic_record["segments_info"] = [{"id": 7, "category_id": 0, "isthing": True},
                                        {"id": 9, "category_id": 0, "isthing": False}]
    ids = torch.from_numpy(np.where(LEFT, 1, 2))
    right, wrong = ([{"id": 1, "isthing": isthing, "category_id": 0},
                     {"id": 2, "isthing": not isthing, "category_id": 0}] for isthing in (True, False))
    assert score_image({"panoptic_seg": (ids, right)}, panoptic_record, "panoptic", PANOPTIC) == 100
    assert score_image({"panoptic_seg": (ids, wrong)}, panoptic_record, "panoptic", PANOPTIC) == 0


def instances(*, masks=None, boxes, scores, classes):
    fields = {"pred_boxes": Boxes(torch.tensor(boxes, dtype=torch.float32)), "scores": torch.tensor(scores),
              "pred_classes": torch.tensor(classes)}
    if masks is not None:
        fields["pred_masks"] = torch.from_numpy(np.stack(masks))
    return {"instances": Instances((HEIGHT, WIDTH), **fields)}


HALF = LEFT & (np.arange(WIDTH) < 10)
OBJECTS = [{"category_id": 0, "segmentation": [[0, 0, 20, 0, 20, 20, 0, 20]], "bbox": [0, 0, 20, 20],
            "bbox_mode": BoxMode.XYWH_ABS},
           {"category_id": 1, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [400, 400]},
            "bbox": [20, 0, 20, 20], "bbox_mode": BoxMode.XYWH_ABS},
           {"category_id": 0, "iscrowd": 1, "segmentation": [[0, 0, 40, 0, 40, 20]]}]


def test_instance_score_of_masks():
    """The left object is covered to one half, the right one by an instance of another class: (1/2 + 0) / 2."""
    output = instances(masks=[HALF, ~LEFT, LEFT], boxes=[[0] * 4] * 3, scores=[0.9, 0.8, 0.4], classes=[0, 0, 0])
    assert score_image(output, {"annotations": OBJECTS}, "instance", Metadata()) == pytest.approx(25)


def test_instance_score_of_boxes():
    output = instances(boxes=[[0, 0, 20, 20], [20, 0, 40, 10]], scores=[0.9, 0.8], classes=[0, 1])
    assert score_image(output, {"annotations": OBJECTS[:2]}, "instance", Metadata()) == pytest.approx(75)


def test_instance_score_without_predictions_or_objects():
    nothing = instances(masks=[LEFT], boxes=[[0] * 4], scores=[0.1], classes=[0])
    assert score_image(nothing, {"annotations": OBJECTS}, "instance", Metadata()) == 0
    assert score_image(nothing, {"annotations": OBJECTS[2:]}, "instance", Metadata()) is None


def test_semantic_score(tmp_path):
    """Class 0: 200 of 400 pixels; class 1: none of 200 predicted; the right half is ignored."""
    Image.fromarray(np.where(LEFT, 0, 255).astype(np.uint8)).save(tmp_path / "labels.png")
    scores = torch.stack([torch.from_numpy(HALF), torch.from_numpy(~HALF), torch.zeros(HEIGHT, WIDTH).bool()]).float()
    record = {"sem_seg_file_name": str(tmp_path / "labels.png")}
    assert score_image({"sem_seg": scores}, record, "semantic", PANOPTIC) == pytest.approx((50 + 0) / 2)
    Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save(tmp_path / "labels.png")
    assert score_image({"sem_seg": scores}, record, "semantic", PANOPTIC) is None


def test_best_and_worst_images(tmp_path):
    """Five images, of which the model finds 1, 2, ... 5 fifths of the object; one of them has no object."""
    records = []
    for number in range(1, 6):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
        records.append({"file_name": str(tmp_path / f"{number}.png"), "annotations": OBJECTS[:1]})
    records[2] = {**records[2], "annotations": []}

    def predict(image):
        mask = np.tile(np.arange(WIDTH) < 4 * image[0, 0, 0], (HEIGHT, 1))
        return instances(masks=[mask], boxes=[[0] * 4], scores=[0.9], classes=[0])

    text = sections.images_section(predict, records, Metadata(), 4)
    best, worst = text.split("Best")[1].split("Worst")
    assert [part.split("<")[0] for part in best.split("<figcaption>")[1:]] == ["5.png: 100.0", "4.png: 80.0"]
    assert [part.split("<")[0] for part in worst.split("<figcaption>")[1:]] == ["1.png: 20.0", "2.png: 40.0"]
    assert "Of the first 5 images" in text and "1 without ground truth are left out" in text


def test_no_common_task():
    with pytest.raises(ValueError, match=r"x: the model predicts \['semantic'\], .* ground truth for \['instance'\]"):
        sections.choose_common_task({"sem_seg": 0}, {"file_name": "x", "annotations": []})
    record = {"file_name": "x", "annotations": [], "sem_seg_file_name": "y"}
    assert sections.choose_common_task({"sem_seg": 0, "panoptic_seg": 0}, record) == "semantic"


def cells(text):
    """Rows of all tables of an HTML fragment."""
    return [["".join(cell.itertext()) for cell in row] for row in ElementTree.fromstring(f"<x>{text}</x>").iter("tr")]


def test_metrics_tables():
    results = {"set": {"segm": {"AP": 12.34, "AP-big cat": 1.0, "AP-x-ray": None}, "sem_seg": {"mIoU": 5.0,
                       "IoU-x-ray": 7.0, "BoundaryIoU-x-ray": 9.0}}, "other": {"panoptic_seg": {"PQ": 3.0}}}
    assert cells(metrics_tables(results)) == [
        ["segm", "AP"], ["all", "12.3"], ["sem_seg", "mIoU"], ["all", "5.0"],
        ["class", "mask AP", "IoU"], ["big cat", "1.0", "–"], ["x-ray", "–", "7.0"], ["panoptic_seg", "PQ"],
        ["all", "3.0"]]


def test_everything_is_escaped():
    assert cells(table(["<a>", "n"], [["x & y", 1.0]])) == [["<a>", "n"], ["x & y", "1.0"]]
    text = page("<b>", "x < y", {"First one": "<p>content</p>"})
    assert "&lt;b&gt;" in text and '<section id="first">' in text and 'href="#first"' in text and "<b>" not in text

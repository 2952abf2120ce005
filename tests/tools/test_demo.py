"""tools/demo.py with a model that predicts fixed results: inputs, tasks, threshold, ground truth, errors."""
import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from PIL import Image
from scripts import load_script
from torch import nn

from freqdino.segment_colors import id_to_rgb

demo = load_script("tools/demo.py")

CLASSES = ["cat", "sky"]


@META_ARCH_REGISTRY.register()
class DemoTestModel(nn.Module):
    """Predicts a cat on the left half (score 0.9), one on the right half (0.4) and, as a panoptic model, sky there."""

    def __init__(self, cfg):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(1))
        self.tasks = cfg.DATASETS.PROPOSAL_FILES_TEST or ("panoptic", "instance", "semantic")

    def forward(self, samples):
        return [self.predict(**sample) for sample in samples]

    def predict(self, image, height, width, **_):
        assert image.shape[0] == 3 and not self.training and not torch.is_grad_enabled()
        left = torch.zeros(height, width, dtype=torch.bool)
        left[:, :width // 2] = True
        masks = torch.stack([left, ~left])
        scores = torch.tensor([0.9, 0.4])
        output = {
            "panoptic": ("panoptic_seg", (torch.where(left, 1, 2).int(), [
                {"id": 1, "isthing": True, "category_id": 0, "score": 0.9},
                {"id": 2, "isthing": False, "category_id": 1, "score": 0.4}])),
            "instance": ("instances", Instances(
                (height, width), pred_masks=masks.float(), scores=scores, pred_boxes=Boxes(torch.zeros(2, 4)),
                pred_classes=torch.tensor([0, 0]))),
            "semantic": ("sem_seg", masks.float())}
        return dict(output[task] for task in self.tasks)


@pytest.fixture
def project(tmp_path):
    """A configuration, a checkpoint, two images and a registered dataset of them with ground truth of every task."""
    name = "demo_test"
    torch.save({"model": {"offset": torch.zeros(1)}}, tmp_path / "model.pth")
    (tmp_path / "config.yaml").write_text(
        f"MODEL:\n  META_ARCHITECTURE: DemoTestModel\n  DEVICE: cpu\n  WEIGHTS: {tmp_path / 'model.pth'}\n"
        f"DATASETS:\n  TRAIN: ('{name}',)\n  TEST: ('{name}',)\n")
    images = tmp_path / "images"
    images.mkdir()
    halves = np.tile(np.arange(40) // 20, (30, 1))
    Image.fromarray(id_to_rgb(halves + 7)).save(tmp_path / "segments.png")
    Image.fromarray(halves.astype(np.uint8)).save(tmp_path / "labels.png")
    records = []
    for stem in ("a", "b"):
        Image.fromarray(np.full((30, 40, 3), 128, np.uint8)).save(images / f"{stem}.png")
        records.append({"file_name": str(images / f"{stem}.png"), "pan_seg_file_name": str(tmp_path / "segments.png"),
                        "segments_info": [{"id": 7, "category_id": 0}, {"id": 8, "category_id": 1}],
                        "sem_seg_file_name": str(tmp_path / "labels.png"),
                        "annotations": [{"segmentation": [[0, 0, 20, 0, 20, 30]], "category_id": 0}]})
    DatasetCatalog.register(name, lambda: records)
    colors = [[255, 0, 0], [0, 0, 255]]
    MetadataCatalog.get(name).set(thing_classes=CLASSES, stuff_classes=CLASSES, thing_colors=colors,
                                  stuff_colors=colors, thing_dataset_id_to_contiguous_id={1: 0}, evaluator_type="none")
    yield tmp_path
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def run(project, *arguments):
    return demo.main(["--config-file", str(project / "config.yaml"), "--output", str(project / "out"),
                      *map(str, arguments)])


def picture(project, name):
    return np.asarray(Image.open(project / "out" / name)).astype(int)


def colored(pixels):
    """Where a grey picture is not grey any more."""
    return np.ptp(pixels, axis=-1) > 8


@pytest.mark.parametrize(("task", "threshold", "count", "left", "right"), [
    ("panoptic", 0.3, "2 segments", True, True), ("panoptic", 0.5, "1 segments", True, False),
    ("panoptic", 0.95, "0 segments", False, False), ("instance", 0.3, "2 instances", True, True),
    ("instance", 0.5, "1 instances", True, False), ("semantic", 0.5, "2 classes", True, True)])
def test_task_and_threshold(project, capsys, task, threshold, count, left, right):
    image = project / "images" / "a.png"
    assert run(project, "--input", image, "--task", task, "--confidence-threshold", threshold) == 0
    line, total = capsys.readouterr().out.splitlines()[-2:]
    assert line.startswith(f"{image}: 40x30, {count}, ") and line.endswith(f" s -> {project / 'out' / 'a.png'}")
    assert total == f"1 of 1 images drawn into {project / 'out'}"
    drawn = colored(picture(project, "a.png"))
    assert drawn.shape == (30, 40)
    assert (drawn[20:, 2:15].mean() > 0.5, drawn[20:, 25:38].mean() > 0.5) == (left, right)


def test_first_task_that_the_model_predicts(project, capsys):
    image = project / "images" / "a.png"
    assert run(project, "--input", image) == 0
    assert "1 segments" in capsys.readouterr().out
    assert run(project, "--input", image, "DATASETS.PROPOSAL_FILES_TEST", "('semantic',)") == 0
    assert "2 classes" in capsys.readouterr().out


def test_task_that_the_model_does_not_predict(project, capsys):
    options = "DATASETS.PROPOSAL_FILES_TEST", "('semantic',)"
    assert run(project, "--input", project / "images", "--task", "panoptic", *options) == 2
    assert "--task panoptic: the model predicts ['semantic']; its TEST options" in capsys.readouterr().err


def test_folders_patterns_and_names_that_repeat(project, capsys):
    (project / "images" / "notes.txt").write_text("no image")
    status = run(project, "--input", project / "images", project / "images" / "?.png", "--max-images", 3)
    assert status == 0
    assert sorted(path.name for path in (project / "out").iterdir()) == ["a.png", "a_2.png", "b.png"]
    assert "3 of 3 images drawn" in capsys.readouterr().out


def test_wrong_files_are_reported_and_skipped(project, capsys):
    (project / "images" / "broken.png").write_bytes((project / "images" / "a.png").read_bytes()[:50])
    assert run(project, "--input", project / "missing.jpg", project / "images") == 1
    out, err = capsys.readouterr()
    assert "2 of 4 images drawn" in out
    assert "skipped" in err and "missing.jpg" in err and "broken.png" in err


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_dataset_with_ground_truth_on_the_left(project, task):
    arguments = ["--dataset", "demo_test", "--with-ground-truth", "--task", task, "--confidence-threshold", 1]
    assert run(project, *arguments) == 0
    drawn = colored(picture(project, "b.png"))
    assert drawn.shape == (30, 80)
    assert drawn[2:10, 8:18].mean() > 0.5  # the ground truth's cat
    if task != "semantic":
        assert not drawn[:, 40:].any()  # no prediction has the score 1


def test_dataset_without_that_ground_truth(project, capsys):
    for record in DatasetCatalog.get("demo_test"):
        del record["annotations"]
    assert run(project, "--dataset", "demo_test", "--with-ground-truth", "--task", "instance") == 2
    assert "a.png has no instance ground truth" in capsys.readouterr().err


def test_own_data_by_name(project, capsys):
    entries = [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 20, 0, 20, 30]]}]
    (project / "own.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": "b.png", "height": 30, "width": 40}], "annotations": entries,
        "categories": [{"id": 1, "name": "cat"}]}))
    name = f"{project / 'own.json'}@{project / 'images'}"
    try:
        assert run(project, "--dataset", name, "--with-ground-truth", "--task", "instance") == 0
        assert "b.png: 40x30, 1 instances" in capsys.readouterr().out
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_segments_without_score_are_drawn_and_it_is_said(project, monkeypatch, caplog):
    predict = DemoTestModel.predict

    def without_scores(self, **sample):
        output = predict(self, **sample)
        for segment in output["panoptic_seg"][1]:
            del segment["score"]
        return output
    monkeypatch.setattr(DemoTestModel, "predict", without_scores)
    warned = []
    monkeypatch.setattr(demo, "log_first_n", lambda level, message, **_: warned.append(message))
    assert run(project, "--input", project / "images" / "a.png", "--confidence-threshold", 0.99) == 0
    assert colored(picture(project, "a.png"))[20:].mean() > 0.5
    assert "--confidence-threshold does not apply" in warned[0]


def test_pictures_are_the_same_every_time(project):
    pictures = []
    for _ in range(2):
        run(project, "--input", project / "images" / "a.png", "--task", "instance")
        pictures.append(picture(project, "a.png"))
    assert (pictures[0] == pictures[1]).all()


@pytest.mark.parametrize(("arguments", "message"), [
    (["--input", "{}/out"], "the folder has no image"),
    (["--input", "{}/*.nothing"], "no file matches"),
    (["--dataset", "no_such_dataset"], "--dataset no_such_dataset is not registered; registered are"),
    (["--input", "{}/images", "--weights", "{}/none.pth"], "none.pth"),
    (["--input", "{}/images", "MODEL.WEIGHTS", ""], "MODEL.WEIGHTS is empty"),
    (["--input", "{}/images", "MODEL.NO_SUCH_KEY", "1"], "MODEL.NO_SUCH_KEY"),
    (["--input", "{}/images", "DATASETS.TEST", "()", "DATASETS.TRAIN", "()"], "DATASETS.TEST is empty"),
])
def test_errors_that_end_the_run(project, capsys, arguments, message):
    (project / "out").mkdir()
    status = run(project, *[argument.format(project) for argument in arguments])
    error = capsys.readouterr().err
    assert status == 2 and error.startswith("demo.py: ") and message in error


@pytest.mark.parametrize(("arguments", "message"), [
    (["--confidence-threshold", "1.5", "--input", "x"], "--confidence-threshold must be in 0..1, got 1.5"),
    (["--max-images", "0", "--input", "x"], "--max-images must be at least 1, got 0"),
    (["--with-ground-truth", "--input", "x"], "--with-ground-truth needs --dataset"),
    (["--input", "MODEL.DEVICE", "cpu"], "--input names no image"),
    ([], "one of the arguments --input --dataset is required"),
])
def test_bad_arguments(project, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        run(project, *arguments)
    assert message in capsys.readouterr().err

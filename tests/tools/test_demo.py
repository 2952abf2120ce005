"""tools/demo.py with a model that predicts fixed results: inputs, tasks, threshold, ground truth, errors."""
import json
import logging
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import Visualizer
from PIL import Image
from scripts import ROOT, load_script
from torch import nn

from freqdino.config import load_config
from freqdino.registration.class_tables import thing_classes
from freqdino.segment_colors import id_to_rgb

demo = load_script("tools/demo.py")
from predictor import class_metadata  # noqa: E402  (the line before sets the path)
from videos import VideoWriter  # noqa: E402

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
    assert run(project, "--input", project / "images", "--task", "panoptic", *options) == 1
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
    assert run(project, "--dataset", "demo_test", "--with-ground-truth", "--task", "instance") == 1
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


def test_output_file(project, capsys):
    image, path = project / "images" / "a.png", project / "new" / "drawn.jpg"
    assert run(project, "--input", image, "--output", path) == 0
    assert Image.open(path).format == "JPEG" and f"-> {path}" in capsys.readouterr().out


def test_options_after_opts_as_in_detectron2(project, capsys):
    arguments = "--input", project / "images" / "a.png", "--opts", "DATASETS.PROPOSAL_FILES_TEST", "('semantic',)"
    assert run(project, *arguments) == 0
    assert "2 classes" in capsys.readouterr().out


@pytest.mark.parametrize(("inputs", "bar"), [(["a.png"], False), (["a.png", "b.png"], True)])
def test_progress_bar_for_more_than_one_input(project, capsys, inputs, bar):
    assert run(project, "--input", *(project / "images" / name for name in inputs)) == 0
    assert (f"{len(inputs)}/{len(inputs)}" in capsys.readouterr().err) == bar


def drawn_words(monkeypatch):
    words = []
    monkeypatch.setattr(Visualizer, "draw_text", lambda self, text, *_, **__: words.append(text))
    return words


def test_names_and_scores(project, monkeypatch):
    words = drawn_words(monkeypatch)
    assert run(project, "--input", project / "images" / "a.png", "--confidence-threshold", 0.4) == 0
    assert sorted(words) == ["cat 90%", "sky 40%"]


@pytest.mark.parametrize("test_sets", ["()", "('gone.json@images', 'unknown')"])
def test_numbers_where_no_data_set_is_known(project, monkeypatch, test_sets):
    words, warned = drawn_words(monkeypatch), []
    monkeypatch.setattr(logging.getLogger("freqdino.tools"), "warning", lambda *message: warned.append(message))
    assert run(project, "--input", project / "images" / "a.png", "--confidence-threshold", 0.4, "DATASETS.TEST",
               test_sets, "DATASETS.TRAIN", "()") == 0
    assert sorted(words) == ["0 90%", "1 40%"]
    reason = "DATASETS.TEST and TRAIN are empty" if test_sets == "()" else "unknown is not registered"
    assert len(warned) == 1 and "classes are shown by number" in warned[0][0] and reason in warned[0][1]


def test_classes_of_the_test_set_where_the_training_set_is_not_here():
    cfg = load_config(opts=["DATASETS.TRAIN", "('gone.json@images',)", "DATASETS.TEST", "('freqdino_scenes_val',)"])
    assert class_metadata(cfg).name == "freqdino_scenes_val"
    assert cfg.DATASETS.TRAIN == ("freqdino_scenes_val",)   # whose table tells the model things from stuff


def test_classes_noted_in_the_checkpoint(tmp_path):
    tables = {"thing_classes": ["cat"], "stuff_classes": ["cat", "sky"], "thing_dataset_id_to_contiguous_id": {7: 0},
              "stuff_dataset_id_to_contiguous_id": {9: 1}}
    torch.save({"model": {}, "classes": tables}, tmp_path / "model.pth")
    cfg = load_config(opts=["DATASETS.TRAIN", "('gone.json@images',)", "DATASETS.TEST", "()", "MODEL.WEIGHTS",
                            str(tmp_path / "model.pth")])
    metadata = class_metadata(cfg)
    assert metadata.stuff_classes == ["cat", "sky"] and metadata.thing_classes == ["cat"]
    assert thing_classes(cfg) == {0}        # the model tells things from stuff


def write_clip(path, frames=4):
    """A grey video of 40x30 pixels, ten frames a second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (40, 30))
    for _ in range(frames):
        writer.write(np.full((30, 40, 3), 128, np.uint8))
    writer.release()


def read_clip(path):
    capture = cv2.VideoCapture(str(path))
    rate, frames = capture.get(cv2.CAP_PROP_FPS), []
    while (frame := capture.read()[1]) is not None:
        frames.append(frame[:, :, ::-1].astype(int))
    return rate, frames


@pytest.mark.parametrize("output", ["out", "new/drawn.avi", "drawn.mp4"])
def test_video(project, capsys, output):
    write_clip(project / "clip.avi")
    assert run(project, "--video-input", project / "clip.avi", "--output", project / output) == 0
    path = project / "out" / "clip.mp4" if output == "out" else project / output
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(f"{project / 'clip.avi'}: 4 frames, ") and line.endswith(f" s each -> {path}")
    rate, frames = read_clip(path)
    assert rate == 10 and len(frames) == 4
    for frame in frames:
        assert frame.shape == (30, 40, 3)
        assert np.ptp(frame[20:, 2:15], axis=-1).mean() > 50 > np.ptp(frame[20:, 28:38], axis=-1).mean()


def test_odd_sides_of_a_video_are_filled_up(tmp_path):
    frame = np.full((31, 41, 3), (200, 0, 0), np.uint8)
    with VideoWriter(tmp_path / "odd.mp4", 12.5) as writer:
        writer.write(frame)
    rate, frames = read_clip(tmp_path / "odd.mp4")
    assert rate == 12.5 and len(frames) == 1 and frames[0].shape == (32, 42, 3)
    assert np.abs(frames[0] - [200, 0, 0]).max() <= 8


class Camera:
    """Gives five grey pictures, then the user presses Ctrl-C. Like most cameras it does not know its frame rate."""

    def __init__(self, number):
        assert number == 2
        self.frames = 5

    def isOpened(self):
        return True

    def get(self, _):
        return 0.0

    def read(self):
        self.frames -= 1
        if self.frames < 0:
            raise KeyboardInterrupt
        return True, np.full((30, 40, 3), 128, np.uint8)

    def release(self):
        pass


@pytest.mark.parametrize(("limit", "count"), [([], 5), (["--max-images", 3], 3)])
def test_camera(project, capsys, monkeypatch, limit, count):
    with monkeypatch.context() as patch:
        patch.setattr(cv2, "VideoCapture", Camera)
        assert run(project, "--webcam", 2, *limit) == 0
    assert f"camera 2: {count} frames, " in capsys.readouterr().out
    rate, frames = read_clip(project / "out" / "camera_2.mp4")
    assert rate == 30 and len(frames) == count


def test_video_without_a_frame(project, capsys, monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    monkeypatch.setattr(Camera, "read", lambda self: (False, None))
    assert run(project, "--webcam", 2) == 1
    assert "camera 2 gives no frame" in capsys.readouterr().err
    assert not list((project / "out").iterdir())


def test_several_processes(project, tmp_path):
    """A real model, since the processes know none of this file; one of the three images is broken."""
    cfg = load_config(str(ROOT / "configs" / "quickstart" / "mask2former.yaml"), ["MODEL.DEVICE", "cpu"])
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "small.pth")
    (project / "images" / "broken.png").write_bytes((project / "images" / "a.png").read_bytes()[:50])
    arguments = ["--config-file", ROOT / "configs" / "quickstart" / "mask2former.yaml", "--input", project / "images",
                 "--weights", tmp_path / "small.pth", "--task", "instance", "--confidence-threshold", 0]
    command = [sys.executable, ROOT / "tools" / "demo.py", *arguments, "--output", project / "out", "--processes", 2]
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300,
                             env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.returncode == 1, process.stderr
    assert "2 of 3 images drawn" in process.stdout and "broken.png" in process.stderr
    assert [line.partition(":")[0] for line in process.stdout.splitlines() if "instances" in line] == [
        str(project / "images" / name) for name in ("a.png", "b.png")]
    assert run(project, *arguments, "--output", project / "alone") == 1
    for name in ("a.png", "b.png"):
        alone = np.asarray(Image.open(project / "alone" / name))
        assert (alone == np.asarray(Image.open(project / "out" / name))).all()


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
    (["--input", "{}/images", "--output", "{}/out.png"], "out.png is a file, but there are 2 images; name a folder"),
    (["--input", "{}/images", "INPUT.FORMAT", "HSV"], "INPUT.FORMAT is 'HSV'; known are RGB, BGR"),
    (["--video-input", "{}/none.mp4"], "none.mp4 does not exist"),
    (["--video-input", "{}/config.yaml"], "config.yaml cannot be read as a video"),
    (["--video-input", "{}/clip.avi", "--output", "{}/out.mkv"], "out.mkv: videos are written as .mp4 or .avi"),
    (["--webcam", "99"], "there is no camera 99"),
])
def test_errors_that_end_the_run(project, capsys, arguments, message):
    (project / "out").mkdir()
    write_clip(project / "clip.avi")
    status = run(project, *[argument.format(project) for argument in arguments])
    error = capsys.readouterr().err
    assert status == 1 and error.startswith("demo.py: ") and message in error


@pytest.mark.parametrize(("arguments", "message"), [
    (["--confidence-threshold", "1.5", "--input", "x"], "--confidence-threshold must be in 0..1, got 1.5"),
    (["--max-images", "0", "--input", "x"], "--max-images must be at least 1, got 0"),
    (["--processes", "0", "--input", "x"], "--processes must be at least 1, got 0"),
    (["--processes", "2", "--webcam"], "--processes shares images"),
    (["--with-ground-truth", "--input", "x"], "--with-ground-truth needs --dataset"),
    (["--input", "MODEL.DEVICE", "cpu"], "--input names no image"),
    ([], "one of the arguments --input --dataset --video-input --webcam is required"),
])
def test_bad_arguments(project, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        run(project, *arguments)
    assert message in capsys.readouterr().err

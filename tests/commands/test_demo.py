"""tools/demo.py with a model that predicts fixed results: inputs, tasks, threshold, ground truth, errors."""
import json
import logging
import os
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.utils.visualizer import Visualizer
from PIL import Image

from freqdino.config import load_config
from freqdino.engine.showing import artist
from freqdino.visualization.output_files import output_paths
from helpers.demo_project import DemoTestModel, demo_project, run
from helpers.paths import ROOT


@pytest.fixture
def project(tmp_path):
    return demo_project(tmp_path)


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
    assert "the task panoptic: the model predicts ['semantic']; its TEST options" in capsys.readouterr().err


def test_folders_patterns_and_names_that_repeat(project, capsys):
    (project / "images" / "notes.txt").write_text("no image")
    status = run(project, "--input", project / "images", project / "images" / "?.png", "--max-images", 3)
    assert status == 0
    assert sorted(path.name for path in (project / "out").iterdir()) == ["a.png", "a_2.png", "b.png"]
    assert "3 of 3 images drawn" in capsys.readouterr().out


def test_names_that_look_numbered_stay_apart(project, tmp_path):
    names = ["x/a.png", "x/a.jpg", "x/a_2.png", "y/a.png", "y/a_2.png"]
    paths = output_paths([{"file_name": name} for name in names], tmp_path)
    assert [path.name for path in paths] == ["a.png", "a_2.png", "a_2_2.png", "a_3.png", "a_2_3.png"]


@pytest.mark.parametrize("output", ["images", "images/a.png", "link"])
def test_inputs_are_not_overwritten(project, capsys, output):
    (project / "link").symlink_to(project / "images")
    before = (project / "images" / "a.png").read_bytes()
    assert run(project, "--input", project / "images" / "a.png", "--output", project / output) == 1
    assert "--output would overwrite the input" in capsys.readouterr().err
    assert (project / "images" / "a.png").read_bytes() == before


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


def test_dataset_whose_files_are_not_here(project, capsys, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    assert run(project, "--dataset", "ade20k_sem_seg_val") == 1
    error = capsys.readouterr().err
    assert "ADEChallengeData2016/images/validation does not exist" in error and "datasets/README.md" in error


def test_own_data_by_name(project, capsys):
    entries = [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 20, 0, 20, 30]]}]
    (project / "own.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": "b.png", "height": 30, "width": 40}], "annotations": entries,
        "categories": [{"id": 1, "name": "cat"}]}))
    name = f"{project / 'own.json'}@{project / 'images'}"
    assert run(project, "--dataset", name, "--with-ground-truth", "--task", "instance") == 0
    assert "b.png: 40x30, 1 instances" in capsys.readouterr().out


def test_segments_without_score_are_drawn_and_it_is_said(project, monkeypatch, caplog):
    predict = DemoTestModel.predict

    def without_scores(self, **sample):
        output = predict(self, **sample)
        for segment in output["panoptic_seg"][1]:
            del segment["score"]
        return output
    monkeypatch.setattr(DemoTestModel, "predict", without_scores)
    warned = []
    monkeypatch.setattr(artist, "log_first_n", lambda level, message, **_: warned.append(message))
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
    monkeypatch.setattr(logging.getLogger("freqdino.engine.class_metadata"), "warning",
                        lambda *message: warned.append(message))
    assert run(project, "--input", project / "images" / "a.png", "--confidence-threshold", 0.4, "DATASETS.TEST",
               test_sets, "DATASETS.TRAIN", "()") == 0
    assert sorted(words) == ["0 90%", "1 40%"]
    reason = "DATASETS.TEST and TRAIN are empty" if test_sets == "()" else "unknown is not registered"
    assert len(warned) == 1 and "classes are shown by number" in warned[0][0] and reason in warned[0][1]


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


def test_process_that_dies(project, monkeypatch, capsys):
    def die(*_):
        raise BrokenProcessPool

    monkeypatch.setattr(artist.ProcessPoolExecutor, "map", die)
    assert run(project, "--input", project / "images", "--processes", 2) == 1
    error = capsys.readouterr().err
    assert "error: one of the processes was ended from outside" in error and "fewer than --processes 2" in error


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
])
def test_errors_that_end_the_run(project, capsys, arguments, message):
    (project / "out").mkdir()
    status = run(project, *[argument.format(project) for argument in arguments])
    error = capsys.readouterr().err
    assert status == 1 and error.startswith("error: ") and message in error

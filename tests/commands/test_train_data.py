"""train_net.py on data sets with faults: said in one line before the first iteration, or trained on and evaluated."""
import json
import shutil
from pathlib import Path

import pytest

from freqdino.commands.train import run
from helpers.small_training import fails, options, results


@pytest.fixture
def edited(squares, tmp_path):
    """Makes a copy of the squares whose document ``change`` has changed; returns its own-data name."""
    def make(change, name="copy"):
        shutil.copytree(Path(squares.partition("@")[2]).parent, tmp_path / name)
        path = tmp_path / name / "squares.json"
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))
        return f"{path}@{tmp_path / name / 'images'}"
    return make


def with_text_ids(document):
    for image in document["images"][1:]:            # of both types
        image["id"] = f"img_{image['id']}"
    for annotation in document["annotations"][1:]:
        annotation["image_id"] = f"img_{annotation['image_id']}"


def all_crowd(document):
    for annotation in document["annotations"]:
        annotation["iscrowd"] = 1


def started(folder):
    return "Starting training" in (folder / "log.txt").read_text()


def test_image_ids_that_are_text_are_trained_on_and_evaluated(edited, tmp_path):
    name = edited(with_text_ids)
    run(options(name, tmp_path / "out", "SOLVER.MAX_ITER", "1"))
    assert started(tmp_path / "out") and set(results(tmp_path / "out")[name]) == {"bbox", "segm"}


@pytest.mark.parametrize("change, message", [
    (all_crowd, "all 4 annotations are crowd regions"),
    (lambda document: document.update(annotations=[]), "there is no annotation in it"),
    (lambda document: document["annotations"][3].update(segmentation=[]), "has an annotation without segmentation"),
    (lambda document: document["images"][3].update(width="64"), "has the width '64'; expected a whole number"),
    (lambda document: document["images"][3].update(width=65), r"3.png is 64x48 (width x height), its annotations say"),
])
def test_faults_of_training_and_test_sets_come_before_training(edited, squares, tmp_path, capsys, change, message):
    name = edited(change)
    for number, words in enumerate((["DATASETS.TEST", "()"], ["DATASETS.TRAIN", f"('{squares}',)"])):
        output = tmp_path / f"out{number}"
        error = fails(capsys, options(name, output, "SOLVER.MAX_ITER", "1", *words))
        expected = "there is no segmentation, but masks" if number == 0 and "without segm" in message else message
        assert expected in error and len(error.strip().splitlines()) == 1
        assert not started(output)


def test_two_training_sets_of_other_classes(edited, squares, tmp_path, capsys):
    other = edited(lambda document: document["categories"][1].update(name="night"))
    error = fails(capsys, options(squares, tmp_path / "out", "DATASETS.TRAIN", f"('{squares}', '{other}')"))
    assert f"{squares} and {other} have different classes: 'dark' only in the first, 'night' only in the sec" in error
    assert not started(tmp_path / "out")


def test_broken_pictures_are_left_out(edited, tmp_path):
    name = edited(lambda document: None)
    (tmp_path / "copy" / "images" / "1.png").write_bytes(b"not a picture")
    run(options(name, tmp_path / "out", "SOLVER.MAX_ITER", "1", "DATALOADER.SKIP_UNREADABLE", "True"))
    assert (tmp_path / "out" / "log.txt").read_text().count("1 of the 4 pictures of") == 2
    assert set(results(tmp_path / "out")[name]) == {"bbox", "segm"}

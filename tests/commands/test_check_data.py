"""tools/check_data.py: counts by class and size, every fault at once, exit status, configurations."""
import json
import shutil
from pathlib import Path

import pytest

from freqdino.commands.check_data import main
from helpers.small_training import options
from helpers.tables import cells


@pytest.fixture
def copied(squares, tmp_path):
    """A copy of the squares, to be damaged; returns (own-data name, JSON path, image folder)."""
    source = Path(squares.partition("@")[2]).parent
    shutil.copytree(source, tmp_path / "data")
    path, images = tmp_path / "data" / "squares.json", tmp_path / "data" / "images"
    return f"{path}@{images}", path, images


def edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_counts_by_class_and_size(copied, capsys):
    name, path, _ = copied
    polygon = [0, 0, 40, 0, 40, 40, 0, 40]      # 1600 pixels: medium; the squares have 400
    edit(path, lambda document: document["annotations"].append(
        {"id": 9, "image_id": 1, "category_id": 2, "segmentation": [polygon]}))
    assert main([name]) == 0
    said = capsys.readouterr()
    assert cells(said.out) == [["class", "pictures", "objects", "small", "medium", "large"],
                               ["bright", "2", "2", "2", "0", "0"], ["dark", "3", "3", "2", "1", "0"],
                               ["all classes", "4", "5", "4", "1", "0"]]
    assert "4 pictures, 0 of them cannot be read" in said.out and "data sets checked: 1; faults found: 0" in said.out
    assert said.err == ""


def test_all_faults_are_listed(copied, capsys):
    name, path, images = copied

    def change(document):
        document["annotations"][0]["category_id"] = "1"
        document["annotations"][1]["segmentation"] = [[1, 1]]
    edit(path, change)
    (images / "2.png").write_bytes(b"no picture")
    (images / "3.png").write_bytes((images / "3.png").read_bytes()[:-30])
    assert main([name, "--processes", "2"]) == 1
    said = capsys.readouterr()
    for part in ("entry number 0 of 'annotations' has the category_id '1'; expected a whole number",
                 "annotation 2 of image 1.png (image_id 2): a polygon needs", "2.png cannot be read",
                 "3.png cannot be read"):
        assert said.err.count(part) == 1, part
    assert said.err.count("error: ") == 4 and "faults found: 4" in said.out and "Traceback" not in said.err


def test_a_configuration_is_read_as_it_trains_and_evaluates(squares, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("MODEL: {DEVICE: cpu}\n")
    words = ["--config-file", str(tmp_path / "config.yaml"), *options(squares, tmp_path / "out")]
    assert main(words) == 0
    assert "data sets checked: 2; faults found: 0" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert main([*words, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "5", "INPUT.DATASET_MAPPER_NAME", "coco_panoptic_lsj"]) == 1
    error = capsys.readouterr().err
    assert "set MODEL.SEM_SEG_HEAD.NUM_CLASSES 2" in error
    assert "INPUT.DATASET_MAPPER_NAME coco_panoptic_lsj does not read the data set" in error


def test_names_that_are_none(squares, tmp_path, capsys):
    assert main(["nowhere", f"{tmp_path}/gone.json@{tmp_path}", squares]) == 1
    said = capsys.readouterr()
    assert "dataset 'nowhere' is not registered" in said.err and "gone.json does not exist" in said.err
    assert "4 pictures" in said.out and "data sets checked: 3; faults found: 2" in said.out
    assert main(["SEED", "1"]) == 1
    assert "SEED is an option of a configuration" in capsys.readouterr().err

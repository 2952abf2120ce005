"""The tables of the configurations: what is out of date is named and mended, what does not fit together is refused."""
import importlib.util
import shutil

import pytest

from freqdino.config import loading
from helpers.paths import CONFIGS, ROOT

spec = importlib.util.spec_from_file_location("config_tables", ROOT / ".github" / "config_tables.py")
config_tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(config_tables)
main, parts_of_name = config_tables.main, config_tables.parts_of_name


@pytest.fixture
def folder(tmp_path, monkeypatch):
    copy = shutil.copytree(CONFIGS, tmp_path / "configs")
    monkeypatch.setattr(loading, "configs_folder", lambda: copy)
    return copy


def test_what_is_out_of_date_is_named_and_written_anew(folder, capsys):
    assert main(["--check"]) == 0
    leaf, readme = folder / "coco" / "instance" / "mask2former_r50.yaml", folder / "README.md"
    published = readme.read_text()
    leaf.write_text(leaf.read_text().replace("mask AP 43.7;", "mask AP 99.9;").replace("instance/", "stance/"))
    assert main(["--check"]) == 1 and readme.read_text() == published
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == [str(leaf), str(readme)]
    assert main([]) == main(["--check"]) == 0
    row, = (line for line in readme.read_text().splitlines() if line.startswith("| [mask2former_r50](coco/instance/"))
    assert row == ("| [mask2former_r50](coco/instance/mask2former_r50.yaml) | instance | Mask2Former | R50 | "
                   "43,970,257 | mask AP 99.9 ⁴ |")


def test_leaves_that_are_not_listed(folder, capsys):
    (folder / "coco" / "instance" / "mask2former_r50.yaml").unlink()
    assert main(["--check"]) == 1
    assert "configs/leaves.json and the leaves differ: coco/instance/mask2former_r50" in capsys.readouterr().err


def test_parts_of_a_name():
    assert parts_of_name("a/b/faster_rcnn_r50_dysample_s") == ("Faster R-CNN", "R50", ["dysample_s"])
    assert parts_of_name("a/b/maskdino_deit3_b_12ep_fdam") == ("Mask DINO", "DeiT-III-B", ["fdam"])
    with pytest.raises(ValueError, match="configs/a/b/mask2former_vgg.yaml: a name is <model>_<backbone>"):
        parts_of_name("a/b/mask2former_vgg")

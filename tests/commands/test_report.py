"""tools/report.py on the folder of a small run: the whole page, in a browser where there is one; what it refuses."""
import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from freqdino.analysis.report import sections
from freqdino.commands import report
from freqdino.config import load_config
from freqdino.data import register_custom_datasets
from freqdino.data.panoptic_png import id_to_rgb
from helpers.browser import chromium
from helpers.paths import ROOT

SECTIONS = ["configuration", "training", "metrics", "images", "cost"]
LEAF = "configs/quickstart/mask2former.yaml"


@pytest.fixture(scope="module")
def evaluated_run(tmp_path_factory):
    """A run of random weights on own panoptic data: three pictures, a thing on the left half and stuff beside it."""
    folder = tmp_path_factory.mktemp("report")
    for name in ("images", "segments", "run/inference"):
        (folder / name).mkdir(parents=True)
    ids = np.tile(np.where(np.arange(64) < 32, 7, 9), (48, 1))
    images = [{"id": number, "file_name": f"{number}.png", "height": 48, "width": 64} for number in (1, 2, 3)]
    for image in images:
        Image.fromarray(np.full((48, 64, 3), 60 * image["id"], np.uint8)).save(folder / "images" / image["file_name"])
        Image.fromarray(id_to_rgb(ids)).save(folder / "segments" / image["file_name"])
    (folder / "own.json").write_text(json.dumps({
        "images": images, "annotations": [{"image_id": image["id"], "file_name": image["file_name"], "segments_info": [
            {"id": 7, "category_id": 1}, {"id": 9, "category_id": 2}]} for image in images],
        "categories": [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}]}))
    data = f"{folder}/own.json@{folder}/images@{folder}/segments"
    register_custom_datasets([data])
    options = ["DATASETS.TRAIN", str((data,)), "DATASETS.TEST", str((data,)), "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "2",
               "MODEL.DEVICE", "cpu", "SOLVER.AMP.ENABLED", "False", "INPUT.MIN_SIZE_TEST", "64"]
    cfg = load_config(str(ROOT / LEAF), options)
    run = folder / "run"
    (run / "config.yaml").write_text(cfg.dump())
    (run / "log.txt").write_text(f"Command line arguments: Namespace(config_file='{LEAF}', opts={options})\n")
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, run / "model_final.pth")
    (run / "metrics.json").write_text("\n".join(map(json.dumps, [
        {"iteration": 19, "total_loss": 8.0, "loss_ce": 3.0}, {"iteration": 39, "total_loss": 5.0, "loss_ce": 2.0},
        {"iteration": 40, "panoptic_seg/PQ": 12.5}])))
    (run / "inference" / "results.json").write_text(json.dumps(
        {data: {"panoptic_seg": {"PQ": 12.5, "PQ-cat": 20.0, "PQ-sky": 5.0}}}))
    return run


@pytest.fixture(scope="module")
def page(evaluated_run):
    assert report.main([str(evaluated_run), "--shown", "1"]) == 0
    return evaluated_run / "report.html"


class Elements(HTMLParser):
    """(tag, attributes) of all elements, and the text."""

    def __init__(self, text):
        super().__init__()
        self.found, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def test_page(page):
    elements = Elements(page.read_text())
    assert [attributes["id"] for tag, attributes in elements.found if tag == "section"] == SECTIONS
    text = " ".join(elements.words)
    assert f"on which {LEAF} is built" in text and "../_base_/data_scenes.yaml" in text
    # A key that the leaf sets, one of the command line, and one that is the base's.
    assert "MODEL.MASK_FORMER.HIDDEN_DIM 256 64 configuration file" in " ".join(text.split())
    assert "MODEL.SEM_SEG_HEAD.NUM_CLASSES 7 2 command line" in " ".join(text.split())
    assert "MODEL.META_ARCHITECTURE" not in text
    for words in ("Total loss", "Losses of the last layer", "PQ", "cat", "20.0", "sky", "Best", "Worst",
                  "panoptic quality of the image", "One image of 85 x 64 pixels", "sem_seg_head.predictor", "GFLOPs"):
        assert words in text


def test_page_needs_no_network(page):
    for tag, attributes in Elements(page.read_text()).found:
        assert tag not in ("script", "iframe", "object")
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith(("data:", "#"))
    assert "url(" not in page.read_text() and "@import" not in page.read_text()


def test_page_in_a_browser(page, tmp_path):
    with chromium() as open_tab:
        tab, notes = open_tab(1100, 800)
        tab.goto(page.as_uri())
        for name in SECTIONS:
            section = tab.locator(f"section#{name}")
            assert section.is_visible()
            for part in section.locator("table, svg, img").all():
                box = part.bounding_box()
                assert part.is_visible() and box["width"] > 100 and box["height"] > 20
                assert 0 <= box["x"] and box["x"] + box["width"] <= 1100
            assert section.locator("table, svg, img").count() > 0
        assert tab.locator("img").evaluate_all("pictures => pictures.every(p => p.complete && p.naturalWidth > 0)")
        tab.screenshot(path=tmp_path / "report.png", full_page=True)
        height = tab.evaluate("document.documentElement.scrollHeight")
    assert notes.complaints == []
    assert [url for url in notes.requests if not url.startswith("data:")] == [page.as_uri()]
    screenshot = np.asarray(Image.open(tmp_path / "report.png").convert("RGB"))
    assert screenshot.shape == (height, 1100, 3) and height > 800
    assert (screenshot[20:120] < 100).any() and (screenshot == 255).all(axis=-1).mean() > 0.3


@pytest.fixture
def copied_run(evaluated_run, tmp_path):
    return shutil.copytree(evaluated_run, tmp_path / "copy", ignore=shutil.ignore_patterns("report.html"))


def refused(run, capsys, *arguments):
    assert report.main([str(run), *arguments]) == 1
    error = capsys.readouterr().err
    assert "error: " in error and not (run / "report.html").exists()
    return error


def test_run_without_evaluation(copied_run, capsys):
    shutil.rmtree(copied_run / "inference")
    assert "has no finished evaluation" in refused(copied_run, capsys)


@pytest.mark.parametrize(("name", "message"), [("config.yaml", "is no OUTPUT_DIR of train_net.py"),
                                               ("model_final.pth", "holds no checkpoint")])
def test_run_without_a_file(copied_run, capsys, name, message):
    (copied_run / name).unlink()
    assert message in refused(copied_run, capsys)


def test_no_such_folder(tmp_path, capsys):
    assert "there is no such folder" in refused(tmp_path / "none", capsys)


@pytest.mark.parametrize(("options", "message"), [
    (["DATASETS.TEST", "()"], "DATASETS.TEST is empty"),
    (["DATASETS.TEST", "('no_such_set',)"], "no_such_set is not registered"),
    (["DATASETS.TEST", "('none.json@images',)"], "annotation file none.json does not exist"),
    (["MODEL.MASK_FORMER.HIDDEN_DIM", "32"], "does not fit"),
    (["MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "False", "MODEL.MASK_FORMER.TEST.SEMANTIC_ON", "False",
      "MODEL.MASK_FORMER.TEST.INSTANCE_ON", "True"],
     "the model predicts ['instance'], its data set has ground truth for ['panoptic']"),
    (["--weights", "none.pth"], "none.pth")])
def test_what_cannot_be_reported(copied_run, capsys, options, message):
    assert message in refused(copied_run, capsys, *options)


def test_output_file(evaluated_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sections, "cost_section", lambda *_: "")
    path = tmp_path / "new" / "page.html"
    assert report.main([str(evaluated_run), "--output", str(path), "--max-images", "1"]) == 0
    assert f"report written to {path}" in capsys.readouterr().out
    assert "Of the first 1 images" in path.read_text()


def test_an_output_that_is_a_folder_is_said_at_once(tmp_path, capsys):
    assert report.main([str(tmp_path), "--output", str(tmp_path)]) == 1
    assert f"error: --output {tmp_path} is a folder; name a file" in capsys.readouterr().err

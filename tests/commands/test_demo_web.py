"""tools/demo.py --web in a headless Chromium: what it asks for, shows and hands out; and what the command refuses."""
import importlib.util
import io
import json
import shutil
import socket
import sys
import tempfile
import threading
import time
import zipfile

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from freqdino.commands import demo
from freqdino.engine.showing import artist, web_demo
from freqdino.engine.showing.web_demo import listen
from helpers.browser import chromium
from helpers.demo_project import demo_project, run

PATIENCE = 20_000       # milliseconds
COLUMNS = 5
connections, watching = [], []


def note_connection(event, arguments):
    """Connections and look-ups of names by this process; a hook cannot be taken away again."""
    if watching and event in ("socket.connect", "socket.getaddrinfo"):
        connections.append(arguments)


@pytest.fixture
def watched_process(monkeypatch):
    sys.addaudithook(note_connection)
    monkeypatch.setattr(sys.modules[__name__], "watching", [True])
    socket.getaddrinfo("127.0.0.1", 80)
    assert connections.pop()[0] == "127.0.0.1"      # so it would be noticed


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.delenv("GRADIO_TEMP_DIR")       # the command sets it, which ends with the test
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return demo_project(tmp_path)


def serve(project, *arguments):
    return demo.main(["--config-file", str(project / "config.yaml"), "--web", "--port", "0", *map(str, arguments)])


class Page:
    """The page of a tab."""

    def __init__(self, tab, address):
        self.tab = tab
        tab.set_default_timeout(PATIENCE)
        tab.goto(address)

    def upload(self, path):
        self.tab.locator("input[type=file]").first.set_input_files(str(path))

    def wait_for(self, text):
        self.tab.get_by_text(text).first.wait_for()

    def picture(self):
        """Of the drawing, RGB."""
        drawn = self.tab.get_by_alt_text("the picture with what is predicted drawn into it")
        contents = self.tab.request.get(drawn.get_attribute("src")).body()
        return np.asarray(Image.open(io.BytesIO(contents)).convert("RGB")).astype(int)

    def rows(self):
        cells = self.tab.locator("[data-testid^=cell-]").all_inner_texts()
        return [cells[start:start + COLUMNS] for start in range(0, len(cells), COLUMNS)]

    def wait_for_rows(self, expected):
        """The table follows a moment after its data."""
        end = time.monotonic() + PATIENCE / 1000
        while self.rows() != expected and time.monotonic() < end:
            self.tab.wait_for_timeout(50)
        assert self.rows() == expected

    def press_slider(self, key, times=1):
        for _ in range(times):
            self.tab.get_by_role("slider").press(key)

    def download(self):
        with self.tab.expect_download() as waiting:
            self.tab.get_by_text("Masks and results").click()
        with zipfile.ZipFile(waiting.value.path()) as archive:
            return {name: archive.read(name) for name in archive.namelist()}


def colored(pixels):
    """The shares of the left and of the right half, below the labels, that are not grey."""
    spread = np.ptp(pixels[pixels.shape[0] // 2:], axis=-1) > 8
    middle = spread.shape[1] // 2
    return spread[:, :middle].mean(), spread[:, middle:].mean()


def test_page_in_a_browser(project, monkeypatch, capsys, watched_process):
    """A cat on the left, score 0.9, and sky on the right, 0.4: see `DemoTestModel`."""
    pytest.importorskip("gradio", reason="needs gradio: pip install freqdino[web]")
    Image.fromarray(np.full((20, 60, 3), 128, np.uint8)).save(project / "wide.png")
    (project / "broken.png").write_bytes((project / "images" / "a.png").read_bytes()[:50])
    visited = []

    def visit():
        out = capsys.readouterr().out
        visited.append(address := out.partition("the page is at ")[2].partition(",")[0])
        assert address.startswith("http://127.0.0.1:")
        assert list(project.glob("freqdino_demo_*"))
        with chromium() as open_tab:
            (tab, *notes), (other_tab, *other_notes) = open_tab(1200, 900), open_tab(1200, 900)
            page, other = Page(tab, address), Page(other_tab, address)
            see_everything(page, other, project)
            choose_another_meanwhile(other, project, monkeypatch)
            page.wait_for_rows([["1", "cat", "", "0, 0, 20, 30", "600"], ["2", "sky", "", "20, 0, 40, 30", "600"]])
            for seen in notes + other_notes:
                assert [message for message in seen.complaints if message[0] == "error"] == []
                assert len(seen.requests) > 10
                assert [url for url in seen.requests if not url.startswith((address + "/", "data:", "blob:"))] == []
            elsewhere = address.replace("127.0.0.1", "localhost")       # another origin
            assert tab.evaluate(f"fetch('{elsewhere}/theme.css').then(() => 'there', () => 'forbidden')") == "forbidden"

    monkeypatch.setattr(demo, "wait_for_ctrl_c", visit)
    assert serve(project, "--input", project / "images" / "a.png") == 0
    assert visited and connections == []
    assert not list(project.glob("freqdino_demo_*"))        # nothing stays that was uploaded


def see_everything(page, other, project):
    cat, sky = ["1", "cat", "0.90", "0, 0, 20, 30", "600"], ["2", "sky", "0.40", "20, 0, 40, 30", "600"]
    page.upload(project / "images" / "b.png")
    page.wait_for("40 x 30 pixels")
    page.wait_for("1 at 0.5 or above")
    page.wait_for_rows([cat])
    drawn = page.picture()
    assert drawn.shape == (480, 640, 3)
    left, right = colored(drawn)
    assert left > 0.9 and right < 0.1

    other.upload(project / "wide.png")      # another visitor's picture: results do not mix
    other.wait_for("60 x 20 pixels")

    page.press_slider("ArrowLeft", 15)
    page.wait_for("2 at 0.35 or above")
    page.wait_for_rows([cat, sky])
    left, right = colored(page.picture())
    assert left > 0.9 and right > 0.9
    check_files(page.download())

    page.tab.get_by_label("instance").check()
    page.wait_for_rows([["1", "cat", "0.90", "0, 0, 0, 0", "600"], ["2", "cat", "0.40", "0, 0, 0, 0", "600"]])
    page.press_slider("End")
    page.wait_for("none at 1 or above")
    page.wait_for_rows([])
    assert max(colored(page.picture())) < 0.1
    page.tab.get_by_label("semantic").check()
    page.wait_for("2 shown")
    page.wait_for_rows([["1", "cat", "", *cat[3:]], ["2", "sky", "", *sky[3:]]])
    assert page.tab.get_by_role("slider").is_disabled()

    other.wait_for_rows([["1", "cat", "0.90", "0, 0, 30, 20", "600"]])
    other.tab.locator("img[src$='/a.png']").click()         # the example
    other.wait_for("40 x 30 pixels")
    other.wait_for_rows([cat])


def choose_another_meanwhile(page, project, monkeypatch):
    """A picture that cannot be read, while another one is predicted: nothing of that one is left."""
    begun, go_on, predict = threading.Event(), threading.Event(), web_demo.predict

    def predict_slowly(predictor, path):
        if path.endswith("wide.png"):
            begun.set()
            assert go_on.wait(PATIENCE / 1000)
        return predict(predictor, path)

    monkeypatch.setattr(web_demo, "predict", predict_slowly)
    page.upload(project / "wide.png")
    assert begun.wait(PATIENCE / 1000)
    page.upload(project / "broken.png")
    page.tab.wait_for_timeout(500)
    go_on.set()
    page.wait_for("image file broken.png cannot be read")
    page.wait_for("No picture yet")
    page.wait_for_rows([])


def check_files(files):
    assert sorted(files) == ["masks.png", "result.json", "shown.json"]
    halves = np.tile(np.repeat([1, 2], 20), (30, 1))
    assert (np.asarray(Image.open(io.BytesIO(files["masks.png"]))) == halves).all()
    result, shown = json.loads(files["result.json"]), json.loads(files["shown.json"])
    assert (result["height"], result["width"]) == (30, 40)
    assert (mask_util.decode(result["panoptic"][1]["mask"]) == halves - 1).all()
    assert (shown["task"], shown["threshold"]) == ("panoptic", 0.35)
    assert [(one["id"], one["name"], one["area"]) for one in shown["shown"]] == [(1, "cat", 600), (2, "sky", 600)]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--output", "out"], "--output has no use with --web"),
    (["--video-input", "film.mp4"], "--video-input has no use with --web"),
    (["--webcam"], "--webcam has no use with --web"),
    (["--processes", "2", "--input", "a.png"], "--processes has no use with --web"),
    (["--dataset", "demo_test", "--with-ground-truth"], "--with-ground-truth has no use with --web"),
    (["--port", "65536"], "--port must be in 0..65535, got 65536"),
])
def test_wrong_command_lines(project, capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        serve(project, *arguments)
    assert end.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "message"), [
    (["--input", "{}/images/none.png"], "images/none.png does not exist"),
    (["--input", "{}/config.yaml"], "config.yaml cannot be read"),
    (["--task", "instance", "DATASETS.PROPOSAL_FILES_TEST", "('semantic',)"],
     "the task instance: the model predicts ['semantic']; its TEST options"),
])
def test_what_ends_the_command_before_there_is_a_page(project, capsys, arguments, message):
    pytest.importorskip("gradio", reason="needs gradio: pip install freqdino[web]")
    assert serve(project, *[argument.format(project) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error


def test_a_port_that_is_taken(project, capsys):
    pytest.importorskip("gradio", reason="needs gradio: pip install freqdino[web]")
    with listen(0) as taken:
        port = taken.getsockname()[1]
        assert serve(project, "--port", port) == 1
    error = capsys.readouterr().err
    assert f"error: port {port} of 127.0.0.1 cannot be used (Address already in use); name another by --port" in error


def test_without_gradio(project, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert serve(project) == 1
    assert capsys.readouterr().err == "error: the web page needs the package gradio: pip install freqdino[web]\n"


def test_the_folder_of_a_run_needs_no_configuration(project, capsys):
    folder = project / "run"
    folder.mkdir()
    shutil.copy(project / "config.yaml", folder)
    shutil.copy(project / "model.pth", folder / "model_final.pth")
    image, out = project / "images" / "a.png", project / "out"
    assert demo.main(["--weights", str(folder), "--input", str(image), "--output", str(out)]) == 0
    assert "1 segments" in capsys.readouterr().out
    assert run(project, "--weights", folder, "--input", image) == 0      # with another configuration, as ever


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_an_exported_file_is_what_the_predictor_is_given(monkeypatch, name):
    given = []
    monkeypatch.setattr(artist, "Predictor", lambda *source, **more: given.append((source, more)))
    args = demo.parse_arguments(["--weights", name, "--web"])
    artist.load_predictor(demo.settings_of(args))
    assert given == [((name,), {"config": None, "options": (), "dataset": None})]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--input", "a.png", "--output", "out"], "--config-file is needed"),
    (["--weights", "model.pth", "--web"], "--config-file is needed: --weights model.pth is no folder of a run"),
    (["--weights", "model.onnx", "--config-file", "x.yaml", "--web"], "leave out --config-file"),
    (["--config-file", "x.yaml", "--input", "a.png"], "--output is needed, or --web"),
    (["--config-file", "x.yaml", "--output", "out"], "one of --input, --dataset, --video-input, --webcam and --web"),
    (["--config-file", "x.yaml", "--input", "a.png", "--output", "out", "--port", "1"], "--port is the web page's"),
])
def test_what_a_command_line_needs(capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        demo.main(arguments)
    assert end.value.code == 2 and message in capsys.readouterr().err

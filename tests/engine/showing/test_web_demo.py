"""What stands behind the web demo's page, without a browser."""
import io
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from freqdino import Predictor
from freqdino.engine.showing.web_demo import ADDRESS, build_page, listen, predict, tasks_of, view
from helpers.demo_project import demo_project


@pytest.fixture
def project(tmp_path):
    return demo_project(tmp_path)


def predictor_of(project, *tasks):
    return Predictor(config=project / "config.yaml", options=["DATASETS.PROPOSAL_FILES_TEST", tasks])


@pytest.mark.parametrize(("predicted", "asked", "offered"), [
    ((), None, ["panoptic", "instance", "semantic"]), ((), "semantic", ["semantic", "panoptic", "instance"]),
    (("instance",), None, ["instance"]), (("semantic",), "semantic", ["semantic"])])
def test_tasks_that_are_offered(project, predicted, asked, offered):
    assert tasks_of(predictor_of(project, *predicted), asked) == offered


def test_a_model_that_predicts_nothing_of_what_is_asked(project):
    with pytest.raises(ValueError, match=r"the task panoptic: the model predicts \['instance'\]; its TEST options"):
        tasks_of(predictor_of(project, "instance"), "panoptic")


def test_a_model_that_predicts_nothing(project, monkeypatch):
    predictor = predictor_of(project)
    monkeypatch.setattr(type(predictor._model), "predict", lambda self, **sample: {})
    with pytest.raises(ValueError, match=r"the task panoptic, instance or semantic: the model predicts \[\]; its TEST"):
        tasks_of(predictor, None)


@pytest.mark.parametrize(("task", "count", "rows"), [
    ("panoptic", "1 at 0.5 or above", [[1, "cat", "0.90", "0, 0, 20, 30", 600]]),
    ("instance", "1 at 0.5 or above", [[1, "cat", "0.90", "0, 0, 0, 0", 600]]),
    ("semantic", "2 shown", [[1, "cat", "", "0, 0, 20, 30", 600], [2, "sky", "", "20, 0, 40, 30", 600]])])
def test_each_task_of_a_model_that_predicts_it_alone(project, task, count, rows):
    prediction = predict(predictor_of(project, task), str(project / "images" / "a.png"))
    seen = view(prediction, task=task, threshold=0.5, scale=1)
    assert seen.rows == rows
    assert seen.line.startswith("40 x 30 pixels, predicted in ") and seen.line.endswith(f" s: {count}")
    assert seen.picture.size == (640, 480)      # a small picture is enlarged for its labels
    with zipfile.ZipFile(io.BytesIO(seen.archive)) as archive:
        assert list(json.loads(archive.read("result.json"))) == [
            "height", "width", {"instance": "instances"}.get(task, task)]


def test_a_large_picture_keeps_its_size(project):
    Image.fromarray(np.zeros((10, 700, 3), np.uint8)).save(project / "long.png")
    prediction = predict(predictor_of(project), str(project / "long.png"))
    assert view(prediction, task="semantic", threshold=0.5, scale=1).picture.size == (700, 10)
    assert view(prediction, task="semantic", threshold=0.5, scale=2).picture.size == (1400, 20)


def test_nothing_above_the_threshold(project):
    prediction = predict(predictor_of(project), str(project / "images" / "a.png"))
    seen = view(prediction, task="panoptic", threshold=0.95, scale=1)
    assert seen.rows == [] and seen.line.endswith(" s: none at 0.95 or above")
    with zipfile.ZipFile(io.BytesIO(seen.archive)) as archive:
        assert not np.asarray(Image.open(io.BytesIO(archive.read("masks.png")))).any()


def test_what_is_kept_draws_as_the_result_does(project):
    predictor, path = predictor_of(project), str(project / "images" / "a.png")
    kept, result = predict(predictor, path).result, predictor(path)
    for task in ("panoptic", "instance", "semantic"):
        drawn = [np.asarray(one.draw(task=task, threshold=0.3)) for one in (kept, result)]
        assert (drawn[0] == drawn[1]).all()
    assert torch.equal(kept.semantic, result.semantic)


def test_an_error_names_the_file_without_its_folder(project):
    (project / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="^image file broken.png cannot be read: ") as error:
        predict(predictor_of(project), str(project / "broken.png"))
    assert str(project) not in str(error.value)


def test_a_port_is_of_this_machine_alone_and_one_server_s():
    with listen(0) as listener:
        address, port = listener.getsockname()
        assert address == ADDRESS == "127.0.0.1"
        with pytest.raises(OSError, match=f"port {port} of 127.0.0.1 cannot be used .*name another by --port"):
            listen(port)
    listen(port).close()


def test_the_page_s_fields(project):
    gradio = pytest.importorskip("gradio", reason="needs gradio: pip install freqdino[web]")
    page = build_page(predictor_of(project, "instance", "semantic"), [], project, task="semantic", threshold=0.7)
    fields = {type(block): block for block in page.blocks.values()}
    assert [value for _, value in fields[gradio.Radio].choices] == ["semantic", "instance"]
    assert fields[gradio.Radio].value == "semantic"
    assert fields[gradio.Slider].value == 0.7 and not fields[gradio.Slider].interactive
    assert gradio.Dataset not in fields and page.analytics_enabled is False

"""OUTPUT_WRITERS: files that are named alone, and a run of MLflow in a real store of sqlite."""
import importlib.util
import json
import logging
import os
import re
import signal

import pytest
from detectron2.utils.events import EventStorage

from freqdino.commands.train import run
from freqdino.config import load_config
from freqdino.engine import writers
from freqdino.engine.trainer import Trainer
from freqdino.engine.writers import MlflowWriter, changed_keys
from freqdino.errors import ConfigError, Stopped
from helpers.small_training import fails, options

pytestmark = pytest.mark.usefixtures("loggers_as_before")
MLFLOW = ["OUTPUT_WRITERS", "('json', 'mlflow')"]
with_mlflow = pytest.mark.skipif(importlib.util.find_spec("mlflow") is None,
                                 reason="needs mlflow: pip install freqdino[trackers]")


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def runs_of_store(database, request, tmp_path, monkeypatch):
    """Asks for the runs of this test, whose experiment is its own; the folder is one where MLflow may leave things."""
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    experiment = MlflowClient(database).create_experiment(request.node.name)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    return lambda: MlflowClient(database).search_runs([experiment])


def history(database, run_id, name):
    """(iteration, value) of a metric, as they were written."""
    from mlflow import MlflowClient

    return [(metric.step, metric.value) for metric in MlflowClient(database).get_metric_history(run_id, name)]


def write(writer, iteration, **metrics):
    with EventStorage(iteration) as storage:
        storage.put_scalars(**metrics, smoothing_hint=False)
        writer.write()


def settings(tmp_path):
    return load_config(opts=["OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "7"])


def test_only_those_that_are_named(squares, tmp_path):
    run(options(squares, tmp_path, "OUTPUT_WRITERS", "('console',)", "SOLVER.MAX_ITER", "1"))
    names = [path.name for path in tmp_path.iterdir()]
    assert "model_final.pth" in names and "metrics.json" not in names
    assert not any(name.startswith("events.") for name in names)


@pytest.mark.parametrize("value", ["('json', 'wandb')", "('json', 'json')"])
def test_names_that_are_known_once_each(value):
    with pytest.raises(ConfigError, match="OUTPUT_WRITERS is .*; known are console, json, tensorboard, mlflow, each"):
        load_config(opts=["OUTPUT_WRITERS", value])


def test_pictures_need_tensorboard():
    with pytest.raises(ConfigError, match="VIS_PERIOD is 5, but OUTPUT_WRITERS .* lacks tensorboard"):
        load_config(opts=["OUTPUT_WRITERS", "('json',)", "VIS_PERIOD", "5"])


def test_a_missing_package_is_said_before_anything_is_done(squares, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: None)
    message = fails(capsys, options(squares, tmp_path / "output", *MLFLOW))
    assert "OUTPUT_WRITERS" in message and "pip install freqdino[trackers]" in message
    assert not (tmp_path / "output").exists()


def test_what_differs_from_the_defaults():
    cfg = load_config(opts=["SOLVER.MAX_ITER", "7", "DATASETS.TRAIN", "('a',)", "MODEL.DEVICE", "cpu"])
    assert changed_keys(cfg) == {"SOLVER.MAX_ITER": 7, "DATASETS.TRAIN": ("a",), "MODEL.DEVICE": "cpu"}


@with_mlflow
def test_a_training_and_its_resumption_are_one_run(squares, tmp_path, database, runs_of_store):
    output = tmp_path / "first"
    run(options(squares, output, *MLFLOW))
    [found] = runs_of_store()
    assert found.info.run_name == "first" and found.info.status == "FINISHED"
    assert found.data.params["SOLVER.MAX_ITER"] == "4" and "SOLVER.GAMMA" not in found.data.params
    run(["--resume", *options(squares, output, *MLFLOW, "SOLVER.MAX_ITER", "6")])
    [again] = runs_of_store()
    assert again.info.run_id == found.info.run_id and again.info.status == "FINISHED"
    rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    losses = [(row["iteration"], row["total_loss"]) for row in rows if "total_loss" in row]
    assert [iteration for iteration, _ in losses] == [3, 5]
    assert history(database, found.info.run_id, "total_loss") == losses
    assert "segm/AP" in again.data.metrics


@with_mlflow
@pytest.mark.parametrize("error, status", [(None, "FINISHED"), (ValueError("a bad batch"), "FAILED"),
                                           (Stopped(signal.SIGTERM), "KILLED")])
def test_how_a_run_ends(error, status, tmp_path, runs_of_store):
    writer = MlflowWriter(settings(tmp_path))
    try:
        with writer.run(goes_on=False):
            assert [found.info.status for found in runs_of_store()] == ["RUNNING"]
            if error:
                raise error
    except type(error) as raised:
        assert raised is error
    assert [found.info.status for found in runs_of_store()] == [status]


@with_mlflow
def test_a_signal_ends_a_training_and_its_run(squares, tmp_path, runs_of_store, monkeypatch):
    step = Trainer.run_step

    def interrupted(trainer):
        if trainer.iter == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        step(trainer)

    monkeypatch.setattr(Trainer, "run_step", interrupted)
    with pytest.raises(SystemExit) as caught:
        run(options(squares, tmp_path / "run", *MLFLOW))
    assert caught.value.code == 143
    assert [(found.info.status, found.data.metrics["lr"] > 0) for found in runs_of_store()] == [("KILLED", True)]


@with_mlflow
def test_a_second_signal_while_the_store_is_written(tmp_path, runs_of_store, monkeypatch):
    writer = MlflowWriter(settings(tmp_path))

    def interrupted(*_, **__):
        raise Stopped(signal.SIGINT)

    with pytest.raises(Stopped, match="SIGINT"), writer.run(goes_on=False):
        monkeypatch.setattr("mlflow.MlflowClient.log_batch", interrupted)
        raise Stopped(signal.SIGTERM)
    assert [found.info.status for found in runs_of_store()] == ["KILLED"]


@with_mlflow
def test_another_training_in_the_folder_is_another_run(tmp_path, runs_of_store):
    for _ in range(2):
        with MlflowWriter(settings(tmp_path)).run(goes_on=False):
            pass
    assert len(runs_of_store()) == 2


@with_mlflow
def test_a_name_that_mlflow_has_not(tmp_path, database, runs_of_store):
    writer = MlflowWriter(settings(tmp_path))
    with writer.run(goes_on=False):
        write(writer, 3, **{"val.json@images#val=0.8/segm/AP": 12.5})
    [found] = runs_of_store()
    assert history(database, found.info.run_id, "val.json_images_val_0.8/segm/AP") == [(3, 12.5)]


@with_mlflow
def test_a_store_that_does_not_answer_is_said_once_and_gets_all_later(tmp_path, database, runs_of_store, monkeypatch,
                                                                     caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")     # nobody listens there
    monkeypatch.setattr(writers, "LEAST_PAUSE", 0.0)
    monkeypatch.setattr(writers, "PATIENCE", 0)
    writer = MlflowWriter(settings(tmp_path))
    with caplog.at_level(logging.WARNING, "freqdino"), writer.run(goes_on=False):
        write(writer, 1, loss=2.0)
        write(writer, 2, loss=1.5)
        assert len(re.findall("MLflow's store fails", caplog.text)) == 1
        monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    [found] = runs_of_store()
    assert history(database, found.info.run_id, "loss") == [(1, 2.0), (2, 1.5)]
    assert found.info.status == "FINISHED" and found.data.params["SOLVER.MAX_ITER"] == "7"


@with_mlflow
def test_a_training_ends_well_where_no_store_is(squares, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    run(options(squares, tmp_path, *MLFLOW, "SOLVER.MAX_ITER", "1"))
    assert (tmp_path / "model_final.pth").is_file()
    said = (tmp_path / "log.txt").read_text()
    assert said.count("MLflow's store fails") == 1 and "MLflow did not take" in said

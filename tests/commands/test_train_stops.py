"""train_net.py that is stopped by a signal, by a full disk, by a folder it cannot write to; and a loss that rises."""
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from freqdino.commands.command_line import StopSignals
from freqdino.commands.train import run
from freqdino.engine.loss_watch import LossWatch
from freqdino.engine.trainer import Trainer
from freqdino.errors import Stopped
from helpers.paths import ROOT
from helpers.small_training import fails, options, results

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}      # what shells have for a process that a signal ended


def stopped(capsys, words):
    with pytest.raises(SystemExit) as caught:
        run(words)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return caught.value.code, error[error.index("stopped by"):]


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_during_a_step(squares, tmp_path, capsys, monkeypatch, number):
    """The step is finished, kept, and the run goes on from there as if nothing had been."""
    run(options(squares, tmp_path / "straight"))
    step = Trainer.run_step

    def interrupted(trainer):
        if trainer.iter == 1:
            os.kill(os.getpid(), number)
        step(trainer)

    monkeypatch.setattr(Trainer, "run_step", interrupted)
    status, message = stopped(capsys, options(squares, tmp_path / "run", "DATALOADER.NUM_WORKERS", "1"))
    assert status == STATUS[number]
    assert message == f"stopped by {number.name}; --resume continues from {tmp_path}/run/model_0000001.pth\n"
    assert not (tmp_path / "run" / "inference").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    run(["--resume", *options(squares, tmp_path / "run")])
    one, other = (torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"]
                  for name in ("straight", "run"))
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("last, kept", [(False, "model_0000001.pth"), (True, "model_0000003.pth")])
def test_a_signal_during_an_evaluation(squares, tmp_path, capsys, monkeypatch, last, kept):
    """It ends at once; a step that no checkpoint has yet is kept before."""
    evaluate, seen = Trainer.test, []

    def interrupted(*args, **options):
        seen.append(None)
        if len(seen) == (2 if last else 1):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        return evaluate(*args, **options)

    monkeypatch.setattr(Trainer, "test", staticmethod(interrupted))
    status, message = stopped(capsys, options(squares, tmp_path, "TEST.EVAL_PERIOD", "2"))
    assert status == 143 and f"continues from {tmp_path}/{kept}" in message


def test_a_signal_before_the_training(squares, tmp_path, capsys, monkeypatch):
    interrupt = staticmethod(lambda cfg: os.kill(os.getpid(), signal.SIGINT) or time.sleep(60))
    monkeypatch.setattr(Trainer, "build_model", interrupt)
    assert stopped(capsys, options(squares, tmp_path)) == (130, "stopped by SIGINT\n")


def test_two_processes_stop_together(squares, tmp_path):
    """Ctrl-C reaches every process of a terminal, those that read the data too."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train_net.py"), "--num-gpus", "2", "--dist-url", "auto",
         *options(squares, tmp_path, "SOLVER.MAX_ITER", "100000", "DATALOADER.NUM_WORKERS", "1")],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    metrics, patience = tmp_path / "metrics.json", time.monotonic() + 300
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < patience:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130 and "Traceback" not in error
    (checkpoint,) = tmp_path.glob("model_*.pth")
    assert f"stopped by SIGINT; --resume continues from {checkpoint}" in error
    assert len(torch.load(checkpoint, weights_only=True)["processes"]) == 2


def test_signals_are_noted_echoes_ignored_and_impatience_heard(monkeypatch):
    with StopSignals() as stop:
        with stop.after_the_step():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.received == signal.SIGTERM
            with pytest.raises(Stopped, match="stopped by SIGTERM"), stop.at_once():
                pass
            monkeypatch.setattr("freqdino.commands.command_line.IMPATIENCE", 0.0)
            with pytest.raises(Stopped, match="stopped by SIGINT"):
                os.kill(os.getpid(), signal.SIGINT)
    with StopSignals(), pytest.raises(Stopped, match="stopped by SIGINT"):
        os.kill(os.getpid(), signal.SIGINT)


def test_forked_processes_end_when_they_are_told_to_and_not_by_ctrl_c():
    """A pool ends its processes by SIGTERM and waits for them; a terminal sends Ctrl-C to all, of which one decides."""
    with StopSignals():
        helper = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), daemon=True)
        helper.start()
        os.kill(helper.pid, signal.SIGINT)
        helper.join(1)
        assert helper.is_alive()
        helper.terminate()
        helper.join(60)
        assert helper.exitcode == -signal.SIGTERM


def test_a_full_disk_names_the_file(squares, tmp_path, capsys, monkeypatch):
    """The limit of a file's size stands for it: torch writes a part of the checkpoint, then fails."""
    resource = pytest.importorskip("resource", reason="limits of a process are Unix's")
    before, save = resource.getrlimit(resource.RLIMIT_FSIZE), Trainer.save_checkpoint

    def save_on_a_full_disk(trainer):
        if trainer.iter == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
        save(trainer)

    monkeypatch.setattr(Trainer, "save_checkpoint", save_on_a_full_disk)
    try:
        error = fails(capsys, options(squares, tmp_path, "SOLVER.CHECKPOINT_PERIOD", "2", "SOLVER.MAX_ITER", "4"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.startswith(f"error: {tmp_path}/model_0000003.pth cannot be written (File too large)")
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert sorted(path.name for path in tmp_path.glob("model*")) == ["model_0000001.pth"]
    assert torch.load(tmp_path / "model_0000001.pth", weights_only=True)["iteration"] == 1


def test_a_log_that_cannot_be_written(squares, tmp_path, capsys):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full, which takes no byte")
    (tmp_path / "metrics.json").symlink_to("/dev/full")
    error = fails(capsys, options(squares, tmp_path))
    assert error == f"error: [Errno 28] No space left on device: '{tmp_path}'\n"


def test_folders_that_cannot_be_written_to(squares, tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    assert fails(capsys, options(squares, file)) == f"error: OUTPUT_DIR {file} cannot be written to: File exists\n"
    error = fails(capsys, options(squares, file / "below"))
    assert error == f"error: OUTPUT_DIR {file}/below cannot be written to: Not a directory\n"


@pytest.mark.parametrize("losses, said", [
    ([30.0, 6e10, 5e10, 4e10], True),       # the first step is what blows it up
    ([30.0, 31.0, 29.0, 6e10, 5e10, 4e10, 5e10], True),
    ([30.0, 80.0, 85.0, 90.0], False),      # a first batch with little in it
    ([0.0, 31.0, 29.0, 30.0], False),
])
def test_when_a_loss_counts_as_risen(losses, said, caplog):
    watch = LossWatch(base_lr=1.0)
    for iteration, loss in enumerate(losses):
        storage = SimpleNamespace(latest=lambda loss=loss: {"total_loss": (loss, 0)})
        watch.trainer = SimpleNamespace(iter=iteration, max_iter=len(losses), storage=storage)
        watch.after_step()
    assert ("The loss has risen" in caplog.text) == said


def test_a_loss_that_rises_is_said(squares, tmp_path):
    run(options(squares, tmp_path / "high", "SOLVER.BASE_LR", "10.0", "SOLVER.MAX_ITER", "10"))
    log = (tmp_path / "high" / "log.txt").read_text()
    assert "The loss has risen from " in log and "SOLVER.BASE_LR 10 is probably too high" in log
    run(options(squares, tmp_path / "right", "SOLVER.MAX_ITER", "10"))
    assert "The loss has risen" not in (tmp_path / "right" / "log.txt").read_text()
    losses = [json.loads(line) for line in (tmp_path / "high" / "metrics.json").read_text().splitlines()]
    assert losses[0]["total_loss"] > 1000
    assert list(results(tmp_path / "high").values())[0]["segm"]["AP"] == 0

"""What the commands share: their ends, and choices that are spelt out where the rooms that rule them load slowly."""
import logging
import os
import subprocess
import sys

import pytest

from freqdino.analysis.frequency import figures
from freqdino.commands import analyze_frequency, command_line, convert_weights, demo, prepare
from freqdino.conversion.families import FAMILIES
from freqdino.errors import USER_ERRORS, ConfigError
from freqdino.visualization.drawing import OUTPUT_KEYS


@pytest.mark.parametrize("error", [ConfigError("MODEL.X: wrong"), KeyError("MODEL.X: wrong"), OSError("MODEL.X: wrong"),
                                   FloatingPointError("MODEL.X: wrong")])
def test_an_error_of_the_users_is_a_sentence_and_status_1(error, capsys):
    def work():
        raise error

    assert isinstance(error, USER_ERRORS) and command_line.exit_status(work) == 1
    assert capsys.readouterr() == ("", "error: MODEL.X: wrong\n")


def test_a_fault_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        command_line.exit_status(lambda: 1 // 0)


def test_status_of_work_that_ends_well():
    assert command_line.exit_status(lambda: None) == 0 and command_line.exit_status(lambda: 3) == 3


def test_options_after_the_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MODEL.png").touch()
    words = ["a.png", "MODEL.png", "MODEL.DEVICE", "cpu"]
    assert command_line.split_options(words) == (["a.png", "MODEL.png"], ["MODEL.DEVICE", "cpu"])


def test_choices_are_those_of_the_rooms():
    assert demo.TASKS == tuple(OUTPUT_KEYS) and convert_weights.FORMATS == tuple(FAMILIES)
    for subject in analyze_frequency.SUBJECTS:
        assert callable(analyze_frequency.module_of(subject).measure) and callable(getattr(figures, subject))
    assert [name for name, (_, splits) in prepare.PREPARATIONS.items() if splits == prepare.COCO] == [
        "coco_semantic", "coco_stuff"]


# As Detectron2's engine and the measurements of memory do: the builder is imported, the CPU profiled.
SCRIPT = """
import freqdino.commands
import logging
import torch
import torch.utils.cpp_extension
logging.getLogger("torch.utils.cpp_extension").warning("No CUDA runtime is found, using CUDA_HOME='/usr/local'")
with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True):
    torch.ones(3) + 1
"""


def test_no_message_about_cuda():
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "CUDA_HOME": "/usr/local", "PYTHONWARNINGS": "ignore"}
    environment.pop("KINETO_LOG_LEVEL", None)
    result = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True,
                            check=True, timeout=300)
    assert result.stdout == result.stderr == ""


@pytest.mark.parametrize(("message", "passes"), [("No CUDA runtime is found, using CUDA_HOME='/x'", False),
                                                 ("The detected CUDA version mismatches", True)])
def test_other_warnings_pass(message, passes):
    record = logging.LogRecord("torch.utils.cpp_extension", logging.WARNING, "", 0, message, (), None)
    assert command_line.is_not_about_cuda(record) is passes

"""What the commands share: their ends, and choices that are spelt out where the rooms that rule them load slowly."""
import logging
import os
import subprocess
import sys
from importlib import import_module

import pytest
import torch
from torch.utils import cpp_extension

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


# A command's words: what it says to them.
WRONG = """
    ablation --jobs 0: --jobs must be at least 1, got 0
    ablation --sedes 1: unrecognized arguments: --sedes
    ablation --group rivals: invalid choice: 'rivals'
    ablation SOLVER.MAX_ITER: expected KEY VALUE pairs
    analyze_frequency: the following arguments are required: SUBJECT
    analyze_frequency spectra: invalid choice: 'spectra'
    analyze_frequency attention --input x --output y: one of the arguments --config-file --timm is required
    analyze_frequency attention --timm t --output y: one of the arguments --input --dataset is required
    analyze_frequency attention --timm t --dataset x --output y: --dataset needs --config-file
    analyze_frequency attention --timm t --input x --output y MODEL.DEVICE cpu: options do not apply to --timm
    analyze_frequency attention --timm t --input MODEL.DEVICE --output y: --input names no image
    analyze_frequency attention --timm t --input x --output y --max-images 0: --max-images must be at least 1, got 0
    analyze_frequency compare a --output y: the following arguments are required: DIR
    analyze_model: one or two configurations (.yaml) come first, got 0
    analyze_model MODEL.MASK_ON True: got 0: MODEL.MASK_ON True
    analyze_model a.yaml b.yaml c.yaml: got 3: a.yaml b.yaml c.yaml
    analyze_model --all a.yaml: --all takes no configuration, got a.yaml
    analyze_model a.yaml SOLVER.MAX_ITER: options come in pairs KEY VALUE, got 1 words: SOLVER.MAX_ITER
    analyze_model a.yaml MODEL.DEVICE cuda: --device chooses the device
    analyze_model a.yaml --size 0 5: --size must be at least 1, got 0
    analyze_model a.yaml --batch -1: --batch must be at least 1, got -1
    benchmark nothing: invalid choice: 'nothing'
    benchmark carafe --repeats 0: --repeats must be at least 1, got 0
    check_data: name a data set, or a configuration with --config-file
    check_data --processes 0 x: --processes must be at least 1, got 0
    convert_data labelme:a b.txt: FILE must end in .json, got b.txt
    convert_weights a.pth b.safetensors --config-file c: TARGET must end in .pth or .pkl
    demo --config-file c --output o --confidence-threshold 1.5 --input x: --confidence-threshold must be in 0..1
    demo --config-file c --output o --max-images 0 --input x: --max-images must be at least 1, got 0
    demo --config-file c --output o --processes 0 --input x: --processes must be at least 1, got 0
    demo --config-file c --output o --processes 2 --webcam: --processes shares images
    demo --config-file c --output o --with-ground-truth --input x: --with-ground-truth needs --dataset
    demo --config-file c --output o --input MODEL.DEVICE cpu: --input names no image
    demo --config-file c --output o: one of --input, --dataset, --video-input, --webcam and --web is needed
    quickstart_options mask2former freqfuson: there is no module freqfuson
    quickstart_options mask2former fdam fdam: a module is named twice: fdam fdam
    report folder --max-images 0: --max-images must be at least 1, got 0
    report folder --shown 0: --shown must be at least 1, got 0
    visualize_data --config-file x --output y --max-images 0: --max-images
    visualize_data --config-file x --output y --seed -1: --seed
    visualize_data --config-file x --output y --scale 0: --scale
"""


def ends_with_status_2(line, message, capsys):
    command, *words = line.split()
    with pytest.raises(SystemExit, match="2"):
        import_module(f"freqdino.commands.{command}").main(words)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("line", WRONG.strip().splitlines())
def test_a_wrong_command_line_is_said(line, capsys):
    ends_with_status_2(*line.split(": ", 1), capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("words", ["analyze_model a.yaml", "benchmark carafe"])
def test_no_cuda_device(words, capsys):
    ends_with_status_2(f"{words} --device cuda", "PyTorch finds no CUDA device", capsys)


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
    if not hasattr(cpp_extension, "logger"):
        pytest.skip(f"torch {torch.__version__} prints its message, which nothing can filter")
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


# As torch 2.14 says it, to fvcore at its import and then word for word.
TORCHSCRIPT = """
import freqdino.commands
import warnings
import fvcore.nn.focal_loss
warnings.warn("`torch.jit.script` is deprecated. Please switch to `torch.compile` or `torch.export`.", FutureWarning)
"""


@pytest.mark.parametrize(("chosen", "said"), [("", False), ("default", True)])
def test_torchscript_is_spoken_of_to_those_who_chose_warnings(chosen, said):
    result = subprocess.run([sys.executable, "-c", TORCHSCRIPT], env={**os.environ, "PYTHONWARNINGS": chosen},
                            capture_output=True, text=True, check=True, timeout=300)
    assert ("torch.jit.script" in result.stderr) is said

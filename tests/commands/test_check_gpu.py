"""tools/check_gpu.py on the CPU: every part runs, what is wrong or ends in an error is told and costs the status."""
import pytest
import torch

from freqdino.analysis import gpu_check
from freqdino.commands import check_gpu

pytestmark = pytest.mark.usefixtures("loggers_as_before")
REHEARSAL = ["--device", "cpu", "--size", "64"]


def test_a_rehearsal(monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "LARGE", {"small": ("quickstart/mask2former.yaml", 110)})
    monkeypatch.setattr(gpu_check, "TYPES", (torch.float32, torch.bfloat16))
    assert check_gpu.main(REHEARSAL) == 0
    printed = capsys.readouterr().out
    rows = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in printed.splitlines()
            if line.startswith("|")}
    assert rows["deformable attention twice"] == rows["CARAFE twice"] == "the same bit for bit"
    assert rows["CARAFE in Triton, torch.float32"] == "cpu is not CUDA"
    assert rows["Mask DINO with every module, gradients"] == "missing or not finite: none"
    assert rows["2 steps in torch.bfloat16"].startswith("loss ") and "small, 64², a step" in rows
    assert printed.splitlines()[-1] == "0 wrong"


def test_what_is_wrong_and_what_ends_in_an_error(monkeypatch, capsys):
    def ends(device, size):
        yield "first", "0", True
        raise RuntimeError("no such\nregister")

    monkeypatch.setattr(gpu_check, "PARTS", {"sums": lambda device, size: [("sum", "3", False)], "kernels": ends})
    assert check_gpu.main(REHEARSAL) == 1
    printed = capsys.readouterr().out
    assert "ends in RuntimeError: no such" in printed and printed.splitlines()[-1] == "2 wrong: sum; kernels"


def test_no_gpu(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        check_gpu.main([])
    assert "--device cuda: PyTorch finds no CUDA device" in capsys.readouterr().err

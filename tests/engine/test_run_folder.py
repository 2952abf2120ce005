"""The folder of a run: its last command line, and the weights that it ended with."""
import pytest

from freqdino.config import load_config
from freqdino.engine.run_folder import command_line, find_checkpoint


@pytest.mark.parametrize("text", ["Namespace(config_file=", "Namespace(config_file=open('x'))", "'words'"])
def test_arguments_of_another_program(tmp_path, text):
    (tmp_path / "log.txt").write_text(f"Command line arguments: {text}\n")
    assert command_line(tmp_path) == {}


def test_checkpoints(tmp_path):
    cfg = load_config(opts=["MODEL.DEVICE", "cpu"])
    with pytest.raises(FileNotFoundError, match="holds no checkpoint .model_final.pth.; --weights"):
        find_checkpoint(tmp_path, cfg)
    for name in ("model_0000009.pth", "model_final.pth", "model_final_ema.pth"):
        (tmp_path / name).touch()
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    assert find_checkpoint(tmp_path, cfg) == str(tmp_path / "model_final.pth")
    cfg.MODEL_EMA.ENABLED = True
    assert find_checkpoint(tmp_path, cfg) == str(tmp_path / "model_final_ema.pth")
    cfg.MODEL_EMA.ENABLED = False
    (tmp_path / "model_final.pth").unlink()
    assert find_checkpoint(tmp_path, cfg) == str(tmp_path / "model_0000009.pth")


def test_checkpoint_of_a_run_of_eval_only(tmp_path):
    """The results are of MODEL.WEIGHTS, whatever else lies in the folder; --resume evaluates the folder's own."""
    cfg = load_config(opts=["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "elsewhere/model.pth"])
    (tmp_path / "model_final.pth").touch()
    start = "[01/01] detectron2: Command line arguments: Namespace(config_file='x.yaml', resume={}, eval_only={})\n"
    for resume, eval_only, path in ((False, True, "elsewhere/model.pth"), (True, True, tmp_path / "model_final.pth"),
                                    (False, False, tmp_path / "model_final.pth")):
        (tmp_path / "log.txt").write_text(start.format(resume, eval_only))
        assert find_checkpoint(tmp_path, cfg) == str(path)

"""What the folder of a run of train_net.py holds: its configuration, last command line and final weights."""
import ast
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from freqdino.checkpoint.files import run_checkpoint
from freqdino.errors import CheckpointError


def find_config(run: Path) -> Path:
    """The run's config.yaml. FileNotFoundError where there is none."""
    path = run / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: {run} is no OUTPUT_DIR of train_net.py")
    return path


def find_checkpoint(run: Path, cfg: CfgNode) -> str:
    """What was evaluated at the end, or the last checkpoint written.

    Where the run's last start was one of --eval-only, what that evaluated: MODEL.WEIGHTS, unless it had --resume.

    Raises FileNotFoundError: there is none; the message says how to name one.
    """
    arguments = command_line(run)
    if arguments.get("eval_only") and not arguments.get("resume") and cfg.MODEL.WEIGHTS:
        return cfg.MODEL.WEIGHTS
    try:
        return run_checkpoint(str(run), averaged=cfg.MODEL_EMA.ENABLED)
    except CheckpointError as error:
        raise FileNotFoundError(f"{error}; --weights names one elsewhere") from error


def command_line(run: Path) -> dict:
    """The arguments of the run's last start, from log.txt; empty where they are not to be found."""
    log = run / "log.txt"
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    for line in reversed(lines):
        _, found, text = line.partition("Command line arguments: ")
        if found:
            try:
                call: Any = ast.parse(text, mode="eval").body
                return {argument.arg: ast.literal_eval(argument.value) for argument in call.keywords}
            except (SyntaxError, ValueError, AttributeError):   # another program's arguments
                return {}
    return {}

"""Models as files that run without their code: torch.export and ONNX, verified; and such files in use."""
from pathlib import Path

FORMATS = {"onnx": ".onnx", "torch-export": ".pt2"}     # name -> suffix of the file
OPSETS = (18, 19, 20)       # of ONNX


def is_exported_file(source: object) -> bool:
    """Whether ``source`` names a file of tools/export.py, by its suffix."""
    return isinstance(source, (str, Path)) and Path(source).suffix in FORMATS.values()

"""The file that a conversion ends in, for MODEL.WEIGHTS: .pth of torch.save, or .pkl of numpy arrays."""
import pickle
from pathlib import Path

import torch

from freqdino.checkpoint.files import write_whole
from freqdino.conversion.conversion import Conversion
from freqdino.errors import ConversionError


def write(target: Path, conversion: Conversion, format_name: str) -> None:
    """Write the checkpoint whole or not at all.

    Raises ConversionError for tensors that .pkl has no type for, CheckpointError for a file that cannot be written.
    """
    # Detectron2's own loader finds a backbone's place in a model by the ends of names.
    contents = {"model": conversion.written, "__author__": f"convert_weights.py, {format_name}",
                "matching_heuristics": bool(conversion.part)}
    if target.suffix == ".pkl":
        contents["model"] = as_arrays(conversion.written)
    write_whole(target, lambda file: pickle.dump(contents, file) if target.suffix == ".pkl" else
                torch.save(contents, file))


def as_arrays(tensors: dict) -> dict:
    foreign = next((name for name, tensor in tensors.items() if tensor.dtype == torch.bfloat16), None)
    if foreign is not None:
        raise ConversionError(f"{foreign} is bfloat16, which .pkl cannot hold: give TARGET the suffix .pth")
    return {name: tensor.numpy() for name, tensor in tensors.items()}

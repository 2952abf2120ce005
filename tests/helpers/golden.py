"""Golden numbers: tensors that the published implementations computed, in safetensors files.

They lie in tests/golden; the environment variable FREQDINO_GOLDEN adds a folder of the same layout, in which they are
looked for first. A file that is in neither is an error: no comparison is left out silently.
"""
import json
import os
from pathlib import Path

import torch
from safetensors import safe_open

from helpers.paths import TESTS

FOLDERS = [TESTS / "golden"]
if "FREQDINO_GOLDEN" in os.environ:
    FOLDERS.insert(0, Path(os.environ["FREQDINO_GOLDEN"]))
    if not FOLDERS[0].is_dir():
        raise NotADirectoryError(f"FREQDINO_GOLDEN names {FOLDERS[0]}, which is no folder")


def has_golden(name):
    """Whether ``modules/<x>`` or ``models/<x>`` is at hand."""
    return any((folder / f"{name}.safetensors").is_file() for folder in FOLDERS)


def load_golden(name):
    """Read ``modules/<x>`` or ``models/<x>``: ({tensor name: tensor}, case), the case being the header's JSON."""
    for folder in FOLDERS:
        path = folder / f"{name}.safetensors"
        if path.is_file():
            with safe_open(path, "pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}
                return tensors, json.loads(file.metadata()["case"])
    raise FileNotFoundError(f"golden file {name}.safetensors is in none of {', '.join(map(str, FOLDERS))}")


def subset(tensors, prefix):
    """The tensors whose name starts with ``prefix``, with the prefix cut off."""
    return {key[len(prefix):]: value for key, value in tensors.items() if key.startswith(prefix)}


def assert_agrees(actual, expected, what, relative=1e-4):
    """Equal shapes, and max|a - b| <= relative * max|b| + 1e-6."""
    assert actual.shape == expected.shape, f"{what}: {tuple(actual.shape)} against {tuple(expected.shape)}"
    if expected.numel() == 0:
        return
    actual, expected = actual.detach().double(), expected.double()
    error = (actual - expected).abs().max().item()
    bound = relative * expected.abs().max().item() + 1e-6
    assert error <= bound and torch.isfinite(actual).all(), f"{what}: error {error:.3g} exceeds {bound:.3g}"

"""Writes checkpoint files whole, and reads every format of the published models, running no code that a file may carry.

Formats: torch.save files (.pth, .pt, .pyth, whole training states or bare state dicts), pickles of numpy arrays (.pkl,
as in Detectron2's model zoo, Caffe2's among them) and .safetensors.
"""
import codecs
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
import torch
from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names
from detectron2.utils.file_io import PathManager
from torch import _utils as torch_utils

from freqdino.checkpoint.download import cache_path, fetch
from freqdino.checkpoint.names.version_0_1 import current_name
from freqdino.checkpoint.sources import address_of, known_sha256, nearest, source_of
from freqdino.checkpoint.whole_files import written_whole
from freqdino.errors import CheckpointError

HUB_SCHEMES = ("torchvision://", "timm://", "hf://")     # of `freqdino.checkpoint.weights`, which reads these itself
LAST = "last_checkpoint"                    # the file that names the newest checkpoint of a run
TENSOR_ENTRIES = ("model", "state_dict", "model_state", "blobs")    # Detectron2, timm and mmseg, pycls, Caffe2


def local_path(path: str) -> str:
    """A file on this machine for a path, the folder of a run, a name that `address_of` knows, or an address.

    Addresses: https://, http://, detectron2:// and the other schemes of Detectron2's PathManager. An address may end in
    #sha256=<digits>, which its file is held against. What is fetched is kept, see `freqdino.checkpoint.download`.
    Raises CheckpointError where there is none; the message says what to do.
    """
    url = address_of(path)
    if url.startswith(("https://", "http://")):
        url, _, sha256 = url.partition("#sha256=")
        return fetch(url, cache_path(url), sha256=sha256 or known_sha256(url))
    if "://" in url:
        scheme = url.partition("://")[0] + "://"
        known = [*HUB_SCHEMES, *PathManager._path_handlers]
        if not url.startswith(tuple(PathManager._path_handlers)):
            raise CheckpointError(f"{path}: no weights come by {scheme}{nearest(scheme, known)}")
        try:
            path = PathManager.get_local_path(url)
        except (OSError, KeyError) as error:    # KeyError: a name that Detectron2's catalogue does not have
            raise CheckpointError(f"{url}: the download failed ({error or type(error).__name__}). Fetch the file "
                                  'elsewhere and set MODEL.WEIGHTS to its path, or set MODEL.WEIGHTS "" to start from '
                                  "random weights.") from error
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        return run_checkpoint(path)
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: no such checkpoint file. {source_of(path)}Set MODEL.WEIGHTS to the path of "
                              "one, or to \"\" to start from random weights.")
    return path


def run_checkpoint(folder: str, *, averaged: bool = True) -> str:
    """The final checkpoint of a run's folder, else the last one written; with ``averaged`` the averaged weights first.

    Raises CheckpointError where the folder has none.
    """
    names = [*(["model_final_ema.pth"] if averaged else []), "model_final.pth"]
    last = os.path.join(folder, LAST)
    if os.path.isfile(last):
        with open(last, encoding="utf-8") as file:
            names.append(file.read().strip())
    for name in names:
        if os.path.isfile(os.path.join(folder, name)):
            return os.path.join(folder, name)
    raise CheckpointError(f"{folder} holds no checkpoint ({', '.join(names)})")


def write_whole(path: str, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write(file)`` fill ``path``, which has all of it or stays as it was: written beside it, then renamed.

    Raises CheckpointError, with the file's name, where that fails, as on a full disk.
    """
    try:
        with written_whole(path) as file:
            write(file)
    except (OSError, RuntimeError) as error:    # torch.save turns what its file raises into RuntimeError
        reason = error if isinstance(error, OSError) or not error.__context__ else error.__context__
        raise CheckpointError(f"{path} cannot be written ({getattr(reason, 'strerror', None) or reason}); "
                              "what was saved before is whole") from error


def read_checkpoint(path: str) -> dict[str, Any]:
    """The contents of a file: {"model": {name: tensor}, "caffe2": bool, and whatever else it holds, such as "trainer"}.

    What version 0.1 wrote has its entries under their present names. Raises CheckpointError for a file that is
    truncated, of another format, or would run code when read.
    """
    contents = _read_file(path)
    if not isinstance(contents, Mapping):
        raise CheckpointError(f"{path}: holds a {type(contents).__name__}, not a dictionary of tensors")
    entry = next((name for name in TENSOR_ENTRIES if isinstance(contents.get(name), Mapping)), None)
    rest = {} if entry is None else {name: value for name, value in contents.items() if name != entry}
    tensors = {}
    for name, value in (contents if entry is None else contents[entry]).items():
        if isinstance(value, (np.ndarray, np.generic)):
            value = torch.from_numpy(np.array(value))
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{path}: entry {name!r} is a {type(value).__name__}, not a tensor")
        tensors[current_name(name)] = value
    # Caffe2 is recognised by its names of weights, as in res2_0_branch2a_w; the momenta are of no use.
    caffe2 = any(name.endswith("_w") for name in tensors)
    if caffe2:
        tensors = convert_c2_detectron_names({k: v for k, v in tensors.items() if not k.endswith("_momentum")})[0]
    return {**rest, "model": tensors, "caffe2": caffe2}


def _read_file(path):
    try:
        if path.endswith(".safetensors"):
            return _read_safetensors(path)
        if path.endswith(".pkl") and not zipfile.is_zipfile(path):
            with open(path, "rb") as file:
                return _TensorUnpickler(file, encoding="latin1").load()
        return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except _ForbiddenGlobal as error:
        raise _needs_code(path, str(error)) from error
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):          # torch's message for a class that weights_only does not allow
            raise _needs_code(path, str(error).partition("GLOBAL ")[2].split()[0]) from error
        raise _unreadable(path, error) from error
    # What a damaged file makes the readers raise is not documented: a pickle's opcodes can fail in any of these ways.
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise _unreadable(path, error) from error


def _read_safetensors(path):
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(f"{path}: reading .safetensors needs the package: pip install safetensors") from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise _unreadable(path, error) from error


def _unreadable(path, error):
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return CheckpointError(f"{path}: cannot be read as a checkpoint, {os.path.getsize(path)} bytes ({reason}). It is "
                           "truncated or of another format: fetch or save it again, after deleting a downloaded one.")


def _needs_code(path, name):
    return CheckpointError(f"{path}: holds objects besides tensors ({name}); reading them could run code, so it is "
                           "refused. If you trust the file, keep its tensors only, in an environment that can import "
                           f"{name.partition('.')[0]}: contents = torch.load(PATH, weights_only=False); "
                           "torch.save(contents['model'], NEW_PATH), or contents['state_dict'] in OpenMMLab's files.")


class _ForbiddenGlobal(Exception):
    """A pickle asks for something that is not needed to hold arrays; its name."""


def _load_from_bytes(data):
    """Stands in for torch.storage._load_from_bytes, which would unpickle without restriction."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


_array_reconstruct, _array_scalar = np.empty(0).__reduce__()[0], np.float32(0).__reduce__()[0]
_ALLOWED_GLOBALS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): codecs.encode,                   # how protocol 2 spells bytes
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{(module, "_reconstruct"): _array_reconstruct for module in ("numpy.core.multiarray", "numpy._core.multiarray")},
    **{(module, "scalar"): _array_scalar for module in ("numpy.core.multiarray", "numpy._core.multiarray")},
    ("torch._utils", "_rebuild_tensor_v2"): torch_utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch_utils._rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): _load_from_bytes,
}


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles dictionaries of numpy arrays and tensors; any other class or function is refused, not imported."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED_GLOBALS[module, name]
        except KeyError:
            raise _ForbiddenGlobal(f"{module}.{name}") from None

"""Checkpoint files of every format: what is read, and what truncated, foreign, missing and hostile ones say."""
import errno
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from freqdino.checkpoint.files import local_path, read_checkpoint, write_whole
from freqdino.errors import CheckpointError

TENSORS = {"a.weight": torch.arange(600.0).reshape(20, 30), "a.bias": torch.arange(20)}


def write(folder, suffix, name="model"):
    path = folder / f"{name}.{suffix}"
    if suffix == "pth":
        torch.save({"model": TENSORS, "iteration": 3}, path)
    elif suffix == "pkl":
        arrays = {name: tensor.numpy() for name, tensor in TENSORS.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "iteration": np.int64(3)}, protocol=2))
    else:
        save_file(TENSORS, path)
    return path


@pytest.mark.parametrize("suffix", ["pth", "pkl", "safetensors"])
def test_every_format_gives_the_same_tensors(tmp_path, suffix):
    contents = read_checkpoint(str(write(tmp_path, suffix)))
    assert contents["model"].keys() == TENSORS.keys() and not contents["caffe2"]
    for name, tensor in TENSORS.items():
        assert torch.equal(contents["model"][name], tensor) and contents["model"][name].dtype == tensor.dtype
    assert suffix == "safetensors" or contents["iteration"] == 3


def test_caffe2_names(tmp_path):
    blobs = {"conv1_w": np.ones((2, 3, 1, 1), np.float32), "conv1_b": np.ones(2, np.float32),
             "fc1000_w": np.zeros((5, 2), np.float32), "conv1_w_momentum": np.zeros(1)}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": blobs}))
    checkpoint = read_checkpoint(str(tmp_path / "R-50.pkl"))
    assert checkpoint["caffe2"]
    assert set(checkpoint["model"]) == {"stem.conv1.weight", "stem.conv1.bias", "fc1000.weight"}


@pytest.mark.parametrize("suffix", ["pth", "pkl", "safetensors"])
@pytest.mark.parametrize("kept", [0, 0.05, 0.5, 0.99])
def test_truncated_file(tmp_path, suffix, kept):
    path = write(tmp_path, suffix)
    data = path.read_bytes()
    path.write_bytes(data[:int(kept * len(data))])
    message = rf"model.{suffix}: cannot be read as a checkpoint, {int(kept * len(data))} bytes.*It is truncated"
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(str(path))
    assert caught.value.__cause__ is not None


def test_other_files(tmp_path):
    (tmp_path / "text.pth").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(CheckpointError, match="text.pth: cannot be read as a checkpoint"):
        read_checkpoint(str(tmp_path / "text.pth"))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="list.pth: holds a list, not a dictionary of tensors"):
        read_checkpoint(str(tmp_path / "list.pth"))
    torch.save({"model": {"a": 3}}, tmp_path / "int.pth")
    with pytest.raises(CheckpointError, match="int.pth: entry 'a' is a int, not a tensor"):
        read_checkpoint(str(tmp_path / "int.pth"))


class RunsCode:
    def __reduce__(self):
        return exec, ("raise SystemExit('code ran')",)


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_code_is_refused(tmp_path, suffix):
    path = tmp_path / f"evil.{suffix}"
    if suffix == "pth":
        torch.save({"model": {}, "x": RunsCode()}, path)
    else:
        path.write_bytes(pickle.dumps({"model": {"a": RunsCode()}}))
    with pytest.raises(CheckpointError, match=rf"evil.{suffix}: holds objects besides tensors \(.*exec\)"):
        read_checkpoint(str(path))


class History:
    """What OpenMMLab keeps beside the tensors."""


def test_what_the_refusal_advises_works(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(2)}, "message_hub": History()}, tmp_path / "openmmlab.pth")
    with pytest.raises(CheckpointError) as refusal:
        read_checkpoint(str(tmp_path / "openmmlab.pth"))
    message = str(refusal.value)
    assert f"can import {__name__.partition('.')[0]}: contents = " in message
    assert "torch.save(contents['model'], NEW_PATH), or contents['state_dict'] in OpenMMLab's" in message
    contents = torch.load(tmp_path / "openmmlab.pth", weights_only=False)
    torch.save(contents["state_dict"], tmp_path / "tensors.pth")
    assert read_checkpoint(str(tmp_path / "tensors.pth"))["model"]["a"].tolist() == [1.0, 1.0]


def test_code_in_the_bytes_of_a_pickled_tensor_is_refused(tmp_path):
    class Storage:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (pickle.dumps(RunsCode()),)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": {"a": Storage()}}))
    with pytest.raises(CheckpointError, match="evil.pkl"):
        read_checkpoint(str(tmp_path / "evil.pkl"))


def test_missing_file_and_failing_download(tmp_path):
    with pytest.raises(CheckpointError, match="gone.pth: no such checkpoint file. Set MODEL.WEIGHTS"):
        local_path(str(tmp_path / "gone.pth"))
    with pytest.raises(CheckpointError, match=r"http://127.0.0.1:1/R-50.pkl: the download failed .*set MODEL.WEIGHTS"):
        local_path("http://127.0.0.1:1/R-50.pkl?matching_heuristics=True")


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model.pth"
    write_whole(path, lambda file: file.write(b"old"))

    def half(file):
        file.write(b"new")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CheckpointError, match="model.pth cannot be written .No space left on device.; what was saved"):
        write_whole(path, half)
    assert path.read_bytes() == b"old" and [entry.name for entry in tmp_path.iterdir()] == ["model.pth"]


def test_a_disk_that_takes_no_more_of_a_checkpoint(tmp_path):
    """torch.save's own error would speak of positions in an archive."""
    resource = pytest.importorskip("resource", reason="limits of a process are Unix's")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match="model.pth cannot be written .File too large."):
            write_whole(tmp_path / "model.pth", lambda file: torch.save({"weight": torch.zeros(10_000)}, file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())

"""Downloads: fetched once and whole, and what no network, another file, a broken line and a full disk say."""
import errno
import hashlib
import os
import threading

import pytest
import torch

from freqdino.checkpoint import download
from freqdino.checkpoint.download import cache_path, fetch
from freqdino.checkpoint.files import local_path
from freqdino.errors import CheckpointError

CONTENTS = bytes(range(256)) * 16
SHA256 = hashlib.sha256(CONTENTS).hexdigest()


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_a_file_is_fetched_once_and_kept(web, empty_caches):
    web.pages["/zoo/model.pth"] = CONTENTS
    path = local_path(f"{web.address}/zoo/model.pth")
    assert path.startswith(str(empty_caches / "detectron2")) and path.endswith("/zoo/model.pth")
    with open(path, "rb") as file:
        assert file.read() == CONTENTS
    assert local_path(f"{web.address}/zoo/model.pth") == path and web.asked == ["GET /zoo/model.pth"]


def test_processes_that_start_together_fetch_once(web, tmp_path):
    web.pages["/model.pth"] = CONTENTS
    target = str(tmp_path / "model.pth")
    threads = [threading.Thread(target=fetch, args=(f"{web.address}/model.pth", target)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert web.asked == ["GET /model.pth"] and os.path.getsize(target) == len(CONTENTS)


def test_the_cache_is_detectron2s_and_addresses_stay_inside(empty_caches):
    cache = empty_caches / "detectron2"
    zoo = "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/torchvision/R-50.pkl"
    assert cache_path(zoo) == str(cache / "detectron2/ImageNetPretrained/torchvision/R-50.pkl")
    assert cache_path("https://a.org/x/model.pth?token=1") == str(cache / "a.org/x/model.pth")
    assert cache_path("https://a.org/%2e%2e/../model.pth") == str(cache / "a.org/model.pth")
    with pytest.raises(CheckpointError, match="https://a.org/: the address names no file"):
        cache_path("https://a.org/")


def test_what_detectron2_has_fetched_is_found(empty_caches):
    folder = empty_caches / "detectron2/detectron2/ImageNetPretrained/torchvision"
    folder.mkdir(parents=True)
    torch.save({"a": torch.ones(1)}, folder / "R-50.pkl")
    assert local_path("detectron2://ImageNetPretrained/torchvision/R-50.pkl?matching_heuristics=True") == str(
        folder / "R-50.pkl")


@pytest.mark.parametrize("sha256", [SHA256, SHA256[:8], SHA256[:12].upper()])
def test_a_checksum_that_agrees(web, sha256):
    web.pages["/model.pth"] = CONTENTS
    assert local_path(f"{web.address}/model.pth#sha256={sha256}").endswith("model.pth")


def test_a_checksum_that_differs(web, empty_caches):
    web.pages["/model.pth"] = CONTENTS
    with pytest.raises(CheckpointError, match=f"model.pth: its SHA-256 begins with {SHA256[:4]}, expected 0000: the"):
        local_path(f"{web.address}/model.pth#sha256=0000")
    assert files_in(empty_caches) == []


def test_a_line_that_breaks(web, empty_caches):
    web.pages["/model.pth"] = (200, {"Content-Length": "5000"}, CONTENTS)
    with pytest.raises(CheckpointError, match="model.pth: the download broke off, 4,096 of 5,000 bytes; nothing of it"):
        local_path(f"{web.address}/model.pth")
    assert files_in(empty_caches) == []


def test_a_file_that_is_not_there(web):
    with pytest.raises(CheckpointError, match="gone.pth: the server answers 404 Not Found. Without a network"):
        local_path(f"{web.address}/gone.pth")


def test_no_network_says_where_the_file_belongs(empty_caches):
    with pytest.raises(CheckpointError) as caught:
        local_path("http://127.0.0.1:1/zoo/R-50.pkl")
    message, place = str(caught.value), str(empty_caches / "detectron2/127.0.0.1_1/zoo/R-50.pkl")
    assert "Connection refused" in message and f"or put it at {place};" in message
    with open(place, "wb") as file:
        file.write(CONTENTS)
    assert local_path("http://127.0.0.1:1/zoo/R-50.pkl") == place


def test_a_disk_that_is_full(web, tmp_path):
    web.pages["/model.pth"] = CONTENTS
    # A device that every write to fails with ENOSPC, in the place of the file that is being written.
    os.symlink("/dev/full", tmp_path / "model.pth.unfinished")
    with pytest.raises(CheckpointError, match="model.pth cannot be written .No space left on device.; make room there"):
        fetch(f"{web.address}/model.pth", str(tmp_path / "model.pth"))
    assert files_in(tmp_path) == []


def test_a_cache_that_cannot_be_written(web, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(download.os, "makedirs", refuse)
    with pytest.raises(CheckpointError, match="cannot be written .Permission denied.; make it writable there, or"):
        fetch(f"{web.address}/model.pth", str(tmp_path / "folder" / "model.pth"))

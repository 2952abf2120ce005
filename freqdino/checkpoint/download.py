"""Fetches a file once: beside its place in the cache and then renamed, so that nothing half is taken for whole.

The cache is that of Detectron2's PathManager, $FVCORE_CACHE or ~/.torch/iopath_cache: what Detectron2 fetched is found.
"""
import errno
import hashlib
import http.client
import logging
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from iopath.common.file_io import file_lock, get_cache_dir
from tqdm import tqdm

from freqdino.checkpoint.whole_files import written_whole
from freqdino.errors import CheckpointError

logger = logging.getLogger(__name__)

DETECTRON2_HOST = "dl.fbaipublicfiles.com"  # Detectron2 keeps its files by their paths alone
TIMEOUT = 30                                # seconds without an answer
PIECE = 1 << 20                             # bytes that are read at a time
OFFLINE = ('. Without a network fetch the file elsewhere and set MODEL.WEIGHTS to its path, or put it at {path}; '
           'MODEL.WEIGHTS "" starts from random weights.')


def cache_path(url: str) -> str:
    """Where the file of ``url`` lies once it is fetched. Raises CheckpointError for an address that names no file."""
    parts = urllib.parse.urlsplit(url)
    if not parts.netloc or not os.path.basename(parts.path):
        raise CheckpointError(f"{url}: the address names no file")
    host = [] if parts.netloc == DETECTRON2_HOST else [parts.netloc.replace(":", "_")]
    # No part of an address leads out of the cache.
    names = [name for name in urllib.parse.unquote(parts.path).split("/") if name not in ("", ".", "..")]
    return os.path.join(get_cache_dir(), *host, *names)


def fetch(url: str, path: str, *, sha256: str = "") -> str:
    """``path``, a file with the contents of ``url``: fetched unless it is there; of several processes one does it.

    sha256: hexadecimal digits that the file's SHA-256 begins with, "" where none are known.
    Raises CheckpointError where the address gives no file, the checksum differs, or the disk takes no more.
    """
    if os.path.isfile(path):
        return path
    with _errors_of_the_disk(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with file_lock(path):
            if not os.path.isfile(path):
                _fetch(url, path, sha256.lower())
    return path


def _fetch(url, path, sha256):
    logger.info("Fetching %s into %s", url, path)
    digest = hashlib.sha256()
    with _answer(url, path) as answer, written_whole(path) as file:
        length = answer.headers.get("Content-Length")
        expected = int(length) if length and length.isdecimal() else None
        with tqdm(total=expected, unit="B", unit_scale=True, desc=os.path.basename(path), disable=None) as bar:
            for piece in _pieces(answer, url, path):
                digest.update(piece)
                file.write(piece)
                bar.update(len(piece))
        if expected is not None and file.tell() != expected:
            raise CheckpointError(f"{url}: the download broke off, {file.tell():,} of {expected:,} bytes; nothing of "
                                  "it is kept, start again")
        found = digest.hexdigest()
        if not found.startswith(sha256):
            raise CheckpointError(f"{url}: its SHA-256 begins with {found[:len(sha256)]}, expected {sha256}: the file "
                                  "was changed or damaged on its way, and is not kept")


@contextmanager
def _answer(url: str, path: str) -> Iterator[http.client.HTTPResponse]:
    request = urllib.request.Request(url, headers={"User-Agent": "freqdino"})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        raise CheckpointError(f"{url}: the server answers {error.code} {error.reason}"
                              + OFFLINE.format(path=path)) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{url}: the download failed ({getattr(error, 'reason', error)})"
                              + OFFLINE.format(path=path)) from error
    with answer:
        yield answer


def _pieces(answer: BinaryIO, url: str, path: str) -> Iterator[bytes]:
    while True:
        try:
            piece = answer.read(PIECE)
        except (OSError, http.client.HTTPException) as error:
            raise CheckpointError(f"{url}: the download broke off ({error})" + OFFLINE.format(path=path)) from error
        if not piece:
            return
        yield piece


@contextmanager
def _errors_of_the_disk(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "make room" if error.errno == errno.ENOSPC else "make it writable"
        raise CheckpointError(f"{path} cannot be written ({error.strerror or error}); {remedy} there, or set "
                              "FVCORE_CACHE to a folder elsewhere. Nothing of it is kept.") from error

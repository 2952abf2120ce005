"""Data sets named by a prefix, which says their format, read into COCO documents and files.

    yolo:<data.yaml>          the split train; yolo:<data.yaml>@val and @test for the others
    labelme:<folder>          JSON files and the pictures that they name
    voc:<masks>@<images>      XML files or SegmentationObject's PNGs
    indices:<masks>@<images>  PNGs of class indices, or of 1000 x class + object
"""
import hashlib
import json
import os
import re
import uuid
from functools import partial
from pathlib import Path

from freqdino.data.formats.indices import read_indices
from freqdino.data.formats.labelme import read_labelme
from freqdino.data.formats.objects import coco_document
from freqdino.data.formats.voc import read_voc
from freqdino.data.formats.yolo import read_yolo
from freqdino.data.values import Faults
from freqdino.errors import DataError

PREFIXED_FORMS = ("yolo:<data.yaml>", "labelme:<folder>", "voc:<masks>@<images>", "indices:<masks>@<images>")
_PREFIX = re.compile("(yolo|labelme|voc|indices):(.*)", re.DOTALL)


def is_prefixed(name: str) -> bool:
    """Whether a data set's name begins with the prefix of a format."""
    return _PREFIX.fullmatch(name) is not None


def read_as_coco(name: str) -> tuple[dict, str]:
    """The COCO instance document of a data set with a prefix, and the folder that its file names are relative to.

    Raises MissingDataError, DataError: what is missing or wrong, with all faults that were found in its files.
    """
    prefix, location = _PREFIX.fullmatch(name).groups()
    form = next(form for form in PREFIXED_FORMS if form.startswith(prefix))
    if prefix in ("voc", "indices"):
        folder, at, images = location.rpartition("@")
        if not folder or not images:
            raise DataError(f"the data set {name!r} has not the form {form}")
        read = partial({"voc": read_voc, "indices": read_indices}[prefix], folder, images)
    else:
        if not location:
            raise DataError(f"the data set {name!r} has not the form {form}")
        read = partial({"yolo": read_yolo, "labelme": read_labelme}[prefix], location)
    faults = Faults()
    pictures, classes = read(faults)
    faults.raise_any()
    document, image_root = coco_document(pictures, classes)
    if not document["categories"]:
        raise DataError(f"the data set {name!r} has no object in its {len(pictures)} pictures, and no class list")
    return document, image_root


def write_coco(document: dict, path: Path) -> None:
    """Write a document as a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")     # its own of each process that writes the file
    try:
        unfinished.write_text(json.dumps(document), encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def converted_file(name: str) -> tuple[str, str]:
    """The COCO file of a data set with a prefix, which loaders and evaluators read, and its image folder.

    It is read anew each time; the file lies under freqdino/annotations in XDG_CACHE_HOME, "~/.cache" without it, and is
    named after what it holds, so that processes which read the same data write the same file. Raises as `read_as_coco`,
    and DataError where the file cannot be written.
    """
    document, image_root = read_as_coco(name)
    digest = hashlib.sha256(json.dumps([image_root, document]).encode()).hexdigest()[:32]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = cache / "freqdino" / "annotations" / f"{digest}.json"
    if not path.exists():
        try:
            write_coco(document, path)
        except OSError as error:
            raise DataError(f"the data set {name!r} is read through {path}, which cannot be written "
                            f"({error.strerror}): set XDG_CACHE_HOME to a folder that can be written to") from error
    return str(path), image_root

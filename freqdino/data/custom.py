"""Own data without Python: dataset names that say where the data are and register themselves.

    <annotations.json>@<image folder>                 COCO instances (polygons or RLE)
    <panoptic.json>@<image folder>@<PNG folder>       COCO panoptic
    <classes.txt>@<image folder>@<PNG folder>         semantic: line n of the classes is PNG value n - 1; 255 is ignored
    <format>:<where>                                  instances in other formats: freqdino/data/formats/conversion.py

Without a prefix the first part's suffix and the number of folders tell the kind. Paths may be relative to the working
directory, or begin with "~". An "@" may stand in a path: the first part ends at its suffix, and of two folders the
second begins at the last "@" unless the whole rest is an existing folder. After any name, "#train=0.8" and "#val=0.8"
are its two parts. datasets/README.md has examples.
"""
import logging
import os
import re
from collections.abc import Iterable

from detectron2.data import DatasetCatalog, MetadataCatalog

from freqdino.data.categories import ClassTable, read_class_file
from freqdino.data.coco_files import read_annotation_file
from freqdino.data.formats.conversion import PREFIXED_FORMS, converted_file, is_prefixed
from freqdino.data.registering import register_instances, register_panoptic, register_semantic
from freqdino.data.splitting import part_of, register_part
from freqdino.data.values import shown
from freqdino.errors import DataError, MissingDataError

FORMS = ("<annotations.json>@<image folder>", "<panoptic.json>@<image folder>@<PNG folder>",
         "<classes.txt>@<image folder>@<PNG folder>", *PREFIXED_FORMS)
_FIRST_PART = re.compile(r"(.+?\.(?:json|txt))@(.+)", re.IGNORECASE | re.DOTALL)

logger = logging.getLogger(__name__)


def _split(name: str) -> tuple[str, str, str | None]:
    """(annotation file, image folder, PNG folder or None) of an own-data name."""
    match = _FIRST_PART.fullmatch(name)
    if match is None:
        raise DataError(f"dataset name {name!r} has none of the forms {'; '.join(FORMS)}")
    file, rest = match.groups()
    if "@" not in rest or os.path.isdir(os.path.expanduser(rest)):
        parts = [file, rest]
    else:
        image_root, _, png_root = rest.rpartition("@")
        parts = [file, image_root, png_root]
    file, image_root, *png_root = map(os.path.expanduser, parts)
    return file, image_root, png_root[0] if png_root else None


def _check_folder(name: str, path: str, what: str) -> None:
    if not os.path.isdir(path):
        raise MissingDataError(f"dataset {name!r}: the {what} {path} does not exist (that is {os.path.abspath(path)})")


def _register(name: str) -> None:
    if is_prefixed(name):
        file, image_root = converted_file(name)
        logger.info("The data set %s is read through %s", name, file)
        classes = ClassTable.from_categories(read_annotation_file(file, ("categories",))["categories"], file,
                                             panoptic=False)
        register_instances(name, classes, json_file=file, image_root=image_root)
        return
    file, image_root, png_root = _split(name)
    if file.lower().endswith(".txt"):
        if png_root is None:
            raise DataError(f"dataset name {name!r} begins with a class file and needs two folders: {FORMS[2]}")
        names = read_class_file(file)
        classes = ClassTable(names=names, ids=tuple(range(len(names))), isthing=(False,) * len(names))
    else:
        sections = ("images", "annotations", "categories")
        categories = read_annotation_file(file, sections)["categories"]
        classes = ClassTable.from_categories(categories, file, panoptic=png_root is not None)
    _check_folder(name, image_root, "image folder")
    if png_root is None:
        register_instances(name, classes, json_file=file, image_root=image_root)
        return
    _check_folder(name, png_root, "PNG folder")
    if file.lower().endswith(".txt"):
        register_semantic(name, classes, image_root=image_root, sem_seg_root=png_root)
    else:
        register_panoptic(name, classes, panoptic_json=file, image_root=image_root, panoptic_root=png_root)
        MetadataCatalog.get(name).ground_truth_from_segments = True     # of instances and label maps, too


def register_custom_datasets(names: Iterable[str]) -> None:
    """Register every name of an own-data form, of a format's prefix or of a part, that is not registered yet; others
    are left alone.

    Reads the class table of each, so that its metadata are complete; annotations and images are read and checked when
    the dataset is loaded, but for other formats: their annotations and the sizes of their images are read here.

    Raises MissingDataError: a file or folder of the name does not exist; DataError: the name has none of the forms, or
    the class table is not in order; the message names the file.
    """
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"a data set has the name {shown(name)}; expected a registered name, or where own data are")
        if name in DatasetCatalog:
            continue
        if part := part_of(name):
            register_custom_datasets([part.name])
            if part.name in DatasetCatalog:
                register_part(name, part)
        elif "@" in name or is_prefixed(name):
            _register(name)

"""JSON files of the COCO format, every value of the type that it stands for: what loaders and evaluators read.

Source: the COCO annotation format (instances and panoptic).
"""
import json
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from freqdino.data.categories import read_categories
from freqdino.data.segmentation import box_corners, check_segmentation, plain_segmentation
from freqdino.data.values import (
    AREA,
    FLAG,
    IDENTIFIER,
    LIST,
    SEGMENT_ID,
    SIZE,
    TEXT,
    WHOLE,
    Faults,
    Kind,
    read_fields,
    read_text,
    shown,
)
from freqdino.errors import DataError, MissingDataError, first_few

IMAGE = {"id": IDENTIFIER, "file_name": TEXT, "height": SIZE, "width": SIZE}
OBJECT = {"id": IDENTIFIER, "image_id": IDENTIFIER, "category_id": WHOLE, "iscrowd": FLAG, "area": AREA}
PANOPTIC = {"image_id": IDENTIFIER, "file_name": TEXT, "segments_info": LIST}
SEGMENT = {"id": SEGMENT_ID, "category_id": WHOLE, "iscrowd": FLAG}


def read_annotation_file(path: str, sections: tuple[str, ...], *, format_name: str = "COCO") -> dict:
    """Read a JSON file that holds an object with the lists ``sections``, which the format has.

    Raises MissingDataError: there is no such file; DataError: it is not JSON, not an object, or lacks a section.
    """
    if not PathManager.isfile(path):
        raise MissingDataError(f"annotation file {path} does not exist (that is {os.path.abspath(path)})")
    text = read_text(path, "annotation file")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"annotation file {path} is not JSON: {error}") from error
    for section in sections:
        if not isinstance(document, dict) or not isinstance(document.get(section), list):
            raise DataError(f"annotation file {path} has no list {section!r}; "
                            f"the {format_name} format has {', '.join(sections)}")
    return document


def _ground_truth(path: str, sections: tuple[str, ...]) -> dict:
    """`read_annotation_file`, with an entry in each list."""
    document = read_annotation_file(path, ())
    for section in sections:
        if not isinstance(document, dict) or not document.get(section):
            raise DataError(f"{path} holds no {section}: there is no ground truth to evaluate against")
        if not isinstance(document[section], list):
            raise DataError(f"{path}: {section!r} is {shown(document[section])}; expected a list")
    return document


def read_entries(where: str, section: str, entries: list, kinds: Mapping[str, Kind], required: Iterable[str],
                 faults: Faults, *, unique: str | None = None) -> list[dict]:
    """The entries that are in order, with typed fields; what is wrong with the others goes to ``faults``.

    No two may have the same ``unique``, nor ones that differ in their type alone: files that are written from them, as
    predictions are, could not tell 1 and "1" apart.
    """
    good = []
    for position, entry in enumerate(entries):
        try:
            read_fields(entry, kinds, required)
            good.append(entry)
        except DataError as error:
            faults.errors.append(DataError(f"{where}: entry number {position} of {section!r} {error}"))
    if unique is not None:
        _check_unique(where, section, unique, [entry[unique] for entry in good], faults)
    return good


def _check_unique(where: str, section: str, key: str, values: list, faults: Faults) -> None:
    if len(set(map(str, values))) == len(values):
        return
    alike = defaultdict(list)
    for value in Counter(values):       # each once
        alike[str(value)].append(value)
    counted = Counter(map(str, values))
    repeated = [" and ".join(map(repr, alike[text])) for text, count in counted.items() if count > 1]
    with faults:
        raise DataError(f"{where}: in {section!r} the {key} occurs more than once: {first_few(repeated)}")


def read_objects(path: str, entries: list, required: Iterable[str], faults: Faults, *,
                 unique: str | None = None) -> list[dict]:
    """The typed entries of 'annotations'; where a segmentation or bbox is null or an empty list, it is taken out."""
    annotations = read_entries(path, "annotations", entries, OBJECT, required, faults, unique=unique)
    for annotation in annotations:
        for key in ("segmentation", "bbox"):
            if annotation.get(key, 0) in (None, []):
                del annotation[key]
        if "segmentation" in annotation:
            annotation["segmentation"] = plain_segmentation(annotation["segmentation"])
    return annotations


def check_object(annotation: Mapping, image: Mapping, where: str) -> None:
    """Raise DataError, beginning with ``where``, unless the annotation has a shape, all of it well formed."""
    if "segmentation" not in annotation and "bbox" not in annotation:
        raise DataError(f"{where} has neither segmentation nor bbox")
    if "segmentation" in annotation:
        check_segmentation(annotation["segmentation"], image["height"], image["width"], where)
    if "bbox" in annotation:
        box_corners(annotation["bbox"], BoxMode.XYWH_ABS, where)


def read_ground_truth(path: str, *, without: Collection[int | str] = ()) -> dict[str, Any]:
    """The typed content of an instance file, as far as an evaluation reads it: pictures may have no file name.

    ``without``: ids of images that are left out, with their annotations.

    Raises MissingDataError, DataError: there is no such file, it lacks the format, a list is empty, a value is not what
    it stands for, or an annotation belongs to no image or has no shape.
    """
    document, faults = _ground_truth(path, ("images", "annotations", "categories")), Faults()
    images = read_entries(path, "images", document["images"], IMAGE, ("id", "height", "width"), faults, unique="id")
    annotations = read_objects(path, document["annotations"], ("image_id", "category_id"), faults)
    by_id = {image["id"]: image for image in images}
    for number, annotation in enumerate(annotations, start=1):
        where = f"{path}: annotation {annotation.get('id', f'number {number}')}"
        with faults:
            if annotation["image_id"] not in by_id:
                raise DataError(f"{where} belongs to image {annotation['image_id']!r}, which the file does not have")
            check_object(annotation, by_id[annotation["image_id"]], where)
    content = {**document, "images": [image for image in images if image["id"] not in without],
               "annotations": [annotation for annotation in annotations if annotation["image_id"] not in without]}
    with faults:
        content["categories"] = read_categories(document["categories"], path, panoptic=False)
    faults.raise_any()
    return content


def read_panoptic_ground_truth(path: str) -> tuple[list[dict], list[dict]]:
    """The typed categories and annotations of a panoptic file. Raises as `read_ground_truth`."""
    document, faults = _ground_truth(path, ("annotations", "categories")), Faults()
    annotations = read_panoptic_annotations(path, document["annotations"], faults)
    categories = []
    with faults:
        categories = read_categories(document["categories"], path, panoptic=True)
    faults.raise_any()
    return categories, annotations


def read_panoptic_annotations(path: str, entries: list, faults: Faults) -> list[dict]:
    """The panoptic annotations that are in order, and their segments; the faults of the others go to ``faults``."""
    annotations = read_entries(path, "annotations", entries, PANOPTIC, PANOPTIC, faults, unique="image_id")
    for annotation in annotations:
        annotation["segments_info"] = read_entries(
            f"{path}, annotation of {annotation['file_name']}", "segments_info", annotation["segments_info"], SEGMENT,
            ("id", "category_id"), faults, unique="id")
    return annotations

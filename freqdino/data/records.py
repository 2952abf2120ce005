"""Annotation files to Detectron2's dataset records, checked on the way: COCO instances, COCO panoptic, label folders.

Every error names the file and what is wrong in it. Category ids become contiguous class indices.
Source: the COCO annotation format (instances and panoptic), Detectron2's standard dataset dictionaries.
"""
import json
import logging
import os
from collections import Counter
from pathlib import Path

from detectron2.structures import BoxMode

from freqdino.data.categories import ClassTable
from freqdino.data.segmentation import box_corners, check_segmentation

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_NAMED_AT_MOST = 5

logger = logging.getLogger(__name__)


def read_annotation_file(path: str, sections: tuple[str, ...]) -> dict:
    """Read a JSON file that holds an object with the lists ``sections``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, not an object, or lacks a section.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"annotation file {path} does not exist (that is {os.path.abspath(path)})")
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"annotation file {path} is not JSON: {error}") from error
    for section in sections:
        if not isinstance(document, dict) or not isinstance(document.get(section), list):
            raise ValueError(f"annotation file {path} has no list {section!r}; "
                             f"the COCO format has {', '.join(sections)}")
    return document


def _check_entries(path: str, section: str, entries: list[dict], keys: tuple[str, ...], unique: str) -> None:
    """Every entry has the keys, and no two share the value of ``unique``."""
    for position, entry in enumerate(entries):
        missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise ValueError(f"{path}: entry number {position} of {section!r} has no {', '.join(missing)}")
    repeated = [value for value, count in Counter(entry[unique] for entry in entries).items() if count > 1]
    if repeated:
        raise ValueError(f"{path}: in {section!r} the {unique} occurs more than once: {_some(repeated)}")


def _some(values: list) -> str:
    """The first few values, and how many there are."""
    listed = ", ".join(map(str, values[:_NAMED_AT_MOST]))
    return listed if len(values) <= _NAMED_AT_MOST else f"{listed}, ... ({len(values)} in all)"


def _check_files(path: str, folder: str, names: list[str], what: str) -> None:
    """Every file of ``names``, which ``path`` lists, is in the folder."""
    missing = [name for name in names if not os.path.isfile(os.path.join(folder, name))]
    if missing:
        raise FileNotFoundError(f"{len(missing)} of the {len(names)} {what} that {path} lists are not in the folder "
                                f"{folder}: {_some(missing)}")


def _images(path: str, image_root: str, images: list[dict]) -> dict[int, dict]:
    """Checked image entries by id."""
    _check_entries(path, "images", images, ("id", "file_name", "height", "width"), "id")
    _check_files(path, image_root, [image["file_name"] for image in images], "image files")
    return {image["id"]: image for image in images}


def _known_ids(classes: ClassTable) -> str:
    return f"the known ids are {_some(list(classes.ids))}"


def load_instances(*, json_file: str, image_root: str, classes: ClassTable) -> list[dict]:
    """Records of a COCO instance file, one for every image, in the order of the image ids; segmentations stay as is.

    An annotation has a segmentation, a bbox or both; what is absent or empty is absent in the record.

    Raises:
        FileNotFoundError: the file or an image is missing.
        ValueError: the file does not hold the format, or an annotation has an unknown image or category, neither
            segmentation nor bbox, or a malformed one; the message names file, image and annotation.
    """
    document = read_annotation_file(json_file, ("images", "annotations"))
    images = _images(json_file, image_root, document["images"])
    if any("segments_info" in annotation for annotation in document["annotations"]):
        raise ValueError(f"{json_file} holds panoptic annotations; own data of that kind are named "
                         "<panoptic.json>@<image folder>@<PNG folder>")
    _check_entries(json_file, "annotations", document["annotations"], ("id", "image_id", "category_id"), "id")
    objects = {image_id: [] for image_id in images}
    index_of_id = classes.index_of_id
    for annotation in document["annotations"]:
        image = images.get(annotation["image_id"])
        if image is None:
            raise ValueError(f"{json_file}: annotation {annotation['id']} refers to image_id {annotation['image_id']}, "
                             "which is not in 'images'")
        where = f"{json_file}: annotation {annotation['id']} of image {image['file_name']} (image_id {image['id']})"
        if annotation["category_id"] not in index_of_id:
            raise ValueError(f"{where} has category_id {annotation['category_id']}, which is not in the class table; "
                             f"{_known_ids(classes)}")
        segmentation, box = annotation.get("segmentation"), annotation.get("bbox")
        if not segmentation and not box:
            raise ValueError(f"{where} has neither segmentation nor bbox")
        target = {"id": annotation["id"], "category_id": index_of_id[annotation["category_id"]],
                  "iscrowd": annotation.get("iscrowd", 0)}
        if segmentation:
            check_segmentation(segmentation, image["height"], image["width"], where)
            target["segmentation"] = segmentation
        if box:
            box_corners(box, BoxMode.XYWH_ABS, where)
            target.update(bbox=box, bbox_mode=BoxMode.XYWH_ABS)
        objects[image["id"]].append(target)
    return [{"file_name": os.path.join(image_root, image["file_name"]), "image_id": image_id, "height": image["height"],
             "width": image["width"], "annotations": objects[image_id]} for image_id, image in sorted(images.items())]


def _segments(path: str, annotation: dict, classes: ClassTable) -> list[dict]:
    """The segments of one panoptic annotation, checked, with class indices and kinds."""
    segments, index_of_id = [], classes.index_of_id
    _check_entries(f"{path}, annotation of {annotation['file_name']}", "segments_info", annotation["segments_info"],
                   ("id", "category_id"), "id")
    for segment in annotation["segments_info"]:
        if segment["category_id"] not in index_of_id:
            raise ValueError(f"{path}: segment {segment['id']} of {annotation['file_name']} (image_id "
                             f"{annotation['image_id']}) has category_id {segment['category_id']}, which is not in the "
                             f"class table; {_known_ids(classes)}")
        index = index_of_id[segment["category_id"]]
        segments.append({**segment, "category_id": index, "isthing": classes.isthing[index]})
    return segments


def load_panoptic(*, panoptic_json: str, image_root: str, panoptic_root: str, classes: ClassTable,
                  sem_seg_root: str | None = None) -> list[dict]:
    """Records of a COCO panoptic file, one for every annotation, in the order of the image ids.

    With a ``sem_seg_root`` a record also has the semantic PNG of the same name under it.

    Raises:
        FileNotFoundError: the file, an image or a PNG is missing.
        ValueError: the file does not hold the format, or a segment has an unknown category.
    """
    document = read_annotation_file(panoptic_json, ("images", "annotations"))
    annotations = document["annotations"]
    _check_entries(panoptic_json, "annotations", annotations, ("image_id", "file_name", "segments_info"), "image_id")
    listed = {annotation["image_id"] for annotation in annotations}
    images = _images(panoptic_json, image_root, [image for image in document["images"] if image.get("id") in listed])
    unknown = sorted(listed - set(images))
    if unknown:
        raise ValueError(f"{panoptic_json}: annotations refer to image_ids that are not in 'images': {_some(unknown)}")
    png_names = [annotation["file_name"] for annotation in annotations]
    _check_files(panoptic_json, panoptic_root, png_names, "panoptic PNGs")
    if sem_seg_root is not None:
        _check_files(panoptic_json, sem_seg_root, png_names, "semantic PNGs (of the same names)")
    records = []
    for annotation in sorted(annotations, key=lambda annotation: annotation["image_id"]):
        image = images[annotation["image_id"]]
        record = {"file_name": os.path.join(image_root, image["file_name"]), "image_id": image["id"],
                  "height": image["height"], "width": image["width"],
                  "pan_seg_file_name": os.path.join(panoptic_root, annotation["file_name"]),
                  "segments_info": _segments(panoptic_json, annotation, classes)}
        if sem_seg_root is not None:
            record["sem_seg_file_name"] = os.path.join(sem_seg_root, annotation["file_name"])
        records.append(record)
    return records


def _files_by_stem(folder: str, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Relative path without suffix -> path, of the files under the folder, subfolders included, in sorted order."""
    paths = {}
    for path in sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in suffixes):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in paths:
            raise ValueError(f"{paths[stem]} and {path} have the same name but for the suffix, so a label PNG cannot "
                             "be matched with its image; keep images and labels in folders of their own")
        paths[stem] = str(path)
    return paths


def load_semantic(*, image_root: str, sem_seg_root: str) -> list[dict]:
    """Records of a folder of label PNGs and a folder of images with the same names, subfolders included.

    Raises:
        FileNotFoundError: there is no label PNG, or one without an image.
        ValueError: two images differ in their suffix alone.
    """
    labels, images = _files_by_stem(sem_seg_root, (".png",)), _files_by_stem(image_root, IMAGE_SUFFIXES)
    if not labels:
        raise FileNotFoundError(f"there is no label PNG in the folder {sem_seg_root}")
    orphans = [stem for stem in labels if stem not in images]
    if orphans:
        raise FileNotFoundError(f"{len(orphans)} of the {len(labels)} label PNGs in {sem_seg_root} have no image of "
                                f"the same name in {image_root}: {_some(orphans)}")
    if len(images) > len(labels):
        logger.warning("%d of the %d images in %s have no label PNG in %s and are left out",
                       len(images) - len(labels), len(images), image_root, sem_seg_root)
    return [{"file_name": images[stem], "image_id": stem, "sem_seg_file_name": path} for stem, path in labels.items()]

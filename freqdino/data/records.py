"""Annotation files to Detectron2's dataset records, checked on the way: COCO instances, COCO panoptic, label folders.

Every error names the file and what is wrong in it. Category ids become contiguous class indices.
Source: the COCO annotation format (instances and panoptic), Detectron2's standard dataset dictionaries.
"""
import logging
import os
from pathlib import Path

from detectron2.structures import BoxMode

from freqdino.data.categories import ClassTable
from freqdino.data.coco_files import (
    IMAGE,
    check_object,
    read_annotation_file,
    read_entries,
    read_objects,
    read_panoptic_annotations,
)
from freqdino.data.values import Faults, order_of_id
from freqdino.errors import DataError, MissingDataError, first_few

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

logger = logging.getLogger(__name__)


def _check_files(path: str, folder: str, names: list[str], what: str) -> None:
    """Every file of ``names``, which ``path`` lists, is in the folder."""
    missing = [name for name in names if not os.path.isfile(os.path.join(folder, name))]
    if missing:
        raise MissingDataError(f"{len(missing)} of the {len(names)} {what} that {path} lists are not in the folder "
                               f"{folder}: {first_few(missing)}")


def _images(path: str, image_root: str, entries: list, faults: Faults, *,
            listed: set[int | str] | None = None) -> dict[int | str, dict]:
    """The image entries that are in order, by id; with ``listed`` those of them alone."""
    images = read_entries(path, "images", entries, IMAGE, IMAGE, faults, unique="id")
    if listed is not None:
        images = [image for image in images if image["id"] in listed]
    with faults:
        _check_files(path, image_root, [image["file_name"] for image in images], "image files")
    return {image["id"]: image for image in images}


def _known_ids(classes: ClassTable) -> str:
    return f"the known ids are {first_few(classes.ids)}"


def load_instances(*, json_file: str, image_root: str, classes: ClassTable) -> list[dict]:
    """Records of a COCO instance file, one for every image, in the order of the image ids; segmentations stay as is.

    Image ids are whole numbers or texts. An annotation has a segmentation, a bbox or both; what is absent or empty is
    absent in the record.

    Raises MissingDataError: the file or an image is missing; DataError: the file does not hold the format, a value is
    not what it stands for, or an annotation has an unknown image or category, neither segmentation nor bbox, or a
    malformed one; the message names file, image and annotation.
    """
    document, faults = read_annotation_file(json_file, ("images", "annotations")), Faults()
    if any(isinstance(annotation, dict) and "segments_info" in annotation for annotation in document["annotations"]):
        raise DataError(f"{json_file} holds panoptic annotations; own data of that kind are named "
                        "<panoptic.json>@<image folder>@<PNG folder>")
    images = _images(json_file, image_root, document["images"], faults)
    all_images_known = not faults
    annotations = read_objects(json_file, document["annotations"], ("id", "image_id", "category_id"), faults,
                               unique="id")
    objects = {image_id: [] for image_id in images}
    index_of_id = classes.index_of_id
    for annotation in annotations:
        image = images.get(annotation["image_id"])
        with faults:
            if image is not None:
                objects[image["id"]].append(_target(annotation, image, index_of_id, json_file, classes))
            elif all_images_known:
                raise DataError(f"{json_file}: annotation {annotation['id']} refers to image_id "
                                f"{annotation['image_id']!r}, which is not in 'images'"
                                f"{_of_other_type(annotation['image_id'], images)}")
    records = [{"file_name": os.path.join(image_root, image["file_name"]), "image_id": image_id,
                "height": image["height"], "width": image["width"], "annotations": objects[image_id]}
               for image_id, image in sorted(images.items(), key=lambda item: order_of_id(item[0]))]
    faults.raise_any(records)
    return records


def _of_other_type(image_id: int | str, known: dict) -> str:
    """What to add where the id is known as a text and not as a number, or the other way round."""
    other = [identifier for identifier in known if str(identifier) == str(image_id)]
    return f"; there it is {other[0]!r}, of another type" if other else ""


def _target(annotation: dict, image: dict, index_of_id: dict[int, int], path: str, classes: ClassTable) -> dict:
    """The record's part of one annotation."""
    where = f"{path}: annotation {annotation['id']} of image {image['file_name']} (image_id {image['id']})"
    if annotation["category_id"] not in index_of_id:
        raise DataError(f"{where} has category_id {annotation['category_id']}, which is not in the class table; "
                        f"{_known_ids(classes)}")
    check_object(annotation, image, where)
    target = {"id": annotation["id"], "category_id": index_of_id[annotation["category_id"]],
              "iscrowd": annotation.get("iscrowd", 0)}
    if "segmentation" in annotation:
        target["segmentation"] = annotation["segmentation"]
    if "bbox" in annotation:
        target.update(bbox=annotation["bbox"], bbox_mode=BoxMode.XYWH_ABS)
    return target


def _segments(path: str, annotation: dict, classes: ClassTable, faults: Faults) -> list[dict]:
    """The segments of one panoptic annotation with class indices and kinds."""
    segments, index_of_id = [], classes.index_of_id
    for segment in annotation["segments_info"]:
        with faults:
            if segment["category_id"] not in index_of_id:
                raise DataError(f"{path}: segment {segment['id']} of {annotation['file_name']} (image_id "
                                f"{annotation['image_id']}) has category_id {segment['category_id']}, which is not in "
                                f"the class table; {_known_ids(classes)}")
            index = index_of_id[segment["category_id"]]
            segments.append({**segment, "category_id": index, "isthing": classes.isthing[index]})
    return segments


def load_panoptic(*, panoptic_json: str, image_root: str, panoptic_root: str, classes: ClassTable,
                  sem_seg_root: str | None = None) -> list[dict]:
    """Records of a COCO panoptic file, one for every annotation, in the order of the image ids.

    With a ``sem_seg_root`` a record also has the semantic PNG of the same name under it.

    Raises MissingDataError: the file, an image or a PNG is missing; DataError: the file does not hold the format, a
    value is not what it stands for, or a segment has an unknown category.
    """
    document, faults = read_annotation_file(panoptic_json, ("images", "annotations")), Faults()
    annotations = read_panoptic_annotations(panoptic_json, document["annotations"], faults)
    listed = {annotation["image_id"] for annotation in annotations}
    images = _images(panoptic_json, image_root, document["images"], faults, listed=listed)
    unknown = sorted(listed - set(images), key=order_of_id)
    png_names = [annotation["file_name"] for annotation in annotations]
    with faults:
        if unknown and not faults:
            raise DataError(f"{panoptic_json}: annotations refer to image_ids that are not in 'images': "
                            f"{first_few(map(repr, unknown))}{_of_other_type(unknown[0], images)}")
    with faults:
        _check_files(panoptic_json, panoptic_root, png_names, "panoptic PNGs")
    with faults:
        if sem_seg_root is not None:
            _check_files(panoptic_json, sem_seg_root, png_names, "semantic PNGs (of the same names)")
    if len(document["images"]) > len(images) and not faults:
        logger.warning("%d of the %d images in %s have no annotation and are left out",
                       len(document["images"]) - len(images), len(document["images"]), panoptic_json)
    records = []
    for annotation in sorted(annotations, key=lambda annotation: order_of_id(annotation["image_id"])):
        image = images.get(annotation["image_id"])
        segments = _segments(panoptic_json, annotation, classes, faults)
        if image is None:
            continue
        record = {"file_name": os.path.join(image_root, image["file_name"]), "image_id": image["id"],
                  "height": image["height"], "width": image["width"],
                  "pan_seg_file_name": os.path.join(panoptic_root, annotation["file_name"]), "segments_info": segments}
        if sem_seg_root is not None:
            record["sem_seg_file_name"] = os.path.join(sem_seg_root, annotation["file_name"])
        records.append(record)
    faults.raise_any(records)
    return records


def is_hidden(path: Path) -> bool:
    """Whether a relative path leads through a name that begins with a dot: ._a.png, .ipynb_checkpoints/a.png."""
    return any(part.startswith(".") for part in path.parts)


def files_under(folder: str | Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files under the folder, subfolders included, in sorted order.

    Hidden files are no pictures: operating systems and editors leave them behind.
    """
    return sorted(path for path in Path(folder).rglob("*")
                  if path.suffix.lower() in suffixes and not is_hidden(path.relative_to(folder)) and path.is_file())


def _files_by_stem(folder: str, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Relative path without suffix -> path, of `files_under` the folder."""
    paths = {}
    for path in files_under(folder, suffixes):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in paths:
            raise DataError(f"{paths[stem]} and {path} have the same name but for the suffix, so a label PNG cannot "
                             "be matched with its image; keep images and labels in folders of their own")
        paths[stem] = str(path)
    return paths


def labels_with_images(label_root: str, image_root: str, suffix: str, what: str) -> dict[str, tuple[str, str]]:
    """Relative path without suffix -> (label file, image), where both folders have the name, subfolders included.

    ``what`` a label file is, in the singular, for messages. Raises as `load_semantic`.
    """
    labels, images = _files_by_stem(label_root, (suffix,)), _files_by_stem(image_root, IMAGE_SUFFIXES)
    if not labels:
        raise MissingDataError(f"there is no {what} in the folder {label_root}")
    orphans = [stem for stem in labels if stem not in images]
    if orphans:
        raise MissingDataError(f"{len(orphans)} of the {len(labels)} {what}s in {label_root} have no image of "
                                f"the same name in {image_root}: {first_few(orphans)}")
    if len(images) > len(labels):
        logger.warning("%d of the %d images in %s have no %s in %s and are left out",
                       len(images) - len(labels), len(images), image_root, what, label_root)
    return {stem: (path, images[stem]) for stem, path in labels.items()}


def load_semantic(*, image_root: str, sem_seg_root: str) -> list[dict]:
    """Records of a folder of label PNGs and a folder of images with the same names, subfolders included.

    Raises MissingDataError: there is no label PNG, or one without an image; DataError: two images differ in their
    suffix alone.
    """
    pairs = labels_with_images(sem_seg_root, image_root, ".png", "label PNG")
    return [{"file_name": image, "image_id": stem, "sem_seg_file_name": path} for stem, (path, image) in pairs.items()]

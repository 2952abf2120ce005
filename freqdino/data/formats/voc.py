"""Pascal VOC: a folder of XML files with boxes and polygons, or the PNGs of SegmentationObject; the pictures beside it.

XML files belong to the picture of the same name. Their pixels count from 1: the first one has the box (1, 1, 1, 1).
PNGs number the objects of a picture from 1; those of the same name in the folder SegmentationClass beside it have the
classes; 255 is the border between objects and belongs to none. The classes are those of a classes.txt in the folder;
without one they are VOC's own for PNGs, and the names that occur, sorted, for XML files.

Source: the PASCAL Visual Object Classes development kit (2012); polygons as annotation tools add them to its XML.
Shape key: H: height, W: width.
"""
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from freqdino.data.formats.objects import (
    Picture,
    box_fields,
    check_class,
    classes_in,
    folder_of,
    label_files,
    mask_fields,
    number_of,
    outline_fields,
)
from freqdino.data.image_reading import check_image_size, check_label_size, read_image_size, read_label_map
from freqdino.data.records import files_under, labels_with_images
from freqdino.data.values import Faults
from freqdino.errors import DataError, MissingDataError, first_few

CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
           "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")
BORDER = 255


def read_voc(location: str, image_root: str, faults: Faults) -> tuple[list[Picture], Sequence[str] | None]:
    """The pictures that have an XML file or a PNG in the folder, and the classes where they are known beforehand.

    Raises MissingDataError, DataError: a folder is not there, has nothing of either kind or both, or a file has no
    picture; what is wrong with single files goes to ``faults``.
    """
    folder, images = folder_of(location, "folder of VOC annotations"), folder_of(image_root, "image folder")
    classes, pictures = classes_in(folder), []
    if files_under(folder, (".xml",)):
        apart = not folder.samefile(images)
        label_files(folder, ".xml", (".json", ".txt", *((".png",) if apart else ())))
        for label, image in labels_with_images(str(folder), str(images), ".xml", "XML file").values():
            with faults:
                pictures.append(_picture_of_xml(label, image, classes, faults))
        return pictures, classes
    label_files(folder, ".png", (".json", ".txt"))
    class_folder = folder.parent / "SegmentationClass"
    if not class_folder.is_dir() or class_folder.samefile(folder):
        raise MissingDataError(f"{folder} has PNGs, which number objects as VOC's SegmentationObject does, but not "
                               f"their classes in {class_folder}; maps of class indices alone are named "
                               "indices:<masks>@<images>")
    classes = classes or CLASSES
    for name, (label, image) in labels_with_images(str(folder), str(images), ".png", "PNG").items():
        with faults:
            pictures.append(_picture_of_png(label, str(class_folder / f"{name}.png"), image, classes, faults))
    return pictures, classes


def _picture_of_xml(path: str, image: str, classes: Sequence[str] | None, faults: Faults) -> Picture:
    try:
        root = ElementTree.fromstring(Path(path).read_bytes())
    except ElementTree.ParseError as error:
        raise DataError(f"{path} is not XML: {error}") from None
    if root.tag != "annotation":
        raise DataError(f"{path} has <{root.tag}> at its root; VOC's files have <annotation>")
    size = read_image_size(image)
    stated = {side: int(number_of(root.findtext(f"size/{side}"), f"{path}: <size>")) for side in ("height", "width")
              if root.findtext(f"size/{side}", "0").strip() != "0"}      # tools write 0 where they do not know
    check_image_size({"file_name": image, **stated}, size)
    objects = []
    for number, element in enumerate(root.findall("object"), start=1):
        where = f"{path}: object number {number}"
        with faults:
            name = (element.findtext("name") or "").strip()
            if not name:
                raise DataError(f"{where} has no <name>")
            check_class(name, classes, where)
            objects.append((name, _fields(element, size, where)))
    return Picture(image, size, objects)


def _fields(element: ElementTree.Element, size: tuple[int, int], where: str) -> dict:
    """COCO's fields of an <object>: of its polygons where it has some, else of its box."""
    polygons = []
    for polygon in element.findall("polygon"):
        values = {child.tag: child.text for child in polygon}
        count = len(values) // 2
        missing = [tag for number in range(1, count + 1) for tag in (f"x{number}", f"y{number}") if tag not in values]
        if missing or len(values) % 2:
            raise DataError(f"{where} has a <polygon> of {first_few(values)}; expected x1, y1, x2, y2 and so on")
        polygons.append(np.array([[number_of(values[f"{axis}{number}"], where) - 1 for axis in "xy"]
                                  for number in range(1, count + 1)]).reshape(-1, 2))
    if polygons:
        return outline_fields(polygons, size, where)
    if element.find("bndbox") is None:
        raise DataError(f"{where} has neither <polygon> nor <bndbox>")
    corners = np.array([[number_of(element.findtext(f"bndbox/{axis}{end}"), f"{where}, <bndbox>") for axis in "xy"]
                        for end in ("min", "max")])
    corners[0] -= 1     # the near edge of the first pixel; the last one's number is that of its far edge
    if (corners[0] > corners[1]).any():
        raise DataError(f"{where} has a <bndbox> whose minimum lies beyond its maximum")
    return box_fields(corners, size, where)


def _picture_of_png(path: str, class_path: str, image: str, classes: Sequence[str], faults: Faults) -> Picture:
    size = read_image_size(image)
    numbers, labels = read_label_map(path), read_label_map(class_path)
    for file, content in ((path, numbers), (class_path, labels)):
        check_label_size(file, content, size)
    objects = []
    for number in np.setdiff1d(numbers, (0, BORDER)).tolist():
        mask = numbers == number
        found = np.setdiff1d(labels[mask], (BORDER,)).tolist()
        with faults:
            if len(found) != 1 or not 1 <= found[0] <= len(classes):
                raise DataError(f"{path}: object {number} has the value{'s' if len(found) > 1 else ''} "
                                f"{first_few(found) or BORDER} in {class_path}; expected one of 1 to {len(classes)}, "
                                "the classes")
            objects.append((classes[found[0] - 1], mask_fields(mask)))
    return Picture(image, size, objects)

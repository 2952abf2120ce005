"""Index PNGs: a folder of label maps, the classes in its classes.txt, and the pictures of the same names.

A value below 1000 is a class's index: each connected piece of it, corners touching, is an object. From 1000 on it is
1000 x class + number of the object, as in Cityscapes' instanceIds. Line n of classes.txt names the index n - 1, as for
semantic data; index 0 is the background and no object, 255 is ignored.

Source: label maps as Detectron2 reads them; the instance ids of Cityscapes (Cordts et al., arXiv:1604.01685).
Shape key: H: height, W: width.
"""
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from freqdino.data.categories import read_class_file
from freqdino.data.formats.objects import CLASS_FILE, Picture, folder_of, label_files, mask_fields
from freqdino.data.image_reading import check_label_size, read_image_size, read_label_map
from freqdino.data.records import labels_with_images
from freqdino.data.values import Faults
from freqdino.errors import DataError

IGNORED = 255
DIVISOR = 1000


def read_indices(location: str, image_root: str, faults: Faults) -> tuple[list[Picture], Sequence[str]]:
    """The pictures that have a PNG in the folder, and the classes but for the background.

    Raises MissingDataError, DataError: a folder or classes.txt is not there or not in order, or a PNG has no picture;
    what is wrong with single files goes to ``faults``.
    """
    folder, images = folder_of(location, "folder of index PNGs"), folder_of(image_root, "image folder")
    if folder.samefile(images):
        raise DataError(f"{folder} is named for the index PNGs and for the pictures; keep them in folders of their own")
    names = read_class_file(str(folder / CLASS_FILE))
    if len(names) < 2:
        raise DataError(f"{folder / CLASS_FILE} has the one line {names[0]!r}; the first is the background, value 0, "
                        "and after it come the classes")
    label_files(folder, ".png", (".json", ".xml", ".txt"))
    pictures = []
    for label, image in labels_with_images(str(folder), str(images), ".png", "index PNG").values():
        with faults:
            size = read_image_size(image)
            values = read_label_map(label)
            check_label_size(label, values, size)
            _check_values(values, names, label)
            objects = [(names[index], mask_fields(mask)) for index, mask in _objects(values)]
            pictures.append(Picture(image, size, objects))
    return pictures, names[1:]


def _check_values(values: np.ndarray, names: Sequence[str], path: str) -> None:
    for value in np.unique(values).tolist():
        index = value // DIVISOR if value >= DIVISOR else value
        if value != IGNORED and not 0 <= index < len(names) or value >= DIVISOR and index == 0:
            raise DataError(f"{path} has the value {value}; its classes are 0 to {len(names) - 1} ({IGNORED} is "
                            f"ignored), from {DIVISOR} on {DIVISOR} x class + number of the object")


def _objects(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(class index, mask (H, W) of bool) of every object, in the order of the values."""
    for value in np.setdiff1d(values, (0, IGNORED)).tolist():
        mask = values == value
        if value >= DIVISOR:
            yield value // DIVISOR, mask
            continue
        count, pieces = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        for number in range(1, count):
            yield value, pieces == number

"""Reading pictures and label maps from files, with one defined result for every kind of file.

Pictures: grey becomes three equal channels, palettes are resolved, an alpha channel is dropped (the stored colours
stay, as in Detectron2), 16-bit grey is scaled by 255/65535, and the EXIF orientation is applied: annotations refer to
the upright picture. Label maps keep their numbers: a palette PNG gives its indices, not its colours.

Shape key: H: height, W: width.
"""
import logging
from pathlib import Path

import numpy as np
from detectron2.data.detection_utils import SizeMismatchError
from PIL import Image

from freqdino.errors import DataError, MissingDataError, UnreadableFileError

IMAGE_FORMATS = ("RGB", "BGR")
_EXIF_ORIENTATION = 0x0112
# What makes a picture of an EXIF orientation upright. Pillow's own function also writes the EXIF data anew, which fails
# where a field beside the orientation is damaged.
_UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90}
_ON_THEIR_SIDE = (5, 6, 7, 8)
_16_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")

logger = logging.getLogger(__name__)


class LabelSizeError(DataError, SizeMismatchError):
    """A picture or label map has another size than what belongs to it."""


def open_image(path: str, *, decode: bool = True) -> Image.Image:
    """Open and decode an image file; without ``decode`` its header alone.

    Raises MissingDataError: there is no such file; UnreadableFileError: it cannot be decoded, from the first byte to
    the last.
    """
    if not Path(path).is_file():
        raise MissingDataError(f"image file {path} does not exist")
    try:
        image = Image.open(path)
        if decode:
            image.load()
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UnreadableFileError(f"image file {path} cannot be read: {error}") from error
    return image


def _orientation(image: Image.Image, path: str) -> int:
    """The EXIF orientation, 1 (upright) where there is none; damaged EXIF data counts as none, with a warning."""
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, EOFError, KeyError, TypeError) as error:
        logger.warning("%s: EXIF data cannot be read (%s); the picture is taken as upright", path, error)
        return 1


def read_image_size(path: str) -> tuple[int, int]:
    """(H, W) of the upright picture, from the file's header. Raises DataError as `open_image`."""
    with open_image(path, decode=False) as image:
        width, height = image.size
        return (width, height) if _orientation(image, path) in _ON_THEIR_SIDE else (height, width)


def _to_8_bit(image: Image.Image, path: str) -> Image.Image:
    """Scale a picture of 16-bit grey values to 8 bits: 0..65535 to 0..255, rounded."""
    values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise DataError(f"image file {path} has values from {values.min()} to {values.max()}; "
                         "8-bit pictures and 16-bit grey ones (0..65535) can be read")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def read_image(path: str, image_format: str) -> np.ndarray:
    """Read a picture as (H, W, 3) uint8, upright, in the channel order ``image_format``: "RGB" or "BGR".

    Raises DataError: there is no such file, it cannot be decoded or has floating point values; ValueError: the format
    is unknown.
    """
    if image_format not in IMAGE_FORMATS:
        raise ValueError(f"INPUT.FORMAT is {image_format!r}; known are {', '.join(IMAGE_FORMATS)}")
    pixels = rgb_pixels(open_image(path), path)
    return pixels if image_format == "RGB" else pixels[:, :, ::-1]


def rgb_pixels(image: Image.Image, name: str) -> np.ndarray:
    """The pixels of a decoded picture, RGB uint8 (H, W, 3), upright. Raises DataError for floating point values."""
    orientation = _orientation(image, name)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    if image.mode in _16_BIT_MODES:
        image = _to_8_bit(image, name)
    elif image.mode == "F":
        raise DataError(f"image file {name} has floating point values; 8-bit and 16-bit pictures can be read")
    if image.mode == "P":
        image = image.convert("RGBA")  # resolves transparency stored with the palette, which "RGB" warns about
    return np.asarray(image.convert("RGB"))


def read_label_map(path: str) -> np.ndarray:
    """Read a single-channel label map as (H, W) integers: the stored numbers, also of a palette PNG.

    Raises DataError: there is no such file, it cannot be decoded or has several channels.
    """
    labels = np.asarray(open_image(path))
    if labels.ndim != 2 or labels.dtype.kind == "f":
        raise DataError(f"label map {path} has shape {labels.shape} and type {labels.dtype}; "
                         "expected one channel of whole numbers")
    return labels.astype(np.uint8) if labels.dtype == bool else labels


def check_image_size(record: dict, size: tuple[int, int]) -> None:
    """Hold the picture's size (H, W) against ``record["height"]`` and ``["width"]`` where they are given.

    Raises LabelSizeError: they differ; the message has both sizes, as width x height.
    """
    height, width = size
    expected = (record.get("width", width), record.get("height", height))
    if expected == (width, height):
        return
    hint = ("; they are swapped: annotations refer to the upright picture, after its EXIF orientation"
            if expected == (height, width) else "")
    raise LabelSizeError(f"image file {record['file_name']} is {width}x{height} (width x height), "
                         f"its annotations say {expected[0]}x{expected[1]}{hint}")


def check_label_size(path: str, labels: np.ndarray, image_size: tuple[int, int]) -> None:
    """Raise `LabelSizeError` unless the map's first two dimensions are ``image_size`` (H, W)."""
    if labels.shape[:2] != tuple(image_size):
        raise LabelSizeError(f"label file {path} is {labels.shape[1]}x{labels.shape[0]} (width x height), "
                             f"its picture is {image_size[1]}x{image_size[0]}")

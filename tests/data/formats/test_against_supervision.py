"""Classes and boxes as the package supervision reads them from the same files.

Its masks are no measure: it rounds outlines to whole pixels and fills their border, so that a square of 20x20 pixels
has 441, where COCO's rasterisation, by which AP is computed, has 400.
"""
from pathlib import Path

import numpy as np
import pytest

from freqdino.data.formats.conversion import read_as_coco

supervision = pytest.importorskip("supervision", reason="supervision is not installed: pip install supervision")


def read_by_supervision(form, folder):
    read = supervision.DetectionDataset
    if form == "yolo":
        return read.from_yolo(str(folder / "images"), str(folder / "labels"), str(folder / "data.yaml"))
    if form == "labelme":
        return read.from_labelme(str(folder / "images"), str(folder / "labelme"))
    return read.from_pascal_voc(str(folder / "images"), str(folder / "xml"))


@pytest.mark.parametrize("form", ["yolo", "labelme", "voc_xml"])
def test_classes_and_boxes(written, images, form):
    document, _ = read_as_coco(written(form))
    expected = read_by_supervision(form, images)
    names = {category["id"]: category["name"] for category in document["categories"]}
    for image in document["images"]:
        detections, = (found for path, found in expected.annotations.items() if Path(path).name == image["file_name"])
        ours = [annotation for annotation in document["annotations"] if annotation["image_id"] == image["id"]]
        assert [names[annotation["category_id"]] for annotation in ours] == [
            expected.classes[index] for index in (detections.class_id if len(detections) else ())]
        boxes = np.array([annotation["bbox"] for annotation in ours]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        assert boxes == pytest.approx(detections.xyxy, abs=0.02)

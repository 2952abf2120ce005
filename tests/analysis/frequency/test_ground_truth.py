"""Category labels from every kind of ground truth, on a picture of 2 × 4 pixels."""
import numpy as np
import pytest
from detectron2.data import Metadata
from PIL import Image

from freqdino.analysis.frequency.ground_truth import category_labels
from freqdino.data.panoptic_png import id_to_rgb
from freqdino.errors import NotThere

METADATA = Metadata(stuff_classes=["a", "b", "c"], thing_classes=["d", "e"], ignore_label=200)


@pytest.fixture
def record(tmp_path):
    Image.fromarray(np.zeros((2, 4, 3), np.uint8)).save(tmp_path / "picture.png")
    return {"file_name": str(tmp_path / "picture.png")}


def test_semantic(record, tmp_path):
    Image.fromarray(np.array([[0, 1, 2, 200], [0, 0, 200, 2]], np.uint8)).save(tmp_path / "labels.png")
    labels = category_labels({**record, "sem_seg_file_name": str(tmp_path / "labels.png")}, METADATA)
    assert labels.tolist() == [[0, 1, 2, -1], [0, 0, -1, 2]]


def test_panoptic(record, tmp_path):
    Image.fromarray(id_to_rgb(np.array([[300, 300, 7, 7], [9, 9, 0, 0]]))).save(tmp_path / "segments.png")
    segments = [{"id": 300, "category_id": 2}, {"id": 7, "category_id": 0}, {"id": 9, "category_id": 2}]
    labels = category_labels({**record, "pan_seg_file_name": str(tmp_path / "segments.png"),
                              "segments_info": segments}, METADATA)
    assert labels.tolist() == [[2, 2, 0, 0], [2, 2, -1, -1]]


def test_instances_of_polygons_and_masks(record):
    left = {"category_id": 1, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]}
    # Column by column: three pixels without, two with, three without.
    over = {"category_id": 0, "segmentation": {"size": [2, 4], "counts": [3, 2, 3]}}
    labels = category_labels({**record, "annotations": [left, over]}, METADATA)
    assert labels.tolist() == [[1, 1, 0, -1], [1, 0, -1, -1]]


def test_no_ground_truth(record):
    with pytest.raises(NotThere, match=r"picture\.png: its dataset has no ground truth"):
        category_labels(record, METADATA)

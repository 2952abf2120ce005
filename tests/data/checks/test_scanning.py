"""Opening files: sizes by hand, faults and objects of each reader, the same result in any number of processes."""
import numpy as np
import pytest
from PIL import Image

from freqdino.data.checks.scanning import Tally, read_contents, scan, size_of
from freqdino.data.target_readers import BoxReader, InstanceReader, PanopticReader, SemanticReader


def test_sizes_are_those_of_the_coco_evaluation():
    assert [size_of(side ** 2) for side in (0, 31, 32, 95, 96, 1000)] == [
        "small", "small", "medium", "medium", "large", "large"]


@pytest.fixture
def picture(tmp_path):
    """A record with every kind of label of a picture of 10x8 pixels, whose left half is the object."""
    labels = np.zeros((8, 10), np.uint8)
    labels[:, 5:] = 1
    labels[0] = 255
    Image.new("RGB", (10, 8)).save(tmp_path / "a.png")
    Image.fromarray(labels).save(tmp_path / "labels.png")
    Image.fromarray(np.dstack([labels // 255 + 1, 0 * labels, 0 * labels])).save(tmp_path / "ids.png")
    return {"file_name": str(tmp_path / "a.png"), "height": 8, "width": 10,
            "annotations": [{"category_id": 1, "segmentation": [[0, 0, 5, 0, 5, 8, 0, 8]], "bbox": [1, 2, 3, 4],
                             "bbox_mode": 1}, {"category_id": 0, "iscrowd": 1}],
            "sem_seg_file_name": str(tmp_path / "labels.png"), "pan_seg_file_name": str(tmp_path / "ids.png"),
            "segments_info": [{"id": 1, "category_id": 0}, {"id": 2, "category_id": 1, "iscrowd": 1}]}


def test_objects_of_every_reader(picture):
    readers = [InstanceReader(num_classes=2), BoxReader(num_classes=2), PanopticReader(num_classes=2),
               SemanticReader(num_classes=2, ignore_label=255)]
    contents = read_contents(picture, readers)
    assert contents.faults == () and not contents.unreadable
    # The polygon's 5x8 pixels, the box's 3x4, the rows below the first of 10, of which 7x5 and 7x5 in the label map.
    assert contents.objects == ((0, 1, 40), (1, 1, 12), (2, 0, 70), (3, 0, 35), (3, 1, 35), (3, -1, 10))


def test_faults_of_picture_and_labels_come_together(picture, tmp_path):
    Image.new("L", (3, 3)).save(tmp_path / "labels.png")
    contents = read_contents({**picture, "width": 11}, [SemanticReader(num_classes=2, ignore_label=255)])
    assert len(contents.faults) == 2 and not contents.unreadable
    assert "its annotations say 11x8" in contents.faults[0] and "labels.png is 3x3" in contents.faults[1]
    (tmp_path / "a.png").write_bytes(b"")
    contents = read_contents(picture, [])
    assert contents.unreadable and "a.png cannot be read" in contents.faults[0]


def test_any_number_of_processes_and_any_order(picture, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"")
    records = [picture, {**picture, "file_name": str(tmp_path / "broken.png")}] * 3
    tallies = []
    for options in ({"processes": 1}, {"processes": 2}, {"processes": 1, "shuffled": True}):
        tally = Tally()
        for number, contents in scan(records, [InstanceReader(num_classes=2)], **options):
            tally.add(number, contents)
        tally.faults.sort()
        tallies.append(tally)
    assert tallies[0] == tallies[1] == tallies[2]
    assert tallies[0].opened == 6 and tallies[0].unreadable == {1, 3, 5} and tallies[0].classes_of(0) == {1}
    assert tallies[0].objects == {(0, 1, "small"): 3} and tallies[0].pictures == {(0, 1): 3}

"""What each format has beside outlines: boxes, groups, masks, splits, lists, borders, pieces; values worked by hand."""
import base64
import io
import json
import logging

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from freqdino.data import dataset_records
from freqdino.data.formats.conversion import read_as_coco


@pytest.fixture
def picture(tmp_path):
    """Makes a grey picture of 20x10 (width x height) pixels."""
    def make(name="images/a.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10), (90, 90, 90)).save(path)
        return path
    return make


def labelme(folder, *shapes, **fields):
    folder.mkdir(exist_ok=True)
    (folder / "a.json").write_text(json.dumps({"imagePath": "../images/a.png", "shapes": list(shapes), **fields}))
    return read_as_coco(f"labelme:{folder}")[0]


def voc(folder, objects):
    (folder / "xml").mkdir()
    (folder / "xml" / "a.xml").write_text(f"<annotation>{objects}</annotation>")
    return read_as_coco(f"voc:{folder}/xml@{folder}/images")[0]


def yolo(folder, text, line):
    (folder / "labels").mkdir(exist_ok=True)
    (folder / "labels" / "a.txt").write_text(line)
    (folder / "data.yaml").write_text(text)
    return read_as_coco(f"yolo:{folder}/data.yaml")[0]


def test_yolo_boxes_have_no_segmentation(picture, tmp_path):
    """Centre (10, 5), 4x2 pixels: from (8, 4)."""
    picture()
    document = yolo(tmp_path, "{train: images, names: {1: dog, 0: cat}}", "1 0.5 0.5 0.2 0.2\n\n")
    annotation, = document["annotations"]
    assert annotation == {"id": 1, "image_id": 1, "category_id": 2, "iscrowd": 0, "bbox": [8, 4, 4, 2], "area": 8}
    assert document["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


def test_yolo_boxes_and_outlines_end_at_the_edge(picture, tmp_path):
    """A hundredth beyond 0..1 is rounding: it is taken to the edge."""
    picture()
    box, outline = yolo(tmp_path, "{train: images, names: [cat]}",
                        "0 0.5 0.5 1.008 0.5\n0 -0.005 0 0.5 0 0.5 1.005 0 1")["annotations"]
    assert box["bbox"] == [0, 2.5, 20, 5]
    assert outline["segmentation"] == [[0, 0, 10, 0, 10, 10, 0, 10]] and outline["area"] == 100


def test_yolo_splits_lists_and_roboflows_paths(picture, tmp_path):
    for name in ("train/images/a.png", "valid/images/b.png", "more/images/c.jpg"):
        path = picture(name)
        label = path.parent.parent / "labels" / f"{path.stem}.txt"
        label.parent.mkdir(exist_ok=True)
        label.write_text("0 0.5 0.5 0.1 0.1")
    (tmp_path / "test.txt").write_text("./more/images/c.jpg\nvalid/images/b.png\n")
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: [valid/images, ../train/images]\ntest: test.txt\n"
                                        "names: [cat]\n")
    files = {split: [image["file_name"] for image in read_as_coco(f"yolo:{tmp_path}/data.yaml{split}")[0]["images"]]
             for split in ("", "@train", "@val", "@test")}
    assert files == {"": ["a.png"], "@train": ["a.png"], "@val": ["valid/images/b.png", "train/images/a.png"],
                     "@test": ["more/images/c.jpg", "valid/images/b.png"]}


def test_yolo_path_key_and_the_last_images_folder(picture, tmp_path):
    picture("images/set/images/a.png")
    (tmp_path / "images/set/labels").mkdir()
    (tmp_path / "images/set/labels/a.txt").write_text("0 0.5 0.5 0.1 0.1")
    (tmp_path / "data.yaml").write_text("path: images/set\ntrain: images\nnames: [cat]\n")
    assert len(read_as_coco(f"yolo:{tmp_path}/data.yaml")[0]["annotations"]) == 1


def test_labelme_rectangles_circles_and_groups(picture, tmp_path):
    """Two triangles of one group are one object; a circle of radius 3 has about 9 pi = 28.3 pixels."""
    picture()
    document = labelme(
        tmp_path / "json",
        {"label": "cat", "shape_type": "rectangle", "points": [[6, 4], [2, 1]]},
        {"label": "dog", "shape_type": "polygon", "group_id": 1, "points": [[0, 6], [3, 6], [0, 9]]},
        {"label": "dog", "shape_type": "polygon", "group_id": 1, "points": [[17, 6], [20, 6], [20, 9]]},
        {"label": "cat", "shape_type": "polygon", "group_id": 1, "points": [[5, 6], [8, 6], [5, 9]]},
        {"label": "cat", "shape_type": "circle", "points": [[12, 5], [12, 2]]})
    rectangle, pair, other, circle = document["annotations"]
    assert rectangle["segmentation"] == [[2, 1, 6, 1, 6, 4, 2, 4]] and rectangle["area"] == 12
    assert pair["segmentation"] == [[0, 6, 3, 6, 0, 9], [17, 6, 20, 6, 20, 9]] and pair["bbox"] == [0, 6, 20, 3]
    assert other["category_id"] == 1
    assert circle["bbox"] == [9, 2, 6, 6] and 26 <= circle["area"] <= 31


def test_labelme_masks(picture, tmp_path):
    """A mask of 2x3 pixels at (4, 5) whose first pixel is off, and with it a group's square."""
    picture()
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 255, 255], [255, 255, 255]], np.uint8)).save(buffer, "PNG")
    shape = {"label": "cat", "shape_type": "mask", "points": [[4, 5], [6, 6]],
             "mask": base64.b64encode(buffer.getvalue()).decode()}
    square = {"label": "cat", "shape_type": "polygon", "points": [[10, 0], [12, 0], [12, 2], [10, 2]]}
    alone, = labelme(tmp_path / "json", shape)["annotations"]
    both, = labelme(tmp_path / "json", {**shape, "group_id": 0}, {**square, "group_id": 0})["annotations"]
    expected = np.zeros((10, 20), np.uint8)
    expected[5:7, 4:7] = 1
    expected[5, 4] = 0
    assert (mask_util.decode(alone["segmentation"]) == expected).all() and alone["bbox"] == [4, 5, 3, 2]
    expected[:2, 10:12] = 1
    assert (mask_util.decode(both["segmentation"]) == expected).all() and both["area"] == 9


def test_labelme_shapes_without_area_are_counted(picture, tmp_path, caplog):
    picture()
    with caplog.at_level(logging.WARNING):
        document = labelme(tmp_path / "json", {"label": "cat", "shape_type": "point", "points": [[1, 1]]},
                           {"label": "cat", "shape_type": "line", "points": [[1, 1], [2, 2]]},
                           {"label": "owl", "points": [[1, 1], [5, 1], [5, 5]]})
    assert "shapes without area are left out: 1 line, 1 point" in caplog.text
    assert document["categories"] == [{"id": 1, "name": "owl"}]


def test_labelme_class_list(picture, tmp_path):
    picture()
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "classes.txt").write_text("zebra\ncat\n")
    document = labelme(tmp_path / "json", {"label": "cat", "points": [[1, 1], [5, 1], [5, 5]]})
    assert [category["name"] for category in document["categories"]] == ["zebra", "cat"]
    assert document["annotations"][0]["category_id"] == 2


def test_turned_pictures_are_upright(tmp_path):
    """A picture of 20x10 that its EXIF orientation turns is 10x20."""
    (tmp_path / "images").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "images" / "a.jpg", exif=exif)
    (tmp_path / "a.json").write_text(json.dumps({
        "imagePath": "images/a.jpg", "imageHeight": 20, "imageWidth": 10,
        "shapes": [{"label": "cat", "points": [[1, 12], [5, 12], [5, 18]]}]}))
    image, = read_as_coco(f"labelme:{tmp_path}")[0]["images"]
    assert (image["height"], image["width"]) == (20, 10)


def test_voc_boxes_count_from_one(picture, tmp_path):
    """Pixels 1 to 4 of each row and column: from 0 to 4."""
    picture()
    annotation, = voc(tmp_path, "<size><width>0</width><height>0</height></size><object><name>cat</name><bndbox>"
                                "<xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></object>")["annotations"]
    assert "segmentation" not in annotation and annotation["bbox"] == [0, 0, 4, 4] and annotation["area"] == 16


def test_voc_masks_with_borders_and_its_own_classes(picture, tmp_path):
    """Objects 1 (8, a cat) and 2 (15, a person) with a border of 255; without a classes.txt the classes are VOC's."""
    picture()
    numbers, labels = np.full((2, 10, 20), 0, np.uint8)
    numbers[2:6, 2:8], labels[2:6, 2:8] = 255, 255
    numbers[3:5, 3:7], labels[3:5, 3:7] = 1, 8
    numbers[7:9, 10:12], labels[7:9, 10:12] = 2, 15
    for folder, content in (("SegmentationObject", numbers), ("SegmentationClass", labels)):
        (tmp_path / folder).mkdir()
        Image.fromarray(content).save(tmp_path / folder / "a.png")
    document, _ = read_as_coco(f"voc:{tmp_path}/SegmentationObject@{tmp_path}/images")
    names = {category["id"]: category["name"] for category in document["categories"]}
    assert len(names) == 20
    assert [(names[annotation["category_id"]], annotation["bbox"], annotation["area"])
            for annotation in document["annotations"]] == [("cat", [3, 3, 4, 2], 8), ("person", [10, 7, 2, 2], 4)]


def test_indices_pieces_and_numbers(picture, tmp_path):
    """Pieces that touch at a corner are one object; 2003 and 2004 are two of class 2; 255 is nothing."""
    picture()
    values = np.zeros((10, 20), np.uint16)
    values[0:2, 0:2] = values[2:4, 2:4] = values[0:2, 10:12] = 1
    values[6, 0:3], values[6, 3:5], values[9, :] = 2003, 2004, 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(values).save(tmp_path / "masks" / "a.png")
    (tmp_path / "masks" / "classes.txt").write_text("background\ncat\ndog\n")
    records = dataset_records(f"indices:{tmp_path}/masks@{tmp_path}/images")
    assert [(annotation["category_id"], annotation["bbox"]) for annotation in records[0]["annotations"]] == [
        (0, [0, 0, 4, 4]), (0, [10, 0, 2, 2]), (1, [0, 6, 3, 1]), (1, [3, 6, 2, 1])]

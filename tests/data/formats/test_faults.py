"""What is wrong with data in other formats: a sentence that names the file and what was expected."""
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from freqdino.data import register_custom_datasets
from freqdino.data.formats.conversion import read_as_coco
from freqdino.errors import DataError, MissingDataError


def fault(name, kind=DataError):
    with pytest.raises(kind) as error:
        register_custom_datasets([name])
    return str(error.value)


@pytest.mark.parametrize("yaml, message", [
    ("names: [cat, dog]\n", r"data.yaml: train is null; expected a folder .* \(the splits that there are: none"),
    ("train: images\n", "data.yaml: names is null; expected the classes"),
    ("train: images\nnames: {0: cat, 2: dog}\n", r"data.yaml: the indices of names are \[0, 2\]; expected 0 to 1"),
    ("train: images\nnames: [cat, cat]\n", "more than one class has the name 'cat'"),
    ("train: images\nnames: [cat, dog]\nnc: 3\n", "data.yaml: nc is 3, but there are 2 names"),
    ("train: pictures\nnames: [cat, dog]\n", "data.yaml names pictures, which does not exist .*/pictures"),
    ("train: xml\nnames: [cat, dog]\n", "data.yaml: there is no picture in xml"),
    ("train: images\nnames: [cat, dog]\nkpt_shape: [17, 3]\n", "has kpt_shape: its labels are keypoints"),
    ("train: [images\n", "data.yaml is not YAML: while parsing"),
    ("- cat\n", "data.yaml has no keys; expected names, and the pictures under train, val, test"),
])
def test_yolo_files(written, images, yaml, message):
    name = written("yolo")
    written("voc_xml")
    (images / "data.yaml").write_text(yaml)
    with pytest.raises(DataError, match=message):
        register_custom_datasets([name])


@pytest.mark.parametrize("line, message", [
    ("2 .1 .1 .2 .2", "a.txt, line 1 has the class 2; .*data.yaml has 2, 0 to 1"),
    ("0.5 .1 .1 .2 .2", "has the class 0.5"),
    ("cat .1 .1 .2 .2", "a.txt, line 1 has 'cat' where a number belongs"),
    ("0 .1 nan .2 .2", "has 'nan' where a number belongs"),
    ("0 .1 .1 .2 .2 .9", "has 5 numbers after the class; expected 4 of a box, or x, y of at least 3 points"),
    ("0 10 10 40 10 40 30", "line 1 lies outside the picture, it reaches 40; coordinates are parts of"),
    ("0 .5 .5 -.2 .2", "a box of negative width"),
    ("0 .1 .1 0 .2", "a box without area, of 0x9.6 pixels"),
])
def test_yolo_lines(written, images, line, message):
    name = written("yolo")
    (images / "labels" / "a.txt").write_text(line)
    with pytest.raises(DataError, match=message):
        register_custom_datasets([name])


def test_yolo_missing_files(written, images):
    name = written("yolo")
    assert "none.yaml does not exist or is no file" in fault(f"yolo:{images}/none.yaml", MissingDataError)
    assert "val is null" in fault(f"{name}@val")
    shutil.rmtree(images / "labels")
    message = fault(name, MissingDataError)
    assert "none of the 3 pictures of train has a label file; that of the first would be" in message
    assert message.endswith("labels/a.txt")


@pytest.mark.parametrize("change, message", [
    ({"shapes": None}, "a.json has no list 'shapes'; the LabelMe format has shapes"),
    ({"imagePath": 3}, "a.json has the imagePath 3; expected a text"),
    ({"imagePath": "../images/none.png"}, "images/none.png does not exist"),
    ({"imagePath": "../images/b.png"}, "b.json and .*a.json are both about the picture .*b.png"),
    ({"imageWidth": 99}, "a.png is 64x48 .width x height., its annotations say 99x48"),
    ({"shapes": [{"points": [[1, 1], [2, 2], [3, 1]]}]}, "a.json: shape number 1 has no label"),
    ({"shapes": [{"label": "cat", "points": [[1, 1], [2]]}]}, "has the points .*; expected pairs of numbers"),
    ({"shapes": [{"label": "cat", "points": [[1, 1], [2, 2]]}]}, "has an outline of 2 points; expected at least 3"),
    ({"shapes": [{"label": "cat", "points": [[70, 1], [80, 2], [80, 9]]}]},
     r"shape number 1 lies outside the picture of 64x48 pixels .*from \[70.0, 1.0\] to \[80.0, 9.0\]"),
    ({"shapes": [{"label": "cat", "points": [[1, 1], [4, 4], [3e8, 9]]}]}, "has the coordinate 3e.08; expected pixels"),
    ({"shapes": [{"label": "cat", "points": [[1, 1]], "shape_type": "blob"}]}, "has the shape_type 'blob'; polygon"),
    ({"shapes": [{"label": "cat", "points": [[1, 1]], "shape_type": "circle"}]}, "a circle, has 1 points; expected 2"),
    ({"shapes": [{"label": "cat", "points": [[1, 1], [3, 3]], "shape_type": "mask"}]}, "is a mask, but has no PNG in"),
    ({"shapes": [{"label": "owl", "points": [[1, 1], [9, 1], [9, 9]]}]},
     "shape number 1 has the class 'owl', which the class list does not have: it has 'cat', 'dog'"),
])
def test_labelme_files(written, images, change, message):
    name, path = written("labelme"), images / "labelme" / "a.json"
    (images / "labelme" / "classes.txt").write_text("cat\ndog\n")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=message):
        register_custom_datasets([name])


def test_all_faults_at_once(written, images):
    name = written("labelme")
    (images / "labelme" / "a.json").write_text("{")
    (images / "labelme" / "b.json").write_text("[]")
    with pytest.raises(DataError) as error:
        read_as_coco(name)
    first, second = error.value.faults
    assert "a.json is not JSON" in first and "b.json has no list" in second


@pytest.mark.parametrize("old, new, message", [
    ("<annotation>", "<annotation", "a.xml is not XML"),
    ("annotation>", "data>", "a.xml has <data> at its root; VOC's files have <annotation>"),
    ("<width>64</width>", "<width>32</width>", "a.png is 64x48 .width x height., its annotations say 32x48"),
    ("<width>64</width>", "<width>wide</width>", "<size> has 'wide' where a number belongs"),
    ("<name>cat</name>", "", "a.xml: object number 1 has no <name>"),
    ("<x1>5.0</x1>", "", "a.xml: object number 1 has a <polygon> of y1, x2, .*; expected x1, y1, x2, y2 and so on"),
    ("<x1>5.0</x1>", "<x1></x1>", "object number 1 has None where a number belongs"),
])
def test_voc_xml_files(written, images, old, new, message):
    name, path = written("voc_xml"), images / "xml" / "a.xml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        register_custom_datasets([name])


@pytest.mark.parametrize("objects, message", [
    ("<name>cat</name>", "has neither <polygon> nor <bndbox>"),
    ("<name>cat</name><bndbox><xmin>9</xmin></bndbox>", "<bndbox> has None where a number belongs"),
    ("<name>cat</name><bndbox><xmin>9</xmin><ymin>1</ymin><xmax>4</xmax><ymax>5</ymax></bndbox>",
     "minimum lies beyond its maximum"),
    ("<name>cat</name><bndbox><xmin>70</xmin><ymin>1</ymin><xmax>90</xmax><ymax>5</ymax></bndbox>",
     "lies outside the picture of 64x48 pixels"),
])
def test_voc_boxes(written, images, objects, message):
    name = written("voc_xml")
    (images / "xml" / "a.xml").write_text(f"<annotation><object>{objects}</object></annotation>")
    with pytest.raises(DataError, match=message):
        register_custom_datasets([name])


def test_voc_masks(written, images):
    name = written("voc_png")
    folder = images / "SegmentationObject"
    Image.fromarray(np.full((48, 64), 9, np.uint8)).save(images / "SegmentationClass" / "a.png")
    assert "a.png: object 1 has the value 9 in" in fault(name) and "expected one of 1 to 2, the classes" in fault(name)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(images / "SegmentationClass" / "a.png")
    assert "label file" in fault(name) and "is 9x9 (width x height), its picture is 64x48" in fault(name)
    (images / "SegmentationClass" / "a.png").unlink()
    assert "SegmentationClass/a.png does not exist" in fault(name, MissingDataError)
    shutil.rmtree(images / "SegmentationClass")
    assert "but not their classes in" in fault(name) and "are named indices:<masks>@<images>" in fault(name)
    folder.rename(images / "SegmentationClass")
    assert "but not their classes in" in fault(f"voc:{images}/SegmentationClass@{images}/images")


@pytest.mark.parametrize("value, message", [
    (3, r"a.png has the value 3; its classes are 0 to 2 \(255 is ignored\), from 1000 on 1000 x class"),
    (3001, "has the value 3001"), (999, "has the value 999")])
def test_indices_values(written, images, value, message):
    name = written("numbered_indices")
    Image.fromarray(np.full((48, 64), value, np.uint16)).save(images / "numbered" / "a.png")
    with pytest.raises(DataError, match=message):
        register_custom_datasets([name])


def test_indices_folders(written, images):
    name = written("indices")
    assert "keep them in folders of their own" in fault(f"indices:{images}/indices@{images}/indices")
    (images / "indices" / "d.png").write_bytes((images / "indices" / "a.png").read_bytes())
    assert "1 of the 4 index PNGs in" in fault(name, MissingDataError) and "no image of the same name" in fault(name)
    (images / "indices" / "classes.txt").write_text("cat\n")
    assert "the first is the background, value 0, and after it come the classes" in fault(name)
    (images / "indices" / "classes.txt").unlink()
    assert "class file" in fault(name, MissingDataError) and "indices/classes.txt does not exist" in fault(name)


@pytest.mark.parametrize("form, folder, foreign", [
    ("yolo", "labels", "a.json"), ("labelme", "labelme", "a.xml"), ("labelme", "labelme", "a.txt"),
    ("voc_xml", "xml", "a.txt"), ("voc_xml", "xml", "a.png"), ("voc_png", "SegmentationObject", "a.json"),
    ("indices", "indices", "a.xml")])
def test_formats_mixed_in_one_folder(written, images, form, folder, foreign):
    name = written(form)
    (images / folder / foreign).write_text("x")
    message = fault(name)
    assert f"{folder}/{foreign}: formats are not mixed in one folder" in message


@pytest.mark.parametrize("name, message", [
    ("labelme:none", "the LabelMe folder none does not exist or is no folder"),
    ("voc:none@none", "the folder of VOC annotations none does not exist"),
    ("voc:none", "'voc:none' has not the form voc:<masks>@<images>"),
    ("indices:@none", "has not the form indices:<masks>@<images>"),
    ("labelme:", "has not the form labelme:<folder>"),
    ("yolo:", "has not the form yolo:<data.yaml>"),
    ("coco:a@b", "'coco:a@b' has none of the forms .*yolo:<data.yaml>; labelme:<folder>"),
])
def test_names(name, message):
    with pytest.raises(DataError, match=message):
        register_custom_datasets([name])


def test_a_cache_that_cannot_be_written(written, images, monkeypatch):
    (images / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(images / "file"))
    message = fault(written("yolo"))
    assert "which cannot be written (Not a directory): set XDG_CACHE_HOME to a folder" in message


def test_empty_folders_and_labels(images):
    (images / "empty").mkdir()
    assert "empty has no .json file" in fault(f"labelme:{images}/empty", MissingDataError)
    (images / "empty" / "a.json").write_text(json.dumps({"imagePath": "../images/a.png", "shapes": []}))
    assert "has no object in its 1 pictures, and no class list" in fault(f"labelme:{images}/empty")

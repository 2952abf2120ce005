"""Annotation files with values of any type: each is read, and then evaluated, or refused by a message with the file."""
import copy
import json
import re

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from freqdino.data import register_custom_datasets
from freqdino.errors import DataError
from freqdino.evaluation.instance_evaluator import InstanceEvaluator
from freqdino.evaluation.panoptic_evaluator import PanopticEvaluator

VALUES = (None, "", "1", 1, -1, 48.0, 1.5, True, [], [[]], {}, ["1"], [1, 2, 3, 4], float("nan"), 1e300)
IMAGES = [{"id": 1, "file_name": "0.png", "height": 48, "width": 64}]
INSTANCES = {"images": IMAGES, "categories": [{"id": 1, "name": "a"}], "annotations": [
    {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 81, "bbox": [1, 1, 9, 9],
     "segmentation": [[1, 1, 9, 1, 9, 9]]},
    {"id": 2, "image_id": 1, "category_id": 1, "segmentation": {"size": [48, 64], "counts": [3072]}}]}
PANOPTIC = {"images": IMAGES, "categories": [{"id": 1, "name": "a", "isthing": 1}], "annotations": [
    {"image_id": 1, "file_name": "0.png", "segments_info": [{"id": 5, "category_id": 1, "iscrowd": 0}]}]}


@pytest.fixture
def folder(tmp_path):
    for name in ("pictures", "pngs"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "pictures" / "0.png")
    colors = np.zeros((48, 64, 3), np.uint8)
    colors[:10, :10, 0] = 5
    Image.fromarray(colors).save(tmp_path / "pngs" / "0.png")
    return tmp_path


def places(node, place=()):
    """Every key and index of a document."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield (*place, key)
        yield from places(child, (*place, key))


def changed(document, place, value):
    document = copy.deepcopy(document)
    node = document
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    return document


@pytest.mark.parametrize("document, folders, evaluate", [
    (INSTANCES, "@{0}/pictures", lambda name: InstanceEvaluator(name, tasks=["bbox"]).evaluate()),
    (PANOPTIC, "@{0}/pictures@{0}/pngs", PanopticEvaluator)])
def test_every_field_with_every_type(folder, document, folders, evaluate):
    read = refused = 0
    for number, place in enumerate(places(document)):
        for value in VALUES:
            path = folder / f"{number}.json"
            path.write_text(json.dumps(changed(document, place, value)))
            name = f"{path}{folders.format(folder)}"
            try:
                register_custom_datasets([name])
                records = DatasetCatalog.get(name)
            except DataError as error:
                assert str(path) in str(error), (place, value)
                refused += 1
            else:
                read += 1
                if any(record.get("annotations", record.get("segments_info")) for record in records):
                    assert evaluate(name)
            finally:
                DatasetCatalog.pop(name, None)
                MetadataCatalog.pop(name, None)
    assert read > 10 and refused > 200


def message_of(folder, document, folders="@{0}/pictures", edit=lambda document: None):
    document = copy.deepcopy(document)
    edit(document)
    path = folder / "a.json"
    path.write_text(json.dumps(document))
    name = f"{path}{folders.format(folder)}"
    with pytest.raises(DataError) as caught:
        register_custom_datasets([name])
        DatasetCatalog.get(name)
    return str(caught.value)


@pytest.mark.parametrize("edit, message", [
    (lambda d: d["images"][0].update(width="64"),
     "entry number 0 of 'images' has the width '64'; expected a whole number of at least 1"),
    (lambda d: d["annotations"][1].update(iscrowd="no"),
     "entry number 1 of 'annotations' has the iscrowd 'no'; expected 0 or 1"),
    (lambda d: d["annotations"][1].update(image_id="1"),
     "annotation 2 refers to image_id '1', which is not in 'images'; there it is 1, of another type"),
    (lambda d: d["images"].append({**IMAGES[0], "id": "1"}), "in 'images' the id occurs more than once: 1 and '1'"),
    (lambda d: d["categories"].append({"id": 2, "name": "a"}), "more than one class has the name 'a'"),
    (lambda d: d["categories"][0].update(name=None), "the category with the id 1 has the name null; expected a text"),
    (lambda d: d["annotations"][0].update(segmentation=[[]]), "a polygon needs an even count of at least 6 .*; got 0"),
    (lambda d: d["annotations"][0].update(segmentation=[[0, 0, 1e9, 0, 5, 5]]), "a polygon has the coordinate 1e.09"),
    (lambda d: d["annotations"][1]["segmentation"].update(size=None), "the RLE's size .* is None, the image's is"),
])
def test_faults_of_instances_show_the_value(folder, edit, message):
    assert re.search(message, message_of(folder, INSTANCES, edit=edit))


@pytest.mark.parametrize("edit, message", [
    (lambda d: d["categories"][0].update(isthing="yes"), "the id 1 has the isthing 'yes'; expected 0 or 1"),
    (lambda d: d["annotations"][0].update(segments_info=None), "has the segments_info null; expected a list"),
    (lambda d: d["annotations"][0]["segments_info"][0].update(id=0), "has the id 0; expected a whole .* from 1 "),
    (lambda d: d["annotations"].append(d["annotations"][0]), "in 'annotations' the image_id occurs more than once: 1"),
])
def test_faults_of_panoptic_files_show_the_value(folder, edit, message):
    assert re.search(message, message_of(folder, PANOPTIC, "@{0}/pictures@{0}/pngs", edit))


def test_all_faults_are_in_the_error(folder):
    def edit(document):
        for annotation in document["annotations"]:
            annotation["category_id"] = "1"
        document["images"][0]["height"] = 0
    assert "(and 2 more faults: tools/check_data.py lists them all)" in message_of(folder, INSTANCES, edit=edit)


def test_files_of_windows_editors(folder):
    for encoding in ("utf-8-sig", "utf-16"):
        (folder / "a.json").write_text(json.dumps(INSTANCES), encoding=encoding)
        name = f"{folder}/a.json@{folder}/pictures"
        register_custom_datasets([name])
        assert len(DatasetCatalog.get(name)) == 1
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)

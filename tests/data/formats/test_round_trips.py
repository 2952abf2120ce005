"""The same pictures in every format: the same objects, the same AP, the same through the command."""
import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from freqdino.commands import convert_data
from freqdino.data import dataset_records, register_custom_datasets
from freqdino.evaluation.instance_evaluator import InstanceEvaluator

FORMS = ("yolo", "labelme", "voc_xml", "voc_png", "indices", "numbered_indices")
POLYGONS = ("yolo", "labelme", "voc_xml")
HEIGHT, WIDTH = 48, 64


def masks_of(name):
    """File -> (class name, mask) of its objects, by class and place."""
    found, records, classes = {}, dataset_records(name), MetadataCatalog.get(name).thing_classes
    for record in records:
        objects = []
        for annotation in record["annotations"]:
            shape = annotation["segmentation"]
            if isinstance(shape, list):
                shape = mask_util.merge(mask_util.frPyObjects(shape, HEIGHT, WIDTH))
            objects.append((classes[annotation["category_id"]], mask_util.decode(shape).astype(bool)))
        found[Path(record["file_name"]).name] = sorted(objects, key=lambda item: (item[0], item[1].argmax()))
    return found


def average_precision(name, truth):
    """AP of the true masks moved: by a pixel in a, by two and grown in b, and one that is nowhere in c."""
    register_custom_datasets([name])
    evaluator = InstanceEvaluator(name, use_fast_impl=False)
    evaluator.reset()
    classes = MetadataCatalog.get(name).thing_classes
    for record in DatasetCatalog.get(name):
        file = Path(record["file_name"]).name
        if file == "c.png":
            corner = np.zeros((HEIGHT, WIDTH), bool)
            corner[:9, :9] = True
            objects = [("dog", corner)]
        elif file == "a.png":
            objects = [(label, np.roll(mask, 1, axis=1)) for label, mask in truth[file]]
        else:
            objects = [(label, np.roll(mask, 2, axis=0) | mask) for label, mask in truth[file]]
        result = Instances((HEIGHT, WIDTH))
        result.pred_masks = torch.from_numpy(np.stack([mask for _, mask in objects])).float()
        result.scores = torch.linspace(0.9, 0.5, len(objects))
        result.pred_classes = torch.tensor([classes.index(label) for label, _ in objects])
        rows = [torch.where(mask > 0) for mask in result.pred_masks]
        result.pred_boxes = Boxes(torch.tensor([[x.min(), y.min(), x.max() + 1, y.max() + 1] for y, x in rows]).float())
        evaluator.process([record], [{"instances": result}])
    return evaluator.evaluate()["segm"]["AP"]


@pytest.mark.parametrize("form", FORMS)
def test_the_same_objects(coco, written, form):
    name = written(form)
    expected, found = masks_of(coco), masks_of(name)
    assert MetadataCatalog.get(name).thing_classes == ["cat", "dog"]
    assert {file: len(objects) for file, objects in found.items()} == {"a.png": 3, "b.png": 2, "c.png": 0}
    for file, objects in expected.items():
        for (label, mask), (found_label, found_mask) in zip(objects, found[file], strict=True):
            assert found_label == label
            assert np.count_nonzero(found_mask != mask) <= (1 if form in POLYGONS else 0), (file, label)


def test_equal_average_precision(coco, written):
    truth = masks_of(coco)
    expected = average_precision(coco, truth)
    assert 40 < expected < 90
    for form in FORMS:
        assert average_precision(written(form), truth) == pytest.approx(expected, abs=0.3), form


@pytest.mark.parametrize("form", FORMS)
def test_the_command_writes_the_same_set(written, images, capsys, form):
    name = written(form)
    target = images / "new.json"
    assert convert_data.main([name, str(target)]) == 0
    said = capsys.readouterr().out
    again = f"{target}@{images}/images"
    assert f"cat: 3 objects\ndog: 2 objects\n3 pictures; the data set is now also {again}\n" in said
    document = json.loads(target.read_text())
    assert [image["file_name"] for image in document["images"]] == ["a.png", "b.png", "c.png"]
    direct = masks_of(name)
    for file, objects in masks_of(again).items():
        for (label, mask), (other, other_mask) in zip(objects, direct[file], strict=True):
            assert label == other and (mask == other_mask).all()


def test_fields_of_an_object(written):
    """The 20x20 square at (4, 5): its corners in pixels, 400 pixels."""
    record = dataset_records(written("yolo"))[0]
    square = record["annotations"][0]
    assert (square["segmentation"], square["bbox"]) == ([[4, 5, 24, 5, 24, 25, 4, 25]], [4, 5, 20, 20])
    document = json.loads(Path(MetadataCatalog.get("yolo:" + str(Path(record["file_name"]).parents[1] / "data.yaml"))
                               .json_file).read_text())
    assert document["annotations"][0]["area"] == 400


def test_one_file_for_the_same_data_and_another_for_new(written, images, cache):
    name = written("labelme")
    register_custom_datasets([name])
    DatasetCatalog.remove(name), MetadataCatalog.remove(name)
    register_custom_datasets([name])
    assert len(list(cache.iterdir())) == 1
    path = images / "labelme" / "a.json"
    path.write_text(path.read_text().replace('"dog"', '"owl"'))
    DatasetCatalog.remove(name), MetadataCatalog.remove(name)
    register_custom_datasets([name])
    assert len(list(cache.iterdir())) == 2 and MetadataCatalog.get(name).thing_classes == ["cat", "dog", "owl"]


def test_the_command_refuses(written, images, capsys):
    name = written("yolo")
    (images / "there.json").write_text("{}")
    assert convert_data.main([name, str(images / "there.json")]) == 1
    assert "there.json is there already; name a new file" in capsys.readouterr().err
    assert convert_data.main(["yolov8:data.yaml", str(images / "new.json")]) == 1
    assert "yolov8:data.yaml has none of the forms yolo:<data.yaml>, labelme:<folder>, voc:" in capsys.readouterr().err
    (images / "labels" / "a.txt").write_text("0 .1 .1 .2\n7 .1 .1 .2 .2\n")
    assert convert_data.main([name, str(images / "new.json")]) == 1
    faults = capsys.readouterr().err.strip().splitlines()
    assert len(faults) == 2 and "line 1 has 3 numbers" in faults[0] and "line 2 has the class 7" in faults[1]
    assert not (images / "new.json").exists()

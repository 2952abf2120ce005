"""Own data by name: the three forms, their metadata and records, and every fault with its message."""
import json
import os

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from freqdino.data import register_custom_datasets

SQUARE = [2, 1, 6, 1, 6, 5, 2, 5]


def load(name):
    register_custom_datasets([name])
    return DatasetCatalog.get(name)


def test_instances(instance_set):
    rle = {"size": [6, 8], "counts": [48]}
    name, path = instance_set([{"segmentation": [SQUARE], "bbox": [2, 1, 4, 4]},
                               {"category_id": 7, "segmentation": rle, "iscrowd": 1}], images=2)
    records = load(name)
    metadata = MetadataCatalog.get(name)
    assert (metadata.evaluator_type, metadata.json_file) == ("coco", str(path))
    assert metadata.thing_classes == ["nut", "fig"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert [record["image_id"] for record in records] == [10, 11]
    assert os.path.isfile(records[0]["file_name"]) and (records[0]["height"], records[0]["width"]) == (6, 8)
    first, second = records[0]["annotations"]
    assert (first["id"], first["category_id"], first["segmentation"], first["bbox"]) == (100, 0, [SQUARE], [2, 1, 4, 4])
    assert (second["category_id"], second["iscrowd"], second["segmentation"]) == (1, 1, rle)
    assert records[1]["annotations"] == []


def test_registering_again_and_other_names_do_nothing(instance_set):
    name, _ = instance_set([])
    register_custom_datasets([name, "coco_2017_train", "not_registered"])
    register_custom_datasets((name,))
    assert name in DatasetCatalog and "not_registered" not in DatasetCatalog


def test_relative_paths(instance_set, tmp_path, monkeypatch):
    instance_set([{"segmentation": [SQUARE]}])
    monkeypatch.chdir(tmp_path)
    assert load(f"instances.json@images{os.sep}")[0]["file_name"] == os.path.join("images", "0.png")


def test_at_signs_in_paths(instance_set, panoptic_set, tmp_path):
    name, path = instance_set([])
    (tmp_path / "a@b").mkdir()
    (tmp_path / "im@ges").symlink_to(tmp_path / "images")
    (tmp_path / "a@b" / "x.json").write_text(path.read_text())
    assert len(load(f"{tmp_path}/a@b/x.json@{tmp_path}/im@ges")) == 1


def test_panoptic(panoptic_set):
    name = panoptic_set()
    record, = load(name)
    metadata = MetadataCatalog.get(name)
    assert metadata.evaluator_type == "coco_panoptic_seg"
    assert metadata.stuff_classes == ["sky", "dog"]  # ids 9 and 20
    assert metadata.thing_dataset_id_to_contiguous_id == {20: 1}
    assert (record["image_id"], record["height"], record["width"]) == (5, 4, 6)
    assert record["pan_seg_file_name"].endswith("pngs/a.png") and record["file_name"].endswith("images/a.jpg")
    assert [(segment["id"], segment["category_id"], segment["isthing"]) for segment in record["segments_info"]] == [
        (300, 1, True), (70000, 0, False)]


def test_panoptic_with_at_sign_in_the_image_folder(panoptic_set, tmp_path):
    panoptic_set()
    (tmp_path / "im@ges").symlink_to(tmp_path / "images")
    assert len(load(f"{tmp_path}/panoptic.json@{tmp_path}/im@ges@{tmp_path}/pngs")) == 1


def test_semantic(semantic_set):
    name = semantic_set([[0, 1], [255, 2]])
    record, = load(name)
    metadata = MetadataCatalog.get(name)
    assert (metadata.evaluator_type, metadata.stuff_classes) == ("sem_seg", ["road", "car", "sky"])
    assert metadata.ignore_label == 255 and metadata.sem_seg_root.endswith("labels")
    assert record["sem_seg_file_name"].endswith("labels/a.png") and record["file_name"].endswith("images/a.png")


def test_semantic_subfolders_and_images_without_labels(semantic_set, tmp_path, caplog):
    name = semantic_set([[0]])
    for folder in ("images", "labels"):
        (tmp_path / folder / "deep").mkdir()
    Image.new("RGB", (1, 1)).save(tmp_path / "images" / "deep" / "b.JPG")
    Image.new("L", (1, 1)).save(tmp_path / "labels" / "deep" / "b.png")
    Image.new("RGB", (1, 1)).save(tmp_path / "images" / "extra.jpg")
    assert [os.path.basename(record["file_name"]) for record in load(name)] == ["a.png", "b.JPG"]
    assert "1 of the 3 images" in caplog.text and "have no label PNG" in caplog.text


def test_hidden_files_are_no_pictures(semantic_set, tmp_path):
    name = semantic_set([[0]])
    for folder in ("images", "labels"):
        (tmp_path / folder / ".ipynb_checkpoints").mkdir()
        for hidden in ("._a.png", ".ipynb_checkpoints/a-checkpoint.png", "Thumbs.db"):
            (tmp_path / folder / hidden).write_bytes(b"no picture")
        (tmp_path / folder / "folder.png").mkdir()
    assert [record["image_id"] for record in load(name)] == ["a"]


def test_paths_of_the_home_folder(instance_set, tmp_path, monkeypatch):
    instance_set([])
    monkeypatch.setenv("HOME", str(tmp_path))
    record, = load("~/instances.json@~/images")
    assert record["file_name"] == str(tmp_path / "images" / "0.png")
    assert MetadataCatalog.get("~/instances.json@~/images").json_file == str(tmp_path / "instances.json")


def test_class_files_of_windows_editors(semantic_set, tmp_path):
    name = semantic_set([[0]])
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "classes.txt").write_bytes("Straße\r\nHaus\r\n".encode(encoding))
        load(name)
        assert MetadataCatalog.pop(name).stuff_classes == ["Straße", "Haus"]
        DatasetCatalog.remove(name)


def test_text_ids_are_read_and_ordered(instance_set):
    def edit(document):
        for image, image_id in zip(document["images"], ("b", 7, "001")):
            image["id"] = image_id
        document["annotations"][0]["image_id"] = "b"
    name, _ = instance_set([{"segmentation": [SQUARE]}], images=3, edit=edit)
    assert [(record["image_id"], len(record["annotations"])) for record in load(name)] == [
        (7, 0), ("001", 0), ("b", 1)]


def test_panoptic_images_without_annotation_are_counted(panoptic_set, caplog):
    def edit(document):
        document["images"].append({**document["images"][0], "id": "5b"})
    assert len(load(panoptic_set(edit))) == 1
    assert "1 of the 2 images" in caplog.text and "have no annotation and are left out" in caplog.text


@pytest.mark.parametrize("name, message", [
    ("", "a data set has the name ''; expected a registered name"),
    (None, "a data set has the name null"),
    ("annotations@images", r"none of the forms <annotations.json>@<image folder>"),
    ("a.csv@images", "none of the forms"),
    ("a.json@", "none of the forms"),
    ("nowhere.json@images", r"annotation file nowhere.json does not exist"),
    ("nowhere.txt@images", r"begins with a class file and needs two folders"),
    ("nowhere.txt@images@labels", r"class file nowhere.txt does not exist"),
])
def test_names_that_cannot_be_used(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        register_custom_datasets([name])
    assert name not in DatasetCatalog


def test_missing_folders(instance_set, panoptic_set, tmp_path):
    _, path = instance_set([])
    with pytest.raises(FileNotFoundError, match=r"image folder nowhere does not exist \(that is /"):
        register_custom_datasets([f"{path}@nowhere"])
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": "a", "isthing": 1}]}))
    with pytest.raises(FileNotFoundError, match="PNG folder gone does not exist"):
        register_custom_datasets([f"{path}@{tmp_path / 'images'}@gone"])


@pytest.mark.parametrize("text, message", [
    ("{not json", r"instances.json is not JSON"),
    ("[1, 2]", r"instances.json has no list 'images'"),
    ('{"images": [], "annotations": []}', r"instances.json has no list 'categories'"),
])
def test_files_of_another_kind(instance_set, text, message):
    name, path = instance_set([])
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        register_custom_datasets([name])


NEITHER = r"annotation 100 of image 0\.png \(image_id 10\) has neither segmentation nor bbox"


def edit_annotation(**changes):
    return lambda document: document["annotations"][0].update(changes)


@pytest.mark.parametrize("edit, message", [
    (edit_annotation(category_id=5), r"annotation 100 of image 0\.png \(image_id 10\) has category_id 5, .*are 3, 7"),
    (edit_annotation(image_id=99), r"annotation 100 refers to image_id 99"),
    (edit_annotation(segmentation=[[1, 1, 2, 2]]), r"annotation 100 of image 0\.png .*at least 6 numbers; got 4"),
    (edit_annotation(segmentation={"size": [8, 6], "counts": [48]}), r"annotation 100 .*\(height, width\) is \[8, 6\]"),
    (lambda document: document["annotations"][0].pop("segmentation"), NEITHER),
    (edit_annotation(segmentation=[], bbox=[]), NEITHER),
    (edit_annotation(bbox=[1, 2, 3]), r"annotation 100 of image 0\.png .*: a bbox has 4 numbers; got 3"),
    (lambda document: document["annotations"][0].pop("id"), "entry number 0 of 'annotations' has no id"),
    (lambda document: document["annotations"].append(document["annotations"][0]), "the id occurs more than once: 100"),
    (lambda document: document["images"].append(document["images"][0]), "in 'images' the id occurs more than once: 10"),
    (lambda document: document["images"][0].pop("height"), "entry number 0 of 'images' has no height"),
])
def test_faults_in_instances_are_named(instance_set, edit, message):
    name, path = instance_set([{"segmentation": [SQUARE]}], edit=edit)
    with pytest.raises(ValueError, match=f"instances.json.*{message}"):
        load(name)


@pytest.mark.parametrize("empty", [{}, {"segmentation": []}, {"segmentation": None}])
def test_boxes_without_segmentations(instance_set, empty):
    name, _ = instance_set([{"bbox": [2, 1, 4.5, 0], **empty}])
    annotation, = load(name)[0]["annotations"]
    assert annotation == {"id": 100, "category_id": 0, "iscrowd": 0, "bbox": [2, 1, 4.5, 0],
                          "bbox_mode": BoxMode.XYWH_ABS}


def test_missing_images_are_counted_and_named(instance_set, tmp_path):
    name, _ = instance_set([], images=9)
    for index in range(2, 9):
        (tmp_path / "images" / f"{index}.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"7 of the 9 image files .*instances\.json lists are not in the folder "
                                                r".*images: 2\.png, 3\.png, .*\(7 in all\)"):
        load(name)


def test_faults_in_panoptic_data_are_named(panoptic_set, tmp_path):
    name = panoptic_set()
    path = tmp_path / "panoptic.json"
    document = json.loads(path.read_text())
    segments = document["annotations"][0]["segments_info"]
    register_custom_datasets([name])

    segments[0]["category_id"] = 8
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"segment 300 of a\.png \(image_id 5\) has category_id 8, .*ids are 9, 20"):
        DatasetCatalog.get(name)
    segments[0].update(category_id=20, id=70000)
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"in 'segments_info' the id occurs more than once: 70000"):
        DatasetCatalog.get(name)
    segments[0]["id"] = 300
    document["annotations"][0]["image_id"] = 6
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="image_ids that are not in 'images': 6"):
        DatasetCatalog.get(name)
    document["annotations"][0]["image_id"] = 5
    path.write_text(json.dumps(document))
    (tmp_path / "pngs" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 1 panoptic PNGs .*are not in the folder .*pngs: a\.png"):
        DatasetCatalog.get(name)


def test_panoptic_file_named_in_the_instance_form(panoptic_set, tmp_path):
    panoptic_set()
    with pytest.raises(ValueError, match="panoptic.json holds panoptic annotations; .* <panoptic.json>@<image fold"):
        load(f"{tmp_path}/panoptic.json@{tmp_path}/images")


def test_faults_in_semantic_data_are_named(semantic_set, tmp_path):
    name = semantic_set(np.zeros((2, 2)), classes="a\n\nb\n")
    with pytest.raises(ValueError, match="classes.txt: line 2 is empty"):
        register_custom_datasets([name])
    (tmp_path / "classes.txt").write_text("a\nb\na\n")
    with pytest.raises(ValueError, match="classes.txt: more than one class has the name 'a'; results are reported by"):
        register_custom_datasets([name])
    (tmp_path / "classes.txt").write_text("a\n" * 256)
    with pytest.raises(ValueError, match="classes.txt has 256 lines; expected 1 to 255"):
        register_custom_datasets([name])
    (tmp_path / "classes.txt").write_text("a\n")
    (tmp_path / "images" / "a.jpg").touch()
    with pytest.raises(ValueError, match=r"images/a\.jpg and .*images/a\.png have the same name but for the suffix"):
        load(name)
    (tmp_path / "images" / "a.jpg").unlink()
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 of the 1 label PNGs .*have no image of the same name .*: a"):
        load(name)
    (tmp_path / "labels" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match="there is no label PNG in the folder .*labels"):
        DatasetCatalog.get(name)

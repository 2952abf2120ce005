"""What is said of data sets before training: classes, kinds, nothing to learn from, absent classes, broken files."""
import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from freqdino.data import build_test_loader, build_train_loader, register_custom_datasets
from freqdino.data.checks import files
from freqdino.data.checks.before_training import check_datasets
from freqdino.data.checks.classes import check_same_classes
from freqdino.data.panoptic_png import rgb_to_id
from freqdino.data.training_records import training_records
from freqdino.errors import DataError
from freqdino.evaluation.instance_evaluator import InstanceEvaluator
from freqdino.evaluation.panoptic_evaluator import PanopticEvaluator

SQUARE = [2, 1, 6, 1, 6, 5, 2, 5]
BOTH = [{"segmentation": [SQUARE]}, {"segmentation": [SQUARE], "category_id": 7}]


def test_annotations_that_are_all_crowd(instance_set, config):
    rle = {"size": [6, 8], "counts": [0, 48]}
    name, _ = instance_set([{"segmentation": rle, "iscrowd": 1}, {"segmentation": rle, "iscrowd": True}])
    with pytest.raises(DataError, match="nothing to learn from: all 2 annotations are crowd regions"):
        build_train_loader(config(name, "coco_instance_lsj"))
    with pytest.raises(DataError, match="nothing to evaluate: all 2 annotations are crowd regions"):
        check_datasets(evaluated_on(config, name), tasks=("instance",), masks=True)


def test_no_annotation_and_no_picture(instance_set, config):
    name, path = instance_set([])
    for keep_empty in (True, False):
        cfg = config(name, "coco_instance_lsj")
        cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = not keep_empty
        with pytest.raises(DataError, match="nothing to learn from: there is no annotation in it"):
            build_train_loader(cfg)
    path.write_text(json.dumps({**json.loads(path.read_text()), "images": []}))
    with pytest.raises(DataError, match="has no picture: there is nothing to learn from"):
        build_train_loader(cfg)


def test_panoptic_segments_that_are_all_crowd(panoptic_set, config):
    def edit(document):
        for segment in document["annotations"][0]["segments_info"]:
            segment["iscrowd"] = 1
    with pytest.raises(DataError, match="nothing to learn from: all 2 annotations are crowd"):
        build_train_loader(config(panoptic_set(edit), "coco_panoptic_lsj"))


def evaluated_on(config, *names):
    cfg = config("", "coco_instance_lsj")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), names
    return cfg


@pytest.mark.parametrize("old, new, message", [
    ('"nut"', '"date"', "'nut' only in the first, 'date' only in the second"),
    ('"id": 3', '"id": 8', r"the same names in another order, first at class index 0 \('nut' and 'fig'\)"),
    (', {"id": 7, "name": "fig"}', "", "'fig' only in the first;"),
])
def test_two_sets_whose_classes_differ(instance_set, config, old, new, message):
    name, path = instance_set([])
    other = path.with_name("other.json")
    other.write_text(path.read_text().replace(old, new))
    second = f"{other}@{path.parent / 'images'}"
    cfg = config(name, "coco_instance_lsj")
    cfg.DATASETS.TRAIN = (name, second)
    with pytest.raises(DataError, match=f"the training data sets .*instances.json@.* and .*other.json@.*: {message}"):
        build_train_loader(cfg)
    with pytest.raises(DataError, match=f"the test data sets .*instances.json@.* and .*other.json@.*: {message}"):
        check_datasets(evaluated_on(config, name, second), tasks=("instance",), masks=True)
    check_same_classes([name, name], "training")


def test_a_test_set_of_fewer_classes(instance_set, config):
    name, path = instance_set(BOTH[:1])
    other = path.with_name("other.json")
    other.write_text(path.read_text().replace(', {"id": 7, "name": "fig"}', ""))
    cfg = config(name, "coco_instance_lsj")
    cfg.DATASETS.TEST = (f"{other}@{path.parent / 'images'}",)
    register_custom_datasets([name])
    with pytest.raises(DataError, match="the training data set .* and the test data set .*other.json@.* have different "
                                        "classes: 'fig' only in the first$"):
        check_datasets(cfg, tasks=("instance",), masks=True)


def test_a_class_that_is_a_thing_in_one_set_alone(panoptic_set, config, tmp_path):
    name = panoptic_set()
    text = (tmp_path / "panoptic.json").read_text()
    (tmp_path / "other.json").write_text(text.replace('"isthing": 0', '"isthing": 1'))
    other = name.replace("panoptic.json", "other.json")
    cfg = config(name, "coco_panoptic_lsj")
    cfg.DATASETS.TRAIN = (name, other)
    with pytest.raises(DataError, match=r"different classes: 'sky' has instances \(isthing 1\) in the one and not"):
        training_records(cfg)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), (other,)
    with pytest.raises(DataError, match="and the test data set .*other.json@.* 'sky' has instances"):
        check_datasets(cfg, tasks=("panoptic",), masks=True)


def test_test_sets_of_different_kinds_may_name_classes_differently(instance_set, semantic_set, tmp_path):
    name, _ = instance_set([])
    (tmp_path / "images").rename(tmp_path / "pictures")
    other = semantic_set([[0]])
    MetadataCatalog.pop(name, None)
    register_custom_datasets([f"{tmp_path}/instances.json@{tmp_path}/pictures", other])
    check_same_classes([f"{tmp_path}/instances.json@{tmp_path}/pictures", other], "test")


@pytest.mark.parametrize("mapper, message", [
    ("mask_former_semantic", "its records have no 'sem_seg_file_name'; what they have is read by coco_instance_lsj, "
                             "coco_instance_detr, coco_boxes_lsj, coco_boxes_detr, mask_former_instance$"),
    ("coco_panoptic_lsj", "its records have no 'pan_seg_file_name', 'segments_info'; what they"),
])
def test_a_mapper_of_another_kind_names_those_that_fit(instance_set, config, mapper, message):
    name, _ = instance_set(BOTH)
    with pytest.raises(DataError, match=f"INPUT.DATASET_MAPPER_NAME {mapper} does not read the data set .*: {message}"):
        build_train_loader(config(name, mapper))


def test_boxes_alone_are_refused_before_the_first_batch(instance_set, config):
    name, _ = instance_set([{"bbox": [1, 1, 3, 3]}, {"segmentation": [SQUARE]}])
    with pytest.raises(DataError, match="annotation 100: there is no segmentation, but masks are needed"):
        training_records(config(name, "coco_instance_lsj"))


def test_a_class_that_no_label_holds_is_said(instance_set, config, caplog):
    name, _ = instance_set([{"segmentation": [SQUARE]}, {"segmentation": [SQUARE], "category_id": 7, "iscrowd": 1}])
    training_records(config(name, "coco_instance_lsj"))
    assert "no label of the data set" in caplog.text and "has the class 'fig': what no label holds" in caplog.text
    caplog.clear()
    check_datasets(evaluated_on(config, name), tasks=("instance",), masks=True)
    assert "has the class 'fig'" in caplog.text


def test_every_class_occurs_and_nothing_is_said(instance_set, config, caplog):
    name, _ = instance_set(BOTH)
    assert len(training_records(config(name, "coco_instance_lsj"))) == 1
    assert "no label" not in caplog.text


def test_masks_of_0_and_255_are_told_from_class_indices(semantic_set, config):
    name = semantic_set([[0, 255], [0, 0]], classes="skin\nlesion\n")
    message = r"hold no other values than 0 \('skin'\) and 255, which is ignored: no pixel is 'lesion'"
    with pytest.raises(DataError, match=message):
        training_records(config(name, "mask_former_semantic"))
    with pytest.raises(DataError, match=message):
        check_datasets(evaluated_on(config, name), tasks=("semantic",), masks=True)


def test_masks_of_0_and_255_where_time_runs_out(semantic_set, config, tmp_path, monkeypatch, caplog):
    name = semantic_set([[0, 255]], classes="skin\nlesion\n")
    Image.new("RGB", (2, 1)).save(tmp_path / "images" / "b.png")
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "labels" / "b.png")
    monkeypatch.setattr(files, "SECONDS", 0)
    with caplog.at_level("INFO"):
        assert len(training_records(config(name, "mask_former_semantic"))) == 2
    assert "no pixel is 'lesion'" in caplog.text and "(1 of 2 maps were opened)" in caplog.text
    assert "Opened 1 of 2 pictures" in caplog.text and "in 0 s; tools/check_data.py opens all" in caplog.text


@pytest.mark.parametrize("labels, classes, absent", [
    ([[0, 1, 255]], "road\ncar\nsky\n", "has the class 'sky'"), ([[0, 0]], "road\ncar\nsky\n", "classes 'car', 'sky'"),
    ([[0, 1]], "road\ncar\n", None), ([[0, 255]], "road\n", "has one class, 'road' (0 in its label maps; 255 is ign")])
def test_classes_that_no_label_map_holds(semantic_set, config, caplog, labels, classes, absent):
    training_records(config(semantic_set(labels, classes), "mask_former_semantic"))
    assert absent is None and "no label" not in caplog.text or absent in caplog.text


def test_a_value_that_no_class_has_is_an_error_before_training(semantic_set, config):
    with pytest.raises(DataError, match="has the value 3, but the dataset has 3 classes"):
        training_records(config(semantic_set([[0, 3]]), "mask_former_semantic"))


def test_a_panoptic_png_that_differs_from_its_json_is_an_error_before_training(panoptic_set, config):
    name = panoptic_set(lambda document: document["annotations"][0]["segments_info"].pop())
    with pytest.raises(DataError, match=r"a\.png and its segments_info differ"):
        training_records(config(name, "coco_panoptic_lsj"))
    with pytest.raises(DataError, match=r"a\.png and its segments_info differ"):
        check_datasets(evaluated_on(config, name), tasks=("panoptic",), masks=True)


def test_a_test_set_of_masks_and_boxes(instance_set, config):
    name, _ = instance_set([{"segmentation": [SQUARE], "bbox": [1, 1, 2, 2]}, {"bbox": [1, 1, 2, 2]}])
    with pytest.raises(DataError, match=r"instances\.json has an annotation without segmentation on image 10: masks"):
        check_datasets(evaluated_on(config, name), tasks=("instance",), masks=True)
    check_datasets(evaluated_on(config, name), tasks=("instance",), masks=False)


def test_a_broken_picture_of_a_test_set(instance_set, config, tmp_path):
    name, _ = instance_set(BOTH, images=3)
    (tmp_path / "images" / "1.png").write_bytes(b"not a picture")
    (tmp_path / "images" / "2.png").write_bytes((tmp_path / "images" / "2.png").read_bytes()[:-40])
    with pytest.raises(DataError) as error:
        check_datasets(evaluated_on(config, name), tasks=("instance",), masks=True)
    assert len(error.value.faults) == 2
    for number in (1, 2):
        assert any(f"images/{number}.png cannot be read" in fault for fault in error.value.faults)


def test_unreadable_files_are_an_error_or_left_out(instance_set, config, tmp_path, caplog):
    name, _ = instance_set([{**annotation, "image_id": 10 + index} for index in range(3) for annotation in BOTH],
                           images=3)
    cfg = config(name, "coco_instance_lsj")
    assert [record["image_id"] for record in training_records(cfg)] == [10, 11, 12]
    (tmp_path / "images" / "1.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"1\.png cannot be read: .*; DATALOADER.SKIP_UNREADABLE True leaves"):
        training_records(cfg)
    cfg.DATALOADER.SKIP_UNREADABLE = True
    assert [record["image_id"] for record in training_records(cfg)] == [10, 12]
    assert "1 of the 3 pictures of" in caplog.text and "left out: " in caplog.text and "images/1.png" in caplog.text
    Image.new("RGB", (5, 5)).save(tmp_path / "images" / "2.png")    # of another size: readable, and still a fault
    with pytest.raises(DataError, match=r"images/2\.png is 5x5"):
        training_records(cfg)
    for number in (0, 2):
        (tmp_path / "images" / f"{number}.png").write_bytes(b"")
    with pytest.raises(DataError, match="no picture of .* can be read"):
        training_records(cfg)


def left_out_first_of(instance_set, config, tmp_path, categories):
    """Configuration for pictures with one object each, the first of which cannot be read."""
    name, _ = instance_set([{**BOTH[0], "category_id": category, "image_id": 10 + index}
                            for index, category in enumerate(categories)], images=2)
    (tmp_path / "images" / "0.png").write_bytes(b"not a picture")
    cfg = config(name, "coco_instance_lsj")
    cfg.DATASETS.TEST, cfg.DATALOADER.SKIP_UNREADABLE = (name,), True
    return cfg


def test_classes_that_are_left_out_are_said(instance_set, config, tmp_path, caplog):
    training_records(left_out_first_of(instance_set, config, tmp_path, [7, 3]))
    assert "has the class 'fig'" in caplog.text


def test_nothing_is_left_of_the_labels(instance_set, config, tmp_path):
    cfg = left_out_first_of(instance_set, config, tmp_path, [7])    # the second picture has no object
    with pytest.raises(DataError, match="has nothing to learn from without the pictures that cannot be read"):
        training_records(cfg)
    with pytest.raises(DataError, match="has nothing to evaluate without the pictures that cannot be read"):
        check_datasets(cfg, tasks=("instance",), masks=True)


def test_broken_label_maps_are_left_out_with_their_pictures(semantic_set, config, tmp_path):
    name = semantic_set([[0, 1, 2]])
    Image.new("RGB", (3, 1)).save(tmp_path / "images" / "b.png")
    (tmp_path / "labels" / "b.png").write_bytes(b"not a picture")
    cfg = config(name, "mask_former_semantic")
    with pytest.raises(DataError, match=r"labels/b\.png cannot be read"):
        training_records(cfg)
    cfg.DATALOADER.SKIP_UNREADABLE = True
    record, = training_records(cfg)
    assert record["image_id"] == "a" and np.asarray(Image.open(record["sem_seg_file_name"])).tolist() == [[0, 1, 2]]


def test_text_ids_of_a_set_without_a_file(config, instance_set):
    name, _ = instance_set(BOTH)
    register_custom_datasets([name])
    records = [{**record, "image_id": "a"} for record in DatasetCatalog.get(name)]
    DatasetCatalog.register("checking_test_python", lambda: records)
    MetadataCatalog.get("checking_test_python").set(thing_classes=["nut", "fig"], evaluator_type="coco")
    with pytest.raises(DataError, match=r"has texts as image_id \('a'\) and no json_file"):
        check_datasets(evaluated_on(config, "checking_test_python"), tasks=("instance",), masks=True)


def test_broken_pictures_of_test_sets_are_left_out_of_their_evaluation(instance_set, config, tmp_path, caplog):
    name, _ = instance_set([{**annotation, "image_id": 10 + index} for index in range(3) for annotation in BOTH],
                           images=3)
    (tmp_path / "images" / "1.png").write_bytes(b"not a picture")
    cfg = evaluated_on(config, name)
    with pytest.raises(DataError, match=r"1\.png cannot be read: .*; DATALOADER.SKIP_UNREADABLE True leaves out"):
        check_datasets(cfg, tasks=("instance",), masks=True)
    cfg.DATALOADER.SKIP_UNREADABLE = True
    check_datasets(cfg, tasks=("instance",), masks=True)
    assert "1 of the 3 pictures of" in caplog.text
    assert [batch[0]["image_id"] for batch in build_test_loader(cfg, name)] == [10, 12]
    evaluator = InstanceEvaluator(name)
    with pytest.raises(ValueError, match="image 11 of .* is not among the images"):
        evaluator.process([{"image_id": 11}], [{"instances": None}])
    (tmp_path / "images" / "1.png").write_bytes((tmp_path / "images" / "0.png").read_bytes())
    check_datasets(cfg, tasks=("instance",), masks=True)        # mended: all are evaluated again
    assert [batch[0]["image_id"] for batch in build_test_loader(cfg, name)] == [10, 11, 12]


def test_a_broken_panoptic_png_is_left_out_of_the_evaluation(panoptic_set, config, tmp_path):
    def edit(document):
        document["images"].append({**document["images"][0], "id": "b"})
        document["annotations"].append({"image_id": "b", "file_name": "b.png", "segments_info": []})
    name = panoptic_set(edit)
    (tmp_path / "pngs" / "b.png").write_bytes(b"not a picture")
    cfg = evaluated_on(config, name)
    cfg.DATALOADER.SKIP_UNREADABLE = True
    check_datasets(cfg, tasks=("panoptic",), masks=True)
    batch, = build_test_loader(cfg, name)
    evaluator = PanopticEvaluator(name)
    colors = np.asarray(Image.open(tmp_path / "pngs" / "a.png"))
    segments = [{"id": 300, "category_id": 1, "isthing": True}, {"id": 70000, "category_id": 0, "isthing": False}]
    evaluator.process(batch, [{"panoptic_seg": (torch.from_numpy(rgb_to_id(colors)), segments)}])
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == 100

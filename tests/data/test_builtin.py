"""The built-in names: complete metadata, paths that follow DETECTRON2_DATASETS, a clear word when data are missing."""
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

import freqdino.data


def test_registering_again_changes_nothing():
    before = dict(DatasetCatalog)
    freqdino.data.register_builtin_datasets()
    assert dict(DatasetCatalog) == before


@pytest.mark.parametrize("name", [
    "coco_2017_train", "coco_2017_val", "coco_2017_train_panoptic", "coco_2017_val_panoptic_with_sem_seg",
    "ade20k_sem_seg_train", "ade20k_sem_seg_val", "ade20k_panoptic_train", "ade20k_panoptic_val",
    "ade20k_instance_train", "ade20k_instance_val", "cityscapes_fine_sem_seg_train", "cityscapes_fine_panoptic_val",
    "cityscapes_fine_instance_seg_val", "freqdino_scenes_train", "freqdino_scenes_val"])
def test_published_names_are_registered(name):
    assert name in DatasetCatalog


def test_ade20k_metadata():
    panoptic = MetadataCatalog.get("ade20k_panoptic_val")
    assert panoptic.evaluator_type == "ade20k_panoptic_seg"
    assert len(panoptic.stuff_classes) == len(panoptic.thing_classes) == 150
    assert len(panoptic.thing_dataset_id_to_contiguous_id) == 100
    assert len(panoptic.stuff_dataset_id_to_contiguous_id) == 50
    assert panoptic.thing_dataset_id_to_contiguous_id[7] == 7
    assert (panoptic.ignore_label, panoptic.label_divisor) == (255, 1000)
    assert panoptic.json_file.endswith("ADEChallengeData2016/ade20k_instance_val.json")
    assert panoptic.panoptic_json.endswith("ADEChallengeData2016/ade20k_panoptic_val.json")
    assert panoptic.sem_seg_root.endswith("ADEChallengeData2016/annotations_detectron2/validation")
    instance = MetadataCatalog.get("ade20k_instance_train")
    assert (instance.evaluator_type, len(instance.thing_classes)) == ("coco", 100)
    assert [instance.thing_dataset_id_to_contiguous_id[key] for key in (7, 8, 10)] == [0, 1, 2]
    assert instance.image_root.endswith("ADEChallengeData2016/images/training")


def test_coco_with_semantic_maps_has_the_classes_of_coco_panoptic():
    ours = MetadataCatalog.get("coco_2017_val_panoptic_with_sem_seg")
    theirs = MetadataCatalog.get("coco_2017_val_panoptic")
    for key in ("thing_classes", "stuff_classes", "thing_dataset_id_to_contiguous_id",
                "stuff_dataset_id_to_contiguous_id", "evaluator_type", "ignore_label", "label_divisor"):
        assert getattr(ours, key) == getattr(theirs, key)
    assert ours.sem_seg_root.endswith("coco/panoptic_semseg_val2017")


def test_missing_root_names_path_variable_and_readme(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        DatasetCatalog.get("ade20k_instance_train")
    for part in (f"{tmp_path}/ADEChallengeData2016/", "does not exist", f"DETECTRON2_DATASETS is '{tmp_path}'",
                 "datasets/README.md"):
        assert part in str(error.value)
    assert MetadataCatalog.get("ade20k_instance_train").json_file.startswith(str(tmp_path))
    monkeypatch.delenv("DETECTRON2_DATASETS")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"DETECTRON2_DATASETS is not set, so \./datasets is used"):
        DatasetCatalog.get("ade20k_panoptic_val")

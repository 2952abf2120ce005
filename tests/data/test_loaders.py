"""Loaders: batches, filtering of empty pictures, worker processes, repeatability, and datasets that are not there."""
import pytest
import torch
from detectron2.utils.env import seed_all_rng

from freqdino.data import build_test_loader, build_train_loader, dataset_records, register_custom_datasets

SQUARE = [2, 1, 6, 1, 6, 5, 2, 5]


def test_training_batches(instance_set, config):
    name, _ = instance_set([{"segmentation": [SQUARE]}, {"segmentation": [SQUARE], "image_id": 11}], images=3)
    cfg = config(name, "coco_instance_lsj", IMAGE_SIZE=16)
    batches = iter(build_train_loader(cfg))
    seen = {sample["image_id"] for _ in range(4) for sample in next(batches)}
    assert seen == {10, 11}  # picture 12 has no object and is filtered
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    batches = iter(build_train_loader(cfg))
    assert {sample["image_id"] for _ in range(6) for sample in next(batches)} == {10, 11, 12}


def test_equal_seeds_give_equal_batches(instance_set, config):
    name, _ = instance_set([{"segmentation": [SQUARE], "image_id": 10 + index} for index in range(4)], images=4)
    cfg = config(name, "coco_instance_lsj", IMAGE_SIZE=16, RANDOM_FLIP="horizontal")

    def images(seed):
        seed_all_rng(seed)
        batches = iter(build_train_loader(cfg))
        return torch.stack([sample["image"] for _ in range(3) for sample in next(batches)])

    assert torch.equal(images(3), images(3))
    assert not torch.equal(images(3), images(4))


def test_worker_processes(instance_set, config):
    name, _ = instance_set([{"segmentation": [SQUARE]}])
    cfg = config(name, "coco_instance_lsj", IMAGE_SIZE=16)
    cfg.DATALOADER.NUM_WORKERS = 1
    batch = next(iter(build_train_loader(cfg)))
    assert len(batch) == 2 and batch[0]["image"].shape == (3, 16, 16)


def test_test_loader_gives_every_picture_once(instance_set, config):
    name, _ = instance_set([], images=3)
    loader = build_test_loader(config("any", "coco_instance_lsj", MIN_SIZE_TEST=6), name)
    assert [batch[0]["image_id"] for batch in loader] == [10, 11, 12]


def test_classes_in_another_order_are_warned_of(instance_set, config, caplog):
    name, path = instance_set([])
    other = path.with_name("other.json")
    other.write_text(path.read_text().replace('"nut"', '"date"'))
    register_custom_datasets([name])
    build_test_loader(config(name, "coco_instance_lsj"), name)
    assert "differ" not in caplog.text
    build_test_loader(config(name, "coco_instance_lsj"), f"{other}@{path.parent / 'images'}")
    assert "thing_classes of the test dataset" in caplog.text and "at class index 0: 'nut', 'date'" in caplog.text


@pytest.mark.parametrize("mapper, name, path", [
    ("coco_instance_lsj", "coco_2017_train", "coco/train2017"),
    ("mask_former_semantic", "ade20k_sem_seg_train", "ADEChallengeData2016/images/training"),
    ("mask_former_panoptic", "ade20k_panoptic_train", "ADEChallengeData2016/ade20k_panoptic_train.json"),
    ("mask_former_panoptic", "cityscapes_fine_panoptic_train", "cityscapes/gtFine/cityscapes_panoptic_train.json")])
def test_missing_data_name_path_variable_and_readme(config, tmp_path, monkeypatch, mapper, name, path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    for read in (lambda: build_train_loader(config(name, mapper)), lambda: dataset_records(name)):
        with pytest.raises(FileNotFoundError) as error:
            read()
        for part in (name, path, "does not exist", "DETECTRON2_DATASETS is not set", "datasets/README.md"):
            assert part in str(error.value)


def test_unknown_dataset_is_an_error(config):
    with pytest.raises(ValueError, match="dataset 'coco_2071_val' is not registered; registered are .*coco_2017_val"):
        build_test_loader(config("any", "coco_instance_lsj"), "coco_2071_val")


def test_repeat_factors_count_annotations(semantic_set, config):
    cfg = config(semantic_set([[0, 1], [1, 2]]), "mask_former_semantic", crop=(2, 2))
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.REPEAT_THRESHOLD = "RepeatFactorTrainingSampler", 0.5
    with pytest.raises(ValueError, match="SAMPLER_TRAIN RepeatFactorTrainingSampler counts .* set it to TrainingS"):
        build_train_loader(cfg)

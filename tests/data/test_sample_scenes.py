"""The sample set: drawn once, the same every time, and its three annotations agree with each other."""
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from freqdino.data import build_train_loader, sample_scenes
from freqdino.data.panoptic_png import rgb_to_id
from freqdino.data.sample_scenes import make_sample_scenes
from freqdino.data.scene_drawing import HELD_BACK, THINGS, draw_scene
from freqdino.data.segmentation import check_segmentation, decode_rle, polygon_points, rasterise


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    monkeypatch.setitem(sample_scenes.SETS, "freqdino_scenes", (THINGS, {"train": 12, "val": 2}))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path / "freqdino_scenes"


def test_drawn_when_first_loaded(scenes):
    assert not scenes.exists()
    records = DatasetCatalog.get("freqdino_scenes_train")
    assert len(records) == 12 and len(DatasetCatalog.get("freqdino_scenes_val")) == 2
    metadata = MetadataCatalog.get("freqdino_scenes_val")
    assert metadata.json_file == str(scenes / "instances_val.json")
    assert metadata.evaluator_type == "coco_panoptic_seg"
    assert list(metadata.thing_dataset_id_to_contiguous_id.values()) == [0, 1, 2, 3]
    assert list(metadata.stuff_dataset_id_to_contiguous_id.values()) == [4, 5, 6]


def test_annotations_agree(scenes):
    make_sample_scenes(str(scenes.parent))
    panoptic = json.loads((scenes / "panoptic_train.json").read_text())
    instances = json.loads((scenes / "instances_train.json").read_text())
    index_of_id = {category["id"]: index for index, category in enumerate(panoptic["categories"])}
    kinds = set()
    for annotation in panoptic["annotations"]:
        name = annotation["file_name"]
        assert Image.open(scenes / "train" / name).size == (128, 128)
        ids = rgb_to_id(np.asarray(Image.open(scenes / "panoptic_train" / name)))
        semantic = np.asarray(Image.open(scenes / "semantic_train" / name))
        assert set(np.unique(ids)) == {segment["id"] for segment in annotation["segments_info"]}
        segment_masks = {}
        for segment in annotation["segments_info"]:
            mask = ids == segment["id"]
            assert mask.sum() == segment["area"]
            assert (semantic[mask] == index_of_id[segment["category_id"]]).all()
            rows, columns = np.nonzero(mask)
            assert segment["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            segment_masks.setdefault(segment["category_id"], []).append(mask)
        for instance in instances["annotations"]:
            if instance["image_id"] != annotation["image_id"]:
                continue
            segmentation = instance["segmentation"]
            kinds.add(type(segmentation))
            check_segmentation(segmentation, 128, 128, name)
            mask = (decode_rle(segmentation).astype(bool) if isinstance(segmentation, dict)
                    else rasterise(polygon_points(segmentation), 128, 128))
            same_class = segment_masks[instance["category_id"]]
            overlap = max((mask & other).sum() / (mask | other).sum() for other in same_class)
            assert overlap > 0.9  # polygons and pixel centres differ along the outline
            assert isinstance(segmentation, list) or overlap == 1
    assert kinds == {list, dict}


def test_scenes_depend_on_the_seed_alone():
    first, again, other = draw_scene([0, 5]), draw_scene([0, 5]), draw_scene([1, 5])
    assert (first.image == again.image).all() and (first.image != other.image).any()
    for index in range(40):
        scene = draw_scene([7, index])
        assert 1 <= len(scene.objects) <= 4
        visible = np.stack([scene_object.visible for scene_object in scene.objects])
        assert visible.sum(axis=0).max() == 1 and visible.sum(axis=(1, 2)).min() >= 40


def test_processes_that_start_together(scenes):
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(make_sample_scenes, [str(scenes.parent)] * 3))
    assert [path.name for path in scenes.parent.iterdir()] == ["freqdino_scenes"]
    assert len(list((scenes / "train").iterdir())) == 12


def test_a_failure_leaves_nothing_behind(scenes, monkeypatch):
    def fail(seed, things):
        raise RuntimeError("out of paint")
    monkeypatch.setattr(sample_scenes, "draw_scene", fail)
    with pytest.raises(RuntimeError, match="out of paint"):
        make_sample_scenes(str(scenes.parent))
    assert list(scenes.parent.iterdir()) == []


@pytest.mark.parametrize("mapper", ["coco_panoptic_lsj", "mask_former_panoptic", "mask_former_semantic"])
def test_all_panoptic_and_semantic_mappers_read_it(scenes, config, mapper):
    cfg = config("freqdino_scenes_train", mapper, IMAGE_SIZE=96, MIN_SIZE_TRAIN=(96,))
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 0.8
    batch = next(iter(build_train_loader(cfg)))
    assert all(sample["instances"].gt_classes.max() >= 4 for sample in batch)  # stuff is among the targets


def test_instance_form_of_own_data_reads_it(scenes, config):
    make_sample_scenes(str(scenes.parent))
    name = f"{scenes}/instances_train.json@{scenes}/train"
    batch = next(iter(build_train_loader(config(name, "coco_instance_lsj", IMAGE_SIZE=96))))
    assert all(sample["image"].shape == (3, 96, 96) for sample in batch)


def test_things_alone(scenes, config):
    assert not scenes.exists()
    records = DatasetCatalog.get("freqdino_scenes_instance_train")
    assert len(records) == 12 and len(DatasetCatalog.get("freqdino_scenes_instance_val")) == 2
    metadata = MetadataCatalog.get("freqdino_scenes_instance_val")
    assert metadata.evaluator_type == "coco" and metadata.json_file == str(scenes / "instances_val.json")
    assert metadata.thing_classes == MetadataCatalog.get("freqdino_scenes_val").thing_classes[:4]
    batch = next(iter(build_train_loader(config("freqdino_scenes_instance_train", "coco_instance_lsj", IMAGE_SIZE=96))))
    assert all(set(sample["instances"].gt_classes.tolist()) <= {0, 1, 2, 3} for sample in batch)


def test_another_set_has_other_things_in_other_colours(tmp_path, monkeypatch):
    """Pale ones: of an object's pixels the brightest and the darkest channel differ by a quarter and the noise at most.
    """
    monkeypatch.setitem(sample_scenes.SETS, "freqdino_held_back", (HELD_BACK, {"train": 6, "val": 1}))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    records = DatasetCatalog.get("freqdino_held_back_instance_train")
    names = MetadataCatalog.get("freqdino_held_back_instance_train").thing_classes
    assert len(records) == 6 and not set(names) & set(MetadataCatalog.get("freqdino_scenes_val").thing_classes)
    for record in records:
        picture = np.asarray(Image.open(record["file_name"])).astype(int)
        for instance in record["annotations"]:
            segmentation = instance["segmentation"]
            mask = (decode_rle(segmentation).astype(bool) if isinstance(segmentation, dict)
                    else rasterise(polygon_points(segmentation), 128, 128))
            spread = np.ptp(picture[mask].mean(axis=0))
            assert spread <= 0.25 * 0.75 * 255 * 1.1 and instance["category_id"] < 3

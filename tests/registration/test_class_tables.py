"""The class count against the data sets' metadata, and which classes have instances."""
import itertools

import pytest
from detectron2.data import MetadataCatalog

from freqdino.errors import ConfigError
from freqdino.registration.class_tables import check_detector_classes, check_num_classes, count_classes, thing_classes
from helpers.small_models import small_config, small_model

COUNTER = itertools.count()
THINGS = {"thing_dataset_id_to_contiguous_id": {7: 0, 9: 2}, "thing_classes": ["cat", "dog"], "evaluator_type": "coco"}
STUFF = {"stuff_dataset_id_to_contiguous_id": {1: 1, 2: 3, 3: 4}, "stuff_classes": ["sky", "road", "wall"]}
PANOPTIC = {**THINGS, **STUFF, "evaluator_type": "coco_panoptic_seg"}
SEMANTIC = {"stuff_classes": ["sky", "road", "wall", "tree"], "evaluator_type": "sem_seg"}


def dataset(**metadata):
    """The name of a data set of which only metadata are registered."""
    name = f"class_table_test_{next(COUNTER)}"
    MetadataCatalog.get(name).set(**metadata)
    return name


def config(num_classes, train=(), test=()):
    return small_config({"MODEL.SEM_SEG_HEAD.NUM_CLASSES": num_classes, "DATASETS.TRAIN": tuple(train),
                         "DATASETS.TEST": tuple(test)})


@pytest.mark.parametrize(("metadata", "expected"), [(THINGS, 2), (PANOPTIC, 5), (SEMANTIC, 4), ({}, None)])
def test_number_of_classes(metadata, expected):
    name = dataset(**metadata)
    assert count_classes(MetadataCatalog.get(name)) == expected
    check_num_classes(config(expected or 99, [name], [name]))


@pytest.mark.parametrize("metadata", [THINGS, PANOPTIC, SEMANTIC])
@pytest.mark.parametrize("role", ["train", "test"])
def test_other_number_of_classes(metadata, role):
    name = dataset(**metadata)
    counted = count_classes(MetadataCatalog.get(name))
    message = (f"{name} has {counted} classes, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is 80; "
               f"set MODEL.SEM_SEG_HEAD.NUM_CLASSES {counted}")
    with pytest.raises(ConfigError, match=message):
        check_num_classes(config(80, **{role: [name]}))


def test_the_model_is_not_built_for_another_number_of_classes():
    name = dataset(**THINGS)
    with pytest.raises(ConfigError, match=f"{name} has 2 classes, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is 3"):
        small_model({"DATASETS.TRAIN": (name,)})


def test_every_data_set_is_looked_at():
    with pytest.raises(ConfigError, match="has 4 classes"):
        check_num_classes(config(2, [dataset(**THINGS)], [dataset(**THINGS), dataset(**SEMANTIC)]))


def test_thing_classes_come_from_the_first_training_set():
    assert thing_classes(config(5, [dataset(**PANOPTIC), dataset(**SEMANTIC)])) == {0, 2}
    model = small_model({"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 5, "DATASETS.TRAIN": (dataset(**PANOPTIC),)})
    assert model.post_processing.thing_classes == {0, 2}


def test_without_a_table_every_class_has_instances():
    assert thing_classes(config(3)) == {0, 1, 2}
    assert thing_classes(config(4, [dataset(**SEMANTIC)])) == {0, 1, 2, 3}


SEPARATED = {"thing_dataset_id_to_contiguous_id": {7: 0, 9: 1}, "stuff_classes": ["things", "sky", "road"],
             "stuff_dataset_id_to_contiguous_id": {1: 1, 2: 2}}
INSTANCES = {"thing_dataset_id_to_contiguous_id": {7: 0, 9: 1}}


def detector_config(architecture, train=(), test=(), things=2, stuff=3):
    return small_config({"MODEL.META_ARCHITECTURE": architecture, "MODEL.ROI_HEADS.NUM_CLASSES": things,
                         "MODEL.SEM_SEG_HEAD.NUM_CLASSES": stuff, "DATASETS.TRAIN": tuple(train),
                         "DATASETS.TEST": tuple(test)})


@pytest.mark.parametrize(("architecture", "metadata"), [
    ("GeneralizedRCNN", INSTANCES), ("GeneralizedRCNN", {"thing_classes": ["cat", "dog"]}), ("GeneralizedRCNN", {}),
    ("GeneralizedRCNN", SEPARATED), ("PanopticFPN", SEPARATED)])
def test_classes_of_detectors(architecture, metadata):
    name = dataset(**metadata)
    check_detector_classes(detector_config(architecture, [name], [name]))


@pytest.mark.parametrize("role", ["train", "test"])
@pytest.mark.parametrize(("architecture", "configured", "message"), [
    ("GeneralizedRCNN", {"things": 80}, "has 2 classes of things, but MODEL.ROI_HEADS.NUM_CLASSES is 80; set"),
    ("PanopticFPN", {"things": 3}, "has 2 classes of things, but MODEL.ROI_HEADS.NUM_CLASSES is 3"),
    ("RetinaNet", {}, "has 2 classes of things, but MODEL.RETINANET.NUM_CLASSES is 80; set"),
    ("PanopticFPN", {"stuff": 54}, "has 3 classes in its label maps, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is 54;"),
])
def test_other_classes_of_detectors(architecture, configured, message, role):
    name = dataset(**SEPARATED)
    with pytest.raises(ConfigError, match=f"{name} {message}"):
        check_detector_classes(detector_config(architecture, **{role: [name]}, **configured))


def test_a_detector_does_not_learn_from_things_and_stuff_numbered_together():
    name = dataset(**PANOPTIC)
    check_detector_classes(detector_config("GeneralizedRCNN", test=[name]))
    with pytest.raises(ConfigError, match=f"{name} numbers things and stuff together, which GeneralizedRCNN cannot"):
        check_detector_classes(detector_config("GeneralizedRCNN", train=[name]))

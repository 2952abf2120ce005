"""What a trained model's classes are called: the weights' word, the configuration's data sets, a data set by name."""
import pytest
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from freqdino.config import load_config
from freqdino.engine.class_metadata import class_metadata, classes_to_build_with, dataset_metadata
from freqdino.registration.class_tables import thing_classes

NOTED = {"thing_classes": ["cat"], "stuff_classes": ["cat", "sky"], "thing_dataset_id_to_contiguous_id": {7: 0},
         "stuff_dataset_id_to_contiguous_id": {9: 1}}


@pytest.fixture
def gone():
    return load_config(opts=["DATASETS.TRAIN", "('gone.json@images',)", "DATASETS.TEST", "('freqdino_scenes_val',)"])


def test_the_weights_come_before_the_data_sets(gone):
    assert class_metadata(gone, NOTED).as_dict() == NOTED
    assert class_metadata(gone).name == "freqdino_scenes_val"
    assert dataset_metadata("freqdino_held_back_val").name == "freqdino_held_back_val"


def test_a_data_set_of_the_weights_classes_gives_their_colours(gone):
    scenes = MetadataCatalog.get("freqdino_scenes_val").as_dict()
    noted = {key: scenes[key] for key in NOTED}
    assert class_metadata(gone, noted).thing_colors == scenes["thing_colors"]
    noted["thing_classes"] = noted["thing_classes"][::-1]
    assert class_metadata(gone, noted).get("thing_colors") is None


def test_a_model_is_built_with_the_classes_and_the_catalogs_are_as_before(gone):
    before = set(MetadataCatalog), set(DatasetCatalog), gone.dump()
    with classes_to_build_with(gone, Metadata().set(**NOTED)) as cfg:
        assert thing_classes(cfg) == {0}        # tells things from stuff
    with pytest.raises(RuntimeError), classes_to_build_with(gone, Metadata().set(**NOTED)):
        raise RuntimeError
    assert (set(MetadataCatalog), set(DatasetCatalog), gone.dump()) == before
    with classes_to_build_with(gone, Metadata()) as cfg:
        assert cfg.DATASETS.TRAIN == cfg.DATASETS.TEST == ()

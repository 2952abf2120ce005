"""Small models as exported files, made once: writing one takes longer than all that is asked of it."""
import pytest
import torch
from detectron2.data import Metadata

from freqdino.export.writing import export_model
from helpers import small_models, small_semantic_heads
from helpers.small_models import RESNET18, small_config, small_model

SIZE = (70, 99)
CLASSES = {"thing_classes": ["cup", "jug"], "stuff_classes": ["cup", "jug", "table"],
           "thing_dataset_id_to_contiguous_id": {11: 0, 12: 1}, "stuff_dataset_id_to_contiguous_id": {13: 2}}


@pytest.fixture(scope="session")
def metadata():
    return Metadata().set(**CLASSES)


@pytest.fixture(scope="session")
def panoptic(tmp_path_factory, metadata):
    """(model, configuration, summary) of a panoptic Mask2Former as ONNX for single pictures of one size."""
    path = tmp_path_factory.mktemp("panoptic") / "model.onnx"
    options = {"MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": 0.0, "INPUT.MIN_SIZE_TEST": 0}
    torch.manual_seed(0)
    cfg, model = small_config(options), small_model(options).eval()
    with torch.no_grad():       # no query takes "no object"
        model.sem_seg_head.predictor.class_embed.bias[-1] = -100.0
    return model, cfg, export_model(model, cfg, metadata, path, input_size=SIZE, batch_size=1)


@pytest.fixture(scope="session")
def semantic_model():
    """(model, configuration) of a SegFormer's head."""
    torch.manual_seed(0)
    options = {**small_semantic_heads.SMALL_MODEL, **RESNET18, "MODEL.SEM_SEG_HEAD.NAME": "SegFormerHead",
               "INPUT.MIN_SIZE_TEST": 0}
    cfg = small_models.load_config(opts=[word for item in options.items() for word in item])
    return small_models.build_model(cfg).eval(), cfg


@pytest.fixture(scope="session")
def semantic(tmp_path_factory, semantic_model, metadata):
    """The same and the summary, as a program of torch.export for pictures of any size and number."""
    path = tmp_path_factory.mktemp("semantic") / "model.pt2"
    return *semantic_model, export_model(*semantic_model, metadata, path)

"""Checkpoints of models with other classes: rows by name, the rest anew, and what stays an error."""
import pytest
import torch
from detectron2.modeling import build_model

from freqdino.checkpoint import StrictCheckpointer
from freqdino.checkpoint.class_rows import change_classes
from freqdino.config import load_config
from freqdino.errors import CheckpointError
from helpers.small_detectors import BACKBONE, MASK_RCNN
from helpers.small_mask_dino import mask_dino_model
from helpers.small_models import small_model

CLASS, BIAS = (f"sem_seg_head.predictor.class_embed.{kind}" for kind in ("weight", "bias"))


def saved(folder, model, names=None, **entries):
    """A file of ``model`` whose parameters are 7, but the rows of class layers count: row i is 100 + i."""
    state = {key: torch.full_like(value, 7) for key, value in model.state_dict().items()}
    for key in state:
        if "class_embed" in key or "label_enc" in key:
            state[key] = (100 + torch.arange(len(state[key]), dtype=torch.float32)).view(
                -1, *[1] * (state[key].dim() - 1)).expand_as(state[key]).contiguous()
    classes = {"classes": {"thing_classes": names}} if names else {}
    torch.save({"model": state, **classes, **entries}, folder / "model.pth")
    return str(folder / "model.pth")


def load(path, model, names=None, **options):
    remarks = {"classes": {"thing_classes": names}} if names else None
    StrictCheckpointer(model, remarks=remarks, **options).load(path)
    return model.state_dict()


def test_rows_of_equal_names_are_kept(tmp_path, caplog):
    path = saved(tmp_path, small_model(), ["cat", "dog", "cow"])
    model = small_model({"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 4})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with caplog.at_level("INFO"):
        after = load(path, model, ["cow", "hen", "cat", "pig"])
    # Old rows: cat 100, dog 101, cow 102, no object 103.
    assert after[BIAS][[0, 2, 4]].tolist() == [102, 100, 103]
    assert torch.equal(after[BIAS][[1, 3]], before[BIAS][[1, 3]])
    assert torch.equal(after[CLASS][[1, 3]], before[CLASS][[1, 3]]) and (after[CLASS][0] == 102).all()
    assert torch.equal(after["criterion.empty_weight"], before["criterion.empty_weight"])
    for name in after:
        if "class_embed" not in name and name != "criterion.empty_weight":
            assert (after[name] == 7).all(), name
    [line] = [text for text in caplog.messages if "other classes" in text]
    assert line == (f"{path} is of a model with other classes: sem_seg_head.predictor.class_embed, "
                    "criterion.empty_weight start anew, the rows of 2 classes of equal names are kept (cow, cat)")


def test_without_names_all_rows_are_new(tmp_path, caplog):
    path = saved(tmp_path, small_model())
    model = small_model({"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 2})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with caplog.at_level("INFO"):
        after = load(path, model, ["cat", "dog"])
    assert torch.equal(after[CLASS], before[CLASS]) and torch.equal(after[BIAS], before[BIAS])
    assert "does not say what they are called" in caplog.text


def test_as_many_classes_with_other_names(tmp_path):
    path = saved(tmp_path, small_model(), ["cat", "dog", "cow"])
    model = small_model()
    before = model.state_dict()[BIAS].clone()
    after = load(path, model, ["dog", "hen", "cat"])[BIAS]
    assert after[[0, 2, 3]].tolist() == [101, 100, 103] and after[1] == before[1]
    assert load(path, small_model(), ["cat", "dog", "cow"])[BIAS].tolist() == [100, 101, 102, 103]
    assert load(path, small_model())[BIAS].tolist() == [100, 101, 102, 103]      # names that are not known: by position


def test_mask_dino_and_its_label_embedding(tmp_path):
    path = saved(tmp_path, mask_dino_model(), names := [f"class {i}" for i in range(classes_of(mask_dino_model()))])
    model = mask_dino_model({"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 2})
    after = load(path, model, [names[-1], "new"])
    last = 100 + len(names) - 1
    assert after[BIAS][0] == last and (after["sem_seg_head.predictor.label_enc.weight"][0] == last).all()
    assert len(after[BIAS]) == 2 and after[BIAS][1] < 50


def classes_of(model):
    return len(model.state_dict()["sem_seg_head.predictor.label_enc.weight"])


def test_evaluation_is_strict(tmp_path):
    path = saved(tmp_path, small_model(), ["cat", "dog", "cow"])
    with pytest.raises(CheckpointError, match=r"class_embed.bias \(checkpoint \(4,\), model \(3,\)\)"):
        load(path, small_model({"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 2}), ["cat", "dog"],
             whole_model=True)


def test_another_model_stays_an_error(tmp_path):
    path = saved(tmp_path, small_model({"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 5}), ["cat", "dog", "cow"])
    with pytest.raises(CheckpointError, match=r"query_feat.weight \(checkpoint \(5, 64\), model \(6, 64\)\)"):
        load(path, small_model({"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 2}), ["cat", "dog"])


def state_of(rows, layer="roi_heads.box_predictor.bbox_pred"):
    return {f"{layer}.bias": torch.arange(float(rows))}


def test_boxes_have_four_rows_a_class_and_anchors_repeat_them():
    old, new = {"thing_classes": ["a", "b"]}, {"thing_classes": ["b", "c", "a"]}
    change = change_classes(state_of(8), {"roi_heads.box_predictor.bbox_pred.bias": -torch.ones(12)}, old, new)
    [tensor] = change.tensors.values()
    assert tensor.tolist() == [4, 5, 6, 7, -1, -1, -1, -1, 0, 1, 2, 3] and change.kept == ["b", "a"]
    # Three anchors: rows a0 b0 a1 b1 a2 b2.
    layer = "head.cls_score"
    change = change_classes(state_of(6, layer), {f"{layer}.bias": -torch.ones(9)}, old, new)
    [tensor] = change.tensors.values()
    assert tensor.tolist() == [1, -1, 0, 3, -1, 2, 5, -1, 4]


def test_panoptic_classes_of_two_tables():
    layer = "sem_seg_head.predictor"
    old = {"thing_classes": ["cat"], "stuff_classes": ["things", "sky"]}
    change = change_classes(state_of(2, layer), {f"{layer}.bias": -torch.ones(3)}, old,
                            {"thing_classes": ["cat"], "stuff_classes": ["things", "sea", "sky"]})
    assert change.tensors[f"{layer}.bias"].tolist() == [0, -1, 1]


def detector(classes):
    options = {**BACKBONE, **MASK_RCNN, "MODEL.ROI_HEADS.NUM_CLASSES": classes}
    return build_model(load_config(opts=[word for item in options.items() for word in item]))


def test_detectron2s_detector_on_other_classes(tmp_path):
    old = detector(3)
    torch.save({"model": old.state_dict(), "classes": {"thing_classes": ["cat", "dog", "cow"]}}, tmp_path / "model.pth")
    model = detector(2)
    after = load(str(tmp_path / "model.pth"), model, ["cow", "hen"])
    score = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(after[score][[0, 2]], old.state_dict()[score][[2, 3]])
    box = "roi_heads.box_predictor.bbox_pred.weight"
    assert torch.equal(after[box][:4], old.state_dict()[box][8:])

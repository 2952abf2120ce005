"""Exported files: what is in them, how they are checked, and that they give what their models give."""
import json
import os
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from detectron2.data import Metadata
from detectron2.modeling import build_model

from freqdino import Predictor
from freqdino.analysis.ablation import module_options
from freqdino.config import load_config
from freqdino.engine import predictor as predictor_module
from freqdino.errors import ArgumentError, ExportError
from freqdino.export import writing
from freqdino.export.runtime import ExportedModel
from freqdino.export.verification import Comparison, smooth_pictures
from freqdino.export.writing import export_model

SIZE = (70, 99)


def inputs(size, *outputs):
    pictures = smooth_pictures(len(outputs), *size, seed=7)
    return [{"image": picture, "height": height, "width": width}
            for picture, (height, width) in zip(pictures, outputs)]


def test_only_operators_of_onnx_and_no_grid_sample(panoptic):
    graph = onnx.load(panoptic[2].path)
    assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"} and not graph.functions
    assert [(entry.domain, entry.version) for entry in graph.opset_import if entry.domain == ""] == [("", 18)]
    assert not {node.op_type for node in graph.graph.node} & {"GridSample", "Loop", "If", "Scan", "DFT", "NonZero"}
    onnx.checker.check_model(graph)


def test_results_are_those_of_the_model(panoptic):
    """Pictures one by one, since the file takes one at a time; the results of other sizes than the pictures."""
    model, _, summary = panoptic
    given = inputs(SIZE, (35, 50), SIZE, (140, 123))
    with torch.no_grad():
        expected = model(given)
    for one, other in zip(ExportedModel(summary.path)(given), expected, strict=True):
        assert torch.allclose(one["sem_seg"], other["sem_seg"], atol=1e-5)
        ids, segments = one["panoptic_seg"]
        assert torch.equal(ids, other["panoptic_seg"][0]) and len(segments) == len(other["panoptic_seg"][1]) > 0
        for found, segment in zip(segments, other["panoptic_seg"][1]):
            assert {key: found[key] for key in segment} == segment
        order = [result["instances"].scores.argsort(descending=True) for result in (one, other)]
        found, instances = (result["instances"][index] for result, index in zip((one, other), order))
        assert torch.allclose(found.scores, instances.scores, atol=1e-6) and len(found) == 10
        assert torch.equal(found.pred_classes, instances.pred_classes)
        assert torch.equal(found.pred_boxes.tensor, instances.pred_boxes.tensor)
        assert torch.equal(found.pred_masks, instances.pred_masks)


def test_a_program_takes_any_size_and_number(semantic):
    model, _, summary = semantic
    exported = ExportedModel(summary.path)
    for size in ((80, 81), (129, 64), (47, 203)):
        given = inputs(size, (35, 50), (35, 50), (35, 50), size)
        with torch.no_grad():
            expected = model(given)
        assert all(torch.allclose(one["sem_seg"], other["sem_seg"], atol=1e-5)
                   for one, other in zip(exported(given), expected, strict=True))
    assert not any("freqdino" in name for name in summary.nodes)       # loads where this package is not


def test_what_the_file_says_about_itself(panoptic, metadata):
    _, cfg, summary = panoptic
    session = onnxruntime.InferenceSession(summary.path)
    about = json.loads(session.get_modelmeta().custom_metadata_map["freqdino"])
    assert about["classes"]["thing_classes"] == ["cup", "jug"] and about["thing_classes"] == [0, 1, 2]
    assert about["pixel_mean"] == cfg.MODEL.PIXEL_MEAN and about["image_format"] == cfg.INPUT.FORMAT
    assert about["object_mask_threshold"] == 0.0
    assert about["overlap_threshold"] == cfg.MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD
    assert (about["min_size_test"], about["size_divisibility"]) == (0, cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY)
    assert ExportedModel(summary.path).description.metadata.as_dict() == metadata.as_dict()


def test_the_size_of_the_results_may_be_left_out(panoptic):
    session = onnxruntime.InferenceSession(panoptic[2].path)
    image = smooth_pictures(1, *SIZE, seed=1).numpy()
    assert session.run(["panoptic_ids"], {"image": image})[0].shape == (1, *SIZE)
    assert session.run(["panoptic_ids"], {"image": image, "output_size": np.array([20, 31])})[0].shape == (1, 20, 31)


def test_the_predictor_builds_no_model(panoptic, monkeypatch):
    path = panoptic[2].path
    monkeypatch.setattr(predictor_module, "build_model", lambda *_: pytest.fail("a model was built"))
    picture = smooth_pictures(1, *SIZE, seed=3)[0].permute(1, 2, 0).numpy()
    result = Predictor(path)(picture)
    assert result.semantic.shape == (3, *SIZE) and result.draw().size == SIZE[::-1]
    assert {entry["category_id"] for entry in result.to_coco()} <= {11, 12, 2}
    with pytest.raises(ExportError, match="takes pictures of 70 x 99 pixels .height x width. alone, this one has 64"):
        Predictor(path)(picture[:64])
    with pytest.raises(ArgumentError, match="weights cannot be chosen: .* is an exported model"):
        Predictor(path, weights="other.pth")
    assert Predictor(path, dataset="freqdino_scenes_val").metadata.name == "freqdino_scenes_val"
    with pytest.raises(ArgumentError, match="device is cuda, which this onnxruntime does not have"):
        Predictor(path, device="cuda")
    with pytest.raises(ExportError, match="export the model itself"):
        Predictor(path).export("again.onnx")


def test_a_picture_below_the_least_size(semantic):
    with pytest.raises(ExportError, match="takes pictures of at least 33 pixels a side, this one has 20 x 90"):
        ExportedModel(semantic[2].path)(inputs((20, 90), (20, 90)))


def test_somebody_elses_files(tmp_path):
    one = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [one], [other])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10),
              tmp_path / "relu.onnx")
    with pytest.raises(ExportError, match="relu.onnx says nothing about pictures and classes: it is not a file of"):
        Predictor(tmp_path / "relu.onnx")
    for name, message in (("a.onnx", "cannot be read by onnxruntime"), ("a.pt2", "is no program of torch.export")):
        (tmp_path / name).write_bytes(b"something else")
        with pytest.raises(ExportError, match=message):
            Predictor(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="none.onnx: there is no such file"):
        Predictor(tmp_path / "none.onnx")


def test_a_file_that_differs_is_not_written(semantic_model, metadata, tmp_path, monkeypatch):
    """The traced network has another bias than the model, by a hundredth: its logits differ by as much."""
    trace = writing.trace

    def trace_another(whole, *arguments):
        changed = writing.copy.deepcopy(whole)
        with torch.no_grad():
            changed.model.sem_seg_head.conv_seg.bias += 0.5
        return trace(changed, *arguments)

    monkeypatch.setattr(writing, "trace", trace_another)
    with pytest.raises(ExportError, match="the output logits differs from the model's by 0.5, more than 0.0"):
        export_model(*semantic_model, metadata, tmp_path / "model.pt2", input_size=(64, 96), batch_size=1)
    assert not os.listdir(tmp_path)


def test_a_number_that_is_none_differs():
    with pytest.raises(ExportError, match="the output logits differs from the model's by inf"):
        Comparison().compare("logits", torch.tensor([float("nan")]), torch.zeros(1))


def test_without_the_extra(panoptic, semantic_model, metadata, tmp_path, monkeypatch):
    for package in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match="model.onnx needs onnxruntime: pip install freqdino.export."):
        Predictor(panoptic[2].path)
    with pytest.raises(ImportError, match="needs onnx, onnxscript and onnxruntime: pip install freqdino.export."):
        export_model(*semantic_model, metadata, tmp_path / "m.onnx")


@pytest.mark.parametrize(("name", "options", "message"), [
    ("m.bin", {}, "file_format must be one of onnx, torch-export"),
    ("m.onnx", {"opset": 17}, "opset must be one of 18, 19"),
    ("m.pt2", {"file_format": "onnx"}, "path of the format onnx must end in .onnx"),
    ("m.pt2", {"input_size": (20, 90)}, "input_size must have at least 33 pixels")])
def test_what_cannot_be_asked_for(semantic_model, metadata, tmp_path, name, options, message):
    with pytest.raises(ArgumentError, match=message):
        export_model(*semantic_model, metadata, tmp_path / name, **options)


def test_models_that_cannot_be_exported(semantic_model, metadata, tmp_path):
    model, cfg = semantic_model
    with pytest.raises(ArgumentError, match="model is a Linear; Mask2Former, Mask DINO and SemanticSegmentor can"):
        export_model(torch.nn.Linear(1, 1), cfg, metadata, tmp_path / "m.onnx")
    windows = cfg.clone()
    windows.TEST.SLIDING_WINDOW.ENABLED = True
    with pytest.raises(ExportError, match="TEST.SLIDING_WINDOW.ENABLED is True: windows are not part of a graph"):
        export_model(model, windows, metadata, tmp_path / "m.onnx")
    drawn = cfg.clone()
    drawn.MODEL.SEM_SEG_HEAD.NAME, drawn.MODEL.SEM_SEG_HEAD.HAM.FIXED_BASES = "LightHamHead", False
    with pytest.raises(ExportError, match="MODEL.SEM_SEG_HEAD.HAM.FIXED_BASES is False: .* draws random numbers; set"):
        export_model(model, drawn, metadata, tmp_path / "m.onnx")
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        export_model(model, cfg, metadata, tmp_path / "none" / "m.onnx")


MODULES = ["freqfusion", "fdconv", "fdam"]


@pytest.mark.slow
@pytest.mark.parametrize(("leaf", "modules"), [
    ("mask2former", []), ("mask2former", MODULES), ("maskdino", []), ("maskdino", MODULES)])
def test_onnx_of_any_size(leaf, modules, tmp_path):
    """Minutes each: a graph whose sizes are symbols is slow to make."""
    options = module_options(leaf, modules) if modules else []
    cfg = load_config(f"quickstart/{leaf}.yaml", ["MODEL.DEVICE", "cpu", "DATASETS.TRAIN", "()", "DATASETS.TEST", "()",
                                                  *options])
    torch.manual_seed(0)
    summary = export_model(build_model(cfg).eval(), cfg, Metadata(), tmp_path / "model.onnx")
    assert max(summary.comparison.differences.values()) < 1e-3 and "GridSample" not in summary.nodes

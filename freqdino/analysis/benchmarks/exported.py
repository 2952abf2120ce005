"""Whole models as ONNX files in onnxruntime against the models in torch: evaluation at 512 × 512, batch 1, on the CPU.

Random weights; post-processing to the picture's size is part of both.
"""
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from detectron2.data import Metadata

from freqdino.analysis.benchmarks.measure import Case
from freqdino.analysis.benchmarks.models import SIZE, build, evaluation, random_image
from freqdino.config import load_config
from freqdino.errors import NotThere
from freqdino.export.runtime import ExportedModel
from freqdino.export.writing import export_model

LEAVES = ("instance/mask2former_r50", "panoptic/mask2former_r50_freqfusion", "instance/maskdino_r50_3s")


def cases(device: torch.device) -> Iterator[Case]:
    if device.type != "cpu":
        raise NotThere("the exported files are timed on the CPU; leave --device out")
    picture = {"image": random_image()}
    for leaf in LEAVES:
        model = build(leaf, device).eval()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            export_model(model, load_config(f"coco/{leaf}.yaml"), Metadata(), path, input_size=(SIZE, SIZE),
                         batch_size=1)
            exported = ExportedModel(path)
        yield Case(f"{leaf}, evaluation", {"torch": evaluation(model), "onnxruntime": lambda: exported([picture])},
                   "torch")

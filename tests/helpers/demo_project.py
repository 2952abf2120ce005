"""For the tests of tools/demo.py: a model that predicts fixed results, a small project, and the tool run in it."""
import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

from freqdino.commands import demo
from freqdino.data.panoptic_png import id_to_rgb

CLASSES = ["cat", "sky"]


@META_ARCH_REGISTRY.register()
class DemoTestModel(nn.Module):
    """Predicts a cat on the left half (score 0.9), one on the right half (0.4) and, as a panoptic model, sky there."""

    def __init__(self, cfg):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(1))
        self.tasks = cfg.DATASETS.PROPOSAL_FILES_TEST or ("panoptic", "instance", "semantic")

    def forward(self, samples):
        return [self.predict(**sample) for sample in samples]

    def predict(self, image, height, width, **_):
        assert image.shape[0] == 3 and not self.training and not torch.is_grad_enabled()
        left = torch.zeros(height, width, dtype=torch.bool)
        left[:, :width // 2] = True
        masks = torch.stack([left, ~left])
        scores = torch.tensor([0.9, 0.4])
        output = {
            "panoptic": ("panoptic_seg", (torch.where(left, 1, 2).int(), [
                {"id": 1, "isthing": True, "category_id": 0, "score": 0.9},
                {"id": 2, "isthing": False, "category_id": 1, "score": 0.4}])),
            "instance": ("instances", Instances(
                (height, width), pred_masks=masks.float(), scores=scores, pred_boxes=Boxes(torch.zeros(2, 4)),
                pred_classes=torch.tensor([0, 0]))),
            "semantic": ("sem_seg", masks.float())}
        return dict(output[task] for task in self.tasks)


def demo_project(folder):
    """A configuration, a checkpoint, two images and a registered dataset of them with ground truth of every task."""
    name = "demo_test"
    torch.save({"model": {"offset": torch.zeros(1)}}, folder / "model.pth")
    (folder / "config.yaml").write_text(
        f"MODEL:\n  META_ARCHITECTURE: DemoTestModel\n  DEVICE: cpu\n  WEIGHTS: {folder / 'model.pth'}\n"
        f"DATASETS:\n  TRAIN: ('{name}',)\n  TEST: ('{name}',)\n")
    images = folder / "images"
    images.mkdir()
    halves = np.tile(np.arange(40) // 20, (30, 1))
    Image.fromarray(id_to_rgb(halves + 7)).save(folder / "segments.png")
    Image.fromarray(halves.astype(np.uint8)).save(folder / "labels.png")
    records = []
    for stem in ("a", "b"):
        Image.fromarray(np.full((30, 40, 3), 128, np.uint8)).save(images / f"{stem}.png")
        records.append({"file_name": str(images / f"{stem}.png"), "pan_seg_file_name": str(folder / "segments.png"),
                        "segments_info": [{"id": 7, "category_id": 0}, {"id": 8, "category_id": 1}],
                        "sem_seg_file_name": str(folder / "labels.png"),
                        "annotations": [{"segmentation": [[0, 0, 20, 0, 20, 30]], "category_id": 0}]})
    DatasetCatalog.register(name, lambda: records)
    colors = [[255, 0, 0], [0, 0, 255]]
    MetadataCatalog.get(name).set(thing_classes=CLASSES, stuff_classes=CLASSES, thing_colors=colors,
                                  stuff_colors=colors, thing_dataset_id_to_contiguous_id={1: 0}, evaluator_type="none")
    return folder


def run(project, *arguments):
    return demo.main(["--config-file", str(project / "config.yaml"), "--output", str(project / "out"),
                      *map(str, arguments)])

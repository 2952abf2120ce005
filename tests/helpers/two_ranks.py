"""One rank of test_two_ranks.py: ``python two_ranks.py RANK FOLDER`` evaluates its own one of two images.

Both images show a cat on the left half and sky on the right. Rank 0 predicts that, rank 1 calls everything sky and
finds no cat. The first rank writes the results to FOLDER/results.json.
"""
import json
import sys
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from freqdino.data.panoptic_png import id_to_rgb
from freqdino.engine.joining import leaving
from freqdino.evaluation.build import build_evaluator

NAME = "two_ranks"
LABELS = np.tile(np.arange(40) // 20, (20, 1))


def register(folder):
    categories = [{"id": 5, "name": "cat", "isthing": 1}, {"id": 6, "name": "sky", "isthing": 0}]
    Image.fromarray(LABELS.astype(np.uint8)).save(folder / "labels.png")
    Image.fromarray(id_to_rgb(LABELS + 1)).save(folder / "segments.png")
    segments = [{"id": 1, "category_id": 5}, {"id": 2, "category_id": 6}]
    cat = {"category_id": 5, "bbox": [0, 0, 20, 20], "segmentation": [[0, 0, 20, 0, 20, 20, 0, 20]]}
    (folder / "panoptic.json").write_text(json.dumps({"categories": categories, "annotations": [
        {"image_id": i, "file_name": "segments.png", "segments_info": segments} for i in (0, 1)]}))
    (folder / "instances.json").write_text(json.dumps({
        "categories": categories[:1], "images": [{"id": i, "height": 20, "width": 40} for i in (0, 1)],
        "annotations": [{**cat, "image_id": i} for i in (0, 1)]}))
    DatasetCatalog.register(NAME, lambda: [{"file_name": f"{i}.jpg", "sem_seg_file_name": str(folder / "labels.png")}
                                           for i in (0, 1)])
    MetadataCatalog.get(NAME).set(
        evaluator_type="coco_panoptic_seg", json_file=str(folder / "instances.json"), panoptic_root=str(folder),
        panoptic_json=str(folder / "panoptic.json"), sem_seg_root=str(folder), ignore_label=255,
        stuff_classes=["cat", "sky"], thing_dataset_id_to_contiguous_id={5: 0},
        stuff_dataset_id_to_contiguous_id={6: 1})


def predict(rank):
    labels = torch.as_tensor(LABELS if rank == 0 else np.ones_like(LABELS))
    segments = [{"id": 1, "category_id": 0, "isthing": True}, {"id": 2, "category_id": 1, "isthing": False}][rank:]
    cats = Instances((20, 40), scores=torch.ones(1), pred_classes=torch.zeros(1, dtype=torch.int64),
                     pred_masks=labels[None] == 0, pred_boxes=Boxes(torch.tensor([[0.0, 0.0, 20.0, 20.0]])))
    return {"sem_seg": torch.nn.functional.one_hot(labels, 2).permute(2, 0, 1).float(),
            "panoptic_seg": (labels + 1, segments), "instances": cats if rank == 0 else cats[:0]}


def main(rank, folder):
    own = folder / str(rank)
    own.mkdir()
    register(own)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    with leaving():
        evaluator = build_evaluator(NAME, tasks=["semantic", "instance", "panoptic"], output_dir=str(folder / "out"))
        evaluator.reset()
        evaluator.process([{"image_id": rank, "file_name": f"{rank}.jpg"}], [predict(rank)])
        results = evaluator.evaluate()
        if rank == 0:
            (folder / "results.json").write_text(json.dumps(results))
        else:
            assert not results, results


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

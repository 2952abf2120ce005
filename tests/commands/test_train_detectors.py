"""train_net.py on small detectors of Detectron2's and a tiny data set: Detectron2's recipe trains and is evaluated."""
import json

import numpy as np
import pytest
from detectron2.data.datasets import register_coco_panoptic_separated
from PIL import Image

from freqdino.commands.train import run
from helpers.small_detectors import BACKBONE, DETECTORS
from helpers.small_training import fails, results

NAME = "train_detectors_test"
SEPARATED = f"{NAME}_separated"
MAPPERS = {"Faster R-CNN": "coco_boxes_detr", "Mask R-CNN": "coco_instance_detr",
           "Panoptic FPN": "coco_panoptic_separated"}
TASKS = {"Faster R-CNN": {"bbox"}, "Mask R-CNN": {"bbox", "segm"},
         "Panoptic FPN": {"bbox", "segm", "sem_seg", "panoptic_seg"}}
RECIPE = {"SOLVER.OPTIMIZER": "SGD", "SOLVER.BASE_LR": 0.001, "SOLVER.BACKBONE_MULTIPLIER": 1.0,
          "SOLVER.IMS_PER_BATCH": 2, "SOLVER.MAX_ITER": 2, "SOLVER.STEPS": "()", "SOLVER.WARMUP_ITERS": 0, "SEED": 1,
          "DATALOADER.NUM_WORKERS": 0, "DATALOADER.FILTER_EMPTY_ANNOTATIONS": False, "INPUT.MIN_SIZE_TRAIN": "(64,)",
          "INPUT.MIN_SIZE_TEST": 64, "DATASETS.TRAIN": f"('{SEPARATED}',)", "DATASETS.TEST": f"('{SEPARATED}',)",
          "MODEL.ROI_HEADS.NUM_CLASSES": 2, "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 2}


@pytest.fixture(scope="module", autouse=True)
def squares(tmp_path_factory):
    """Registers three pictures of one bright (1) or dark (2) square before a wall (3), as Detectron2 registers COCO."""
    folder = tmp_path_factory.mktemp("squares")
    for name in ("images", "panoptic", "stuff"):
        (folder / name).mkdir()
    images, instances, panoptic = [], [], []
    for index in range(3):
        corner, category = 4 + 8 * index, 1 + index % 2
        square = np.zeros((48, 64), bool)
        square[corner:corner + 20, corner:corner + 20] = True
        pixels = np.where(square, (230, 40)[index % 2], 128).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.jpg")
        colors = np.zeros((48, 64, 3), np.uint8)
        colors[..., 0] = 1 + square
        Image.fromarray(colors).save(folder / "panoptic" / f"{index}.png")
        Image.fromarray((~square).astype(np.uint8)).save(folder / "stuff" / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.jpg", "height": 48, "width": 64})
        end = corner + 20
        instances.append({"id": index + 1, "image_id": index, "category_id": category, "iscrowd": 0, "area": 400,
                          "bbox": [corner, corner, 20, 20],
                          "segmentation": [[corner, corner, end, corner, end, end, corner, end]]})
        panoptic.append({"image_id": index, "file_name": f"{index}.png", "segments_info": [
            {"id": 1, "category_id": 3, "iscrowd": 0}, {"id": 2, "category_id": category, "iscrowd": 0}]})
    categories = [{"id": 1, "name": "bright", "isthing": 1}, {"id": 2, "name": "dark", "isthing": 1},
                  {"id": 3, "name": "wall", "isthing": 0}]
    for name, annotations, kinds in (("instances", instances, categories[:2]), ("panoptic", panoptic, categories)):
        document = {"images": images, "annotations": annotations, "categories": kinds}
        (folder / f"{name}.json").write_text(json.dumps(document))
    metadata = {"thing_classes": ["bright", "dark"], "thing_dataset_id_to_contiguous_id": {1: 0, 2: 1},
                "stuff_classes": ["things", "wall"], "stuff_dataset_id_to_contiguous_id": {3: 1, 0: 0}}
    paths = [str(folder / name) for name in ("images", "panoptic", "panoptic.json", "stuff", "instances.json")]
    register_coco_panoptic_separated(NAME, metadata, *paths)


def options(detector, output, **changes):
    chosen = {**BACKBONE, **DETECTORS[detector], **RECIPE, "INPUT.DATASET_MAPPER_NAME": MAPPERS[detector],
              "OUTPUT_DIR": output, **changes}
    return [str(word) for item in chosen.items() for word in item]


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_detector_trains_and_is_evaluated(detector, tmp_path):
    run(options(detector, tmp_path))
    assert set(results(tmp_path)[SEPARATED]) == TASKS[detector]
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    losses = {key for line in lines for key in line if key.startswith("loss")}
    expected = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
    expected |= {"loss_mask"} if detector != "Faster R-CNN" else set()
    expected |= {"loss_sem_seg"} if detector == "Panoptic FPN" else set()
    assert losses == expected
    evaluated = tmp_path / "again"
    run(["--eval-only", *options(detector, evaluated), "MODEL.WEIGHTS", str(tmp_path / "model_final.pth")])
    assert results(evaluated) == results(tmp_path)


def test_other_class_counts_are_said_before_training(capsys, tmp_path):
    message = fails(capsys, options("Mask R-CNN", tmp_path, **{"MODEL.ROI_HEADS.NUM_CLASSES": 80}))
    assert f"the data set {SEPARATED} has 2 classes of things, but MODEL.ROI_HEADS.NUM_CLASSES is 80" in message

"""What would end an evaluation is said before training: ground truth of another task, files that are not there."""
import json

import numpy as np
import pytest
import torch
from PIL import Image

from freqdino.commands.train import run
from freqdino.data import register_custom_datasets
from freqdino.data.panoptic_png import id_to_rgb
from freqdino.engine.evaluating import augmented_model, check_evaluation
from freqdino.errors import ConfigError
from freqdino.evaluation.tta import TestTimeAugmentation
from freqdino.registration.predictions import predictions_of
from helpers.small_models import example, small_config, small_model
from helpers.small_training import fails, options, results

SEMANTIC = {"MODEL.MASK_FORMER.TEST.SEMANTIC_ON": True, "MODEL.MASK_FORMER.TEST.INSTANCE_ON": False,
            "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": False}


def words(settings):
    return [str(word) for item in settings.items() for word in item]


def test_nothing_to_evaluate_is_said_before_training(squares, tmp_path, capsys, loggers_as_before):
    message = fails(capsys, options(squares, tmp_path / "out", *words(SEMANTIC)))
    assert f"nothing to evaluate: the data set {squares} of DATASETS.TEST has ground truth for instance, " in message
    assert "but MaskFormer predicts semantic; set MODEL.MASK_FORMER.TEST.SEMANTIC_ON to False, " in message
    assert "MODEL.MASK_FORMER.TEST.INSTANCE_ON to True" in message and "DATASETS.TEST to sets with" in message
    assert not list((tmp_path / "out").glob("*.pth")) and not (tmp_path / "out" / "metrics.json").exists()


def test_nothing_to_evaluate_of_detectron2_models(squares):
    register_custom_datasets([squares])
    cfg = small_config({"MODEL.META_ARCHITECTURE": "SemanticSegmentor", "DATASETS.TEST": [squares]})
    with pytest.raises(ConfigError, match="SemanticSegmentor predicts semantic; set MODEL.META_ARCHITECTURE to one of"):
        check_evaluation(cfg, predictions_of(cfg))


@pytest.mark.parametrize("task, sets, message", [
    ("sem_seg", 1, "has the task sem_seg; the results of this evaluation are bbox, segm"),
    ("segm", 0, r"are those of one data set, DATASETS.TEST is \(\)"),
])
def test_results_that_cannot_be_expected(squares, task, sets, message):
    register_custom_datasets([squares])
    cfg = small_config({"DATASETS.TEST": [squares] * sets, "TEST.EXPECTED_RESULTS": [[task, "AP", 38.5, 0.2]],
                        "MODEL.MASK_FORMER.TEST.INSTANCE_ON": True})
    with pytest.raises(ConfigError, match=message):
        check_evaluation(cfg, predictions_of(cfg))


def test_boundary_ap_is_a_result_where_it_is_asked_for(squares):
    register_custom_datasets([squares])
    cfg = small_config({"DATASETS.TEST": [squares], "MODEL.MASK_FORMER.TEST.INSTANCE_ON": True,
                        "TEST.KEEP_BEST": "boundary/AP"})
    with pytest.raises(ConfigError, match="TEST.KEEP_BEST is 'boundary/AP'; expected a metric of what is evaluated"):
        check_evaluation(cfg, predictions_of(cfg))
    cfg.TEST.BOUNDARY_AP = True
    check_evaluation(cfg, predictions_of(cfg))


def test_files_that_are_not_there(tmp_path):
    cfg = small_config({"DATASETS.TEST": ["ade20k_panoptic_val"], "OUTPUT_DIR": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match="DETECTRON2_DATASETS"):
        check_evaluation(cfg, predictions_of(cfg))


def test_own_panoptic_data_are_evaluated_by_every_task(tmp_path, loggers_as_before):
    for folder in ("images", "segments"):
        (tmp_path / folder).mkdir()
    images, annotations = [], []
    for number in (1, 2):
        ids = np.full((48, 64), 7)
        ids[8:40, 8:40] = 9
        Image.fromarray((ids * 20).astype(np.uint8)).convert("RGB").save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(id_to_rgb(ids)).save(tmp_path / "segments" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 48, "width": 64})
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": [
            {"id": 7, "category_id": 1, "area": 2048, "bbox": [0, 0, 64, 48], "iscrowd": 0},
            {"id": 9, "category_id": 2, "area": 1024, "bbox": [8, 8, 32, 32], "iscrowd": 0}]})
    (tmp_path / "panoptic.json").write_text(json.dumps({
        "images": images, "annotations": annotations,
        "categories": [{"id": 1, "name": "floor", "isthing": 0}, {"id": 2, "name": "box", "isthing": 1}]}))
    name = f"{tmp_path}/panoptic.json@{tmp_path}/images@{tmp_path}/segments"
    every = {"MODEL.MASK_FORMER.TEST.SEMANTIC_ON": True, "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": True,
             "INPUT.DATASET_MAPPER_NAME": "coco_panoptic_lsj", "SOLVER.MAX_ITER": 1, "TEST.BOUNDARY_AP": True,
             "TEST.KEEP_BEST": "boundary/AP-box"}
    run(options(name, tmp_path / "out", *words(every)))
    found = results(tmp_path / "out")[name]
    assert set(found) == {"bbox", "segm", "boundary", "sem_seg", "panoptic_seg"}
    assert found["boundary"]["AP-box"] <= found["segm"]["AP-box"] and found["sem_seg"]["mBoundaryIoU"] is not None
    assert found["sem_seg"]["IoU-floor"] is not None and found["segm"]["AP-box"] is not None
    (tmp_path / "segments" / "2.png").write_bytes(b"broken")
    run(options(name, tmp_path / "one", *words({**every, "DATALOADER.SKIP_UNREADABLE": True})))
    assert set(results(tmp_path / "one")[name]) == set(found)


def test_augmentation_and_windows_see_one_picture_at_a_time():
    windows = {"TEST.SLIDING_WINDOW.ENABLED": True, "TEST.SLIDING_WINDOW.SIZE": 64, "TEST.SLIDING_WINDOW.STRIDE": 32,
               "TEST.AUG.MIN_SIZES": [64, 96], "TEST.AUG.MAX_SIZE": 128}
    cfg = small_config({**SEMANTIC, **windows})
    model = augmented_model(cfg, small_model({**SEMANTIC, **windows}).eval())
    assert isinstance(model, TestTimeAugmentation)
    pictures = [{**example(*size), "height": size[0], "width": size[1]} for size in ((64, 96), (96, 64), (70, 70))]
    with torch.no_grad():
        together, alone = model(pictures), [model([picture])[0] for picture in pictures]
    for result, own in zip(together, alone):
        assert (result["sem_seg"] - own["sem_seg"]).abs().max() <= 1e-5

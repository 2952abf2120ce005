"""train_net.py on a tiny model and a tiny data set: train, evaluate, resume, two processes, and its errors."""
import json

import pytest
import torch

from freqdino.commands.train import run
from helpers import small_mask_dino, small_models, two_processes
from helpers.small_training import SHORT, TINY_HEAD, fails, options, results


@pytest.fixture(scope="module")
def trained(squares, tmp_path_factory):
    """Output folder of a run of four iterations."""
    output = tmp_path_factory.mktemp("run")
    run(options(squares, output, "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "2"))
    return output


def iterations(folder):
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [line["iteration"] for line in lines if "total_loss" in line]


def test_training_leaves_what_detectron2_users_expect(trained, squares):
    for name in ("config.yaml", "log.txt", "metrics.json", "model_0000001.pth", "model_final.pth"):
        assert (trained / name).is_file(), name
    assert list(trained.glob("events.out.tfevents*"))
    assert (trained / "last_checkpoint").read_text() == "model_0000003.pth"
    final = torch.load(trained / "model_final.pth", weights_only=True)
    assert final.keys() == {"model", "classes", "config"}       # what is needed to use it, and no optimiser
    assert final["classes"] == {"thing_classes": ["bright", "dark"], "thing_dataset_id_to_contiguous_id": {1: 0, 2: 1}}
    log = (trained / "log.txt").read_text()
    assert "Running on cpu in 1 process(es)" in log and "eta: " in log and "loss_mask_0: " in log
    assert log.count("Start inference on") == 2         # after iteration 2 and at the end
    assert iterations(trained) == [3]
    assert "segm/AP" in (trained / "metrics.json").read_text()
    assert set(results(trained)[squares]) == {"bbox", "segm"}


def test_eval_only_reproduces_the_last_evaluation(trained, squares, tmp_path):
    """Also of a set that is named twice: its results stand under its name."""
    weights = ("MODEL.WEIGHTS", str(trained / "model_final.pth"))
    run(["--eval-only", *options(squares, tmp_path, *weights, "DATASETS.TEST", str((squares, squares)))])
    assert results(tmp_path) == results(trained)


def test_augmented_evaluation_stands_beside_the_plain_one(trained, squares, tmp_path):
    augmentation = ("TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(48, 64)", "TEST.AUG.MAX_SIZE", "96")
    weights = ("MODEL.WEIGHTS", str(trained / "model_final.pth"))
    run(["--eval-only", *options(squares, tmp_path / "a", *weights, *augmentation)])
    assert results(tmp_path / "a") == results(trained)
    augmented = json.loads((tmp_path / "a" / "inference_TTA" / "results.json").read_text())
    assert set(augmented[squares]) == {"bbox", "segm"}
    run(options(squares, tmp_path / "b", "SOLVER.MAX_ITER", "1", *augmentation))
    assert (tmp_path / "b" / "inference_TTA" / "results.json").is_file()
    assert "segm_TTA/AP" in (tmp_path / "b" / "metrics.json").read_text()


def test_resume_continues_and_two_processes_resume_what_one_began(trained, squares, tmp_path):
    for name in ("last_checkpoint", "model_0000003.pth"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    run(["--resume", *options(squares, tmp_path, "SOLVER.MAX_ITER", "5")])
    assert "Starting training from iteration 4" in (tmp_path / "log.txt").read_text()
    assert iterations(tmp_path) == [4]
    run(["--resume", "--num-gpus", "2", "--dist-url", "auto",
         *options(squares, tmp_path, "SOLVER.MAX_ITER", "7")])
    assert iterations(tmp_path) == [4, 6]
    assert "Rank of current process: 1. World size: 2" in (tmp_path / "log.txt.rank1").read_text()
    assert torch.load(tmp_path / "model_0000006.pth", weights_only=True)["iteration"] == 6
    assert set(results(tmp_path)[squares]) == {"bbox", "segm"}


def test_resume_after_the_last_iteration_only_evaluates(trained, squares, tmp_path):
    for name in ("last_checkpoint", "model_0000003.pth"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    run(["--resume", *options(squares, tmp_path)])
    assert results(tmp_path) == results(trained)


def test_two_processes_train_as_one(tmp_path):
    # With as many objects and queries on either rank the class loss, a weighted mean, is the mean of the ranks' losses,
    # too; the mask losses are sums over objects divided by the number of objects over all ranks.
    models = {"mean_over_images": ["MODEL.META_ARCHITECTURE", "MeanColour"],
              "mask2former": ["MODEL.BACKBONE.NAME", "PatchesBackbone", *TINY_HEAD]}
    models |= {f"{name}_in_parts": [*model, "SOLVER.ACCUMULATE", "2"] for name, model in models.items()}
    solver = ["SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", "0.01", "SOLVER.CLIP_GRADIENTS.ENABLED", "True",
              "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "1.0"]
    models = {name: [*model, *SHORT, *solver, "OUTPUT_DIR", str(tmp_path)] for name, model in models.items()}
    start, one, first, second = two_processes.train_by_one_and_by_two(models, tmp_path)
    for name in models:
        assert any(not torch.equal(start[name][key], one[name][key]) for key in one[name])
        for key, expected in one[name].items():
            assert torch.equal(first[name][key], second[name][key]), key
            torch.testing.assert_close(first[name][key], expected, atol=1e-6, rtol=1e-4,
                                       msg=lambda text: f"{key}: {text}")
    # The parts of each process are the two images of one process without parts, again.
    assert all(torch.allclose(one["mean_over_images"][key], tensor, atol=1e-6)
               for key, tensor in one["mean_over_images_in_parts"].items())


def test_errors_are_a_line_and_status_1(trained, squares, tmp_path, capsys):
    assert "x.yaml: no such configuration file" in fails(capsys, ["--config-file", "x.yaml"])
    assert "unknown configuration key SOLVER.BASE_LRR" in fails(capsys, ["SOLVER.BASE_LRR", "1"])
    wrong_classes = fails(capsys, options(squares, tmp_path / "a", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "7"))
    assert "2 classes" in wrong_classes and "NUM_CLASSES 2" in wrong_classes
    assert "Traceback" in (tmp_path / "a" / "log.txt").read_text()
    assert "no such checkpoint file" in fails(capsys, options(squares, tmp_path / "b", "MODEL.WEIGHTS", "gone.pth"))
    nowhere = fails(capsys, options("nowhere.json@images", tmp_path / "c"))
    assert "nowhere.json" in nowhere
    assert "'Nonesuch'" in fails(capsys, options(squares, tmp_path / "d", "MODEL.META_ARCHITECTURE", "Nonesuch"))


@pytest.fixture
def boxes_alone(squares, tmp_path):
    """Makes the words for a small Mask DINO on the squares without their segmentations."""
    annotations, images = squares.split("@")
    document = json.loads(open(annotations).read())
    for annotation in document["annotations"]:
        del annotation["segmentation"]
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    model = {**small_models.OPTIONS, **small_mask_dino.OPTIONS, "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 2,
             "MODEL.MaskDINO.TEST.SEMANTIC_ON": False, "MODEL.MaskDINO.TEST.PANOPTIC_ON": False}

    def words(mapper, changes=small_mask_dino.BOXES_ONLY):
        model_words = [str(word) for item in {**model, **changes}.items() for word in item]
        return options(f"{tmp_path}/boxes.json@{images}", tmp_path / "out", *model_words, "SOLVER.MAX_ITER", "2",
                       "INPUT.DATASET_MAPPER_NAME", mapper)
    return words


@pytest.mark.parametrize("mapper", ["coco_boxes_lsj", "coco_boxes_detr"])
def test_boxes_alone_train_and_are_evaluated(boxes_alone, tmp_path, mapper):
    run(boxes_alone(mapper))
    (of_boxes,) = results(tmp_path / "out").values()
    assert list(of_boxes) == ["bbox"] and 0 <= of_boxes["bbox"]["AP"] <= 100
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "boxes.json has no segmentations: boxes alone are evaluated" in log
    assert "loss_giou: " in log and "loss_mask" not in log


def test_masks_asked_of_boxes_alone(boxes_alone, capsys):
    error = fails(capsys, boxes_alone("coco_instance_lsj"))
    assert ".png (image_id " in error and "no segmentation, but masks are needed" in error and "coco_boxes_lsj" in error
    error = fails(capsys, boxes_alone("coco_boxes_lsj", {}))
    assert ".png: the ground truth has no masks" in error and "COST_DICE_WEIGHT must be off, which Mask DINO" in error


def test_eval_only_wants_all_weights(trained, squares, tmp_path, capsys):
    assert "--eval-only needs weights" in fails(capsys, ["--eval-only", *options(squares, tmp_path)])
    state = torch.load(trained / "model_final.pth", weights_only=True)["model"]
    del state["criterion.empty_weight"]
    torch.save(state, tmp_path / "less.pth")
    error = fails(capsys, ["--eval-only", *options(squares, tmp_path, "MODEL.WEIGHTS", str(tmp_path / "less.pth"),
                                                   "MODEL.WEIGHTS_PARTIAL", "True")])
    assert "1 missing from the checkpoint: criterion.empty_weight" in error


def test_errors_during_training_keep_their_message(squares, tmp_path, capsys):
    annotations, images = squares.split("@")
    copy = json.loads(open(annotations).read())
    copy["images"][0]["file_name"] = "gone.png"
    (tmp_path / "copy.json").write_text(json.dumps(copy))
    for workers in "01":
        error = fails(capsys, options(f"{tmp_path}/copy.json@{images}", tmp_path / "out", "SOLVER.MAX_ITER", "4",
                                      "DATALOADER.NUM_WORKERS", workers))
        assert "gone.png" in error and len(error.splitlines()) <= 3


def test_an_error_in_one_of_two_processes_ends_both(squares, tmp_path, capfd):
    with pytest.raises(SystemExit) as caught:
        run(["--num-gpus", "2", "--dist-url", "auto", *options(squares, tmp_path, "MODEL.WEIGHTS", "gone.pth")])
    error = capfd.readouterr().err
    assert caught.value.code == 1 and "error in process " in error and "gone.pth: no such checkpoint file" in error
    assert "Traceback" not in error


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision_trains(squares, tmp_path, dtype):
    run(options(squares, tmp_path, "MODEL.DEVICE", "cuda", "SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", dtype))
    scaler = torch.load(tmp_path / "model_0000003.pth", weights_only=True)["trainer"]["_trainer"]["grad_scaler"]
    assert bool(scaler) == (dtype == "float16")

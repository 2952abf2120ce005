"""Values that no run can work with are refused when the configuration is loaded, with key, value and condition."""
import pytest

from freqdino.config import load_config
from freqdino.config.bounds import BOUNDS, check_run, remarks_on
from freqdino.config.effects import flat_keys
from freqdino.config.keys import default_config
from freqdino.errors import ConfigError

TOGETHER = {"SOLVER.IMS_PER_BATCH": ["SOLVER.REFERENCE_WORLD_SIZE", "2"],
            "MODEL.RESNETS.RES2_OUT_CHANNELS": ["MODEL.RESNETS.DEPTH", "18"]}


@pytest.mark.parametrize("key, value, words", [
    ("SOLVER.MAX_ITER", 0, "at least 1"), ("SOLVER.MAX_ITER", -5, "at least 1"),
    ("SOLVER.IMS_PER_BATCH", 0, "at least 1"), ("SOLVER.CHECKPOINT_PERIOD", 0, "at least 1"),
    ("SOLVER.CHECKPOINT_PERIOD", -1, "at least 1"), ("SOLVER.WARMUP_ITERS", -1, "at least 0"),
    ("SOLVER.BASE_LR", -0.1, "at least 0"), ("SOLVER.BASE_LR", "nan", "at least 0"),
    ("SOLVER.BASE_LR", "inf", "finite"), ("SOLVER.WEIGHT_DECAY", -1, "at least 0"),
    ("SOLVER.WEIGHT_DECAY_BIAS", -1, "at least 0"), ("SOLVER.MOMENTUM", 1, "at least 0 and below 1"),
    ("SOLVER.WARMUP_FACTOR", 2, "from 0 to 1"), ("SOLVER.WARMUP_METHOD", "cosine", "known are linear, constant"),
    ("SOLVER.STEPS", (20, 10), "ascending order"), ("SOLVER.STEPS", (10, 10), "ascending order"),
    ("SOLVER.STEPS", (0, 10), "ascending order"),
    ("SOLVER.IMS_PER_BATCH", 15, "a multiple of SOLVER.REFERENCE_WORLD_SIZE, 2"),
    ("DATALOADER.NUM_WORKERS", -1, "at least 0"), ("TEST.EVAL_PERIOD", -1, "at least 0"),
    ("DATALOADER.SAMPLER_TRAIN", "BalancedSampler", "known are TrainingSampler, RepeatFactor"),
    ("MODEL.SEM_SEG_HEAD.CONVS_DIM", 0, "at least 1"),
    ("TEST.DETECTIONS_PER_IMAGE", 0, "at least 1"), ("MODEL.MaskDINO.NUM_OBJECT_QUERIES", 0, "at least 1"),
    ("TEST.EXPECTED_RESULTS", ["segm"], "rows of task, metric"),
    ("TEST.EXPECTED_RESULTS", [["segm", "AP", "38.5", 0.2]], "rows of task, metric"),
    ("INPUT.MIN_SIZE_TRAIN", (), "one number or more"), ("INPUT.MIN_SIZE_TRAIN", -1, "one number or more"),
    ("INPUT.MAX_SIZE_TRAIN", 0, "at least 1"), ("INPUT.MIN_SIZE_TEST", -1, "at least 0"),
    ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "random", "known are choice, range"),
    ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "two numbers"), ("INPUT.FORMAT", "rgb", "known are RGB, BGR"),
    ("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 0, "above 0 and at most 1"), ("INPUT.MIN_SCALE", "nan", "finite"),
    ("MODEL.PIXEL_STD", [1, 0, 1], "numbers above 0"), ("MODEL.PIXEL_MEAN", [1, 2], "one for a channel"),
    ("MODEL.PIXEL_MEAN", ["nan", 0, 0], "finite"), ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 0, "at least 1"),
    ("MODEL.ROI_HEADS.NUM_CLASSES", 0, "at least 1"), ("MODEL.BACKBONE.FREEZE_AT", 6, "to 5"),
    ("MODEL.RESNETS.DEPTH", 42, "18, 34, 50, 101 or 152"),
    ("MODEL.RESNETS.RES2_OUT_CHANNELS", 32, "a ResNet of DEPTH 18 has 64"),
    ("MODEL.DEVICE", "gpu", "a device of PyTorch"), ("OUTPUT_DIR", "", "a folder"), ("SEED", 2 ** 32, "below 2"),
    ("MODEL.MASK_FORMER.DEC_LAYERS", 0, "at least 1"), ("MODEL.MaskDINO.DROPOUT", 1, "below 1"),
    ("MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", 1.5, "from 0 to 1"),
])
def test_refused_with_the_condition(key, value, words):
    with pytest.raises(ConfigError, match=f"{key} .*{words}"):
        load_config(opts=[*(TOGETHER.get(key, [])), key, value])


def test_the_cosine_schedule_ends_below_its_start():
    options = ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR", "0.1", "SOLVER.BASE_LR_END"]
    load_config(opts=[*options, "0.1"])
    with pytest.raises(ConfigError, match="SOLVER.BASE_LR_END is 0.2; it must be at most SOLVER.BASE_LR, 0.1"):
        load_config(opts=[*options, "0.2"])


def test_every_bound_is_one_of_a_key():
    cfg = default_config()
    keys = [key for _, _, bounded in BOUNDS for key in bounded]
    assert set(keys) <= set(flat_keys(cfg)) and len(keys) == len(set(keys))


@pytest.mark.parametrize("options", [
    ["SOLVER.CLIP_GRADIENTS.NORM_TYPE", "inf"], ["MODEL.DEVICE", "cuda:1"], ["MODEL.BACKBONE.FREEZE_AT", "-1"],
    ["SOLVER.STEPS", "()"], ["SEED", "-1"], ["INPUT.MIN_SIZE_TEST", "0"],
    ["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN", "(640, 800)"]])
def test_values_at_the_edge_are_taken(options):
    load_config(opts=options)


@pytest.mark.parametrize("key, value, message", [
    ("MODEL.KEYPOINT_ON", "True", "read no keypoints; set it to False"),
    ("MODEL.LOAD_PROPOSALS", "True", "read no proposals from files"),
    ("MODEL.PIXEL_MEAN", "[0.5]", "it must be three numbers")])
def test_what_no_data_set_here_can_be_read_for(key, value, message):
    more = ["MODEL.PIXEL_STD", "[1.0]"] if key == "MODEL.PIXEL_MEAN" else []
    with pytest.raises(ConfigError, match=f"{key} .*{message}"):
        check_run(load_config(opts=[key, value, *more]), training=False)


def test_training_without_a_learning_rate():
    cfg = load_config(opts=["SOLVER.BASE_LR", "0"])
    check_run(cfg, training=False)
    with pytest.raises(ConfigError, match="SOLVER.BASE_LR is 0.0; it must be above 0: nothing would be learnt"):
        check_run(cfg, training=True)


def test_schedules_that_are_hardly_meant():
    def remarks(*options):
        return remarks_on(load_config(opts=options))
    assert not remarks() and not remarks("SOLVER.MAX_ITER", "10", "SOLVER.WARMUP_ITERS", "9")
    assert not remarks("SOLVER.MAX_ITER", "10", "SOLVER.WARMUP_FACTOR", "1")
    [warmup] = remarks("SOLVER.MAX_ITER", "10", "SOLVER.WARMUP_ITERS", "10")
    assert warmup == ("SOLVER.WARMUP_ITERS 10 is not below SOLVER.MAX_ITER 10: the learning rate never reaches "
                      "SOLVER.BASE_LR 0.001")
    [period] = remarks("SOLVER.MAX_ITER", "2000", "TEST.EVAL_PERIOD", "3000")
    assert "comes once, at the end" in period
    [sampler] = remarks("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler")
    assert "repeats nothing" in sampler


def test_more_detections_than_there_are_predictions():
    options = ["MODEL.META_ARCHITECTURE", "MaskFormer", "MODEL.MASK_FORMER.TEST.INSTANCE_ON", "True",
               "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "2", "TEST.DETECTIONS_PER_IMAGE"]
    assert not remarks_on(load_config(opts=[*options, "200"]))
    [remark] = remarks_on(load_config(opts=[*options, "201"]))
    assert "100 queries of 2 classes give 200 predictions at most: set MODEL.MASK_FORMER.NUM_OBJECT_QUERIES" in remark

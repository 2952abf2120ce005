"""Every key has one rule: read, ignored or refused; a changed key that nobody reads is said in one warning line."""
import itertools

import pytest
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, build_model

from freqdino.config import load_config
from freqdino.config.effects import OTHER_BACKBONES, RULES, flat_keys, keys_without_effect, rules_of
from freqdino.config.keys import IGNORED_KEYS, default_config
from freqdino.data import register_custom_datasets
from freqdino.data.extra_augmentations import extra_augmentations
from freqdino.data.mapper import MAPPERS
from freqdino.engine.solver import build_lr_scheduler, build_optimizer
from freqdino.engine.trainer import Trainer
from helpers.paths import CONFIGS
from helpers.small_detectors import BACKBONE, DETECTORS
from helpers.small_models import RESNET18, small_config
from helpers.small_semantic_heads import SMALL_MODEL
from helpers.small_training import options


def warnings(caplog):
    return [record.getMessage() for record in caplog.records
            if record.getMessage().startswith("without effect in this configuration: ")]


def test_every_key_of_detectron2_and_of_the_project_has_one_rule():
    for key in flat_keys(default_config()):
        assert len(rules_of(key)) == 1, key
    assert {rule.status for rule in RULES} == {"read", "ignored", "refused"}


@pytest.mark.parametrize("opts, said", [
    (["INPUT.IMAGE_SIZE", "64"], "INPUT.IMAGE_SIZE (read by the mappers with large-scale jitter"),
    (["INPUT.DATASET_MAPPER_NAME", "coco_instance_lsj", "INPUT.MIN_SIZE_TRAIN", "64"], "INPUT.MIN_SIZE_TRAIN (read by"),
    (["INPUT.DATASET_MAPPER_NAME", "coco_instance_detr", "INPUT.COLOR_AUG_SSD", "True"], "INPUT.COLOR_AUG_SSD (read"),
    (["INPUT.CROP.SIZE", "(64, 64)"], "INPUT.CROP.SIZE (read with INPUT.CROP.ENABLED"),
    (["INPUT.MASK_FORMAT", "bitmask"], "INPUT.MASK_FORMAT (polygons and RLE are both read"),
    (["SOLVER.MOMENTUM", "0.5"], "SOLVER.MOMENTUM (read by SOLVER.OPTIMIZER SGD)"),
    (["SOLVER.POLY_LR_POWER", "2"], "SOLVER.POLY_LR_POWER (read by SOLVER.LR_SCHEDULER_NAME WarmupPolyLR)"),
    (["SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "SOLVER.STEPS", "10"], "SOLVER.STEPS (read by"),
    (["SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "2"], "CLIP_VALUE (read with SOLVER.CLIP_GRADIENTS.ENABLED)"),
    (["MODEL_EMA.DECAY", "0.5"], "MODEL_EMA.DECAY (read with MODEL_EMA.ENABLED)"),
    (["TEST.AUG.FLIP", "False"], "TEST.AUG.FLIP (read with TEST.AUG.ENABLED)"),
    (["DATALOADER.REPEAT_THRESHOLD", "0.5"], "REPEAT_THRESHOLD (read by DATALOADER.SAMPLER_TRAIN Repeat"),
    (["MODEL.META_ARCHITECTURE", "MaskFormer", "MODEL.ROI_HEADS.NUM_CLASSES", "3"], "ROI_HEADS.NUM_CLASSES (read"),
    (["MODEL.BACKBONE.NAME", "D2SwinTransformer", "MODEL.RESNETS.DEPTH", "101"], "MODEL.RESNETS.DEPTH (read by the"),
    (["MODEL.SWIN.EMBED_DIM", "64"], "MODEL.SWIN.EMBED_DIM (read by MODEL.BACKBONE.NAME D2SwinTransformer)"),
    (["MODEL.COMPILE", "True"], "MODEL.COMPILE (read by MODEL.META_ARCHITECTURE MaskFormer and MaskDINO)"),
])
def test_a_key_that_changes_nothing_is_said(opts, said, caplog):
    load_config(opts=opts)
    [warning] = warnings(caplog)
    assert said in warning


def test_several_are_said_in_one_line_and_default_values_not(caplog):
    load_config(opts=["INPUT.IMAGE_SIZE", "64", "SOLVER.NESTEROV", "True", "SOLVER.MOMENTUM", "0.9"])
    [warning] = warnings(caplog)
    assert "INPUT.IMAGE_SIZE" in warning and "SOLVER.NESTEROV" in warning and "MOMENTUM" not in warning


def test_keys_of_one_reason_stand_together(caplog):
    load_config(opts=["INPUT.IMAGE_SIZE", "64", "INPUT.MAX_SCALE", "1"])
    assert "INPUT.IMAGE_SIZE, INPUT.MAX_SCALE (read by the mappers with large-scale jitter" in warnings(caplog)[0]


def test_a_model_of_another_project_reads_all():
    cfg = load_config(opts=["MODEL.META_ARCHITECTURE", "SomebodysModel", "MODEL.BACKBONE.NAME", "SomebodysBackbone"])
    assert not keys_without_effect(cfg, ["MODEL.RPN.NMS_THRESH", "MODEL.MaskDINO.DN_NUM", "MODEL.RESNETS.DEPTH",
                                         "MODEL.SWIN.DEPTHS", "MODEL.FPN.NORM"])


def test_what_files_say(tmp_path, caplog):
    """A base may hold the settings of several models, and switches that are off; INPUT is said wherever it stands."""
    (tmp_path / "base.yaml").write_text("MODEL: {SWIN: {EMBED_DIM: 64}}\nTEST: {AUG: {FLIP: false}}\n")
    (tmp_path / "leaf.yaml").write_text("_BASE_: base.yaml\n")
    load_config(tmp_path / "leaf.yaml")
    assert not warnings(caplog)
    load_config(tmp_path / "base.yaml")
    assert "MODEL.SWIN.EMBED_DIM" in warnings(caplog)[0] and "TEST.AUG.FLIP" in warnings(caplog)[0]
    caplog.clear()
    (tmp_path / "base.yaml").write_text("INPUT: {IMAGE_SIZE: 64}\n")
    load_config(tmp_path / "leaf.yaml")
    assert "INPUT.IMAGE_SIZE" in warnings(caplog)[0]


def test_the_configuration_that_a_run_has_written_wishes_nothing(tmp_path, caplog):
    cfg = load_config(CONFIGS / "coco" / "instance" / "mask2former_swin_t.yaml")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert load_config(tmp_path / "config.yaml").MODEL.SWIN == cfg.MODEL.SWIN
    assert not warnings(caplog)
    load_config(tmp_path / "config.yaml", ["MODEL.RESNETS.DEPTH", "101"])
    assert "MODEL.RESNETS.DEPTH" in warnings(caplog)[0]


def test_the_configurations_of_the_project_set_nothing_for_nobody(caplog):
    for path in sorted(CONFIGS.rglob("*.yaml")):
        if path.parent.name != "_base_":
            load_config(path)
    assert not warnings(caplog)


def test_the_backbones_that_are_no_resnets():
    ours = {name for name, builder in BACKBONE_REGISTRY if builder.__module__ == "freqdino.registration.backbones"}
    assert {name for name in ours if "resnet" not in name} == set(OTHER_BACKBONES)


# What is really read: a configuration that writes down the keys that are asked for.
READ = set()


class Watched(CfgNode):
    prefix = ""

    def __getattr__(self, name):
        value = super().__getattr__(name)
        self.watch(name, value)
        return value

    def __getitem__(self, name):
        value = super().__getitem__(name)
        self.watch(name, value)
        return value

    def watch(self, name, value):
        prefix = self.__dict__["prefix"]
        if not isinstance(value, CfgNode):
            READ.add(prefix + name)


def watched(cfg, prefix=""):
    node = Watched({})
    for name, value in cfg.items():
        node[name] = watched(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else value
    node.__dict__["prefix"] = prefix
    return node


def reads_of(cfg, use):
    READ.clear()
    use(watched(cfg))
    return set(READ)


@pytest.mark.parametrize("name", MAPPERS)
def test_the_input_keys_that_a_mapper_reads(name):
    cfg = load_config(opts=["INPUT.DATASET_MAPPER_NAME", name, "INPUT.CROP.ENABLED", "True"])
    recipe = MAPPERS[name][1]
    read = reads_of(cfg, lambda cfg: (extra_augmentations(cfg, label_padding=0), recipe(cfg, label_padding=0)))
    keys = {f"INPUT.{key}" for key in flat_keys(cfg.INPUT)} - {
        "INPUT.DATASET_MAPPER_NAME", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "INPUT.RANDOM_FLIP", "INPUT.FORMAT"}
    assert read - {"INPUT.RANDOM_FLIP", "INPUT.FORMAT"} == keys - keys_without_effect(cfg, keys).keys()


# Read before it is known whether it is needed.
READ_IN_PASSING = {"MODEL.VIT.DEPTH", "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES"}
# By the checkpointer, by checks alone where they have their default, by the checks before a run.
READ_ELSEWHERE = {"MODEL.WEIGHTS", "MODEL.WEIGHTS_PARTIAL", "MODEL.FPN.UPSAMPLER", "MODEL.RESNETS.RES4_DILATION",
                  "MODEL.KEYPOINT_ON", "MODEL.LOAD_PROPOSALS"}


@pytest.mark.parametrize("name", ["Mask2Former", "SemanticSegmentor", *DETECTORS])
def test_the_model_keys_that_are_read_are_said_to_be(name):
    """Of what building a model and its optimiser reads nothing counts as without effect, and of the model's keys that
    count as read, all are."""
    if name == "Mask2Former":
        cfg = small_config(RESNET18)
    elif name == "SemanticSegmentor":
        cfg = load_config(opts=[*itertools.chain(*{**SMALL_MODEL, "MODEL.SEM_SEG_HEAD.NAME": "UPerNetHead"}.items())])
    else:
        cfg = load_config(opts=[*itertools.chain(*{**BACKBONE, **DETECTORS[name]}.items())])

    def use(cfg):
        model = build_model(cfg)
        build_lr_scheduler(cfg, build_optimizer(cfg, model))
    read = reads_of(cfg, use)
    assert {"MODEL.DEVICE", "SOLVER.BASE_LR", "MODEL.PIXEL_STD"} <= read
    assert keys_without_effect(cfg, read).keys() <= READ_IN_PASSING
    models = {key for key in flat_keys(cfg) if key.startswith("MODEL.")}
    if cfg.MODEL.BACKBONE.NAME != "PatchBackbone":      # of a backbone of others everything may be read
        assert models - keys_without_effect(cfg, models).keys() - read <= READ_ELSEWHERE


# By the loader and `default_setup`, when data sets are read, and by models with other results.
READ_ELSEWHERE_IN_TRAINING = ("VERSION", "OUTPUT_DIR", "SEED", "CUDNN_BENCHMARK", "DATALOADER.SKIP_UNREADABLE",
                              "DATASETS.SPLIT", "TEST.GROUP_BY_SIZE", "TEST.SLIDING_WINDOW")


def test_the_keys_of_training_that_are_read_are_said_to_be(squares, tmp_path):
    """A run of one iteration with an evaluation reads what the rules say of the sections beside MODEL, and no more."""
    cfg = load_config(opts=options(squares, tmp_path, "SOLVER.MAX_ITER", "1"))

    def use(cfg):
        register_custom_datasets(cfg.DATASETS.TRAIN)
        Trainer(cfg).train()
    read = {key for key in reads_of(cfg, use) if not key.startswith("MODEL.")}
    claimed = {key for key in flat_keys(cfg) if not key.startswith("MODEL.")}
    unread = claimed - keys_without_effect(cfg, claimed).keys() - read
    assert all(key.startswith(READ_ELSEWHERE_IN_TRAINING) for key in unread), unread
    assert not keys_without_effect(cfg, read)


def test_ignored_keys_of_the_published_code_have_their_reason():
    for key, why in IGNORED_KEYS.items():
        assert rules_of(key)[0].where == f"as in the published code: {why}"

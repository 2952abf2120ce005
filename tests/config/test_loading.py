"""The configuration loader: what it merges in which order, and what it says about keys, types, tags and devices."""
from pathlib import Path

import pytest
import torch

from freqdino.config.keys import default_config
from freqdino.config.loading import load_config, merge_config_file
from freqdino.errors import ConfigError, UnknownKeyError
from helpers.paths import CONFIGS


def write(folder, name, text):
    path = folder / name
    path.write_text(text)
    return str(path)


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_defaults_are_the_published_ones():
    cfg = default_config()
    assert cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES == 100 and cfg.MODEL.MASK_FORMER.CLASS_WEIGHT == 1.0
    assert cfg.MODEL.MaskDINO.DN == "seg" and cfg.MODEL.MaskDINO.CLASS_WEIGHT == 4.0
    assert cfg.MODEL.SWIN.EMBED_DIM == 96 and cfg.SOLVER.OPTIMIZER == "ADAMW"
    assert cfg.SOLVER.POLY_LR_POWER == 0.9                                  # DeepLab's


def test_options_follow_the_file(tmp_path):
    path = write(tmp_path, "a.yaml", "SOLVER: {BASE_LR: 0.5, MAX_ITER: 7}")
    cfg = load_config(path, ["SOLVER.BASE_LR", "0.25", "DATASETS.TRAIN", "('x', 'y')"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.DATASETS.TRAIN) == (0.25, 7, ("x", "y"))


def test_unknown_key_names_file_key_and_the_nearest(tmp_path):
    path = write(tmp_path, "a.yaml", "MODEL: {MASK_FORMER: {NUM_QUERIES: 3, NUM_OBJECT_QUERYS: 3}}")
    with pytest.raises(UnknownKeyError, match=r"a.yaml: unknown configuration key MODEL.MASK_FORMER.NUM_QUERIES"):
        load_config(path)
    message = r"command line: unknown .* SOLVER.BASE_LRR. Nearest: .*SOLVER.BASE_LR"
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(opts=["SOLVER.BASE_LRR", "1"])
    assert isinstance(caught.value, KeyError) and not str(caught.value).startswith("'")


def test_a_key_of_another_section_is_found_by_its_last_part():
    with pytest.raises(UnknownKeyError, match="Nearest: .*MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD"):
        load_config(opts=["TEST.OVERLAP_THRESHOLD", "1"])


@pytest.mark.parametrize("text, message", [
    ("SOLVER: {MAX_ITER: many}", "a.yaml: .*MAX_ITER"),
    ("SOLVER: {MAX_ITER: {a: 1}}", r"a.yaml: SOLVER.MAX_ITER must be a value such as 40000, got \{'a': 1\}"),
    ("SOLVER: 3", "a.yaml: SOLVER must be a section of keys, got 3"),
    ("- 1", "a.yaml: the top level is a list, not a mapping"),
    ("SOLVER: {BASE_LR: 1", "a.yaml: not valid YAML"),
    ("VERSION: 1", "a.yaml: VERSION 1; only version 2"),
])
def test_wrong_type_or_broken_file(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, "a.yaml", text))


def test_options_of_wrong_type_or_number():
    with pytest.raises(ConfigError, match="command line: .*MAX_ITER"):
        load_config(opts=["SOLVER.MAX_ITER", "many"])
    with pytest.raises(ConfigError, match="pairs of key and value, got 1 words"):
        load_config(opts=["SOLVER.MAX_ITER"])


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['touch ran']", "!!python/name:os.system",
                                 "!Thing 3"])
def test_yaml_that_would_run_code_is_refused(tmp_path, tag, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"a.yaml: .*\(line 2\).*tags that construct objects or run code are refused"):
        load_config(write(tmp_path, "a.yaml", f"SOLVER:\n  BASE_LR: {tag}"))
    assert not (tmp_path / "ran").exists()


def test_numbers_are_what_they_look_like(tmp_path):
    """YAML 1.1 has octal numbers and such to the base of 60."""
    file = tmp_path / "a.yaml"
    file.write_text("VERSION: '2'\nSEED: 010\nSOLVER: {MAX_ITER: 0100}\n"
                    "INPUT: {MIN_SIZE_TRAIN: 064}\nOUTPUT_DIR: 12:30\n")
    cfg = load_config(file)
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.INPUT.MIN_SIZE_TRAIN, cfg.OUTPUT_DIR) == (10, 100, (64,), "12:30")
    file.write_text("SOLVER: {MAX_ITER: 12:30}\n")
    with pytest.raises(ConfigError, match="a.yaml: SOLVER.MAX_ITER is '12:30'; expected a whole number"):
        load_config(file)


def test_duplicate_keys_warn_once_and_the_last_wins(tmp_path, caplog):
    path = write(tmp_path, "a.yaml", "SOLVER:\n  BASE_LR: 0.5\n  BASE_LR: 0.25\n  MAX_ITER: 1\n  MAX_ITER: 2\n")
    cfg = load_config(path, ["MODEL.DEVICE", "cpu"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (0.25, 2)
    [warning] = warnings(caplog)
    assert "a.yaml: duplicate keys, the last value wins: BASE_LR (line 3), MAX_ITER (line 5)" in warning


def test_bases_in_order_and_the_file_itself_last(tmp_path):
    write(tmp_path, "root.yaml", "SOLVER: {BASE_LR: 0.1, MAX_ITER: 1, GAMMA: 0.1}")
    write(tmp_path, "first.yaml", "_BASE_: root.yaml\nSOLVER: {MAX_ITER: 2, WARMUP_ITERS: 2}")
    write(tmp_path, "second.yaml", "SOLVER: {MAX_ITER: 3, WEIGHT_DECAY: 0.3}")
    (tmp_path / "leaf").mkdir()
    path = write(tmp_path / "leaf", "leaf.yaml", "_BASE_: [../first.yaml, ../second.yaml]\nSOLVER: {WEIGHT_DECAY: 0.4}")
    solver = load_config(path).SOLVER
    assert (solver.BASE_LR, solver.MAX_ITER, solver.WARMUP_ITERS, solver.WEIGHT_DECAY) == (0.1, 3, 2, 0.4)


def test_errors_name_the_base_file_they_are_in(tmp_path):
    write(tmp_path, "base.yaml", "SOLVER: {NONSENSE: 1}")
    with pytest.raises(UnknownKeyError, match="base.yaml: unknown configuration key SOLVER.NONSENSE"):
        load_config(write(tmp_path, "leaf.yaml", "_BASE_: base.yaml"))
    with pytest.raises(ConfigError, match="gone.yaml: no such configuration file"):
        load_config(write(tmp_path, "other.yaml", "_BASE_: [gone.yaml]"))


def test_bases_in_a_circle(tmp_path):
    write(tmp_path, "a.yaml", "_BASE_: b.yaml")
    with pytest.raises(ConfigError, match="_BASE_ leads back to the file itself"):
        load_config(write(tmp_path, "b.yaml", "_BASE_: a.yaml"))


def test_an_empty_file_changes_nothing(tmp_path):
    cfg = default_config()
    before = cfg.dump()
    merge_config_file(cfg, write(tmp_path, "empty.yaml", "# nothing\n"))
    assert cfg.dump() == before


def test_ignored_keys_are_said_once(caplog):
    load_config(opts=["MODEL.DEVICE", "cpu", "MODEL.MaskDINO.PRED_CONV", "True", "MODEL.MASK_FORMER.ENC_LAYERS", "2"])
    [warning] = warnings(caplog)
    assert warning.startswith("ignored") and "MaskDINO.PRED_CONV" in warning and "MASK_FORMER.ENC_LAYERS" in warning


def test_without_cuda_the_device_is_the_cpu_and_mixed_precision_is_off(caplog, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg = load_config(opts=["SOLVER.AMP.ENABLED", "True"])
    assert cfg.MODEL.DEVICE == "cpu" and not cfg.SOLVER.AMP.ENABLED
    device, precision = warnings(caplog)
    assert "CUDA is not available: running on the CPU" in device
    assert "SOLVER.AMP.ENABLED is switched off" in precision


def test_with_cuda_both_stay_as_they_are(caplog, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = load_config(opts=["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "bfloat16"])
    assert cfg.MODEL.DEVICE == "cuda" and cfg.SOLVER.AMP.ENABLED and not warnings(caplog)


def test_unknown_precision():
    with pytest.raises(ConfigError, match="SOLVER.AMP.DTYPE is 'float8'; float16 or bfloat16"):
        load_config(opts=["SOLVER.AMP.DTYPE", "float8"])


@pytest.mark.parametrize("name", ["coco/instance/mask2former_r50.yaml", "configs/coco/instance/mask2former_r50.yaml"])
def test_a_configuration_of_the_project_is_found_from_any_folder(tmp_path, monkeypatch, caplog, name):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO", "freqdino"):
        assert load_config(Path(name)).MODEL.META_ARCHITECTURE == "MaskFormer"
    assert f"{name} is not here: reading {CONFIGS / 'coco/instance/mask2former_r50.yaml'}" in caplog.text


def test_a_file_at_hand_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coco" / "instance").mkdir(parents=True)
    (tmp_path / "coco" / "instance" / "mask2former_r50.yaml").write_text("SEED: 7\n")
    assert load_config("coco/instance/mask2former_r50.yaml").SEED == 7
    with pytest.raises(ConfigError, match="coco/instance/mask2former_r5.yaml: no such configuration file"):
        load_config("coco/instance/mask2former_r5.yaml")


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    cfg = load_config(opts=["OUTPUT_DIR", "~/runs/a", "MODEL.WEIGHTS", "~/model.pth"])
    assert (cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS) == ("/home/ada/runs/a", "/home/ada/model.pth")
    assert load_config(opts=["MODEL.WEIGHTS", "a~b.pth"]).MODEL.WEIGHTS == "a~b.pth"


@pytest.mark.parametrize("device, message", [("cuda:3", "this machine has 2 CUDA devices"), ("xpu", "cannot use here")])
def test_a_device_that_is_not_there(device, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=f"MODEL.DEVICE is {device}.* {message}"):
        load_config(opts=["MODEL.DEVICE", device])
    assert load_config(opts=["MODEL.DEVICE", "cuda:1"]).MODEL.DEVICE == "cuda:1"


@pytest.mark.parametrize("name, expected", [("D2SwinTransformer", 0), ("build_timm_backbone", 0),
                                            ("build_resnet_backbone", 2), ("SomebodysBackbone", 2)])
def test_stages_are_frozen_by_default_in_resnets_alone(tmp_path, name, expected):
    """2 is Detectron2's default, for its ResNets; the other backbones freeze what somebody asks for."""
    backbone = ["MODEL.BACKBONE.NAME", name]
    assert load_config(opts=backbone).MODEL.BACKBONE.FREEZE_AT == expected
    assert load_config(opts=[*backbone, "MODEL.BACKBONE.FREEZE_AT", "2"]).MODEL.BACKBONE.FREEZE_AT == 2
    path = write(tmp_path, "a.yaml", "MODEL: {BACKBONE: {FREEZE_AT: 2}}")
    assert load_config(path, backbone).MODEL.BACKBONE.FREEZE_AT == 2

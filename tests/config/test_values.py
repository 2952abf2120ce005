"""Values as people write them, in YAML and on the command line: understood alike, or refused with what was expected."""
import pytest
import yaml
from detectron2.config import CfgNode

from freqdino.config import load_config, lookup
from freqdino.config.keys import default_config
from freqdino.config.loading import read_yaml
from freqdino.config.values import converted
from freqdino.errors import ConfigError
from helpers.paths import CONFIGS

# Key, as written (the same word in YAML and on the command line), the value with its type.
UNDERSTOOD = [
    ("SOLVER.BASE_LR", "10", 10.0),
    ("SOLVER.BASE_LR", "1e-4", 0.0001),                 # text for YAML 1.1, which wants 1.0e-4
    ("SOLVER.WEIGHT_DECAY", "0", 0.0),
    ("SOLVER.MAX_ITER", "1e3", 1000),
    ("SOLVER.MAX_ITER", "1000.0", 1000),
    ("SOLVER.MAX_ITER", "'1000'", 1000),
    ("SOLVER.AMP.ENABLED", "false", False),
    ("MODEL_EMA.ENABLED", "true", True),
    ("MODEL_EMA.ENABLED", "yes", True),
    ("MODEL_EMA.ENABLED", "on", True),
    ("MODEL_EMA.ENABLED", "1", True),
    ("MODEL_EMA.ENABLED", "'True'", True),
    ("DATASETS.TRAIN", "a.json@dir", ("a.json@dir",)),
    ("DATASETS.TRAIN", "a, b", ("a", "b")),
    ("DATASETS.TRAIN", "(a,)", ("a",)),
    ("DATASETS.TRAIN", "('a', \"b\")", ("a", "b")),
    ("DATASETS.TRAIN", "('a,b.json@dir',)", ("a,b.json@dir",)),
    ("DATASETS.TRAIN", "[a, b]", ("a", "b")),
    ("DATASETS.TEST", "()", ()),
    ("INPUT.MIN_SIZE_TRAIN", "128", (128,)),
    ("INPUT.MIN_SIZE_TRAIN", "128.0", (128,)),
    ("INPUT.MIN_SIZE_TRAIN", "[128, 256]", (128, 256)),
    ("INPUT.MIN_SIZE_TRAIN", "128, 256", (128, 256)),
    ("INPUT.CROP.SIZE", "(512, 512)", [512, 512]),      # as published: whole numbers stay whole
    ("SOLVER.STEPS", "20", (20,)),
    ("SOLVER.WEIGHT_DECAY_BIAS", "0", 0.0),
    ("MODEL.SWIN.QK_SCALE", "1", 1.0),
    ("MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64.5]]", [[32], [64.5]]),
    ("TEST.EXPECTED_RESULTS", "[['segm', 'AP', 38.5, 0.2]]", [["segm", "AP", 38.5, 0.2]]),
    ("OUTPUT_DIR", "007", "007"),                       # seven in octal for YAML 1.1
    ("OUTPUT_DIR", "2024-01-01", "2024-01-01"),         # a date for YAML
    ("OUTPUT_DIR", "1.10", "1.10"),
    ("MODEL.MaskDINO.DN", "no", "no"),                  # False for YAML 1.1
    ("MODEL.SEM_SEG_HEAD.NORM", "''", ""),
    ("MODEL.SEM_SEG_HEAD.FREQFUSION.COMPRESSED_CHANNELS", "64", 64),
]


def as_yaml(key, written):
    for part in reversed(key.split(".")):
        written = f"{{{part}: {written}}}" if part != key.split(".")[0] else f"{part}: {written}"
    return written + "\n"


def loaded(tmp_path, key, written, where):
    if where == "command line":
        return lookup(load_config(opts=[key, written]), key)
    if where == "KEY=VALUE":
        return lookup(load_config(opts=[f"{key}={written}"]), key)
    (tmp_path / "a.yaml").write_text(as_yaml(key, written))
    return lookup(load_config(tmp_path / "a.yaml"), key)


def same(a, b):
    return type(a) is type(b) and (a == b if not isinstance(a, (list, tuple)) else
                                   len(a) == len(b) and all(map(same, a, b)))


@pytest.mark.parametrize("where", ["yaml", "command line", "KEY=VALUE"])
@pytest.mark.parametrize("key, written, value", UNDERSTOOD)
def test_understood(tmp_path, key, written, value, where):
    if where == "yaml" and (written[0] in "(\"" or ", " in written and written[0] not in "['" or "'True" in written):
        written = '"' + written.replace('"', "'") + '"'     # commas and quotes in a flow mapping want quotes
    found = loaded(tmp_path, key, written, where)
    assert same(found, value), f"{found!r}, not {value!r}"


@pytest.mark.parametrize("key, written", [
    ("SOLVER.WEIGHT_DECAY_BIAS", "null"), ("MODEL.SWIN.QK_SCALE", "null"), ("SOLVER.WEIGHT_DECAY_BIAS", "None")])
def test_none_where_none_is_a_value(tmp_path, key, written):
    assert loaded(tmp_path, key, written, "yaml") is None
    assert loaded(tmp_path, key, written, "command line") is None


@pytest.mark.parametrize("key, value", [("MODEL.WEIGHTS", ""), ("DATASETS.TEST", ()), ("MODEL.FPN.NORM", "")])
def test_none_is_an_empty_text_or_list(tmp_path, key, value):
    assert loaded(tmp_path, key, "null", "yaml") == value
    assert loaded(tmp_path, key, "~", "yaml") == value
    assert loaded(tmp_path, key, "", "yaml") == value
    assert loaded(tmp_path, key, "None", "command line") == value
    assert loaded(tmp_path, key, "", "command line") == value


@pytest.mark.parametrize("key, written, message", [
    ("SOLVER.MAX_ITER", "many", "SOLVER.MAX_ITER is 'many'; expected a whole number, such as 40000"),
    ("SOLVER.MAX_ITER", "0.5", "SOLVER.MAX_ITER is '0.5'; expected a whole number, such as 40000"),
    ("SOLVER.MAX_ITER", "true", "SOLVER.MAX_ITER is 'true'; expected a whole number"),
    ("SOLVER.MAX_ITER", "'1,000'", "SOLVER.MAX_ITER is .*1,000.*; expected a whole number"),
    ("SOLVER.MAX_ITER", "null", "SOLVER.MAX_ITER is 'null'; expected a whole number"),
    ("SOLVER.MAX_ITER", "1e999", "SOLVER.MAX_ITER is '1e999'; expected a whole number"),
    ("SOLVER.BASE_LR", "1e-4x", "SOLVER.BASE_LR is '1e-4x'; expected a number, such as 0.001"),
    ("SOLVER.BASE_LR", "1" + 400 * "0", "SOLVER.BASE_LR is '10+'; expected a number"),
    ("SOLVER.BASE_LR", "SOLVER.MAX_ITER", "SOLVER.BASE_LR is 'SOLVER.MAX_ITER'; expected a number"),
    ("SOLVER.AMP.ENABLED", "2", "SOLVER.AMP.ENABLED is '2'; expected True or False"),
    ("SOLVER.AMP.ENABLED", "maybe", "SOLVER.AMP.ENABLED is 'maybe'; expected True or False, such as False"),
    ("INPUT.MIN_SIZE_TRAIN", "[0.5]", "expected a list of whole numbers, such as (800,)"),
    ("INPUT.MIN_SIZE_TRAIN", "big", "INPUT.MIN_SIZE_TRAIN is 'big'; expected a list of whole numbers"),
    ("DATASETS.TRAIN", "[1]", "expected a list of texts, such as ('annotations.json@images',)"),
    ("OUTPUT_DIR", "[a]", "expected text, such as './output'"),
])
def test_refused_with_what_was_expected(tmp_path, key, written, message):
    message = message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ConfigError, match=f"a.yaml: .*{message}"):
        loaded(tmp_path, key, written, "yaml")
    if written[0] != "[" or key != "OUTPUT_DIR":            # a folder may be called so on a command line
        with pytest.raises(ConfigError, match=f"command line: .*{message}"):
            loaded(tmp_path, key, written, "command line")


def test_values_from_python_keep_their_type():
    cfg = load_config(opts=["SOLVER.AMP.ENABLED", False, "SOLVER.BASE_LR", 1, "DATASETS.TRAIN", ["a"]])
    assert (cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.BASE_LR, cfg.DATASETS.TRAIN) == (False, 1.0, ("a",))
    assert load_config(opts=["SOLVER.WEIGHT_DECAY_BIAS", None]).SOLVER.WEIGHT_DECAY_BIAS is None


def test_a_key_of_another_project_has_its_own_kind():
    assert converted("OTHER.LAYERS", "3", 1) == 3
    assert converted("OTHER.ANYTHING", "[1, 'a']", None) == [1, "a"]


def test_a_section_is_no_value_and_a_dash_no_key():
    with pytest.raises(ConfigError, match="command line: SOLVER must be a section of keys, got '3'"):
        load_config(opts=["SOLVER", "3"])
    with pytest.raises(ConfigError, match="unknown configuration key --num-gpus. Options of the command stand before"):
        load_config(opts=["SEED", "1", "--num-gpus", "2"])
    with pytest.raises(ConfigError, match="unknown configuration key solver.base_lr. Nearest: SOLVER.BASE_LR"):
        load_config(opts=["solver.base_lr=1"])


def merged_by_yacs(path):
    """The file as Detectron2's own loader would merge it, base by base: what it takes must stay as it takes it."""
    cfg = default_config()

    def merge(file):
        values = yaml.safe_load(file.read_text())
        bases = values.pop("_BASE_", [])
        for base in [bases] if isinstance(bases, str) else bases:
            merge((file.parent / base).resolve())
        cfg.merge_from_other_cfg(CfgNode(values))
    merge(path)
    return cfg


@pytest.mark.parametrize("folder", ["coco", "ade20k", "cityscapes", "quickstart"])
def test_every_configuration_loads_as_detectron2_would_load_it(folder):
    leaves = sorted((CONFIGS / folder).rglob("*.yaml"))
    assert leaves
    for path in leaves:
        ours, theirs = load_config(path), merged_by_yacs(path)
        theirs.MODEL.DEVICE, theirs.SOLVER.AMP.ENABLED = ours.MODEL.DEVICE, ours.SOLVER.AMP.ENABLED
        assert repr(ours) == repr(theirs), path             # values with their types


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_of_windows_editors(tmp_path, encoding):
    (tmp_path / "a.yaml").write_bytes("OUTPUT_DIR: größe\n".encode(encoding))
    assert read_yaml(str(tmp_path / "a.yaml")) == {"OUTPUT_DIR": "größe"}


@pytest.mark.parametrize("content, message", [
    (b"OUTPUT_DIR: \xff\xfe\xff", "a.yaml: not valid YAML"),
    (b"OUTPUT_DIR: a\x00b", "a.yaml: not valid YAML"),
    (b"_BASE_: 3", "a.yaml: _BASE_ is 3; expected a file or a list of files"),
    (b"{{ key }}: 3", r"a.yaml: found unhashable key \(line 1\)"),
])
def test_broken_files(tmp_path, content, message):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "a.yaml")


def test_dotted_keys_in_a_file(tmp_path):
    """As they stand on a command line, alone or below a section."""
    (tmp_path / "a.yaml").write_text("SOLVER.BASE_LR: 10\n"
                                     "MODEL:\n  MaskDINO.DN: no\n  BACKBONE: {FDCONV.ENABLED: yes}\n")
    cfg = load_config(tmp_path / "a.yaml", ["MODEL.BACKBONE.NAME", "D2SwinTransformer"])
    assert cfg.SOLVER.BASE_LR == 10.0 and cfg.MODEL.MaskDINO.DN == "no" and cfg.MODEL.BACKBONE.FDCONV.ENABLED is True
    (tmp_path / "b.yaml").write_text("SOLVER.BASE_LRR: 10\n")
    with pytest.raises(ConfigError, match="b.yaml: unknown configuration key SOLVER.BASE_LRR. Nearest: SOLVER.BASE_LR"):
        load_config(tmp_path / "b.yaml")


def test_the_home_folder_in_the_output_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_config(opts=["OUTPUT_DIR=~/runs"]).OUTPUT_DIR == f"{tmp_path}/runs"

"""configs/: how the files compose, and that every leaf resolves to the published settings."""
import json

import pytest

from freqdino.config import default_config, load_config, read_yaml
from helpers.config_leaves import (
    DETECTORS,
    LEAVES,
    OWN,
    RECIPES,
    SEMANTIC_SEGMENTORS,
    changes,
    flatten,
    resolved,
)
from helpers.paths import CONFIGS, FACTS

BASES = sorted((CONFIGS / "_base_").glob("*.yaml"))


def bases_of(path):
    """The files that ``_BASE_`` of ``path`` names."""
    named = read_yaml(str(path)).get("_BASE_", [])
    return [(path.parent / base).resolve() for base in ([named] if isinstance(named, str) else named)]


def merge_order(path):
    """``path`` and all its bases in the order of merging, independently of the loader."""
    return [file for base in bases_of(path) for file in merge_order(base)] + [path]


def own_values(path):
    values = read_yaml(str(path))
    values.pop("_BASE_", None)
    return flatten(values)


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaf_is_short_and_loads_for_training_with_what_its_name_says(leaf):
    assert len((CONFIGS / leaf).read_text().splitlines()) <= 15
    cfg = load_config(str(CONFIGS / leaf), ["SOLVER.IMS_PER_BATCH", "2"])
    assert cfg.SOLVER.IMS_PER_BATCH == 2
    assert cfg.MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED == ("_freqfusion" in leaf and leaf not in DETECTORS)
    assert cfg.MODEL.SEM_SEG_HEAD.FDAM.ENABLED == ("_encfdam" in leaf)
    assert cfg.MODEL.BACKBONE.FDAM.ENABLED == ("_fdam" in leaf)
    assert (cfg.MODEL.BACKBONE.FDCONV.ENABLED or "fdconv" in cfg.MODEL.BACKBONE.NAME) == ("_fdconv" in leaf)


def test_every_base_is_used():
    used = {file for path in CONFIGS.rglob("*.yaml") if path not in BASES for file in merge_order(path)}
    assert [base.name for base in BASES if base.resolve() not in used] == []


@pytest.mark.parametrize("leaf", LEAVES)
def test_no_base_is_merged_twice(leaf):
    """A base merged again by a later file would undo what stands between the two."""
    order = merge_order((CONFIGS / leaf).resolve())
    assert len(set(order)) == len(order)


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_value_of_every_layer_changes_something(leaf):
    values = flatten(default_config())
    for file in merge_order((CONFIGS / leaf).resolve()):
        said = own_values(file)
        repeated = [key for key, value in said.items() if values[key] == value]
        assert repeated == [], f"{file.name} repeats what holds already"
        values.update(said)


def test_no_two_files_say_the_same():
    said = {}
    for path in [*BASES, *(CONFIGS / leaf for leaf in LEAVES)]:
        content = json.dumps([[str(base) for base in bases_of(path)], own_values(path)])
        assert content not in said, f"{path.name} repeats {said.get(content)}"
        said[content] = path.name


def test_every_leaf_has_its_recipe():
    assert sorted([*RECIPES, *DETECTORS, *SEMANTIC_SEGMENTORS, *OWN]) == LEAVES


@pytest.mark.parametrize("leaf", RECIPES)
def test_leaf_equals_the_published_settings(leaf):
    """No exception but the changes listed: keys that nothing reads and weights' names are as published too."""
    family, entry = RECIPES[leaf]
    published = json.loads((FACTS / "published_configs" / f"{family}.json").read_text())
    expected = {**published[f"{entry}.yaml"], **changes(leaf)}
    values, default = resolved(leaf), flatten(default_config())
    assert {key: values[key] for key in expected} == expected
    changed = {key: value for key, value in values.items() if value != default[key]}
    assert {key: value for key, value in changed.items() if key not in expected} == {}

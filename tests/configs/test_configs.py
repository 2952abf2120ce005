"""configs/: how the files compose, and that every leaf resolves to the published settings."""
import json
import math
from fractions import Fraction

import pytest

from freqdino.config import load_config, read_yaml
from helpers.config_leaves import (
    DETECTORS,
    DIFFERENCES,
    LEAVES,
    MODULES,
    PUBLISHED,
    SEMANTIC_SEGMENTORS,
    defaults,
    flatten,
    resolved,
)
from helpers.paths import CONFIGS, FACTS

BASES = sorted((CONFIGS / "_base_").glob("*.yaml"))
CLASSES = {
    "coco/instance": 80, "coco/panoptic": 80 + 53,
    "ade20k/semantic": 150, "ade20k/instance": 100, "ade20k/panoptic": 100 + 50,
    "cityscapes/semantic": 19, "cityscapes/instance": 8, "cityscapes/panoptic": 8 + 11,
}
COCO_IMAGES, BATCH = 118_000, 16


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
def test_leaf_loads_for_training(leaf):
    cfg = load_config(str(CONFIGS / leaf), ["SOLVER.IMS_PER_BATCH", "2"])
    assert cfg.SOLVER.IMS_PER_BATCH == 2


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaf_is_short_and_opens_with_its_command(leaf):
    lines = (CONFIGS / leaf).read_text().splitlines()
    assert lines[0] == f"# python train_net.py --config-file configs/{leaf} --num-gpus 8"
    assert len(lines) <= 15
    assert all(len(line) <= 120 for line in lines)


@pytest.mark.parametrize("base", BASES, ids=lambda path: path.name)
def test_base_says_what_it_is(base):
    assert base.name.split("_")[0] in ("data", "model", "schedule")
    assert base.read_text().startswith("# ")


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
    values = flatten(defaults())
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


@pytest.mark.parametrize("leaf", PUBLISHED)
def test_facts_worked_out_by_hand(leaf):
    values = resolved(leaf)
    dataset, task, name = leaf.split("/")
    mask_dino = name.startswith("maskdino")
    family = "MODEL.MaskDINO" if mask_dino else "MODEL.MASK_FORMER"
    guided = dataset == "cityscapes" and "swin" in name and "freqfusion" in name
    assert values["MODEL.META_ARCHITECTURE"] == (
        "MaskDINO" if mask_dino else "MaskFormerFreqAware" if guided else "MaskFormer")
    assert values["MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED"] == ("freqfusion" in name)
    assert values["MODEL.BACKBONE.FDCONV.ENABLED"] == ("fdconv" in name)
    # A transformer has FDAM in its blocks, DeiT by the name of its builder; a ResNet's model in its deformable encoder.
    assert values["MODEL.SEM_SEG_HEAD.FDAM.ENABLED"] == ("fdam" in name and "r50" in name)
    assert values["MODEL.BACKBONE.FDAM.ENABLED"] == ("fdam" in name and ("swin" in name or "mit" in name))
    assert (values["MODEL.BACKBONE.NAME"] == "build_fdam_vit_backbone") == ("fdam" in name and "deit" in name)
    assert values["MODEL.SEM_SEG_HEAD.NUM_CLASSES"] == CLASSES[f"{dataset}/{task}"]
    assert all(name.startswith(dataset) for key in ("TRAIN", "TEST") for name in values[f"DATASETS.{key}"])
    assert values[f"{family}.TEST.INSTANCE_ON"] == (task != "semantic")
    assert values["SOLVER.IMS_PER_BATCH"] == BATCH
    assert (values["SOLVER.BASE_LR"], values["SOLVER.CLIP_GRADIENTS.CLIP_VALUE"]) == (1e-4, 0.01)
    swin_l_on_coco = dataset == "coco" and "swin_l" in name
    if mask_dino:
        queries = 100 if task == "semantic" else 300
    else:
        queries = 200 if swin_l_on_coco else 100
    assert values[f"{family}.NUM_OBJECT_QUERIES"] == queries
    if dataset != "coco":
        assert values["SOLVER.MAX_ITER"] == {"ade20k": 160_000, "cityscapes": 90_000}[dataset]
        return
    if swin_l_on_coco and "freqfusion" in name:      # published as 100 epochs: batches of 12
        epochs = Fraction(100 * BATCH, 12)
    else:
        epochs = 12 if "12ep" in name else 100 if swin_l_on_coco and not mask_dino else 50
    iterations = math.floor(Fraction(epochs * COCO_IMAGES, BATCH))
    drops = [Fraction(11, 12)] if epochs == 12 else [Fraction(8, 9), Fraction(26, 27)]
    assert values["SOLVER.MAX_ITER"] == iterations
    assert len(values["SOLVER.STEPS"]) == len(drops)
    assert all(abs(step - drop * iterations) <= 2 for step, drop in zip(values["SOLVER.STEPS"], drops))


def test_table_of_published_entries_is_complete():
    assert sorted([*PUBLISHED, *DETECTORS, *SEMANTIC_SEGMENTORS]) == LEAVES


@pytest.mark.parametrize("leaf", PUBLISHED)
def test_leaf_equals_the_published_settings(leaf):
    """No exception but the differences listed: keys that nothing reads and weights' names are as published too."""
    family, entry = PUBLISHED[leaf]
    published = json.loads((FACTS / "published_configs" / f"{family}.json").read_text())
    expected = {**published[entry], **DIFFERENCES.get(leaf, {})}
    values, default = resolved(leaf), flatten(defaults())
    assert {key: values[key] for key in expected} == expected
    changed = {key: value for key, value in values.items() if value != default[key]}
    assert {key: value for key, value in changed.items() if key not in expected} == {}


def test_readme_lists_every_leaf_with_its_published_result():
    readme = (CONFIGS / "README.md").read_text()
    rows = {line.split("](")[1].split(")")[0]: line for line in readme.splitlines() if line.startswith("| [")}
    assert sorted(rows) == LEAVES
    for leaf, row in rows.items():
        said = (CONFIGS / leaf).read_text().partition("# Published: ")[2].partition("\n")[0]
        for remark in (", FDAM", ", Mask2Former", ", the baseline", "; not yet reproduced"):
            said = said.split(remark)[0]
        assert said in row and (said or "| – |" in row), f"{leaf}: {said!r} is not in {row}"


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaves_with_frequency_modules_or_a_result_say_that_nobody_has_reproduced_them(leaf):
    text = (CONFIGS / leaf).read_text()
    has_result = "# Published: " in text or "# No published result" in text
    assert ("not yet reproduced" in text) == (has_result or any(f"_{module}" in leaf for module in MODULES))

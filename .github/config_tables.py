"""Write what follows from the configurations: the tables of configs/README.md and configs/KEYS.md, first lines.

    python .github/config_tables.py             # after a leaf or a key was added or changed
    python .github/config_tables.py --check     # names what is not as it would be written; exit status 1

A leaf's row has its name, what its line "# Published: RESULT; ..." says, and from configs/leaves.json, in the order of
that file, what the name does not tell: its model's parameters, the footnote of the result, what a module costs. The
published recipe that stands there is what the tests hold a leaf against. The parameters of upsamplers are counted here.
"""
import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from freqdino.commands.command_line import exit_status, make_parser

MODELS = {"mask2former": "Mask2Former", "maskdino": "Mask DINO", "faster_rcnn": "Faster R-CNN",
          "mask_rcnn": "Mask R-CNN", "panoptic_fpn": "Panoptic FPN", "upernet": "UPerNet", "segformer": "SegFormer",
          "segnext": "SegNeXt"}
BACKBONES = {"r50": "R50", "r101": "R101", "swin_t": "Swin-T", "swin_s": "Swin-S", "swin_b": "Swin-B",
             "swin_l": "Swin-L", "deit_t": "DeiT-T", "deit_s": "DeiT-S", "deit3_b": "DeiT-III-B",
             "dinov2_s": "DINOv2-S", "dinov3_s": "DINOv3-S", "convnext_t": "ConvNeXt-T", "mit_b0": "MiT-B0",
             **{f"mscan_{size}": f"MSCAN-{size.upper()}" for size in "tsbl"}}
ADDITIONS = {"freqfusion": "FreqFusion", "fdconv": "FDConv", "fdam": "FDAM", "encfdam": "FDAM in the encoder",
             "deconv": "deconvolution", "pixelshuffle": "pixel shuffle", "carafe": "CARAFE",
              "indexnet": "IndexNet", "a2u": "A2U", "fade": "FADE", "sapa_b": "SAPA-B",
              "dysample": "DySample+", "dysample_s": "DySample-S+",
              "condconv": "CondConv", "dyconv": "DY-Conv", "odconv": "ODConv", "kernelwarehouse": "KernelWarehouse"}
NAME = re.compile(f"({'|'.join(MODELS)})_({'|'.join(BACKBONES)})(_.*)?")
ADDITION = re.compile("_(dysample_s|sapa_b|[a-z0-9]+)")
# Task -> the data in the command of a leaf for own data.
OWN_DATA = {"instance": 'DATASETS.TRAIN "train.json@images" DATASETS.TEST "val.json@images"',
            "panoptic": 'DATASETS.TRAIN "train.json@images@pngs" DATASETS.TEST "val.json@images@pngs"',
            "semantic": 'DATASETS.TRAIN "classes.txt@images@labels" DATASETS.SPLIT 0.8'}
PUBLISHED = re.compile("^# Published: (.*?);", re.MULTILINE)
FOOTNOTES = "⁰¹²³⁴⁵⁶⁷⁸⁹"
TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def parts_of_name(leaf: str) -> tuple[str, str, list[str]]:
    """Model, backbone and the keys of ADDITIONS that a leaf's name has. ValueError for a name that says none."""
    found = NAME.fullmatch(Path(leaf).name)
    if found is None:
        raise ValueError(f"configs/{leaf}.yaml: a name is <model>_<backbone>[_variant], models {', '.join(MODELS)}, "
                         f"backbones {', '.join(BACKBONES)}")
    return MODELS[found[1]], BACKBONES[found[2]], [key for key in ADDITION.findall(found[3] or "") if key in ADDITIONS]


def leaf_row(folder: Path, leaf: str, fact: dict) -> list:
    model, backbone, additions = parts_of_name(leaf)
    published = PUBLISHED.search((folder / f"{leaf}.yaml").read_text())
    _, task, name = leaf.split("/")
    return [f"[{name}]({leaf}.yaml)", task, " + ".join([model, *map(ADDITIONS.get, additions)]), backbone,
            fact["parameters"], f"{published[1]} {FOOTNOTES[fact['note']]}" if published else None]


def cost_row(parameters: dict[str, int], leaf: str, cost: dict) -> list:
    """What its one module adds to the leaf without it."""
    _, _, (addition,) = parts_of_name(leaf)
    added = parameters[leaf] - parameters[leaf.replace(f"_{addition}", "")]
    return [ADDITIONS[addition], f"[{leaf}]({leaf}.yaml)", f"{added:+,d}", cost.get("published"), cost["gflops"]]


def upsampler_row(name: str, fact: dict) -> list:
    """Its option, the parameters of one module of 256 channels and of three, four, six, the published results."""
    import torch

    from freqdino.frequency.freqfusion.fusion import FreqFusionSum
    from freqdino.registration.upsamplers import FREQFUSION, UPSAMPLERS, freqfusion

    with torch.device("meta"):
        module = (freqfusion(FreqFusionSum, 256) if name == FREQFUSION
                  else UPSAMPLERS[name](hr_channels=256, lr_channels=256))
    parameters = sum(parameter.numel() for parameter in module.parameters())
    counts = [count * parameters for count in (1, 3, 4, 6)]
    return [fact["title"], f"`MODEL.FPN.UPSAMPLER {name}`", *counts, *fact.get("published", [None] * 3)]


def files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file that is written, and what is to stand in it.

    Raises ValueError: configs/leaves.json has a leaf that is not there, or not one that is.
    """
    from freqdino.config import default_config
    from freqdino.config.effects import flat_keys, rules_of
    from freqdino.evaluation.tables import markdown_table

    facts, paths = json.loads((folder / "leaves.json").read_text()), sorted(folder.glob("*/*/*.yaml"))
    parameters = {leaf: fact["parameters"] for leaves in facts["leaves"].values() for leaf, fact in leaves.items()}
    odd = parameters.keys() ^ {path.relative_to(folder).as_posix().removesuffix(".yaml") for path in paths}
    if odd:
        raise ValueError(f"configs/leaves.json and the leaves differ: {', '.join(sorted(odd))}")
    for path in paths:
        leaf = path.relative_to(folder)
        rest = OWN_DATA[leaf.parts[1]] if leaf.parts[0] == "own" else "--num-gpus 8"
        command = f"# python train_net.py --config-file configs/{leaf.as_posix()} {rest}\n"
        yield path, command + path.read_text().partition("\n")[2]

    def written(table: re.Match) -> str:
        """The table anew, told by its first heading."""
        headings = [cell.strip() for cell in table[0].partition("\n")[0].strip("|").split("|")]
        if headings[0] == "leaf":
            section = HEADING.findall(table.string, 0, table.start())[-1]
            rows = [leaf_row(folder, *item) for item in facts["leaves"][section].items()]
        elif headings[0] == "module":
            rows = [cost_row(parameters, *item) for item in facts["costs"].items()]
        elif headings[0] == "upsampler":
            rows = [upsampler_row(*item) for item in facts["upsamplers"].items()]
        elif headings[0] == "key":
            rows = [[f"`{key}`", rule.status, rule.where] for key in flat_keys(default_config())
                    for rule in rules_of(key)]
        else:
            return table[0]
        return f"{markdown_table(headings, rows, aligned=False)}\n"

    for path in (folder / "README.md", folder / "KEYS.md"):
        yield path, TABLE.sub(written, path.read_text())


def work(args: argparse.Namespace) -> int:
    from freqdino.config.loading import configs_folder

    changed = [(path, text) for path, text in files(configs_folder()) if path.read_text() != text]
    for path, text in changed:
        if args.check:
            print(f"{path} is out of date: python .github/config_tables.py", file=sys.stderr)
        else:
            path.write_text(text)
            print(path)
    return int(args.check and bool(changed))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args(arguments)
    return exit_status(lambda: work(args))


if __name__ == "__main__":
    sys.exit(main())

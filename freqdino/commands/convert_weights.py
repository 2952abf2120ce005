"""Gives the weights of other projects' checkpoints the names of a model here; writes a file for MODEL.WEIGHTS. And the
other way, with --to huggingface: writes a model from here as a folder for transformers.

    python tools/convert_weights.py resnet101.pth R-101.pkl --config-file configs/coco/instance/mask2former_r101.yaml
    python tools/convert_weights.py mask_rcnn_fdconv.pth converted.pth --config-file \\
        configs/coco/instance/mask_rcnn_r50_fdconv.yaml --dry-run
    python tools/convert_weights.py output/my_run my_model --to huggingface --config-file output/my_run/config.yaml

Formats, recognised by the names in the file unless --format says which:

    native                  names that the model loads as they are: Mask2Former, Mask DINO and FreqFusion's Mask2Former,
                            Detectron2's; for such backbones Microsoft's Swin, SegFormer's MiT, SegNeXt's MSCAN,
                            timm's. Nothing needs converting: the file is checked and written anew
    resnet                  ResNet of torchvision or timm, a backbone (training reads it unconverted, too)
    timm-swin, torchvision-swin: Swin, a backbone
    mmdetection             Faster R-CNN, Mask R-CNN, Panoptic FPN, plain or with FDConv
    mmdetection-freqfusion  the same with FreqFusion in the feature pyramid, as neck.freqfusions.<i>. What its published
                            files call it is not known here; --rename 'neck\\.other\\.' neck.freqfusions. helps
    mmsegmentation          FDAM's DeiT-III-B with UPerNet; UPerNet and SegFormer heads in general; SegNeXt, with
                            FreqFusion as decode_head.freqfusions.<i>, which is a guess like the one above

A file is written only if every entry has a place (but for those named as left), every name of the model (for a
backbone's weights, of its backbone) is filled, and the configuration agrees with how the weights were trained. If not,
the exit status is 1 and the message names what differs. Files that would run code when read are refused.

--to huggingface writes a Mask2Former with a Swin or a ResNet to a new folder, from which the from_pretrained of
transformers' Mask2FormerForUniversalSegmentation and AutoImageProcessor load it: config.json, model.safetensors and
preprocessor_config.json. What has no place there (FreqFusion, FDConv, FDAM, Mask DINO, other backbones, sliding
windows) is an error that names the key. Where the model takes BGR, the first convolution is turned round to RGB. The
image processor resizes to multiples of the divisibility where the model here pads, and has its own post-processing.
"""
import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from freqdino.commands.command_line import exit_status, make_parser
from freqdino.errors import ConversionError, need_detectron2

FORMATS = ("native", "resnet", "timm-swin", "torchvision-swin", "mmdetection-freqfusion", "mmdetection",
           "mmsegmentation")
SUFFIXES = (".pth", ".pkl")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(
        __doc__,
        usage="%(prog)s SOURCE TARGET --config-file FILE [--format NAME] [--rename PATTERN REPLACEMENT] "
              "[--partial] [--to huggingface] [--dry-run] [KEY VALUE ...]")
    parser.add_argument("source", help="the checkpoint: .pth, .pt, .pkl or .safetensors, or any other "
                        "name that MODEL.WEIGHTS may have")
    parser.add_argument("target", type=Path, help="the file to write: .pth (torch.save) or .pkl (numpy "
                        "arrays); with --to huggingface a new folder")
    parser.add_argument("--config-file", required=True, help="configuration of the model that the weights are for")
    parser.add_argument("--format", choices=FORMATS, help="of the source (default: recognised)")
    parser.add_argument("--rename", nargs=2, action="append", default=[], metavar=("PATTERN", "REPLACEMENT"),
                        help="before all else, in every name: a regular expression and its replacement, as of re.sub; "
                             "may be repeated, the first that is found in a name is applied")
    parser.add_argument("--partial", action="store_true",
                        help="write what fits, for MODEL.WEIGHTS_PARTIAL True, also where something does not")
    parser.add_argument("--to", choices=("huggingface",), help="write a folder for another library instead")
    parser.add_argument("--dry-run", action="store_true", help="report alone, write nothing")
    parser.add_argument("options", nargs="*", metavar="KEY VALUE", help="options of the configuration")
    args = parser.parse_intermixed_args(arguments)
    if args.to is None and args.target.suffix not in SUFFIXES:
        parser.error(f"TARGET must end in {' or '.join(SUFFIXES)}, got {args.target}")
    if args.to and (args.target.suffix in SUFFIXES or args.partial):
        parser.error(f"--to {args.to} writes a whole model to a folder: "
                     + ("--partial has no meaning there" if args.partial else f"TARGET is {args.target}"))
    return args


def work(args: argparse.Namespace) -> None:
    """Read, convert, report, write. Raises ConversionError where no file may be written."""
    need_detectron2()
    from detectron2.modeling import build_model

    from freqdino.checkpoint import read_weights
    from freqdino.checkpoint.names.mask2former import upgrade_keys
    from freqdino.config import load_config
    from freqdino.conversion import report, transformers_folder
    from freqdino.conversion.conversion import convert, rename_entries
    from freqdino.conversion.families import FAMILIES, recognise
    from freqdino.conversion.new_file import write
    from freqdino.conversion.requirements import applicable_requirements
    from freqdino.data import register_custom_datasets

    if not args.dry_run:
        if not args.target.parent.is_dir():
            raise ConversionError(f"{args.target.parent}: no such folder")
        if args.target.exists() and os.path.exists(args.source) and args.target.samefile(args.source):
            raise ConversionError(f"{args.target}: is the source itself")
    cfg = load_config(args.config_file, [*args.options, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "",
                                         "MODEL.COMPILE", False, "SOLVER.AMP.ENABLED", False])
    if args.to:
        transformers_folder.check_place(args.target, cfg)
    checkpoint = read_weights(args.source)
    if checkpoint["caffe2"]:
        raise ConversionError(f"{args.source}: Caffe2's weights load as they are; set MODEL.WEIGHTS to the file")
    if args.to:
        transformers_folder.check_source(args.source, checkpoint, cfg)
    register_custom_datasets((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    model = build_model(cfg)

    tensors = rename_entries(upgrade_keys(checkpoint["model"], model.state_dict()), args.rename)
    checkpoint["model"] = tensors
    format_name = args.format or recognise(checkpoint, model)
    family = FAMILIES[format_name]
    conversion = convert(tensors, model, family)
    print(f"{args.source}: {report.count(tensors.values())}")
    print(f"format: {format_name}, {family.title}" + ("" if args.format else " (recognised)"))
    print("\n".join(report.summary(conversion, family)))
    for requirement in applicable_requirements(family, list(tensors), cfg):
        print(f"needs: {requirement.option} {requirement.value}")
    used = ("model", "caffe2", "data_config", "class_names", "stride_in_1x1", *(["classes"] if args.to else []))
    others = [name for name in checkpoint if name not in used]
    if others:
        print(f"not weights, left: {', '.join(map(str, others))}")

    refuse_unfit(args, checkpoint, conversion, format_name, cfg)
    if args.dry_run:
        print("dry run: nothing written")
    elif args.to:
        model.load_state_dict(conversion.written, strict=False)     # all of it, as refuse_unfit has made sure
        for remark in transformers_folder.write_folder(args.target, cfg, model, checkpoint):
            print(f"note: {remark}")
        print(f"wrote {args.target}, for Mask2FormerForUniversalSegmentation.from_pretrained")
    else:
        write(args.target, conversion, format_name)
        print(f"wrote {args.target}" + (", to be loaded with MODEL.WEIGHTS_PARTIAL True" if conversion.holes else ""))


def refuse_unfit(args: argparse.Namespace, checkpoint: dict, conversion, format_name: str, cfg) -> None:
    """Raise ConversionError, with all there is to say, unless the conversion may be written."""
    from freqdino.conversion import report
    from freqdino.conversion.families import FAMILIES
    from freqdino.conversion.requirements import foreign_recipe, unmet_requirements

    family = FAMILIES[format_name]
    problems = list(report.misfits(conversion, family))
    if problems and args.partial:
        print("\n".join(problems))
        problems.clear()
    elif problems:
        problems.append("the configuration must be that of the weights"
                        + ("" if args.to else "; --partial writes what fits"))
    if not conversion.written:
        problems.append("nothing in the file fits the model")
    if args.to and conversion.part:
        problems.append(f"the file fills the {conversion.part[:-1]} alone, and a folder of transformers holds a whole "
                        "model")
    unmet = unmet_requirements(family, list(checkpoint["model"]), cfg)
    problems += [f"the weights need {option} {needed}, the configuration has {found}"
                 for option, needed, found in unmet]
    if unmet:
        problems.append("add: " + " ".join(f'{option} "{needed}"' for option, needed, _ in unmet))
    recipe = foreign_recipe(checkpoint, family)
    if recipe is not None:
        problems.append(f"the file's own training configuration is not one that {format_name} serves: {recipe}")
    if problems:
        raise ConversionError("\n  ".join([f"{args.source} is not converted ({format_name}):", *problems]))


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_status(lambda: work(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())

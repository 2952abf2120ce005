"""Where the weights come from that the configurations name and nobody has yet, and what makes them the file named."""
import os
import re

_MICROSOFT = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0"
# Pattern of a file name -> where it comes from; {0} is the whole name, {1}, ... its groups.
SOURCES = {
    r"(swin_([tsbl])\w+)\.pkl": (
        f"It is made of Microsoft's {_MICROSOFT}/{{1}}.pth: set MODEL.WEIGHTS to that file, which loads as it is, or "
        "write this one by python tools/convert_weights.py {1}.pth {1}.pkl --config-file "
        "configs/ade20k/semantic/mask2former_swin_{2}.yaml"),
    r"(swin_\w+)\.pth": f"It is Microsoft's {_MICROSOFT}/{{1}}.pth",
    r"R-101\.pkl": (
        "It is made of torchvision's https://download.pytorch.org/models/resnet101-63fe2227.pth: set MODEL.WEIGHTS to "
        "that file, which loads as it is, or write this one by python tools/convert_weights.py resnet101-63fe2227.pth "
        "R-101.pkl --config-file configs/coco/instance/mask2former_r101.yaml"),
    r"(deit3?_\w+)\.pth": (
        "It is the state dict of timm's network of this name: torch.save(timm.create_model(\"{1}\", pretrained=True)"
        ".state_dict(), \"{1}.pth\")"),
    r"(mit_b\d)\.pth": (
        "It is SegFormer's backbone trained on ImageNet-1k, {1}.pth of the authors' https://github.com/NVlabs/SegFormer"),
    r"(\w+\.\w+)\.safetensors": (
        "It is model.safetensors of https://huggingface.co/timm/{1}, under this name"),
}


def source_of(path: str) -> str:
    """A sentence on where the file ``path`` comes from, "" where that is not known here."""
    for pattern, sentence in SOURCES.items():
        match = re.fullmatch(pattern, os.path.basename(path))
        if match:
            return f"{sentence.format(match[0], *match.groups())}. "
    return ""

"""Names that version 0.1 gave to weights and that are others now."""
import re

# Part of a name, as a regular expression -> what stands there now.
RENAMED = {
    r"\.conv[23]\.activation\.freq_scale\.": ".freq_scale.",    # Detectron2's ResNet: a slot of the last convolution
    r"\.drop_path\.freq_scale\.": ".freq_scale.",               # timm's ResNet and ConvNeXt: stochastic depth's slot
}


def current_name(name: str) -> str:
    """The name that an entry has now; it may be its name already."""
    for pattern, now in RENAMED.items():
        name = re.sub(pattern, now, name)
    return name

"""torchvision's ResNet, whose names timm and OpenMMLab share -> Detectron2's; FDConv's stay as they are in a layer."""
from weight_conversion.rules import RGB_INPUT, Family, Requirement, Rule


def resnet_rules(source: str = "", target: str = "") -> list[Rule]:
    """source: regular expression of what the names begin with; target: what they begin with in the model.

    Detectron2 counts the stages from the stem, torchvision from the first residual block, and has normalisations inside
    their convolutions.
    """
    def in_block(name: str):
        return lambda match: f"{target}res{int(match['stage']) + 1}.{match['block']}.{match.expand(name)}"

    block = rf"{source}layer(?P<stage>[1-4])\.(?P<block>\d+)\."
    return [
        Rule(rf"{source}conv1\.(?P<rest>weight)", rf"{target}stem.conv1.\g<rest>"),
        Rule(rf"{source}bn1\.(?P<rest>\w+)", rf"{target}stem.conv1.norm.\g<rest>"),
        Rule(rf"{block}downsample\.0\.(?P<rest>\w+)", in_block(r"shortcut.\g<rest>")),
        Rule(rf"{block}downsample\.1\.(?P<rest>\w+)", in_block(r"shortcut.norm.\g<rest>")),
        Rule(rf"{block}conv(?P<conv>[123])\.(?P<rest>.+)", in_block(r"conv\g<conv>.\g<rest>")),
        Rule(rf"{block}bn(?P<conv>[123])\.(?P<rest>\w+)", in_block(r"conv\g<conv>.norm.\g<rest>")),
    ]


def resnet_requirements(source: str = "") -> tuple[Requirement, ...]:
    """Where the stride of a bottleneck is cannot be seen in the shapes; here it is in the 3 × 3 convolution."""
    where = rf"{source}layer1\."
    return (Requirement("MODEL.RESNETS.STRIDE_IN_1X1", False, where),
            Requirement("MODEL.RESNETS.RES5_DILATION", 1, where))


FAMILY = Family(
    title="torchvision's or timm's ResNet",
    markers=(r"conv1\.", r"layer1\.0\.conv1\.weight$", r"layer4\.0\.bn1\."),
    rules=resnet_rules(),
    left={r"fc\.": "the classifier"},
    requirements=(*RGB_INPUT, *resnet_requirements()),
    hints={r"stem\.conv1": "stems of three convolutions (timm's resnet50d and others) have no place in the basic stem",
           r"res4\.": "MODEL.RESNETS.DEPTH"},
    whole_model=False,
)

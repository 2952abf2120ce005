"""torchvision's ResNet, whose names timm and OpenMMLab share -> Detectron2's; FDConv's stay as they are in a layer."""
from freqdino.checkpoint.names.torchvision_resnet import detectron2_resnet_name
from freqdino.conversion.rules import RGB_INPUT, Family, Requirement, Rule


def resnet_rules(source: str = "", target: str = "") -> list[Rule]:
    """source: regular expression of what the names begin with; target: what they begin with in the model."""
    def name_of(match):
        name = detectron2_resnet_name(match["name"])
        return None if name is None else target + name

    return [Rule(rf"{source}(?P<name>(?:conv1|bn1|layer[1-4])\..+)", name_of)]


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

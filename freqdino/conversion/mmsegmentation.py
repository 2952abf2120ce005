"""mmsegmentation's segmentors, FDAM's DeiT-III-B with UPerNet above all -> SemanticSegmentor with our heads.

FDAM's transformer keeps its names, and so do the parts of OpenMMLab's heads. The pyramid that UPerNet reads from a
plain transformer is Feature2Pyramid in OpenMMLab's neck, or lies in the backbone as in BEiT's code. Between its
transposed convolutions it has batch normalisation: MODEL.VIT.NECK_NORM has to say so, as layer normalisation, the
default (`freqdino.modeling.backbones.vit`), cannot stand for it.
"""
from freqdino.conversion.openmmlab import FOREIGN_RECIPES, LEFT
from freqdino.conversion.resnet import resnet_requirements, resnet_rules
from freqdino.conversion.rules import NETWORK, RGB_INPUT, Family, Requirement, Rule

SEGMENTORS = Family(
    title="mmsegmentation's UPerNet and SegFormer heads, with FDAM's transformers or a ResNet",
    markers=(r"backbone\.", r"decode_head\.conv_seg\."),
    rules=(
        *resnet_rules(r"backbone\.", f"{NETWORK}."),
        Rule(r"(?:neck\.upsample_4x|backbone\.fpn1)\.(.+)", r"backbone.neck.res2.\1"),
        Rule(r"(?:neck\.upsample_2x|backbone\.fpn2)\.0\.(.+)", r"backbone.neck.res3.\1"),
        Rule(r"(backbone\..+)", r"\1"),
        Rule(r"decode_head\.(.+)", r"sem_seg_head.\1"),
        Rule(r"auxiliary_head\.(.+)", r"sem_seg_head.auxiliary.\1"),
    ),
    left={**LEFT, r"backbone\.head\.": "the classifier"},
    requirements=(*RGB_INPUT, *resnet_requirements(r"backbone\."),
                  Requirement("MODEL.SEM_SEG_HEAD.UPSAMPLER", "bilinear", r"decode_head\.fusion_conv\.")),
    hints={
        r"conv_seg\.": "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
        r"backbone\.pos_embed": "MODEL.VIT.IMG_SIZE: the side of the images that the embedding is laid out for, 16 "
                                "times the root of its tokens",
        r"backbone\.neck\.res2\.1\.": "MODEL.VIT.NECK_NORM: UPerNet's pyramid has batch normalisation (BN or SyncBN)",
        r"backbone\.stem\.\d": "stems of three convolutions (ResNetV1c) have no place in the basic stem",
        r"freq_scale_|dy_freq": "MODEL.BACKBONE.FDAM.ENABLED",
        r"\.(dft_weight|KSM_\w+|FBM)": "MODEL.BACKBONE.FDCONV.ENABLED and KERNEL_NUM; in a ResNet its alias is "
                                        "MODEL.BACKBONE.NAME build_fdconv_resnet_backbone",
    },
    foreign_recipes=FOREIGN_RECIPES,
)

"""mmsegmentation's segmentors, FDAM's DeiT-III-B with UPerNet above all -> SemanticSegmentor with our heads.

FDAM's transformer keeps its names, and so do the parts of OpenMMLab's heads. The pyramid that UPerNet reads from a
plain transformer is Feature2Pyramid in OpenMMLab's neck, or lies in the backbone as in BEiT's code. Between its
transposed convolutions it has batch normalisation: MODEL.VIT.NECK_NORM has to say so, as layer normalisation, the
default (`freqdino.modeling.backbones.vit`), cannot stand for it.

SegNeXt's backbone keeps its names, and so does its head but for ``gn``, which is ``bn`` here whatever the normalisation
is. How FreqFusion's units are called in the published SegNeXt with it is not known here; this table reads
``decode_head.freqfusions.<i>``, counted from the coarsest pair as in the published Mask2Former. No weight shows how
many bases a head was trained with (MODEL.SEM_SEG_HEAD.HAM.BASES: 16 in SegNeXt-T and -S, 64 in -B and -L).
"""
from freqdino.conversion.openmmlab import FOREIGN_RECIPES, LEFT
from freqdino.conversion.resnet import resnet_requirements, resnet_rules
from freqdino.conversion.rules import NETWORK, RGB_INPUT, Family, Requirement, Rule

SEGMENTORS = Family(
    title="mmsegmentation's UPerNet and SegFormer heads, with FDAM's transformers or a ResNet, and SegNeXt",
    markers=(r"backbone\.", r"decode_head\.conv_seg\."),
    rules=(
        *resnet_rules(r"backbone\.", f"{NETWORK}."),
        Rule(r"(?:neck\.upsample_4x|backbone\.fpn1)\.(.+)", r"backbone.neck.res2.\1"),
        Rule(r"(?:neck\.upsample_2x|backbone\.fpn2)\.0\.(.+)", r"backbone.neck.res3.\1"),
        Rule(r"(backbone\..+)", r"\1"),
        Rule(r"decode_head\.freqfusions?\.(\d+)\.(.+)", r"sem_seg_head.freqfusions.\1.\2"),
        Rule(r"decode_head\.(.+)\.gn\.(\w+)", r"sem_seg_head.\1.bn.\2"),
        Rule(r"decode_head\.(.+)", r"sem_seg_head.\1"),
        Rule(r"auxiliary_head\.(.+)", r"sem_seg_head.auxiliary.\1"),
    ),
    left={**LEFT, r"backbone\.head\.": "the classifier"},
    requirements=(*RGB_INPUT, *resnet_requirements(r"backbone\."),
                  Requirement("MODEL.SEM_SEG_HEAD.NORM", "GN", r"decode_head\..+\.gn\."),
                  Requirement("MODEL.SEM_SEG_HEAD.UPSAMPLER", "bilinear", r"decode_head\.fusion_conv\.")),
    hints={
        r"conv_seg\.": "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
        r"backbone\.block\d\.": "MODEL.MSCAN.SIZE, or MODEL.MIT.EMBED_DIMS and DEPTHS",
        r"sem_seg_head\.(squeeze|align|hamburger)\.": "MODEL.SEM_SEG_HEAD.CONVS_DIM: 256 in SegNeXt-T and -S, 512 in "
                                                     "-B, 1024 in -L",
        r"\.freqfusions\.": "MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED; its units are read as decode_head.freqfusions.<i>, "
                            "--rename helps where they are called otherwise",
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

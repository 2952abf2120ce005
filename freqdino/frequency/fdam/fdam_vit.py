"""A vision transformer of FDAM's blocks, as a segmentation backbone.

Source: FDAM (ICCV 2025, arXiv 2507.12006); the published class vit_models_freq is DeiT III's transformer else.
"""
from .fdam_block import FDAMBlock
from .vision_transformer import VisionTransformer


class FDAMVisionTransformer(VisionTransformer):
    """VisionTransformer of FDAM blocks; published state dicts load (init_values was published as init_scale).

    embed_dim must be a multiple of 16 too.
    """

    block_class = FDAMBlock

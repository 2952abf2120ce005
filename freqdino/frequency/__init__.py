"""Frequency modules as plain ``nn.Module``s: they need nothing but PyTorch."""
from freqdino.frequency.attention_inversion import AttentionInversion, InversionGates
from freqdino.frequency.fdam_block import FDAMBlock
from freqdino.frequency.fdam_vit import FDAMVisionTransformer
from freqdino.frequency.fdconv import FDConv
from freqdino.frequency.fdconv_conversion import convert_to_fdconv, fdconv_from_conv2d
from freqdino.frequency.fdlinear import FDLinear
from freqdino.frequency.freqfusion import FreqFusion
from freqdino.frequency.frequency_scale import FrequencyScale, ResidualFrequencyScale

__all__ = [
    "AttentionInversion",
    "FDAMBlock",
    "FDAMVisionTransformer",
    "FDConv",
    "FDLinear",
    "FreqFusion",
    "FrequencyScale",
    "InversionGates",
    "ResidualFrequencyScale",
    "convert_to_fdconv",
    "fdconv_from_conv2d",
]

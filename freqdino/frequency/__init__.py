"""Frequency modules as plain ``nn.Module``s: they need nothing but PyTorch."""
from freqdino.frequency.fdam import (
    AttentionInversion,
    FDAMBlock,
    FDAMVisionTransformer,
    FrequencyScale,
    InversionGates,
    ResidualFrequencyScale,
    convert_to_fdam,
)
from freqdino.frequency.fdconv import FDConv, FDLinear, convert_to_fdconv, fdconv_from_conv2d
from freqdino.frequency.freqfusion import FreqFusion

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
    "convert_to_fdam",
    "convert_to_fdconv",
    "fdconv_from_conv2d",
]

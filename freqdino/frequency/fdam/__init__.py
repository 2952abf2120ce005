"""FDAM: inverted attention and frequency scaling, and the vision transformer that has both (ICCV 2025)."""
from freqdino.frequency.fdam.attention_inversion import AttentionInversion, InversionGates
from freqdino.frequency.fdam.conversion import convert_to_fdam
from freqdino.frequency.fdam.fdam_transformer import FDAMBlock, FDAMVisionTransformer
from freqdino.frequency.fdam.frequency_scale import FrequencyScale, ResidualFrequencyScale

__all__ = ["AttentionInversion", "FDAMBlock", "FDAMVisionTransformer", "FrequencyScale", "InversionGates",
           "ResidualFrequencyScale", "convert_to_fdam"]

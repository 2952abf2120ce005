"""FDAM: inverted attention and frequency scaling, and the vision transformer that has both (ICCV 2025)."""
from freqdino.frequency.fdam.attention_inversion import AttentionInversion, InversionGates
from freqdino.frequency.fdam.frequency_scale import FrequencyScale, ResidualFrequencyScale
from freqdino.frequency.fdam.transformer_block import FDAMBlock
from freqdino.frequency.fdam.vision_transformer import FDAMVisionTransformer

__all__ = ["AttentionInversion", "FDAMBlock", "FDAMVisionTransformer", "FrequencyScale", "InversionGates",
           "ResidualFrequencyScale"]

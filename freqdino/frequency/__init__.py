"""Frequency modules as plain ``nn.Module``s: they need nothing but PyTorch."""
from freqdino.frequency.attention_inversion import AttentionInversion, InversionGates, attention_inversion
from freqdino.frequency.fdam_block import FDAMBlock
from freqdino.frequency.fdam_vit import FDAMVisionTransformer
from freqdino.frequency.freqfusion import FreqFusion
from freqdino.frequency.frequency_scale import FrequencyScale

__all__ = [
    "AttentionInversion",
    "FDAMBlock",
    "FDAMVisionTransformer",
    "FreqFusion",
    "FrequencyScale",
    "InversionGates",
    "attention_inversion",
]

"""Frequency modules as plain ``nn.Module``s: they need nothing but PyTorch."""
from freqdino.frequency.freqfusion import FreqFusion

__all__ = ["FreqFusion"]

"""FreqFusion: fuses a coarse and a fine map by filters and offsets that the maps themselves predict (TPAMI 2024)."""
from freqdino.frequency.freqfusion.fusion import FreqFusion

__all__ = ["FreqFusion"]

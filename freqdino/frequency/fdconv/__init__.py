"""FDConv: convolutions and linear layers whose weight changes with the input, frequency by frequency (CVPR 2025)."""
from freqdino.frequency.fdconv.conv import FDConv
from freqdino.frequency.fdconv.conversion import convert_to_fdconv, fdconv_from_conv2d
from freqdino.frequency.fdconv.linear import FDLinear

__all__ = ["FDConv", "FDLinear", "convert_to_fdconv", "fdconv_from_conv2d"]

"""The other rows of the papers' tables."""
from freqdino.frequency.rivals.kernel_warehouse import KernelWarehouse
from freqdino.frequency.rivals.mixtures import CondConv, DYConv
from freqdino.frequency.rivals.odconv import ODConv

__all__ = ["CondConv", "DYConv", "KernelWarehouse", "ODConv"]

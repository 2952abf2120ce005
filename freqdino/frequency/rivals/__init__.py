"""The other rows of the papers' tables."""
from freqdino.frequency.rivals.a2u import A2U
from freqdino.frequency.rivals.fade import FADE, FADELite
from freqdino.frequency.rivals.indexnet import IndexNet
from freqdino.frequency.rivals.kernel_warehouse import KernelWarehouse
from freqdino.frequency.rivals.mixtures import CondConv, DYConv
from freqdino.frequency.rivals.odconv import ODConv
from freqdino.frequency.rivals.sapa import SAPAB, SAPAD
from freqdino.frequency.rivals.unguided import CARAFE, DySample

__all__ = ["A2U", "CARAFE", "FADE", "SAPAB", "SAPAD", "CondConv", "DYConv", "DySample", "FADELite", "IndexNet",
           "KernelWarehouse", "ODConv"]

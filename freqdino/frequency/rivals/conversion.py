"""Swap the convolutions of a finished model for another dynamic convolution than FDConv.

Sources: CondConv (NeurIPS 2019, arXiv 1904.04971), DY-Conv (CVPR 2020, arXiv 1912.03458), ODConv (ICLR 2022,
arXiv 2209.07947), KernelWarehouse (ICML 2024, arXiv 2406.07879).
"""
from collections.abc import Mapping, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from freqdino.errors import ArgumentError, errors_in
from freqdino.frequency.conversion import (
    Predicate,
    check_convertible,
    check_options,
    chosen,
    convolutions_in,
    dynamic_from_conv2d,
    replace_convolutions,
    shaped_like,
    take_norm,
    take_settings,
)
from freqdino.frequency.plain_state import modules_with_prefixes
from freqdino.frequency.rivals.kernel_warehouse import KernelWarehouse, Warehouse
from freqdino.frequency.rivals.mixtures import KernelMixture

BANKS = "warehouses"                # the child of a converted module that holds the banks


def convert_to_mixtures(module: nn.Module, kind: type[KernelMixture], num: int | None = None,
                        where: Predicate | Sequence[str] | None = None) -> list[str]:
    """Replace convolutions inside ``module`` by CondConv, DYConv or ODConv: the dotted names of those replaced.

    ``num``: kernels, None: as many as ``kind`` has by default. ``where``, what is kept of a convolution, and what is
    raised: as by `freqdino.frequency.convert_to_fdconv`. What is frozen stays so; the attention always learns.

    >>> from freqdino.frequency.rivals import CondConv
    >>> model = nn.Sequential(nn.Conv2d(3, 32, 7), nn.ReLU(), nn.Conv2d(32, 64, 3))
    >>> convert_to_mixtures(model, CondConv, where=["2"])
    ['2']
    """
    check_options(kind, {"num": num})

    def make(conv):
        return conv if isinstance(conv, kind) else dynamic_from_conv2d(kind, conv, num=num)

    return replace_convolutions(module, where, make)


def convert_to_kernel_warehouse(module: nn.Module, banks: Mapping[str, Sequence[str]], num: int = 1) -> list[str]:
    """Replace convolutions inside ``module`` by KernelWarehouse, in place: the dotted names of those replaced.

    ``banks``: name of a bank -> the names (or patterns) of the convolutions that share it; the banks become
    ``module.warehouses.<name>``. The model computes what it did. A bank learns where any of its convolutions did, so
    that of frozen ones the cells learn if they share them with others; the attention always learns.

    Raises what convert_to_fdconv raises, and ArgumentError for a convolution of two banks, a second conversion, and
    an nn.Sequential, which would call the banks as one more of its layers.

    >>> model = nn.ModuleDict({"one": nn.Conv2d(4, 8, 3), "two": nn.Conv2d(8, 8, 3)})
    >>> convert_to_kernel_warehouse(model, {"all": ["one", "two"]})
    ['one', 'two']
    >>> model.warehouses["all"].cells.shape
    torch.Size([27, 8, 4])
    """
    convolutions = convolutions_in(module)
    if hasattr(module, BANKS):
        raise ArgumentError("module", f"has {BANKS} already")
    if isinstance(module, nn.Sequential):
        raise ArgumentError("module", f"is an nn.Sequential, which has no place for {BANKS}: convert what it is in")
    places: dict[nn.Conv2d, tuple[Warehouse, int]] = {}
    warehouses = nn.ModuleDict()
    for bank, names in banks.items():
        members: dict[nn.Conv2d, str] = {}
        for name, conv in chosen(convolutions, names):
            members.setdefault(conv, name)
        if twice := [name for conv, name in members.items() if conv in places]:
            raise ArgumentError("banks", f"has {twice[0]} in {bank} and in another one")
        for conv, name in members.items():
            with errors_in(name):
                check_convertible(conv, nn.Conv2d, alike=True)
        weights = [conv.weight for conv in members]
        warehouses[bank] = Warehouse([weight.shape for weight in weights], num=num, path=f"{BANKS}.{bank}",
                                     names=list(members.values()), device=weights[0].device, dtype=weights[0].dtype)
        warehouses[bank].cells.requires_grad_(any(weight.requires_grad for weight in weights))
        places.update({conv: (warehouses[bank], place) for place, conv in enumerate(members)})

    def make(conv: nn.Conv2d) -> KernelWarehouse:
        warehouse, place = places[conv]
        dynamic = shaped_like(KernelWarehouse, conv, warehouse=warehouse, place=place)
        warehouse.fill(place, conv.weight)
        if conv.bias is not None:
            dynamic.bias.data.copy_(conv.bias)
        take_settings(dynamic, conv)
        take_norm(dynamic, conv)
        return dynamic

    names = replace_convolutions(module, lambda name, conv: conv in places, make)
    module.add_module(BANKS, warehouses)
    module.register_load_state_dict_pre_hook(adapt_banks)
    return names


def adapt_banks(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
    """Before a state dict is loaded: a plain network's weights become the cells of banks elsewhere in ``module``."""
    with torch.no_grad():
        for place, part in modules_with_prefixes(module, prefix):
            if isinstance(part, (KernelWarehouse, Warehouse)):
                with suppress(ValueError):      # which the convolution raises again when it is loaded itself
                    part.adapt_plain_state(state_dict, place)

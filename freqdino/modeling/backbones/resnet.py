"""Frequency modules and dynamic convolutions in Detectron2's ResNet, added to the finished network.

Sources: FDConv (CVPR 2025, arXiv 2503.18783), its ResNet recipe and the other rows of its tables, CondConv
(arXiv 1904.04971), DY-Conv (arXiv 1912.03458), ODConv (arXiv 2209.07947) and KernelWarehouse (arXiv 2406.07879), and
FDAM (ICCV 2025, arXiv 2507.12006), of which a network without self-attention takes frequency scaling (FreqScale) alone.
"""
from detectron2.modeling import ResNet

from freqdino.frequency import convert_to_fdconv
from freqdino.frequency.fdam.frequency_scale import add_to_branch
from freqdino.frequency.rivals import CondConv, DYConv, ODConv
from freqdino.frequency.rivals.conversion import convert_to_kernel_warehouse, convert_to_mixtures
from freqdino.frequency.rivals.temperature import anneal

# All convolutions of the residual branches; the stem and the shortcuts stay plain.
BRANCH_CONVOLUTIONS = "res[2345].*.conv[123]"
SHORTCUTS = "res[2345].*.shortcut"
# Name -> the convolutions of ResNet-50 that the row of FDConv's table replaces, told from its parameters.
MIXTURES = {
    "condconv": (CondConv, ["res5.*.conv[123]"]),
    "dyconv": (DYConv, [BRANCH_CONVOLUTIONS, SHORTCUTS]),
    "odconv": (ODConv, [BRANCH_CONVOLUTIONS]),
}
KERNEL_WAREHOUSE = "kernel_warehouse"
RIVALS = (*MIXTURES, KERNEL_WAREHOUSE)


def add_fdconv(resnet: ResNet, *, kernel_num: int) -> None:
    """Replace the convolutions of all residual branches by FDConv, in place; the network's function stays.

    What is frozen stays so, but the modulation (KSM, FBM) is trainable in every stage: freeze before, not after.
    Raises ValueError for a ``kernel_num`` that does not fit, with the convolution's name.
    """
    convert_to_fdconv(resnet, kernel_num=kernel_num, where=[BRANCH_CONVOLUTIONS])


def add_rival(resnet: ResNet, name: str, *, num: int | None, annealed: bool) -> None:
    """Replace the convolutions that belong to the dynamic convolution ``name``, one of `RIVALS`, in place.

    ``num``: experts of CondConv, kernels of DY-Conv and ODConv, ratio of KernelWarehouse; None: 8, 4, 1 and 1.
    ``annealed``: temperatures begin at their start, else at their end. At the start the network's function stays, but
    with ODConv. What is frozen stays so, but attention is trainable in every stage, and so are the cells of
    KernelWarehouse that a frozen convolution shares with others. Raises ArgumentError for a ``num`` that does not fit.
    """
    if name == KERNEL_WAREHOUSE:
        convert_to_kernel_warehouse(resnet, warehouses(resnet), num=1 if num is None else num)
    else:
        kind, where = MIXTURES[name]
        convert_to_mixtures(resnet, kind, num, where)
    if not annealed:
        anneal(resnet, 1.0)


def warehouses(resnet: ResNet) -> dict[str, list[str]]:
    """Stage -> the convolutions of its bank: its own and those with which the next one begins, whose first block's
    first convolution and shortcut read the stage's map. Those of the first stage read the stem's, and stay plain.
    """
    banks: dict[str, list[str]] = {}
    for before, (stage, blocks) in zip((None, *resnet.stage_names), zip(resnet.stage_names, resnet.stages)):
        for index, block in enumerate(blocks):
            for child in ("conv1", "conv2", "conv3", "shortcut"):
                bank = before if index == 0 and child in ("conv1", "shortcut") else stage
                if bank is not None and getattr(block, child, None) is not None:
                    banks.setdefault(bank, []).append(f"{stage}.{index}.{child}")
    return banks


def add_frequency_scale(resnet: ResNet) -> None:
    """Put x + S(x) at the end of every residual branch, in place; keys ``<block>.freq_scale.*``.

    That is where FDAM's block has it: on what the branch adds, before it is added.
    """
    for stage in resnet.stages:
        for block in stage:
            last = "conv3" if hasattr(block, "conv3") else "conv2"
            add_to_branch(block, block.out_channels, last, after=True)

"""Frequency modules in Detectron2's ResNet, added to the finished network.

Sources: FDConv (CVPR 2025, arXiv 2503.18783), its ResNet recipe, and FDAM (ICCV 2025, arXiv 2507.12006), of which a
network without self-attention takes frequency scaling (FreqScale) alone.
"""
from detectron2.modeling import ResNet

from freqdino.frequency import convert_to_fdconv
from freqdino.frequency.fdam.frequency_scale import add_to_branch

# All convolutions of the residual branches; the stem and the shortcuts stay plain.
BRANCH_CONVOLUTIONS = "res[2345].*.conv[123]"


def add_fdconv(resnet: ResNet, *, kernel_num: int) -> None:
    """Replace the convolutions of all residual branches by FDConv, in place; the network's function stays.

    What is frozen stays so, but the modulation (KSM, FBM) is trainable in every stage: freeze before, not after.
    Raises ValueError for a ``kernel_num`` that does not fit, with the convolution's name.
    """
    convert_to_fdconv(resnet, kernel_num=kernel_num, where=[BRANCH_CONVOLUTIONS])


def add_frequency_scale(resnet: ResNet) -> None:
    """Put x + S(x) at the end of every residual branch, in place; keys ``<block>.freq_scale.*``.

    That is where FDAM's block has it: on what the branch adds, before it is added.
    """
    for stage in resnet.stages:
        for block in stage:
            last = "conv3" if hasattr(block, "conv3") else "conv2"
            add_to_branch(block, block.out_channels, last, after=True)

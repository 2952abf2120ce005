"""What the blocks of hierarchical transformers share: two branches, and places for frequency modules in both.

Sources: FDAM (ICCV 2025, arXiv 2507.12006): inverted attention, and frequency scaling of the H × W map after attention
and after the MLP; FDConv (CVPR 2025, arXiv 2503.18783), of which linear layers take FDLinear.

B: batch, C: channels, N = H · W: tokens in row-major order.
"""
from collections.abc import Callable

from torch import Tensor, nn

from freqdino.errors import errors_in
from freqdino.frequency import FrequencyScale, InversionGates
from freqdino.frequency.fdam.fdam_transformer import scaled_tokens
from freqdino.frequency.fdam.frequency_scale import BLOCK_OPTIONS
from freqdino.frequency.fdconv.conversion import fdlinear_from_linear


class TokenBlock(nn.Module):
    """Base of a block with ``norm1``, ``attn``, ``norm2``, ``mlp`` and ``drop_path``, to which FDAM can be added.

    ``attn`` has ``num_heads`` and calls its ``invert``, None until then, as InversionGates is called.
    """

    def __init__(self):
        super().__init__()
        self.freq_scale_1 = None
        self.freq_scale_2 = None

    def add_fdam(self) -> None:
        """Add the gates and the frequency scaling, near neutral."""
        dim, = self.norm1.normalized_shape
        self.attn.invert = InversionGates(dim, self.attn.num_heads)
        self.freq_scale_1 = FrequencyScale(dim, **BLOCK_OPTIONS)
        self.freq_scale_2 = FrequencyScale(dim, **BLOCK_OPTIONS)

    def add_fdconv(self, *, kernel_num: int) -> None:
        """Replace what FDConv's recipe replaces in a residual branch; the function stays."""
        raise NotImplementedError

    def add_branch(self, x: Tensor, branch: Tensor, scale: FrequencyScale | None, grid: tuple[int, int]) -> Tensor:
        """x + drop_path(branch + S(branch)), all (B, N, C), without S where there is no ``scale``. grid: (H, W)."""
        if scale is not None:
            branch = scaled_tokens(scale, branch, grid)
        return x + self.drop_path(branch)


def add_fdam(network: nn.Module) -> None:
    """Put FDAM into all blocks of ``network``, in place: keys are added, the function nearly stays (gates of 1e-5).

    Raises ValueError, with the block, for channels that do not fit: FreqScale needs multiples of 16.
    """
    to_every_block(network, lambda block: block.add_fdam())


def add_fdconv(network: nn.Module, *, kernel_num: int) -> None:
    """Put FDConv and FDLinear into all blocks of ``network``, in place; the function stays.

    What stands between the blocks (patch embedding, patch merging) stays plain, as stem and shortcuts do in the
    published recipe. Raises ValueError, with the block, for a ``kernel_num`` that does not fit.
    """
    to_every_block(network, lambda block: block.add_fdconv(kernel_num=kernel_num))


def to_every_block(network: nn.Module, change: Callable[[TokenBlock], None]) -> None:
    for name, block in list(network.named_modules()):
        if isinstance(block, TokenBlock):
            with errors_in(name):
                change(block)


def to_fdlinear(module: nn.Module, *names: str, kernel_num: int) -> None:
    """Put FDLinear in the place of the linear layers ``names`` (dotted) of ``module``; what they compute stays.

    Raises ValueError, with the layer, for a ``kernel_num`` that does not fit.
    """
    for name in names:
        owner, _, child = name.rpartition(".")
        with errors_in(name):
            fdlinear = fdlinear_from_linear(module.get_submodule(name), kernel_num=kernel_num)
        setattr(module.get_submodule(owner), child, fdlinear)

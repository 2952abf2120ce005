"""KernelWarehouse: convolutions whose weights are put together from cells of a bank that several of them share.

Source: KernelWarehouse: Rethinking the Design of Dynamic Convolution (ICML 2024, arXiv 2406.07879).

Shape key: B: batch, Ci, Co: input and output channels, G: groups of the convolution, H, W: input size,
H', W': output size, kh, kw: kernel size, n: cells of the bank, (o, i): size of a cell, m: pieces of a convolution,
each of the size of a cell: m = (Co/o)·(Ci/G/i)·kh·kw.
"""
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqdino.frequency.argument_checks import check_counts
from freqdino.frequency.fdconv.fourier_weight import at_least_float32
from freqdino.frequency.fdconv.kernel_modulation import SMALLEST_HIDDEN_WIDTH, normalised
from freqdino.frequency.plain_state import keep_additions, plain_entry
from freqdino.frequency.rivals.mixtures import WeightOfFactors, init_by_fan_out
from freqdino.frequency.rivals.temperature import Annealed

SMALLEST_SUM = 1e-3


class Warehouse(nn.Module):
    """The bank ``cells`` (n, o, i) of the convolutions whose plain weights have ``shapes`` (Co, Ci/G, kh, kw).

    (o, i) are the greatest common divisors of the channels; n is ``num`` times the number of all pieces. The pieces of
    all convolutions are in one order; each piece owns ``num`` cells, and starts as the first of them.

    ``path`` and ``names``: where the bank and each convolution lie in one module, in front of a dot, for the state
    dicts of plain networks: their convolutions' weights become the cells.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], *, num: int = 1, path: str = "bank",
                 names: Sequence[str] = (), device: torch.device | str | None = None, dtype: torch.dtype | None = None):
        super().__init__()
        check_counts(num=num)
        self.shapes, self.num, self.path = [tuple(shape) for shape in shapes], num, path
        self.names = tuple(names) or ("",) * len(self.shapes)
        self.cell = math.gcd(*(shape[0] for shape in shapes)), math.gcd(*(shape[1] for shape in shapes))
        self.counts = [math.prod(shape) // math.prod(self.cell) for shape in self.shapes]
        self.cells = nn.Parameter(torch.empty(num * sum(self.counts), *self.cell, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self):
        """Each convolution's cells as its plain weight would start (Kaiming, fan out)."""
        for place, (out_channels, _, height, width) in enumerate(self.shapes):
            with torch.no_grad():
                self.cells[self.span(place)].normal_(std=math.sqrt(2 / (out_channels * height * width)))

    def span(self, place: int, step: int = 1) -> slice:
        """All cells of convolution ``place``, or every ``step``-th."""
        start = self.num * sum(self.counts[:place])
        return slice(start, start + self.num * self.counts[place], step)

    def owned(self, place: int) -> slice:
        """The cells that the pieces of convolution ``place`` start as."""
        return self.span(place, self.num)

    def to_pieces(self, weight: Tensor) -> Tensor:
        """A weight (Co, Ci/G, kh, kw) -> (m, o, i), ordered by position, block of outputs, block of inputs."""
        out_size, in_size = self.cell
        blocks = weight.unflatten(1, (-1, in_size)).unflatten(0, (-1, out_size))    # (Co/o, o, Ci/i, i, kh, kw)
        return blocks.permute(4, 5, 0, 2, 1, 3).reshape(-1, out_size, in_size)

    def to_weight(self, pieces: Tensor, place: int) -> Tensor:
        """`to_pieces` back, of images: (B, m, o·i) -> (B, Co, Ci/G, kh, kw)."""
        out_size, in_size = self.cell
        out_channels, in_channels, height, width = self.shapes[place]
        blocks = pieces.reshape(-1, height, width, out_channels // out_size, in_channels // in_size, out_size, in_size)
        return blocks.permute(0, 3, 5, 4, 6, 1, 2).reshape(-1, *self.shapes[place])

    def fill(self, place: int, weight: Tensor) -> None:
        """Let convolution ``place`` start as the plain ``weight``."""
        with torch.no_grad():
            self.cells[self.owned(place)] = self.to_pieces(weight).to(self.cells)

    def adapt_plain_state(self, state_dict: dict[str, Tensor], prefix: str) -> list[str]:
        """See `freqdino.frequency.plain_state`; of a plain network's state dict the weights of all convolutions."""
        root = prefix.removesuffix(f"{self.path}.")
        places = [f"{root}{name}." if name else root for name in self.names]
        if f"{prefix}cells" in state_dict or not all(f"{place}weight" in state_dict for place in places):
            return []
        cells = self.cells.detach().clone()
        for number, (place, shape) in enumerate(zip(places, self.shapes)):
            cells[self.owned(number)] = self.to_pieces(plain_entry(state_dict, place, torch.Size(shape))).to(cells)
        for place in places:
            del state_dict[f"{place}weight"]
        state_dict[f"{prefix}cells"] = cells
        return []


class KernelWarehouse(WeightOfFactors):
    """Drop-in for nn.Conv2d, (B, Ci, H, W) -> (B, Co, H', W'); each piece of its weight is a sum of cells of a bank.

    A cell counts (1 − τ)·z + τ·(1 for the cell that the piece owns, 0 for others): z are signed factors of the mean of
    x whose absolute values sum to less than one. τ starts at 1, a plain convolution, and ends at 0
    (`freqdino.frequency.rivals.temperature`).

    ``warehouse``: the bank, of which this is convolution ``place``; it belongs to a module round both. None: a bank of
    its own, of ``num`` cells a piece, which loads a plain convolution's state dict.

    >>> conv, plain = KernelWarehouse(8, 4, 3), nn.Conv2d(8, 4, 3)
    >>> conv.load_state_dict(plain.state_dict())
    <All keys matched successfully>
    >>> x = torch.randn(2, 8, 9, 12)
    >>> torch.allclose(conv(x), plain(x), atol=1e-5)
    True
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int],
                 stride: int | tuple[int, int] = 1, padding: int | tuple[int, int] | str = 0,
                 dilation: int | tuple[int, int] = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros",
                 device: torch.device | str | None = None, dtype: torch.dtype | None = None, *, num: int = 1,
                 warehouse: Warehouse | None = None, place: int = 0, norm: nn.Module | None = None,
                 activation: Callable[[Tensor], Tensor] | None = None):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
                         device, dtype, norm=norm, activation=activation)
        self.plain_shape, self.place = self.weight.shape, place
        if warehouse is None:
            self.bank = Warehouse([self.plain_shape], num=num, device=self.weight.device, dtype=self.weight.dtype)
        else:
            self.elsewhere = (warehouse,)       # in a tuple it is no part of this module
        self.attention = CellAttention(in_channels, self.warehouse.counts[place], len(self.warehouse.cells)
                                       ).to(self.weight)
        self.weight = None

    @property
    def warehouse(self) -> Warehouse:
        return self.bank if "bank" in self._modules else self.elsewhere[0]

    def reset_parameters(self):
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.weight is not None:             # which nn.Conv2d's constructor has just made
            nn.init.zeros_(self.weight)

    def static_weight(self) -> Tensor:
        """The weight at τ = 1 (Co, Ci/G, kh, kw)."""
        owned = self.warehouse.cells[self.warehouse.owned(self.place)].flatten(1)
        return self.warehouse.to_weight(owned[None], self.place)[0]

    def stored(self) -> Tensor:
        return self.warehouse.cells

    def image_weights(self, factors: Tensor) -> Tensor:
        cells = self.warehouse.cells.to(at_least_float32(self.warehouse.cells)).flatten(1)
        share = self.attention.temperature.to(cells.dtype)
        pieces = (1 - share) * (factors.to(cells.dtype) @ cells) + share * cells[self.warehouse.owned(self.place)]
        return self.warehouse.to_weight(pieces, self.place)

    def adapt_plain_state(self, state_dict: dict[str, Tensor], prefix: str) -> list[str]:
        """See `freqdino.frequency.plain_state`. A bank elsewhere takes the weight itself, see `adapt_banks`."""
        if plain_entry(state_dict, prefix, self.plain_shape) is None:
            return []
        if "bank" in self._modules:
            self.bank.adapt_plain_state(state_dict, f"{prefix}bank.")
        return keep_additions(self.attention, state_dict, f"{prefix}attention.")


class CellAttention(Annealed):
    """Mean of x (B, Ci) -> signed factors (B, m, n) whose absolute values sum to less than one over the cells."""

    TEMPERATURES = 1.0, 0.0

    def __init__(self, in_channels: int, pieces: int, cells: int):
        super().__init__()
        hidden = max(in_channels // 16, SMALLEST_HIDDEN_WIDTH)
        self.pieces = pieces
        self.fc1 = nn.Linear(in_channels, hidden, bias=False)
        self.bn = nn.BatchNorm1d(hidden)
        self.fc2 = nn.Linear(hidden, pieces * (cells + 1))
        self.make_temperature()
        self.reset_parameters()

    def reset_parameters(self):
        init_by_fan_out(self.fc1, self.fc2)
        self.anneal(0.0)

    def forward(self, pooled: Tensor) -> Tensor:
        hidden = F.relu(normalised(self.fc1(pooled), self.bn))
        logits = self.fc2(hidden).unflatten(1, (self.pieces, -1))
        logits = logits.to(at_least_float32(logits))
        return (logits / (logits.abs().sum(2, keepdim=True) + SMALLEST_SUM))[..., :-1]

"""Frequency scaling (FreqScale): a feature map's spectrum times a filter that each image mixes from a few learned ones.

Source: FDAM, Frequency-Dynamic Attention Modulation for Dense Prediction (ICCV 2025, arXiv 2507.12006), section
"Frequency Dynamic Scaling"; the group-wise dynamic form of the supplement's table 1.

B: batch, C: channels, H × W: map, G: groups of C / G channels, F: filters, S: the stored filters' height.
"""
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_counts, check_type
from freqdino.frequency.fdam.scale_spectrum import scale_spectrum
from freqdino.frequency.plain_state import keep_additions
from freqdino.frequency.star_relu import StarReLU
from freqdino.ops.autocast import without_autocast
from freqdino.ops.modules import same_size, with_zero_gradients

FILTER_START = 1e-5
# FDAM's best ablation (supplement, tables 2 and 3), as its blocks are built; narrower than the published defaults.
BLOCK_OPTIONS = {"group": 16, "num_filters": 4, "size": 14, "reweight_expansion_ratio": 1 / 16}


def resize_filters(filters: Tensor, height: int, width: int) -> Tensor:
    """Bicubic resizing with aligned corners as two small matrix products: (..., S, T) to (..., height, width).

    Equals ``F.interpolate(mode="bicubic", align_corners=True)``, whose backward pass is not deterministic on CUDA.
    """
    if same_size(filters.shape[-2:], (height, width)):
        return filters
    return bicubic_matrix(filters, -2, height) @ filters @ bicubic_matrix(filters, -1, width).mT


def bicubic_matrix(filters: Tensor, dim: int, size: int) -> Tensor:
    """(size, n) weights that resize dimension ``dim`` of length n: the interpolation of the n unit vectors."""
    length = filters.shape[dim]
    unit_vectors = torch.eye(length, dtype=filters.dtype, device=filters.device)
    return F.interpolate(unit_vectors[None, None], size=(size, length), mode="bicubic", align_corners=True)[0, 0]


class Reweight(nn.Module):
    """The routing MLP: (B, C) pooled features to (B, outputs), without biases; keys as published."""

    def __init__(self, dim: int, hidden: int, outputs: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden, bias=False)
        self.act = StarReLU()
        self.fc2 = nn.Linear(hidden, outputs, bias=False)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(pooled)))


class FrequencyScale(nn.Module):
    """S(x) = irfft2(rfft2(x) · weight), published as GroupDynamicScale; its state dict loads unchanged.

    The weight of group g is Σ_f tanh(MLP(mean of x))[g, f] · filter_f, resized to the map's spectrum. Mixing and
    resizing are both linear, so the filters are mixed at their stored size, where that costs next to nothing, and the
    mixture is resized: the filters of a size need no cache that could go stale.

    dim: C. group: G, must divide dim. num_filters: F. size: S, the filters are stored for an S × S map.
    reweight_expansion_ratio: hidden width of the routing MLP over dim; int(ratio · dim) must be at least 1.
    Transforms run in float32 under autocast and for half-precision maps.
    Raises ValueError for dimensions that do not fit, here and in the call.
    Source: FDAM (arXiv 2507.12006). ``complex_weights`` holds real numbers in spite of its published name.

    >>> scale = FrequencyScale(256, group=16, reweight_expansion_ratio=1 / 16)
    >>> sum(parameter.numel() for parameter in scale.parameters())
    12290
    >>> x = torch.randn(1, 256, 9, 20)
    >>> torch.allclose(scale(x, residual=True), x + scale(x), atol=1e-5)
    True
    """

    def __init__(self, dim: int, group: int = 32, num_filters: int = 4, size: int = 14,
                 reweight_expansion_ratio: float = 1 / 8):
        super().__init__()
        check_counts(dim=dim, group=group, num_filters=num_filters, size=size)
        if dim % group:
            raise ArgumentError("dim", f"must be a multiple of group, got group {group} and dim {dim}")
        hidden = int(reweight_expansion_ratio * dim)
        if hidden < 1:
            raise ArgumentError("reweight_expansion_ratio", f"{reweight_expansion_ratio} times dim {dim} is below 1")
        self.dim = dim
        self.group = group
        self.num_filters = num_filters
        self.size = size
        self.complex_weights = nn.Parameter(torch.empty(num_filters, dim // group, size, size // 2 + 1))
        self.reweight = Reweight(dim, hidden, group * num_filters)
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.trunc_normal_(self.complex_weights, std=FILTER_START, a=-2 * FILTER_START, b=2 * FILTER_START)

    def forward(self, x: Tensor, *, residual: bool = False) -> Tensor:
        """S(x) or, with ``residual``, x + S(x) in the same two transforms, as the filter plus one.

        x: (B, C, H, W), of any strides: a view of tokens needs no copy. Returns (B, C, H, W) in x's dtype.
        """
        if x.dim() != 4 or x.shape[1] != self.dim:
            raise ValueError(f"x must have shape (B, {self.dim}, H, W) for dim {self.dim}, got {tuple(x.shape)}")
        check_type("x", x, self)
        if 0 in x.shape[2:]:
            raise ValueError(f"x has an empty map: {tuple(x.shape)}")
        if x.shape[0] == 0:
            return with_zero_gradients(x, self)
        routing = torch.tanh(self.reweight(x.mean((2, 3))))
        with without_autocast(x):
            filters = self._filters(routing.to(torch.promote_types(x.dtype, torch.float32)), *x.shape[2:])
            if residual:
                filters.add_(1)
            return scale_spectrum(x, filters)

    def adapt_plain_state(self, state_dict: dict[str, Tensor], prefix: str) -> list[str]:
        """See `freqdino.frequency.plain_state`: a plain network has no frequency scaling."""
        return keep_additions(self, state_dict, prefix)

    def extra_repr(self) -> str:
        return f"{self.dim}, group={self.group}, num_filters={self.num_filters}, size={self.size}"

    def _filters(self, routing: Tensor, height: int, width: int) -> Tensor:
        """routing (B, G · F) to the filters of the images' spectra (B, C, height, width // 2 + 1)."""
        stored = self.complex_weights.to(routing.dtype)
        mixed = routing.unflatten(1, (self.group, self.num_filters)) @ stored.flatten(1)
        return resize_filters(mixed.view(-1, self.dim, *stored.shape[2:]), height, width // 2 + 1)


class ResidualFrequencyScale(FrequencyScale):
    """x + S(x), at the size that FDAM's blocks have it, for the branches of other networks; keys as FrequencyScale.

    dim: C, a multiple of 16. Source: FDAM (arXiv 2507.12006).

    >>> ResidualFrequencyScale(64)(torch.randn(1, 64, 9, 20)).shape
    torch.Size([1, 64, 9, 20])
    """

    def __init__(self, dim: int):
        super().__init__(dim, **BLOCK_OPTIONS)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W), of any strides. Returns (B, C, H, W) in x's dtype."""
        return super().forward(x, residual=True)


def add_to_branch(block: nn.Module, dim: int, part: str, *, after: bool) -> None:
    """Put x + S(x) at the end of a block's branch: ``block.freq_scale``, ``after`` the block's part or before it.

    The block tells the part, as in a replica (nn.DataParallel) both are others than those that are hooked here.
    """
    block.freq_scale = ResidualFrequencyScale(dim)
    _tell(block, (), part)
    block.register_forward_pre_hook(partial(_tell, part=part))
    last = getattr(block, part)
    if after:
        last.register_forward_hook(_of_output)
    else:
        last.register_forward_pre_hook(_of_input)


def _tell(block, inputs, part):
    last = getattr(block, part)
    if last.__dict__.get("of_branch") is not block.freq_scale:
        last.__dict__["of_branch"] = block.freq_scale       # not a submodule, whose parameters would be found twice


def _of_output(last, inputs, output):
    return last.of_branch(output)


def _of_input(last, inputs):
    return last.of_branch(*inputs)

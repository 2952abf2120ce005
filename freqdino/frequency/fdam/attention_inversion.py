"""Attention inversion (AttInv): attention's low-pass result beside the high-pass rest that it removes, gated by token.

Source: FDAM, Frequency-Dynamic Attention Modulation for Dense Prediction (ICCV 2025, arXiv 2507.12006), equations 28 to
34 of the supplement. Softmax attention A is a low-pass filter; E - A is its high-pass complement, and (E - A) V is
V - A V. Nothing needs A itself, so any attention that yields V and A V can be inverted, fused kernels included.

B: batch, N: tokens, C: channels, heads: attention heads, each over C / heads channels. "...": any leading dimensions.

Optimisers should leave the parameters whose names end in ``lf_gamma`` or ``hf_gamma`` out of weight decay.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_counts, check_type
from freqdino.frequency.fdam.transformer_block import attend
from freqdino.frequency.plain_state import keep_additions
from freqdino.frequency.star_relu import StarReLU
from freqdino.ops.blocking import by_pieces
from freqdino.ops.modules import kept_whole, overwrites

GAMMA_START = 1e-5
# What the names of the gates' entries start with; a subclass keeps its attention's beside them.
GATE_NAMES = ("dy_freq", "lf_gamma", "hf_gamma")
# The high-pass gate 2u / (u + HALF_GATE) is 1 at u = HALF_GATE: near exp(-1), as published.
HALF_GATE = 0.3678


def attention_inversion(value: Tensor, attended: Tensor, low: Tensor | None = None,
                        high: Tensor | None = None) -> Tensor:
    """attended + low · attended + high · (value - attended), equation 34 written as a residual.

    value: (..., N, C) V at each query token, before the output projection.
    attended: (..., N, C) A·V at the same tokens.
    low, high: (..., N, C) or broadcastable coefficients of the two halves; None leaves a half out.
    Returns (..., N, C) in attended's dtype.
    Raises ValueError where value and attended differ in shape.

    >>> value, attended = torch.tensor([[5.0]]), torch.tensor([[2.0]])
    >>> attention_inversion(value, attended, low=torch.tensor([[0.5]]), high=torch.tensor([[1.0]]))
    tensor([[6.]])
    """
    if value.shape != attended.shape:
        raise ValueError(f"value has shape {tuple(value.shape)}, attended {tuple(attended.shape)}: they must be equal")
    dtype = attended.dtype
    inverted = attended
    if high is not None:
        inverted = torch.lerp(attended, value.to(dtype), high.to(dtype))
    if low is not None:
        inverted = torch.addcmul(inverted, attended, low.to(dtype))
    return inverted


class InversionGates(nn.Module):
    """The learned gates of attention inversion for any attention: window, reduced-key, deformable.

    With f = StarReLU(query), the coefficients of each head are tanh(dy_freq_2(f)) for the low-pass half and
    2u / (u + 0.3678), u = softplus(dy_freq(f))², for the high-pass half; ``lf_gamma`` and ``hf_gamma`` scale them by
    channel and start at 1e-5, so that a pretrained attention starts as it was.

    dim: C. num_heads: must divide dim. lf_dy_weight, hf_dy_weight: False leaves that half and its parameters out.
    Raises ValueError for dimensions that do not fit, here and in the call, and for tensors of another type.
    Source: FDAM (arXiv 2507.12006), supplement, section C.

    >>> gates = InversionGates(256, 8)
    >>> sum(parameter.numel() for parameter in gates.parameters())
    4626
    >>> tokens = torch.randn(2, 10, 256)
    >>> gates(value=tokens, attended=tokens, query=tokens).shape
    torch.Size([2, 10, 256])
    """

    def __init__(self, dim: int, num_heads: int, *, lf_dy_weight: bool = True, hf_dy_weight: bool = True):
        super().__init__()
        check_counts(dim=dim)
        if not isinstance(num_heads, int) or num_heads < 1 or dim % num_heads:
            raise ArgumentError("num_heads", f"must divide the {dim} channels, got {num_heads}")
        self.dim = dim
        self.num_heads = num_heads
        self.lf_dy_weight = lf_dy_weight
        self.hf_dy_weight = hf_dy_weight
        if lf_dy_weight or hf_dy_weight:
            self.dy_freq_starrelu = StarReLU()
        if lf_dy_weight:
            self.dy_freq_2 = nn.Linear(dim, num_heads)
            self.lf_gamma = nn.Parameter(torch.empty(dim))
        if hf_dy_weight:
            self.dy_freq = nn.Linear(dim, num_heads)
            self.hf_gamma = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self):
        for gamma in self.parameters(recurse=False):
            nn.init.constant_(gamma, GAMMA_START)

    def forward(self, value: Tensor, attended: Tensor, query: Tensor) -> Tensor:
        """value, attended, query: (..., N, C), query being the attention layer's input. Returns (..., N, C).

        All are of the parameters' type, or of any floating-point type under autocast.
        """
        for name, tokens in (("value", value), ("attended", attended), ("query", query)):
            check_type(name, tokens, self)
        return self.invert(value, attended, query)

    def invert(self, value: Tensor, attended: Tensor, query: Tensor) -> Tensor:
        """What ``forward`` does, under a name that a subclass with another ``forward`` can call."""
        if not value.shape == attended.shape == query.shape:
            raise ValueError(f"value {tuple(value.shape)}, attended {tuple(attended.shape)} and query "
                             f"{tuple(query.shape)} must have one shape")
        self._check_channels("query", query)
        if not (self.lf_dy_weight or self.hf_dy_weight):
            return attended
        if not overwrites():
            return self._invert_tokens(value, attended, query)
        tokens = [tensor.reshape(-1, self.dim) for tensor in (value, attended, query)]
        return by_pieces(self._invert_tokens, tokens, 0, 4 * query.element_size() * self.dim).view_as(attended)

    def adapt_plain_state(self, state_dict: dict[str, Tensor], prefix: str) -> list[str]:
        """See `freqdino.frequency.plain_state`: a plain attention has no gates."""
        return keep_additions(self, state_dict, prefix, GATE_NAMES)

    def extra_repr(self) -> str:
        return (f"{self.dim}, num_heads={self.num_heads}, lf_dy_weight={self.lf_dy_weight}, "
                f"hf_dy_weight={self.hf_dy_weight}")

    def _invert_tokens(self, value: Tensor, attended: Tensor, query: Tensor) -> Tensor:
        features = self.dy_freq_starrelu(query)
        low = self._low_pass_coefficients(features) if self.lf_dy_weight else None
        high = self._high_pass_coefficients(features) if self.hf_dy_weight else None
        return attention_inversion(value, attended, low, high)

    def _low_pass_coefficients(self, features: Tensor) -> Tensor:
        return self._by_channel(torch.tanh(widened(self.dy_freq_2(features))), self.lf_gamma)

    def _high_pass_coefficients(self, features: Tensor) -> Tensor:
        strength = F.softplus(widened(self.dy_freq(features))).square()
        return self._by_channel(2 * strength / (strength + HALF_GATE), self.hf_gamma)

    def _by_channel(self, gate: Tensor, gamma: Tensor) -> Tensor:
        """gate (..., N, heads) times gamma (C): (..., N, C)."""
        return (gate.unsqueeze(-1) * gamma.view(self.num_heads, -1)).flatten(-2)

    def _check_channels(self, name: str, tokens: Tensor):
        if tokens.shape[-1] != self.dim:
            raise ValueError(f"{name} has {tokens.shape[-1]} channels, the layer's dim is {self.dim}")


def widened(gate: Tensor) -> Tensor:
    """Half-precision gates in float32, others as they are: a square overflows float16, and there are few of them."""
    return gate.to(torch.promote_types(gate.dtype, torch.float32))


class AttentionInversion(InversionGates):
    """Multi-head self-attention with inversion, published as AttentionwithAttInv; its state dict loads unchanged.

    A subclass of the gates and not their owner, because published keys are flat (``dy_freq.weight`` beside
    ``qkv.weight``). The attention is the plain block's.

    dim: C. num_heads: must divide dim. qkv_bias: whether queries, keys and values have a bias.
    lf_dy_weight, hf_dy_weight: False leaves that half and its parameters out.
    Raises ValueError for dimensions that do not fit, here and in the call.

    >>> attention = AttentionInversion(48, num_heads=3, qkv_bias=True)
    >>> attention(torch.randn(2, 35, 48)).shape
    torch.Size([2, 35, 48])
    """

    def __init__(self, dim: int, num_heads: int = 8, qkv_bias: bool = False, *, lf_dy_weight: bool = True,
                 hf_dy_weight: bool = True):
        super().__init__(dim, num_heads, lf_dy_weight=lf_dy_weight, hf_dy_weight=hf_dy_weight)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, N, C). Returns (B, N, C)."""
        if (node := kept_whole(self, x)) is not None:
            return node
        if x.dim() != 3:
            raise ValueError(f"x must have 3 dimensions (B, N, C), got {x.dim()}: {tuple(x.shape)}")
        self._check_channels("x", x)
        check_type("x", x, self)
        value, attended = attend(self.qkv(x), self.num_heads)
        return self.proj(self.invert(value, attended, x))

"""Blocks of a vision transformer: the plain one with its parts, and FDAM's.

Sources: DeiT III (arXiv 2204.07118), whose block is pre-norm with LayerScale; stochastic depth (arXiv 1603.09382); FDAM
(ICCV 2025, arXiv 2507.12006), which inverts the attention and scales the frequencies of both branches.

B: batch, N = H · W: tokens in row-major order of the H × W grid, C: channels.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_counts, check_type
from freqdino.frequency.fdam.attention_inversion import AttentionInversion
from freqdino.frequency.fdam.frequency_scale import BLOCK_OPTIONS, FrequencyScale

LAYER_NORM_EPSILON = 1e-6


class MLP(nn.Module):
    """fc2(GELU(fc1(x))): (..., C) to (..., C)."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): in training, zeroes whole samples of (B, ...) and rescales the others."""

    def __init__(self, probability: float):
        super().__init__()
        if not 0 <= probability < 1:
            raise ArgumentError("drop_path", f"must be at least 0 and below 1, got {probability}")
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        kept = 1 - self.probability
        return x * x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(kept).div_(kept)

    def extra_repr(self) -> str:
        return f"{self.probability}"


class TransformerBlock(nn.Module):
    """x + drop_path(γ₁ · attention(LN x)), then the same with the MLP and γ₂.

    dim: C, a multiple of num_heads. mlp_ratio: hidden width of the MLP over dim. init_values: where LayerScale's γ
    start; DeiT has none, which is γ = 1. drop_path: probability with which training drops a branch of a sample.
    Raises ValueError for dimensions that do not fit, here and in the call.

    >>> block = TransformerBlock(dim=64, num_heads=4)
    >>> block(torch.randn(2, 15, 64), grid=(3, 5)).shape
    torch.Size([2, 15, 64])
    """

    def __init__(self, *, dim: int, num_heads: int, mlp_ratio: float = 4.0, qkv_bias: bool = True,
                 init_values: float = 1e-4, drop_path: float = 0.0):
        super().__init__()
        check_counts(dim=dim, num_heads=num_heads)
        if dim * mlp_ratio < 1:
            raise ArgumentError("mlp_ratio", f"must give the MLP a width of at least 1, got {mlp_ratio} for dim {dim}")
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPSILON)
        self.attn = self.make_attention(dim, num_heads, qkv_bias)
        self.gamma_1 = nn.Parameter(torch.empty(dim))
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPSILON)
        self.mlp = MLP(dim, int(dim * mlp_ratio))
        self.gamma_2 = nn.Parameter(torch.empty(dim))
        self.drop_path = DropPath(drop_path)
        self.init_values = float(init_values)
        self.reset_parameters()

    def reset_parameters(self):
        for gamma in (self.gamma_1, self.gamma_2):
            nn.init.constant_(gamma, self.init_values)

    def make_attention(self, dim: int, num_heads: int, qkv_bias: bool) -> nn.Module:
        """Plain attention is the inverted one with both halves left out: the same keys ``qkv`` and ``proj``."""
        return AttentionInversion(dim, num_heads, qkv_bias, lf_dy_weight=False, hf_dy_weight=False)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x: (B, N, C). grid: (H, W) with H · W = N. Returns (B, N, C)."""
        height, width = grid
        expected = (height * width, len(self.gamma_1))
        if x.dim() != 3 or x.shape[1:] != expected:
            raise ValueError(f"x must have shape (B, {expected[0]}, {expected[1]}) for a grid of {height} × {width}, "
                             f"got {tuple(x.shape)}")
        check_type("x", x, self)
        attended = self.attention_branch(self.norm1(x), grid)
        x = torch.addcmul(x, self.drop_path(attended), self.gamma_1)
        return torch.addcmul(x, self.drop_path(self.mlp_branch(self.norm2(x), grid)), self.gamma_2)

    def attention_branch(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Normalised tokens (B, N, C) of a grid to what γ₁ scales."""
        return self.attn(tokens)

    def mlp_branch(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Normalised tokens (B, N, C) of a grid to what γ₂ scales."""
        return self.mlp(tokens)

    def adapt_plain_state(self, state_dict: dict[str, Tensor], prefix: str) -> list[str]:
        """See `freqdino.frequency.plain_state`: LayerScale's γ by timm's names, 1 for a block without it."""
        neutral = []
        for timm_name, name in (("ls1.gamma", "gamma_1"), ("ls2.gamma", "gamma_2")):
            if prefix + timm_name in state_dict:
                state_dict[prefix + name] = state_dict.pop(prefix + timm_name)
            elif prefix + name not in state_dict:
                state_dict[prefix + name] = torch.ones_like(self.gamma_1, requires_grad=False)
                neutral.append(prefix + name)
        return neutral


class FDAMBlock(TransformerBlock):
    """x + drop_path(γ₁ · (a + S₁(a))) with a = inverted attention(LN x), then the same with the MLP, γ₂ and S₂.

    Arguments and errors as TransformerBlock; dim must be a multiple of 16 too, FreqScale's groups.

    >>> import torch
    >>> block = FDAMBlock(dim=64, num_heads=4)
    >>> block(torch.randn(2, 15, 64), grid=(3, 5)).shape
    torch.Size([2, 15, 64])
    """

    def __init__(self, *, dim: int, num_heads: int, mlp_ratio: float = 4.0, qkv_bias: bool = True,
                 init_values: float = 1e-4, drop_path: float = 0.0):
        super().__init__(dim=dim, num_heads=num_heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, init_values=init_values,
                         drop_path=drop_path)
        self.freq_scale_1 = FrequencyScale(dim, **BLOCK_OPTIONS)
        self.freq_scale_2 = FrequencyScale(dim, **BLOCK_OPTIONS)

    def make_attention(self, dim: int, num_heads: int, qkv_bias: bool) -> nn.Module:
        return AttentionInversion(dim, num_heads, qkv_bias)

    def attention_branch(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        return scaled_tokens(self.freq_scale_1, super().attention_branch(tokens, grid), grid)

    def mlp_branch(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        return scaled_tokens(self.freq_scale_2, super().mlp_branch(tokens, grid), grid)


def scaled_tokens(scale: FrequencyScale, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """x + S(x) for the map that the tokens (B, N, C) of a grid are."""
    feature_map = tokens.transpose(1, 2).unflatten(2, grid)
    return scale(feature_map, residual=True).flatten(2).transpose(1, 2)

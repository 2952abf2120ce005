"""The plain block of a vision transformer and its parts.

Sources: DeiT III (arXiv 2204.07118), whose block is pre-norm with LayerScale; stochastic depth (arXiv 1603.09382).

B: batch, N = H · W: tokens in row-major order of the H × W grid, C: channels, heads: attention heads.
"""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_counts, check_type

LAYER_NORM_EPSILON = 1e-6


def attend(projected: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """Softmax attention among all tokens. projected: (B, N, 3C), queries, keys, values. Returns V and A·V, (B, N, C).

    By ``F.scaled_dot_product_attention``: no N × N matrix is stored.
    """
    queries, keys, values = projected.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
    attended = F.scaled_dot_product_attention(queries, keys, values)
    # (B, heads, N, C / heads) -> (B, N, C): views both, as the fused kernel keeps tokens outermost.
    return values.transpose(1, 2).flatten(2), attended.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head self-attention, (B, N, C) to (B, N, C). Raises ValueError unless ``num_heads`` divides ``dim``."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool):
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ArgumentError("num_heads", f"must divide the {dim} channels, got {num_heads}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        _, attended = attend(self.qkv(x), self.num_heads)
        return self.proj(attended)


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
    attention: what makes the attention over tokens (B, N, C) of dim, num_heads and qkv_bias.
    Raises ValueError for dimensions that do not fit, here and in the call.

    >>> block = TransformerBlock(dim=64, num_heads=4)
    >>> block(torch.randn(2, 15, 64), grid=(3, 5)).shape
    torch.Size([2, 15, 64])
    """

    def __init__(self, *, dim: int, num_heads: int, mlp_ratio: float = 4.0, qkv_bias: bool = True,
                 init_values: float = 1e-4, drop_path: float = 0.0,
                 attention: Callable[[int, int, bool], nn.Module] = Attention):
        super().__init__()
        check_counts(dim=dim, num_heads=num_heads)
        if dim * mlp_ratio < 1:
            raise ArgumentError("mlp_ratio", f"must give the MLP a width of at least 1, got {mlp_ratio} for dim {dim}")
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPSILON)
        self.attn = attention(dim, num_heads, qkv_bias)
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

"""FDAM in a finished vision transformer of timm, in place: inverted attention, both branches scaled by frequency.

Source: FDAM (ICCV 2025, arXiv 2507.12006): its blocks' arrangement, sizes and start.

C: channels.
"""
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from freqdino.errors import ArgumentError, errors_in, first_few
from freqdino.frequency.fdam.attention_inversion import InversionGates
from freqdino.frequency.fdam.frequency_scale import BLOCK_OPTIONS, FrequencyScale
from freqdino.frequency.fdam.timm_attention import (
    GridTeller,
    InvertedAttention,
    ScaledBranch,
    TokenGrid,
    TokenScaling,
)
from freqdino.frequency.fdam.timm_attention_variants import INVERTED, inverted_class
from freqdino.ops.modules import put_before

ROWS = (nn.Sequential, nn.ModuleList)


def convert_to_fdam(module: nn.Module) -> list[str]:
    """Put FDAM into the vision transformers of timm inside ``module`` and return the dotted names of the attentions.

    Each attention gets InversionGates, ``<attention>.invert``, and what attention and MLP of a block give is scaled by
    frequency, ``<attention>.freq_scale`` and ``<mlp>.freq_scale``, before LayerScale and stochastic depth; class and
    register tokens pass by the scaling. The rest of the network, its keys, hooks and hyper-parameters stay; a plain
    network's state dict still loads strictly. What is new starts as published, at 1e-5, where the network computes what
    it did up to that, and is trainable in a frozen network too. What is converted already stays and is not in the list.

    Served are networks of a ``patch_embed`` and a row of ``blocks``, whose attention is timm's plain, rotary (Eva,
    DINOv3), BEiT's, of relative positions, differential or beside the MLP, fused or not; for the size of the map the
    whole network has to be called. C must be a multiple of 16. Raises ValueError, with the block, for any other, before
    anything is changed, and TypeError where ``module`` is none. The project's own transformer has FDAM by its blocks:
    FDAMVisionTransformer.

    >>> import timm
    >>> model = timm.create_model("test_vit")
    >>> convert_to_fdam(model)[:2]
    ['blocks.0.attn', 'blocks.1.attn']
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    networks = {name: network for name, network in module.named_modules() if is_transformer(network)}
    if not networks:
        raise ArgumentError("module", f"is a {type(module).__name__} without a vision transformer of timm: that has a "
                            "patch_embed, a row of blocks and num_prefix_tokens. The project's own has FDAM as "
                            "FDAMVisionTransformer")
    grids, additions = {}, []
    for name, network in networks.items():
        with errors_in(name or type(network).__name__):
            grids[name] = getattr(network.patch_embed, "token_grid", None) or TokenGrid()
            additions += additions_to(network, f"{name}." if name else "", grids[name])
    for name, network in networks.items():
        if not isinstance(network.patch_embed, GridTeller):
            network.patch_embed.token_grid = grids[name]
            put_before(GridTeller, network.patch_embed)
    for addition in additions:
        addition.make()
    return [addition.name for addition in additions if addition.invert is not None]


def is_transformer(module: nn.Module) -> bool:
    """Whether timm's parts are there: tokens of patches, a row of blocks, and how many tokens are no patches."""
    return (isinstance(getattr(module, "blocks", None), ROWS) and hasattr(module, "num_prefix_tokens")
            and hasattr(getattr(module, "patch_embed", None), "dynamic_feat_size"))


@dataclass
class Addition:
    """What is to be added to ``part``, an attention or an MLP of the dotted ``name``."""

    name: str
    part: nn.Module
    scale: FrequencyScale
    grid: TokenGrid
    prefix_tokens: int
    invert: InversionGates | None = None

    def make(self) -> None:
        part, parameter = self.part, next(self.part.parameters())

        def fitting(addition: nn.Module) -> nn.Module:
            return addition.to(parameter.device, parameter.dtype).train(part.training)

        if self.invert is not None:
            put_before(inverted_class(part), part)
            part.invert = fitting(self.invert)
        if not isinstance(part, TokenScaling):
            put_before(ScaledBranch, part)
        part.freq_scale = fitting(self.scale)
        part.token_grid, part.prefix_tokens = self.grid, self.prefix_tokens


def additions_to(network: nn.Module, prefix: str, grid: TokenGrid) -> Iterator[Addition]:
    """What the blocks of a network lack. prefix: of its parts' names. Raises ValueError, with the block."""
    if getattr(getattr(network, "patch_drop", None), "prob", 0):
        raise ValueError("leaves out patches in training (patch_drop), so that its tokens are no map to be scaled by "
                         "frequency: build it with patch_drop_rate 0")
    for index, block in network.blocks.named_children():
        parts = dict(block.named_modules())
        attentions = {name: part for name, part in parts.items()
                      if inverted_class(part) or isinstance(part, InvertedAttention)}
        if not attentions:
            served = dict.fromkeys(path.rpartition(".")[2] for path in INVERTED)
            raise ValueError(f"blocks.{index}: {names_of_attention(block)} cannot be inverted; what can are timm's "
                             f"{', '.join(served)}, and no subclasses of them")
        inside = tuple(f"{name}." for name in attentions)       # where a bias may be made by an MLP
        mlps = {name: part for name, part in parts.items()
                if name.rpartition(".")[2] == "mlp" and not name.startswith(inside)}
        for name, part in {**attentions, **mlps}.items():
            if isinstance(part, TokenScaling):
                continue
            full_name = f"blocks.{index}.{name}".rstrip(".")
            with errors_in(full_name):
                yield Addition(prefix + full_name, part, FrequencyScale(network.embed_dim, **BLOCK_OPTIONS), grid,
                               network.num_prefix_tokens,
                               gates_for(part, network.embed_dim) if name in attentions else None)


def gates_for(attention: nn.Module, dim: int) -> InversionGates:
    """Raises ValueError where values have other than the network's ``dim`` channels."""
    width = attention.proj.in_features if hasattr(attention, "proj") else dim
    if width != dim:
        raise ValueError(f"its heads have {width} channels together and its tokens {dim}: the gates that are read off "
                         "the tokens need as many")
    return InversionGates(dim, attention.num_heads)


def names_of_attention(block: nn.Module) -> str:
    """The classes that may be a block's attention, as a message names them."""
    kinds = {type(part).__qualname__ for part in block.modules() if hasattr(part, "num_heads")}
    return first_few(sorted(kinds)) or type(block).__qualname__

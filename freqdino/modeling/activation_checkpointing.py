"""Activation checkpointing: blocks that keep their inputs alone and compute what is inside again in the backward pass.

Source: "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174).
"""
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from detectron2.layers import CNNBlockBase
from detectron2.modeling.backbone.swin import SwinTransformerBlock
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from freqdino.frequency.fdam.transformer_block import TransformerBlock
from freqdino.frequency.freqfusion.fusion import FreqFusion
from freqdino.layers.deformable_attention import DeformableEncoderLayer
from freqdino.layers.transformer import CrossAttentionLayer, FeedForwardLayer, SelfAttentionLayer
from freqdino.modeling.backbones.mscan import MSCABlock
from freqdino.modeling.backbones.token_block import TokenBlock
from freqdino.modeling.mask_dino_decoder import MaskDINODecoderLayer
from freqdino.ops.modules import PutBefore, put_before

# What is computed again as a whole: the blocks of backbones, the layers of encoder and decoders, the fusions.
BLOCKS = (CNNBlockBase, SwinTransformerBlock, TokenBlock, TransformerBlock, MSCABlock, DeformableEncoderLayer,
          SelfAttentionLayer, CrossAttentionLayer, FeedForwardLayer, MaskDINODecoderLayer, FreqFusion)
ROWS = (nn.Sequential, nn.ModuleList)
# Attributes by which Detectron2's, timm's and our modules say that they do so by themselves.
OWN_SWITCHES = ("use_checkpoint", "grad_checkpointing", "activation_checkpointing", "checkpoint")


class Checkpointed(PutBefore):
    """Stands before a block's own class. Same parameters, keys, results and random numbers, in training as ever."""

    def forward(self, *inputs, **options):
        forward = super().forward
        if not (self.training and torch.is_grad_enabled()):
            return forward(*inputs, **options)
        return checkpoint(forward, *inputs, use_reentrant=False, **options,
                          context_fn=lambda: (nullcontext(), statistics_kept(self)))


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Inside the block batch normalisations do not count what they see: they have seen it in the forward pass."""
    norms = [(norm, norm.momentum, norm.num_batches_tracked) for norm in module.modules()
             if isinstance(norm, _BatchNorm) and norm.training and norm.track_running_stats]
    for norm, *_ in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, norm.momentum, norm.num_batches_tracked in norms:
            pass


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """What is to be computed again as a whole: `BLOCKS`, and in a network of timm the innermost composed modules that
    stand in a row. None of those that do so by themselves."""
    if any(getattr(module, switch, False) is True for switch in OWN_SWITCHES):
        return
    if isinstance(module, BLOCKS):
        yield module
    elif hasattr(module, "set_grad_checkpointing"):
        yield from composed_in_rows(module)
    else:
        for child in module.children():
            yield from blocks_of(child)


def composed_in_rows(module: nn.Module) -> list[nn.Module]:
    found = []
    for child in module.children():
        inner = composed_in_rows(child)
        composed = any(True for _ in child.children()) and not isinstance(child, ROWS)
        if composed and not inner and isinstance(module, ROWS):
            inner = [child]
        found += inner
    return found


def checkpoint_blocks(model: nn.Module) -> int:
    """Have the blocks of ``model`` that do not do so compute their activations again, in place; returns how many."""
    blocks = {block for block in blocks_of(model) if not isinstance(block, Checkpointed)}
    for block in blocks:
        put_before(Checkpointed, block)
    return len(blocks)

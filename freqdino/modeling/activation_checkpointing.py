"""Activation checkpointing: blocks that keep their inputs alone and compute what is inside again in the backward pass.

Source: "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174).
"""
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache

import torch
from detectron2.layers import CNNBlockBase
from detectron2.modeling.backbone.swin import SwinTransformerBlock
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from freqdino.errors import ArgumentError
from freqdino.frequency.fdam.transformer_block import TransformerBlock
from freqdino.frequency.freqfusion.fusion import FreqFusion
from freqdino.layers.deformable_attention import DeformableEncoderLayer
from freqdino.layers.transformer import CrossAttentionLayer, FeedForwardLayer, SelfAttentionLayer
from freqdino.modeling.backbones.token_block import TokenBlock
from freqdino.modeling.mask_dino_decoder import MaskDINODecoderLayer

# What is computed again as a whole: the blocks of backbones, the layers of encoder and decoders, the fusions.
BLOCKS = (CNNBlockBase, SwinTransformerBlock, TokenBlock, TransformerBlock, DeformableEncoderLayer, SelfAttentionLayer,
          CrossAttentionLayer, FeedForwardLayer, MaskDINODecoderLayer, FreqFusion)
# Attributes by which Detectron2's, timm's and our modules say that they do so by themselves.
OWN_SWITCHES = ("use_checkpoint", "grad_checkpointing", "activation_checkpointing", "checkpoint")


class Checkpointed:
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


@cache
def checkpointed_class(block: type[nn.Module]) -> type[nn.Module]:
    return type(f"Checkpointed{block.__name__}", (Checkpointed, block), {"__module__": __name__})


def checkpoint_blocks(model: nn.Module) -> int:
    """Have every block of ``model`` that is known here compute its activations again, in place; returns their number.

    What does so already stays as it is, and networks of timm do it in their own way. Raises ArgumentError, about
    ``activation_checkpointing``, where that is none.
    """
    if any(getattr(model, switch, False) is True for switch in OWN_SWITCHES) or isinstance(model, Checkpointed):
        return 1
    if isinstance(model, BLOCKS):
        model.__class__ = checkpointed_class(type(model))
        return 1
    if hasattr(model, "set_grad_checkpointing"):
        try:
            model.set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:
            raise ArgumentError("activation_checkpointing", f"is True, but timm's {type(model).__name__} has no "
                                "activation checkpointing; take another network, or set it to False and "
                                "SOLVER.ACCUMULATE higher") from error
        return 1
    return sum(checkpoint_blocks(child) for child in model.children())

"""Every public module with arguments of its call, for contracts that all of them keep."""
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from freqdino.frequency import (
    AttentionInversion,
    FDAMBlock,
    FDAMVisionTransformer,
    FDConv,
    FDLinear,
    FreqFusion,
    FrequencyScale,
    InversionGates,
    ResidualFrequencyScale,
)
from freqdino.frequency.freqfusion.fusion import FreqFusionSum
from freqdino.frequency.rivals.upsamplers import (
    CarafeSum,
    DeconvolutionSum,
    DySampleSum,
    InterpolationSum,
    PixelShuffleSum,
)
from freqdino.layers.deformable_attention import DeformableEncoderLayer, MSDeformAttn, pixel_centres
from freqdino.layers.linear import Linear
from freqdino.layers.mlp import MLP
from freqdino.layers.transformer import CrossAttentionLayer, FeedForwardLayer

SIZES = [(5, 6), (3, 3)]
TOKENS = sum(height * width for height, width in SIZES)


class Case(NamedTuple):
    """``make()`` gives the module, ``inputs(batch)`` the floating-point tensors, ``rest`` what else the call takes."""
    make: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[torch.Tensor, ...]]
    rest: tuple = ()


def maps(*shapes):
    def inputs(batch):
        generator = torch.Generator().manual_seed(3)
        return tuple(torch.randn(batch, *shape, generator=generator) for shape in shapes)
    return inputs


def encoder_layer():
    return DeformableEncoderLayer(dim=32, num_heads=4, num_levels=2, dim_feedforward=48, dropout=0.0,
                                  invert=InversionGates(32, 4), freq_scale_1=ResidualFrequencyScale(32),
                                  freq_scale_2=ResidualFrequencyScale(32))


def of_levels(batch):
    tokens, position = maps((TOKENS, 32), (TOKENS, 32))(batch)
    return tokens, position


TWO_MAPS = maps((32, 9, 10), (32, 5, 5))
IMAGE = maps((20, 9, 10))
MODULES = {
    "FDConv": Case(lambda: FDConv(20, 24, 3, padding=1, kernel_num=4), IMAGE),
    "FDConv, multiplied": Case(lambda: FDConv(20, 32, 3, stride=2, padding=1, kernel_num=4), maps((20, 2, 3))),
    "FDConv 1 × 1": Case(lambda: FDConv(20, 24, 1, bias=False, kernel_num=4), IMAGE),
    "FDConv, 2 sets, tanh": Case(lambda: FDConv(20, 24, 3, param_ratio=2, ksm_global_act="tanh"), IMAGE),
    "FDConv in groups": Case(lambda: FDConv(20, 40, 3, groups=20), IMAGE),
    "FDConv, plain weight": Case(lambda: FDConv(20, 24, 3, convert_param=False), IMAGE),
    "FDConv, no KSM_Local": Case(lambda: FDConv(20, 24, 3, use_ksm_local=False), IMAGE),
    "FDConv, plain": Case(lambda: FDConv(20, 16, 3), IMAGE),
    "FDLinear": Case(lambda: FDLinear(20, 24, kernel_num=4), maps((11, 20))),
    "InversionGates": Case(lambda: InversionGates(32, 4), maps(*[(11, 32)] * 3)),
    "AttentionInversion": Case(lambda: AttentionInversion(32, 4), maps((11, 32))),
    "FrequencyScale": Case(lambda: FrequencyScale(32), maps((32, 6, 7))),
    "ResidualFrequencyScale": Case(lambda: ResidualFrequencyScale(32), maps((32, 14, 14))),
    "FDAMBlock": Case(lambda: FDAMBlock(dim=32, num_heads=4), maps((30, 32)), ((5, 6),)),
    "FDAMVisionTransformer": Case(lambda: FDAMVisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, out_indices=(0, 1)), maps((3, 33, 40))),
    "FreqFusion": Case(lambda: FreqFusion(32, 32, compressed_channels=16, feature_resample=True), TWO_MAPS),
    "FreqFusion, no semi_conv": Case(lambda: FreqFusion(32, 32, compressed_channels=16, semi_conv=False), TWO_MAPS),
    "FreqFusionSum": Case(lambda: FreqFusionSum(32, 32, compressed_channels=16, comp_feat_upsample=False), TWO_MAPS),
    "nearest": Case(lambda: InterpolationSum("nearest"), TWO_MAPS),
    "deconvolution": Case(lambda: DeconvolutionSum(32), TWO_MAPS),
    "pixel shuffle": Case(lambda: PixelShuffleSum(32), TWO_MAPS),
    "CARAFE": Case(lambda: CarafeSum(32), TWO_MAPS),
    "DySample+": Case(lambda: DySampleSum(32, groups=4, shuffle_first=False), TWO_MAPS),
    "DySample-S+": Case(lambda: DySampleSum(32, groups=8, shuffle_first=True), TWO_MAPS),
    "MSDeformAttn": Case(lambda: MSDeformAttn(dim=32, num_heads=4, num_levels=2), lambda batch: (
        *maps((7, 32), (7, 2))(batch), *maps((TOKENS, 32))(batch)), (SIZES,)),
    "encoder layer": Case(encoder_layer, of_levels, (pixel_centres(SIZES)[None], SIZES)),
    "Linear": Case(lambda: Linear(20, 24), maps((11, 20))),
    "MLP": Case(lambda: MLP(20, 24, 8, 3), maps((11, 20))),
    "feed-forward": Case(lambda: FeedForwardLayer(20, 24), maps((11, 20))),
    "cross-attention": Case(lambda: CrossAttentionLayer(32, 4), maps(*[(11, 32)] * 4),
                            (torch.zeros(11, 11, dtype=torch.bool),)),
}


def build(name):
    """The module in eval mode, all of its parameters moved away from their start, which would hide most errors."""
    torch.manual_seed(0)
    module = MODULES[name].make()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def run(name, module, inputs=None):
    """The outputs as a list of tensors, of a batch of two unless ``inputs`` are given."""
    case = MODULES[name]
    inputs = case.inputs(2) if inputs is None else inputs
    rest = (each.to(inputs[0].device) if isinstance(each, torch.Tensor) else each for each in case.rest)
    outputs = module(*inputs, *rest)
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)

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
from freqdino.frequency.fdam.transformer_block import TransformerBlock
from freqdino.frequency.fdam.vision_transformer import VisionTransformer
from freqdino.frequency.freqfusion.fusion import FreqFusionSum
from freqdino.frequency.freqfusion.in_heads import FreqFusionConcat, FreqFusionUpsample
from freqdino.frequency.rivals import (
    A2U,
    CARAFE,
    FADE,
    SAPAB,
    SAPAD,
    CondConv,
    DYConv,
    DySample,
    FADELite,
    IndexNet,
    KernelWarehouse,
    ODConv,
)
from freqdino.frequency.rivals.unguided import Deconvolution, Interpolation, PixelShuffle
from freqdino.frequency.rivals.upsampler import as_fusion
from freqdino.layers.deformable_attention import DeformableEncoder, DeformableEncoderLayer, MSDeformAttn, pixel_centres
from freqdino.layers.linear import Linear
from freqdino.layers.mlp import MLP
from freqdino.layers.transformer import CrossAttentionLayer, FeedForwardLayer, SelfAttentionLayer
from freqdino.modeling.backbones.mit import ReducedAttention
from freqdino.modeling.backbones.mscan import ConvolutionalAttention
from freqdino.modeling.light_ham_head import NMF

SIZES = [(5, 6), (3, 3)]
BLOCKED = torch.ones(11, 11, dtype=torch.bool).triu(1)      # whom a query may not see
TOKENS = sum(height * width for height, width in SIZES)


HALF, SINGLE, SAME = "half", "single", "as the input"


class Case(NamedTuple):
    """``make()`` gives the module, ``inputs(batch)`` the floating-point tensors, ``rest`` what else the call takes.

    ``typed``: names of the inputs, if the module itself asks for the type of its parameters. ``half``: share of the
    values that half precision may err by. ``autocast``: the type of the outputs under it, HALF, SINGLE or the input's.
    ``places``: reads a map at places computed in float32, which no gradient can be checked through.
    """
    make: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[torch.Tensor, ...]]
    rest: tuple = ()
    typed: tuple[str, ...] = ()
    half: float = 0.03
    autocast: tuple[str, ...] = (SAME, SAME, SAME)
    places: bool = False


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
IMAGE32 = maps((32, 9, 10))
GATES = ("value", "attended", "query")


def fdconv(inputs=IMAGE, *, channels=24, kernel_size=3, **options):
    return Case(lambda: FDConv(20, channels, kernel_size, **options), inputs, typed=("FDConv's x",), autocast=(HALF,))


def dynamic(kind, *, kernel_size=3, **options):
    return Case(lambda: kind(20, 24, kernel_size, **options), IMAGE, typed=(f"{kind.__name__}'s x",), autocast=(HALF,))


def fusion(kind, **options):
    """Where filters decide what is read where, half precision shows."""
    return Case(lambda: kind(32, 32, compressed_channels=16, **options), TWO_MAPS, typed=("hr_feat", "lr_feat"),
                half=0.1, autocast=(SINGLE, SAME, SAME) if kind is FreqFusion else (SAME,))


def upsampler(kind, **options):
    """In a sum where it reads the coarse map alone: every input has a gradient."""
    def make():
        module = kind(hr_channels=32, lr_channels=32, **options)
        return module if kind.reads_hr else as_fusion(module)
    return Case(make, TWO_MAPS, places=kind is SAPAD)


def vision_transformer(kind):
    return Case(lambda: kind(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, out_indices=(0, 1)),
                maps((3, 33, 40)), typed=("image",), autocast=(SINGLE, SINGLE))


MODULES = {
    "FDConv": fdconv(padding=1, kernel_num=4),
    "FDConv, multiplied": fdconv(maps((20, 2, 3)), channels=32, stride=2, padding=1, kernel_num=4),
    "FDConv 1 × 1": fdconv(kernel_size=1, bias=False, kernel_num=4),
    "FDConv, 2 sets, tanh": fdconv(param_ratio=2, ksm_global_act="tanh"),
    "FDConv 3 × 1, 2 sets, local tanh": fdconv(kernel_size=(3, 1), param_ratio=2, ksm_local_act="tanh"),
    "FDConv in groups": fdconv(channels=40, groups=20),
    "FDConv, plain weight": fdconv(convert_param=False),
    "FDConv, no KSM_Local": fdconv(use_ksm_local=False),
    "FDConv, plain": fdconv(channels=16),
    "CondConv": dynamic(CondConv, stride=2, padding=1, num=3),
    "DYConv": dynamic(DYConv, padding=1, bias=False),
    "ODConv": dynamic(ODConv, padding=1, num=2),
    "ODConv 1 × 1": dynamic(ODConv, kernel_size=1),
    "KernelWarehouse": dynamic(KernelWarehouse, padding=1, num=2, groups=4),
    "FDLinear": Case(lambda: FDLinear(20, 24, kernel_num=4), maps((11, 20)), typed=("FDLinear's x",),
                     autocast=(HALF,)),
    "InversionGates": Case(lambda: InversionGates(32, 4), maps(*[(11, 32)] * 3), typed=GATES),
    "AttentionInversion": Case(lambda: AttentionInversion(32, 4, qkv_bias=True), maps((11, 32)), typed=("x",),
                               autocast=(HALF,)),
    "FrequencyScale": Case(lambda: FrequencyScale(32), maps((32, 6, 7)), typed=("x",)),
    "ResidualFrequencyScale": Case(lambda: ResidualFrequencyScale(32), maps((32, 14, 14)), typed=("x",)),
    **{kind.__name__: Case(lambda kind=kind: kind(dim=32, num_heads=4), maps((30, 32)), ((5, 6),), autocast=(SINGLE,))
       for kind in (TransformerBlock, FDAMBlock)},
    "VisionTransformer": vision_transformer(VisionTransformer),
    "FDAMVisionTransformer": vision_transformer(FDAMVisionTransformer),
    "FreqFusion": fusion(FreqFusion, feature_resample=True),
    "FreqFusion, no semi_conv": fusion(FreqFusion, semi_conv=False),
    "FreqFusionSum": fusion(FreqFusionSum, comp_feat_upsample=False),
    "FreqFusionUpsample": fusion(FreqFusionUpsample, feature_resample=True),
    "FreqFusionConcat": fusion(FreqFusionConcat, feature_resample=True, direction_feat="sim"),
    **{name: upsampler(kind, **options) for name, (kind, options) in {
        "nearest": (Interpolation, {"mode": "nearest"}),
        "bilinear": (Interpolation, {"mode": "bilinear"}),
        "deconvolution": (Deconvolution, {}),
        "pixel shuffle": (PixelShuffle, {}),
        "CARAFE": (CARAFE, {}),
        "IndexNet": (IndexNet, {}),
        "A2U": (A2U, {"odd_sides": True}),
        "FADE": (FADE, {}),
        "FADE without gate": (FADE, {"gate": False}),
        "FADE-Lite": (FADELite, {}),
        "SAPA-B": (SAPAB, {}),
        "SAPA-D": (SAPAD, {}),
        "DySample": (DySample, {}),
        "DySample+": (DySample, {"groups": 4, "dynamic_scope": True}),
        "DySample-S+": (DySample, {"groups": 8, "shuffle_first": True, "dynamic_scope": True})}.items()},
    "ConvolutionalAttention": Case(lambda: ConvolutionalAttention(32), IMAGE32),
    "NMF": Case(lambda: NMF(32, bases=4, train_steps=2, eval_steps=3, fixed_bases=True),
                lambda batch: tuple(x.relu() for x in IMAGE32(batch))),
    "ReducedAttention": Case(lambda: ReducedAttention(32, 2, reduction=2), maps((30, 32)), ((5, 6),), autocast=(HALF,)),
    "MSDeformAttn": Case(lambda: MSDeformAttn(dim=32, num_heads=4, num_levels=2), lambda batch: (
        *maps((7, 32), (7, 2))(batch), *maps((TOKENS, 32))(batch)), (SIZES,), autocast=(HALF,), places=True),
    "encoder layer": Case(encoder_layer, of_levels, (pixel_centres(SIZES)[None], SIZES), places=True),
    "encoder": Case(lambda: DeformableEncoder(num_layers=2, dim=32, num_heads=4, num_levels=2, dim_feedforward=48,
                                              dropout=0.0), of_levels, (SIZES,), places=True),
    "Linear": Case(lambda: Linear(20, 24), maps((11, 20)), autocast=(HALF,)),
    "MLP": Case(lambda: MLP(20, 24, 8, 3), maps((11, 20)), autocast=(HALF,)),
    "feed-forward": Case(lambda: FeedForwardLayer(20, 24), maps((11, 20))),
    "self-attention": Case(lambda: SelfAttentionLayer(32, 4, pre_norm=True), maps(*[(11, 32)] * 2)),
    "cross-attention": Case(lambda: CrossAttentionLayer(32, 4), maps(*[(11, 32)] * 4), (BLOCKED,)),
}


def build(name):
    """The module in eval mode, all of its parameters moved away from their start, which would hide most errors."""
    torch.manual_seed(0)
    module = MODULES[name].make()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def assert_alike(outputs, expected, tolerance=1e-4):
    assert len(outputs) == len(expected)
    for output, value in zip(outputs, expected):
        assert output.shape == value.shape and output.isfinite().all()
        assert (output.float() - value).abs().max() <= tolerance * value.abs().max() + 1e-6


def differentiate(module, outputs):
    if list(module.parameters()):
        sum(output.sum() for output in outputs).backward()


def run(name, module, inputs=None):
    """The outputs as a list of tensors, of a batch of two unless ``inputs`` are given."""
    case = MODULES[name]
    inputs = case.inputs(2) if inputs is None else inputs
    rest = (each.to(inputs[0].device) if isinstance(each, torch.Tensor) else each for each in case.rest)
    outputs = module(*inputs, *rest)
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)

"""SegNeXt's head: global context by a factorisation of the fused map into few bases, no attention.

Sources: SegNeXt (NeurIPS 2022, arXiv 2209.08575), section 3.2; Hamburger (ICLR 2021, arXiv 2109.04553), whose
non-negative matrix factorisation it takes; FreqFusion (TPAMI 2024, arXiv 2408.12879) in it is its authors'.

B: batch, C_l, H_l, W_l: width and size of level l, D: width of the head, N = H · W: pixels, R: bases.
"""
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from torch import Tensor, bmm, nn

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_counts
from freqdino.modeling.semantic_head import SemanticHead, conv_norm_relu, project_concatenated, strides_double
from freqdino.ops.autocast import without_autocast
from freqdino.ops.modules import DerivedBuffers

SEED = 0
EPSILON = 1e-6


class NMF(DerivedBuffers):
    """Non-negative matrix factorisation: each image's map as a product of R bases and their coefficients.

    (B, D, H, W), no value below 0, to (B, D, H, W), computed in float32 at least. Every image starts from bases drawn
    uniformly, of length 1: training draws anew in every call, from the process' generator. So does the published code
    in evaluation, whose results therefore differ from run to run; with ``fixed_bases`` evaluation starts from one draw
    instead, the same for every image, on every device and in every process. Gradients run through all steps.
    """

    def __init__(self, dim: int, *, bases: int, train_steps: int, eval_steps: int, fixed_bases: bool):
        """
        Args:
            dim: D.
            bases: R.
            train_steps: updates of coefficients and bases in training.
            eval_steps: the same in evaluation.
            fixed_bases: whether evaluation starts from the one draw.
        Raises ValueError: a number below 1.
        """
        super().__init__()
        check_counts(dim=dim, bases=bases, train_steps=train_steps, eval_steps=eval_steps)
        self.dim = dim
        self.num_bases = bases
        self.train_steps = train_steps
        self.eval_steps = eval_steps
        self.fixed_bases = fixed_bases
        self.make_buffers()

    def derived_buffers(self) -> dict[str, Tensor]:
        draw = torch.rand(self.dim, self.num_bases, generator=torch.Generator("cpu").manual_seed(SEED), device="cpu")
        return {"bases": F.normalize(draw, dim=0)}

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x):
            matrix = x.to(torch.promote_types(x.dtype, torch.float32)).flatten(2)
            steps = self.train_steps if self.training else self.eval_steps
            return factorised(matrix, self._start(matrix), steps).unflatten(2, x.shape[2:]).to(x.dtype)

    def _start(self, matrix: Tensor) -> Tensor:
        """Bases (B, D, R) for a matrix (B, D, N)."""
        if self.fixed_bases and not self.training:
            self.materialise(matrix.device)
            return self.bases.to(matrix.dtype).expand(matrix.shape[0], -1, -1)
        draw = torch.rand(matrix.shape[0], self.dim, self.num_bases, dtype=matrix.dtype, device=matrix.device)
        return F.normalize(draw, dim=1)

    def extra_repr(self) -> str:
        return f"{self.dim}, bases={self.num_bases}, fixed_bases={self.fixed_bases}"


def factorised(x: Tensor, bases: Tensor, steps: int) -> Tensor:
    """x (B, D, N) as bases · coefficientsᵀ (B, D, N) after ``steps`` multiplicative updates of both.

    The bases start as given, (B, D, R), the coefficients (B, N, R) as the softmax over the bases of their products with
    x; they are updated once more after the last step.
    """
    coefficients = bmm(x.mT, bases).softmax(dim=-1)
    for _ in range(steps):
        coefficients = updated(coefficients, bases, x.mT)
        bases = updated(bases, coefficients, x)
    return bmm(bases, updated(coefficients, bases, x.mT).mT)


def updated(factor: Tensor, other: Tensor, x: Tensor) -> Tensor:
    """The factor (B, M, R) of x (B, M, K) ≈ factor · otherᵀ that is nearer to it for the other factor (B, K, R).

    ``bmm`` rather than ``@``, which would tie an exported graph to more images than one.
    """
    return factor * bmm(x, other) / (bmm(factor, bmm(other.mT, other)) + EPSILON)


class Hamburger(nn.Module):
    """ReLU(x + ham_out(NMF(ReLU(ham_in(x))))), (B, D, H, W) to (B, D, H, W); ham_in and ham_out are 1 × 1."""

    def __init__(self, dim: int, *, norm: str, **factorisation):
        super().__init__()
        self.ham_in = conv_norm_relu(dim, dim, kernel_size=1, norm="")
        self.ham = NMF(dim, **factorisation)
        self.ham_out = conv_norm_relu(dim, dim, kernel_size=1, norm=norm)[:-1]

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.ham_out(self.ham(self.ham_in(x))))


class LightHamHead(SemanticHead):
    """Maps fine to coarse -> class scores at the finest one's stride, 8 in the published networks.

    Keys: ``squeeze``, ``hamburger.{ham_in,ham_out}`` and ``align``, each with ``conv`` and ``bn`` (ham_in without
    ``bn``, like all of them with norm ""), ``conv_seg``; with FreqFusion ``freqfusions.<i>``, counted from the coarsest
    pair: each unit fuses the next finer map with what came so far, in place of resizing.
    """

    def __init__(self, *, input_shape: Mapping[str, ShapeSpec], num_classes: int, channels: int, common_stride: int,
                 norm: str, bases: int, train_steps: int, eval_steps: int, fixed_bases: bool, dropout: float,
                 ignore_value: int, loss_weight: float, make_fusion: Callable[[int, int], nn.Module] | None = None):
        """
        Args:
            channels: D.
            norm: Detectron2's name of the normalisation, "" for none.
            bases, train_steps, eval_steps, fixed_bases: see `NMF`.
            make_fusion: given the channels of a finer and a coarser map, what makes one map (B, sum of both, size of
                the finer) of them, as `FreqFusionConcat`; None: maps are resized.
            others: see `SemanticHead`.
        Raises ValueError: with ``make_fusion`` fewer than two maps, or one that is not of twice the stride of the map
        before it; a number of bases or steps below 1; what `SemanticHead` raises.
        """
        super().__init__(input_shape=input_shape, num_classes=num_classes, channels=channels,
                         common_stride=common_stride, dropout=dropout, ignore_value=ignore_value,
                         loss_weight=loss_weight)
        widths = [shape.channels for shape in input_shape.values()]
        self.freqfusions = None
        if make_fusion is not None:
            strides = [shape.stride for shape in input_shape.values()]
            if len(strides) < 2 or not strides_double(input_shape):
                raise ArgumentError("input_shape", "must name two maps or more for FreqFusion, each of twice the "
                                    f"stride of the one before it, got {list(input_shape)} of strides {strides}")
            self.freqfusions = nn.ModuleList(make_fusion(widths[level], sum(widths[level + 1:]))
                                             for level in reversed(range(len(widths) - 1)))
        self.squeeze = conv_norm_relu(sum(widths), channels, kernel_size=1, norm=norm)
        self.hamburger = Hamburger(channels, norm=norm, bases=bases, train_steps=train_steps, eval_steps=eval_steps,
                                   fixed_bases=fixed_bases)
        self.align = conv_norm_relu(channels, channels, kernel_size=1, norm=norm)

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_l, H_l, W_l), fine to coarse -> (B, D, H_0, W_0)."""
        if self.freqfusions is not None:
            *finer, fused = maps
            for feature_map, fuse in zip(reversed(finer), self.freqfusions):
                fused = fuse(feature_map, fused)
            maps = [fused]
        return self.align(self.hamburger(project_concatenated(self.squeeze, maps)))

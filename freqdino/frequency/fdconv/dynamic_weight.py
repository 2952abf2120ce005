"""The weight that FDConv and FDLinear share: a Fourier Disjoint Weight under Kernel Spatial Modulation.

Source: Frequency Dynamic Convolution for Dense Image Prediction (FDConv, CVPR 2025, arXiv 2503.18783).

Shape key: B: batch, Co, Ci: output and input channels, G: groups of the convolution, kh, kw: kernel size,
R = Co·kh, K = (Ci/G)·kw: the weight matrix, p: param_ratio.
"""
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from freqdino.frequency.fdconv.fourier_weight import (
    at_least_float32,
    frequency_groups,
    grouped_matrices,
    matrix_to_weight,
    spectrum_to_matrix,
    weight_to_spectrum,
)
from freqdino.frequency.fdconv.gated_product import gated, gated_product
from freqdino.frequency.fdconv.kernel_modulation import KernelFactors, KSMGlobal, KSMLocal, add_neutral
from freqdino.frequency.fdconv.modulated_weight import Modulation, modulated_weight
from freqdino.frequency.fdconv.plain_weight import PlainWeight, cannot_be_computed_with
from freqdino.frequency.image_conv import by_images
from freqdino.frequency.plain_state import FromPlainState, plain_entry
from freqdino.ops.autocast import without_autocast
from freqdino.ops.modules import DerivedBuffers, is_recorded, overwrites, ready_to_flatten

MODULATION = ("KSM_Global", "KSM_Local", "FBM")


class DynamicWeight(FromPlainState, DerivedBuffers):
    """Base of a layer whose ``weight`` (Co, Ci/G[, kh, kw]) becomes ``dft_weight`` (p, R, K//2 + 1, 2), modulated.

    ``weight`` can still be initialised, see `PlainWeight`. The layer calls ``make_dynamic`` once its plain weight
    exists, and ``forward_images`` with its answer to images that come with their factors. Loading: a plain ``weight``
    in place of ``dft_weight`` is converted; where the state dict holds no modulation either (it is a plain layer's),
    the modulation is set to neutral, so that the layer computes what the plain one did. Everything else loads as ever.
    """

    def make_dynamic(self, *, in_channels: int, groups: int, kernel_num: int, param_ratio: int, reduction: float,
                     temp: float | None, kernel_temp: float, att_multi: float, ksm_global_act: str,
                     ksm_kernel_act: str | None, use_ksm_local: bool, ksm_local_act: str, convert_param: bool):
        out_channels, group_channels, *kernel = self.weight.shape
        height, width = kernel or (1, 1)
        self.plain_shape = self.weight.shape
        self.conv_shape = (out_channels, group_channels, height, width)
        self.matrix_columns = group_channels * width
        self.channel_groups = groups
        self.is_loading = False     # load_state_dict with assign=True puts other parameters in the place of ours
        self.kernel_num, self.param_ratio, self.convert_param = kernel_num, param_ratio, convert_param
        # Coefficients are stored divided by this; the factors' neutral value is 1/(kernel_num · param_ratio).
        self.scale = max(min(in_channels, out_channels) // 2, 1)
        self.amplitude = self.scale * kernel_num * param_ratio
        self.make_buffers(self.weight.device)

        self.KSM_Global = KSMGlobal(
            in_channels, out_channels, positions=height * width, kernel_num=kernel_num * param_ratio,
            depthwise=groups == in_channels == out_channels, reduction=reduction,
            temp=kernel_temp if temp is None else temp, kernel_temp=kernel_temp, att_multi=att_multi,
            act=ksm_global_act, kernel_act=ksm_kernel_act or ksm_global_act).to(self.weight)
        self.KSM_Local = KSMLocal(in_channels, out_channels, kernel_size=(height, width), groups=groups,
                                  act=ksm_local_act).to(self.weight) if use_ksm_local else None
        if convert_param:
            self.dft_weight = nn.Parameter(self.to_coefficients(self.weight.detach()))
            self.weight = None

    def derived_buffers(self) -> dict[str, Tensor]:
        groups = frequency_groups(self.conv_shape[0] * self.conv_shape[2], self.matrix_columns, self.kernel_num)
        return {"group_map": groups.to(torch.int32)}    # int32 halves what index_select has to read

    def reset_parameters(self):
        """As at construction: a plain layer's weight under a neutral modulation."""
        super().reset_parameters()
        for name in MODULATION:
            # Children first: a part knows better than torch's layers how it starts.
            for part in reversed(list((getattr(self, name, None) or nn.Identity()).modules())):
                if hasattr(part, "reset_parameters"):
                    part.reset_parameters()

    def __getattr__(self, name: str):
        value = super().__getattr__(name)
        if name == "weight" and value is None:
            return PlainWeight(self, self.dft_weight.requires_grad)
        return value

    def register_parameter(self, name: str, param: nn.Parameter | None):
        if param is not None and name.startswith("weight") and "convert_param" in self.__dict__:
            if self.convert_param:
                raise ValueError(cannot_be_computed_with(self))
            if self._parameters.get(name) is not None and not self.is_loading:
                raise ValueError(f"{type(self).__name__}'s weight is set by weight.data.copy_(w). To put another "
                                 "parameter in its place is what fusing a normalisation does, whose factors the "
                                 "modulation would change")
        super().register_parameter(name, param)

    def to_coefficients(self, weight: Tensor) -> Tensor:
        """A plain weight -> (p, R, K//2 + 1, 2) of its type: p equal shares, since their sum is what counts."""
        spectrum = weight_to_spectrum(weight.reshape(self.conv_shape)) / (self.scale * self.param_ratio)
        return spectrum.to(weight.dtype).expand(self.param_ratio, -1, -1, -1).clone()

    def coefficients(self) -> Tensor:
        """(p, R, K//2 + 1, 2), in float32 at least, contiguous whatever the model's memory format."""
        if not self.convert_param:
            return self.to_coefficients(self.weight.to(at_least_float32(self.weight)))
        return self.dft_weight.to(at_least_float32(self.dft_weight)).contiguous()

    def static_weight(self) -> Tensor:
        """The weight at neutral modulation, in the plain layer's shape: the one that ``dft_weight`` was made from."""
        if not self.convert_param:
            return self.weight
        matrix = spectrum_to_matrix(self.coefficients().sum(0, keepdim=True) * self.scale, self.matrix_columns)
        return matrix_to_weight(matrix, self.conv_shape).reshape(self.plain_shape).to(self.dft_weight.dtype)

    def has_coefficients(self) -> bool:
        """Whether ``dft_weight`` is the parameter: not where the layer is inactive or keeps its plain weight."""
        return hasattr(self, "dft_weight")

    def relative_step(self, *, by_sign: bool) -> float:
        """How far a step on ``dft_weight`` moves `static_weight`, over a plain weight's step of the same rate.

        ``by_sign``: AdamW's, which moves every number by about the rate r; else SGD's, by r times the gradient.

        With s the divisor of the coefficients and M the R × K matrix, M̂ = s·Σ_p c_p, and of the coefficients c one half
        is stored: a number of it stands for itself and its mirror image. Changes Δ of the stored real and imaginary
        parts change M by (2ps/RK) Σ_half (Δ_re cos θ − Δ_im sin θ), and RK/2 coefficients of the half spectrum with
        Δ_re, Δ_im = ±r give an element p·s·√2/√(RK)·r as its root mean square (p: all sets have the same gradient).
        A gradient G of M is (2s/RK)·Ĝ of each set's coefficients: a step of −r times that changes M̂ by −(2ps²/RK)·r·Ĝ,
        all of M by the same share. So s·√2/√(RK), 0.236 for 3 × 3 at any equal width and 0.354 for 1 × 1 at 64 to 256
        channels, or its square, 0.056 for 3 × 3, times p. Few coefficients are no mirrored pairs: the columns 0 and K/2
        hold both of a pair, and a step by the gradient moves them half as far; at most four are real.
        FDLinear's weight is the case kh = kw = 1. A depthwise convolution, whose s is half of all channels where K is
        kw alone, moves farther than a plain one from 32 channels on (3 × 3: √(2C)/6).
        """
        rows, columns = self.dft_weight.shape[1], self.matrix_columns
        step = self.scale * math.sqrt(2 / (rows * columns))
        return self.param_ratio * (step if by_sign else step ** 2)

    def image_matrices(self, logits: Tensor) -> Tensor:
        """The weight matrices of the images under the factors on groups of coefficients: (B·G, R/G, K).

        Twice that for KSM_Local, which gives half of its factors: there are few gains to double.
        """
        coefficients = self.coefficients()
        gains = self.KSM_Global.gains(logits, self.doubled_amplitude()).to(coefficients.dtype)
        matrices = grouped_matrices(coefficients, gains.unflatten(1, (self.param_ratio, -1)), self.group_map,
                                    self.matrix_columns)
        return matrices.view(-1, matrices.shape[1] // self.channel_groups, self.matrix_columns)

    def doubled_amplitude(self) -> float:
        return self.amplitude * (1 if self.KSM_Local is None else 2)

    def input_factors(self, factors: KernelFactors) -> Tensor:
        """The factors on channels and kernel positions: (B, G, kh, Ci/G, kw)."""
        _, group_channels, height, width = self.conv_shape
        by_channel = factors.channel.view(factors.channel.shape[0], -1, 1, group_channels, 1)
        if factors.spatial is None:
            return by_channel
        return by_channel * factors.spatial.view(-1, 1, height, 1, width)

    def local_factors(self, pooled: Tensor) -> Iterator[Tensor]:
        """KSM_Local's U (B·G, R/G, D) and V (B·G, D, K)."""
        return (ready_to_flatten(each).flatten(0, 1) for each in self.KSM_Local(pooled))

    def image_weights(self, pooled: Tensor, logits: Tensor, dtype: torch.dtype) -> Tensor:
        """The weight of each image: (B, Co, Ci/G, kh, kw), of type ``dtype``. pooled: (B, Ci), logits: KSM_Global's."""
        if pooled.device.type != "cpu" and self.channel_groups == 1 and not is_recorded():
            counts = self.KSM_Global.counts()
            scale = (self.doubled_amplitude() * self.KSM_Global.group_scale()
                     * self.KSM_Global.multiple ** sum(count > 0 for count in counts[:3]))
            local = None if self.KSM_Local is None else self.KSM_Local.logits(pooled)
            return modulated_weight(self.coefficients(), self.group_map, logits, local,
                                    Modulation(counts, self.KSM_Global.softmax, scale, self.conv_shape), dtype)
        matrices, factors = self.image_matrices(logits), self.KSM_Global.factors(logits)
        if self.KSM_Local is not None:
            matrices = gated(matrices, *self.local_factors(pooled))
        matrices = matrices.unflatten(0, (pooled.shape[0], -1))
        inputs = self.input_factors(factors)
        # In place takes half the time, but autograd would have to copy what is overwritten.
        times = Tensor.mul_ if overwrites() else Tensor.mul
        weight = times(matrices.unflatten(2, (-1, self.conv_shape[2])), inputs.flatten(3)[:, :, None])
        if factors.filter is not None:
            weight = times(weight, factors.filter.view(*weight.shape[:3], 1, 1))
        return matrix_to_weight(weight.flatten(1, 3), self.conv_shape).to(dtype)

    def product(self, columns: Tensor, pooled: Tensor, logits: Tensor) -> Tensor:
        """The images' weights times columns (B, G, kh·(Ci/G)·kw, L): (B, Co, L), without bias. pooled: (B, Ci).

        The weights are never formed: the factors on single channels, positions and filters go to the columns and to the
        result, the others are applied block by block.
        """
        matrices, factors = self.image_matrices(logits), self.KSM_Global.factors(logits)
        inputs = self.input_factors(factors).flatten(2).unsqueeze(3)
        columns = (columns * inputs.to(columns.dtype)).flatten(0, 1)
        if self.KSM_Local is None:
            y = matrices.view(matrices.shape[0], -1, columns.shape[1]).to(columns.dtype) @ columns
        else:
            y = gated_product(matrices, *self.local_factors(pooled), columns)
        y = y.unflatten(0, (pooled.shape[0], -1)).flatten(1, 2)
        return y if factors.filter is None else y * factors.filter.unsqueeze(2).to(y.dtype)

    def forward_images(self, x: Tensor, pooled: Tensor, respond: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """The layer's output for x (B, …), each image under its own weight. pooled: (B, Ci), the mean of x.

        ``respond`` gives the output for some of the images from their parts of x, of ``pooled`` and of KSM_Global's
        logits. Without gradients the images go in pieces: weights and maps of one may fit a cache where those of all do
        not.
        """
        self.materialise()
        with without_autocast(x):
            pooled = pooled.to((self.dft_weight if self.convert_param else self.weight).dtype)
            logits = self.KSM_Global(pooled[..., None, None])
        return by_images(respond, (x, pooled, logits), self.conv_shape)

    def adapt_plain_state(self, state_dict: dict[str, Tensor], prefix: str) -> list[str]:
        """See `freqdino.frequency.plain_state`. ValueError, and nothing changed, for a weight of another shape."""
        if not hasattr(self, "group_map") or (plain := plain_entry(state_dict, prefix, self.plain_shape)) is None:
            return []
        if self.convert_param and f"{prefix}dft_weight" not in state_dict:
            state_dict[f"{prefix}dft_weight"] = self.to_coefficients(plain)
            del state_dict[f"{prefix}weight"]
        return add_neutral({name: module for name, module in self.named_children() if name in MODULATION}, state_dict,
                           prefix)

    def _load_from_state_dict(self, *args):
        self.is_loading = True
        try:
            super()._load_from_state_dict(*args)
        finally:
            self.is_loading = False

"""The weight that FDConv and FDLinear share: a Fourier Disjoint Weight under Kernel Spatial Modulation.

Source: Frequency Dynamic Convolution for Dense Image Prediction (FDConv, CVPR 2025, arXiv 2503.18783).

Shape key: B: batch, Co, Ci: output and input channels, G: groups of the convolution, kh, kw: kernel size,
R = Co·kh, K = (Ci/G)·kw: the weight matrix, p: param_ratio.
"""
import copy
from collections.abc import Callable

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
from freqdino.frequency.fdconv.kernel_modulation import KernelFactors, KSMGlobal, KSMLocal

MODULATION = ("KSM_Global", "KSM_Local", "FBM")


class DynamicWeight(nn.Module):
    """Base of a layer whose ``weight`` (Co, Ci/G[, kh, kw]) becomes ``dft_weight`` (p, R, K//2 + 1, 2), modulated.

    The layer calls ``make_dynamic`` once its plain weight exists, and ``forward_images`` with its answer to images that
    come with their factors. Loading: a plain ``weight`` in place of ``dft_weight`` is converted; where the state dict
    holds no modulation either (it is a plain layer's), the modulation is set to neutral, so that the layer computes
    what the plain one did. Everything else loads as ever.
    """

    def make_dynamic(self, *, in_channels: int, groups: int, kernel_num: int, param_ratio: int, reduction: float,
                     temp: float | None, kernel_temp: float, att_multi: float, ksm_global_act: str,
                     ksm_kernel_act: str | None, ksm_local_act: str, convert_param: bool):
        out_channels, group_channels, *kernel = self.weight.shape
        height, width = kernel or (1, 1)
        self.plain_shape = self.weight.shape
        self.conv_shape = (out_channels, group_channels, height, width)
        self.matrix_columns = group_channels * width
        self.param_ratio = param_ratio
        # Coefficients are stored divided by this; the factors' neutral value is 1/(kernel_num · param_ratio).
        self.scale = max(min(in_channels, out_channels) // 2, 1)
        self.amplitude = self.scale * kernel_num * param_ratio
        # int32 halves what index_select has to read.
        group_map = frequency_groups(out_channels * height, self.matrix_columns, kernel_num).to(torch.int32)
        self.register_buffer("group_map", group_map.to(self.weight.device), persistent=False)

        self.KSM_Global = KSMGlobal(
            in_channels, out_channels, positions=height * width, kernel_num=kernel_num * param_ratio,
            depthwise=groups == in_channels == out_channels, reduction=reduction,
            temp=kernel_temp if temp is None else temp, kernel_temp=kernel_temp, att_multi=att_multi,
            act=ksm_global_act, kernel_act=ksm_kernel_act or ksm_global_act).to(self.weight)
        self.KSM_Local = KSMLocal(in_channels, out_channels, kernel_size=(height, width), groups=groups,
                                  act=ksm_local_act).to(self.weight)
        if convert_param:
            self.dft_weight = nn.Parameter(self.to_coefficients(self.weight.detach()))
            self.weight = None

    def to_coefficients(self, weight: Tensor) -> Tensor:
        """A plain weight → (p, R, K//2 + 1, 2) of its type: p equal shares, since their sum is what counts."""
        spectrum = weight_to_spectrum(weight.reshape(self.conv_shape)) / (self.scale * self.param_ratio)
        return spectrum.to(weight.dtype).expand(self.param_ratio, -1, -1, -1).clone()

    def coefficients(self) -> Tensor:
        """(p, R, K//2 + 1, 2), in float32 at least."""
        if self.weight is not None:
            return self.to_coefficients(self.weight.to(at_least_float32(self.weight)))
        return self.dft_weight.to(at_least_float32(self.dft_weight))

    def static_weight(self) -> Tensor:
        """The weight at neutral modulation, in the plain layer's shape: the one that ``dft_weight`` was made from."""
        if self.weight is not None:
            return self.weight
        matrix = spectrum_to_matrix(self.coefficients().sum(0, keepdim=True) * self.scale, self.matrix_columns)
        return matrix_to_weight(matrix, self.conv_shape).reshape(self.plain_shape).to(self.dft_weight.dtype)

    def image_matrices(self, factors: KernelFactors) -> Tensor:
        """Twice the weight matrices of the images (B, R, K) under the factors on groups of coefficients.

        Twice, for KSM_Local gives half of its factors: there are few gains to double.
        """
        coefficients = self.coefficients()
        gains = (factors.kernel * (2 * self.amplitude)).to(coefficients.dtype)
        return grouped_matrices(coefficients, gains.unflatten(1, (self.param_ratio, -1)), self.group_map,
                                self.matrix_columns)

    def input_factors(self, factors: KernelFactors) -> Tensor:
        """The factors on channels and kernel positions: (B, G, kh, Ci/G, kw)."""
        _, group_channels, height, width = self.conv_shape
        by_channel = factors.channel.view(len(factors.channel), -1, 1, group_channels, 1)
        if factors.spatial is None:
            return by_channel
        return by_channel * factors.spatial.view(-1, 1, height, 1, width)

    def image_weights(self, pooled: Tensor, factors: KernelFactors) -> Tensor:
        """The weight of each image: (B, Co, Ci/G, kh, kw). pooled: (B, Ci)."""
        left, right = self.KSM_Local(pooled)
        matrices = self.image_matrices(factors).view(*left.shape[:3], -1)
        matrices = gated(*(each.flatten(0, 1) for each in (matrices, left, right))).view_as(matrices)
        inputs = self.input_factors(factors)
        # In place takes half the time, but autograd would have to copy what is overwritten.
        times = Tensor.mul if torch.is_grad_enabled() else Tensor.mul_
        weight = times(matrices.unflatten(2, (-1, self.conv_shape[2])), inputs.flatten(3)[:, :, None])
        if factors.filter is not None:
            weight = times(weight, factors.filter.view(*weight.shape[:3], 1, 1))
        return matrix_to_weight(weight.flatten(1, 3), self.conv_shape)

    def product(self, columns: Tensor, pooled: Tensor, factors: KernelFactors) -> Tensor:
        """The images' weights times columns (B, G, kh·(Ci/G)·kw, L): (B, Co, L), without bias. pooled: (B, Ci).

        The weights are never formed: the factors on single channels, positions and filters go to the columns and to the
        result, the others are applied block by block.
        """
        left, right = self.KSM_Local(pooled)
        inputs = self.input_factors(factors).flatten(2).unsqueeze(3)
        columns = columns * inputs.to(columns.dtype)
        matrices = self.image_matrices(factors).view(*left.shape[:3], -1)
        y = gated_product(*(each.flatten(0, 1) for each in (matrices, left, right, columns)))
        y = y.unflatten(0, (len(pooled), -1)).flatten(1, 2)
        return y if factors.filter is None else y * factors.filter.unsqueeze(2).to(y.dtype)

    def forward_images(self, x: Tensor, pooled: Tensor, respond: Callable[[Tensor, Tensor, KernelFactors], Tensor]
                       ) -> Tensor:
        """The layer's output for x (B, …), each image under its own weight. pooled: (B, Ci), the mean of x.

        ``respond`` gives the output for some of the images from their parts of x, of ``pooled`` and of the factors.
        On a CPU without gradients the images go one by one: weights and maps of one fit the caches where those of all
        do not, and only one weight is held at a time.
        """
        with torch.autocast(x.device.type, enabled=False):
            pooled = pooled.to(self.KSM_Local.conv.weight.dtype)
            factors = self.KSM_Global(pooled[..., None, None])
        step = 1 if x.device.type == "cpu" and not torch.is_grad_enabled() else len(x)
        images = [slice(start, start + step) for start in range(0, len(x), step)]
        outputs = [respond(x[some], pooled[some], factors.of_images(some)) for some in images]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def adapt_plain_state(self, state_dict: dict[str, Tensor], prefix: str) -> list[str]:
        """See `freqdino.frequency.plain_state`. ValueError, and nothing changed, for a weight of another shape."""
        plain = state_dict.get(f"{prefix}weight")
        if not hasattr(self, "group_map") or plain is None:
            return []
        if plain.shape != self.plain_shape:
            raise ValueError(f"size mismatch for {prefix}weight: copying a param with shape {tuple(plain.shape)} "
                             f"from checkpoint, the plain weight has shape {tuple(self.plain_shape)}.")
        if self.weight is None and f"{prefix}dft_weight" not in state_dict:
            state_dict[f"{prefix}dft_weight"] = self.to_coefficients(state_dict.pop(f"{prefix}weight"))
        modulation = {name: module for name, module in self.named_children() if name in MODULATION}
        if any(key.startswith(tuple(f"{prefix}{name}." for name in modulation)) for key in state_dict):
            return []
        neutral = {}
        for name, module in modulation.items():
            module = copy.deepcopy(module)  # the layer itself changes only when the entries are loaded
            module.make_neutral()
            neutral.update(module.state_dict(prefix=f"{prefix}{name}."))
        state_dict.update(neutral)
        return list(neutral)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                              error_msgs):
        try:
            self.adapt_plain_state(state_dict, prefix)
        except ValueError as error:
            error_msgs.append(str(error))
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                                      error_msgs)


def product_type(x: Tensor) -> torch.dtype:
    """The type in which matrix products with x are computed: autocast's where that is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype

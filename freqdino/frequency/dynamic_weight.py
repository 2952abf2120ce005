"""The weight that FDConv and FDLinear share: a Fourier Disjoint Weight under Kernel Spatial Modulation.

Source: Frequency Dynamic Convolution for Dense Image Prediction (FDConv, CVPR 2025, arXiv 2503.18783).

Shape key: B: batch, Co, Ci: output and input channels, G: groups of the convolution, kh, kw: kernel size,
R = Co·kh, K = (Ci/G)·kw: the weight matrix, p: param_ratio.
"""
import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from freqdino.frequency.fourier_weight import (
    at_least_float32,
    frequency_groups,
    matrix_to_weight,
    spectrum_to_matrix,
    weight_to_spectrum,
)
from freqdino.frequency.kernel_modulation import KernelFactors, KSMGlobal, KSMLocal

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
        self.KSM_Local = KSMLocal(in_channels, out_channels, positions=height * width, groups=groups,
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

    def image_weights(self, pooled: Tensor, factors: KernelFactors, complete: bool = True) -> Tensor:
        """(B, Co, Ci/G, kh, kw), input channels last in memory, along which the factors are multiplied fastest.

        Unless ``complete``, the channel and filter factors are left to the caller. pooled: (B, Ci).
        """
        coefficients = self.coefficients()
        gains = self.group_gains((factors.kernel * self.amplitude).to(coefficients.dtype)).unsqueeze(-1)
        spectrum = coefficients[0] * gains[:, 0]
        for share in range(1, self.param_ratio):
            spectrum = torch.addcmul(spectrum, coefficients[share], gains[:, share])
        weight = matrix_to_weight(spectrum_to_matrix(spectrum, self.matrix_columns), self.conv_shape)
        out_channels, group_channels, height, width = self.conv_shape
        weight = self.KSM_Local(pooled).unflatten(2, (height, width)) * weight.permute(0, 1, 3, 4, 2)
        # The small factors meet first: each product with the weight is a pass through memory.
        small = []
        if factors.spatial is not None:
            small.append(factors.spatial.view(-1, 1, height, width, 1))
        if complete and factors.filter is not None:
            small.append(factors.filter.view(-1, out_channels, 1, 1, 1))
        if small:
            weight = weight * math.prod(small)
        if complete:
            channel = factors.channel.view(len(weight), -1, 1, 1, 1, group_channels)
            weight = (weight.unflatten(1, (channel.shape[1], -1)) * channel).flatten(1, 2)
        return weight.permute(0, 1, 4, 2, 3)

    def group_gains(self, kernel: Tensor) -> Tensor:
        """Each coefficient's factor, that of its group: (B, p·kernel_num) → (B, p, R, K//2 + 1)."""
        rows = len(kernel) * self.param_ratio
        index = self.group_map.flatten()
        if rows > 1:
            starts = torch.arange(0, kernel.numel(), kernel.numel() // rows, dtype=index.dtype, device=index.device)
            index = (starts[:, None] + index).flatten()
        # Gathered from a vector: in more dimensions the gradient of index_select is many times slower on a CPU.
        return kernel.flatten().index_select(0, index).view(-1, self.param_ratio, *self.group_map.shape)

    def forward_images(self, x: Tensor, pooled: Tensor, respond: Callable[[Tensor, Tensor, KernelFactors], Tensor]
                       ) -> Tensor:
        """The layer's output for x (B, …), each image under its own weight. pooled: (B, Ci), the mean of x.

        ``respond`` gives the output for some of the images from their parts of x, of ``pooled`` and of the factors.
        On a CPU the images go one by one: weights, spectra and maps of one fit the caches where those of all do not.
        """
        with torch.autocast(x.device.type, enabled=False):
            pooled = pooled.to(self.KSM_Local.conv.weight.dtype)
            factors = self.KSM_Global(pooled[..., None, None])
        step = 1 if x.device.type == "cpu" else len(x)
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

"""FDConv: a convolution whose weight and input bands are modulated for each image in the frequency domain.

Source: Frequency Dynamic Convolution for Dense Image Prediction (CVPR 2025, arXiv 2503.18783).

Shape key: B: batch, Ci, Co: input and output channels, G: groups of the convolution, H, W: input size,
H', W': output size, kh, kw: kernel size.
"""
import math
from collections.abc import Callable, Mapping, Sequence, Set

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_choice, check_counts
from freqdino.frequency.fdconv.band_modulation import FrequencyBandModulation
from freqdino.frequency.fdconv.dynamic_weight import DynamicWeight
from freqdino.frequency.image_conv import ImageConv2d
from freqdino.ops.autocast import product_type, without_autocast
from freqdino.ops.modules import is_exported

BAND_OPTIONS = ("k_list", "lowfreq_att", "act", "spatial_group", "spatial_kernel")
# Keys of the published fbm_cfg that have one value in every published configuration, the only one served.
FIXED_BAND_OPTIONS = {"fs_feat": "feat", "spatial": "conv", "init": "zero", "global_selection": False}
# Published arguments of FDConv that have one value in every published configuration, the only one served.
FIXED_OPTIONS = {"param_reduction": 1.0, "ksm_only_kernel_att": False, "att_grid": 1, "spatial_freq_decompose": False,
                 "linear_mode": False}
# The convolution is a matrix product where the map has so many times fewer pixels than the weight has rows.
SMALL_MAP = 4


class FDConv(DynamicWeight, ImageConv2d):
    """Drop-in for nn.Conv2d: (B, Ci, H, W) -> (B, Co, H', W'), with a weight of its own for each image.

    Active where min(Ci, Co) > ``use_fdconv_if_c_gt`` and kh and kw are in ``use_fdconv_if_k_in``; elsewhere it is the
    plain convolution, with its keys. Active: y = conv(FBM(x), W · KSM(mean of x)), where

    - W is the Fourier Disjoint Weight ``dft_weight`` with a factor for each of ``kernel_num`` groups of coefficients
      (the last one takes the rest where they do not divide); ``param_ratio`` sets of coefficients are summed.
      ``convert_param=False`` keeps the plain ``weight`` as the parameter and transforms it in every call.
    - KSM (``KSM_Global`` and, unless ``use_ksm_local`` is False, ``KSM_Local``) are factors on kernel positions, input
      channels, filters and elements, through sigmoid or tanh (``ksm_kernel_act`` also softmax; its default is
      ``ksm_global_act``). ``reduction``: hidden width over Ci, at least 16. ``temp`` (default ``kernel_temp``) and
      ``kernel_temp`` divide the logits; ``att_multi`` is the sigmoid factors' upper bound.
    - FBM (``FBM``, where the larger of kh and kw is in ``use_fbm_if_k_in``) weights frequency bands of x pixel by
      pixel: ``fbm_cfg`` holds FrequencyBandModulation's arguments.

    It starts neutral, computing what nn.Conv2d with ``static_weight()`` computes, and a plain convolution's state dict
    loads as it is. With groups each convolution group's block of the weight is part of one matrix (R = Co·kh rows,
    K = (Ci/G)·kw columns). A single image in training uses the running statistics of KSM_Global's BatchNorm. Transforms
    and factors are computed in float32 under autocast and for bfloat16 and float16 weights.

    ``norm`` and ``activation`` are applied to the output, as by Detectron2's Conv2d.

    ``param_reduction``, ``ksm_only_kernel_att``, ``att_grid``, ``spatial_freq_decompose`` and ``linear_mode`` are
    published arguments that are accepted with their published defaults alone.

    Raises ValueError for a wrong argument, or an input that is not (B, Ci, H, W) with H, W ≥ 1, of the
    parameters' type.

    >>> conv = FDConv(32, 64, 3, stride=2, padding=1, kernel_num=16)
    >>> conv(torch.zeros(2, 32, 9, 12)).shape
    torch.Size([2, 64, 5, 6])
    >>> sorted({key.partition(".")[0] for key in conv.state_dict()})
    ['FBM', 'KSM_Global', 'KSM_Local', 'bias', 'dft_weight']
    >>> plain = nn.Conv2d(32, 64, 3, stride=2, padding=1)
    >>> conv.load_state_dict(plain.state_dict())
    <All keys matched successfully>
    >>> x = torch.randn(2, 32, 9, 12)
    >>> torch.allclose(conv(x), plain(x), atol=1e-4)
    True
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int],
                 stride: int | tuple[int, int] = 1, padding: int | tuple[int, int] | str = 0,
                 dilation: int | tuple[int, int] = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros",
                 device: torch.device | str | None = None, dtype: torch.dtype | None = None, *,
                 kernel_num: int = 4, use_fdconv_if_c_gt: int = 16, use_fdconv_if_k_in: Sequence[int] = (1, 3),
                 use_fbm_if_k_in: Sequence[int] = (3,), reduction: float = 0.0625,
                 kernel_temp: float = 1.0, temp: float | None = None, att_multi: float = 2.0, param_ratio: int = 1,
                 ksm_global_act: str = "sigmoid", ksm_kernel_act: str | None = None, ksm_local_act: str = "sigmoid",
                 use_ksm_local: bool = True, fbm_cfg: Mapping[str, object] | None = None, convert_param: bool = True,
                 param_reduction: float = 1.0, ksm_only_kernel_att: bool = False, att_grid: int = 1,
                 spatial_freq_decompose: bool = False, linear_mode: bool = False,
                 norm: nn.Module | None = None, activation: Callable[[Tensor], Tensor] | None = None):
        check_counts(kernel_num=kernel_num, param_ratio=param_ratio)
        for name, sizes in (("use_fdconv_if_k_in", use_fdconv_if_k_in), ("use_fbm_if_k_in", use_fbm_if_k_in)):
            if not isinstance(sizes, (Sequence, Set)) or isinstance(sizes, str):
                raise ArgumentError(name, f"must hold kernel sizes, as [1, 3] does, got {sizes!r}")
        check_choice((True, False), use_ksm_local=use_ksm_local, convert_param=convert_param)
        check_fixed("FDConv's", FIXED_OPTIONS, param_reduction=param_reduction, ksm_only_kernel_att=ksm_only_kernel_att,
                    att_grid=att_grid, spatial_freq_decompose=spatial_freq_decompose, linear_mode=linear_mode)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
                         device, dtype, norm=norm, activation=activation)
        self.active = (min(in_channels, out_channels) > use_fdconv_if_c_gt
                       and all(size in use_fdconv_if_k_in for size in self.kernel_size))
        if not self.active:
            return
        self.FBM = None
        if max(self.kernel_size) in use_fbm_if_k_in:
            self.FBM = FrequencyBandModulation(in_channels, **band_arguments(fbm_cfg or {})).to(self.weight)
        self.make_dynamic(in_channels=in_channels, groups=groups, kernel_num=kernel_num, param_ratio=param_ratio,
                          reduction=reduction, temp=temp, kernel_temp=kernel_temp, att_multi=att_multi,
                          ksm_global_act=ksm_global_act, ksm_kernel_act=ksm_kernel_act, use_ksm_local=use_ksm_local,
                          ksm_local_act=ksm_local_act, convert_param=convert_param)

    def respond_to(self, x: Tensor, pooled: Tensor) -> Tensor:
        return self.forward_images(x, pooled, self.respond)

    def respond(self, x: Tensor, pooled: Tensor, logits: Tensor) -> Tensor:
        """x: (B, Ci, H, W), pooled: (B, Ci) -> (B, Co, H', W'), before norm and activation."""
        if self.FBM is not None:
            x = self.FBM(x)
        if not is_exported() and SMALL_MAP * math.prod(x.shape[2:]) <= self.out_channels // self.groups:
            return self.multiply(x, pooled, logits)
        dtype = product_type(x)
        with without_autocast(x):
            weight = self.image_weights(pooled, logits, dtype)
        return self.convolve(x, weight)

    def multiply(self, x: Tensor, pooled: Tensor, logits: Tensor) -> Tensor:
        """The convolutions as matrix products, for maps so small that the weights are what costs time and memory."""
        dtype = product_type(x)
        batch, (height, width) = x.shape[0], self.kernel_size
        if any(self._reversed_padding_repeated_twice):
            x = F.pad(x, self._reversed_padding_repeated_twice,
                      mode="constant" if self.padding_mode == "zeros" else self.padding_mode)
        size = [(full - dilation * (kernel - 1) - 1) // stride + 1 for full, kernel, stride, dilation
                in zip(x.shape[2:], self.kernel_size, self.stride, self.dilation)]
        columns = F.unfold(x.to(dtype), self.kernel_size, self.dilation, 0, self.stride)
        columns = columns.view(batch, self.groups, -1, height, width, columns.shape[-1]).transpose(2, 3)
        with without_autocast(x):
            y = self.product(columns.flatten(2, 4), pooled, logits)
        y = y.unflatten(2, size)
        return y if self.bias is None else y + self.bias.view(-1, 1, 1).to(y.dtype)


def band_arguments(fbm_cfg: Mapping[str, object]) -> dict[str, object]:
    """fbm_cfg as FrequencyBandModulation's arguments; ValueError for a key or a value that is not served."""
    if not isinstance(fbm_cfg, Mapping):
        raise ArgumentError("fbm_cfg", f"must be a dictionary of arguments, got {fbm_cfg!r}")
    for key, value in fbm_cfg.items():
        if key in FIXED_BAND_OPTIONS:
            check_fixed("fbm_cfg's", FIXED_BAND_OPTIONS, **{key: value})
        elif key not in BAND_OPTIONS:
            raise ArgumentError(
                "fbm_cfg", f"has no key {key!r}; known are {', '.join((*BAND_OPTIONS, *FIXED_BAND_OPTIONS))}")
    return {key: value for key, value in fbm_cfg.items() if key in BAND_OPTIONS}


def check_fixed(owner: str, served: Mapping[str, object], **arguments: object) -> None:
    """ValueError for a published argument of another value than the one that is served."""
    for name, value in arguments.items():
        if value != served[name]:
            raise ArgumentError(f"{owner} {name}", f"can only be {served[name]!r}, got {value!r}")

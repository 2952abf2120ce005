"""FDLinear: FDConv's dynamic weight for a linear layer on tokens.

Source: our definition, after Frequency Dynamic Convolution for Dense Image Prediction (CVPR 2025, arXiv 2503.18783),
which names Transformers as a use and leaves the layer open: the Fourier Disjoint Weight over (Co, Ci) and Kernel
Spatial Modulation as in a 1 × 1 FDConv, pooled over the tokens of each image; no band modulation.

Shape key: B: batch (images), N: tokens of one image, in one or more dimensions, Ci, Co: input and output features.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqdino.frequency.argument_checks import check_choice, check_counts, check_type
from freqdino.frequency.fdconv.dynamic_weight import DynamicWeight
from freqdino.frequency.fdconv.fourier_weight import at_least_float32
from freqdino.ops.autocast import product_type, without_autocast
from freqdino.ops.modules import kept_whole, with_zero_gradients


class FDLinear(DynamicWeight, nn.Linear):
    """Drop-in for nn.Linear on the tokens of images: (B, N, Ci) -> (B, N, Co), also (B, H, W, Ci) -> (B, H, W, Co).

    Active where min(Ci, Co) > ``use_fdconv_if_c_gt``, elsewhere the plain linear layer. Arguments, keys, loading of
    a plain ``weight`` and neutral start: see FDConv. Raises ValueError for a wrong argument or an input of fewer than
    three dimensions (which dimension is the image's would be a guess), of other than Ci features, or without tokens.

    >>> linear = FDLinear(32, 64, kernel_num=16)
    >>> linear(torch.zeros(2, 49, 32)).shape
    torch.Size([2, 49, 64])
    >>> plain = nn.Linear(32, 64)
    >>> linear.load_state_dict(plain.state_dict())
    <All keys matched successfully>
    >>> tokens = torch.randn(2, 49, 32)
    >>> torch.allclose(linear(tokens), plain(tokens), atol=1e-4)
    True
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True,
                 device: torch.device | str | None = None, dtype: torch.dtype | None = None, *,
                 kernel_num: int = 4, use_fdconv_if_c_gt: int = 16, reduction: float = 0.0625,
                 kernel_temp: float = 1.0, temp: float | None = None, att_multi: float = 2.0, param_ratio: int = 1,
                 ksm_global_act: str = "sigmoid", ksm_kernel_act: str | None = None, ksm_local_act: str = "sigmoid",
                 use_ksm_local: bool = True, convert_param: bool = True):
        check_counts(in_features=in_features, out_features=out_features, kernel_num=kernel_num, param_ratio=param_ratio)
        check_choice((True, False), use_ksm_local=use_ksm_local, convert_param=convert_param)
        super().__init__(in_features, out_features, bias, device, dtype)
        self.active = min(in_features, out_features) > use_fdconv_if_c_gt
        if self.active:
            self.make_dynamic(in_channels=in_features, groups=1, kernel_num=kernel_num, param_ratio=param_ratio,
                              reduction=reduction, temp=temp, kernel_temp=kernel_temp, att_multi=att_multi,
                              ksm_global_act=ksm_global_act, ksm_kernel_act=ksm_kernel_act,
                              use_ksm_local=use_ksm_local, ksm_local_act=ksm_local_act, convert_param=convert_param)

    def forward(self, x: Tensor) -> Tensor:
        if (node := kept_whole(self, x)) is not None:
            return node
        if x.dim() < 3:
            raise ValueError(f"FDLinear's x must have at least 3 dimensions (B, N, C), got {x.dim()}: {tuple(x.shape)}")
        if x.shape[-1] != self.in_features:
            raise ValueError(f"FDLinear's x must have in_features = {self.in_features} features, got {x.shape[-1]}")
        check_type("FDLinear's x", x, self)
        if not self.active:
            return super().forward(x)
        if 0 in x.shape[1:]:
            raise ValueError(f"FDLinear's x must have at least one token an image, got {tuple(x.shape)}")
        if x.shape[0] == 0:
            return with_zero_gradients(F.linear(x, self.static_weight(), self.bias), self)
        tokens = x.flatten(1, -2)
        y = self.forward_images(tokens, tokens.mean(1, dtype=at_least_float32(x)), self.respond)
        return y.unflatten(1, x.shape[1:-1])

    def respond(self, x: Tensor, pooled: Tensor, logits: Tensor) -> Tensor:
        """x: (B, N, Ci), pooled: (B, Ci) -> (B, N, Co)."""
        columns = x.mT.to(product_type(x)).unsqueeze(1)
        with without_autocast(x):
            y = self.product(columns, pooled, logits).mT
        return y if self.bias is None else y + self.bias.to(y.dtype)

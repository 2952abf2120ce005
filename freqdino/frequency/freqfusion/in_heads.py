"""FreqFusion in heads that do something else than add its two maps: that concatenate them, as in its authors' SegNeXt,
or that only want the coarse one at the fine one's size.

Source: Chen et al., "Frequency-aware Feature Fusion for Dense Image Prediction", TPAMI 2024 (arXiv 2408.12879).
"""
import torch
from torch import Tensor

from freqdino.errors import ArgumentError
from freqdino.frequency.freqfusion.fusion import FreqFusion
from freqdino.ops.modules import kept_whole


class FreqFusionConcat(FreqFusion):
    """A drop-in for ``torch.cat([hr, upsample(lr)], dim=1)``; arguments and state-dict keys are FreqFusion's.

    With ``feature_resample`` the channels are interleaved by its groups, which must divide C_h, too: the first group of
    hr, the first of lr, the second of hr and so on. That is the order that published weights behind it have.

    >>> fuse = FreqFusionConcat(64, 32)
    >>> fuse(torch.rand(1, 64, 16, 24), torch.rand(1, 32, 8, 12)).shape
    torch.Size([1, 96, 16, 24])
    """

    def __init__(self, hr_channels: int, lr_channels: int, **options):
        super().__init__(hr_channels, lr_channels, **options)
        if self.dysampler is not None and hr_channels % self.dysampler.groups:
            raise ArgumentError("feature_resample_group", "must divide hr_channels, got feature_resample_group "
                                f"{self.dysampler.groups}, hr_channels {hr_channels}")

    def forward(self, hr_feat: Tensor, lr_feat: Tensor) -> Tensor:
        """(B, C_h, Y, X) and (B, C_l, H, W) -> (B, C_h + C_l, Y, X). Sizes and errors as in :meth:`FreqFusion.forward`.
        """
        if (node := kept_whole(self, hr_feat, lr_feat)) is not None:
            return node
        _, hr, lr = super().forward(hr_feat, lr_feat)
        if self.dysampler is None:
            return torch.cat([hr, lr], dim=1)
        return interleaved(hr, lr, self.dysampler.groups)


class FreqFusionUpsample(FreqFusion):
    """lr at hr's size, by FreqFusion's filters and offsets; the sharpened hr is left to others. Arguments and
    state-dict keys are FreqFusion's.

    >>> upsample = FreqFusionUpsample(64, 32)
    >>> upsample(torch.rand(1, 64, 16, 24), torch.rand(1, 32, 8, 12)).shape
    torch.Size([1, 32, 16, 24])
    """

    def forward(self, hr_feat: Tensor, lr_feat: Tensor) -> Tensor:
        """(B, C_h, Y, X) and (B, C_l, H, W) -> (B, C_l, Y, X). Sizes and errors as in :meth:`FreqFusion.forward`."""
        if (node := kept_whole(self, hr_feat, lr_feat)) is not None:
            return node
        return super().forward(hr_feat, lr_feat)[2]


def interleaved(hr: Tensor, lr: Tensor, groups: int) -> Tensor:
    """(B, C_h, Y, X) and (B, C_l, Y, X) -> (B, C_h + C_l, Y, X): group by group, hr's channels before lr's."""
    return torch.cat([x.unflatten(1, (groups, -1)) for x in (hr, lr)], dim=2).flatten(1, 2)

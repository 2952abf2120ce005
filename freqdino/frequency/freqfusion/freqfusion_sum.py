"""FreqFusion as a feature pyramid uses it: two maps in, their fused sum out.

Source: Chen et al., "Frequency-aware Feature Fusion for Dense Image Prediction", TPAMI 2024 (arXiv 2408.12879).
B: batch, C_h, C_l: channels of the maps, H × W: low-resolution map, Y × X: high-resolution map.
"""
from torch import Tensor

from freqdino.frequency.freqfusion import FreqFusion


class FreqFusionSum(FreqFusion):
    """A drop-in for ``hr + upsample(lr)``; arguments and state-dict keys are FreqFusion's, C_h and C_l must be equal.

    >>> fuse = FreqFusionSum(64, 64)
    >>> fuse(torch.rand(1, 64, 16, 24), torch.rand(1, 64, 8, 12)).shape
    torch.Size([1, 64, 16, 24])
    """

    def forward(self, hr_feat: Tensor, lr_feat: Tensor) -> Tensor:
        """(B, C_h, Y, X) and (B, C_l, H, W) → (B, C_h, Y, X): the sharpened map plus the upsampled one.

        Sizes and errors as in :meth:`FreqFusion.forward`.
        """
        _, hr, lr = super().forward(hr_feat, lr_feat)
        return hr + lr

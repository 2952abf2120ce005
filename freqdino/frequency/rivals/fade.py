"""FADE: filters that both maps predict, and a gate between the fine map and the upsampled one.

Source: Lu et al., "FADE: Fusing the Assets of Decoder and Encoder for Task-Agnostic Upsampling", ECCV 2022 (arXiv
2207.10392) and IJCV 2024. The filters are predicted as in the authors' code for detection: at the fine map's size from
hr, at the coarse map's from lr, whose logits are repeated.

C: channels of hr and of lr.
"""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from freqdino.errors import ArgumentError
from freqdino.frequency.rivals.upsampler import FilterUpsampler, init_convolutions


class FADE(FilterUpsampler):
    """Logits K(E(hr)) + nearest₂(K(D(lr))); result g·hr + (1 − g)·upsampled lr, g = σ(nearest₂(conv(lr))).

    E has a bias, D none, K is one convolution for both maps, to 25 channels. 47,257 parameters at 256 channels, and
    C + 1 of the gate, as the tables count. Parameter names are ours.
    """

    EMBEDDING, DEPTHWISE = 64, False

    def __init__(self, *, hr_channels: int, lr_channels: int, gate: bool = True):
        """
        Args:
            hr_channels: C_h.
            lr_channels: C_l.
            gate: blend hr in; without, the result is the upsampled lr alone.
        Raises ValueError: a gate between maps of different channels.
        """
        super().__init__(hr_channels=hr_channels, lr_channels=lr_channels)
        if gate and hr_channels != lr_channels:
            raise ArgumentError("gate", f"needs maps of equal channels, got hr_channels {hr_channels}, lr_channels "
                                f"{lr_channels}")
        self.fuses = gate
        self.hr_compressor = nn.Conv2d(hr_channels, self.EMBEDDING, kernel_size=1)
        self.lr_compressor = nn.Conv2d(lr_channels, self.EMBEDDING, kernel_size=1, bias=False)
        self.encoder = nn.Conv2d(self.EMBEDDING, self.filter_size**2, kernel_size=3, padding=1,
                                 groups=self.EMBEDDING if self.DEPTHWISE else 1)
        self.gate = nn.Conv2d(lr_channels, 1, kernel_size=1) if gate else None
        self.reset_parameters()

    def reset_parameters(self):
        init_convolutions(self)

    def logits(self, hr: Tensor, lr: Tensor) -> Tensor:
        of_lr = F.interpolate(self.encoder(self.lr_compressor(lr)), scale_factor=2.0, mode="nearest")
        return self.encoder(self.hr_compressor(hr)) + of_lr

    def upsample(self, hr: Tensor, lr: Tensor) -> Tensor:
        upsampled = super().upsample(hr, lr)
        if self.gate is None:
            return upsampled
        gate = F.interpolate(self.gate(lr).sigmoid(), scale_factor=2.0, mode="nearest")
        return torch.lerp(upsampled, hr.to(upsampled.dtype), gate.to(upsampled.dtype))


class FADELite(FADE):
    """FADE with 25 channels in place of 64 and a depth-wise K: 13,075 parameters at 256 channels, and the gate's."""

    EMBEDDING, DEPTHWISE = 25, True

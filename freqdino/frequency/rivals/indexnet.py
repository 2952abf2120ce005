"""IndexNet: a coarse map repeated and scaled, pixel by pixel, by an index that the fine map gives.

Source: Lu et al., "Indices Matter: Learning to Index for Deep Image Matting", ICCV 2019 (arXiv 1908.00672): the
holistic index network, non-linear and with context, whose parameters are those of the tables of FreqFusion's paper. Of
its two indices the decoder's: there is no pooling here that the encoder's could take the place of.
"""
from torch import Tensor, nn
from torch.nn import functional as F

from freqdino.frequency.fdconv.kernel_modulation import normalised
from freqdino.frequency.rivals.upsampler import Upsampler, init_convolutions


class IndexNet(Upsampler):
    """nearest₂(lr) · σ(z), z one number for each fine pixel, shuffled from the four that two convolutions of hr give.

    32·C_h² + 12·C_h parameters: 2,100,224 at 256 channels. Parameter names and the initialisation (Xavier-uniform) are
    ours.
    """

    def __init__(self, *, hr_channels: int, lr_channels: int):
        super().__init__(hr_channels=hr_channels, lr_channels=lr_channels)
        self.context = nn.Conv2d(hr_channels, 2 * hr_channels, kernel_size=4, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2 * hr_channels)
        self.activation = nn.ReLU6()
        self.index = nn.Conv2d(2 * hr_channels, 4, kernel_size=1, bias=False)
        self.reset_parameters()

    def reset_parameters(self):
        init_convolutions(self)

    def upsample(self, hr: Tensor, lr: Tensor) -> Tensor:
        z = self.index(self.activation(normalised(self.context(hr), self.norm)))
        return F.interpolate(lr, scale_factor=2.0, mode="nearest") * F.pixel_shuffle(z.sigmoid(), 2)

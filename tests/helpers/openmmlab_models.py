"""Small networks as OpenMMLab's conventions name and compute them, written out: sources for the converter.

C: channels of the pyramid, K: classes. A ResNet is torchvision's own, whose names OpenMMLab's has.
"""
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18

from freqdino.frequency import FDAMVisionTransformer, convert_to_fdconv
from freqdino.frequency.freqfusion.fusion import FreqFusion
from freqdino.modeling.backbones import MSCAN

WIDTHS = (64, 128, 256, 512)
POOLED = 7


class ConvModule(nn.Module):
    """conv, then bn or gn where there is one, then ReLU where there is one."""

    def __init__(self, inputs, outputs, size, *, norm=None, relu=False):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=norm is None)
        if norm == "bn":
            self.bn = nn.BatchNorm2d(outputs)
        if norm == "gn":
            self.gn = nn.GroupNorm(32, outputs)
        self.norm, self.relu = norm, relu

    def forward(self, x):
        x = self.conv(x)
        x = x if self.norm is None else getattr(self, self.norm)(x)
        return x.relu() if self.relu else x


class ResNet(nn.Module):
    """The four maps of ResNet-18; with FDConv in the residual branches."""

    def __new__(cls, *, fdconv=False):
        network = resnet18(weights=None)
        del network.fc
        if fdconv:
            convert_to_fdconv(network, kernel_num=4, where=["layer?.*.conv[12]"])
        network.forward = lambda x: cls.maps(network, x)
        return network

    @staticmethod
    def maps(network, x):
        x = F.max_pool2d(network.bn1(network.conv1(x)).relu(), 3, stride=2, padding=1)
        maps = []
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            x = stage(x)
            maps.append(x)
        return maps


class FPN(nn.Module):
    """Levels fine to coarse; freqfusion: units counted from the coarsest pair."""

    def __init__(self, channels, *, freqfusion=False):
        super().__init__()
        self.lateral_convs = nn.ModuleList(ConvModule(width, channels, 1) for width in WIDTHS)
        self.fpn_convs = nn.ModuleList(ConvModule(channels, channels, 3) for _ in WIDTHS)
        self.freqfusions = nn.ModuleList(
            FreqFusion(channels, channels, compressed_channels=channels // 4, feature_resample=True,
                       hamming_window=False, feature_resample_norm=False) for _ in WIDTHS[1:]) if freqfusion else None

    def forward(self, maps):
        levels = [lateral(x) for lateral, x in zip(self.lateral_convs, maps)]
        for i in (2, 1, 0):
            if self.freqfusions is None:
                levels[i] = levels[i] + F.interpolate(levels[i + 1], size=levels[i].shape[2:], mode="nearest")
            else:
                _, fine, coarse = self.freqfusions[2 - i](levels[i], levels[i + 1])
                levels[i] = fine + coarse
        levels = [conv(level) for conv, level in zip(self.fpn_convs, levels)]
        return [*levels, F.max_pool2d(levels[-1], 1, stride=2)]


class RPNHead(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.rpn_conv = nn.Conv2d(channels, hidden, 3, padding=1)
        self.rpn_cls, self.rpn_reg = nn.Conv2d(hidden, 3, 1), nn.Conv2d(hidden, 3 * 4, 1)

    def forward(self, level):
        hidden = self.rpn_conv(level).relu()
        return self.rpn_cls(hidden), self.rpn_reg(hidden)


class BoxHead(nn.Module):
    def __init__(self, channels, hidden, classes):
        super().__init__()
        self.shared_fcs = nn.ModuleList([nn.Linear(channels * POOLED**2, hidden), nn.Linear(hidden, hidden)])
        self.fc_cls, self.fc_reg = nn.Linear(hidden, classes + 1), nn.Linear(hidden, 4 * classes)

    def forward(self, regions):
        x = regions.flatten(1)
        for layer in self.shared_fcs:
            x = layer(x).relu()
        return self.fc_cls(x), self.fc_reg(x)


class MaskHead(nn.Module):
    def __init__(self, channels, hidden, classes):
        super().__init__()
        self.convs = nn.ModuleList(ConvModule(width, hidden, 3, relu=True) for width in (channels, hidden))
        self.upsample, self.conv_logits = nn.ConvTranspose2d(hidden, hidden, 2, stride=2), nn.Conv2d(hidden, classes, 1)

    def forward(self, regions):
        for conv in self.convs:
            regions = conv(regions)
        return self.conv_logits(self.upsample(regions).relu())


class SemanticHead(nn.Module):
    """Panoptic FPN's: scores of the stuff classes, the things' after them."""

    def __init__(self, channels, hidden, stuff):
        super().__init__()
        self.conv_upsample_layers = nn.ModuleList()
        for level in range(4):
            layer = nn.Module()
            layer.conv = nn.ModuleList(ConvModule(hidden if i else channels, hidden, 3, norm="gn", relu=True)
                                       for i in range(max(level, 1)))
            self.conv_upsample_layers.append(layer)
        self.conv_logits = nn.Conv2d(hidden, stuff + 1, 1)

    def forward(self, levels):
        total = 0
        for number, (layer, x) in enumerate(zip(self.conv_upsample_layers, levels)):
            for conv in layer.conv:
                x = conv(x)
                if number > 0:
                    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            total = total + x
        return self.conv_logits(total)


class Detector(nn.Module):
    """mmdetection's two-stage detector."""

    def __init__(self, *, channels=32, hidden=16, classes=3, fdconv=False, freqfusion=False, masks=False, stuff=0):
        super().__init__()
        self.backbone = ResNet(fdconv=fdconv)
        self.neck = FPN(channels, freqfusion=freqfusion)
        self.rpn_head = RPNHead(channels, hidden)
        self.roi_head = nn.Module()
        self.roi_head.bbox_head = BoxHead(channels, hidden, classes)
        if masks:
            self.roi_head.mask_head = MaskHead(channels, hidden, classes)
        if stuff:
            self.semantic_head = SemanticHead(channels, 32, stuff)


class MapLayerNorm(nn.LayerNorm):
    """Over the channels of maps (B, C, H, W)."""

    def forward(self, x):
        return F.layer_norm(x.movedim(1, -1), self.normalized_shape, self.weight, self.bias, 1e-6).movedim(-1, 1)


class Segmentor(nn.Module):
    """mmsegmentation's, with UPerNet: on a ResNet, or on FDAM's transformer with Feature2Pyramid."""

    def __init__(self, *, transformer, pyramid_norm=nn.BatchNorm2d, classes=3, channels=16):
        super().__init__()
        widths = (32,) * 4 if transformer else WIDTHS
        if transformer:
            self.backbone = FDAMVisionTransformer(img_size=64, embed_dim=32, depth=4, num_heads=2,
                                                  out_indices=(0, 1, 2, 3))
            self.neck = nn.Module()
            self.neck.upsample_4x = nn.Sequential(nn.ConvTranspose2d(32, 32, 2, stride=2), pyramid_norm(32), nn.GELU(),
                                                  nn.ConvTranspose2d(32, 32, 2, stride=2))
            self.neck.upsample_2x = nn.Sequential(nn.ConvTranspose2d(32, 32, 2, stride=2))
        else:
            self.backbone = ResNet()
        head = self.decode_head = nn.Module()
        head.conv_seg = nn.Conv2d(channels, classes, 1)
        head.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), self.conv(widths[3], channels, 1)) for scale in (1, 2, 3, 6))
        head.bottleneck = self.conv(widths[3] + 4 * channels, channels, 3)
        head.lateral_convs = nn.ModuleList(self.conv(width, channels, 1) for width in widths[:3])
        head.fpn_convs = nn.ModuleList(self.conv(channels, channels, 3) for _ in range(3))
        head.fpn_bottleneck = self.conv(4 * channels, channels, 3)
        self.auxiliary_head = nn.Module()
        self.auxiliary_head.convs = nn.ModuleList([self.conv(widths[2], 256, 3)])
        self.auxiliary_head.conv_seg = nn.Conv2d(256, classes, 1)

    @staticmethod
    def conv(inputs, outputs, size):
        return ConvModule(inputs, outputs, size, norm="bn", relu=True)

    def maps(self, image):
        maps = self.backbone(image)
        if hasattr(self, "neck"):
            maps = [self.neck.upsample_4x(maps[0]), self.neck.upsample_2x(maps[1]), maps[2], F.max_pool2d(maps[3], 2)]
        return maps

    def forward(self, image):
        """Class scores of the decode head and of the auxiliary head."""
        def resize(x, like):
            return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)

        maps, head = self.maps(image), self.decode_head
        coarsest = maps[3]
        pooled = [resize(module(coarsest), coarsest) for module in head.psp_modules]
        levels = [lateral(x) for lateral, x in zip(head.lateral_convs, maps)]
        levels.append(head.bottleneck(torch.cat([coarsest, *pooled], dim=1)))
        for i in (2, 1, 0):
            levels[i] = levels[i] + resize(levels[i + 1], levels[i])
        outputs = [conv(level) for conv, level in zip(head.fpn_convs, levels)] + [levels[3]]
        fused = head.fpn_bottleneck(torch.cat([resize(output, outputs[0]) for output in outputs], dim=1))
        auxiliary = self.auxiliary_head
        return head.conv_seg(fused), auxiliary.conv_seg(auxiliary.convs[0](maps[2]))


class SegNeXt(nn.Module):
    """mmsegmentation's, on a small MSCAN; with FreqFusion in its head."""

    def __init__(self, *, freqfusion=False, classes=3, channels=32, bases=3):
        super().__init__()
        widths = (16, 32, 32)
        self.backbone = MSCAN(embed_dims=(16, *widths), depths=(1, 1, 2, 1))
        head = self.decode_head = nn.Module()
        head.conv_seg = nn.Conv2d(channels, classes, 1)
        head.squeeze = ConvModule(sum(widths), channels, 1, norm="gn", relu=True)
        head.align = ConvModule(channels, channels, 1, norm="gn", relu=True)
        ham = head.hamburger = nn.Module()
        ham.ham_in = ConvModule(channels, channels, 1)
        ham.ham_out = ConvModule(channels, channels, 1, norm="gn")
        if freqfusion:
            head.freqfusions = nn.ModuleList(
                FreqFusion(hr, lr, compressed_channels=(hr + lr) // 4, feature_resample=True, hamming_window=False,
                           direction_feat="sim") for hr, lr in ((widths[1], widths[2]), (widths[0], sum(widths[1:]))))

    def maps(self, image):
        return list(self.backbone(image).values())

    def forward(self, image, bases, steps):
        """Class scores, with the bases (D, R) that the factorisation starts from."""
        head = self.decode_head
        _, fine, middle, coarse = self.maps(image)
        if hasattr(head, "freqfusions"):
            fused = coarse
            for unit, finer in zip(head.freqfusions, (middle, fine)):
                _, hr, lr = unit(finer, fused)
                hr, lr = hr.chunk(4, dim=1), lr.chunk(4, dim=1)
                fused = torch.cat([part for pair in zip(hr, lr) for part in pair], dim=1)
        else:
            fused = torch.cat([fine, *(F.interpolate(x, size=fine.shape[2:], mode="bilinear", align_corners=False)
                                       for x in (middle, coarse))], dim=1)
        x = head.squeeze(fused)
        inner = head.hamburger.ham_in(x).relu().flatten(2)
        bases = bases.expand(len(inner), -1, -1)
        coefficients = torch.softmax(inner.transpose(1, 2) @ bases, dim=-1)
        for step in range(steps + 1):
            coefficients = coefficients * (inner.transpose(1, 2) @ bases) / (
                coefficients @ bases.transpose(1, 2) @ bases + 1e-6)
            if step < steps:
                bases = bases * (inner @ coefficients) / (bases @ coefficients.transpose(1, 2) @ coefficients + 1e-6)
        x = (x + head.hamburger.ham_out((bases @ coefficients.transpose(1, 2)).view_as(x))).relu()
        return head.conv_seg(head.align(x))


@torch.no_grad()
def randomised(network):
    """The network in evaluation, its parameters and statistics none that a mistake would leave unseen."""
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point() and not name.endswith(("init_pos", "hamming_lowpass", "hamming_highpass")):
            if tensor.dim() == 1:
                tensor.normal_(mean=1.0 if name.endswith("weight") else 0.0, std=0.2)
            else:
                tensor.normal_(std=0.01 if name.endswith("dft_weight") else 0.5 / tensor[0].numel()**0.5)
    return network.eval()

"""FreqFusion's offset generator: resampling of an upsampled map at positions that local similarity suggests.

Source: Chen et al., "Frequency-aware Feature Fusion for Dense Image Prediction", TPAMI 2024 (arXiv 2408.12879), section
"Offset Generator"; the grid of sampling positions is that of DySample (Liu et al., ICCV 2023). A pixel whose neighbours
disagree with it (a boundary, the inside of a large inconsistent object) is read a little way off, where they agree.

B: batch, C: channels, D: channels of the guides, G: channel groups, H × W: low-resolution map, Y × X: high-resolution
map, 2·H − 1 ≤ Y ≤ 2·H and 2·W − 1 ≤ X ≤ 2·W.
"""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_choice, check_counts
from freqdino.ops.autocast import without_autocast
from freqdino.ops.modules import is_exported, is_plain, is_recorded
from freqdino.ops.weighted_gather import weighted_gather

NEIGHBOUR_DISTANCE = 2
# The first half of the eight neighbours (row, column) in row-major order; neighbour 7 − i lies opposite neighbour i.
HALF_NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, -1))
DIRECTION_FEATS = ("sim_concat", "sim")


class SimilarityGuidedSampler(nn.Module):
    """Reads a high-resolution map bilinearly at predicted positions, G channel groups each at positions of its own.

    Position (low-resolution pixels) = pixel centre + ``init_pos`` + offset · σ(scale), where offset and scale are each
    the sum of a head on the low-resolution guide (pixel-shuffled) and one on the high-resolution guide. Parameter names
    are the published ones.

    >>> sampler = SimilarityGuidedSampler(16, groups=4)
    >>> hr_guide, lr_guide, features = torch.rand(1, 16, 8, 12), torch.rand(1, 16, 4, 6), torch.rand(1, 32, 8, 12)
    >>> sampler(hr_guide, lr_guide, features).shape
    torch.Size([1, 32, 8, 12])
    """

    def __init__(self, channels: int, *, groups: int = 4, norm: bool = True, direction_feat: str = "sim_concat"):
        """
        Args:
            channels: D, of both guides.
            groups: G, must divide the channels of the map that is sampled.
            norm: whether the guides pass a GroupNorm of D // 8 groups first.
            direction_feat: what the heads see: "sim_concat": all of them a guide and its eight local similarities;
                "sim": those of the offsets the similarities, those of the scales the guide.
        Raises ValueError: ``groups`` below 1, ``norm`` where D // 8 groups do not divide D, or another
        ``direction_feat``.
        """
        super().__init__()
        check_counts(channels=channels, groups=groups)
        check_choice(DIRECTION_FEATS, direction_feat=direction_feat)
        if norm and (channels < 8 or channels % (channels // 8)):
            raise ArgumentError("norm", f"needs channels that channels // 8 groups divide, got {channels} channels "
                                f"and {channels // 8} groups")
        self.groups = groups
        self.direction_feat = direction_feat
        similarities = 2 * len(HALF_NEIGHBOURS)
        direction, strength = ((similarities, channels) if direction_feat == "sim" else
                               (channels + similarities, channels + similarities))
        self.offset = nn.Conv2d(direction, 2 * groups * 4, kernel_size=3, padding=1)
        self.direct_scale = nn.Conv2d(strength, 2 * groups * 4, kernel_size=3, padding=1)
        self.hr_offset = nn.Conv2d(direction, 2 * groups, kernel_size=3, padding=1)
        self.hr_direct_scale = nn.Conv2d(strength, 2 * groups, kernel_size=3, padding=1)
        self.norm_hr = nn.GroupNorm(channels // 8, channels) if norm else nn.Identity()
        self.norm_lr = nn.GroupNorm(channels // 8, channels) if norm else nn.Identity()
        self.register_buffer("init_pos", subpixel_positions(groups))

    def reset_parameters(self):
        """The buffer; the convolutions have their own, and FreqFusion another start for them."""
        self.init_pos.copy_(subpixel_positions(self.groups))

    def forward(self, hr_guide: Tensor, lr_guide: Tensor, features: Tensor) -> Tensor:
        """
        Args:
            hr_guide: (B, D, Y, X).
            lr_guide: (B, D, H, W).
            features: (B, C, Y, X), the map to sample.
        Returns (B, C, Y, X) in the type of ``features``, channels last in memory.

        Raises ValueError: G does not divide C.
        """
        if features.shape[1] % self.groups:
            raise ValueError(f"groups must divide the channels of features: groups {self.groups}, "
                             f"channels {features.shape[1]}")
        rows, columns = features.shape[-2:]
        coarse = self._respond(self.norm_lr(lr_guide), self.offset, self.direct_scale)
        coarse = F.pixel_shuffle(coarse, 2)[..., :rows, :columns]
        fine = self._respond(self.norm_hr(hr_guide), self.hr_offset, self.hr_direct_scale)
        offset, scale = (coarse + fine).chunk(2, dim=1)
        # Half precision cannot tell neighbouring positions of a large map apart.
        precise = torch.promote_types(features.dtype, torch.float32)
        with without_autocast(features):
            start = self._start_positions(*lr_guide.shape[-2:], dtype=precise)[..., :rows, :columns]
            position = torch.addcmul(start, offset.to(precise), scale.to(precise).sigmoid())
            x, y = (2 * position - 0.5).chunk(2, dim=1)
            return sample_bilinear(features.to(precise), x, y).to(features.dtype)

    def _respond(self, guide: Tensor, offset: nn.Conv2d, scale: nn.Conv2d) -> Tensor:
        """What the two heads of a guide (B, D, H, W) make of it, one after the other along the channels."""
        similarity = local_similarity(guide).to(guide.dtype)
        if self.direction_feat == "sim":
            return torch.cat([offset(similarity), scale(guide)], dim=1)
        return joint_conv(torch.cat([guide, similarity], dim=1), offset, scale)

    def _start_positions(self, height: int, width: int, dtype: torch.dtype) -> Tensor:
        """(1, 2·G, 2·H, 2·W): x of every group, then y, in low-resolution pixels."""
        initial = self.init_pos.to(dtype).view(2, 4 * self.groups, 1, 1)
        x = (torch.arange(width, dtype=dtype, device=initial.device) + 0.5).expand(height, width)
        y = (torch.arange(height, dtype=dtype, device=initial.device) + 0.5)[:, None].expand(height, width)
        start = initial + torch.stack([x, y])[:, None]
        return F.pixel_shuffle(start.flatten(0, 1)[None], 2)


def subpixel_positions(groups: int) -> Tensor:
    """(1, 2·G·4, 1, 1): where the 2 × 2 sub-pixels of a pixel lie round its centre, x for every group, then y."""
    y, x = torch.meshgrid(torch.tensor([-0.25, 0.25]), torch.tensor([-0.25, 0.25]), indexing="ij")
    return torch.cat([x.flatten().repeat(groups), y.flatten().repeat(groups)]).view(1, -1, 1, 1)


def local_similarity(x: Tensor) -> Tensor:
    """Cosine similarity of each pixel with its eight neighbours at distance 2, zero for those outside the map.

    Args:
        x: (B, C, H, W).
    Returns (B, 8, H, W), the neighbours in row-major order, at least float32.
    """
    height, width = x.shape[-2:]
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    unit = F.normalize(x, dim=1, eps=1e-8).permute(0, 2, 3, 1)
    if is_exported():
        return similarity_by_padding(unit)
    similarity = unit.new_zeros(*unit.shape[:3], 8)
    for neighbour, (row, column) in enumerate(HALF_NEIGHBOURS):
        rows, neighbour_rows = overlap(height, NEIGHBOUR_DISTANCE * row)
        columns, neighbour_columns = overlap(width, NEIGHBOUR_DISTANCE * column)
        # Similarity is mutual: the product serves the pixel and, as the opposite neighbour's, the pixel's neighbour.
        product = (unit[:, rows, columns] * unit[:, neighbour_rows, neighbour_columns]).sum(dim=-1)
        similarity[:, rows, columns, neighbour] = product
        similarity[:, neighbour_rows, neighbour_columns, 7 - neighbour] = product
    return similarity.permute(0, 3, 1, 2)


def similarity_by_padding(unit: Tensor) -> Tensor:
    """`local_similarity` of unit vectors (B, H, W, C) in plain operators, whatever the size of the map."""
    height, width = unit.shape[1:3]
    padded = F.pad(unit, (0, 0, *[NEIGHBOUR_DISTANCE] * 4))
    opposite = [(-row, -column) for row, column in reversed(HALF_NEIGHBOURS)]
    starts = [[NEIGHBOUR_DISTANCE * (1 + step) for step in steps] for steps in (*HALF_NEIGHBOURS, *opposite)]
    return torch.stack([(unit * padded[:, row:row + height, column:column + width]).sum(dim=-1)
                        for row, column in starts], dim=1)


def overlap(size: int, shift: int) -> tuple[slice, slice]:
    """The part of an axis whose points stay on it when shifted, and where they come to lie."""
    length = max(size - abs(shift), 0)
    start = max(-shift, 0)
    return slice(start, start + length), slice(start + shift, start + shift + length)


def sample_bilinear(features: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear sampling with a border that extends outwards, group by group.

    Args:
        features: (B, C, H, W).
        x, y: (B, G, H', W'), in pixels of ``features``: (0, 0) is the centre of the first. G divides C.
    Returns (B, C, H', W'), channels last in memory.
    """
    batch, channels, height, width = features.shape
    groups = x.shape[1]
    x = x.permute(0, 2, 3, 1).clamp(0, width - 1)
    y = y.permute(0, 2, 3, 1).clamp(0, height - 1)
    # Clamped again as integers: a position that is not a number gives a result that is not one, no index out of range.
    left, top = x.detach().int().clamp(0, width - 1), y.detach().int().clamp(0, height - 1)
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    to_right, down = x - left, y - top
    weights = torch.stack([(1 - to_right) * (1 - down), to_right * (1 - down),
                           (1 - to_right) * down, to_right * down], dim=-1)
    # One table row holds one group of one pixel: row ((image · H + y) · W + x) · G + group.
    table = features.permute(0, 2, 3, 1).reshape(-1, channels // groups)
    integer = torch.int64 if is_recorded() or table.shape[0] >= 2**31 else torch.int32
    image = torch.arange(batch, dtype=integer, device=x.device).view(-1, 1, 1, 1)
    first = image * (height * width * groups) + torch.arange(groups, dtype=integer, device=x.device)
    top, bottom = first + top * (width * groups), first + bottom * (width * groups)
    left, right = left * groups, right * groups
    index = torch.stack([top + left, top + right, bottom + left, bottom + right], dim=-1)
    sampled = weighted_gather(table, index.view(-1, 4), weights.view(-1, 4))
    return sampled.view(batch, *x.shape[1:3], channels).permute(0, 3, 1, 2)


def joint_conv(x: Tensor, first: nn.Conv2d, second: nn.Conv2d) -> Tensor:
    """What ``torch.cat([first(x), second(x)], dim=1)`` gives, reading ``x`` once.

    Args:
        x: (B, C, H, W).
        first, second: convolutions with a bias, alike in everything but their numbers of output channels; or what
            stands in for them.
    Returns (B, output channels of first + output channels of second, H', W').
    """
    if not (is_plain(first, nn.Conv2d) and is_plain(second, nn.Conv2d)):
        return torch.cat([first(x), second(x)], dim=1)
    weight = torch.cat([first.weight, second.weight])
    bias = torch.cat([first.bias, second.bias])
    return F.conv2d(x, weight, bias, first.stride, first.padding, first.dilation)

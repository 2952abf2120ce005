"""Feature pyramid with learned fusions in its top-down path: Detectron2's FPN, but for how two maps become one.

Sources: FPN (arXiv 1612.03144); FreqFusion's detectors (arXiv 2408.12879), where FreqFusion or one of the upsamplers it
is compared with takes the place of nearest-neighbour upsampling.
"""
from collections.abc import Callable, Sequence
from itertools import pairwise

from detectron2.modeling import FPN, Backbone
from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_choice


class FusionFPN(FPN):
    """Detectron2's FPN with a module ``fuse(hr, lr)`` for each step of the top-down path.

    ``make_fusion()`` makes one: it turns the lateral map (B, C, H, W) and the coarser level into one map of the lateral
    map's size, their sum. Keys are Detectron2's and ``fpn_fusions.<i>``, counted from the coarsest pair of levels.
    """

    def __init__(self, *, bottom_up: Backbone, in_features: Sequence[str], out_channels: int, norm: str,
                 top_block: nn.Module, fuse_type: str, make_fusion: Callable[[], nn.Module]):
        """
        Args:
            bottom_up: the network whose maps the pyramid is built on.
            in_features: names of its maps, fine to coarse, each of half its predecessor's size.
            out_channels: C.
            norm: Detectron2's name of the normalisation of the pyramid's convolutions, "" for none.
            top_block: makes levels above the coarsest, as Detectron2's LastLevelMaxPool.
            fuse_type: "sum", or "avg" for half of it.
        Raises ValueError: an unknown map or ``fuse_type``, maps that are not a factor of two apart, or none that
        ``top_block`` reads.
        """
        shapes = bottom_up.output_shape()
        absent = [name for name in in_features if name not in shapes]
        if absent or not in_features:
            raise ArgumentError("in_features", f"names {absent or 'nothing'}, but the maps are {list(shapes)}")
        strides = [shapes[name].stride for name in in_features]
        if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
            raise ArgumentError("in_features", "must name maps of which each has twice the stride of the one before, "
                                f"got {list(in_features)} of strides {strides}")
        check_choice(("sum", "avg"), fuse_type=fuse_type)
        super().__init__(bottom_up, in_features, out_channels, norm, top_block, fuse_type)
        readable = [*shapes, *self._out_features[:len(in_features)]]
        if top_block.in_feature not in readable:
            raise ArgumentError("in_features", f"{list(in_features)} give top_block nothing to read: it wants "
                                f"{top_block.in_feature}, there are {readable}")
        self.fpn_fusions = nn.ModuleList(make_fusion() for _ in in_features[1:])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) -> level name (p2, p3, ...) -> (B, C, H_l, W_l), fine to coarse."""
        maps = self.bottom_up(x)
        laterals = [lateral(maps[name]) for lateral, name in zip(self.lateral_convs, reversed(self.in_features))]
        level = laterals[0]
        levels = [self.output_convs[0](level)]
        for lateral, fuse, output in zip(laterals[1:], self.fpn_fusions, self.output_convs[1:]):
            level = fuse(lateral, level)
            if self._fuse_type == "avg":
                level = level / 2
            levels.insert(0, output(level))
        pyramid = dict(zip(self._out_features, levels))
        levels += self.top_block({**maps, **pyramid}[self.top_block.in_feature])
        return dict(zip(self._out_features, levels))

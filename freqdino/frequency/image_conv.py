"""A convolution in which each image has a weight of its own: what FDConv and the other dynamic convolutions share.

Shape key: B: batch, Ci, Co: input and output channels, G: groups of the convolution, H, W: input size,
H', W': output size, kh, kw: kernel size.
"""
import math
from collections.abc import Callable, Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_counts, check_type
from freqdino.frequency.fdconv.fourier_weight import at_least_float32
from freqdino.ops.blocking import by_pieces, place_bytes
from freqdino.ops.modules import is_exported, kept_whole, overwrites, ready_to_flatten, with_zero_gradients


class ImageConv2d(nn.Conv2d):
    """Base of a drop-in for nn.Conv2d, (B, Ci, H, W) -> (B, Co, H', W'), whose weight follows from each image.

    A subclass has ``respond_to`` for images and ``static_weight`` for none. ``norm`` and ``activation`` are applied to
    the output, as by Detectron2's Conv2d. Where a subclass sets ``active`` False it is the plain convolution.

    Raises ValueError for a wrong argument, or an input that is not (B, Ci, H, W) with H, W ≥ 1 of the
    parameters' type.
    """

    active = True

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int],
                 stride: int | tuple[int, int] = 1, padding: int | tuple[int, int] | str = 0,
                 dilation: int | tuple[int, int] = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros",
                 device: torch.device | str | None = None, dtype: torch.dtype | None = None, *,
                 norm: nn.Module | None = None, activation: Callable[[Tensor], Tensor] | None = None):
        check_counts(in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size, stride=stride,
                     dilation=dilation)
        if not isinstance(padding, str):
            check_counts(least=0, padding=padding)
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if not isinstance(groups, int) or groups < 1 or channels % groups:
                raise ArgumentError("groups", f"must divide {name}, got {groups} groups and {channels} channels")
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
                         device, dtype)
        self.norm, self.activation = norm, activation

    def respond_to(self, x: Tensor, pooled: Tensor) -> Tensor:
        """x: (B, Ci, H, W), pooled: (B, Ci), its mean -> (B, Co, H', W'), before norm and activation. B ≥ 1."""
        raise NotImplementedError

    def static_weight(self) -> Tensor:
        """A weight of the plain convolution's shape (Co, Ci/G, kh, kw) in which all that makes one has a part."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if (node := kept_whole(self, x)) is not None:
            return node
        name = f"{type(self).__name__}'s x"
        if x.dim() != 4:
            raise ValueError(f"{name} must have 4 dimensions (B, C, H, W), got {x.dim()}: {tuple(x.shape)}")
        if x.shape[1] != self.in_channels:
            raise ValueError(f"{name} must have in_channels = {self.in_channels} channels, got {x.shape[1]}")
        check_type(name, x, self)
        if not self.active:
            y = self._conv_forward(x, self.weight, self.bias)
        elif 0 in x.shape[2:]:
            raise ValueError(f"{name} must have at least one row and one column, got {tuple(x.shape)}")
        elif x.shape[0] == 0:
            y = with_zero_gradients(self._conv_forward(x, self.static_weight(), self.bias), self)
        else:
            y = self.respond_to(x, x.mean((2, 3), dtype=at_least_float32(x)))
        if self.norm is not None:
            y = self.norm(y)
        return y if self.activation is None else self.activation(y)

    def convolve(self, x: Tensor, weight: Tensor, biased: bool = True) -> Tensor:
        """Each image of x (B, Ci, H, W) with its weight (B, Co, Ci/G, kh, kw): one convolution of B·G groups."""
        bias = self.bias if biased else None
        if is_exported():
            return self.convolve_by_rows(x, weight, bias)
        # A channels-last weight would make the output channels-last, whatever x is.
        weight = weight.contiguous()
        if x.shape[0] == 1:
            return self._conv_forward(x, weight[0], bias)
        padding = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode), 0
        batch = x.shape[0]
        bias = None if bias is None else bias.repeat(batch)
        y = F.conv2d(x.flatten(0, 1)[None], weight.flatten(0, 1), bias, self.stride, padding, self.dilation,
                     batch * self.groups)
        return y[0].unflatten(0, (batch, -1))

    def convolve_by_rows(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`convolve` of any number of images, where a grouped convolution's number of groups is part of the graph: for
        each row of the kernel the product of all images' weights there with what it reads of the map."""
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        x = F.pad(x, self._reversed_padding_repeated_twice, mode=mode).unflatten(1, (self.groups, -1))
        weight = weight.unflatten(1, (self.groups, -1))     # (B, G, Co/G, Ci/G, kh, kw)
        tops, lefts = ([slice(place * dilation, full - (size - 1 - place) * dilation) for place in range(size)]
                       for full, size, dilation in zip(x.shape[3:], self.kernel_size, self.dilation))
        x = torch.stack([x[..., left][..., ::self.stride[1]] for left in lefts], 3)     # (B, G, Ci/G, kw, H + …, W')
        read = [ready_to_flatten(x[..., top, :][..., ::self.stride[0], :]) for top in tops]
        y = reduce(torch.add, (weight[..., row, :].flatten(3) @ part.flatten(4).flatten(2, 3)
                               for row, part in enumerate(read)))
        y = y.flatten(1, 2).unflatten(2, read[0].shape[4:])
        return y if bias is None else y + bias.view(-1, 1, 1).to(y.dtype)


def by_images(respond: Callable[..., Tensor], tensors: Sequence[Tensor], weight_shape: Sequence[int]) -> Tensor:
    """respond(*tensors), each (B, …), the first the map; ``weight_shape``: that of one image's weight.

    Without gradients the images go in pieces: weights and maps of one may fit a cache where those of all do not.
    """
    if not overwrites():
        return respond(*tensors)
    x = tensors[0]
    return by_pieces(respond, tensors, 0, math.prod(weight_shape) * x.element_size() + place_bytes(x, 0))

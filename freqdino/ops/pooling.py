"""Average pooling into a number of cells that torch.export and ONNX take at open sizes."""
import torch
from torch import Tensor, nn

from freqdino.ops.modules import is_exported


class CellAverages(nn.AdaptiveAvgPool2d):
    """torch's adaptive average pooling into s × s cells, (B, C, H, W) -> (B, C, s, s).

    Under torch.export as two products: ONNX's translation of torch's own serves the recorded size alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not is_exported():
            return super().forward(x)
        rows, columns = (cell_weights(size, self.output_size, x) for size in x.shape[2:])
        return rows @ (x @ columns.mT)


def cell_weights(size: int, cells: int, like: Tensor) -> Tensor:
    """Each cell's average along an axis: (cells, size), rows that sum to one."""
    cell = torch.arange(cells, device=like.device)[:, None]
    place = torch.arange(size, device=like.device)
    inside = ((place >= cell * size // cells) & (place < ((cell + 1) * size + cells - 1) // cells)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)

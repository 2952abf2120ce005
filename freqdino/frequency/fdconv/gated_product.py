"""Gated product: (M ⊙ σ(U V)) X, a matrix under an elementwise gate of low rank, times a matrix.

FDConv's weight of an image is such a gated matrix, and with small maps it is by far the largest tensor of the layer.
Neither the gate nor the gated matrix is ever stored: forward and backward go through M block by block.

Shape key: N: products, O: output rows, t: rows of M that one output row concatenates, K: columns of M, D: rank of the
gate's logits, L: columns of X.
"""
from collections.abc import Iterator

import torch
from torch import Tensor

from freqdino.ops import blocking
from freqdino.ops.modules import is_recorded
from freqdino.ops.registered import RegisteredFunction


def gated(matrix: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """M ⊙ σ(U V). matrix: M (N, R, K). left: U (N, R, D). right: V (N, D, K). Returns (N, R, K).

    >>> gated(torch.tensor([[[2.0, 4.0]]]), torch.zeros(1, 1, 1), torch.zeros(1, 1, 2)).tolist()
    [[[1.0, 2.0]]]
    """
    return matrix * (left @ right).sigmoid() if is_recorded() else Gated.apply(matrix.contiguous(), left, right)


def gated_product(matrix: Tensor, left: Tensor, right: Tensor, x: Tensor) -> Tensor:
    """(M ⊙ σ(U V)) X, the gated matrix's rows taken in runs of t: (N, O·t, K) is read as (N, O, t·K).

    matrix, left, right: as for `gated`, R = O·t. x: X (N, t·K, L), of a type of its own: the gated matrix is converted
    to it before the product. Returns (N, O, L).

    >>> gated_product(torch.tensor([[[2.0], [4.0]]]), torch.zeros(1, 2, 1), torch.zeros(1, 1, 1), torch.ones(1, 2, 1))
    tensor([[[3.]]])
    """
    if is_recorded():
        return gated(matrix, left, right).reshape(matrix.shape[0], -1, x.shape[1]).to(x.dtype) @ x
    # Blocks of a transposed matrix would take three times as long to read.
    return GatedProduct.apply(matrix.contiguous(), left, right, x)


class Gated(RegisteredFunction, schema="gated(Tensor matrix, Tensor left, Tensor right) -> Tensor"):
    @staticmethod
    def empty(matrix, left, right):
        return torch.empty_like(matrix)

    @staticmethod
    def forward(matrix: Tensor, left: Tensor, right: Tensor) -> Tensor:
        result = torch.empty_like(matrix)
        for block, _ in blocks(matrix):
            gate_values(left, right, block, result[block]).mul_(matrix[block])
        return result

    @staticmethod
    def backward(ctx, result_grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gradients = FactorGradients(*ctx.saved_tensors)
        for block, _ in blocks(gradients.matrix):
            gradients.gate(block)
            gradients.add(block, result_grad[block])
        return gradients.results


class GatedProduct(RegisteredFunction, schema="""gated_product(
        Tensor matrix, Tensor left, Tensor right, Tensor x) -> Tensor"""):
    @staticmethod
    def empty(matrix, left, right, x):
        return x.new_empty(len(x), matrix.shape[1] * matrix.shape[2] // x.shape[1], x.shape[2])

    @staticmethod
    def forward(matrix: Tensor, left: Tensor, right: Tensor, x: Tensor) -> Tensor:
        run = x.shape[1] // matrix.shape[2]
        y = x.new_empty(len(x), matrix.shape[1] // run, x.shape[2])
        room = Room(matrix)
        for block, outputs in blocks(matrix, run):
            part = matrix[block]
            gated_part = gate_values(left, right, block, room.like(part)).mul_(part)
            torch.bmm(gated_part.view(len(part), -1, x.shape[1]).to(x.dtype), x[block[0]], out=y[outputs])
        return y

    @staticmethod
    def backward(ctx, y_grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        *factors, x = ctx.saved_tensors
        gradients = FactorGradients(*factors)
        x_type, x, y_grad = x.dtype, x.to(gradients.matrix.dtype), y_grad.to(gradients.matrix.dtype)
        x_grad = torch.zeros_like(x, memory_format=torch.contiguous_format)
        room = Room(gradients.matrix)
        for block, outputs in blocks(gradients.matrix, x.shape[1] // gradients.matrix.shape[2]):
            gated_part = gradients.gate(block)
            part_y_grad = y_grad[outputs]
            by_output = (*part_y_grad.shape[:2], x.shape[1])
            x_grad[block[0]].baddbmm_(gated_part.view(by_output).mT, part_y_grad)
            part_grad = room.like(gated_part)
            torch.bmm(part_y_grad, x[block[0]].mT, out=part_grad.view(by_output))
            gradients.add(block, part_grad)
        return *gradients.results, x_grad.to(x_type)


Block = tuple[slice, slice]


def blocks(matrix: Tensor, run: int = 1) -> Iterator[tuple[Block, Block]]:
    """Slices (products, M's rows) that together cover ``matrix`` (N, O·run, K), and (products, their output rows)."""
    count, rows, columns = matrix.shape
    bytes_each = 2 * run * columns * matrix.element_size()      # the gate and the gated matrix
    for products, outputs in blocking.blocks(count, rows // run, bytes_each, matrix.device):
        yield (products, slice(outputs.start * run, outputs.stop * run)), (products, outputs)


class Room:
    """Memory for one block at a time: fresh memory for each would cost more than what is computed in it."""

    def __init__(self, matrix: Tensor):
        self.matrix, self.memory = matrix, matrix.new_empty(0)

    def like(self, part: Tensor) -> Tensor:
        if part.numel() > self.memory.numel():
            self.memory = self.matrix.new_empty(part.numel())
        return self.memory[:part.numel()].view(part.shape)


def gate_values(left: Tensor, right: Tensor, block: Block, out: Tensor) -> Tensor:
    return torch.bmm(left[block], right[block[0]], out=out).sigmoid_()


class FactorGradients:
    """The gradients of M, U and V, filled in block by block: ``gate`` first, then ``add``."""

    def __init__(self, matrix: Tensor, left: Tensor, right: Tensor):
        self.matrix, self.left, self.right = matrix, left, right
        self.results = torch.empty_like(matrix), torch.empty_like(left), torch.zeros_like(right)
        self.rooms = Room(matrix), Room(matrix)

    def gate(self, block: Block) -> Tensor:
        """M ⊙ σ(U V) in the block."""
        part = self.matrix[block]
        self.values, self.gated = (room.like(part) for room in self.rooms)
        gate_values(self.left, self.right, block, self.values)
        return torch.mul(part, self.values, out=self.gated)

    def add(self, block: Block, gated_grad: Tensor):
        """gated_grad: the gradient of what ``gate`` returned for the block."""
        products = block[0]
        matrix_grad, left_grad, right_grad = self.results
        part_grad = torch.mul(gated_grad, self.values, out=matrix_grad[block])
        # σ' = σ · (1 − σ): the logits' gradient is that of M times M · (1 − σ).
        logits_grad = torch.sub(self.matrix[block], self.gated, out=self.gated).mul_(part_grad)
        # Transposed, as V has few rows: a product with few columns is slow.
        left_grad[block] = torch.bmm(self.right[products], logits_grad.mT).mT
        right_grad[products] += torch.bmm(self.left[block].mT, logits_grad)

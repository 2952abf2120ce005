"""Gated product: (M ⊙ σ(U V)) X, a matrix under an elementwise gate of low rank, times a matrix.

FDConv's weight of an image is such a gated matrix, and with small maps it is by far the largest tensor of the layer.
Neither the gate nor the gated matrix is ever stored: forward and backward go through M block by block.

Shape key: N: products, O: output rows, t: rows of M that one output row concatenates, K: columns of M, D: rank of the
gate's logits, L: columns of X.
"""
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

# Elements of M that a CPU handles at once: the passes over a block then find it in the cache.
BLOCK = 2**18


def gated(matrix: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """M ⊙ σ(U V). matrix: M (N, R, K). left: U (N, R, D). right: V (N, D, K). Returns (N, R, K).

    >>> gated(torch.tensor([[[2.0, 4.0]]]), torch.zeros(1, 1, 1), torch.zeros(1, 1, 2)).tolist()
    [[[1.0, 2.0]]]
    """
    return Gated.apply(matrix, left, right)


def gated_product(matrix: Tensor, left: Tensor, right: Tensor, x: Tensor) -> Tensor:
    """(M ⊙ σ(U V)) X, the gated matrix's rows taken in runs of t: (N, O·t, K) is read as (N, O, t·K).

    matrix, left, right: as for `gated`, R = O·t. x: X (N, t·K, L), of a type of its own: the gated matrix is converted
    to it before the product. Returns (N, O, L).

    >>> gated_product(torch.tensor([[[2.0], [4.0]]]), torch.zeros(1, 2, 1), torch.zeros(1, 1, 1), torch.ones(1, 2, 1))
    tensor([[[3.]]])
    """
    return GatedProduct.apply(matrix, left, right, x)


class Gated(Function):
    @staticmethod
    def forward(ctx, matrix: Tensor, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(matrix, left, right)
        result = torch.empty_like(matrix)
        for n, rows, _ in blocks(matrix):
            torch.mul(matrix[n, rows], gate(left[n, rows], right[n]), out=result[n, rows])
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, result_grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        factors = ctx.saved_tensors
        gradients = gradients_of(factors)
        for n, rows, _ in blocks(factors[0]):
            values = gate(factors[1][n, rows], factors[2][n])
            add_gradients(gradients, factors, n, rows, values, factors[0][n, rows] * values, result_grad[n, rows])
        return gradients


class GatedProduct(Function):
    @staticmethod
    def forward(ctx, matrix: Tensor, left: Tensor, right: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(matrix, left, right, x)
        run = x.shape[1] // matrix.shape[2]
        y = x.new_empty(len(x), matrix.shape[1] // run, x.shape[2])
        for n, rows, outputs in blocks(matrix, run):
            product = gate(left[n, rows], right[n]).mul_(matrix[n, rows])
            torch.bmm(product.view(len(product), -1, x.shape[1]).to(x.dtype), x[n], out=y[n, outputs])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, y_grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        *factors, x = ctx.saved_tensors
        matrix, left, right = factors
        gradients = gradients_of(factors)
        x_grad = torch.zeros_like(x, dtype=matrix.dtype, memory_format=torch.contiguous_format)
        for n, rows, outputs in blocks(matrix, x.shape[1] // matrix.shape[2]):
            values = gate(left[n, rows], right[n])
            product = matrix[n, rows] * values
            by_output = product.view(len(product), -1, x.shape[1]).to(x.dtype)
            x_grad[n] += torch.bmm(by_output.mT, y_grad[n, outputs])
            product_grad = torch.bmm(y_grad[n, outputs], x[n].mT).to(matrix.dtype).view_as(product)
            add_gradients(gradients, factors, n, rows, values, product, product_grad)
        return *gradients, x_grad.to(x.dtype)


def gate(left: Tensor, right: Tensor) -> Tensor:
    return torch.bmm(left, right).sigmoid_()


def gradients_of(factors: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the gradients of M, U and V."""
    matrix, left, right = factors
    return torch.empty_like(matrix), torch.empty_like(left), torch.zeros_like(right)


def add_gradients(gradients: tuple[Tensor, Tensor, Tensor], factors: tuple[Tensor, Tensor, Tensor], n: slice,
                  rows: slice, values: Tensor, product: Tensor, product_grad: Tensor):
    """Write one block's part of the gradients, given the gate's values, the gated block, overwritten, and its gradient.
    """
    matrix, left, right = factors
    matrix_grad, left_grad, right_grad = gradients
    block_grad = matrix_grad[n, rows]
    torch.mul(product_grad, values, out=block_grad)
    # σ' = σ · (1 − σ): the logits' gradient is that of M times M · (1 − σ).
    logits_grad = torch.sub(matrix[n, rows], product, out=product).mul_(block_grad)
    left_grad[n, rows] = torch.bmm(logits_grad, right[n].mT)
    right_grad[n] += torch.bmm(left[n, rows].mT, logits_grad)


def blocks(matrix: Tensor, run: int = 1) -> Iterator[tuple[slice, slice, slice]]:
    """Slices of products, of M's rows and of output rows that together cover ``matrix`` (N, O·run, K)."""
    count, rows, columns = matrix.shape
    outputs = rows // run
    limit = BLOCK if matrix.device.type == "cpu" else matrix.numel()
    some = max(1, limit // (rows * columns))
    step = outputs if some > 1 else max(1, limit // (run * columns))
    for first in range(0, count, some):
        for output in range(0, outputs, step):
            yield (slice(first, first + some), slice(output * run, (output + step) * run), slice(output, output + step))

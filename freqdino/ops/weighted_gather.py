"""Weighted sum of a few table rows for each output row: the primitive of both sparse operators.

out[r] = Σ_j weight[r, j] · table[index[r, j]]. PyTorch has it fused as ``embedding_bag`` with per-sample weights: the
rows are read where they lie and no (R, J, D) copy of them is made. Its gradient with respect to the weights is slow on
the CPU, hence the two functions below the primitive, from which the operators make their own.

T: rows of the table, D: channels, R: output rows, J: summands of a row.
"""
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from freqdino.ops.blocking import slices
from freqdino.ops.modules import is_exported, is_recorded
from freqdino.ops.registered import RegisteredFunction


def weighted_gather(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """out[r] = Σ_j weight[r, j] · table[index[r, j]], differentiable in table and weight.

    float16 and bfloat16 are summed in float32; table and weight may differ in dtype.

    Args:
        table: (T, D).
        index: (R, J) of int32 or int64, each in [0, T).
        weight: (R, J).
    Returns (R, D) of the table's dtype.

    Raises ValueError: arguments whose ranks or sizes do not fit each other.
    """
    check_arguments(table, index, weight)
    if is_exported() or index.numel() == 0:
        # embedding_bag, which ONNX lacks, cannot cut bags of no rows; the product keeps the gradient's path.
        return weighted_gather_reference(table, index, weight)
    dtype = compute_dtype(table, weight)
    gather = embedding_bag if is_recorded() else WeightedGather.apply
    return gather(table.to(dtype), index, weight.to(dtype)).to(table.dtype)


def embedding_bag(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    return F.embedding_bag(index, table, mode="sum", per_sample_weights=weight)


class WeightedGather(RegisteredFunction, schema="weighted_gather(Tensor table, Tensor index, Tensor weight) -> Tensor"):
    """The primitive; embedding_bag's own gradient of the weights is slow on the CPU."""

    @staticmethod
    def forward(table, index, weight):
        return embedding_bag(table, index, weight)

    @staticmethod
    def empty(table, index, weight):
        return table.new_empty(len(index), table.shape[1])

    @staticmethod
    def backward(ctx, grad_output):
        table, index, weight = ctx.saved_tensors
        grad_output = grad_output.contiguous()
        grad_table = WeightedScatter(index, len(table))(grad_output, weight) if ctx.needs_input_grad[0] else None
        return grad_table, None, gathered_dot(table, index, grad_output) if ctx.needs_input_grad[2] else None


def weighted_gather_reference(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """The definition of :func:`weighted_gather`, by indexing: it makes the (R, J, D) copy."""
    check_arguments(table, index, weight)
    dtype = compute_dtype(table, weight)
    return (weight.to(dtype)[..., None] * F.embedding(index, table.to(dtype))).sum(dim=1).to(table.dtype)


def gathered_dot(table: Tensor, index: Tensor, rows: Tensor, at_most: int | None = None) -> Tensor:
    """dot[r, j] = rows[r] · table[index[r, j]]: the gradient of the weights, (R, J) from rows (R, D).

    ``at_most``: bytes to gather at a time, see :func:`slices`. Not differentiable.
    """
    dots = rows.new_empty(index.shape)
    for some in slices(len(index), index.shape[1] * rows.shape[1] * rows.element_size(), rows.device, at_most):
        # Bags of one row: embedding_bag fetches ahead, index_select does not. One row of products: with the factors
        # exchanged bmm takes a path that is five times slower. What is gathered has no name to outlive its part.
        dots[some] = (rows[some, None] @ F.embedding_bag(index[some].reshape(-1, 1), table, mode="sum").view(
            *index[some].shape, rows.shape[1]).mT).squeeze(1)
    return dots


class WeightedScatter:
    """table[t] = Σ weight[r, j] · rows[r] over all (r, j) with index[r, j] = t: the gradient of the table.

    Sorted by table row, the summands of a table row are a bag, so that this is a gather too and its order is fixed.
    Sorting once serves several weights. Not differentiable.
    """

    def __init__(self, index: Tensor, table_rows: int):
        """index: (R, J) of int32 or int64, each in [0, table_rows)."""
        sorted_index, self.order = index.flatten().sort(stable=True)
        self.readers = self.order // index.shape[1]
        table_row = torch.arange(table_rows, dtype=index.dtype, device=index.device)
        self.bags = torch.searchsorted(sorted_index, table_row)

    def __call__(self, rows: Tensor, weight: Tensor) -> Tensor:
        """(table_rows, D) from rows (R, D) and weight (R, J)."""
        weight = weight.reshape(-1).index_select(0, self.order)
        return F.embedding_bag(self.readers, rows, self.bags, mode="sum", per_sample_weights=weight)


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """The one dtype that embedding_bag wants of all: float64 where a tensor is float64, otherwise float32."""
    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)


def check_arguments(table: Tensor, index: Tensor, weight: Tensor) -> None:
    for name, tensor in (("table", table), ("index", index), ("weight", weight)):
        if tensor.dim() != 2:
            raise ValueError(f"{name} must have 2 dimensions, got {tensor.dim()}: {tuple(tensor.shape)}")
    if index.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"index must be int32 or int64, got {index.dtype}")
    if index.shape != weight.shape:
        raise ValueError(f"weight has the shape {tuple(weight.shape)}, index {tuple(index.shape)}")

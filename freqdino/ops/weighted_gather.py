"""Weighted sum of a few table rows for each output row: the primitive of both sparse operators.

out[r] = Σ_j weight[r, j] · table[index[r, j]]. PyTorch has it fused as ``embedding_bag`` with per-sample weights: the
rows are read where they lie and no (R, J, D) copy of them is made.

T: rows of the table, D: channels, R: output rows, J: summands of a row.
"""
import torch
from torch import Tensor
from torch.nn import functional as F


def weighted_gather(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """out[r] = Σ_j weight[r, j] · table[index[r, j]], differentiable in table and weight.

    float16 and bfloat16 are summed in float32; table and weight may differ in dtype.

    Args:
        table: (T, D).
        index: (R, J) of int32 or int64, each in [0, T).
        weight: (R, J).

    Returns:
        (R, D) of the table's dtype.

    Raises:
        ValueError: arguments whose ranks or sizes do not fit each other.
    """
    check_arguments(table, index, weight)
    if index.numel() == 0:
        # embedding_bag cannot cut bags of no rows; the product keeps the gradient's path.
        return weighted_gather_reference(table, index, weight)
    dtype = compute_dtype(table, weight)
    return F.embedding_bag(index, table.to(dtype), mode="sum", per_sample_weights=weight.to(dtype)).to(table.dtype)


def weighted_gather_reference(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """The definition of :func:`weighted_gather`, by indexing: it makes the (R, J, D) copy."""
    check_arguments(table, index, weight)
    dtype = compute_dtype(table, weight)
    return (weight.to(dtype)[..., None] * table.to(dtype)[index]).sum(dim=1).to(table.dtype)


def compute_dtype(table: Tensor, weight: Tensor) -> torch.dtype:
    """One dtype for both, as embedding_bag wants it: float32, or float64 where one of them is."""
    return torch.promote_types(torch.promote_types(table.dtype, weight.dtype), torch.float32)


def check_arguments(table: Tensor, index: Tensor, weight: Tensor) -> None:
    for name, tensor in (("table", table), ("index", index), ("weight", weight)):
        if tensor.dim() != 2:
            raise ValueError(f"{name} must have 2 dimensions, got {tensor.dim()}: {tuple(tensor.shape)}")
    if index.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"index must be int32 or int64, got {index.dtype}")
    if index.shape != weight.shape:
        raise ValueError(f"weight has the shape {tuple(weight.shape)}, index {tuple(index.shape)}")

"""Predictions of all ranks, brought together where the metrics are computed."""
import itertools

from detectron2.utils import comm


def gather_predictions(predictions: list) -> list | None:
    """The predictions of all ranks, rank by rank, on the main process; None elsewhere. To be called on every rank."""
    comm.synchronize()
    gathered = comm.gather(predictions)
    return list(itertools.chain.from_iterable(gathered)) if comm.is_main_process() else None

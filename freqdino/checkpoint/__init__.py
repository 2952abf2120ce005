"""Checkpoints: read without running code, held against a model, loaded entirely or refused with a reason."""
from freqdino.errors import needing_detectron2

with needing_detectron2():
    from freqdino.checkpoint.checkpointer import Fit, StrictCheckpointer, fit_checkpoint
    from freqdino.checkpoint.data_config import DataConfig
    from freqdino.checkpoint.files import local_path, read_checkpoint
    from freqdino.checkpoint.weights import read_weights, starting_weights

__all__ = ["DataConfig", "Fit", "StrictCheckpointer", "fit_checkpoint", "local_path", "read_checkpoint",
           "read_weights", "starting_weights"]

"""Checkpoints: read without running code, held against a model, loaded entirely or refused with a reason."""
from freqdino.errors import needing_detectron2

with needing_detectron2():
    from freqdino.checkpoint.checkpointer import Fit, StrictCheckpointer, fit_checkpoint
    from freqdino.checkpoint.files import local_path, read_checkpoint

__all__ = ["Fit", "StrictCheckpointer", "fit_checkpoint", "local_path", "read_checkpoint"]

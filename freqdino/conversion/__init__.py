"""Weights of other projects under the names of the models here."""
from freqdino.errors import detectron2_remedy

with detectron2_remedy():
    import detectron2  # noqa: F401

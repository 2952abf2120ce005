"""Mask2Former and Mask DINO as plain modules with explicit arguments; `freqdino.registration` builds them from YAML."""
from freqdino.errors import detectron2_remedy

with detectron2_remedy():
    import detectron2  # noqa: F401

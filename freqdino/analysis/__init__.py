"""What models cost, what they do to frequencies, how fast the operators are, and what the modules change."""
from freqdino.errors import detectron2_remedy

with detectron2_remedy():
    import detectron2  # noqa: F401

"""Results, ground truth and numbers as pictures, videos and the report's page."""
from freqdino.errors import detectron2_remedy

with detectron2_remedy():
    import detectron2  # noqa: F401

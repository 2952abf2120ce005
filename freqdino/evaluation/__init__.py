"""Evaluation: panoptic quality, COCO AP and mIoU, chosen from a dataset's metadata."""
from freqdino.errors import detectron2_remedy

with detectron2_remedy():
    import detectron2  # noqa: F401

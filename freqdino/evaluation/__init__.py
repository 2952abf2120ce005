"""Evaluation: panoptic quality, COCO AP and mIoU, chosen from a dataset's metadata."""

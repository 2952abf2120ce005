"""Boundaries of label maps and of masks, and the IoU of the boundaries of classes.

Source: Boundary IoU: Improving Object-Centric Image Segmentation Evaluation (CVPR 2021, arXiv 2103.16562): the IoU of
those pixels of two masks that are near their contours, within 2 % of the picture's diagonal. Of instances the smaller
of mask IoU and Boundary IoU counts in the average precision, see `freqdino.evaluation.coco_api`; of semantic
predictions, for which the paper has none, a class's pixels of all pictures are counted together, as for its IoU.

H, W: height and width of a picture, K: classes.
"""
import math

import cv2
import numpy as np
import pycocotools.mask as mask_util

WIDTH_RATIO = 0.02      # the paper's


def boundary_width(height: int, width: int) -> int:
    """How many pixels wide the boundaries of a picture are, at least 1."""
    return max(1, round(WIDTH_RATIO * math.hypot(height, width)))


def near_contour(labels: np.ndarray) -> np.ndarray:
    """(H, W) labels -> bool (H, W): the pixels that have another label, or the picture's edge, within the width.

    Near means in the square of 2 width + 1 pixels around, as the paper's erosions by 3 x 3 have it.
    """
    width = boundary_width(*labels.shape)
    labels = labels.astype(np.uint8 if labels.max() <= np.iinfo(np.uint8).max else np.uint16)
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    near = cv2.erode(labels, square) != cv2.dilate(labels, square)
    near[:width] = near[-width:] = near[:, :width] = near[:, -width:] = True
    return near


def boundary_counts(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Pixels of one picture: int64 (2, K), by class those of both boundaries and those of either.

    predicted: (H, W) of classes. truth: (H, W) of classes, or ``classes`` at pixels that do not count; what is beside
    these is near a contour.
    """
    counted = truth < classes
    predicted_near, truth_near = near_contour(predicted) & counted, near_contour(truth) & counted
    of_truth, of_predicted, both = (np.bincount(labels, minlength=classes) for labels in (
        truth[truth_near], predicted[predicted_near], truth[truth_near & predicted_near & (truth == predicted)]))
    return np.stack([both, of_truth + of_predicted - both])


def boundary_of_mask(rle: dict) -> dict:
    """The pixels of a mask that are near its contour; both as COCO's compressed RLE."""
    mask = mask_util.decode(rle)
    return mask_util.encode(np.asfortranarray(mask * near_contour(mask)))

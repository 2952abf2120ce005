"""Panoptic quality of label maps, in numpy.

Source: Kirillov et al., Panoptic Segmentation (CVPR 2019), section 4, with COCO's rules for void and crowd regions.
Shape key: H, W: height and width of an image, G: ground-truth segments, P: predicted segments, C: categories.

A segment map holds one segment id a pixel, 0 being void. Two segments of one category match when their IoU exceeds
0.5, pixels that are void in the ground truth not counting towards the union; a segment can have one match at most.
Crowd segments never match. An unmatched prediction that lies by more than half in void and in crowd of its own category
is no error.
"""
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from freqdino.data.panoptic_png import ID_LIMIT

VOID = 0


def match_segments(ground_truth: np.ndarray, prediction: np.ndarray, ground_truth_segments: Sequence[Mapping],
                   prediction_segments: Sequence[Mapping], category_ids: Collection[int]) -> np.ndarray:
    """Match the segments of one image.

    Args:
        ground_truth, prediction: segment ids (H, W), integers in 0..2^24 - 1.
        ground_truth_segments, prediction_segments: COCO's ``segments_info``: dicts with ``id``, ``category_id`` and, in
            the ground truth, optionally ``iscrowd``.
        category_ids: the C category ids that exist.
    Returns (C, 4) float64: sum of the matches' IoU, matches, unmatched predictions, unmatched ground truth by category.
    Raises ValueError: the maps differ in size, a segment is in the list and not in the map or the other way round, is
    listed twice, or has a category that does not exist.
    """
    if ground_truth.shape != prediction.shape:
        raise ValueError(f"the ground truth has {_size(ground_truth)} pixels, the prediction {_size(prediction)}")
    pairs, pixels = np.unique(ground_truth.astype(np.int64) << 24 | prediction, return_counts=True)
    column = {category: index for index, category in enumerate(category_ids)}
    truth_ids, truth_categories = _index_segments(pairs >> 24, ground_truth_segments, column, "ground-truth")
    found_ids, found_categories = _index_segments(pairs & ID_LIMIT - 1, prediction_segments, column, "predicted")

    # Row and column 0 are void.
    overlap = np.zeros((len(truth_ids) + 1, len(found_ids) + 1), dtype=np.int64)
    overlap[np.searchsorted(truth_ids, pairs >> 24, side="right"),
            np.searchsorted(found_ids, pairs & ID_LIMIT - 1, side="right")] = pixels
    truth_area, found_area = overlap.sum(1)[1:], overlap.sum(0)[1:]
    in_void, overlap = overlap[0, 1:], overlap[1:, 1:]

    crowd_ids = [segment["id"] for segment in ground_truth_segments if segment.get("iscrowd", 0)]
    crowd = np.isin(truth_ids, crowd_ids)
    same_category = truth_categories[:, None] == found_categories
    union = truth_area[:, None] + found_area - overlap - in_void
    # Compared as integers: an IoU of exactly 0.5 is no match.
    matches = same_category & ~crowd[:, None] & (2 * overlap > union)
    truth, found = matches.nonzero()
    ignored = in_void + (overlap * (same_category & crowd[:, None])).sum(0)
    false_positive = ~matches.any(0) & (2 * ignored <= found_area)
    false_negative = ~matches.any(1) & ~crowd

    def per_category(categories, weights=None):
        return np.bincount(categories, weights, minlength=len(column))

    matched = truth_categories[truth]
    return np.stack([per_category(matched, overlap[truth, found] / union[truth, found]), per_category(matched),
                     per_category(found_categories[false_positive]), per_category(truth_categories[false_negative])],
                    axis=1)


def average_quality(statistics: np.ndarray, is_thing: Sequence[bool]) -> dict[str, np.ndarray]:
    """Qualities from the statistics of ``match_segments``, summed over images.

    Args:
        statistics: (C, 4).
        is_thing: C flags.
    Returns ``per_class``: (C, 3), PQ, SQ and RQ in 0..1, NaN for a category that is neither in the ground truth nor
    predicted; ``All``, ``Things``, ``Stuff``: (3,), the means over the categories that are not NaN, NaN if none is.
    """
    iou, matched, false_positive, false_negative = np.asarray(statistics, dtype=np.float64).T
    things = np.asarray(is_thing, dtype=bool)
    weight = matched + (false_positive + false_negative) / 2
    present = weight > 0
    recognition = np.where(present, matched / np.where(present, weight, 1), np.nan)
    segmentation = np.where(present, iou / np.maximum(matched, 1), np.nan)
    per_class = np.stack([segmentation * recognition, segmentation, recognition], axis=1)

    def mean(chosen):
        return per_class[chosen].mean(0) if chosen.any() else np.full(3, np.nan)

    return {"All": mean(present), "Things": mean(present & things), "Stuff": mean(present & ~things),
            "per_class": per_class}


def _size(ids):
    height, width = ids.shape
    return f"{width}x{height}"


def _index_segments(ids_in_map, segments, column, what):
    """Sorted ids (S,) and category columns (S,) of the listed segments, checked against the ids in the map."""
    ids = [segment["id"] for segment in segments]
    if len(set(ids)) < len(ids):
        twice = sorted({segment_id for segment_id in ids if ids.count(segment_id) > 1})
        raise ValueError(f"{what} segments listed more than once: {twice}")
    unlisted = sorted(set(ids_in_map.tolist()) - set(ids) - {VOID})
    if unlisted:
        raise ValueError(f"{what} segments in the PNG but not in segments_info: {unlisted}")
    empty = sorted(set(ids) - set(ids_in_map[ids_in_map != VOID].tolist()))
    if empty:
        raise ValueError(f"{what} segments in segments_info but not in the PNG: {empty}")
    for segment in segments:
        if segment["category_id"] not in column:
            raise ValueError(f"{what} segment {segment['id']} has category_id {segment['category_id']}, which is not "
                             "among the categories of the ground truth")
    order = np.argsort(ids)
    categories = np.array([column[segment["category_id"]] for segment in segments], dtype=np.int64)
    return np.array(ids, dtype=np.int64)[order], categories[order]

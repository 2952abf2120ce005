"""Polygons and RLE: masks against hand-drawn ones and pycocotools, malformed input with its message."""
from itertools import groupby

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.structures import BoxMode

from freqdino.data.segmentation import (
    box_and_area,
    box_corners,
    check_segmentation,
    decode_rle,
    encode_rle,
    lies_outside,
    polygon_points,
    rasterise,
)


def rectangle(height, width, top, bottom, left, right):
    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def test_polygons_are_rasterised_and_clipped():
    polygons = polygon_points([[2, 1, 6, 1, 6, 5, 2, 5]])
    assert (rasterise(polygons, 6, 8) == rectangle(6, 8, 1, 5, 2, 6)).all()
    beyond = polygon_points([[6, 4, 20, 4, 20, 30, 6, 30], [-9, -9, 1, -9, 1, 2, -9, 2]])
    assert (rasterise(beyond, 6, 8) == (rectangle(6, 8, 4, 6, 6, 8) | rectangle(6, 8, 0, 2, 0, 1))).all()


@pytest.mark.parametrize("points, outside", [
    ([[-5, 1], [0, 1], [0, 3]], True), ([[8, 1], [9, 1], [9, 3]], True), ([[1, 6], [2, 6], [2, 9]], True),
    ([[1, -3], [2, -3], [2, 0]], True), ([[7, 5], [9, 5], [9, 9]], False)])
def test_lies_outside(points, outside):
    assert lies_outside(np.array(points, float), 6, 8) is outside


def test_rle_round_trip_in_all_three_notations():
    masks = np.random.default_rng(0).random((20, 7, 9)) < np.linspace(0, 1, 20)[:, None, None]
    for mask in masks:
        rle = encode_rle(mask)
        runs = [(value, len(list(pixels))) for value, pixels in groupby(mask.T.ravel().tolist())]
        counts = [0] * runs[0][0] + [length for _, length in runs]  # the first run is one of zeros
        for notation in (rle, {**rle, "counts": rle["counts"].encode()}, {**rle, "counts": counts}):
            check_segmentation(notation, 7, 9, "here")
            assert (decode_rle(notation) == mask).all()


def test_long_runs_pass_the_check():
    mask = rectangle(700, 900, 10, 690, 5, 800)
    check_segmentation(mask_util.encode(np.asfortranarray(mask)), 700, 900, "here")


@pytest.mark.parametrize("segmentation, message", [
    ([[1, 1, 2, 2]], "at least 6 numbers; got 4"),
    ([[1, 1, 2, 2, 3, 3, 4]], "even count of at least 6 numbers; got 7"),
    ([[1, 1, 2, 2, 3, float("nan")]], "not finite"),
    ([[1, 1, 2, 2, 3, "x"]], "flat list of numbers"),
    ([1, 1, 2, 2, 3, 3], "flat list of numbers"),
    ([[[1, 1], [2, 2, 3]]], "flat list of numbers"),
    ([[]], "at least 6 numbers; got 0"),
    ("abc", "list of polygons or an RLE dictionary; got str"),
    ({"size": [4, 4]}, "keys 'size' and 'counts'; got"),
    ({"size": [4, 5], "counts": [20]}, r"size \(height, width\) is \[4, 5\], the image's is \[4, 4\]"),
    ({"size": [4, 4], "counts": [3, 4]}, "cover 7 pixels, the image has 4x4 = 16"),
    ({"size": [4, 4], "counts": [20, -4]}, "cover 16 pixels"),
    ({"size": [4, 4], "counts": [16.0]}, "whole numbers"),
    ({"size": [4, 4], "counts": []}, "cover 0 pixels"),
    ({"size": [4, 4], "counts": 16}, "'counts' is a list or a string; got int"),
    ({"size": [4, 4], "counts": "04"}, "cover 4 pixels"),
    ({"size": [4, 4], "counts": ""}, "cover 0 pixels"),
    ({"size": [4, 4], "counts": "P"}, "ends in the middle of a number"),
    ({"size": [4, 4], "counts": "0 4"}, "has a character that cannot stand in it"),
])
def test_malformed_segmentations_are_errors_that_say_where(segmentation, message):
    with pytest.raises(ValueError, match=f"^a.json, annotation 7: .*{message}"):
        check_segmentation(segmentation, 4, 4, "a.json, annotation 7")


@pytest.mark.parametrize("box, mode", [([2, 1, 4.5, 0], BoxMode.XYWH_ABS), ([2, 1, 6.5, 1], BoxMode.XYXY_ABS)])
def test_box_corners(box, mode):
    assert box_corners(box, mode, "here").tolist() == [[2, 1], [6.5, 1]]


@pytest.mark.parametrize("box, message", [
    ([1, 2, 3], "has 4 numbers; got 3"),
    ([[1, 2, 3, 4]], "flat list of numbers x, y, width, height"),
    ([1, 2, 3, "4"], "flat list of numbers x, y, width, height"),
    (4, "flat list of numbers x, y, width, height"),
    ([1, 2, 3, float("inf")], "not finite"),
    ([1, 2, -3, 4], "width and height of at least 0; got -3 and 4"),
])
def test_malformed_boxes_are_errors_that_say_where(box, message):
    with pytest.raises(ValueError, match=f"^a.json, annotation 7: a bbox .*{message}"):
        box_corners(box, BoxMode.XYWH_ABS, "a.json, annotation 7")


def test_box_and_area():
    assert box_and_area(rectangle(6, 8, 1, 5, 2, 7)) == {"bbox": [2, 1, 5, 4], "area": 20, "iscrowd": 0}

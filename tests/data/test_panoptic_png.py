"""The ids that are given to segments, and what a panoptic PNG has to be."""
import pytest
from PIL import Image

from freqdino.data.panoptic_png import nth_segment_id, read_segment_colors


def test_segment_ids_of_a_picture_differ_and_are_not_zero():
    ids = {nth_segment_id(number) for number in range(1, 5001)}
    assert len(ids) == 5000 and min(ids) > 0 and max(ids) < 2**24


def test_grey_png_is_an_error(tmp_path):
    Image.new("L", (3, 2)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"panoptic PNG .*a\.png has shape \(2, 3\).*three 8-bit channels"):
        read_segment_colors(str(tmp_path / "a.png"))

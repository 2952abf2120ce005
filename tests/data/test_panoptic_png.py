"""Segment ids as colours and back, the ids that are given to segments, and what a panoptic PNG has to be."""
import numpy as np
import pytest
from PIL import Image

from freqdino.data.panoptic_png import id_to_rgb, nth_segment_id, read_segment_colors, read_segment_ids, rgb_to_id


def test_segment_ids_of_a_picture_differ_and_are_not_zero():
    ids = {nth_segment_id(number) for number in range(1, 5001)}
    assert len(ids) == 5000 and min(ids) > 0 and max(ids) < 2**24


@pytest.mark.parametrize("mode", ["L", "P"])
def test_grey_and_palette_pngs_are_errors(tmp_path, mode):
    Image.new(mode, (3, 2)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=rf"panoptic PNG .*a\.png has mode {mode}.*three 8-bit channels"):
        read_segment_colors(str(tmp_path / "a.png"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_read_from_every_kind_of_colour_png(tmp_path, mode):
    picture = Image.new("RGB", (2, 1), (1, 0, 0))
    picture.putpixel((1, 0), (0, 1, 0))
    picture.convert(mode).save(tmp_path / "a.png")
    assert read_segment_ids(str(tmp_path / "a.png")).tolist() == [[1, 256]]


def test_colours_hold_24_bits_and_no_more():
    ids = np.array([[0, 1, 255, 256, 65535, 65536, 2**24 - 1]])
    assert id_to_rgb(ids)[0, -2].tolist() == [0, 0, 1] and id_to_rgb(ids)[0, 3].tolist() == [0, 1, 0]
    assert (rgb_to_id(id_to_rgb(ids)) == ids).all()
    for bad in (-1, 2**24):
        with pytest.raises(ValueError, match=f"0..16777215, got .*{bad}"):
            id_to_rgb(np.array([[0, bad]]))

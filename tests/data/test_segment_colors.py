"""Segment ids as colours and back."""
import numpy as np
import pytest

from freqdino.segment_colors import id_to_rgb, rgb_to_id


def test_colours_hold_24_bits_and_no_more():
    ids = np.array([[0, 1, 255, 256, 65535, 65536, 2**24 - 1]])
    assert id_to_rgb(ids)[0, -2].tolist() == [0, 0, 1] and id_to_rgb(ids)[0, 3].tolist() == [0, 1, 0]
    assert (rgb_to_id(id_to_rgb(ids)) == ids).all()
    for bad in (-1, 2**24):
        with pytest.raises(ValueError, match=f"0..16777215, got .*{bad}"):
            id_to_rgb(np.array([[0, bad]]))

"""Pictures of every mode have a defined result; damaged, missing and mismatching files are errors that name them."""
import numpy as np
import pytest
from PIL import Image

from freqdino.data.image_reading import check_image_size, read_image, read_label_map


def save(tmp_path, image, name="a.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return str(path)


def test_rgb_and_bgr_have_the_stored_colours(tmp_path):
    path = save(tmp_path, Image.new("RGB", (3, 2), (1, 2, 3)))
    assert read_image(path, "RGB").shape == (2, 3, 3) and read_image(path, "RGB").dtype == np.uint8
    assert read_image(path, "RGB")[0, 0].tolist() == [1, 2, 3]
    assert read_image(path, "BGR")[0, 0].tolist() == [3, 2, 1]


@pytest.mark.parametrize("image, color", [
    (Image.new("L", (2, 2), 77), [77, 77, 77]),
    (Image.new("1", (2, 2), 1), [255, 255, 255]),
    (Image.new("LA", (2, 2), (77, 0)), [77, 77, 77]),
    (Image.new("RGBA", (2, 2), (9, 8, 7, 0)), [9, 8, 7]),
])
def test_grey_becomes_three_channels_and_alpha_is_dropped(tmp_path, image, color):
    pixels = read_image(save(tmp_path, image), "RGB")
    assert pixels.shape == (2, 2, 3)
    assert pixels[1, 1].tolist() == color


@pytest.mark.parametrize("transparency", [None, 0])
def test_palette_is_resolved(tmp_path, transparency):
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    options = {} if transparency is None else {"transparency": transparency}
    assert read_image(save(tmp_path, image, **options), "RGB")[0, 0].tolist() == [200, 100, 50]


def test_16_bit_grey_is_scaled_to_8_bits(tmp_path):
    values = np.array([[0, 65535], [32768, 257]], dtype=np.uint16)  # 32768 * 255 / 65535 = 127.502, 257 is one 255th
    pixels = read_image(save(tmp_path, Image.fromarray(values)), "RGB")
    assert pixels[:, :, 0].tolist() == [[0, 255], [128, 1]]
    assert (pixels == pixels[:, :, :1]).all()


def test_floating_point_picture_is_an_error(tmp_path):
    path = save(tmp_path, Image.fromarray(np.ones((2, 2), np.float32)), "a.tiff")
    with pytest.raises(ValueError, match=r"a\.tiff has floating point values"):
        read_image(path, "RGB")


@pytest.mark.parametrize("orientation, expected", [
    (1, [[0, 1, 2], [3, 4, 5]]), (3, [[5, 4, 3], [2, 1, 0]]), (6, [[3, 0], [4, 1], [5, 2]]),
    (8, [[2, 5], [1, 4], [0, 3]]), (2, [[2, 1, 0], [5, 4, 3]])])
def test_exif_orientation_is_applied(tmp_path, orientation, expected):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    assert read_image(save(tmp_path, image, exif=exif), "RGB")[:, :, 0].tolist() == expected


def test_damaged_exif_data_beside_the_orientation(tmp_path):
    """A resolution that is text, of type 2, and no fraction, of type 5: it need not be written anew."""
    exif = Image.Exif()
    exif[0x0112], exif[0x011a] = 6, 72.0
    damaged = exif.tobytes().replace(b"\x01\x1a\x00\x05", b"\x01\x1a\x00\x02")
    assert damaged != exif.tobytes()
    path = tmp_path / "damaged.jpg"
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(path, exif=damaged)
    assert read_image(str(path), "RGB").shape == (3, 2, 3)


def test_missing_unreadable_and_truncated_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png does not exist"):
        read_image(str(tmp_path / "nowhere.png"), "RGB")
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.jpg cannot be read"):
        read_image(str(tmp_path / "text.jpg"), "RGB")
    rng = np.random.default_rng(0)
    for suffix in ("jpg", "png"):
        path = tmp_path / f"cut.{suffix}"
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(ValueError, match=rf"cut\.{suffix} cannot be read"):
            read_image(str(path), "RGB")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"empty\.png cannot be read"):
        read_image(str(tmp_path / "empty.png"), "RGB")


def test_unknown_format_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="INPUT.FORMAT is 'YUV'; known are RGB, BGR"):
        read_image(save(tmp_path, Image.new("RGB", (1, 1))), "YUV")


def test_label_map_keeps_its_numbers(tmp_path):
    labels = np.array([[0, 3], [255, 1]], dtype=np.uint8)
    palette = Image.fromarray(labels).convert("P")
    palette.putdata(labels.ravel().tolist())
    palette.putpalette([200] * 768)
    assert read_label_map(save(tmp_path, Image.fromarray(labels))).tolist() == labels.tolist()
    assert read_label_map(save(tmp_path, palette)).tolist() == labels.tolist()
    assert read_label_map(save(tmp_path, Image.fromarray(labels.astype(np.uint16) * 4))).max() == 1020
    with pytest.raises(ValueError, match=r"a\.png has shape \(2, 2, 3\).*expected one channel"):
        read_label_map(save(tmp_path, Image.new("RGB", (2, 2))))


def test_size_mismatch_names_both_sizes(tmp_path):
    check_image_size({"file_name": "a.png", "height": 4, "width": 6}, (4, 6))
    check_image_size({"file_name": "a.png"}, (4, 6))
    with pytest.raises(ValueError, match=r"a\.png is 6x4 \(width x height\), its annotations say 7x4$"):
        check_image_size({"file_name": "a.png", "height": 4, "width": 7}, (4, 6))
    with pytest.raises(ValueError, match="6x4 .* 4x6; they are swapped: .*EXIF"):
        check_image_size({"file_name": "a.png", "height": 6, "width": 4}, (4, 6))

"""Images that are no data set: of a folder, of a pattern, of the home folder; what is no image is left out."""
import pytest
from PIL import Image

from freqdino.data import find_images


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.JPG", "._a.png"):
        (tmp_path / name).touch()
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "Thumbs.db").touch()
    return tmp_path


def test_images_of_a_folder(folder, monkeypatch):
    assert [path.name for path in find_images(str(folder))] == ["a.JPG", "b.png"]
    monkeypatch.setenv("HOME", str(folder.parent))
    assert [path.name for path in find_images(f"~/{folder.name}")] == ["a.JPG", "b.png"]
    assert find_images(f"~/{folder.name}/b.png") == [folder / "b.png"]


def test_images_of_a_pattern(folder):
    assert [path.name for path in find_images(f"{folder}/*.png")] == ["b.png"]
    with pytest.raises(ValueError, match="no file matches"):
        find_images(f"{folder}/*.bmp")


def test_a_folder_without_images(tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / ".hidden.png")
    with pytest.raises(ValueError, match=r"the folder has no image \(\.bmp"):
        find_images(str(tmp_path))

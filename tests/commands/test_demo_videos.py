"""tools/demo.py on videos and cameras, with a model that predicts fixed results."""
import re

import cv2
import numpy as np
import pytest

from freqdino.visualization.videos import VideoWriter
from helpers.demo_project import demo_project, run


@pytest.fixture
def project(tmp_path):
    return demo_project(tmp_path)


def write_clip(path, frames=4):
    """A grey video of 40x30 pixels, ten frames a second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (40, 30))
    for _ in range(frames):
        writer.write(np.full((30, 40, 3), 128, np.uint8))
    writer.release()


def read_clip(path):
    capture = cv2.VideoCapture(str(path))
    rate, frames = capture.get(cv2.CAP_PROP_FPS), []
    while (frame := capture.read()[1]) is not None:
        frames.append(frame[:, :, ::-1].astype(int))
    return rate, frames


@pytest.mark.parametrize("output", ["out", "new/drawn.avi", "drawn.mp4"])
def test_video(project, capsys, output):
    write_clip(project / "clip.avi")
    assert run(project, "--video-input", project / "clip.avi", "--output", project / output) == 0
    path = project / "out" / "clip.mp4" if output == "out" else project / output
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(f"{project / 'clip.avi'}: 4 frames, ") and line.endswith(f" s each -> {path}")
    rate, frames = read_clip(path)
    assert rate == 10 and len(frames) == 4
    for frame in frames:
        assert frame.shape == (30, 40, 3)
        assert np.ptp(frame[20:, 2:15], axis=-1).mean() > 50 > np.ptp(frame[20:, 28:38], axis=-1).mean()


def test_video_that_is_cut_off(project, capsys):
    write_clip(project / "whole.avi", frames=60)
    data = (project / "whole.avi").read_bytes()
    (project / "cut.avi").write_bytes(data[:len(data) // 2])
    assert run(project, "--video-input", project / "cut.avi") == 1
    out, err = capsys.readouterr()
    assert re.search(r"cut\.avi: only \d+ of 60 frames can be read; the file may be cut off", err)
    assert "-> " in out and 0 < len(read_clip(project / "out" / "cut.mp4")[1]) < 54
    assert run(project, "--video-input", project / "cut.avi", "--max-images", 2) == 0


def test_video_is_not_overwritten(project, capsys):
    write_clip(project / "clip.avi")
    before = (project / "clip.avi").read_bytes()
    assert run(project, "--video-input", project / "clip.avi", "--output", project / "clip.avi") == 1
    assert "--output would overwrite the input" in capsys.readouterr().err
    assert (project / "clip.avi").read_bytes() == before


def test_odd_sides_of_a_video_are_filled_up(tmp_path):
    frame = np.full((31, 41, 3), (200, 0, 0), np.uint8)
    with VideoWriter(tmp_path / "odd.mp4", 12.5) as writer:
        writer.write(frame)
    rate, frames = read_clip(tmp_path / "odd.mp4")
    assert rate == 12.5 and len(frames) == 1 and frames[0].shape == (32, 42, 3)
    assert np.abs(frames[0] - [200, 0, 0]).max() <= 8


class Camera:
    """Gives five grey pictures, then the user presses Ctrl-C. Like most cameras it does not know its frame rate."""

    def __init__(self, number):
        assert number == 2
        self.frames = 5

    def isOpened(self):
        return True

    def get(self, _):
        return 0.0

    def read(self):
        self.frames -= 1
        if self.frames < 0:
            raise KeyboardInterrupt
        return True, np.full((30, 40, 3), 128, np.uint8)

    def release(self):
        pass


@pytest.mark.parametrize(("limit", "count"), [([], 5), (["--max-images", 3], 3)])
def test_camera(project, capsys, monkeypatch, limit, count):
    with monkeypatch.context() as patch:
        patch.setattr(cv2, "VideoCapture", Camera)
        assert run(project, "--webcam", 2, *limit) == 0
    assert f"camera 2: {count} frames, " in capsys.readouterr().out
    rate, frames = read_clip(project / "out" / "camera_2.mp4")
    assert rate == 30 and len(frames) == count


def test_video_without_a_frame(project, capsys, monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    monkeypatch.setattr(Camera, "read", lambda self: (False, None))
    assert run(project, "--webcam", 2) == 1
    assert "camera 2 gives no frame" in capsys.readouterr().err
    assert not list((project / "out").iterdir())


@pytest.mark.parametrize(("arguments", "message"), [
    (["--video-input", "{}/none.mp4"], "none.mp4 does not exist"),
    (["--video-input", "{}/config.yaml"], "config.yaml cannot be read as a video"),
    (["--video-input", "{}/clip.avi", "--output", "{}/out.mkv"], "out.mkv: videos are written as .mp4 or .avi"),
    (["--webcam", "99"], "there is no camera 99"),
])
def test_videos_that_cannot_be_read_or_written(project, capsys, arguments, message):
    write_clip(project / "clip.avi")
    status = run(project, *[argument.format(project) for argument in arguments])
    error = capsys.readouterr().err
    assert status == 1 and error.startswith("error: ") and message in error

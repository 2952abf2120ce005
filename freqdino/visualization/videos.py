"""Reading frames from video files and cameras, and writing video files, through OpenCV.

Shape key: H, W: height and width of a frame.
"""
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

VIDEO_CODECS = {".mp4": "mp4v", ".avi": "MJPG"}     # suffix of a file -> codec that every build of OpenCV writes
UNKNOWN_FRAME_RATE = 30.0


class VideoReader:
    """The frames, RGB uint8 (H, W, 3), of a video file (its path) or a camera (its number); a context manager.

    Raises FileNotFoundError: there is no such file; ValueError: the file is no video that OpenCV reads, or there is no
    such camera.
    """

    def __init__(self, source: str | int):
        is_file = isinstance(source, str)
        self.name, self.stem = (source, Path(source).stem) if is_file else (f"camera {source}", f"camera_{source}")
        if is_file and not Path(source).is_file():
            raise FileNotFoundError(f"video file {source} does not exist")
        self._capture = cv2.VideoCapture(source)
        if not self._capture.isOpened():
            raise ValueError(f"video file {source} cannot be read as a video" if is_file else
                             f"there is no camera {source}, or another program uses it")
        self._frame_count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)) if is_file else 0
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.frame_rate = rate if rate > 0 else UNKNOWN_FRAME_RATE      # in frames per second

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_) -> None:
        self._capture.release()

    def length(self, limit: int | None) -> int | None:
        """Frames that are to be expected, at most ``limit``; None where a camera has no end or a file does not say."""
        counts = [count for count in (self._frame_count, limit) if count]
        return min(counts, default=None)

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            read, frame = self._capture.read()
            if not read:
                return
            yield frame[:, :, ::-1]


class VideoWriter:
    """A video file that takes the size of its first frame; a context manager. No frame, no file.

    The codecs have even sides only: of an odd one the last row or column is doubled.

    Raises ValueError: the suffix is not one of VIDEO_CODECS.
    """

    def __init__(self, path: Path, frame_rate: float):
        if path.suffix.lower() not in VIDEO_CODECS:
            raise ValueError(f"{path}: videos are written as {' or '.join(VIDEO_CODECS)}")
        self._path, self._frame_rate, self._writer = path, frame_rate, None

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *_) -> None:
        if self._writer is not None:
            self._writer.release()

    def write(self, frame: np.ndarray) -> None:
        """Append a frame, RGB uint8 (H, W, 3). Raises OSError if the file cannot be written."""
        frame = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
        if self._writer is None:
            codec = cv2.VideoWriter_fourcc(*VIDEO_CODECS[self._path.suffix.lower()])
            self._writer = cv2.VideoWriter(str(self._path), codec, self._frame_rate, frame.shape[1::-1])
            if not self._writer.isOpened():
                raise OSError(f"video file {self._path} cannot be written")
        self._writer.write(np.ascontiguousarray(frame[:, :, ::-1]))

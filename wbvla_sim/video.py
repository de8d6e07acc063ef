"""Frames to mp4 and back, by PyAV (H.264, yuv420p: plays in every browser)."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


class Mp4Writer:
    """Write frames as they come: ``with Mp4Writer(path, fps=25) as video: video.add(frame)``."""

    def __init__(self, path: str | Path, *, fps: float, quality: int = 20) -> None:
        """quality: H.264 constant rate factor, smaller is better and larger."""
        self.path, self.fps, self.quality = Path(path), fps, quality
        self._container: av.container.OutputContainer | None = None
        self._stream = None
        self._size: tuple[int, int] | None = None

    def __enter__(self) -> Mp4Writer:
        return self

    def add(self, frame: np.ndarray) -> None:
        """Append one frame, uint8 [H, W, 3]; an odd last row or column is cut off (yuv420p has none)."""
        frame = np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])
        if self._container is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(self.path), "w", options={"movflags": "faststart"})
            self._stream = self._container.add_stream("libx264", rate=Fraction(self.fps).limit_denominator(1000))
            self._size = self._stream.width, self._stream.height = frame.shape[1], frame.shape[0]
            self._stream.pix_fmt = "yuv420p"
            self._stream.options = {"crf": str(self.quality), "preset": "veryfast"}
        if (frame.shape[1], frame.shape[0]) != self._size:
            raise ValueError(f"all frames of {self.path.name} must be {self._size[0]}x{self._size[1]}, got {frame.shape[1]}x{frame.shape[0]}")
        for packet in self._stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
            self._container.mux(packet)

    def __exit__(self, *exc: object) -> None:
        if self._container is not None:
            for packet in self._stream.encode():
                self._container.mux(packet)
            self._container.close()
            self._container = None


def write_mp4(path: str | Path, frames: Iterable[np.ndarray], *, fps: float, quality: int = 20) -> Path:
    """Write all frames [H, W, 3] uint8; ValueError if there is none."""
    with Mp4Writer(path, fps=fps, quality=quality) as video:
        count = 0
        for frame in frames:
            video.add(frame)
            count += 1
    if not count:
        raise ValueError(f"no frames for {path}")
    return Path(path)


def read_mp4(path: str | Path) -> np.ndarray:
    """All frames, uint8 [T, H, W, 3]."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])

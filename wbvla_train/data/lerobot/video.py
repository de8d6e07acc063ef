"""Video of data sets: constant rate (frame k at k / fps), H.264 without B-frames, a key frame every few frames, one thread (bits repeat)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CRF = "18"
COPIED = ("h264", "hevc", "av1", "libdav1d", "libaom-av1")  # decoders' names: their packets may be put into another mp4
KEY_FRAMES = "5"  # random access decodes at most four frames too many (lerobot's default is 2, at AV1)


class Encoder:
    """Write images one by one; use as a context."""

    def __init__(self, path: Path, fps: float) -> None:
        self._container = av.open(str(path), "w", format="mp4")
        self._rate = Fraction(fps).limit_denominator(1001)
        self._stream = None
        self.frames = 0

    def __enter__(self) -> Encoder:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            if self._stream is not None and exc[0] is None:
                self._container.mux(self._stream.encode())
        finally:
            self._container.close()

    def add(self, image: np.ndarray) -> None:
        """Append an image [H, W, 3] uint8. Odd sizes keep their last row and column: they are stored with full colour resolution (4:4:4)."""
        if self._stream is None:
            options = {"crf": CRF, "preset": "veryfast", "g": KEY_FRAMES, "bf": "0"}
            self._stream = self._container.add_stream("libx264", rate=self._rate, options=options)
            self._stream.height, self._stream.width = image.shape[:2]
            self._stream.pix_fmt = "yuv444p" if image.shape[0] % 2 or image.shape[1] % 2 else "yuv420p"
            self._stream.thread_count = 1
            self._stream.codec_context.time_base = 1 / self._rate
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.time_base = self.frames, 1 / self._rate
        self._container.mux(self._stream.encode(frame))
        self.frames += 1


def concatenate(parts: Sequence[tuple[Path, int]], fps: float, output: Path) -> None:
    """Join videos without encoding them again; parts are (path, number of frames), frame k of each at k / fps, in coding order."""
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(output), "w", format="mp4") as target:
        stream, done = None, 0
        for path, frames in parts:
            with av.open(str(path)) as source:
                origin = source.streams.video[0]
                if stream is None:
                    stream = target.add_stream_from_template(origin, opaque=True)  # nothing is encoded: there is no encoder called "libdav1d"
                shift = round(Fraction(done) / rate / origin.time_base)
                for packet in source.demux(origin):
                    if packet.dts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = stream
                    target.mux(packet)
            done += frames


def codec_key(path: Path) -> tuple:
    """What must agree for two videos to be joined without encoding."""
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        return context.name, context.width, context.height, context.pix_fmt, bytes(context.extradata or b"")

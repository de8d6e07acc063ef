"""Clips as mp4 (H.264 through PyAV), with the time stamps of the sidecar in the container too."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from wbvla_core.errors import WbvlaError

_TIME_BASE = Fraction(1, 1000)  # stamps are kept to the millisecond


def write_mp4(path: Path, frames: np.ndarray, stamps_s: np.ndarray, crf: int = 14, reproducible: bool = False) -> None:
    """Write frames [T, H, W, 3] uint8 RGB (even H and W) stamped ``stamps_s`` [T], seconds from the clip's start.

    ``crf`` 14 keeps surface texture: at 96 px the encoder's default (23) blurs away what small motions are read from.
    ``reproducible``: the same frames give the same bytes. x264's assembler reads memory that nobody wrote when it weighs blocks ahead
    (files differ in size from call to call, though hardly in content); plain C without that look ahead does not.
    """
    rate = Fraction(max(round((len(frames) - 1) / max(float(stamps_s[-1] - stamps_s[0]), 1e-3)), 1)) if len(frames) > 1 else Fraction(10)
    options = {"crf": str(crf), "preset": "veryfast"} | ({"x264-params": "no-asm=1:mbtree=0"} if reproducible else {})
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        stream.codec_context.time_base = _TIME_BASE
        for image, stamp in zip(frames, stamps_s, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = round(float(stamp) * 1000), _TIME_BASE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def read_mp4(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Frames [T, H, W, 3] uint8 RGB and stamps [T], s, as the container has them.

    Raises:
        WbvlaError: gone, damaged, or without a frame.
    """
    frames, stamps = [], []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            for frame in container.decode(stream):
                frames.append(frame.to_ndarray(format="rgb24"))
                stamps.append(float(frame.pts * frame.time_base))
    except (av.FFmpegError, IndexError, TypeError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise WbvlaError(f"{path} cannot be read as video ({why}); copy it again, or delete its folder and render or ingest it again") from error
    if not frames:
        raise WbvlaError(f"{path} holds no video frame; delete its folder and render it again")
    return np.stack(frames), np.array(stamps)

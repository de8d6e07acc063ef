"""Pictures joined with the rows of an episode by time stamps, never by counting.

Row ``k`` of an episode wants the picture at ``from_timestamp + timestamp[k]`` on the clock of its video file. It gets the picture whose own
stamp is nearest, and only where that picture is near enough (:func:`allowed`). One rule serves reading, checking and merging.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from wbvla_train.data.lerobot.episode import DataError, RowError, shown

TOLERANCE_S = 1e-4  # lerobot 0.4.4's tolerance_s: a picture further from its row is refused there, too
ROUNDED = 2e-6  # relative: "29.97" in place of 30000/1001 is 1e-6 off
FINER = 1.5  # a video with this many pictures a row has a rate of its own: its nearest picture is the right one
JITTER = 0.75  # of the distance of two pictures: within it lies the nearest one as long as none is lost
_SEEK_BACK_S = (0.0, 1.0, 10.0, np.inf)
READ_ERRORS = (av.error.FFmpegError, OSError, IndexError, ValueError)


@dataclass(frozen=True)
class Video:
    """What a video file holds, from its packets: nothing is decoded.

    Attributes:
        stamps_s: [N], ascending: when its pictures are shown.
        step_s: usual distance of two pictures; tick_s: unit of the stamps.
        width, height: px; rotation_deg: by which players are asked to turn the pictures. Readers of data sets do not turn them.
    """

    path: Path
    stamps_s: np.ndarray
    step_s: float
    tick_s: float
    width: int
    height: int
    rotation_deg: int


def open_video(path: Path) -> av.container.InputContainer:
    """Open a video file for reading.

    Raises:
        DataError: it is missing, cut off, or holds no video, or depth: as a colour picture its distances would be lost.
    """
    try:
        container = av.open(str(path))
    except READ_ERRORS as error:
        why = "it is missing" if isinstance(error, FileNotFoundError) else "cut off while it was written?" if path.stat().st_size else "it is empty"
        raise DataError(f"{shown(path)} is not readable as video: {why}") from error
    if not container.streams.video:
        container.close()
        raise DataError(f"{shown(path)} holds no video (cut off while it was written?)")
    stream = container.streams.video[0]
    kind = stream.codec_context.format if stream.codec_context else None  # of no known codec: said when it is decoded
    if kind is not None and len(kind.components) == 1 and kind.components[0].bits > 8:
        container.close()
        text = f"{shown(path)} holds depth or thermal pictures ({kind.name}); pictures of 8 bits a channel are read"
        raise DataError(f"{text}. To go on without this camera, take it out of the features in meta/info.json (of a copy)")
    stream.thread_type = "NONE"
    return container


def scan(path: Path) -> Video:
    """Read all stamps of a video file.

    Raises:
        DataError: it is not readable, or a picture has no stamp.
    """
    with open_video(path) as container:
        stream = container.streams.video[0]
        try:
            packets = [packet for packet in container.demux(stream) if packet.size]
            first = next(container.decode(stream), None) if container.seek(0, stream=stream) is None else None
        except READ_ERRORS as error:
            raise DataError(f"{shown(path)} is not readable as video: {error}") from error
        stamps = [packet.pts for packet in packets if not packet.is_discard]
        if None in stamps:
            raise DataError(f"{shown(path)}: picture {stamps.index(None)} has no time stamp; write the file again with stamps")
        if first is None:
            raise DataError(f"{shown(path)} holds no picture")
        ordered = np.sort(np.array(stamps, np.int64)) * float(stream.time_base)
        size = stream.codec_context.width, stream.codec_context.height
        return Video(path, ordered, step_of(stream), float(stream.time_base), *size, int(first.rotation) % 360)


def step_of(stream: av.video.stream.VideoStream) -> float:
    """Usual distance of two pictures, s, as the container has it; infinite where it does not say."""
    return float(1 / stream.average_rate) if stream.average_rate else float("inf")


def allowed(wanted_s: np.ndarray, period_s: float, step_s: float, tick_s: float) -> tuple[np.ndarray, np.ndarray]:
    """How far a row's picture may lie from the time that it wants.

    Args:
        wanted_s: [T], on the video's clock. period_s: distance of two rows. step_s, tick_s: see :class:`Video`.

    Returns:
        exact [T]: rounding alone explains this: lerobot's tolerance, half a tick, float32 stamps (0.2 ms after an hour).
        most [T]: the same, or three quarters of a step where the video is finer than the rows (10 rows/s, 30 pictures/s).
    """
    rounding = np.spacing(np.abs(wanted_s).astype(np.float32)).astype(np.float64) + ROUNDED * np.abs(wanted_s)
    exact = TOLERANCE_S + tick_s / 2 + np.minimum(rounding, period_s / 10)
    finer = step_s * FINER <= period_s * (1 + 1e-6)
    return exact, np.maximum(exact, JITTER * step_s) if finer else exact


def nearest(stamps_s: np.ndarray, wanted_s: np.ndarray) -> np.ndarray:
    """Index of the stamp nearest to each wanted time [T]; of two equally near ones the earlier. ``stamps_s`` is ascending and not empty."""
    after = np.clip(np.searchsorted(stamps_s, wanted_s), 1, max(len(stamps_s) - 1, 1))
    after = np.minimum(after, len(stamps_s) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(np.abs(stamps_s[before] - wanted_s) <= np.abs(stamps_s[after] - wanted_s), before, after)


def read_joined(path: Path, wanted_s: np.ndarray, period_s: float, first_row: int = 0) -> Iterator[tuple[float, np.ndarray | None]]:
    """Decode the picture of each row, one at a time.

    Args:
        wanted_s: [T], ascending, on the video's clock. period_s: distance of two rows. first_row: number of the first, for messages.

    Yields:
        (stamp of the nearest picture, s; image [H, W, 3] uint8). None in place of the image where no picture is near enough: see :func:`require_picture`.

    Raises:
        DataError: the file is not readable.
    """
    if len(wanted_s) == 0:
        return
    with open_video(path) as container:
        stream = container.streams.video[0]
        most = allowed(wanted_s, period_s, step_of(stream), float(stream.time_base))[1]
        try:
            frames = _from(container, stream, float(wanted_s[0] - most[0]))
            before: tuple[float, av.VideoFrame] | None = None
            now = next(frames, None)
            for wanted, limit in zip(wanted_s, most):
                while now is not None and now[0] < wanted:
                    before, now = now, next(frames, None)
                near = min((c for c in (before, now) if c is not None), key=lambda c: abs(c[0] - wanted), default=None)
                if near is None:
                    yield float("nan"), None
                else:
                    yield near[0], near[1].to_ndarray(format="rgb24") if abs(near[0] - wanted) <= limit else None
        except READ_ERRORS as error:
            if isinstance(error, DataError):
                raise
            raise RowError(f"{shown(path)} is not readable as video: {error}", first_row) from error


def _from(container: av.container.InputContainer, stream: av.video.stream.VideoStream, start_s: float) -> Iterator[tuple[float, av.VideoFrame]]:
    """(stamp, frame) from the last key frame at or before ``start_s``; from the beginning where a seek lands behind it (reordered pictures)."""
    for back_s in _SEEK_BACK_S if start_s > 0 else (np.inf,):
        at = start_s - back_s
        if at > 0:
            container.seek(int(at / stream.time_base), stream=stream)
        elif start_s > 0:
            container.seek(stream.start_time or 0, stream=stream)
        frames = container.decode(stream)
        first = next(frames, None)
        if at <= 0 or (first is not None and stamp_of(first) <= start_s):
            break
    if first is not None:
        yield stamp_of(first), first
    for frame in frames:
        yield stamp_of(frame), frame


def stamp_of(frame: av.VideoFrame) -> float:
    """When a decoded picture is shown, s."""
    if frame.pts is None:
        raise ValueError("a picture has no time stamp")
    return float(frame.pts * frame.time_base)


def require_picture(image: np.ndarray | None, stamp_s: float, wanted_s: float, path: Path, episode: int, row: int) -> np.ndarray:
    """The image, or RowError: what was expected and what came."""
    if image is None:
        came = "none came" if np.isnan(stamp_s) else f"the nearest is at {stamp_s:.4f} s"
        text = f"{shown(path)}: episode {episode}, frame {row} has no picture: one at {wanted_s:.4f} s expected, {came}"
        raise RowError(f"{text}; `wbvla dataset check` says more", row)
    return image

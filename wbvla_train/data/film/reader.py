"""A film as a stream of samples: decoded once, never held, thinned to the LAM's rate by the frames' own time stamps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation

from wbvla_core.errors import WbvlaError
from wbvla_train.data.prints import stretches

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm", ".3gp", ".mts", ".m2ts", ".mpg", ".mpeg")
ANALYSIS_LINES = 180  # short side of the grey picture that the gates look at, px: more than any LAM sees, so "sharp" means sharp for it
FULL_RANGE = 2  # AVCOL_RANGE_JPEG
_FROM_VIDEO_RANGE = np.clip((np.arange(256) - 16) * 255.0 / 219.0, 0, 255).astype(np.uint8)  # luma 16..235 -> 0..255
SHORTFALL_S = 1.0  # a film that ends this much before its container says was cut off


class FilmError(WbvlaError):
    """A film that cannot be read at all: the text says why and what to do."""


@dataclass(frozen=True)
class Sample:
    """One frame that was kept.

    Attributes:
        stamp_s: its time stamp, seconds from the film's first frame.
        index: its number in the film, counted over all frames.
        grey: [h, w] uint8, the short side :data:`ANALYSIS_LINES`, upright.
        picture: [S, S, 3] uint8 RGB, upright: what a clip is made of.
    """

    stamp_s: float
    index: int
    grey: np.ndarray
    picture: np.ndarray


@dataclass
class FilmReport:
    """What was found while reading; complete when the stream has ended. ``problems`` is empty for a sound film."""

    width: int = 0
    height: int = 0
    rotation_deg: int = 0
    frames: int = 0
    duration_s: float = 0.0
    fps: float = 0.0
    variable_rate: bool = False
    problems: list[str] = field(default_factory=list)


def fingerprint(path: Path) -> str:
    """Identifies a film's content by its size and three stretches of 1 MiB; reading all of 500 GB twice would cost an hour.

    Raises:
        FilmError: it cannot be read: gone, a link to nowhere, no rights, a failing disk.
    """
    try:
        return stretches(path)
    except FileNotFoundError:
        raise FilmError("is gone since the folder was listed, or a link to nowhere") from None
    except PermissionError:
        raise FilmError("may not be read (permissions); chmod it, or run as its owner") from None
    except OSError as error:
        raise FilmError(f"cannot be read from its disk or card: {error.strerror}; copy it again") from None


def samples(path: Path, rate_hz: float, size: int, report: FilmReport, *, threads: int = 1) -> Iterator[Sample]:
    """Decode ``path`` and yield about ``rate_hz`` frames per second of its own clock.

    A frame is taken when its stamp has reached the next multiple of 1/``rate_hz``, so that films of 24, 30 or an uneven number of
    frames per second all come out with true stamps near that rate, and a slower film comes out whole.

    Raises:
        FilmError: no file, not a film, no video track, no frame.
    """
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError, UnicodeError) as error:
        if path.exists() and path.stat().st_size == 0:
            raise FilmError("the file is empty (0 bytes); copy it from the camera again") from None
        raise FilmError(f"cannot be opened as a film: {_reason(error)}; if its recording was cut off, its index is missing: repair or delete it") from None
    with container:
        if not container.streams.video:
            raise FilmError("has no video track (sound only?); remove it from the folder")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise FilmError("is in a format that this PyAV cannot decode; convert it to H.264")
        stream.thread_type = "AUTO" if threads > 1 else "NONE"
        stream.codec_context.thread_count = threads
        expected_s = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6
        yield from _stream(container, stream, rate_hz, size, report, expected_s)


def _stream(container, stream, rate_hz: float, size: int, report: FilmReport, expected_s: float) -> Iterator[Sample]:
    broken = disordered = 0
    first_s = last_s = None
    shortest_s, longest_s = math.inf, 0.0
    due = 0
    for frame in _frames(container, stream):
        if frame is None:
            broken += 1
            continue
        if frame.pts is None:
            disordered += 1
            continue
        stamp_s = float(frame.pts * frame.time_base)
        if first_s is None:
            first_s = stamp_s
            turned = round(frame.rotation / 90) % 4
            report.rotation_deg = 90 * turned
            report.width, report.height = (frame.height, frame.width) if turned % 2 else (frame.width, frame.height)
        elif stamp_s <= last_s:
            disordered += 1
            continue
        else:
            shortest_s, longest_s = min(shortest_s, stamp_s - last_s), max(longest_s, stamp_s - last_s)
        last_s = stamp_s
        report.frames += 1
        since_s = stamp_s - first_s
        if since_s * rate_hz >= due - 0.05:  # a stamp rounded down by the container is still on time
            due = math.floor(since_s * rate_hz + 0.05) + 1
            yield Sample(since_s, report.frames - 1, *_pictures(frame, size, report.rotation_deg // 90))
    if first_s is None:
        raise FilmError(f"holds no readable frame ({broken} of its packets cannot be decoded); delete it or copy it again")
    report.duration_s = last_s - first_s
    report.fps = (report.frames - 1) / report.duration_s if report.frames > 1 else 0.0
    report.variable_rate = report.frames > 2 and longest_s > 1.5 * shortest_s
    if broken:
        report.problems.append(f"{broken} {'packet' if broken == 1 else 'packets'} could not be decoded; the rest was used")
    if disordered:
        report.problems.append(f"{disordered} frames without a stamp or with one not later than the frame before (clock jump) were left out")
    if expected_s - report.duration_s > SHORTFALL_S:
        report.problems.append(f"cut off: {report.duration_s:.1f} s of the {expected_s:.1f} s that its header promises can be read")


def _frames(container, stream):
    """Decoded frames; None for a packet that could not be decoded."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError:
            yield None
            return
        try:
            decoded = packet.decode()
        except av.error.FFmpegError:
            yield None
            continue
        yield from decoded


def _pictures(frame: av.VideoFrame, size: int, turns: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey analysis picture and the square clip picture (aspect squashed, as perception does to the robot's), upright.

    Both are reduced before colours are converted and before they are turned: at 720p that is most of the work saved.
    """
    scale = ANALYSIS_LINES / min(frame.width, frame.height)
    width, height = max(round(frame.width * scale), 16), max(round(frame.height * scale), 16)
    plane = frame.planes[0]
    if frame.format.name in ("yuv420p", "yuvj420p", "nv12", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"):  # luma as it is, without a copy
        luma = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
        luma = cv2.resize(luma, (width, height), interpolation=cv2.INTER_AREA)
        if frame.color_range != FULL_RANGE and not frame.format.name.startswith("yuvj"):
            luma = cv2.LUT(luma, _FROM_VIDEO_RANGE)
    else:
        luma = frame.reformat(width=width, height=height, format="gray", interpolation=Interpolation.AREA).to_ndarray()
    picture = frame.reformat(width=size, height=size, format="rgb24", interpolation=Interpolation.AREA).to_ndarray()
    return np.ascontiguousarray(np.rot90(luma, turns)), np.ascontiguousarray(np.rot90(picture, turns))


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)

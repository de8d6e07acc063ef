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

from wbvla_train.data.film import colour
from wbvla_train.data.film.track import SIDE_BY_SIDE, TOP_BOTTOM, FilmError, Plan, decoded, open_film, plan, seconds
from wbvla_train.data.prints import stretches

SUFFIXES = (
    *(".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm", ".3gp", ".3g2", ".mts", ".m2ts", ".m2t", ".ts", ".mpg", ".mpeg", ".vob"),
    *(".wmv", ".asf", ".flv", ".ogv", ".mxf", ".dv", ".gif"),
)
ANALYSIS_LINES = 180  # short side of the grey picture that the gates look at, px: more than any LAM sees, so "sharp" means sharp for it
EIGHT_BIT_LUMA = ("yuv420p", "yuvj420p", "nv12", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p")
WITH_ALPHA = ("rgba", "bgra", "argb", "abgr", "yuva420p", "yuva422p", "yuva444p", "yuva444p10le", "yuva444p12le", "gbrap", "ya8", "rgba64le")
FULL_RANGE = 2  # AVCOL_RANGE_JPEG
_FROM_VIDEO_RANGE = np.clip((np.arange(256) - 16) * 255.0 / 219.0, 0, 255).astype(np.uint8)  # luma 16..235 -> 0..255
SHORTFALL_S = 1.0  # a film that ends this much before its container says was cut off
JUMP_S = 0.5  # a stamp this much earlier than the one before is a clock that was set back: a camera that was started again, files that were joined
STRETCH_S = 1.0  # between two stretches of a film whose clock was set back
LOST_SHARE = 0.1  # a film of which more than this share of the frames had to be left out is no film to learn from
VIEW_LINES = 240  # short side of the colour picture in which people and hands are looked for, px
VIEW_EVERY_S = 0.3


@dataclass(frozen=True)
class Sample:
    """One frame that was kept.

    Attributes:
        stamp_s: its time stamp, seconds from the film's first frame.
        index: its number in the film, counted over all frames.
        grey: [h, w] uint8, the short side :data:`ANALYSIS_LINES`, upright, pixels square.
        picture: [S, S, 3] uint8 RGB, upright: what a clip is made of.
        joined: the film's clock was set back before this frame: no time is known between it and the frame before.
        view: [h, w, 3] uint8 RGB, the short side :data:`VIEW_LINES`, upright; None where it was not asked for.
    """

    stamp_s: float
    index: int
    grey: np.ndarray
    picture: np.ndarray
    joined: bool = False
    view: np.ndarray | None = None


@dataclass
class FilmReport:
    """What was found while reading; complete when the stream has ended.

    Attributes:
        width, height: of a picture as it is shown: upright, one view of a stereo film, pixels square.
        sound: whether the file has a sound track.
        problems: what was left out; empty for a sound film. notes: what was recognised and dealt with, without loss.
    """

    width: int = 0
    height: int = 0
    rotation_deg: int = 0
    frames: int = 0
    duration_s: float = 0.0
    fps: float = 0.0
    variable_rate: bool = False
    sound: bool = False
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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


def samples(path: Path, rate_hz: float, size: int, report: FilmReport, *, threads: int = 1, views: bool = False) -> Iterator[Sample]:
    """Decode ``path`` and yield about ``rate_hz`` frames per second of its own clock.

    A frame is taken when its stamp has reached the next multiple of 1/``rate_hz``, so that films of 24, 30 or an uneven number of
    frames per second all come out with true stamps near that rate, and a slower film comes out whole.

    Args:
        views: add :attr:`Sample.view` every :data:`VIEW_EVERY_S`.

    Raises:
        FilmError: no file, not a film, no video track, no frame, or a film whose pictures or stamps cannot be trusted.
    """
    how = plan(path)
    report.notes.extend(how.notes)
    with open_film(path) as container:
        stream = next(s for s in container.streams.video if s.index == how.index)
        stream.thread_type = "AUTO" if threads > 1 else "NONE"
        stream.codec_context.thread_count = threads
        report.sound = bool(container.streams.audio)
        yield from _stream(container, stream, how, rate_hz, report, size, views)


class _Clock:
    """Stamps of frames in the order in which they are shown, s from the first; they only grow."""

    def __init__(self, slower: float) -> None:
        self.slower = slower
        self.first_s: float | None = None
        self.last_s = 0.0
        self.shortest_s, self.longest_s = math.inf, 0.0
        self.disordered, self.jumps = 0, []

    def stamp(self, frame: av.VideoFrame) -> tuple[float, bool] | None:
        """Seconds since the first frame, and whether the clock was set back before it; None for a frame without a stamp of its own."""
        if frame.pts is None:
            self.disordered += 1
            return None
        now_s = float(frame.pts * frame.time_base) / self.slower
        if self.first_s is None:
            self.first_s = now_s
            return 0.0, False
        since_s = now_s - self.first_s
        if since_s < self.last_s - JUMP_S:
            self.jumps.append(self.last_s)
            self.first_s = now_s - self.last_s - STRETCH_S
            self.last_s += STRETCH_S
            return self.last_s, True
        if since_s <= self.last_s:
            self.disordered += 1
            return None
        step_s = since_s - self.last_s
        self.shortest_s, self.longest_s = min(self.shortest_s, step_s), max(self.longest_s, step_s)
        self.last_s = since_s
        return since_s, False


def _stream(container, stream, how: Plan, rate_hz: float, report: FilmReport, size: int, views: bool) -> Iterator[Sample]:
    clock = _Clock(how.slower)
    broken, due, view_due_s, turns = 0, 0, 0.0, None
    joined = False
    for frame in _progressive(_as_shown(decoded(container, stream), how.by_coding_order), how.interlaced):
        if frame is None:
            broken += 1
            continue
        if turns is None:
            turns = round(frame.rotation / 90) % 4
            _describe(frame, stream, how, turns, report)
        stamp = clock.stamp(frame)
        if stamp is None:
            continue
        since_s, set_back = stamp
        joined |= set_back
        report.frames += 1
        if set_back or since_s * rate_hz >= due - 0.05:  # a stamp rounded down by the container is still on time
            due = math.floor(since_s * rate_hz + 0.05) + 1
            wanted = views and since_s >= view_due_s
            view_due_s = since_s + VIEW_EVERY_S - 0.01 if wanted else view_due_s
            shape = (report.width, report.height)
            yield Sample(since_s, report.frames - 1, *_pictures(frame, how, size, shape, turns), joined, _view(frame, how, shape, turns) if wanted else None)
            joined = False
    _conclude(clock, broken, seconds(container, stream) / how.slower, report)


def _describe(frame: av.VideoFrame, stream, how: Plan, turns: int, report: FilmReport) -> None:
    """Size as shown: one view of a stereo film, pixels square, upright."""
    width, height = _view_box(frame, how)
    aspect = float(stream.sample_aspect_ratio or 1)
    if how.stereo and width * aspect / height < 1.0 / 1.2:  # two views squeezed into the room of one
        aspect *= 2.0
    elif how.stereo == TOP_BOTTOM and width * aspect / height > 2.4:
        aspect /= 2.0
    width = round(width * aspect)
    report.rotation_deg = 90 * turns
    report.width, report.height = (height, width) if turns % 2 else (width, height)


def _conclude(clock: _Clock, broken: int, expected_s: float, report: FilmReport) -> None:
    """What a film turned out to be, at its end.

    Raises:
        FilmError: nothing could be read, or too little to trust the rest.
    """
    if clock.first_s is None:
        raise FilmError(f"holds no readable frame ({broken} of its packets cannot be decoded); delete it or copy it again")
    lost = broken + clock.disordered
    if clock.disordered > LOST_SHARE * (report.frames + lost) and clock.disordered > 3:
        report.problems.append(
            f"{clock.disordered} of {report.frames + lost} frames without a stamp or with one not later than the frame before were left out: "
            "what is left has true stamps, but convert the film again, with a constant frame rate, to get all of it"
        )
    elif clock.disordered:
        report.problems.append(f"{clock.disordered} frames without a stamp or with one not later than the frame before (clock jump) were left out")
    report.duration_s = clock.last_s
    report.fps = (report.frames - 1) / report.duration_s if report.frames > 1 else 0.0
    report.variable_rate = report.frames > 2 and clock.longest_s > 1.5 * clock.shortest_s
    if broken:
        report.problems.append(f"{broken} {'packet' if broken == 1 else 'packets'} could not be decoded; the rest was used")
    for at_s in clock.jumps:
        report.notes.append(f"its clock is set back at {at_s:.1f} s (joined recordings?): it goes on as a new stretch")
    if expected_s - report.duration_s > SHORTFALL_S:
        report.problems.append(f"cut off: {report.duration_s:.1f} s of the {expected_s:.1f} s that its header promises can be read")


def _as_shown(frames: Iterator[av.VideoFrame | None], by_coding_order: bool) -> Iterator[av.VideoFrame | None]:
    """The frames, with stamps of the order in which they are shown.

    Decoders put frames into that order by what the coded pictures say themselves. Where the container knows coding order only, a frame's own
    stamp is that of another one; the packet at which it came out of the decoder has its time, later by a delay that is the same for all.
    """
    if not by_coding_order:
        yield from frames
        return
    last, step = None, None
    for frame in frames:
        if frame is not None:
            frame.pts = frame.dts if frame.dts is not None or last is None else last + (step or 0)  # None: the decoder is being emptied
            step = frame.pts - last if last is not None and frame.pts is not None else step
            last = frame.pts if frame.pts is not None else last
        yield frame


def _progressive(frames: Iterator[av.VideoFrame | None], interlaced: bool) -> Iterator[av.VideoFrame | None]:
    """The frames; fields that were woven into one picture separated by FFmpeg's bwdif, one frame for each."""
    if not interlaced:
        yield from frames
        return
    graph = None
    for frame in frames:
        if frame is None:
            yield None
            continue
        if graph is None:
            graph = av.filter.Graph()
            source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
            graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")).configure()
        graph.vpush(frame)
        yield from _pulled(graph)
    if graph is not None:
        graph.vpush(None)
        yield from _pulled(graph)


def _pulled(graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def _view_box(frame: av.VideoFrame, how: Plan) -> tuple[int, int]:
    """Width and height of one view in the stored picture."""
    return frame.width // (2 if how.stereo == SIDE_BY_SIDE else 1), frame.height // (2 if how.stereo == TOP_BOTTOM else 1)


def _reduced(frame: av.VideoFrame, how: Plan, width: int, height: int) -> np.ndarray:
    """[height, width, 3] uint8 RGB of standard range, as stored: reduced before colours are converted, which saves most of the work at 720p."""
    wide, high = width * (2 if how.stereo == SIDE_BY_SIDE else 1), height * (2 if how.stereo == TOP_BOTTOM else 1)

    def scaled(pixels: str) -> np.ndarray:
        return frame.reformat(width=wide, height=high, format=pixels, interpolation=Interpolation.AREA).to_ndarray()[:height, :width]

    if colour.name(how.trc, how.primaries):
        return colour.to_standard(scaled("rgb48le"), how.trc, how.primaries)
    if frame.format.name in WITH_ALPHA or frame.format.has_palette:  # what shines through is nothing: black
        picture = scaled("rgba").astype(np.float32)
        return np.round(picture[..., :3] * picture[..., 3:] / 255.0).astype(np.uint8)
    return scaled("rgb24")


def _scaled_size(shape: tuple[int, int], turns: int, lines: int) -> tuple[int, int]:
    """Width and height before turning, of a picture whose short side has ``lines`` pixels and whose pixels are square."""
    width, height = shape[::-1] if turns % 2 else shape
    scale = lines / min(width, height)
    return max(round(width * scale), 16), max(round(height * scale), 16)


def _pictures(frame: av.VideoFrame, how: Plan, size: int, shape: tuple[int, int], turns: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey analysis picture and the square clip picture (aspect squashed, as perception does to the robot's), upright."""
    width, height = _scaled_size(shape, turns, ANALYSIS_LINES)
    if frame.format.name in EIGHT_BIT_LUMA and not colour.name(how.trc, how.primaries):  # luma as it is, without a copy
        plane, (view_width, view_height) = frame.planes[0], _view_box(frame, how)
        grey = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:view_height, :view_width]
        grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
        if frame.color_range != FULL_RANGE and not frame.format.name.startswith("yuvj"):
            grey = cv2.LUT(grey, _FROM_VIDEO_RANGE)
    elif colour.name(how.trc, how.primaries) or frame.format.name in WITH_ALPHA or frame.format.has_palette or how.stereo:
        grey = colour.luma(_reduced(frame, how, width, height))
    else:
        grey = frame.reformat(width=width, height=height, format="gray", interpolation=Interpolation.AREA).to_ndarray()
    return np.ascontiguousarray(np.rot90(grey, turns)), np.ascontiguousarray(np.rot90(_reduced(frame, how, size, size), turns))


def _view(frame: av.VideoFrame, how: Plan, shape: tuple[int, int], turns: int) -> np.ndarray:
    """The colour picture in which people and hands are looked for."""
    return np.ascontiguousarray(np.rot90(_reduced(frame, how, *_scaled_size(shape, turns, VIEW_LINES)), turns))

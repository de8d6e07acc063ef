"""Which of a file's video tracks is the film, by which clock it runs, and what has to be done to its pictures.

A first look at a few dozen frames decides once for the whole film, before the stream is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2
import numpy as np
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.reformatter import Interpolation

from wbvla_core.errors import WbvlaError
from wbvla_train.data.film import colour

NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image | Disposition.dependent
LOOK_FRAMES = 64
DISORDER_SHARE = 0.1  # of the stamps that are not later than the one before: more is an order of its own, fewer are faults
VIEW_EVERY = 8
STEREO_MATCH, STEREO_MATCH_SQUEEZED = 0.75, 0.92  # correlation of two halves; the higher one where the shape of the picture does not suggest it
SIDE_BY_SIDE, TOP_BOTTOM = "side by side", "top and bottom"
_STEREO_TYPES = {1: SIDE_BY_SIDE, 2: TOP_BOTTOM}  # AVStereo3DType
_STEREO_OTHERS = {3: "one after the other", 4: "as a checkerboard", 5: "side by side in quincunx", 6: "line by line", 7: "column by column"}
_MKV_STEREO = {"left_right": SIDE_BY_SIDE, "right_left": SIDE_BY_SIDE, "top_bottom": TOP_BOTTOM, "bottom_top": TOP_BOTTOM}
CAPTURE_RATE = "com.android.capture.fps"


class FilmError(WbvlaError):
    """A film that cannot be read at all: the text says why and what to do."""


@dataclass(frozen=True)
class Plan:
    """How a film is read.

    Attributes:
        index: of the stream in its container.
        by_coding_order: the container knows the times of the packets only (AVI, some MP4): frames are stamped as they come out of the decoder.
        interlaced: fields are woven: to be separated.
        stereo: "", "side by side", "top and bottom": the first view is used.
        trc, primaries: of ITU-T H.273. slower: how much slower than life the film plays (0.1: ten times faster).
        notes: what was recognised and dealt with, one sentence each.
    """

    index: int
    by_coding_order: bool = False
    interlaced: bool = False
    stereo: str = ""
    trc: int = 0
    primaries: int = 0
    slower: float = 1.0
    notes: tuple[str, ...] = ()


def open_film(path: Path) -> av.container.InputContainer:
    """Open a file as a film.

    Raises:
        FilmError: empty, or nothing that FFmpeg knows.
    """
    try:
        return av.open(str(path))
    except (av.error.FFmpegError, OSError, UnicodeError) as error:
        if path.exists() and path.stat().st_size == 0:
            raise FilmError("the file is empty (0 bytes); copy it from the camera again") from None
        why = getattr(error, "strerror", None) or error
        raise FilmError(f"cannot be opened as a film: {why}; if its recording was cut off, its index is missing: repair or delete it") from None


def decoded(container, stream) -> Iterator[av.VideoFrame | None]:
    """Decoded frames; None for a packet that could not be decoded, or a frame that the decoder calls damaged.

    Raises:
        FilmError: the film is encrypted.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError:
            yield None
            return
        if packet.has_sidedata("encryption_info"):
            raise FilmError("is encrypted (DRM); export it without protection, or remove it")
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            yield None
            continue
        for frame in frames:
            yield None if frame.is_corrupt else frame


def seconds(container, stream) -> float:
    """How long the stream is by its header, s; 0 where no header says so."""
    return float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6


def choose(container) -> tuple[av.VideoStream, str]:
    """The video stream with the most pixels over all its frames, and a note where there was a choice.

    Raises:
        FilmError: there is none but cover pictures, or none that can be decoded.
    """
    streams = list(container.streams.video)
    if not streams:
        raise FilmError("has no video track (sound only?); remove it from the folder")
    films = [s for s in streams if s.codec_context is not None and not (s.disposition & NO_FILM)]
    if not films:
        if all(s.disposition & NO_FILM for s in streams):
            raise FilmError("holds a cover picture and no film (a sound file?); remove it from the folder")
        raise FilmError("is in a format that this PyAV cannot decode; convert it to H.264")

    def pixels(stream) -> float:
        frames = stream.frames or seconds(container, stream) * float(stream.average_rate or 25)
        return max(frames, 1.0) * stream.width * stream.height

    best = max(films, key=pixels)
    if len(streams) == 1:
        return best, ""
    others = ", ".join(f"{s.index} ({'cover picture' if s.disposition & NO_FILM else f'{s.width}x{s.height} px'})" for s in streams if s.index != best.index)
    return best, f"has {len(streams)} video tracks: track {best.index} of {best.width}x{best.height} px is the film; left alone: {others}"


@dataclass
class _Look:
    """What a first look collects."""

    pts_faults: int = 0
    dts_faults: int = 0
    frames: int = 0
    interlaced: int = 0
    stereo: int = 0
    spherical: bool = False
    alike: dict[str, list[float]] = field(default_factory=lambda: {SIDE_BY_SIDE: [], TOP_BOTTOM: []})
    trc: int = 0
    primaries: int = 0
    shape: float = 1.0


def _stereo_type(frame: av.VideoFrame) -> int:
    for data in frame.side_data:
        if data.type == Type.STEREO3D:
            return struct.unpack_from("i", bytes(data))[0]
    return 0


def _alike(frame: av.VideoFrame) -> dict[str, float]:
    """How well one half of a picture is found in the other, moved by at most a tenth: 1 for two views of one scene."""
    grey = frame.reformat(width=128, height=96, format="gray", interpolation=Interpolation.AREA).to_ndarray().astype(np.float32)
    grey -= cv2.GaussianBlur(grey, (0, 0), 6.0)
    halves = {SIDE_BY_SIDE: (grey[:, :64], grey[:, 64:]), TOP_BOTTOM: (grey[:48], grey[48:])}
    found = {}
    for kind, (first, second) in halves.items():
        height, width = first.shape
        core = np.ascontiguousarray(first[height // 12 : -(height // 12), width // 10 : -(width // 10)])
        if core.std() >= 2.0:
            found[kind] = float(cv2.matchTemplate(np.ascontiguousarray(second), core, cv2.TM_CCOEFF_NORMED).max())
    return found


def _look(container, stream) -> _Look:
    look = _Look()
    last_pts = last_dts = None
    for frame in decoded(container, stream):
        if frame is None:
            continue
        look.pts_faults += frame.pts is None or (last_pts is not None and frame.pts <= last_pts)
        look.dts_faults += frame.dts is None or (last_dts is not None and frame.dts <= last_dts)
        last_pts, last_dts = frame.pts if frame.pts is not None else last_pts, frame.dts if frame.dts is not None else last_dts
        if look.frames == 0:
            look.trc, look.primaries = int(frame.color_trc), int(frame.color_primaries)
            aspect = float(stream.sample_aspect_ratio or 1)
            look.shape = frame.width * aspect / frame.height
            look.stereo = _stereo_type(frame)
            look.spherical = any(data.type == Type.SPHERICAL for data in frame.side_data)
        look.interlaced += frame.interlaced_frame
        if look.frames % VIEW_EVERY == 0:
            for kind, value in _alike(frame).items():
                look.alike[kind].append(value)
        look.frames += 1
        if look.frames >= LOOK_FRAMES:
            break
    return look


def _stereo(look: _Look, stream) -> tuple[str, str]:
    """Arrangement of two views ("" for one) and how it is known.

    Raises:
        FilmError: arranged so that one view cannot be cut out.
    """
    if look.stereo in _STEREO_OTHERS:
        raise FilmError(f"is stereo with its two views {_STEREO_OTHERS[look.stereo]}; export one view of it")
    stated = _STEREO_TYPES.get(look.stereo) or _MKV_STEREO.get(stream.metadata.get("stereo_mode", stream.metadata.get("STEREO_MODE", "")).lower(), "")
    if stated:
        return stated, "by its header"
    for kind, wide in ((SIDE_BY_SIDE, look.shape >= 2.2), (TOP_BOTTOM, look.shape <= 1.2)):
        values = look.alike[kind]
        if len(values) >= 2 and min(values) > (STEREO_MATCH if wide else STEREO_MATCH_SQUEEZED):
            return kind, f"its halves show the same (correlation {min(values):.2f})"
    return "", ""


def _slower(container, stream) -> tuple[float, str]:
    """How much slower than life a film plays, where its camera says at which rate it was taken.

    Raises:
        FilmError: a time-lapse with more than a fifth of a second between its pictures.
    """
    stated = container.metadata.get(CAPTURE_RATE) or stream.metadata.get(CAPTURE_RATE)
    try:
        taken, played = float(stated), float(stream.average_rate)
    except (TypeError, ValueError):
        return 1.0, ""
    if not taken > 0 or not played > 0 or 0.67 < taken / played < 1.5:
        return 1.0, ""
    if taken < 5.0:
        raise FilmError(f"is a time-lapse ({taken:g} pictures a second were taken, it plays {played:.3g}): between its pictures is too much time to learn from")
    slower = taken / played
    how = f"{slower:.3g} times slower" if slower > 1 else f"{1 / slower:.3g} times faster"
    return slower, f"plays {how} than it was taken ({taken:g} pictures a second by its header): its stamps were put right"


def plan(path: Path) -> Plan:
    """Look at the beginning of a film and decide how it is read.

    Raises:
        FilmError: no film, or one that holds no picture that the models could learn from; the text says why.
    """
    with open_film(path) as container:
        stream, note = choose(container)
        notes = [note] if note else []
        codec = stream.codec_context
        pixels = codec.pix_fmt or ""
        if pixels.startswith(("gray1", "grayf", "ya16")):
            raise FilmError(f"holds one channel of more than 8 bits ({pixels}): a depth or thermal film, not colours; remove it from the folder")
        if (codec.codec_tag or "").lower() in ("dvh1", "dvhe") and int(codec.color_trc or 0) not in colour.HDR:
            raise FilmError("is Dolby Vision without a standard base picture (profile 5), whose colours cannot be restored; export it as HLG or standard range")
        slower, note = _slower(container, stream)
        notes += [note] if note else []
        stream.thread_type = "NONE"
        look = _look(container, stream)
        if look.spherical:
            raise FilmError("is a 360 degree film; export an ordinary view of it")
        stereo, how = _stereo(look, stream)
        index = stream.index  # a stream of a closed file knows nothing
    by_coding_order = look.pts_faults > DISORDER_SHARE * look.frames and look.dts_faults <= 0.5 * look.pts_faults
    if by_coding_order:
        notes.append("its container stamps frames in coding order: they were stamped in the order in which they are shown")
    if look.interlaced:
        notes.append("interlaced: its fields were separated (bwdif)")
    if stereo:
        notes.append(f"stereo, {stereo} ({how}): the first view was used")
    if kind := colour.name(look.trc, look.primaries):
        notes.append(f"{kind} colours: brought to standard range (BT.709)")
    return Plan(index, by_coding_order, look.interlaced > 0, stereo, look.trc, look.primaries, slower, tuple(notes))

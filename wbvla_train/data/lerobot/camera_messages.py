"""Camera messages of recordings -> pictures: raw images of every encoding that wbvla_core.images knows, JPEG, PNG, video packets (H.264, HEVC, AV1, VP9).

A message that cannot be decoded costs its own picture; a broken video packet costs the pictures up to the next key frame, because they are built on it.
"""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from PIL import Image

from wbvla_core import images
from wbvla_core.errors import ImageError

VIDEO = {"h264": "h264", "avc": "h264", "h265": "hevc", "hevc": "hevc", "av1": "av1", "vp9": "vp9"}  # what a format says -> FFmpeg's decoder
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"  # decoders make grey of what is missing, and say nothing
NOT_HELD = 64  # packets that a decoder may hold back; behind so many their stamps are forgotten


class Undecodable(ImageError):
    """One message that holds no picture: empty, cut off, or of a format that nobody decodes."""


class PictureReader:
    """Feed every message of one camera topic in order of arrival.

    Args:
        encoding: overrides what raw images say of themselves, "" for nothing.

    Attributes:
        notes: what had to be assumed, in sentences.
    """

    def __init__(self, encoding: str = "") -> None:
        self._encoding = encoding
        self._video: _Video | None = None
        self.notes: list[str] = []

    def read(self, message: Any, key: tuple) -> Iterator[tuple[tuple, np.ndarray]]:
        """(key, RGB [H, W, 3] uint8) of each picture that is complete now; a video decoder may hold some back for later calls.

        Args:
            message: Image, CompressedImage, or a packet of ffmpeg_image_transport or Foxglove.
            key: comes back with the picture of this message.

        Raises:
            Undecodable: this message holds no picture, or the decoder lost its thread here.
        """
        if hasattr(message, "step"):
            yield key, self._raw(message)
            return
        data = bytes(message.data)
        codec = video_codec(str(getattr(message, "format", "") or getattr(message, "encoding", "")))
        if codec is not None:
            self._video = self._video or _Video(codec)
            yield from self._video.decode(data, key)
            return
        if not data:
            raise Undecodable("the message is empty")
        yield key, still(data, str(message.format))

    def finish(self) -> Iterator[tuple[tuple, np.ndarray]]:
        """What a video decoder held back to the end."""
        if self._video is not None:
            yield from self._video.decode(None, ())

    def _raw(self, message: Any) -> np.ndarray:
        encoding = self._encoding or message.encoding
        if encoding in images.ASSUMED:
            note = f"{encoding} does not say which colours it holds: read as {images.ASSUMED[encoding]}; image_encoding in the topic map says otherwise"
            if note not in self.notes:
                self.notes.append(note)
            encoding = images.ASSUMED[encoding]
        if encoding == "16UC1":
            raise ImageError(
                "16UC1 is a depth image; name the colour camera's topic, or write image_encoding: mono16 into the topic map where it is a grey one"
            )
        return images.decode(
            np.ascontiguousarray(message.data), encoding, int(message.width), int(message.height), int(message.step), big_endian=bool(message.is_bigendian)
        )


def video_codec(text: str) -> str | None:
    """FFmpeg's decoder for a format like ``h264``, ``hevc/yuv420p`` or ``h264;nv12;bgr8``; None for still pictures."""
    first = re.split(r"[;/,\s]", text.strip().lower())[0].removeprefix("lib").removeprefix("x").removesuffix("_nvenc").removesuffix("_vaapi")
    return VIDEO.get(first) or VIDEO.get(f"h{first}")


def still(data: bytes, text: str) -> np.ndarray:
    """JPEG, PNG or another file in memory -> RGB [H, W, 3] uint8.

    Args:
        text: format of the CompressedImage, ``jpeg`` or image_transport's ``bayer_rggb8; jpeg compressed bgr8``.
    """
    if "compresseddepth" in text.lower():
        raise Undecodable(f"{text!r} is a depth image, and no colour can be had from it; name the colour camera's topic")
    if data.startswith(JPEG_START) and data.rfind(JPEG_END) < data.rfind(JPEG_SCAN):
        raise Undecodable(f"{len(data)} bytes of {text}: the end marker of JPEG is missing; a part was lost")
    try:
        with Image.open(io.BytesIO(data)) as file:
            file.load()
            picture = file if file.mode.startswith(("I", "L")) else file.convert("RGB")
            pixels = np.array(picture)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:  # what PIL's many readers raise on broken files
        text = "no picture that can be told" if "cannot identify" in str(error) else str(error)
        raise Undecodable(f"{len(data)} bytes of {text}") from error
    if pixels.dtype != np.uint8:
        pixels = images.eight_bits(np.clip(pixels, 0, 65535))
    if pixels.ndim == 3:
        return pixels[..., :3]
    mosaic = re.search(r"compressed bayer_(rggb|bggr|gbrg|grbg)", text)
    return images.demosaic(pixels, mosaic[1]) if mosaic else np.repeat(pixels[..., None], 3, axis=2)


def _decode_strictly(context: av.CodecContext, packet: av.Packet | None) -> list[av.VideoFrame]:
    """Decode; InvalidDataError also where FFmpeg patches the picture up. A packet that never came is only told in the log ("Frame num gap", H.264)."""
    before = av.logging.get_level()
    av.logging.set_level(av.logging.DEBUG)
    try:
        with av.logging.Capture() as said:
            frames = context.decode(packet)
    finally:
        av.logging.set_level(before)
    for level, _, text in said:
        if level <= av.logging.ERROR or text.startswith("Frame num gap"):
            raise av.error.InvalidDataError(0, text.strip())
    return frames


class _Video:
    """A decoder with its memory. After a packet that is broken nothing comes out until the next key frame."""

    def __init__(self, codec: str) -> None:
        self._name = codec
        self._context = self._open()
        self._lost = True  # a stream can only be entered at a key frame
        self._keys: dict[int, tuple] = {}
        self._order: deque[int] = deque()
        self._count = 0

    def _open(self) -> av.CodecContext:
        try:
            context = av.CodecContext.create(self._name, "r")
        except av.error.FFmpegError as error:
            raise Undecodable(f"no decoder for {self._name}: {error}") from error
        context.thread_count = 1  # threads hold pictures back
        context.options = {"err_detect": "explode"}  # otherwise what is broken is patched up and looks whole
        return context

    def decode(self, data: bytes | None, key: tuple) -> Iterator[tuple[tuple, np.ndarray]]:
        """See :meth:`PictureReader.read`; ``data`` None at the end."""
        if data is not None:
            if not data:
                self._lost = True
                raise Undecodable("the video packet is empty; pictures are lost up to the next key frame")
            self._remember(key)
        try:
            packet = None if data is None else av.Packet(data)
            if packet is not None:
                packet.pts = packet.dts = self._count
            frames = _decode_strictly(self._context, packet)
        except av.error.FFmpegError as error:
            self._lost = True
            if data is None:
                return
            self._keys.pop(self._count, None)
            raise Undecodable(f"the {self._name} packet is broken; pictures are lost up to the next key frame") from error
        missed = False
        for frame in frames:
            if frame.key_frame and not frame.is_corrupt:
                self._lost = False
            if frame.is_corrupt:
                self._lost = True
            place = self._keys.pop(frame.pts, None) if frame.pts is not None else None
            if self._lost or place is None:
                missed = True
            else:
                yield place, frame.to_ndarray(format="rgb24")
        if missed:
            raise Undecodable(f"no {self._name} key frame yet, or not since a broken packet")

    def _remember(self, key: tuple) -> None:
        self._count += 1
        self._keys[self._count] = key
        self._order.append(self._count)
        if len(self._order) > NOT_HELD:
            self._keys.pop(self._order.popleft(), None)

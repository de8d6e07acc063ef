"""Raw pictures of any ordinary camera setting -> RGB. Numpy only: the robot installs without OpenCV.

Names of encodings are those of ``sensor_msgs/image_encodings``. The numbers are those of ``cv::cvtColor`` with the codes that cv_bridge uses, bit for bit
(a test compares them): BT.601 in fixed point for YUV, bilinear interpolation for Bayer mosaics, 16 bits scaled by 255/65535.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wbvla_core.errors import ErrorCode, ImageError


@dataclass(frozen=True)
class Layout:
    """How the samples of an encoding lie.

    Attributes:
        kind: rgb, bgr, mono, yuv, nv, or the Bayer pattern of the first 2 x 2 pixels.
        channels, bits: samples per pixel, and bits of each.
    """

    kind: str
    channels: int
    bits: int = 8


BAYER = ("rggb", "bggr", "gbrg", "grbg")
LAYOUTS = {"mono8": Layout("mono", 1), "mono16": Layout("mono", 1, 16)}
LAYOUTS |= {f"{name}{bits}": Layout(name[:3], len(name), bits) for name in ("rgb", "bgr", "rgba", "bgra") for bits in (8, 16)}
LAYOUTS |= {f"bayer_{pattern}{bits}": Layout(pattern, 1, bits) for pattern in BAYER for bits in (8, 16)}
# yuv422 and uyvy, yuv422_yuy2 and yuyv: old and new names of ROS for the same bytes
LAYOUTS |= {name: Layout("yuv", 2) for name in ("yuv422", "uyvy", "yuv422_yuy2", "yuyv")} | {name: Layout("nv", 1) for name in ("nv12", "nv21", "nv24")}
LUMA_FIRST = ("yuv422_yuy2", "yuyv")
# Types of OpenCV that say how many numbers a pixel has, but not which colours. OpenCV's own order is the usual meaning; it is an assumption all the same.
ASSUMED = {"8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8", "16UC3": "bgr16", "16UC4": "bgra16"}
DEPTH = ("16UC1", "16SC1", "32FC1", "64FC1")


def decode(data: object, encoding: str, width: int, height: int, step: int, *, big_endian: bool = False) -> np.ndarray:
    """One picture as RGB [H, W, 3] uint8; a view of ``data`` where it can be.

    Args:
        data: buffer of bytes, rows of ``step`` bytes.
        encoding: a key of ``LAYOUTS``.
        big_endian: byte order of 16-bit samples.

    Raises:
        ImageError: another encoding, or a length of the data that does not fit it.
    """
    layout = LAYOUTS.get(encoding)
    if layout is None:
        raise ImageError(_refusal(encoding), ErrorCode.IMAGE_ENCODING)
    if layout.kind == "nv":
        return _semi_planar(data, encoding, width, height, step)
    bytes_per_row = width * layout.channels * layout.bits // 8
    samples = np.frombuffer(data, dtype=np.uint8)
    step = step or bytes_per_row
    if width < 1 or height < 1 or step < bytes_per_row or len(samples) != step * height:
        raise ImageError(
            f"image data must be step*height bytes with step >= {bytes_per_row} ({width} px of {encoding}), "
            f"got {len(samples)} bytes, {width}x{height}, step {step}",
            ErrorCode.IMAGE_SIZE,
        )
    rows = samples.reshape(height, step)[:, :bytes_per_row]
    if layout.bits == 16:
        rows = np.ascontiguousarray(rows).view(">u2" if big_endian else "<u2")
    pixels = rows.reshape(height, width, layout.channels)  # [H, W, C]
    if layout.kind == "yuv":
        image = _packed_yuv(pixels, luma_first=encoding in LUMA_FIRST)
    elif layout.kind in ("rgb", "bgr"):
        image = pixels[..., :3] if layout.kind == "rgb" else pixels[..., 2::-1]
    elif layout.kind == "mono":
        image = np.repeat(pixels, 3, axis=2)
    else:
        image = demosaic(pixels[..., 0], layout.kind)
    return eight_bits(image) if layout.bits == 16 else image


def _refusal(encoding: str) -> str:
    if encoding in DEPTH:
        return f"{encoding} is a depth image, and no colour can be had from it; name the colour camera's topic, or mend the driver's encoding where it is none"
    if encoding in ASSUMED:
        return f"{encoding} does not say which colours it holds; set the camera driver's encoding to {ASSUMED[encoding]} if that is what it sends"
    return f"image encoding must be one of {sorted(LAYOUTS)}, got {encoding!r}"


def eight_bits(samples: np.ndarray) -> np.ndarray:
    """16-bit samples -> 8 bits: 255/65535 of them, rounded."""
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _packed_yuv(pixels: np.ndarray, *, luma_first: bool) -> np.ndarray:
    """[H, W, 2]: luma and, by turns, U and V -> RGB."""
    if pixels.shape[1] % 2:
        raise ImageError(f"YUV 4:2:2 pairs pixels: an even width expected, got {pixels.shape[1]}", ErrorCode.IMAGE_SIZE)
    luma, chroma = pixels[..., 0 if luma_first else 1], pixels[..., 1 if luma_first else 0]
    return yuv_to_rgb(luma, np.repeat(chroma[:, 0::2], 2, axis=1), np.repeat(chroma[:, 1::2], 2, axis=1))


def _semi_planar(data: object, encoding: str, width: int, height: int, step: int) -> np.ndarray:
    """nv12, nv21: a plane of luma, then one of interleaved chroma at half the size; nv24 at full size. Rows are tight, or ``step`` bytes long."""
    samples = np.frombuffer(data, dtype=np.uint8)
    whole = encoding == "nv24"
    rows = 3 * height if whole else 3 * height // 2  # in rows of luma's length
    if width < 2 or height < 2 or (not whole and (width % 2 or height % 2)):
        raise ImageError(f"{encoding} expects an even width and height, got {width}x{height}", ErrorCode.IMAGE_SIZE)
    pitch = next((p for p in (width, step) if p >= width and len(samples) == p * rows), None)
    if pitch is None:
        raise ImageError(f"{encoding} of {width}x{height} must be {width * rows} bytes, got {len(samples)}, step {step}", ErrorCode.IMAGE_SIZE)
    luma = samples[: pitch * height].reshape(height, pitch)[:, :width]
    if whole:
        chroma = samples[pitch * height :].reshape(height, 2 * pitch)[:, : 2 * width].reshape(height, width, 2)
    else:
        chroma = samples[pitch * height :].reshape(height // 2, pitch)[:, :width].reshape(height // 2, width // 2, 2)
        chroma = chroma.repeat(2, axis=0).repeat(2, axis=1)
    u, v = (1, 0) if encoding == "nv21" else (0, 1)
    return yuv_to_rgb(luma, chroma[..., u], chroma[..., v])


def yuv_to_rgb(y: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Planes [H, W] uint8 of ITU-R BT.601, studio range -> RGB [H, W, 3] uint8, in the fixed point of 20 bits that OpenCV uses."""
    shift, half = 20, 1 << 19
    light = np.maximum(y.astype(np.int32) - 16, 0) * 1220542
    blue, red = u.astype(np.int32) - 128, v.astype(np.int32) - 128
    image = np.empty((*y.shape, 3), np.uint8)
    for channel, colour in enumerate((1673527 * red, -852492 * red - 409993 * blue, 2116026 * blue)):
        image[..., channel] = np.clip((light + colour + half) >> shift, 0, 255)
    return image


def demosaic(mosaic: np.ndarray, pattern: str) -> np.ndarray:
    """Bayer mosaic [H, W] -> RGB [H, W, 3] of the same type: bilinear; the outermost pixels repeat their neighbours.

    Args:
        pattern: colours of the first 2 x 2 pixels, row by row: rggb, bggr, gbrg or grbg.
    """
    height, width = mosaic.shape
    if height < 3 or width < 3:
        raise ImageError(f"a Bayer mosaic of at least 3x3 pixels expected, got {width}x{height}", ErrorCode.IMAGE_SIZE)
    wide = mosaic.astype(np.uint32)
    up, down, middle = wide[:-2], wide[2:], wide[1:-1]
    across = (middle[:, :-2] + middle[:, 2:] + 1) >> 1
    along = (up[:, 1:-1] + down[:, 1:-1] + 1) >> 1
    cross = (middle[:, :-2] + middle[:, 2:] + up[:, 1:-1] + down[:, 1:-1] + 2) >> 2
    corners = (up[:, :-2] + up[:, 2:] + down[:, :-2] + down[:, 2:] + 2) >> 2
    here = middle[:, 1:-1]
    image = np.empty((height, width, 3), mosaic.dtype)
    inner = image[1:-1, 1:-1]
    for i in range(4):  # place in the pattern; the inner picture begins one pixel further down and right
        row, column = divmod(i, 2)
        at = np.s_[(row + 1) % 2 :: 2, (column + 1) % 2 :: 2]
        colour, beside = pattern[i], pattern[i ^ 1]  # of this pixel, and of those left and right of it
        for channel, name in enumerate("rgb"):
            if colour == "g":
                value = here if name == "g" else across if name == beside else along
            else:
                value = here if name == colour else cross if name == "g" else corners
            inner[at + (channel,)] = value[at]
    image[0, 1:-1], image[-1, 1:-1] = image[1, 1:-1], image[-2, 1:-1]
    image[:, 0], image[:, -1] = image[:, 1], image[:, -2]
    return image

"""Raw pictures of every ordinary encoding: the numbers are OpenCV's, bit for bit, with the conversion codes that cv_bridge uses."""

from __future__ import annotations

import numpy as np
import pytest

from wbvla_core.errors import ErrorCode, ImageError
from wbvla_core.images import LAYOUTS, decode, eight_bits

cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless (the extra train), against which the numbers are held")

CODES = {
    "yuv422": "YUV2RGB_UYVY", "uyvy": "YUV2RGB_UYVY", "yuv422_yuy2": "YUV2RGB_YUY2", "yuyv": "YUV2RGB_YUY2", "nv12": "YUV2RGB_NV12", "nv21": "YUV2RGB_NV21",
    "mono": "GRAY2RGB", "bgr": "BGR2RGB", "rgba": "RGBA2RGB", "bgra": "BGRA2RGB",
    "bayer_rggb": "BayerBG2RGB", "bayer_bggr": "BayerRG2RGB", "bayer_gbrg": "BayerGR2RGB", "bayer_grbg": "BayerGB2RGB",
}  # fmt: skip
WIDTH, HEIGHT = 34, 22


def samples(encoding: str) -> np.ndarray:
    """Random samples [rows, WIDTH, channels] of an encoding."""
    layout = LAYOUTS[encoding]
    rows = {"nv12": HEIGHT * 3 // 2, "nv21": HEIGHT * 3 // 2, "nv24": HEIGHT * 3}.get(encoding, HEIGHT)
    return np.random.default_rng(0).integers(0, 2**layout.bits, (rows, WIDTH, layout.channels)).astype(f"<u{layout.bits // 8}")


def by_opencv(encoding: str, values: np.ndarray) -> np.ndarray:
    values = values[..., 0] if values.shape[2] == 1 else values
    code = CODES.get(encoding.removesuffix("16") if encoding.endswith("16") else encoding.removesuffix("8"), CODES.get(encoding))
    image = cv2.cvtColor(values, getattr(cv2, f"COLOR_{code}")) if code else values
    return np.rint(image * np.float32(255.0 / 65535.0)).astype(np.uint8) if image.dtype == np.uint16 else image  # cv::Mat::convertTo


@pytest.mark.parametrize("encoding", [name for name in LAYOUTS if name != "nv24"])
def test_an_encoding_has_opencvs_numbers(encoding):
    values = samples(encoding)
    row_bytes = WIDTH * values.shape[2] * values.itemsize
    expected = by_opencv(encoding, values)
    assert expected.shape == (HEIGHT, WIDTH, 3) and expected.dtype == np.uint8
    np.testing.assert_array_equal(decode(values.tobytes(), encoding, WIDTH, HEIGHT, row_bytes), expected)
    padded = np.pad(values.reshape(len(values), -1).view(np.uint8), ((0, 0), (0, 6)), constant_values=77)
    np.testing.assert_array_equal(decode(padded.tobytes(), encoding, WIDTH, HEIGHT, row_bytes + 6), expected, "padding of rows is not picture")
    if values.itemsize == 2:
        np.testing.assert_array_equal(decode(values.byteswap().tobytes(), encoding, WIDTH, HEIGHT, row_bytes, big_endian=True), expected)


def test_nv24_has_the_chroma_of_every_pixel():
    grey = np.full((HEIGHT, WIDTH), 126, np.uint8)
    chroma = np.full((HEIGHT, WIDTH, 2), 128, np.uint8)
    chroma[3, 5] = (90, 240)
    image = decode(grey.tobytes() + chroma.tobytes(), "nv24", WIDTH, HEIGHT, WIDTH)
    # BT.601: 1.164 (126 - 16) = 128; red + 1.596 * 112 = 307 -> 255; green - 0.813 * 112 + 0.391 * 38 = 52; blue - 2.018 * 38 = 51
    assert image[3, 5].tolist() == [255, 52, 51] and image[3, 4].tolist() == [128, 128, 128]


def test_sixteen_bits_become_eight_as_opencv_scales_them():
    every = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(eight_bits(every), np.rint(every * np.float32(255.0 / 65535.0)).astype(np.uint8))


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("16UC1", "depth image"), ("32FC1", "depth image"), ("8UC3", "set the camera driver's encoding to bgr8"), ("jpeg", "image encoding must be one of")],
)
def test_what_is_no_colour_is_refused_with_what_to_do(encoding, said):
    with pytest.raises(ImageError, match=said) as caught:
        decode(bytes(4 * WIDTH * HEIGHT), encoding, WIDTH, HEIGHT, 4 * WIDTH)
    assert caught.value.code is ErrorCode.IMAGE_ENCODING


@pytest.mark.parametrize(
    ("encoding", "size", "step", "length"),
    [
        ("rgb8", (WIDTH, HEIGHT), 3 * WIDTH, 3 * WIDTH * HEIGHT - 1),
        ("rgb8", (WIDTH, HEIGHT), 2 * WIDTH, 2 * WIDTH * HEIGHT),
        ("mono16", (WIDTH, HEIGHT), WIDTH, WIDTH * HEIGHT),
        ("yuv422", (33, HEIGHT), 66, 66 * HEIGHT),
        ("nv12", (WIDTH, 21), WIDTH, WIDTH * 31),
        ("nv12", (WIDTH, HEIGHT), WIDTH, WIDTH * HEIGHT),
        ("bayer_rggb8", (2, 2), 2, 4),
        ("rgb8", (0, 0), 0, 0),
    ],
)
def test_data_that_do_not_fit_the_size_are_refused(encoding, size, step, length):
    with pytest.raises(ImageError) as caught:
        decode(bytes(length), encoding, *size, step)
    assert caught.value.code is ErrorCode.IMAGE_SIZE

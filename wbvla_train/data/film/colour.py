"""High dynamic range (PQ, HLG) and wide gamut to the ordinary picture that the models know.

Phones film in HEVC with BT.2020 colours and a PQ (SMPTE ST 2084) or HLG (ARIB STD-B67) curve. Shown as if they were ordinary, such films
are flat and grey. Here the signal is made linear, put in relation to diffuse white (203 cd/m2, ITU-R BT.2408), brought into BT.709
colours (ITU-R BT.2087), what is brighter than white is rolled off, and the camera curve of BT.709 is applied.

The conversion is scene-referred: HLG is undone without the OOTF of a display, so that a scene filmed in HLG, in PQ and in BT.709 gives
the same picture.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from av.video.reformatter import ColorPrimaries, ColorTrc

WHITE_CD_M2 = 203.0  # diffuse white in PQ (BT.2408)
HLG_WHITE = 0.265  # scene light of a 75 % HLG signal, which BT.2408 gives to diffuse white
KNEE = 0.8  # linear light from which highlights are rolled off; diffuse white comes out at 0.926, its signal at 246 of 255
HDR = {int(ColorTrc.SMPTE2084): "PQ", int(ColorTrc.ARIB_STD_B67): "HLG"}
WIDE = int(ColorPrimaries.BT2020)
# Linear BT.2020 to linear BT.709, rows R, G, B (BT.2087).
_TO_709 = np.array(((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)), np.float32)
LUMA_709 = np.array((0.2126, 0.7152, 0.0722), np.float32)


def name(trc: int, primaries: int) -> str:
    """How a report calls the colours of a film, "" for ordinary ones."""
    return HDR.get(trc) or ("BT.2020" if primaries == WIDE else "")


def pq_light(signal: np.ndarray) -> np.ndarray:
    """PQ signal 0..1 -> light in units of diffuse white; the EOTF of SMPTE ST 2084 over 203 cd/m2."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 4096 * 128, 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    power = np.power(np.maximum(signal, 0.0), 1 / m2)
    return np.power(np.maximum(power - c1, 0.0) / (c2 - c3 * power), 1 / m1) * 10000.0 / WHITE_CD_M2


def hlg_light(signal: np.ndarray) -> np.ndarray:
    """HLG signal 0..1 -> scene light in units of diffuse white; the inverse OETF of ITU-R BT.2100."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    signal = np.maximum(signal, 0.0)
    return np.where(signal <= 0.5, signal**2 / 3.0, (np.exp((signal - c) / a) + b) / 12.0) / HLG_WHITE


def bt709_light(signal: np.ndarray) -> np.ndarray:
    """BT.709 (and BT.2020 of standard range) signal 0..1 -> linear light."""
    return np.where(signal < 0.081, signal / 4.5, np.power((np.maximum(signal, 0.081) + 0.099) / 1.099, 1 / 0.45))


def bt709_signal(light: np.ndarray) -> np.ndarray:
    """Linear light -> BT.709 signal, 0..1."""
    light = np.clip(light, 0.0, 1.0)
    return np.where(light < 0.018, 4.5 * light, 1.099 * np.power(np.maximum(light, 0.018), 0.45) - 0.099)


def roll_off(light: np.ndarray) -> np.ndarray:
    """Light above KNEE runs into 1 with the same slope at the knee: a sky keeps its clouds, everything below stays as it was."""
    over = np.maximum(light - KNEE, 0.0)
    return np.where(light > KNEE, 1.0 - (1.0 - KNEE) * np.exp(-over / (1.0 - KNEE)), light)


@lru_cache(maxsize=4)
def _table(trc: int) -> np.ndarray:
    """[65536] float32: light of every 16 bit signal."""
    curve = {"PQ": pq_light, "HLG": hlg_light}.get(HDR.get(trc, ""), bt709_light)
    return curve(np.arange(65536, dtype=np.float64) / 65535.0).astype(np.float32)


@lru_cache(maxsize=1)
def _signals() -> np.ndarray:
    """[4097] uint8: BT.709 code of light k / 4096."""
    return np.round(255.0 * bt709_signal(np.arange(4097) / 4096.0)).astype(np.uint8)


def to_standard(picture: np.ndarray, trc: int, primaries: int) -> np.ndarray:
    """One picture of a film with PQ, HLG or BT.2020 colours.

    Args:
        picture: [H, W, 3] uint16 full range R'G'B' as the film's curve has it.
        trc, primaries: numbers of ITU-T H.273, as FFmpeg gives them.

    Returns:
        [H, W, 3] uint8 R'G'B' of BT.709.
    """
    light = _table(trc)[picture]
    if primaries == WIDE:
        light = np.maximum(light @ _TO_709.T, 0.0)
    return _signals()[np.round(4096.0 * np.clip(roll_off(light), 0.0, 1.0)).astype(np.int32)]


def luma(picture: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8 BT.709 -> [H, W] uint8."""
    return np.round(picture.astype(np.float32) @ LUMA_709).astype(np.uint8)

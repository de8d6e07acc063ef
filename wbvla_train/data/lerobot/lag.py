"""How far the camera's clock is off the body's, from what is in the recording: no stamp can tell on its own, motion can.

Between two images the picture shifts; the gyro says how far the body turned meanwhile. The camera lag is the shift of time at which the turning explains the
pictures' shifts best. Prior work: temporal calibration of camera and IMU (Kalibr, VINS-Mono) estimates the same offset inside a filter.

A walking robot gives two signals. Its nodding (pitch) moves the picture up and down, once per step. Its swaying moves the picture sideways, by turning and by
moving aside at once; near things make that useless (the estimate is off by up to -110 ms on walks of the simulated X2). So a robot that nods is judged by its
pitch and the vertical shift alone, one that does not by its yaw and the horizontal shift. Both expect an upright camera that looks ahead or down.

Steps repeat, so rival answers lie half a step's period and more apart. The verdict is unambiguous only where resampled blocks of the recording agree on it.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np

STEP_S = 0.005
NOD_RANGE_S = 0.15  # half the period of a step of the X2 at its usual pace, 0.3 s: further away the next step fits as well
TURN_RANGE_S = 0.3
NOD_BIAS_S = -0.021  # of the estimate by nodding: the head goes up and down with it. Median over the tuning walks of benchmarks/alignment.py
NOD_LEAST_RAD = 0.003  # root of the mean square of the pitch between images: below, the robot does not nod
NOD_GYRO_S = 0.02  # slower gyro samples miss the nodding
WIDTH = 160  # px, to which images are thinned
LEAST_PAIRS = 20
BLOCK_S, RESAMPLED, SEED = 1.0, 200, 0
NOD_LEAST_BLOCKS, TURN_LEAST_BLOCKS = 8, 4  # too few resample into themselves: of walks of 5 s, one verdict in ten was wrong
SPREAD_S, SURE = 0.1, 0.95  # of the resampled estimates: width of the central 95 %, and the share that must agree on the verdict
LIMIT_S = 0.045  # the verdict: whether the lag is beyond this


@dataclass(frozen=True)
class Lag:
    """The estimate.

    Attributes:
        lag_s: what must be added to the images' stamps to meet the body's clock.
        fit: share of the picture shifts' variance that the turning explains at this lag.
        known: whether the recording tells beyond doubt on which side of ``LIMIT_S`` the lag is.
    """

    lag_s: float
    fit: float
    known: bool


UNKNOWN = Lag(0.0, 0.0, False)


def thin_gray(image: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8 -> [h, w] float32 of about ``WIDTH`` px by block means."""
    step = max(1, image.shape[1] // WIDTH)
    gray = image.astype(np.float32).mean(2)
    height, width = gray.shape[0] // step * step, gray.shape[1] // step * step
    return gray[:height, :width].reshape(height // step, step, width // step, step).mean((1, 3))


class _Shift:
    """Shift between successive images by phase correlation."""

    def __init__(self) -> None:
        self._before: np.ndarray | None = None
        self._window: np.ndarray | None = None

    def __call__(self, gray: np.ndarray) -> tuple[float, float, float] | None:
        """(right, down) in px against the image before, and the correlation's peak in [0, 1]; None for the first."""
        if self._window is None or self._window.shape != gray.shape:
            self._window, self._before = np.outer(np.hanning(gray.shape[0]), np.hanning(gray.shape[1])).astype(np.float32), None
        spectrum = np.fft.rfft2((gray - gray.mean()) * self._window)
        before, self._before = self._before, spectrum
        if before is None:
            return None
        cross = spectrum * before.conj()
        surface = np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-6), s=gray.shape)
        down, right = np.unravel_index(int(surface.argmax()), surface.shape)
        return _peak(surface[down], right), _peak(surface[:, right], down), float(surface[down, right])


def _peak(line: np.ndarray, at: int) -> float:
    """Place of the maximum of a periodic line between its samples (parabola), in (-n/2, n/2]."""
    n = len(line)
    left, middle, right = float(line[at - 1]), float(line[at]), float(line[(at + 1) % n])
    bend = left - 2 * middle + right
    place = at + (0.5 * (left - right) / bend if bend < 0 else 0.0)
    return place - n if place > n / 2 else place


class LagMeter:
    """Feed images and gyro samples in any order, then :meth:`estimate`. Keeps numbers, no images."""

    def __init__(self) -> None:
        self._shift = _Shift()
        self._images: list[tuple[float, float, float, float, float]] = []  # from, to, right, down, peak
        self._last_s: float | None = None
        self._gyro = array("d")  # stamp, x, y, z, ...: 6 kB a second at 200 Hz

    def add_image(self, stamp_s: float, image: np.ndarray) -> None:
        shift = self._shift(thin_gray(image))
        if shift is not None and self._last_s is not None and stamp_s > self._last_s:
            self._images.append((self._last_s, stamp_s, *shift))
        self._last_s = stamp_s

    def add_gyro(self, stamp_s: float, gyro_rad_s: np.ndarray) -> None:
        self._gyro.extend((stamp_s, *(float(v) for v in gyro_rad_s)))

    def part(self, from_s: float, to_s: float, skew_s: float = 0.0) -> LagMeter:
        """A meter of what lies between two times, with ``skew_s`` added to the images' stamps: for measuring the meter itself."""
        out, gyro = LagMeter(), np.array(self._gyro).reshape(-1, 4)
        out._images = [(a + skew_s, b + skew_s, *rest) for a, b, *rest in self._images if a >= from_s and b <= to_s]
        out._gyro.extend(gyro[(gyro[:, 0] >= from_s) & (gyro[:, 0] <= to_s)].ravel())
        return out

    def estimate(self) -> Lag:
        """See :class:`Lag`."""
        if len(self._images) < LEAST_PAIRS or len(self._gyro) < 8:
            return UNKNOWN
        gyro = np.array(self._gyro).reshape(-1, 4)
        gyro = gyro[np.argsort(gyro[:, 0], kind="stable")]
        gyro = gyro[np.concatenate(([True], np.diff(gyro[:, 0]) > 0))]
        pairs = np.array(self._images)
        pairs = pairs[pairs[:, 1] - pairs[:, 0] < 0.5]
        nods = float(np.sqrt((_turned(pairs, gyro, 2, np.zeros(1)) ** 2).mean())) > NOD_LEAST_RAD
        if not nods:
            return _estimate(pairs, gyro, axis=3, column=2, sign=1.0, range_s=TURN_RANGE_S, bias_s=0.0, least=TURN_LEAST_BLOCKS)
        if np.median(np.diff(gyro[:, 0])) > NOD_GYRO_S:
            return UNKNOWN
        return _estimate(pairs, gyro, axis=2, column=3, sign=-1.0, range_s=NOD_RANGE_S, bias_s=NOD_BIAS_S, least=NOD_LEAST_BLOCKS)


def _turned(pairs: np.ndarray, gyro: np.ndarray, axis: int, lags: np.ndarray) -> np.ndarray:
    """[L, N] rad: how far the body turned about ``axis`` (column of ``gyro`` [G, 4]) between the images of each pair, for each lag of their stamps."""
    rate, steps = gyro[:, axis], np.diff(gyro[:, 0])
    angle = np.concatenate((np.zeros(1), np.cumsum(0.5 * (rate[1:] + rate[:-1]) * steps)))
    return np.stack([np.interp(pairs[:, 1] + lag, gyro[:, 0], angle) - np.interp(pairs[:, 0] + lag, gyro[:, 0], angle) for lag in lags])


def _estimate(pairs: np.ndarray, gyro: np.ndarray, *, axis: int, column: int, sign: float, range_s: float, bias_s: float, least: int) -> Lag:
    """The lag at which turning about ``axis`` explains the shifts in ``column`` of ``pairs`` best, by a gain of this ``sign``."""
    pairs = pairs[(pairs[:, 0] - range_s >= gyro[0, 0]) & (pairs[:, 1] + range_s <= gyro[-1, 0])]
    if len(pairs) < LEAST_PAIRS:
        return UNKNOWN
    lags = np.arange(-round(range_s / STEP_S), round(range_s / STEP_S) + 1) * STEP_S
    shift = pairs[:, column]
    away = np.abs(shift - np.median(shift))
    weight = np.clip(pairs[:, 4], 0.02, 0.5) ** 2 * (away < 9.0 * np.median(away) + 6.0)  # a shift far outside of the others is a wrong peak
    blocks = ((pairs[:, 0] - pairs[0, 0]) // BLOCK_S).astype(int)
    count = int(blocks.max()) + 1
    sums = _block_sums(sign * _turned(pairs, gyro, axis, lags), shift, weight, blocks, count)
    fits = _fits(np.ones((1, count)), *sums)[0]  # [L], negative where the gain has the wrong sign
    best = int(fits.argmax())
    if not 0 < best < len(lags) - 1 or fits[best] <= 0.0:
        return UNKNOWN
    bend = fits[best - 1] - 2.0 * fits[best] + fits[best + 1]
    between = 0.5 * float((fits[best - 1] - fits[best + 1]) / bend) if bend < 0 else 0.0
    lag_s = float(lags[best]) + STEP_S * between - bias_s
    chosen = np.random.default_rng(SEED).multinomial(count, np.full(count, 1.0 / count), size=RESAMPLED).astype(float)
    many = lags[_fits(chosen, *sums).argmax(1)] - bias_s
    low, high = np.percentile(many, (2.5, 97.5))
    agree = float(np.mean((np.abs(many) > LIMIT_S) == (abs(lag_s) > LIMIT_S)))
    known = bool(high - low < SPREAD_S and agree >= SURE and len(np.unique(blocks)) >= least and not _upside_down(fits, lags - bias_s))
    return Lag(lag_s, float(fits[best]), known)


def _upside_down(fits: np.ndarray, lags: np.ndarray) -> bool:
    """Whether a camera mounted the other way round, and on time, explains the shifts as well."""
    return bool(-fits.min() > fits.max() and abs(lags[fits.argmin()]) < LIMIT_S)


def _block_sums(x: np.ndarray, y: np.ndarray, weight: np.ndarray, blocks: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
    """Weighted sums per block of time: 1, y, y^2 [B]; x, x^2, x y [L, B]; ``x`` is [L, N]."""
    place = np.zeros((len(blocks), count))
    place[np.arange(len(blocks)), blocks] = 1.0
    return weight @ place, (weight * y) @ place, (weight * y * y) @ place, (x * weight) @ place, (x * x * weight) @ place, (x * weight * y) @ place


def _fits(chosen: np.ndarray, w: np.ndarray, y: np.ndarray, yy: np.ndarray, x: np.ndarray, xx: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """[R, L] squared correlation of turning and shift, with the correlation's sign, over the blocks that each of ``chosen`` [R, B] counts."""
    whole = np.maximum(chosen @ w, 1e-12)
    mean_x, mean_y = (chosen @ x.T) / whole[:, None], (chosen @ y) / whole
    spread_x = (chosen @ xx.T) / whole[:, None] - mean_x**2
    spread_y = (chosen @ yy) / whole - mean_y**2
    both = (chosen @ xy.T) / whole[:, None] - mean_x * mean_y[:, None]
    return np.sign(both) * both**2 / np.maximum(spread_x * spread_y[:, None], 1e-12)

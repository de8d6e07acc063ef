"""How far the camera's clock is off the body's, from what is in the recording: no stamp can tell on its own, motion can.

Between two images the whole picture shifts; the gyro says how far the body turned meanwhile. The camera lag is the shift of
time at which three integrated gyro rates explain the pictures' shifts best (linear least squares: any mounting of the camera fits).
Prior work: temporal calibration of camera and IMU (Kalibr, VINS-Mono) estimates the same offset inside a filter; ours needs no calibration.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np

RANGE_S, STEP_S = 0.3, 0.005
WIDTH = 160  # px, to which images are thinned
LEAST_PAIRS = 30
LEAST_TURN_RAD = 0.15  # standard deviation times root of count of what the body turned between images: below there is nothing to see
LEAST_FIT = 0.35  # share of the shifts' variance that the gyro must explain
PARTS, AGREE_S = 4, 0.03  # estimates that leave out a quarter each must agree this well


@dataclass(frozen=True)
class Lag:
    """The estimate.

    Attributes:
        lag_s: what must be added to the images' stamps to meet the body's clock.
        fit: share of the picture shifts' variance that the gyro explains at this lag.
        known: whether the recording moves enough to tell.
    """

    lag_s: float
    fit: float
    known: bool


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

    def estimate(self) -> Lag:
        """See :class:`Lag`."""
        unknown = Lag(0.0, 0.0, False)
        if len(self._images) < LEAST_PAIRS or len(self._gyro) < 8:
            return unknown
        gyro = np.array(self._gyro).reshape(-1, 4)
        gyro = gyro[np.argsort(gyro[:, 0], kind="stable")]
        gyro = gyro[np.concatenate(([True], np.diff(gyro[:, 0]) > 0))]
        angle = np.concatenate((np.zeros((1, 3)), np.cumsum(0.5 * (gyro[1:, 1:] + gyro[:-1, 1:]) * np.diff(gyro[:, 0])[:, None], axis=0)))
        pairs = np.array(self._images)
        inside = (pairs[:, 0] - RANGE_S >= gyro[0, 0]) & (pairs[:, 1] + RANGE_S <= gyro[-1, 0])
        pairs = pairs[inside & (pairs[:, 1] - pairs[:, 0] < 0.5)]
        if len(pairs) < LEAST_PAIRS:
            return unknown

        def turned(lag_s: float) -> np.ndarray:
            return np.stack(
                [np.interp(pairs[:, 1] + lag_s, gyro[:, 0], angle[:, i]) - np.interp(pairs[:, 0] + lag_s, gyro[:, 0], angle[:, i]) for i in range(3)], axis=1
            )

        shifts, weight = pairs[:, 2:4], np.clip(pairs[:, 4], 0.02, 0.5)[:, None]
        reach = 3.0 * np.median(np.abs(shifts - np.median(shifts, 0)), 0) + 2.0  # a shift far outside of the others is a wrong peak
        weight = weight * (np.abs(shifts - np.median(shifts, 0)) < 3 * reach).all(1)[:, None]
        lags = np.arange(-RANGE_S, RANGE_S + STEP_S / 2, STEP_S)
        turns = [turned(lag) for lag in lags]

        def best_of(chosen: np.ndarray) -> tuple[float, float, int]:
            """(lag, fit, place in ``lags``) from some of the pairs."""
            fits = np.array([_fit(turn[chosen], shifts[chosen], weight[chosen]) for turn in turns])
            best = int(fits.argmax())
            bend = fits[best - 1] - 2 * fits[best] + fits[best + 1] if 0 < best < len(lags) - 1 else 0.0
            between = 0.5 * float((fits[best - 1] - fits[best + 1]) / bend) if bend < 0 else 0.0
            return float(lags[best]) + STEP_S * between, float(fits[best]), best

        every = np.arange(len(pairs))
        lag, fit, best = best_of(every)
        parts = [best_of(np.delete(every, part))[0] for part in np.array_split(every, PARTS)]
        moved = float(np.linalg.norm(turns[best].std(0)) * np.sqrt(len(pairs)))
        known = moved > LEAST_TURN_RAD and fit > LEAST_FIT and float(np.ptp(parts)) < AGREE_S and 0 < best < len(lags) - 1
        return Lag(lag, fit, known)


def _fit(turned: np.ndarray, shifts: np.ndarray, weight: np.ndarray) -> float:
    """Weighted share of variance that a linear map of ``turned`` [N, 3] explains of ``shifts`` [N, 2]."""
    inputs = np.concatenate((turned, np.ones((len(turned), 1))), axis=1) * weight
    target = shifts * weight
    solution = np.linalg.lstsq(inputs, target, rcond=None)[0]
    mean = target.sum(0) / weight.sum()
    rest = float(((target - inputs @ solution) ** 2).sum())
    whole = float(((target - mean * weight) ** 2).sum())
    return 1.0 - rest / whole if whole > 0 else 0.0

"""Small functions of numbers that every package needs."""

from __future__ import annotations

import numpy as np

MINIMUM_JERK_PEAK = 1.875  # peak speed of the profile x duration / distance


def wrap(angle: float | np.ndarray) -> float | np.ndarray:
    """Into [-pi, pi), rad."""
    return np.mod(angle + np.pi, 2.0 * np.pi) - np.pi


def clip(value: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """``np.clip`` without its argument handling, which costs more than the work on one robot's joints (50 Hz, one core)."""
    return np.minimum(np.maximum(value, low), high)


def minimum_jerk(s: float | np.ndarray) -> np.ndarray:
    """0 -> 1 with zero speed and acceleration at both ends; ``s`` is clamped to [0, 1]. Source: Flash and Hogan (1985)."""
    s = clip(s, 0.0, 1.0)
    return s * s * s * (10.0 + s * (6.0 * s - 15.0))

"""Profiles of motion over time."""

from __future__ import annotations

import numpy as np

MINIMUM_JERK_PEAK = 1.875  # peak speed of the profile x duration / distance


def minimum_jerk(s: float | np.ndarray) -> np.ndarray:
    """0 -> 1 with zero speed and acceleration at both ends; ``s`` is clamped to [0, 1]. Source: Flash and Hogan (1985)."""
    s = np.minimum(np.maximum(s, 0.0), 1.0)
    return s * s * s * (10.0 + s * (6.0 * s - 15.0))

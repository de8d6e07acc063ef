"""Angles."""

from __future__ import annotations

import numpy as np


def wrap(angle: float | np.ndarray) -> float | np.ndarray:
    """Into [-pi, pi), rad."""
    return np.mod(angle + np.pi, 2.0 * np.pi) - np.pi

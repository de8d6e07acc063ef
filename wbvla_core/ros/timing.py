"""Timings of the last half minute, for diagnostics."""

from __future__ import annotations

from collections import deque

import numpy as np


class Timings:
    """A window of durations in seconds.

    Args:
        capacity: samples that are kept: 1500 = 30 s at 50 Hz.
    """

    def __init__(self, capacity: int = 1500) -> None:
        self._samples: deque[float] = deque(maxlen=capacity)

    def add(self, seconds: float) -> None:
        self._samples.append(seconds)

    def clear(self) -> None:
        self._samples.clear()

    def report(self, name: str) -> dict[str, float]:
        """{name_p50_ms, name_p99_ms, name_max_ms}; empty without samples."""
        if not self._samples:
            return {}
        p50, p99, top = np.percentile(np.array(self._samples), (50, 99, 100)) * 1e3
        return {f"{name}_p50_ms": float(p50), f"{name}_p99_ms": float(p99), f"{name}_max_ms": float(top)}

"""Arm chunks at 10 Hz -> arm targets at 50 Hz: one place where chunks are stitched."""

from __future__ import annotations

import numpy as np

from wbvla_core.numeric import clip
from wbvla_core.types import ArmChunk


class ChunkFollower:
    """Interpolates the newest chunk, without a jump where one replaces another.

    A chunk's rows are due at its image's stamp + (i + 1) dt, so by the time it arrives some of them are over: they are
    skipped (latency compensation). The difference between the old target and the new chunk at the moment of change
    fades out over ``blend_s``; last, the speed of each joint is limited. After the last row the target rests there.
    """

    def __init__(self, start: np.ndarray, speed_limit: np.ndarray, blend_s: float = 0.15) -> None:
        self.speed_limit, self.blend_s = np.asarray(speed_limit, dtype=float), blend_s
        self.reset(start)

    def reset(self, start: np.ndarray) -> None:
        """Hold ``start`` [A] until a chunk comes."""
        self.target = np.array(start, dtype=float)
        self._times = np.array((0.0,))
        self._rows = self.target[None].copy()
        self._changed_s, self._offset = -np.inf, np.zeros_like(self.target)
        self._last_s: float | None = None

    def set_chunk(self, chunk: ArmChunk, now_s: float, age_s: float) -> None:
        """Follow ``chunk``, whose image was taken ``age_s`` before ``now_s``."""
        rows = np.asarray(chunk.positions, dtype=float)
        self._times = now_s - age_s + chunk.dt_s * np.arange(1, len(rows) + 1)
        self._rows = rows
        self._offset = self.target - self._plan(now_s)
        self._changed_s = now_s

    def step(self, now_s: float) -> np.ndarray:
        """Target [A] at ``now_s``; the time since the last call bounds how far it may have moved."""
        dt_s = 0.0 if self._last_s is None else max(now_s - self._last_s, 0.0)
        self._last_s = now_s
        s = min(max((now_s - self._changed_s) / self.blend_s, 0.0), 1.0)
        wish = self._plan(now_s) + (1.0 - s * s * (3.0 - 2.0 * s)) * self._offset
        limit = self.speed_limit * dt_s
        self.target = self.target + clip(wish - self.target, -limit, limit)
        return self.target.copy()

    def _plan(self, now_s: float) -> np.ndarray:
        """The chunk alone [A]: linear between rows, constant before the first and after the last."""
        after = int(np.searchsorted(self._times, now_s))
        if after == 0:
            return self._rows[0].copy()
        if after == len(self._times):
            return self._rows[-1].copy()
        part = (now_s - self._times[after - 1]) / (self._times[after] - self._times[after - 1])
        return self._rows[after - 1] + part * (self._rows[after] - self._rows[after - 1])

"""Measured times of an episode against the limits that the project holds itself to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wbvla_eval.recording import Recording
from wbvla_eval.stats import percentiles


@dataclass(frozen=True)
class Target:
    """A limit that a measured time is held to. Source: the project's speed table (issue), two cores, everything running."""

    name: str
    limit: float
    unit: str
    at_most: bool = True


IMAGE_AGE = Target("image to command, p99", 150.0, "ms")
TICK = Target("LMO tick to tick, p99", 23.0, "ms")
RESPONSE = Target("state to joint command, p99", 20.0, "ms")  # ours: one tick; holds LMO's compute and the transport both ways
REAL_TIME = Target("real-time factor, mean", 0.98, "", at_most=False)
FRAMES_LOST = Target("camera frames lost", 1.0, "%")


def timing_rows(recording: Recording) -> list[dict[str, float | str | bool]]:
    """Measured times against their limits: {name, p50, p99, max, unit, limit, ok}; only what was measured."""
    rows: list[dict[str, float | str | bool]] = []

    def add(target: Target, values: np.ndarray, scale: float, judged: str) -> None:
        points = percentiles(values * scale)
        if points:
            value = points[judged] if judged in points else float(np.mean(values) * scale)
            ok = value <= target.limit if target.at_most else value >= target.limit
            rows.append({"name": target.name, **points, "judged": value, "unit": target.unit, "limit": target.limit, "at_most": target.at_most, "ok": bool(ok)})

    acting = recording.real_time_factor
    add(IMAGE_AGE, recording.image_age_s.values, 1e3, "p99")
    add(TICK, recording.tick_interval_s.values, 1e3, "p99")
    add(RESPONSE, recording.response_s.values, 1e3, "p99")
    add(REAL_TIME, acting.values[acting.time_s >= 0.0], 1.0, "mean")
    if recording.frames_rendered:
        lost = 100.0 * max(0, recording.frames_rendered - recording.frames_received) / recording.frames_rendered
        rows.append({"name": FRAMES_LOST.name, "judged": lost, "unit": "%", "limit": FRAMES_LOST.limit, "at_most": True, "ok": lost <= FRAMES_LOST.limit})
    return rows

"""Measured times of an episode against the limits that the project holds itself to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
TICK_IN_NODE = Target("LMO tick to tick, own clock, p99", 23.0, "ms")
COMPUTE = Target("LMO compute, p99", 2.0, "ms")
INFERENCE = Target("VLA inference, p99", 100.0, "ms")  # 10 Hz
LMO_MEMORY = Target("LMO memory", 200.0, "MB")
RESPONSE = Target("state to joint command, p99", 20.0, "ms")  # ours: one tick; holds LMO's compute and the transport both ways
REAL_TIME = Target("real-time factor, mean", 0.98, "", at_most=False)
FRAMES_LOST = Target("camera frames lost", 1.0, "%")


def timing_rows(recording: Recording) -> list[dict[str, Any]]:
    """Measured times against their limits: {name, p50, p99, max, judged, unit, limit, at_most, ok, where}; only what was measured.

    Streams are measured in the recorder, over the episode; what a node knows of itself comes from its diagnostics (its last half minute).
    """
    rows: list[dict[str, Any]] = []

    def add(target: Target, judged: float, points: dict[str, float], where: str) -> None:
        ok = judged <= target.limit if target.at_most else judged >= target.limit
        row = {"name": target.name, **points, "judged": judged, "unit": target.unit, "limit": target.limit, "at_most": target.at_most}
        rows.append(row | {"ok": bool(ok), "where": where})

    for target, stream in ((IMAGE_AGE, recording.image_age_s), (TICK, recording.tick_interval_s), (RESPONSE, recording.response_s)):
        points = percentiles(stream.values * 1e3)
        if points:
            add(target, points["p99"], points, "recorder")
    for target, node, key in ((TICK_IN_NODE, "lmo", "tick_interval"), (COMPUTE, "lmo", "compute"), (INFERENCE, "vla", "inference")):
        own = recording.diagnostics.get(node, {})
        if f"{key}_p99_ms" in own:
            points = {name: float(own[f"{key}_{name}_ms"]) for name in ("p50", "p99", "max")}
            add(target, points["p99"], points, node)
    if "rss_mb" in recording.diagnostics.get("lmo", {}):
        add(LMO_MEMORY, float(recording.diagnostics["lmo"]["rss_mb"]), {}, "lmo")
    factor = recording.real_time_factor
    acting = factor.values[factor.time_s >= 0.0]
    if len(acting):
        add(REAL_TIME, float(np.mean(acting)), {}, "simulator")
    if recording.frames.rendered:
        add(FRAMES_LOST, 100.0 * recording.frames.lost_share, {}, "recorder")
    return rows

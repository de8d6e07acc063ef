"""Policies without a network: to bring the other nodes up, and to replay a recorded command stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from wbvla_core.robot import RobotSpec
from wbvla_core.types import ArmChunk, Decision, LatentAction, LocoCommand, PolicyInput


class ZeroPolicy:
    """Stands still: flags zero, default stance height, arms at the default pose."""

    reads_sentences = False  # whatever is asked, it does the same: nothing to guard

    def __init__(self, robot: RobotSpec, chunk_rows: int = 10, dt_s: float = 0.1) -> None:
        index = robot.indices("upper_body")
        self._loco = LocoCommand(stance_height_m=robot.default_stance_height_m)
        self._arms = ArmChunk(tuple(robot.groups["upper_body"]), np.tile(robot.default_q[index], (chunk_rows, 1)), dt_s)

    def reset(self) -> None:
        pass

    def infer(self, inputs: PolicyInput) -> Decision:
        return Decision(inputs.stamp_s, self._loco, self._arms, LatentAction((0,) * 4, (0,) * 4))


class ReplayPolicy:
    """Plays recorded decisions back by their stamps, relative to the first image that it sees.

    After the last one it stands still with the last arms; before a decision's time the earlier one holds (zero order).
    """

    reads_sentences = False

    def __init__(self, decisions: Sequence[Decision]) -> None:
        if not decisions:
            raise ValueError("ReplayPolicy needs at least one decision")
        stamps = [decision.stamp_s for decision in decisions]
        if any(b <= a for a, b in zip(stamps, stamps[1:], strict=False)):
            raise ValueError("the stamps of replayed decisions must increase")
        self._decisions = list(decisions)
        self._offsets_s = np.array(stamps) - stamps[0]
        self._period_s = float(np.median(np.diff(stamps))) if len(stamps) > 1 else 0.1
        self.reset()

    def reset(self) -> None:
        self._start_s: float | None = None

    def infer(self, inputs: PolicyInput) -> Decision:
        if self._start_s is None:
            self._start_s = inputs.stamp_s
        elapsed = inputs.stamp_s - self._start_s + 1e-9
        index = max(0, int(np.searchsorted(self._offsets_s, elapsed, side="right")) - 1)
        decision = replace(self._decisions[index], stamp_s=inputs.stamp_s)
        if elapsed > self._offsets_s[-1] + self._period_s:
            decision = replace(decision, loco=decision.loco.stopped())
        return decision


def read_replay(path: Path, robot: RobotSpec) -> list[Decision]:
    """A command stream for ReplayPolicy from YAML; the arms stay at the default pose. ValueError where the file is not one."""
    rows = yaml.safe_load(path.read_text())
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path} must be a list of {{t_s, forward, lateral, yaw, stance_height_m}}, got {type(rows).__name__}")
    arms = ArmChunk(robot.names("upper_body"), robot.default_q[robot.indices("upper_body")][None], 0.1)
    decisions = []
    for row in rows:
        try:
            command = LocoCommand(**{"stance_height_m": robot.default_stance_height_m, **{key: value for key, value in row.items() if key != "t_s"}})
            decisions.append(Decision(float(row["t_s"]), command.validate(robot.stance_height_range_m), arms))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}: row {row} is not {{t_s, forward, lateral, yaw, stance_height_m}}: {error}") from error
    return decisions

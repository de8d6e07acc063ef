"""What is commanded when: fixed schedules, random switching, and the flag planner that walks to a goal on true pose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from wbvla_core.numeric import wrap
from wbvla_core.robot import RobotSpec
from wbvla_eval.lmo.conditions import PROGRAM

DT_S = 0.02
SETTLE_S = 2.0  # every episode begins with this much standing at the default height


@dataclass
class Truth:
    """What an onlooker knows of N robots: position xy [N, 2] m, heading [N] rad; their rates, low-passed over half a step (0.3 s)."""

    xy: np.ndarray
    yaw: np.ndarray
    velocity: np.ndarray
    yaw_rate: np.ndarray


class Program(Protocol):
    """Commands of N robots."""

    seconds: float

    def command(self, tick: int, truth: Truth) -> tuple[np.ndarray, np.ndarray]:
        """(flags [N, 3], stance height [N] m) of a tick."""


ProgramFactory = Callable[[RobotSpec, Sequence[int], np.ndarray], Program]
"""(robot, seeds, cruise [3]) -> program of len(seeds) robots."""


class Schedule:
    """Commands known beforehand: flags [T, N, 3], height [T, N]."""

    def __init__(self, flags: np.ndarray, height_m: np.ndarray) -> None:
        self.flags, self.height_m = flags.astype(np.int8), height_m
        self.seconds = len(flags) * DT_S

    def command(self, tick: int, truth: Truth) -> tuple[np.ndarray, np.ndarray]:
        return self.flags[tick].astype(np.float64), self.height_m[tick]


def ticks(seconds: float) -> int:
    return round(seconds / DT_S)


def hold(flags: tuple[int, int, int], hold_s: float, rest_s: float, height_m: float | None = None) -> ProgramFactory:
    """Stand, one command for ``hold_s``, zero flags for ``rest_s``; ``height_m`` (clipped to the robot's range) from the command on."""

    def make(robot: RobotSpec, seeds: Sequence[int], cruise: np.ndarray) -> Schedule:
        n, start, end = len(seeds), ticks(SETTLE_S), ticks(SETTLE_S + hold_s)
        total = end + ticks(rest_s)
        out = np.zeros((total, n, 3))
        out[start:end] = flags
        height = np.full((total, n), robot.default_stance_height_m)
        if height_m is not None:
            height[start:] = np.clip(height_m, *robot.stance_height_range_m)
        return Schedule(out, height)

    return make


def switching(seconds: float, hold_s: tuple[float, float] = (0.5, 4.0), p_combined: float = 0.3, p_height: float = 0.3) -> ProgramFactory:
    """A new command every ``hold_s``: with ``p_combined`` three independent flags, else one axis with -1, 0 or 1; with ``p_height`` another stance height."""

    def make(robot: RobotSpec, seeds: Sequence[int], cruise: np.ndarray) -> Schedule:
        total = ticks(SETTLE_S + seconds)
        flags, height = np.zeros((total, len(seeds), 3)), np.full((total, len(seeds)), robot.default_stance_height_m)
        for i, seed in enumerate(seeds):
            rng = np.random.default_rng((seed, PROGRAM))
            t = ticks(SETTLE_S)
            while t < total:
                length = ticks(rng.uniform(*hold_s))
                combined = rng.random() < p_combined
                flags[t : t + length, i] = rng.integers(-1, 2, 3) if combined else np.eye(3)[rng.integers(3)] * rng.integers(-1, 2)
                height[t : t + length, i] = rng.uniform(*robot.stance_height_range_m) if rng.random() < p_height else robot.default_stance_height_m
                t += length
        return Schedule(flags, height)

    return make


def squat_cycles(low_m: float, high_m: float, half_s: float, cycles: int) -> ProgramFactory:
    """Down and up: ``half_s`` at each height (clipped to the robot's range), flags zero."""

    def make(robot: RobotSpec, seeds: Sequence[int], cruise: np.ndarray) -> Schedule:
        low, high = np.clip((low_m, high_m), *robot.stance_height_range_m)
        column = np.concatenate((np.full(ticks(SETTLE_S), robot.default_stance_height_m), np.tile(np.repeat((low, high), ticks(half_s)), cycles)))
        return Schedule(np.zeros((len(column), len(seeds), 3)), np.tile(column[:, None], (1, len(seeds))))

    return make


# ------------------------------------------------------------------------------------------------------------ flag planner


@dataclass(frozen=True)
class PlannerConfig:
    """The flag planner's numbers, all ours.

    Attributes:
        filter_s: time constant of the pose that is looked at: half a gait cycle, because a walking pelvis sways by centimetres and by 0.05 rad.
        foresee_s: a flag comes down this much earlier, at cruise speed: what a robot still walks and turns after the flag is gone.
        begin_m, begin_rad: error of an axis that raises its flag from rest; reopen_m, reopen_rad: while another axis is still under way.
        accept_m, accept_rad: errors at rest that need no further correction; the rest of the tolerance is for drift.
        rest_s, rest_m_s, rest_rad_s: at rest when no flag was up for rest_s and the low-passed speeds are below these.
        brief_s: a flag once raised stays at least this long (less than a step does nothing).
    """

    filter_s: float = 0.36
    foresee_s: float = 0.3
    begin_m: float = 0.05
    begin_rad: float = 0.04
    reopen_m: float = 0.15
    reopen_rad: float = 0.2
    accept_m: float = 0.10
    accept_rad: float = 0.06
    rest_s: float = 1.0
    rest_m_s: float = 0.04
    rest_rad_s: float = 0.05
    brief_s: float = 0.2


class FlagPlanner:
    """Walks N robots to goals (x, y, heading) with flags alone, on true pose: forward, backward, sideways and turning at once.

    What is left to do is seen in the robot's own frame. From rest, a pose outside the acceptance region raises the flag of every axis whose error is
    over its begin threshold; a flag comes down when what is left is what the robot will still do on its way to rest. When all are down the planner
    waits until the robot is at rest and looks again. While one axis is under way, another is raised only by a large error: no chatter.
    """

    def __init__(self, goals: np.ndarray, cruise: np.ndarray, config: PlannerConfig | None = None) -> None:
        """goals: [N, 3] (x, y, heading); cruise: speeds of a full flag [3]."""
        self.goals, self.cruise, self.config = np.asarray(goals, dtype=float), np.asarray(cruise, dtype=float), config or PlannerConfig()
        n = len(self.goals)
        self.flags = np.zeros((n, 3))
        self._up_s, self._down_s = np.zeros((n, 3)), np.full(n, np.inf)
        self._xy: np.ndarray | None = None
        self._yaw = np.zeros(n)

    def errors(self, xy: np.ndarray, yaw: np.ndarray) -> np.ndarray:
        """What is left to do [N, 3]: forward m, left m, turn rad, in the robots' own frames."""
        way = self.goals[:, :2] - xy
        cos, sin = np.cos(yaw), np.sin(yaw)
        turn = wrap(self.goals[:, 2] - yaw)
        return np.stack((cos * way[:, 0] + sin * way[:, 1], cos * way[:, 1] - sin * way[:, 0], turn), axis=1)

    def step(self, truth: Truth) -> np.ndarray:
        """Flags [N, 3] of the coming tick."""
        c = self.config
        if self._xy is None:
            self._xy, self._yaw = truth.xy.copy(), truth.yaw.copy()
        gain = DT_S / c.filter_s
        self._xy += gain * (truth.xy - self._xy)
        self._yaw += gain * wrap(truth.yaw - self._yaw)
        left = self.errors(self._xy, self._yaw)
        coming = self.flags * self.cruise * (c.filter_s + c.foresee_s)  # the filtered pose is filter_s behind
        walking = self.flags.any(axis=1)
        self._down_s = np.where(walking, 0.0, self._down_s + DT_S)
        quiet = (np.hypot(*truth.velocity.T) < c.rest_m_s) & (np.abs(truth.yaw_rate) < c.rest_rad_s) & (self._down_s >= c.rest_s)
        off = (np.hypot(left[:, 0], left[:, 1]) > c.accept_m) | (np.abs(left[:, 2]) > c.accept_rad)
        begin, reopen = np.array((c.begin_m, c.begin_m, c.begin_rad)), np.array((c.reopen_m, c.reopen_m, c.reopen_rad))
        size = np.abs(left)
        raised = (self.flags == 0) & np.where(walking[:, None], size > reopen, (quiet & off)[:, None] & (size > begin))
        self._up_s = np.where(self.flags != 0, self._up_s + DT_S, 0.0)
        used_up = ((left - coming) * self.flags <= 0) & (self._up_s >= c.brief_s)
        self.flags = np.where(raised, np.sign(left), np.where(used_up, 0.0, self.flags))
        return self.flags


class GoTo:
    """Random goals: distance sqrt-uniform in (0, reach_m] (uniform over the disc), bearing and final heading uniform within +-180 deg."""

    def __init__(self, robot: RobotSpec, seeds: Sequence[int], cruise: np.ndarray, reach_m: float, seconds: float, config: PlannerConfig | None) -> None:
        rngs = [np.random.default_rng((seed, PROGRAM)) for seed in seeds]
        draws = np.array([(reach_m * np.sqrt(r.random()), r.uniform(-np.pi, np.pi), r.uniform(-np.pi, np.pi)) for r in rngs])
        self._offsets, self._cruise, self._config = draws, cruise, config
        self.height_m = np.full(len(seeds), robot.default_stance_height_m)
        self.seconds = SETTLE_S + seconds
        self.planner: FlagPlanner | None = None
        self.goals = np.zeros((len(seeds), 3))

    def command(self, tick: int, truth: Truth) -> tuple[np.ndarray, np.ndarray]:
        if tick < ticks(SETTLE_S):
            return np.zeros((len(self.height_m), 3)), self.height_m
        if self.planner is None:  # the goal lies in the frame of the standing robot
            distance, bearing, turn = self._offsets.T
            angle = truth.yaw + bearing
            self.goals = np.stack((truth.xy[:, 0] + distance * np.cos(angle), truth.xy[:, 1] + distance * np.sin(angle), truth.yaw + turn), axis=1)
            self.planner = FlagPlanner(self.goals, self._cruise, self._config)
        return self.planner.step(truth), self.height_m


def go_to(reach_m: float, seconds: float, config: PlannerConfig | None = None) -> ProgramFactory:
    """Arrival at random goals."""
    return lambda robot, seeds, cruise: GoTo(robot, seeds, cruise, reach_m, seconds, config)

"""``wbvla eval lmo``: the leg policy alone, as the node runs it, per command.

Each trial runs the exported checkpoint through the whole controller in the lock-step world: converged solver (100
iterations), self-collision, sensor noise, 0 to 40 ms of command delay drawn per trial, arms moving at random. One second
of standing, the command for ``hold_s``, then zero flags for ``rest_s``. Switching trials draw a new command every 0.5 to
4 s and push.
Seeds start at 2 000 000; training and development use others.

``--engine drake`` runs the same trials in another physics engine (:mod:`wbvla_sim.drake`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from wbvla_core.console import program
from wbvla_core.errors import WbvlaError
from wbvla_core.numeric import minimum_jerk, wrap
from wbvla_core.robot import RobotSpec, load_robot
from wbvla_core.types import ArmChunk, Decision, LocoCommand
from wbvla_core.workers import in_processes
from wbvla_eval.lmo.measures import in_frame
from wbvla_eval.stats import poisson_upper_bound, wilson_interval
from wbvla_sim.slots import SensorNoise, SlotWorld

SETTLE_S = 1.0
MEASURE_AFTER_S = 1.0  # of the command: the start-up is not tracking
QUIET_M_S = 0.05
ROW_S = 0.1


@dataclass(frozen=True)
class Case:
    """A command under test; stance height None = the robot's default."""

    name: str
    flags: tuple[int, int, int]
    height_m: float | None = None
    switching: bool = False


CASES = (
    Case("stand", (0, 0, 0)),
    Case("squat 0.55 m", (0, 0, 0), 0.55),
    Case("squat 0.46 m", (0, 0, 0), 0.46),
    Case("forward", (1, 0, 0)),
    Case("backward", (-1, 0, 0)),
    Case("left", (0, 1, 0)),
    Case("right", (0, -1, 0)),
    Case("turn left", (0, 0, 1)),
    Case("turn right", (0, 0, -1)),
    Case("forward + turn left", (1, 0, 1)),
    Case("forward + turn right", (1, 0, -1)),
    Case("forward at 0.58 m", (1, 0, 0), 0.58),
    Case("random switching, pushes", (0, 0, 0), None, True),
)


@dataclass(frozen=True)
class Options:
    """Command tracking, standing, stopping and falls of a leg policy."""

    lmo: Path = Path("checkpoints/lmo/x2")
    """LMO checkpoint directory."""
    robot: str = "x2"
    """Name of the robot spec."""
    trials: int = 20
    """Trials per command."""
    seed_base: int = 2_000_000
    """Seed of the first trial."""
    hold_s: float = 5.0
    """How long a command is held, simulated seconds."""
    rest_s: float = 3.0
    """Zero flags after it."""
    switching_s: float = 30.0
    """Length of a switching trial."""
    arms: float = 0.5
    """Amplitude of the arm motions, part of the way from the default pose to the limits; 0 = arms at rest."""
    noise: bool = True
    """Sensor noise of typical size and command delay."""
    engine: Literal["mujoco", "drake"] = "mujoco"
    """Physics: MuJoCo with the converged solver, or Drake (pip install 'wbvla[drake]')."""
    processes: int = field(default_factory=lambda: 1)
    """Worker processes."""
    only: str = ""
    """Only the commands whose name contains this."""
    out: Path | None = None
    """Write the rows to this JSON file."""


class RandomArms:
    """Arm chunks of smooth reaches to random postures, as a 10 Hz policy would send them."""

    def __init__(self, robot: RobotSpec, amplitude: float, rng: np.random.Generator) -> None:
        index = robot.indices("upper_body")
        self.names, self.rng, self.amplitude = robot.names("upper_body"), rng, amplitude
        self.default, self.lower, self.upper = robot.default_q[index], robot.lower[index], robot.upper[index]
        self.begin = self.goal = self.default
        self.start_s, self.duration_s = 0.0, 0.0

    def decision(self, now_s: float, rows: int = 8) -> Decision:
        """The chunk from ``now_s`` on."""
        if now_s >= self.start_s + self.duration_s:
            u = self.rng.uniform(-1, 1, len(self.names)) * self.amplitude
            self.begin, self.goal = self.goal, self.default + np.where(u > 0, u * (self.upper - self.default), u * (self.default - self.lower))
            self.start_s, self.duration_s = now_s, self.rng.uniform(1.0, 3.0)
        s = minimum_jerk((now_s + ROW_S * np.arange(1, rows + 1) - self.start_s) / self.duration_s)
        path = self.begin + (self.goal - self.begin) * s[:, None]
        return Decision(now_s, LocoCommand(), ArmChunk(self.names, path, ROW_S))


def commands_of(case: Case, robot: RobotSpec, options: Options, rng: np.random.Generator) -> list[LocoCommand]:
    """The command of every tick."""
    default = robot.default_stance_height_m
    per_s = 50
    if not case.switching:
        height = case.height_m or default
        rest = LocoCommand(0, 0, 0, height)
        return (
            [LocoCommand(0, 0, 0, default)] * round(SETTLE_S * per_s)
            + [LocoCommand(*case.flags, height)] * round(options.hold_s * per_s)
            + [rest] * round(options.rest_s * per_s)
        )
    out = [LocoCommand(0, 0, 0, default)] * round(SETTLE_S * per_s)
    total = len(out) + round(options.switching_s * per_s)
    while len(out) < total:
        flags = rng.integers(-1, 2, 3) if rng.random() < 0.3 else np.eye(3, dtype=int)[rng.integers(3)] * rng.integers(-1, 2)
        height = float(rng.uniform(*robot.stance_height_range_m)) if rng.random() < 0.3 else default
        out += [LocoCommand(*(int(f) for f in flags), height)] * round(rng.uniform(0.5, 4.0) * per_s)
    return out[:total]


def make_world(case: Case, seed: int, options: Options, robot: RobotSpec, delay_s: float) -> SlotWorld:
    """The engine under a trial."""
    between = {
        "noise": SensorNoise.typical() if options.noise else SensorNoise(),
        "command_delay_s": delay_s,
        "push_interval_s": 4.0 if case.switching else 0.0,
        "push_speed_m_s": 0.3,
    }
    if options.engine == "drake":
        from wbvla_sim.drake import DrakeOptions, DrakeWorld

        return DrakeWorld(robot, options=DrakeOptions(**between))
    from wbvla_sim.scene import random_scene
    from wbvla_sim.world import World, WorldOptions

    return World(robot, random_scene(seed, kind="empty"), options=WorldOptions(**between, iterations=100, ls_iterations=50))


def run_trial(job: tuple[Case, int, Options]) -> dict[str, Any]:
    """One trial; returns its numbers."""
    from wbvla_lmo.controller import LmoController
    from wbvla_lmo.policy import LmoPolicy

    case, seed, options = job
    robot = load_robot(options.robot)
    rng = np.random.default_rng(seed)
    controller = LmoController(robot, LmoPolicy.load(options.lmo, robot))
    delay_s = 0.005 * int(rng.integers(0, 9)) if options.noise else 0.0
    world = make_world(case, seed, options, robot, delay_s)
    controller.reset(world.reset(seed))
    arms = RandomArms(robot, options.arms, rng)
    stream = commands_of(case, robot, options, rng)
    rows: dict[str, list] = {"xy": [], "yaw": [], "height": [], "stepping": [], "target": [], "torque": []}
    fallen_s = None
    for i, loco in enumerate(stream):
        if options.arms > 0 and i % 5 == 0:
            controller.set_decision(arms.decision(world.time_s), world.time_s)
        command = controller.tick(world.state(), loco, world.time_s)
        world.slot(command)
        truth = world.truth()
        rows["xy"].append(truth["pelvis_xyz"][:2].copy())
        rows["yaw"].append(truth["yaw_rad"])
        rows["height"].append(truth["pelvis_xyz"][2])
        rows["stepping"].append(bool(controller.pipeline.gait.stepping[0]))
        rows["target"].append(command.q[robot.indices("legs")])
        if truth["fallen"] or world.driver.state.value == "damping":
            fallen_s = world.time_s
            break
    result = {"case": case.name, "seed": seed, "fell": fallen_s is not None, "time_s": len(rows["yaw"]) * world.slot_s, "delay_s": delay_s}
    if fallen_s is None and not case.switching:
        cruise = np.asarray(controller.policy.config.gating.cruise)
        result |= measure(np.array(rows["xy"]), np.unwrap(rows["yaw"]), np.array(rows["height"]), np.array(rows["stepping"]), case, options, robot, cruise)
    return result


def measure(
    xy: np.ndarray, yaw: np.ndarray, height: np.ndarray, stepping: np.ndarray, case: Case, options: Options, robot: RobotSpec, cruise: np.ndarray
) -> dict[str, float]:
    """Tracking in the last part of the command, stopping after it, drift at rest.

    end_m, end_rad, for one flag at the default height: what the last pose is short of cruise speed x time, from the pose when the flag was set.
    xy [T, 2] m, yaw [T] rad, 50 Hz; cruise [3].
    """
    start, release = round(SETTLE_S * 50), round((SETTLE_S + options.hold_s) * 50)
    a = start + round(MEASURE_AFTER_S * 50)
    span_s = (release - a) / 50
    step = np.diff(xy[a : release + 1], axis=0)
    cos, sin = np.cos(yaw[a:release]), np.sin(yaw[a:release])
    after = xy[release:] - xy[release]
    speed = np.convolve(np.linalg.norm(np.diff(xy[release:], axis=0), axis=1) * 50, np.ones(10) / 10, mode="valid")
    loud = np.flatnonzero(speed > QUIET_M_S)
    wanted = case.height_m or robot.default_stance_height_m
    out = {
        "vx": float(np.sum(cos * step[:, 0] + sin * step[:, 1]) / span_s),
        "vy": float(np.sum(cos * step[:, 1] - sin * step[:, 0]) / span_s),
        "wz": float((yaw[release] - yaw[a]) / span_s),
        "height_error": float(np.mean(height[a:release]) - wanted),
        "stop_m": float(np.linalg.norm(after[-1])),
        "stop_rad": float(abs(yaw[-1] - yaw[release])),
        "quiet_s": float((loud[-1] + 10) / 50) if len(loud) else 0.0,
        "rest_drift_m_s": float(np.linalg.norm(xy[-1] - xy[-51])),
        "rest_stepping": float(np.mean(stepping[-50:])),
    }
    asked = np.array(case.flags) * cruise * options.hold_s
    if np.count_nonzero(asked) <= 1 and case.height_m is None:  # a squat moves the pelvis over the feet, and an arc does not end at speed x time
        place = in_frame(xy[start - 1 : start], yaw[start - 1 : start], xy[-1:])[0]
        out |= {"end_m": float(np.linalg.norm(place - asked[:2])), "end_rad": float(abs(wrap(yaw[-1] - yaw[start - 1] - asked[2])))}
    return out


def table(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per command: falls with Wilson interval, mean and standard deviation of each number."""
    rows = []
    for case in CASES:
        own = [r for r in results if r["case"] == case.name]
        if not own:
            continue
        falls = sum(r["fell"] for r in own)
        low, high = wilson_interval(falls, len(own))
        row: dict[str, Any] = {"case": case.name, "trials": len(own), "falls": falls, "fall_rate_95": [round(low, 3), round(high, 3)]}
        if case.switching:
            hours = sum(r["time_s"] for r in own) / 3600.0
            row |= {"hours": round(hours, 3), "falls_per_hour": round(falls / hours, 2), "falls_per_hour_upper_95": round(poisson_upper_bound(falls, hours), 2)}
        up = [r for r in own if "vx" in r]
        for key in up[0] if up else ():
            values = np.array([r[key] for r in up]) if isinstance(up[0][key], float) and key not in ("time_s", "delay_s") else None
            if values is not None:
                row[key] = [round(float(values.mean()), 4), round(float(values.std()), 4)]
        rows.append(row)
    return rows


def evaluate(options: Options) -> dict[str, Any]:
    """Run all trials and return {"rows", "trials", "options"}."""
    cases = [c for c in CASES if options.only in c.name]
    jobs = [(case, options.seed_base + 1000 * CASES.index(case) + i, options) for case in cases for i in range(options.trials)]
    if options.processes > 1:
        results = [result for _, result in in_processes(run_trial, jobs, options.processes)]
    else:
        results = [run_trial(job) for job in jobs]
    return {
        "rows": table(results),
        "trials": sorted(results, key=lambda r: r["seed"]),
        "seed_base": options.seed_base,
        "arms": options.arms,
        "noise": options.noise,
        "engine": options.engine,
    }


def main(argv: Sequence[str] | None = None) -> int:
    options = tyro.cli(Options, prog="python -m wbvla_eval.lmo.lockstep", args=argv)
    began = time.monotonic()
    try:
        report = evaluate(options)
    except WbvlaError as error:
        raise SystemExit(f"refused: {error}") from None
    for row in report["rows"]:
        mean = {k: v[0] for k, v in row.items() if isinstance(v, list) and k != "fall_rate_95"}
        extra = {k: v for k, v in row.items() if k.startswith("falls_per")}
        print(
            f"{row['case']:26s} falls {row['falls']:3d}/{row['trials']:<4d} "
            + "  ".join(f"{k} {v:+.3f}" for k, v in mean.items())
            + "  ".join(f"{k} {v}" for k, v in extra.items())
        )
    print(f"{len(report['trials'])} trials in {time.monotonic() - began:.0f} s")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    program(main)

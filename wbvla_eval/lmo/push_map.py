"""How far one push moves a standing robot, by its force and direction: where a balance is weak shows here sooner than in any score.

    python -m wbvla_eval.lmo.push_map --lmo checkpoints/lmo/x2 --out push_map.svg

Nominal robot with sensor noise, arms at rest, zero flags. After three seconds of standing one horizontal pulse on the torso (0.1 s, as in the stability
suite), then six seconds. Ours; not part of the benchmark's table.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from wbvla_core.console import program
from wbvla_core.robot import RobotSpec, load_robot
from wbvla_eval.lmo import programs
from wbvla_eval.lmo.conditions import NOMINAL, Disturber
from wbvla_eval.lmo.controllers import Checked, Factory, callable_factory, checkpoint_factory
from wbvla_eval.lmo.plots import standalone
from wbvla_eval.lmo.runner import Log, make_world, run

STAND_S, PULSE_S, AFTER_S = 3.0, 0.1, 6.0
FORCES_N = (50.0, 75.0, 100.0, 125.0, 150.0)
DIRECTIONS = 16
SEED_BASE = 5_000_000


@dataclass(frozen=True)
class Options:
    """Options of the push map.

    Attributes:
        lmo: checkpoint directory.
        controller: package.module:factory instead of a checkpoint.
        height_m: stance height; the robot's default without it.
        repeats: robots of each force and direction, which differ by their sensor noise.
        out: the picture; a .json of the same name lies beside it.
    """

    lmo: Path = Path("checkpoints/lmo/x2")
    controller: str | None = None
    robot: str = "x2"
    height_m: float | None = None
    repeats: int = 3
    out: Path = Path("push_map.svg")


@dataclass
class PushMap:
    """Means over the repeats, [forces, directions] each; direction 0 is forward, a quarter of them later to the left.

    Attributes:
        forces_n: of the rows.
        way_m: greatest distance of the centre of mass from where it stood; of robots that did not fall, NaN where all fell.
        rms_m: root mean square of that distance over the six seconds.
        stepped: part of the robots that moved a foot by more than 2 cm.
        fell: robots that fell.
    """

    forces_n: tuple[float, ...]
    way_m: np.ndarray
    rms_m: np.ndarray
    stepped: np.ndarray
    fell: np.ndarray


def push_map(
    factory: Factory, robot: RobotSpec, *, height_m: float | None = None, repeats: int = 3, forces_n: tuple[float, ...] = FORCES_N, directions: int = DIRECTIONS
) -> PushMap:
    """Push ``repeats`` robots with each force in each direction."""
    cells = np.array([(f, a) for _ in range(repeats) for f in forces_n for a in 2 * np.pi * np.arange(directions) / directions])
    seeds = [SEED_BASE + i for i in range(len(cells))]
    conditions = dataclasses.replace(NOMINAL, arms=None)
    controller = Checked(factory, robot, len(seeds))
    program = programs.hold((0, 0, 0), STAND_S + AFTER_S, 0.0, height_m)(robot, seeds, controller.cruise)
    log = run(make_world(robot, len(seeds)), controller, program, conditions, seeds, disturber=OnePulse(cells, program.seconds))
    return _measure(log, repeats, forces_n, directions)


class OnePulse(Disturber):
    """One pulse for each robot, in its own heading: the robots start looking along world x and have hardly turned when it comes."""

    def __init__(self, cells: np.ndarray, seconds: float) -> None:
        """Args: cells [N, 2]: force, N, and direction, rad."""
        super().__init__(NOMINAL, [], seconds, programs.DT_S, programs.SETTLE_S)
        start = programs.ticks(programs.SETTLE_S + STAND_S)
        self.force = np.zeros((programs.ticks(seconds) + 1, len(cells), 3), dtype=np.float32)
        self.force[start : start + programs.ticks(PULSE_S), :, 0] = cells[:, 0] * np.cos(cells[:, 1])
        self.force[start : start + programs.ticks(PULSE_S), :, 1] = cells[:, 0] * np.sin(cells[:, 1])


def _measure(log: Log, repeats: int, forces_n: tuple[float, ...], directions: int) -> PushMap:
    start = programs.ticks(programs.SETTLE_S + STAND_S)
    way = np.linalg.norm(log.com[start:] - log.com[start - 1], axis=-1)  # [T, N]
    feet = np.linalg.norm(log.feet[start:, ..., :2] - log.feet[start - 1, ..., :2], axis=-1).max(axis=(0, 2))
    shape = (repeats, len(forces_n), directions)
    values = [np.where(log.fell, np.nan, v).reshape(shape) for v in (way.max(axis=0), np.sqrt(np.mean(way**2, axis=0)))]
    alive = np.maximum(1, (~log.fell).reshape(shape).sum(axis=0))
    way_m, rms_m = (np.where(np.isfinite(v).any(axis=0), np.nansum(v, axis=0) / alive, np.nan) for v in values)
    return PushMap(forces_n, way_m, rms_m, (feet > 0.02).reshape(shape).mean(axis=0), log.fell.reshape(shape).sum(axis=0))


def picture(result: PushMap, title: str) -> str:
    """Polar curves of the way, forward up, one for each force; a cross where a robot fell."""
    directions = result.way_m.shape[1]
    size, reach = 420, 1.1 * max(0.1, float(np.nan_to_num(result.way_m).max()))
    middle = size / 2
    scale = 0.42 * size / reach

    def at(way: float, k: float) -> tuple[float, float]:
        angle = 2 * np.pi * k / directions
        return middle - scale * way * np.sin(angle), middle - scale * way * np.cos(angle)

    body = []
    for ring in np.arange(0.05, reach, 0.05):
        body.append(f'<circle class="grid" fill="none" cx="{middle}" cy="{middle}" r="{scale * ring:.1f}"/>')
        body.append(f'<text x="{middle + 3}" y="{middle - scale * ring - 2:.1f}">{100 * ring:.0f} cm</text>')
    for name, k in (("forward", 0.0), ("left", directions / 4), ("backward", directions / 2), ("right", 0.75 * directions)):
        x, y = at(1.04 * reach, k)
        body.append(f'<text x="{x:.0f}" y="{y + 4:.0f}" text-anchor="middle">{name}</text>')
    for i, _ in enumerate(result.forces_n):
        points = [at(w, k) for k, w in enumerate(result.way_m[i]) if np.isfinite(w)]
        if points:
            body.append(f'<path style="stroke: hsl({210 - 48 * i} 60% 42%)" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}Z"/>')
        for k in np.flatnonzero(result.fell[i]):
            x, y = at(reach, k)
            body.append(f'<path class="s0" d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"/>')
    for i, force in enumerate(result.forces_n):
        y = size - 14 * (len(result.forces_n) - i)
        body.append(f'<path style="stroke: hsl({210 - 48 * i} 60% 42%)" d="M8 {y}h16"/><text x="28" y="{y + 4}">{force:.0f} N</text>')
    return standalone(body, title, size, size)


def table(result: PushMap) -> str:
    """Markdown: way in cm by force and eight of the directions."""
    step = result.way_m.shape[1] // 8
    head = "| force | " + " | ".join(f"{45 * k} deg" for k in range(8)) + " | stepped | fell |\n|" + "---|" * 11 + "\n"
    rows = [
        f"| {force:.0f} N | "
        + " | ".join(f"{100 * w:.1f}" for w in result.way_m[i, ::step])
        + f" | {100 * result.stepped[i].mean():.0f} % | {int(result.fell[i].sum())} |"
        for i, force in enumerate(result.forces_n)
    ]
    return head + "\n".join(rows)


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    robot = load_robot(options.robot)
    factory = callable_factory(options.controller) if options.controller else checkpoint_factory(options.lmo, robot)[0]
    result = push_map(factory, robot, height_m=options.height_m, repeats=options.repeats)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(picture(result, "Farthest way of the centre of mass after one push"), encoding="utf-8")
    numbers = {k: np.round(np.asarray(v, dtype=float), 4).tolist() for k, v in vars(result).items()}
    options.out.with_suffix(".json").write_text(json.dumps(numbers, indent=1).replace("NaN", "null"), encoding="utf-8")
    print(f"way in cm, {options.repeats} robots a cell\n\n{table(result)}\n\nmean rms {100 * np.nanmean(result.rms_m):.2f} cm; wrote {options.out}")
    return 0


if __name__ == "__main__":
    program(main)

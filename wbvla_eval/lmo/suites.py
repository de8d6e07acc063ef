"""The table of suites. One entry = what is commanded, under which conditions, what is measured, which seeds.

Episodes of a cell have seeds SEED_BASE + 10 000 x block + i: apart from training (small seeds), development (to 2 000 000) and the walk-to evaluation
(from 2 000 000). Cells of one block see the same episodes: the stress sweep compares like with like.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from wbvla_core.errors import CommandError, ErrorCode
from wbvla_core.robot import RobotSpec
from wbvla_eval.lmo import measures, programs
from wbvla_eval.lmo.conditions import NOMINAL, RANDOMISED_BODIES, RANDOMISED_DELAYS, Arms, Bodies, Conditions, Delays, Pulses, Pushes
from wbvla_eval.lmo.options import SEED_BASE
from wbvla_eval.lmo.programs import ProgramFactory
from wbvla_eval.lmo.runner import Log
from wbvla_eval.lmo.scenery import cart, cart_hands
from wbvla_sim.batch import Scenery

BLOCK = 10_000

Measure = Callable[[Log, RobotSpec, np.ndarray], measures.Numbers]

RANDOMISED = Conditions(bodies=RANDOMISED_BODIES, delays=RANDOMISED_DELAYS)
HOLD_S, REST_S = 5.0, 10.0  # paper, Table 3
SQUAT_M = 0.50  # ours: the paper gives no height
LOW_M, HIGH_M = 0.45, 0.66  # issue; clipped to the robot's range


@dataclass(frozen=True)
class Cell:
    """One cell of the benchmark.

    Attributes:
        name: within its suite. row: row of the table that pools it with others; "" = its own.
        block: of seeds. program, conditions, measure: see their modules.
        by_hours: episodes are added until the hours asked for are on the clock.
        scenery, hands: things in the world, and fixed arms instead of motion.
    """

    name: str
    block: int
    program: ProgramFactory
    conditions: Conditions
    measure: Measure
    row: str = ""
    by_hours: bool = False
    scenery: Scenery | None = None
    hands: Callable[[RobotSpec], np.ndarray] | None = None

    def seeds(self, first: int, count: int, base: int = SEED_BASE) -> list[int]:
        """Seeds of episodes first .. first + count - 1."""
        if first + count > BLOCK:
            raise ValueError(f"cell {self.name!r} has {BLOCK} seeds, episodes up to {first + count} were asked for")
        return [base + BLOCK * self.block + i for i in range(first, first + count)]


@dataclass(frozen=True)
class Column:
    """A number of the table: key of the measure, heading, digits, factor."""

    key: str
    title: str
    digits: int = 2
    factor: float = 1.0
    rate: bool = False  # successes of episodes instead of mean and spread


@dataclass(frozen=True)
class Suite:
    """Cells that make one table."""

    name: str
    title: str
    cells: tuple[Cell, ...]
    columns: tuple[Column, ...]


def _accuracy() -> tuple[Cell, ...]:
    ways = (
        ("forward", (1, 0, 0), "forward/back"),
        ("backward", (-1, 0, 0), "forward/back"),
        ("left", (0, 1, 0), "left/right"),
        ("right", (0, -1, 0), "left/right"),
        ("turn left", (0, 0, 1), "turn left/right"),
        ("turn right", (0, 0, -1), "turn left/right"),
    )
    return tuple(
        Cell(name + suffix, 10 * k + i, programs.hold(flags, HOLD_S, REST_S), conditions, measures.accuracy, row=row + suffix)  # fmt: skip
        for k, (suffix, conditions) in enumerate((("", NOMINAL), (", randomised", RANDOMISED)))
        for i, (name, flags, row) in enumerate(ways)
    )


def _stability() -> tuple[Cell, ...]:
    pulses = dataclasses.replace(NOMINAL, arms=Arms(2.0, 1.5), pulses=Pulses())
    arms = dataclasses.replace(NOMINAL, arms=Arms(2.0, 1.5))
    cells = []
    for i, (name, height) in enumerate((("stand", None), ("squat", SQUAT_M))):
        for j, (suffix, conditions) in enumerate((("", pulses), (", arms alone", arms))):
            program = programs.hold((0, 0, 0), 0.0, 23.0, height)
            cells.append(Cell(name + suffix, 20 + 2 * j + i, program, conditions, partial(measures.stability, from_s=5.0)))
    return tuple(cells)


def _stress() -> tuple[Cell, ...]:
    program = programs.switching(20.0)
    cells = [("nominal", NOMINAL)]
    cells += [(f"payload {kg:+d} kg", dataclasses.replace(NOMINAL, bodies=Bodies(payload_kg=(kg, kg)))) for kg in (-5, 5, 10)]
    cells += [(f"friction {mu}", dataclasses.replace(NOMINAL, bodies=Bodies(friction=(mu, mu)))) for mu in (0.4, 0.3, 0.2, 0.1)]
    cells += [(f"latency {5 * n} ms", dataclasses.replace(NOMINAL, delays=Delays((n, n)))) for n in (8, 12, 16, 20)]
    cells += [(f"loss {100 * p:.0f} %", dataclasses.replace(NOMINAL, loss=p)) for p in (0.2, 0.4)]
    return tuple(Cell(name, 50, program, conditions, measures.switching) for name, conditions in cells)  # the same episodes in every cell


HALF_S = 4.0
SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "accuracy",
            "a flag held 5 s, then 10 s at rest: error of the resting pose",
            _accuracy(),
            (
                Column("position_m", "position m", 3),
                Column("heading_rad", "heading rad", 3),
                Column("reference_m", "reference m", 3),
                Column("reference_rad", "reference rad", 3),
                Column("tracking_m", "tracking m", 3),
                Column("tracking_rad", "tracking rad", 3),
            ),
        ),
        Suite(
            "stability",
            "standing and squatting, arms at 2.0x speed and 1.5x amplitude, force pulses <= 150 N and yaw pulses <= 30 Nm for 0.1 s",
            _stability(),
            (Column("coms_m", "CoMS m", 3), Column("drift_m", "drift m"), Column("drift_rad", "drift rad")),
        ),
        Suite(
            "arrival",
            "random goal within 2 m and 180 deg, flag planner on true pose, 30 s: within 15 cm and 5 deg, standing still",
            (Cell("arrival", 30, programs.go_to(2.0, 30.0), NOMINAL, measures.arrival),),
            (
                Column("success", "arrived", rate=True),
                Column("arrival_s", "after s", 1),
                Column("position_m", "position m", 3),
                Column("heading_rad", "heading rad", 3),
                Column("end_position_m", "at 30 s: m", 3),
                Column("end_heading_rad", "rad", 3),
            ),
        ),
        Suite(
            "switching",
            "a new random command every 0.5 to 4 s, pushes <= 0.5 m/s every 2 to 6 s, randomised bodies and delays, friction >= 0.4",
            (Cell("switching", 40, programs.switching(60.0), dataclasses.replace(RANDOMISED, pushes=Pushes()), measures.switching, by_hours=True),),
            (Column("kept_part", "speed kept %", 0, 100.0),),
        ),
        Suite(
            "stress", "random switching for 20 s without pushes, one thing out of range at a time", _stress(), (Column("kept_part", "speed kept %", 0, 100.0),)
        ),
        Suite(
            "squat",
            "down to 0.45 m (clipped to the robot's range) and up to 0.66 m, 4 s each, 5 cycles",
            (Cell("squat cycles", 60, programs.squat_cycles(LOW_M, HIGH_M, HALF_S, 5), NOMINAL, partial(measures.squatting, half_s=HALF_S)),),
            (Column("height_error_m", "height m", 3), Column("drift_m", "drift m"), Column("drift_rad", "drift rad")),
        ),
        Suite(
            "cart",
            "forward for 10 s with both hands at a cart of 50 kg with 15 N of rolling friction, then 3 s of rest",
            (Cell("cart push", 70, programs.hold((1, 0, 0), 10.0, 3.0), NOMINAL, measures.cart, scenery=cart, hands=cart_hands),),
            (Column("pushed_m", "pushed m"), Column("speed_part", "speed kept %", 0, 100.0), Column("heading_rad", "heading rad")),
        ),
    )
}

# What every suite reports besides its own columns.
QUALITY = (
    Column("slip_m_per_m", "slip m/m"),
    Column("energy_j_per_m", "energy J/m", 0),
    Column("over_part", "over limit %", 2, 100.0),
    Column("peak_torque_part", "peak torque %", 0, 100.0),
    Column("peak_speed_part", "peak speed %", 0, 100.0),
    Column("impact_weights", "impact weights"),
    Column("self_contact_part", "self-contact %", 2, 100.0),
    Column("clearance_m", "clearance m", 3),
    Column("steps_hz", "steps Hz", 1),
    Column("uneven_part", "uneven %", 0, 100.0),
    Column("rest_rad_s", "at rest rad/s", 2),
    Column("lean_rad", "lean deg", 1, 180.0 / np.pi),
)


def file_stem(suite: Suite, cell: Cell) -> str:
    """Name of a cell's files, without ending."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", f"{suite.name} {cell.name}").strip("_")


def choose(names: tuple[str, ...]) -> list[Suite]:
    """Suites by name, all for none; CommandError names those that exist."""
    unknown = [name for name in names if name not in SUITES]
    if unknown:
        raise CommandError(f"no suite {', '.join(unknown)}; there are {', '.join(SUITES)}", ErrorCode.COMMAND_SHAPE)
    return [SUITES[name] for name in SUITES if not names or name in names]

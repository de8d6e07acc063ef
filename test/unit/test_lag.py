"""The camera's clock against the body's, from motion: a verdict only where it is beyond doubt."""

from __future__ import annotations

import numpy as np
import pytest
from dataset_bags import wall

from wbvla_train.data.lerobot.lag import LIMIT_S, LagMeter

PX_PER_RAD = 110.0
TEXTURE = np.ascontiguousarray(wall(3).transpose(1, 0, 2))  # [1200, 96, 3]


def nod(t: np.ndarray | float, period_s: float = 0.3) -> np.ndarray | float:
    """rad: pitch of a robot that steps, now more, now less, and sometimes rests."""
    return 0.03 * np.sin(2 * np.pi * t / period_s) * (np.sin(0.9 * t) > -0.4) * (1.0 + 0.4 * np.sin(1.7 * t))


def meter(seconds: float, late_s: float = 0.0, *, upside_down: bool = False, gyro_hz: float = 200.0, blind: bool = False) -> LagMeter:
    """A meter fed with the pictures and the gyro of a robot that nods before a wall; ``late_s`` is added to the pictures' stamps."""
    out, rng = LagMeter(), np.random.default_rng(1)
    steps = np.arange(0.0, seconds, 1.0 / gyro_hz)
    for t in steps:
        rate = (nod(t + 1e-4) - nod(t - 1e-4)) / 2e-4
        out.add_gyro(t, np.array((0.0, rate, 0.0)) + rng.normal(0.0, 0.02, 3))
    for t in np.arange(0.0, seconds, 0.1):
        first = round(560 + PX_PER_RAD * 2 * nod(t))  # twice the lens: whole pixels
        image = rng.integers(0, 255, (96, 96, 3)).astype(np.uint8) if blind else TEXTURE[first : first + 96]
        out.add_image(t + late_s, image[::-1, ::-1] if upside_down else image)
    return out


@pytest.mark.parametrize("late_s", [0.0, 0.08, -0.08])
def test_a_shift_of_80_ms_is_told_from_none_in_twenty_seconds_of_steps(late_s):
    lag = meter(20.0, late_s).estimate()
    assert lag.known and (abs(lag.lag_s) > LIMIT_S) == (late_s != 0.0)
    assert lag.lag_s == pytest.approx(-late_s + 0.021, abs=0.02), "0.021 s: what walking robots are corrected by, and this wall is not"


def test_what_cannot_be_told_is_not_told():
    assert not meter(5.0).estimate().known, "too short: blocks of a second resample into themselves"
    assert not meter(20.0, blind=True).estimate().known, "pictures that do not follow the body"
    assert not meter(20.0, gyro_hz=20.0).estimate().known, "a gyro that is too slow for steps"
    assert not meter(20.0, upside_down=True).estimate().known, "a camera the other way round looks like one that is half a step off"
    assert not LagMeter().estimate().known


def test_a_part_of_a_meter_is_that_of_its_time():
    whole = meter(40.0)
    part, alone = whole.part(10.0, 30.0).estimate(), whole.part(10.0, 30.0, 0.08).estimate()
    assert part.known and abs(part.lag_s) < LIMIT_S and alone.lag_s == pytest.approx(part.lag_s - 0.08, abs=0.01)

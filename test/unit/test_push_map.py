"""The push map: one pulse of each force in each direction, and how far it moves a robot."""

from pathlib import Path

import numpy as np

from wbvla_core.robot import load_robot
from wbvla_eval.lmo import programs
from wbvla_eval.lmo.controllers import checkpoint_factory
from wbvla_eval.lmo.push_map import PULSE_S, STAND_S, OnePulse, PushMap, picture, push_map, table

ROBOT = load_robot("x2")


def test_the_pulse_comes_once_after_the_standing_has_its_force_and_goes_its_way():
    force = OnePulse(np.array(((100.0, 0.0), (50.0, np.pi / 2))), 11.0).force
    start, length = programs.ticks(programs.SETTLE_S + STAND_S), programs.ticks(PULSE_S)
    assert set(np.flatnonzero(force.any(axis=(1, 2)))) == set(range(start, start + length))
    np.testing.assert_allclose(force[start], ((100.0, 0.0, 0.0), (0.0, 50.0, 0.0)), atol=1e-5)


def test_a_robot_is_moved_by_a_light_push_without_a_step_and_falls_when_pushed_hard():
    factory, _ = checkpoint_factory(Path(__file__).resolve().parents[2] / "checkpoints" / "lmo" / "x2", ROBOT)
    result = push_map(factory, ROBOT, repeats=1, forces_n=(20.0, 900.0), directions=4)
    assert result.way_m.shape == (2, 4)
    assert not result.fell[0].any() and result.fell[1].all()
    assert np.isnan(result.way_m[1]).all(), "the fallen have no way"
    assert (result.way_m[0] > 0.002).all() and (result.rms_m[0] < result.way_m[0]).all()
    assert not result.stepped[0].any()


def test_the_picture_has_a_curve_for_each_force_and_a_cross_for_each_fall():
    way = np.full((2, 8), 0.1)
    way[1, 0] = np.nan
    fell = np.zeros((2, 8), dtype=int)
    fell[1, 0] = 1
    result = PushMap((50.0, 150.0), way, way / 2, way * 0, fell)
    svg = picture(result, "pushed")
    assert svg.count("Z") == 2 and svg.count("8 8m0 -8") == 1 and "150 N" in svg
    assert table(result).splitlines()[2].startswith("| 50 N | 10.0 |")


def test_forces_of_all_fallen_leave_an_empty_picture_rather_than_an_error():
    nothing = np.full((1, 8), np.nan)
    assert "pushed" in picture(PushMap((150.0,), nothing, nothing, nothing, np.ones((1, 8), dtype=int)), "pushed")

"""From the decoder's numbers to a command: hysteresis worked out by hand, limits, scaling."""

from __future__ import annotations

import numpy as np
import pytest

from wbvla_core.robot import load_robot
from wbvla_decoder.policy import ArmScaling, CommandFilter, FilterConfig, arm_chunk, decode_height, encode_height


def probabilities(*axes: tuple[float, float, float]) -> np.ndarray:
    rows = list(axes) + [(0.0, 1.0, 0.0)] * (3 - len(axes))
    return np.array(rows)


def make(smoothing: float = 1.0, margin: float = 0.2) -> CommandFilter:
    return CommandFilter(FilterConfig(smoothing=smoothing, margin=margin, height_smoothing=1.0, height_step_m=0.01), (0.46, 0.66), 0.64)


def test_a_flag_changes_only_with_a_lead_of_more_than_the_margin() -> None:
    f = make()
    assert f.update(probabilities((0.0, 0.45, 0.55)), 0.64).forward == 0  # lead 0.10
    assert f.update(probabilities((0.0, 0.35, 0.65)), 0.64).forward == 1  # lead 0.30
    assert f.update(probabilities((0.0, 0.55, 0.45)), 0.64).forward == 1  # stop leads by 0.10 only: goes on
    assert f.update(probabilities((0.0, 0.65, 0.35)), 0.64).forward == 0  # 0.30: stops
    assert f.update(probabilities((0.7, 0.3, 0.0)), 0.64).forward == -1


def test_the_running_mean_is_what_decides() -> None:
    f = make(smoothing=0.5)
    f.update(probabilities((0.0, 1.0, 0.0)), 0.64)  # mean of +1: 0
    assert f.update(probabilities((0.0, 0.0, 1.0)), 0.64).forward == 0  # 0.5 against 0.5: no lead
    assert f.update(probabilities((0.0, 0.0, 1.0)), 0.64).forward == 1  # 0.75 against 0.25: lead 0.5


def test_axes_do_not_mix() -> None:
    command = make().update(probabilities((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)), 0.64)
    assert (command.forward, command.lateral, command.yaw) == (0, -1, 1)


def test_heights_closer_than_a_step_are_one_command_and_limits_hold() -> None:
    f = make()
    still = probabilities()
    assert f.update(still, 0.645).stance_height_m == 0.64  # 5 mm: the same stance
    assert f.update(still, 0.60).stance_height_m == pytest.approx(0.60)
    assert f.update(still, 0.608).stance_height_m == pytest.approx(0.60)
    assert f.update(still, 0.90).stance_height_m == 0.66
    assert f.update(still, 0.10).stance_height_m == 0.46


def test_reset_forgets() -> None:
    f = make()
    f.update(probabilities((0.0, 0.0, 1.0)), 0.5)
    f.reset()
    command = f.update(probabilities((0.0, 0.45, 0.55)), 0.64)
    assert command.forward == 0 and command.stance_height_m == 0.64


def test_height_and_arm_scaling_are_inverse_and_limited() -> None:
    robot = load_robot("x2")
    low, high = robot.stance_height_range_m
    assert encode_height(low, robot) == 0.0 and encode_height(high, robot) == 1.0
    assert decode_height(float(encode_height(0.5, robot)), robot) == pytest.approx(0.5, abs=1e-6)
    assert decode_height(2.0, robot) == high

    scaling = ArmScaling.of(robot)
    index = robot.indices("upper_body")
    np.testing.assert_allclose(scaling.encode(robot.default_q[index]), 0.0)
    q = robot.default_q[index] + 0.1 * (robot.upper[index] - robot.default_q[index])
    np.testing.assert_allclose(scaling.decode(scaling.encode(q)), q, atol=1e-6)
    chunk = arm_chunk(np.full((2, len(index)), 99.0), scaling, robot, 0.1)
    np.testing.assert_allclose(chunk.positions, np.tile(robot.upper[index], (2, 1)))
    assert chunk.joint_names == tuple(robot.names("upper_body"))

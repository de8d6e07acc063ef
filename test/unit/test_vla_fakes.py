"""Policies without a network."""

from __future__ import annotations

import numpy as np
import pytest

from wbvla_core.robot import load_robot
from wbvla_core.types import ArmChunk, Decision, LocoCommand, PolicyInput, RobotState
from wbvla_vla.fakes import ReplayPolicy, ZeroPolicy


def at(stamp_s: float) -> PolicyInput:
    robot = load_robot("x2")
    state = RobotState(stamp_s, robot.default_q, np.zeros(robot.joint_count), np.zeros(3), np.array((0.0, 0.0, -1.0)))
    return PolicyInput(stamp_s, np.zeros((96, 96, 3), np.uint8), "stand up", state)


def decision(stamp_s: float, forward: int) -> Decision:
    robot = load_robot("x2")
    names = tuple(robot.names("upper_body"))
    return Decision(stamp_s, LocoCommand(forward=forward), ArmChunk(names, np.zeros((2, len(names)))))


def test_zero_policy_stands_with_the_stamp_of_its_image() -> None:
    robot = load_robot("x2")
    answer = ZeroPolicy(robot).infer(at(3.25))
    assert answer.stamp_s == 3.25
    assert answer.loco.as_array().tolist() == [0, 0, 0, robot.default_stance_height_m]
    np.testing.assert_array_equal(answer.arms.positions[0], robot.default_q[robot.indices("upper_body")])


def test_replay_follows_the_recorded_stamps_and_then_stands() -> None:
    policy = ReplayPolicy([decision(10.0, 1), decision(10.1, -1), decision(10.2, 1)])
    flags = [policy.infer(at(stamp)).loco.forward for stamp in (100.0, 100.05, 100.1, 100.19, 100.2, 100.29, 100.31)]
    assert flags == [1, 1, -1, -1, 1, 1, 0]
    assert policy.infer(at(101.0)).stamp_s == 101.0
    policy.reset()
    assert policy.infer(at(500.0)).loco.forward == 1


def test_replay_refuses_what_it_cannot_play() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ReplayPolicy([])
    with pytest.raises(ValueError, match="increase"):
        ReplayPolicy([decision(1.0, 0), decision(1.0, 0)])

"""When a task ends, and which goals are not begun."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from wbvla_core.damping import DAMPING_KD, damping_command
from wbvla_core.errors import ErrorCode, InstructionError
from wbvla_core.robot import load_robot
from wbvla_core.task import MAX_INSTRUCTION_CHARS, STILL_ARM_RAD, STILL_S, STILL_STANCE_M, Stillness, check_goal
from wbvla_core.types import ArmChunk, Decision, LocoCommand

ARMS = ArmChunk(("a", "b"), np.zeros((3, 2)))


def decision(at_s: float, loco: LocoCommand = LocoCommand(), arms: ArmChunk = ARMS) -> Decision:  # noqa: B008 (frozen)
    return Decision(at_s, loco, arms)


def first_still(decisions: list[Decision], start_s: float = 100.0) -> float | None:
    """Stamp at which the task is over, relative to its start."""
    stillness = Stillness(start_s)
    return next((d.stamp_s - start_s for d in decisions if stillness.note(d)), None)


def test_two_seconds_without_a_wish_end_the_task():
    decisions = [decision(100.0 + 0.1 * k) for k in range(40)]
    assert first_still(decisions) == pytest.approx(STILL_S)
    # walking for 1.5 s (the last flag at 1.4 s, the change back at 1.5 s is no wish) starts the two seconds again
    walking = [replace(d, loco=LocoCommand(forward=1)) if d.stamp_s < 101.45 else d for d in decisions]
    assert first_still(walking) == pytest.approx(1.4 + STILL_S)


def test_a_moving_stance_or_moving_arms_are_a_wish():
    sinking = [decision(100.0 + 0.1 * k, LocoCommand(stance_height_m=0.64 - min(k, 10) * 1.01 * STILL_STANCE_M)) for k in range(40)]
    assert first_still(sinking) == pytest.approx(1.0 + STILL_S)  # the stance last moved with the decision at 1.0 s
    waving = [decision(100.0 + 0.1 * k, arms=replace(ARMS, positions=np.full((3, 2), (k % 2) * 1.01 * STILL_ARM_RAD))) for k in range(40)]
    assert first_still(waving) is None
    trembling = [decision(100.0 + 0.1 * k, arms=replace(ARMS, positions=np.full((3, 2), (k % 2) * 0.99 * STILL_ARM_RAD))) for k in range(40)]
    assert first_still(trembling) == pytest.approx(STILL_S)


@pytest.mark.parametrize(
    ("goal", "code"),
    [
        ((" ", 10.0, 0.0), ErrorCode.INSTRUCTION_EMPTY),
        (("w" * (MAX_INSTRUCTION_CHARS + 1), 10.0, 0.0), ErrorCode.INSTRUCTION_TOO_LONG),
        (("walk", 0.0, 0.0), ErrorCode.TASK_TIMES_INVALID),
        (("walk", -1.0, 0.0), ErrorCode.TASK_TIMES_INVALID),
        (("walk", math.nan, 0.0), ErrorCode.TASK_TIMES_INVALID),
        (("walk", math.inf, 0.0), ErrorCode.TASK_TIMES_INVALID),
        (("walk", 10.0, 11.0), ErrorCode.TASK_TIMES_INVALID),
        (("walk", 10.0, math.nan), ErrorCode.TASK_TIMES_INVALID),
    ],
)
def test_goals_that_make_no_sense_are_refused_with_their_code(goal, code):
    with pytest.raises(InstructionError) as caught:
        check_goal(*goal)
    assert caught.value.code is code


def test_a_good_goal_comes_back_without_outer_blanks():
    assert check_goal("  walk to the blue box \n", 40.0, 0.0) == "walk to the blue box"
    assert check_goal("w" * MAX_INSTRUCTION_CHARS, 40.0, 40.0)


def test_damping_has_no_stiffness_and_no_more_velocity_gain_than_the_joint_has():
    robot = load_robot("x2")
    command = damping_command(robot, 1.0, robot.default_q).validate(robot.joint_count)
    assert not command.kp.any() and not command.tau_ff.any()
    assert np.all(command.kd <= robot.kd) and command.kd.max() == min(DAMPING_KD, robot.kd.max())

"""What the decoder is trained on: arm states outside the recordings, mirrored frames."""

from __future__ import annotations

import numpy as np

from wbvla_core.robot import load_robot
from wbvla_decoder.policy import ArmScaling
from wbvla_sim.expert import ArmScript
from wbvla_train.data.demos import WAVES
from wbvla_train.decoder.arms import SWING_RAD, ask_about_arms
from wbvla_train.decoder.batches import MIRROR_FLAGS, MIRROR_POSTURE

ROBOT = load_robot("x2")


def test_asked_arm_states_are_reproducible_and_their_answers_keep_the_limits() -> None:
    states, answers = ask_about_arms(ROBOT, 60, seed=4)
    again, _ = ask_about_arms(ROBOT, 60, seed=4)
    np.testing.assert_array_equal(states, again)
    names = ROBOT.names("upper_body")
    assert states.shape == (60, 2 * len(names)) and answers.shape[:2] == (60, len(WAVES)) and answers.shape[3] == len(names)
    index = ROBOT.indices("upper_body")
    targets = answers * ArmScaling.of(ROBOT).half_range + ROBOT.default_q[index]
    assert np.all(targets >= ROBOT.lower[index] - 1e-5) and np.all(targets <= ROBOT.upper[index] + 1e-5)


def test_a_waving_arm_swings_out_from_the_middle_and_the_other_arm_comes_down() -> None:
    states, answers = ask_about_arms(ROBOT, 400, seed=1)
    names, scaling = ROBOT.names("upper_body"), ArmScaling.of(ROBOT)
    half = len(names)
    elbow, other = names.index("left_elbow_joint"), names.index("right_elbow_joint")
    q = states[:, :half] * scaling.half_range + scaling.centre
    raised = np.abs(q[:, names.index("left_shoulder_roll_joint")] - ArmScript.RAISED["shoulder_roll"]) < 0.2
    small = raised & (np.abs(q[:, elbow] - ArmScript.RAISED["elbow"]) < 0.15 * SWING_RAD)
    assert small.sum() >= 5
    targets = answers[:, WAVES.index("left")] * scaling.half_range + scaling.centre  # [N, K, A]
    # The answer is one end of the swing or the other, 0.4 rad from the middle, plus what the forearm sags (some hundredths).
    ends = np.abs(targets[small][:, :, elbow] - ArmScript.RAISED["elbow"])
    np.testing.assert_allclose(ends, ArmScript.WAVE_AMPLITUDE_RAD, atol=0.1)
    speed = states[small][:, half + elbow]
    upward = targets[small][:, 0, elbow] > ArmScript.RAISED["elbow"]
    assert upward[speed > 0.1].all() and not upward[speed < -0.1].any()  # 1 rad/s either way goes on
    rest = ROBOT.default_q[ROBOT.indices("upper_body")][other]
    moved = np.abs(targets[:, -1, other] - rest) <= np.abs(q[:, other] - rest) + 1e-3
    assert moved.all()


def test_mirroring_keeps_forward_and_swaps_sides() -> None:
    np.testing.assert_array_equal(MIRROR_FLAGS * (1, 1, -1), (1, -1, 1))
    np.testing.assert_allclose(MIRROR_POSTURE * np.array((0.1, 0.2, -0.9)), (0.1, -0.2, -0.9))

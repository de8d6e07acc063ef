"""The observation and its mirror."""

import numpy as np
import pytest

from wbvla_core.robot import load_robot
from wbvla_lmo.observation import MirrorMap, ObservationConfig, moved_mass_kg, posture_joints
from wbvla_lmo.pipeline import LegPipeline, PipelineConfig

ROBOT = load_robot("x2")


def random_state(rng, n):
    gravity = rng.normal(0, 0.1, (n, 3)) + (0, 0, -1)
    return {
        "gyro": rng.normal(0, 0.5, (n, 3)),
        "gravity": gravity / np.linalg.norm(gravity, axis=1, keepdims=True),
        "q": ROBOT.default_q + rng.normal(0, 0.1, (n, ROBOT.joint_count)),
        "qd": rng.normal(0, 1, (n, ROBOT.joint_count)),
    }


def test_mirror_of_mirror_is_the_same_for_joints_and_observations():
    rng = np.random.default_rng(0)
    mirror = MirrorMap(ROBOT, ROBOT.joint_names)
    q = rng.normal(size=(5, ROBOT.joint_count))
    np.testing.assert_array_equal(mirror(mirror(q)), q)
    observation = LegPipeline(ROBOT, PipelineConfig(), 1).observation
    flat = rng.normal(size=(4, observation.size)).astype(np.float32)
    np.testing.assert_array_equal(observation.mirror(observation.mirror(flat)), flat)
    assert not np.array_equal(observation.mirror(flat), flat)


def test_mirror_swaps_sides_keeps_pitch_and_turns_roll_and_yaw_around():
    names = ROBOT.names("legs")
    mirror = MirrorMap(ROBOT, names)
    q = np.zeros(len(names))
    for name, value in (("left_hip_pitch_joint", 0.1), ("left_hip_roll_joint", 0.2), ("left_hip_yaw_joint", 0.3), ("left_knee_joint", 0.4)):
        q[names.index(name)] = value
    got = dict(zip(names, mirror(q), strict=True))
    assert got["right_hip_pitch_joint"] == 0.1 and got["right_knee_joint"] == 0.4
    assert got["right_hip_roll_joint"] == -0.2 and got["right_hip_yaw_joint"] == -0.3
    assert got["left_knee_joint"] == 0.0


def test_the_mirrored_robot_in_the_other_half_cycle_gives_the_same_observation_and_mirrored_targets():
    """Left and right are one problem: same network input, same output, targets swapped."""
    rng = np.random.default_rng(1)
    state = random_state(rng, 1)
    joints = MirrorMap(ROBOT, ROBOT.joint_names)
    reflected = {"gyro": state["gyro"] * (-1, 1, -1), "gravity": state["gravity"] * (1, -1, 1), "q": joints(state["q"]), "qd": joints(state["qd"])}
    action = rng.normal(size=(1, len(ROBOT.names("lmo_action")))).astype(np.float32)
    seen, targets = [], []
    for flags, values, phase in (((1, 1, -1), state, 0.0), ((1, -1, 1), reflected, 0.5)):
        p = LegPipeline(ROBOT, PipelineConfig(), 1)
        p.reset(phase=phase)
        for _ in range(5):
            seen.append(p.observe(np.array([flags], dtype=float), np.array([0.6]), **values))
            targets.append(p.act(action))
    for i in range(5):
        np.testing.assert_allclose(seen[i], seen[i + 5], atol=2e-3)  # the model's left and right legs differ by less than that
        np.testing.assert_allclose(
            p.observation.action_mirror(targets[i]), targets[i + 5], atol=2e-3
        )  # the model's left and right legs differ by less than that


def test_history_holds_the_newest_frame_first_and_a_reset_robot_sees_no_past():
    p = LegPipeline(ROBOT, PipelineConfig(observation=ObservationConfig(history=3)), 2)
    rng = np.random.default_rng(2)
    states = [random_state(rng, 2) for _ in range(3)]
    for state in states:
        p.observe(np.zeros((2, 3)), np.full(2, 0.64), **state)
        p.act(np.zeros((2, len(ROBOT.names("lmo_action")))))
    gyro = p.observation.frames[:, :, 4:7] / p.config.observation.gyro_scale
    for age in range(3):
        np.testing.assert_allclose(gyro[:, age], states[2 - age]["gyro"])
    p.reset(np.array([0]))
    p.observe(np.zeros((2, 3)), np.full(2, 0.64), **states[0])
    np.testing.assert_array_equal(p.observation.frames[0, 0], p.observation.frames[0, 2])
    assert not np.array_equal(p.observation.frames[1, 0], p.observation.frames[1, 2])


def test_batch_of_robots_gives_each_what_it_would_get_alone_bit_for_bit():
    rng = np.random.default_rng(3)
    n = 4
    batch, alone = LegPipeline(ROBOT, PipelineConfig(), n), [LegPipeline(ROBOT, PipelineConfig(), 1) for _ in range(n)]
    flags = np.array([[1, 0, 0], [0, 0, 0], [0, -1, 1], [-1, 0, 0]], dtype=float)
    for _ in range(60):
        state = random_state(rng, n)
        action = rng.normal(size=(n, len(ROBOT.names("lmo_action")))).astype(np.float32)
        together = batch.observe(flags, np.full(n, 0.6), **state)
        targets = batch.act(action)
        for i, p in enumerate(alone):
            np.testing.assert_array_equal(p.observe(flags[i : i + 1], np.array([0.6]), **{k: v[i : i + 1] for k, v in state.items()})[0], together[i])
            np.testing.assert_array_equal(p.act(action[i : i + 1])[0], targets[i])


def test_only_joints_that_move_mass_are_in_the_posture():
    names = posture_joints(ROBOT, ObservationConfig())
    assert "left_elbow_joint" in names and "waist_yaw_joint" in names
    assert not [n for n in names if "wrist" in n or "head" in n or "gripper" in n]
    assert moved_mass_kg(ROBOT, "head_pitch_joint") == pytest.approx(0.999287)


def test_pipeline_settings_survive_the_manifest():
    config = PipelineConfig(rate_hz=50.0, action_gain=0.3)
    import json

    assert PipelineConfig.from_json(json.loads(json.dumps(config.to_json()))) == config

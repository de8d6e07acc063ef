"""N robots in one batch are what N worlds are."""

from __future__ import annotations

import numpy as np
import pytest

from wbvla_core.robot import load_robot
from wbvla_core.types import JointCommand
from wbvla_sim.batch import BatchOptions, BatchWorld
from wbvla_sim.scene import random_scene
from wbvla_sim.slots import SensorNoise
from wbvla_sim.world import World, WorldOptions

ROBOT = load_robot("x2")
FORCE_N = ROBOT.total_mass_kg * 9.81


@pytest.fixture(scope="module")
def standing() -> BatchWorld:
    """Four robots that have held the default pose for half a second."""
    world = BatchWorld(ROBOT, 4)
    for _ in range(25):
        world.slot(np.tile(ROBOT.default_q, (4, 1)))
    return world


def test_a_row_of_the_batch_moves_as_the_lock_step_world_does_for_half_a_second_under_noise_like_commands_and_delay():
    delays = (0, 3)
    batch = BatchWorld(ROBOT, len(delays))
    batch.delay(command=np.array(delays))
    worlds = [
        World(ROBOT, random_scene(1, kind="empty"), options=WorldOptions(iterations=100, ls_iterations=50, gantry=False, command_delay_s=0.005 * steps))
        for steps in delays
    ]
    rng, zeros = np.random.default_rng(3), np.zeros(ROBOT.joint_count)
    for _ in range(25):
        target = ROBOT.default_q + rng.normal(0.0, 0.08, ROBOT.joint_count)
        batch.slot(np.tile(target, (len(delays), 1)))
        for world in worlds:
            world.slot(JointCommand(0.0, target, zeros, zeros, ROBOT.kp, ROBOT.kd))
    for row, world in enumerate(worlds):
        np.testing.assert_allclose(batch.q[row], world.state().q, atol=1e-9)
        np.testing.assert_allclose(batch.qd[row], world.state().qd, atol=1e-7)
        np.testing.assert_allclose(batch.qpos[row, :7], world.data.qpos[:7], atol=1e-9)
    assert np.abs(batch.q[0] - batch.q[1]).max() > 1e-3  # the delay does something
    clean = batch.sense()
    np.testing.assert_allclose(clean[1][0], worlds[0].state().gravity, atol=1e-9)
    np.testing.assert_allclose(clean[0][0], worlds[0].state().gyro, atol=1e-7)


def test_feet_carry_the_weight_and_a_standing_robot_does_not_touch_itself(standing):
    assert standing.foot_force_n.sum(axis=1) == pytest.approx(FORCE_N, rel=0.1)
    assert not standing.use.self_contact.any() and not standing.fallen.any()


def test_pitch_is_forward_whatever_the_heading():
    world = BatchWorld(ROBOT, 2)
    for row, (yaw, pitch) in enumerate(((2.0, 0.3), (-1.0, -0.2))):
        cy, sy, cp, sp = np.cos(yaw / 2), np.sin(yaw / 2), np.cos(pitch / 2), np.sin(pitch / 2)
        world.qpos[row, 3:7] = cy * cp, -sy * sp, cy * sp, sy * cp  # yaw, then pitch about the robot's own left
    np.testing.assert_allclose(world.pitch_rad, (0.3, -0.2), atol=1e-12)
    np.testing.assert_allclose(world.yaw_rad, (2.0, -1.0), atol=1e-12)
    np.testing.assert_allclose(world.tilt_rad, (0.3, 0.2), atol=1e-9)


def test_an_arm_pressed_into_the_trunk_is_a_self_contact():
    world = BatchWorld(ROBOT, 1)
    target = ROBOT.default_q.copy()
    target[ROBOT.joint_names.index("left_shoulder_yaw_joint")] = -1.2
    target[ROBOT.joint_names.index("left_elbow_joint")] = -2.2
    touched = False
    for _ in range(40):
        world.slot(target[None])
        touched |= bool(world.use.self_contact[0])
    assert touched


def test_sensing_is_as_old_as_the_delays_say():
    world = BatchWorld(ROBOT, 2)
    world.delay(joints=np.array([0, 4]), imu=np.array([0, 4]))
    world.reset()
    target = np.tile(ROBOT.default_q, (2, 1))
    target[:, ROBOT.indices("arms")] += 0.3
    before = None
    for _ in range(3):
        before = [v[0].copy() for v in world.sense()]
        world.slot(target)
    now = world.sense()
    for fresh, old, is_now in zip(before, [v[1] for v in now], [v[0] for v in now], strict=True):
        np.testing.assert_array_equal(old, fresh)  # 4 steps of 5 ms = the slot before
        assert np.abs(is_now - fresh).max() > 1e-6


def test_a_stopped_row_stays_and_the_others_move(standing):
    was = standing.qpos.copy()
    target = np.tile(ROBOT.default_q, (4, 1))
    target[:, ROBOT.indices("arms")] += 0.2
    standing.slot(target, np.array([0, 2]))
    np.testing.assert_array_equal(standing.qpos[[1, 3]], was[[1, 3]])
    assert (np.abs(standing.qpos[[0, 2]] - was[[0, 2]]).max(axis=1) > 1e-3).all()


def test_a_payload_presses_on_the_feet_and_ice_lets_them_slide():
    world = BatchWorld(ROBOT, 3)
    world.vary(payload_kg=np.array([0.0, 10.0, 0.0]), friction=np.array([0.8, 0.8, 0.02]))
    world.reset()
    world.pull(np.tile((60.0, 0.0), (3, 1)), np.zeros(3))
    feet = world.feet.copy()
    force = []
    for _ in range(15):
        world.slot(np.tile(ROBOT.default_q, (3, 1)))
        force.append(world.foot_force_n.sum(axis=1))
    slid = np.linalg.norm(world.feet - feet, axis=-1).mean(axis=1)
    assert np.mean(force, axis=0)[1] - np.mean(force, axis=0)[0] == pytest.approx(98.1, rel=0.3)
    assert slid[2] > 5 * slid[0]


def test_demand_beyond_the_limit_is_counted_and_what_the_drive_gives_is_not_more():
    world = BatchWorld(ROBOT, 1)
    target = ROBOT.default_q.copy()
    target[ROBOT.joint_names.index("left_ankle_pitch_joint")] = 0.45  # 0.81 rad away at 40 Nm/rad: 32 of 36 Nm
    world.slot(target[None])
    assert world.use.over[0] == 0.0
    world.vary(kp=2.0)
    world.reset()
    world.slot(target[None])
    assert world.use.over[0] > 0.0 and world.use.torque[0] == pytest.approx(80 * 0.8112 / 36, rel=0.05)


def test_a_delay_longer_than_the_memory_is_refused():
    world = BatchWorld(ROBOT, 1, options=BatchOptions(longest_delay_steps=4))
    with pytest.raises(ValueError, match=r"must lie in 0..4 steps"):
        world.delay(command=5)


def test_noise_has_the_size_that_was_asked_for(standing):
    rng = np.random.default_rng(0)
    clean = standing.sense()[2]
    noisy = np.stack([standing.sense(SensorNoise(q_rad=0.01), rng)[2] - clean for _ in range(30)])
    assert noisy.std() == pytest.approx(0.01, rel=0.1)
    with pytest.raises(ValueError, match="needs a random generator"):
        standing.sense(SensorNoise(q_rad=0.01))

"""The lock-step world: driver law, watchdog, gantry, sensors, delays."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wbvla_core.errors import CommandError
from wbvla_core.robot import load_robot
from wbvla_core.types import JointCommand
from wbvla_sim.driver import Driver, DriverState
from wbvla_sim.scene import random_scene
from wbvla_sim.slots import SensorNoise
from wbvla_sim.world import World, WorldOptions

ROOT = Path(__file__).resolve().parents[2]
X2 = load_robot("x2")
ZERO = np.zeros(X2.joint_count)
KNEE = X2.joint_names.index("left_knee_joint")
ELBOW = X2.joint_names.index("left_elbow_joint")


def hold(stamp_s=0.0, **changes):
    """A command that holds the default pose."""
    return replace(JointCommand(stamp_s, X2.default_q.copy(), ZERO.copy(), ZERO.copy(), X2.kp.copy(), X2.kd.copy()), **changes)


@pytest.fixture(scope="module")
def empty():
    return random_scene(1, kind="empty")


@pytest.fixture()
def world(empty):
    return World(X2, empty)


# -- the driver alone ---------------------------------------------------------------------------------------------------


def test_law_is_stiffness_damping_and_feed_forward():
    driver = Driver(X2)
    q, qd, tau = X2.default_q.copy(), ZERO.copy(), ZERO.copy()
    q[ELBOW], qd[ELBOW], tau[ELBOW] = -1.0, 0.5, 2.0
    driver.command(hold(q=q, qd=qd, tau_ff=tau), 0.0)
    measured_q, measured_qd = X2.default_q.copy(), ZERO.copy()
    measured_q[ELBOW], measured_qd[ELBOW] = -0.9, 0.2
    torque = driver.tick(0.0).torque(measured_q, measured_qd, X2)
    assert torque[ELBOW] == pytest.approx(50 * (-1.0 + 0.9) + 3 * (0.5 - 0.2) + 2.0)  # -2.1 Nm


def test_torque_stops_at_the_limit():
    driver = Driver(X2)
    q = X2.default_q.copy()
    q[KNEE] = 2.4  # 150 Nm/rad x (2.4 - 0.6746) = 258.8 Nm wanted
    driver.command(hold(q=q), 0.0)
    assert driver.tick(0.0).torque(X2.default_q, ZERO, X2)[KNEE] == 120.0


def test_targets_beyond_the_joint_limits_are_clamped():
    driver = Driver(X2)
    driver.command(hold(q=np.full(X2.joint_count, 9.0)), 0.0)
    np.testing.assert_array_equal(driver.law.q, X2.upper)


def test_silence_of_a_tenth_second_latches_damping_until_rearmed():
    driver = Driver(X2)
    driver.tick(5.0)
    assert driver.state is DriverState.WAITING  # before the first command there is nothing to miss
    driver.command(hold(), 5.0)
    driver.tick(5.1)
    assert driver.state is DriverState.RUNNING
    law = driver.tick(5.105)
    assert driver.state is DriverState.DAMPING
    assert "no JointCommand for 0.1 s" in driver.reason
    assert np.all(law.kp == 0) and np.all(law.kd > 0)
    driver.command(hold(), 5.11)
    assert driver.state is DriverState.DAMPING  # latched
    driver.rearm(6.0)
    assert driver.state is DriverState.WAITING
    driver.command(hold(), 6.0)
    assert driver.state is DriverState.RUNNING


@pytest.mark.parametrize(
    "bad", [{"q": np.full(X2.joint_count, np.nan)}, {"q": np.zeros(3)}, {"kp": -X2.kp}, {"tau_ff": np.full(X2.joint_count, np.inf)}], ids=str
)
def test_malformed_commands_are_refused_and_do_not_feed_the_watchdog(bad):
    driver = Driver(X2)
    driver.command(hold(), 0.0)
    with pytest.raises(CommandError):
        driver.command(hold(**bad), 0.09)
    np.testing.assert_array_equal(driver.law.q, X2.default_q)
    driver.tick(0.12)
    assert driver.state is DriverState.DAMPING


# -- in the world -------------------------------------------------------------------------------------------------------


def test_simulated_torque_is_the_drivers_law(world):
    """MuJoCo evaluates the law as gain and bias; the numbers must be those of MotorLaw."""
    rng = np.random.default_rng(0)
    world._set_gantry = lambda active: None  # keep it hanging, whatever is commanded
    for _ in range(20):
        q = X2.clamp(X2.default_q + rng.normal(size=X2.joint_count) * 0.3)
        command = hold(q=q, qd=rng.normal(size=X2.joint_count) * 0.3, tau_ff=rng.normal(size=X2.joint_count) * 0.2)
        world.slot(command)
        before = world.state()
        world._step()  # commands are held between slots
        np.testing.assert_allclose(world.torques(), world.driver.law.torque(before.q, before.qd, X2), atol=1e-6)


def test_gantry_holds_until_the_first_command_with_soles_on_the_floor(world):
    for _ in range(50):
        world.slot(None)
    truth = world.truth()
    assert truth["on_gantry"] and truth["driver"] == "waiting"
    assert truth["stance_height_m"] == pytest.approx(0.64, abs=0.003)
    assert truth["tilt_rad"] < 0.01
    assert truth["foot_contacts"].all()
    np.testing.assert_allclose(truth["pelvis_xyz"][:2], 0, atol=0.005)
    assert np.abs(world.state().q - X2.default_q).max() < 0.05  # sag of the arms included
    world.slot(hold())
    assert not world.truth()["on_gantry"] and world.truth()["driver"] == "running"


def test_hanging_robot_feels_its_weight_on_the_imu(world):
    for _ in range(50):
        world.slot(None)
    np.testing.assert_allclose(world.imu_acceleration(), (0, 0, 9.81), atol=0.15)
    np.testing.assert_allclose(world.state().gravity, (0, 0, -1), atol=0.01)


def test_damping_comes_within_a_tenth_second_of_silence_and_lets_the_robot_sink(world):
    world.slot(hold())
    silent_since = world.time_s - world.slot_s  # when the last command came
    while world.truth()["driver"] != "damping":
        world.slot(None)
        assert world.time_s - silent_since <= 0.1 + world.slot_s + 1e-9
    for _ in range(200):
        world.slot(hold())  # too late: latched
    assert world.truth()["driver"] == "damping"
    assert world.truth()["fallen"]
    assert np.abs(world.state().qd).max() < 1.0
    world.hoist()
    for _ in range(25):
        world.slot(None)
    assert world.truth()["tilt_rad"] < 0.02 and world.truth()["driver"] == "waiting"


def test_a_refused_command_moves_nothing(world):
    before = world.time_s
    with pytest.raises(CommandError):
        world.slot(hold(q=np.full(X2.joint_count, np.nan)))
    assert world.time_s == before


def test_one_slot_is_four_steps_of_5_ms_and_reports_each(world):
    stamps = []
    world.slot(None, on_step=lambda state: stamps.append(state.stamp_s))
    np.testing.assert_allclose(stamps, (0.005, 0.010, 0.015, 0.020))


def test_same_seed_gives_the_same_noise_and_the_same_fall(empty):
    def run(seed):
        w = World(X2, empty, options=WorldOptions(noise=SensorNoise.typical(), push_interval_s=0.1, push_speed_m_s=0.3))
        w.reset(seed)
        for _ in range(30):
            w.slot(hold())
        return np.concatenate((w.data.qpos, w.state().q, w.state().gyro))

    np.testing.assert_array_equal(run(3), run(3))
    assert np.abs(run(3) - run(4)).max() > 1e-3


def test_sensor_noise_has_the_stated_size_and_gravity_stays_a_unit_vector(empty):
    w = World(X2, empty, options=WorldOptions(noise=SensorNoise(q_rad=0.01, gyro_rad_s=0.05, gravity=0.02)))
    samples = []
    for _ in range(300):
        w.slot(None)
        samples.append(w.state())
    q = np.array([s.q for s in samples[100:]])
    assert q.std(axis=0).mean() == pytest.approx(0.01, rel=0.1)
    assert np.array([s.gyro for s in samples[100:]]).std() == pytest.approx(0.05, rel=0.15)
    np.testing.assert_allclose([np.linalg.norm(s.gravity) for s in samples], 1.0)


def test_state_delay_shows_the_past_under_its_own_stamp(empty):
    w = World(X2, empty, options=WorldOptions(state_delay_s=0.015))
    for _ in range(3):
        w.slot(None)
    assert w.state().stamp_s == pytest.approx(w.time_s - 0.015)


def test_command_delay_reaches_the_motors_that_much_later(empty):
    w = World(X2, empty, options=WorldOptions(command_delay_s=0.04))
    w.slot(hold())
    w.slot(hold())
    assert w.driver.state is DriverState.WAITING
    w.slot(hold())
    assert w.driver.state is DriverState.RUNNING


def test_a_push_changes_the_speed_of_the_pelvis(world):
    world.slot(hold())
    before = world.truth()["velocity_xyz"].copy()
    world.push(np.array((0.2, -0.1)))
    np.testing.assert_allclose(world.truth()["velocity_xyz"] - before, (0.2, -0.1, 0.0), atol=1e-12)


def test_recorded_pose_can_be_put_back_and_seen(world):
    yaw = 0.7
    world.set_pose((1.0, 2.0, 0.6), (np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)), X2.default_q)
    truth = world.truth()
    np.testing.assert_allclose(truth["pelvis_xyz"], (1, 2, 0.6))
    assert truth["yaw_rad"] == pytest.approx(0.7)


def test_unknown_camera_is_refused(world):
    with pytest.raises(ValueError, match="'head' or 'outside', got 'tail'"):
        world.render("tail")


# -- a simulation that diverges ------------------------------------------------------------------------------------------


def standing(empty):
    """A world a fifth of a second after its gantry let go."""
    world = World(X2, empty)
    for _ in range(10):
        world.slot(hold(stamp_s=world.time_s))
    return world


@pytest.mark.parametrize(
    ("array", "value"),
    [("qvel", np.nan), ("qvel", 1e12), ("qvel", 300.0), ("qvel", np.inf), ("qpos", np.nan), ("qacc_warmstart", np.nan)],
)
def test_a_diverged_step_is_a_fault_of_the_simulation_and_time_goes_on(empty, array, value):
    world = standing(empty)
    pose, before_s = world.data.qpos.copy(), world.time_s
    getattr(world.data, array)[7] = value
    stamps = []
    world.slot(hold(stamp_s=world.time_s), on_step=lambda state: stamps.append(state.stamp_s))
    assert stamps == pytest.approx(before_s + np.array((0.005, 0.010, 0.015, 0.020)))  # MuJoCo's own reset would begin at 0
    if array == "qacc_warmstart" and not world.fault:
        return  # the solver began from nothing and converged: nothing broke
    assert world.fault.startswith("the simulation diverged at 0.2")
    assert world.driver.state is DriverState.DAMPING and world.driver.reason == world.fault
    assert np.array_equal(world.data.qpos, pose) and not world.data.qvel.any()  # the last sound pose, at rest


def test_a_diverged_simulation_stays_damped_until_it_begins_anew(empty):
    world = standing(empty)
    world.data.qvel[0] = np.nan
    world.slot(hold(stamp_s=world.time_s))
    world.rearm()
    assert world.driver.state is DriverState.DAMPING
    world.hoist()
    assert not world.fault and world.on_gantry and world.driver.state is DriverState.WAITING
    for _ in range(10):
        world.slot(hold(stamp_s=world.time_s))
    assert not world.fault and world.driver.state is DriverState.RUNNING
    world.data.qvel[0] = np.nan
    world.slot(hold(stamp_s=world.time_s))
    assert world.fault
    world.reset(0)
    assert not world.fault and world.time_s == 0.0


def test_a_hard_kick_is_no_divergence(empty):
    world = standing(empty)
    world.push(np.array((50.0, 0.0)))
    for _ in range(50):
        world.slot(hold(stamp_s=world.time_s))
    assert not world.fault and world.truth()["fallen"]


def test_a_simulation_that_breaks_leaves_no_log_file_where_one_stands(tmp_path):
    """MuJoCo's own handler appends MUJOCO_LOG.TXT to the working directory."""
    code = """
import logging, mujoco, numpy as np
logging.basicConfig(format="%(message)s")
from wbvla_core.robot import load_robot
from wbvla_sim.model.build import robot_mjcf
model = mujoco.MjModel.from_xml_string(robot_mjcf(load_robot("x2")))
for _ in range(2):
    data = mujoco.MjData(model)
    data.qvel[0] = np.nan
    mujoco.mj_step(model, data)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.startswith("MuJoCo: Nan, Inf or huge value in QVEL") and done.stderr.count("\n") == 1, "said once"
    assert not list(tmp_path.iterdir())

"""Dead reckoning and the error to the commanded path."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from wbvla_core.robot import load_robot
from wbvla_core.types import LocoCommand
from wbvla_lmo.controller import LmoController
from wbvla_lmo.gait import GaitConfig
from wbvla_lmo.gating import GatingConfig
from wbvla_lmo.observation import ObservationConfig
from wbvla_lmo.path import PathConfig, PathTracker, advance_error
from wbvla_lmo.pipeline import LegPipeline, PipelineConfig
from wbvla_lmo.policy import LmoPolicy

ROBOT = load_robot("x2")
DT_S = 0.02
ON = PathConfig(enabled=True)
CHECKPOINT = Path(__file__).resolve().parents[2] / "checkpoints" / "lmo" / "x2"


class Walker:
    """A point that moves over two feet, one standing at a time: what a robot's joints and gyro would say of it, without error."""

    def __init__(self) -> None:
        self.xy, self.yaw, self.standing, self.tick = np.zeros(2), 0.0, 0, 0
        self.feet = np.array([[0.0, 0.1], [0.0, -0.1]])  # world

    def sense(self) -> np.ndarray:
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return ((self.feet - self.xy) @ np.array([[c, -s], [s, c]]))[None]

    def move(self, velocity: np.ndarray) -> None:
        middle = self.yaw + 0.5 * velocity[2] * DT_S
        c, s = np.cos(middle), np.sin(middle)
        self.xy = self.xy + DT_S * np.array([c * velocity[0] - s * velocity[1], s * velocity[0] + c * velocity[1]])
        self.yaw += velocity[2] * DT_S
        self.feet[1 - self.standing] = self.xy + np.random.default_rng(self.tick).normal(0, 0.1, 2)  # the swing foot is anywhere
        self.tick += 1

    def support(self) -> np.ndarray:
        return np.eye(2)[[self.standing]]


def follow(tracker: PathTracker, command: np.ndarray, real: np.ndarray, ticks: int, walker: Walker, *, resting: bool = False, stepping: bool = True) -> None:
    for _ in range(ticks):
        walker.move(real)
        tracker.begin(np.array([resting]), np.array([stepping]))
        tracker.update(walker.sense(), walker.support(), np.array([real[2]]), command[None], np.array([resting]), np.array([stepping]))
        if walker.tick % 18 == 0:
            walker.standing = 1 - walker.standing


def started(config: PathConfig = ON) -> tuple[PathTracker, Walker]:
    tracker, walker = PathTracker(config, 1, DT_S), Walker()
    tracker.begin(np.array([True]), np.array([False]))
    tracker.update(walker.sense(), walker.support(), np.zeros(1), np.zeros((1, 3)), np.array([True]), np.array([False]))
    return tracker, walker


@pytest.mark.parametrize("velocity", [(0.3, 0, 0), (0, -0.3, 0), (0, 0, 0.3), (0.3, 0.1, -0.3)])
def test_error_is_zero_when_the_robot_follows_exactly(velocity):
    tracker, walker = started()
    follow(tracker, np.array(velocity), np.array(velocity), 250, walker)
    np.testing.assert_allclose(tracker.error, 0.0, atol=1e-9)


def test_error_is_what_is_missing_seen_from_the_body():
    tracker, walker = started()
    follow(tracker, np.array((0.3, 0, 0)), np.array((0.26, 0.02, 0)), 250, walker)
    np.testing.assert_allclose(tracker.error[0], (0.2, -0.1, 0.0), atol=1e-9)  # 5 s x (0.04, -0.02) m/s


def test_error_turns_with_the_body():
    """0.1 m ahead of a robot that then turns left by 90 degrees in place lies to its right."""
    error = np.array([[0.1, 0.0, 0.0]])
    for _ in range(100):
        error = advance_error(error, np.zeros((1, 2)), np.full(1, np.pi / 200), np.zeros((1, 3)), DT_S)
    np.testing.assert_allclose(error[0], (0.0, -0.1, -np.pi / 2), atol=1e-9)


def test_a_path_goes_on_along_its_own_heading_not_the_robots():
    """The robot looks 0.1 rad off to the left and stands; the path runs on straight: ahead and to the right."""
    error = np.array([[0.0, 0.0, -0.1]])
    for _ in range(50):
        error = advance_error(error, np.zeros((1, 2)), np.zeros(1), np.array([[0.3, 0, 0]]), DT_S)
    np.testing.assert_allclose(error[0], (0.3 * np.cos(0.1), -0.3 * np.sin(0.1), -0.1), atol=1e-9)


def test_a_blocked_robot_saves_up_no_more_than_the_clip_and_gives_up_after_its_patience():
    tracker, walker = started()
    follow(tracker, np.array((0.3, 0, 0)), np.zeros(3), 500, walker)
    assert tracker.error[0, 0] == pytest.approx(ON.clip[0])
    follow(tracker, np.zeros(3), np.zeros(3), 290, walker, resting=True)
    assert tracker.error[0, 0] > 0.2 and tracker.wants(np.array([True]))[0]
    follow(tracker, np.zeros(3), np.zeros(3), 20, walker, resting=True)
    assert tracker.error[0, 0] == 0.0


def test_a_drift_of_the_estimate_at_rest_is_forgotten_before_it_makes_a_step():
    """Ten minutes of a gyro that is off by 0.001 rad/s: the error stays at bias x leak time, inside the band."""
    tracker, walker = started()
    for _ in range(30_000):
        tracker.update(walker.sense(), np.full((1, 2), 0.5), np.array([0.001]), np.zeros((1, 3)), np.array([True]), np.array([False]))
    assert abs(tracker.error[0, 2]) == pytest.approx(0.001 * ON.leak_s, rel=0.01)
    assert not tracker.wants(np.array([False]))[0]


def test_steps_begin_at_a_larger_error_than_they_end_at():
    tracker, _ = started()
    no, yes = np.array([False]), np.array([True])

    def standing_at(*error: float) -> None:
        tracker.place[:] = error
        tracker.steer(no, no)

    standing_at(0.05, 0.0, 0.0)
    assert not tracker.wants(no)[0] and tracker.wants(yes)[0]
    standing_at(0.0, 0.0, 0.07)
    assert tracker.wants(no)[0]
    standing_at(0.02, 0.0, 0.02)
    assert not tracker.wants(yes)[0]


def test_who_has_stood_for_long_lets_a_small_twist_be():
    """0.07 rad makes steps within three seconds of a walk, later only more than 0.09 rad does."""
    tracker, walker = started()
    no = np.array([False])
    for seconds, twist, steps in ((2.9, 0.07, True), (3.1, 0.07, False), (3.1, 0.1, True)):
        tracker.reset()
        follow(tracker, np.zeros(3), np.zeros(3), round(seconds / DT_S), walker, resting=True, stepping=False)
        tracker.place[:] = (0.0, 0.0, twist)
        tracker.steer(no, no)
        assert tracker.wants(no)[0] == steps
    follow(tracker, np.array((0.3, 0, 0)), np.zeros(3), 1, walker)
    tracker.place[:] = (0.0, 0.0, 0.07)
    tracker.steer(no, no)
    assert tracker.wants(no)[0], "a command makes it exact again"


def test_what_sways_from_step_to_step_is_not_taken_for_an_error():
    tracker, _ = started()
    yes = np.array([True])
    for side in (1, -1, 1, -1):
        tracker.place[:] = (0.0, 0.03 * side, 0.035 * side)
        if side < 0:
            assert not tracker.wants(yes)[0] and not tracker.intended().any()
        tracker.steer(yes, yes)


def test_a_command_to_a_standing_robot_begins_a_new_path_and_one_in_mid_step_goes_on_with_the_old():
    for stepping, left in ((False, 0.0), (True, 0.04)):
        tracker, walker = started()
        tracker.error[:] = (0.04, 0.0, 0.0)
        follow(tracker, np.zeros(3), np.zeros(3), 1, walker, resting=False, stepping=stepping)
        assert tracker.error[0, 0] == pytest.approx(left)


def test_correction_is_chosen_when_a_step_begins_and_kept_while_it_is_under_way():
    tracker, _ = started()
    yes, no = np.array([True]), np.array([False])
    tracker.place[:] = (0.04, 0.0, 0.3)
    tracker.steer(no, no)  # standing
    tracker.steer(yes, yes)
    np.testing.assert_allclose(tracker.correction[0], 0.15 * np.array((0.06, 0.0, 0.25)))  # smooth x clipped gain x error
    tracker.place[:] = 0.0
    for _ in range(100):
        tracker.steer(no, yes)
    np.testing.assert_allclose(tracker.correction[0], (0.06, 0.0, 0.25), atol=1e-6)
    for _ in range(100):
        tracker.steer(no, no)
    np.testing.assert_allclose(tracker.correction[0], 0.0, atol=1e-6)


def test_a_pelvis_that_sways_over_planted_feet_is_in_error_but_no_reason_to_step():
    """Both feet stay, the pelvis moves back by 0.08 m to make room for the arms."""
    tracker, walker = started()
    feet = walker.sense()
    for i in range(40):
        walker.xy = np.array((-0.002 * (i + 1), 0.0))
        tracker.update(walker.sense(), np.full((1, 2), 0.5), np.zeros(1), np.zeros((1, 3)), np.array([False]), np.array([False]), float(feet[0, :, 0].mean()))
    np.testing.assert_allclose(tracker.error[0], (0.08, 0, 0), atol=1e-9)
    np.testing.assert_allclose(tracker.place[0], 0.0, atol=1e-9)
    tracker.steer(np.array([False]), np.array([False]))
    assert not tracker.wants(np.array([False]))[0]


def test_reset_starts_the_path_where_the_robot_is():
    tracker, walker = started()
    follow(tracker, np.array((0.3, 0, 0)), np.zeros(3), 20, walker)
    tracker.reset(np.array([0]))
    walker.xy += 3.0
    follow(tracker, np.zeros(3), np.zeros(3), 1, walker)
    np.testing.assert_array_equal(tracker.error, 0.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_path_of_a_flag_held_five_seconds_is_cruise_times_five_seconds(axis):
    """The whole pipeline's reference, start and stop included: within 0.02 m and 0.02 rad."""
    config = PipelineConfig(gating=GatingConfig(cruise=(0.3, 0.3, 0.3)))
    pipeline = LegPipeline(ROBOT, config, 1)
    flags, total = np.zeros((1, 3)), np.zeros(3)
    still = {"gyro": np.zeros((1, 3)), "gravity": np.array([[0, 0, -1.0]]), "q": ROBOT.default_q[None], "qd": np.zeros((1, ROBOT.joint_count))}
    for tick in range(400):
        flags[0, axis] = tick < 250
        pipeline.observe(flags, np.array([0.64]), **still)
        total += pipeline.goal[0] * DT_S
    assert total[axis] == pytest.approx(1.5, abs=0.02)


def with_path(policy: LmoPolicy) -> LmoPolicy:
    """The shipped policy with the correction by the reference gait switched on (it reads no path error)."""
    policy.config = dataclasses.replace(policy.config, path=ON)
    return policy


def test_dead_reckoning_from_joints_and_imu_alone_knows_where_a_walking_robot_is():
    """Lock-step world, sensor noise, four seconds of forward and turn: the estimated error is the true one within centimetres."""
    from wbvla_sim.scene import random_scene
    from wbvla_sim.slots import SensorNoise
    from wbvla_sim.world import World, WorldOptions

    world = World(ROBOT, random_scene(0, kind="empty"), options=WorldOptions(gantry=False, noise=SensorNoise.typical(), command_delay_s=0.02))
    controller = LmoController(ROBOT, with_path(LmoPolicy.load(CHECKPOINT, ROBOT)))
    state = world.reset(1)
    controller.reset(state)
    pipeline, truth = controller.pipeline, world.truth()
    last, error = truth, np.zeros((1, 3))
    for tick in range(250):
        loco = LocoCommand(1, 0, 1, 0.64) if 25 <= tick < 225 else LocoCommand(stance_height_m=0.64)
        state = world.slot(controller.tick(state, loco, world.time_s))
        truth = world.truth()
        delta = truth["pelvis_xyz"][:2] - last["pelvis_xyz"][:2]
        c, s = np.cos(truth["yaw_rad"]), np.sin(truth["yaw_rad"])
        moved = np.array([[c * delta[0] + s * delta[1], c * delta[1] - s * delta[0]]])
        error = pipeline.path.settle(advance_error(error, moved, np.array([truth["yaw_rad"] - last["yaw_rad"]]), pipeline.goal, DT_S), np.array([False]))
        last = truth
    assert not truth["fallen"] and np.hypot(*truth["pelvis_xyz"][:2]) > 0.5
    np.testing.assert_allclose(pipeline.path.error[0, :2], error[0, :2], atol=0.06)
    assert pipeline.path.error[0, 2] == pytest.approx(error[0, 2], abs=0.05)


def test_working_ahead_stays_exact_with_the_correction_and_is_thrown_away_only_where_a_step_chooses_anew():
    rng = np.random.default_rng(3)
    config = PipelineConfig(observation=ObservationConfig(odometry=True, path=True, balance=True), path=ON, gait=GaitConfig(arm_mass=True))
    plain, ahead = (LegPipeline(ROBOT, config, 1) for _ in range(2))
    fresh, work = 0, ahead.gait.reference

    def counted(*args):
        nonlocal fresh
        fresh += 1
        return work(*args)

    ahead.gait.reference = counted
    flags = np.zeros((1, 3))
    for tick in range(300):
        flags[0, 0] = 50 <= tick < 200
        q = ROBOT.default_q[None] + rng.normal(0, 0.002, (1, ROBOT.joint_count))
        state = (flags, np.array([0.64]), rng.normal(0, 0.02, (1, 3)), np.array([[0, 0, -1.0]]), q, np.zeros((1, ROBOT.joint_count)))
        np.testing.assert_array_equal(plain.observe(*state), ahead.observe(*state))
        action = rng.normal(0, 0.2, (1, len(ROBOT.names("lmo_action"))))
        np.testing.assert_array_equal(plain.act(action), ahead.act(action))
        ahead.anticipate(*state[:2])
    assert np.abs(plain.path.error).max() > 0.05, "the feet stand still while the path runs on"
    assert fresh - 300 < 300 / 18 + 25  # beyond the one per tick behind the command


def test_a_manifest_from_before_the_path_existed_switches_it_off():
    old = PipelineConfig().to_json()
    del old["path"]
    for name in ("path", "path_scale", "balance", "balance_scale", "flags", "mirror"):
        del old["observation"][name]
    config = PipelineConfig.from_json(old)
    assert not config.path.enabled and not config.observation.path and config.observation.mirror
    assert not LmoPolicy.load(CHECKPOINT, ROBOT).config.path.enabled or "path" in LmoPolicy.load(CHECKPOINT, ROBOT).manifest.extra["pipeline"]

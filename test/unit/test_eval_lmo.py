"""The leg controller benchmark: its laws, its measures on made-up motions, its refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from wbvla_core.errors import CommandError, WbvlaError
from wbvla_core.robot import load_robot
from wbvla_core.types import LocoCommand, RobotState
from wbvla_eval.lmo import command, lockstep, measures, programs, results
from wbvla_eval.lmo.arms import BenchmarkArms
from wbvla_eval.lmo.conditions import Bodies, Conditions, Disturber, Pulses, Pushes
from wbvla_eval.lmo.controllers import Checked, CheckpointController, Standing, callable_factory
from wbvla_eval.lmo.options import main
from wbvla_eval.lmo.programs import DT_S, SETTLE_S, FlagPlanner, Truth, hold, squat_cycles, switching, ticks
from wbvla_eval.lmo.runner import Log, make_world, run
from wbvla_eval.lmo.suites import SEED_BASE, SUITES, choose
from wbvla_lmo.controller import LmoController
from wbvla_lmo.policy import LmoPolicy
from wbvla_sim.batch import BatchWorld

ROBOT = load_robot("x2")
CHECKPOINT = Path(__file__).resolve().parents[2] / "checkpoints" / "lmo" / "x2"
CRUISE = np.array((0.3, 0.3, 0.3))


# ------------------------------------------------------------------------------------------------------------- controllers


def test_the_checkpoint_in_the_benchmark_is_the_controller_of_the_node_tick_by_tick():
    n, rng = 3, np.random.default_rng(5)
    policy = LmoPolicy.load(CHECKPOINT, ROBOT)
    many = CheckpointController(ROBOT, n, policy)
    ones = [LmoController(ROBOT, policy) for _ in range(n)]
    many.reset(np.arange(n))
    state = RobotState(0.0, ROBOT.default_q, np.zeros(ROBOT.joint_count), np.zeros(3), np.array((0.0, 0.0, -1.0)))
    for one in ones:
        one.reset(state)
    legs = ROBOT.indices("lmo_action")
    for k in range(60):
        flags = np.array(((1, 0, 0), (0, -1, 1), (0, 0, 0)), dtype=float) if k > 10 else np.zeros((n, 3))
        height = np.array((0.64, 0.60, 0.50))
        q = ROBOT.default_q + rng.normal(0, 0.03, (n, ROBOT.joint_count))
        qd, gyro = rng.normal(0, 0.3, q.shape), rng.normal(0, 0.1, (n, 3))
        gravity = np.array((0.0, 0.0, -1.0)) + rng.normal(0, 0.02, (n, 3))
        gravity /= np.linalg.norm(gravity, axis=1, keepdims=True)
        batch = many.act(flags, height, gyro, gravity, q, qd)
        for i, one in enumerate(ones):
            loco = LocoCommand(*(int(f) for f in flags[i]), float(height[i]))
            single = one.tick(RobotState(k * DT_S, q[i], qd[i], gyro[i], gravity[i]), loco, k * DT_S).q[legs]
            np.testing.assert_allclose(batch[i], single, atol=2e-5)  # float32 sums of N rows and of one differ in the last bits


def test_a_controller_is_found_by_module_and_name():
    assert callable_factory("wbvla_eval.lmo.controllers:Standing") is Standing


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nonsense", "package.module:factory"),
        ("no_such_module_here:x", "cannot import 'no_such_module_here'"),
        ("wbvla_eval.lmo.controllers:nothing", "has no 'nothing'"),
        ("wbvla_eval.lmo.suites:BLOCK", "must be callable"),
    ],
)
def test_a_controller_that_cannot_be_had_is_refused_in_a_sentence(text, says):
    with pytest.raises(CommandError, match=says):
        callable_factory(text)


def _like(**changes):
    class Odd(Standing):
        def act(self, *inputs):
            return changes["act"](super().act(*inputs))

    Odd.cruise = changes.get("cruise", Standing.cruise)
    return Odd


INPUTS = (np.zeros((2, 3)), np.full(2, 0.64), np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, ROBOT.joint_count)), np.zeros((2, ROBOT.joint_count)))


def test_a_wrong_shape_names_what_was_expected():
    legs = len(ROBOT.indices("lmo_action"))
    with pytest.raises(CommandError, match=rf"shape \(2, {legs}\).*got \(2, {legs - 1}\)"):
        Checked(_like(act=lambda t: t[:, 1:]), ROBOT, 2).act(np.ones(2, bool), *INPUTS)


def test_nan_of_a_robot_on_its_feet_ends_the_run_and_nan_of_a_fallen_one_does_not():
    def poison(target):
        target = target.copy()
        target[1, 3] = np.nan
        return target

    checked = Checked(_like(act=poison), ROBOT, 2)
    with pytest.raises(CommandError, match="robot 1 are not finite"):
        checked.act(np.ones(2, bool), *INPUTS)
    assert np.isfinite(checked.act(np.array((True, False)), *INPUTS)).all()


def test_cruise_speeds_must_be_three_and_positive():
    with pytest.raises(CommandError, match="cruise must be 3 positive speeds"):
        Checked(_like(act=lambda t: t, cruise=(0.3, 0.0, 0.3)), ROBOT, 1)


# -------------------------------------------------------------------------------------------------------------- conditions


def test_arms_move_twice_as_fast_and_half_as_far_again_along_the_same_motion():
    seeds = (7, 8)
    slow, wide = BenchmarkArms(ROBOT, seeds), BenchmarkArms(ROBOT, seeds, speed=2.0, amplitude=1.5)
    arms = ROBOT.indices("arms")
    a = np.array([slow.step(DT_S) for _ in range(1000)])
    b = np.array([wide.step(DT_S / 2.0) for _ in range(1000)])  # at half the tick, the same phases
    expected = np.clip(ROBOT.default_q[arms] + 1.5 * (a - ROBOT.default_q[arms]), ROBOT.lower[arms], ROBOT.upper[arms])
    np.testing.assert_allclose(b, expected, atol=1e-9)
    assert np.ptp(a, axis=0).max() > 1.0  # they do move
    assert 1.2 < np.abs(np.diff(a, axis=0)).max() / DT_S < 4.0 / 3.0 + 1e-6  # rad/s: teleoperation, not a whip
    assert np.abs(np.diff(b, axis=0)).max() / (DT_S / 2.0) < 4.0 + 1e-6
    assert (a >= ROBOT.lower[arms] - 1e-12).all() and (a <= ROBOT.upper[arms] + 1e-12).all()


def test_an_arm_motion_depends_on_its_own_seed_alone():
    pair, alone = BenchmarkArms(ROBOT, (7, 8)), BenchmarkArms(ROBOT, (8,))
    for _ in range(300):
        np.testing.assert_array_equal(pair.step(DT_S)[1], alone.step(DT_S)[0])


def test_pulses_last_a_tenth_of_a_second_stay_within_their_size_and_leave_the_settling_alone():
    law, seconds = Pulses(force_n=150.0, torque_nm=30.0, length_s=0.1, gap_s=(2.0, 5.0)), 60.0
    force = Disturber(Conditions(pulses=law), [SEED_BASE + i for i in range(40)], seconds, DT_S, SETTLE_S).force
    size, torque = np.hypot(force[..., 0], force[..., 1]), force[..., 2]
    assert size.max() <= 150.0 and np.abs(torque).max() <= 30.0
    assert size.max() > 140.0 and torque.max() > 27.0 and torque.min() < -27.0
    assert not force[: ticks(SETTLE_S)].any()
    starts = np.flatnonzero(np.diff(np.concatenate(([0.0], (size[:, 0] > 0).astype(float)))) > 0)
    lengths = [int(np.argmin(size[s:, 0] > 0)) for s in starts[:-1]]
    assert set(lengths) == {5}  # 5 x 20 ms
    gaps = np.diff(starts) * DT_S
    assert gaps.min() >= 2.0 - 0.03 and gaps.max() <= 5.0 + 0.03
    assert not np.array_equal(size[:, 0] > 0, np.abs(torque[:, 0]) > 0)  # two trains


def test_pushes_come_every_two_to_six_seconds_and_are_no_stronger_than_said():
    events = Disturber(Conditions(pushes=Pushes(0.5, (2.0, 6.0))), [3, 4], 600.0, DT_S, SETTLE_S).events
    sizes = [np.hypot(*v) for rows in events.values() for _, v in rows]
    assert max(sizes) <= 0.5 and len(sizes) == pytest.approx(2 * 600 / 4, rel=0.15)


def test_programs_begin_standing_and_hold_clips_the_height():
    schedule = hold((0, 0, 1), 5.0, 10.0, 0.30)(ROBOT, [1, 2], CRUISE)
    assert schedule.seconds == SETTLE_S + 15.0
    assert not schedule.flags[: ticks(SETTLE_S)].any()
    assert schedule.flags[:, 0, 2].sum() == 250 and not schedule.flags[ticks(SETTLE_S + 5.0) :].any()
    assert schedule.height_m.min() == ROBOT.stance_height_range_m[0]
    cycles = squat_cycles(0.45, 0.66, 4.0, 5)(ROBOT, [1], CRUISE)
    assert (cycles.height_m.min(), cycles.height_m.max()) == ROBOT.stance_height_range_m
    assert len(np.flatnonzero(np.diff(cycles.height_m[:, 0]))) == 10


def test_switching_holds_each_command_half_a_second_to_four():
    schedule = switching(600.0)(ROBOT, [11], CRUISE)
    row = np.concatenate((schedule.flags[:, 0], schedule.height_m[:, :1]), axis=1)[ticks(SETTLE_S) :]
    change = np.flatnonzero(np.any(np.diff(row, axis=0), axis=1))
    assert np.diff(change).min() >= 24  # 0.5 s less rounding
    assert len(change) > 600.0 / 4.0  # the mean is 2.25 s, some draws repeat the last command
    assert set(np.unique(schedule.flags)) == {-1, 0, 1}


def _glide(goals: np.ndarray, seconds: float, cruise: np.ndarray = CRUISE, lag_s: float = 0.25) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Robots that follow flags as a first-order lag; returns final errors [N, 3] and the flags' history."""
    n = len(goals)
    planner = FlagPlanner(goals, cruise)
    truth = Truth(np.zeros((n, 2)), np.zeros(n), np.zeros((n, 2)), np.zeros(n))
    speed, history = np.zeros((n, 3)), []
    for _ in range(ticks(seconds)):
        flags = planner.step(truth).copy()
        history.append(flags)
        speed += DT_S / lag_s * (flags * cruise - speed)
        cos, sin = np.cos(truth.yaw), np.sin(truth.yaw)
        truth.velocity = np.stack((cos * speed[:, 0] - sin * speed[:, 1], sin * speed[:, 0] + cos * speed[:, 1]), axis=1)
        truth.yaw_rate = speed[:, 2].copy()
        truth.xy, truth.yaw = truth.xy + DT_S * truth.velocity, truth.yaw + DT_S * truth.yaw_rate
    return planner.errors(truth.xy, truth.yaw), np.array(history), truth.xy


def test_the_flag_planner_brings_a_lagging_robot_to_any_goal_and_then_leaves_it_alone():
    rng = np.random.default_rng(0)
    goals = np.stack((rng.uniform(-2, 2, 200), rng.uniform(-2, 2, 200), rng.uniform(-np.pi, np.pi, 200)), axis=1)
    errors, history, _ = _glide(goals, 30.0)
    assert np.hypot(errors[:, 0], errors[:, 1]).max() < 0.15
    assert np.abs(errors[:, 2]).max() < np.radians(5.0)
    assert not history[-ticks(5.0) :].any()
    switches = np.abs(np.diff(history, axis=0)).astype(bool).sum(axis=(0, 2))
    assert switches.mean() < 15  # three flags up and down again, and a few corrections


def test_the_flag_planner_walks_backward_and_sideways_and_combines_flags():
    _, history, _ = _glide(np.array(((-1.0, 1.0, 0.0), (0.0, 0.0, 3.0))), 1.0)
    np.testing.assert_array_equal(history[10], ((-1, 1, 0), (0, 0, 1)))


# ---------------------------------------------------------------------------------------------------------------- measures


def _log(n: int, seconds: float, **rows) -> Log:
    """A log of robots that stand at the origin, with some columns replaced."""
    t = ticks(seconds)
    zeros = np.zeros((t, n))
    base = {
        "seeds": np.arange(n), "alive": np.ones((t, n), bool), "flags": np.zeros((t, n, 3), np.int8), "height_command": zeros + 0.64,
        "xy": np.zeros((t, n, 2)), "height": zeros + 0.64, "yaw": zeros, "pitch": zeros, "com": np.zeros((t, n, 2)), "reference": None,
        "feet": np.zeros((t, n, 2, 3)), "loaded": np.ones((t, n, 2), bool), "over": zeros, "speed": zeros, "torque": zeros, "work_j": zeros,
        "self_contact": np.zeros((t, n), bool), "shake": zeros, "force_n": np.zeros((t, n, 2)), "thing": None, "qpos": None, "program": None,
    }  # fmt: skip
    return Log(**(base | rows))


def test_accuracy_is_measured_in_the_frame_of_the_start_by_hand():
    # Looking along +y, told to walk 5 s at 0.3 m/s: the ideal is (0, 1.5). It stops at (0.1, 1.4) and has turned by 0.2 rad.
    t, start = ticks(SETTLE_S + 15.0), ticks(SETTLE_S)
    xy, yaw = np.zeros((t, 1, 2)), np.full((t, 1), np.pi / 2)
    xy[-1, 0], yaw[-1, 0] = (0.1, 1.4), np.pi / 2 + 0.2
    flags, reference = np.zeros((t, 1, 3), np.int8), np.zeros((t, 1, 3))
    flags[start : start + 250, 0, 0] = 1
    reference[start : start + 245, 0, 0] = 0.3  # a reference that falls short by 0.03 m
    out = measures.accuracy(_log(1, SETTLE_S + 15.0, xy=xy, yaw=yaw, flags=flags, reference=reference), ROBOT, CRUISE)
    assert out["ahead_m"] == pytest.approx(-0.1) and out["left_m"] == pytest.approx(-0.1)
    assert out["position_m"] == pytest.approx(np.hypot(0.1, 0.1)) and out["heading_rad"] == pytest.approx(0.2)
    assert out["reference_m"] == pytest.approx(0.03) and out["tracking_m"] == pytest.approx(np.hypot(1.4 - 1.47, 0.1))


def test_a_reference_that_turns_while_it_walks_is_integrated_along_the_arc():
    velocity = np.tile((0.3, 0.0, 0.3), (ticks(5.0), 1, 1)).reshape(ticks(5.0), 1, 3)
    xy, yaw = measures.integrate(velocity)
    assert yaw[0] == pytest.approx(1.5)
    np.testing.assert_allclose(xy[0], (np.sin(1.5), 1.0 - np.cos(1.5)), atol=1e-4)  # circle of radius 1 m


def test_coms_of_a_circle_is_its_radius_and_a_fallen_robot_has_none():
    t = ticks(SETTLE_S + 23.0)
    angle = np.linspace(0, 2 * np.pi * 7, t - ticks(5.0), endpoint=False)
    com, alive = np.zeros((t, 2, 2)), np.ones((t, 2), bool)
    com[ticks(5.0) :] = 0.04 * np.stack((np.cos(angle), np.sin(angle)), axis=1)[:, None]
    alive[-10:, 1] = False
    out = measures.stability(_log(2, SETTLE_S + 23.0, com=com, alive=alive), ROBOT, CRUISE, from_s=5.0)
    assert out["coms_m"][0] == pytest.approx(0.04, rel=1e-3) and np.isnan(out["coms_m"][1])


def _arrival_log(position: float, heading: float, drift: float = 0.0, flag_at_end: bool = False) -> dict[str, np.ndarray]:
    seconds = SETTLE_S + 30.0
    t = ticks(seconds)
    program = programs.GoTo(ROBOT, [1], CRUISE, 2.0, 30.0, None)
    program.goals = np.array(((1.0, 0.0, 0.0),))
    xy, flags = np.zeros((t, 1, 2)), np.zeros((t, 1, 3), np.int8)
    flags[ticks(SETTLE_S) : ticks(7.0), 0, 0] = 1
    xy[ticks(7.0) :, 0, 0] = 1.0 - position + drift * np.arange(t - ticks(7.0)) * DT_S
    if flag_at_end:
        flags[ticks(7.0) :: 20] = 1
    return measures.arrival(_log(1, seconds, xy=xy, yaw=np.full((t, 1), heading), flags=flags, program=program), ROBOT, CRUISE)


def test_arrival_wants_place_heading_rest_and_zero_flags():
    good = _arrival_log(0.10, 0.05)
    assert good["success"] == 1.0 and good["position_m"] == pytest.approx(0.10) and good["arrival_s"] == pytest.approx(5.0)
    assert _arrival_log(0.16, 0.05)["success"] == 0.0
    assert _arrival_log(0.10, 0.09)["success"] == 0.0  # 5 deg = 0.0873
    assert _arrival_log(0.10, 0.05, drift=0.03)["success"] == 0.0
    assert _arrival_log(0.10, 0.05, flag_at_end=True)["success"] == 0.0


def test_slip_counts_loaded_soles_per_metre_and_not_the_swinging_ones():
    seconds = SETTLE_S + 10.0
    t, start = ticks(seconds), ticks(SETTLE_S)
    xy, feet, loaded = np.zeros((t, 1, 2)), np.zeros((t, 1, 2, 3)), np.ones((t, 1, 2), bool)
    xy[start:, 0, 0] = np.linspace(0.0, 2.0, t - start)
    feet[start:, 0, 0, 0] = np.linspace(0.0, 0.1, t - start)  # slides under load
    feet[start:, 0, 1, 0] = np.linspace(0.0, 2.0, t - start)
    loaded[:, 0, 1] = False
    out = measures.quality(_log(1, seconds, xy=xy, feet=feet, loaded=loaded, work_j=np.full((t, 1), 0.5)), ROBOT)
    assert out["slip_m_per_m"][0] == pytest.approx(0.05, rel=0.05)
    assert out["energy_j_per_m"][0] == pytest.approx(0.5 * 500 / 2.0, rel=0.05)


def test_a_gait_on_one_foot_is_uneven_and_flicker_is_no_step():
    seconds = SETTLE_S + 10.0
    t, start = ticks(seconds), ticks(SETTLE_S)
    loaded, flags = np.ones((t, 2, 2), bool), np.zeros((t, 2, 3), np.int8)
    flags[start:, :, 0] = 1
    for k in range(10):  # robot 0: left and right in turn, 10 landings each; robot 1: left only; both flicker for one tick
        begin = start + 10 + 48 * k
        loaded[begin : begin + 15, 0, 0] = loaded[begin + 24 : begin + 39, 0, 1] = loaded[begin : begin + 15, 1, 0] = False
        loaded[begin + 20, :, 0] = False
    out = measures.quality(_log(2, seconds, loaded=loaded, flags=flags), ROBOT)
    np.testing.assert_allclose(out["steps_hz"], (2.0, 1.0))
    np.testing.assert_allclose(out["uneven_part"], (0.0, 1.0))


def test_shaking_counts_only_when_no_flag_has_been_up_for_two_seconds():
    seconds = SETTLE_S + 10.0
    flags, shake = np.zeros((ticks(seconds), 1, 3), np.int8), np.full((ticks(seconds), 1), 0.2)
    flags[ticks(SETTLE_S) : ticks(5.0), 0, 0] = 1
    shake[: ticks(7.0) - 1] = 9.0
    assert measures.quality(_log(1, seconds, flags=flags, shake=shake), ROBOT)["rest_rad_s"][0] == pytest.approx(0.2, rel=1e-3)


def test_lean_is_the_mean_forward_pitch_after_the_settling_while_the_robot_is_on_its_feet():
    seconds = SETTLE_S + 4.0
    pitch, alive = np.full((ticks(seconds), 2), -0.1), np.ones((ticks(seconds), 2), bool)
    pitch[: ticks(SETTLE_S)] = 0.7  # settling does not count
    pitch[ticks(SETTLE_S + 2.0) :, 0] = 0.2
    pitch[ticks(SETTLE_S + 2.0) :, 1], alive[ticks(SETTLE_S + 2.0) :, 1] = -1.5, False  # lies on its back
    np.testing.assert_allclose(measures.quality(_log(2, seconds, pitch=pitch, alive=alive), ROBOT)["lean_rad"], (0.05, -0.1))


# ------------------------------------------------------------------------------------------------------------------ runner


def test_a_robot_that_is_told_to_fall_is_parked_and_counted():
    policy = LmoPolicy.load(CHECKPOINT, ROBOT)

    class Sprawl(CheckpointController):
        def __init__(self, robot, count):
            super().__init__(robot, count, policy)

        def act(self, *inputs):
            target = super().act(*inputs)
            target[1] = 0.9  # robot 1 folds up
            return target

    world = make_world(ROBOT, 2)
    log = run(world, Checked(Sprawl, ROBOT, 2), hold((0, 0, 0), 0.0, 1.0)(ROBOT, [1, 2], CRUISE), Conditions(), [1, 2])
    assert log.fell.tolist() == [False, True]
    assert log.seconds[0] == pytest.approx(3.0) and log.seconds[1] < 2.0
    last = int(log.alive[:, 1].sum())
    np.testing.assert_array_equal(log.xy[last + 1 :, 1], np.broadcast_to(log.xy[-1, 1], log.xy[last + 1 :, 1].shape))


def test_a_lost_command_leaves_the_motors_with_the_one_before():
    class Counts(Standing):
        def act(self, *inputs):
            self._target = self._target + 1e-4
            return self._target

    world, seen, slot = make_world(ROBOT, 2), [], BatchWorld.slot
    knee = ROBOT.joint_names.index("left_knee_joint")
    world.slot = lambda target, ids=None: (seen.append(target[:, knee].copy()), slot(world, target, ids))
    run(world, Checked(Counts, ROBOT, 2), hold((0, 0, 0), 0.0, 2.0)(ROBOT, [1, 2], CRUISE), Conditions(loss=0.4), [1, 2])
    steps = np.round(np.diff(np.array(seen), axis=0) / 1e-4).astype(int)
    assert (steps == 0).mean() == pytest.approx(0.4, abs=0.12)
    assert steps.max() > 1  # what comes through is the newest


def test_bodies_are_drawn_per_seed_inside_their_ranges():
    from wbvla_eval.lmo.conditions import embody

    world, conditions = make_world(ROBOT, 3), Conditions(bodies=Bodies(payload_kg=(2.0, 4.0), friction=(0.4, 0.6), gains=(0.9, 1.1)))
    drawn = embody(world, conditions, [5, 6, 7])
    assert (drawn["drawn_friction"] >= 0.4).all() and (drawn["drawn_friction"] <= 0.6).all() and drawn["drawn_command_ms"].tolist() == [20.0] * 3
    total = world.batch.expand("body_mass").sum(axis=1)
    np.testing.assert_allclose(total - ROBOT.total_mass_kg, drawn["drawn_payload_kg"])
    assert ((total - ROBOT.total_mass_kg >= 2.0) & (total - ROBOT.total_mass_kg <= 4.0)).all() and len(set(total)) == 3
    again = make_world(ROBOT, 1)
    embody(again, conditions, [6])
    assert again.batch.expand("body_mass").sum() == total[1]
    np.testing.assert_array_equal(again.kp[0], world.kp[1])


# ----------------------------------------------------------------------------------------------------------------- results


def test_every_cell_has_seeds_of_its_own_but_for_the_sweep_that_compares_like_with_like():
    blocks = [cell.block for suite in SUITES.values() if suite.name != "stress" for cell in suite.cells]
    assert len(set(blocks)) == len(blocks)
    assert {cell.block for cell in SUITES["stress"].cells}.isdisjoint(blocks)
    assert SUITES["accuracy"].cells[1].seeds(0, 2)[0] == SEED_BASE + 10_000


def test_an_unknown_suite_names_those_that_exist():
    with pytest.raises(CommandError, match="no suite acuracy; there are accuracy, stability"):
        choose(("acuracy",))


def _episodes(values, fell=()):
    return [{"seed": i, "fell": i in fell, "seconds": 17.0, "position_m": None if i in fell else v} for i, v in enumerate(values)]


def test_a_row_pools_its_cells_and_keeps_the_fallen_out_of_the_errors():
    cells = {"forward": _episodes([0.1, 0.2, 9.9], fell={2}), "backward": _episodes([0.3])}
    rows = results.rows_of(SUITES["accuracy"], cells, SETTLE_S)
    assert [r["row"] for r in rows] == ["forward/back", "forward", "backward"]
    assert rows[0]["numbers"]["position_m"]["mean"] == pytest.approx(0.2) and rows[0]["numbers"]["position_m"]["count"] == 3
    assert rows[0]["falls"] == 1 and rows[0]["episodes"] == 4 and rows[0]["hours"] == pytest.approx(4 * 15 / 3600)
    assert "1/4 = 25 %" in results.table(SUITES["accuracy"], rows)[1][1]


def _report(label: str, mean: float) -> dict:
    row = {"row": "forward/back", "cells": ["forward"], "episodes": 10, "falls": 1, "hours": 2.04, "falls_per_hour_upper_95": 2.3}
    row["numbers"] = {"position_m": {"mean": mean, "sd": 0.01, "count": 9}}
    return {"schema": command.SCHEMA, "label": label, "seed_base": 1, "options": {"episodes": 10, "hours": 1}, "suites": {"accuracy": {"rows": [row]}}}


def test_runs_of_one_label_are_seeds_and_their_means_are_spread():
    lines = results.compare([_report("ours", 0.10), _report("ours", 0.20), _report("no J_dir", 0.4)])["accuracy"]
    assert lines[0] == ["", "ours (2 seeds)", "no J_dir (1 seed)"]
    by_name = {line[0]: line[1:] for line in lines}
    assert by_name["forward/back: position m"] == ["0.150 ± 0.071", "0.400 ± 0.010"]
    assert by_name["forward/back: falls"][0].startswith("2/20 = 10 %")  # however many hours: this suite counts episodes


def test_comparison_refuses_a_file_that_is_none(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(CommandError, match="was not written by `wbvla eval lmo`"):
        command.load_report(tmp_path)
    with pytest.raises(CommandError, match="does not exist"):
        command.load_report(tmp_path / "none.json")


def test_a_finished_suite_is_taken_again_and_that_of_another_controller_is_refused(tmp_path):
    options = command.Options(out=tmp_path)
    subject = SimpleNamespace(source="a:b", hash="1")
    key = command.suite_key(SUITES["cart"], subject, ROBOT, options)
    path = tmp_path / "cart.json"
    assert command.finished_suite(path, key, options) is None
    path.write_text(json.dumps({"key": key, "rows": []}))
    assert command.finished_suite(path, key, options) == {"key": key, "rows": []}
    assert command.finished_suite(path, key, replace(options, fresh=True)) is None
    other = command.suite_key(SUITES["cart"], SimpleNamespace(source="a:b", hash="2"), ROBOT, options)
    with pytest.raises(CommandError, match="holds a run with another hash"):
        command.finished_suite(path, other, options)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--suites", "walk"], "no suite walk"),
        (["--lmo", "checkpoints/lmo/none", "--suites", "cart"], "none"),
        (["--robot", "r2d2"], "no robot 'r2d2'"),
        (["--episodes", "0"], "at least 1"),
        (["--episodes", "20000"], "10000 seeds"),
    ],
)
def test_the_command_refuses_before_it_simulates(argv, says, tmp_path):
    with pytest.raises(WbvlaError, match=says):
        main([*argv, "--out", str(tmp_path)])


def test_a_lock_step_trial_says_what_is_missing_to_cruise_speed_times_time():
    """It begins at (2, 1) looking along +y, walks 0.28 m/s for five seconds where 0.3 was asked for, and ends 0.05 rad to the left: 0.1 m short."""
    options, count = lockstep.Options(hold_s=5.0, rest_s=3.0), 450
    ahead = np.clip((np.arange(count) - 49) / 250, 0, 1) * 0.28 * 5.0
    xy = np.stack((np.full(count, 2.0), 1.0 + ahead), axis=1)
    yaw = np.where(np.arange(count) < 50, np.pi / 2, np.pi / 2 + 0.05)
    height, stepping = np.full(count, 0.64), np.zeros(count, dtype=bool)
    forward = lockstep.Case("forward", (1, 0, 0))
    found = lockstep.measure(xy, yaw, height, stepping, forward, options, ROBOT, CRUISE)
    assert found["end_m"] == pytest.approx(0.1, abs=1e-6)
    assert found["end_rad"] == pytest.approx(0.05, abs=1e-9)
    both = lockstep.measure(xy, yaw, height, stepping, lockstep.Case("both", (1, 0, 1)), options, ROBOT, CRUISE)
    assert "end_m" not in both  # an arc's end is not speed x time
    low = lockstep.measure(xy, yaw, height, stepping, lockstep.Case("low", (1, 0, 0), 0.5), options, ROBOT, CRUISE)
    assert "end_m" not in low  # a squat moves the pelvis over the feet

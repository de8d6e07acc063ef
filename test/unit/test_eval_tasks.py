"""Success and every kind of failure, on hand-made motions whose numbers are plain to see."""

import math

import numpy as np
import pytest

from wbvla_eval.tasks import Criteria, Failure, count_swings, is_still, judge
from wbvla_eval.trace import Trace, bearing_to, footprint, stand_off_point
from wbvla_sim.instructions import Task
from wbvla_sim.scene import Box

DT_S = 0.1


def make_box(color, x, y, half=(0.15, 0.15, 0.15), yaw=0.0):
    return Box(color, (x, y, half[2]), half, yaw, (0.0, 0.0, 0.0))


def make_trace(path, yaw=None, *, rest_s=2.0, moving=True, height=0.64, tilt=0.0, boxes=((("blue", 2.0, 0.0)),), in_view=None, hands=None, touched=None):
    """A trace along ``path`` [N, 2], then ``rest_s`` standing with zero flags (none where 0: still moving at the end)."""
    path = np.asarray(path, dtype=float)
    yaw = np.zeros(len(path)) if yaw is None else np.asarray(yaw, dtype=float)
    rest = int(round(rest_s / DT_S))
    path = np.concatenate((path, np.repeat(path[-1:], rest, axis=0)))
    yaw = np.concatenate((yaw, np.repeat(yaw[-1:], rest)))
    n = len(path)
    command = np.zeros((n, 4))
    command[:, 3] = height
    command[: n - rest, 0] = float(moving)
    return Trace(
        time_s=np.arange(n) * DT_S,
        xyz=np.column_stack((path, np.full(n, height))),
        yaw=yaw,
        tilt_rad=np.full(n, tilt),
        stance_height_m=np.full(n, height),
        velocity=np.zeros((n, 3)),
        command=command,
        hands=hands or {},
        boxes=tuple(make_box(*b) for b in boxes),
        in_view={} if in_view is None else {"blue": np.full(n, in_view)},
        touched=touched or {},
    )


def straight_to(x, steps=50):
    return np.column_stack((np.linspace(0.0, x, steps), np.zeros(steps)))


BLUE = Task("walk_to", color="blue")
# The blue box's centre is at x = 2.0 and its near face at 1.85, so the stand-off point is x = 1.25.


# -- geometry --------------------------------------------------------------------------------------------------------
def test_stand_off_point_lies_before_the_face_on_the_line_to_the_centre():
    box = make_box("blue", 2.0, 0.0)
    assert stand_off_point(box, (0.0, 0.0), 0.6) == pytest.approx((1.25, 0.0))
    long_box = make_box("blue", 2.0, 0.0, half=(0.5, 0.1, 0.1), yaw=math.pi / 2)  # turned: its long side faces us, 0.1 m deep
    assert stand_off_point(long_box, (0.0, 0.0), 0.6) == pytest.approx((1.3, 0.0))
    # On the diagonal of a cube the line meets the edge, half a diagonal before the centre.
    cube = make_box("blue", 2.0, 2.0, half=(0.5, 0.5, 0.5))
    assert np.linalg.norm(stand_off_point(cube, (0.0, 0.0), 0.6)) == pytest.approx(2 * math.sqrt(2) - 0.5 * math.sqrt(2) - 0.6)


def test_bearing_is_left_positive_and_wrapped():
    assert bearing_to(make_box("blue", 1.0, 1.0), (0.0, 0.0), 0.0) == pytest.approx(math.pi / 4)
    assert bearing_to(make_box("blue", -1.0, -0.0001), (0.0, 0.0), math.pi - 0.1) == pytest.approx(0.1, abs=1e-3)
    assert bearing_to(make_box("blue", -1.0, 0.0), (0.0, 0.0), 2 * math.pi) == pytest.approx(-math.pi), "right behind: either end of the range"


def test_footprint_turns_with_the_box():
    corners = footprint(make_box("blue", 1.0, 0.0, half=(0.2, 0.1, 0.1), yaw=math.pi / 2))
    assert sorted(map(tuple, corners.round(6))) == [(0.9, -0.2), (0.9, 0.2), (1.1, -0.2), (1.1, 0.2)]


# -- walk to ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("x", [1.25, 1.25 - 0.29, 1.25 + 0.29])
def test_standing_within_the_tolerance_of_the_stand_off_point_succeeds(x):
    verdict = judge(BLUE, make_trace(straight_to(x)))
    assert verdict.success and verdict.failure is None, verdict.reason
    assert verdict.measures["stand_off_error_m"] == pytest.approx(abs(x - 1.25), abs=1e-9)


@pytest.mark.parametrize(("x", "kind"), [(1.25 - 0.31, Failure.STOP_EARLY), (1.25 + 0.31, Failure.COLLIDE)])
def test_standing_just_outside_the_tolerance_fails(x, kind):
    assert judge(BLUE, make_trace(straight_to(x))).failure is kind


@pytest.mark.parametrize(("degrees", "success"), [(14.9, True), (15.1, False), (-15.1, False)])
def test_facing_error_over_15_deg_fails(degrees, success):
    verdict = judge(BLUE, make_trace(straight_to(1.25), np.linspace(0, math.radians(degrees), 50)))
    assert verdict.success is success
    assert verdict.failure is (None if success else Failure.FACING)


def test_stepping_in_place_sways_but_rests():
    trace = make_trace(straight_to(1.25))
    trace.xyz[:, 1] += 0.03 * np.sin(2 * np.pi * trace.time_s / 0.7)  # 6 cm from side to side, one gait cycle of 0.7 s
    assert judge(BLUE, trace).success


def test_drifting_with_zero_flags_is_no_rest():
    path = np.concatenate((straight_to(1.15), np.column_stack((np.linspace(1.15, 1.35, 20), np.zeros(20)))))  # 0.1 m/s for 2 s
    trace = make_trace(path, rest_s=0.0)
    trace.command[-20:, :3] = 0.0
    assert judge(BLUE, trace).failure is Failure.RESTLESS


def test_still_walking_at_the_end_is_no_success_even_in_the_right_place():
    verdict = judge(BLUE, make_trace(straight_to(1.25), rest_s=0.0))
    assert verdict.failure is Failure.OSCILLATION


def test_time_out_far_away_depends_on_whether_the_box_was_in_view():
    assert judge(BLUE, make_trace(straight_to(0.2), rest_s=0.0, in_view=True)).failure is Failure.TIMEOUT
    assert judge(BLUE, make_trace(straight_to(0.2), rest_s=0.0, in_view=False)).failure is Failure.LOST_UNSEEN


def test_stopping_at_another_box_names_it():
    trace = make_trace(straight_to(1.25), boxes=(("blue", 1.25, 3.0), ("red", 2.0, 0.0)))
    verdict = judge(BLUE, trace)
    assert verdict.failure is Failure.WRONG_BOX and "red" in verdict.reason


def test_brushing_a_box_is_no_failure_but_being_stopped_by_one_is_a_collision():
    assert judge(BLUE, make_trace(straight_to(1.25), touched={"box_blue": 3.0})).success
    stuck = judge(BLUE, make_trace(straight_to(0.2), rest_s=0.0, touched={"distractor_1": 1.0}))
    assert stuck.failure is Failure.COLLIDE and "distractor_1" in stuck.reason


def test_a_fall_is_a_fall_whatever_else_is_right():
    trace = make_trace(straight_to(1.25))
    trace.tilt_rad[20] = 0.9
    verdict = judge(BLUE, trace)
    assert verdict.failure is Failure.FALL and verdict.measures["fall_time_s"] == pytest.approx(2.0)
    broken_off = judge(BLUE, make_trace(straight_to(1.25)), fault="driver in damping")
    assert broken_off.failure is Failure.FALL and "driver in damping" in broken_off.reason
    sunk = make_trace(straight_to(1.25))
    sunk.xyz[30, 2] = 0.3
    assert judge(BLUE, sunk).failure is Failure.FALL


def test_judging_a_box_that_is_not_there_names_those_that_are():
    with pytest.raises(ValueError, match=r"no green box; it has \['blue'\]"):
        judge(Task("walk_to", color="green"), make_trace(straight_to(1.0)))


def test_stepping_in_place_with_a_flag_set_is_not_still():
    assert is_still(make_trace(straight_to(1.0)), Criteria())
    assert not is_still(make_trace(np.zeros((30, 2)), rest_s=0.0), Criteria())
    turning = make_trace(np.zeros((30, 2)), np.linspace(0, 1.0, 30), rest_s=0.0, moving=False)
    assert not is_still(turning, Criteria())


# -- turn and step ---------------------------------------------------------------------------------------------------
def turn_trace(total_rad, drift=0.0):
    return make_trace(np.column_stack((np.linspace(0, drift, 41), np.zeros(41))), np.linspace(0, total_rad, 41), rest_s=0.0)  # 4 s


@pytest.mark.parametrize(("total", "kind"), [(0.7, None), (0.5, Failure.TOO_LITTLE), (-0.7, Failure.WRONG_WAY), (0.0, Failure.TOO_LITTLE)])
def test_turn_left_wants_at_least_0_15_rad_per_second(total, kind):  # 4 s: 0.6 rad
    assert judge(Task("turn", side="left"), turn_trace(total)).failure is kind
    assert judge(Task("turn", side="right"), turn_trace(-total)).failure is kind


def test_what_is_recorded_after_the_motion_does_not_raise_the_bar():
    trace = turn_trace(0.7)  # of 4 s
    assert judge(Task("turn", side="left"), trace, duration_s=4.6).success  # 0.69 rad
    assert judge(Task("turn", side="left"), trace, duration_s=4.8).failure is Failure.TOO_LITTLE  # 0.72 rad


def test_a_turn_that_walks_away_is_drift():
    assert judge(Task("turn", side="left"), turn_trace(0.7, drift=0.34)).success
    assert judge(Task("turn", side="left"), turn_trace(0.7, drift=0.36)).failure is Failure.DRIFT


def test_a_turn_of_more_than_half_a_circle_counts_in_full():
    assert judge(Task("turn", side="left"), turn_trace(4.0)).measures["moved"] == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("left", "ahead", "yaw_deg", "kind"),
    [(0.4, 0, 0, None), (0.3, 0, 0, Failure.TOO_LITTLE), (-0.4, 0, 0, Failure.WRONG_WAY), (0.4, 0.31, 0, Failure.DRIFT), (0.4, 0, 26, Failure.DRIFT)],
)
def test_step_left_wants_at_least_8_cm_per_second_and_little_else(left, ahead, yaw_deg, kind):  # 4 s: 0.32 m
    path = np.column_stack((np.linspace(0, ahead, 41), np.linspace(0, left, 41)))
    assert judge(Task("step", side="left"), make_trace(path, np.linspace(0, math.radians(yaw_deg), 41), rest_s=0.0)).failure is kind


def test_step_direction_is_that_of_the_start_heading():
    path = np.column_stack((-np.linspace(0, 0.4, 41), np.zeros(41)))  # facing +y, left is -x
    assert judge(Task("step", side="left"), make_trace(path, np.full(41, math.pi / 2), rest_s=0.0)).success


# -- stance ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("height", "kind"), [(0.49, None), (0.522, Failure.HEIGHT), (0.46, Failure.HEIGHT)])
def test_squat_must_come_within_3_cm(height, kind):
    trace = make_trace(np.zeros((20, 2)), height=height)
    assert judge(Task("squat"), trace, stance_target_m=0.491).failure is kind


def test_a_squat_that_wanders_off_is_drift_and_needs_a_target():
    trace = make_trace(straight_to(0.4), height=0.49)
    assert judge(Task("squat"), trace, stance_target_m=0.49).failure is Failure.DRIFT
    with pytest.raises(ValueError, match="stance_target_m"):
        judge(Task("stand"), trace)


# -- wave ------------------------------------------------------------------------------------------------------------
def hands(n, left=None, right=None):
    hanging = np.tile((0.0, 0.2, -0.05), (n, 1))
    t = np.arange(n) * DT_S
    waving = np.column_stack((np.full(n, 0.2), 0.3 + 0.1 * np.sin(2 * np.pi * 0.5 * t), np.full(n, 0.5)))
    return {"left": waving if left else hanging, "right": waving if right else hanging}


def test_a_raised_swinging_hand_is_a_wave_and_the_other_hand_is_not():
    def judge_left(**which):
        return judge(Task("wave", side="left"), make_trace(np.zeros((60, 2)), rest_s=0.0, hands=hands(60, **which)))

    assert judge_left(left=True).success
    assert judge_left(right=True).failure is Failure.WRONG_ARM
    assert judge_left().failure is Failure.NO_SWING


def test_swings_are_counted_between_turning_points_and_noise_is_not():
    t = np.linspace(0.0, 4.0, 400)
    # From 0: up to the crest, down, up, down ... 2 periods of a sine have 4 turning points, 5 strokes.
    assert count_swings(np.sin(np.pi * t), 0.5) == 5
    assert count_swings(0.01 * np.sin(20 * t), 0.06) == 0
    assert count_swings(np.linspace(0, 1, 50), 0.06) == 1
    assert count_swings(np.zeros(10), 0.06) == 0


# -- trace -----------------------------------------------------------------------------------------------------------
def test_a_trace_refuses_shapes_that_do_not_fit():
    trace = make_trace(straight_to(1.0))
    with pytest.raises(ValueError, match=r"trace yaw must have shape"):
        Trace(trace.time_s, trace.xyz, trace.yaw[:-1], trace.tilt_rad, trace.stance_height_m, trace.velocity, trace.command)
    with pytest.raises(ValueError, match="at least 2 samples"):
        Trace(np.zeros(1), np.zeros((1, 3)), np.zeros(1), np.zeros(1), np.zeros(1), np.zeros((1, 3)), np.zeros((1, 4)))


def test_displacement_is_in_the_start_frame_and_keeps_full_turns():
    trace = make_trace(np.column_stack((np.zeros(30), np.linspace(0, 1, 30))), np.linspace(math.pi / 2, math.pi / 2 + 7.0, 30))
    assert trace.displacement() == pytest.approx((1.0, 0.0, 7.0))

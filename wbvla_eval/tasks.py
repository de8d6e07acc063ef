"""Success of each instruction and the kinds of failure, judged from simulator truth.

The robot reports how a task *ended* (still, duration over, time out); whether it *succeeded* is decided here and nowhere
else, by the same function for lock-step evaluation, for the demo and for tests. Numbers: "issue" = asked for by the
project's acceptance test, "ours" = chosen here, with the reason.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

import numpy as np

from wbvla_eval.trace import Trace, bearing_to
from wbvla_sim.instructions import Task
from wbvla_sim.scene import STAND_OFF_M


class Failure(str, enum.Enum):
    """Why a trial does not count. One kind per trial: the first that applies, in this order."""

    DIVERGED = "diverged"  # the simulation broke down: a fault of the simulator, counted as a failed trial and not as a fall
    ERROR = "error"  # the trial raised an exception, or a process of the stack was lost; the reason names it
    FALL = "fall"  # tilted or sunk beyond recovery at any time; also damping latched
    COLLIDE = "collide"  # ended closer to the target's face than success allows, or ran into something and did not arrive
    WRONG_BOX = "wrong_box"  # stopped properly, but at another box
    FACING = "facing"  # in the right place, looking past the box
    STOP_EARLY = "stop_early"  # stood still too far away
    RESTLESS = "restless"  # told to stand, in the right place, but the body does not come to rest
    LOST_UNSEEN = "lost_unseen"  # timed out without the target in the image
    OSCILLATION = "oscillation"  # timed out near the stand-off point without coming to rest
    TIMEOUT = "timeout"  # timed out farther away
    WRONG_WAY = "wrong_way"  # moved against the commanded direction
    TOO_LITTLE = "too_little"  # right direction, less than the minimum
    DRIFT = "drift"  # moved along an axis that was not asked for
    HEIGHT = "height"  # stance height missed
    NO_SWING = "no_swing"  # the hand was not raised or did not swing
    WRONG_ARM = "wrong_arm"  # the other hand waved


@dataclass(frozen=True)
class Criteria:
    """Every threshold of success. Lengths m, angles deg where the name says so, times s."""

    # walk-to
    stand_off_m: float = STAND_OFF_M  # issue: before the face, on the line pelvis -> box centre
    stand_off_tolerance_m: float = 0.30  # issue
    facing_tolerance_deg: float = 15.0  # issue
    near_m: float = 0.60  # ours: within this of the stand-off tolerance a time-out is called oscillation
    # standing still
    still_window_s: float = 1.4  # ours: two cycles of the gait, so that each half is one
    still_travel_m: float = 0.05  # ours: 0.07 m/s; what is left of a walk at 0.3 m/s after it was told to stop must be gone
    still_turn_deg: float = 5.0  # ours: likewise 7 deg/s
    # upright
    max_tilt_rad: float = 0.8  # the safety ladder's own limit
    min_pelvis_height_m: float = 0.35  # ours: 0.11 m under the lowest stance
    # open-ended motions: mean speed that counts as obeying, and what the other axes may do meanwhile
    min_turn_rad_s: float = 0.15  # ours: half of the commanded 0.3 rad/s (paper, Table 3)
    min_step_m_s: float = 0.08  # ours: about a quarter of 0.3 m/s; side-steps of a small biped are slow to start
    turn_drift_m: float = 0.35  # ours: the stand-off tolerance, rounded up
    step_drift_m: float = 0.30  # ours: the stand-off tolerance
    step_turn_deg: float = 25.0  # ours: the box stays in view
    # stance
    stance_tolerance_m: float = 0.03  # issue brief
    stance_drift_m: float = 0.30  # ours: the stand-off tolerance
    # wave
    wave_raise_m: float = 0.25  # ours: hand above the pelvis origin; a hanging hand is about 0.05 m under it
    wave_swing_m: float = 0.06  # ours: peak to peak of the hand, clearly wider than the sway of walking in place
    wave_swings: int = 2  # ours: there and back


@dataclass(frozen=True)
class Verdict:
    """What evaluation says about one trial.

    Attributes:
        success: whether every criterion holds.
        failure: the kind, None on success.
        reason: one sentence for people, with the numbers.
        measures: what was measured, by name with units.
    """

    success: bool
    failure: Failure | None
    reason: str
    measures: dict[str, float] = field(default_factory=dict)


def is_stopped(trace: Trace, criteria: Criteria) -> bool:
    """Whether the flags were zero over the last window."""
    return trace.duration_s >= criteria.still_window_s and not np.any(trace.command[trace.tail(criteria.still_window_s), :3])


def unrest(trace: Trace, criteria: Criteria) -> tuple[float, float]:
    """(travel m, turn rad) between the mean poses of the two halves of the last window: stepping in place sways, but does not get anywhere."""
    tail = trace.tail(criteria.still_window_s)
    early, late = np.array_split(np.arange(tail.start, tail.stop), 2)
    travel = np.linalg.norm(trace.xyz[late, :2].mean(axis=0) - trace.xyz[early, :2].mean(axis=0))
    return float(travel), float(abs(trace.yaw[late].mean() - trace.yaw[early].mean()))


def is_still(trace: Trace, criteria: Criteria) -> bool:
    """Whether the robot was told to stand and the pelvis rests: little travel and turn over the last window."""
    travel, turn = unrest(trace, criteria)
    return is_stopped(trace, criteria) and travel <= criteria.still_travel_m and turn <= math.radians(criteria.still_turn_deg)


def fall_time_s(trace: Trace, criteria: Criteria) -> float | None:
    """When the robot first was beyond recovery, or None."""
    fallen = (trace.tilt_rad > criteria.max_tilt_rad) | (trace.xyz[:, 2] < criteria.min_pelvis_height_m)
    return float(trace.time_s[np.argmax(fallen)]) if np.any(fallen) else None


def judge(
    task: Task,
    trace: Trace,
    criteria: Criteria | None = None,
    *,
    stance_target_m: float | None = None,
    duration_s: float | None = None,
    fault: str = "",
    diverged: str = "",
) -> Verdict:
    """Decide one trial.

    Args:
        duration_s: how long an open-ended motion was asked for; default: as long as the trace.
        fault: why the episode was broken off with the robot down or the driver in damping, "" if it was not; such a trial is a fall.
        diverged: why the simulation broke down, "" if it did not. It goes before everything else.
        stance_target_m: stance height that "squat down" or "stand up" asks for, m; needed for these two.

    Raises:
        ValueError: the scene lacks the named box, or a stance target is missing.
    """
    criteria = criteria or Criteria()
    fell_s = fall_time_s(trace, criteria)
    measures = _common_measures(trace)
    if diverged:
        return Verdict(False, Failure.DIVERGED, diverged, measures)
    if fell_s is not None or fault:
        measures["fall_time_s"] = fell_s if fell_s is not None else float(trace.time_s[-1])
        if task.kind == "walk_to":
            measures |= _walk_measures(task, trace)
        return Verdict(
            False, Failure.FALL, f"{fault or 'fell'} after {measures['fall_time_s']:.1f} s (tilt up to {measures['max_tilt_deg']:.0f} deg)", measures
        )
    if task.kind == "walk_to":
        return _judge_walk(task, trace, criteria, measures)
    if task.kind in ("turn", "step"):
        return _judge_motion(task, trace, criteria, measures, duration_s or trace.duration_s)
    if task.kind in ("squat", "stand"):
        if stance_target_m is None:
            raise ValueError(f"judging {task.instruction!r} needs stance_target_m, the height that the instruction asks for")
        return _judge_stance(task, trace, criteria, measures, stance_target_m)
    if task.kind == "wave":
        return _judge_wave(task, trace, criteria, measures)
    raise ValueError(f"no success criterion for task kind {task.kind!r}")


def _common_measures(trace: Trace) -> dict[str, float]:
    forward, left, yaw = trace.displacement()
    moving = np.flatnonzero(np.any(trace.command[:, :3] != 0, axis=1))
    return {
        "duration_s": trace.duration_s,
        "last_flag_s": float(trace.time_s[moving[-1]] - trace.time_s[0]) if len(moving) else 0.0,  # when it was last told to move
        "max_tilt_deg": math.degrees(float(trace.tilt_rad.max())),
        "forward_m": float(forward),
        "left_m": float(left),
        "yaw_deg": math.degrees(float(yaw)),
        "final_stance_height_m": float(np.mean(trace.stance_height_m[trace.tail(0.5)])),
        "command_switches_per_s": float(np.count_nonzero(np.any(np.diff(trace.command[:, :3], axis=0) != 0, axis=1)) / trace.duration_s),
    }


def _walk_measures(task: Task, trace: Trace) -> dict[str, float]:
    box = trace.box(task.color)
    measures = {
        "gap_m": box.face_distance(trace.xyz[-1]),
        "start_gap_m": box.face_distance(trace.xyz[0]),
        "facing_error_deg": abs(math.degrees(bearing_to(box, trace.xyz[-1], trace.yaw[-1]))),
        "start_bearing_deg": math.degrees(bearing_to(box, trace.xyz[0], trace.yaw[0])),
        "objects_touched": float(len(trace.touched)),
    }
    if task.color in trace.in_view:
        measures["in_view_share"] = float(np.mean(trace.in_view[task.color]))
    return measures


def _judge_walk(task: Task, trace: Trace, criteria: Criteria, measures: dict[str, float]) -> Verdict:
    measures = measures | _walk_measures(task, trace)
    error_m = abs(measures["gap_m"] - criteria.stand_off_m)
    travel, turn = unrest(trace, criteria)
    measures |= {"stand_off_error_m": error_m, "unrest_m": travel, "unrest_deg": math.degrees(turn)}
    stopped, still = is_stopped(trace, criteria), is_still(trace, criteria)
    placed = error_m <= criteria.stand_off_tolerance_m
    facing = measures["facing_error_deg"] <= criteria.facing_tolerance_deg
    where = f"{measures['gap_m']:.2f} m before the {task.color} box, facing error {measures['facing_error_deg']:.0f} deg"

    def fail(kind: Failure, text: str) -> Verdict:
        return Verdict(False, kind, text, measures)

    if placed and facing and still:
        return Verdict(True, None, f"stands {where}", measures)
    if measures["gap_m"] < criteria.stand_off_m - criteria.stand_off_tolerance_m:
        return fail(Failure.COLLIDE, f"came too close: {where}")
    if stopped:
        if placed and facing:
            return fail(Failure.RESTLESS, f"drifts by {travel:.2f} m and {math.degrees(turn):.0f} deg within {criteria.still_window_s / 2:g} s: {where}")
        if placed:
            return fail(Failure.FACING, f"stopped {where}")
        wrong = _box_stood_at(task, trace, criteria)
        if wrong:
            return fail(Failure.WRONG_BOX, f"stopped at the {wrong} box, {where}")
        return fail(Failure.STOP_EARLY, f"stopped too far away: {where}")
    if trace.touched:
        return fail(Failure.COLLIDE, f"ran into {', '.join(sorted(trace.touched))} and did not arrive: {where}")
    if error_m <= criteria.stand_off_tolerance_m + criteria.near_m:
        return fail(Failure.OSCILLATION, f"did not come to rest near the box: {where}")
    seen = trace.in_view.get(task.color)
    if seen is not None and not np.any(seen[trace.tail(2.0)]):
        return fail(Failure.LOST_UNSEEN, f"time ran out with the {task.color} box out of view: {where}")
    return fail(Failure.TIMEOUT, f"time ran out: {where}")


def _box_stood_at(task: Task, trace: Trace, criteria: Criteria) -> str:
    """Colour of the other box that the robot stands properly before, "" for none."""
    for box in trace.boxes:
        bearing_deg = abs(math.degrees(bearing_to(box, trace.xyz[-1], trace.yaw[-1])))
        near = abs(box.face_distance(trace.xyz[-1]) - criteria.stand_off_m) <= criteria.stand_off_tolerance_m
        # Twice the facing tolerance: that it stood at a wrong box is the finding, not how neatly.
        if box.color != task.color and near and bearing_deg <= 2.0 * criteria.facing_tolerance_deg:
            return box.color
    return ""


def _judge_motion(task: Task, trace: Trace, criteria: Criteria, measures: dict[str, float], duration_s: float) -> Verdict:
    sign = 1.0 if task.side == "left" else -1.0
    forward, left, yaw = trace.displacement()
    if task.kind == "turn":
        moved, least, unit = sign * yaw, criteria.min_turn_rad_s * duration_s, "rad"
        drift = float(np.hypot(forward, left))
        drifted = drift > criteria.turn_drift_m
        drift_text = f"moved {drift:.2f} m meanwhile (at most {criteria.turn_drift_m} m)"
    else:
        moved, least, unit = sign * left, criteria.min_step_m_s * duration_s, "m"
        turn_deg = abs(math.degrees(float(yaw)))
        drifted = abs(forward) > criteria.step_drift_m or turn_deg > criteria.step_turn_deg
        limits = f"at most {criteria.step_drift_m} m, {criteria.step_turn_deg:.0f} deg"
        drift_text = f"went {forward:+.2f} m ahead and turned {turn_deg:.0f} deg meanwhile ({limits})"
    measures = measures | {"moved": float(moved), "least": float(least)}
    did = f"{moved:+.2f} {unit} to the {task.side}, asked for {duration_s:.1f} s, at least {least:.2f} {unit} counts"
    if moved < -0.25 * least:
        return Verdict(False, Failure.WRONG_WAY, did, measures)
    if moved < least:
        return Verdict(False, Failure.TOO_LITTLE, did, measures)
    if drifted:
        return Verdict(False, Failure.DRIFT, f"{did}; {drift_text}", measures)
    return Verdict(True, None, did, measures)


def _judge_stance(task: Task, trace: Trace, criteria: Criteria, measures: dict[str, float], target_m: float) -> Verdict:
    height = measures["final_stance_height_m"]
    drift = float(np.hypot(measures["forward_m"], measures["left_m"]))
    measures = measures | {"stance_error_m": height - target_m, "drift_m": drift}
    did = f"stance height {height:.3f} m, target {target_m:.3f} m"
    if abs(height - target_m) > criteria.stance_tolerance_m:
        return Verdict(False, Failure.HEIGHT, did, measures)
    if drift > criteria.stance_drift_m:
        return Verdict(False, Failure.DRIFT, f"{did}; moved {drift:.2f} m meanwhile (at most {criteria.stance_drift_m} m)", measures)
    return Verdict(True, None, did, measures)


def count_swings(position: np.ndarray, least_m: float) -> int:
    """Number of half swings in a [N] coordinate: turning points that are at least ``least_m`` apart, less one.

    A turning point counts only once the coordinate has come back from it by ``least_m`` (so noise and slow drift do not).
    """
    swings, extreme, direction = 0, float(position[0]), 0
    low = high = float(position[0])
    for value in position[1:]:
        if direction == 0:
            low, high = min(low, value), max(high, value)
            if value - low >= least_m:
                direction, extreme, swings = 1, value, 1
            elif high - value >= least_m:
                direction, extreme, swings = -1, value, 1
        elif direction * (value - extreme) > 0:
            extreme = value
        elif direction * (extreme - value) >= least_m:
            direction, extreme, swings = -direction, value, swings + 1
    return swings


def _hand_measures(hand: np.ndarray, criteria: Criteria) -> tuple[float, int]:
    """(share of time that the hand is up, swings while it is up)."""
    up = hand[:, 2] >= criteria.wave_raise_m
    if np.count_nonzero(up) < 2:
        return float(np.mean(up)), 0
    raised = hand[np.argmax(up) :]
    # The widest axis: whether the arm waves sideways or to and fro is the demonstrator's choice, not a criterion.
    return float(np.mean(up)), max(count_swings(raised[:, axis], criteria.wave_swing_m) for axis in range(raised.shape[1]))


def _judge_wave(task: Task, trace: Trace, criteria: Criteria, measures: dict[str, float]) -> Verdict:
    if set(trace.hands) < {"left", "right"}:
        raise ValueError(f"judging a wave needs both hands in the trace, got {sorted(trace.hands)}")
    other = "right" if task.side == "left" else "left"
    up, swings = _hand_measures(trace.hands[task.side], criteria)
    other_up, other_swings = _hand_measures(trace.hands[other], criteria)
    drift = float(np.hypot(measures["forward_m"], measures["left_m"]))
    height = float(trace.hands[task.side][:, 2].max())
    measures = measures | {"hand_height_m": height, "hand_up_share": up, "swings": float(swings), "other_swings": float(other_swings), "drift_m": drift}
    did = f"{task.side} hand up to {height:+.2f} m over the pelvis, {swings} swings (at least {criteria.wave_raise_m:+.2f} m and {criteria.wave_swings})"
    if other_swings >= criteria.wave_swings and other_up > up:
        return Verdict(False, Failure.WRONG_ARM, f"waved the {other} arm; {did}", measures)
    if swings < criteria.wave_swings:
        return Verdict(False, Failure.NO_SWING, did, measures)
    if drift > criteria.stance_drift_m:
        return Verdict(False, Failure.DRIFT, f"{did}; moved {drift:.2f} m meanwhile", measures)
    return Verdict(True, None, did, measures)

"""From a log to numbers per episode. All lengths m, angles rad. A fallen robot has no accuracy: its numbers are NaN, its fall is counted."""

from __future__ import annotations

import numpy as np

from wbvla_core.numeric import wrap
from wbvla_core.robot import RobotSpec
from wbvla_eval.lmo.programs import DT_S, SETTLE_S, GoTo, ticks
from wbvla_eval.lmo.runner import Log

Numbers = dict[str, np.ndarray]  # name -> [N]

STRIDE_TICKS = 36  # 0.72 s: path lengths are taken at this spacing, so that the sway of the gait is not counted as way
LEAST_WAY_M = 0.5  # numbers per metre need at least this much of it
GRAVITY_M_S2 = 9.81
OFF_TICKS = 5  # a foot that lands has been off the ground for this long
MANY_STEPS = 8
REST_S = 1.0
POSITION_TOLERANCE_M, HEADING_TOLERANCE_RAD = 0.15, np.radians(5.0)  # arrival (issue: 15 cm and 5 deg)
ARRIVED_S = 1.5  # of standing still at the goal; ours
STILL_M, STILL_RAD = 0.03, np.radians(2.0)  # greatest change of pose over it; ours


def in_frame(xy: np.ndarray, yaw: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Points [N, 2] seen from poses (xy [N, 2], yaw [N])."""
    d, cos, sin = point - xy, np.cos(yaw), np.sin(yaw)
    return np.stack((cos * d[:, 0] + sin * d[:, 1], cos * d[:, 1] - sin * d[:, 0]), axis=1)


def integrate(velocity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pose that a body-frame velocity reference [T, N, 3] leads to from the origin: xy [N, 2], heading [N]."""
    yaw = np.cumsum(velocity[..., 2], axis=0) * DT_S
    before = yaw - 0.5 * velocity[..., 2] * DT_S  # middle of the tick
    cos, sin = np.cos(before), np.sin(before)
    vx, vy = velocity[..., 0], velocity[..., 1]
    return np.stack(((cos * vx - sin * vy).sum(axis=0), (sin * vx + cos * vy).sum(axis=0)), axis=1) * DT_S, yaw[-1]


def survivors(log: Log, numbers: Numbers) -> Numbers:
    """NaN where the robot fell."""
    return {k: np.where(log.fell, np.nan, np.asarray(v, dtype=float)) for k, v in numbers.items()}


def accuracy(log: Log, robot: RobotSpec, cruise: np.ndarray) -> Numbers:
    """Where the robot rests at the end of the episode, against cruise speed x time of the flag in the frame of its pose when the flag was set.

    position_m, heading_rad: the whole error. reference_*: error of the controller's own reference, integrated. tracking_*: robot against that reference.
    ahead_m, left_m, turn_rad: signed whole error in the start frame.
    """
    start = ticks(SETTLE_S)
    asked = log.flags.astype(float).sum(axis=0) * DT_S * cruise  # [N, 3]; one axis at a time, so no integration is needed
    pose = in_frame(log.xy[start - 1], log.yaw[start - 1], log.xy[-1])
    turned = log.yaw[-1] - log.yaw[start - 1]
    out = {
        "position_m": np.linalg.norm(pose - asked[:, :2], axis=1),
        "heading_rad": np.abs(wrap(turned - asked[:, 2])),
        "ahead_m": pose[:, 0] - asked[:, 0],
        "left_m": pose[:, 1] - asked[:, 1],
        "turn_rad": wrap(turned - asked[:, 2]),
    }
    if log.reference is not None:
        xy, yaw = integrate(log.reference[start:])
        out |= {
            "reference_m": np.linalg.norm(xy - asked[:, :2], axis=1),
            "reference_rad": np.abs(wrap(yaw - asked[:, 2])),
            "tracking_m": np.linalg.norm(pose - xy, axis=1),
            "tracking_rad": np.abs(wrap(turned - yaw)),
        }
    return survivors(log, out)


def stability(log: Log, robot: RobotSpec, cruise: np.ndarray, *, from_s: float) -> Numbers:
    """coms_m: sqrt(mean |c - mean c|^2) of the horizontal centre of mass (paper, A7) from ``from_s`` on; drift_m, drift_rad: pelvis from then to the end."""
    a = ticks(from_s)
    com = log.com[a:]
    coms = np.sqrt(np.mean(np.sum((com - com.mean(axis=0)) ** 2, axis=-1), axis=0))
    return survivors(log, {"coms_m": coms, "drift_m": np.linalg.norm(log.xy[-1] - log.xy[a], axis=-1), "drift_rad": np.abs(log.yaw[-1] - log.yaw[a])})


def arrival(log: Log, robot: RobotSpec, cruise: np.ndarray) -> Numbers:
    """Arrival: the flags have been zero for ARRIVED_S, the pose has changed by at most 3 cm and 2 deg over it, and lies within 15 cm and 5 deg of the goal.

    success: this happened within the time, on its feet. arrival_s: when (from the goal's announcement to the beginning of that rest). position_m, heading_rad:
    errors at the end of that rest. end_position_m, end_heading_rad: at the end of the episode, arrived or not.
    """
    assert isinstance(log.program, GoTo)
    goals, rest, start = log.program.goals, ticks(ARRIVED_S), ticks(SETTLE_S)
    position = np.linalg.norm(log.xy - goals[:, :2], axis=-1)  # [T, N]
    heading = np.abs(wrap(log.yaw - goals[:, 2]))
    flags_up = np.cumsum(log.flags.any(axis=2), axis=0)
    here = np.zeros(position.shape, dtype=bool)
    still = np.linalg.norm(log.xy[rest:] - log.xy[:-rest], axis=-1) <= STILL_M
    still &= np.abs(log.yaw[rest:] - log.yaw[:-rest]) <= STILL_RAD
    quiet = flags_up[rest:] == flags_up[:-rest]
    here[rest:] = still & quiet & (position[rest:] <= POSITION_TOLERANCE_M) & (heading[rest:] <= HEADING_TOLERANCE_RAD) & log.alive[rest:]
    here[: start + rest] = False
    success = here.any(axis=0)
    when, robots = np.argmax(here, axis=0), np.arange(here.shape[1])
    return {
        "success": success.astype(float),
        "arrival_s": np.where(success, (when - rest - start) * DT_S, np.nan),
        "position_m": np.where(success, position[when, robots], np.nan),
        "heading_rad": np.where(success, heading[when, robots], np.nan),
    } | survivors(log, {"end_position_m": position[-1], "end_heading_rad": heading[-1]})


def squatting(log: Log, robot: RobotSpec, cruise: np.ndarray, *, half_s: float) -> Numbers:
    """height_error_m: mean |pelvis height - command| over the last second of each half cycle; drift as in stability."""
    ends = np.arange(ticks(SETTLE_S + half_s), len(log.height) + 1, ticks(half_s))
    errors = [np.abs(log.height[e - ticks(REST_S) : e] - log.height_command[e - ticks(REST_S) : e]).mean(axis=0) for e in ends]
    a = ticks(SETTLE_S)
    drift = np.linalg.norm(log.xy[-1] - log.xy[a], axis=-1)
    return survivors(log, {"height_error_m": np.mean(errors, axis=0), "drift_m": drift, "drift_rad": np.abs(log.yaw[-1] - log.yaw[a])})


def cart(log: Log, robot: RobotSpec, cruise: np.ndarray) -> Numbers:
    """pushed_m: way of the cart (also of those that fell). speed_part: robot's way while the flag was up as part of cruise speed x time.

    heading_rad: at the end, against the start.
    """
    assert log.thing is not None
    start, up = ticks(SETTLE_S), log.flags[..., 0].any(axis=1)
    end = int(np.flatnonzero(up)[-1]) if up.any() else len(up) - 1  # none: all had fallen before
    ahead = in_frame(log.xy[start - 1], log.yaw[start - 1], log.xy[end])[:, 0]
    part = ahead / ((end + 1 - start) * DT_S * cruise[0])
    return {"pushed_m": log.thing[-1] - log.thing[start - 1]} | survivors(log, {"speed_part": part, "heading_rad": np.abs(log.yaw[-1] - log.yaw[start - 1])})


def switching(log: Log, robot: RobotSpec, cruise: np.ndarray) -> Numbers:
    """kept_part: component of the measured velocity along the command, as part of it, over all moving time (1 = as asked): regression through the origin."""
    a = ticks(SETTLE_S)
    step = np.diff(log.xy[a:], axis=0) / DT_S
    yaw = log.yaw[a:-1]
    cos, sin = np.cos(yaw), np.sin(yaw)
    measured = np.stack(
        (cos * step[..., 0] + sin * step[..., 1], cos * step[..., 1] - sin * step[..., 0], np.diff(log.yaw[a:], axis=0) / DT_S), axis=-1
    )  # [T, N, 3]
    wish = log.flags[a + 1 :].astype(float)
    unit = measured / cruise
    with np.errstate(invalid="ignore", divide="ignore"):
        return survivors(log, {"kept_part": np.sum(unit * wish, axis=(0, 2)) / np.sum(wish * wish, axis=(0, 2))})


def quality(log: Log, robot: RobotSpec) -> Numbers:
    """What the gait costs, for every suite, while the robot is on its feet and after the settling.

    slip_m_per_m: way of soles that carry weight, per metre of way. energy_j_per_m: positive mechanical work of the leg drives per metre.
    over_part: part of (leg joint, 5 ms step) whose demanded torque lay outside the torque-speed limits. peak_torque_part, peak_speed_part: greatest
    demanded torque and greatest speed of a leg joint over their limits. impact_weights: greatest vertical force on one foot, in body weights.
    self_contact_part: part of the time in touch with itself. clearance_m: 90th percentile height of unloaded soles while a flag is up.
    steps_hz: touch-downs per second while a flag is up (both feet; a foot must have been off for 0.1 s). uneven_part: difference of left and right touch-downs
    over their sum, from MANY_STEPS on. rest_rad_s: root mean square leg joint speed when no flag has been up for 2 s.
    lean_rad: mean forward pitch of the pelvis.
    """
    a = ticks(SETTLE_S)
    alive = log.alive[a:]
    marks = np.unique(np.append(np.arange(a, len(log.xy), STRIDE_TICKS), len(log.xy) - 1))
    way = np.linalg.norm(np.diff(np.where(log.alive[marks, :, None], log.xy[marks], np.nan), axis=0), axis=-1)
    way = np.nansum(way, axis=0)
    both = log.loaded[a + 1 :] & log.loaded[a:-1] & alive[1:, :, None]
    slid = np.sum(np.linalg.norm(np.diff(log.feet[a:, ..., :2], axis=0), axis=-1) * both, axis=(0, 2))
    time = np.where(alive.any(axis=0), alive.sum(axis=0), np.nan)  # NaN for a robot that fell while it settled
    enough = way >= LEAST_WAY_M
    per_m = np.where(enough, 1.0 / np.maximum(way, 1e-6), np.nan)

    def peak(values: np.ndarray) -> np.ndarray:
        return np.where(alive.any(axis=0), np.max(np.where(alive, values, 0.0), axis=0), np.nan)

    weight = robot.total_mass_kg * GRAVITY_M_S2
    swing = ~log.loaded[a:] & alive[..., None] & log.flags[a:].any(axis=2)[..., None]
    heights = np.where(swing, log.feet[a:, ..., 2], np.nan).transpose(1, 0, 2).reshape(len(way), -1)
    has = np.isfinite(heights).sum(axis=1) > STRIDE_TICKS
    clearance = np.full(len(way), np.nan)
    if has.any():
        clearance[has] = np.nanpercentile(heights[has], 90, axis=1)
    walking = log.flags[a:].any(axis=2) & alive  # [T, N]
    off = np.cumsum(np.concatenate((np.zeros((1, *log.loaded.shape[1:])), ~log.loaded[a:])), axis=0)
    landed = np.zeros(log.loaded[a:].shape, dtype=bool)  # loaded now, not once in the OFF_TICKS before
    landed[OFF_TICKS:] = log.loaded[a + OFF_TICKS :] & (off[OFF_TICKS:-1] - off[: -OFF_TICKS - 1] == OFF_TICKS)
    landings = np.sum(landed & walking[..., None], axis=0).astype(float)  # [N, 2]
    steps, walked_s = landings.sum(axis=1), walking.sum(axis=0) * DT_S
    since = np.cumsum(log.flags.any(axis=2), axis=0)
    resting = np.zeros(log.alive.shape, dtype=bool)
    resting[a:] = (since[a:] == since[:-a]) & alive  # SETTLE_S without a flag
    shake = np.sum(log.shake.astype(float) ** 2 * resting, axis=0)
    many = np.where(steps >= MANY_STEPS, steps, np.nan)
    return {
        "steps_hz": np.where(walked_s >= 1.0, steps / np.maximum(walked_s, DT_S), np.nan),
        "uneven_part": np.abs(landings[:, 0] - landings[:, 1]) / many,
        "rest_rad_s": np.where(resting.any(axis=0), np.sqrt(shake / np.maximum(resting.sum(axis=0), 1)), np.nan),
        "slip_m_per_m": slid * per_m,
        "energy_j_per_m": np.sum(log.work_j[a:] * alive, axis=0) * per_m,
        "over_part": np.sum(log.over[a:] * alive, axis=0) / time,
        "peak_torque_part": peak(log.torque[a:]),
        "peak_speed_part": peak(log.speed[a:]),
        "impact_weights": peak(log.force_n[a:].max(axis=-1)) / weight,
        "self_contact_part": np.sum(log.self_contact[a:] & alive, axis=0) / time,
        "clearance_m": clearance,
        "lean_rad": np.sum(log.pitch[a:] * alive, axis=0) / time,
        "way_m": way,
    }

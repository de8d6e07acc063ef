"""How the camera wearer moves: eight locomotion primitives and reaching hands, as functions of time.

Nothing here is a label: the trajectories only move cameras and hands in :mod:`wbvla_train.data.video`; they are written to
``truth`` files apart from the video, which training never opens.

Primitives: the eight of the paper's video collection (A6: advance, retreat, side-steps, turns, squat, rise; the exact list is
not quoted there, so this one is ours). Speeds, bob and sway: prior work (our prototype, lam_cpu), chosen around the robot's
cruise of 0.3 m/s.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from wbvla_core.numeric import minimum_jerk

# name -> direction of (forward, left, turn left, rise)
PRIMITIVES: dict[str, tuple[int, int, int, int]] = {
    "stand": (0, 0, 0, 0),
    "advance": (1, 0, 0, 0),
    "retreat": (-1, 0, 0, 0),
    "step_left": (0, 1, 0, 0),
    "step_right": (0, -1, 0, 0),
    "turn_left": (0, 0, 1, 0),
    "turn_right": (0, 0, -1, 0),
    "squat": (0, 0, 0, -1),
    "rise": (0, 0, 0, 1),
}

# Where hands go, from the shoulder, level frame, m: (nearest, farthest) ahead, (inward, outward), (lowest, highest).
REACH_AHEAD_M, REACH_ASIDE_M, REACH_DOWN_M = (0.20, 0.46), (-0.18, 0.14), (-0.36, -0.06)


@dataclass(frozen=True)
class Wearer:
    """Who carries the camera, and how they move. Lengths m, angles rad, rates Hz.

    Attributes:
        kind: "human" (round limbs, eye height) or "robot" (box limbs, the robot's camera height).
        height_m: camera height above the floor when upright; squat_m: how far it can sink.
        speed, turn, rise: (min, max) of the commanded speed, m/s, rad/s, m/s.
        lag_s: first-order lag of the body behind the command.
        bob_m, sway_m: (min, max) amplitude of the gait's vertical and lateral oscillation; cadence_hz: of the steps.
        tremor_rad: (min, max) angular oscillation; drift_rad: random-walk jitter per square root of a second.
        shoulder: left shoulder seen from the camera in the level frame [3] (forward, left, up).
    """

    kind: str
    height_m: tuple[float, float]
    squat_m: float
    speed: tuple[float, float]
    turn: tuple[float, float]
    rise: tuple[float, float]
    lag_s: float
    bob_m: tuple[float, float]
    sway_m: tuple[float, float]
    cadence_hz: tuple[float, float]
    tremor_rad: tuple[float, float]
    drift_rad: float
    shoulder: tuple[float, float, float]


HUMAN = Wearer(
    kind="human", height_m=(1.48, 1.72), squat_m=0.55, speed=(0.22, 0.45), turn=(0.3, 0.7), rise=(0.10, 0.25), lag_s=0.15, bob_m=(0.010, 0.030),
    sway_m=(0.008, 0.025), cadence_hz=(1.5, 2.1), tremor_rad=(0.005, 0.017), drift_rad=0.008, shoulder=(-0.10, 0.19, -0.28),
)  # fmt: skip
# Camera 0.505 m above and 0.066 m before the pelvis, shoulders 0.397 m above it, 0.143 m aside (X2 URDF); pelvis 0.46-0.66 m.
ROBOT = Wearer(
    kind="robot", height_m=(1.12, 1.17), squat_m=0.20, speed=(0.15, 0.35), turn=(0.25, 0.55), rise=(0.06, 0.20), lag_s=0.15, bob_m=(0.003, 0.012),
    sway_m=(0.005, 0.020), cadence_hz=(1.2, 1.9), tremor_rad=(0.004, 0.015), drift_rad=0.006, shoulder=(-0.07, 0.143, -0.11),
)  # fmt: skip
# A Unitree G1, by its published sizes: camera 1.2 m above the floor, 0.1 m lower shoulders than the X2's seen from it. Gait: ours, between the other two.
OTHER_ROBOT = replace(ROBOT, height_m=(1.17, 1.22), squat_m=0.30, shoulder=(-0.06, 0.10, -0.14))


@dataclass(frozen=True)
class BodyPath:
    """The wearer's motion, sampled. Level frame of the start; ``height`` is the camera's, without bob.

    Attributes:
        pose: [T, 4] x, y, yaw, camera height: the smooth path (the truth that probes are measured against).
        command: [T, 4] directions (forward, left, turn left, rise) in force, in {-1, 0, 1}.
        wobble: [T, 6] what the gait adds to the camera: x, y, z m, roll, pitch, yaw rad, in the body's frame.
    """

    pose: np.ndarray
    command: np.ndarray
    wobble: np.ndarray = field(repr=False)


def draw_command(rng: np.random.Generator) -> np.ndarray:
    """[4] directions: 8/11 one primitive, 1/11 standing, 2/11 two axes at once (prior work: our prototype)."""
    kind = rng.integers(11)
    names = list(PRIMITIVES)[1:]
    if kind == 0:
        return np.zeros(4, dtype=np.int64)
    command = np.array(PRIMITIVES[names[rng.integers(len(names))]])
    if kind <= 2:
        other = np.array(PRIMITIVES[names[rng.integers(len(names))]])
        command = np.where(command != 0, command, other)
    return command


def body_path(rng: np.random.Generator, wearer: Wearer, frames: int, dt_s: float, change_rate: float) -> BodyPath:
    """Draw a path of ``frames`` samples. With probability ``change_rate`` the command changes once on the way.

    A squat that would go below the wearer's range (a rise above it) stops at the end of the range; the start height is drawn
    so that there is room for most of it.
    """
    command = np.repeat(draw_command(rng)[None], frames, axis=0)  # [T, 4]
    if rng.random() < change_rate:
        command[rng.integers(frames // 4, 3 * frames // 4 + 1) :] = draw_command(rng)
    rates = np.array((rng.uniform(*wearer.speed), rng.uniform(*wearer.speed), rng.uniform(*wearer.turn), rng.uniform(*wearer.rise)))
    top = rng.uniform(*wearer.height_m)
    bottom = top - wearer.squat_m
    room = min(wearer.squat_m, rates[3] * frames * dt_s)
    height = {-1: rng.uniform(bottom + room, top), 0: rng.uniform(bottom, top) if rng.random() < 0.35 else top, 1: rng.uniform(bottom, top - room)}[
        int(command[0, 3])
    ]

    pose = np.zeros((frames, 4))
    pose[0, 3] = height
    velocity = command[0] * rates * float(rng.random() < 0.7)  # most clips start in motion, some from rest
    state = pose[0].copy()
    for t in range(1, frames):
        state, velocity = follow(state, velocity, command[t] * rates, wearer, dt_s, top)
        pose[t] = state
    return BodyPath(pose, command, gait_wobble(rng, wearer, command, dt_s))


def follow(state: np.ndarray, velocity: np.ndarray, wanted: np.ndarray, wearer: Wearer, dt_s: float, top_m: float) -> tuple[np.ndarray, np.ndarray]:
    """One step of the body behind its command.

    Args:
        state: [4] x, y, yaw, camera height. velocity: [4] forward, left, turn, rise; wanted: [4] the same, commanded.
        top_m: the camera's height when upright; ``wearer.squat_m`` below it the height stops.

    Returns:
        state and velocity ``dt_s`` later.
    """
    substeps = 4
    h = dt_s / substeps
    for _ in range(substeps):
        velocity = velocity + (wanted - velocity) * (h / wearer.lag_s)
        cos, sin = np.cos(state[2]), np.sin(state[2])
        state = state + h * np.array((cos * velocity[0] - sin * velocity[1], sin * velocity[0] + cos * velocity[1], velocity[2], velocity[3]))
        state[3] = np.clip(state[3], top_m - wearer.squat_m, top_m)
    return state, velocity


def standing_path(rng: np.random.Generator, wearer: Wearer, frames: int, dt_s: float) -> BodyPath:
    """Standing upright, nearly still: manipulation video."""
    command = np.zeros((frames, 4), dtype=np.int64)
    pose = np.tile((0.0, 0.0, 0.0, rng.uniform(*wearer.height_m)), (frames, 1))
    return BodyPath(pose, command, 0.5 * gait_wobble(rng, wearer, command, dt_s))


def gait_wobble(rng: np.random.Generator, wearer: Wearer, command: np.ndarray, dt_s: float) -> np.ndarray:
    """[T, 6] gait bob and sway (only while stepping, faded in over 0.3 s), tremor and random-walk drift."""
    frames = len(command)
    t = np.arange(frames) * dt_s
    stepping = np.any(command[:, :3] != 0, axis=1).astype(float)
    smooth = max(round(0.3 / dt_s), 1)
    stepping = np.convolve(np.pad(stepping, (smooth - 1, 0), mode="edge"), np.ones(smooth) / smooth, mode="valid")
    phase = 2.0 * np.pi * rng.uniform(*wearer.cadence_hz) * t + rng.uniform(0.0, 2.0 * np.pi)
    bob, sway, tremor = rng.uniform(*wearer.bob_m), rng.uniform(*wearer.sway_m), rng.uniform(*wearer.tremor_rad)
    wobble = np.zeros((frames, 6))
    wobble[:, 1] = sway * np.sin(phase / 2.0)
    wobble[:, 2] = bob * np.sin(phase)
    wobble[:, 3] = tremor * np.sin(phase / 2.0 + 0.5)
    wobble[:, 4] = tremor * np.sin(phase + 1.0)
    wobble[:, 5] = 0.5 * tremor * np.sin(phase / 2.0 + 2.0)
    wobble *= (0.05 + 0.95 * stepping)[:, None]
    wobble[:, 3:] += np.cumsum(rng.normal(0.0, wearer.drift_rad * np.sqrt(dt_s), (frames, 3)), axis=0)
    wobble[:, :3] += np.cumsum(rng.normal(0.0, 0.003 * np.sqrt(dt_s), (frames, 3)), axis=0)
    return wobble


def hand_path(rng: np.random.Generator, wearer: Wearer, side: int, frames: int, dt_s: float, active: bool) -> np.ndarray:
    """[T, 3] hand in the wearer's level camera frame, m: minimum-jerk moves between random points in reach.

    Args:
        side: +1 left, -1 right. active: a resting hand stays at its first point.
    """

    def point() -> np.ndarray:
        offset = np.array((rng.uniform(*REACH_AHEAD_M), rng.uniform(*REACH_ASIDE_M), rng.uniform(*REACH_DOWN_M)))
        return np.array(wearer.shoulder) * (1, side, 1) + offset * (1, side, 1)

    times, points = [-rng.uniform(0.0, 0.8)], [point()]
    while times[-1] < frames * dt_s:
        times.append(times[-1] + rng.uniform(0.7, 1.3))
        points.append(point() if active else points[0])
    out = np.zeros((frames, 3))
    for i in range(frames):
        k = int(np.searchsorted(times, i * dt_s, side="right")) - 1
        u = (i * dt_s - times[k]) / (times[k + 1] - times[k])
        out[i] = points[k] + (points[k + 1] - points[k]) * minimum_jerk(u)
    return out

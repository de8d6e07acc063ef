"""Walks that lead somewhere: the eight primitives in the order that a manipulation goal asks for, and hands that take things.

The paper's operator executes locomotion primitives "toward potential manipulation goals" (A6). :func:`errand` walks up to things in a
room: turn to it, advance, side-step in front of it, retreat where too close, squat if it is low, reach for it, rise, and leave for the
next. :func:`pick_and_place` stands before a table and moves things about. Both are ours; what is drawn here is truth, never a label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wbvla_core.numeric import minimum_jerk, wrap
from wbvla_train.data.motion import PRIMITIVES, BodyPath, Wearer, follow, gait_wobble

ARM_M = 0.55  # how far a hand gets from its shoulder
STAND_OFF_M = (0.28, 0.42)  # between the body and what it goes to
ALIGNED_RAD, LOST_RAD = 0.10, 0.35  # a turn ends below the first; walking is interrupted for one above the second
ASIDE_M = (0.04, 0.12)  # a side-step ends below the first and begins above the second
ABOVE_GOAL_M = {"human": 0.85, "robot": 0.60}  # how high above a thing the camera stays that reaches for it


@dataclass(frozen=True)
class Errand:
    """One long walk in world coordinates.

    Attributes:
        path: pose and command per frame.
        hands: [T, 2, 3] left and right hand in the wearer's level camera frame, m.
        carrying: [T, 2] whether a hand holds a thing.
        goal: [T] which of the room's obstacles it is about.
    """

    path: BodyPath
    hands: np.ndarray
    carrying: np.ndarray
    goal: np.ndarray


@dataclass
class _Walker:
    """Decides, at every frame, which primitive the goal asks for."""

    rng: np.random.Generator
    wearer: Wearer
    top_m: float
    obstacles: np.ndarray
    goal: int = -1
    phase: str = "turn"
    way: str = "retreat"
    stand_off_m: float = 0.0
    left_s: float = 0.0
    stepping: bool = False

    def choose(self, xy: np.ndarray) -> None:
        """Go on to another thing, rather a near one."""
        distance = np.linalg.norm(self.obstacles[:, :2] - xy, axis=1)
        weight = np.exp(-distance / 1.5) * (np.arange(len(self.obstacles)) != self.goal)
        self.goal = int(self.rng.choice(len(self.obstacles), p=weight / weight.sum()))
        self.phase, self.stand_off_m = "turn", self.rng.uniform(*STAND_OFF_M)

    def primitive(self, pose: np.ndarray, dt_s: float) -> str:
        x, y, yaw, height = pose
        goal_x, goal_y, radius, goal_top = self.obstacles[self.goal]
        away = np.array((goal_x - x, goal_y - y))
        bearing = float(wrap(np.arctan2(away[1], away[0]) - yaw))
        gap = float(np.linalg.norm(away)) - radius - self.stand_off_m
        aside = float(np.linalg.norm(away)) * np.sin(bearing)
        wanted = float(np.clip(goal_top + ABOVE_GOAL_M[self.wearer.kind], self.top_m - self.wearer.squat_m, self.top_m))
        if self.phase in ("turn", "advance") and gap < 0.0:
            self.phase = "aside" if abs(bearing) < 0.8 else "face"
        if self.phase in ("turn", "face"):
            if abs(bearing) > ALIGNED_RAD:
                return "turn_left" if bearing > 0 else "turn_right"
            self.phase = "aside" if gap < 0.0 else "advance"
        if self.phase == "advance":
            if abs(bearing) > LOST_RAD:
                self.phase = "turn"
            return "advance"
        if self.phase == "aside":
            if abs(aside) > ASIDE_M[1] or (self.stepping and abs(aside) > ASIDE_M[0]):
                self.stepping = True
                return "step_left" if aside > 0 else "step_right"
            self.stepping, self.phase = False, "distance"
        if self.phase == "distance":
            if gap < -0.12:
                return "retreat"
            self.phase = "stoop"
        if self.phase == "stoop":
            if height > wanted + 0.02:
                return "squat"
            self.phase, self.left_s = "reach", self.rng.uniform(1.4, 2.4)
        if self.phase == "reach":
            self.left_s -= dt_s
            if self.left_s > 0.0:
                return "stand"
            self.phase = "rise"
        if self.phase == "rise":
            if height < self.top_m - 0.02:
                return "rise"
            self.phase, self.left_s = "leave", self.rng.uniform(0.6, 1.4)
            self.way = ("retreat", "retreat", "step_left", "step_right")[self.rng.integers(4)]
        self.left_s -= dt_s
        if self.left_s <= 0.0:
            self.choose(np.array((x, y)))
        return self.way


def errand(rng: np.random.Generator, wearer: Wearer, obstacles: np.ndarray, start: np.ndarray, frames: int, dt_s: float) -> Errand:
    """Draw a walk of ``frames`` frames from goal to goal.

    Args:
        obstacles: [N, 4] x, y, footprint radius, height of what stands in the room; N >= 2.
        start: [3] x, y, yaw.
    """
    top_m = rng.uniform(*wearer.height_m)
    walker = _Walker(rng, wearer, top_m, obstacles)
    walker.choose(start[:2])
    rates = np.array((rng.uniform(*wearer.speed), rng.uniform(*wearer.speed), rng.uniform(*wearer.turn), rng.uniform(*wearer.rise)))
    pose, command = np.zeros((frames, 4)), np.zeros((frames, 4), dtype=np.int64)
    goal, reaching = np.zeros(frames, dtype=np.int64), np.zeros(frames, dtype=bool)
    state, velocity = np.array((*start, top_m)), np.zeros(4)
    pose[0], goal[0] = state, walker.goal
    for t in range(1, frames):
        command[t] = PRIMITIVES[walker.primitive(state, dt_s)]
        goal[t], reaching[t] = walker.goal, walker.phase == "reach"
        state, velocity = follow(state, velocity, command[t] * rates, wearer, dt_s, top_m)
        pose[t] = state
    hands, carrying = _hands(rng, wearer, obstacles, pose, goal, reaching, dt_s)
    return Errand(BodyPath(pose, command, gait_wobble(rng, wearer, command, dt_s)), hands, carrying, goal)


def clear_errand(rng: np.random.Generator, wearer: Wearer, room, frames: int, dt_s: float) -> Errand:
    """An errand in a :class:`rooms.Room` that stays off the walls and walks through as little as possible, best of 20 draws."""
    best, least = None, np.inf
    for _ in range(20):
        start = np.array((*rng.uniform(-1, 1, 2) * (room.half_size - 0.6), rng.uniform(-np.pi, np.pi)))
        drawn = errand(rng, wearer, room.obstacles, start, frames, dt_s)
        xy = drawn.path.pose[:, :2]
        inside = int((np.linalg.norm(xy[:, None] - room.obstacles[:, :2], axis=-1) < 0.8 * room.obstacles[:, 2]).any(axis=1).sum())
        faults = inside + (0 if room.clear(xy, float(drawn.path.pose[:, 3].min()), margin=0.12) else frames)
        if faults < least:
            best, least = drawn, faults
        if least == 0:
            break
    return best


def _hands(
    rng: np.random.Generator, wearer: Wearer, obstacles: np.ndarray, pose: np.ndarray, goal: np.ndarray, reaching: np.ndarray, dt_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Hands that hang, or are held before the body, while walking and go to the thing while reaching, one or both; about half of the things are taken along."""
    frames = len(pose)
    shoulder = np.array(wearer.shoulder)
    hands, carrying = np.zeros((frames, 2, 3)), np.zeros((frames, 2), dtype=bool)
    for side, sign in enumerate((1.0, -1.0)):
        mine = shoulder * (1, sign, 1)
        ahead_m, down_m = ((0.28, 0.42), (0.05, 0.22)) if rng.random() < 0.4 else ((0.05, 0.25), (0.30, 0.42))  # held before the body, or hanging
        rest = mine + np.array((rng.uniform(*ahead_m), sign * rng.uniform(-0.05, 0.08), -rng.uniform(*down_m)))
        target, active, holds = rest, False, False
        now = rest.copy()
        for t in range(frames):
            begins = reaching[t] and (t == 0 or not reaching[t - 1])
            ends = not reaching[t] and t > 0 and reaching[t - 1]
            if begins:
                active, holds = bool(rng.random() < 0.75), False
                target = rest
                if active:
                    x, y, radius, top = obstacles[goal[t]]
                    away = np.array((x, y)) - pose[t, :2]
                    near = away * (1.0 - 0.6 * radius / max(float(np.linalg.norm(away)), 1e-6))
                    cos, sin = np.cos(pose[t, 2]), np.sin(pose[t, 2])
                    point = np.array((cos * near[0] + sin * near[1], -sin * near[0] + cos * near[1] + sign * rng.uniform(0.03, 0.12), top + 0.05 - pose[t, 3]))
                    target = within_reach(point, mine)
            elif ends:
                holds = active and bool(rng.random() < 0.5)
                target = mine + np.array((0.28, 0.0, -0.25)) if holds else rest
            now = now + (target - now) * min(dt_s / 0.25, 1.0)  # first order: most of the way in half a second
            hands[t, side], carrying[t, side] = now, holds
    return hands, carrying


def within_reach(point: np.ndarray, shoulder: np.ndarray) -> np.ndarray:
    """``point``, or where an arm stretched towards it ends."""
    reach = point - shoulder
    return shoulder + reach * min(1.0, ARM_M / max(float(np.linalg.norm(reach)), 1e-6))


@dataclass(frozen=True)
class Handling:
    """What one hand and its thing do before a table, level camera frame, m.

    Attributes:
        hand: [T, 3]; thing: [T, 3] the middle of the thing; held: [T] whether the hand holds it.
    """

    hand: np.ndarray
    thing: np.ndarray
    held: np.ndarray


def pick_and_place(
    rng: np.random.Generator, wearer: Wearer, side: int, table_z_m: float, half_height_m: float, frames: int, dt_s: float, grip: np.ndarray
) -> Handling:
    """Reach for a thing on the table, take it, put it down elsewhere, again and again; minimum-jerk moves.

    Args:
        side: +1 left, -1 right. table_z_m: the table's top seen from the camera (negative). half_height_m: of the thing.
        grip: [3] the thing's middle seen from the hand that holds it.
    """
    shoulder = np.array(wearer.shoulder) * (1, side, 1)

    def spot() -> np.ndarray:
        """A place on the table that the hand can get to."""
        for _ in range(100):
            place = np.array((rng.uniform(0.16, 0.44), side * rng.uniform(0.0, 0.28), table_z_m + half_height_m))
            if np.linalg.norm(place - grip - shoulder) <= ARM_M:
                break
        return place

    def above(thing: np.ndarray) -> np.ndarray:
        return thing - grip

    rest = shoulder + np.array((0.16, side * 0.06, -0.30))
    lies = spot()
    times, points, holding = [-rng.uniform(0.0, 1.5)], [rest], [False]
    things = [lies]
    while times[-1] < frames * dt_s:
        goes = spot()
        for wait_s, point, held, thing in (
            (rng.uniform(0.7, 1.1), above(lies), False, lies),  # reach
            (0.2, above(lies), True, lies),  # close
            (rng.uniform(0.4, 0.7), above(lies) + (0.0, 0.0, rng.uniform(0.08, 0.16)), True, lies),  # lift
            (rng.uniform(0.7, 1.1), above(goes), True, goes),  # put down
            (0.2, above(goes), False, goes),  # open
            (rng.uniform(0.6, 1.0), rest, False, goes),
            (rng.uniform(0.0, 0.6), rest, False, goes),
        ):
            times.append(times[-1] + max(wait_s, 1e-3))
            points.append(point)
            holding.append(held)
            things.append(thing)
        lies = goes
    hand, thing, held = np.zeros((frames, 3)), np.zeros((frames, 3)), np.zeros(frames, dtype=bool)
    for t in range(frames):
        k = int(np.searchsorted(times, t * dt_s, side="right")) - 1
        u = (t * dt_s - times[k]) / (times[k + 1] - times[k])
        hand[t] = points[k] + (points[k + 1] - points[k]) * minimum_jerk(u)
        held[t] = holding[k] and holding[k + 1]
        thing[t] = hand[t] + grip if held[t] else things[k]
    return Handling(hand, thing, held)

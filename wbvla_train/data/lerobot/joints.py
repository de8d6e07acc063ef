"""Joint messages -> samples of all joints, joined by their stamps, whoever publishes which of them.

Arms and legs may come in messages, or on topics, of their own: for every stamp each joint takes the value nearest in time.
Velocities that nobody measures are the difference of positions. :meth:`JointJoiner.notes` says what was not measured.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from wbvla_core.errors import ErrorCode, StateError
from wbvla_core.robot import RobotSpec
from wbvla_core.timeline import nearest_index

SETTLE_S = 0.5  # a sample waits this long for what belongs to it and comes later
KEEP_S = 2.0
ABSURD = 1e6  # rad, rad/s: no joint, but a flipped bit
BEYOND = 1.0  # rad, m: no joint is that far outside its limits; degrees and millimetres are
DIFFERENCE_S = 0.02  # velocities are differences of positions this far before and after


@dataclass(frozen=True)
class JointSample:
    """All joints at one time.

    Attributes:
        q, qd: [J] in the robot's order; rad, rad/s (m, m/s for sliding joints).
        skew_s: largest distance of a joint's own stamp from the sample's.
    """

    q: np.ndarray
    qd: np.ndarray
    skew_s: float = 0.0


@dataclass
class _Part:
    """Samples of the messages that name the same joints, by stamp."""

    places: np.ndarray  # [P] index of each joint in the robot's order
    stamps: list[float] = field(default_factory=list)
    q: list[np.ndarray] = field(default_factory=list)
    qd: list[np.ndarray] = field(default_factory=list)

    def add(self, stamp_s: float, q: np.ndarray, qd: np.ndarray) -> None:
        at = bisect.bisect_right(self.stamps, stamp_s)
        self.stamps.insert(at, stamp_s)
        self.q.insert(at, q)
        self.qd.insert(at, qd)

    def velocity(self, at: int) -> tuple[np.ndarray, bool]:
        """[P] as measured; entries that are not are the difference of positions around ``at``. The flag: whether there were such entries."""
        qd = self.qd[at]
        missing = np.isnan(qd)
        if not missing.any():
            return qd, False
        first, last = (nearest_index(self.stamps, self.stamps[at] + shift) for shift in (-DIFFERENCE_S, DIFFERENCE_S))
        first, last = (first, last) if first < last else (max(at - 1, 0), min(at + 1, len(self.stamps) - 1))
        span_s = self.stamps[last] - self.stamps[first]
        slope = (self.q[last] - self.q[first]) / span_s if span_s > 0 else np.full(len(qd), np.nan)
        return np.where(missing, slope, qd), True

    def forget_before(self, stamp_s: float) -> None:
        at = bisect.bisect_left(self.stamps, stamp_s)
        if at > 64:  # in blocks: deleting at the front moves the rest
            del self.stamps[:at], self.q[:at], self.qd[:at]


class JointJoiner:
    """Feed the messages of the joints, then :meth:`finish`.

    Args:
        rename: joint names in the messages -> names of the robot spec.
        hold: joints that no message names stay at the default pose, at rest; else samples wait until every joint was named.
        velocities: whether velocities count.
    """

    def __init__(self, robot: RobotSpec, rename: Mapping[str, str], *, hold: bool = False, velocities: bool = True) -> None:
        self._robot, self._rename, self._hold, self._velocities = robot, rename, hold, velocities
        self._lowest, self._highest = robot.lower - BEYOND, robot.upper + BEYOND
        self._parts: dict[tuple[int, ...], _Part] = {}
        self._orders: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]] = {}
        self._whole: bool | None = None  # every message names all joints with their velocities: nothing to wait for
        self._waiting: list[float] = []
        self._named = np.zeros(robot.joint_count, bool)  # by a message that could be used
        self._seen = np.zeros(robot.joint_count, bool)  # by any
        self._differenced = np.zeros(robot.joint_count, bool)
        self._foreign: tuple[str, ...] = ()
        self.emitted = 0

    def add(self, stamp_s: float, names: list[str], position: np.ndarray, velocity: np.ndarray) -> list[tuple[float, JointSample]]:
        """(stamp, sample) of those that are complete now.

        Raises:
            StateError: this message says nothing of the joints; the next may.
        """
        take, places = self._order(tuple(names))
        self._seen[places] = True
        q = self._numbers("position", position, names)[take]
        qd = self._numbers("velocity", velocity, names)[take] if len(velocity) else np.full(len(take), np.nan)
        if not self._velocities:
            qd = np.zeros(len(take))
        if not (good := np.abs(q) < ABSURD).all():
            name = self._robot.joint_names[places[int(good.argmin())]]
            raise StateError(f"position of {name} is not finite, or absurd: {q[int(good.argmin())]:g}", ErrorCode.STATE_NOT_FINITE)
        if (outside := (q < self._lowest[places]) | (q > self._highest[places])).any():
            at = int(outside.argmax())
            joint = self._robot.joints[places[at]]
            text = f"position of {joint.name} is {q[at]:g}, its limits are {joint.lower:g} to {joint.upper:g} (rad, m): other units, or another joint?"
            raise StateError(text, ErrorCode.STATE_SHAPE)
        qd = np.where(np.abs(qd) < ABSURD, qd, np.nan)
        complete = len(take) == self._robot.joint_count and bool(np.isfinite(qd).all())
        if self._whole is None:
            self._whole = complete
        if not self._whole:
            return self._join(stamp_s, places, q, np.where(np.isfinite(qd), qd, np.nan))
        if not complete:
            what = "velocities" if len(take) == self._robot.joint_count else f"{self._robot.joint_count - len(take)} joints"
            raise StateError(f"{what} are missing that the messages before had", ErrorCode.STATE_SHAPE)
        self._named[:] = True
        self.emitted += 1
        ordered_q, ordered_qd = np.empty_like(q), np.empty_like(qd)
        ordered_q[places], ordered_qd[places] = q, qd
        return [(stamp_s, JointSample(ordered_q, ordered_qd))]

    def _order(self, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Places in the message and in the robot's order of the joints that both have."""
        order = self._orders.get(names)
        if order is None:
            if not names:
                raise StateError("the message names no joint", ErrorCode.STATE_SHAPE)
            ours = {name: i for i, name in enumerate(self._robot.joint_names)}
            known = {ours[name]: i for i, name in enumerate(self._rename.get(name, name) for name in names) if name in ours}
            twice = [name for name in ours if sum(self._rename.get(n, n) == name for n in names) > 1]
            if twice:
                raise StateError(f"the message names {_some(twice)} more than once (after rename)", ErrorCode.STATE_SHAPE)
            if not known:
                self._foreign = names
                raise StateError(f"the message names no joint of {self._robot.name}", ErrorCode.STATE_SHAPE)
            order = self._orders[names] = np.array([known[i] for i in sorted(known)]), np.array(sorted(known))
        return order

    def _numbers(self, name: str, values: np.ndarray, names: list[str]) -> np.ndarray:
        array = np.asarray(values, dtype=np.float64)
        if len(array) != len(names):
            raise StateError(f"{name} has {len(array)} entries for {len(names)} names", ErrorCode.STATE_SHAPE)
        return array

    def _join(self, stamp_s: float, places: np.ndarray, q: np.ndarray, qd: np.ndarray) -> list[tuple[float, JointSample]]:
        part = self._parts.setdefault(tuple(places.tolist()), _Part(places))
        part.add(stamp_s, q, qd)
        self._named[places] = True
        bisect.insort(self._waiting, stamp_s)
        newest_s = self._waiting[-1]
        ready = bisect.bisect_left(self._waiting, newest_s - SETTLE_S)
        out = [sample for at_s in self._waiting[:ready] for sample in self._sample(at_s)]
        del self._waiting[:ready]
        for part in self._parts.values():
            part.forget_before(newest_s - KEEP_S)
        return out

    def _sample(self, at_s: float) -> Iterator[tuple[float, JointSample]]:
        if not (self._hold or self._named.all()):
            return  # not all publishers are up yet
        count = self._robot.joint_count
        q, qd, open_ = self._robot.default_q.copy(), np.zeros(count), np.ones(count, bool)
        skew_s = 0.0
        nearest = [(part, nearest_index(part.stamps, at_s)) for part in self._parts.values() if part.stamps]
        for part, at in sorted(nearest, key=lambda pair: abs(pair[0].stamps[pair[1]] - at_s)):
            new = open_[part.places]
            if new.any():
                places = part.places[new]
                velocity, differenced = part.velocity(at)
                q[places], qd[places] = part.q[at][new], velocity[new]
                if differenced:
                    self._differenced[places] |= np.isnan(part.qd[at][new])
                open_[places] = False
                skew_s = max(skew_s, abs(part.stamps[at] - at_s))
        if np.isfinite(qd).all():  # a single sample has no difference
            self.emitted += 1
            yield at_s, JointSample(q, qd, skew_s)

    def finish(self) -> list[tuple[float, JointSample]]:
        """The samples that were still waiting."""
        out = [sample for at_s in self._waiting for sample in self._sample(at_s)]
        self._waiting = []
        return out

    @property
    def heard(self) -> bool:
        """Whether any message named a joint, the robot's or another's."""
        return bool(self._orders or self._foreign)

    @property
    def complete(self) -> bool:
        """Whether every joint was named, or may stay unnamed."""
        return bool(self._seen.all()) or (self._hold and bool(self._seen.any()))

    def refusal(self) -> str:
        """Why there is no sample at all: which joints no message named."""
        missing = [name for name, named in zip(self._robot.joint_names, self._seen) if not named]
        seen = [name for names in self._orders for name in names] or list(self._foreign)
        return (
            f"another robot? {len(missing)} of {self._robot.joint_count} joints of {self._robot.name} are not named by any message, {missing[:3]} ...; "
            f"there are {seen[:3]} ... Give --robot, or a topic map with rename, or with all topics that have joints: joint_states: [A, B]"
        )

    def notes(self, topic: str) -> list[str]:
        """What in the samples was not measured, in sentences."""
        held = [name for name, named in zip(self._robot.joint_names, self._named) if not named]
        slope = [name for name, there in zip(self._robot.joint_names, self._differenced) if there]
        out = []
        if held:
            out.append(f"{topic} does not name {_some(held)}: not measured, held at the default pose and at rest")
        if slope and self._velocities:
            out.append(f"{topic} has no velocity of {_some(slope)}: the difference of positions over {2e3 * DIFFERENCE_S:g} ms stands there")
        return out


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} joints ({names[0]}, {names[1]}, ... {names[-1]})"

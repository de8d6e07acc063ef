"""Reflexes under the policy: the standing feet press where the capture point goes, the hips hold the trunk, the swing foot lands where the fall can be caught.

Not in the paper (label: ours). Linear feedback on what the robot feels of itself; the policy's action comes on top and corrects it. The reference gait
alone, zero actions, falls after two seconds; with these reflexes it stands through pushes and walks for several (docs/lmo.md), and a policy that starts
from there needs far fewer samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wbvla_core.numeric import clip
from wbvla_lmo.gait import LEGS, ReferenceGait

_AXES = np.array((1.0, -1.0))  # of the joints about y and x: see Balance.feedback


@dataclass(frozen=True)
class BalanceConfig:
    """All ours; the gains are those at which the reference alone stayed up longest (``wbvla_train.lmo.reflexes``).

    Attributes:
        enabled: without it there are no reflexes (checkpoints from before this existed).
        ankle_gain: of the ankles of the feet that stand, rad per m of deviation of the capture point (pitch, roll).
        hip_gain, hip_rate_s: of the hips above them, rad per rad of trunk lean and per rad/s (pitch, roll).
        limit_rad: greatest offset of a joint.
        place_gain: the swing foot lands further by this x the deviation; more than 1 because that grows until the foot is down.
        place_dead_m: deviations of undisturbed walking, which move no foot.
        place_limit: greatest displacement of a landing (forward and backward, outward, inward), m: inward the legs would meet.
        place_follow: gain per tick towards it. The foot that has landed goes back to its course as a pendulum swings, by 1 / omega.
        course_lag: age in ticks of the reference that the posture of now is held against: delay of commands and drives.
        smooth: gain per tick of the deviation's low-pass: the noise of joint speeds shakes the ankles through ankle_gain.
    """

    enabled: bool = False
    ankle_gain: tuple[float, float] = (10.0, 10.5)
    hip_gain: tuple[float, float] = (1.5, 0.5)
    hip_rate_s: tuple[float, float] = (0.08, 0.06)
    limit_rad: float = 0.5
    place_gain: float = 1.45
    place_dead_m: float = 0.02
    place_limit: tuple[float, float, float] = (0.15, 0.12, 0.03)
    place_follow: float = 0.3
    course_lag: int = 2
    smooth: float = 0.5


class Balance:
    """Reflexes of N robots. Per tick: :meth:`land`, :meth:`sense`, :meth:`feedback`; behind the command :meth:`plan`."""

    PLAN = ("landing",)  # what :meth:`land` changes

    def __init__(self, config: BalanceConfig, gait: ReferenceGait, count: int, dt_s: float) -> None:
        self.config, self.gait, self.dt_s = config, gait, dt_s
        self.deviation = np.zeros((count, 2))  # of the capture point from the reference's course over the standing foot (forward, left), m
        self.landing = np.zeros((count, len(LEGS), 2))  # displacement of each foot from its course, m
        self.ankle_gain, self.hip_gain, self.hip_rate_s = (np.array(v) for v in (config.ankle_gain, config.hip_gain, config.hip_rate_s))
        self.place_gain = config.place_gain
        along, outward, inward = config.place_limit
        self._low, self._high = np.array(((-along, -inward), (-along, -outward))), np.array(((along, outward), (along, inward)))
        self._wish = np.zeros((count, len(LEGS), 2))
        self._back = np.ones((count, 1))  # of a displacement, what is left after a tick on the ground
        self._courses = np.zeros((config.course_lag + 2, count, len(LEGS), 2))  # reference soles of the last ticks, newest first
        self._fresh = np.ones(count, dtype=bool)  # robots without any yet
        self._joints = gait.inverse.lower.shape[1]

    def reset(self, ids: np.ndarray | slice = slice(None)) -> None:
        for array in (self.deviation, self.landing, self._wish):
            array[ids] = 0.0
        self._fresh[ids] = True

    def plan(self) -> None:
        """Where the swing foot should land, from what was sensed in this tick."""
        far = self.deviation - clip(self.deviation, -self.config.place_dead_m, self.config.place_dead_m)
        self._wish = clip((self.place_gain * far)[:, None], self._low, self._high)
        self._back = 1.0 - self.dt_s * self.gait.trunk.omega

    def land(self) -> None:
        """Move the foot in the air towards its landing, and the course back under the feet on the ground. Behind the clock's tick."""
        towards = self.landing + self.config.place_follow * (self._wish - self.landing)
        self.landing = np.where(self.gait.airborne()[..., None], towards, self.landing * self._back[:, None])

    def sense(self, feet: np.ndarray, feet_velocity: np.ndarray) -> None:
        """Deviation of the capture point. Behind :meth:`ReferenceGait.capture_point` and the clock of the same tick.

        Args:
            feet, feet_velocity: of :meth:`ReferenceGait.sense_feet` [N, 2, 2].
        """
        trunk = self.gait.trunk
        if self._fresh.any():
            self._courses[:, self._fresh] = feet[self._fresh]
            self._fresh[:] = False
        course, before = self._courses[-2], self._courses[-1]
        self._stands = self.gait.support(0.0)[..., None]
        moved, speed = feet - course, feet_velocity - (course - before) / self.dt_s
        off = trunk.by_feet * (self._stands * moved).sum(axis=1) + trunk.by_lean * trunk.lean + self.gait.arm_shift
        rate = trunk.by_feet * (self._stands * speed).sum(axis=1) + trunk.by_lean * trunk.lean_rate
        self.deviation = self.deviation + self.config.smooth * (off + (rate + self.gait.arm_speed) / trunk.omega - self.deviation)

    def remember(self, soles: np.ndarray) -> None:
        """Keep where the reference asks for the feet [N, 2, 2], for the ticks to come."""
        self._courses[1:] = self._courses[:-1].copy()
        self._courses[0] = soles

    def feedback(self) -> np.ndarray:
        """Offset of the leg targets [N, A], rad.

        Signs: a positive ankle pitch presses the toes down, a positive ankle roll the right edge; a positive hip pitch turns the trunk back
        over a standing leg.
        """
        trunk, limit = self.gait.trunk, self.config.limit_rad
        both = self._stands > 0.0  # in double support each foot does all of it: two feet press with twice the torque of one, on twice the sole
        ankle = clip(self.ankle_gain * self.deviation * _AXES, -limit, limit)[:, None]
        hip = clip((self.hip_gain * trunk.lean + self.hip_rate_s * trunk.lean_rate) * _AXES, -limit, limit)[:, None]
        legs = np.zeros((len(self.deviation), len(LEGS), self._joints))
        legs[..., :2], legs[..., 4:6] = both * hip, both * ankle
        return legs.reshape(len(legs), -1)[:, self.gait.order]

"""Where the robot is on the path that its commands ask for: dead reckoning from joints and IMU, error, correction.

Not in the paper (label: ours). A policy that tracks speeds alone adds up its small biases: after five seconds it is decimetres
away and nothing tells it so. Here the gated command is integrated to a path, the robot's own motion is integrated beside it
(over the standing foot, heading from the gyro), and the difference, seen from the body, is an input of the policy and shortens
or lengthens the reference steps. Nothing but proprioception goes in, so the estimate drifts (measured: docs/lmo.md) and old
errors must fade: see :class:`PathConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wbvla_core.numeric import clip, wrap


@dataclass(frozen=True)
class PathConfig:
    """All ours.

    Attributes:
        enabled: without it there is no error, no correction and no input (checkpoints from before this existed).
        corrects: the reference gait steers towards the path; without it the policy only sees the error.
        support_lag: part of the cycle by which the standing foot changes after the clock's double support has its middle: command
            delay and drive lag land the real foot later than the clock says. Without it 1.5 m came out 0.05 to 0.15 m wrong, with 0.03 to 0.1 it is 0.02.
        clip: greatest error kept (forward m, left m, heading rad). Beyond, the path comes along: a blocked or pushed robot does
            not save up a walk, and a lost one does not run.
        leak_s: at rest the error fades with this time constant. An error inside the ``start`` band makes no step, so a drift of
            the estimate of up to start / leak (2 mm/s, 0.0017 rad/s) is forgotten as fast as it comes and never makes the robot step.
        patience_s: a correction at zero flags that has not succeeded after this time of stepping is given up: the path moves here.
        gain: correction speed per error, 1/s; with half a step of delay, so well below 1 / 0.36 s.
        limit: greatest correction (m/s, m/s, rad/s).
        smooth: gain per tick of the correction's low-pass, so that the reference has no jumps.
        start, stop: at zero flags, errors (m, rad) beyond which steps begin, and below which they end.
        start_late, late_s: after this time of zero flags, errors beyond which steps begin: a stand that a push has twisted a little stays as it is,
            for the steps that mend it move the robot more than the push did.
    """

    enabled: bool = False
    corrects: bool = True
    support_lag: float = 0.08
    clip: tuple[float, float, float] = (0.3, 0.3, 0.4)
    leak_s: float = 30.0
    patience_s: float = 6.0
    gain: float = 1.5
    limit: tuple[float, float, float] = (0.12, 0.1, 0.25)
    smooth: float = 0.15
    start: tuple[float, float] = (0.06, 0.05)
    stop: tuple[float, float] = (0.045, 0.03)
    start_late: tuple[float, float] = (0.08, 0.09)
    late_s: float = 3.0


def advance_error(error: np.ndarray, moved: np.ndarray, turned: np.ndarray, velocity: np.ndarray, dt_s: float) -> np.ndarray:
    """The path's pose seen from the body, one tick later.

    Args:
        error: [N, 3] before (forward m, left m, rad), in the body's heading frame of before.
        moved: [N, 2] what the body moved, in its heading frame of now, m. turned: [N] what it turned, rad.
        velocity: [N, 3] at which the path goes on along its own heading (m/s, m/s, rad/s).

    Returns:
        [N, 3] in the heading frame of now.
    """
    forward, left, turn = velocity[:, 0] * dt_s, velocity[:, 1] * dt_s, velocity[:, 2] * dt_s
    ahead = error[:, 2] + 0.5 * turn - turned  # heading of the path on its way, seen from the body of now
    ca, sa, ct, st = np.cos(ahead), np.sin(ahead), np.cos(turned), np.sin(turned)
    x, y = error[:, 0], error[:, 1]
    out = np.empty_like(error)
    out[:, 0] = ct * x + st * y + ca * forward - sa * left - moved[:, 0]
    out[:, 1] = ct * y - st * x + sa * forward + ca * left - moved[:, 1]
    out[:, 2] = wrap(error[:, 2] + turn - turned)
    return out


def sway_over(feet: np.ndarray, ankle_x: np.ndarray | float) -> np.ndarray:
    """Displacement [N, 2] of the pelvis (forward, left) from its place over the soles [N, 2, 2] of :meth:`ReferenceGait.sense_feet`, m."""
    out = -0.5 * (feet[:, 0] + feet[:, 1])
    out[:, 0] += ankle_x
    return out


class PathTracker:
    """Dead reckoning, path error and correction of N robots. Per tick :meth:`begin` and :meth:`steer`, and behind the command :meth:`update`."""

    PLAN = ("correction", "_wanted", "_last_step")  # what :meth:`steer` changes

    def __init__(self, config: PathConfig, count: int, dt_s: float) -> None:
        self.config, self.dt_s = config, dt_s
        self.error = np.zeros((count, 3))
        self.correction = np.zeros((count, 3))  # added to the gated velocity by the reference gait
        self.place = np.zeros((count, 3))  # the same error for the pelvis' standing place over the feet
        self.given_up = np.zeros(count, dtype=bool)  # this tick the path was moved to the robot
        self._wanted = np.zeros((count, 3))
        self._last_step = np.zeros((count, 3))  # error where the step under way began
        self._feet = np.zeros((count, 2, 2))
        self._patience_s = np.zeros(count)
        self._rested = np.zeros(count, dtype=bool)  # at the last tick
        self._fresh = np.ones(count, dtype=bool)
        self._clip, self._limit = np.asarray(config.clip), np.asarray(config.limit)
        self._start, self._stop, self._late = (np.asarray(v) for v in (config.start, config.stop, config.start_late))
        self.rest_s = np.zeros(count)  # since the last command

    def reset(self, ids: np.ndarray | slice = slice(None)) -> None:
        """The path begins where the robots ``ids`` stand at their next update."""
        for array in (self.error, self.place, self.correction, self._wanted, self._last_step, self._patience_s, self.rest_s):
            array[ids] = 0.0
        self._rested[ids] = False
        self._fresh[ids] = True

    def begin(self, resting: np.ndarray, stepping: np.ndarray) -> None:
        """A command that comes to a standing robot begins a new path where it stands.

        Args:
            resting: [N] zero flags and the gate closed; stepping: [N] the clock runs.
        """
        anew = self._rested & ~resting & ~stepping
        if anew.any():
            self.place[anew] -= self.error[anew]
            self.error[anew] = 0.0
        self._rested = resting
        self.rest_s = np.where(resting, self.rest_s + self.dt_s, 0.0)

    def update(
        self,
        feet: np.ndarray,
        support: np.ndarray,
        yaw_rate: np.ndarray,
        velocity: np.ndarray,
        resting: np.ndarray,
        stepping: np.ndarray,
        ankle_x: float = 0.0,
    ) -> None:
        """Take in one tick of motion.

        Args:
            feet: soles from the root link's origin along the level heading axes [N, 2, 2], m; support: [N, 2] weights of the feet that stand, sum 1.
            yaw_rate: [N] about the vertical; velocity: gated command [N, 3].
            resting, stepping: of :meth:`begin`.
            ankle_x: how far ahead of the pelvis the ankles stand at the default height, m: a squat moves the pelvis, not the place.
        """
        turned = yaw_rate * self.dt_s
        cos, sin = np.cos(turned)[:, None], np.sin(turned)[:, None]
        x, y = self._feet[..., 0], self._feet[..., 1]
        moved = np.empty((len(feet), 2))  # a standing foot does not move: what it moved in the body's frame, the body moved
        moved[:, 0] = (support * (cos * x + sin * y - feet[..., 0])).sum(axis=1)
        moved[:, 1] = (support * (cos * y - sin * x - feet[..., 1])).sum(axis=1)
        if self._fresh.any():
            moved[self._fresh], turned = 0.0, np.where(self._fresh, 0.0, turned)
            self._fresh[:] = False
        self._feet = feet
        self._patience_s = np.where(resting & stepping, self._patience_s + self.dt_s, 0.0)
        self.given_up = self._patience_s > self.config.patience_s
        self.error = self.settle(advance_error(self.error, moved, turned, velocity, self.dt_s), resting)
        self.place = self.error.copy()  # a pelvis that makes room for the arms' weight is no reason to step
        self.place[:, :2] += sway_over(feet, ankle_x)

    def settle(self, error: np.ndarray, resting: np.ndarray) -> np.ndarray:
        """Clip, leak and giving up, [N, 3] -> [N, 3]; training puts the true error through the same."""
        error = clip(error, -self._clip, self._clip) * np.where(resting, 1.0 - self.dt_s / self.config.leak_s, 1.0)[:, None]
        if self.given_up.any():
            error[self.given_up] = 0.0
        return error

    def wants(self, stepping: np.ndarray) -> np.ndarray:
        """[N] robots whose error is worth steps: more to begin with them than to go on."""
        if not self.config.corrects:
            return np.zeros(len(stepping), dtype=bool)
        start = np.where((self.rest_s > self.config.late_s)[:, None], self._late, self._start)
        bound = np.where(stepping[:, None], self._stop, start)
        e = self._stride_error()
        return ((e[:, 0] * e[:, 0] + e[:, 1] * e[:, 1] > bound[:, 0] ** 2) | (np.abs(e[:, 2]) > bound[:, 1])) & ~self.given_up

    def intended(self) -> np.ndarray:
        """Correction that the present error calls for [N, 3]."""
        return clip(self.config.gain * self._stride_error(), -self._limit, self._limit)

    def _stride_error(self) -> np.ndarray:
        """Mean of now and of where the step under way began: a walking pelvis sways and turns by 0.03 to either side, from step to step."""
        return 0.5 * (self.place + self._last_step)

    def steer(self, step_begins: np.ndarray, stepping: np.ndarray) -> None:
        """Choose the correction anew where a step begins, and move towards the choice: a step under way keeps its aim."""
        if not self.config.corrects:
            return
        if step_begins.any():
            self._wanted = np.where(step_begins[:, None], self.intended(), self._wanted)
        self._last_step = np.where((step_begins | ~stepping)[:, None], self.place, self._last_step)
        self._wanted = self._wanted * stepping[:, None]
        self.correction = self.correction + self.config.smooth * (self._wanted - self.correction)

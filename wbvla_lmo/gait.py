"""The reference gait: clock, foot paths and stance as functions of the gated command; the policy adds residuals to it.

Not in the paper (label: ours). Without it a policy of this size needs far more samples than two cores give. The
reference alone does not walk; it fixes when which foot swings, so that start, stop and mirror symmetry are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wbvla_core.numeric import clip
from wbvla_core.robot import RobotSpec
from wbvla_core.types import pitch_roll_from_gravity
from wbvla_lmo.arm_mass import ArmMass
from wbvla_lmo.leg_kinematics import DERIVATIVE_STEP_S, GRAVITY_M_S2, LEGS, LegInverse, centre_of_mass, static_torque
from wbvla_lmo.observation import ObservationConfig, posture_joints


@dataclass(frozen=True)
class GaitConfig:
    """Shape of the reference (all ours unless said).

    Attributes:
        period_s: one full cycle, left and right step: a fall grows by e^(3.8 s^-1 x half of it) until the next foot is down (0.72 s fell more).
        double_support: part of each half cycle at its begin and at its end with both feet down.
        lift_m: height of the swing foot's sole at mid swing.
        sway_m: lateral pelvis sway towards the stance foot (a linear inverted pendulum of this width and period sways 0.027).
        start_intent, stop_intent: parts of cruise speed at which the clock starts and may stop.
        capture_m: distance of the capture point from its standing value at which standing turns into stepping
            (forward, backward, sideways): most of the soles' reach around the centre of mass; an ellipse through these.
        capture_filter: gain per tick of its low-pass (landing feet shake the gyro).
        settle_s: after a stop the thresholds start doubled and come down to capture_m in this time: the last step still rocks.
        max_reach: greatest height of the pelvis while stepping as part of the range's upper end (bent knees to step with).
        ankle_margin_rad: distance that the squat table keeps from the ankle pitch limits.
        max_lean_rad: greatest forward lean in deep squats.
        load_compensation: part of the static sag that the targets anticipate.
        arm_mass: the capture point counts the arms where they are, not hanging, and the pelvis makes room for their weight.
        arm_room: part of the arms' shift of the centre of mass that the pelvis takes back: 1 keeps the centre of mass, 0 the pelvis.
        arm_follow: gain per tick of that.
        max_arm_shift_m: greatest way of the pelvis for the arms' sake.
        over_contacts: stand over the middle of what touches the floor, not of the soles' outline, which is 7 mm further ahead on the X2.
        enabled: False = no clock and no reference: targets are residuals on the default pose (the ablation).
    """

    period_s: float = 0.6
    double_support: float = 0.12
    lift_m: float = 0.07
    sway_m: float = 0.02
    start_intent: float = 0.15
    stop_intent: float = 0.15
    capture_m: tuple[float, float, float] = (0.055, 0.07, 0.11)
    capture_filter: float = 0.4
    settle_s: float = 0.5
    max_reach: float = 0.985
    ankle_margin_rad: float = 0.08
    max_lean_rad: float = 0.6
    load_compensation: float = 1.0
    arm_mass: bool = False
    arm_room: float = 1.0
    arm_follow: float = 0.4
    max_arm_shift_m: float = 0.1
    over_contacts: bool = False
    enabled: bool = True


class StanceTable:
    """For each stance height: where the ankles stand, how far the trunk leans, how far the drives sag under the weight.

    Upright down to where the ankle's pitch limit ends that; below, the least lean that keeps the ankle inside its limit
    while the centre of mass (default arms) stays over the middle of the soles. The drives are springs without integral
    term: the targets carry torque / kp on top of the angles, or a squat would sag by 0.3 rad in the knees.
    """

    def __init__(self, robot: RobotSpec, inverse: LegInverse, config: GaitConfig, points: int = 11) -> None:
        self.heights = np.linspace(*robot.stance_height_range_m, points)
        self._robot, self._inverse = robot, inverse
        self._legs = [robot.indices(g) for g in LEGS]
        self.middle_m = robot.sole.middle_m if config.over_contacts else robot.sole.outline_middle_m  # ahead of the ankles
        self.com_above_m = float(centre_of_mass(robot, robot.default_q)[2])  # over the root link's origin, standing
        ankle_low = inverse.lower[0, 4] + config.ankle_margin_rad
        self.ankle_x, self.lean = np.zeros((2, points))
        self.sag = np.zeros((points, 3, len(LEGS), len(self._legs[0])))  # (both feet down, only this foot, foot in the air), rad
        self.com_lean, self.com_feet = np.zeros(points), np.zeros((points, 2))  # way of the centre of mass, see :meth:`com_moves`
        for i, height in enumerate(self.heights):
            low, high = 0.0, config.max_lean_rad
            ankle_x, ankle_pitch = self._balance(height, low)
            if ankle_pitch < ankle_low:
                for _ in range(7):  # bisection to 0.005 rad
                    middle = 0.5 * (low + high)
                    low, high = (low, middle) if self._balance(height, middle)[1] >= ankle_low else (middle, high)
                low = high
                ankle_x, _ = self._balance(height, low)
            self.ankle_x[i], self.lean[i] = ankle_x, low
            self.sag[i] = self._sag(height, low, ankle_x, config)
            here, small = self._level_com(height, low, ankle_x), 1e-3
            self.com_lean[i] = (self._level_com(height, low + small, ankle_x) - here)[0] / small
            moved = [self._level_com(height, low, ankle_x + dx, dy) - here for dx, dy in ((small, 0.0), (0.0, small))]
            self.com_feet[i] = moved[0][0] / small, moved[1][1] / small

    def _balance(self, height: float, lean: float) -> tuple[float, float]:
        """(ankle x ahead of the pelvis that puts the centre of mass over the middle of the soles, ankle pitch angle)."""
        ankle_x = 0.0
        for _ in range(5):  # fixed point: the legs' own mass moves with the feet, by a third of the step each time
            ankle_x = self._level_com(height, lean, ankle_x)[0] - self.middle_m
        return float(ankle_x), float(self._posture(height, lean, ankle_x)[1][0, 4])

    def _level_com(self, height: float, lean: float, ankle_x: float, side: float = 0.0) -> np.ndarray:
        """Centre of mass from the root link's origin along level axes (forward, left) [2], m."""
        com = centre_of_mass(self._robot, self._posture(height, lean, ankle_x, side)[0])
        return np.array((np.cos(lean) * com[0] + np.sin(lean) * com[2], com[1]))

    def _posture(self, height: float, lean: float, ankle_x: float, side: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """All joints [J] and both legs' angles [2, 6], feet side by side, both shifted to the left by ``side``."""
        y = self._inverse.half_width_m
        sole = np.array([[[ankle_x, side + y, -height], [ankle_x, side - y, -height]]])
        angles = self._inverse.solve(sole, np.zeros((1, 2)), np.array([lean]))[0]
        q = self._robot.default_q.copy()
        for index, leg in zip(self._legs, angles, strict=True):
            q[index] = leg
        return q, angles

    def _sag(self, height: float, lean: float, ankle_x: float, config: GaitConfig) -> np.ndarray:
        """Static torque / kp [3, 2, 6] rad: both feet loaded, all weight on this foot (force along the line to the centre of mass), no load."""
        robot, width = self._robot, self._inverse.half_width_m
        q, _ = self._posture(height, lean, ankle_x)
        com_height = height + (np.cos(lean) * centre_of_mass(robot, q)[2])
        weight = robot.total_mass_kg * GRAVITY_M_S2
        sag = np.zeros((3, len(LEGS), len(self._legs[0])))
        for leg, (group, index) in enumerate(zip(LEGS, self._legs, strict=True)):
            y = width if leg == 0 else -width
            contact = np.array((ankle_x + self.middle_m, y, -height))
            inward = -np.sign(y) * (width - config.sway_m) / com_height
            for case, force in enumerate(((0, 0, 0.5 * weight), (0, inward * weight, weight), (0, 0, 0))):
                sag[case, leg] = static_torque(robot, q, lean, group, contact, np.array(force)) / robot.kp[index]
        return sag

    def __call__(self, height_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(ankle x ahead of the pelvis in the level frame [N] m, lean [N] rad)."""
        return np.interp(height_m, self.heights, self.ankle_x), np.interp(height_m, self.heights, self.lean)

    def com_moves(self, height_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How the centre of mass moves from the root link's origin: m per rad of lean [N], m per m of both feet (forward, left) [N, 2].

        Feet stay flat: the trunk leans, the legs follow the feet. Without the legs' part a stand with a leaning pelvis seemed 2 cm off balance.
        """
        along = [np.interp(height_m, self.heights, self.com_feet[:, i]) for i in range(2)]
        return np.interp(height_m, self.heights, self.com_lean), np.array(along).T

    def sag_at(self, height_m: np.ndarray, unloaded: np.ndarray) -> np.ndarray:
        """Offset of the leg targets [N, 2, 6] rad; ``unloaded`` [N, 2]: how much of its load each foot has given to the other."""
        place = clip((height_m - self.heights[0]) / (self.heights[1] - self.heights[0]), 0.0, len(self.heights) - 1.000001)
        low = place.astype(np.intp)
        part = (place - low)[:, None, None, None]
        sag = (1 - part) * self.sag[low] + part * self.sag[low + 1]
        both, alone, air = sag[:, 0], sag[:, 1], sag[:, 2]  # [N, 2, 6] each
        free, taken = unloaded[..., None], unloaded[:, ::-1, None]
        return both + free * (air - both) + taken * (alone - both)


@dataclass
class GaitReference:
    """What the reference asks for now.

    Attributes:
        q: leg targets [N, A], ``lmo_action`` order, rad: angles plus what the drives sag under load.
        swing: part of the swing done, per foot (left, right) [N, 2]; 0 on the ground.
        lift_m: sole height per foot [N, 2], m.
        lean_rad: forward lean [N].
        soles: where they are asked for, without what the pelvis does for the arms [N, 2, 2] (forward, left), m.
    """

    q: np.ndarray
    swing: np.ndarray
    lift_m: np.ndarray
    lean_rad: np.ndarray
    soles: np.ndarray


@dataclass
class Trunk:
    """How the trunk stands over its legs, seen by :meth:`ReferenceGait.capture_point`. All (forward, left).

    Attributes:
        lean, lean_rate: beyond the reference lean [N, 2], rad and rad/s.
        by_lean, by_feet: m that the centre of mass moves over the feet per rad of lean [N, 1], and per m that the feet move ahead [N, 2].
        omega: of the inverted pendulum [N, 1], 1/s.
    """

    lean: np.ndarray
    lean_rate: np.ndarray
    by_lean: np.ndarray
    by_feet: np.ndarray
    omega: np.ndarray


class ReferenceGait:
    """Clock and reference of N robots."""

    CLOCK = ("phase", "stepping", "hold", "standing_s", "capture", "step_begins", "shift")  # what :meth:`advance` changes

    def __init__(self, robot: RobotSpec, config: GaitConfig, count: int) -> None:
        self.config = config
        self.inverse = LegInverse(robot)
        self.stance = StanceTable(robot, self.inverse, config)
        self.arms = ArmMass(robot, posture_joints(robot, ObservationConfig())) if config.arm_mass else None
        self.order = _leg_order(robot)
        self._width = np.array((self.inverse.half_width_m, -self.inverse.half_width_m))
        self.max_walk_height_m = config.max_reach * robot.stance_height_range_m[1]
        self.phase = np.zeros(count)  # [N] in [0, 1): left foot swings in the first half, right in the second
        self.stepping = np.zeros(count, dtype=bool)
        self.hold = np.zeros(count, dtype=int)  # half cycles still to do after a capture step was triggered
        self.standing_s = np.full(count, np.inf)  # since the clock froze
        self.capture = np.zeros((count, 2))  # filtered
        self.ankle_x = np.zeros(count)  # of the present height's stance, m ahead of the pelvis
        self.last_lean = np.full(count, np.nan)
        self.step_begins = np.zeros(count, dtype=bool)  # this tick
        self.arm_shift, self.arm_speed = np.zeros((2, count, 2))  # of the centre of mass by the arms (forward, left), one tick old, m and m/s
        self.shift = np.zeros((count, 2))  # what the reference makes room for
        self._default = robot.default_q[robot.indices("lmo_action")]
        self._low_foot = np.zeros(count, dtype=np.intp)  # without a clock: the foot that stands

    def reset(self, ids: np.ndarray | slice = slice(None), phase: float | np.ndarray = 0.0) -> None:
        self.phase[ids] = phase
        self.stepping[ids] = False
        self.hold[ids] = 0
        self.standing_s[ids] = np.inf
        self.capture[ids] = 0.0
        self.last_lean[ids] = np.nan
        self.step_begins[ids] = False
        self.shift[ids] = self.arm_shift[ids] = self.arm_speed[ids] = 0.0

    def sense_feet(self, gravity: np.ndarray, gyro: np.ndarray, q: np.ndarray, qd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the soles are and how they move, seen from the root link's origin: joint angles, tilt and gyro only.

        Args:
            gravity, gyro: [N, 3] root link frame; q, qd: leg angles and speeds [N, A], ``lmo_action`` order.

        Returns:
            positions and velocities [N, 2 feet, 2] (forward, left) along the level heading axes, m and m/s.
        """
        angles = np.empty((len(q), q.shape[1]))
        rates = np.empty_like(angles)
        angles[:, self.order], rates[:, self.order] = q, qd
        angles, rates = (v.reshape(len(q), len(LEGS), -1) for v in (angles, rates))
        soles = self.inverse.soles(np.concatenate((angles, angles + DERIVATIVE_STEP_S * rates)))
        foot, then = soles[: len(q)], soles[len(q) :]  # [N, 2, 3]
        moving = (then - foot) / DERIVATIVE_STEP_S + _cross(gyro[:, None], foot)
        up = -gravity / np.sqrt((gravity * gravity).sum(axis=1, keepdims=True))
        ahead = _AHEAD - up[:, :1] * up
        ahead /= np.sqrt((ahead * ahead).sum(axis=1, keepdims=True))
        self._level = axes = np.empty((len(q), 3, 2))
        axes[..., 0], axes[..., 1] = ahead, _cross(up, ahead)
        if not self.config.enabled:
            higher = np.sum((foot[:, 0] - foot[:, 1]) * up, axis=1)  # left over right
            self._low_foot = np.where(higher > _FOOT_SWITCH_M, 1, np.where(higher < -_FOOT_SWITCH_M, 0, self._low_foot))
        return foot @ axes, moving @ axes

    def support(self, lag: float) -> np.ndarray:
        """Weights of the feet that carry the robot [N, 2]: both in standing, else the one whose turn it is, ``lag`` of a cycle after mid double support."""
        if not self.config.enabled:
            return _ONE_FOOT[self._low_foot]
        left_swings = np.mod(self.phase - lag, 1.0) < 0.5
        return np.where(self.stepping[:, None], _ONE_FOOT[left_swings.astype(np.intp)], 0.5)

    def capture_point(
        self, gravity: np.ndarray, gyro: np.ndarray, feet: np.ndarray, feet_velocity: np.ndarray, height_m: np.ndarray, dt_s: float
    ) -> np.ndarray:
        """Deviation of the capture point (forward, left) from its place in standing [N, 2], m.

        Position and speed of the body over its feet come from :meth:`sense_feet`, taking both feet as flat on the floor.
        Tilt and gyro alone are not enough: a robot that sinks backward with a level pelvis goes unseen until it is too
        late (tried). The arms are where :meth:`sense_arms` last saw them.
        """
        ankle_x, lean = self.stance(height_m)
        self.ankle_x = ankle_x
        lean_rate = np.where(np.isnan(self.last_lean), 0.0, (lean - self.last_lean) / dt_s)
        self.last_lean = lean
        pitch, left = pitch_roll_from_gravity(gravity)
        by_lean, by_feet = self.stance.com_moves(height_m)
        omega = np.sqrt(GRAVITY_M_S2 / (height_m + self.stance.com_above_m))[:, None]
        feet_moved = 0.5 * (feet[:, 0] + feet[:, 1])
        feet_moved[:, 0] -= ankle_x
        leaned, lean_rates = np.array((pitch - lean, left)).T, np.array((gyro[:, 1] - lean_rate, -gyro[:, 0])).T
        self.trunk = t = Trunk(leaned, lean_rates, by_lean[:, None], by_feet - 1.0, omega)
        position = t.by_feet * feet_moved + t.by_lean * leaned
        speed = t.by_feet * (0.5 * (feet_velocity[:, 0] + feet_velocity[:, 1])) + t.by_lean * lean_rates
        return position + self.arm_shift + (speed + self.arm_speed) / omega

    def sense_arms(self, q: np.ndarray, qd: np.ndarray) -> None:
        """Where the arms' weight is and how it moves, for the ticks to come: all joint angles and speeds [N, J], behind :meth:`sense_feet` of this tick."""
        if self.arms is not None:
            shift, speed = self.arms(q, qd)
            self.arm_shift, self.arm_speed = (np.matmul(v[:, None], self._level)[:, 0] for v in (shift, speed))

    def advance(
        self,
        velocity: np.ndarray,
        cruise: np.ndarray,
        capture: np.ndarray,
        dt_s: float,
        path_wants: np.ndarray | None = None,
        aim: Callable[[], np.ndarray] | None = None,
    ) -> None:
        """One tick of the clock.

        Args:
            velocity: gated velocity reference [N, 3]; cruise: its full-scale value [3] (or [N, 3]).
            capture: :meth:`capture_point` [N, 2].
            path_wants: [N] robots that shall step to get back onto their path; aim: asked for where to, [N, 3] m/s, m/s, rad/s.
        """
        c = self.config
        if not c.enabled:
            return
        if self.arms is not None:
            room = clip(c.arm_room * self.arm_shift, -c.max_arm_shift_m, c.max_arm_shift_m)
            self.shift = self.shift + c.arm_follow * (room - self.shift)
        intent = (np.abs(velocity) / np.maximum(cruise, 1e-6)).max(axis=-1)
        self.capture += c.capture_filter * (capture - self.capture)
        self.standing_s = np.where(self.stepping, 0.0, self.standing_s + dt_s)
        ahead, left = (self.capture / (1.0 + clip(1.0 - self.standing_s / c.settle_s, 0.0, 1.0))[:, None]).T
        reach = np.where(ahead > 0.0, c.capture_m[0], c.capture_m[1])
        caught = ~self.stepping & ((ahead / reach) ** 2 + (left / c.capture_m[2]) ** 2 > 1.0)
        self.hold = np.where(caught, 2, self.hold)
        start = ~self.stepping & ((intent > c.start_intent) | caught)
        if path_wants is not None:
            # Not in the first moment of rest: the last step must come to rest before its error counts.
            back = ~self.stepping & ~start & path_wants & (self.standing_s > c.settle_s)
            if back.any():
                velocity = np.where(back[:, None], aim(), velocity)
                start |= back
        # Which foot first: the one on the side that it goes to; against a push, the one that the push unloads.
        intent_left = velocity[:, 1] + velocity[:, 2] * 0.1
        left_first = np.where(np.abs(intent_left) > 0.02, intent_left > 0, np.where(caught, left < 0, self.phase < 0.25))
        self.phase = np.where(start, np.where(left_first, 0.0, 0.5), self.phase)
        self.stepping |= start
        before = self.phase >= 0.5
        moved = self.phase + self.stepping * (dt_s / c.period_s)
        landing = np.where(before, 1.0, 0.5)
        boundary = self.stepping & (moved >= landing - 1e-9)
        moved = np.where(boundary, np.maximum(moved, landing), moved)  # rounding must not land a foot twice
        self.hold = np.maximum(self.hold - boundary, 0)
        stop = boundary & (intent < c.stop_intent) & (self.hold == 0)
        if path_wants is not None:
            stop &= ~path_wants
        self.step_begins = start | (boundary & ~stop)
        self.stepping &= ~stop
        self.phase = np.where(stop, np.where(before, 0.0, 0.5), np.mod(moved, 1.0))

    def airborne(self) -> np.ndarray:
        """[N, 2] feet that the clock has in the air."""
        swing = self._swing(np.mod(self.phase[:, None] - _FOOT_PHASE, 1.0))
        return self.stepping[:, None] & (swing > 0) & (swing < 1)

    def _swing(self, own: np.ndarray) -> np.ndarray:
        """Part of its swing that a foot has done, from its own phase."""
        c = self.config
        return clip((own / 0.5 - c.double_support) / (1.0 - 2.0 * c.double_support), 0.0, 1.0)

    def reference(self, velocity: np.ndarray, height_m: np.ndarray, landing: np.ndarray | None = None) -> GaitReference:
        """Leg angles for the present phase.

        Args:
            velocity: gated (forward m/s, lateral m/s, yaw rad/s) [N, 3].
            height_m: height reference [N], m.
            landing: displacement of the feet from their course (forward, left) [N, 2, 2], m: see :mod:`wbvla_lmo.balance`.
        """
        c = self.config
        if not c.enabled:
            still = np.zeros((len(height_m), len(LEGS)))
            return GaitReference(np.tile(self._default, (len(height_m), 1)), still, still, still[:, 0], np.zeros((*still.shape, 2)))
        height = np.where(self.stepping, np.minimum(height_m, self.max_walk_height_m), height_m)
        ankle_x, lean = self.stance(height)
        own = np.mod(self.phase[:, None] - _FOOT_PHASE, 1.0)  # [N, 2] phase of each foot, swing in the first half
        swing = self._swing(own)
        swing_end = 0.5 * (1.0 - c.double_support)
        stance_part = 0.5 + c.double_support  # of the cycle
        stance = np.mod(own - swing_end, 1.0) / stance_part
        sweep = np.where(swing * (1 - swing) > 0, -0.5 * np.cos(np.pi * swing), 0.5 - clip(stance, 0, 1))
        sweep = np.where(self.stepping[:, None], sweep, 0.0)
        airborne = self.stepping[:, None] & (swing > 0) & (swing < 1)
        arch = np.where(airborne, np.sin(np.pi * swing), 0.0)
        lift = c.lift_m * arch**2
        travel = c.period_s * stance_part * sweep  # s: multiply by a velocity
        turn = velocity[:, 2:3] * travel
        sway = np.where(self.stepping, -c.sway_m * np.sin(2 * np.pi * self.phase), 0.0)[:, None]  # left swing: pelvis to the right
        width = self._width
        x = ankle_x[:, None] + velocity[:, 0:1] * travel - width * turn
        y = width + velocity[:, 1:2] * travel - sway + ankle_x[:, None] * turn
        if landing is not None:
            x, y = x + landing[..., 0], y + landing[..., 1]
        soles = np.stack((x, y), axis=-1)
        if self.arms is not None:
            x, y = x + self.shift[:, 0:1], y + self.shift[:, 1:2]
        sole = np.empty((*x.shape, 3))  # [N, 2, 3]
        sole[..., 0], sole[..., 1], sole[..., 2] = x, y, lift - height[:, None]
        unloaded = clip(2.0 * arch, 0.0, 1.0)
        legs = self.inverse.solve(sole, turn, lean) + c.load_compensation * self.stance.sag_at(height, unloaded)
        q = legs.reshape(len(height), -1)[:, self.order]
        return GaitReference(q, np.where(airborne, swing, 0.0), lift, lean, soles)


_AHEAD = np.array((1.0, 0.0, 0.0))
_ONE_FOOT = np.eye(2)
_FOOT_SWITCH_M = 0.006  # without a clock: the standing foot changes when the other one is lower by this
_FOOT_PHASE = np.array((0.0, 0.5))  # the right foot does half a cycle later what the left does


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cross product over the last axis; ``np.cross`` takes ten times as long for one robot."""
    ax, ay, az, bx, by, bz = a[..., 0], a[..., 1], a[..., 2], b[..., 0], b[..., 1], b[..., 2]
    x = ay * bz - az * by
    out = np.empty((*x.shape, 3))
    out[..., 0], out[..., 1], out[..., 2] = x, az * bx - ax * bz, ax * by - ay * bx
    return out


def _leg_order(robot: RobotSpec) -> np.ndarray:
    """Position of each ``lmo_action`` joint among (left leg, right leg) [A]."""
    flat = [name for group in LEGS for name in robot.names(group)]
    return np.array([flat.index(name) for name in robot.names("lmo_action")], dtype=np.intp)

"""The one definition of what the leg policy sees, for N robots in training and for one on the node.

O_t = H frames of (u, gyro, gravity, leg q, leg qd, last action), as in the paper (A4), and once: the clock, the reference
leg angles and the posture of waist and arms. In the second half of the gait cycle everything left and right is swapped
(``MirrorMap``), so that the network only ever learns the left foot's swing; the action is swapped back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wbvla_core.robot import RobotSpec, RobotSpecError


@dataclass(frozen=True)
class ObservationConfig:
    """Scales and history.

    Attributes:
        history: frames kept (ours: 3 as in our prototype; the paper gives no number, OpenHomie has 6).
        gyro_scale: 1/(rad/s) (prior work: OpenHomie 0.5).
        velocity_scale: joint velocity, 1/(rad/s) (prior work: OpenHomie and the vendor's example 0.05).
        height_scale, height_offset_m: stance height to about unit range (ours).
        odometry: also observe the stride-filtered error between velocity measured over the standing foot and its
            reference (ours: without it the policy keeps a constant bias of 0.05 to 0.1 m/s).
        odometry_filter_s, odometry_scale: its time constant, s, and scales, 1/(m/s), 1/(m/s), 1/(rad/s) (ours).
        posture_min_mass_kg: waist and arm joints are observed if they move at least this mass (ours: the wrists move
            under 1.1 kg each, their angle is noise to the legs, and training may weld them).
        path: also observe the error to the path that the commands ask for (``path.PathTracker``; ours).
        path_scale: its scales, 1/m, 1/m, 1/rad (ours: the clip of the error comes out at about 3).
        balance: also observe the capture point, its deviation from the reference's course over the standing foot (:mod:`wbvla_lmo.balance`),
            and what the arms do to the centre of mass (:mod:`wbvla_lmo.arm_mass`); ours. balance_scale: 1/m.
        flags: also observe the bare flags (the literal gate's output says nothing while a flag is held).
        mirror: show the second half of the gait cycle mirrored (False: the ablation; the clock then runs over the whole cycle).
    """

    history: int = 3
    gyro_scale: float = 0.5
    velocity_scale: float = 0.05
    height_scale: float = 5.0
    height_offset_m: float = 0.6
    posture_min_mass_kg: float = 1.2
    odometry: bool = False
    odometry_filter_s: float = 0.3
    odometry_scale: tuple[float, float, float] = (5.0, 5.0, 3.0)
    path: bool = False
    path_scale: tuple[float, float, float] = (10.0, 10.0, 8.0)
    balance: bool = False
    balance_scale: float = 10.0
    flags: bool = False
    mirror: bool = True


def moved_mass_kg(robot: RobotSpec, joint_name: str) -> float:
    """Mass of everything outward of a joint, kg."""
    outward = {robot.joint(joint_name).child}
    for joint in robot.joints:  # listed from the root outwards
        if joint.parent in outward:
            outward.add(joint.child)
    return sum(link.mass for link in robot.links if link.name in outward)


def posture_joints(robot: RobotSpec, config: ObservationConfig) -> tuple[str, ...]:
    """Waist and arm joints that the legs feel."""
    return tuple(n for g in ("waist", "arms") for n in robot.names(g) if moved_mass_kg(robot, n) >= config.posture_min_mass_kg)


class MirrorMap:
    """Reflection of joint vectors at the robot's x-z plane: which joint goes where, with which sign.

    Partners come from the names (left_* and right_*), signs from the axes: a turn about y keeps its sign under the
    reflection, a turn about x or z changes it; a slide does the opposite.
    """

    def __init__(self, robot: RobotSpec, names: tuple[str, ...]) -> None:
        swap = {"left_": "right_", "right_": "left_"}
        index, sign = [], []
        for name in names:
            partner = next((name.replace(a, b, 1) for a, b in swap.items() if name.startswith(a)), name)
            if partner not in names:
                raise RobotSpecError(f"{name} has no mirror partner {partner} among {list(names)}")
            axis = np.abs(np.round(robot.joint(name).axis))
            if not np.array_equal(np.sort(axis), (0, 0, 1)):
                raise RobotSpecError(f"{name}: the mirror needs an axis along x, y or z, got {robot.joint(name).axis}")
            index.append(names.index(partner))
            sign.append(1.0 if axis[1] == 1.0 else -1.0)
            if robot.joint(name).kind == "prismatic":
                sign[-1] = -sign[-1]
        self.index = np.array(index, dtype=np.intp)
        self.sign = np.array(sign)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """[..., J] -> [..., J], mirrored."""
        return values[..., self.index] * self.sign


def joint_block(maps: list[MirrorMap]) -> tuple[np.ndarray, np.ndarray]:
    """Index and sign of concatenated blocks."""
    index, sign, start = [], [], 0
    for block in maps:
        index.append(block.index + start)
        sign.append(block.sign)
        start += len(block.sign)
    return np.concatenate(index), np.concatenate(sign)


class _Fixed:
    """Mirror block whose entries stay in place, with given signs."""

    def __init__(self, signs: tuple[float, ...]) -> None:
        self.index = np.arange(len(signs))
        self.sign = np.array(signs, dtype=float)


class ObservationBuilder:
    """Histories of N robots and the vector made from them."""

    def __init__(self, robot: RobotSpec, config: ObservationConfig, count: int) -> None:
        self.config = config
        self.leg_names = robot.names("lmo_action")
        self.posture_names = posture_joints(robot, config)
        self.legs = robot.indices("lmo_action")
        self.posture = np.array([robot.joint_names.index(n) for n in self.posture_names], dtype=np.intp)
        self._legs_default, self._posture_default = robot.default_q[self.legs], robot.default_q[self.posture]
        self._odometry_scale, self._path_scale = np.asarray(config.odometry_scale), np.asarray(config.path_scale)
        self.action_mirror = MirrorMap(robot, self.leg_names)
        posture_mirror = MirrorMap(robot, self.posture_names)
        leg = self.action_mirror
        frame = [_Fixed((1, -1, -1, 1)), _Fixed((-1, 1, -1)), _Fixed((1, -1, 1)), leg, leg, leg]
        once = [_Fixed((1, 1, 1)), leg, posture_mirror]
        if config.odometry:
            once.append(_Fixed((1, -1, -1)))
        if config.path:
            once.append(_Fixed((1, -1, -1)))
        if config.balance:
            once += [_Fixed((1, -1)), _Fixed((1, -1)), _Fixed((1, -1))]
        if config.flags:
            once.append(_Fixed((1, -1, -1)))
        self.frame_size = sum(len(b.sign) for b in frame)
        self._mirror_index, self._mirror_sign = joint_block(frame * config.history + once)
        self.size = len(self._mirror_sign)
        self.frames = np.zeros((count, config.history, self.frame_size))  # newest first
        self._fresh = np.ones(count, dtype=bool)
        self._any_fresh = True

    def reset(self, ids: np.ndarray | slice = slice(None)) -> None:
        """Forget the past of robots ``ids``: their next frame fills the whole history."""
        self._fresh[ids] = True
        self._any_fresh = True

    def build(
        self,
        intent: np.ndarray,
        height_m: np.ndarray,
        gyro: np.ndarray,
        gravity: np.ndarray,
        q: np.ndarray,
        qd: np.ndarray,
        last_action: np.ndarray,
        phase: np.ndarray,
        stepping: np.ndarray,
        reference_q: np.ndarray,
        velocity_error: np.ndarray,
        path_error: np.ndarray,
        flags: np.ndarray,
        capture: np.ndarray,
        arm_shift: np.ndarray,
        deviation: np.ndarray,
    ) -> np.ndarray:
        """Push one frame and return the observation [N, size] float32.

        Args:
            intent: gated velocity as part of cruise speed [N, 3], in [-1, 1].
            height_m: height reference [N]; gyro, gravity: [N, 3] pelvis frame; q, qd: all joints [N, J], robot order.
            last_action: [N, A] as the policy gave it, unmirrored; phase, stepping: gait clock [N].
            reference_q: reference leg angles [N, A]; velocity_error: filtered, measured - reference [N, 3], m/s, m/s, rad/s.
            path_error: where the path is, seen from the body [N, 3], m, m, rad; flags: [N, 3].
            capture: of the capture point from its place in standing, deviation: from its course [N, 2], m.
            arm_shift: of the centre of mass by the arms [N, 2], m.
        """
        c = self.config
        height = (height_m - c.height_offset_m) * c.height_scale
        leg_q = q[:, self.legs] - self._legs_default
        leg_qd = qd[:, self.legs] * c.velocity_scale
        frame = np.concatenate((intent, height[:, None], gyro * c.gyro_scale, gravity, leg_q, leg_qd, last_action), axis=1)
        self.frames[:, 1:] = self.frames[:, :-1].copy()
        self.frames[:, 0] = frame
        if self._any_fresh:
            self.frames[self._fresh] = frame[self._fresh, None]
            self._fresh[:] = False
            self._any_fresh = False
        angle = 2.0 * np.pi * (np.mod(phase, 0.5) if c.mirror else phase)
        on = stepping.astype(float)
        clock = np.array((np.sin(angle), np.cos(angle), on)).T
        reference = reference_q - self._legs_default
        posture = q[:, self.posture] - self._posture_default
        parts = [self.frames.reshape(len(q), -1), clock, reference, posture]
        if c.odometry:
            parts.append(velocity_error * self._odometry_scale)
        if c.path:
            parts.append(path_error * self._path_scale)
        if c.balance:
            parts += [capture * c.balance_scale, deviation * c.balance_scale, arm_shift * c.balance_scale]
        if c.flags:
            parts.append(flags)
        flat = np.concatenate(parts, axis=1)
        mirrored = self.mirrored(phase)
        if mirrored.any():
            flat[mirrored] = (flat[mirrored][:, self._mirror_index]) * self._mirror_sign
        return flat.astype(np.float32)

    def mirrored(self, phase: np.ndarray) -> np.ndarray:
        """[N] robots whose problem is shown, and answered, in the mirror."""
        return (phase >= 0.5) & self.config.mirror

    def mirror(self, observation: np.ndarray) -> np.ndarray:
        """The same situation seen in the mirror, [..., size]."""
        return observation[..., self._mirror_index] * self._mirror_sign.astype(observation.dtype)

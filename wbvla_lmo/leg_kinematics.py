"""Closed-form leg inverse kinematics and whole-body centre of mass, from the robot spec alone.

The inverse assumes a leg chain pitch-roll-yaw hip, pitch knee, pitch-roll ankle (G1, H1-2, X1 and X2 are built so);
another chain is refused at construction.
"""

from __future__ import annotations

import numpy as np

from wbvla_core.numeric import clip
from wbvla_core.robot import RobotSpec, RobotSpecError

LEG_AXES = np.array(((0, 1, 0), (1, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 0), (1, 0, 0)), dtype=float)
LEGS = ("left_leg", "right_leg")
GRAVITY_M_S2 = 9.81
DERIVATIVE_STEP_S = 1e-4  # of numerical derivatives along the joint speeds


class LegInverse:
    """Joint angles of both legs for given sole positions, feet flat, hip yaw given."""

    def __init__(self, robot: RobotSpec) -> None:
        origins = []
        for group in LEGS:
            joints = [robot.joint(name) for name in robot.names(group)]
            axes = np.array([j.axis for j in joints])
            if axes.shape != LEG_AXES.shape or not np.allclose(axes, LEG_AXES) or np.any([j.rpy for j in joints]):
                raise RobotSpecError(
                    f"{robot.name}: {group} must be a pitch-roll-yaw hip, pitch knee, pitch-roll ankle without rotated origins, got axes {axes.tolist()}"
                )
            origins.append([j.xyz for j in joints])
        o = np.array(origins)  # [2, 6, 3] joint origins in their parent frames
        self.hip = o[:, 0]  # pelvis -> hip pitch axis
        self.roll_y = o[:, 1, 1]
        self.roll_x = o[:, 1, 0] + o[:, 2, 0]
        self.yaw_z = o[:, 2, 2]
        self.knee = o[:, 3]
        self.ankle = o[:, 4]
        self.ankle_roll_x = o[:, 5, 0]
        self.sole_z = robot.sole.z
        self.lower = np.stack([robot.lower[robot.indices(g)] for g in LEGS])  # [2, 6]
        self.upper = np.stack([robot.upper[robot.indices(g)] for g in LEGS])
        self._steps = np.moveaxis(o, (1, 2), (0, 1)).copy()  # [6 joints, xyz, 2 legs]
        upper_leg = self.knee + np.stack((0 * self.yaw_z, 0 * self.yaw_z, self.yaw_z), axis=-1)
        self._a, self._b = upper_leg, self.ankle
        self._const = np.sum(self._a**2 + self._b**2, axis=-1) + 2 * self._a[:, 1] * self._b[:, 1]
        along = self._a[:, 0] * self._b[:, 0] + self._a[:, 2] * self._b[:, 2]
        across = self._a[:, 0] * self._b[:, 2] - self._a[:, 2] * self._b[:, 0]
        self._modulus, self._phase = 2 * np.hypot(along, across), np.arctan2(across, along)

    @property
    def half_width_m(self) -> float:
        """Lateral distance of the ankle from the middle plane with the hip roll at zero, m."""
        return float(self.hip[0, 1] + self.roll_y[0])

    def soles(self, q: np.ndarray) -> np.ndarray:
        """Forward kinematics: leg angles [N, 2, 6] -> sole points under the ankle roll axes [N, 2, 3], root link's frame, m."""
        angle = q.transpose(2, 0, 1)
        cos, sin = np.cos(angle), np.sin(angle)  # [6, N, 2]
        x, y, z = 0.0, -sin[5] * self.sole_z, cos[5] * self.sole_z
        for joint in (4, 3, 2, 1, 0):  # from the ankle inwards: step to the joint's parent origin, turn by its angle
            ox, oy, oz = self._steps[joint + 1]
            x, y, z = x + ox, y + oy, z + oz
            c, s = cos[joint], sin[joint]
            if LEG_AXES[joint, 0]:
                y, z = c * y - s * z, s * y + c * z
            elif LEG_AXES[joint, 1]:
                x, z = c * x + s * z, c * z - s * x
            else:
                x, y = c * x - s * y, s * x + c * y
        sole = np.empty((*q.shape[:2], 3))
        sole[..., 0], sole[..., 1], sole[..., 2] = x, y, z
        return sole + self.hip

    def solve(self, sole: np.ndarray, foot_yaw: np.ndarray, lean: np.ndarray) -> np.ndarray:
        """Leg angles that put the soles flat at ``sole``, heading ``foot_yaw``.

        Args:
            sole: [N, 2, 3] point of the sole under the ankle roll axis, m, in the level frame: origin at the pelvis
                origin, x along the pelvis' heading, z up. Order left, right.
            foot_yaw: [N, 2] heading of the feet relative to the pelvis, rad.
            lean: [N] forward pitch of the pelvis, rad.

        Returns:
            [N, 2, 6] rad, inside the joint limits; legs that cannot reach are stretched towards the target.
        """
        leg = self._reach(sole, foot_yaw, lean)
        # Pitch and roll of the hip turn the foot a little; one correction leaves the heading within 0.005 rad.
        _, heading = self._orient(leg, foot_yaw, lean)
        q, _ = self._orient(leg, 2.0 * foot_yaw - heading, lean)
        return clip(q, self.lower, self.upper)

    def _reach(self, sole: np.ndarray, foot_yaw: np.ndarray, lean: np.ndarray) -> tuple[np.ndarray, ...]:
        """What does not depend on the hip yaw: ankle pitch axis from the hip pitch axis in the pelvis frame (x, side, z), the knee,
        and the ankle seen from the hip roll axis before hip yaw (wx, wy, vz). All [N, 2]."""
        cl, sl = np.cos(lean)[:, None], np.sin(lean)[:, None]
        px = sole[..., 0] - self.ankle_roll_x * np.cos(foot_yaw)
        py = sole[..., 1] - self.ankle_roll_x * np.sin(foot_yaw)
        pz = sole[..., 2] - self.sole_z
        tx = cl * px - sl * pz - self.hip[:, 0]
        tz = sl * px + cl * pz - self.hip[:, 2]
        side = py - self.hip[:, 1] - self.roll_y
        reach2 = tx**2 + tz**2 + side**2
        cos_knee = clip((reach2 - self._const) / self._modulus, -1.0, 1.0 - 1e-6)
        knee = clip(self._phase + np.arccos(cos_knee), self.lower[:, 3], self.upper[:, 3])
        ck, sk = np.cos(knee), np.sin(knee)
        wx = self.knee[:, 0] + ck * self.ankle[:, 0] + sk * self.ankle[:, 2]
        wy = self.knee[:, 1] + self.ankle[:, 1]
        vz = self.yaw_z + self.knee[:, 2] - sk * self.ankle[:, 0] + ck * self.ankle[:, 2]
        return tx, side, tz, knee, wx, wy, vz

    def _orient(self, leg: tuple[np.ndarray, ...], hip_yaw: np.ndarray, lean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position and flatness exactly, at a given hip yaw [N, 2]; returns (q [N, 2, 6], heading of the feet [N, 2])."""
        tx, side, tz, knee, wx, wy, vz = leg
        cl, sl = np.cos(lean)[:, None], np.sin(lean)[:, None]
        cy, sy = np.cos(hip_yaw), np.sin(hip_yaw)
        vx = cy * wx - sy * wy + self.roll_x
        vy = sy * wx + cy * wy
        roll = np.arcsin(clip(side / np.hypot(vy, vz), -1.0, 1.0)) - np.arctan2(vy, -vz)
        roll = clip(roll, self.lower[:, 1], self.upper[:, 1])
        cr, sr = np.cos(roll), np.sin(roll)
        down = vy * sr + vz * cr
        pitch = np.arctan2(vx, -down) - np.arctan2(tx, -tz)
        pitch = clip(pitch, self.lower[:, 0], self.upper[:, 0])
        cp, sp = np.cos(pitch), np.sin(pitch)
        ex, ez = -sl, cl  # world up in the pelvis frame (y = 0), then through the three hip angles
        ax, az = ex * cp - ez * sp, ex * sp + ez * cp
        by, bz = az * sr, az * cr
        ux, uy = ax * cy + by * sy, by * cy - ax * sy
        below = np.arctan2(ux, bz)  # knee + ankle pitch that levels the sole
        level = np.cos(below)
        fx, fy, fz = cy * level, sy * level, -np.sin(below)  # the foot's x axis, back up the chain
        fy, fz = cr * fy - sr * fz, sr * fy + cr * fz
        fx, fz = cp * fx + sp * fz, cp * fz - sp * fx
        heading = np.arctan2(fy, cl * fx + sl * fz)
        q = np.empty((*knee.shape, len(LEG_AXES)))
        q[..., 0], q[..., 1], q[..., 2], q[..., 3] = pitch, roll, hip_yaw, knee
        q[..., 4], q[..., 5] = below - knee, -np.arcsin(clip(uy, -1.0, 1.0))
        return q, heading


def rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """[3, 3] rotation about a unit axis (Rodrigues)."""
    x, y, z = axis
    cross = np.array(((0, -z, y), (z, 0, -x), (-y, x, 0)))
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)


def rpy_matrix(rpy: tuple[float, float, float]) -> np.ndarray:
    """[3, 3] from URDF fixed-axis roll, pitch, yaw."""
    r, p, y = rpy
    ex, ey, ez = np.eye(3)
    return rotation(ez, y) @ rotation(ey, p) @ rotation(ex, r)


def link_poses(robot: RobotSpec, q: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pose (position [3] m, rotation [3, 3]) of every link in the root link's frame at joint angles q [J]."""
    poses = {robot.root: (np.zeros(3), np.eye(3))}
    for joint, value in zip(robot.joints, q, strict=True):
        position, orientation = poses[joint.parent]
        origin = position + orientation @ np.array(joint.xyz)
        frame = orientation @ rpy_matrix(joint.rpy)
        axis = np.array(joint.axis)
        poses[joint.child] = (origin + frame @ axis * value, frame) if joint.kind == "prismatic" else (origin, frame @ rotation(axis, value))
    return poses


def centre_of_mass(robot: RobotSpec, q: np.ndarray) -> np.ndarray:
    """Centre of mass [3] in the root link's frame, m."""
    poses = link_poses(robot, q)
    weighted = sum(link.mass * (poses[link.name][0] + poses[link.name][1] @ np.array(link.com)) for link in robot.links)
    return weighted / robot.total_mass_kg


def static_torque(robot: RobotSpec, q: np.ndarray, lean: float, group: str, contact: np.ndarray, force: np.ndarray) -> np.ndarray:
    """Motor torques [G] of a leg that balance its own weight and a ground force, body at rest.

    Args:
        q: all joint angles [J]; lean: forward pitch of the root link, rad.
        contact: where the force acts [3], m, level frame at the root link's origin; force: on the foot [3], N.
    """
    level = rotation(np.array((0.0, 1.0, 0.0)), lean)
    poses = link_poses(robot, q)
    names = robot.names(group)
    links = [robot.joint(n).child for n in names]
    masses = np.array([robot.link(n).mass for n in links])
    centres = np.array([level @ (poses[n][0] + poses[n][1] @ np.array(robot.link(n).com)) for n in links])
    weight = np.array((0.0, 0.0, -GRAVITY_M_S2))
    torque = np.zeros(len(names))
    for i, name in enumerate(names):
        origin, orientation = poses[links[i]]
        origin, axis = level @ origin, level @ orientation @ np.array(robot.joint(name).axis)
        moment = np.cross(contact - origin, force)
        for j in range(i, len(names)):
            moment = moment + np.cross(centres[j] - origin, masses[j] * weight)
        torque[i] = -axis @ moment
    return torque

"""A world without physics behind the interface of :class:`wbvla_sim.world.World`: the robot slides as commanded.

For demonstrations before a locomotion policy exists, for tests of the layers above, and for quick data: what the head camera sees is
close to walking (lag, bob, sway, nodding, drift), what the feet do is not. Arms follow their targets with a lag.
The world takes :class:`KinematicCommand` from :class:`KinematicController`, which stands in for the LMO controller.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from wbvla_core.numeric import wrap
from wbvla_core.robot import RobotSpec
from wbvla_core.types import ArmChunk, Decision, JointCommand, LocoCommand, RobotState
from wbvla_sim.driver import DriverState
from wbvla_sim.scene import Scene
from wbvla_sim.slots import SLOT_S
from wbvla_sim.world import World, WorldOptions


@dataclass(frozen=True)
class KinematicCommand(JointCommand):
    """A JointCommand that also says where to slide."""

    loco: LocoCommand = LocoCommand()


@dataclass(frozen=True)
class Walk:
    """How the stand-in walks; all ours, measured on our first learned gait.

    Attributes:
        cruise: speed at full flags (forward m/s, left m/s, yaw rad/s).
        lag_s: time constants of these speeds; height_rate_m_s: speed of the stance height; arm_lag_s: time constant of the arms.
        period_s: gait cycle; bob_m, sway_m, roll_rad, pitch_rad, yaw_rad: amplitudes while moving.
        drift: standard deviation of speed noise as a part of cruise speed (correlated over 0.5 s).
    """

    cruise: tuple[float, float, float] = (0.3, 0.3, 0.4)
    lag_s: tuple[float, float, float] = (0.6, 0.5, 0.15)
    height_rate_m_s: float = 0.2
    arm_lag_s: float = 0.06
    period_s: float = 0.72
    bob_m: float = 0.003
    sway_m: float = 0.014
    roll_rad: float = 0.035
    pitch_rad: float = 0.01
    yaw_rad: float = 0.018
    drift: float = 0.08


class LegPlane:
    """Inverse kinematics of a flat foot under the hip, in the leg's plane, from the spec's offsets."""

    def __init__(self, robot: RobotSpec) -> None:
        self.robot = robot
        offset = {
            name: np.array(robot.joint(f"left_{name}_joint").xyz)[[0, 2]] for name in ("hip_pitch", "hip_roll", "hip_yaw", "knee", "ankle_pitch", "ankle_roll")
        }
        self.hip = offset["hip_pitch"]
        self.thigh = offset["hip_roll"] + offset["hip_yaw"] + offset["knee"]
        self.shank = offset["ankle_pitch"]
        self.foot = offset["ankle_roll"] + (0.0, robot.sole.z)
        self.home_x = float((self.thigh + self.shank)[0])  # ankle under the hip as in the zero pose

    def solve(self, height_m: float, ahead_m: float = 0.0) -> tuple[float, float, float]:
        """Hip pitch, knee, ankle pitch, rad, for a sole ``height_m`` below the pelvis and ``ahead_m`` before its home."""
        p = np.array((self.home_x + ahead_m, -height_m)) - (0.0, self.hip[1] + self.foot[1])
        t, s = np.hypot(*self.thigh), np.hypot(*self.shank)
        cos = np.clip((p @ p - t * t - s * s) / (2 * t * s), -1.0, 1.0)
        bend = float(np.arccos(cos))  # of the shank against the thigh's line
        knee = bend + _angle(self.thigh) - _angle(self.shank)
        hip = _angle(p) - _angle(self.thigh) - float(np.arctan2(s * np.sin(bend), t + s * cos))
        knee, hip = float(wrap(knee)), float(wrap(hip))
        return hip, knee, -(hip + knee)


def _angle(v: np.ndarray) -> float:
    """Angle that a rotation about +y adds to."""
    return float(np.arctan2(v[0], v[1]))


class KinematicController:
    """Stands in for the LMO controller: same calls, no legs to balance."""

    def __init__(self, robot: RobotSpec) -> None:
        self.robot = robot
        self._arms = robot.indices("upper_body")
        self.reset(None)

    def reset(self, state: RobotState | None) -> None:
        """Arms to their default."""
        self._chunk: ArmChunk | None = None
        self._stamp_s = 0.0
        self._target = self.robot.default_q.copy()

    def set_decision(self, decision: Decision, now_s: float) -> None:
        """Take the arm targets of a decision."""
        self._chunk = decision.arms.validate(self.robot.names("upper_body"))
        self._stamp_s = decision.stamp_s

    def tick(self, state: RobotState, loco: LocoCommand, now_s: float) -> KinematicCommand:
        """Targets for all joints at now_s (legs are the world's affair), and the command to slide by."""
        if self._chunk is not None:
            rows = (np.arange(len(self._chunk.positions)) + 1) * self._chunk.dt_s + self._stamp_s
            start = self._target[self._arms]
            times = np.concatenate(((now_s - SLOT_S,), rows[rows > now_s - SLOT_S]))
            knots = np.concatenate((start[None], self._chunk.positions[rows > now_s - SLOT_S]))
            self._target[self._arms] = [np.interp(now_s, times, knots[:, i]) for i in range(len(self._arms))]
            self._target = self.robot.clamp(self._target)
        zeros = np.zeros(self.robot.joint_count)
        return KinematicCommand(state.stamp_s, self._target.copy(), zeros, zeros, self.robot.kp, self.robot.kd, loco)


class KinematicWorld(World):
    """See the module text. ``slot`` wants a KinematicCommand; silence stops the robot."""

    def __init__(self, robot: RobotSpec, scene: Scene, *, options: WorldOptions | None = None, walk: Walk | None = None) -> None:
        self.walk = walk or Walk()
        self._legs = LegPlane(robot)
        self._leg_joints = {
            side: np.array([robot.joint_names.index(f"{side}_{name}_joint") for name in ("hip_pitch", "knee", "ankle_pitch")]) for side in ("left", "right")
        }
        self._arm_indices = robot.indices("upper_body")
        super().__init__(robot, scene, options=options)

    def reset(self, seed: int = 0) -> RobotState:
        """As :meth:`World.reset`; there is no gantry and no driver to wait for."""
        self._velocity, self._noise = np.zeros(3), np.zeros(3)  # heading frame: forward, left, yaw
        self._xy, self._yaw, self._phase, self._amplitude = np.zeros(2), 0.0, 0.0, 0.0
        self._height_m = self.robot.default_stance_height_m
        self._q = self.robot.default_q.copy()
        self._command: KinematicCommand | None = None
        state = super().reset(seed)
        self._set_gantry(False)
        return state

    def slot(self, command: JointCommand | None, *, on_step=None) -> RobotState:
        """Advance 20 ms. The command must be a :class:`KinematicCommand` (ValueError otherwise), or None."""
        if command is not None and not isinstance(command, KinematicCommand):
            raise ValueError("a KinematicWorld slides by KinematicCommand, got a plain JointCommand; drive it with KinematicController")
        self._command = command
        return super().slot(command, on_step=on_step)

    def _step(self) -> None:
        walk, rng, dt = self.walk, self._rng, self.model.opt.timestep
        command = self._command
        loco = command.loco if command else LocoCommand(0, 0, 0, self._height_m)
        if command:
            self.driver.state = DriverState.RUNNING
        # speed: first-order lag towards the flags, with a slow error while moving
        flags, cruise = loco.flags, np.array(walk.cruise)
        self._noise += -self._noise * dt / 0.5 + rng.normal(0.0, walk.drift * np.sqrt(2 * dt / 0.5), 3)
        self._velocity += (flags * cruise - self._velocity) * dt / np.array(walk.lag_s)
        moving = float(np.max(np.abs(self._velocity) / cruise))
        speed = self._velocity + self._noise * cruise * moving
        self._yaw += speed[2] * dt
        c, s = np.cos(self._yaw), np.sin(self._yaw)
        world_velocity = np.array((c * speed[0] - s * speed[1], s * speed[0] + c * speed[1]))
        self._xy = self._xy + world_velocity * dt
        limit = walk.height_rate_m_s * dt
        self._height_m += float(np.clip(loco.stance_height_m - self._height_m, -limit, limit))
        # gait: body and legs
        self._amplitude += (min(1.0, 2.0 * moving) - self._amplitude) * dt / 0.2
        if self._amplitude > 0.02:
            self._phase += 2 * np.pi * dt / walk.period_s
        a, phase = self._amplitude, self._phase
        bob = a * walk.bob_m * np.cos(2 * phase)
        sway = a * walk.sway_m * np.sin(phase)
        roll, pitch = a * walk.roll_rad * np.sin(phase + 0.4), a * walk.pitch_rad * np.cos(2 * phase + 0.8) + 0.01 * a * self._noise[0] / max(walk.drift, 1e-6)
        half = np.array((roll, pitch, self._yaw + a * walk.yaw_rad * np.sin(phase + 1.0))) / 2
        (cr, cp, cy), (sr, sp, sy) = np.cos(half), np.sin(half)
        quat = (cr * cp * cy + sr * sp * sy, sr * cp * cy - cr * sp * sy, cr * sp * cy + sr * cp * sy, cr * cp * sy - sr * sp * cy)
        xyz = (self._xy[0] - s * sway, self._xy[1] + c * sway, self._height_m + bob)
        q = self._q
        for side, sign in (("left", 1.0), ("right", -1.0)):
            swing = np.sin(phase) * sign
            lift = 0.04 * a * max(0.0, swing)
            ahead = -0.5 * self._velocity[0] * walk.period_s / 2 * np.cos(phase) * sign * a
            q[self._leg_joints[side]] = self._legs.solve(xyz[2] - lift, ahead)
        if command:
            arms = self._arm_indices
            q[arms] += (command.q[arms] - q[arms]) * dt / walk.arm_lag_s
        q[:] = self.robot.clamp(q)
        # write it into MuJoCo, velocities by difference
        d = self.data
        before = d.qpos.copy()
        d.qpos[:3], d.qpos[3:7] = xyz, quat
        d.qpos[self.joints.qpos] = q[self.joints.canonical]
        mujoco.mj_differentiatePos(self.model, d.qvel, dt, before, d.qpos)
        d.time += dt
        self._sense()

    def refresh(self) -> None:
        """Bring MuJoCo's derived positions up to date with qpos; slots leave them behind, because pictures need them only at 10 Hz."""
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def render(self, camera: str = "head", width: int | None = None, height: int | None = None) -> np.ndarray:
        self.refresh()
        return super().render(camera, width, height)

    def truth(self) -> dict:
        self.refresh()
        return super().truth()

    def camera_pose(self) -> tuple[np.ndarray, np.ndarray]:
        self.refresh()
        return super().camera_pose()

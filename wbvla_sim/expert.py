"""The scripted teleoperator: does what a person with a joystick would do, from the simulator's truth.

Its labels must be learnable by a policy without memory that sees one image, so
* it acts only on what the head camera shows: a target out of the image -> turn left until it appears (always left);
* it anticipates the stop by the present speed, and switches with hysteresis;
* arm motions are feedback laws of arm positions and velocities (a wave is a limit cycle, :meth:`ArmScript._swing`).
Prior work: our prototype on a kinematic walker (200 of 200 walks). Mistakes for the learner to recover from come from
:class:`Perturbed`, which executes bursts of random commands while the labels stay the expert's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import mujoco
import numpy as np

from wbvla_core.numeric import wrap
from wbvla_core.robot import RobotSpec
from wbvla_core.types import ArmChunk, Decision, LocoCommand, PolicyInput, RobotState
from wbvla_sim.instructions import INSTRUCTIONS, Task, parse_instruction
from wbvla_sim.model.build import JointMap, joint_map, robot_mjcf
from wbvla_sim.scene import STAND_OFF_M, Box
from wbvla_sim.world import World

__all__ = ["INSTRUCTIONS", "SQUAT_HEIGHT_M", "STAND_HEIGHT_M", "ArmScript", "ExpertConfig", "Perturbed", "Perturbation", "ScriptedTeleoperator"]

SQUAT_HEIGHT_M = 0.50  # ours: a clear squat, 4 cm above the lowest stance
STAND_HEIGHT_M = 0.64  # the default stance


@dataclass(frozen=True)
class ExpertConfig:
    """Thresholds of the joystick; distances m, angles rad, ours after the prototype (vla: on above 0.12 m and 10 deg, off below 0 m and 4 deg).

    Attributes:
        forward_on_m, forward_off_m: hysteresis on the distance left to the stand-off point. The bands are wide because the legs' answer is
            late: a burst of walking carries the robot on for half a second, and with 0.14 m it went to and fro before one box in three.
        back_on_m, back_off_m: the same for stepping back when too close; nearer than 0.35 m the X2 no longer sees the middle of a box.
        yaw_on_rad, yaw_off_rad: hysteresis on the bearing of the box.
        turn_first_rad: above this bearing turn on the spot before walking.
        stop_s, stop_turn_s: present speed times this is what the robot still walks or turns after its flag falls; taken off
            distance and bearing (measured on the learned gait: 0.13 m from 0.30 m/s, 0.04 rad from 0.30 rad/s).
        speed_filter_s: time constant of the speed that is meant; within a step the pelvis sways too fast to judge by.
        image_margin: a box centre nearer than this to the image's border (part of its half size) counts as unseen.
        chunk_rows, chunk_dt_s: shape of the arm chunk.
    """

    forward_on_m: float = 0.22
    forward_off_m: float = 0.02
    back_on_m: float = -0.22
    back_off_m: float = -0.06
    yaw_on_rad: float = np.radians(10.0)
    yaw_off_rad: float = np.radians(4.0)
    turn_first_rad: float = np.radians(22.0)
    stop_s: float = 0.45
    stop_turn_s: float = 0.2
    speed_filter_s: float = 0.4
    image_margin: float = 0.03
    chunk_rows: int = 8
    chunk_dt_s: float = 0.1


_STATICS: dict[str, tuple[mujoco.MjModel, mujoco.MjData, JointMap]] = {}


def _statics(robot: RobotSpec) -> tuple[mujoco.MjModel, mujoco.MjData, JointMap]:
    """The robot alone, for static torques; one per robot and process, because a data collector has many teleoperators."""
    if robot.fingerprint not in _STATICS:
        model = mujoco.MjModel.from_xml_string(robot_mjcf(robot, floor=False, visuals=False, sensors=False))
        _STATICS[robot.fingerprint] = model, mujoco.MjData(model), joint_map(model, robot)
    return _STATICS[robot.fingerprint]


class ArmScript:
    """Arm targets as a feedback law of the measured arm state; no memory."""

    SPEED_RAD_S = 0.7  # of free motions: an arm of 4 kg that is thrown up makes the robot step
    WAVE_AMPLITUDE_RAD = 0.4
    WAVE_TURN_1_S = 4.0  # a swing turns round where its speed is this times its way from the middle
    WAVE_OFF_CENTRE_RAD = 0.1  # the point of rest from which either direction would do lies off the middle
    LEAD_S = 0.1  # the arm follows its targets by about kd / kp and its inertia: aim ahead by as much
    GRAVITY_M_S2 = 9.81
    RAISED = {"shoulder_pitch": 0.0, "shoulder_roll": 1.25, "shoulder_yaw": 1.45, "elbow": -1.5}  # left arm; upper arm out, forearm up
    WAVING = "elbow"

    def __init__(self, robot: RobotSpec, config: ExpertConfig) -> None:
        self.robot, self.config = robot, config
        self.names = robot.names("upper_body")
        self.indices = robot.indices("upper_body")
        self.rest = robot.default_q[self.indices]
        self._statics = _statics(robot)

    def sag(self, state: RobotState) -> np.ndarray:
        """How far [A] the drives must aim beyond a pose to hold it against gravity: static torque / kp, rad."""
        model, data, joints = self._statics
        model.opt.gravity[:] = self.GRAVITY_M_S2 * state.gravity  # the model's pelvis stays level, gravity tilts
        data.qpos[joints.qpos] = state.q[joints.canonical]
        mujoco.mj_forward(model, data)
        torque = np.zeros(self.robot.joint_count)
        torque[joints.canonical] = data.qfrc_bias[joints.dof]
        return (torque / self.robot.kp)[self.indices]

    def chunk(self, state: RobotState, wave: str = "") -> ArmChunk:
        """Targets [K, A] from the measured state; ``wave`` = "left" or "right" waves that arm, the rest goes to or stays in the default pose."""
        q = state.q[self.indices]
        goal = self.rest.copy()
        times = (np.arange(self.config.chunk_rows) + 1) * self.config.chunk_dt_s
        if wave:
            sign = 1.0 if wave == "left" else -1.0
            for name, value in self.RAISED.items():
                goal[self._at(wave, name)] = value * (sign if name in ("shoulder_roll", "shoulder_yaw") else 1.0)
        # straight towards the goal at limited speed; joints at rest aim at the goal itself, so that gravity sag is not followed
        gap = goal - q
        swing = self._at(wave, self.WAVING) if wave else None
        travel = np.max(np.abs(gap if swing is None else np.delete(gap, swing))) / self.SPEED_RAD_S
        part = np.ones(len(times)) if travel < 0.15 else np.minimum(1.0, (times + self.LEAD_S) / travel)
        rows = q + part[:, None] * gap  # [K, A]
        rows[:, np.abs(gap) < 0.15] = goal[np.abs(gap) < 0.15]
        if swing is not None:
            rows[:, swing] = self._swing(q[swing], state.qd[self.indices[swing]], goal[swing])
            arm = [self.names.index(name) for name in self.robot.names(f"{wave}_arm")]
            rows[:, arm] += self.sag(state)[arm]
        return ArmChunk(self.names, np.clip(rows, self.robot.lower[self.indices], self.robot.upper[self.indices]), self.config.chunk_dt_s)

    def _swing(self, q: float, qd: float, centre: float) -> float:
        """Target of the waving joint: the end of the swing that it moves towards, the other end once it comes near.

        Which end is the sign of one linear function of position and speed. A policy learns that from few examples, and its blurred copy
        still swings: at rest in the middle there is one answer, and every speed feeds itself. (Targets on a smooth circle of phases left a
        learnt copy at rest in the middle.)
        """
        onward = qd > self.WAVE_TURN_1_S * (q - centre - self.WAVE_OFF_CENTRE_RAD)
        return centre + (self.WAVE_AMPLITUDE_RAD if onward else -self.WAVE_AMPLITUDE_RAD)

    def _at(self, side: str, name: str) -> int:
        return self.names.index(f"{side}_{name}_joint")


class ScriptedTeleoperator:
    """A policy (reset, infer) that looks at ``world.truth()`` instead of the image."""

    def __init__(self, world: World, config: ExpertConfig | None = None) -> None:
        self.world, self.config = world, config or ExpertConfig()
        self.arms = ArmScript(world.robot, self.config)
        camera = world.robot.camera
        self._tan_y = np.tan(np.radians(camera.fovy_deg) / 2)
        self._tan_x = self._tan_y * camera.width / camera.height
        self.reset()

    def reset(self) -> None:
        """Hands off the joystick."""
        self._forward, self._yaw = 0, 0
        self._speed = np.zeros(2)  # forward m/s, yaw rad/s, filtered
        self._stamp_s: float | None = None

    def infer(self, policy_input: PolicyInput) -> Decision:
        """The command for the instruction now. Raises InstructionError, or KeyError for a box that is not there."""
        task = parse_instruction(policy_input.instruction)
        self._watch(policy_input.stamp_s)
        flags, height_m, wave = self._command(task)
        arms = self.arms.chunk(policy_input.state, wave)
        return Decision(policy_input.stamp_s, LocoCommand(*flags, height_m), arms)

    def _watch(self, stamp_s: float) -> None:
        """Follow the speed of walking."""
        truth = self.world.truth()
        dt_s = 0.1 if self._stamp_s is None else stamp_s - self._stamp_s
        self._stamp_s = stamp_s
        now = np.array((truth["velocity_heading"][0], truth["yaw_rate_rad_s"]))
        self._speed += (now - self._speed) * min(1.0, dt_s / self.config.speed_filter_s)

    def _command(self, task: Task) -> tuple[tuple[int, int, int], float, str]:
        sign = 1 if task.side == "left" else -1
        if task.kind == "walk_to":
            return self._walk_to(task.color), STAND_HEIGHT_M, ""
        if task.kind == "turn":
            return (0, 0, sign), STAND_HEIGHT_M, ""
        if task.kind == "step":
            return (0, sign, 0), STAND_HEIGHT_M, ""
        if task.kind == "wave":
            return (0, 0, 0), STAND_HEIGHT_M, task.side
        return (0, 0, 0), SQUAT_HEIGHT_M if task.kind == "squat" else STAND_HEIGHT_M, ""

    def _walk_to(self, color: str) -> tuple[int, int, int]:
        c, truth = self.config, self.world.truth()
        box = self.world.scene.box(color)
        if not self.sees(box):
            self._forward, self._yaw = 0, 1
            return 0, 0, 1
        xy, yaw = truth["pelvis_xyz"][:2], truth["yaw_rad"]
        towards = np.array(box.xyz[:2]) - xy
        bearing = wrap(np.arctan2(towards[1], towards[0]) - yaw)
        bearing -= c.stop_turn_s * self._speed[1]
        left_m = box.face_distance(xy) - STAND_OFF_M - c.stop_s * self._speed[0]
        self._yaw = _hysteresis(self._yaw, bearing, c.yaw_on_rad, c.yaw_off_rad)
        if left_m > c.forward_on_m or (self._forward > 0 and left_m > c.forward_off_m):
            self._forward = 1
        elif left_m < c.back_on_m or (self._forward < 0 and left_m < c.back_off_m):
            self._forward = -1
        else:
            self._forward = 0
        if abs(bearing) > c.turn_first_rad and self._yaw:
            return 0, 0, self._yaw
        return self._forward, 0, self._yaw

    def sees(self, box: Box) -> bool:
        """Whether the centre of the box falls into the head camera's image."""
        origin, axes = self.world.camera_pose()
        x, y, z = axes.T @ (np.array(box.xyz) - origin)
        limit = 1.0 - self.config.image_margin
        return bool(z > 0.05 and abs(x) < limit * self._tan_x * z and abs(y) < limit * self._tan_y * z)


def _hysteresis(flag: int, value: float, on: float, off: float) -> int:
    """Flag towards the sign of value: on above ``on``, off below ``off``, never straight from one side to the other."""
    if abs(value) > on:
        return 1 if value > 0 else -1
    if flag and flag * value > off:
        return flag
    return 0


@dataclass(frozen=True)
class Perturbation:
    """Bursts of random commands instead of the expert's (prior work: our prototype: 3.5 % per step, 0.3-1.2 s)."""

    rate_per_step: float = 0.035
    duration_s: tuple[float, float] = (0.3, 1.2)
    arm_noise_rad: float = 0.15
    stance_noise_m: float = 0.02


class Perturbed:
    """Wraps a policy: executes bursts of random commands; ``label`` keeps what the policy itself wanted."""

    def __init__(self, policy: ScriptedTeleoperator, perturbation: Perturbation | None = None, *, seed: int = 0) -> None:
        self.policy, self.perturbation, self._seed = policy, perturbation or Perturbation(), seed
        self.label: Decision | None = None
        self.reset()

    def reset(self) -> None:
        self.policy.reset()
        self._rng = np.random.default_rng(self._seed)
        self._until_s, self._burst, self._arm_offset = -np.inf, (0, 0, 0), 0.0
        self._stance_offset_m = 0.0

    def infer(self, policy_input: PolicyInput) -> Decision:
        """The wrapped policy's decision, or a burst in its place; ``label`` is the decision either way."""
        p, rng, now_s = self.perturbation, self._rng, policy_input.stamp_s
        self.label = label = self.policy.infer(policy_input)
        if now_s >= self._until_s and rng.random() < p.rate_per_step:
            self._until_s = now_s + rng.uniform(*p.duration_s)
            self._burst = tuple(int(v) for v in rng.integers(-1, 2, 3))
            self._arm_offset = rng.normal(0.0, p.arm_noise_rad, label.arms.positions.shape[1])
            self._stance_offset_m = float(rng.normal(0.0, p.stance_noise_m))
        if now_s >= self._until_s:
            return label
        robot = self.policy.world.robot
        low, high = robot.stance_height_range_m
        loco = LocoCommand(*self._burst, float(np.clip(label.loco.stance_height_m + self._stance_offset_m, low, high)))
        arms = robot.indices("upper_body")
        positions = np.clip(label.arms.positions + self._arm_offset, robot.lower[arms], robot.upper[arms])
        return replace(label, loco=loco, arms=replace(label.arms, positions=positions))

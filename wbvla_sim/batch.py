"""N robots on a bare floor in one ``mujoco.batch.Batch``: the model, driver law and time step of :class:`wbvla_sim.world.World`, many at once.

Whole model: every joint, dry friction, self-collision. Each robot has a mass, friction, gains and delays of its own. No picture, no gantry: all begin
standing free in the default pose, and the drives hold it until the first command arrives. A test holds one row of it to ``World``.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np
from mujoco.batch import Batch

from wbvla_core.robot import RobotSpec
from wbvla_core.types import gravity_from_quaternion, pitch_roll_from_gravity, yaw_from_quaternion
from wbvla_sim.model.build import SLOT_STEPS, TIMESTEP_S, joint_map, robot_mjcf
from wbvla_sim.slots import SensorNoise, diverged, fallen

FEET = ("left_foot", "right_foot")

Scenery = Callable[[ET.Element], None]


@dataclass(frozen=True)
class BatchOptions:
    """How the batch is simulated.

    Attributes:
        threads: of mujoco.batch.
        iterations, ls_iterations: of the Newton solver; the defaults are the converged solver.
        self_collision: pair sets of :data:`wbvla_sim.model.build.SELF_PAIRS`.
        longest_delay_steps: greatest delay of commands and of sensing, in 5 ms steps.
    """

    threads: int = 1
    iterations: int = 100
    ls_iterations: int = 50
    self_collision: tuple[str, ...] = ("legs", "arms")
    longest_delay_steps: int = 32


@dataclass
class SlotUse:
    """What the drives and feet went through in the last slot of 4 physics steps; rows of robots that were not stepped are old.

    Attributes:
        over [N]: part of (leg joint, step) pairs whose demanded torque lay outside the torque-speed limits.
        speed [N]: greatest |joint speed| / limit over the legs.
        torque [N]: greatest |demanded torque| / effort limit over the legs.
        work_j [N]: positive mechanical work of the leg drives, J.
        force_n [N, 2]: greatest vertical force on each foot, N.
        self_contact [N]: whether the robot touched itself.
        shake [N]: root mean square of the leg joints' speeds, rad/s.
    """

    over: np.ndarray
    speed: np.ndarray
    torque: np.ndarray
    work_j: np.ndarray
    force_n: np.ndarray
    self_contact: np.ndarray
    shake: np.ndarray


def batch_mjcf(robot: RobotSpec, options: BatchOptions, scenery: Scenery | None = None) -> str:
    """The whole robot on a floor, with force sensors under its feet and one that counts self-contacts; ``scenery`` may add to the document."""
    text = robot_mjcf(
        robot, visuals=False, sensors=False, self_collision=options.self_collision, iterations=options.iterations, ls_iterations=options.ls_iterations
    )
    root = ET.fromstring(text)
    if scenery is not None:
        scenery(root)
    sensor = ET.SubElement(root, "sensor")
    for frame in FEET:
        ET.SubElement(sensor, "contact", name=f"{frame}_force", body1=robot.frames[frame].parent, geom2="floor", data="found force", reduce="netforce", num="1")
    ET.SubElement(sensor, "contact", name="self_contact", subtree1=robot.root, subtree2=robot.root, data="found", num="1")
    return ET.tostring(root, encoding="unicode")


class BatchWorld:
    """See the module text. Joint arrays are [N, J] in the spec's order."""

    def __init__(self, robot: RobotSpec, count: int, *, options: BatchOptions | None = None, scenery: Scenery | None = None) -> None:
        self.robot, self.count, self.options = robot, count, options or BatchOptions()
        self.model = mujoco.MjModel.from_xml_string(batch_mjcf(robot, self.options, scenery))
        self.joints = joint_map(self.model, robot)
        self.batch = b = Batch(self.model, count, nthread=self.options.threads)
        self.qpos, self.qvel = b.bind("qpos"), b.bind("qvel")
        self._ctrl, self._force_range = b.bind("ctrl"), b.expand("actuator_forcerange")
        self._gain, self._bias = b.expand("actuator_gainprm"), b.expand("actuator_biasprm")
        self._friction, self._mass, self._inertia = b.expand("geom_friction"), b.expand("body_mass"), b.expand("body_inertia")
        self._applied, self._actuator_force = b.bind("xfrc_applied"), b.bind("actuator_force")
        self._site, self._com, self._sensor = b.bind("site_xpos"), b.bind("subtree_com"), b.bind("sensordata")
        self._time, self._warm = b.bind("time"), b.bind("qacc_warmstart")
        m = self.model
        self.pelvis, self.torso = m.body(robot.root).id, m.body(robot.joint(robot.names("waist")[-1]).child).id
        self.hands = np.array([m.body(robot.joint(robot.names(g)[-1]).child).id for g in ("left_arm", "right_arm")])
        self._feet = np.array([m.site(n).id for n in FEET])
        self._foot_force = np.array([m.sensor(f"{n}_force").adr[0] + 3 for n in FEET])  # found, then force x, y, z in room axes
        self._self_contact = m.sensor("self_contact").adr[0]
        self._ground = np.array([i for i in range(m.ngeom) if m.geom(i).name == "floor" or "_sole_" in m.geom(i).name])
        self._legs = robot.indices("legs")
        j = robot.joint_count
        self.kp, self.kd = np.tile(robot.kp, (count, 1)), np.tile(robot.kd, (count, 1))
        self.torque_bias = np.zeros((count, j))
        self.command_delay, self.joint_delay, self.imu_delay = np.zeros((3, count), dtype=np.intp)  # 5 ms steps
        self.q, self.qd = np.zeros((count, j)), np.zeros((count, j))
        depth = self.options.longest_delay_steps
        self._commands = np.zeros((count, depth // SLOT_STEPS + 2, j))  # newest first, one per slot
        self._past = np.zeros((depth + 1, count, 2 * j + 6))  # ring of q, qd, gyro, gravity, one per step
        self._now = 0
        self.use = SlotUse(*np.zeros((4, count)), np.zeros((count, 2)), np.zeros(count, dtype=bool), np.zeros(count))
        self.reset()

    # -- set-up -------------------------------------------------------------------------------------------------------

    def vary(
        self,
        *,
        link_mass: np.ndarray | float = 1.0,
        payload_kg: np.ndarray | float = 0.0,
        hand_kg: np.ndarray | float = 0.0,
        friction: np.ndarray | None = None,
        kp: np.ndarray | float = 1.0,
        kd: np.ndarray | float = 1.0,
        torque_bias: np.ndarray | float = 0.0,
    ) -> None:
        """Change the robots' bodies, before :meth:`reset`.

        Args:
            link_mass: factor of each body's mass [N, bodies] (or a scalar). payload_kg: added to the torso [N]. hand_kg: added to the hands [N, 2].
                Inertias grow with the mass, centres of mass stay.
            friction: between soles and floor [N]; None = the model's.
            kp, kd: factors of the gains [N, J]. torque_bias: constant torque added by each drive [N, J], Nm.
        """
        m, everyone = self.model, (self.count, 1)
        mass = np.broadcast_to(m.body_mass * link_mass, self._mass.shape).copy()
        mass[:, self.torso] += payload_kg
        mass[:, self.hands] += hand_kg
        self._mass[:] = np.maximum(mass, 1e-3 * (m.body_mass > 0))
        self._inertia[:] = m.body_inertia * (self._mass / np.maximum(m.body_mass, 1e-9))[..., None]
        self._friction[:] = m.geom_friction
        if friction is not None:
            self._friction[:, self._ground, 0] = np.asarray(friction)[:, None]
        self.kp, self.kd = np.tile(self.robot.kp, everyone) * kp, np.tile(self.robot.kd, everyone) * kd
        self.torque_bias = np.broadcast_to(np.asarray(torque_bias, dtype=float), self.kp.shape).copy()
        a, c = self.joints.ctrl, self.joints.canonical
        self._gain[:, a, 0] = self.kp[:, c]
        self._bias[:, a, 0] = self.torque_bias[:, c]
        self._bias[:, a, 1], self._bias[:, a, 2] = -self.kp[:, c], -self.kd[:, c]
        self.batch.set_const()

    def delay(self, *, command: np.ndarray | int = 0, joints: np.ndarray | int = 0, imu: np.ndarray | int = 0) -> None:
        """Set delays [N] in 5 ms steps: slot to motors, joint state to :meth:`sense`, IMU to :meth:`sense`."""
        for name, steps in (("command_delay", command), ("joint_delay", joints), ("imu_delay", imu)):
            steps = np.broadcast_to(np.asarray(steps, dtype=np.intp), (self.count,))
            if steps.min() < 0 or steps.max() > self.options.longest_delay_steps:
                raise ValueError(
                    f"{name} must lie in 0..{self.options.longest_delay_steps} steps of {TIMESTEP_S} s, got {steps.min()}..{steps.max()};"
                    " raise BatchOptions.longest_delay_steps"
                )
            setattr(self, name, steps.copy())

    def reset(self, q: np.ndarray | None = None) -> None:
        """All robots to the origin, standing still, looking along +x, in the default pose (or in ``q`` [J] or [N, J]); things to their places."""
        pose = np.broadcast_to(self.robot.default_q if q is None else q, (self.count, self.robot.joint_count))
        self.batch.reset(stage=mujoco.mjtStage.mjSTAGE_NONE)
        self.qpos[:, :3], self.qpos[:, 3:7] = (0.0, 0.0, self.robot.default_stance_height_m), (1.0, 0.0, 0.0, 0.0)
        self.qpos[:, self.joints.qpos] = pose[:, self.joints.canonical]
        self.qvel[:] = 0.0
        self._warm[:] = 0.0
        self._applied[:] = 0.0
        self._time[:] = 1.0  # MuJoCo silently resets a diverged simulation, and its time with it: see broken
        self._commands[:] = pose[:, None]
        self.batch.forward()
        self._warm[:] = 0.0
        self._now = 0
        self._read()
        self._past[:] = self._past[self._now]

    # -- time ---------------------------------------------------------------------------------------------------------

    def slot(self, target: np.ndarray, ids: np.ndarray | None = None) -> None:
        """Advance 20 ms towards joint targets [N, J], which arrive after each robot's delay. Only robots ``ids``; default all."""
        rows = slice(None) if ids is None else ids
        self._commands[rows, 1:] = self._commands[rows, :-1].copy()
        self._commands[rows, 0] = self.robot.clamp(target[rows])
        a, c, legs, use = self.joints.ctrl, self.joints.canonical, self._legs, self.use
        number = np.arange(self.count)[rows]
        effort = self.robot.effort_nm[legs]
        over, speed, torque, work, square, force = (np.zeros((len(number), *shape)) for shape in ((), (), (), (), (), (2,)))
        touched = np.zeros(len(number), dtype=bool)
        for step in range(SLOT_STEPS):
            age = np.maximum((self.command_delay[rows] - step + SLOT_STEPS - 1) // SLOT_STEPS, 0)
            wish = self._commands[number, age]
            q, qd = self.q[rows], self.qd[rows]
            low, high = self.robot.torque_range(qd)
            self._ctrl[np.ix_(number, a)] = wish[:, c]
            self._force_range[np.ix_(number, a)] = np.stack((low[:, c], high[:, c]), axis=-1)
            demand = (self.kp[rows] * (wish - q) - self.kd[rows] * qd + self.torque_bias[rows])[:, legs]
            over += np.mean((demand < low[:, legs]) | (demand > high[:, legs]), axis=1) / SLOT_STEPS
            torque = np.maximum(torque, np.max(np.abs(demand) / effort, axis=1))
            speed = np.maximum(speed, np.max(np.abs(qd[:, legs]) / self.robot.velocity_rad_s[legs], axis=1))
            square += np.mean(qd[:, legs] ** 2, axis=1) / SLOT_STEPS
            last = step == SLOT_STEPS - 1
            self.batch.step(ids, stage=mujoco.mjtStage.mjSTAGE_POS if last else mujoco.mjtStage.mjSTAGE_NONE)
            given = np.zeros((len(number), self.robot.joint_count))
            given[:, c] = self._actuator_force[np.ix_(number, a)]
            work += np.sum(np.maximum(given[:, legs] * qd[:, legs], 0.0), axis=1) * TIMESTEP_S
            force = np.maximum(force, np.abs(self._sensor[np.ix_(number, self._foot_force)]))
            touched |= self._sensor[rows, self._self_contact] > 0
            self._read()
        for name, value in (
            ("over", over),
            ("speed", speed),
            ("torque", torque),
            ("work_j", work),
            ("force_n", force),
            ("self_contact", touched),
            ("shake", np.sqrt(square)),
        ):
            getattr(use, name)[rows] = value

    def _read(self) -> None:
        c = self.joints.canonical
        self.q[:, c], self.qd[:, c] = self.qpos[:, self.joints.qpos], self.qvel[:, self.joints.dof]
        self._now = (self._now + 1) % len(self._past)
        j, row = self.robot.joint_count, self._past[self._now]
        row[:, :j], row[:, j : 2 * j] = self.q, self.qd
        row[:, 2 * j : 2 * j + 3], row[:, 2 * j + 3 :] = self.qvel[:, 3:6], gravity_from_quaternion(self.qpos[:, 3:7])

    # -- what happens to the robots -----------------------------------------------------------------------------------

    def push(self, ids: np.ndarray, velocity_m_s: np.ndarray) -> None:
        """Add a horizontal velocity step [n, 2] (room axes) to the pelvis of robots ``ids``."""
        self.qvel[ids, :2] += velocity_m_s

    def pull(self, force_n: np.ndarray, torque_nm: np.ndarray) -> None:
        """Hold a horizontal force [N, 2] (room axes) and a torque about the vertical [N] on the torso's centre of mass until the next call."""
        self._applied[:, self.torso, :2], self._applied[:, self.torso, 5] = force_n, torque_nm

    # -- what the robots feel -----------------------------------------------------------------------------------------

    def sense(self, noise: SensorNoise | None = None, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(gyro [N, 3], gravity [N, 3], q [N, J], qd [N, J]) as the robots know them: old by their delays, noisy as ``World`` makes them."""
        j, everyone = self.robot.joint_count, np.arange(self.count)
        joints = self._past[(self._now - self.joint_delay) % len(self._past), everyone]
        imu = self._past[(self._now - self.imu_delay) % len(self._past), everyone]
        q, qd, gyro, gravity = joints[:, :j].copy(), joints[:, j : 2 * j].copy(), imu[:, 2 * j : 2 * j + 3].copy(), imu[:, 2 * j + 3 :].copy()
        if noise is not None and noise != SensorNoise():
            if rng is None:
                raise ValueError("sensor noise needs a random generator")
            for array, sd in ((q, noise.q_rad), (qd, noise.qd_rad_s), (gyro, noise.gyro_rad_s), (gravity, noise.gravity)):
                array += sd * rng.standard_normal(array.shape)
            gravity /= np.linalg.norm(gravity, axis=1, keepdims=True)
        return gyro, gravity, q, qd

    # -- what an onlooker sees ----------------------------------------------------------------------------------------

    @property
    def yaw_rad(self) -> np.ndarray:
        """Heading of each pelvis [N], rad in (-pi, pi]."""
        return yaw_from_quaternion(self.qpos[:, 3:7])

    @property
    def tilt_rad(self) -> np.ndarray:
        """Angle between each pelvis z axis and up [N], rad."""
        return np.arccos(np.clip(-gravity_from_quaternion(self.qpos[:, 3:7])[:, 2], -1.0, 1.0))

    @property
    def pitch_rad(self) -> np.ndarray:
        """How far each pelvis leans forward [N], rad."""
        return pitch_roll_from_gravity(gravity_from_quaternion(self.qpos[:, 3:7]))[0]

    @property
    def feet(self) -> np.ndarray:
        """Sole points [N, 2 feet, 3], m."""
        return self._site[:, self._feet]

    @property
    def com(self) -> np.ndarray:
        """Whole-body centre of mass [N, 3], m."""
        return self._com[:, self.pelvis]

    @property
    def foot_force_n(self) -> np.ndarray:
        """Vertical force under each foot at the last physics step [N, 2], N."""
        return np.abs(self._sensor[:, self._foot_force])

    @property
    def broken(self) -> np.ndarray:
        """[N] simulations that diverged: not finite, absurd, or reset by MuJoCo itself."""
        return (self._time < 1.0) | diverged(self.qpos, self.qvel)

    @property
    def fallen(self) -> np.ndarray:
        """[N] tilted beyond the safety ladder's threshold, low, or diverged."""
        return fallen(self.tilt_rad, self.qpos[:, 2]) | self.broken

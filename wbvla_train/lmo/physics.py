"""N robots in one ``mujoco.batch.Batch``: the same model, actuator law and time step as the lock-step world."""

from __future__ import annotations

import mujoco
import numpy as np
from mujoco.batch import Batch

from wbvla_core.robot import RobotSpec
from wbvla_core.types import gravity_from_quaternion, yaw_from_quaternion
from wbvla_lmo.observation import moved_mass_kg
from wbvla_sim.model.build import SLOT_STEPS, TIMESTEP_S, robot_mjcf
from wbvla_train.lmo.config import DisturbanceConfig, PhysicsConfig

FEET = ("left_foot", "right_foot")


def lean_model(robot: RobotSpec, config: PhysicsConfig, iterations: int | None = None) -> mujoco.MjModel:
    """The model that is trained on: joints that hardly move any mass are welded, only soles touch, dry friction in the legs."""
    light = tuple(n for n in robot.joint_names if n not in robot.names("legs") and moved_mass_kg(robot, n) < 1.2)
    solver = {} if iterations is None else {"iterations": iterations, "ls_iterations": 50}
    text = robot_mjcf(robot, visuals=False, sensors=False, body_contacts=False, frictionloss=False, fixed=("head", *light), **solver)
    model = mujoco.MjModel.from_xml_string(text)
    model.opt.timestep = TIMESTEP_S * SLOT_STEPS / config.substeps
    model.opt.integrator = {"implicitfast": mujoco.mjtIntegrator.mjINT_IMPLICITFAST, "euler": mujoco.mjtIntegrator.mjINT_EULER}[config.integrator]
    if config.leg_frictionloss:
        for name in robot.names("legs"):
            model.dof_frictionloss[model.joint(name).dofadr[0]] = robot.joint(name).frictionloss
    return model


class BatchPhysics:
    """State arrays of N robots, one command slot per :meth:`slot`.

    ``q``, ``qd`` [N, J] hold all joints in robot order (welded ones at their default); ``joints`` are the indices of the
    simulated ones, which is also the actuator order.
    """

    def __init__(self, robot: RobotSpec, config: PhysicsConfig, count: int, *, iterations: int | None = None) -> None:
        self.robot, self.config, self.count = robot, config, count
        self.model = lean_model(robot, config, iterations)
        names = [self.model.joint(i).name for i in range(1, self.model.njnt)]
        self.joints = np.array([robot.joint_names.index(n) for n in names], dtype=np.intp)
        if [self.model.actuator(i).name for i in range(self.model.nu)] != names:
            raise RuntimeError("expected one actuator per joint in joint order; the model builder changed")
        self.batch = Batch(self.model, count, nthread=config.threads)
        b = self.batch
        self.qpos, self.qvel, self.ctrl = b.qpos, b.qvel, b.ctrl
        self._force_range = b.expand("actuator_forcerange")
        self._gain, self._bias = b.expand("actuator_gainprm"), b.expand("actuator_biasprm")
        self._friction = b.expand("geom_friction")
        self._mass, self._inertia = b.expand("body_mass"), b.expand("body_inertia")
        self._time = b.bind("time").reshape(count)
        self._site_xpos, self._site_xmat = b.bind("site_xpos"), b.bind("site_xmat")
        self._feet = np.array([self.model.site(n).id for n in FEET])
        self._root = self.model.body(robot.root).id
        self._hands = [self.model.body(robot.joint(robot.names(g)[-1]).child).id for g in ("left_arm", "right_arm")]
        self._wrench = b.bind("xfrc_applied")
        self._subtree_com = b.bind("subtree_com")
        self._com = b.expand("body_ipos")
        self._torso = self.model.body("torso_link").id if "torso_link" in [self.model.body(i).name for i in range(self.model.nbody)] else 1
        self._commands = np.zeros((count, 3, self.model.nu))  # newest first
        self.delay_steps = np.zeros(count, dtype=np.intp)
        self.joint_lag_steps, self.imu_lag_steps = np.zeros((2, count), dtype=np.intp)
        self.torque_offset = np.zeros((count, self.model.nu))  # Nm, constant per episode
        self._fine = config.substeps / SLOT_STEPS  # physics steps per 5 ms, in which delays and lags are counted
        depth = round(self._fine * max(config.joint_lag_steps_max, config.imu_lag_steps[1])) + 1
        self._past_q, self._past_qd = np.zeros((2, depth, count, self.model.nu))  # of the last physics steps, a ring
        self._past_imu = np.zeros((depth, count, 7))  # quaternion, gyro
        self._newest = 0  # place of the newest entry in the ring
        self.q = np.tile(robot.default_q, (count, 1))
        self.qd = np.zeros_like(self.q)
        self.torque, self.demand = np.zeros((2, count, self.model.nu))  # of the last slot's end, Nm
        sole = robot.sole
        self._sole_points = np.array([(x, y) for x, y in sole.contacts])  # [P, 2] in the foot frame
        self.effort_nm, self._kp, self._kd = robot.effort_nm[self.joints], robot.kp[self.joints], robot.kd[self.joints]

    def randomise(self, ids: np.ndarray, config: DisturbanceConfig, difficulty: float | np.ndarray, rng: np.random.Generator) -> None:
        """Draw bodies, gains, friction, delays and lags of robots ``ids``; difficulty 0 is the nominal robot, but the command delay is always drawn.

        Args:
            difficulty: of all, or [n].
        """
        difficulty = np.broadcast_to(difficulty, (len(ids),))

        def draw(low: float, high: float, nominal: float, *shape: int) -> np.ndarray:
            span = rng.uniform(low, high, (len(ids), *shape))
            return nominal + difficulty.reshape(-1, *(1 for _ in shape)) * (span - nominal)

        m = self.model
        scale = draw(*config.link_mass, 1.0, m.nbody)
        payload = draw(*config.payload_kg, 0.0)
        self._mass[ids] = m.body_mass * scale
        self._mass[ids, self._torso] = np.maximum(self._mass[ids, self._torso] + payload, 0.3 * m.body_mass[self._torso])
        for hand in self._hands:
            self._mass[ids, hand] += draw(*config.hand_payload_kg, 0.0)
        self._com[ids, self._torso] = m.body_ipos[self._torso] + draw(-config.com_m, config.com_m, 0.0, 3)
        self._inertia[ids] = m.body_inertia * (self._mass[ids] / np.maximum(m.body_mass, 1e-9))[..., None]
        friction = draw(*config.friction, 0.8)
        self.torque_offset[ids] = draw(-config.torque_offset, config.torque_offset, 0.0, m.nu) * self.effort_nm
        self._friction[ids, :, 0] = friction[:, None]
        kp, kd = (column * draw(*config.gains, 1.0, m.nu) for column in (self._kp, self._kd))
        self._gain[ids, :, 0] = kp
        self._bias[ids, :, 1], self._bias[ids, :, 2] = -kp, -kd
        self._bias[ids, :, 0] = self.torque_offset[ids]
        self.delay_steps[ids] = rng.integers(0, self.config.delay_steps_max + 1, len(ids))
        part = difficulty if config.lag else 0.0 * difficulty
        low, high = self.config.imu_lag_steps
        self.joint_lag_steps[ids] = rng.integers(0, np.rint(part * self.config.joint_lag_steps_max).astype(int) + 1)
        self.imu_lag_steps[ids] = rng.integers(np.rint(part * low).astype(int), np.rint(part * high).astype(int) + 1)
        self.batch.set_const(ids)

    def place(self, ids: np.ndarray, q: np.ndarray, position: np.ndarray, quaternion: np.ndarray) -> None:
        """Put robots at rest with joint angles q [n, J], root position [n, 3] and orientation [n, 4]."""
        self.qpos[ids, :3], self.qpos[ids, 3:7] = position, quaternion
        self.qpos[ids, 7:] = q[:, self.joints]
        self.qvel[ids] = 0.0
        self._time[ids] = 1.0  # MuJoCo silently resets a diverged simulation, and its time with it: see broken
        self.batch.bind("qacc_warmstart")[ids] = 0.0
        self.ctrl[ids] = q[:, self.joints]
        self._commands[ids] = q[:, None, self.joints]
        self._wrench[ids] = 0.0
        self._past_q[:, ids], self._past_qd[:, ids] = q[:, self.joints], 0.0
        self._past_imu[:, ids, :4], self._past_imu[:, ids, 4:] = quaternion, 0.0
        self.batch.forward(ids, stage=mujoco.mjtStage.mjSTAGE_POS)
        self._read()

    def slot(self, target: np.ndarray, *, lost: np.ndarray | None = None, torque_noise: np.ndarray | None = None, wrench: np.ndarray | None = None) -> None:
        """Advance 20 ms towards joint targets [N, J], which arrive after each robot's own delay.

        Args:
            lost: [N] robots whose command of this slot never arrives: the driver holds the one before.
            torque_noise: [N, nu] added to the motors' torques in this slot, Nm.
            wrench: [N, 3] on the torso's centre of mass: force along world x and y, N, and yaw moment, Nm.
        """
        self._commands[:, 1:] = self._commands[:, :-1].copy()
        self._commands[:, 0] = target[:, self.joints]
        if lost is not None:
            self._commands[lost, 0] = self._commands[lost, 1]
        if torque_noise is not None:
            self._bias[..., 0] = self.torque_offset + torque_noise
        if wrench is not None:
            self._wrench[:, self._torso, :2], self._wrench[:, self._torso, 5] = wrench[:, :2], wrench[:, 2]
        rows = np.arange(self.count)
        substeps = self.config.substeps
        delay = np.round(self._fine * self.delay_steps).astype(np.intp)
        for step in range(substeps):
            age = np.maximum((delay - step + substeps - 1) // substeps, 0)
            self.ctrl[:] = self._commands[rows, age]
            qd = np.zeros((self.count, self.robot.joint_count))
            qd[:, self.joints] = self.qvel[:, 6:]
            low, high = self.robot.torque_range(qd)
            self._force_range[..., 0], self._force_range[..., 1] = low[:, self.joints], high[:, self.joints]
            last = step == substeps - 1
            self.batch.step(stage=mujoco.mjtStage.mjSTAGE_POS if last else mujoco.mjtStage.mjSTAGE_NONE)
            self._remember()
        self.demand = self._gain[..., 0] * (self.ctrl - self.qpos[:, 7:]) + self._bias[..., 2] * self.qvel[:, 6:]  # before the limits
        self.torque = np.clip(self.demand, -self.effort_nm, self.effort_nm)
        self._read()

    def _remember(self) -> None:
        """Keep what encoders and IMU would say after this physics step."""
        self._newest = (self._newest + 1) % len(self._past_q)
        self._past_q[self._newest], self._past_qd[self._newest] = self.qpos[:, 7:], self.qvel[:, 6:]
        self._past_imu[self._newest, :, :4], self._past_imu[self._newest, :, 4:] = self.qpos[:, 3:7], self.qvel[:, 3:6]

    def sense(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(gyro [N, 3], gravity [N, 3], q [N, J], qd [N, J]) as old as each robot's lags, without noise."""
        rows, depth = np.arange(self.count), len(self._past_q)
        joints, imu = (self._newest - np.round(self._fine * np.stack((self.joint_lag_steps, self.imu_lag_steps))).astype(np.intp)) % depth
        q, qd = self.q.copy(), np.zeros_like(self.qd)
        q[:, self.joints], qd[:, self.joints] = self._past_q[joints, rows], self._past_qd[joints, rows]
        imu = self._past_imu[imu, rows]
        return imu[:, 4:], gravity_from_quaternion(imu[:, :4]), q, qd

    def push(self, ids: np.ndarray, delta_m_s: np.ndarray) -> None:
        """Add a horizontal velocity [n, 2] to the root."""
        self.qvel[ids, :2] += delta_m_s

    def _read(self) -> None:
        self.q[:, self.joints] = self.qpos[:, 7:]
        self.qd[:, self.joints] = self.qvel[:, 6:]
        quat = self.qpos[:, 3:7]
        self.gravity = gravity_from_quaternion(quat)  # [N, 3]
        self.gyro = self.qvel[:, 3:6]
        self.yaw = yaw_from_quaternion(quat)
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        vx, vy = self.qvel[:, 0], self.qvel[:, 1]
        self.velocity = np.stack((cos * vx + sin * vy, cos * vy - sin * vx, self.qvel[:, 2]), axis=1)  # [N, 3] heading frame
        self.yaw_rate = -np.sum(self.gravity * self.gyro, axis=1)  # about the vertical
        self.height_m = self.qpos[:, 2]
        self.com = self._subtree_com[:, self._root]  # [N, 3] world
        self.feet = self._site_xpos[:, self._feet]  # [N, 2, 3] sole point under the ankle
        matrix = self._site_xmat[:, self._feet].reshape(self.count, 2, 3, 3)
        self.feet_up = matrix[..., 2, :]  # [N, 2, 3] world z in the foot frame
        tips = self.feet_up[..., :2] @ self._sole_points.T  # [N, 2, P] height of the contact points over the sole point
        self.feet_ahead = matrix[..., 0]  # [N, 2, 3] foot's x axis in world axes
        self.sole_low_m = self.feet[..., 2] + tips.min(axis=-1)

    @property
    def broken(self) -> np.ndarray:
        """[N] robots whose simulation diverged: not finite, absurd, or reset by MuJoCo itself."""
        return (self._time < 1.0) | ~np.isfinite(self.qpos).all(axis=1) | (np.abs(self.qvel).max(axis=1) > 200.0) | ~np.isfinite(self.qvel).all(axis=1)

    @property
    def slot_s(self) -> float:
        return SLOT_STEPS * TIMESTEP_S

"""The robot in a room, in lock-step: one call, one 20 ms command slot of physics. No ROS and no wall clock in here.

    world = World(robot, random_scene(7))
    world.reset(seed=7)
    while ...:
        command = controller.tick(world.state(), loco, world.time_s)
        world.slot(command)

The pelvis hangs on a gantry, soles on the floor, until the first command arrives; a world without a gantry starts standing free.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import mujoco
import numpy as np

from wbvla_core.robot import RobotSpec
from wbvla_core.types import JointCommand, RobotState, gravity_from_quaternion
from wbvla_sim import render
from wbvla_sim.driver import Driver, DriverState, MotorLaw
from wbvla_sim.model.build import SLOT_STEPS, SOLVER_ITERATIONS, SOLVER_LS_ITERATIONS, TIMESTEP_S, joint_map
from wbvla_sim.scene import Scene, to_mjcf

FALLEN_TILT_RAD = 0.8  # the safety ladder's own threshold
SLOT_S = TIMESTEP_S * SLOT_STEPS


@dataclass(frozen=True)
class SensorNoise:
    """Standard deviations of white noise on each sensor; 0 = perfect. Default of the world: none (options, not a claim about X2)."""

    q_rad: float = 0.0
    qd_rad_s: float = 0.0
    gyro_rad_s: float = 0.0
    gravity: float = 0.0

    @classmethod
    def typical(cls) -> SensorNoise:
        """Ours: encoder and MEMS figures of the size that legged RL trains with."""
        return cls(q_rad=0.002, qd_rad_s=0.05, gyro_rad_s=0.02, gravity=0.01)


@dataclass(frozen=True)
class WorldOptions:
    """How the world is simulated.

    Attributes:
        noise: of the sensors.
        state_delay_s: age of what :meth:`World.state` returns, s (multiple of 5 ms).
        command_delay_s: time from slot to motors, s (multiple of 5 ms).
        watchdog_s: silence that the driver tolerates.
        gantry: hold the pelvis until the first command.
        push_interval_s, push_speed_m_s: every so often (mean, exponential) the pelvis gets a horizontal velocity step of up to this size; 0 = never.
        iterations, ls_iterations: Newton solver.
        self_collision: pair sets of :data:`wbvla_sim.model.build.SELF_PAIRS`.
        camera_size: width, height of the head camera; None = the robot spec's.
    """

    noise: SensorNoise = field(default_factory=SensorNoise)
    state_delay_s: float = 0.0
    command_delay_s: float = 0.0
    watchdog_s: float = 0.1
    gantry: bool = True
    push_interval_s: float = 0.0
    push_speed_m_s: float = 0.0
    iterations: int = SOLVER_ITERATIONS
    ls_iterations: int = SOLVER_LS_ITERATIONS
    self_collision: tuple[str, ...] = ("legs", "arms")
    camera_size: tuple[int, int] | None = None


class World:
    """MuJoCo physics of one robot in one scene. See the module text."""

    slot_s = SLOT_S

    def __init__(self, robot: RobotSpec, scene: Scene, *, options: WorldOptions | None = None) -> None:
        self.robot, self.scene, self.options = robot, scene, options or WorldOptions()
        o = self.options
        self.model = to_mjcf(robot, scene, self_collision=o.self_collision, iterations=o.iterations, ls_iterations=o.ls_iterations)
        self.data = mujoco.MjData(self.model)
        self.joints = joint_map(self.model, robot)
        self.driver = Driver(robot, watchdog_s=o.watchdog_s)
        self._gantry = self.model.equality("gantry").id
        self._pelvis = self.model.body(robot.root).id
        self._soles = [self.model.site(name).id for name in ("left_foot", "right_foot")]
        self._sole_geoms = [
            {g for g in range(self.model.ngeom) if (self.model.geom(g).name or "").startswith(f"{side}_ankle_roll_sole")} for side in ("left", "right")
        ]
        self._imu = self.model.site("imu").id
        self._camera_size = o.camera_size or (robot.camera.width, robot.camera.height)
        self.reset(0)

    # -- time ---------------------------------------------------------------------------------------------------------

    @property
    def time_s(self) -> float:
        """Simulated time since reset, s."""
        return float(self.data.time)

    def reset(self, seed: int = 0) -> RobotState:
        """Back to the start: default pose at the origin, looking along +x. The seed drives noise and pushes."""
        self._rng = np.random.default_rng(seed)
        mujoco.mj_resetData(self.model, self.data)
        self._place((0.0, 0.0, self.robot.default_stance_height_m), (1.0, 0.0, 0.0, 0.0), self.robot.default_q)
        self.driver.reset(0.0)
        self._inbox: deque[tuple[float, JointCommand]] = deque()
        self._next_push_s = self._draw_push_time()
        self._set_gantry(self.options.gantry)
        self._history: deque[RobotState] = deque(maxlen=round(self.options.state_delay_s / TIMESTEP_S) + 1)
        self._sense()
        return self.state()

    def slot(self, command: JointCommand | None, *, on_step: Callable[[RobotState], None] | None = None) -> RobotState:
        """Advance one 20 ms slot.

        Args:
            command: for all motors; None = silence, which the driver's watchdog counts.
            on_step: called with the state after each 5 ms step (200 Hz joint states and IMU).

        Raises:
            CommandError: a malformed command; nothing has moved then.
        """
        if command is not None:
            command.validate(self.robot.joint_count)
            self._inbox.append((self.time_s + self.options.command_delay_s, command))
        for _ in range(SLOT_STEPS):
            self._step()
            if on_step:
                on_step(self.state())
        return self.state()

    def _step(self) -> None:
        now_s = self.time_s
        while self._inbox and self._inbox[0][0] <= now_s + 1e-9:
            self.driver.command(self._inbox.popleft()[1], now_s)
            if self.driver.state is DriverState.RUNNING:
                self._set_gantry(False)
        self._apply(self.driver.tick(now_s))
        if now_s >= self._next_push_s:
            self.push(self._rng.uniform(-1.0, 1.0, 2) * self.options.push_speed_m_s)
            self._next_push_s = now_s + self._draw_push_time()
        mujoco.mj_step(self.model, self.data)
        self._sense()

    def _apply(self, law: MotorLaw) -> None:
        """Write the motor law into the actuators: gain kp, bias (kd qd* + tau_ff) - kp q - kd qd, range from the torque-speed line."""
        m, a, c = self.model, self.joints.ctrl, self.joints.canonical
        self.data.ctrl[a] = law.q[c]
        m.actuator_gainprm[a, 0] = law.kp[c]
        m.actuator_biasprm[a, 0] = (law.kd * law.qd + law.tau_ff)[c]
        m.actuator_biasprm[a, 1] = -law.kp[c]
        m.actuator_biasprm[a, 2] = -law.kd[c]
        low, high = self.robot.torque_range(self._joint(self.data.qvel, self.joints.dof))
        m.actuator_forcerange[a, 0], m.actuator_forcerange[a, 1] = low[c], high[c]

    # -- what happens to the robot --------------------------------------------------------------------------------------

    def push(self, velocity_m_s: np.ndarray) -> None:
        """Add a horizontal velocity step [2] (room axes) to the pelvis."""
        self.data.qvel[:2] += velocity_m_s

    def rearm(self) -> None:
        """Leave the driver's damping: it waits for a command again."""
        self.driver.rearm(self.time_s)

    def hoist(self) -> None:
        """Lift the robot onto the gantry where it is: upright, default pose, soles on the floor, driver waiting. Time goes on."""
        x, y = self.data.qpos[:2]
        yaw = self.truth()["yaw_rad"]
        self._place((x, y, self.robot.default_stance_height_m), (np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)), self.robot.default_q)
        self.driver.reset(self.time_s)
        self._inbox.clear()
        self._set_gantry(True)
        self._sense()

    def set_pose(self, pelvis_xyz: np.ndarray, pelvis_quat_wxyz: np.ndarray, q: np.ndarray) -> None:
        """Put the robot somewhere without physics, to draw a recorded state. q [J]."""
        self._place(pelvis_xyz, pelvis_quat_wxyz, q)

    def _place(self, xyz: np.ndarray, quat: np.ndarray, q: np.ndarray) -> None:
        d = self.data
        d.qpos[:3], d.qpos[3:7] = xyz, quat
        d.qpos[self.joints.qpos] = np.asarray(q)[self.joints.canonical]
        d.qvel[:] = 0.0
        d.qacc_warmstart[:] = 0.0
        mujoco.mj_forward(self.model, d)

    def _set_gantry(self, active: bool) -> None:
        if active:  # a weld's data: anchor [3], position of body 2 (world) in body 1 [3], its orientation [4], torque scale
            quat = self.data.qpos[3:7]
            inverse, offset = np.zeros(4), np.zeros(3)
            mujoco.mju_negQuat(inverse, quat)
            mujoco.mju_rotVecQuat(offset, -self.data.qpos[:3], inverse)
            self.model.eq_data[self._gantry, :3] = 0.0
            self.model.eq_data[self._gantry, 3:6] = offset
            self.model.eq_data[self._gantry, 6:10] = inverse
        self.data.eq_active[self._gantry] = active

    @property
    def on_gantry(self) -> bool:
        """Whether the pelvis is still held."""
        return bool(self.data.eq_active[self._gantry])

    def _draw_push_time(self) -> float:
        if self.options.push_interval_s <= 0.0:
            return np.inf
        return float(self._rng.exponential(self.options.push_interval_s))

    # -- what the robot feels -------------------------------------------------------------------------------------------

    def _joint(self, array: np.ndarray, addresses: np.ndarray) -> np.ndarray:
        """Gather joint values [J] in the spec's order."""
        out = self.robot.default_q.copy() if array is self.data.qpos else np.zeros(self.robot.joint_count)
        out[self.joints.canonical] = array[addresses]
        return out

    def _sense(self) -> None:
        noise, rng, n = self.options.noise, self._rng, self.robot.joint_count
        q = self._joint(self.data.qpos, self.joints.qpos)
        qd = self._joint(self.data.qvel, self.joints.dof)
        gyro = self.data.qvel[3:6].copy()  # a free joint's angular velocity is in body axes already; the IMU's axes are the pelvis's
        gravity = gravity_from_quaternion(self.data.qpos[3:7])
        if noise != SensorNoise():
            q = q + rng.normal(0.0, noise.q_rad, n)
            qd = qd + rng.normal(0.0, noise.qd_rad_s, n)
            gyro = gyro + rng.normal(0.0, noise.gyro_rad_s, 3)
            gravity = gravity + rng.normal(0.0, noise.gravity, 3)
            gravity /= np.linalg.norm(gravity)
        self._history.append(RobotState(self.time_s, q, qd, gyro, gravity))

    def state(self) -> RobotState:
        """What the robot knows of itself now (``state_delay_s`` old, if delayed)."""
        return self._history[0]

    def imu_acceleration(self) -> np.ndarray:
        """Specific force at the IMU [3], pelvis axes, m/s2 (upright and still: 0, 0, 9.81)."""
        return self.data.sensor("imu_accelerometer").data.copy()

    def torques(self) -> np.ndarray:
        """Motor torques of the last step [J], Nm."""
        return self._joint(self.data.actuator_force, self.joints.ctrl)

    # -- what an onlooker sees ------------------------------------------------------------------------------------------

    def render(self, camera: str = "head", width: int | None = None, height: int | None = None) -> np.ndarray:
        """A picture, uint8 [H, W, 3]: "head" (the robot's camera) or "outside" (follows the robot)."""
        width, height = width or self._camera_size[0], height or self._camera_size[1]
        return render.draw(self.model, self.data, self._camera(camera), width, height)

    def _camera(self, name: str) -> mujoco.MjvCamera:
        camera = mujoco.MjvCamera()
        if name == "head":
            camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
            camera.fixedcamid = self.model.camera("head").id
        elif name == "outside":
            camera.lookat[:] = (self.data.qpos[0] + 0.6, self.data.qpos[1], 0.5)  # what lies ahead of the start is the story
            camera.distance, camera.azimuth, camera.elevation = 3.3, 130.0, -18.0
        else:
            raise ValueError(f"camera must be 'head' or 'outside', got {name!r}")
        return camera

    def camera_pose(self) -> tuple[np.ndarray, np.ndarray]:
        """Head camera: position [3] and optical axes as columns [3, 3] (right, down, forward), room frame."""
        site = self.data.site("head_camera")
        return site.xpos.copy(), site.xmat.reshape(3, 3).copy()

    def truth(self) -> dict:
        """What only the simulator knows. Room frame; never an input of a policy that runs on the robot.

        Keys: time_s, pelvis_xyz [3], pelvis_quat [4] wxyz, yaw_rad, tilt_rad, velocity_xyz [3], velocity_heading [2] (forward, left), yaw_rate_rad_s,
        stance_height_m (pelvis above the lower sole), foot_contacts [2] bool (left, right), boxes (color -> Box), fallen, driver, on_gantry.
        """
        d = self.data
        w, x, y, z = d.qpos[3:7]
        yaw = float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))
        gravity = gravity_from_quaternion(d.qpos[3:7])
        tilt = float(np.arccos(np.clip(-gravity[2], -1.0, 1.0)))
        velocity = d.qvel[:3].copy()
        c, s = np.cos(yaw), np.sin(yaw)
        touching = {g for contact in d.contact for g in contact.geom}
        return {
            "time_s": self.time_s,
            "pelvis_xyz": d.qpos[:3].copy(),
            "pelvis_quat": d.qpos[3:7].copy(),
            "yaw_rad": yaw,
            "tilt_rad": tilt,
            "velocity_xyz": velocity,
            "velocity_heading": np.array((c * velocity[0] + s * velocity[1], -s * velocity[0] + c * velocity[1])),
            "yaw_rate_rad_s": float((d.body(self._pelvis).xmat.reshape(3, 3) @ d.qvel[3:6])[2]),
            "stance_height_m": float(d.qpos[2] - min(d.site_xpos[site][2] for site in self._soles)),
            "foot_contacts": np.array([bool(touching & geoms) for geoms in self._sole_geoms]),
            "boxes": {box.color: box for box in self.scene.boxes},
            "fallen": tilt > FALLEN_TILT_RAD or d.qpos[2] < 0.3,
            "driver": self.driver.state.value,
            "on_gantry": self.on_gantry,
        }

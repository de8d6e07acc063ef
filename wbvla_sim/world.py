"""The robot in a room, in lock-step: one call, one 20 ms command slot of physics. No ROS and no wall clock in here.

    world = World(robot, random_scene(7))
    world.reset(seed=7)
    while ...:
        command = controller.tick(world.state(), loco, world.time_s)
        world.slot(command)

The pelvis hangs on a gantry, soles on the floor, until the first command arrives; a world without a gantry starts standing free.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from wbvla_core.robot import RobotSpec
from wbvla_core.types import RobotState, gravity_from_quaternion, yaw_from_quaternion
from wbvla_sim import render
from wbvla_sim.driver import MotorLaw
from wbvla_sim.model.build import SOLVER_ITERATIONS, SOLVER_LS_ITERATIONS, joint_map
from wbvla_sim.scene import Scene, to_mjcf
from wbvla_sim.slots import DIVERGED_SPEED, SlotOptions, SlotWorld, diverged, fallen

# MuJoCo answers each of these by setting the data back to its start, time included, and goes on as if nothing had been.
RESETTING_WARNINGS = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)


@dataclass(frozen=True)
class WorldOptions(SlotOptions):
    """How the world is simulated.

    Attributes:
        gantry: hold the pelvis until the first command.
        iterations, ls_iterations: Newton solver.
        self_collision: pair sets of :data:`wbvla_sim.model.build.SELF_PAIRS`.
        camera_size: width, height of the head camera; None = the robot spec's.
    """

    gantry: bool = True
    iterations: int = SOLVER_ITERATIONS
    ls_iterations: int = SOLVER_LS_ITERATIONS
    self_collision: tuple[str, ...] = ("legs", "arms")
    camera_size: tuple[int, int] | None = None


class World(SlotWorld):
    """MuJoCo physics of one robot in one scene. See the module text."""

    def __init__(self, robot: RobotSpec, scene: Scene, *, options: WorldOptions | None = None) -> None:
        o = options or WorldOptions()
        super().__init__(robot, o)
        self.scene = scene
        self.model = to_mjcf(robot, scene, self_collision=o.self_collision, iterations=o.iterations, ls_iterations=o.ls_iterations)
        self.data = mujoco.MjData(self.model)
        self.joints = joint_map(self.model, robot)
        self._gantry = self.model.equality("gantry").id
        self._pelvis = self.model.body(robot.root).id
        self._soles = [self.model.site(name).id for name in ("left_foot", "right_foot")]
        self._sole_geoms = [
            {g for g in range(self.model.ngeom) if (self.model.geom(g).name or "").startswith(f"{side}_ankle_roll_sole")} for side in ("left", "right")
        ]
        self._imu = self.model.site("imu").id
        self._camera_size = o.camera_size or (robot.camera.width, robot.camera.height)
        self.reset(0)

    # -- the engine ---------------------------------------------------------------------------------------------------

    @property
    def time_s(self) -> float:
        """Simulated time since reset, s."""
        return float(self.data.time)

    def _restart(self) -> None:
        mujoco.mj_resetData(self.model, self.data)
        self._place((0.0, 0.0, self.robot.default_stance_height_m), (1.0, 0.0, 0.0, 0.0), self.robot.default_q)
        self._sound_qpos = self.data.qpos.copy()
        self._set_gantry(self.options.gantry)

    def _advance(self, law: MotorLaw) -> None:
        d = self.data
        before_s = d.time
        if not self.fault:
            self._apply(law)
            mujoco.mj_step(self.model, d)
            self._check(before_s)
        if self.fault:
            d.time = before_s + self.model.opt.timestep
        else:
            self._sound_qpos = d.qpos.copy()

    def _check(self, before_s: float) -> None:
        """Notice a step that diverged, and put the last sound pose back, at rest, at the time before that step."""
        d = self.data
        step_s = self.model.opt.timestep
        # Cheap, because it runs at 200 Hz. A reset shows in the time, but for the first step of all. NaN compares false.
        if before_s > 0.0 and d.time > before_s + step_s / 2 and np.abs(d.qvel).max() <= DIVERGED_SPEED:
            return
        resets = [warning.name for warning in RESETTING_WARNINGS if d.warning[warning].number]
        if not resets and not diverged(d.qpos, d.qvel):
            return
        gantry = self.on_gantry  # MuJoCo's own reset has let the robot go, or caught it
        mujoco.mj_resetData(self.model, d)
        d.time, d.qpos[:] = before_s, self._sound_qpos
        mujoco.mj_forward(self.model, d)
        d.eq_active[self._gantry] = gantry
        what = ", ".join(name.removeprefix("mjWARN_").lower() for name in resets) or "absurd velocities"
        self._diverge(f"MuJoCo reports {what}")

    def _commanded(self) -> None:
        self._set_gantry(False)

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
        self.data.qvel[:2] += velocity_m_s

    def rearm(self) -> None:
        """Leave the driver's damping: it waits for a command again. A simulation that diverged stays damped until :meth:`hoist` or :meth:`reset`."""
        if not self.fault:
            self.driver.rearm(self.time_s)

    def hoist(self) -> None:
        """Lift the robot onto the gantry where it is: upright, default pose, soles on the floor, driver waiting. Time goes on."""
        x, y = self.data.qpos[:2]
        yaw = self.truth()["yaw_rad"]
        self.fault = ""
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

    # -- what the robot feels -------------------------------------------------------------------------------------------

    def _joint(self, array: np.ndarray, addresses: np.ndarray) -> np.ndarray:
        """Gather joint values [J] in the spec's order."""
        out = self.robot.default_q.copy() if array is self.data.qpos else np.zeros(self.robot.joint_count)
        out[self.joints.canonical] = array[addresses]
        return out

    def _measure(self) -> RobotState:
        q = self._joint(self.data.qpos, self.joints.qpos)
        qd = self._joint(self.data.qvel, self.joints.dof)
        gyro = self.data.qvel[3:6].copy()  # a free joint's angular velocity is in body axes already; the IMU's axes are the pelvis's
        return RobotState(self.time_s, q, qd, gyro, gravity_from_quaternion(self.data.qpos[3:7]))

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
        yaw = float(yaw_from_quaternion(d.qpos[3:7]))
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
            "fallen": fallen(tilt, d.qpos[2]),
            "driver": self.driver.state.value,
            "on_gantry": self.on_gantry,
        }

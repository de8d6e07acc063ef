"""The physics process: the simulated X2 with the robot's own topics, in real time.

One thread runs the physics, 20 ms slots of four 5 ms steps, each step paced to the wall clock. Each slot waits for the JointCommand that answers the
slot's state (up to 100 ms: then the driver's watchdog has bitten and damping is latched, as on the robot). So physics and LMO keep step however busy the
machine is, and the real-time factor tells how busy it was. Images are made in another process (:mod:`wbvla_sim.render_node`).

Stamps are this process's clock: wall time at activation plus simulated time, whole microseconds. /clock, if asked for, shows the same time.
"""

from __future__ import annotations

import threading
import time
from collections import deque

import numpy as np
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String

from wbvla_core.errors import ErrorCode
from wbvla_core.robot import BASE_LINK, load_robot
from wbvla_core.ros import codec
from wbvla_core.ros.health import Health, Level
from wbvla_core.ros.lifecycle import ManagedNode, Parameter, run_node
from wbvla_core.ros.qos import available, service
from wbvla_core.types import JointCommand, RobotState, yaw_from_quaternion
from wbvla_msgs.msg import SafetyState, SimState
from wbvla_sim.driver import WATCHDOG_S, DriverState
from wbvla_sim.model.build import SLOT_STEPS, TIMESTEP_S
from wbvla_sim.model.urdf import robot_urdf
from wbvla_sim.scene import random_scene
from wbvla_sim.slots import SensorNoise
from wbvla_sim.world import World, WorldOptions

ANSWER_SLACK_S = 0.015  # an answer may carry any step's stamp of the 20 ms before the slot: an LMO that (re)started between slots keeps that phase
# How long simulated time stands still for LMO's answer: on a busy machine, without the right to real-time scheduling, LMO may not get to run for
# longer than the driver's watchdog allows on a robot. As long as LMO waits for a simulator (config/nodes.yaml).
PATIENCE_S = 0.5
REPEAT_S = 0.02  # while a slot waits, its state is sent again: best effort may lose it, and a real driver never falls silent
CATCH_UP_S = 0.02  # how much lateness is made up for later; more is dropped and shows in the real-time factor
DRIVER_STATE_PERIOD_S = 0.5
WORLD_FRAME, ODOM_FRAME = "world", "odom"
RUNGS = {DriverState.WAITING: SafetyState.WAITING, DriverState.RUNNING: SafetyState.FOLLOW, DriverState.DAMPING: SafetyState.DAMPING}


class SimNode(ManagedNode):
    """MuJoCo in place of the robot and its driver."""

    NAME = "sim"
    REALTIME = True
    PARAMETERS = {
        "robot": Parameter("x2", "robot spec: a name of config/robots or the path of a YAML file"),
        "scene": Parameter("walk_to", "kind of scene: walk_to, room or empty"),
        "seed": Parameter(7, "seed of the scene, the sensor noise and the pushes", 0, 2**31 - 1),
        "sensor_noise": Parameter(False, "add typical white noise to joint and IMU readings"),
        "state_delay_s": Parameter(0.0, "age of the published state [s], rounded to 5 ms", 0.0, 0.1),
        "command_delay_s": Parameter(0.0, "time from the arrival of a command to the motors [s], rounded to 5 ms", 0.0, 0.1),
        "publish_clock": Parameter(False, "publish /clock, for nodes that run with use_sim_time; always where this node itself has use_sim_time"),
    }

    def load(self) -> None:
        s = self.settings
        self.robot = load_robot(s["robot"])
        self._imu_frame = self.robot.frame_link("imu")
        scene = random_scene(s["seed"], kind=s["scene"], robot=self.robot)
        options = WorldOptions(
            noise=SensorNoise.typical() if s["sensor_noise"] else SensorNoise(),
            state_delay_s=s["state_delay_s"],
            command_delay_s=s["command_delay_s"],
            watchdog_s=WATCHDOG_S,
        )
        before = self.world.driver if hasattr(self, "world") else None
        self.world = World(self.robot, scene, options=options)
        self.world.reset(s["seed"])
        if before is not None and before.state is DriverState.DAMPING:  # as on a robot: configuring anew is no rearm
            self.world.driver.damp(before.reason)
        self._imu_out = self.publisher("imu")
        self._joints_out = self.publisher("joint_states")
        self._sim_out = self.publisher("sim_state")
        self._driver_out = self.publisher("driver_state")
        self._clock_out = self.publisher("clock") if s["publish_clock"] or self.get_parameter("use_sim_time").value else None
        self._description_out = self.publisher("robot_description")
        self._tf_out = self.publisher("tf") if available("tf") else None
        if self._tf_out is None:
            self.say("tf2_msgs is not installed here: no transforms on /tf")
        self._arrived = threading.Condition()
        self._command: JointCommand | None = None
        self._request: str | None = None  # "rearm" or "reset", done by the physics thread between two slots
        self.listen("joint_command", lambda msg: codec.joint_command_from_msg(msg, self.robot.joint_names), self._take_command)
        self.serve("driver_rearm", lambda req, res: self._ask("rearm", res))
        self.serve("sim_reset", lambda req, res: self._ask("reset", res))

    def start(self) -> None:
        self._description_out.publish(String(data=robot_urdf(self.robot)))
        self._epoch_us = time.time_ns() // 1000 - round(self.world.time_s * 1e6)
        self._factor, self._lateness_s = 1.0, 0.0
        self._progress: deque[tuple[float, float]] = deque()  # (wall, simulated) time of the last second's slots
        self._driver_said: tuple[DriverState, float] | None = None
        self._lmo_silent = False  # patience is exhausted: time runs without LMO until it answers
        self._bidden = False  # whether LMO had commanded damping itself before it fell silent, as it does when it leaves
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="physics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        with self._arrived:
            self._arrived.notify_all()
        self._thread.join(2.0)

    # -- inbound (executor thread) -------------------------------------------------------------------------------------------
    def _take_command(self, command: JointCommand) -> None:
        with self._arrived:
            self._command = command
            self._arrived.notify_all()

    def _ask(self, what: str, response: object) -> object:
        """Hand a request to the physics thread and wait until it is done (a slot at most)."""
        with self._arrived:
            self._request = what
            self._arrived.notify_all()
            response.success = self.active and self._arrived.wait_for(lambda: self._request is None or self._stopping, timeout=1.0)
        response.message = f"{what} done" if response.success else f"{what} not done: the simulator does not run"
        if response.success and what == "rearm" and self.world.fault:
            response.success, response.message = False, f"rearm not done: {self._why_damping()}"
        return response

    # -- physics thread --------------------------------------------------------------------------------------------------------
    def _run(self) -> None:
        try:
            self._due_s, self._step = time.monotonic(), 0
            self._publish(self.world.state())
            while not self._stopping:
                self._slot()
        except Exception as error:
            self.fail("physics stopped", error)

    def _slot(self) -> None:
        with self._arrived:
            request, self._request = self._request, None
            self._arrived.notify_all()
        if request == "rearm":
            self.world.rearm()
            if self.world.fault:
                self.say(f"rearm refused: {self.world.fault}; call {service('sim_reset').name} to begin anew", error=True)
        elif request == "reset":
            self.world.hoist()
        command = self._await_command()
        if self._stopping:
            return
        self.world.slot(command, on_step=self._after_step)
        self._publish_slot()

    def _await_command(self) -> JointCommand | None:
        """The command that answers the state at the start of this slot; None while there is none to expect."""
        if self.world.driver.state is not DriverState.RUNNING:
            with self._arrived:  # waiting on the gantry, or damping: time goes on without LMO
                command, self._command = self._command, None
            waiting = self.world.driver.state is DriverState.WAITING
            # only a command that holds the joints lets the robot down from the gantry: LMO may still be damping from before it was hoisted
            return None if command is None or (waiting and not np.any(command.kp)) else command
        oldest_s = self._stamp_s(self.world.state()) - ANSWER_SLACK_S - 1e-6
        waited_s = PATIENCE_S if self._lmo_silent else 0.0

        def answered() -> bool:
            return self._stopping or self._request is not None or (self._command is not None and self._command.stamp_s >= oldest_s)

        while True:
            with self._arrived:
                since_s = time.monotonic()
                if self._arrived.wait_for(answered, timeout=min(REPEAT_S, PATIENCE_S - waited_s)):
                    if self._request is not None:
                        return None  # somebody waits for it; one silent slot is no harm
                    command, self._command = self._command, None
                    self._lmo_silent = False
                    return command
            # time in which this process could not run is not LMO's silence: a machine that stands still for a moment (suspended, or its virtual
            # processors lent elsewhere) halts both, and the simulated time with them
            waited_s += min(time.monotonic() - since_s, REPEAT_S)
            if waited_s >= PATIENCE_S - 1e-6:
                # From here on simulated time runs without LMO, and the driver's own watchdog counts it.
                self._lmo_silent = True
                self._bidden = self._command is not None and not np.any(self._command.kp)
                return None
            self._publish(self.world.state())

    def _after_step(self, state: RobotState) -> None:
        self._due_s += TIMESTEP_S
        now_s = time.monotonic()
        if self._due_s > now_s:
            time.sleep(self._due_s - now_s)
        elif now_s - self._due_s > CATCH_UP_S:
            self._lateness_s += now_s - self._due_s - CATCH_UP_S
            self._due_s = now_s - CATCH_UP_S
        # on the gantry only the slots' own states go out, so that LMO, which ticks on what it hears, comes in step with the slots
        self._step = (self._step + 1) % SLOT_STEPS
        if self._step == 0 or self.world.driver.state is not DriverState.WAITING:
            self._publish(state)

    def _stamp_s(self, state: RobotState) -> float:
        return (self._epoch_us + round(state.stamp_s * 1e6)) / 1e6

    def _publish(self, state: RobotState) -> None:
        """One sample of joints and IMU, same stamp; the IMU goes first, so that a joint state finds its partner there."""
        world, at_s = self.world, self._stamp_s(state)
        quat = codec.quaternion_from_gravity(state.gravity, yaw_from_quaternion(world.data.qpos[3:7]))
        self._imu_out.publish(codec.imu_msg(self._imu_frame, at_s, quat, state.gyro, world.imu_acceleration()))
        self._joints_out.publish(codec.joint_state_msg(self.robot.joint_names, at_s, state.q, state.qd, world.torques()))

    def _publish_slot(self) -> None:
        world = self.world
        wall_s, sim_s = time.monotonic(), world.time_s
        self._progress.append((wall_s, sim_s))
        while self._progress[0][0] < wall_s - 1.0 and len(self._progress) > 2:
            self._progress.popleft()
        wall_0, sim_0 = self._progress[0]
        self._factor = (sim_s - sim_0) / (wall_s - wall_0) if wall_s > wall_0 else 1.0
        msg = SimState(seed=self.settings["seed"], scene=self.settings["scene"], sim_time_s=sim_s, real_time_factor=float(self._factor))
        msg.header.stamp, msg.header.frame_id = codec.stamp_msg((self._epoch_us + round(sim_s * 1e6)) / 1e6), WORLD_FRAME
        msg.qpos, msg.qvel = world.data.qpos, world.data.qvel
        self._sim_out.publish(msg)
        if self._clock_out is not None:
            self._clock_out.publish(Clock(clock=msg.header.stamp))
        if self._tf_out is not None:
            self._tf_out.publish(transforms(msg.header.stamp, world.data.qpos))
        self._say_driver_state()

    def _say_driver_state(self) -> None:
        """driver_state on every change and twice a second; log the change."""
        driver, now_s = self.world.driver, time.monotonic()
        said = self._driver_said
        if said is not None and said[0] is driver.state and now_s - said[1] < DRIVER_STATE_PERIOD_S:
            return
        damping = driver.state is DriverState.DAMPING
        if said is None or said[0] is not driver.state:
            self.say(f"driver: {driver.state.value}{f': {self._why_damping()}' if damping else ''}", error=damping and not self._bidden)
        self._driver_said = (driver.state, now_s)
        msg = SafetyState(
            state=RUNGS[driver.state],
            code=int(self._driver_code(damping)),
            reason=driver.reason,
            source="lmo",
            command_age_s=-1.0,
            image_age_s=-1.0,
            dropped_messages=self.dropped,
        )
        msg.header.stamp, msg.header.frame_id = codec.stamp_msg((self._epoch_us + round(self.world.time_s * 1e6)) / 1e6), self.NAME
        self._driver_out.publish(msg)

    def _why_damping(self) -> str:
        """Reason, and what the operator can do."""
        way = f"service {service('sim_reset').name} begins anew" if self.world.fault else "`wbvla rearm` leaves it"
        return f"{self.world.driver.reason}; {way}"

    def _driver_code(self, damping: bool) -> ErrorCode:
        if self.world.fault:
            return ErrorCode.MOTOR_FAULT  # the physics diverged: nothing drives the joints any more
        return ErrorCode.DRIVER_COMMAND_SILENT if damping else ErrorCode.NONE

    def health(self) -> Health:
        driver = self.world.driver
        values = {"real_time_factor": float(self._factor), "dropped_lateness_s": float(self._lateness_s), "driver": driver.state.value}
        if driver.state is DriverState.DAMPING:
            return Health(values, Level.ERROR, f"the driver is damping: {self._why_damping()}")
        if self._factor < 0.98:
            return Health(values, Level.WARN, f"real-time factor {self._factor:.2f} is under 0.98: the machine is too busy")
        return Health(values)


def transforms(stamp: object, qpos: np.ndarray) -> object:
    """TFMessage of one moment: world -> odom -> base_link (REP-105). The simulator knows the truth, so odometry does not drift: odom is the world.

    Args:
        qpos: begins with the free joint of the robot's root: position [3], unit quaternion [4] wxyz.
    """
    from geometry_msgs.msg import TransformStamped
    from tf2_msgs.msg import TFMessage

    out = []
    for parent, child, pose in ((WORLD_FRAME, ODOM_FRAME, (0, 0, 0, 1, 0, 0, 0)), (ODOM_FRAME, BASE_LINK, qpos[:7])):
        t = TransformStamped(child_frame_id=child)
        t.header.stamp, t.header.frame_id = stamp, parent
        at, r = t.transform.translation, t.transform.rotation
        at.x, at.y, at.z, r.w, r.x, r.y, r.z = (float(v) for v in pose)
        out.append(t)
    return TFMessage(transforms=out)


def main(argv: list[str] | None = None) -> None:
    run_node(SimNode, argv)


if __name__ == "__main__":
    main()

"""The 50 Hz node: the one writer to the motors. No images, no torch, its own process.

It has no clock of its own: it ticks on the joint states whose stamps reach the next 20 ms, and answers each with one JointCommand of that stamp.
Decisions come as two messages of one stamp (LocoCommand and arm targets) from one source at a time; :class:`wbvla_core.safety.SafetyLadder`
decides whether they are followed. A timer only watches for the case that no state comes any more.

Times: ages are this process's monotonic clock (``now_s``); what the controller gets as ``now_s`` is the clock of the robot's stamps, on which the
decisions' stamps lie, too.
"""

from __future__ import annotations

import math
import time
from typing import Any

from std_srvs.srv import Trigger

from wbvla_core.damping import damping_command
from wbvla_core.errors import CommandError, ErrorCode, WbvlaError
from wbvla_core.robot import RobotSpec, load_robot
from wbvla_core.ros import codec, raw
from wbvla_core.ros.health import Health, Level
from wbvla_core.ros.lifecycle import ManagedNode, Parameter, run_node
from wbvla_core.ros.tables import share_dir
from wbvla_core.ros.timing import Timings
from wbvla_core.safety import SafetyLadder, SafetyLimits, SafetyRung, SafetyStatus
from wbvla_core.timeline import StampPairer, TickFollower
from wbvla_core.types import ArmChunk, Decision, LocoCommand, RobotState
from wbvla_msgs.msg import SafetyState

SOURCES = ("vla", "teleop")
IMU_PAIR_S = 0.0025  # half a 200 Hz period: a joint state waits for the IMU sample that is this near
SAFETY_PERIOD_S = 0.1
PAUSE_PERIODS = 2  # the watching timer this many periods late: this process did not run
IMU_FRESH_S = 0.02  # without a near IMU sample the newest is taken up to this age; then the tick is skipped and the ladder sees silence


class LmoNode(ManagedNode):
    """See the module text."""

    NAME = "lmo"
    REALTIME = True
    PARAMETERS = {
        "robot": Parameter("x2", "robot spec: a name of config/robots or the path of a YAML file"),
        "checkpoint": Parameter("checkpoints/lmo/x2", "leg policy: a checkpoint directory, relative to the share folder or absolute"),
        "rate_hz": Parameter(50.0, "tick rate on the clock of the joint states; must equal the policy's", 10.0, 200.0),
        "start_ramp_s": Parameter(0.0, "time in which the gains rise after the first state [s]; 0 where the driver already holds the pose", 0.0, 10.0),
        "command_timeout_s": Parameter(0.25, "without a command for this long: stand [s]", 0.05, 2.0),
        "image_timeout_s": Parameter(0.4, "with an image older than this behind the command: stand [s]", 0.1, 5.0),
        "session_timeout_s": Parameter(1.0, "without a usable command for this long the source's control session is void [s]", 0.1, 10.0),
        "state_timeout_s": Parameter(0.1, "without joint state or IMU for this long: damping, latched [s]", 0.02, 1.0),
        "max_tilt_rad": Parameter(0.8, "tilt of the pelvis beyond which the joints damp, latched [rad]", 0.1, 1.5),
    }

    def __init__(self, **node_options: Any) -> None:
        """The ladder, its e-stop and its rearm are the process's: no transition forgets a latch, and the e-stop can be called in every state."""
        super().__init__(**node_options)
        self.ladder = SafetyLadder(sources=SOURCES)
        self._state: RobotState | None = None
        self._driver: SafetyState | None = None  # what the driver said last
        self.serve("estop", self._on_estop, always=True)
        self.serve("rearm", self._on_rearm, always=True)
        self.say("a new process: nothing is latched, an e-stop or a fault of an earlier one is not known here")

    # -- configure -----------------------------------------------------------------------------------------------------------
    def make_controller(self, robot: RobotSpec) -> Any:
        """The 50 Hz controller (tests bring their own)."""
        from wbvla_lmo.controller import ControllerConfig, LmoController
        from wbvla_lmo.policy import LmoPolicy

        policy = LmoPolicy.load(share_dir() / self.settings["checkpoint"], robot)
        if policy.config.rate_hz != self.settings["rate_hz"]:
            raise ValueError(f"parameter rate_hz is {self.settings['rate_hz']:g}, but the leg policy runs at {policy.config.rate_hz:g} Hz; set them equal")
        return LmoController(robot, policy, ControllerConfig(start_ramp_s=self.settings["start_ramp_s"]))

    def load(self) -> None:
        s = self.settings
        self.robot = load_robot(s["robot"])
        self.controller = self.make_controller(self.robot)
        self._read_joints, self._write = raw.JointStateReader(self.robot.joint_names), raw.JointCommandWriter(self.robot.joint_names)
        names = ("command_timeout_s", "image_timeout_s", "session_timeout_s", "state_timeout_s", "max_tilt_rad")
        self._limits = SafetyLimits(**{name: s[name] for name in names})
        self._command_out = self.publisher("joint_command")
        self._safety_out = self.publisher("safety_state")
        height, arms = self.robot.stance_height_range_m, self.robot.names("upper_body")
        # IMU before joint states: the executor runs ready subscriptions in this order, so that a joint state finds its partner
        self.listen_raw("imu", self._on_imu)
        self.listen_raw("joint_states", self._on_joints)
        for source in SOURCES:
            self.listen(f"{source}_loco", lambda m: codec.loco_from_msg(m, height), lambda v, s=source: self._on_half(s, self._pairers[s].add_first(*v), v[0]))
            self.listen(f"{source}_arms", lambda m: codec.arms_from_msg(m, arms), lambda v, s=source: self._on_half(s, self._pairers[s].add_second(*v), v[0]))
        self.listen("driver_state", lambda msg: msg, self._on_driver, inactive=True)
        self.serve("take_control", self._on_take_control)
        self._driver_rearm = self.client("driver_rearm")
        self.every(1.0 / s["rate_hz"], self._watch)
        self._reset()

    def _reset(self) -> None:
        self.ladder.restart(self._limits)
        self._follower = TickFollower(1.0 / self.settings["rate_hz"])
        self._pairers: dict[str, StampPairer[LocoCommand, ArmChunk]] = {source: StampPairer() for source in SOURCES}
        self._imu: tuple[float, bytes] | None = None  # newest sample: stamp, serialized
        self._waiting: tuple[float, bytes] | None = None  # a due joint state whose IMU sample has not come yet
        self._owed = False  # a due tick has not been answered yet
        self._state: RobotState | None = None
        self._answer: bytes | None = None  # what the newest state was answered with
        self._loco = LocoCommand(stance_height_m=self.robot.default_stance_height_m)
        self._status: SafetyStatus | None = None
        self._safety_said_s = -math.inf
        self._driver_ignored_until_s = -math.inf
        self._ticks, self._tick_s, self._watched_s = 0, None, None
        self._interval, self._compute, self._image_age = Timings(), Timings(), Timings()

    def start(self) -> None:
        self._reset()
        if self._driver is not None:
            self._heed_driver(self._driver)
        if self.ladder.latched:
            self.say(f"still damping, latched: {self.ladder.latched}; only a rearm leaves it (`wbvla rearm`)", error=True)

    def unload(self) -> None:
        self._state = None

    def stop(self) -> None:
        """The safe command when LMO goes: damping. The robot must hang or sit by then; the driver would damp by itself 0.1 s later."""
        if self._state is not None:
            self._command_out.publish(self._write(damping_command(self.robot, self._state.stamp_s, self._state.q)))

    # -- state in ----------------------------------------------------------------------------------------------------------------
    # Samples stay serialized until a tick wants them: of 400 a second 100 are looked at, and decoding all would cost more than the leg policy.
    def _on_imu(self, data: bytes) -> None:
        self._imu = (raw.stamp_s(data), data)
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._tick(*waiting)

    def _on_joints(self, data: bytes) -> None:
        stamp_s = raw.stamp_s(data)
        if self._waiting is not None:  # its IMU sample never came; the ladder watches for silence
            waiting, self._waiting = self._waiting, None
            self._tick(*waiting)
        if self._answer is not None and stamp_s == self._state.stamp_s:
            now_s = time.monotonic()  # the same sample again, and it was a good one
            self.ladder.note_state(now_s)
            self.ladder.note_imu(now_s)
            self._command_out.publish(self._answer)  # the sender repeats a state when the answer did not reach it
            return
        self._owed = self._owed or self._follower.due(stamp_s)
        if not self._owed:
            return
        if self._imu is None or self._imu[0] < stamp_s - IMU_PAIR_S:
            self._waiting = (stamp_s, data)
        else:
            self._tick(stamp_s, data)

    def _sense(self, stamp_s: float, data: bytes, now_s: float) -> RobotState | None:
        """Decode and check one joint state and the newest IMU sample; None where there is none to build on."""
        joints = self.accept("joint_states", self._read_joints, data)
        if joints is not None:
            self.ladder.note_state(now_s)
        if self._imu is None or abs(self._imu[0] - stamp_s) > IMU_FRESH_S:
            return None
        imu = self.accept("imu", raw.read_imu, self._imu[1])
        if imu is not None:
            self.ladder.note_imu(now_s)
        return codec.robot_state(joints, imu) if joints is not None and imu is not None else None

    def _tick(self, stamp_s: float, data: bytes) -> None:
        """Answer one joint state with one JointCommand."""
        start_s = time.monotonic()
        state = self._sense(stamp_s, data, start_s)
        if state is None:
            return  # the tick stays owed to the next sample
        self._owed = False
        first = self._state is None
        self._state = state
        if first:
            self.controller.reset(state)
        status = self.ladder.evaluate(start_s, state.tilt_rad)
        if status.rung is SafetyRung.STAND and self._changed(status):
            self.controller.hold_arms()
        self._answer = self._decide(status, state)
        self._command_out.publish(self._answer)
        end_s = time.monotonic()  # the motors have their command; what is said about it comes behind
        self._note_status(status, state.stamp_s)
        self._compute.add(end_s - start_s)
        if self._tick_s is not None:
            self._interval.add(start_s - self._tick_s)
        self._tick_s = start_s
        self._ticks += 1
        if status.rung is not SafetyRung.DAMPING:
            self.controller.anticipate(self._wanted(status))  # the command is out: what the next one needs may be worked out now

    def _wanted(self, status: SafetyStatus) -> LocoCommand:
        """The decision, or standing at its height."""
        return self._loco if status.rung is SafetyRung.FOLLOW else self._loco.stopped()

    def _decide(self, status: SafetyStatus, state: RobotState) -> bytes:
        """The serialized frame for the motors: limits and checks are behind it, so it may be sent as it is."""
        if status.rung is not SafetyRung.DAMPING:
            try:
                return self._write(self.controller.tick(state, self._wanted(status), state.stamp_s))
            except WbvlaError as error:  # what the policy gave is not a command: balance is lost, and nothing of it reaches the motors
                self.ladder.fault(error.code, f"the controller's command is unusable: {error}")
        return self._write(damping_command(self.robot, state.stamp_s, state.q))

    def _watch(self) -> None:
        """Runs by the clock: where no state comes, no tick runs, and somebody must still say and do what follows."""
        now_s, period_s = time.monotonic(), 1.0 / self.settings["rate_hz"]
        late_s = 0.0 if self._watched_s is None else now_s - self._watched_s - period_s
        self._watched_s = now_s
        if self._state is None:
            return
        if late_s > PAUSE_PERIODS * period_s:
            self.ladder.note_pause(now_s, late_s)  # timers run first: what the robot sent meanwhile still waits behind this one
        status = self.ladder.evaluate(now_s, self._state.tilt_rad)
        if status.rung is SafetyRung.DAMPING and (self._tick_s is None or time.monotonic() - self._tick_s > self._limits.state_timeout_s):
            self._note_status(status, self._state.stamp_s)
            self._command_out.publish(self._write(damping_command(self.robot, self._state.stamp_s, self._state.q)))

    # -- decisions in ----------------------------------------------------------------------------------------------------------------
    def _on_half(self, source: str, pair: tuple[LocoCommand, ArmChunk] | None, stamp_ns: int) -> None:
        """Half a decision came; with its partner it is one."""
        if pair is None or self._state is None:
            return
        stamp_s = round(stamp_ns / 1000) / 1e6
        now_s = time.monotonic()
        # both stamps are the robot's clock; the state is the newest thing known of that clock
        age_s = self._state.stamp_s + (now_s - (self._tick_s or now_s)) - stamp_s
        if not self.ladder.note_decision(source, now_s, age_s):
            return
        self._image_age.add(age_s)
        decision = Decision(stamp_s, *pair)
        self._loco = decision.loco
        self.controller.set_decision(decision, self._state.stamp_s, age_s=age_s)

    # -- control and safety ----------------------------------------------------------------------------------------------------------
    def _on_take_control(self, request: Any, response: Any) -> Any:
        response.success, response.code, response.message = True, 0, ""
        try:
            if not self.active:
                raise CommandError("LMO is not active; activate it first", ErrorCode.CONTROL_SESSION_VOID)
            if request.take:
                response.session = self.ladder.take_control(request.source, time.monotonic())
                response.message = f"{request.source} is in control"
            else:
                response.session = self.ladder.session if self.ladder.source == request.source else 0
                self.ladder.release_control(request.source)
                response.message = f"{request.source} is not in control"
            self.get_logger().info(f"control: {response.message}")
        except CommandError as error:
            response.success, response.code, response.message = False, int(error.code), str(error)
            self.get_logger().warning(f"control refused: {error}")
        return response

    def _on_estop(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.ladder.fault(ErrorCode.ESTOP, "e-stop was called")
        response.success, response.message = True, "damping, latched; call rearm to leave (`wbvla rearm`)"
        if not self.active:
            response.message = "latched; LMO is not active and commands nothing. Activated, it damps until it is rearmed (`wbvla rearm`)"
            self.say(f"e-stop: {response.message}", error=True)
        return response

    async def _on_rearm(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Rearm the driver's latch, where there is one, then the ladder's."""
        try:
            if not self.active:
                raise CommandError("rearm refused: LMO is not active and does not see the robot; activate it first", ErrorCode.REARM_REFUSED)
            if self._state is None:
                raise CommandError("rearm refused: no robot state has come yet", ErrorCode.REARM_REFUSED)
            if self._driver_rearm.service_is_ready():
                answer = await self._driver_rearm.call_async(Trigger.Request())
                if not answer.success:
                    raise CommandError(f"rearm refused by the driver: {answer.message}", ErrorCode.REARM_REFUSED)
            self.ladder.rearm(time.monotonic(), self._state.tilt_rad)
            self._driver_ignored_until_s = self._state.stamp_s
            self.controller.reset(self._state)
            self._loco = LocoCommand(stance_height_m=self.robot.default_stance_height_m)
            response.success, response.message = True, "standing; take control to move"
        except CommandError as error:
            response.success, response.message = False, f"{error} [{error.code.name} {int(error.code)}]"
        self.get_logger().info(f"rearm: {response.message}")
        return response

    def _on_driver(self, msg: SafetyState) -> None:
        self._driver = msg
        if self.active:
            self._heed_driver(msg)

    def _heed_driver(self, msg: SafetyState) -> None:
        """The driver's own latch: what LMO commands no longer reaches the motors, so say so and demand a rearm."""
        if msg.state == SafetyState.DAMPING and codec.stamp_s(msg.header.stamp) > self._driver_ignored_until_s:
            self.ladder.fault(ErrorCode.DRIVER_COMMAND_SILENT, f"the driver is damping: {msg.reason}")

    def _changed(self, status: SafetyStatus) -> bool:
        """Whether this is not what was said last."""
        before = self._status
        return before is None or (before.rung, before.code, before.source) != (status.rung, status.code, status.source)

    def _note_status(self, status: SafetyStatus, at_s: float) -> None:
        """Publish the safety state on every change and ten times a second; log the change."""
        now_s, changed = time.monotonic(), self._changed(status)
        if changed:
            text = f"{status.rung.name}{f' ({status.source})' if status.source else ''}{f': {status.reason}' if status.reason else ''}"
            self.say(text, error=status.rung is SafetyRung.DAMPING)
        if changed or now_s - self._safety_said_s >= SAFETY_PERIOD_S:
            self._safety_out.publish(codec.safety_msg(status, at_s, self.NAME, self.dropped))
            self._safety_said_s = now_s
        self._status = status

    def health(self) -> Health:
        values: dict[str, object] = {"ticks": self._ticks, "torn_decisions": sum(p.dropped for p in self._pairers.values())}
        values |= self._interval.report("tick_interval") | self._compute.report("compute") | self._image_age.report("image_age")
        status = self._status
        if self.ladder.latched:
            return Health(values, Level.ERROR, f"damping: {self.ladder.latched}; `wbvla rearm` leaves it")
        if missing := self.heard.missing("joint_states", "joint states") or self.heard.missing("imu", "IMU samples"):
            return Health(values, Level.STALE, missing)
        if status is not None and status.rung is SafetyRung.STAND and status.source:  # somebody is in control and is not followed
            return Health(values, Level.WARN, f"standing: {status.reason}")
        return Health(values)


def main(argv: list[str] | None = None) -> None:
    run_node(LmoNode, argv)


if __name__ == "__main__":
    main()

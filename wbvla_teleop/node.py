"""The teleoperation node: joystick and wrist poses in, decisions on /wbvla/teleop/* out.

Nothing is published while the dead-man is released. Held, it takes control of LMO (preempting the VLA) and publishes ten decisions a second, LocoCommand
and arm targets of one stamp: that of the joint state they answer, so that the robot's clock is the only one. Let go, by hand or because the device fell
silent, a last decision stops the robot and control is given back; should this process die instead, LMO's own ladder stands the robot 0.25 s later.

Pure parts: :mod:`wbvla_teleop.joystick`, :mod:`wbvla_teleop.mapping`. The solver for wrist poses comes from :meth:`TeleopNode.make_wrists`.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import Joy
from std_msgs.msg import String
from std_srvs.srv import Trigger

from wbvla_core.errors import ErrorCode
from wbvla_core.robot import RobotSpec, load_robot
from wbvla_core.ros import codec, raw
from wbvla_core.ros.health import Health, Level
from wbvla_core.ros.lifecycle import ManagedNode, Parameter, run_node
from wbvla_core.ros.tables import share_dir
from wbvla_core.timeline import TickFollower
from wbvla_core.types import ArmChunk, LocoCommand
from wbvla_msgs.msg import SafetyState
from wbvla_msgs.srv import TakeControl
from wbvla_teleop.joystick import Hands, TeleopError, load_mapping
from wbvla_teleop.mapping import DeadMan, Grip, LocoMapper

SOURCE = "teleop"
SIDES = ("left", "right")
EVENT_FRAME = "device_event"  # frame of a Joy message whose stamp is the time of the device's last event
PERIOD_S = 0.1  # of decisions, on the clock of the joint states
WATCH_S = 0.02  # the dead-man's button is looked at this often
PAUSE_PERIODS = 2.0  # a timer later than this many periods: this process could not run
CHUNK_ROWS = 3  # the same target three times: a lost decision does not stop an arm
MAX_SAG_RAD = 0.3  # arms this far from what was last asked of them, when control is taken anew, were moved by somebody else: begin where they are
SETTLE_S = 0.3  # after control was taken, how long an older safety state may still be on its way


class TeleopNode(ManagedNode):
    """See the module text."""

    NAME = "teleop"
    PARAMETERS = {
        "robot": Parameter("x2", "robot spec: a name of config/robots or the path of a YAML file"),
        "mapping": Parameter("config/teleop.yaml", "what axes and buttons mean: a file, relative to the share folder or absolute"),
        "wrist_silence_s": Parameter(0.3, "a wrist pose older than this is not followed: the hand stays [s]", 0.05, 2.0),
        "gripper_speed_m_s": Parameter(0.05, "how fast the grippers open and close [m/s]", 0.005, 0.5),
    }

    def make_wrists(self, robot: RobotSpec) -> Any | None:
        """The solver for wrist poses (:class:`wbvla_teleop.wrists.WristSolver`), or None: arms then stay. Whoever starts the node knows a model of the arms."""
        return None

    def load(self) -> None:
        s = self.settings
        self.robot = load_robot(s["robot"])
        path = Path(s["mapping"])
        self.mapping = load_mapping(path if path.is_absolute() else share_dir() / path)
        self._names, self._indices = self.robot.names("upper_body"), self.robot.indices("upper_body")
        self._arm_count = len(self.robot.names("arms"))
        self.wrists = self.make_wrists(self.robot)
        self._read_joints = raw.JointStateReader(self.robot.joint_names)
        self._loco_out, self._arms_out, self._mapping_out = self.publisher("teleop_loco"), self.publisher("teleop_arms"), self.publisher("teleop_mapping")
        self.listen("teleop_joy", self._decode_joy, lambda joy: self._on_hands(*joy))
        for side in SIDES:
            self.listen(f"{side}_wrist", self._decode_pose, lambda pose, side=side: self._on_wrist(side, pose))
        self.listen_raw("joint_states", self._on_joints)
        self.listen("safety_state", lambda msg: msg, self._on_safety)
        self._take_control = self.client("take_control")
        self._episode = {name: self.client(f"record_{name}") for name in ("start", "stop", "discard")}
        self._estop = self.client("estop")
        self.every(WATCH_S, self._on_timer)
        self._reset()

    def _reset(self) -> None:
        # LOST: a button that is down when this node starts is nobody's decision.
        self._deadman = DeadMan(self.mapping.silence_s, self.mapping.event_silence_s, Grip.LOST)
        self._joy_said: tuple | None = None  # what the last Joy message said, to tell events from repetitions
        self._mapper = LocoMapper(self.mapping, self.robot.stance_height_range_m, self.robot.default_stance_height_m)
        self._follower = TickFollower(PERIOD_S)
        self._hands = Hands()
        self._poses: dict[str, tuple[float, np.ndarray, np.ndarray]] = {}  # side -> monotonic time of arrival, xyz, wxyz
        self._target: np.ndarray | None = None  # [A] of the upper body
        self._closed = dict.fromkeys(SIDES, False)
        self._stamp_s: float | None = None  # of the newest joint state
        self._timer_s = time.monotonic()
        self._control_s = math.inf
        self._gripped = False  # control was taken since the last decision
        self._decisions = 0

    def start(self) -> None:
        self._reset()
        self._mapping_out.publish(String(data=self.mapping.text()))

    def stop(self) -> None:
        """The safe command: stand, and give control back."""
        if self._deadman.grip in (Grip.HELD, Grip.ASKING):
            self._let_go()

    # -- the operator ----------------------------------------------------------------------------------------------------------------
    def _decode_joy(self, msg: Joy) -> tuple[Hands, bool]:
        """(hands, whether the operator did something since the last message).

        Drivers such as joy_node repeat their last message with new stamps, so only what it says counts. Our own operator
        stamps with the time of the device's last event and says so by its frame: there a new stamp counts, too.
        """
        hands = self.mapping.read(msg.axes, msg.buttons)
        stamp = (msg.header.stamp.sec, msg.header.stamp.nanosec) if msg.header.frame_id == EVENT_FRAME else ()
        # NaN differs from itself: an axis that measures nothing must not look like an event for ever.
        said = (*(0.0 if math.isnan(value) else value for value in msg.axes), *msg.buttons, *stamp)
        event, self._joy_said = said != self._joy_said, said
        return hands, event

    def _on_hands(self, hands: Hands, event: bool) -> None:
        before, self._hands = self._hands, hands
        self._deadman.hear(hands.deadman, time.monotonic(), event)
        if not hands.deadman:
            self._mapper.rest(hands)
        if hands.estop and not before.estop:
            self._call(self._estop, "e-stop")
        for name, client in self._episode.items():
            if getattr(hands, f"episode_{name}") and not getattr(before, f"episode_{name}"):
                self._call(client, f"episode {name}")
        for side in SIDES:
            if getattr(hands, f"{side}_gripper") and not getattr(before, f"{side}_gripper"):
                self._closed[side] = not self._closed[side]
        self._watch()

    def _decode_pose(self, msg: PoseStamped) -> tuple[np.ndarray, np.ndarray]:
        if msg.header.frame_id != self.robot.root:
            raise TeleopError(f"wrist poses must be in frame {self.robot.root!r}, got {msg.header.frame_id!r}")
        p, o = msg.pose.position, msg.pose.orientation
        xyz, wxyz = np.array((p.x, p.y, p.z)), np.array((o.w, o.x, o.y, o.z))
        if not np.isfinite(xyz).all() or not abs(np.linalg.norm(wxyz) - 1.0) < 0.05:
            raise TeleopError("a wrist pose must be finite, with a unit quaternion")
        return xyz, wxyz

    def _on_wrist(self, side: str, pose: tuple[np.ndarray, np.ndarray]) -> None:
        if self.wrists is None:
            self.edges.bad("wrists", "wrist poses come, but there is no model of the arms here: pip install 'wbvla[sim]'")
        self._poses[side] = time.monotonic(), *pose

    def _call(self, client: Any, what: str) -> None:
        """Call a Trigger service; what came of it is logged."""
        if not client.service_is_ready():
            self.say(f"{what}: {client.srv_name} is not offered", error=True)
            return
        future = client.call_async(Trigger.Request())
        future.add_done_callback(lambda done: self.say(f"{what}: {done.result().message}", error=not done.result().success))

    # -- control ---------------------------------------------------------------------------------------------------------------------
    def _on_timer(self) -> None:
        """Look at the dead-man, and do not take our own pause for its silence: what the device sent meanwhile waits behind this call."""
        now_s = time.monotonic()
        late_s, self._timer_s = now_s - self._timer_s - WATCH_S, now_s
        if late_s > PAUSE_PERIODS * WATCH_S:
            self._deadman.excuse(late_s, now_s)
        self._watch()

    def _watch(self) -> None:
        """Do what the dead-man says now."""
        why = self._deadman.silent(time.monotonic())
        action = self._deadman.step(time.monotonic())
        if action == "let go":
            self._let_go(why)
        elif action == "ask":
            if not self._take_control.service_is_ready():
                self.edges.bad("control", "LMO does not offer take_control; is it active?")
                return
            self._take_control.call_async(TakeControl.Request(source=SOURCE, take=True)).add_done_callback(self._on_control)

    def _on_control(self, future: Any) -> None:
        answer = future.result()
        if not answer.success:
            self.edges.bad("control", f"refused: {answer.message}")
            if answer.code == ErrorCode.CONTROL_WHILE_DAMPING:
                self._deadman.lose()  # else the robot moves by a grip from before, at the moment at which somebody rearms
        elif not self._deadman.granted():
            self._release()
        else:
            self.edges.good("control")
            self._control_s = time.monotonic()
            self._follower.reset()
            self._gripped = True
            self.say("in control")

    def _let_go(self, why: str = "") -> None:
        """Stop, then give control back: LMO stands at once and holds stance height and arms."""
        if self._stamp_s is not None and self._target is not None:
            self._send(self._mapper.stop())
        self._release()
        self._control_s = math.inf
        if why:
            self.say(f"let go: {why}; let the dead-man go and grip it again", error=True)
        else:
            self.say("let go")

    def _release(self) -> None:
        self._take_control.call_async(TakeControl.Request(source=SOURCE, take=False))

    def _on_safety(self, msg: SafetyState) -> None:
        if self._deadman.grip is Grip.HELD and msg.source != SOURCE and time.monotonic() - self._control_s > SETTLE_S:
            self._deadman.lose()
            self._control_s = math.inf
            self.say(f"control was lost to {msg.source or 'nobody'}: {msg.reason}; let the dead-man go and grip it again", error=True)

    # -- decisions -------------------------------------------------------------------------------------------------------------------
    def _on_joints(self, data: bytes) -> None:
        self._stamp_s = raw.stamp_s(data)
        if self._deadman.grip is not Grip.HELD or not self._follower.due(self._stamp_s):
            return
        joints = self.accept("joint_states", self._read_joints, data)
        if joints is None:
            return
        measured = joints[1][self._indices]
        if self._target is None or (self._gripped and np.max(np.abs(measured - self._target)) > MAX_SAG_RAD):
            self._target = measured.copy()
        self._gripped = False
        self._move_arms()
        self._send(self._mapper.step(self._hands, PERIOD_S))

    def _move_arms(self) -> None:
        """One period further towards the wrists' poses, and the grippers towards open or closed."""
        now_s, arms = time.monotonic(), slice(0, self._arm_count)
        poses = {side: pose[1:] for side, pose in self._poses.items() if now_s - pose[0] <= self.settings["wrist_silence_s"]}
        if self.wrists is not None and poses:
            self._target[arms] = self.wrists.solve(poses, self._target[arms], PERIOD_S)
        step_m = self.settings["gripper_speed_m_s"] * PERIOD_S
        for side in SIDES:
            for name in self.robot.names(f"{side}_gripper"):
                at, joint = self._names.index(name), self.robot.joint(name)
                goal = joint.lower if self._closed[side] else joint.upper
                self._target[at] += np.clip(goal - self._target[at], -step_m, step_m)
        self._target = np.clip(self._target, self.robot.lower[self._indices], self.robot.upper[self._indices])

    def _send(self, loco: LocoCommand) -> None:
        """Encode everything, then publish everything: both halves of the decision have one stamp."""
        chunk = ArmChunk(self._names, np.tile(self._target, (CHUNK_ROWS, 1)), PERIOD_S)
        arms, command = codec.arms_msg(chunk, self._stamp_s), codec.loco_msg(loco, self._stamp_s, self.robot.stance_height_range_m)
        self._arms_out.publish(arms)
        self._loco_out.publish(command)
        self._decisions += 1

    def health(self) -> Health:
        values = {"grip": self._deadman.grip.value, "decisions": self._decisions, "stance_height_m": float(self._mapper.height_m)}
        if self._deadman.grip is Grip.LOST and self._deadman.pressed:
            return Health(values, Level.WARN, "control was lost: let the dead-man go")
        missing = self.heard.missing("teleop_joy", "message of the operator's device")
        return Health(values, Level.STALE if missing else Level.OK, missing)


def joy_msg(axes: list[float], buttons: list[int], event_s: float | None = None) -> Joy:
    """A Joy message whose stamp is the time of the device's last event.

    Args:
        event_s: that time, s since the epoch; None = now, the operator just did something.
    """
    msg = Joy(axes=axes, buttons=buttons)
    msg.header.stamp, msg.header.frame_id = codec.stamp_msg(time.time() if event_s is None else event_s), EVENT_FRAME
    return msg


def pose_msg(frame_id: str, xyz: tuple[float, ...], wxyz: tuple[float, ...]) -> PoseStamped:
    """A PoseStamped of this moment."""
    msg = PoseStamped()
    msg.header.stamp, msg.header.frame_id = codec.stamp_msg(time.time()), frame_id
    msg.pose.position.x, msg.pose.position.y, msg.pose.position.z = xyz
    msg.pose.orientation.w, msg.pose.orientation.x, msg.pose.orientation.y, msg.pose.orientation.z = wxyz
    return msg


def main(argv: list[str] | None = None) -> None:
    run_node(TeleopNode, argv)


if __name__ == "__main__":
    main()

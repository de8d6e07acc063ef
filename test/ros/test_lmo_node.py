"""LMO alone: who commands, what reaches the motors, and what never does. "Nothing was sent" is shown by what is sent next, never by sleeping."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run `make setup`")

from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.lifecycle.managed_entity import ManagedEntity  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from wbvla_core.damping import damping_gains  # noqa: E402
from wbvla_core.errors import ErrorCode  # noqa: E402
from wbvla_core.ros import codec  # noqa: E402
from wbvla_core.types import LocoCommand  # noqa: E402
from wbvla_msgs.msg import LocoCommand as LocoCommandMsg  # noqa: E402
from wbvla_msgs.msg import SafetyState  # noqa: E402
from wbvla_msgs.srv import TakeControl  # noqa: E402

from .conftest import Hand, until  # noqa: E402
from .fakes import ROBOT, STAND, HoldLmo, Probe  # noqa: E402

WALK = LocoCommand(1, 0, 0, ROBOT.default_stance_height_m)
SIDE = LocoCommand(0, 1, 0, ROBOT.default_stance_height_m)


class Bench:
    """LMO, a probe and clocks, LMO's and the robot's, that advance by one 20 ms slot per state."""

    def __init__(self, graph, hand: Hand, **parameters) -> None:
        self.graph, self.hand = graph, hand
        self.lmo = graph.add(HoldLmo(context=graph.context, parameter_overrides=[Parameter(name, value=value) for name, value in parameters.items()]))
        self.probe = graph.add(Probe(graph.context))
        self.probe.hear("joint_command", "safety_state")
        self.at_s = 1000.0

    def activate(self) -> Bench:
        assert self.lmo.trigger_configure() is TransitionCallbackReturn.SUCCESS
        assert self.lmo.trigger_activate() is TransitionCallbackReturn.SUCCESS
        return self

    @property
    def commands(self) -> list:
        return self.probe.heard["joint_command"]

    @property
    def safety(self) -> SafetyState:
        return self.probe.heard["safety_state"][-1]

    def slot(self, **state) -> object:
        """One robot state; returns the JointCommand that answers it."""
        self.hand.now_s += 0.02
        self.at_s = round(self.at_s + 0.02, 6)
        self.probe.state(self.at_s, **state)
        until(lambda: self.commands and codec.stamp_s(self.commands[-1].header.stamp) == self.at_s, 2.0, f"an answer to {self.at_s}")
        return self.commands[-1]

    def slots(self, seconds: float) -> None:
        """Time in slots."""
        for _ in range(round(seconds / 0.02)):
            self.slot()

    def watched(self) -> None:
        """Wait until LMO's watching timer has looked at the present moment."""
        count, evaluate = [0], self.lmo.ladder.evaluate

        def counted(*arguments):
            count[0] += 1
            return evaluate(*arguments)

        self.lmo.ladder.evaluate = counted
        until(lambda: count[0] >= 2, what="the watching timer")
        self.lmo.ladder.evaluate = evaluate

    def silence(self, seconds: float) -> None:
        """Time in which nothing comes, in the watching timer's periods: it takes a leap for a pause of its own process."""
        for _ in range(round(seconds / 0.02)):
            self.hand.now_s += 0.02
            self.watched()

    def take(self, source: str, take: bool = True):
        return self.probe.call("take_control", TakeControl.Request(source=source, take=take))

    def followed(self) -> LocoCommand:
        """What the controller was told in the next slot."""
        self.slot()
        return self.lmo.controller.ticks[-1]


@pytest.fixture
def bench(graph, hand) -> Bench:
    """With the limits that ship."""
    return Bench(graph, hand).activate()


def decide(bench: Bench, source: str, command: LocoCommand, age_s: float = 0.05) -> None:
    """A decision that LMO has taken in (or refused as not in control)."""
    pairer = bench.lmo._pairers[source]
    stamp_s = round(bench.at_s - age_s, 6)
    halves = []
    add_first, add_second = pairer.add_first, pairer.add_second
    pairer.add_first = lambda *v: (halves.append(v), add_first(*v))[1]
    pairer.add_second = lambda *v: (halves.append(v), add_second(*v))[1]
    bench.probe.decide(source, stamp_s, command)
    until(lambda: len(halves) >= 2, 2.0, "both halves of the decision")
    pairer.add_first, pairer.add_second = add_first, add_second
    bench.slot()


def test_the_node_goes_through_its_states_and_leaves_the_motors_damping(graph, hand):
    bench = Bench(graph, hand)
    lmo = bench.lmo
    for _ in range(2):  # twice: what is freed can be loaded again
        assert lmo.trigger_configure() is TransitionCallbackReturn.SUCCESS
        assert lmo.trigger_activate() is TransitionCallbackReturn.SUCCESS
        assert bench.slot().stiffness[0] == ROBOT.kp[0]
        sent = len(bench.commands)
        assert lmo.trigger_deactivate() is TransitionCallbackReturn.SUCCESS
        until(lambda sent=sent: len(bench.commands) > sent, 2.0, "the safe command")
        last = bench.commands[-1]
        assert not np.any(last.stiffness) and np.array_equal(last.damping, damping_gains(ROBOT))
        assert lmo.trigger_cleanup() is TransitionCallbackReturn.SUCCESS


def test_a_checkpoint_that_is_not_there_is_refused_at_configure(graph, capfd):
    from wbvla_lmo.node import LmoNode

    lmo = graph.add(LmoNode(context=graph.context, parameter_overrides=[Parameter("checkpoint", value="checkpoints/lmo/nowhere")]))
    assert lmo.trigger_configure() is TransitionCallbackReturn.FAILURE
    assert lmo._state_machine.current_state[1] == "unconfigured"
    text = capfd.readouterr().err
    assert "refused to configure" in text and "nowhere" in text and "Traceback" not in text


def test_each_slot_is_answered_with_its_own_stamp_and_a_repeated_state_with_the_same_answer(bench):
    for _ in range(5):
        bench.slot()
    sent = len(bench.commands)
    bench.probe.state(bench.at_s)  # the sender did not get the answer and asks again
    until(lambda: len(bench.commands) > sent, 2.0, "the repeated answer")
    assert bench.commands[-1] == bench.commands[-2]
    assert len(bench.lmo.controller.ticks) == 5


def test_states_between_two_ticks_are_not_answered(bench):
    bench.slot()
    for millis in (5, 10, 15):
        bench.probe.state(round(bench.at_s + millis / 1000, 6))
    bench.slot()
    stamps = [round((codec.stamp_s(c.header.stamp) - 1000.0) * 1000) for c in bench.commands]
    assert stamps == [20, 40]


@pytest.mark.parametrize("spoil", ["nan", "short", "imu"])
def test_a_malformed_robot_state_is_dropped_and_counted_and_nothing_reaches_the_motors(bench, spoil, capfd):
    bench.slot()
    sent = len(bench.commands)
    capfd.readouterr()
    for count in (1, 2, 3):
        at_s = round(bench.at_s + 0.02 * count, 6)
        imu = codec.imu_msg("pelvis", at_s, np.zeros(4) if spoil == "imu" else np.array((1.0, 0.0, 0.0, 0.0)), np.zeros(3))
        joints = codec.joint_state_msg(ROBOT.joint_names, at_s, ROBOT.default_q, np.zeros(ROBOT.joint_count))
        if spoil != "imu":
            joints.position = [float("nan")] * ROBOT.joint_count if spoil == "nan" else [0.0]
        bench.probe.send("imu", imu)
        bench.probe.send("joint_states", joints)
        until(lambda count=count: bench.lmo.dropped >= count, 2.0, "the drop to be counted")
    assert capfd.readouterr().err.count("message dropped") == 1  # on the edge, not three times
    bench.at_s = round(bench.at_s + 0.06, 6)
    bench.slot()
    assert len(bench.commands) == sent + 1  # the sentinel's answer is the first after the bad ones


def test_a_controller_that_gives_nan_ends_in_damping_and_nothing_of_it_is_sent(bench):
    bench.slot()
    bench.lmo.controller.spoil = True
    answer = bench.slot()
    assert np.all(np.isfinite(answer.position)) and not np.any(answer.stiffness)
    bench.slot()
    until(lambda: bench.safety.state == SafetyState.DAMPING, 2.0)
    assert bench.safety.code == ErrorCode.COMMAND_NOT_FINITE


def test_only_the_source_in_control_is_followed_and_teleoperation_preempts(bench):
    bench.slot()
    decide(bench, "vla", WALK)
    assert bench.followed() == STAND  # nobody took control yet
    assert bench.take("vla").success
    decide(bench, "vla", WALK)
    assert bench.followed() == WALK
    decide(bench, "teleop", SIDE)
    assert bench.followed() == WALK
    assert bench.take("teleop").success
    decide(bench, "teleop", SIDE)
    assert bench.followed() == SIDE
    refusal = bench.take("vla")
    assert (refusal.success, refusal.code) == (False, ErrorCode.CONTROL_HELD_BY_OTHER)
    refusal = bench.take("gamepad")
    assert (refusal.success, refusal.code) == (False, ErrorCode.CONTROL_UNKNOWN_SOURCE)
    assert bench.take("teleop", False).success
    assert bench.followed() == STAND


def test_half_a_decision_is_never_followed(bench):
    bench.slot()
    assert bench.take("vla").success
    for k in range(3):
        stamp_s = round(bench.at_s - 0.03 + k * 0.01, 6)
        bench.probe.send("vla_loco", codec.loco_msg(WALK, stamp_s, ROBOT.stance_height_range_m))
        until(lambda k=k: len(bench.lmo._pairers["vla"]._first) == k + 1, 2.0)
    assert bench.followed() == STAND and not bench.lmo.controller.decisions


def test_a_malformed_command_is_dropped_counted_and_refreshes_no_age(bench):
    bench.slot()
    assert bench.take("vla").success
    decide(bench, "vla", WALK)
    assert bench.followed() == WALK
    bad = [{"forward": 44}, {"forward": 1, "stance_height_m": 0.9}, {"stance_height_m": float("nan")}]
    for count in range(1, 14):  # 0.26 s: a stream of malformed commands is silence
        msg = LocoCommandMsg(**{"stance_height_m": 0.6, **bad[count % 3]})
        msg.header.stamp = codec.stamp_msg(bench.at_s)
        bench.probe.send("vla_loco", msg)
        until(lambda count=count: bench.lmo.dropped == count, 2.0)
        bench.slot()
    assert bench.followed() == STAND
    until(lambda: (bench.safety.state, bench.safety.code) == (SafetyState.STAND, ErrorCode.COMMAND_STALE), 2.0)
    assert bench.lmo.controller.holds > 0


def test_a_frozen_camera_counts_as_silence(bench):
    bench.slot()
    assert bench.take("vla").success
    decide(bench, "vla", WALK, age_s=0.05)
    assert bench.followed() == WALK
    decide(bench, "vla", WALK, age_s=0.45)  # a fresh command from an old image
    assert bench.followed() == STAND
    assert bench.safety.code == ErrorCode.COMMAND_IMAGE_STALE


def test_a_silent_source_loses_its_session_after_a_second(bench):
    bench.slot()
    assert bench.take("vla").success
    decide(bench, "vla", WALK)
    bench.slots(1.02)
    decide(bench, "vla", WALK)
    assert bench.followed() == STAND
    until(lambda: bench.safety.code == ErrorCode.CONTROL_SESSION_VOID, 2.0)
    assert bench.take("vla").success
    decide(bench, "vla", WALK)
    assert bench.followed() == WALK


def test_estop_damps_until_rearm_and_a_tilted_robot_is_not_rearmed(bench):
    bench.slot()
    assert bench.take("vla").success
    assert bench.probe.call("estop").success
    assert not np.any(bench.slot().stiffness)
    refusal = bench.take("vla")
    assert (refusal.success, refusal.code) == (False, ErrorCode.CONTROL_WHILE_DAMPING)
    bench.slot(gravity=np.array((np.sin(0.5), 0.0, -np.cos(0.5))))
    answer = bench.probe.call("rearm")
    assert not answer.success and "tilted" in answer.message
    bench.slot()
    assert bench.probe.call("rearm").success
    assert bench.slot().stiffness[0] == ROBOT.kp[0]


def test_a_robot_that_lies_damps(bench):
    bench.slot()
    assert not np.any(bench.slot(gravity=np.array((np.sin(0.85), 0.0, -np.cos(0.85)))).stiffness)
    bench.slot()
    until(lambda: bench.safety.code == ErrorCode.TILT, 2.0)


def test_without_robot_state_the_motors_are_told_to_damp_and_the_safety_state_says_why(bench):
    bench.slot()
    sent = len(bench.commands)
    bench.silence(0.08)
    assert len(bench.commands) == sent, "less than a tenth of a second is no silence"
    bench.silence(0.04)
    until(lambda: len(bench.commands) > sent, what="damping")
    assert not np.any(bench.commands[-1].stiffness)
    until(lambda: bench.safety.code in (ErrorCode.STATE_SILENT, ErrorCode.IMU_SILENT))


def test_a_process_that_stood_still_first_hears_what_the_robot_sent_meanwhile(bench):
    bench.slots(0.1)
    bench.hand.now_s += 10.0  # suspended, with the robot's states waiting behind the timer
    bench.watched()
    assert bench.slot().stiffness[0] == ROBOT.kp[0], "it still holds the joints"
    bench.silence(0.12)
    until(lambda: bench.safety.state == SafetyState.DAMPING, what="damping now that the robot is silent")


def test_a_driver_that_damps_by_itself_latches_lmo_too(bench):
    bench.slot()
    msg = SafetyState(state=SafetyState.DAMPING, reason="no JointCommand for 0.1 s")
    msg.header.stamp = codec.stamp_msg(bench.at_s)
    bench.probe.send("driver_state", msg)
    until(lambda: bench.slot() and bench.safety.state == SafetyState.DAMPING, 2.0)
    assert bench.safety.code == ErrorCode.DRIVER_COMMAND_SILENT


# -- the latch outlives every transition -----------------------------------------------------------------------------------------
def go(lmo, *transitions: str) -> None:
    for transition in transitions:
        assert getattr(lmo, f"trigger_{transition}")() is TransitionCallbackReturn.SUCCESS, transition


class Fails(ManagedEntity):
    """Something in a node whose transition ends in an error."""

    def on_deactivate(self, state) -> TransitionCallbackReturn:
        return TransitionCallbackReturn.ERROR


def raises_an_error(lmo) -> None:
    entity = Fails()
    lmo.add_managed_entity(entity)
    assert lmo.trigger_deactivate() is TransitionCallbackReturn.ERROR
    lmo._managed_entities.remove(entity)
    assert lmo._state_machine.current_state[1] == "unconfigured"


def refuses_once(lmo) -> None:
    """Configuring anew is refused the first time, as with a checkpoint that is not there."""
    go(lmo, "deactivate", "cleanup")
    make, lmo.make_controller = lmo.make_controller, lambda robot: (_ for _ in ()).throw(ValueError("no such checkpoint"))
    assert lmo.trigger_configure() is TransitionCallbackReturn.FAILURE
    lmo.make_controller = make


WAYS = {
    "deactivated": lambda lmo: go(lmo, "deactivate"),
    "cleaned up": lambda lmo: go(lmo, "deactivate", "cleanup"),
    "through an error": raises_an_error,
    "through a refusal": refuses_once,
}


@pytest.mark.parametrize("way", WAYS)
def test_an_estop_outlives_every_transition_until_rearm(graph, hand, way, capfd):
    bench = Bench(graph, hand).activate()
    lmo = bench.lmo
    assert "a new process: nothing is latched" in capfd.readouterr().err
    bench.slot()
    assert bench.probe.call("estop").success
    WAYS[way](lmo)
    refusal = bench.probe.call("rearm")
    assert not refusal.success and "not active" in refusal.message  # nobody sees how the robot lies
    while lmo._state_machine.current_state[1] != "active":
        go(lmo, "configure" if lmo._state_machine.current_state[1] == "unconfigured" else "activate")
    text = capfd.readouterr().err
    assert "still damping, latched: e-stop was called" in text and "new process" not in text
    assert not np.any(bench.slot().stiffness)
    until(lambda: bench.safety.code == ErrorCode.ESTOP, 2.0)
    assert bench.take("teleop").code == ErrorCode.CONTROL_WHILE_DAMPING
    assert bench.probe.call("rearm").success
    assert bench.slot().stiffness[0] == ROBOT.kp[0]
    go(lmo, "deactivate", "activate")
    assert bench.slot().stiffness[0] == ROBOT.kp[0], "rearmed is rearmed"


@pytest.mark.parametrize("state", ["unconfigured", "inactive"])
def test_an_estop_is_heard_in_every_state_and_says_what_it_does(graph, hand, state):
    bench = Bench(graph, hand)
    if state == "inactive":
        go(bench.lmo, "configure")
    answer = bench.probe.call("estop")
    assert answer.success and "not active" in answer.message and "latched" in answer.message
    if state == "unconfigured":
        go(bench.lmo, "configure")
    go(bench.lmo, "activate")
    assert not np.any(bench.slot().stiffness)
    until(lambda: bench.safety.code == ErrorCode.ESTOP, 2.0)


def test_a_fall_is_not_forgotten_by_a_restart_either_and_a_former_life_does_not_count_as_silence(graph, hand):
    bench = Bench(graph, hand).activate()
    bench.slot(gravity=np.array((np.sin(0.85), 0.0, -np.cos(0.85))))
    go(bench.lmo, "deactivate", "cleanup", "configure", "activate")
    assert not np.any(bench.slot().stiffness)
    until(lambda: bench.safety.code == ErrorCode.TILT, 2.0)
    assert bench.probe.call("rearm").success
    go(bench.lmo, "deactivate")
    hand.now_s += 60.0
    go(bench.lmo, "activate")
    assert bench.slot().stiffness[0] == ROBOT.kp[0]


def test_what_the_driver_said_while_lmo_was_inactive_counts_when_it_is_activated(graph, hand):
    bench = Bench(graph, hand)
    go(bench.lmo, "configure")
    for state in (SafetyState.DAMPING, SafetyState.WAITING, SafetyState.DAMPING):  # only the last one does
        msg = SafetyState(state=state, reason="no JointCommand for 0.1 s")
        msg.header.stamp = codec.stamp_msg(bench.at_s + state)
        bench.probe.send("driver_state", msg)
        until(lambda state=state: bench.lmo._driver is not None and bench.lmo._driver.state == state, 2.0)
        assert not bench.lmo.ladder.latched
    go(bench.lmo, "activate")
    assert not np.any(bench.slot().stiffness)

"""The teleoperation node and LMO's ladder: held it commands, let go or silent it stops; and the recorder's services."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run `make setup`")

from std_srvs.srv import Trigger  # noqa: E402

from wbvla_cli.record import read_messages  # noqa: E402
from wbvla_cli.record_node import RecordNode  # noqa: E402
from wbvla_cli.teleop_node import WholeBodyTeleopNode  # noqa: E402
from wbvla_core.ros.qos import interface_class, service, topic  # noqa: E402
from wbvla_core.ros.tables import topic_table  # noqa: E402
from wbvla_msgs.msg import SafetyState  # noqa: E402
from wbvla_teleop.joystick import Hands  # noqa: E402
from wbvla_teleop.mapping import Grip  # noqa: E402
from wbvla_teleop.node import EVENT_FRAME, joy_msg, pose_msg  # noqa: E402

from .conftest import until  # noqa: E402
from .fakes import ROBOT, HoldLmo, Probe  # noqa: E402


class Robot:
    """Publishes states at 100 Hz and what the operator's hands do at 20 Hz, until it is told otherwise."""

    def __init__(self, probe: Probe, mapping) -> None:
        self.probe, self.mapping = probe, mapping
        self.hands: Hands | None = Hands()
        self.event_s: float | None = None  # time of the device's last event; None = it says something new all the time
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        tick = 0
        while not self._stop.is_set():
            self.probe.state(time.time())
            if tick % 5 == 0 and self.hands is not None:
                self.probe.send("teleop_joy", joy_msg(*self.mapping.write(self.hands), self.event_s))
            tick += 1
            time.sleep(0.01)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2.0)


@pytest.fixture
def scene(graph):
    lmo, teleop, probe = graph.add(HoldLmo(context=graph.context)), graph.add(WholeBodyTeleopNode(context=graph.context)), graph.add(Probe(graph.context))
    for node in (lmo, teleop):
        node.trigger_configure()
        node.trigger_activate()
        assert node.active, node.NAME
    # Robot, nodes and inverse kinematics share this process: what holds it up for a moment is no silence of a robot, which is not the subject here.
    lmo.ladder.limits = dataclasses.replace(lmo.ladder.limits, state_timeout_s=2.0)
    teleop._deadman.silence_s = 2.0  # likewise for the device, but in the test of its silence
    probe.hear("teleop_loco", "teleop_arms", "safety_state", "teleop_mapping")
    robot = Robot(probe, teleop.mapping)
    until(lambda: teleop._take_control.service_is_ready() and lmo.controller.ticks, 10.0, "the nodes to find each other")
    until(lambda: teleop._joy_said is not None, what="a first message of hands at rest: axes count from there")
    yield lmo, teleop, probe, robot
    robot.close()


def following(lmo) -> bool:
    return bool(lmo.controller.ticks) and lmo.controller.ticks[-1].forward == 1


def test_the_operator_moves_the_robot_while_he_holds_on_and_not_a_moment_longer(scene):
    lmo, teleop, probe, robot = scene
    robot.hands = Hands(forward=1.0)
    time.sleep(0.3)
    assert not probe.heard["teleop_loco"], "without the dead-man nothing is said"
    robot.hands = Hands(deadman=True)
    until(lambda: teleop._deadman.grip is Grip.HELD, what="control")
    robot.hands = Hands(forward=1.0, deadman=True)  # pushed before he gripped it would not count
    until(lambda: following(lmo), 5.0, "LMO to follow")
    until(lambda: len(probe.heard["teleop_loco"]) >= 5, 3.0)
    stamps = {key: {(m.header.stamp.sec, m.header.stamp.nanosec) for m in probe.heard[key]} for key in ("teleop_loco", "teleop_arms")}
    assert len(stamps["teleop_loco"] & stamps["teleop_arms"]) >= 4, "two halves of one stamp"
    robot.hands = Hands(forward=1.0)
    until(lambda: not following(lmo), what="LMO to stop")
    assert probe.heard["teleop_loco"][-1].forward == 0
    until(lambda: probe.heard["safety_state"][-1].source == "", 2.0, "control to be given back")
    count = len(probe.heard["teleop_loco"])
    time.sleep(0.3)
    assert len(probe.heard["teleop_loco"]) == count


def test_a_device_that_falls_silent_stops_the_robot_as_letting_go_does(scene):
    lmo, teleop, probe, robot = scene
    robot.hands = Hands(forward=1.0, deadman=True)
    until(lambda: following(lmo), 5.0)
    teleop._deadman.silence_s = teleop.mapping.silence_s
    robot.hands = None
    until(lambda: not following(lmo), what="LMO to stop")
    until(lambda: probe.heard["teleop_loco"][-1].forward == 0, what="teleoperation's own last word")
    until(lambda: probe.heard["safety_state"][-1].source == "", what="control to be given back")


def test_the_dead_man_preempts_the_vla_which_cannot_take_control_back(scene):
    lmo, teleop, probe, robot = scene
    lmo.ladder.take_control("vla", time.monotonic())
    robot.hands = Hands(yaw=1.0, deadman=True)
    until(lambda: probe.heard["safety_state"] and probe.heard["safety_state"][-1].source == "teleop", 5.0, "teleoperation to be in control")
    with pytest.raises(ValueError, match="teleop"):
        lmo.ladder.take_control("vla", time.monotonic())


def test_the_e_stop_button_damps_and_the_lost_grip_is_not_taken_back_by_itself(scene):
    lmo, teleop, probe, robot = scene
    robot.hands = Hands(forward=1.0, deadman=True)
    until(lambda: following(lmo), 5.0)
    robot.hands = Hands(forward=1.0, deadman=True, estop=True)
    until(lambda: probe.heard["safety_state"][-1].state == SafetyState.DAMPING, 3.0, "damping")
    until(lambda: teleop._deadman.grip.value == "lost", 3.0)
    assert probe.call("rearm").success
    time.sleep(0.8)
    assert teleop._deadman.grip.value == "lost" and not following(lmo)
    robot.hands = Hands()
    until(lambda: teleop._deadman.grip.value == "released", 2.0)
    robot.hands = Hands(forward=1.0, deadman=True)
    until(lambda: following(lmo), 5.0, "a new grip")


def test_a_grip_from_before_the_rearm_does_not_move_the_robot(scene):
    lmo, teleop, probe, robot = scene
    probe.call("estop")
    robot.hands = Hands(deadman=True)
    until(lambda: teleop._deadman.grip is Grip.LOST, what="a grip that was refused to be lost")
    robot.hands = Hands(forward=1.0, deadman=True)
    assert probe.call("rearm").success
    time.sleep(2 * teleop._deadman.ASK_AGAIN_S)
    assert lmo.ladder.source == "" and not following(lmo), "held on, he did not ask again"
    robot.hands = Hands()
    until(lambda: teleop._deadman.grip is Grip.RELEASED, what="the release")
    robot.hands = Hands(deadman=True)
    until(lambda: teleop._deadman.grip is Grip.HELD, 5.0, "a new grip")


def test_rearming_asks_the_driver_and_the_robot_can_be_moved_again(scene):
    """The answer of the driver is awaited inside of LMO's own service: neither may keep the other, or the 50 Hz loop, waiting."""
    lmo, teleop, probe, robot = scene
    row, asked = service("driver_rearm"), []

    def driver(_request, response):
        asked.append(True)
        response.success = True
        return response

    probe.create_service(interface_class(row.type), row.name, driver)
    until(lambda: lmo._driver_rearm.service_is_ready(), 5.0)
    probe.call("estop")
    assert probe.call("rearm").success and asked
    robot.hands = Hands(forward=1.0, deadman=True)
    until(lambda: following(lmo), 10.0, "LMO to follow after it was rearmed")


def test_a_wrist_pose_moves_that_arm_and_a_bad_one_is_dropped_and_counted(scene):
    pytest.importorskip("mink")
    lmo, teleop, probe, robot = scene
    rest = ROBOT.default_q[ROBOT.indices("arms")]
    xyz, wxyz = teleop.wrists.pose("left", rest)
    goal = xyz + (0.1, 0.05, 0.1)
    robot.hands = Hands(deadman=True)
    until(lambda: len(probe.heard["teleop_arms"]) > 1, 5.0)
    probe.send("left_wrist", pose_msg("map", tuple(goal), tuple(wxyz)))
    until(lambda: teleop.dropped == 1, 3.0, "a pose in another frame to be refused")

    def reached() -> bool:
        time.sleep(0.05)  # a tracker's rate: a flood of poses, each solved in this process, starves the states that LMO waits for
        probe.send("left_wrist", pose_msg(ROBOT.root, tuple(goal), tuple(wxyz)))
        q = np.array(probe.heard["teleop_arms"][-1].points[-1].positions)[: len(rest)]
        return bool(np.linalg.norm(teleop.wrists.pose("left", q)[0] - goal) < 0.01)

    until(reached, 8.0, "the hand to be there")


def test_a_pad_whose_radio_link_is_lost_stops_the_robot_and_comes_back_only_after_a_release(scene):
    lmo, teleop, probe, robot = scene
    until(lambda: teleop._deadman.grip is Grip.RELEASED, 5.0, "the dead-man to be seen released")
    robot.hands = Hands(forward=1.0, deadman=True)
    until(lambda: following(lmo), 5.0)
    robot.event_s = time.time()  # from now on the receiver repeats the last state
    until(lambda: teleop._deadman.grip is Grip.LOST, 8.0, "control to end")
    until(lambda: not following(lmo), 5.0, "the robot to stop")
    robot.event_s = None  # the link is back, the button still down
    said = teleop._joy_said
    until(lambda: teleop._joy_said != said, 5.0)
    assert teleop._deadman.grip is Grip.LOST and not following(lmo)
    robot.hands = Hands()
    until(lambda: teleop._deadman.grip is Grip.RELEASED, 5.0)
    robot.hands = Hands(forward=1.0, deadman=True)
    until(lambda: following(lmo), 5.0)


def test_only_a_change_counts_as_an_event_of_a_driver_that_repeats_its_last_message(scene):
    lmo, teleop, probe, robot = scene
    robot.close()
    numbers = teleop.mapping.write(Hands(forward=1.0, deadman=True))
    events = []
    for stamp_s, frame in ((1.0, "joy"), (2.0, "joy"), (2.0, EVENT_FRAME), (3.0, EVENT_FRAME), (3.0, EVENT_FRAME)):
        msg = joy_msg(*numbers, stamp_s)
        msg.header.frame_id = frame
        events.append(teleop._decode_joy(msg)[1])
    assert events == [True, False, True, True, False]
    unused = joy_msg([*numbers[0], float("nan")], numbers[1], 4.0)
    unused.header.frame_id = "joy"
    assert [teleop._decode_joy(unused)[1] for _ in range(2)] == [True, False], "an axis that nothing is mapped to is NaN"


def test_a_joy_message_of_another_device_is_dropped_and_the_mapping_is_there_for_late_comers(scene):
    lmo, teleop, probe, robot = scene
    robot.close()  # a good message of his, already on its way, could take the place of the bad one in a queue of one
    probe.send("teleop_joy", joy_msg([0.0], [1]))
    until(lambda: teleop.dropped == 1, 3.0)
    until(lambda: probe.heard["teleop_mapping"], 3.0)
    assert probe.heard["teleop_mapping"][0].data == teleop.mapping.text()


def test_episodes_are_begun_kept_and_discarded_by_service_with_note_mapping_and_audit(graph, tmp_path):
    import json

    record, probe = graph.add(RecordNode(context=graph.context)), graph.add(Probe(graph.context))
    record.set_parameters([record.get_parameter("session").__class__("session", value=str(tmp_path / "s"))])
    record.trigger_configure()
    record.trigger_activate()
    assert record.active
    note = interface_class(topic("record_note").type)
    probe.send("record_note", note(data="{instruction: wave the left arm, notes: grün}"))
    probe.send("teleop_mapping", note(data="axes: {}"))
    until(lambda: record._facts.get("instruction") and record._latched[topic_table().topics["teleop_mapping"].name], 3.0)
    answers = [probe.call("record_stop", Trigger.Request()), probe.call("record_start", Trigger.Request()), probe.call("record_start", Trigger.Request())]
    assert [a.success for a in answers] == [False, True, False] and "no episode" in answers[0].message and "being recorded" in answers[2].message
    for i in range(50):
        probe.state(1e9 + i * 0.005)
        time.sleep(0.002)
    until(lambda: record._written >= 100, 5.0, "the states to be written")
    kept = probe.call("record_stop", Trigger.Request())
    assert kept.success and "episode_0000 is kept" in kept.message
    assert probe.call("record_start", Trigger.Request()).success
    assert "discarded" in probe.call("record_discard", Trigger.Request()).message
    folder = tmp_path / "s" / "episode_0000"
    facts, audit = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("episode.json", "audit.json"))
    assert (facts["instruction"], facts["notes"], facts["state"]) == ("wave the left arm", "grün", "kept")
    topics = [name for name, _, _ in read_messages(folder)]
    assert topics.count("/wbvla/robot/joint_states") == topics.count("/wbvla/robot/imu") == 50
    assert topics.count("/wbvla/teleop/mapping") == topics.count("/wbvla/record/note") == 1, "what was said before is in every episode"
    assert audit["topics"]["/wbvla/robot/joint_states"]["received"] == 50 and audit["duration_s"] < 5.0
    assert any("lie" in problem for problem in audit["problems"]), "stamps of another century are seen"
    assert (tmp_path / "s" / "discarded" / "episode_0001" / "audit.json").is_file()

"""Simulator, renderer and perception, each in this process: what they publish, what they refuse."""

from __future__ import annotations

import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run `make setup`")
pytest.importorskip("mujoco", reason="needs the simulator: run `make setup`")

from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from wbvla_core.damping import damping_command  # noqa: E402
from wbvla_core.errors import ErrorCode  # noqa: E402
from wbvla_core.ros import codec  # noqa: E402
from wbvla_core.types import JointCommand  # noqa: E402
from wbvla_msgs.msg import SafetyState  # noqa: E402
from wbvla_perception.node import PerceptionNode  # noqa: E402
from wbvla_perception.preprocess import ImageSpec, policy_image  # noqa: E402
from wbvla_sim import node as sim_node  # noqa: E402
from wbvla_sim.node import SimNode  # noqa: E402
from wbvla_sim.render_node import RenderNode  # noqa: E402

from .conftest import until  # noqa: E402
from .fakes import ROBOT, Probe  # noqa: E402


def up(graph, kind, **parameters):
    node = graph.add(kind(context=graph.context, parameter_overrides=[Parameter(name, value=value) for name, value in parameters.items()]))
    assert node.trigger_configure() is TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() is TransitionCallbackReturn.SUCCESS
    return node


@pytest.fixture
def probe(graph) -> Probe:
    made = graph.add(Probe(graph.context))
    made.hear("joint_states", "imu", "driver_state", "sim_state", "camera_image", "camera_info", "policy_image", "robot_description", "clock")
    return made


def answer(probe: Probe, at_s: float) -> None:
    zeros = np.zeros(ROBOT.joint_count)
    probe.send("joint_command", codec.joint_command_msg(JointCommand(at_s, ROBOT.default_q, zeros, zeros, ROBOT.kp, ROBOT.kd), ROBOT.joint_names))


def stamps_ms(messages: list) -> np.ndarray:
    return np.round(np.diff([codec.stamp_s(m.header.stamp) for m in messages]) * 1e3)


def test_the_robot_hangs_until_the_first_command_then_runs_then_damps_when_commands_stop_and_is_rearmed(graph, probe):
    sim = up(graph, SimNode, scene="empty", publish_clock=True)
    heard = probe.heard
    until(lambda: len(heard["joint_states"]) > 5)
    assert heard["driver_state"][-1].state == SafetyState.WAITING
    assert set(stamps_ms(heard["joint_states"])) == {20.0}  # on the gantry: the states that begin a slot
    assert abs(heard["sim_state"][-1].qpos[2] - ROBOT.default_stance_height_m) < 0.02

    seen = len(heard["joint_states"])
    for _ in range(12):  # answer twelve slots
        count = len(heard["sim_state"])
        answer(probe, codec.stamp_s(heard["joint_states"][-1].header.stamp))
        until(lambda count=count: len(heard["sim_state"]) > count, 1.0)
    running = heard["joint_states"][seen + 4 :]
    assert np.mean(stamps_ms(running) <= 5.0) > 0.95  # 200 Hz, and a state that is sent again while a slot waits
    until(lambda: heard["driver_state"][-1].state == SafetyState.DAMPING, what="damping")
    # Time stands still for 0.5 s: 25 waits of 0.02 s, however the machine stretches them. The state that nobody answered is sent as often.
    waiting_ns, sent = Counter(codec.stamp_ns(m.header.stamp) for m in heard["joint_states"]).most_common(1)[0]
    assert sent <= 25
    last = heard["driver_state"][-1]
    damped = next(m for m in heard["driver_state"] if m.state == SafetyState.DAMPING)
    # Then it runs, and the driver counts its 0.1 s from the last command, which came a slot of 0.02 s earlier.
    assert 0.07 <= codec.stamp_s(damped.header.stamp) - waiting_ns / 1e9 <= 0.11
    assert last.code == ErrorCode.DRIVER_COMMAND_SILENT and "no JointCommand for 0.1 s" in last.reason

    answer(probe, codec.stamp_s(heard["joint_states"][-1].header.stamp))  # commands do not wake a latched driver
    count = len(heard["sim_state"])
    until(lambda: len(heard["sim_state"]) > count + 3)
    assert heard["driver_state"][-1].state == SafetyState.DAMPING
    assert probe.call("driver_rearm").success
    until(lambda: heard["driver_state"][-1].state == SafetyState.WAITING, 2.0)
    assert probe.call("sim_reset").success
    until(lambda: abs(heard["sim_state"][-1].qpos[2] - ROBOT.default_stance_height_m) < 0.02, 2.0, "the gantry to lift the robot")

    probe.send("joint_command", codec.joint_command_msg(damping_command(ROBOT, 0.0, ROBOT.default_q), ROBOT.joint_names))
    count = len(heard["sim_state"])
    until(lambda: len(heard["sim_state"]) > count + 3)
    assert heard["driver_state"][-1].state == SafetyState.WAITING, "a command that only damps does not let the robot down"

    assert sim.trigger_deactivate() is TransitionCallbackReturn.SUCCESS
    assert heard["robot_description"][0].data.startswith("<") and "pelvis" in heard["robot_description"][0].data
    assert heard["clock"] and not sim._thread.is_alive()


def test_the_drivers_latch_outlives_every_transition_of_the_simulator(graph, probe):
    sim, heard = up(graph, SimNode, scene="empty"), probe.heard
    until(lambda: heard["joint_states"] and heard["driver_state"])
    answer(probe, codec.stamp_s(heard["joint_states"][-1].header.stamp))
    until(lambda: heard["driver_state"][-1].state == SafetyState.DAMPING, 5.0, "damping")
    for transitions in (("deactivate", "activate"), ("deactivate", "cleanup", "configure", "activate")):
        for transition in transitions:
            assert getattr(sim, f"trigger_{transition}")() is TransitionCallbackReturn.SUCCESS
        heard["driver_state"].clear()
        until(lambda: heard["driver_state"], 5.0)
        assert heard["driver_state"][-1].state == SafetyState.DAMPING and "no JointCommand" in heard["driver_state"][-1].reason
    assert probe.call("driver_rearm").success
    until(lambda: heard["driver_state"][-1].state == SafetyState.WAITING, 5.0)


def test_a_machine_that_stood_still_for_ten_seconds_is_not_taken_for_a_silent_lmo(graph, probe, monkeypatch):
    up(graph, SimNode, scene="empty")
    heard = probe.heard
    until(lambda: heard["joint_states"])
    jump_s = 0.0
    monkeypatch.setattr(sim_node, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + jump_s, time_ns=time.time_ns, sleep=time.sleep))
    answer(probe, codec.stamp_s(heard["joint_states"][-1].header.stamp))

    def asked() -> int:  # how often the driver has sent the state that nobody answered
        return max(Counter(codec.stamp_ns(m.header.stamp) for m in heard["joint_states"]).values())

    until(lambda: asked() >= 2)
    jump_s = 10.0  # seen from here the simulator slept through ten seconds in its first wait or its second
    until(lambda: heard["driver_state"][-1].state == SafetyState.DAMPING, 2.0)
    assert asked() >= 4, "0.1 s are five waits of 0.02 s: the state is sent once and four times again, less one that may have been lost"


def test_a_command_for_other_joints_is_dropped_and_does_not_start_the_robot(graph, probe):
    sim = up(graph, SimNode, scene="empty")
    until(lambda: probe.heard["joint_states"])
    msg = codec.joint_command_msg(damping_command(ROBOT, 0.0, ROBOT.default_q), ROBOT.joint_names)
    msg.name = list(ROBOT.joint_names[::-1])
    probe.send("joint_command", msg)
    until(lambda: sim.dropped == 1, 2.0)
    count = len(probe.heard["sim_state"])
    until(lambda: len(probe.heard["sim_state"]) > count + 3)
    assert probe.heard["driver_state"][-1].state == SafetyState.WAITING


def test_joint_states_and_imu_of_one_instant_have_one_stamp_and_agree_with_the_truth(graph, probe):
    up(graph, SimNode, scene="empty")
    heard = probe.heard
    until(lambda: len(heard["sim_state"]) > 5 and len(heard["imu"]) > 5)
    by_stamp = {codec.stamp_ns(m.header.stamp): m for m in heard["imu"]}
    truth = {codec.stamp_ns(m.header.stamp): m for m in heard["sim_state"]}
    common = [m for m in heard["joint_states"] if codec.stamp_ns(m.header.stamp) in by_stamp.keys() & truth.keys()]
    assert len(common) >= 3
    for msg in common:
        stamp = codec.stamp_ns(msg.header.stamp)
        o = by_stamp[stamp].orientation
        quat = np.array((o.w, o.x, o.y, o.z))
        want = np.array(truth[stamp].qpos[3:7])
        assert min(np.abs(quat - want).max(), np.abs(quat + want).max()) < 1e-9


def test_a_scene_that_does_not_exist_is_refused_at_configure(graph, capfd):
    sim = graph.add(SimNode(context=graph.context, parameter_overrides=[Parameter("scene", value="moon")]))
    assert sim.trigger_configure() is TransitionCallbackReturn.FAILURE
    text = capfd.readouterr().err
    assert "moon" in text and "walk_to" in text and "Traceback" not in text


def test_a_transition_that_the_node_does_not_have_is_answered_with_failure(graph, probe):
    from lifecycle_msgs.srv import ChangeState

    up(graph, PerceptionNode)
    client = probe.create_client(ChangeState, "/perception/change_state")
    assert client.wait_for_service(5.0)
    request = ChangeState.Request()
    request.transition.id = 1  # configure, of an active node
    future = client.call_async(request)
    until(future.done, 3.0)
    assert future.result().success is False


def test_camera_and_policy_images_keep_the_stamp_of_the_state_that_they_show(graph, probe):
    up(graph, RenderNode)
    up(graph, PerceptionNode)
    up(graph, SimNode)
    heard = probe.heard
    until(lambda: len(heard["policy_image"]) >= 3, 30.0, "policy images")
    state_ns = codec.stamp_ns(heard["sim_state"][0].header.stamp)
    cameras = {codec.stamp_ns(m.header.stamp): m for m in heard["camera_image"]}
    assert all((stamp_ns - state_ns) % 20_000_000 == 0 for stamp_ns in cameras)  # a stamp of a slot's state, no time of rendering
    steps_ms = stamps_ms(heard["camera_image"])
    assert steps_ms.sum() >= 100.0 * len(steps_ms) - 20.0 and not np.any(steps_ms % 20.0)  # at most 10 Hz, on the stamps of states; a busy machine may skip
    spec = ImageSpec(source_width=ROBOT.camera.width, source_height=ROBOT.camera.height, fovy_deg=ROBOT.camera.fovy_deg)
    for msg in heard["policy_image"]:
        camera = codec.image_from_msg(cameras[codec.stamp_ns(msg.header.stamp)])
        assert camera.std() > 5.0  # a room, not a grey wall
        np.testing.assert_array_equal(codec.image_from_msg(msg), policy_image(camera, spec))
    info = heard["camera_info"][-1]
    assert (info.width, info.height) == (ROBOT.camera.width, ROBOT.camera.height)


def test_camera_images_of_another_size_or_encoding_are_dropped_counted_and_logged_once(graph, probe, capfd):
    perception = up(graph, PerceptionNode)
    good = np.random.default_rng(0).integers(0, 255, (ROBOT.camera.height, ROBOT.camera.width, 3), dtype=np.uint8)
    wrong = codec.image_msg(good[:100], 1.0, "head_camera")
    other = codec.image_msg(good, 2.0, "head_camera")
    other.encoding = "mono24"
    for count, msg in enumerate((wrong, other, wrong), 1):
        probe.send("camera_image", msg)
        until(lambda count=count: perception.dropped == count, 2.0)
    probe.send("camera_image", codec.image_msg(good, 3.0, "head_camera"))
    until(lambda: probe.heard["policy_image"], 2.0)
    assert [codec.stamp_s(m.header.stamp) for m in probe.heard["policy_image"]] == [3.0]
    text = capfd.readouterr().err
    assert text.count("message dropped") == 1 and "320x100" in text and "recovered after 3" in text

"""The base of all nodes: parameters that are read once, names that are misspelt, what diagnostics say and by which clock, the end of a process."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run `make setup`")

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from rcl_interfaces.srv import SetParameters  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402

from wbvla_cli.record_node import RecordNode  # noqa: E402
from wbvla_core.ros import codec, lifecycle  # noqa: E402
from wbvla_core.ros.health import Health, Level  # noqa: E402
from wbvla_core.ros.lifecycle import ManagedNode, leaving_rank  # noqa: E402
from wbvla_core.ros.tables import node_table  # noqa: E402
from wbvla_msgs.msg import SafetyState  # noqa: E402
from wbvla_perception.node import PerceptionNode  # noqa: E402

from .conftest import ROOT, until  # noqa: E402
from .fakes import HoldLmo, Probe  # noqa: E402

OK, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class Worker(ManagedNode):
    """A node that says what the test wants to hear."""

    NAME = "worker"
    PARAMETERS = {"speed": lifecycle.Parameter(1, "how fast", 0, 10), "name": lifecycle.Parameter("x", "who")}
    DIAGNOSTICS_PERIOD_S = 0.05
    report = Health({"load_ms": 2.0})

    def health(self) -> Health:
        return self.report


def make(graph, kind=Worker, **parameters):
    return graph.add(kind(context=graph.context, parameter_overrides=[Parameter(name, value=value) for name, value in parameters.items()]))


def set_by_service(graph, probe, node, name: str, value):
    """As `ros2 param set` does it: through the node's service."""
    client = probe.create_client(SetParameters, f"/{node.get_name()}/set_parameters")
    assert client.wait_for_service(5.0)
    future = client.call_async(SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()]))
    until(future.done, 5.0, "an answer")
    return future.result().results[0]


# -- parameters ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [Worker, HoldLmo, PerceptionNode, RecordNode], ids=lambda kind: kind.NAME)
def test_a_parameter_is_set_while_unconfigured_and_refused_with_a_reason_from_configure_until_cleanup(graph, tmp_path, kind):
    node, probe = make(graph, kind, **({"output": str(tmp_path / "bag")} if kind is RecordNode else {})), graph.add(Probe(graph.context))
    name, value = {"worker": ("speed", 3), "lmo": ("max_tilt_rad", 0.3), "perception": ("size", 64), "record": ("min_free_mb", 200)}[kind.NAME]
    assert set_by_service(graph, probe, node, name, value).successful
    assert node.trigger_configure() is OK and node.settings[name] == value
    for stage in ("inactive", "active"):
        answer = set_by_service(graph, probe, node, name, value + 1)
        assert not answer.successful and f"{kind.NAME} is {stage}" in answer.reason and name in answer.reason and "clean up" in answer.reason
        assert node.get_parameter(name).value == value, "nothing was changed, and nothing pretends to be"
        assert stage == "active" or node.trigger_activate() is OK
    assert set_by_service(graph, probe, node, "use_sim_time", False).successful, "what the middleware itself applies is not refused"
    assert node.trigger_deactivate() is OK and node.trigger_cleanup() is OK
    assert set_by_service(graph, probe, node, name, value + 1).successful


def test_every_process_of_the_table_has_this_base_and_none_goes_round_it():
    for row in node_table().nodes:
        module = importlib.import_module(row.module)
        node = next(kind for kind in vars(module).values() if getattr(kind, "NAME", None) == row.name)
        assert issubclass(node, ManagedNode)
        for name in ("_refuse_late_parameters", "_refuse_misspelt", "on_configure", "_report"):
            assert getattr(node, name) is getattr(ManagedNode, name), (row.name, name)


def test_a_node_that_was_refused_can_be_set_right_and_configured(graph):
    node, probe = make(graph, HoldLmo, robot="nowhere"), graph.add(Probe(graph.context))
    assert node.trigger_configure() is FAILURE
    assert set_by_service(graph, probe, node, "robot", "x2").successful
    assert node.trigger_configure() is OK


def test_a_misspelt_parameter_is_refused_at_configure_with_the_nearest_right_one(graph, capfd):
    node = make(graph, sped=3)
    assert node.trigger_configure() is FAILURE
    text = capfd.readouterr().err
    assert "worker has no parameter 'sped'; is 'speed' meant?" in text and "Traceback" not in text


def process(*arguments: str, module: str = "wbvla_perception.node") -> subprocess.Popen:
    command = [sys.executable, "-m", "wbvla_core.start", module, "--ros-args", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("perception: [", "cannot be read"),
        ("perception:\n  ros_parameters:\n    size: 96\n", "expected is `node: ros__parameters"),
        ("perception:\n  ros__parameters:\n    size: big\n", "size"),
        (None, "does not exist"),
    ],
    ids=["no yaml", "no ros__parameters", "another type", "not there"],
)
def test_a_parameter_file_that_ros_refuses_is_one_sentence_with_the_file(tmp_path, content, expected):
    file = tmp_path / "mine.yaml"
    if content is not None:
        file.write_text(content)
    running = process("--params-file", str(file))
    text, _ = running.communicate(timeout=60)
    assert running.returncode == 2
    sentence = text.strip().splitlines()[-1]  # before it rcl says that it cannot parse the arguments
    assert sentence.startswith("perception: ") and expected in sentence and "Traceback" not in text, text
    assert expected == "size" or "mine.yaml" in sentence


# -- diagnostics -----------------------------------------------------------------------------------------------------------------
def test_diagnostics_tell_how_it_is_by_level(graph):
    node, probe = make(graph), graph.add(Probe(graph.context))
    probe.hear("diagnostics")
    heard = probe.heard["diagnostics"]
    assert node.trigger_configure() is OK and node.trigger_activate() is OK

    def said(level: bytes):
        until(lambda: heard and heard[-1].status[0].level == level, 5.0, f"level {level}")
        return heard[-1].status[0].message

    assert said(DiagnosticStatus.OK) == "ok"
    for level, named in ((Level.WARN, DiagnosticStatus.WARN), (Level.ERROR, DiagnosticStatus.ERROR), (Level.STALE, DiagnosticStatus.STALE)):
        node.report = Health({}, level, level.name)
        assert said(named) == level.name
    node.report = Health()
    said(DiagnosticStatus.OK)
    heard.clear()
    node.refuse("/some/topic", ValueError("no such thing"))
    until(lambda: any(m.status[0].level == DiagnosticStatus.WARN and "dropped" in m.status[0].message for m in heard), 5.0, "a dropped message to be told")
    assert said(DiagnosticStatus.OK) == "ok", "it is told once, and the count stays"
    assert {v.key: v.value for v in heard[-1].status[0].values}["dropped_messages"] == "1"


def test_a_damping_lmo_is_an_error_and_one_that_hears_no_robot_is_stale(graph):
    lmo = make(graph, HoldLmo)
    assert lmo.trigger_configure() is OK and lmo.trigger_activate() is OK
    assert lmo.health().level is Level.OK  # it may take a second until the robot is heard
    lmo.heard._since_s -= 2.0
    assert (lmo.health().level, lmo.health().message) == (Level.STALE, "no joint states yet")
    for key in ("joint_states", "imu"):
        lmo.heard.note(key)
    assert lmo.health().level is Level.OK
    lmo.heard._at_s["imu"] -= 3.2
    assert (lmo.health().level, lmo.health().message) == (Level.STALE, "no IMU samples for 3 s")
    lmo._heed_driver(SafetyState(state=SafetyState.DAMPING, reason="no JointCommand for 0.1 s", header=codec.joint_state_msg((), 5.0, (), ()).header))
    assert lmo.health().level is Level.ERROR and "no JointCommand" in lmo.health().message and "wbvla rearm" in lmo.health().message


def test_a_camera_whose_images_are_refused_is_an_error_and_a_missing_one_is_stale(graph):
    import numpy as np

    node, probe = make(graph, PerceptionNode), graph.add(Probe(graph.context))
    assert node.trigger_configure() is OK and node.trigger_activate() is OK
    node.heard._since_s -= 2.0
    assert (node.health().level, node.health().message) == (Level.STALE, "no usable camera image yet")
    probe.send("camera_image", codec.image_msg(np.zeros((8, 8, 3), np.uint8), 1.0, "x"))
    until(lambda: node.dropped == 1, 5.0)
    assert node.health().level is Level.ERROR and "refused" in node.health().message


def test_stamps_are_the_nodes_clock_and_the_watching_goes_on_where_that_clock_stands_still(graph):
    node, probe = make(graph, use_sim_time=True), graph.add(Probe(graph.context))
    probe.hear("diagnostics")
    heard = probe.heard["diagnostics"]
    assert node.trigger_configure() is OK and node.trigger_activate() is OK
    until(lambda: len(heard) > 2, 5.0, "diagnostics although no clock ticks")
    assert codec.stamp_s(heard[-1].header.stamp) == 0.0  # no /clock yet, and no wall time in its place
    probe.send("clock", Clock(clock=codec.stamp_msg(1234.5)))
    until(lambda: codec.stamp_s(heard[-1].header.stamp) == 1234.5, 5.0, "the simulator's time")
    count = len(heard)
    until(lambda: len(heard) > count + 2, 5.0, "diagnostics while the simulator's clock stands still")


# -- the end of a process --------------------------------------------------------------------------------------------------------
def test_the_vla_leaves_first_and_lmo_before_what_stands_in_for_the_robot():
    ranks = [leaving_rank(name) for name in ("vla", "lmo", "sim", "record")]
    assert ranks == sorted(set(ranks)) and ranks[0] == 0
    assert ranks[-1] * lifecycle.LEAVING_STEP_S < 1.0, "all of them between launch's SIGTERM and its SIGKILL"


SLOW = """
import time
from wbvla_core.ros.lifecycle import ManagedNode, run_node

class Slow(ManagedNode):
    NAME = "vla"

    def __init__(self, **options):
        super().__init__(**options)
        self.create_timer(0.01, self.trigger_configure)  # as the manager's request does it, without the time to find each other

    def load(self):
        print("loading", flush=True)
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                pass

    def unload(self):
        print("unloaded", flush=True)

run_node(Slow)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("managed", ["0", "1"], ids=["alone", "under launch"])
def test_a_node_that_still_loads_leaves_at_once_cleans_up_and_prints_no_traceback(tmp_path, number, managed):
    (tmp_path / "slow_node.py").write_text(SLOW)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT))), "WBVLA_MANAGED": managed}
    command = [sys.executable, "slow_node.py"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        try:
            assert running.stdout.readline() == "loading\n"
            running.send_signal(number)
            text = running.communicate(timeout=60)[0]  # it never ends by itself
        finally:
            running.kill()
    assert running.returncode == 0 and text == "unloaded\n"

"""Launch arguments reach the nodes: through ROS's own reader of parameter files, and through ROS launch where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run `make setup`")

import rclpy  # noqa: E402
from rcl_interfaces.srv import GetParameters  # noqa: E402
from rclpy.parameter import parameter_value_to_python  # noqa: E402

from wbvla_core.ros.parameters import file_text, final_parameters, is_for  # noqa: E402
from wbvla_core.ros.tables import node_table  # noqa: E402

from .conftest import ROOT, RUNNER_DOMAIN, until  # noqa: E402

PATTERNS = ("lmo", "/lmo", "/**", "/*", "/**/lmo", "/*/lmo", "a/lmo", "/a/lmo", "/a/*", "/a/**", "/b/**", "sim", "/**/sim")
EXPECTED_S = 60.0  # a busy machine takes long to start a dozen processes; nothing here is measured by it


def overrides(name: str, file: Path, namespace: str = "") -> dict:
    """What ROS itself reads from a parameter file for a node."""
    context = rclpy.Context()
    rclpy.init(context=context, args=["--ros-args", "--params-file", str(file)])
    try:
        node = rclpy.create_node(name, context=context, namespace=namespace, automatically_declare_parameters_from_overrides=True)
        found = {key: parameter.value for key, parameter in node.get_parameters_by_prefix("").items()}
        node.destroy_node()
    finally:
        context.try_shutdown()
    return found


@pytest.mark.parametrize("namespace", ["", "/a"])
def test_our_reading_of_section_names_is_that_of_ros(tmp_path, namespace):
    file = tmp_path / "f.yaml"
    file.write_text("".join(f"{pattern}:\n  ros__parameters:\n    p{i}: 1\n" for i, pattern in enumerate(PATTERNS)))
    heard = {name for name in overrides("lmo", file, namespace) if name.startswith("p")}
    assert heard == {f"p{i}" for i, pattern in enumerate(PATTERNS) if is_for(pattern, f"{namespace}/lmo")}


def test_ros_reads_what_was_given_at_launch_with_its_type_whatever_the_files_say(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("sim: {ros__parameters: {seed: 5, scene: room, state_delay_s: 1e-3}}\n/**: {ros__parameters: {seed: 6, robot: x2_v140}}\n")
    made = final_parameters(("sim",), [node_table().parameter_file, mine], {"sim": {"seed": 3, "sensor_noise": True, "scene": "on"}})
    written = tmp_path / "sim.yaml"
    written.write_text(file_text("sim", made["sim"]))
    found = overrides("sim", written)
    want = {"seed": 3, "sensor_noise": True, "scene": "on", "robot": "x2_v140", "state_delay_s": 0.001, "publish_clock": False}
    assert {name: found[name] for name in want} == want
    assert all(type(found[name]) is type(value) for name, value in want.items())


# -- with ROS launch -------------------------------------------------------------------------------------------------------------


class Launched:
    """`ros2 launch` of one of our files, from this checkout."""

    def __init__(self, folder: Path, file: str, *arguments: str, programs: tuple[str, ...] = ()) -> None:
        prefix = folder / "prefix"
        (prefix / "share" / "ament_index" / "resource_index" / "packages").mkdir(parents=True, exist_ok=True)
        (prefix / "share" / "ament_index" / "resource_index" / "packages" / "wbvla").touch()
        (prefix / "lib" / "wbvla").mkdir(parents=True, exist_ok=True)
        for package in programs:  # stands in for a program of an installed ROS 2: says what it was started with and stays
            (prefix / "share" / "ament_index" / "resource_index" / "packages" / package).touch()
            (prefix / "lib" / package).mkdir(parents=True, exist_ok=True)
            (prefix / "lib" / package / package).write_text(f'#!/bin/sh\necho "$@" > {folder}/{package}.arguments\nexec sleep 600\n')
            (prefix / "lib" / package / package).chmod(0o755)
        modules = {row.executable: row.module for row in node_table().nodes} | {"lifecycle_manager": "wbvla_core.ros.manager"}
        for executable, module in modules.items():
            script = prefix / "lib" / "wbvla" / executable
            script.write_text(f"#!{sys.executable}\nfrom {module} import main\nmain()\n")
            script.chmod(0o755)
        paths = {"AMENT_PREFIX_PATH": str(prefix), "PYTHONPATH": str(ROOT)}
        environment = os.environ | {name: f"{value}:{os.environ.get(name, '')}" for name, value in paths.items()}
        environment |= {"ROS_DOMAIN_ID": str(RUNNER_DOMAIN), "ROS_LOG_DIR": str(folder / "log")}
        self.log = folder / "launch.log"
        with self.log.open("wb") as log:
            command = [shutil.which("ros2"), "launch", str(ROOT / "launch" / file), *arguments]
            self.process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20.0)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def launched(tmp_path):
    pytest.importorskip("launch_ros", reason="needs ROS launch, which an installed ROS 2 has and the wheels lack")
    if shutil.which("ros2") is None:
        pytest.skip("needs the command ros2, which an installed ROS 2 has and the wheels lack")
    running: list[Launched] = []

    def start(file: str, *arguments: str, programs: tuple[str, ...] = ()) -> Launched:
        running.append(Launched(tmp_path, file, *arguments, programs=programs))
        return running[-1]

    yield start
    for one in running:
        one.close()


def ask(node: str, *names: str) -> dict:
    """Parameters of a node of the launched stack."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=RUNNER_DOMAIN)
    try:
        here = rclpy.create_node(f"asks_{os.getpid()}", context=context)
        client = here.create_client(GetParameters, f"/{node}/get_parameters")
        until(client.service_is_ready, EXPECTED_S, f"{node} is there")
        executor = rclpy.executors.SingleThreadedExecutor(context=context)
        future = client.call_async(GetParameters.Request(names=names))
        executor.add_node(here)
        executor.spin_until_future_complete(future, timeout_sec=EXPECTED_S)
        executor.shutdown()
        here.destroy_node()
        return dict(zip(names, map(parameter_value_to_python, future.result().values), strict=True))
    finally:
        context.try_shutdown()


@pytest.mark.parametrize(("given", "ramp_s"), [((), 2.0), (("start_ramp_s:=9.0",), 9.0)])
def test_launch_gives_the_robot_its_ramp_of_the_gains(launched, given, ramp_s):
    launched("robot.launch.py", "log_level:=warn", *given)
    assert ask("lmo", "start_ramp_s", "state_timeout_s") == {"start_ramp_s": ramp_s, "state_timeout_s": 0.1}


def test_launch_records_into_the_folder_that_was_given(launched, tmp_path):
    running = launched("record.launch.py", f"bag:={tmp_path / 'monday'}", "use_sim_time:=true")
    assert ask("record", "output", "session", "use_sim_time") == {"output": str(tmp_path / "monday"), "session": "", "use_sim_time": True}
    until(lambda: "record: activated" in running.text, EXPECTED_S, "the recorder is up")
    running.close()
    assert (tmp_path / "monday" / "metadata.yaml").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("robot:=nosuch",), "no robot 'nosuch'; there are x2, x2_v140"),
        (("log_level:=loud",), "must be one of debug, info"),
        (("start_ramp_s:=-1",), "out of range"),
    ],
)
def test_launch_refuses_what_cannot_be_meant_in_one_sentence_and_ends(launched, arguments, said):
    running = launched("robot.launch.py", *arguments)
    running.process.wait(EXPECTED_S)
    assert said in running.text and "Traceback" not in running.text


def test_a_bring_up_that_fails_ends_the_launch_with_all_its_nodes(launched, tmp_path):
    (tmp_path / "p.yaml").write_text("lmo: {ros__parameters: {checkpoint: checkpoints/lmo/nosuch}}\n")
    running = launched("robot.launch.py", f"parameters:={tmp_path / 'p.yaml'}")
    running.process.wait(EXPECTED_S)
    assert "lmo refused to configure" in running.text and "the stack stops" in running.text


def test_rviz_that_is_not_installed_is_a_sentence_and_the_stack_runs(launched, tmp_path):
    if shutil.which("rviz2"):
        pytest.skip("rviz2 is installed here")
    (tmp_path / "p.yaml").write_text("vla: {ros__parameters: {policy: zero}}\n")
    running = launched("workstation.launch.py", "rviz:=true", f"parameters:={tmp_path / 'p.yaml'}")
    until(lambda: "vla: activated" in running.text, EXPECTED_S, "the workstation's nodes are up")
    assert "rviz2 and robot_state_publisher cannot be found: the stack runs without rviz" in running.text


def test_rviz_gets_the_urdf_of_the_robot_that_runs_and_the_joint_states_of_the_stack(launched, tmp_path):
    both = ("rviz2", "robot_state_publisher")
    launched("workstation.launch.py", "robot:=x2_v140", "rviz:=true", "use_sim_time:=true", programs=both)
    until(lambda: all((tmp_path / f"{program}.arguments").is_file() for program in both), EXPECTED_S, "both are started")
    arguments = (tmp_path / "robot_state_publisher.arguments").read_text().split()
    assert "joint_states:=/wbvla/robot/joint_states" in arguments and "robot_description:=/wbvla/rviz/robot_description" in arguments
    (file,) = [after for before, after in zip(arguments, arguments[1:], strict=False) if before == "--params-file"]
    found = overrides("robot_state_publisher", Path(file))
    assert ET.fromstring(found["robot_description"]).get("name") == "x2_v140" and found["use_sim_time"] is True
    assert "config/rviz/wbvla.rviz" in (tmp_path / "rviz2.arguments").read_text()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_a_launch_that_is_killed_leaves_no_process_behind(launched, number):
    running = launched("robot.launch.py")
    until(lambda: "lmo: activated" in running.text, EXPECTED_S, "the stack is up")
    started = [int(number) for number in re.findall(r"process started with pid \[(\d+)\]", running.text)]
    assert len(started) == 2  # lmo and the manager
    running.process.send_signal(number)
    running.process.wait(20.0)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), 20.0, "both are gone")

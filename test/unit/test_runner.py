"""The runner's parts that need no ROS: parameters from the command line, the environment of the processes, exit statuses in words."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from wbvla_cli import runner
from wbvla_cli.runner import ProcessLost, Stack, StackError, describe, parse_overrides, ros_environment
from wbvla_core.ros import domains, parameters
from wbvla_core.ros.process import PARENT_VARIABLE
from wbvla_core.ros.tables import NodeEntry, NodeTable, node_table


def test_overrides_are_node_parameter_and_yaml_value():
    assert parse_overrides(["sim.seed=3", "vla.policy=zero", "sim.sensor_noise=true", "render.rate_hz=10.0"]) == {
        "sim": {"seed": 3, "sensor_noise": True},
        "vla": {"policy": "zero"},
        "render": {"rate_hz": 10.0},
    }


@pytest.mark.parametrize("text", ["seed=3", "sim.seed", "sim.=3", ".seed=3", "sim"])
def test_an_override_of_another_form_is_refused_with_what_it_was(text):
    with pytest.raises(StackError, match="node.parameter=value"):
        parse_overrides([text])


def test_parameters_for_a_node_that_the_stack_does_not_have_are_refused_with_those_that_it_has():
    with pytest.raises(StackError, match=r"\['simulator'\].*'lmo'"):
        Stack(("sim",), parameters={"simulator": {"seed": 3}})


def test_processes_stay_on_this_machine_and_know_their_parent_and_what_is_set_stays(monkeypatch):
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE", "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_DISTRO"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ROS_DOMAIN_ID", "5")
    environment = ros_environment()
    assert environment["FASTRTPS_DEFAULT_PROFILES_FILE"].endswith("config/fastdds.xml")
    assert environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert environment[PARENT_VARIABLE] == str(os.getpid())
    assert environment["ROS_DOMAIN_ID"] == "5" and ros_environment(7)["ROS_DOMAIN_ID"] == "7"
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    assert ros_environment()["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SUBNET"
    monkeypatch.setenv("ROS_DISTRO", "humble")
    assert ros_environment()["ROS_LOCALHOST_ONLY"] == "1"


def test_the_motor_loop_never_shares_memory_with_readers_that_may_sleep_and_a_chosen_profile_stays():
    variable, range_ = "FASTRTPS_DEFAULT_PROFILES_FILE", "ROS_AUTOMATIC_DISCOVERY_RANGE"
    for row in node_table().launch("sim", "record"):
        loop = row.name in ("sim", "lmo")
        for environment in ({range_: "LOCALHOST"}, {range_: "SUBNET"}, {"ROS_LOCALHOST_ONLY": "1"}):
            own = row.dds_environment(environment)
            profile = Path(own[variable]).read_text()
            assert ("<type>SHM</type>" in profile) == (not loop)
            # restricted to this machine by the profile where the variable no longer does it, and only there
            here_only = loop and environment != {range_: "SUBNET"}
            assert ("<address>127.0.0.1</address>" in profile) == here_only
            assert {**environment, **own}.get(range_, "SYSTEM_DEFAULT") == ("SYSTEM_DEFAULT" if here_only else environment.get(range_, "SYSTEM_DEFAULT"))
        chosen = {variable: "/etc/mine.xml", "FASTDDS_DEFAULT_PROFILES_FILE": "/etc/mine.xml", range_: "LOCALHOST"}
        assert row.dds_environment(chosen) == {}


def test_exit_statuses_are_told_in_words():
    assert describe(-9) == "killed by SIGKILL"
    assert describe(2) == "exit status 2"


def row(name: str, code: str, tmp_path: Path) -> NodeEntry:
    (tmp_path / f"{name}_program.py").write_text(code)
    return NodeEntry(name=name, module=f"{name}_program", executable="x", order=0, launches=("sim",))


def started(tmp_path: Path, monkeypatch, programs: dict[str, str], **options) -> Stack:
    """A stack of these programs in place of nodes."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    table = NodeTable("config/params/stack.yaml", tuple(row(name, code, tmp_path) for name, code in programs.items()))
    for module in (runner, parameters):
        monkeypatch.setattr(module, "node_table", lambda: table)
    stack = Stack(("sim",), log_dir=tmp_path / "logs", domain_id=209, **options)
    stack.start()
    return stack


def wait_for(condition, timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_process_that_ends_by_itself_is_named_with_how_and_its_last_words_outlive_it(tmp_path, monkeypatch):
    said: list[str] = []
    programs = {"vla": "def main():\n    print('ERROR: no eyes')\n    raise SystemExit(3)", "record": "def main(): raise SystemExit(1)"}
    stack = started(tmp_path, monkeypatch, programs, say=said.append)
    try:
        assert 209 in domains.running()
        wait_for(lambda: len(stack.dead()) == 2)
        with pytest.raises(ProcessLost, match=r"^vla \(exit status 3\) ended") as lost:
            stack.require()  # a task goes on without the recorder
        assert lost.value.names == ("vla",)
    finally:
        stack.stop()
    assert (stack.ended("vla"), stack.ended("lmo"), stack.last_lines("vla")) == ("exit status 3", "", ["ERROR: no eyes"])
    assert 209 not in domains.running()
    strict = started(tmp_path, monkeypatch, programs, say=said.append, aside=())
    wait_for(lambda: len(strict.dead()) == 2)
    with pytest.raises(ProcessLost, match="record"):
        strict.require()
    strict.stop()


def test_a_full_disk_ends_the_log_and_not_the_process_that_writes_it(tmp_path, monkeypatch):
    """A process whose output nobody takes stands still as soon as the pipe is full."""
    said: list[str] = []
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "vla.log").symlink_to("/dev/full")
    lines = "def main():\n    for i in range(3000): print('line', i, 'x' * 60)"
    stack = started(tmp_path, monkeypatch, {"vla": lines}, say=said.append)
    try:
        wait_for(lambda: stack.dead() == ["vla"])
    finally:
        stack.stop()
    assert stack.ended("vla") == "exit status 0" and stack.last_lines("vla")[-1].startswith("line 2999")
    assert sum("No space left" in line for line in said) == 1


@pytest.mark.parametrize("ended", [False, True])
def test_a_stack_leaves_its_temporary_folder_only_where_somebody_was_told_to_look_there(monkeypatch, ended):
    monkeypatch.setattr(Stack, "start", lambda self: None)
    with Stack(("sim",)) as stack:
        stack._folder.mkdir(exist_ok=True)
        stack._ended = {"vla": "killed"} if ended else {}
    assert stack._folder.exists() is ended
    shutil.rmtree(stack._folder, ignore_errors=True)

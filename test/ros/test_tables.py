"""The tables, the documents and the parameter files say the same thing."""

from __future__ import annotations

import importlib
import re
import runpy

import pytest
import yaml

from wbvla_core.ros.tables import NodeTable, node_table, share_dir, topic_table

ROOT = share_dir()


def rows_of(page: str, heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, back-ticks removed."""
    section = page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_page_of_topics_is_the_table():
    table, page = topic_table(), (ROOT / "docs" / "topics.md").read_text()
    assert rows_of(page, "Topics") == [[t.name, t.type, f"{t.rate_hz:g}", t.profile, t.owner, t.units] for t in table.topics.values()]
    assert [row[:4] for row in rows_of(page, "QoS profiles")] == [[n, p.reliability, p.durability, str(p.depth)] for n, p in table.profiles.items()]
    assert [row[:3] for row in rows_of(page, "Services")] == [[s.name, s.type, s.owner] for s in table.services.values()]
    assert [row[:3] for row in rows_of(page, "Actions")] == [[a.name, a.type, a.owner] for a in table.actions.values()]


def test_the_map_names_every_process_and_its_file():
    page = (ROOT / "docs" / "map.md").read_text()
    assert {(row[0], row[1]) for row in rows_of(page, "Processes")} == {(row.name, row.module.replace(".", "/") + ".py") for row in node_table().nodes}


def test_no_node_names_a_topic_beside_the_table():
    """A topic's name in code would be a second place that decides it."""
    for row in node_table().nodes:
        text = (ROOT / (row.module.replace(".", "/") + ".py")).read_text()
        assert not re.findall(r'"/wbvla/[\w/]+"', text), row.module


def test_rviz_shows_topics_of_the_table_in_a_frame_of_the_urdf():
    from wbvla_core.robot import BASE_LINK
    from wbvla_core.ros.launching import RVIZ_DESCRIPTION

    view = yaml.safe_load((ROOT / "config" / "rviz" / "wbvla.rviz").read_text())["Visualization Manager"]
    shown = {display[key]["Value"] for display in view["Displays"] for key in ("Topic", "Description Topic") if key in display}
    assert view["Global Options"]["Fixed Frame"] == BASE_LINK
    assert RVIZ_DESCRIPTION in shown and shown - {RVIZ_DESCRIPTION} <= {topic.name for topic in topic_table().topics.values()}


def test_start_order_puts_the_motors_before_those_who_command_them():
    names = [row.name for row in node_table().launch("sim", "record")]
    assert names == ["record", "sim", "lmo", "render", "perception", "vla"]
    assert [row.name for row in node_table().launch("robot")] == ["lmo"]
    assert [row.name for row in node_table().launch("workstation")] == ["perception", "vla"]
    with pytest.raises(ValueError, match="sim"):
        node_table().launch("moon")


def test_a_table_with_one_name_twice_is_refused(tmp_path, monkeypatch):
    from wbvla_core.ros import tables

    (tmp_path / "config").mkdir()
    row = {"name": "lmo", "module": "m", "executable": "e", "order": 0, "launches": ["robot"]}
    (tmp_path / "config" / "nodes.yaml").write_text(yaml.safe_dump({"parameters": "p", "nodes": [row, row]}))
    monkeypatch.setattr(tables, "share_dir", lambda: tmp_path)
    with pytest.raises(ValueError, match="unique"):
        tables.node_table.__wrapped__()
    assert isinstance(node_table(), NodeTable)


def test_every_launch_group_has_a_launch_file_and_no_file_a_group_of_its_own():
    files = {path.name.removesuffix(".launch.py") for path in (ROOT / "launch").glob("*.launch.py")}
    assert files == {"sim", "robot", "workstation", "demo", "record", "teleop"}
    for name in files:
        node_table().launch(*runpy.run_path(str(ROOT / "launch" / f"{name}.launch.py"))["GROUPS"])


def test_every_parameter_in_the_file_is_declared_by_its_node():
    """rclpy ignores undeclared parameters of a file in silence: a typing mistake there would change nothing and say nothing."""
    pytest.importorskip("rclpy", reason="needs ROS 2: run `make setup`")
    file = yaml.safe_load(node_table().parameter_file.read_text())
    assert set(file) == {row.name for row in node_table().nodes}
    for row in node_table().nodes:
        module = importlib.import_module(row.module)
        node = next(kind for kind in vars(module).values() if getattr(kind, "NAME", None) == row.name)
        declared = node.PARAMETERS
        for name, value in file[row.name]["ros__parameters"].items():
            assert name in declared, f"{row.name}.{name} is not declared; declared are {sorted(declared)}"
            assert type(value) is type(declared[name].default), f"{row.name}.{name}"
        for name, parameter in declared.items():
            assert len(parameter.description) > 10, f"{row.name}.{name}"
            assert isinstance(parameter.default, (bool, str)) or (parameter.low <= parameter.default <= parameter.high), f"{row.name}.{name} has no range"


def test_defaults_of_a_launch_group_are_declared_parameters_within_their_range():
    pytest.importorskip("rclpy", reason="needs ROS 2: run `make setup`")
    for row in node_table().nodes:
        node = next(kind for kind in vars(importlib.import_module(row.module)).values() if getattr(kind, "NAME", None) == row.name)
        assert set(row.defaults) <= set(row.launches), row.name
        for group in row.defaults:
            for name, value in row.defaults_in((group,)).items():
                assert node.PARAMETERS[name].low <= value <= node.PARAMETERS[name].high, f"{row.name}.{name}"


def test_lmo_is_patient_with_the_simulator_and_not_with_the_robot():
    lmo = next(row for row in node_table().nodes if row.name == "lmo")
    assert lmo.defaults_in(("sim", "record")) == {"state_timeout_s": 0.5}
    assert "state_timeout_s" not in lmo.defaults_in(("robot",))


def test_a_robots_gains_rise_slowly_and_no_parameter_file_of_ours_says_otherwise():
    lmo = next(row for row in node_table().nodes if row.name == "lmo")
    assert lmo.defaults_in(("robot",)) == {"start_ramp_s": 2.0}
    assert "start_ramp_s" not in yaml.safe_load(node_table().parameter_file.read_text())["lmo"]["ros__parameters"]


def test_every_type_of_the_table_can_be_imported():
    pytest.importorskip("rclpy", reason="needs ROS 2: run `make setup`")
    from wbvla_core.ros.qos import interface_class

    table = topic_table()
    required = [row for row in (*table.topics.values(), *table.services.values(), *table.actions.values()) if not row.optional]
    assert len(required) > 30
    for row in required:
        assert interface_class(row.type).__name__ == row.type.split("/")[-1]
    with pytest.raises(RuntimeError, match="build the messages"):
        interface_class("wbvla_msgs/msg/Nonsense")


def test_what_the_wheels_lack_is_optional_and_only_that(monkeypatch):
    pytest.importorskip("rclpy", reason="needs ROS 2: run `make setup`")
    from wbvla_core.ros import qos

    assert {row.key for row in topic_table().topics.values() if row.optional} == {"tf", "tf_static"}

    def nothing(_type):
        raise RuntimeError("not installed")

    monkeypatch.setattr(qos, "interface_class", nothing)
    assert not qos.available("tf")
    with pytest.raises(RuntimeError, match="not installed"):
        qos.available("imu")


def test_outcomes_codes_and_rungs_equal_the_messages_constants():
    pytest.importorskip("rclpy", reason="needs ROS 2: run `make setup`")
    from wbvla_core.safety import SafetyRung
    from wbvla_core.task import TaskOutcome
    from wbvla_msgs.action import ExecuteTask
    from wbvla_msgs.msg import SafetyState

    for outcome in TaskOutcome:
        assert getattr(ExecuteTask.Result, outcome.name) == outcome
    for rung in SafetyRung:
        assert getattr(SafetyState, rung.name) == rung

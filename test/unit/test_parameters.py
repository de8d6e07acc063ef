"""What a node starts with: later files and launch arguments win over earlier ones, whatever their sections are called."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from wbvla_core.errors import WbvlaError
from wbvla_core.ros.launching import LOG_LEVEL, RVIZ, plan
from wbvla_core.ros.parameters import MANAGER, SIM_TIME, ParameterFileError, file_text, final_parameters, in_file, is_for, read_sections, strangers, text_of
from wbvla_core.ros.tables import node_table, share_dir

ROOT = share_dir()
STACK = node_table().parameter_file
# every argument of every launch file, a value for it, and where it must arrive
ARGUMENTS = [
    *((launch, "robot", "x2_v140", [(node, "robot", "x2_v140") for node in nodes]) for launch, nodes in {
        "sim": ("sim", "lmo", "render", "perception", "vla"),
        "demo": ("sim", "lmo", "render", "perception", "vla"),
        "robot": ("lmo",),
        "workstation": ("perception", "vla"),
        "teleop": ("teleop",),
    }.items()),
    *((launch, "seed", "3", [("sim", "seed", 3)]) for launch in ("sim", "demo")),
    ("sim", "scene", "room", [("sim", "scene", "room")]),
    ("sim", "policy", "zero", [("vla", "policy", "zero")]),
    ("robot", "start_ramp_s", "9.0", [("lmo", "start_ramp_s", 9.0)]),
    ("robot", "start_ramp_s", "9", [("lmo", "start_ramp_s", 9.0)]),
    ("workstation", "checkpoint", "/a/b", [("vla", "checkpoint", "/a/b")]),
    ("teleop", "mapping", "/a/b.yaml", [("teleop", "mapping", "/a/b.yaml")]),
    *((launch, "bag", "/a/7", [("record", "output", "/a/7"), ("record", "session", "")]) for launch in ("record", "demo")),
    ("record", "session", "/a/s", [("record", "session", "/a/s"), ("record", "output", "")]),
    *((launch, "use_sim_time", "true", [(MANAGER, "use_sim_time", True)]) for launch in ("sim", "demo", "robot", "workstation", "teleop", "record")),
]  # fmt: skip


def launch_file(name: str) -> dict:
    return runpy.run_path(str(ROOT / "launch" / f"{name}.launch.py"))


def started(name: str, *files: Path, **given: str) -> dict[str, dict]:
    """node -> its parameters, as the launch file of that name would start it."""
    made = launch_file(name)
    out = plan(made["GROUPS"], (*made.get("ARGUMENTS", ()), SIM_TIME), given, [STACK, *files], made.get("complete"))
    sections = {node: yaml.safe_load(file_text(node, values)) for node, values in out.items()}
    return {node: {name: value for section in found.values() for name, value in section["ros__parameters"].items()} for node, found in sections.items()}


@pytest.fixture
def file(tmp_path):
    def write(text: str, name: str = "mine.yaml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_every_argument_of_every_launch_file_is_in_the_list_above():
    declared = {(path.name.removesuffix(".launch.py"), a.name) for path in (ROOT / "launch").glob("*.py") for a in runpy.run_path(str(path))["ARGUMENTS"]}
    assert declared | {(launch, "use_sim_time") for launch, _ in declared} == {(launch, argument) for launch, argument, _, _ in ARGUMENTS}


@pytest.mark.parametrize(("launch", "argument", "text", "arrives"), ARGUMENTS, ids=[f"{a[0]} {a[1]}:={a[2]}" for a in ARGUMENTS])
def test_a_launch_argument_wins_over_files_in_whatever_section_they_name_the_parameter(file, launch, argument, text, arrives):
    names = {name: {bool: "false", int: "1", float: "0.5", str: "other"}[type(value)] for _, name, value in arrives}
    if argument == "robot":
        names = {"robot": "x2"}
    body = "".join(f"    {name}: {value}\n" for name, value in names.items())
    sections = [node for node, _, _ in arrives] + ["/**"]
    mine = file("".join(f"{section}:\n  ros__parameters:\n{body}" for section in dict.fromkeys(sections)))
    found = started(launch, mine, **{argument: text})
    for node, name, value in arrives:
        assert found[node][name] == value and type(found[node][name]) is type(value), (node, name)


def test_launch_files_load_with_the_packages_that_the_python_of_ros2_has():
    """`ros2` runs with the system's Python, whatever virtual environment is active: numpy and yaml are there, MuJoCo and torch are not."""
    files = sorted(str(path) for path in (ROOT / "launch").glob("*.py"))
    code = f"import runpy, sys; [runpy.run_path(f) for f in {files}]; print(*sorted({{m.split('.')[0] for m in sys.modules}} - sys.stdlib_module_names))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    ours = {name for name in found if not name.startswith(("_", "ros_wheels_bootstrapper", "sitecustomize"))}
    assert {"wbvla_core", "wbvla_sim", "numpy", "yaml"} <= ours <= {"wbvla_core", "wbvla_sim", "numpy", "yaml", "cython_runtime"}


def test_without_an_argument_the_file_decides_and_without_a_file_the_launch_groups_default():
    assert started("sim")["sim"]["seed"] == 7
    assert started("robot")["lmo"]["start_ramp_s"] == 2.0
    assert "start_ramp_s" not in started("sim")["lmo"]  # the simulated robot is held in its pose: no ramp, the code's default
    assert started("sim")["lmo"]["state_timeout_s"] == 0.5


def test_the_operators_file_goes_over_ours_and_only_where_it_says_something(file):
    found = started("robot", file("lmo:\n  ros__parameters:\n    start_ramp_s: 4.5\n"))
    assert found["lmo"]["start_ramp_s"] == 4.5
    assert found["lmo"]["checkpoint"] == "checkpoints/lmo/x2"
    assert started("sim", file("/**: {ros__parameters: {robot: x2_v140}}\n"))["lmo"]["robot"] == "x2_v140"


def test_time_from_the_clock_is_for_every_process():
    found = started("sim", use_sim_time="1")
    assert {node for node, values in found.items() if values.get("use_sim_time") is True} == {"sim", "lmo", "render", "perception", "vla", MANAGER}
    assert not any("use_sim_time" in values for values in started("sim").values())


def test_the_manager_is_told_the_groups_and_may_be_told_a_time(file):
    found = started("demo", file(f"{MANAGER}:\n  ros__parameters:\n    timeout_s: 300.0\n    launches: [moon]\n"), bag="/x")
    assert found[MANAGER] == {"timeout_s": 300.0, "launches": ["sim", "record"]}


@pytest.mark.parametrize(
    ("launch", "given", "said"),
    [
        ("robot", {"robot": "nosuch"}, r"no robot 'nosuch'; there are x2, x2_v140"),
        ("sim", {"robot": "/no/such.yaml"}, r"no robot '/no/such.yaml'"),
        ("robot", {"start_ramp_s": "fast"}, "start_ramp_s:=fast: must be a number"),
        ("sim", {"seed": "3.5"}, "seed:=3.5: must be a whole number"),
        ("sim", {"use_sim_time": "maybe"}, "use_sim_time:=maybe: must be true or false"),
        ("record", {"bag": "a", "session": "b"}, "give one of them"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_starts(launch, given, said):
    with pytest.raises(WbvlaError, match=said):
        started(launch, **given)


def test_a_robot_in_a_file_is_refused_like_one_in_an_argument(file):
    with pytest.raises(WbvlaError, match="no robot 'r2d2'; there are x2, x2_v140"):
        started("sim", file("lmo: {ros__parameters: {robot: r2d2}}\n"))


def test_log_levels_and_rviz_are_words_that_launch_knows():
    assert LOG_LEVEL.read("debug") == "debug" and RVIZ.read("True") is True and RVIZ.read("0") is False
    with pytest.raises(ParameterFileError, match="one of debug, info, warn, error, fatal"):
        LOG_LEVEL.read("loud")


def test_the_recorder_gets_a_dated_folder_only_where_nobody_names_one(file):
    assert "/runs/" in started("record")["record"]["output"] and started("record")["record"]["output"].endswith("/bag")
    assert started("demo")["record"]["output"].endswith("/episode")
    assert started("record", session="/a/s")["record"]["output"] == ""
    assert started("record", file("record: {ros__parameters: {session: /a/s}}\n"))["record"].get("output") is None


@pytest.mark.parametrize(
    ("section", "node", "speaks"),
    [
        ("lmo", "/lmo", True), ("/lmo", "/lmo", True), ("/**", "/lmo", True), ("/**", "/a/lmo", True), ("/*", "/lmo", True), ("/*", "/a/lmo", False),
        ("/**/lmo", "/lmo", True), ("/**/lmo", "/a/b/lmo", True), ("/*/lmo", "/lmo", False), ("/*/lmo", "/a/lmo", True), ("a/lmo", "/a/lmo", True),
        ("a/lmo", "/lmo", False), ("/a/**", "/a/lmo", True), ("lm", "/lmo", False), ("lmoo", "/lmo", False),
    ],
)  # fmt: skip
def test_sections_speak_of_the_nodes_that_ros_says(section, node, speaks):
    assert is_for(section, node) is speaks


def test_within_one_file_the_later_section_wins_as_in_ros(file):
    mine = file("lmo: {ros__parameters: {a: 1}}\n/**: {ros__parameters: {a: 2, b: {c: 3}}}\n")
    assert {name: value.node.value for name, value in in_file(mine, "lmo").items()} == {"a": "2", "b.c": "3"}


def test_values_keep_the_operators_text_because_ros_reads_yaml_differently(file):
    """1e-3 is a number for ROS and a word for PyYAML, a quoted "1" stays a word for both."""
    written = file_text("lmo", in_file(file("lmo: {ros__parameters: {a: 1e-3, b: '1', c: 12:30, d: [1.0, 2.0], e: 0x10}}\n"), "lmo"))
    for line in ("a: 1e-3", "b: '1'", "c: 12:30", "d: [1.0, 2.0]", "e: 0x10"):
        assert line in written


def test_given_strings_stay_strings():
    made = final_parameters(("sim",), [STACK], {"vla": {"policy": "on", "checkpoint": "7"}, "sim": {"seed": 3, "sensor_noise": True}})
    assert 'policy: "on"' in file_text("vla", made["vla"]) and 'checkpoint: "7"' in file_text("vla", made["vla"])
    assert "seed: 3\n" in file_text("sim", made["sim"]) and "sensor_noise: true" in file_text("sim", made["sim"])
    assert text_of(made["vla"], "policy") == "on" and text_of(made["vla"], "nothing") == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lmo: {start_ramp_s: 9.0}\n", "ros__parameters missing"),
        ("- lmo\n", "ros__parameters missing"),
        ("ros__parameters: {a: 1}\n", "below the name of a node"),
        ("lmo: {ros__parameters: [1]}\n", "<parameter>: <value>"),
        ("lmo: {ros__parameters: {a: [}\n", "this is no YAML"),
    ],
)
def test_a_file_that_is_no_parameter_file_is_refused_with_its_name(file, text, said):
    with pytest.raises(ParameterFileError, match=rf"mine\.yaml: .*{said}"):
        read_sections(file(text))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ParameterFileError, match="none.yaml: .*cannot be read: No such file"):
        started("robot", tmp_path / "none.yaml")


def test_a_section_of_another_program_is_said_and_a_misspelt_node_refused(file):
    (said,) = strangers(file("joy_node: {ros__parameters: {deadzone: 0.1}}\nlmo: {ros__parameters: {}}\n"))
    assert "'joy_node' speaks of no node of this stack" in said
    with pytest.raises(ParameterFileError, match="no node 'lmoo'; is 'lmo' meant"):
        strangers(file("lmoo: {ros__parameters: {}}\n"))
    assert strangers(STACK) == []

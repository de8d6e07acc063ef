"""Names in parameter files that nobody has: refused with the nearest right one, or said where they may be another node's."""

from __future__ import annotations

import pytest

from wbvla_core.ros.misspelt import explain_broken_file, misspelt, parameter_files, sections

NODES = ("record", "sim", "lmo", "teleop", "render", "perception", "vla")
KNOWN = ("robot", "checkpoint", "max_tilt_rad", "use_sim_time")


def check(tmp_path, text: str, unknown: list[str], elsewhere=("seed", "scene", "robot")):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return misspelt("lmo", unknown, KNOWN, [str(file)], NODES, elsewhere)


def test_the_files_of_a_process_are_those_of_its_arguments():
    assert parameter_files(["x", "--ros-args", "--params-file", "a.yaml", "-p", "b:=1", "--params-file", "c.yaml"]) == ["a.yaml", "c.yaml"]
    assert parameter_files(["x", "--params-file"]) == []


def test_sections_may_be_nested_by_namespace_and_parameters_by_dots(tmp_path):
    file = tmp_path / "f.yaml"
    file.write_text("left: {lmo: {ros__parameters: {a: {b: 1, c: 2}, d: 3}}}\n/**: {ros__parameters: {e: 1}}\nempty:\nsim: {ros__parameters: }\n")
    assert [(name, names) for _, name, names in sections([str(file)])] == [("left/lmo", ["a.b", "a.c", "d"]), ("/**", ["e"]), ("sim", [])]
    assert sections([str(tmp_path / "nowhere.yaml")]) == []


@pytest.mark.parametrize("section", ["lmo", "/lmo", "/robot_1/lmo"])
def test_a_misspelt_name_in_the_nodes_own_section_is_refused_with_file_and_the_nearest(tmp_path, section):
    refusals, remarks = check(tmp_path, f"{section}: {{ros__parameters: {{max_tild_rad: 0.5}}}}", ["max_tild_rad"])
    assert refusals == [f"{tmp_path / 'mine.yaml'}: lmo has no parameter 'max_tild_rad'; is 'max_tilt_rad' meant?"] and not remarks


def test_a_name_like_none_is_refused_with_those_that_there_are():
    refusals, _ = misspelt("lmo", ["zzz"], KNOWN, [], NODES)  # from -p on the command line: no file to name
    assert refusals == ["lmo has no parameter 'zzz'; it has checkpoint, max_tilt_rad, robot, use_sim_time"]


def test_what_is_written_for_all_nodes_is_refused_only_where_it_resembles_ours_and_is_nobodys(tmp_path):
    text = "/**: {ros__parameters: {seed: 3, use_simtime: true, camera_fps: 30}}"
    refusals, remarks = check(tmp_path, text, ["seed", "use_simtime", "camera_fps"])
    assert len(refusals) == 1 and "'use_simtime'; is 'use_sim_time' meant?" in refusals[0]
    assert len(remarks) == 2 and "'camera_fps' is no parameter of lmo" in remarks[0] and "'seed'" in remarks[1]


def test_a_misspelt_node_is_refused_by_the_one_it_resembles_and_by_no_other(tmp_path):
    text = "lmoo: {ros__parameters: {robot: x2}}\ncamera_driver: {ros__parameters: {fps: 3}}\nsim: {ros__parameters: {seed: 3}}\n"
    refusals, remarks = check(tmp_path, text, [])
    assert refusals == [f"{tmp_path / 'mine.yaml'}: there is no node 'lmoo'; is 'lmo' meant?"] and not remarks
    assert misspelt("vla", [], ("policy",), [str(tmp_path / "mine.yaml")], NODES) == ([], [])


def test_a_file_that_ros_cannot_take_is_named_with_the_reason(tmp_path):
    assert explain_broken_file([str(tmp_path / "no.yaml")], ValueError("x")) == f"parameter file {tmp_path / 'no.yaml'} does not exist"
    (tmp_path / "bad.yaml").write_text("a: [")
    assert "bad.yaml cannot be read" in explain_broken_file([str(tmp_path / "bad.yaml")], ValueError("x"))
    assert explain_broken_file([], ValueError("unknown option --zzz, at ./arguments.c:5")) == "ROS refuses the arguments of this process: unknown option --zzz"

"""The robot spec: numbers by hand from the vendor's tables, and refusals."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import yaml

from wbvla_core.robot import RobotSpecError, load_robot, parse_robot

CONFIGS = Path(__file__).resolve().parents[2] / "config" / "robots"


@pytest.fixture(scope="module")
def x2():
    return load_robot("x2")


@pytest.fixture()
def raw():
    return copy.deepcopy(yaml.safe_load((CONFIGS / "x2.yaml").read_text()))


def test_x2_has_27_joints_of_the_paper_and_held_waist_head_and_grippers(x2):
    papers = [*x2.names("legs"), *x2.names("arms"), "waist_yaw_joint"]
    others = [*x2.names("held"), *x2.names("head"), *x2.names("grippers")]
    assert len(papers) == 27
    assert sorted(papers + others) == sorted(x2.joint_names)


def test_canonical_order_is_legs_waist_arms_head_grippers(x2):
    order = [name for g in ("left_leg", "right_leg", "waist", "left_arm", "right_arm", "head", "left_gripper", "right_gripper") for name in x2.names(g)]
    assert tuple(order) == x2.joint_names


def test_upper_body_is_arms_then_grippers(x2):
    assert x2.names("upper_body") == (*x2.names("left_arm"), *x2.names("right_arm"), *x2.names("left_gripper"), *x2.names("right_gripper"))
    assert [x2.joint_names[i] for i in x2.indices("upper_body")] == list(x2.names("upper_body"))


def test_mass_is_the_vendors_plus_two_fingers():
    assert load_robot("x2").total_mass_kg == pytest.approx(41.9665 + 2 * 0.05, abs=1e-4)
    assert load_robot("x2_v140").total_mass_kg == pytest.approx(44.801 + 2 * 0.05, abs=1e-3)


@pytest.mark.parametrize(
    ("joint", "lower", "upper"),
    [
        ("left_hip_yaw_joint", -1.684, 3.43),  # older release narrower at both ends
        ("right_hip_yaw_joint", -3.43, 1.684),
        ("left_ankle_roll_joint", -0.262, 0.262),
        ("right_ankle_roll_joint", -0.2625, 0.2625),
        ("waist_yaw_joint", -3.43, 2.2078),  # newer release narrower at the upper end
        ("left_shoulder_roll_joint", -0.061, 2.993),
        ("left_wrist_pitch_joint", -0.5236, 0.5236),
        ("left_wrist_roll_joint", -1.5097, 0.724),
        ("head_yaw_joint", -0.349, 0.349),
        ("left_knee_joint", 0.0, 2.4073),
    ],
)
def test_clamp_limits_are_the_intersection_of_both_releases(x2, joint, lower, upper):
    i = x2.joint_names.index(joint)
    assert (x2.lower[i], x2.upper[i]) == (lower, upper)


def test_inertias_moved_back_to_the_link_origin_give_the_published_numbers(x2):
    torso = x2.link("torso_link")  # published about the origin: ixx 0.479751, iyy 0.455998, izz 0.066754, ixz product -0.00677 written positive-product
    r = np.array(torso.com)
    about_origin = torso.inertia_matrix + torso.mass * (r @ r * np.eye(3) - np.outer(r, r))
    np.testing.assert_allclose(np.diag(about_origin), (0.479751, 0.455998, 0.066754), atol=2e-6)
    assert about_origin[0, 2] == pytest.approx(+0.00677, abs=2e-6)


def test_held_waist_stays_within_its_motor_of_24_nm(x2):
    assert np.all(x2.effort_nm[x2.indices("held")] == 24.0)


def test_torque_falls_on_a_line_from_the_knee_to_the_speed_limit_and_braking_keeps_all(x2):
    knee = x2.joint_names.index("left_knee_joint")  # 120 Nm, 11.936 rad/s, knee of the curve at 0.7
    for part, driving in ((0.0, 120.0), (0.7, 120.0), (0.85, 60.0), (1.0, 0.0), (1.3, 0.0)):
        qd = np.zeros(x2.joint_count)
        qd[knee] = part * 11.936
        low, high = x2.torque_range(qd)
        assert high[knee] == pytest.approx(driving, abs=1e-9)
        assert low[knee] == -120.0
        low, high = x2.torque_range(-qd)
        assert low[knee] == pytest.approx(-driving, abs=1e-9)
        assert high[knee] == 120.0


def test_clamp_holds_targets_inside_limits(x2):
    np.testing.assert_array_equal(x2.clamp(np.full(x2.joint_count, 99.0)), x2.upper)
    np.testing.assert_array_equal(x2.clamp(np.full(x2.joint_count, -99.0)), x2.lower)


def test_arrays_cannot_be_written_to(x2):
    with pytest.raises(ValueError, match="read-only"):
        x2.default_q[0] = 1.0


def test_both_releases_share_joint_order_but_not_the_fingerprint():
    old, new = load_robot("x2"), load_robot("x2_v140")
    assert old.joint_names == new.joint_names
    assert old.fingerprint != new.fingerprint


def test_fingerprint_changes_when_two_joints_change_places(raw):
    before = parse_robot(copy.deepcopy(raw)).fingerprint
    raw["joints"][0]["name"], raw["joints"][6]["name"] = raw["joints"][6]["name"], raw["joints"][0]["name"]
    assert parse_robot(raw).fingerprint != before


def test_a_robot_can_be_loaded_by_path(x2):
    assert load_robot(CONFIGS / "x2.yaml") == x2


def test_unknown_robot_is_refused_with_the_names_that_exist():
    with pytest.raises(RobotSpecError, match=r"no robot 'x3'; there are x2, x2_v140 \(config/robots\)"):
        load_robot("x3")


def _set(path, value):
    def change(raw):
        *parents, last = path
        for key in parents:
            raw = raw[key]
        raw[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set(("schema",), 2), "expected schema 1, got 2"),
        (_set(("joints", 0, "parent"), "left_knee_link"), "list joints from the root"),
        (_set(("joints", 1, "name"), "left_hip_pitch_joint"), "joint names must differ"),
        (_set(("joints", 3, "default"), -0.5), "outside its range"),
        (_set(("joints", 3, "range"), [2.0, 1.0]), "range must rise"),
        (_set(("joints", 3, "range"), [0.0]), "must have 2 numbers, got 1"),
        (_set(("joints", 3, "axis"), [0, 2, 0]), "axis must be a unit vector"),
        (_set(("joints", 3, "kind"), "ball"), "kind must be one of"),
        (_set(("joints", 3, "kp"), 0), "gains must be positive"),
        (_set(("links", "pelvis", "inertia"), [1, 0, 0, 0.1, 0, 0.1]), "triangle inequality"),
        (_set(("groups", "held"), ["waist_bend_joint"]), "waist_bend_joint"),
        (_set(("frames", "imu", "parent"), "tail"), "'tail', which is no link"),
        (_set(("frames", "imu", "parent"), "torso_link"), "frame 'imu' must lie on 'pelvis'"),
        (_set(("frames", "imu", "rpy"), [0, 0, 1.5708]), "readings are used as the root's"),
        (_set(("stance", "default_m"), 0.9), "default stance height"),
        (_set(("joints", 3, "defualt"), 0.3), "left_knee_joint of joints has an entry 'defualt' that nothing reads; did you mean 'default'"),
        (_set(("drives", "pf90", "Kp"), 9), "pf90 of drives has an entry 'Kp'"),
        (_set(("camara",), 1), "the file has an entry 'camara' that nothing reads; did you mean 'camera'"),
        (_set(("joints", 3, "kp"), float("nan")), "joints.left_knee_joint.kp must be a finite number, got nan"),
        (_set(("joints", 3, "range"), [-float("inf"), 2.0]), r"joints.left_knee_joint.range.0 must be a finite number, got -inf"),
        (_set(("links", "pelvis", "mass"), float("nan")), "links.pelvis.mass must be a finite number"),
        (_set(("links", "pelvis", "inertia"), [float("nan")] * 6), "links.pelvis.inertia.0 must be a finite number"),
        (_set(("links",), ["pelvis"]), "a table or a list is not where one was expected: 'list' object"),
        (_set(("camera", "width"), 0), "the camera must have a size"),
        (_set(("camera", "width"), 96.7), "camera width must be a whole number, got 96.7"),
        (_set(("camera", "fovy_deg"), 400), "field of view"),
        (_set(("sole", "x_min"), 0.2), "the sole must reach from x_min"),
        (_set(("stance", "range_m"), [-1.0, 2.0]), "stance heights must be positive"),
        (_set(("groups", "waist"), ["waist_yaw_joint", "waist_yaw_joint"]), "group 'waist' names a joint twice"),
        (lambda raw: raw.pop("camera"), "entry 'camera' is missing"),
        (lambda raw: raw["links"].update(tail=raw["links"]["pelvis"]), r"\['tail'\] hang on no joint"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused_and_says_where(raw, change, message):
    change(raw)
    with pytest.raises(RobotSpecError, match=message):
        parse_robot(raw, source="x2.yaml")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"schema: 1\nname: [x2", "broken.yaml: a robot's YAML was expected, but this is none"),
        ("name: für".encode("latin1"), "a robot's YAML was expected"),
        (b"schema: 1\nname: x2\nname: x3\n", "'name' stands twice in one table"),
        (b"!!python/object:os.system {}", "could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_yaml_is_refused_with_its_path(tmp_path, data, message):
    (tmp_path / "broken.yaml").write_bytes(data)
    with pytest.raises(RobotSpecError, match=message):
        load_robot(tmp_path / "broken.yaml")


def test_asking_for_what_is_not_there_names_what_is(x2):
    with pytest.raises(RobotSpecError, match="no joint group 'tail'.*left_arm"):
        x2.indices("tail")
    with pytest.raises(RobotSpecError, match="no joint 'tail'"):
        x2.joint("tail")

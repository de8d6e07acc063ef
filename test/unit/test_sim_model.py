"""MJCF and URDF of the X2: held to each other, to the vendor's derived geometry, and to converged physics."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

import wbvla_sim  # noqa: F401  (sets MUJOCO_GL before mujoco is imported)

import mujoco  # isort: skip

from wbvla_core.robot import BASE_LINK, load_robot
from wbvla_sim.model import build


@pytest.fixture(scope="module")
def x2():
    return load_robot("x2")


@pytest.fixture(scope="module")
def mjcf():
    return mujoco.MjModel.from_xml_path(str(build.HERE / "x2.xml"))


@pytest.fixture(scope="module")
def urdf():
    return ET.parse(build.HERE / "x2.urdf").getroot()


def numbers(text):
    return np.array([float(v) for v in text.split()])


def rotation(rpy):
    """Fixed-axis x-y-z, written out as three matrices (independent of build.py)."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(rpy), np.sin(rpy)
    rx = np.array(((1, 0, 0), (0, cx, -sx), (0, sx, cx)))
    ry = np.array(((cy, 0, sy), (0, 1, 0), (-sy, 0, cy)))
    rz = np.array(((cz, -sz, 0), (sz, cz, 0), (0, 0, 1)))
    return rz @ ry @ rx


def urdf_poses(urdf, values):
    """Forward kinematics of the URDF: link name -> (rotation, position) in the pelvis frame."""
    joints = urdf.findall("joint")
    children = {j.find("child").get("link") for j in joints}
    (base,) = {link.get("name") for link in urdf.findall("link")} - children
    poses = {base: (np.eye(3), np.zeros(3))}
    while len(poses) < len(children) + 1:
        for j in joints:
            parent, child = j.find("parent").get("link"), j.find("child").get("link")
            if parent in poses and child not in poses:
                turn, at = poses[parent]
                local, offset = rotation(numbers(j.find("origin").get("rpy"))), numbers(j.find("origin").get("xyz"))
                if j.get("type") == "revolute":
                    axis, angle = numbers(j.find("axis").get("xyz")), values[j.get("name")]
                    skew = np.array(((0, -axis[2], axis[1]), (axis[2], 0, -axis[0]), (-axis[1], axis[0], 0)))
                    local = local @ (np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew)
                elif j.get("type") == "prismatic":
                    offset = offset + local @ numbers(j.find("axis").get("xyz")) * values[j.get("name")]
                poses[child] = (turn @ local, at + turn @ offset)
    return poses


def put(model, spec, q, height=0.0):
    """Model data with joints q [J] and the pelvis at a height."""
    data = mujoco.MjData(model)
    joints = build.joint_map(model, spec)
    data.qpos[2] = height
    data.qpos[joints.qpos] = np.asarray(q)[joints.canonical]
    mujoco.mj_forward(model, data)
    return data


def test_committed_mjcf_and_urdf_are_what_the_spec_generates():
    for path, text in build.generated_files().items():
        assert path.read_text() == text, f"{path.name} is out of date; run: python -m wbvla_sim.model.build"


def test_urdf_and_mjcf_agree_on_masses_and_inertias(mjcf, urdf):
    masses = 0.0
    for link in urdf.findall("link"):
        inertial = link.find("inertial")
        if inertial is None:
            continue  # a frame without a body
        body = mjcf.body(link.get("name"))
        mass = float(inertial.find("mass").get("value"))
        masses += mass
        assert body.mass[0] == pytest.approx(mass, rel=1e-6)
        np.testing.assert_allclose(body.ipos, numbers(inertial.find("origin").get("xyz")), atol=1e-8)
        i = {k: float(v) for k, v in inertial.find("inertia").attrib.items()}
        tensor = np.array(((i["ixx"], i["ixy"], i["ixz"]), (i["ixy"], i["iyy"], i["iyz"]), (i["ixz"], i["iyz"], i["izz"])))
        axes = np.zeros(9)
        mujoco.mju_quat2Mat(axes, body.iquat)
        axes = axes.reshape(3, 3)
        np.testing.assert_allclose(axes @ np.diag(body.inertia) @ axes.T, tensor, atol=1e-7)
    assert mjcf.body_mass.sum() == pytest.approx(masses, rel=1e-9)
    assert masses == pytest.approx(42.0665, abs=1e-3)


def test_urdf_and_mjcf_agree_on_axes_limits_and_drives(x2, mjcf, urdf):
    moving = [j for j in urdf.findall("joint") if j.get("type") != "fixed"]
    assert [j.get("name") for j in moving] == list(x2.joint_names)
    for j in moving:
        joint, actuator = mjcf.joint(j.get("name")), mjcf.actuator(j.get("name"))
        np.testing.assert_allclose(joint.axis, numbers(j.find("axis").get("xyz")), atol=1e-9)
        limit = j.find("limit")
        np.testing.assert_allclose(joint.range, (float(limit.get("lower")), float(limit.get("upper"))), atol=1e-9)
        np.testing.assert_allclose(actuator.forcerange, np.array((-1, 1)) * float(limit.get("effort")), atol=1e-9)
        assert joint.frictionloss[0] == pytest.approx(float(j.find("dynamics").get("friction")))
        spec = x2.joint(j.get("name"))
        assert float(limit.get("velocity")) == pytest.approx(spec.velocity_rad_s)
        assert joint.armature[0] == pytest.approx(spec.armature)


def test_urdf_and_mjcf_agree_on_where_every_link_and_frame_is_at_random_poses(x2, mjcf, urdf):
    rng = np.random.default_rng(0)
    for _ in range(20):
        q = rng.uniform(x2.lower, x2.upper)
        data = put(mjcf, x2, q)
        poses = urdf_poses(urdf, dict(zip(x2.joint_names, q, strict=True)))
        sites = {x2.frame_link(name): name for name in x2.frames}
        assert sites.keys() < poses.keys()
        for link, (turn, at) in poses.items():
            thing = data.site(sites[link]) if link in sites else data.body(x2.root if link == BASE_LINK else link)
            np.testing.assert_allclose(thing.xpos, at, atol=1e-7, err_msg=link)
            np.testing.assert_allclose(thing.xmat.reshape(3, 3), turn, atol=1e-7, err_msg=link)


@pytest.mark.parametrize(
    ("hip_pitch", "knee", "ankle_pitch", "height"),
    [
        (0.0, 0.0, 0.0, 0.675),  # zero pose
        (-0.312, 0.669, -0.363, 0.641),  # vendor's RL example
        (-0.248, 0.5303, -0.2823, 0.653),  # factory walking
        (-0.1, 0.3, -0.2, 0.667),  # public locomanipulation policy
        (-0.05, 0.1, -0.05, 0.674),
    ],
)
def test_pelvis_stands_over_the_sole_as_derived_from_the_vendors_model(x2, mjcf, hip_pitch, knee, ankle_pitch, height):
    q = np.zeros(x2.joint_count)
    for side in ("left", "right"):
        for name, value in (("hip_pitch", hip_pitch), ("knee", knee), ("ankle_pitch", ankle_pitch)):
            q[x2.joint_names.index(f"{side}_{name}_joint")] = value
    data = put(mjcf, x2, q)
    assert -data.site("left_foot").xpos[2] == pytest.approx(height, abs=6e-4)


def test_default_pose_stands_on_flat_feet_at_the_default_stance_height_over_its_soles(x2, mjcf):
    data = put(mjcf, x2, x2.default_q, x2.default_stance_height_m)
    for foot in ("left_foot", "right_foot"):
        assert data.site(foot).xpos[2] == pytest.approx(0.0, abs=1e-4)
        np.testing.assert_allclose(data.site(foot).xmat.reshape(3, 3), np.eye(3), atol=2e-4)
    x = data.subtree_com[1][0] - data.site("left_foot").xpos[0]  # centre of mass before the ankle
    assert x2.sole.x_min + 0.03 < x < x2.sole.x_max - 0.03
    assert abs(data.subtree_com[1][1]) < 0.005


def test_default_pose_touches_nothing_of_itself(x2):
    model = mujoco.MjModel.from_xml_string(build.robot_mjcf(x2, floor=False, self_collision=("legs", "arms")))
    assert put(model, x2, x2.default_q).ncon == 0


def test_head_camera_looks_40_degrees_down_and_is_upright(x2, mjcf):
    data = put(mjcf, x2, np.zeros(x2.joint_count))
    right, down, forward = data.site("head_camera").xmat.reshape(3, 3).T
    assert np.degrees(np.arcsin(-forward[2])) == pytest.approx(40.0, abs=0.01)
    np.testing.assert_allclose(right, (0, -1, 0), atol=1e-4)
    assert down[2] < 0
    np.testing.assert_allclose(data.site("head_camera").xpos, (0.066, -0.011, 0.505), atol=1e-3)
    camera = data.cam_xmat[mjcf.camera("head").id].reshape(3, 3).T  # MuJoCo: x right, y up, looks along -z
    np.testing.assert_allclose(camera, (right, -down, -forward), atol=1e-6)


def test_soles_touch_at_the_spec_contact_points_and_nowhere_else(x2, mjcf):
    data = put(mjcf, x2, x2.default_q, x2.default_stance_height_m - 0.001)
    names = {mjcf.geom(g).name for c in data.contact for g in c.geom} - {"floor"}
    assert names == {f"{side}_ankle_roll_sole_{i}" for side in ("left", "right") for i in range(len(x2.sole.contacts))}


def test_lean_model_keeps_the_canonical_order_and_welds_at_the_default_angle(x2, mjcf):
    lean = mujoco.MjModel.from_xml_string(
        build.robot_mjcf(x2, visuals=False, sensors=False, body_contacts=False, frictionloss=False, fixed=("head", "grippers", "left_elbow_joint"))
    )
    joints = build.joint_map(lean, x2)
    welded = {*x2.names("head"), *x2.names("grippers"), "left_elbow_joint"}
    kept = [i for i, name in enumerate(x2.joint_names) if name not in welded]
    np.testing.assert_array_equal(joints.canonical, kept)
    np.testing.assert_array_equal(joints.ctrl, np.arange(len(kept)))
    np.testing.assert_array_equal(joints.qpos, 7 + np.arange(len(kept)))
    full, data = put(mjcf, x2, x2.default_q), put(lean, x2, x2.default_q)
    for link in ("left_wrist_roll_link", "head_pitch_link", "right_gripper_finger_link"):
        np.testing.assert_allclose(data.body(link).xpos, full.body(link).xpos, atol=1e-7)
    assert lean.body_mass.sum() == pytest.approx(mjcf.body_mass.sum())


def test_drives_are_stable_at_5_ms_under_wild_targets(x2):
    """Explicit velocity gains would blow up here: kd dt / I = 2.5 on the wrist yaw."""
    model = mujoco.MjModel.from_xml_string(build.robot_mjcf(x2, floor=False))
    model.opt.gravity[:] = 0
    data, joints, rng = mujoco.MjData(model), build.joint_map(model, x2), np.random.default_rng(0)
    data.qpos[joints.qpos] = x2.default_q[joints.canonical]
    for i in range(600):
        if i % 4 == 0 and i < 400:
            data.ctrl[:] = x2.clamp(x2.default_q + rng.normal(size=x2.joint_count) * 0.3)
        mujoco.mj_step(model, data)
        assert np.all(np.isfinite(data.qvel))
        assert np.abs(data.qvel[6:]).max() < 45.0
    assert sum(w.number for w in data.warning) == 0
    assert np.abs(data.qvel[6:]).max() < 0.5  # targets held for the last second: it comes to rest


def test_four_solver_iterations_give_the_contacts_and_heights_of_a_hundred(x2):
    """The prototype's trap: one iteration loses most contacts, and looks fast."""

    def run(iterations, ls):
        model = mujoco.MjModel.from_xml_string(build.robot_mjcf(x2, visuals=False, iterations=iterations, ls_iterations=ls))
        joints, heights, contacts = build.joint_map(model, x2), [], []
        for seed in range(6):
            rng, data = np.random.default_rng(seed), put(model, x2, x2.default_q, x2.default_stance_height_m)
            for i in range(120):  # 0.6 s
                if i % 4 == 0:
                    data.ctrl[joints.ctrl] = (x2.default_q + rng.normal(size=x2.joint_count) * 0.12 * (np.arange(x2.joint_count) < 12))[joints.canonical]
                mujoco.mj_step(model, data)
                contacts.append(data.ncon)
            heights.append(data.qpos[2])
        return np.array(heights), np.mean(contacts)

    reference_z, reference_n = run(100, 50)
    z, n = run(build.SOLVER_ITERATIONS, build.SOLVER_LS_ITERATIONS)
    assert reference_n > 4.0
    assert n == pytest.approx(reference_n, rel=0.05)
    assert np.abs(z - reference_z).mean() < 0.002
    _, lost = run(1, 5)
    assert lost < 0.9 * reference_n  # this test can tell


def test_sensors_have_links_of_their_own_under_the_names_that_messages_give(x2, urdf):
    poses = urdf_poses(urdf, dict(zip(x2.joint_names, x2.default_q, strict=True)))
    turn, at = poses["imu_link"]
    np.testing.assert_allclose(at, (0.0239, -0.0002, 0.0417), atol=5e-5)  # 42 mm above the pelvis
    np.testing.assert_array_equal(turn, np.eye(3))  # so that readings need no rotation
    assert next(iter(poses)) == "base_link" and np.array_equal(poses["base_link"][1], poses["pelvis"][1])
    assert "head_camera_optical_frame" in poses  # REP-103's suffix for z ahead, x right, y down
    with pytest.raises(ValueError, match="no frame 'tail'"):
        x2.frame_link("tail")


def test_urdf_is_one_tree_and_names_only_materials_that_it_defines(urdf):
    materials = {m.get("name") for m in urdf.findall("material")}
    assert {m.get("name") for m in urdf.findall("link/visual/material")} <= materials
    children = [j.find("child").get("link") for j in urdf.findall("joint")]
    assert len(children) == len(set(children)) == len(urdf.findall("link")) - 1


def test_an_independent_urdf_reader_finds_the_same_masses_and_joints(x2, mjcf):
    """MuJoCo's own URDF importer; it merges the root link into the world, so the pelvis is missing from its sum."""
    imported = mujoco.MjModel.from_xml_path(str(build.HERE / "x2.urdf"))
    assert imported.njnt == x2.joint_count
    assert imported.body_mass.sum() == pytest.approx(mjcf.body_mass.sum() - mjcf.body("pelvis").mass[0], rel=1e-6)


def test_the_newer_release_stands_at_the_default_stance_too():
    spec = load_robot("x2_v140")
    model = mujoco.MjModel.from_xml_path(str(build.HERE / "x2_v140.xml"))
    data = put(model, spec, spec.default_q, spec.default_stance_height_m)
    assert data.site("left_foot").xpos[2] == pytest.approx(0.0, abs=1e-4)
    assert model.body_mass.sum() == pytest.approx(44.901, abs=1e-3)

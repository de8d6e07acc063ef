"""Every frame that a message names is a link of the URDF, and the URDF's optical frame is where the camera looks."""

from __future__ import annotations

import ast
import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run `make setup`")

import wbvla_sim  # noqa: E402, F401  (sets MUJOCO_GL before mujoco is imported)

import mujoco  # noqa: E402  isort: skip

from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from test_sim_model import urdf_poses  # noqa: E402

from wbvla_core.robot import load_robot, robot_names  # noqa: E402
from wbvla_core.ros import codec  # noqa: E402
from wbvla_perception.node import PerceptionNode  # noqa: E402
from wbvla_sim.model import build  # noqa: E402
from wbvla_sim.model.urdf import robot_urdf  # noqa: E402
from wbvla_sim.node import ODOM_FRAME, WORLD_FRAME, SimNode  # noqa: E402
from wbvla_sim.render_node import RenderNode  # noqa: E402

from .conftest import ROOT, until  # noqa: E402
from .fakes import Probe  # noqa: E402

TOPICS = ("joint_states", "imu", "sim_state", "camera_image", "camera_info", "policy_image", "robot_description")


@pytest.mark.parametrize("name", robot_names())
def test_every_frame_that_simulator_camera_and_perception_name_is_in_the_urdf_that_they_publish(graph, name):
    probe = graph.add(Probe(graph.context))
    probe.hear(*TOPICS)
    for kind in (SimNode, RenderNode, PerceptionNode):
        node = graph.add(kind(context=graph.context, parameter_overrides=[Parameter("robot", value=name)]))
        assert node.trigger_configure() is TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() is TransitionCallbackReturn.SUCCESS
    until(lambda: all(probe.heard[topic] for topic in TOPICS), 20.0, "every topic was heard")
    links = {link.get("name") for link in ET.fromstring(probe.heard["robot_description"][-1].data).findall("link")}
    frames = {topic: probe.heard[topic][-1].header.frame_id for topic in TOPICS if topic != "robot_description"}
    optical = "head_camera_optical_frame"
    want = {"joint_states": "", "imu": "imu_link", "sim_state": "world", "camera_image": optical, "camera_info": optical, "policy_image": optical}
    assert frames == want
    assert {"imu_link", optical, "base_link"} <= links


def test_no_node_writes_a_frames_name_as_a_literal():
    """A name beside the robot spec's would be a second place that decides it."""
    makers = {"imu_msg": 0, "image_msg": 2, "camera_info_msg": 4}
    checked = 0
    for path in sorted(ROOT.glob("wbvla_*/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) > makers.get(node.func.attr, 99):
                checked += 1
                assert not isinstance(node.args[makers[node.func.attr]], ast.Constant), f"{path}:{node.lineno}"
            elif isinstance(node, ast.Assign):
                names = [t for target in node.targets for t in (target.elts if isinstance(target, ast.Tuple) else (target,))]
                values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
                for target, value in zip(names, values, strict=False):
                    if isinstance(target, ast.Attribute) and target.attr == "frame_id":
                        checked += 1
                        assert not isinstance(value, ast.Constant), f"{path}:{node.lineno}"
    assert checked >= 8


def test_no_reader_of_recordings_asks_for_a_frames_name():
    """Recordings of before say "pelvis" and "head_camera": a reader that looked would refuse or mix them up."""
    rooms = ("wbvla_train", "wbvla_eval", "wbvla_cli", "wbvla_lmo", "wbvla_vla", "wbvla_teleop/recording")
    files = [path for room in rooms for path in (ROOT / room).glob("**/*.py")]
    asking = [path for path in files if ".frame_id" in path.read_text()]
    assert len(files) > 100 and asking == []


def test_transforms_put_the_robot_into_the_world_by_the_names_of_rep_105():
    pytest.importorskip("tf2_msgs.msg", reason="needs tf2_msgs, which an installed ROS 2 has and the wheels lack")
    from wbvla_sim.node import transforms

    room, robot = transforms(codec.stamp_msg(1.5), np.array((1.0, 2.0, 0.6, 0.5, 0.5, 0.5, 0.5, 9.0))).transforms
    assert (room.header.frame_id, room.child_frame_id) == (WORLD_FRAME, ODOM_FRAME) and room.transform.rotation.w == 1.0
    assert (robot.header.frame_id, robot.child_frame_id) == (ODOM_FRAME, "base_link")
    at, turn = robot.transform.translation, robot.transform.rotation
    assert (at.x, at.y, at.z, turn.w, turn.x, turn.y, turn.z) == (1.0, 2.0, 0.6, 0.5, 0.5, 0.5, 0.5)
    assert codec.stamp_s(robot.header.stamp) == 1.5


@pytest.mark.parametrize("name", robot_names())
def test_a_ball_is_seen_at_the_pixel_that_urdf_and_camera_info_say(name):
    """Through the URDF's optical frame and CameraInfo's matrix, as any ROS program would do it, against what the camera renders."""
    spec = load_robot(name)
    q = spec.default_q.copy()
    q[[spec.joint_names.index(joint) for joint in ("head_yaw_joint", "head_pitch_joint", "waist_yaw_joint")]] += (0.2, -0.1, -0.15)
    turn, at = urdf_poses(ET.fromstring(robot_urdf(spec)), dict(zip(spec.joint_names, q, strict=True)))[spec.frame_link("head_camera")]
    camera = spec.camera
    k = np.array(codec.camera_info_msg(camera.width, camera.height, math.radians(camera.fovy_deg), 0.0, "").k).reshape(3, 3)
    for seen in ((0.0, 0.0, 0.6), (0.14, -0.08, 0.7), (-0.2, 0.1, 0.8)):  # right, down, ahead of the camera, m
        u, v, w = k @ seen
        root = ET.fromstring(build.robot_mjcf(spec, floor=False))
        body = next(b for b in root.iter("body") if b.get("name") == spec.root)
        ball = dict(type="sphere", size="0.02", rgba="1 0 1 1", contype="0", conaffinity="0")
        ET.SubElement(body, "geom", name="ball", pos=" ".join(map(str, at + turn @ seen)), **ball)
        model = mujoco.MjModel.from_xml_string(ET.tostring(root, encoding="unicode"))
        data = mujoco.MjData(model)
        joints = build.joint_map(model, spec)
        data.qpos[joints.qpos] = q[joints.canonical]
        mujoco.mj_forward(model, data)
        with mujoco.Renderer(model, camera.height, camera.width) as renderer:
            renderer.enable_segmentation_rendering()
            renderer.update_scene(data, camera="head")
            shown = renderer.render()
        rows, columns = np.nonzero((shown[..., 0] == model.geom("ball").id) & (shown[..., 1] == mujoco.mjtObj.mjOBJ_GEOM))
        assert len(rows) > 20, seen
        np.testing.assert_allclose((columns.mean(), rows.mean()), (u / w, v / w), atol=0.5, err_msg=f"{seen}")

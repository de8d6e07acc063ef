"""The arms alone, for inverse kinematics: the simulator's model with everything else welded, handed to teleoperation."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET

import mujoco

from wbvla_core.robot import RobotSpec
from wbvla_sim.model.build import robot_mjcf
from wbvla_teleop.wrists import WristSolver


def arm_model(robot: RobotSpec) -> mujoco.MjModel:
    """Both arms on a pelvis that cannot move, legs and waist at their default angles, pairs of arm and trunk in the contact section."""
    others = tuple(name for name in robot.joint_names if name not in robot.names("arms"))
    root = ET.fromstring(robot_mjcf(robot, floor=False, visuals=False, sensors=False, self_collision=("arms",), fixed=others))
    for body in root.iter("body"):
        for joint in body.findall("freejoint"):
            body.remove(joint)
    contact = root.find("contact")
    left, right = ([geom.get("name") for geom in _forearm(root, robot, side)] for side in ("left", "right"))
    for a, b in itertools.product(left, right):  # the simulator need not know, but hands that a person leads do meet
        ET.SubElement(contact, "pair", geom1=a, geom2=b, condim="1")
    root.find("worldbody").find("body").set("pos", "0 0 0")  # the pelvis is the frame of the wrists' poses
    return mujoco.MjModel.from_xml_string(ET.tostring(root, encoding="unicode"))


def _forearm(root: ET.Element, robot: RobotSpec, side: str) -> list[ET.Element]:
    """Collision shapes of an arm from the elbow on."""
    links = {robot.joint(name).child for name in robot.names(f"{side}_arm") if "elbow" in name or "wrist" in name}
    return [geom for body in root.iter("body") if body.get("name") in links for geom in body.findall("geom") if geom.get("group") == "0"]


def wrist_solver(robot: RobotSpec) -> WristSolver:
    """Solver whose hands are the last links of the arms."""
    hands = {side: robot.joint(robot.names(f"{side}_arm")[-1]).child for side in ("left", "right")}
    return WristSolver(arm_model(robot), robot.names("arms"), hands)

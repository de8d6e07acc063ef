"""The cart of the push suite: 50 kg on castors, a flat plate before the hands."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np

from wbvla_core.robot import RobotSpec
from wbvla_eval.lmo.arms import ArmSide
from wbvla_sim.model import build

CART_MASS_KG = 50.0  # issue: more than 50 kg in the paper's task
ROLLING_N = 15.0  # dry friction of the castors, 0.03 of the weight, in any direction; ours
TURNING_NM = 3.0
FACE_X_M = 0.42  # the plate's face before the start: 8 cm before the fingertips
HANDS = (-0.1, 0.1, 0.15, -1.35)  # shoulder pitch, roll outward, yaw inward, elbow: both hands ahead at 0.8 m
_TOUCHES = str(build.FOOT | build.BODY | build.HAND | build.OBJECT)


def cart(root: ET.Element) -> None:
    """Add the cart to an MJCF document. It slides and turns in the plane; its height is fixed, its wheels are dry friction in the joints."""
    world = root.find("worldbody")
    assert world is not None
    length, width, height = 0.7, 0.6, 1.0
    body = ET.SubElement(world, "body", name="push_cart", pos=f"{FACE_X_M + length / 2} 0 0")
    ET.SubElement(body, "joint", name="cart_x", type="slide", axis="1 0 0", frictionloss=str(ROLLING_N))
    ET.SubElement(body, "joint", name="cart_y", type="slide", axis="0 1 0", frictionloss=str(ROLLING_N))
    ET.SubElement(body, "joint", name="cart_turn", type="hinge", axis="0 0 1", frictionloss=str(TURNING_NM))
    inertia = [CART_MASS_KG / 12 * (a**2 + b**2) for a, b in ((width, height), (length, height), (length, width))]
    ET.SubElement(body, "inertial", pos="0 0 0.45", mass=str(CART_MASS_KG), diaginertia=" ".join(f"{i:.4g}" for i in inertia))

    def box(name: str, size: tuple[float, float, float], pos: tuple[float, float, float], rgba: str) -> None:
        attributes = {"name": name, "type": "box", "size": " ".join(map(str, size)), "pos": " ".join(map(str, pos)), "rgba": rgba}
        ET.SubElement(body, "geom", attributes, contype=str(build.OBJECT), conaffinity=_TOUCHES)

    box("cart_plate", (0.01, width / 2, 0.25), (-length / 2 + 0.01, 0, 0.83), "0.2 0.35 0.6 1")
    behind = 0.15  # the plate stands out by this much, so that knees and feet have room
    box("cart_tray", (length / 2, width / 2, 0.02), (behind, 0, 0.45), "0.55 0.58 0.62 1")
    box("cart_load", (0.22, 0.2, 0.17), (behind, 0, 0.64), "0.62 0.46 0.3 1")
    for i, (x, y) in enumerate(((-1, -1), (-1, 1), (1, -1), (1, 1))):
        box(f"cart_post_{i}", (0.015, 0.015, 0.2), (behind + x * (length / 2 - 0.02), y * (width / 2 - 0.02), 0.25), "0.3 0.3 0.32 1")


def cart_hands(robot: RobotSpec) -> np.ndarray:
    """Arm targets [K] of group ``arms`` that hold both hands before the plate."""
    pose = robot.default_q[robot.indices("arms")].copy()
    for name in ("left", "right"):
        side = ArmSide(robot, name, robot.names("arms"))
        side.write(pose, np.array(HANDS), np.zeros(len(side.wrist)))
    return np.clip(pose, robot.lower[robot.indices("arms")], robot.upper[robot.indices("arms")])

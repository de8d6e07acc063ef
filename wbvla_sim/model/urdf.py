"""RobotSpec -> URDF: for robot_state_publisher, rviz, and anything else that reads kinematics and masses. No MuJoCo here.

The root is ``base_link`` (REP-105, REP-120), a link without mass in the place of the spec's root. A frame of the spec is a link of its own, under the name
that messages give as frame_id (:meth:`wbvla_core.robot.RobotSpec.frame_link`).
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Collection

import numpy as np

from wbvla_core.robot import BASE_LINK, RobotSpec
from wbvla_sim.model.rotations import align_z, rpy_from_matrix, text
from wbvla_sim.model.shapes import Shape, x2_shapes

FOOT_RADIUS_M = 0.005  # vendor's contact spheres


def robot_urdf(spec: RobotSpec) -> str:
    """URDF text of the robot; its root is ``base_link``."""
    root = ET.Element("robot", name=spec.name)
    for rgba in sorted({shape.rgba for shape in x2_shapes(spec)}):
        material = ET.SubElement(root, "material", name=_material(rgba))
        ET.SubElement(material, "color", rgba=text(rgba))
    ET.SubElement(root, "link", name=BASE_LINK)
    _fixed(root, BASE_LINK, spec.root, (0, 0, 0), (0, 0, 0))
    soles = {spec.frames["left_foot"].parent, spec.frames["right_foot"].parent}
    for link in spec.links:
        element = ET.SubElement(root, "link", name=link.name)
        inertial = ET.SubElement(element, "inertial")
        ET.SubElement(inertial, "origin", xyz=text(link.com), rpy="0 0 0")
        ET.SubElement(inertial, "mass", value=text((link.mass,)))
        keys = ("ixx", "ixy", "ixz", "iyy", "iyz", "izz")
        ET.SubElement(inertial, "inertia", dict(zip(keys, (text((v,)) for v in link.inertia), strict=True)))
        for shape in x2_shapes(spec):
            if shape.link == link.name:
                _urdf_shape(element, shape)
        if link.name in soles:
            for x, y in spec.sole.contacts:
                _urdf_geometry(element, "collision", (x, y, spec.sole.z + FOOT_RADIUS_M), np.eye(3), "sphere", {"radius": str(FOOT_RADIUS_M)})
    for joint in spec.joints:
        element = ET.SubElement(root, "joint", name=joint.name, type=joint.kind)
        ET.SubElement(element, "parent", link=joint.parent)
        ET.SubElement(element, "child", link=joint.child)
        ET.SubElement(element, "origin", xyz=text(joint.xyz), rpy=text(joint.rpy))
        ET.SubElement(element, "axis", xyz=text(joint.axis))
        ET.SubElement(
            element,
            "limit",
            lower=text((joint.lower,)),
            upper=text((joint.upper,)),
            effort=text((joint.effort_nm,)),
            velocity=text((joint.velocity_rad_s,)),
        )
        ET.SubElement(element, "dynamics", damping=text((joint.damping,)), friction=text((joint.frictionloss,)))
    for name, frame in spec.frames.items():
        ET.SubElement(root, "link", name=spec.frame_link(name))
        _fixed(root, frame.parent, spec.frame_link(name), frame.xyz, frame.rpy)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _fixed(root: ET.Element, parent: str, child: str, xyz: Collection[float], rpy: Collection[float]) -> None:
    element = ET.SubElement(root, "joint", name=f"{child}_joint", type="fixed")
    ET.SubElement(element, "parent", link=parent)
    ET.SubElement(element, "child", link=child)
    ET.SubElement(element, "origin", xyz=text(xyz), rpy=text(rpy))


def _material(rgba: tuple[float, ...]) -> str:
    return "rgb_" + "_".join(f"{round(255 * c):03d}" for c in rgba[:3])


def _urdf_shape(link: ET.Element, shape: Shape) -> None:
    """URDF has no capsules and no ellipsoids: a capsule becomes a cylinder with two balls, an ellipsoid the box inside it."""
    rotation, pos = align_z(shape.axis), np.array(shape.pos)
    if shape.kind in ("capsule", "cylinder"):
        radius, half = shape.size
        parts = [("cylinder", pos, {"radius": text((radius,)), "length": text((2 * half,))})]
        if shape.kind == "capsule":
            parts += [("sphere", pos + end * half * np.array(shape.axis), {"radius": text((radius,))}) for end in (-1, 1)]
    elif shape.kind == "sphere":
        parts = [("sphere", pos, {"radius": text(shape.size)})]
    else:
        full = 2.0 * np.array(shape.size) * (1.0 if shape.kind == "box" else 0.75)
        parts = [("box", pos, {"size": text(full)})]
    for tag in ("visual", "collision") if shape.collides else ("visual",):
        for kind, centre, attributes in parts:
            _urdf_geometry(link, tag, centre, rotation, kind, attributes, _material(shape.rgba))


def _urdf_geometry(link: ET.Element, tag: str, pos: Collection[float], rotation: np.ndarray, kind: str, attributes: dict, material: str = "") -> None:
    element = ET.SubElement(link, tag)
    ET.SubElement(element, "origin", xyz=text(pos), rpy=text(rpy_from_matrix(rotation)))
    ET.SubElement(ET.SubElement(element, "geometry"), kind, attributes)
    if tag == "visual":
        ET.SubElement(element, "material", name=material)

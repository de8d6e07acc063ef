"""RobotSpec -> MJCF, and with :mod:`wbvla_sim.model.urdf` the committed files ``x2*.xml`` and ``x2*.urdf``, from the same spec and the same shapes.

    python -m wbvla_sim.model.build            writes the files again
    robot_mjcf(spec, ...)                      the MJCF as text, lean or full
    joint_map(model, spec)                     where the spec's joints lie in qpos, qvel and ctrl

**Joint order**: MuJoCo orders qpos by the body tree, so a gripper follows its arm; the canonical order has both grippers last.
Actuators (ctrl) are in canonical order. Never index qpos by hand: use :func:`joint_map`.

**One actuator model** for training and for the world: MuJoCo ``position`` actuators that carry the driver law
tau = kp (q* - q) - kd qd clipped to the torque limit, under the ``implicitfast`` integrator. The explicit form (law evaluated
by us, torque motors) is unstable at 5 ms: a drive of 0.0031 kg m2 with kd 2 moving a wrist of 0.0008 kg m2 has kd dt / I = 2.5 > 2.
``implicitfast`` takes the velocity term implicitly, so any kd is stable, and MuJoCo leaves it out where the torque is clipped.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

from wbvla_core.console import program
from wbvla_core.robot import Joint, RobotSpec, load_robot, robot_names
from wbvla_sim import mujoco_log
from wbvla_sim.model.rotations import align_z, matrix_from_axis_angle, matrix_from_rpy, quaternion_from_matrix, text
from wbvla_sim.model.shapes import Shape, x2_shapes
from wbvla_sim.model.urdf import FOOT_RADIUS_M, robot_urdf

mujoco_log.capture()  # whoever simulates imports this module

HERE = Path(__file__).resolve().parent

TIMESTEP_S = 0.005
SLOT_STEPS = 4  # one command slot of 20 ms
SOLVER_ITERATIONS = 4  # prior work (our prototype): 4/10 keeps contacts within 1 % of the converged solver, 1/5 loses six of seven
SOLVER_LS_ITERATIONS = 10

# Collision bits (MuJoCo contype/conaffinity): what a geom is. A surface that lets them touch lists them in conaffinity.
FOOT, BODY, HAND, OBJECT = 1, 2, 4, 8
FLOOR_FRICTION = 0.8  # ours: rubber on a hard floor

# Self-collision pairs that matter for X2's motions: link against link, geoms of both (ours; all pairs would cost more than the physics).
SELF_PAIRS = {
    "legs": (
        ("left_knee_link", "right_knee_link"),
        ("left_hip_yaw_link", "right_hip_yaw_link"),
        ("left_ankle_roll_link", "right_ankle_roll_link"),
        ("left_ankle_roll_link", "right_knee_link"),
        ("right_ankle_roll_link", "left_knee_link"),
    ),
    "arms": tuple(
        (f"{side}_{arm}_link", trunk)
        for side in ("left", "right")
        for arm in ("elbow", "wrist_yaw", "wrist_roll")
        for trunk in ("torso_link", "pelvis", f"{side}_hip_roll_link", f"{side}_hip_yaw_link")
    ),
}


# --------------------------------------------------------------------------------------------------------------------- MJCF


def robot_mjcf(
    spec: RobotSpec,
    *,
    floor: bool = True,
    visuals: bool = True,
    sensors: bool = True,
    body_contacts: bool = True,
    self_collision: Collection[str] = (),
    fixed: Collection[str] = (),
    frictionloss: bool = True,
    iterations: int = SOLVER_ITERATIONS,
    ls_iterations: int = SOLVER_LS_ITERATIONS,
) -> str:
    """MJCF text of the robot, alone on a floor.

    Args:
        floor: add the ground plane and a light.
        visuals: keep the paint; collision shapes stay either way.
        sensors: IMU sensors (gyro, accelerometer, orientation) at the pelvis.
        body_contacts: let trunk, legs and arms touch floor and objects; without it only the soles touch anything.
        self_collision: which pair sets of SELF_PAIRS to add ("legs", "arms").
        fixed: joints or groups welded at their default angle (their actuators go too); rest keeps the canonical order.
        frictionloss: dry friction of the drives; each joint with it is one more row for the solver.
        iterations, ls_iterations: of the Newton solver.

    Lean model for training: ``robot_mjcf(spec, visuals=False, sensors=False, body_contacts=False, frictionloss=False, fixed=("head", "grippers"))``.
    """
    root = ET.Element("mujoco", model=spec.name)
    ET.SubElement(root, "compiler", angle="radian", autolimits="true", inertiafromgeom="false", boundmass="0")
    ET.SubElement(
        root,
        "option",
        timestep=str(TIMESTEP_S),
        integrator="implicitfast",
        solver="Newton",
        iterations=str(iterations),
        ls_iterations=str(ls_iterations),
    )
    world = ET.SubElement(root, "worldbody")
    if floor:
        ET.SubElement(world, "light", pos="0 0 4", dir="0 0 -1", diffuse="0.7 0.7 0.7", castshadow="false")
        affinity = FOOT | OBJECT | ((BODY | HAND) if body_contacts else 0)
        ET.SubElement(
            world, "geom", name="floor", type="plane", size="0 0 1", rgba="0.6 0.6 0.6 1", contype="0", conaffinity=str(affinity), friction=f"{FLOOR_FRICTION}"
        )
    add_robot(root, spec, visuals=visuals, sensors=sensors, body_contacts=body_contacts, self_collision=self_collision, fixed=fixed, frictionloss=frictionloss)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def add_robot(
    root: ET.Element,
    spec: RobotSpec,
    *,
    visuals: bool = True,
    sensors: bool = True,
    body_contacts: bool = True,
    self_collision: Collection[str] = (),
    fixed: Collection[str] = (),
    frictionloss: bool = True,
) -> None:
    """Put the robot into an MJCF document that already has a ``worldbody``. Arguments as in :func:`robot_mjcf`."""
    welded = {name for entry in fixed for name in (spec.names(entry) if entry in spec.groups else (spec.joint(entry).name,))}
    shapes: dict[str, list[Shape]] = {}
    for shape in x2_shapes(spec):
        if shape.collides or visuals:
            shapes.setdefault(shape.link, []).append(shape)
    links = {link.name: link for link in spec.links}
    children: dict[str, list[Joint]] = {}
    for joint in spec.joints:
        children.setdefault(joint.parent, []).append(joint)

    def fill(body: ET.Element, name: str) -> None:
        link = links[name]
        xx, xy, xz, yy, yz, zz = link.inertia
        ET.SubElement(body, "inertial", pos=text(link.com), mass=text((link.mass,)), fullinertia=text((xx, yy, zz, xy, xz, yz)))
        for i, shape in enumerate(shapes.get(name, ())):
            body.append(_mjcf_geom(shape, f"{name.removesuffix('_link')}_{i}", body_contacts))
        if name in (spec.frames["left_foot"].parent, spec.frames["right_foot"].parent):
            for i, (x, y) in enumerate(spec.sole.contacts):
                ET.SubElement(
                    body,
                    "geom",
                    name=f"{name.removesuffix('_link')}_sole_{i}",
                    type="sphere",
                    size=str(FOOT_RADIUS_M),
                    pos=text((x, y, spec.sole.z + FOOT_RADIUS_M)),
                    contype=str(FOOT),
                    conaffinity="0",
                    friction=f"{FLOOR_FRICTION}",
                    group="3",
                )
        for frame_name, frame in spec.frames.items():
            if frame.parent != name:
                continue
            rotation = matrix_from_rpy(frame.rpy)
            ET.SubElement(body, "site", name=frame_name, pos=text(frame.xyz), quat=text(quaternion_from_matrix(rotation)), size="0.005", group="4")
            if frame_name == "head_camera":  # MuJoCo cameras look along -z with y up: half a turn about x from the optical frame
                look = rotation @ np.diag((1.0, -1.0, -1.0))
                ET.SubElement(body, "camera", name="head", pos=text(frame.xyz), quat=text(quaternion_from_matrix(look)), fovy=str(spec.camera.fovy_deg))
        for joint in children.get(name, ()):
            rotation, offset = matrix_from_rpy(joint.rpy), np.array(joint.xyz)
            if joint.name in welded:
                if joint.kind == "revolute":
                    rotation = rotation @ matrix_from_axis_angle(joint.axis, joint.default)
                else:
                    offset = offset + rotation @ np.array(joint.axis) * joint.default
            child = ET.SubElement(body, "body", name=joint.child, pos=text(offset))
            if not np.allclose(rotation, np.eye(3)):
                child.set("quat", text(quaternion_from_matrix(rotation)))
            if joint.name not in welded:
                ET.SubElement(
                    child,
                    "joint",
                    name=joint.name,
                    type="hinge" if joint.kind == "revolute" else "slide",
                    axis=text(joint.axis),
                    range=text((joint.lower, joint.upper)),
                    armature=text((joint.armature,)),
                    damping=text((joint.damping,)),
                    frictionloss=text((joint.frictionloss if frictionloss else 0.0,)),
                )
            fill(child, joint.child)

    world = root.find("worldbody")
    if world is None:
        raise ValueError("the MJCF document must have a worldbody before a robot can be added")
    pelvis = ET.SubElement(world, "body", name=spec.root, pos=text((0, 0, spec.default_stance_height_m)))
    ET.SubElement(pelvis, "freejoint", name="root")
    fill(pelvis, spec.root)

    actuators = ET.SubElement(root, "actuator")
    for joint in spec.joints:
        if joint.name not in welded:
            ET.SubElement(
                actuators,
                "position",
                name=joint.name,
                joint=joint.name,
                kp=text((joint.kp,)),
                kv=text((joint.kd,)),
                forcerange=text((-joint.effort_nm, joint.effort_nm)),
            )
    if sensors:
        sensor = ET.SubElement(root, "sensor")
        ET.SubElement(sensor, "gyro", name="imu_gyro", site="imu")
        ET.SubElement(sensor, "accelerometer", name="imu_accelerometer", site="imu")
        ET.SubElement(sensor, "framequat", name="imu_orientation", objtype="site", objname="imu")
    pairs = [(a, b) for family in self_collision for a, b in SELF_PAIRS[family]]
    if pairs:
        contact = ET.SubElement(root, "contact")
        names = {link: [g.get("name") for g in body.findall("geom") if _solid(g)] for body in root.iter("body") if (link := body.get("name"))}
        for a, b in pairs:
            for geom_a in names[a]:
                for geom_b in names[b]:
                    ET.SubElement(contact, "pair", geom1=geom_a, geom2=geom_b, condim="1")


def _solid(geom: ET.Element) -> bool:
    """Whether a geom takes part in self-collision: collision shapes, and the sole's plate instead of its contact points."""
    return geom.get("group") in ("0", "1") and not geom.get("name", "").endswith(PAINT)


PAINT = "_paint"


def _mjcf_geom(shape: Shape, name: str, body_contacts: bool) -> ET.Element:
    """One shape as a geom: group 0 collides, group 1 is paint."""
    plate = shape.kind == "box" and shape.link.endswith("ankle_roll_link")
    geom = ET.Element("geom", name=name if shape.collides or plate else name + PAINT, type=shape.kind, pos=text(shape.pos), size=text(shape.size))
    if shape.kind in ("capsule", "cylinder") and tuple(shape.axis) != (0.0, 0.0, 1.0):
        geom.set("quat", text(quaternion_from_matrix(align_z(shape.axis))))
    bits = (HAND if shape.hand else BODY) if shape.collides and body_contacts else 0
    geom.set("rgba", text(shape.rgba))
    geom.set("contype", str(bits))
    geom.set("conaffinity", "0")
    geom.set("group", "0" if shape.collides else "1")
    return geom


@dataclass(frozen=True)
class JointMap:
    """Addresses of the spec's joints in a compiled model; welded joints are left out.

    Attributes:
        canonical: indices into the spec's joint order [P].
        qpos, dof, ctrl: addresses of the same joints in qpos, qvel and ctrl [P].
    """

    canonical: np.ndarray
    qpos: np.ndarray
    dof: np.ndarray
    ctrl: np.ndarray


def joint_map(model: mujoco.MjModel, spec: RobotSpec) -> JointMap:
    """Find the spec's joints in a model that holds the robot."""
    rows = []
    for i, name in enumerate(spec.joint_names):
        joint = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, name)
        if joint >= 0:
            actuator = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_ACTUATOR, name)
            rows.append((i, model.jnt_qposadr[joint], model.jnt_dofadr[joint], actuator))
    if not rows:
        raise ValueError(f"the model has none of the joints of robot {spec.name!r}; build it with add_robot")
    return JointMap(*np.array(rows, dtype=np.intp).T)


def generated_files() -> dict[Path, str]:
    """Path and text of every committed file that this module generates."""
    files = {}
    for name in robot_names():
        spec = load_robot(name)
        files |= {HERE / f"{name}.xml": robot_mjcf(spec), HERE / f"{name}.urdf": robot_urdf(spec)}
    return files


def main() -> None:
    for path, content in generated_files().items():
        path.write_text(content)
        print(f"wrote {path.name}")


if __name__ == "__main__":
    program(main)

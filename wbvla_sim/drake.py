"""The robot on a bare floor in Drake, behind the same slots: does a leg policy that grew up in MuJoCo walk in another engine?

Drake is asked for by nothing else (``pip install 'wbvla[drake]'``). It reads the same URDF; its equations of motion, integrator and contact solver are its
own: compliant point contacts with convex friction (SAP's lagged approximation) and joint limits as stiff springs. The driver's law acts explicitly at
every step, as in a motor controller, and dry friction, which Drake lacks, is part of it. Nothing but the soles' contact points touches anything.
"""

from __future__ import annotations

import logging
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Any

import numpy as np

from wbvla_core.errors import WbvlaError
from wbvla_core.robot import BASE_LINK, RobotSpec
from wbvla_core.types import RobotState
from wbvla_sim.driver import MotorLaw
from wbvla_sim.model.build import TIMESTEP_S
from wbvla_sim.model.urdf import robot_urdf
from wbvla_sim.slots import SlotOptions, SlotWorld, diverged, fallen

CONTACT_RADIUS_M = 0.005  # of the sphere at each contact point, lowest point in the sole's plane


@dataclass(frozen=True)
class DrakeOptions(SlotOptions):
    """How the world is simulated.

    Attributes:
        step_s: of the discrete solver; a whole part of 5 ms. The law of the lightest joint (kd 2, armature 0.003) needs 2 ms or less.
        friction: of sole on floor.
        approximation: of Drake's contact solver: lagged, similar, sap, tamsi.
    """

    step_s: float = 0.001
    friction: float = 0.8
    approximation: str = "lagged"


class DrakeWorld(SlotWorld):
    """Drake's physics of one robot. See the module text.

    Raises:
        WbvlaError: Drake is not installed.
        ValueError: a step that does not divide 5 ms.
    """

    def __init__(self, robot: RobotSpec, *, options: DrakeOptions | None = None) -> None:
        o = options or DrakeOptions()
        super().__init__(robot, o)
        self._steps = round(TIMESTEP_S / o.step_s)
        if self._steps < 1 or abs(self._steps * o.step_s - TIMESTEP_S) > 1e-9:
            raise ValueError(f"step_s must divide {TIMESTEP_S} s, got {o.step_s}")
        self._simulator, self.plant = build_plant(robot, o)
        plant, names = self.plant, robot.joint_names
        self._context = plant.GetMyMutableContextFromRoot(self._simulator.get_mutable_context())
        self._pelvis = plant.GetBodyByName(robot.root)
        joints = [plant.GetJointByName(name) for name in names]
        self._q, self._v = (np.array([f(j) for j in joints]) for f in (lambda j: j.position_start(), lambda j: j.velocity_start()))
        self._u = np.array([plant.GetJointActuatorByName(name).input_start() for name in names])
        self._friction = np.array([j.frictionloss for j in robot.joints])
        self._stopping = np.array([j.armature for j in robot.joints]) / o.step_s  # what a dry friction may do in one step without turning the joint round
        self.reset(0)

    @property
    def time_s(self) -> float:
        return self._count * self.options.step_s

    def _restart(self) -> None:
        from pydrake.math import RigidTransform

        plant, context = self.plant, self._context
        self._simulator.get_mutable_context().SetTime(0.0)
        q = np.zeros(plant.num_positions())
        q[self._q] = self.robot.default_q
        plant.SetPositions(context, q)
        plant.SetFreeBodyPose(context, self._pelvis, RigidTransform((0.0, 0.0, self.robot.default_stance_height_m)))
        plant.SetVelocities(context, np.zeros(plant.num_velocities()))
        self._count = 0
        self._torque(np.zeros(self.robot.joint_count))
        self._simulator.Initialize()

    def _advance(self, law: MotorLaw) -> None:
        if self.fault:
            self._count += self._steps
            return
        sound = self.plant.GetPositionsAndVelocities(self._context).copy()
        try:
            self._integrate(law)
            state = self.plant.GetPositionsAndVelocities(self._context)
            nq = self.plant.num_positions()
            broke = "absurd velocities" if diverged(state[:nq], state[nq:]) else ""
        except RuntimeError as error:  # Drake's solver does not converge
            broke = str(error).splitlines()[0]
        if broke:
            sound[self.plant.num_positions() :] = 0.0
            self.plant.SetPositionsAndVelocities(self._context, sound)
            self._diverge(f"Drake: {broke}")

    def _integrate(self, law: MotorLaw) -> None:
        for _ in range(self._steps):
            q, qd = self.plant.GetPositions(self._context)[self._q], self.plant.GetVelocities(self._context)[self._v]
            self._torque(law.torque(q, qd, self.robot) - np.clip(self._stopping * qd, -self._friction, self._friction))
            self._count += 1
            self._simulator.AdvanceTo(self._count * self.options.step_s)

    def _torque(self, torque_nm: np.ndarray) -> None:
        u = np.empty(len(self._u))
        u[self._u] = torque_nm
        self.plant.get_actuation_input_port().FixValue(self._context, u)

    def _measure(self) -> RobotState:
        plant, context = self.plant, self._context
        turn = plant.EvalBodyPoseInWorld(context, self._pelvis).rotation().matrix()
        gyro = turn.T @ plant.EvalBodySpatialVelocityInWorld(context, self._pelvis).rotational()
        return RobotState(self.time_s, plant.GetPositions(context)[self._q], plant.GetVelocities(context)[self._v], gyro, -turn[2])

    def push(self, velocity_m_s: np.ndarray) -> None:
        from pydrake.multibody.math import SpatialVelocity

        now = self.plant.EvalBodySpatialVelocityInWorld(self._context, self._pelvis)
        pushed = SpatialVelocity(now.rotational(), now.translational() + np.append(velocity_m_s, 0.0))
        self.plant.SetFreeBodySpatialVelocity(self._context, self._pelvis, pushed)

    def truth(self) -> dict[str, Any]:
        """What only the simulator knows: time_s, pelvis_xyz [3] m, yaw_rad, tilt_rad, velocity_xyz [3] m/s, fallen."""
        pose = self.plant.EvalBodyPoseInWorld(self._context, self._pelvis)
        turn, xyz = pose.rotation().matrix(), pose.translation().copy()
        tilt = float(np.arccos(np.clip(turn[2, 2], -1.0, 1.0)))
        return {
            "time_s": self.time_s,
            "pelvis_xyz": xyz,
            "yaw_rad": float(np.arctan2(turn[1, 0], turn[0, 0])),
            "tilt_rad": tilt,
            "velocity_xyz": self.plant.EvalBodySpatialVelocityInWorld(self._context, self._pelvis).translational().copy(),
            "fallen": fallen(tilt, xyz[2]),
        }


def build_plant(robot: RobotSpec, options: DrakeOptions) -> tuple[Any, Any]:
    """(simulator, plant) of the robot over a half-space; collisions are the soles' contact points alone."""
    try:
        from pydrake.geometry import HalfSpace, Sphere
        from pydrake.math import RigidTransform
        from pydrake.multibody.parsing import Parser
        from pydrake.multibody.plant import AddMultibodyPlantSceneGraph, CoulombFriction, DiscreteContactApproximation
        from pydrake.systems.analysis import Simulator
        from pydrake.systems.framework import DiagramBuilder
    except ModuleNotFoundError as error:
        raise WbvlaError(f"this engine needs Drake, which is not installed ({error}): pip install 'wbvla[drake]' -c requirements/pins.txt") from error
    approximations = {name.removeprefix("k").lower(): kind for name, kind in DiscreteContactApproximation.__members__.items()}
    if options.approximation not in approximations:
        raise ValueError(f"approximation must be one of {sorted(approximations)}, got {options.approximation!r}")
    logging.getLogger("drake").setLevel(logging.ERROR)  # it warns that half-spaces do not touch deformable bodies, of which there are none
    builder = DiagramBuilder()
    plant, _ = AddMultibodyPlantSceneGraph(builder, options.step_s)
    Parser(plant).AddModelsFromString(bare_urdf(robot), "urdf")
    for joint in robot.joints:
        actuator = plant.AddJointActuator(joint.name, plant.GetJointByName(joint.name))
        actuator.set_default_rotor_inertia(joint.armature)
        actuator.set_default_gear_ratio(1.0)  # the spec's armature is seen from the joint
    friction = CoulombFriction(options.friction, options.friction)
    for frame in ("left_foot", "right_foot"):
        foot = plant.GetBodyByName(robot.frames[frame].parent)
        for i, (x, y) in enumerate(robot.sole.contacts):
            place = RigidTransform((x, y, robot.sole.z + CONTACT_RADIUS_M))
            plant.RegisterCollisionGeometry(foot, place, Sphere(CONTACT_RADIUS_M), f"{frame}_{i}", friction)
    plant.RegisterCollisionGeometry(plant.world_body(), RigidTransform(), HalfSpace(), "floor", friction)
    plant.set_discrete_contact_approximation(approximations[options.approximation])
    plant.Finalize()
    return Simulator(builder.Build()), plant


def bare_urdf(robot: RobotSpec) -> str:
    """The robot's URDF from the pelvis on (Drake's free body has mass), without shapes, nor the joint friction that Drake would only warn of."""
    root = ET.fromstring(robot_urdf(robot))
    for element in (*root.findall(f"link[@name='{BASE_LINK}']"), *root.findall(f"joint/parent[@link='{BASE_LINK}']/..")):
        root.remove(element)
    for link in root.findall("link"):
        for shape in (*link.findall("visual"), *link.findall("collision")):
            link.remove(shape)
    for joint in root.findall("joint"):
        if (dynamics := joint.find("dynamics")) is not None:
            dynamics.attrib.pop("friction", None)
    return ET.tostring(root, encoding="unicode")

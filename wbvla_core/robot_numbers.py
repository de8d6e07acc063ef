"""Which numbers of a robot spec each kind of checkpoint depends on, in one table.

A checkpoint depends on a number where the code that runs it reads the number: to build the network's inputs, to scale its outputs,
or to hold what the network counts on (the gains of legs and waist, the camera's place). Its manifest keeps these numbers, and a spec
that has others is refused: the network would go on with numbers that it was not trained with, and nothing would look wrong.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from wbvla_core.robot import RobotSpec

EVERY = "*"
TOLERANCE = 1e-6  # of a number: what JSON and YAML round is far below
SHOWN = 4  # differences that a message lists

_BODY = {"lmo": (EVERY,)}  # the reference gait solves the legs and weighs the whole tree
_LEGS = {"lmo": ("lmo_action",)}
_CAMERA = {"vla": (EVERY,), "policy": (EVERY,)}

# Entry of the spec -> kind of checkpoint -> whose: group names for joints, names for groups and frames, EVERY for all.
# An entry that nobody depends on has an empty table, and the reason beside it. A test holds that every field of RobotSpec is here.
DEPENDS: dict[str, dict[str, tuple[str, ...]]] = {
    "name": {},  # compared for every kind, with version and joint order: see checkpoint.require_robot
    "version": {},
    "root": _BODY,
    "joints.kind": _BODY,
    "joints.parent": _BODY,
    "joints.child": _BODY,
    "joints.xyz": _BODY,
    "joints.rpy": _BODY,
    "joints.axis": _BODY,
    "joints.lower": {"lmo": ("lmo_action",), "policy": ("upper_body",)},  # arms: the scaling's half range
    "joints.upper": {"lmo": ("lmo_action",), "policy": ("upper_body",)},
    "joints.effort_nm": _LEGS,  # the action's scale
    "joints.velocity_rad_s": {},  # of the simulated drive, and a ceiling for arm targets
    "joints.armature": {},  # of the simulated drive
    "joints.damping": {},
    "joints.frictionloss": {},
    "joints.kp": {"lmo": ("lmo_action", "waist")},  # the action's scale and the sag of the legs; what the trunk stands on
    "joints.kd": {"lmo": ("lmo_action", "waist")},
    "joints.default": {"lmo": (EVERY,), "policy": ("upper_body", "head"), "vla": ("head",)},  # arms: the scaling's centre; head: where the camera looks
    "links.mass": _BODY,
    "links.com": _BODY,
    "links.inertia": {},  # of the simulated body
    "groups": {
        "lmo": ("lmo_action", "left_leg", "right_leg", "waist", "arms", "left_arm", "right_arm", "upper_body"),
        "policy": ("upper_body", "head"),
        "vla": ("head",),
    },
    "frames.parent": {"vla": ("head_camera",), "policy": ("head_camera",)},  # the picture's point of view; other frames are for people and tf
    "frames.xyz": {"vla": ("head_camera",), "policy": ("head_camera",)},
    "frames.rpy": {"vla": ("head_camera",), "policy": ("head_camera",)},
    "camera.width": _CAMERA,
    "camera.height": _CAMERA,
    "camera.fovy_deg": _CAMERA,
    "camera.rate_hz": {},  # a policy takes the newest picture
    "sole.z": _BODY,
    "sole.x_min": _BODY,
    "sole.x_max": _BODY,
    "sole.width": {},  # of the simulated foot
    "sole.contacts": _BODY,
    "stance_height_range_m": {"lmo": (EVERY,), "policy": (EVERY,)},
    "default_stance_height_m": {"lmo": (EVERY,), "policy": (EVERY,)},
    "torque_speed_knee": {},  # of the simulated drive
}


def entries(robot: RobotSpec) -> dict[tuple[str, str], Any]:
    """Every value of a spec: (entry of :data:`DEPENDS`, whose) -> value; whose is EVERY where the robot has one of it."""
    found: dict[tuple[str, str], Any] = {}
    for field in fields(robot):
        value = getattr(robot, field.name)
        if field.name in ("joints", "links"):
            owners = {part.name: part for part in value}
        elif isinstance(value, dict):
            owners = value
        else:
            owners = {EVERY: value}
        for owner, part in owners.items():
            if not is_dataclass(part):
                found[field.name, owner] = part
                continue
            for inner in fields(part):
                if inner.name != "name":
                    found[f"{field.name}.{inner.name}", owner] = getattr(part, inner.name)
    return found


def numbers_of(robot: RobotSpec, kind: str | None = None) -> dict[str, Any]:
    """What a checkpoint of this kind depends on (None: everything in the spec), as JSON: ``joints.kp.left_knee_joint`` -> value."""
    found = {}
    for (entry, owner), value in entries(robot).items():
        whose = (EVERY,) if kind is None else DEPENDS[entry].get(kind, ())
        members = {name for group in whose for name in robot.groups.get(group, ())} if entry.startswith("joints.") else set(whose)
        if EVERY in whose or owner in members:
            found[entry if owner == EVERY else f"{entry}.{owner}"] = _plain(value)
    return found


def differences(made: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """What of ``made`` a spec has otherwise, a phrase each. Numbers that ``made`` lacks were not recorded and are not compared."""
    found = []
    for name, value in made.items():
        if name not in here:
            found.append(f"{name} is {value} in the checkpoint and not in the robot spec")
        elif not same(value, here[name]):
            found.append(f"{name} is {value} in the checkpoint and {here[name]} in the robot spec")
    return found


def same(made: Any, here: Any) -> bool:
    """Whether two values from JSON are the same, numbers up to :data:`TOLERANCE`."""
    if made == here:
        return True
    try:
        a, b = np.asarray(made, dtype=float), np.asarray(here, dtype=float)
    except (TypeError, ValueError):
        return made == here
    return a.shape == b.shape and bool(np.all(np.abs(a - b) <= TOLERANCE))


def listed(found: list[str]) -> str:
    """The first few of some differences, for a message."""
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + more


def _plain(value: Any) -> Any:
    return [_plain(part) for part in value] if isinstance(value, (tuple, list)) else value

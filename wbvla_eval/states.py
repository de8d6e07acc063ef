"""Simulator states -> :class:`~wbvla_eval.trace.Trace`: truth from recorded qpos and qvel, by forward kinematics.

The one way from states to truth, for lock-step logs and for bags: the scene's model is compiled again from its seed, and
nothing that the episode itself computed is trusted.
"""

from __future__ import annotations

import mujoco
import numpy as np

from wbvla_core.robot import RobotSpec
from wbvla_eval.trace import Trace
from wbvla_sim.scene import Scene, to_mjcf

SIDES = ("left", "right")


def _sites(model: mujoco.MjModel, names: list[str]) -> list[int]:
    ids = [mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, name) for name in names]
    if min(ids) < 0:
        raise ValueError(f"the model lacks one of the sites {names}; was it built by wbvla_sim.scene.to_mjcf?")
    return ids


def _objects_touched(model: mujoco.MjModel, data: mujoco.MjData) -> set[str]:
    """Names of world geoms other than the floor that something of the robot touches."""
    names = set()
    for contact in data.contact:
        for geom, other in (contact.geom, contact.geom[::-1]):
            # body 0 is the room; furniture hangs on bodies of its own, without joints
            if model.body_weldid[model.geom_bodyid[geom]] == 0 and model.body_weldid[model.geom_bodyid[other]] != 0:
                name = model.geom(geom).name or model.body(model.geom_bodyid[geom]).name
                names |= {name} - {"floor"}
    return names


def trace_from_states(
    robot: RobotSpec,
    scene: Scene,
    time_s: np.ndarray,
    qpos: np.ndarray,
    qvel: np.ndarray,
    command: np.ndarray,
    *,
    model: mujoco.MjModel | None = None,
    view_every: int = 5,
) -> Trace:
    """Compute what the body did.

    Args:
        time_s: [N] from the start of the task.
        qpos, qvel: [N, nq], [N, nv] of the scene's model.
        command: [N, 4] LocoCommand in force.
        model: the scene's compiled model, if it is at hand.
        view_every: views and contacts are computed for every so many samples and views are held between (10 Hz images, 50 Hz states).

    Raises:
        ValueError: states of another model.
    """
    model = model or to_mjcf(robot, scene)
    if np.shape(qpos)[1:] != (model.nq,) or np.shape(qvel)[1:] != (model.nv,):
        raise ValueError(
            f"states must have {model.nq} positions and {model.nv} velocities as the model of scene {scene.kind} {scene.seed}, "
            f"got {np.shape(qpos)} and {np.shape(qvel)}; were they recorded with another robot spec?"
        )
    data = mujoco.MjData(model)
    pelvis = model.body(robot.root).id
    feet = _sites(model, [f"{side}_foot" for side in SIDES])
    hands = [model.body(robot.joint(robot.names(f"{side}_gripper")[0]).child).id for side in SIDES]
    camera = model.camera("head").id
    tan_y = np.tan(np.radians(model.cam_fovy[camera]) / 2.0)
    tan_x = tan_y * robot.camera.width / robot.camera.height
    centres = np.array([box.xyz for box in scene.boxes]).reshape(-1, 3)

    n = len(time_s)
    xyz, rotation = np.zeros((n, 3)), np.zeros((n, 3, 3))
    sole_z, hand_xyz = np.zeros(n), np.zeros((n, len(SIDES), 3))
    seen = np.zeros((n, len(centres)), dtype=bool)
    touched: dict[str, float] = {}
    for i in range(n):
        data.qpos[:] = qpos[i]
        mujoco.mj_kinematics(model, data)
        xyz[i], rotation[i] = data.xpos[pelvis], data.xmat[pelvis].reshape(3, 3)
        sole_z[i] = data.site_xpos[feet, 2].min()
        hand_xyz[i] = data.xpos[hands]
        if i % view_every:
            seen[i] = seen[i - 1]
            continue
        mujoco.mj_fwdPosition(model, data)  # contacts and the camera's pose
        for name in _objects_touched(model, data):
            touched.setdefault(name, float(time_s[i]))
        local = (centres - data.cam_xpos[camera]) @ data.cam_xmat[camera].reshape(3, 3)  # x right, y up, z behind
        depth = np.maximum(-local[:, 2], 1e-9)
        seen[i] = (local[:, 2] < 0) & (np.abs(local[:, 0]) <= tan_x * depth) & (np.abs(local[:, 1]) <= tan_y * depth)

    yaw = np.unwrap(np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0]))
    cos, sin = np.cos(yaw), np.sin(yaw)
    linear = qvel[:, :3]  # world frame
    angular = np.einsum("nij,nj->ni", rotation, qvel[:, 3:6])  # body frame -> world frame
    offset = hand_xyz - xyz[:, None]  # [N, side, 3]
    level = np.stack(
        (cos[:, None] * offset[..., 0] + sin[:, None] * offset[..., 1], -sin[:, None] * offset[..., 0] + cos[:, None] * offset[..., 1], offset[..., 2]), -1
    )
    return Trace(
        time_s=np.asarray(time_s, dtype=np.float64),
        xyz=xyz,
        yaw=yaw,
        tilt_rad=np.arccos(np.clip(rotation[:, 2, 2], -1.0, 1.0)),
        stance_height_m=xyz[:, 2] - sole_z,
        velocity=np.stack((cos * linear[:, 0] + sin * linear[:, 1], -sin * linear[:, 0] + cos * linear[:, 1], angular[:, 2]), axis=-1),
        command=np.asarray(command, dtype=np.float64),
        hands={side: level[:, i] for i, side in enumerate(SIDES)},
        boxes=scene.boxes,
        in_view={b.color: seen[:, i] for i, b in enumerate(scene.boxes)},
        touched=touched,
    )

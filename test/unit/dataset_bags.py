"""Small recordings for tests: a robot that turns in front of a textured wall, as our recorder (or somebody else's) would write it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from wbvla_cli.record import typestore
from wbvla_core.robot import load_robot

START_S = 1_700_000_000.0
STORE = typestore()
TYPES = STORE.types
PX_PER_RAD = 120.0


def header(stamp_s: float, frame: str = ""):
    micros = round(stamp_s * 1e6)
    stamp = TYPES["builtin_interfaces/msg/Time"](sec=micros // 1_000_000, nanosec=micros % 1_000_000 * 1000)
    return TYPES["std_msgs/msg/Header"](stamp=stamp, frame_id=frame)


def yaw_rate(t: float) -> float:
    """rad/s: two frequencies, so that a shift of time is seen."""
    return 0.9 * np.sin(2 * np.pi * 0.63 * t) + 0.6 * np.sin(2 * np.pi * 0.37 * t + 1.0)


def yaw(t: float) -> float:
    return -0.9 / (2 * np.pi * 0.63) * np.cos(2 * np.pi * 0.63 * t) - 0.6 / (2 * np.pi * 0.37) * np.cos(2 * np.pi * 0.37 * t + 1.0)


def wall(seed: int = 0) -> np.ndarray:
    """Grey patches of 8 px [96, 1200, 3] uint8."""
    noise = np.repeat(np.random.default_rng(seed).uniform(0, 255, (12, 150, 1)), 3, 2)
    return np.repeat(np.repeat(noise, 8, 0), 8, 1).astype(np.uint8)


def write_bag(
    path: Path,
    *,
    seconds: float = 6.0,
    camera_skew_s: float = 0.0,
    instruction: str | None = "turn left",
    robot: str = "x2",
    plugin: StoragePlugin = StoragePlugin.MCAP,
    names: tuple[str, ...] | None = None,
    topics: dict[str, str] | None = None,
    skip: tuple[str, ...] = (),
    jump_at_s: float = 1e9,
    flags: int = 1,
    legs_move: bool = True,
    seed: int = 0,
) -> Path:
    """A rosbag2 folder at ``path``: 10 Hz images, 200 Hz states, 50 Hz commands, 10 Hz decisions."""
    spec = load_robot(robot)
    names = names or spec.joint_names
    q0, legs = spec.default_q, spec.indices("legs")
    topic = {
        "image": "/wbvla/camera/image_raw", "joints": "/wbvla/robot/joint_states", "imu": "/wbvla/robot/imu",
        "command": "/wbvla/lmo/joint_command", "loco": "/wbvla/vla/loco_command", "safety": "/wbvla/lmo/safety_state",
    } | (topics or {})  # fmt: skip
    kinds = {
        "image": "sensor_msgs/msg/Image", "joints": "sensor_msgs/msg/JointState", "imu": "sensor_msgs/msg/Imu", "command": "wbvla_msgs/msg/JointCommand",
        "loco": "wbvla_msgs/msg/LocoCommand", "safety": "wbvla_msgs/msg/SafetyState",
    }  # fmt: skip
    texture = wall(seed)
    vector, quaternion = TYPES["geometry_msgs/msg/Vector3"], TYPES["geometry_msgs/msg/Quaternion"]

    def pose(t: float) -> tuple[np.ndarray, np.ndarray]:
        q, qd = q0.copy(), np.zeros_like(q0)
        if legs_move:
            q[legs] += 0.2 * np.sin(2 * np.pi * 1.5 * t)
            qd[legs] = 0.2 * 2 * np.pi * 1.5 * np.cos(2 * np.pi * 1.5 * t)
        return q, qd

    def message(key: str, t: float):
        at = START_S + t - (3.0 if t > jump_at_s else 0.0)
        q, qd = pose(t)
        if key == "image":
            left = int(round(560 - PX_PER_RAD * yaw(t)))
            rows = np.ascontiguousarray(texture[:, left : left + 128])
            return TYPES[kinds[key]](header=header(at + camera_skew_s), height=96, width=128, encoding="rgb8", is_bigendian=0, step=384, data=rows.ravel())
        if key == "joints":
            return TYPES[kinds[key]](header=header(at), name=list(names), position=q[: len(names)], velocity=qd[: len(names)], effort=np.zeros(0))
        if key == "imu":
            zero = np.zeros(9)
            return TYPES[kinds[key]](
                header=header(at), orientation=quaternion(x=0.0, y=0.0, z=0.0, w=1.0), orientation_covariance=zero,
                angular_velocity=vector(x=0.0, y=0.0, z=yaw_rate(t)), angular_velocity_covariance=zero,
                linear_acceleration=vector(x=0.0, y=0.0, z=9.81), linear_acceleration_covariance=zero,
            )  # fmt: skip
        if key == "command":
            gains = np.ones(len(names))
            return TYPES[kinds[key]](
                header=header(at), name=list(names), position=q[: len(names)], velocity=gains, effort=gains, stiffness=gains, damping=gains
            )
        if key == "loco":
            return TYPES[kinds[key]](header=header(at + camera_skew_s), forward=0, lateral=0, yaw=flags, stance_height_m=0.62)
        return TYPES[kinds[key]](header=header(at), state=0, code=0, reason="", source="vla", command_age_s=0.0, image_age_s=0.0, dropped_messages=0)

    rates = {"image": 10, "joints": 200, "imu": 200, "command": 50, "loco": 10, "safety": 10}
    rows = []
    for key, rate in rates.items():
        if key not in skip:
            delay = {"image": 0.008, "loco": 0.03}.get(key, 0.001)
            rows += [(i / rate + delay, key, i / rate) for i in range(int(seconds * rate))]
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        connections = {key: writer.add_connection(topic[key], kinds[key], typestore=STORE) for key in rates if key not in skip}
        for arrival, key, t in sorted(rows):
            data = STORE.serialize_cdr(message(key, t), kinds[key])
            writer.write(connections[key], int((START_S + arrival) * 1e9), data)
    if instruction is not None:
        (path / "episode.json").write_text(json.dumps({"instruction": instruction}))
    return path

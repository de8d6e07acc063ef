"""Columns of a data set, named and sized by the robot spec, in the terms of LeRobot v3's ``meta/info.json``.

Per frame (10 Hz, the clock is the camera's):

    observation.images.head   the camera's image
    observation.state         joint positions [J] · observation.velocity [J], rad/s · both nearest to the image by stamp
    observation.imu           angular velocity and gravity direction in the pelvis frame [6]
    observation.stamp_s       the image's true stamp since the episode's first (``timestamp`` is frame_index / fps, as lerobot wants it;
                              lerobot hands out float32, in which a second since 1970 would be lost)
    observation.skew_s        stamps of joint state and IMU minus the image's [2]
    action                    upper-body and waist targets at the end of the frame, then flags and stance height
    command.position          what all motors were told in the five 20 ms steps of the frame [5 J], step after step
"""

from __future__ import annotations

from typing import Any

import numpy as np

from wbvla_core.robot import RobotSpec

VERSION = "v3.0"
CHUNK_FILES = 1000  # per chunk folder (lerobot's default)
DATA_FILE_BYTES = 100_000_000
VIDEO_FILE_BYTES = 200_000_000
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
CAMERA = "observation.images.head"
STEPS = 5  # 50 Hz commands in a 10 Hz frame
LOCO = ("forward", "lateral", "yaw", "stance_height_m")
IMU = ("gyro_x", "gyro_y", "gyro_z", "gravity_x", "gravity_y", "gravity_z")
COUNTERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")


def action_joints(robot: RobotSpec) -> tuple[str, ...]:
    """Joints of the action: arms, grippers, waist (those that the robot has)."""
    return (*robot.names("upper_body"), *robot.groups.get("waist", ()))


def _vector(names: tuple[str, ...], dtype: str = "float32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [len(names)], "names": list(names)}


def columns(robot: RobotSpec) -> dict[str, dict[str, Any]]:
    """The features of our own recordings but for images and counters."""
    joints = robot.joint_names
    return {
        "observation.state": _vector(joints),
        "observation.velocity": _vector(joints),
        "observation.imu": _vector(IMU),
        "observation.stamp_s": _vector(("stamp_s",), "float64"),
        "observation.skew_s": _vector(("joint_states", "imu")),
        "action": _vector((*action_joints(robot), *LOCO)),
        "command.position": _vector(tuple(f"step{i}.{name}" for i in range(STEPS) for name in joints)),
    }


def counters() -> dict[str, dict[str, Any]]:
    """The five columns that lerobot adds to every data set."""
    integer = {name: {"dtype": "int64", "shape": [1], "names": None} for name in COUNTERS[1:]}
    return {"timestamp": {"dtype": "float32", "shape": [1], "names": None}} | integer


def camera_feature(height: int, width: int, fps: float) -> dict[str, Any]:
    """An image column that is stored as video."""
    pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"  # as the encoder chooses
    info = {
        "video.height": height, "video.width": width, "video.channels": 3, "video.fps": fps, "video.codec": "h264",
        "video.pix_fmt": pix_fmt, "video.is_depth_map": False, "has_audio": False,
    }  # fmt: skip
    return {"dtype": "video", "shape": [height, width, 3], "names": ["height", "width", "channels"], "info": info}


def names_of(feature: dict[str, Any]) -> list[str]:
    """Names of a vector's entries, whichever way they were written: a list, a list in a list, or {"axes": list}; numbers where there are none."""
    names = feature.get("names")
    if isinstance(names, dict):
        names = [name for part in names.values() for name in (part if isinstance(part, (list, tuple)) else [part])]
    if names and isinstance(names[0], (list, tuple)):
        names = [name for part in names for name in part]
    size = int(np.prod(feature["shape"]))
    return [str(name) for name in names] if names and len(names) == size else [str(i) for i in range(size)]


def whole(fps: float) -> float | int:
    """lerobot writes whole rates as integers."""
    return int(fps) if float(fps).is_integer() else float(fps)

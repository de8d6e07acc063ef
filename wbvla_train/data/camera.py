"""What geometry needs to know of a camera: field of view and pitch.

Action-free video comes from many cameras. Where a clip's sidecar states them (a GoPro or RealSense knows its lens, its
accelerometer knows gravity; the robot's are in its spec), both latent action models are given the viewing ray of every
pixel in a *level frame* (x forward, y left, z up, turned with the camera's heading but not with its pitch), so that
"forward" means the same for a head looking 10 deg down and a robot looking 40 deg down.
Source: ours (the cure that the prototype's failure asked for: stance did not transfer between pitches).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from wbvla_core.robot import RobotSpec


@dataclass(frozen=True)
class CameraView:
    """A pinhole camera without roll.

    Attributes:
        fovy_deg: vertical field of view of the source image, deg.
        aspect: width / height of the *source* image; the model's square image is a squash of it (resize-naive).
        pitch_deg: optical axis below the horizontal, deg (looking down is positive).
    """

    fovy_deg: float = 70.0
    aspect: float = 4.0 / 3.0
    pitch_deg: float = 20.0

    def __post_init__(self) -> None:
        if not 5.0 <= self.fovy_deg <= 150.0:
            raise ValueError(f"CameraView.fovy_deg must lie in [5, 150] deg, got {self.fovy_deg}; is it in rad, or the horizontal one?")
        if not 0.2 <= self.aspect <= 5.0:
            raise ValueError(f"CameraView.aspect (width / height) must lie in [0.2, 5], got {self.aspect}")
        if not -90.0 <= self.pitch_deg <= 90.0:
            raise ValueError(f"CameraView.pitch_deg must lie in [-90, 90] deg, got {self.pitch_deg}")

    @property
    def tangents(self) -> tuple[float, float]:
        """Tangents of half the horizontal and half the vertical field of view."""
        tan_y = float(np.tan(np.deg2rad(self.fovy_deg) / 2.0))
        return tan_y * self.aspect, tan_y

    def as_array(self) -> np.ndarray:
        """[3] float32 (tan_x, tan_y, pitch_rad): the form that the models take."""
        return np.array((*self.tangents, np.deg2rad(self.pitch_deg)), dtype=np.float32)

    def to_json(self) -> dict[str, float]:
        """For a clip's sidecar or a manifest."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any] | None) -> CameraView:
        """From a sidecar; a clip without a camera entry gets the middle of the human range (70 deg, 4:3, 20 deg down)."""
        return CameraView() if value is None else CameraView(**value)


def level_from_camera(pitch_rad: float) -> np.ndarray:
    """[3, 3] rotation from optical axes (x right, y down, z ahead) to the level frame (x forward, y left, z up)."""
    s, c = np.sin(pitch_rad), np.cos(pitch_rad)
    return np.array(((0.0, -s, c), (-1.0, 0.0, 0.0), (0.0, -c, -s)))


def robot_view(robot: RobotSpec) -> CameraView:
    """The robot's head camera, the link that carries it upright."""
    roll, pitch, _ = robot.frames["head_camera"].rpy
    down = np.arcsin(np.clip(-np.cos(pitch) * np.cos(roll), -1.0, 1.0))  # optical z against the link's z
    return CameraView(round(robot.camera.fovy_deg, 3), round(robot.camera.width / robot.camera.height, 5), round(float(np.rad2deg(down)), 2))

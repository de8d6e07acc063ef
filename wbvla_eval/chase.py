"""Where the onlooker's camera stands: behind the robot's shoulder, the whole robot and the box in the picture, nothing in between."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from wbvla_eval.trace import Trace
from wbvla_sim.scene import Scene

SIDE_DEG = (38.0, -38.0, 58.0, -58.0, 25.0, -25.0, 140.0, -140.0)  # to the line robot -> target; from behind is best: one sees what it walks to
ELEVATION_DEG = -20.0
HEIGHT_M = 0.55  # looked-at point over the floor: the robot's middle
FREE_M = 0.7  # nothing nearer than this to the line of sight
WALL_M = 0.4  # distance kept from the walls


@dataclass(frozen=True)
class Shot:
    """A free camera: looked-at point [3], distance m, azimuth and elevation deg (MuJoCo's convention)."""

    lookat: np.ndarray
    distance: float
    azimuth: float
    elevation: float

    def camera(self) -> mujoco.MjvCamera:
        camera = mujoco.MjvCamera()
        camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        camera.lookat[:] = self.lookat
        camera.distance, camera.azimuth, camera.elevation = self.distance, self.azimuth, self.elevation
        return camera

    @property
    def position(self) -> np.ndarray:
        azimuth, elevation = np.radians((self.azimuth, self.elevation))
        forward = np.array((np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)))
        return self.lookat - self.distance * forward


def _smooth(values: np.ndarray, samples: int) -> np.ndarray:
    """Moving average [N, K] with repeated ends: the camera must not sway with the gait."""
    width = max(1, samples | 1)
    padded = np.concatenate((np.repeat(values[:1], width // 2, 0), values, np.repeat(values[-1:], width // 2, 0)))
    kernel = np.ones(width) / width
    return np.stack([np.convolve(column, kernel, mode="valid") for column in padded.T], axis=-1)


def _clearance(scene: Scene, position: np.ndarray, target: np.ndarray) -> float:
    """Smallest horizontal distance from the line of sight to furniture and things, m; negative outside the room."""
    (cx, cy), (hx, hy) = scene.room_xy, scene.room_half
    if abs(position[0] - cx) > hx - WALL_M or abs(position[1] - cy) > hy - WALL_M:
        return -1.0
    things = [(np.array(f.xy), f.radius) for f in (scene.table, scene.cart) if f is not None]
    line = target[:2] - position[:2]
    length = float(np.linalg.norm(line))
    clear = np.inf
    for centre, radius in things:
        along = float(np.clip(np.dot(centre - position[:2], line) / max(length, 1e-9), 0.0, max(length - 0.3, 0.0)))
        clear = min(clear, float(np.linalg.norm(centre - position[:2] - along * line / max(length, 1e-9))) - radius)
    return clear


def chase(scene: Scene, trace: Trace, target_xy: np.ndarray | None) -> list[Shot]:
    """One shot per sample of the trace.

    The direction is chosen once for the whole episode (a camera that circles makes people dizzy); the looked-at point follows
    slowly, and the distance keeps robot and target in the picture.

    Args:
        target_xy: what the robot walks to [2]; None = look along its start heading.
    """
    path = trace.xyz[:, :2]
    ahead = np.array((np.cos(trace.yaw[0]), np.sin(trace.yaw[0])))
    goal = np.asarray(target_xy, dtype=np.float64)[:2] if target_xy is not None else path[0] + 0.6 * ahead
    direction = goal - path[0]
    base_deg = float(np.degrees(np.arctan2(direction[1], direction[0])))
    weight = 0.45 if target_xy is not None else 0.15
    lookat = _smooth((1 - weight) * path + weight * goal, int(1.5 / trace.dt_s))
    separation = np.linalg.norm(path - goal, axis=1)
    distance = _smooth((2.3 + 0.62 * separation if target_xy is not None else np.full(len(path), 2.7))[:, None], int(1.5 / trace.dt_s))[:, 0]

    def shots(side_deg: float, reach: float) -> list[Shot]:
        return [Shot(np.array((*xy, HEIGHT_M)), float(reach * d), base_deg + side_deg, ELEVATION_DEG) for xy, d in zip(lookat, distance, strict=True)]

    best, best_clear = None, -np.inf
    for reach in (1.0, 0.85):
        for side_deg in SIDE_DEG:
            candidate = shots(side_deg, reach)
            probes = [candidate[i] for i in np.linspace(0, len(candidate) - 1, 5).astype(int)]
            clear = min(_clearance(scene, shot.position, np.array((*path[-1], 0.0))) for shot in probes)
            if clear >= FREE_M:
                return candidate
            if clear > best_clear:
                best, best_clear = candidate, clear
    assert best is not None
    return best

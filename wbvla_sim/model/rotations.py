"""Rotations of the model files, and their numbers as text. No MuJoCo: a machine without it makes URDF, too."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

ROUNDING = 1e-14  # m, kg m^2, quaternions: far below any real number of a robot


def text(values: Collection[float] | np.ndarray) -> str:
    """Numbers as an XML attribute: nine digits, and no -0."""
    values = np.asarray(values, dtype=float)
    values = np.where(np.abs(values) < ROUNDING, 0.0, values)  # -0 too; what rounding leaves of a zero has another sign on another processor
    return " ".join(f"{float(v):.9g}" for v in values)


def matrix_from_rpy(rpy: Collection[float]) -> np.ndarray:
    """URDF's fixed-axis x-y-z angles -> rotation matrix [3, 3]."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy), np.sin(rpy)
    return np.array(
        (
            (cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr),
            (sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr),
            (-sp, cp * sr, cp * cr),
        )
    )


def rpy_from_matrix(m: np.ndarray) -> np.ndarray:
    """Rotation matrix [3, 3] -> URDF's fixed-axis x-y-z angles [3]."""
    return np.array((np.arctan2(m[2, 1], m[2, 2]), np.arcsin(np.clip(-m[2, 0], -1, 1)), np.arctan2(m[1, 0], m[0, 0])))


def matrix_from_axis_angle(axis: Collection[float], angle: float) -> np.ndarray:
    """Rodrigues' formula -> rotation matrix [3, 3]."""
    x, y, z = axis
    k = np.array(((0, -z, y), (z, 0, -x), (-y, x, 0)))
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def quaternion_from_matrix(m: np.ndarray) -> np.ndarray:
    """Rotation matrix [3, 3] -> unit quaternion (w, x, y, z) with w >= 0."""
    # eigenvector of the largest eigenvalue of Bar-Itzhack's symmetric matrix: no branches, no loss near 180 deg
    k = np.array(
        (
            (m[0, 0] - m[1, 1] - m[2, 2], 0, 0, 0),
            (m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], 0, 0),
            (m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1], 0),
            (m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], m[0, 0] + m[1, 1] + m[2, 2]),
        )
    )
    x, y, z, w = np.linalg.eigh(k)[1][:, -1]
    q = np.array((w, x, y, z))
    return q if w >= 0 else -q


def align_z(axis: Collection[float]) -> np.ndarray:
    """Smallest rotation [3, 3] that turns z into ``axis``."""
    axis = np.asarray(axis, dtype=float)
    cross = np.cross((0.0, 0.0, 1.0), axis)
    if np.linalg.norm(cross) < 1e-9:
        return np.eye(3)  # primitives are symmetric under z -> -z
    return matrix_from_axis_angle(cross / np.linalg.norm(cross), float(np.arccos(axis[2])))

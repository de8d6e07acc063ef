"""How a rigid scene moves in the image when the camera moves: viewing rays in a level frame, and the warp they give.

Level frame: x forward, y left, z up, heading of the camera, gravity down. Optical axes: x right, y down, z ahead. Image
coordinates (u, v) run over [-1, 1], u to the right, v downwards, as ``grid_sample`` (align_corners=False) wants them.

A *lens* [B, 5] = (scale_x, scale_y, offset_x, offset_y, pitch_rad) says that pixel (u, v) looks along
(offset_x + scale_x u, offset_y + scale_y v, 1) in optical axes. A whole image has scale = tangents of half the field of view
and no offset; a crop has its own (:func:`crop_lens`).

Source: the rigid-motion head is prior work (our prototype: the largest single gain), there with one fixed lens and first-order
flow. Ours: rays in a level frame from the clip's own lens and pitch, and the exact rotation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def lens_from_view(view: torch.Tensor) -> torch.Tensor:
    """[B, 3] (tan_x, tan_y, pitch_rad) -> lens [B, 5] of the whole image."""
    zero = torch.zeros_like(view[:, 0])
    return torch.stack((view[:, 0], view[:, 1], zero, zero, view[:, 2]), dim=1)


def crop_lens(lens: torch.Tensor, crop: torch.Tensor) -> torch.Tensor:
    """Lens of the part of the image centred at (u, v) with half-width s: crop [B, 3] = (u, v, s)."""
    scale, offset, pitch = lens[:, 0:2], lens[:, 2:4], lens[:, 4:5]
    return torch.cat((scale * crop[:, 2:3], offset + scale * crop[:, :2], pitch), dim=1)


def identity_grid(size: int, device: torch.device | None = None) -> torch.Tensor:
    """[2, S, S] image coordinates (u, v) of pixel centres."""
    centres = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) * (2.0 / size) - 1.0
    v, u = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack((u, v))


def warp(frames: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Frames [B, C, S, S] moved by a backward flow [B, 2, S, S]; what comes from beyond the border is the border."""
    grid = (identity_grid(frames.shape[-1], frames.device) + flow).permute(0, 2, 3, 1)
    return F.grid_sample(frames, grid, mode="bilinear", padding_mode="border", align_corners=False)


def level_rays(lens: torch.Tensor, size: int) -> torch.Tensor:
    """Viewing rays [B, 3, S, S] in the level frame, with unit depth along the optical axis."""
    grid = identity_grid(size, lens.device)
    optical = lens[:, 2:4, None, None] + lens[:, 0:2, None, None] * grid  # [B, 2, S, S]
    x, y = optical[:, 0], optical[:, 1]
    sin, cos = torch.sin(lens[:, 4])[:, None, None], torch.cos(lens[:, 4])[:, None, None]
    return torch.stack((cos - y * sin, -x, -sin - y * cos), dim=1)


def project(points: torch.Tensor, lens: torch.Tensor, nearest: float = 0.15) -> torch.Tensor:
    """Level-frame points [B, 3, S, S] -> image coordinates [B, 2, S, S]. Points nearer than ``nearest`` are held there."""
    sin, cos = torch.sin(lens[:, 4])[:, None, None], torch.cos(lens[:, 4])[:, None, None]
    right, down = -points[:, 1], -points[:, 0] * sin - points[:, 2] * cos
    ahead = (points[:, 0] * cos - points[:, 2] * sin).clamp_min(nearest)
    optical = torch.stack((right, down), dim=1) / ahead[:, None]
    return (optical - lens[:, 2:4, None, None]) / lens[:, 0:2, None, None]


def rotation_matrix(vector: torch.Tensor) -> torch.Tensor:
    """Rotation vectors [B, 3], rad -> matrices [B, 3, 3] (Rodrigues; smooth at zero)."""
    square = (vector * vector).sum(1).clamp_min(1e-8)
    angle = square.sqrt()
    a, b = (torch.sin(angle) / angle)[:, None, None], ((1.0 - torch.cos(angle)) / square)[:, None, None]
    zero = torch.zeros_like(angle)
    x, y, z = vector.unbind(1)
    k = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=1).view(-1, 3, 3)
    return torch.eye(3, device=vector.device) + a * k + b * (k @ k)


def rigid_flow(motion: torch.Tensor, inverse_depth: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
    """Backward flow of a static scene: from which place of the first image does each pixel of the later one come?

    Args:
        motion: [B, 6] how the camera moved, level frame of the first image: translation (unit: one over that of
            ``inverse_depth``), rotation vector, rad.
        inverse_depth: [B, 1, S, S] along the optical axis.
        lens: [B, 5].

    Returns:
        [B, 2, S, S] (du, dv) to add to the identity grid.
    """
    size = inverse_depth.shape[-1]
    rays = level_rays(lens, size)
    turned = torch.einsum("bij,bjhw->bihw", rotation_matrix(motion[:, 3:]), rays)
    points = turned + motion[:, :3, None, None] * inverse_depth
    return project(points, lens) - identity_grid(size, lens.device)

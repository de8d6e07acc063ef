"""Where things went between two frames, by block matching: no parameters, nothing to learn.

What moved how far in the *image* depends on the camera; how far viewing rays turned in the level frame does not. An encoder that is given the
latter says the same of the same walk through another lens, and need not learn to match pixels by itself. docs/lam.md has what it is worth.

Source: ours. Coarse-to-fine matching is classical (Anandan 1989); correlation volumes as input of networks: FlowNetC, PWC-Net, RAFT.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from wbvla_train.lam.geometry import level_rays, warp

CHANNELS = 8  # of :func:`seen_motion`
COARSEST = 12  # cells along an edge where the search begins; all that one step reaches there: a quarter of the image to either side
REACH = (3, 2, 1)  # cells searched to either side, from the coarsest grid on; the last one for every finer grid
WINDOW = 7  # cells that are compared
SHARPNESS = 16.0  # of the softmax over the costs of all shifts, relative to their mean


@torch.no_grad()
def matched_flow(first: torch.Tensor, later: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each place of the later frame came from.

    Args:
        first, later: [B, 3, S, S], standardised.

    Returns:
        Backward flow [B, 2, S, S] to add to the identity grid, and the weight of the best shift in the last search [B, 1, S, S].
    """
    size = first.shape[-1]
    divisor = max(1, size // COARSEST)
    divisor = 1 << (divisor.bit_length() - 1)  # a power of two: grids are halved and doubled
    flow, step = first.new_zeros(len(first), 2, size // divisor, size // divisor), 0
    while True:
        a, b = (x if divisor == 1 else F.avg_pool2d(x, divisor) for x in (later, first))
        n = a.shape[-1]
        flow = flow if flow.shape[-1] == n else F.interpolate(flow, size=(n, n), mode="bilinear", align_corners=False)
        b = warp(b, flow)
        reach = REACH[min(step, len(REACH) - 1)]
        shifts = [(dx, dy) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]
        padded = F.pad(b, (reach,) * 4, mode="replicate")
        cost = torch.cat(
            [(padded[:, :, reach + dy : reach + dy + n, reach + dx : reach + dx + n] - a).square().sum(1, keepdim=True) for dx, dy in shifts], dim=1
        )
        cost = _smooth(cost, WINDOW)
        weight = torch.softmax(-SHARPNESS * cost / (cost.mean(1, keepdim=True) + 1e-3), dim=1)
        shift = torch.einsum("bkhw,kc->bchw", weight, torch.tensor(shifts, device=a.device, dtype=a.dtype))
        flow = _smooth(flow + shift * (2.0 / n), 3)
        if divisor == 1:
            return flow, weight.max(1, keepdim=True).values
        divisor, step = divisor // 2, step + 1


@torch.no_grad()
def seen_motion(first: torch.Tensor, later: torch.Tensor, lens: torch.Tensor, cell: int) -> torch.Tensor:
    """How the viewing ray of each cell turned, in the level frame: alike for cameras of any lens and pitch when the body moves alike.

    Args:
        first, later: [B, 3, S, S], standardised. lens: [B, 5]. cell: px along the edge of a cell.

    Returns:
        [B, CHANNELS, S / cell, S / cell]: the ray's unit direction (3), how it turned (3, in tenths of rad), how sure that is, and the logarithm
        of what matching left unexplained.
    """
    flow, sure = matched_flow(first, later)
    size = first.shape[-1]
    left = 0.3 * ((warp(first, flow) - later).square().mean(1, keepdim=True) + 1e-3).log()
    flow, sure, left, rays = (F.avg_pool2d(x, cell) for x in (flow, sure, left, level_rays(lens, size)))
    length = rays.norm(dim=1, keepdim=True)
    unit = rays / length
    sin, cos = torch.sin(lens[:, 4])[:, None, None], torch.cos(lens[:, 4])[:, None, None]
    right, down = (flow * lens[:, 0:2, None, None]).unbind(1)
    turned = torch.stack((-down * sin, -right, -down * cos), dim=1) / length
    turned = turned - unit * (unit * turned).sum(1, keepdim=True)  # what is left of a step along the ray turns nothing
    return torch.cat((unit, 10.0 * turned, sure, left), dim=1)


def _smooth(x: torch.Tensor, width: int) -> torch.Tensor:
    return F.avg_pool2d(x, width, stride=1, padding=width // 2, count_include_pad=False)

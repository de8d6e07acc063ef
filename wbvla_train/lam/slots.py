"""Things that move on their own, an arm with what it holds: found in each frame by one detector, carried by the codes.

A slot is a mask in the first frame and a shift. The mask is drawn from one frame alone, so that the decoder has it too; the shift
is a linear map of the slot's own code. In the encoder the same detector looks at both frames, and how far the slot's centre went is
all that its token says. So a code tells *where* something went and not only that something changed, and nothing else in the model
can use that token for something that is easier to predict.

Source: ours. Nearest prior work: Transporter (Kulkarni et al. 2019), key points found by carrying features from frame to frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from wbvla_train.lam.config import ModelConfig
from wbvla_train.lam.geometry import identity_grid, level_rays

APART = 3.0  # slots begin side by side across the image: left and right arm
CHANGED = 0.25  # mean absolute difference of a place, standardised units, from which on something moved there


@dataclass(frozen=True)
class Found:
    """masks [B, K, h, w] in [0, 1], at most 1 together in a place; centres [B, K, 2] (u, v)."""

    masks: torch.Tensor
    centres: torch.Tensor


class Slots(nn.Module):
    """Detector of ``config.slots`` things; token k is slot k's alone.

    Args:
        stride: of the grid that masks and flow are on.
    """

    def __init__(self, config: ModelConfig, stride: int) -> None:
        super().__init__()
        narrow, wide = config.decoder_width, 2 * config.decoder_width
        self.count = config.slots
        self.stem = nn.Conv2d(3 + 3, narrow, 2 * stride, stride=stride, padding=stride // 2)
        self.down = nn.Conv2d(narrow, wide, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(wide, wide, 3, padding=1)
        self.up = nn.Conv2d(wide, narrow, 1)
        self.merge = nn.Conv2d(narrow, narrow, 3, padding=1)
        self.where = nn.Conv2d(narrow, config.slots + 1, 1)  # the last one: none of them
        nn.init.zeros_(self.where.bias)
        # Of a displacement across and along the image, in the token's code space.
        self.direction = nn.Parameter(torch.randn(config.slots, 2, config.code_dim) * config.slot_gain)
        self.shift = nn.Parameter(torch.randn(config.slots, config.code_dim, 2) * 0.02)  # linear: what probes read

    def find(self, frame: torch.Tensor, lens: torch.Tensor) -> Found:
        """frame [B, 3, S, S], lens [B, 5]."""
        near = F.gelu(self.stem(torch.cat((frame, level_rays(lens, frame.shape[-1])), dim=1)))
        deep = F.gelu(self.down(near))
        deep = deep + F.gelu(self.deep(deep))
        x = F.gelu(self.merge(F.interpolate(self.up(deep), scale_factor=2.0, mode="bilinear", align_corners=False) + near))
        logits = self.where(x)
        grid = identity_grid(logits.shape[-1], x.device)
        aside = grid[0] * torch.linspace(-APART, APART, self.count, device=x.device)[:, None, None]
        logits = torch.cat((logits[:, : self.count] + aside, logits[:, self.count :]), dim=1)
        masks = torch.softmax(logits, dim=1)[:, : self.count]
        centres = torch.einsum("bkhw,chw->bkc", masks, grid) / (masks.sum((2, 3))[:, :, None] + 1e-3)
        return Found(masks, centres)

    def moved(self, before: Found, after: Found) -> torch.Tensor:
        """The first ``count`` tokens before quantisation [B, count, D]: how far each thing went."""
        return torch.einsum("bkc,kcd->bkd", after.centres - before.centres, self.direction)

    def flow(self, found: Found, values: torch.Tensor) -> torch.Tensor:
        """Backward flow [B, 2, h, w]: things that keep their looks and move as a whole. values [B, T, D]."""
        b, k, h, w = found.masks.shape
        shift = torch.einsum("bkd,kdc->bkc", values[:, :k], self.shift).reshape(b * k, 2)
        grid = (identity_grid(h, shift.device)[None] - shift[:, :, None, None]).permute(0, 2, 3, 1)
        later = F.grid_sample(found.masks.reshape(b * k, 1, h, w), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return -(later * shift[:, :, None, None]).view(b, k, 2, h, w).sum(1)


def mask_loss(masks: torch.Tensor, first: torch.Tensor, later: torch.Tensor) -> torch.Tensor:
    """What moves is where the frames differ: cross-entropy of all masks together [B, K, h, w] to changed places of the frames [B, 3, S, S]."""
    changed = F.avg_pool2d((first - later).abs().mean(1), first.shape[-1] // masks.shape[-1]) > CHANGED
    return F.binary_cross_entropy(masks.sum(1).clamp(1e-4, 1.0 - 1e-4), changed.float())

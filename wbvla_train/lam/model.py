"""The latent action model: what happened between two frames, said in four discrete codes.

    frames a (first), b (later) --encoder--> z [B, T, D] --quantiser--> codes [B, T] in 0..K-1
    frame a, codes              --decoder--> prediction of b

The decoder never sees b, so that the codes are the only way in which motion can reach the prediction. It predicts by *moving*
the first frame: a rigid-scene warp from six numbers that are a linear map of the codes (camera motion in a level frame) plus a
free flow (hands, objects) plus a coarse colour residual for what comes into view.

Source: the scheme (inverse model, 16 codes x 4 tokens, predict the later frame) is the paper's, after LAPA and UniVLA. At this
size in pixel space their plain patch transformer collapses; the stem, cost volume and warping decoder are prior work (recipe E
of our prototype). See docs/lam.md for what each part is worth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from wbvla_train.lam.config import ModelConfig
from wbvla_train.lam.geometry import level_rays, rigid_flow, warp
from wbvla_train.lam.matching import CHANNELS, seen_motion
from wbvla_train.lam.quantiser import TokenQuantiser
from wbvla_train.lam.slots import Found, Slots

# Pixel feature space: (x / 255 - mean) / std (prior work: our prototype).
PIXEL_MEAN, PIXEL_STD = 0.4, 0.25
STRIDE = 4  # of the stem: all warps are computed on a grid of image_size / STRIDE


def pixels(frames: torch.Tensor) -> torch.Tensor:
    """Feature space ``pixels``: [B, S, S, 3] uint8 -> [B, 3, S, S] float32, standardised."""
    return (frames.permute(0, 3, 1, 2).float() * (1.0 / 255.0) - PIXEL_MEAN) / PIXEL_STD


# Shifts compared by the cost volume: image scale divisor -> (reach in x, reach in y), px at that scale.
_COST_SHIFTS = {1: (2, 2), 2: (3, 3), 4: (4, 2)}


def cost_channels() -> int:
    return sum((2 * rx + 1) * (2 * ry + 1) + 1 for rx, ry in _COST_SHIFTS.values())


@torch.no_grad()
def cost_volume(first: torch.Tensor, later: torch.Tensor) -> torch.Tensor:
    """How well the later frame, shifted by a few pixels, fits the first one, per place: motion made easy to see.

    Parameter-free and without gradient. [B, 3, S, S] twice -> [B, :func:`cost_channels`, S / 4, S / 4]; per scale the costs
    relative to their mean over the shifts, and the logarithm of that mean.
    """
    a, b = first.mean(1, keepdim=True), later.mean(1, keepdim=True)
    size = first.shape[-1]
    grid = size // STRIDE
    out = []
    for divisor, (rx, ry) in _COST_SHIFTS.items():
        small_a, small_b = (a, b) if divisor == 1 else (F.avg_pool2d(a, divisor), F.avg_pool2d(b, divisor))
        n = size // divisor
        padded = F.pad(small_b, (rx, rx, ry, ry), mode="replicate")
        shifted = torch.cat([padded[:, :, dy : dy + n, dx : dx + n] for dy in range(2 * ry + 1) for dx in range(2 * rx + 1)], dim=1)
        cost = F.avg_pool2d((shifted - small_a).square(), n // grid) if n > grid else (shifted - small_a).square()
        mean = cost.mean(1, keepdim=True) + 1e-4
        out += [cost / mean - 1.0, mean.log() * 0.3]
    return torch.cat(out, dim=1)


class Block(nn.Module):
    """Pre-norm transformer block, [B, N, C]."""

    def __init__(self, width: int, heads: int, expansion: int = 3) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width))

    def forward(self, x: torch.Tensor, read: int | None = None) -> torch.Tensor:
        """``read``: only the first so many tokens are wanted afterwards; they still see all."""
        y = self.norm1(x)
        x = x[:, :read] + self.attention(y[:, :read], y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """Space-time encoder: both frames, their difference, their cost volume, the viewing rays and how they turned -> z [B, T, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        cells = config.image_size // STRIDE // 2
        self.stem = nn.Conv2d(12, config.stem_width, 8, stride=STRIDE, padding=2)
        self.cost = nn.Conv2d(cost_channels(), config.stem_width, 1)
        wide = config.stem_width
        self.seen = nn.Sequential(nn.Conv2d(CHANNELS, wide, 1), nn.GELU(), nn.Conv2d(wide, wide, 1)) if config.matching else None
        self.down = nn.Conv2d(config.stem_width, config.width, 3, stride=2, padding=1)
        self.positions = nn.Parameter(torch.randn(1, cells * cells, config.width) * 0.02)
        self.queries = nn.Parameter(torch.randn(1, config.tokens, config.width) * 0.02)
        self.blocks = nn.Sequential(*(Block(config.width, config.heads) for _ in range(config.blocks)))
        self.head = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, config.code_dim))

    def forward(self, first: torch.Tensor, later: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        rays = level_rays(lens, first.shape[-1])
        x = self.stem(torch.cat((first, later, later - first, rays), dim=1)) + self.cost(cost_volume(first, later))
        if self.seen is not None:
            x = x + self.seen(seen_motion(first, later, lens, STRIDE))
        x = F.gelu(self.down(F.gelu(x)))  # [B, C, S/8, S/8]
        x = x.flatten(2).transpose(1, 2) + self.positions
        x = self.blocks(torch.cat((self.queries.expand(len(x), -1, -1), x), dim=1))
        return self.head(x[:, : self.queries.shape[1]])


@dataclass(frozen=True)
class Prediction:
    """What the decoder makes of the codes.

    Attributes:
        frame: [B, C, S, S] in the feature space.
        flow: [B, 2, S, S] that moved the first frame, or None.
        motion: [B, 6] of the camera, or None.
        masks: [B, K, h, w] of the slots, or None.
    """

    frame: torch.Tensor
    flow: torch.Tensor | None
    motion: torch.Tensor | None
    masks: torch.Tensor | None = None


class Decoder(nn.Module):
    """First frame + code values -> later frame, by warping."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        narrow, wide, values = config.decoder_width, 2 * config.decoder_width, config.tokens * config.code_dim
        self.stem = nn.Conv2d(3 + 3, narrow, 8, stride=STRIDE, padding=2)
        self.down = nn.Conv2d(narrow, wide, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(wide, wide, 3, padding=1)
        self.up = nn.Conv2d(wide, narrow, 1)
        self.merge = nn.Conv2d(narrow, narrow, 3, padding=1)
        self.film_narrow, self.film_wide = nn.Linear(values, 2 * narrow), nn.Linear(values, 2 * wide)
        self.flow = nn.Conv2d(narrow, 2, 3, padding=1)
        self.residual = nn.Conv2d(narrow, 3, 3, padding=1)
        for head in (self.flow, self.residual):  # start as a copy of the first frame
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        self.rigid = config.rigid
        if config.rigid:
            self.motion = nn.Linear(values, 6, bias=False)  # linear: what probes and retrieval read
            nn.init.normal_(self.motion.weight, std=0.02)
            self.scene = nn.Conv2d(narrow, 2, 3, padding=1)  # inverse depth and what is not fixed to the camera, from the first frame only
            nn.init.zeros_(self.scene.bias)

    def forward(self, first: torch.Tensor, values: torch.Tensor, lens: torch.Tensor, carried: torch.Tensor | None = None) -> Prediction:
        """first [B, 3, S, S], values [B, T, D], lens [B, 5]; ``carried``: flow of the slots [B, 2, S/4, S/4]."""
        size = first.shape[-1]
        values = values.flatten(1)
        near = F.gelu(self.stem(torch.cat((first, level_rays(lens, size)), dim=1)))  # [B, C, S/4, S/4]
        deep = F.gelu(self.down(near))
        deep = F.gelu(self.deep(_film(deep, self.film_wide(values)))) + deep
        x = F.interpolate(self.up(deep), scale_factor=2.0, mode="bilinear", align_corners=False) + near
        x = F.gelu(self.merge(_film(F.gelu(x), self.film_narrow(values))))
        flow, motion = self.flow(x), None
        if carried is not None:
            flow = 0.25 * flow + carried
        if self.rigid:
            motion = self.motion(values)
            inverse_depth, static = self.scene(near).split(1, dim=1)
            flow = 0.5 * flow + torch.sigmoid(static + 2.0) * rigid_flow(motion, F.softplus(inverse_depth), lens)
        flow = F.interpolate(flow, scale_factor=float(STRIDE), mode="bilinear", align_corners=False)
        frame = warp(first, flow) + F.interpolate(self.residual(x), scale_factor=float(STRIDE), mode="bilinear", align_corners=False)
        return Prediction(frame, flow, motion)


def _film(x: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    scale, shift = parameters[:, :, None, None].chunk(2, dim=1)
    return x * (1.0 + scale) + shift


@dataclass(frozen=True)
class LamOutput:
    """codes [B, T]; z [B, T, D] before quantisation; prediction; quantiser_loss scalar."""

    codes: torch.Tensor
    z: torch.Tensor
    prediction: Prediction
    quantiser_loss: torch.Tensor


class LatentActionModel(nn.Module):
    """Encoder, quantiser and decoder; those of the pixel space where none are given."""

    def __init__(self, config: ModelConfig, encoder: nn.Module | None = None, decoder: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder or Encoder(config)
        self.quantiser = TokenQuantiser(config.tokens, config.codes, config.code_dim, config.commitment, config.reset_below)
        self.decoder = decoder or Decoder(config)
        self.slots = Slots(config, STRIDE) if config.slots else None

    def features(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames [B, 3, S, S] as :func:`pixels` gives them -> the feature space of all other methods, [B, C, h, w]."""
        return frames

    def forward(self, first: torch.Tensor, later: torch.Tensor, lens: torch.Tensor, continuous: bool = False) -> LamOutput:
        """first, later [B, C, h, w] in the feature space; lens [B, 5]; ``continuous``: bypass the quantiser."""
        z, found = self._latent(first, later, lens)
        quantised = self.quantiser(z, continuous)
        return LamOutput(quantised.codes, z, self._decode(first, quantised.values, lens, found), quantised.loss)

    def _latent(self, first: torch.Tensor, later: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, Found | None]:
        """z [B, T, D], and what moves in the first frame."""
        z = self.encoder(first, later, lens).float()  # codes are told apart in full precision
        if self.slots is None:
            return z, None
        found = self.slots.find(first, lens)
        moved = self.slots.moved(found, self.slots.find(later, lens))
        return torch.cat((moved.float(), z[:, self.slots.count :]), dim=1), found

    def _decode(self, first: torch.Tensor, values: torch.Tensor, lens: torch.Tensor, found: Found | None = None) -> Prediction:
        if self.slots is None:
            return self.decoder(first, values, lens)
        found = found or self.slots.find(first, lens)
        return replace(self.decoder(first, values, lens, self.slots.flow(found, values)), masks=found.masks)

    @torch.no_grad()
    def encode(self, first: torch.Tensor, later: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        """Codes [B, T] int64 only."""
        return self.quantiser.distances(self._latent(first, later, lens)[0]).argmin(-1)

    @torch.no_grad()
    def encode_frames(self, first: torch.Tensor, later: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        """:meth:`encode` of frames [B, 3, S, S] as :func:`pixels` gives them."""
        return self.encode(*self.features(torch.cat((first, later))).chunk(2), lens)

    @torch.no_grad()
    def predict(self, first: torch.Tensor, codes: torch.Tensor, lens: torch.Tensor) -> Prediction:
        """The frame that ``codes`` [B, T] make of ``first``."""
        return self._decode(first, self.quantiser.lookup(codes), lens)

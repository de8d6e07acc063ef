"""Stage 0: the towers learn to see and the language model learns which word means which box, from free simulator labels.

This stands in for the published DINOv2, SigLIP and Prismatic weights in the tiny model ("ours"; the 7B path loads those weights
and skips this). Two losses on pictures of random rooms (:mod:`wbvla_train.data.stills`):

* towers: for each of the four colours, is that box visible, at which bearing, how far (one learnt query per colour over the
  fused patches). Four labels a picture, no language needed.
* language: the same for the one box that a sentence names, read from the latent-action positions. Several sentences per
  picture share the towers' work; boxes that are not there are asked for too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from wbvla_decoder.model import MapPool
from wbvla_perception.preprocess import ImageSpec
from wbvla_sim.instructions import Task, paraphrases
from wbvla_sim.scene import COLORS
from wbvla_train.parallel import WHOLE, Part, to_device
from wbvla_train.vla.images import jitter, mirror, to_model
from wbvla_vla.model import Vla
from wbvla_vla.tokens import InstructionTokenizer

BEARING_SCALE, DISTANCE_SCALE = 4.0, 2.0  # rad and log m -> units of about one (ours)


class Grounding(nn.Module):
    """The VLA with the two throw-away heads of stage 0."""

    def __init__(self, vla: Vla) -> None:
        super().__init__()
        self.vla = vla
        width = vla.config.language.hidden_size
        self.pools = nn.ModuleList(MapPool(width, 64, 4) for _ in COLORS)
        self.tower_heads = nn.ModuleList(nn.Linear(64, 3) for _ in COLORS)
        self.language_head = BoxHead(width)

    def forward(self, pixels: torch.Tensor, word_ids: torch.Tensor, image_index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """-> tower answers [B, 4, 3] and language answers [N, 3]: visible logit, bearing, log distance (scaled)."""
        image_tokens = self.vla.encode_image(pixels)
        towers = torch.stack([head(pool(image_tokens)) for pool, head in zip(self.pools, self.tower_heads, strict=True)], dim=1)
        out = self.vla.read_queries(image_tokens[image_index], word_ids)
        return towers, self.language_head(out.latent_hidden)


class BoxHead(nn.Module):
    """Latent-action hidden states [N, Q, D] -> visible logit, bearing, log distance [N, 3]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 3))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return self.layers(latent.mean(dim=1))


def box_target(labels: np.ndarray) -> torch.Tensor:
    """[..., 4] (present, visible, bearing, distance) -> [..., 3] (visible, scaled bearing, scaled log distance)."""
    visible, bearing, distance = labels[..., 1], labels[..., 2], labels[..., 3]
    return torch.from_numpy(np.stack((visible, bearing * BEARING_SCALE, np.log(np.maximum(distance, 0.2)) * DISTANCE_SCALE), axis=-1).astype(np.float32))


def box_loss(answer: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Is it visible, and where it is: where, only if it is."""
    answer = answer.float()
    visible = target[..., 0]
    seen = F.binary_cross_entropy_with_logits(answer[..., 0], visible)
    where = F.smooth_l1_loss(answer[..., 1:], target[..., 1:], reduction="none").mean(-1)
    return seen + (where * visible).sum() / visible.sum().clamp_min(1.0)


def box_errors(answer: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    """Share of right visible/not answers, and median bearing (deg) and log-distance errors of visible boxes, as far as there are any."""
    answer = answer.detach().float()
    visible = target[..., 0] > 0.5
    errors = {"visible_accuracy": float(((answer[..., 0] > 0) == visible).float().mean())} if len(answer) else {}
    if visible.any():
        bearing = (answer[..., 1] - target[..., 1])[visible].abs() / BEARING_SCALE
        distance = (answer[..., 2] - target[..., 2])[visible].abs() / DISTANCE_SCALE
        errors |= {"bearing_deg": float(torch.rad2deg(bearing.median())), "distance_log": float(distance.median())}
    return errors


@dataclass
class GroundingBatch:
    """B pictures, N = B x sentences questions."""

    pixels: torch.Tensor  # [B, C, S, S]
    words: torch.Tensor  # [N, W]
    image_index: torch.Tensor  # [N]
    towers: torch.Tensor  # [B, 4, 3] targets of the towers' answers
    language: torch.Tensor  # [N, 3] targets of the language model's


class GroundingStep:
    """Draws a batch of stills and asks about ``sentences`` boxes per picture."""

    def __init__(
        self, model: Grounding, tokenizer: InstructionTokenizer, spec: ImageSpec, images: np.ndarray, labels: np.ndarray, batch: int, sentences: int
    ) -> None:
        self.model, self.spec, self.images, self.labels = model, spec, images, labels
        self.batch, self.sentences = batch, sentences
        self._word_ids = [tokenizer.encode_batch(paraphrases(Task("walk_to", color=color))) for color in COLORS]

    def draw(self, rng: np.random.Generator, step: int = 0, part: Part = WHOLE, augment: bool = True) -> GroundingBatch:
        """``batch`` pictures and ``sentences`` questions about each."""
        part.require_whole("stage 0")
        index = rng.integers(len(self.images), size=self.batch)
        images, labels = self.images[index], self.labels[index].copy()
        if augment:
            flip = rng.random(self.batch) < 0.5
            images = np.where(flip[:, None, None, None], mirror(images), images)
            labels[flip, :, 2] *= -1.0
            images = jitter(images, rng)
        colors = np.argsort(rng.random((self.batch, len(COLORS))), axis=1)[:, : self.sentences]  # without repetition
        words = np.stack([self._word_ids[c][rng.integers(len(self._word_ids[c]))] for c in colors.ravel()])
        towers = box_target(labels)
        image_index = torch.arange(self.batch).repeat_interleave(self.sentences)
        language = towers[image_index, torch.from_numpy(colors.ravel())]
        return GroundingBatch(to_model(images, self.spec), torch.from_numpy(words), image_index, towers, language)

    def loss(self, model: nn.Module, batch: GroundingBatch) -> tuple[torch.Tensor, dict[str, float]]:
        towers, language = model(batch.pixels, batch.words, batch.image_index)
        tower_loss, language_loss = box_loss(towers, batch.towers), box_loss(language, batch.language)
        return tower_loss + language_loss, {"towers": float(tower_loss.detach()), "language": float(language_loss.detach())}

    @torch.no_grad()
    def evaluate(self, batches: int = 4, seed: int = 1) -> dict[str, float]:
        """Errors on this step's own pictures without augmentation; hand it held-out ones."""
        towers, tower_targets, language, language_targets = [], [], [], []
        for i in range(batches):
            batch = to_device(self.draw(np.random.default_rng((seed, i)), augment=False), next(self.model.parameters()).device)
            a, b = self.model(batch.pixels, batch.words, batch.image_index)
            towers.append(a)
            language.append(b)
            tower_targets.append(batch.towers)
            language_targets.append(batch.language)
        first = {f"towers_{key}": value for key, value in box_errors(torch.cat(towers), torch.cat(tower_targets)).items()}
        second = {f"language_{key}": value for key, value in box_errors(torch.cat(language), torch.cat(language_targets)).items()}
        return first | second

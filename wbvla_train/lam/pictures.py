"""Contact sheets: does the prediction show the later frame, and what does each code do to a frame?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

from wbvla_core.console import program
from wbvla_train.data.clips import Corpus, Pairs
from wbvla_train.lam.export import Lam, load_lam
from wbvla_train.lam.health import batch_of
from wbvla_train.lam.model import PIXEL_MEAN, PIXEL_STD


def to_image(frames: torch.Tensor) -> np.ndarray:
    """[B, 3, S, S] standardised -> [B, S, S, 3] uint8."""
    return ((frames * PIXEL_STD + PIXEL_MEAN).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _difference(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    """Absolute difference, five times, grey."""
    grey = ((a - b).abs().mean(1, keepdim=True) * PIXEL_STD * 5).clamp(0, 1).expand(-1, 3, -1, -1)
    return (grey * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _grid(rows: list[list[np.ndarray]], scale: int, gap: int = 2) -> Image.Image:
    """Rows of equal images -> one picture, each image ``scale`` times as large, white lines between."""
    size = rows[0][0].shape[0] * scale
    sheet = Image.new("RGB", (len(rows[0]) * (size + gap), len(rows) * (size + gap)), "white")
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            sheet.paste(Image.fromarray(image).resize((size, size), Image.Resampling.NEAREST), (j * (size + gap), i * (size + gap)))
    return sheet


def moving_pairs(corpus: Corpus, pairs: Pairs, count: int, seed: int) -> np.ndarray:
    """Indices of ``count`` pairs of different clips, drawn among the half in which most changes."""
    rng = np.random.default_rng(seed)
    index = rng.choice(len(pairs), min(20 * count, len(pairs)), replace=False)
    change = np.array([np.abs(corpus.frames[pairs.first[i]].astype(int) - corpus.frames[pairs.later[i]]).mean() for i in index])
    index = index[change >= np.median(change)]
    _, unique = np.unique(pairs.clip[index], return_index=True)
    return index[np.sort(unique)][:count]


@torch.no_grad()
def reconstruction_sheet(lam: Lam, corpus: Corpus, pairs: Pairs, count: int = 12, seed: int = 0) -> Image.Image:
    """Columns of pairs; rows: first, later, predicted, |later - first| x 5, |later - predicted| x 5, predicted with another pair's codes."""
    index = moving_pairs(corpus, pairs, count, seed)
    first, later, lens = batch_of(corpus, pairs, index)
    codes = lam.model.encode(first, later, lens)
    predicted = lam.model.predict(first, codes, lens).frame
    wrong = lam.model.predict(first, codes.roll(1, 0), lens).frame
    images = (to_image(first), to_image(later), to_image(predicted), _difference(later, first), _difference(later, predicted), to_image(wrong))
    return _grid([list(row) for row in images], scale=2)


@torch.no_grad()
def code_sheet(lam: Lam, corpus: Corpus, pairs: Pairs, seed: int = 3) -> Image.Image:
    """One first frame; two rows per token, column per code: the frame predicted when that token of the usual "nothing moves" codes
    is replaced by the code, and under it what changed (|predicted - first| x 5). The first column is the frame itself."""
    index = moving_pairs(corpus, pairs, 1, seed)
    first, _, lens = batch_of(corpus, pairs, index)
    config = lam.model.config
    static = lam.model.encode(first, first, lens)
    rows = []
    for token in range(config.tokens):
        codes = static.repeat(config.codes, 1)
        codes[:, token] = torch.arange(config.codes)
        same = first.expand(config.codes, -1, -1, -1)
        frames = lam.model.predict(same, codes, lens.expand(config.codes, -1)).frame
        rows.append([to_image(first)[0], *to_image(frames)])
        rows.append([np.full_like(rows[-1][0], 255), *_difference(frames, same)])
    return _grid(rows, scale=1)


@dataclass(frozen=True)
class PictureConfig:
    """Options of ``python -m wbvla_train.lam.pictures``.

    Attributes:
        lam: checkpoint. data: a folder of clips. output: folder for the two pictures.
    """

    lam: Path = Path("checkpoints/lam/loco")
    data: Path = Path("data/video/dev/loco")
    output: Path = Path("docs/img")
    seed: int = 0


def main(argv: list[str] | None = None) -> int:
    config = tyro.cli(PictureConfig, args=argv)
    lam = load_lam(config.lam)
    if lam.model.config.feature_space != "pixels":
        raise SystemExit(f"{config.lam} predicts {lam.model.config.feature_space} features, of which there is no picture; give a LAM in pixel space")
    corpus = Corpus([config.data], lam.model.config.image_size)
    pairs = corpus.pairs(lam.gap_s)
    config.output.mkdir(parents=True, exist_ok=True)
    stem = f"lam_{config.data.name}"
    reconstruction_sheet(lam, corpus, pairs, seed=config.seed).quantize(256, dither=Image.Dither.NONE).save(
        config.output / f"{stem}_reconstruction.png", optimize=True
    )
    code_sheet(lam, corpus, pairs, seed=config.seed + 3).quantize(256, dither=Image.Dither.NONE).save(config.output / f"{stem}_codes.png", optimize=True)
    return 0


if __name__ == "__main__":
    program(main)

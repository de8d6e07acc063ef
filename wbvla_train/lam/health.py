"""Is a latent action model alive? Measures that need no label, and the rule that ends a collapsed run.

RRG (relative reconstruction gain, paper A2) = 1 - mse(prediction, later) / mse(first, later), sums over pairs. Alone it proves
nothing: a blurred copy of the first frame earns 0.1-0.2 in pixel space. So it is always shown beside RRG with the codes shuffled
between pairs and beside the blurred copy; the gap between the first two is what the codes say.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from wbvla_core.errors import WbvlaError
from wbvla_train.data.clips import Corpus, Pairs
from wbvla_train.lam.geometry import lens_from_view
from wbvla_train.lam.model import LatentActionModel, pixels

DEAD_SHARE = 0.001  # a code that fewer pairs use is called dead (prior work: our prototype)


class CollapseError(WbvlaError):
    """The codes of a run carry nothing, and have not for a while."""


@dataclass(frozen=True)
class Health:
    """Measures over one set of pairs.

    Attributes:
        pairs: how many. rrg, rrg_shuffled, rrg_blur: see the module; blur: 60 % of a box blur of the first frame,
            11 px wide, at most a quarter of the frame or feature map.
        perplexity: per token, of the code distribution (1 = one code, K = all alike). dead: per token, codes under 0.1 %.
        stable_blur, stable_brightness: share of codes that stay when both frames are blurred (3 px box) or made 15 % brighter.
        static_share: per token, share of identical pairs (a, a) that get the token's most frequent static code.
    """

    pairs: int
    rrg: float
    rrg_shuffled: float
    rrg_blur: float
    perplexity: tuple[float, ...]
    dead: tuple[int, ...]
    stable_blur: float
    stable_brightness: float
    static_share: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        rounded = {}
        for key, value in asdict(self).items():
            rounded[key] = [round(v, 4) for v in value] if isinstance(value, tuple | list) else round(value, 4)
        return rounded

    def line(self) -> str:
        """One line for the log."""
        perplexity = " ".join(f"{p:.1f}" for p in self.perplexity)
        return (
            f"RRG {self.rrg:.3f} (shuffled codes {self.rrg_shuffled:.3f}, blurred copy {self.rrg_blur:.3f}), perplexity {perplexity}, "
            f"dead {sum(self.dead)}, stable to blur {self.stable_blur:.2f} / brightness {self.stable_brightness:.2f}"
        )


def batch_of(corpus: Corpus, pairs: Pairs, index: np.ndarray, device: torch.device | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Frames of pairs as the model takes them: first, later [B, 3, S, S] and lens [B, 5]; nothing augmented."""
    first = pixels(torch.from_numpy(np.ascontiguousarray(corpus.frames[pairs.first[index]])))
    later = pixels(torch.from_numpy(np.ascontiguousarray(corpus.frames[pairs.later[index]])))
    return first.to(device), later.to(device), lens_from_view(torch.from_numpy(pairs.views[pairs.clip[index]])).to(device)


def sample_pairs(pairs: Pairs, count: int, seed: int = 0) -> np.ndarray:
    """A fixed random subset of pair indices, in order."""
    if count >= len(pairs):
        return np.arange(len(pairs))
    return np.sort(np.random.default_rng((seed, 5)).choice(len(pairs), count, replace=False))


def box_blur(x: torch.Tensor, width: int) -> torch.Tensor:
    """[B, C, S, S] averaged over ``width`` x ``width`` px (odd), edges repeated."""
    r = width // 2
    return F.avg_pool2d(F.pad(x, (r, r, r, r), mode="replicate"), width, stride=1)


@torch.no_grad()
def measure(model: LatentActionModel, corpus: Corpus, pairs: Pairs, count: int = 512, seed: int = 0, batch: int = 64) -> Health:
    """Health over ``count`` pairs drawn with ``seed``."""
    model.eval()
    device = next(model.parameters()).device
    index = sample_pairs(pairs, count, seed)
    order = np.random.default_rng((seed, 6)).permutation(len(index))
    codes, changed_blur, changed_bright, static = [], [], [], []
    for i in range(0, len(index), batch):
        first, later, lens = batch_of(corpus, pairs, index[i : i + batch], device)
        codes.append(model.encode_frames(first, later, lens))
        changed_blur.append(model.encode_frames(box_blur(first, 3), box_blur(later, 3), lens) == codes[-1])
        bright = [(x * 0.25 + 0.4) * 1.15 / 0.25 - 0.4 / 0.25 for x in (first, later)]
        changed_bright.append(model.encode_frames(*bright, lens) == codes[-1])
        static.append(model.encode_frames(first, first, lens))
    all_codes = torch.cat(codes)
    shuffled = all_codes[torch.from_numpy(order)]
    sums = np.zeros(4)  # copy, model, shuffled codes, blurred copy
    for i in range(0, len(index), batch):
        first, later, lens = batch_of(corpus, pairs, index[i : i + batch], device)
        first, later = model.features(torch.cat((first, later))).chunk(2)
        blurred = 0.4 * first + 0.6 * box_blur(first, min(11, first.shape[-1] // 4 | 1))
        candidates = (
            first,
            model.predict(first, all_codes[i : i + batch], lens).frame,
            model.predict(first, shuffled[i : i + batch], lens).frame,
            blurred,
        )
        sums += [float((c - later).square().sum()) for c in candidates]
    k = model.config.codes
    share = F.one_hot(all_codes, k).double().mean(0)  # [T, K]
    perplexity = torch.exp(-(share * torch.log(share.clamp_min(1e-12))).sum(1))
    static_share = F.one_hot(torch.cat(static), k).double().mean(0).max(1).values
    copy = max(sums[0], 1e-9)
    return Health(
        pairs=len(index),
        rrg=float(1 - sums[1] / copy),
        rrg_shuffled=float(1 - sums[2] / copy),
        rrg_blur=float(1 - sums[3] / copy),
        perplexity=tuple(perplexity.tolist()),
        dead=tuple((share < DEAD_SHARE).sum(1).tolist()),
        stable_blur=float(torch.cat(changed_blur).float().mean()),
        stable_brightness=float(torch.cat(changed_bright).float().mean()),
        static_share=tuple(static_share.tolist()),
    )


class CollapseMonitor:
    """Ends a run whose codes carry nothing for ``patience`` checks in a row, never before step ``not_before``.

    Early collapse is normal (perplexity near 1 for the first several hundred steps, mended by code resets), so nothing is
    counted before ``not_before``. Collapsed means: the mean perplexity is under ``least_perplexity``, or shuffling the codes
    costs less than ``least_gap`` of RRG.
    """

    def __init__(self, not_before: int = 1000, patience: int = 4, least_perplexity: float = 2.0, least_gap: float = 0.02) -> None:
        self.not_before, self.patience = not_before, patience
        self.least_perplexity, self.least_gap = least_perplexity, least_gap
        self.bad_checks = 0

    def check(self, step: int, health: Health) -> None:
        """Raises:
        CollapseError: with what was seen, what was expected and what to try.
        """
        if step < self.not_before:
            return
        perplexity, gap = float(np.mean(health.perplexity)), health.rrg - health.rrg_shuffled
        collapsed = perplexity < self.least_perplexity or gap < self.least_gap or not np.isfinite(health.rrg)
        self.bad_checks = self.bad_checks + 1 if collapsed else 0
        if self.bad_checks >= self.patience:
            raise CollapseError(
                f"stopped at step {step}: the codes have carried nothing for {self.bad_checks} checks (mean perplexity {perplexity:.2f}, at least "
                f"{self.least_perplexity:.1f} expected; RRG falls by {gap:.3f} when codes are shuffled, at least {self.least_gap:.2f} expected). "
                "RRG itself can look healthy in this state. Try a smaller lr, more varied video, a gap_s over which something moves, or check that "
                "code resets are on (reset_below)."
            )

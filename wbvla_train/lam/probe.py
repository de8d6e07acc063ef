"""What do the codes tell about the true motion? Linear probes, fitted on some rooms and read on others.

Evaluation only: this is the one module that opens the truth files of rendered video. The probe is fitted on rooms of the
training split and scored on another split; majority rates are given beside every accuracy, because in this data "no motion"
alone is right in most pairs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro

from wbvla_core.console import program
from wbvla_core.errors import WbvlaError
from wbvla_core.numeric import wrap
from wbvla_train.data.clips import Corpus, Pairs
from wbvla_train.data.motion import PRIMITIVES
from wbvla_train.lam.config import domains_of
from wbvla_train.lam.export import Lam, load_lam
from wbvla_train.lam.health import batch_of, measure, sample_pairs

# Smaller displacements over the gap count as none: about half of the slowest commanded motion (ours).
STILL = {"forward": 0.04, "lateral": 0.04, "turn": 0.06}
WINDOW_S = 1.0  # of the probes that look at more than one pair


@dataclass(frozen=True)
class Motion:
    """True motion over the gap, per pair: displacement [N, 4] forward m, left m, turn left rad, up m; hands [N, 6] displacement of
    the left and right hand in the level camera frame, m (NaN: out of sight).

    Forward and left are along the heading half-way through the turn, in which the chord of an arc walked straight ahead has no sideways part: in
    the heading of the first frame who walks and turns would seem to step aside."""

    displacement: np.ndarray
    hands: np.ndarray


def truth_files(corpus: Corpus) -> list[Path]:
    """Truth of each folder of a rendered corpus (``<root>/truth/<split>/<domain>/<room>.npz``)."""
    return [folder.parents[2] / "truth" / folder.parents[1].name / folder.parent.name / f"{folder.name}.npz" for folder in (s.parent for s in corpus.sidecars)]


def true_motion(corpus: Corpus, pairs: Pairs) -> Motion:
    """What the truth files of a rendered corpus say of these pairs."""
    poses, hands = [], []
    for path in truth_files(corpus):
        with np.load(path) as truth:
            poses.append(truth["pose"].reshape(-1, 4))
            hands.append(truth["hands"].reshape(-1, 6))
    pose, hand = np.concatenate(poses).astype(np.float64), np.concatenate(hands)
    a, b = pose[pairs.first], pose[pairs.later]
    delta = b - a
    turn = wrap(delta[:, 2])
    heading = a[:, 2] + 0.5 * turn
    cos, sin = np.cos(heading), np.sin(heading)
    displacement = np.stack((cos * delta[:, 0] + sin * delta[:, 1], -sin * delta[:, 0] + cos * delta[:, 1], turn, delta[:, 3]), axis=1)
    return Motion(displacement, hand[pairs.later] - hand[pairs.first])


def steady_command(corpus: Corpus, whole: Pairs) -> np.ndarray:
    """[N, 4] the command in force all through each stretch (forward, left, turn left, rise in {-1, 0, 1}); NaN where it changed."""
    commands = np.concatenate([np.load(path)["command"].reshape(-1, 4) for path in truth_files(corpus)]).astype(np.float64)
    changes = np.concatenate(([0], (np.diff(commands, axis=0) != 0).any(1).cumsum()))  # a stretch lies within one clip: changes between clips do no harm
    return np.where((changes[whole.first] == changes[whole.later])[:, None], commands[whole.first], np.nan)


@torch.no_grad()
def codes_of(lam: Lam, corpus: Corpus, pairs: Pairs, index: np.ndarray, batch: int = 64) -> np.ndarray:
    """[N, T] codes of the chosen pairs."""
    return np.concatenate([lam.model.encode_frames(*batch_of(corpus, pairs, index[i : i + batch])).numpy() for i in range(0, len(index), batch)])


def one_hot(codes: np.ndarray, k: int) -> np.ndarray:
    """[N, T] -> [N, T * K + 1] with a constant."""
    hot = np.eye(k)[codes].reshape(len(codes), -1)
    return np.concatenate((hot, np.ones((len(hot), 1))), axis=1)


def ridge(x: np.ndarray, y: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """Ridge regression [features, outputs]."""
    return np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ y)


def logistic(x: np.ndarray, label: np.ndarray, classes: int, strength: float = 1.0) -> np.ndarray:
    """Multinomial logistic regression [features, classes]; every class weighs alike, ``strength`` on half the squared weights beside the sum of the losses."""
    features, target = torch.from_numpy(x), torch.from_numpy(label)
    weight = len(label) / (classes * torch.bincount(target, minlength=classes).clamp(min=1).double())
    w = torch.zeros(x.shape[1], classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([w], max_iter=200, tolerance_grad=1e-6 * len(label), line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(features @ w, target, weight, reduction="none").sum() + 0.5 * strength * w.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return w.detach().numpy()


def flag_scores(x_fit: np.ndarray, y_fit: np.ndarray, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Three-way linear classification of flags in {-1, 0, 1} (logistic regression), classes weighted alike in the fit."""
    classes = np.array((-1, 0, 1))
    guess = classes[(x @ logistic(x_fit, np.searchsorted(classes, y_fit), len(classes))).argmax(1)]
    recalls = [float((guess[y == c] == c).mean()) for c in classes if (y == c).any()]
    majority = max(float((y == c).mean()) for c in classes)
    return {"accuracy": float((guess == y).mean()), "balanced": float(np.mean(recalls)), "majority": majority}


def r_squared(x_fit: np.ndarray, y_fit: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """Of a linear regression, against the mean of the scored set."""
    guess = x @ ridge(x_fit, y_fit[:, None])[:, 0:1]
    return float(1.0 - ((guess[:, 0] - y) ** 2).sum() / max(((y - y.mean()) ** 2).sum(), 1e-12))


def _read(x_fit: np.ndarray, d_fit: np.ndarray, x: np.ndarray, d: np.ndarray, times: float = 1.0) -> dict[str, Any]:
    """Scores of the three flags and of the change of stance, from displacements [N, 4]; ``times``: how many gaps long they are."""
    out: dict[str, Any] = {}
    for column, (name, still) in enumerate(STILL.items()):
        flags = [np.where(np.abs(v[:, column]) < still * times, 0, np.sign(v[:, column])).astype(int) for v in (d_fit, d)]
        out[name] = flag_scores(x_fit, flags[0], x, flags[1])
    return {**out, "stance_r2": r_squared(x_fit, d_fit[:, 3], x, d[:, 3])}


def probe(lam: Lam, fit: Corpus, score: Corpus, fit_count: int = 6000, score_count: int = 3000) -> dict[str, Any]:
    """Linear probes of the true motion from one-hot codes of one pair."""
    k = lam.model.config.codes
    sets = []
    for corpus, count, seed in ((fit, fit_count, 1), (score, score_count, 2)):
        pairs = corpus.pairs(lam.gap_s)
        index = sample_pairs(pairs, count, seed)
        motion = true_motion(corpus, pairs)
        sets.append((one_hot(codes_of(lam, corpus, pairs, index), k), motion.displacement[index], motion.hands[index]))
    (x_fit, d_fit, h_fit), (x, d, h) = sets
    out: dict[str, Any] = {"pairs": len(x)}
    if np.abs(d).max() > min(STILL.values()):  # someone walks
        out |= _read(x_fit, d_fit, x, d)
    names = [f"{side}_{axis}" for side in ("left", "right") for axis in ("forward", "left", "up")]
    hand = {}
    for column, name in enumerate(names):
        a, b = np.isfinite(h_fit[:, column]), np.isfinite(h[:, column])
        if a.sum() > 100 and b.sum() > 100:
            hand[name] = r_squared(x_fit[a], h_fit[a, column], x[b], h[b, column])
    out["hand_displacement_r2"] = hand
    for side, columns in (("left", slice(0, 3)), ("right", slice(3, 6))):
        speed_fit, speed = np.linalg.norm(h_fit[:, columns], axis=1), np.linalg.norm(h[:, columns], axis=1)
        a, b = np.isfinite(speed_fit), np.isfinite(speed)
        out[f"{side}_hand_speed_r2"] = r_squared(x_fit[a], speed_fit[a], x[b], speed[b])
    return out


# -- one second of codes ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Seconds:
    """Stretches of video one second long, each the pairs that lie within it (six at 10 Hz and a gap of 0.5 s).

    Attributes:
        pairs: [N, P] indices into the pairs of a corpus, in order of time; the first pair's first frame and the last pair's later frame are ``WINDOW_S`` apart.
        whole: first and last frame of each stretch, as pairs.
    """

    pairs: np.ndarray
    whole: Pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: np.ndarray) -> Seconds:
        w = self.whole
        return Seconds(self.pairs[index], Pairs(w.first[index], w.later[index], w.clip[index], w.views))


def seconds(corpus: Corpus, pairs: Pairs, gap_s: float, window_s: float = WINDOW_S) -> Seconds:
    """All stretches of ``window_s`` of a corpus whose clips have one even rate.

    Raises:
        WbvlaError: no clip is that long.
    """
    stamps = np.concatenate([c.stamps_s for c in corpus.clips])
    whole = corpus.pairs(window_s)
    at_first = np.full(len(stamps), -1)
    at_first[pairs.first] = np.arange(len(pairs))
    inside = max(1, 1 + round((window_s - gap_s) / float(np.median(np.diff(corpus.clips[0].stamps_s)))))
    members = at_first[np.minimum(whole.first[:, None] + np.arange(inside), len(stamps) - 1)]
    good = (members >= 0).all(1)
    good[good] &= (pairs.clip[members[good]] == whole.clip[good, None]).all(1) & (pairs.later[members[good, -1]] == whole.later[good])
    if not good.any():
        raise WbvlaError(f"no clip of this corpus holds {window_s} s of pairs {gap_s} s apart; use longer clips")
    return Seconds(members, whole)[np.flatnonzero(good)]


def probe_seconds(lam: Lam, fit: Corpus, score: Corpus, fit_count: int = 6000, score_count: int = 3000) -> dict[str, Any]:
    """As :func:`probe`, from the codes of one second (one-hot, averaged over its pairs) to the true displacement over that second.

    Returns:
        ``all``: of any seconds; ``one_command``: fitted and scored on those through which one command was in force (all of the prototype's were so). Each
        with the number of ``seconds`` scored, the scores of the three flags and ``stance_r2``.
    """
    sets = []
    for corpus, count, seed in ((fit, fit_count, 3), (score, score_count, 4)):
        pairs = corpus.pairs(lam.gap_s)
        every = seconds(corpus, pairs, lam.gap_s)
        chosen = every[sample_pairs(every.whole, count, seed)]
        steady = np.isfinite(steady_command(corpus, chosen.whole)[:, 0])
        sets.append((averaged(lam, corpus, pairs, chosen), true_motion(corpus, chosen.whole).displacement, steady))
    (x_fit, d_fit, steady_fit), (x, d, steady) = sets
    out: dict[str, Any] = {}
    for label, fitted, scored in (("all", slice(None), slice(None)), ("one_command", steady_fit, steady)):
        out[label] = {"seconds": len(x[scored]), **_read(x_fit[fitted], d_fit[fitted], x[scored], d[scored], WINDOW_S / lam.gap_s)}
    return out


def averaged(lam: Lam, corpus: Corpus, pairs: Pairs, chosen: Seconds) -> np.ndarray:
    """[N, T * K + 1] one-hot codes averaged over the pairs of each second, with a constant."""
    needed, place = np.unique(chosen.pairs, return_inverse=True)
    hot = one_hot(codes_of(lam, corpus, pairs, needed), lam.model.config.codes)
    return hot[place.reshape(chosen.pairs.shape)].mean(1)


# -- the same codes across embodiments -------------------------------------------------------------------------------------------------
def primitive_of(corpus: Corpus, whole: Pairs) -> np.ndarray:
    """[N] which of the eight primitives is commanded all through each stretch; -1: none, several, or a change."""
    names = np.array([direction for name, direction in PRIMITIVES.items() if name != "stand"])
    match = (steady_command(corpus, whole)[:, None] == names[None]).all(2)
    return np.where(match.any(1), match.argmax(1), -1)


def retrieval(lam: Lam, gallery: Corpus, query: Corpus, source: str = "human", per_primitive: int = 300) -> dict[str, Any]:
    """Top-1 of finding the same primitive, by codes alone, from another body's camera.

    Query: one second of ``query``; gallery: seconds of ``gallery`` filmed by ``source``. Both as mean code values, standardised by the gallery. Chance is 1/8.

    Returns:
        ``nearest``: share of queries whose nearest neighbour shows the same primitive; ``prototype``: whose nearest class mean does
        (scaled by the spread within classes); ``by_primitive``: the latter for each; ``queries``.
    """
    sets = []
    for corpus, seed, only in ((gallery, 5, source), (query, 6, None)):
        pairs = corpus.pairs(lam.gap_s)
        every = seconds(corpus, pairs, lam.gap_s)
        keep = np.array([only is None or c.source == only for c in corpus.clips])[every.whole.clip]
        every = every[np.flatnonzero(keep)]
        kind = primitive_of(corpus, every.whole)
        rng = np.random.default_rng(seed)
        index = np.concatenate([rng.permutation(np.flatnonzero(kind == k))[:per_primitive] for k in range(8)])
        sets.append((averaged(lam, corpus, pairs, every[index])[:, :-1], kind[index]))
    (g, g_kind), (q, q_kind) = sets
    values = lam.model.quantiser.lookup(torch.arange(lam.model.config.codes)[:, None].expand(-1, lam.model.config.tokens)).detach().numpy()  # [K, T, D]
    k, t, d = values.shape
    table = np.zeros((t * k, t * d))
    for token in range(t):
        table[token * k : (token + 1) * k, token * d : (token + 1) * d] = values[:, token]
    g, q = g @ table, q @ table
    mean, std = g.mean(0), g.std(0) + 1e-6
    g, q = (g - mean) / std, (q - mean) / std
    nearest = g_kind[((q[:, None] - g[None]) ** 2).sum(-1).argmin(1)]
    centres = np.stack([g[g_kind == c].mean(0) for c in range(8)])
    within = np.linalg.inv(np.cov((g - centres[g_kind]).T) + 1e-3 * np.eye(g.shape[1]))
    away = q[:, None] - centres[None]
    by_class = np.einsum("qcd,de,qce->qc", away, within, away).argmin(1)
    names = [name for name in PRIMITIVES if name != "stand"]
    return {
        "queries": len(q),
        "nearest": float((nearest == q_kind).mean()),
        "prototype": float((by_class == q_kind).mean()),
        "by_primitive": {name: float((by_class == q_kind)[q_kind == c].mean()) for c, name in enumerate(names) if (q_kind == c).any()},
    }


@dataclass(frozen=True)
class ProbeConfig:
    """Options of ``python -m wbvla_train.lam.probe``: health and probes of a checkpoint on rooms it was not trained on.

    Attributes:
        lam: checkpoint directory. data: root of the rendered video. split: rooms that are scored (``test`` is for the end).
        domains: of the video; empty: the LAM's own, each with its x2_ counterpart.
        features: where the frozen extractor of a LAM on DINOv2 features lies; empty: where it lay in training.
        threads: of torch.
    """

    lam: Path = Path("checkpoints/lam/loco")
    data: Path = Path("data/video")
    split: str = "dev"
    domains: tuple[str, ...] = ()
    features: str = ""
    threads: int = 1


def evaluate(config: ProbeConfig) -> dict[str, Any]:
    """{domain: {"health": ..., "probe": ..., "second": ...}, "other_loco": retrieval}; probes are fitted on training rooms of the same domain.

    ``second`` for locomotion; ``other_loco`` where that part has been rendered (``wbvla data video --domains other_loco --splits dev test``).
    """
    torch.set_num_threads(config.threads)
    lam = load_lam(config.lam, config.features)
    size = lam.model.config.image_size
    own = (domain for name in domains_of(lam.manifest.name) for domain in (name, f"x2_{name}"))
    out: dict[str, Any] = {}
    for domain in config.domains or own:
        fit, score = Corpus([config.data / "train" / domain], size), Corpus([config.data / config.split / domain], size)
        health = measure(lam.model, score, score.pairs(lam.gap_s), count=2048, seed=1)
        out[domain] = {"health": health.to_json(), "probe": _rounded(probe(lam, fit, score))}
        if domain.endswith("loco"):
            out[domain]["second"] = _rounded(probe_seconds(lam, fit, score))
    other = config.data / config.split / "other_loco"
    if "loco" in domains_of(lam.manifest.name) and other.is_dir():
        out["other_loco"] = _rounded(retrieval(lam, Corpus([config.data / "train" / "loco"], size), Corpus([other], size)))
    return out


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    return round(value, 3) if isinstance(value, float) else value


def main(argv: list[str] | None = None) -> int:
    print(json.dumps(evaluate(tyro.cli(ProbeConfig, args=argv)), indent=2))
    return 0


if __name__ == "__main__":
    program(main)

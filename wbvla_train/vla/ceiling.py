"""What the VLA's codes are worth: per token between the majority code (floor) and an oracle that knows the true action (ceiling).

python -m wbvla_train.data.demos --held-out --episodes 80 --output data/unseen     # rooms and phrasings that no training sees
python -m wbvla_train.vla.ceiling --vla checkpoints/vla/tiny --demos data/demos --unseen data/unseen

A code says what happens in the half second after an image; image and sentence tell a part of it only. The oracle sees the same image features as
the VLA and, in the sentence's place, what truly happened (``motion``) or less:

    motion    the head camera's displacement over the LAMs' gap, six numbers (translation and rotation, sway of the gait included), and the arms'
              joint positions at its beginning and how far each moves
    command   flags and stance height at the image and averaged over the gap, and which arm waves: all that a sentence could tell; no gait
    task      which of the twelve tasks the sentence means: what the VLA itself is told, to show what the VLA's training left on the table

It knows neither the later image nor the phase of the gait. It is fitted on the episodes that the VLA was trained on, stopped early by the last tenth
of them, and scored on what neither has seen. Intervals are 95 %, from drawing episodes (not frames: they are alike within one) with replacement.
Source: ours.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from wbvla_core import checkpoint
from wbvla_core.console import program
from wbvla_perception.preprocess import ImageSpec
from wbvla_sim.instructions import SIDES, TASKS, sample_instruction
from wbvla_train.data.clips import pair_indices
from wbvla_train.lam.export import load_lam
from wbvla_train.loop import run_record
from wbvla_train.vla.codes import episode_bounds, held_out_episodes, read_labelled
from wbvla_train.vla.images import to_model
from wbvla_vla.checkpoint import LAM_ROLES, LoadedVla, load_vla
from wbvla_vla.model import Vla, code_loss
from wbvla_vla.tokens import KINDS

Knowledge = Literal["motion", "command", "task"]
TRUTH_KEYS = ("camera", "arm_state", "executed")


@dataclass(frozen=True)
class OracleConfig:
    """The oracle: image tokens side by side and the action, each through a layer, then two layers over both (ours: small enough for minutes of one core).

    Attributes:
        width: of the layer over each; the joint layers are twice as wide.
        check_every, patience: steps between looks at the stopping episodes; looks without a new best that end the fit.
        frames: of the training episodes, spread evenly: neighbours are alike.
        check_frames: how many frames of the stopping episodes are looked at, spread evenly.
    """

    width: int = 256
    dropout: float = 0.5
    lr: float = 5e-4
    weight_decay: float = 0.05
    batch: int = 256
    steps: int = 1000
    check_every: int = 100
    frames: int = 10_000
    check_frames: int = 1500
    patience: int = 5
    seed: int = 0


@dataclass(frozen=True)
class CeilingConfig:
    """Options.

    Attributes:
        vla, lam_mani, lam_loco: checkpoints; the VLA must have been trained on these LAMs' codes.
        demos: the recordings that the VLA was trained on; its last episodes were held out.
        unseen: recordings of ``wbvla_train.data.demos --held-out``; None = without.
        held_out: share of the recordings' episodes, the last ones, that is measured on: what the VLA's training kept back.
        knows: what the oracles are told, one oracle each.
        gap_s: label anew with this time between the frames, in place of the LAMs' own, to see what would become of floor and ceiling. The VLA
            has not learnt such codes: the oracle that knows the task then stands in its column.
        out: where the numbers are written, JSON.
    """

    vla: Path = Path("checkpoints/vla/tiny")
    lam_mani: Path = Path("checkpoints/lam/mani")
    lam_loco: Path = Path("checkpoints/lam/loco")
    demos: Path = Path("data/demos")
    unseen: Path | None = None
    held_out: float = 0.05
    knows: tuple[Knowledge, ...] = ("motion", "command", "task")
    gap_s: float | None = None
    oracle: OracleConfig = OracleConfig()
    robot: str = "x2"
    threads: int = 1
    resamples: int = 2000
    out: Path | None = None


@dataclass
class Frames:
    """Labelled frames of one recording: M of them.

    Attributes:
        images: [M, S, S, 3] uint8. sentences: [M] str. task: [M] index into TASKS. episode: [M].
        codes: [M, kinds, tokens] int64.
        actions: what an oracle is told, by name, [M, F] float32.
    """

    images: np.ndarray
    sentences: np.ndarray
    task: np.ndarray
    episode: np.ndarray
    codes: np.ndarray
    actions: dict[str, np.ndarray]

    def part(self, chosen: np.ndarray) -> Frames:
        """The frames ``chosen``: indices, or true or false for each [M]."""
        actions = {name: values[chosen] for name, values in self.actions.items()}
        return Frames(self.images[chosen], self.sentences[chosen], self.task[chosen], self.episode[chosen], self.codes[chosen], actions)


# ------------------------------------------------------------------------------------------------------- the true action


def camera_displacement(first: np.ndarray, later: np.ndarray) -> np.ndarray:
    """How the camera moved, in the level frame of its first pose (x ahead, y left, z up).

    Args:
        first, later: poses [N, 3, 4], see :mod:`wbvla_train.data.demos`.

    Returns:
        [N, 6]: translation, m; rotation vector, rad (its last number is the turn to the left).
    """
    ahead = first[:, :, 3] * (1.0, 1.0, 0.0)
    ahead = ahead / np.linalg.norm(ahead, axis=1, keepdims=True)
    up = np.broadcast_to((0.0, 0.0, 1.0), ahead.shape)
    level = np.stack((ahead, np.cross(up, ahead), up), axis=1)  # [N, 3, 3], rows: the level frame's axes in the room
    translation = np.einsum("nij,nj->ni", level, later[:, :, 0] - first[:, :, 0])
    turned = level @ later[:, :, 1:] @ first[:, :, 1:].transpose(0, 2, 1) @ level.transpose(0, 2, 1)
    return np.concatenate((translation, _rotation_vector(turned)), axis=1)


def _rotation_vector(matrices: np.ndarray) -> np.ndarray:
    """[N, 3, 3] -> [N, 3], for turns well below half a revolution."""
    skew = np.stack((matrices[:, 2, 1] - matrices[:, 1, 2], matrices[:, 0, 2] - matrices[:, 2, 0], matrices[:, 1, 0] - matrices[:, 0, 1]), axis=1) / 2
    sine = np.linalg.norm(skew, axis=1)
    angle = np.arctan2(sine, (np.trace(matrices, axis1=1, axis2=2) - 1) / 2)
    return skew * (angle / np.maximum(sine, 1e-9))[:, None]


def true_actions(demos: dict[str, np.ndarray], gaps_s: tuple[float, ...]) -> dict[str, np.ndarray]:
    """What the oracles are told of each frame [T, F], see the module text; frames whose gap leaves the episode hold numbers without meaning."""
    bounds = episode_bounds(demos["episode"])
    joints = demos["arm_state"].shape[1] // 2
    waves = np.array([[task.kind == "wave" and task.side == side for side in SIDES] for task in TASKS], dtype=np.float64)
    executed = np.concatenate((np.zeros((1, demos["executed"].shape[1])), np.cumsum(demos["executed"], axis=0, dtype=np.float64)))
    motion, command = [demos["arm_state"][:, :joints]], [demos["executed"], waves[demos["task"]]]
    for gap_s in gaps_s:
        later = np.concatenate([a + pair_indices(demos["stamp_s"][a:b], gap_s)[0] for a, b in pairwise(bounds)])
        here = np.arange(len(later))
        motion += [camera_displacement(demos["camera"], demos["camera"][later]), demos["arm_state"][later, :joints] - demos["arm_state"][:, :joints]]
        command.append((executed[later] - executed[here]) / np.maximum(later - here, 1)[:, None])
    told = {"motion": motion, "command": command, "task": [np.eye(len(TASKS))[demos["task"]]]}
    return {name: np.concatenate(parts, axis=1).astype(np.float32) for name, parts in told.items()}


def read_frames(root: Path, lam_dirs: tuple[Path, Path], log=print, gap_s: float | None = None) -> Frames:
    """Frames that carry a label of both LAMs.

    Raises:
        WbvlaError: recordings without camera poses.
    """
    lams = [replace(lam, gap_s=gap_s or lam.gap_s) for lam in map(load_lam, lam_dirs)]
    demos, codes, usable = read_labelled(root, lams, log, TRUTH_KEYS)
    actions = true_actions(demos, tuple(sorted({lam.gap_s for lam in lams})))
    return Frames(demos["image"], demos["sentence"], demos["task"], demos["episode"], codes, actions).part(usable)


# ------------------------------------------------------------------------------------------------------------- the oracle


class Oracle(nn.Module):
    """Image features and the true action -> code logits."""

    def __init__(self, config: OracleConfig, image_size: tuple[int, int], action_size: int, shape: tuple[int, int, int]) -> None:
        """``image_size``: tokens, features; ``shape``: kinds, tokens, codes of the answer."""
        super().__init__()
        self.shape, w = shape, config.width
        self.image = nn.Sequential(nn.LayerNorm(image_size), nn.Flatten(), nn.Linear(image_size[0] * image_size[1], w), nn.GELU())
        self.action = nn.Sequential(nn.Linear(action_size, w), nn.GELU(), nn.Linear(w, w), nn.GELU())
        drop = nn.Dropout(config.dropout)  # without it the fit was over after 400 steps
        joint = (nn.LayerNorm(2 * w), drop, nn.Linear(2 * w, 2 * w), nn.GELU(), drop, nn.Linear(2 * w, 2 * w), nn.GELU(), drop)
        self.joint = nn.Sequential(*joint, nn.Linear(2 * w, int(np.prod(shape))))

    def forward(self, image: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Image tokens [N, P, D], standardised action [N, F] -> logits [N, kinds, tokens, codes]."""
        return self.joint(torch.cat((self.image(image), self.action(action)), dim=1)).unflatten(1, self.shape)


def fit_oracle(
    config: OracleConfig, features: torch.Tensor, action: np.ndarray, codes: np.ndarray, stop: np.ndarray, codebook_size: int, log=print
) -> tuple[Oracle, tuple[np.ndarray, np.ndarray]]:
    """Fit on the frames where ``stop`` is false, stop by those where it is true.

    Args:
        features: image tokens [M, P, D]. action: [M, F]. codes: [M, kinds, tokens]. stop: [M] bool.

    Returns:
        the oracle of the best look, and mean and deviation that actions are standardised by.
    """
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    fit, check = np.flatnonzero(~stop), np.flatnonzero(stop)
    check = check[:: max(1, len(check) // config.check_frames)]
    scale = action[fit].mean(axis=0), np.maximum(action[fit].std(axis=0), 1e-4)
    told, answer = torch.from_numpy((action - scale[0]) / scale[1]), torch.from_numpy(codes)
    oracle = Oracle(config, tuple(features.shape[1:]), action.shape[1], (*codes.shape[1:], codebook_size))
    optimizer = torch.optim.AdamW(oracle.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.steps, pct_start=0.05)
    best, state, since = np.inf, copy.deepcopy(oracle.state_dict()), 0
    for step in range(1, config.steps + 1):
        rows = torch.from_numpy(rng.choice(fit, config.batch))
        optimizer.zero_grad()
        code_loss(oracle(features[rows].float(), told[rows]), answer[rows]).backward()
        nn.utils.clip_grad_norm_(oracle.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % config.check_every and step != config.steps:
            continue
        logits = ask(oracle, features[check], told[check])
        loss = float(code_loss(logits, answer[check]))
        log(f"  step {step}: {loss:.3f} nats, {float((logits.argmax(-1) == answer[check]).float().mean()):.1%} right on the stopping episodes")
        since = 0 if loss < best else since + 1
        if loss < best:
            best, state = loss, copy.deepcopy(oracle.state_dict())
        if since >= config.patience:
            break
    oracle.load_state_dict(state)
    return oracle.eval(), scale


@torch.no_grad()
def ask(oracle: Oracle, features: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
    """Logits [M, kinds, tokens, codes] of an oracle; leaves it in training mode if it was."""
    training = oracle.training
    oracle.eval()
    logits = torch.cat([oracle(a.float(), b) for a, b in zip(features.split(512), told.split(512), strict=True)])
    oracle.train(training)
    return logits


@torch.no_grad()
def image_features(model: Vla, images: np.ndarray, spec: ImageSpec) -> torch.Tensor:
    """Image tokens [M, P, D] of the VLA's towers and projector, in half precision."""
    parts = np.array_split(images, max(1, len(images) // 256))
    return torch.cat([model.encode_image(to_model(part, spec)).half() for part in parts])


@torch.no_grad()
def vla_codes(vla: LoadedVla, features: torch.Tensor, sentences: np.ndarray) -> np.ndarray:
    """The VLA's own codes [M, kinds, tokens]."""
    known, inverse = np.unique(sentences, return_inverse=True)
    words = torch.from_numpy(vla.tokenizer.encode_batch(known.tolist())[inverse])
    return torch.cat([vla.model.read_out(a.float(), b).codes() for a, b in zip(features.split(256), words.split(256), strict=True)]).numpy()


# ------------------------------------------------------------------------------------------------------------ the measure


def score(codes: np.ndarray, vla: np.ndarray, oracle: np.ndarray, episode: np.ndarray, resamples: int = 2000, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Floor, VLA and oracle of one set of frames.

    Args:
        codes, vla, oracle: right and predicted codes [M, kinds, tokens]. episode: [M].

    Returns:
        {"mani 1": {"floor": (value, low, high), "vla": ..., "oracle": ..., "way": ...}, ..., "mani": ..., "loco": ...}; the way is
        (VLA - floor) / (oracle - floor), and NaN where the oracle is no better than the floor.
    """
    majority = np.array([[np.bincount(codes[:, kind, token]).argmax() for token in range(codes.shape[2])] for kind in range(codes.shape[1])])
    right = np.stack([guess == codes for guess in (np.broadcast_to(majority, codes.shape), vla, oracle)], axis=1).astype(np.float64)  # [M, 3, kinds, tokens]
    right = np.concatenate((right, right.mean(axis=3, keepdims=True)), axis=3)  # and the mean over a kind's tokens
    _, numbers = np.unique(episode, return_inverse=True)
    episodes = numbers.max() + 1
    sums = np.zeros((episodes, *right.shape[1:]))
    np.add.at(sums, numbers, right)
    counts = np.bincount(numbers).astype(np.float64)
    draws = np.random.default_rng(seed).multinomial(episodes, np.full(episodes, 1 / episodes), size=resamples).astype(np.float64)  # [R, episodes]
    weights = np.concatenate((np.ones((1, episodes)), draws))  # the sample itself first
    shares = np.einsum("re,e...->r...", weights, sums) / (weights @ counts)[:, None, None, None]  # [1 + R, 3, kinds, tokens + 1]
    room = shares[:, 2] - shares[:, 0]
    way = np.where(room > 1e-9, (shares[:, 1] - shares[:, 0]) / np.where(room > 1e-9, room, 1.0), np.nan)
    values = {"floor": shares[:, 0], "vla": shares[:, 1], "oracle": shares[:, 2], "way": way}
    table = {}
    for kind, name in enumerate(KINDS):
        for token in range(right.shape[3]):
            label = f"{name.lower()} {token + 1}" if token < codes.shape[2] else name.lower()
            table[label] = {what: _interval(sample[:, kind, token]) for what, sample in values.items()}
    return table


def _interval(sample: np.ndarray) -> tuple[float, float, float]:
    """The first number, and the 95 % interval of the others."""
    rest = sample[1:][np.isfinite(sample[1:])]
    low, high = np.percentile(rest, (2.5, 97.5)) if len(rest) else (np.nan, np.nan)
    return float(sample[0]), float(low), float(high)


def evaluate(config: CeilingConfig, log=print) -> dict[str, Any]:
    """{set of frames: {"frames", "episodes", "scores": {knowledge: see :func:`score`}}}.

    Raises:
        CheckpointError: the VLA was trained on other LAMs' codes.
        WbvlaError: recordings without camera poses.
    """
    torch.set_num_threads(config.threads)
    vla, lams = load_vla(config.vla), (config.lam_mani, config.lam_loco)
    for role, path in zip(LAM_ROLES, lams, strict=True):
        checkpoint.require_parent(vla.manifest, role, checkpoint.load_manifest(path, kind="lam"))
    recorded = read_frames(config.demos, lams, log, config.gap_s)
    held_out = held_out_episodes(recorded.episode, config.held_out)
    mine = np.flatnonzero(~held_out)
    training = recorded.part(mine[:: max(1, len(mine) // config.oracle.frames)])
    sets = {"held-out episodes": recorded.part(held_out)}
    if config.unseen:
        unseen = read_frames(config.unseen, lams, log, config.gap_s)
        known = {e: sample_instruction(TASKS[unseen.task[unseen.episode == e][0]], np.random.default_rng(int(e))) for e in np.unique(unseen.episode)}
        sets["unseen rooms"] = Frames(**{**vars(unseen), "sentences": np.array([known[e] for e in unseen.episode])})
        sets["unseen rooms and phrasings"] = unseen
    log(f"image features of {len(training.images)} training frames")
    features = image_features(vla.model, training.images, vla.image_spec)
    stop = held_out_episodes(training.episode, 0.1)
    oracles = {}
    for knows in dict.fromkeys((*config.knows, "task") if config.gap_s else config.knows):
        log(f"fitting the oracle that knows the {knows}")
        oracles[knows] = fit_oracle(config.oracle, features, training.actions[knows], training.codes, stop, vla.model.config.codebook_size, log)
    result: dict[str, Any] = {}
    seen: dict[int, torch.Tensor] = {}  # features of sets that share their images
    for name, frames in sets.items():
        if id(frames.images) not in seen:
            seen[id(frames.images)] = image_features(vla.model, frames.images, vla.image_spec)
        features = seen[id(frames.images)]
        best = {}
        for knows, (oracle, (mean, deviation)) in oracles.items():
            told = torch.from_numpy((frames.actions[knows] - mean) / deviation)
            best[knows] = ask(oracle, features, told).argmax(-1).numpy()
        guess = vla_codes(vla, features, frames.sentences) if config.gap_s is None else best["task"]
        scores = {knows: score(frames.codes, guess, answer, frames.episode, config.resamples) for knows, answer in best.items()}
        result[name] = {"frames": len(guess), "episodes": len(np.unique(frames.episode)), "scores": scores}
    return result


def table(result: dict[str, Any], column: str = "VLA") -> str:
    """The result as markdown, percent right with intervals; ``column``: whose codes were measured."""
    percent = lambda v: "-" if not np.isfinite(v[0]) else f"{100 * v[0]:.1f} ({100 * v[1]:.1f}-{100 * v[2]:.1f})"  # noqa: E731
    lines = []
    for name, part in result.items():
        oracles = list(part["scores"])
        lines += ["", f"{name}: {part['frames']} frames of {part['episodes']} episodes, % right", ""]
        lines.append(f"| token | majority | {column} |" + "".join(f" oracle ({knows}) | of the way |" for knows in oracles))
        lines.append("|---|---|---|" + "---|---|" * len(oracles))
        for token in part["scores"][oracles[0]]:
            rows = [part["scores"][knows][token] for knows in oracles]
            cells = "".join(f" {percent(row['oracle'])} | {percent(row['way'])} |" for row in rows)
            lines.append(f"| {token} | {percent(rows[0]['floor'])} | {percent(rows[0]['vla'])} |{cells}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    import time

    import tyro

    config = tyro.cli(CeilingConfig, args=argv, description="How far the VLA's codes are from the majority's to those of an oracle with the true action.")
    started = time.monotonic()
    result = evaluate(config)
    print(table(result, "VLA" if config.gap_s is None else "oracle (task)"))
    if config.out:
        record = run_record(config, (time.monotonic() - started) / 3600, result=result, vla=checkpoint.load_manifest(config.vla).hash)
        config.out.parent.mkdir(parents=True, exist_ok=True)
        config.out.write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    program(main)

"""Stage 1: predict the codes of both latent action models from image and sentence (paper: -log p(c_mani, c_loco | o, l)).

The recorded episodes are used as action-free video here: frames, stamps and the sentence. What happened during the next
half second is told by the LAMs' codes, never by the commands. Frames in which a random burst disturbed the demonstrator, so
that what happened is not what was asked for, are left out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from wbvla_perception.preprocess import ImageSpec
from wbvla_train.data.shards import read_shards
from wbvla_train.lam.export import Lam, load_lam
from wbvla_train.lam.label import label_frames
from wbvla_train.loop import TrainLoop
from wbvla_train.vla.config import VlaTrainConfig
from wbvla_train.vla.grounding import Grounding, GroundingStep, box_loss
from wbvla_train.vla.images import jitter, to_model
from wbvla_train.vla.pictures import GROUNDED_FILE, load_stills
from wbvla_vla.model import PrismaticVla, code_loss
from wbvla_vla.tokens import InstructionTokenizer

DEMO_KEYS = ("image", "stamp_s", "episode", "clean", "sentence", "boxes", "task")


@dataclass
class CodeSet:
    """Frames with a code label, as indices into the demonstrations.

    Attributes:
        images: all frames [T, S, S, 3]; word_ids: of their sentences [T, W].
        codes: [T, 2, tokens] (manipulation, locomotion).
        index: frames that carry a label [M].
    """

    images: np.ndarray
    word_ids: np.ndarray
    codes: np.ndarray
    index: np.ndarray


def label_demos(root: Path, demos: dict[str, np.ndarray], lam: Lam, log=print) -> tuple[np.ndarray, np.ndarray]:
    """Codes [T, tokens] and valid [T] of every frame, episode by episode; cached beside the data under the LAM's hash."""
    path = root / f"codes_{lam.manifest.name}_{lam.manifest.hash[:12]}_{len(demos['image'])}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as cache:
            return cache["codes"], cache["valid"]
    log(f"labelling {len(demos['image'])} frames with {lam.manifest.label}")
    starts = np.flatnonzero(np.diff(demos["episode"], prepend=demos["episode"][0] - 1))
    parts = [label_frames(lam, demos["image"][a:b], demos["stamp_s"][a:b]) for a, b in zip(starts, [*starts[1:], len(demos["image"])], strict=True)]
    codes, valid = np.concatenate([c for c, _ in parts]), np.concatenate([v for _, v in parts])
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez_compressed(temporary, codes=codes, valid=valid)
    os.replace(temporary, path)
    return codes, valid


def undisturbed(demos: dict[str, np.ndarray], gap_s: float) -> np.ndarray:
    """Frames [T] bool from which on, for ``gap_s``, the robot did what was asked."""
    stamps, clean, episode = demos["stamp_s"], demos["clean"], demos["episode"]
    good = clean.copy()
    step = 1
    while True:  # a frame is good while every later frame within the gap is
        later = np.zeros_like(good)
        later[:-step] = (episode[step:] == episode[:-step]) & (stamps[step:] - stamps[:-step] <= gap_s + 1e-6)
        if not later.any():
            return good
        good[:-step] &= ~later[:-step] | clean[step:]
        step += 1


def load_codes(config: VlaTrainConfig, tokenizer: InstructionTokenizer, log=print) -> tuple[CodeSet, np.ndarray]:
    """The labelled frames, and which of them are held out (the last episodes)."""
    c = config.codes
    demos = read_shards(c.demos, DEMO_KEYS)
    lams = [load_lam(c.lam_mani), load_lam(c.lam_loco)]
    labels = [label_demos(c.demos, demos, lam, log) for lam in lams]
    usable = labels[0][1] & labels[1][1] & undisturbed(demos, max(lam.gap_s for lam in lams))
    sentences, inverse = np.unique(demos["sentence"], return_inverse=True)
    codes = np.stack([labels[0][0], labels[1][0]], axis=1).astype(np.int64)
    data = CodeSet(demos["image"], tokenizer.encode_batch(sentences.tolist())[inverse], codes, np.flatnonzero(usable))
    return data, held_out_episodes(demos["episode"])


def held_out_episodes(episode: np.ndarray, share: float = 0.05) -> np.ndarray:
    """[T] bool: frames of the last episodes, at least one."""
    numbers = np.unique(episode)
    return episode >= numbers[-max(1, int(len(numbers) * share))]


class CodesStep:
    """Draws a batch of labelled frames; beside it a few pictures of stage 0, so that words keep their meaning."""

    def __init__(
        self, model: PrismaticVla, spec: ImageSpec, data: CodeSet, index: np.ndarray, batch: int, grounding: GroundingStep | None, weight: float
    ) -> None:
        self.model, self.spec, self.data, self.index, self.batch = model, spec, data, index, batch
        self.grounding, self.weight = grounding, weight

    def __call__(self, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        rows = self.index[rng.integers(len(self.index), size=self.batch)]
        pixels = to_model(jitter(self.data.images[rows], rng), self.spec)
        out = self.model(pixels, torch.from_numpy(self.data.word_ids[rows]))
        codes = torch.from_numpy(self.data.codes[rows])
        loss = code_loss(out.logits.float(), codes)
        numbers = {"code_accuracy": float((out.codes() == codes).float().mean())}
        if self.grounding and self.weight > 0:
            pixels, words, image_index, _, target = self.grounding.draw(rng)
            _, language = self.grounding.model(pixels, words, image_index)
            grounded = box_loss(language, target)
            loss = loss + self.weight * grounded
            numbers["grounding"] = float(grounded.detach())
        return loss, numbers

    @torch.no_grad()
    def evaluate(self, count: int = 1024) -> dict[str, float]:
        """Accuracy per kind, beside the majority code's (the floor of any claim)."""
        if not len(self.index):
            return {}  # nothing was held out with a label: nothing is claimed
        rows = self.index[np.random.default_rng(1).permutation(len(self.index))[:count]]
        right = []
        for part in np.array_split(rows, max(1, len(rows) // 128)):
            out = self.model(to_model(self.data.images[part], self.spec), torch.from_numpy(self.data.word_ids[part]))
            right.append((out.codes().numpy() == self.data.codes[part]).mean(axis=2))  # [n, 2]
        accuracy = np.concatenate(right).mean(axis=0)
        codes = self.data.codes[rows]
        floor = [np.mean([np.bincount(codes[:, kind, token]).max() / len(rows) for token in range(codes.shape[2])]) for kind in range(2)]
        return {"mani_accuracy": float(accuracy[0]), "mani_majority": float(floor[0]), "loco_accuracy": float(accuracy[1]), "loco_majority": float(floor[1])}


def train_codes(config: VlaTrainConfig, model: PrismaticVla, tokenizer: InstructionTokenizer, spec: ImageSpec, log=print) -> dict[str, float]:
    """Stage 1, from stage 0's weights where there are some; leaves the result in ``model``."""
    c = config.codes
    grounded = config.run_dir / GROUNDED_FILE
    if grounded.exists():
        model.load_state_dict({name: value.float() for name, value in load_file(grounded).items()})
    else:
        log(f"no {grounded}: stage 1 starts from random weights")
    data, held_out = load_codes(config, tokenizer, log)
    train_index, check_index = data.index[~held_out[data.index]], data.index[held_out[data.index]]
    if not len(train_index):
        raise ValueError(f"no frame of {c.demos} carries a code label: episodes are shorter than the LAMs' gap, or all are disturbed; record longer ones")
    grounding = None
    module: torch.nn.Module = model
    if c.grounding_weight > 0:
        pictures, _ = load_stills(config, log)
        module = Grounding(model)
        grounding = GroundingStep(module, tokenizer, spec, pictures["images"], pictures["labels"], c.grounding_batch, 4)
    step = CodesStep(model, spec, data, train_index, c.batch, grounding, c.grounding_weight)
    check = CodesStep(model, spec, data, check_index, c.batch, None, 0.0)
    log(f"stage 1: {len(train_index)} labelled frames ({len(data.images)} in all), {c.loop.steps} steps of {c.batch}")
    loop = TrainLoop(c.loop, module, step, config.run_dir / "codes", {"stage": "codes", "size": config.size, "batch": c.batch}, log)
    if config.resume:
        loop.resume()
    loop.run(check.evaluate, evaluate_every=max(1, c.loop.steps // 8))
    return {**check.evaluate(count=4096), "samples": c.loop.steps * c.batch, "hours": loop.seconds / 3600}

"""Stage 1: predict the codes of both latent action models from image and sentence (paper: -log p(c_mani, c_loco | o, l)).

The recorded episodes are used as action-free video here: frames, stamps and the sentence. What happened during the next
half second is told by the LAMs' codes, never by the commands. Frames in which a random burst disturbed the demonstrator, so
that what happened is not what was asked for, are left out. Action-free clips with sentences (``--clips``) can be mixed in.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wbvla_core.errors import WbvlaError
from wbvla_perception.preprocess import ImageSpec
from wbvla_train.data.shards import read_shard, read_shards
from wbvla_train.lam.export import Lam, load_lam
from wbvla_train.lam.label import label_frames
from wbvla_train.loop import Step
from wbvla_train.parallel import Part, to_device
from wbvla_train.vla.clips import ClipSet, load_clips
from wbvla_train.vla.config import VlaTrainConfig
from wbvla_train.vla.grounding import Grounding, GroundingBatch, GroundingStep, box_loss
from wbvla_train.vla.images import jitter, require_size, to_model
from wbvla_train.vla.pictures import load_stills
from wbvla_vla.model import Vla, code_loss
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
    """Codes [T, tokens] and valid [T] of every frame, episode by episode; cached beside the data under the LAM's hash (and the gap, if it is not its own)."""
    gap = "" if lam.gap_s == lam.manifest.extra["gap_s"] else f"_{lam.gap_s:g}s"
    path = root / f"codes_{lam.manifest.name}_{lam.manifest.hash[:12]}_{len(demos['image'])}{gap}.npz"
    if path.exists():
        try:
            cache = read_shard(path, ("codes", "valid"))
            return cache["codes"], cache["valid"]
        except WbvlaError as error:  # made from the data, so made again
            log(str(error).split(";")[0] + "; labelling again")
    log(f"labelling {len(demos['image'])} frames with {lam.manifest.label}")
    parts = [label_frames(lam, demos["image"][a:b], demos["stamp_s"][a:b]) for a, b in pairwise(episode_bounds(demos["episode"]))]
    codes, valid = np.concatenate([c for c, _ in parts]), np.concatenate([v for _, v in parts])
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez_compressed(temporary, codes=codes, valid=valid)
    os.replace(temporary, path)
    return codes, valid


def episode_bounds(episode: np.ndarray) -> np.ndarray:
    """First frames of the episodes, in order, and the number of frames [episodes + 1]."""
    return np.append(np.flatnonzero(np.diff(episode, prepend=episode[0] - 1)), len(episode))


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


def read_labelled(root: Path, lams: list[Lam], log=print, keys: tuple[str, ...] = ()) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Recordings (DEMO_KEYS and ``keys``), their codes [T, kinds, tokens], and which frames carry a code of both LAMs [T] bool."""
    demos = read_shards(root, (*DEMO_KEYS, *keys))
    labels = [label_demos(root, demos, lam, log) for lam in lams]
    usable = labels[0][1] & labels[1][1] & undisturbed(demos, max(lam.gap_s for lam in lams))
    return demos, np.stack([labels[0][0], labels[1][0]], axis=1).astype(np.int64), usable


def load_codes(root: Path, lams: tuple[Path, Path], tokenizer: InstructionTokenizer, log=print) -> tuple[CodeSet, np.ndarray]:
    """The labelled frames of the recordings in ``root``, and which of all frames are held out (the last episodes)."""
    demos, codes, usable = read_labelled(root, [load_lam(path) for path in lams], log)
    sentences, inverse = np.unique(demos["sentence"], return_inverse=True)
    data = CodeSet(demos["image"], tokenizer.encode_batch(sentences.tolist())[inverse], codes, np.flatnonzero(usable))
    return data, held_out_episodes(demos["episode"])


def held_out_episodes(episode: np.ndarray, share: float = 0.05) -> np.ndarray:
    """[T] bool: frames of the last episodes, at least one."""
    numbers = np.unique(episode)
    return episode >= numbers[-max(1, int(len(numbers) * share))]


@dataclass
class CodeBatch:
    """N labelled frames.

    Attributes:
        grounding: a batch of stage 0 beside them.
        weight: of each frame's two code sets; None = alike. Where a batch is in pieces, its mean over the whole batch is 1.
        recorded: only so many, the first ones, count as right or wrong: the others are action-free clips; None = all.
    """

    pixels: torch.Tensor  # [N, C, S, S]
    words: torch.Tensor  # [N, W]
    codes: torch.Tensor  # [N, 2, tokens] int64
    grounding: GroundingBatch | None = None
    weight: torch.Tensor | None = None  # [N, 2]
    recorded: int | None = None


def code_step_loss(vla: torch.nn.Module, batch: CodeBatch) -> tuple[torch.Tensor, dict[str, float]]:
    """Cross-entropy of the codes, and how many are right."""
    out = vla(batch.pixels, batch.words, codes=batch.codes)
    right = (out.codes() == batch.codes)[: batch.recorded].float().mean()
    return code_loss(out.logits.float(), batch.codes, batch.weight), {"code_accuracy": float(right)}


class CodesStep:
    """Draws a batch of labelled frames; beside it a few pictures of stage 0, so that words keep their meaning.

    Args:
        clips, clip_rows: action-free clips, and how many frames of a batch are theirs.
    """

    def __init__(
        self,
        model: Vla,
        spec: ImageSpec,
        data: CodeSet,
        index: np.ndarray,
        batch: int,
        grounding: GroundingStep | None,
        weight: float,
        clips: ClipSet | None = None,
        clip_rows: int = 0,
    ) -> None:
        self.model, self.spec, self.data, self.index, self.batch = model, spec, data, index, batch
        self.grounding, self.weight = grounding, weight
        self.clips, self.clip_rows = clips, clip_rows

    def draw(self, rng: np.random.Generator, step: int, part: Part) -> CodeBatch:
        if self.grounding:
            part.require_whole("stage 1 with pictures of stage 0 beside it (grounding_weight)")
        if self.clip_rows:
            part.require_whole("stage 1 with action-free clips in each batch (clips)")
        rows = self.index[rng.integers(len(self.index), size=self.batch - self.clip_rows)]
        images, words, codes, weight = self.data.images[rows], self.data.word_ids[rows], self.data.codes[rows], None
        if self.clips and self.clip_rows:
            images, words, codes, weight = ClipSet.behind((images, words, codes), self.clips.draw(rng, self.clip_rows))
        mine = part.of(self.batch)
        pixels = to_model(jitter(images, rng)[mine], self.spec)
        beside = self.grounding.draw(rng) if self.grounding and self.weight > 0 else None
        weight = None if weight is None else torch.from_numpy(weight)
        return CodeBatch(pixels, torch.from_numpy(words[mine]), torch.from_numpy(codes[mine]), beside, weight, len(rows))

    def loss(self, model: torch.nn.Module, batch: CodeBatch) -> tuple[torch.Tensor, dict[str, float]]:
        if batch.grounding is None:
            return code_step_loss(model, batch)
        loss, numbers = code_step_loss(self.model, batch)  # ``model`` is the VLA with stage 0's heads around it
        _, language = model(batch.grounding.pixels, batch.grounding.words, batch.grounding.image_index)
        grounded = box_loss(language, batch.grounding.language)
        return loss + self.weight * grounded, {**numbers, "grounding": float(grounded.detach())}

    @torch.no_grad()
    def evaluate(self, count: int = 1024) -> dict[str, float]:
        """Accuracy per kind, beside the majority code's (the floor of any claim)."""
        if not len(self.index):
            return {}  # nothing was held out with a label: nothing is claimed
        rows = self.index[np.random.default_rng(1).permutation(len(self.index))[:count]]
        right = []
        for part in np.array_split(rows, max(1, len(rows) // 128)):
            inputs = (to_model(self.data.images[part], self.spec), torch.from_numpy(self.data.word_ids[part]))
            out = self.model(*to_device(inputs, next(self.model.parameters()).device))
            right.append((out.codes().cpu().numpy() == self.data.codes[part]).mean(axis=2))  # [n, 2]
        return code_scores(np.concatenate(right).mean(axis=0), self.data.codes[rows])


def code_scores(accuracy: np.ndarray, codes: np.ndarray) -> dict[str, float]:
    """Accuracy of both kinds [2] beside that of the most frequent code per token in ``codes`` [N, 2, tokens]."""
    floor = [np.mean([np.bincount(codes[:, kind, token]).max() / len(codes) for token in range(codes.shape[2])]) for kind in range(2)]
    return {"mani_accuracy": float(accuracy[0]), "mani_majority": float(floor[0]), "loco_accuracy": float(accuracy[1]), "loco_majority": float(floor[1])}


def load_grounded(model: Vla, tokenizer: InstructionTokenizer, weights: dict[str, torch.Tensor], stage_0: InstructionTokenizer) -> None:
    """Put stage 0's weights into ``model``; words that only the clips' sentences use keep the rows that they were born with.

    Args:
        stage_0: the tokenizer of the tasks' sentences alone; needed where stage 0 was run without the clips.

    Raises:
        ValueError: weights of a vocabulary that is neither the model's nor the tasks'.
    """
    own, mine = model.state_dict(), tokenizer.tokenizer.get_vocab()
    for name in ("language.model.embed_tokens.weight", "language.lm_head.weight"):
        rows = weights[name]
        if len(rows) == len(own[name]):
            continue
        if len(rows) != stage_0.vocab_size:
            raise WbvlaError(
                f"stage 0 left weights for {len(rows)} tokens, this model has {len(own[name])}: it was run with other clips; run it again (--stage all)"
            )
        grown = own[name].clone()
        for token, row in stage_0.tokenizer.get_vocab().items():
            grown[mine[token]] = rows[row]
        weights[name] = grown
    model.load_state_dict(weights)


def recorded_step(config: VlaTrainConfig, model: Vla, tokenizer: InstructionTokenizer, spec: ImageSpec, log=print) -> CodeTraining:
    """Stage 1 from our own demonstrations, all in memory."""
    c = config.codes
    data, held_out = load_codes(c.demos, (c.lam_mani, c.lam_loco), tokenizer, log)
    require_size(data.images, spec, c.demos)
    train_index, check_index = data.index[~held_out[data.index]], data.index[held_out[data.index]]
    if not len(train_index):
        raise WbvlaError(f"no frame of {c.demos} carries a code label: episodes are shorter than the LAMs' gap, or all are disturbed; record longer ones")
    grounding = None
    module: torch.nn.Module = model
    if c.grounding_weight > 0:
        pictures, _ = load_stills(config, log)
        module = Grounding(model)
        grounding = GroundingStep(module, tokenizer, spec, pictures["images"], pictures["labels"], c.grounding_batch, 4)
    clips, clip_rows, settings = load_clips(c, tokenizer, spec.size, log)
    step = CodesStep(model, spec, data, train_index, c.batch, grounding, c.grounding_weight, clips, clip_rows)
    check = CodesStep(model, spec, data, check_index, c.batch, None, 0.0)
    log(f"stage 1: {len(train_index)} labelled frames ({len(data.images)} in all), {c.loop.steps} steps of {c.batch}")
    return CodeTraining(module, step, check.evaluate, lambda: check.evaluate(count=4096), settings)


@dataclass
class CodeTraining:
    """What stage 1 trains and how.

    Attributes:
        module: the VLA, or the VLA with stage 0's heads around it.
        evaluate, evaluate_well: numbers on held-out episodes: now and then, and at the end.
        settings: what a resumable state depends on beside size and batch.
    """

    module: torch.nn.Module
    step: Step
    evaluate: Callable[[], dict[str, float]]
    evaluate_well: Callable[[], dict[str, float]]
    settings: dict[str, Any]

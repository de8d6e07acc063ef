"""Demonstrations -> training batches: several sentences per frame, each with the teleoperator's answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wbvla_core.catalogue import TaskCatalogue
from wbvla_core.errors import WbvlaError
from wbvla_core.robot import RobotSpec
from wbvla_core.sentences import STAGE
from wbvla_decoder.policy import encode_height
from wbvla_perception.preprocess import ImageSpec
from wbvla_sim.instructions import TASKS, paraphrases
from wbvla_sim.scene import COLORS
from wbvla_train.data.demos import WAVES
from wbvla_train.data.shards import read_shards
from wbvla_train.decoder.arms import ask_about_arms
from wbvla_train.decoder.config import DecoderTrainConfig
from wbvla_train.lam.export import load_lam
from wbvla_train.vla.codes import held_out_episodes, label_demos, undisturbed
from wbvla_train.vla.grounding import box_target
from wbvla_train.vla.images import jitter, mirror, to_model
from wbvla_vla.tokens import InstructionTokenizer

WALKS = np.array([task.kind == "walk_to" for task in TASKS])
COLOR_OF = np.array([list(COLORS).index(task.color) if task.color else 0 for task in TASKS])
WAVE_OF = np.array([WAVES.index(task.side) if task.kind == "wave" else 0 for task in TASKS])
MIRROR_FLAGS = np.array((1, -1, -1), dtype=np.int64)  # forward stays, lateral and yaw change sides
MIRROR_POSTURE = np.array((1.0, -1.0, 1.0), dtype=np.float32)  # gravity x, y, z


@dataclass
class Batch:
    """N = frames x sentences. See :class:`Demonstrations.draw`."""

    pixels: torch.Tensor  # [B, C, S, S]
    image_index: torch.Tensor  # [N]
    words: torch.Tensor  # [N, W]
    posture: torch.Tensor  # [N, 3]
    arm_state: torch.Tensor  # [N, 2 A]
    flags: torch.Tensor  # [N, 3] class index 0, 1, 2 = -1, 0, 1
    height: torch.Tensor  # [N] 0..1 of the robot's range
    arms: torch.Tensor  # [N, K, A] scaled
    arm_weight: torch.Tensor  # [N] 0 where the picture was mirrored
    other_arm_state: torch.Tensor  # [N, M, 2 A] arm states outside the recordings, and
    other_arms: torch.Tensor  # [N, M, K, A] the answer to the same sentence there
    box: torch.Tensor  # [N, 3]
    box_weight: torch.Tensor  # [N] 1 for walk-to sentences
    codes: torch.Tensor  # [N, 2, tokens]
    code_weight: torch.Tensor  # [N, 2] 1 for the recorded sentence of an undisturbed frame


class Demonstrations:
    """All recordings in memory, and the batches drawn from them."""

    def __init__(self, roots: tuple[Path, ...], robot: RobotSpec, tokenizer: InstructionTokenizer, lams: tuple[Path, Path], log=print, asked: int = 64) -> None:
        """``asked``: how many arm states outside the recordings the teleoperator is asked about (:mod:`wbvla_train.decoder.arms`)."""
        self.robot = robot
        parts = [_read(root, lams, log) for root in roots]
        self.data = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        held_out = np.concatenate([held_out_episodes(part["episode"]) for part in parts])
        waves = WAVE_OF[self.data["task"]] > 0
        self.train_index, self.check_index = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        self.train_waves = np.flatnonzero(~held_out & waves)
        if not len(self.train_index):
            raise WbvlaError(f"{', '.join(map(str, roots))}: the last episode of each is held out, and there is no other to train on; record at least two")
        self._asked_state, self._asked_arms = ask_about_arms(robot, asked)
        self._words = [tokenizer.encode_batch(paraphrases(task)) for task in TASKS]

    def trained_tasks(self, config: DecoderTrainConfig) -> TaskCatalogue:
        """The list of tasks for the bundle: those whose sentences a training with these settings draws.

        Counterfactual sentences ask for every task that some training frame allows; mirrored frames for every box in view. Without either,
        a frame has its recorded task alone.
        """
        d, train = self.data, self.train_index
        drawn = np.isin(np.arange(len(TASKS)), d["task"][train])
        allowed = d["valid"][train].any(axis=0)
        if config.sentences > 1:
            drawn |= allowed & np.where(WALKS, config.walk_share > 0.0, config.walk_share < 1.0)
        if config.mirror_share > 0.0:
            drawn |= allowed & WALKS
        kinds = [kind for kind in STAGE.kinds.values() if any(task.kind == kind.name for task, of in zip(TASKS, drawn, strict=True) if of)]
        return TaskCatalogue(kinds, [(task.kind, task.slots) for task, of in zip(TASKS, drawn, strict=True) if of], STAGE.source)

    @property
    def arm_rows(self) -> int:
        """Rows of the recorded arm chunks."""
        return self.data["arms"].shape[2]

    def draw(
        self,
        rng: np.random.Generator,
        index: np.ndarray,
        frames: int,
        sentences: int,
        spec: ImageSpec,
        *,
        walk_share: float,
        mirror_share: float = 0.0,
        wave_share: float = 0.0,
        arm_states: int = 0,
        augment: bool = False,
    ) -> Batch:
        """A batch of ``frames`` x ``sentences``.

        Args:
            index: rows to draw from.
            wave_share: expected share of frames that are drawn from the training episodes of waving instead.
            arm_states: M, see :class:`~wbvla_train.decoder.config.DecoderTrainConfig`.
            walk_share, mirror_share, augment: see :class:`~wbvla_train.decoder.config.DecoderTrainConfig`.
        """
        d = self.data
        rows = index[rng.integers(len(index), size=frames)]
        waving = rng.random(frames) < (wave_share if len(self.train_waves) else 0.0)
        rows[waving] = rng.choice(self.train_waves, int(waving.sum())) if waving.any() else rows[waving]
        mirrored = (rng.random(frames) < mirror_share) & ~waving
        tasks, mirrored = self._draw_tasks(rng, rows, sentences, walk_share, mirrored)
        images = d["image"][rows]
        images = np.where(mirrored[:, None, None, None], mirror(images), images)
        if augment:
            images = jitter(images, rng)

        task, row = tasks.ravel(), rows.repeat(sentences)
        flip = mirrored.repeat(sentences)
        flags = d["flags"][row, task].astype(np.int64)
        flags[flip] *= MIRROR_FLAGS
        posture = d["posture"][row]
        posture[flip] *= MIRROR_POSTURE
        boxes = d["boxes"][row, COLOR_OF[task]]
        boxes[flip, 2] *= -1.0
        recorded = (np.arange(len(row)) % sentences == 0) & ~flip
        code_weight = (recorded & d["code_valid"][row]).astype(np.float32)
        others = rng.integers(len(self._asked_state), size=(len(row), arm_states))
        words = np.stack([self._words[t][rng.integers(len(self._words[t]))] for t in task])
        return Batch(
            pixels=to_model(images, spec),
            image_index=torch.arange(frames).repeat_interleave(sentences),
            words=torch.from_numpy(words),
            posture=torch.from_numpy(posture),
            arm_state=torch.from_numpy(d["arm_state"][row]),
            flags=torch.from_numpy(flags + 1),
            height=torch.from_numpy(encode_height(d["height_m"][row, task], self.robot)),
            arms=torch.from_numpy(d["arms"][row, WAVE_OF[task]].astype(np.float32)),
            arm_weight=torch.from_numpy((~flip).astype(np.float32)),
            other_arm_state=torch.from_numpy(self._asked_state[others]),
            other_arms=torch.from_numpy(self._asked_arms[others, WAVE_OF[task][:, None]]),
            box=box_target(boxes),
            box_weight=torch.from_numpy(WALKS[task].astype(np.float32)),
            codes=torch.from_numpy(d["codes"][row]),
            code_weight=torch.from_numpy(np.stack((code_weight, code_weight), axis=1)),
        )

    def _draw_tasks(self, rng: np.random.Generator, rows: np.ndarray, sentences: int, walk_share: float, mirrored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tasks [B, sentences] and which frames are mirrored after all. Mirrored frames are asked for boxes in view only."""
        d = self.data
        valid = d["valid"][rows]  # [B, tasks]
        weight = np.where(WALKS, walk_share / WALKS.sum(), (1 - walk_share) / (~WALKS).sum()) * valid  # [B, tasks]
        visible = valid & WALKS & (d["boxes"][rows][:, COLOR_OF, 1] > 0.5)
        mirrored = mirrored & visible.any(axis=1)
        weight = np.where(mirrored[:, None], visible, weight)
        cumulative = np.cumsum(weight, axis=1)
        picks = rng.random((len(rows), sentences)) * cumulative[:, -1:]
        tasks = np.minimum((picks[:, :, None] >= cumulative[:, None, :]).sum(axis=2), weight.shape[1] - 1)
        tasks[~mirrored, 0] = d["task"][rows][~mirrored]
        return tasks, mirrored


def _read(root: Path, lams: tuple[Path, Path], log) -> dict[str, np.ndarray]:
    demos = read_shards(root)
    labels = []
    gap_s = 0.0
    for path in lams:
        lam = load_lam(path)
        labels.append(label_demos(root, demos, lam, log))
        gap_s = max(gap_s, lam.gap_s)
    demos["codes"] = np.stack([codes for codes, _ in labels], axis=1).astype(np.int64)
    demos["code_valid"] = labels[0][1] & labels[1][1] & undisturbed(demos, gap_s)
    for key in ("sentence", "outcome", "executed", "camera"):
        demos.pop(key, None)  # older recordings have no camera
    return demos

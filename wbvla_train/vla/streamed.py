"""Stage 1 from LeRobot data sets that do not fit into memory: any robot, any camera; frames, sentences and the LAMs' codes of what happened next."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wbvla_perception.preprocess import ImageSpec
from wbvla_train.data.lerobot.episode import DataError, shown
from wbvla_train.data.lerobot.reader import Dataset, View, open_dataset
from wbvla_train.data.lerobot.stream import FrameStream, StreamConfig, camera_of, read_images, recorded_spec
from wbvla_train.lam.export import Lam, load_lam
from wbvla_train.lam.label import LabelConfig, Labels, episode_name, label, read_labels
from wbvla_train.parallel import Part, Processes, to_device
from wbvla_train.vla.clips import ClipSet, load_clips
from wbvla_train.vla.codes import CodeBatch, CodeTraining, code_scores, code_step_loss, held_out_episodes
from wbvla_train.vla.config import VlaTrainConfig
from wbvla_train.vla.images import jitter, to_model
from wbvla_vla.model import Vla
from wbvla_vla.tokens import KINDS, InstructionTokenizer

EVALUATED = 32  # frames of an evaluation at once


@dataclass
class LabelledDataset:
    """One data set with codes and sentences.

    Attributes:
        dataset, camera, spec: what is read, how pictures become policy images.
        codes, valid: per episode, [length, 2, tokens] uint8 and [length] bool.
    """

    dataset: Dataset
    camera: str
    spec: ImageSpec
    codes: list[np.ndarray]
    valid: list[np.ndarray]


def sentences_of(roots: tuple[Path, ...]) -> list[str]:
    """All sentences of the data sets, sorted."""
    return sorted({task for root in roots for view in open_dataset(root).views for task in view.tasks})


def load_labelled(root: Path, lams: list[Lam], spec: ImageSpec, camera: str, processes: Processes, log=print) -> LabelledDataset:
    """Open a data set and read the codes beside it, or make them where one process works alone.

    Raises:
        DataError: no labels and several processes; pictures smaller than the model's.
    """
    dataset = open_dataset(root)
    camera = camera_of(dataset, camera)
    here = recorded_spec(dataset, camera, spec)
    labels = [_labels(dataset, camera, lam, processes, log) for lam in lams]
    codes = [np.stack([one.codes for one in kinds], axis=1) for kinds in zip(*labels, strict=True)]
    valid = [np.logical_and.reduce([one.valid for one in kinds]) for kinds in zip(*labels, strict=True)]
    return LabelledDataset(dataset, camera, here, codes, valid)


def _labels(dataset: Dataset, camera: str, lam: Lam, processes: Processes, log) -> list[Labels]:
    """Of every episode, cached beside the data set by ``wbvla label``, for whatever camera it was told of."""

    def found() -> list[Labels]:
        known = {name: labels for (name, _), labels in read_labels(dataset.root, lam).items()}
        every = [known.get(episode_name(view)) for view in dataset.views]
        return [labels for labels, view in zip(every, dataset.views, strict=True) if labels is not None and len(labels.codes) == view.length]

    if len(labels := found()) < len(dataset.views):
        if processes.count > 1:
            raise DataError(f"{shown(dataset.root)} has no labels of {lam.manifest.label}; make them in one process first: wbvla label --data {dataset.root}")
        label(LabelConfig(data=dataset.root, lams=(lam.manifest.directory,), camera=camera), log)
        labels = found()
    return labels


def frame_sentences(view: View) -> np.ndarray:
    """Index of each frame's sentence in the data set's table of tasks [length]."""
    return view.task_indices


class LabelledFrames:
    """Reads chunks of labelled episodes: pictures, words, codes.

    Attributes:
        views: the episodes of all data sets; valid: which of their frames carry codes.
    """

    def __init__(self, sets: list[LabelledDataset], tokenizer: InstructionTokenizer) -> None:
        self._of = {id(one.dataset): one for one in sets}
        self._words = {id(one.dataset): {index: tokenizer.encode(task) for index, task in one.dataset.tasks.items()} for one in sets}
        self.views = [view for one in sets for view in one.dataset.views]
        self.valid = [valid for one in sets for valid in one.valid]
        self._number = {id(view): i for one in sets for i, view in enumerate(one.dataset.views)}

    def valid_of(self, view: View) -> np.ndarray:
        """Which frames of an episode carry codes [length] bool."""
        return self._of[id(view.dataset)].valid[self._number[id(view)]]

    def read(self, view: View, start: int, count: int) -> dict[str, np.ndarray]:
        one, rows = self._of[id(view.dataset)], slice(start, start + count)
        number, words = self._number[id(view)], self._words[id(view.dataset)]
        return {
            "images": read_images(view, one.camera, start, count, one.spec),
            "words": np.stack([words[index] for index in frame_sentences(view)[rows]]),
            "codes": one.codes[number][rows].astype(np.int64),
        }


class StreamedCodes:
    """Step of stage 1; the last episodes are held out for :meth:`evaluate`.

    Args:
        clips, clip_rows: action-free clips, and how many frames of a batch are theirs. A piece of a batch has its part of either.
    """

    def __init__(
        self,
        model: Vla,
        spec: ImageSpec,
        frames: LabelledFrames,
        config: StreamConfig,
        batch: int,
        seed: int,
        clips: ClipSet | None = None,
        clip_rows: int = 0,
    ) -> None:
        self.model, self.spec, self.streamed = model, spec, batch - clip_rows
        self.clips, self.clip_rows = clips, clip_rows
        held_out = held_out_episodes(np.arange(len(frames.views)))
        mine, kept = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        self.stream = FrameStream([frames.views[i] for i in mine], [frames.valid[i] for i in mine], frames.read, config, self.streamed, seed)
        self._check = None
        if any(frames.valid[i].any() for i in kept):
            self._check = FrameStream([frames.views[i] for i in kept], [frames.valid[i] for i in kept], frames.read, config, EVALUATED, seed)

    def draw(self, rng: np.random.Generator, step: int, part: Part) -> CodeBatch:
        mine = part.of(self.streamed)
        rows = self.stream.batch(step, mine)
        images, words, codes, weight = rows["images"], rows["words"], rows["codes"], None
        noise = int(rng.integers(2**62))  # one generator per sample: no process draws noise for another's pictures
        numbers = [*range(mine.start, mine.stop)]
        if self.clips and self.clip_rows:
            chosen, sentence = self.clips.choose(rng, self.clip_rows)  # of the whole batch: every process knows what all of it weighs
            whole = (self.streamed * len(KINDS) + self.clips.weight[chosen].sum()) / ((self.streamed + self.clip_rows) * len(KINDS))
            theirs = part.of(self.clip_rows)
            images, words, codes, weight = ClipSet.behind((images, words, codes), self.clips.take(chosen[theirs], sentence[theirs]))
            weight = torch.from_numpy(weight / np.float32(whole))
            numbers += [self.streamed + row for row in range(theirs.start, theirs.stop)]
        images = np.concatenate([jitter(image[None], np.random.default_rng((noise, number))) for number, image in zip(numbers, images, strict=True)])
        return CodeBatch(to_model(images, self.spec), torch.from_numpy(words), torch.from_numpy(codes), weight=weight, recorded=mine.stop - mine.start)

    def loss(self, model: torch.nn.Module, batch: CodeBatch) -> tuple[torch.Tensor, dict[str, float]]:
        loss, numbers = code_step_loss(model, batch)
        return loss if batch.weight is None else loss * batch.weight.mean(), numbers  # the pieces' mean is the whole batch's weighted mean

    @torch.no_grad()
    def evaluate(self, batches: int = 4) -> dict[str, float]:
        """Accuracy per kind on held-out episodes, beside the majority code's; all processes compute the same."""
        if self._check is None:
            return {}
        right, codes = [], []
        for step in range(min(batches, -(-self._check.frames // EVALUATED))):  # no held-out frame twice
            rows = self._check.batch(step, slice(0, EVALUATED))
            inputs = to_device((to_model(rows["images"], self.spec), torch.from_numpy(rows["words"])), next(self.model.parameters()).device)
            right.append((self.model(*inputs).codes().cpu().numpy() == rows["codes"]).mean(axis=(0, 2)))
            codes.append(rows["codes"])
        return code_scores(np.mean(right, axis=0), np.concatenate(codes))


def load_frames(
    roots: tuple[Path, ...],
    lams: tuple[Path, Path],
    tokenizer: InstructionTokenizer,
    spec: ImageSpec,
    config: StreamConfig,
    processes: Processes,
    log=print,
) -> tuple[LabelledFrames, dict[str, Any]]:
    """Data sets with the codes of both LAMs, and what a resumable state depends on of them."""
    models = [load_lam(path) for path in lams]
    frames = LabelledFrames([load_labelled(root, models, spec, config.camera, processes, log) for root in roots], tokenizer)
    return frames, {"lerobot": [str(root) for root in roots], "stream": asdict(config), "lams": [lam.manifest.hash for lam in models]}


def streamed_step(config: VlaTrainConfig, model: Vla, tokenizer: InstructionTokenizer, spec: ImageSpec, processes: Processes, log=print) -> CodeTraining:
    """Stage 1 from ``config.codes.lerobot``."""
    c = config.codes
    frames, settings = load_frames(c.lerobot, (c.lam_mani, c.lam_loco), tokenizer, spec, c.stream, processes, log)
    clips, clip_rows, mixed = load_clips(c, tokenizer, spec.size, log)
    step = StreamedCodes(model, spec, frames, c.stream, c.batch, c.loop.seed, clips, clip_rows)
    log(f"stage 1: {step.stream.frames} labelled frames of {len(frames.views)} episodes in {step.stream.lanes} lanes, {c.loop.steps} steps of {c.batch}")
    return CodeTraining(model, step, step.evaluate, lambda: step.evaluate(batches=32), settings | mixed)

"""Action-free clips in stage 1: frames, one of each clip's sentences, and the codes that ``wbvla label`` left beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wbvla_core.errors import InstructionError, WbvlaError
from wbvla_sim.instructions import TASKS, paraphrases
from wbvla_train.data import sentences
from wbvla_train.data.clips import SIDECAR, Corpus
from wbvla_train.lam.export import Lam, load_lam
from wbvla_train.lam.label import clips_of, read_labels
from wbvla_train.vla.config import CodesConfig
from wbvla_vla.config import AnyVlaConfig
from wbvla_vla.tokens import KINDS, InstructionTokenizer, build_tokenizer


def kind_of(folder: Path) -> int | None:
    """Index into KINDS of the latent action model that a folder of clips is for, by the domain it was sorted into; None where it was not sorted."""
    domain = folder.parent.name.rpartition("_")[2].upper()
    return KINDS.index(domain) if domain in KINDS else None


def sentences_of(folders: Iterable[Path]) -> list[str]:
    """All sentences of the clips below some folders: what a word-level vocabulary must read."""
    described = (sentences.match(path.parent)[0].values() for folder in folders for path in sorted(folder.rglob(SIDECAR)))
    return sorted({text for found in described for entry in found for text in entry.sentences})


def word_tokenizer(size: AnyVlaConfig, folders: Iterable[Path] = (), others: Iterable[str] = ()) -> InstructionTokenizer:
    """Word-level tokenizer over the tasks' sentences, ``others``, and those of the clips below some folders."""
    spoken = [*(sentence for task in TASKS for sentence in paraphrases(task)), *others, *sentences_of(folders)]
    return InstructionTokenizer(build_tokenizer(spoken, size.codebook_size, size.tokens_per_kind), size.language.max_words, size.prompt)


class ClipSet:
    """Labelled frames of the clips that have a sentence.

    Args:
        folders: searched for ``clips.json``.
        lams: manipulation, locomotion; their labels must be there.
        code_losses: "both", or "masked": codes of the other model than the clip was sorted for weigh nothing.
        size: side of the policy image, px.

    Attributes:
        images: [T, S, S, 3] uint8, memory-mapped. codes: [T, 2, tokens] int64. weight: [T, 2] float32.
        word_ids: [U, W] of all sentences; a frame's are rows ``first[t]`` to ``first[t] + count[t]``.
        index: frames with a sentence and a label [M]. clip: number of each frame's clip [T].

    Raises:
        WbvlaError: labels are missing or were made for other stamps, no clip has a sentence, or a sentence cannot be read by the tokenizer.
        CheckpointError: labels of another LAM.
    """

    def __init__(
        self, folders: Iterable[Path], lams: tuple[Lam, Lam], tokenizer: InstructionTokenizer, code_losses: Literal["both", "masked"], size: int, log=print
    ) -> None:
        corpus = Corpus(list(folders), size, log)
        total = len(corpus.frames)
        self.images = corpus.frames
        self.codes = np.zeros((total, len(KINDS), lams[0].model.config.tokens), dtype=np.int64)
        self.weight = np.zeros((total, len(KINDS)), dtype=np.float32)
        self.first, self.count, self.clip = (np.zeros(total, dtype=np.int64) for _ in range(3))
        usable = np.zeros(total, dtype=bool)
        words: list[np.ndarray] = []
        without, stale, number = 0, 0, 0
        self.clips: Counter[str] = Counter()
        for sidecar in corpus.sidecars:
            folder = sidecar.parent
            described, old = sentences.match(folder)
            stale += len(old)
            wanted = [kind for kind in range(len(KINDS)) if code_losses == "both" or kind_of(folder) in (kind, None)]
            labels = {kind: read_labels(folder, lams[kind]) for kind in wanted} if described else {}
            for piece in clips_of(folder):
                clip = corpus.clips[number]
                rows = slice(clip.start, clip.start + len(clip.stamps_s))
                self.clip[rows], number = number, number + 1
                if piece.name not in described:
                    without += 1
                    continue
                usable[rows] = True
                for kind in wanted:
                    label = labels[kind].get(piece.id)
                    if label is None:
                        raise WbvlaError(f"{folder / piece.name} has no codes of {lams[kind].manifest.label} for its stamps; run wbvla label --data {folder}")
                    self.codes[rows, kind], self.weight[rows, kind] = label.codes, 1.0
                    usable[rows] &= label.valid
                self.first[rows], self.count[rows] = len(words), len(described[piece.name].sentences)
                for text in described[piece.name].sentences:
                    try:
                        words.append(tokenizer.encode(text))
                    except InstructionError as error:
                        raise WbvlaError(f"{folder / piece.name}: {error}") from error
                self.clips[folder.parent.name] += 1
        if not words:
            raise WbvlaError(f"none of the {number} clips under {', '.join(map(str, folders))} has a sentence; give them some with wbvla annotate FOLDER")
        self.word_ids, self.index = np.stack(words), np.flatnonzero(usable)
        kinds = ", ".join(f"{count} {domain}" for domain, count in sorted(self.clips.items()))
        log(f"clips: {kinds}; {len(self.index)} labelled frames; left out: {without} clips without a sentence, {stale} stale entries of {sentences.FILE}")

    def choose(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Random frames, each with one of its sentences: rows of ``images`` [N] and of ``word_ids`` [N]. Decodes nothing."""
        rows = self.index[rng.integers(len(self.index), size=count)]
        return rows, self.first[rows] + (rng.random(count) * self.count[rows]).astype(np.int64)

    def take(self, rows: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Images [N, S, S, 3], words [N, W], codes [N, 2, tokens], weight [N, 2] of what :meth:`choose` chose."""
        return np.asarray(self.images[rows]), self.word_ids[words], self.codes[rows], self.weight[rows]

    def draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What :meth:`take` gives, of random frames."""
        return self.take(*self.choose(rng, count))

    @staticmethod
    def behind(recorded: tuple[np.ndarray, np.ndarray, np.ndarray], clips: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """Images, words, codes and weight of recorded frames, whose code sets weigh 1 each, and of :meth:`take`'s behind them."""
        return tuple(map(np.concatenate, zip((*recorded, np.ones(recorded[2].shape[:2], dtype=np.float32)), clips, strict=True)))


def load_clips(codes: CodesConfig, tokenizer: InstructionTokenizer, size: int, log=print) -> tuple[ClipSet | None, int, dict[str, Any]]:
    """The clips of ``--clips``, how many rows of a batch are theirs, and what a resumable state depends on of them; (None, 0, {}) without.

    The rows are rounded to whole parts of the batch, so that any number of processes that divides it equally divides both kinds equally.

    Raises:
        WbvlaError: a share outside [0, 1).
    """
    if not codes.clips:
        return None, 0, {}
    if not 0.0 <= codes.clip_share < 1.0:
        raise WbvlaError(f"--clip-share must lie in [0, 1), got {codes.clip_share}: demonstrations are part of every batch")
    clips = ClipSet(codes.clips, (load_lam(codes.lam_mani), load_lam(codes.lam_loco)), tokenizer, codes.code_losses, size, log)
    rows = clip_rows(codes.batch, codes.clip_share)
    return clips, rows, {"clips": [str(folder) for folder in codes.clips], "clip_rows": rows, "code_losses": codes.code_losses}


def clip_rows(batch: int, share: float) -> int:
    """About ``share`` of ``batch``, in units of the largest power of two up to 32 that divides the batch and is at most a sixteenth of it; never all."""
    unit = next((unit for unit in (32, 16, 8, 4, 2) if batch % unit == 0 and 16 * unit <= batch), 1)
    return min(unit * round(share * batch / unit), batch - unit)

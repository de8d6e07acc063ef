"""Clips that show what another clip shows, also when re-encoded, resized, trimmed or at another frame rate.

Two clips of one room by one still camera look alike and are no duplicates: what is compared is therefore how the picture *changes*. Of
two duplicates the one of a damaged film is left out, else the one whose film comes later by name: the result does not depend on which
was gated first.

Candidates are found by hashing the change of the picture over 0.6 s at the instants of a clip at which it changes most (random
hyperplanes, several tables), so that the work grows with the number of clips and not with its square. Each is then held against the whole overlap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SAME_CHANGE = 0.68  # correlation of the pictures' changes over the overlap that makes a duplicate
OVERLAP = 0.5  # share of the shorter clip
STEP = 3  # samples before and after an instant between which the picture's change is taken: 0.6 s at 10 Hz
LEAST_CHANGE = 12.0  # levels, root of the sum over 64 cells: less is noise
INSTANTS, APART = 4, 4  # probes of a clip, and samples between two of them
TABLES = 8
ALIKE = 0.6  # correlation of two changes that makes an alignment worth a look; copies lie above 0.9
BUCKET = 512  # most entries of one bucket that are looked at: a thousand hours of one motionless scene are not compared with each other


def same_change(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of how two aligned clips [T, 256] change around their own mean picture, -1..1."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 1e-3 else 0.0


def change_keys(thumbs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How the picture changes around each sample of a clip.

    Args:
        thumbs: [T, 16, 16] uint8.

    Returns:
        keys [T, 64] int8: the change of 8 x 8 cells without its mean, of length 127; and its size [T], levels.
    """
    cells = thumbs.reshape(-1, 8, 2, 8, 2).mean(axis=(2, 4), dtype=np.float32).reshape(-1, 64)
    at = np.arange(len(cells))
    change = cells[np.minimum(at + STEP, len(cells) - 1)] - cells[np.maximum(at - STEP, 0)]
    change -= change.mean(axis=1, keepdims=True)
    size = np.linalg.norm(change, axis=1)
    return np.round(127.0 * change / np.maximum(size, 1e-6)[:, None]).astype(np.int8), size


def instants(size: np.ndarray) -> list[int]:
    """The samples at which a clip changes most, some way apart."""
    left, found = size.copy(), []
    while len(found) < INSTANTS and len(left) and left.max() > LEAST_CHANGE:
        found.append(int(left.argmax()))
        left[max(found[-1] - APART, 0) : found[-1] + APART + 1] = 0.0
    return found


@dataclass(frozen=True)
class _Index:
    """Changes of all samples of all clips.

    Attributes:
        keys: [N, 64] int8. lively: [N] whether a sample changes enough to be found.
        starts: [clips + 1] first sample of each clip. probes: [P] samples by which clips are looked up, in order.
    """

    keys: np.ndarray
    lively: np.ndarray
    starts: np.ndarray
    probes: np.ndarray

    def candidates(self) -> list[tuple[int, int, int]]:
        """(clip, earlier clip, offset) where one instant changes alike; offset: sample t of the clip is sample t + offset of the earlier one."""
        rng = np.random.default_rng(0)
        bits = int(np.clip(math.ceil(math.log2(max(len(self.keys), 2))), 10, 24))
        where = np.flatnonzero(self.lively)
        found: set[tuple[int, int, int]] = set()
        for _ in range(TABLES):
            planes = rng.normal(size=(64, bits)).astype(np.float32)
            codes = np.concatenate([self._codes(where[at : at + 65536], planes) for at in range(0, len(where), 65536)] or [np.zeros(0, np.int64)])
            order = np.argsort(codes, kind="stable")  # within a bucket: earlier clips first
            asked = self._codes(self.probes, planes)
            first = np.searchsorted(codes, asked, sorter=order)
            last = np.minimum(np.searchsorted(codes, asked, side="right", sorter=order), first + BUCKET)
            for probe, a, b in zip(self.probes.tolist(), first.tolist(), last.tolist(), strict=True):
                if b - a > 1:
                    found.update(self._alike(probe, where[order[a:b]]))
        return sorted(found)

    def _codes(self, samples: np.ndarray, planes: np.ndarray) -> np.ndarray:
        signs = self.keys[samples].astype(np.float32) @ planes > 0.0
        return signs @ (1 << np.arange(planes.shape[1], dtype=np.int64))

    def _alike(self, probe: int, bucket: np.ndarray) -> list[tuple[int, int, int]]:
        clip = int(np.searchsorted(self.starts, probe, side="right")) - 1
        earlier = bucket[bucket < self.starts[clip]]
        if not len(earlier):
            return []
        match = self.keys[earlier].astype(np.float32) @ self.keys[probe].astype(np.float32) / 127.0**2
        earlier = earlier[match > ALIKE]
        others = np.searchsorted(self.starts, earlier, side="right") - 1
        offsets = (earlier - self.starts[others]) - (probe - self.starts[clip])
        return [(clip, int(other), int(offset)) for other, offset in zip(others, offsets, strict=True)]


def mark_duplicates(output: Path, records: list[dict]) -> int:
    """Set ``reason`` = "duplicate" and ``of`` in the entries (in memory) of clips that repeat an earlier one; returns how many."""
    clips = []
    for record in sorted(records, key=lambda r: (bool(r["report"]["problems"]), r["film"])):
        entries = [entry for entry in record["segments"] if "clip" in entry and not entry["reason"]]
        if entries:
            thumbs = np.load(output / "films" / record["id"] / "thumbs.npy", mmap_mode="r")
            clips.extend((record["film"], entry, thumbs) for entry in entries)
    if not clips:
        return 0
    marked = 0
    pairs = _index([_thumbs(clip) for clip in clips]).candidates()
    for number, other, offset in pairs:
        film, original, _ = clips[other]
        entry = clips[number][1]
        if entry["reason"] or original["reason"] or entry.get("judged") is not None:  # found already; a copy itself; a person decided
            continue
        mine, theirs = (_thumbs(clips[i]).astype(np.float32).reshape(-1, 256) for i in (number, other))
        if any(_overlap_is_same(theirs, mine, offset + d) for d in (0, -1, 1)):
            entry.update(reason="duplicate", of=f"{film}@{original['start_s']:.3f}")
            marked += 1
    return marked


def _thumbs(clip: tuple[str, dict, np.ndarray]) -> np.ndarray:
    """[T, 16, 16] uint8 of one clip."""
    first, last = clip[1]["thumbs"]
    return np.asarray(clip[2][first:last])


def _index(thumbs: list[np.ndarray]) -> _Index:
    starts = np.concatenate(((0,), np.cumsum([len(part) for part in thumbs])))
    keys, lively, probes = np.empty((starts[-1], 64), np.int8), np.empty(starts[-1], bool), []
    for start, part in zip(starts[:-1], thumbs, strict=True):
        keys[start : start + len(part)], size = change_keys(part)
        lively[start : start + len(part)] = size > LEAST_CHANGE
        probes.extend(start + i for i in sorted(instants(size)))
    return _Index(keys, lively, starts, np.array(probes, dtype=np.int64))


def _overlap_is_same(a: np.ndarray, b: np.ndarray, offset: int) -> bool:
    """Whether sample t of ``b`` shows what sample t + offset of ``a`` shows."""
    first, last = max(-offset, 0), min(len(a) - offset, len(b))
    if last - first < max(OVERLAP * min(len(a), len(b)), 8):
        return False
    return same_change(a[first + offset : last + offset], b[first:last]) > SAME_CHANGE

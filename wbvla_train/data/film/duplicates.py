"""Clips that show what another clip shows, also when re-encoded, resized, trimmed or at another frame rate.

Two clips of one room by one still camera look alike and are no duplicates: what is compared is therefore how the picture *changes*. Of
two duplicates the one of a damaged film is left out, else the one whose film comes later by name: the result does not depend on which
was gated first.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

ALIKE = 0.9  # correlation of single pictures that makes an alignment worth a look
SAME_CHANGE = 0.68  # correlation of the pictures' changes over the overlap that makes a duplicate
OVERLAP = 0.5  # share of the shorter clip
CHUNK = 200_000


def _unit(values: np.ndarray) -> np.ndarray:
    """Rows without mean, of length 1."""
    values = values - values.mean(axis=1, keepdims=True)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)


def same_change(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of how two aligned clips [T, 256] change around their own mean picture, -1..1."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 1e-3 else 0.0


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
    small, owner, position = [], [], []
    for number, (_, entry, thumbs) in enumerate(clips):
        first, last = entry["thumbs"]
        part = np.asarray(thumbs[first:last], dtype=np.float32)
        small.append(_unit(part.reshape(-1, 8, 2, 8, 2).mean(axis=(2, 4)).reshape(-1, 64)).astype(np.float16))
        owner.append(np.full(last - first, number, np.int32))
        position.append(np.arange(last - first, dtype=np.int32))
    keys, owner, position = np.concatenate(small), np.concatenate(owner), np.concatenate(position)
    starts = np.searchsorted(owner, np.arange(len(clips)))
    marked = 0
    for number, (_, entry, thumbs) in enumerate(clips):
        if entry.get("judged") is not None:  # a person decided
            continue
        first, last = entry["thumbs"]
        mine = np.asarray(thumbs[first:last], dtype=np.float32).reshape(last - first, -1)
        centre = len(mine) // 2
        probe = small[number][centre].astype(np.float32)
        alike = [at + np.flatnonzero(keys[at : min(at + CHUNK, starts[number])] @ probe > ALIKE) for at in range(0, int(starts[number]), CHUNK)]
        alike = np.concatenate(alike) if alike else np.zeros(0, dtype=int)
        for other in np.unique(owner[alike]):
            film, original, other_thumbs = clips[other]
            if original["reason"]:
                continue
            a, b = original["thumbs"]
            theirs = np.asarray(other_thumbs[a:b], dtype=np.float32).reshape(b - a, -1)
            offsets = position[alike[owner[alike] == other]] - centre
            if any(_overlap_is_same(theirs, mine, int(offset)) for offset in offsets):
                entry.update(reason="duplicate", of=f"{film}@{original['start_s']:.3f}")
                marked += 1
                break
    return marked


def _overlap_is_same(a: np.ndarray, b: np.ndarray, offset: int) -> bool:
    """Whether sample t of ``b`` shows what sample t + offset of ``a`` shows."""
    first, last = max(-offset, 0), min(len(a) - offset, len(b))
    if last - first < max(OVERLAP * min(len(a), len(b)), 8):
        return False
    return same_change(a[first + offset : last + offset], b[first:last]) > SAME_CHANGE

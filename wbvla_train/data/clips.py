"""Action-free video as training pairs: clips read once, frames kept as the LAM sees them, pairs found by time stamps.

A *pair* is two frames of one clip whose stamps lie ``gap_s`` apart. The gap is in seconds and is converted by each clip's own
stamps, so that 10 Hz and 30 Hz video give pairs of the same duration (in UniVLA and LAPA a gap in frames met data of another
rate: UniVLA#62, LAPA#22).
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from wbvla_core.errors import WbvlaError
from wbvla_train.data import prints
from wbvla_train.data.camera import CameraView
from wbvla_train.data.mp4 import read_mp4

SIDECAR = "clips.json"


def area_resize(frames: np.ndarray, size: int) -> np.ndarray:
    """[T, H, W, 3] uint8 -> [T, size, size, 3] uint8 by averaging areas. The one image transform of both LAMs.

    Raises:
        ValueError: not uint8 RGB frames, or smaller than ``size``.
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames must be [T, H, W, 3] uint8, got {list(frames.shape)} {frames.dtype}")
    height, width = frames.shape[1:3]
    if min(height, width) < size:
        raise ValueError(
            f"frames of {width}x{height} px are smaller than the {size}x{size} px that the model sees; use larger frames "
            f"(wbvla video ingest --image-size {size})"
        )
    if (height, width) == (size, size):
        return frames
    if height % size == 0 and width % size == 0:
        blocks = frames.reshape(len(frames), size, height // size, size, width // size, 3)
        return np.round(blocks.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)
    stack = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    return F.adaptive_avg_pool2d(stack, size).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def pair_indices(stamps_s: np.ndarray, gap_s: float, tolerance_s: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """For each frame t, the frame whose stamp is nearest to ``stamps_s[t] + gap_s``.

    Args:
        stamps_s: [T] increasing, s.
        tolerance_s: a partner further than this from the wanted time is no partner; default: 15 % of the gap.

    Returns:
        partner [T] int64 (undefined where not valid) and valid [T] bool.

    Raises:
        ValueError: stamps that do not increase, or a gap that is not positive.
    """
    stamps_s = np.asarray(stamps_s, dtype=np.float64)
    if not gap_s > 0:
        raise ValueError(f"gap_s must be positive, got {gap_s}")
    if stamps_s.ndim != 1 or not np.all(np.isfinite(stamps_s)) or np.any(np.diff(stamps_s) <= 0):
        raise ValueError("stamps_s must be a 1-d array of finite, strictly increasing seconds; sort the frames and drop repeated ones")
    if len(stamps_s) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)
    tolerance = 0.15 * gap_s if tolerance_s is None else tolerance_s
    wanted = stamps_s + gap_s
    right = np.clip(np.searchsorted(stamps_s, wanted), 0, len(stamps_s) - 1)
    left = np.maximum(right - 1, 0)
    partner = np.where(np.abs(stamps_s[left] - wanted) <= np.abs(stamps_s[right] - wanted), left, right)
    valid = np.abs(stamps_s[partner] - wanted) <= tolerance + 1e-9
    return partner, valid & (partner > np.arange(len(stamps_s)))


@dataclass(frozen=True)
class Clip:
    """One clip of a corpus: where its frames start in the store, and what its sidecar says."""

    name: str
    start: int
    stamps_s: np.ndarray
    view: CameraView
    source: str


def _clips_of(sidecar: Path, text: str, start: int) -> list[tuple[Clip, str]]:
    """The clips that a sidecar lists, and their files.

    Raises:
        WbvlaError: it is damaged, or the stamps of a clip cannot be.
    """
    found = []
    try:
        for number, entry in enumerate(json.loads(text)["clips"]):
            stamps = np.asarray(entry["stamps_s"], dtype=np.float64)
            if stamps.ndim != 1 or not np.isfinite(stamps).all() or (np.diff(stamps) <= 0).any():
                bad = int(np.argmin(np.isfinite(stamps) & (np.diff(stamps, prepend=-np.inf) > 0))) if stamps.ndim == 1 else 0
                raise WbvlaError(f"{sidecar}: clip {number} ({entry['file']}), frame {bad}: stamps_s must be finite and rise; ingest or render it again")
            name = f"{sidecar.parent.name}/{entry['file']}"
            found.append((Clip(name, start, stamps, CameraView.from_json(entry.get("camera")), entry.get("source", "unknown")), entry["file"]))
            start += len(stamps)
    except WbvlaError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WbvlaError(f"{sidecar} is damaged ({type(error).__name__}: {error}); ingest or render its folder again") from error
    return found


class Corpus:
    """Frames of one or more folders of clips, at the LAM's size, in one memory-mapped array.

    Each folder is searched for ``clips.json`` sidecars. The decoded frames are cached beside the first folder, under a name
    that follows from the sidecars' content: a corpus that changed is decoded again.

    Attributes:
        frames: [N, S, S, 3] uint8.
        clips: the clips, in order of their frames.
        cache: where the frames lie.
    """

    def __init__(self, folders: list[Path], size: int, log=lambda text: None) -> None:
        sidecars = sorted(path for folder in folders for path in Path(folder).rglob(SIDECAR))
        if not sidecars:
            raise WbvlaError(
                f"no {SIDECAR} under {', '.join(map(str, folders))}; render video (wbvla data video) or ingest films (wbvla video ingest; a larger "
                "--dev-share puts more of them into dev). Without the robot's rendered video, train with --no-robot-video"
            )
        self.size = size
        self.clips: list[Clip] = []
        self.sidecars = sidecars
        digest = hashlib.sha256(f"v1 {size}".encode())
        files: list[Path] = []
        start = 0
        for sidecar in sidecars:
            text = sidecar.read_text()
            digest.update(str(sidecar).encode() + text.encode())
            for clip, file in _clips_of(sidecar, text, start):
                self.clips.append(clip)
                files.append(sidecar.parent / file)
                start += len(clip.stamps_s)
        self.digest = digest.hexdigest()
        cache = Path(folders[0]).parent / ".cache" / f"{self.digest[:16]}_{size}.npy"
        if not cache.exists():
            log(f"corpus: decoding {len(files)} clips, {start} frames, to {size} px")
            cache.parent.mkdir(parents=True, exist_ok=True)
            temporary = cache.with_name(f".{cache.stem}.{os.getpid()}.npy")  # two processes may decode at once: each its own, the last rename stays
            store = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(start, size, size, 3))
            for clip, path in zip(self.clips, files, strict=True):
                frames, _ = read_mp4(path)
                if len(frames) != len(clip.stamps_s):
                    raise WbvlaError(f"{path} holds {len(frames)} frames, its sidecar lists {len(clip.stamps_s)} stamps; render that folder again")
                store[clip.start : clip.start + len(frames)] = area_resize(frames, size)
            store.flush()
            del store
            os.replace(temporary, cache)
        self.cache = cache
        try:
            self.frames = np.load(cache, mmap_mode="r")
        except (ValueError, EOFError) as error:
            raise WbvlaError(f"{cache} is damaged ({error}); delete it: it is made again from the clips") from error

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What tells this video, wherever it lies: number of clips and frames, sha256 of names, stamps and a sample of the frames."""
        digest = hashlib.sha256(prints.stretches(self.cache).encode())
        for clip in self.clips:
            digest.update(clip.name.encode() + clip.stamps_s.tobytes() + clip.view.as_array().tobytes())
        return {"clips": len(self.clips), "frames": len(self.frames), "sha256": digest.hexdigest()[:16]}

    def pairs(self, gap_s: float) -> Pairs:
        """All frame pairs ``gap_s`` apart."""
        first, later, clip = [], [], []
        for i, c in enumerate(self.clips):
            partner, valid = pair_indices(c.stamps_s, gap_s)
            t = np.flatnonzero(valid)
            first.append(c.start + t)
            later.append(c.start + partner[t])
            clip.append(np.full(len(t), i))
        pairs = Pairs(np.concatenate(first), np.concatenate(later), np.concatenate(clip), np.stack([c.view.as_array() for c in self.clips]))
        if len(pairs.first) == 0:
            raise WbvlaError(f"no clip of this corpus holds two frames {gap_s} s apart; use longer clips or a smaller gap")
        return pairs


@dataclass(frozen=True)
class Pairs:
    """Indices of frame pairs.

    Attributes:
        first, later: [N] frame indices into :attr:`Corpus.frames`.
        clip: [N] clip index.
        views: [clips, 3] (tan_x, tan_y, pitch_rad) per clip.
    """

    first: np.ndarray
    later: np.ndarray
    clip: np.ndarray
    views: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

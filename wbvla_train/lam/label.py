"""``wbvla label``: write the latent-action codes of both LAMs beside a corpus of clips.

A label belongs to frame t and says what happened until t + gap; the gap is the LAM's, in seconds, and each clip's own stamps
convert it. Labels are cached in ``labels_<lam>.npz`` beside the clips' sidecar, with the hash of the LAM's manifest: labels of
another LAM are refused, never mixed in silently.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from wbvla_core.errors import CheckpointError, ErrorCode
from wbvla_train.data.camera import CameraView
from wbvla_train.data.clips import SIDECAR, area_resize, pair_indices
from wbvla_train.data.mp4 import read_mp4
from wbvla_train.lam.export import Lam, load_lam
from wbvla_train.lam.geometry import lens_from_view
from wbvla_train.lam.model import pixels


def label_frames(lam: Lam, frames: np.ndarray, stamps_s: np.ndarray, *, view: CameraView | None = None, batch: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Codes of every frame of one clip or episode.

    Args:
        lam: from :func:`wbvla_train.lam.export.load_lam`.
        frames: [T, H, W, 3] uint8 RGB, square squashes of the camera image (policy images), H and W at least the LAM's size.
        stamps_s: [T] strictly increasing, s; any rate.
        view: the camera; default: the robot's, as in the LAM's manifest.

    Returns:
        codes [T, tokens] uint8 (zeros where not valid), valid [T] bool: whether a frame ``lam.gap_s`` later exists.

    Raises:
        ValueError: frames or stamps of another shape or type.
    """
    if len(frames) != len(stamps_s):
        raise ValueError(f"{len(frames)} frames but {len(stamps_s)} stamps; give one stamp per frame")
    config = lam.model.config
    small = area_resize(np.asarray(frames), config.image_size)
    partner, valid = pair_indices(stamps_s, lam.gap_s)
    codes = np.zeros((len(small), config.tokens), dtype=np.uint8)
    times = np.flatnonzero(valid)
    lens = lens_from_view(torch.from_numpy((view or lam.view).as_array())[None])
    known: dict[int, torch.Tensor] = {}  # a frame is the later one of a pair and then the first of another: its features are computed once
    for i in range(0, len(times), batch):
        t = times[i : i + batch]
        fresh = [k for k in np.unique((t, partner[t])) if k not in known]
        known |= zip(fresh, lam.model.features(pixels(torch.from_numpy(small[fresh]))), strict=True)
        first, later = (torch.stack([known[k] for k in index]) for index in (t, partner[t]))
        codes[t] = lam.model.encode(first, later, lens.expand(len(t), -1)).numpy().astype(np.uint8)
        known = {k: features for k, features in known.items() if k > t[-1]}
    return codes, valid


def label_path(folder: Path, lam: Lam) -> Path:
    """Where the labels of a folder of clips are cached."""
    return folder / f"labels_{lam.manifest.name}.npz"


def read_labels(path: Path, lam: Lam) -> tuple[np.ndarray, np.ndarray]:
    """Cached codes [N, tokens] uint8 and valid [N] bool, all clips of a folder one after the other, in sidecar order.

    Raises:
        CheckpointError: made by another LAM (both hashes are named).
    """
    with np.load(path, allow_pickle=False) as data:
        found = str(data["lam_hash"])
        if found != lam.manifest.hash:
            raise CheckpointError(
                f"{path} was labelled with a {lam.manifest.name} LAM of hash {found[:12]}…, but {lam.manifest.label} in {lam.manifest.directory} has "
                f"{lam.manifest.hash[:12]}…; label again with `wbvla label --overwrite`, or use the LAM that it was labelled with",
                ErrorCode.CHECKPOINT_MISMATCH,
            )
        return data["codes"], data["valid"]


def write_labels(path: Path, lam: Lam, codes: np.ndarray, valid: np.ndarray) -> None:
    """Write the cache by rename."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez_compressed(temporary, lam_hash=np.array(lam.manifest.hash), gap_s=np.array(lam.gap_s), codes=codes, valid=valid)
    os.replace(temporary, path)


def label_folder(lam: Lam, folder: Path, overwrite: bool = False) -> bool:
    """Label one folder of clips; returns False if that was done before by the same LAM.

    Raises:
        CheckpointError: labels of another LAM are there and ``overwrite`` is off.
    """
    path = label_path(folder, lam)
    if path.exists() and not overwrite:
        read_labels(path, lam)
        return False
    codes, valid = [], []
    for entry in json.loads((folder / SIDECAR).read_text())["clips"]:
        frames, _ = read_mp4(folder / entry["file"])
        c, v = label_frames(lam, frames, np.asarray(entry["stamps_s"]), view=CameraView.from_json(entry.get("camera")))
        codes.append(c)
        valid.append(v)
    write_labels(path, lam, np.concatenate(codes), np.concatenate(valid))
    return True


@dataclass(frozen=True)
class LabelConfig:
    """Options of ``wbvla label``.

    Attributes:
        data: root under which every folder with a clips.json is labelled.
        lams: LAM checkpoints.
        features: where the frozen extractor of a LAM on DINOv2 features lies; empty: where it lay in training.
        overwrite: replace labels that were made by another LAM.
        threads: of torch.
    """

    data: Path = Path("data/video/train")
    lams: tuple[Path, ...] = (Path("checkpoints/lam/mani"), Path("checkpoints/lam/loco"))
    features: str = ""
    overwrite: bool = False
    threads: int = 1


def main(argv: list[str] | None = None) -> int:
    """``wbvla label``: codes of both latent action models for a corpus of clips; a second run skips what is done."""
    config = tyro.cli(LabelConfig, args=argv, prog="wbvla label", description=main.__doc__)
    torch.set_num_threads(config.threads)
    folders = sorted(path.parent for path in config.data.rglob(SIDECAR))
    if not folders:
        print(f"no {SIDECAR} under {config.data}; render video first: wbvla data video", file=sys.stderr)
        return 1
    started, fresh = time.perf_counter(), 0
    lams = [load_lam(path, config.features) for path in config.lams]
    for i, folder in enumerate(folders, start=1):
        fresh += sum(label_folder(lam, folder, config.overwrite) for lam in lams)
        if i % 20 == 0 or i == len(folders):
            elapsed = time.perf_counter() - started
            print(
                f"label: {i}/{len(folders)} folders, {fresh} label files written, {elapsed:.0f} s, {elapsed / i * (len(folders) - i):.0f} s to go", flush=True
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())

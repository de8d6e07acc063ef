"""``wbvla label``: latent-action codes of both LAMs beside a corpus, which is folders of clips or LeRobot data sets.

A label belongs to frame t and says what happened until t + gap; the gap is the LAM's, in seconds, and each clip's own stamps
convert it. Labels lie beside what they are of, with the hash of the LAM's manifest: labels of another LAM are refused, never
mixed in silently.

    <folder of clips>/labels_<lam>.npz         by clip: its file name, beside clips.json
    <data set>/labels_<lam>.npz                by episode: "episode_000012", beside meta/
    .../labels_<lam>.1of4.npz                  what --shard 1/4 made; readers take all files together

A clip or an episode is labelled whole and by one shard: the n-th of the corpus by shard n modulo their number. Files are replaced by
rename every few seconds, so that a killed run goes on inside a folder; one that changed (stamps, camera) is labelled again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from wbvla_core.console import program
from wbvla_core.errors import CheckpointError, ErrorCode, WbvlaError
from wbvla_perception.preprocess import ImageSpec
from wbvla_train.data.camera import CameraView
from wbvla_train.data.clips import SIDECAR, area_resize, pair_indices
from wbvla_train.data.lerobot.reader import View, open_dataset
from wbvla_train.data.lerobot.stream import camera_of, read_images, recorded_spec
from wbvla_train.data.mp4 import read_mp4
from wbvla_train.data.shards import parse_shard
from wbvla_train.lam.export import Lam, load_lam
from wbvla_train.lam.geometry import lens_from_view
from wbvla_train.lam.label_command import LabelConfig
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


# -- label files ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labels:
    """Of one clip or episode: codes [T, tokens] uint8, valid [T] bool."""

    codes: np.ndarray
    valid: np.ndarray


LabelSet = dict[tuple[str, str], Labels]  # by Piece.id: labels for other stamps, or of another camera, are never found


def label_path(folder: Path, lam: Lam, shard: tuple[int, int] = (0, 1)) -> Path:
    """Where one shard's labels of a folder are kept."""
    part = "" if shard == (0, 1) else f".{shard[0]}of{shard[1]}"
    return folder / f"labels_{lam.manifest.name}{part}.npz"


def label_files(folder: Path, lam: Lam) -> list[Path]:
    """The files of all shards that there are, by name."""
    name = re.compile(re.escape(f"labels_{lam.manifest.name}") + r"(\.\d+of\d+)?\.npz")
    return sorted(path for path in folder.glob("labels_*.npz") if name.fullmatch(path.name))


def read_file(path: Path, lam: Lam) -> LabelSet:
    """The labels of one file.

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
        ends = np.cumsum(data["lengths"])
        codes, valid = np.split(data["codes"], ends[:-1]), np.split(data["valid"], ends[:-1])
        return {(str(name), str(key)): Labels(c, v) for name, key, c, v in zip(data["names"], data["keys"], codes, valid, strict=True)}


def read_labels(folder: Path, lam: Lam) -> LabelSet:
    """The labels of a folder of clips or a data set, from the files of all shards; {} where there is none.

    Raises:
        CheckpointError: made by another LAM (both hashes are named).
    """
    return {piece: labels for path in label_files(folder, lam) for piece, labels in read_file(path, lam).items()}


def add_labels(path: Path, lam: Lam, fresh: LabelSet) -> None:
    """Add to one shard's file, by rename; what it held of the same clips for other stamps goes."""
    names = {name for name, _ in fresh}
    labels = {(name, key): old for (name, key), old in (read_file(path, lam) if path.exists() else {}).items() if name not in names} | fresh
    temporary = path.with_name(f".{path.stem}.tmp.npz")  # one process per shard: the next one replaces what a killed one left
    np.savez_compressed(
        temporary,
        lam_hash=np.array(lam.manifest.hash),
        gap_s=np.array(lam.gap_s),
        names=np.array([name for name, _ in labels]),
        keys=np.array([key for _, key in labels]),
        lengths=np.array([len(one.codes) for one in labels.values()]),
        codes=np.concatenate([one.codes for one in labels.values()]),
        valid=np.concatenate([one.valid for one in labels.values()]),
    )
    os.replace(temporary, path)


# -- what there is to label ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """What is labelled as a whole: a clip, or an episode.

    Attributes:
        name: of the clip's file, or "episode_000012".
        stamps_s: [T], s. view: the camera; None = the robot's.
        load: gives the frames [T, S, S, 3] uint8.
    """

    name: str
    stamps_s: np.ndarray
    view: CameraView | None
    load: Callable[[], np.ndarray]

    @cached_property
    def id(self) -> tuple[str, str]:
        """Its name, and a hash of what labels depend on beside the pictures: stamps and camera."""
        text = json.dumps([np.asarray(self.stamps_s).round(6).tolist(), self.view and self.view.to_json()])
        return self.name, hashlib.sha256(text.encode()).hexdigest()[:16]


def clips_of(folder: Path) -> Iterator[Piece]:
    """The clips that a folder's sidecar lists, in its order."""
    for entry in json.loads((folder / SIDECAR).read_text())["clips"]:
        path = folder / entry["file"]
        yield Piece(entry["file"], np.asarray(entry["stamps_s"]), CameraView.from_json(entry.get("camera")), lambda path=path: read_mp4(path)[0])


def episode_name(episode: View) -> str:
    """Under which an episode's labels are kept."""
    return f"episode_{episode.index:06d}"


def episodes_of(root: Path, camera: str = "", lens: tuple[float, float] | None = None, size: int = ImageSpec().size) -> Iterator[Piece]:
    """The episodes of a LeRobot data set.

    Args:
        camera: the column with its images; default: the head camera, or the only one.
        lens: vertical field of view and pitch, deg, where the camera is not the robot's.
        size: side of the square that frames are squashed onto, px: the policy image's, which the LAM's is made from.

    Raises:
        DataError: several cameras and none was chosen, one that it does not have, or one with smaller pictures.
    """
    dataset = open_dataset(root)
    column = camera_of(dataset, camera)
    spec = recorded_spec(dataset, column, ImageSpec(size=size))
    view = None if lens is None else CameraView(lens[0], spec.source_width / spec.source_height, lens[1])

    stamp = dataset.role("stamp")
    for episode in dataset.views:
        stamps = episode.columns((stamp,))[stamp][:, 0] if stamp else np.arange(episode.length) / dataset.fps
        yield Piece(episode_name(episode), stamps, view, lambda episode=episode: read_images(episode, column, 0, episode.length, spec))


# -- the verb ------------------------------------------------------------------------------------------------------------------


def find_pieces(config: LabelConfig, size: int) -> list[tuple[Path, Piece]]:
    """(folder, clip or episode) of the whole corpus, in an order that every machine finds alike."""
    found = [(path.parent, piece) for path in sorted(config.data.rglob(SIDECAR)) for piece in clips_of(path.parent)]
    if (config.fovy_deg is None) != (config.pitch_deg is None):
        raise WbvlaError("--fovy-deg and --pitch-deg describe one camera; give both, or neither for the robot's")
    lens = None if config.fovy_deg is None else (config.fovy_deg, config.pitch_deg)
    try:
        for path in sorted(config.data.rglob("meta/info.json")):
            found.extend((path.parent.parent, piece) for piece in episodes_of(path.parent.parent, config.camera, lens, size))
    except ValueError as error:  # a damaged data set, an impossible lens
        raise WbvlaError(str(error)) from error
    return found


def label(config: LabelConfig, log=print) -> int:
    """Label what is missing of this shard; returns how many clips and episodes were labelled.

    Raises:
        CheckpointError: labels of another LAM are there and ``overwrite`` is off.
        WbvlaError: nothing to label, a clip whose frames do not fit its stamps, a bad shard.
    """
    index, count = shard = parse_shard(config.shard)
    lams = [load_lam(path, config.features) for path in config.lams]
    pieces = find_pieces(config, max(ImageSpec().size, *(lam.model.config.image_size for lam in lams)))
    if not pieces:
        raise WbvlaError(f"no {SIDECAR} and no LeRobot data set under {config.data}; render video (wbvla data video) or ingest films (wbvla video ingest)")
    known: dict[tuple[Path, int], LabelSet] = {}
    for folder in dict.fromkeys(folder for folder, _ in pieces):
        for number, lam in enumerate(lams):
            if config.overwrite:
                _drop_others(folder, lam)
            known[folder, number] = read_labels(folder, lam)
    missing: list[tuple[Path, Piece, list[int]]] = []
    for folder, piece in pieces[index::count]:
        if wanted := [number for number in range(len(lams)) if piece.id not in known[folder, number]]:
            missing.append((folder, piece, wanted))
    mine = len(pieces[index::count])
    log(f"label: {mine} clips and episodes{f' of {len(pieces)}' if count > 1 else ''}, {mine - len(missing)} done before, {len(missing)} to do")
    frames, done = sum(len(piece.stamps_s) for _, piece, _ in missing), 0
    started = said = saved = time.monotonic()
    fresh: dict[tuple[Path, int], LabelSet] = {}

    def save() -> None:
        while fresh:
            (where, number), labels = fresh.popitem()
            add_labels(label_path(where, lams[number], shard), lams[number], labels)

    try:
        for position, (folder, piece, wanted) in enumerate(missing, start=1):
            try:
                images = piece.load()
                codes = {number: label_frames(lams[number], images, piece.stamps_s, view=piece.view) for number in wanted}
            except (ValueError, OSError) as error:
                raise WbvlaError(f"{folder / piece.name}: {error}; what was labelled before is kept") from error
            for number, labels in codes.items():
                fresh.setdefault((folder, number), {})[piece.id] = Labels(*labels)
            done, now = done + len(images), time.monotonic()
            if now - saved >= config.save_every_s:
                save()
                saved = time.monotonic()
            if now - said >= 10.0 or position == len(missing):
                rate, said = done / (now - started), now
                log(f"label: {position}/{len(missing)} done, {rate:.0f} frames/s, {(frames - done) / rate:.0f} s left")
    finally:
        save()
    return len(missing)


def _drop_others(folder: Path, lam: Lam) -> None:
    """Remove the label files that another LAM of that name made."""
    for path in label_files(folder, lam):
        try:
            read_file(path, lam)
        except CheckpointError:
            path.unlink(missing_ok=True)  # another shard may have been quicker


if __name__ == "__main__":
    from wbvla_train.lam.label_command import main

    program(main)

"""Data sets as a folder of numbered ``.npz`` shards that many processes write and that can be continued.

    <root>/dataset.json      what is in here and how it was made (settings, hash of the settings)
    <root>/shard_00012.npz   one work item, written under another name and renamed: it is there whole or not at all

A shard depends on its number and the settings only, so that any number of processes, in any order, before and after an
interruption, give the same data. Arrays only; nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from wbvla_core.errors import WbvlaError
from wbvla_core.workers import in_processes

DATASET_FILE = "dataset.json"
TIMES = ("stamp_s",)  # arrays of seconds since some epoch
ABSURD = 1e4  # ours: radians, metres, scaled angles and directions are all of the order of 1
Maker = Callable[[Any, int], dict[str, np.ndarray]]  # (settings, shard number) -> arrays; a module-level function


def shard_path(root: Path, number: int) -> Path:
    return root / f"shard_{number:05d}.npz"


def write_shards(root: Path, settings: dict[str, Any], make: Maker, config: Any, count: int, workers: int = 1, log: Callable[[str], None] = print) -> int:
    """Make the shards that are not there yet; returns how many were made.

    Args:
        settings: what the content depends on, written to ``dataset.json``.
        make: called as ``make(config, number)``, in worker processes where ``workers`` > 1.

    Raises:
        WbvlaError: the folder holds data of other settings.
    """
    root.mkdir(parents=True, exist_ok=True)
    _claim(root, settings)
    missing = [number for number in range(count) if not shard_path(root, number).exists()]
    if len(missing) < count:
        log(f"{root}: {count - len(missing)} of {count} shards are there already")
    start = time.monotonic()
    jobs = [(str(root), make, config, number) for number in missing]
    for done, name in enumerate(_run(jobs, workers), start=1):
        if done == 1 or done % 10 == 0 or done == len(missing):
            rate = done / (time.monotonic() - start)
            log(f"{root}: {name} written, {done}/{len(missing)}, {rate * 60:.1f} shards/min, {(len(missing) - done) / rate / 60:.1f} min left")
    return len(missing)


def _run(jobs: list, workers: int):
    if workers <= 1 or len(jobs) <= 1:
        yield from map(_write_one, jobs)
        return
    for _, name in in_processes(_write_one, jobs, workers, initializer=os.nice, initargs=(10,)):
        yield name


def _write_one(job: tuple[str, Maker, Any, int]) -> str:
    root, make, config, number = job
    path = shard_path(Path(root), number)
    arrays = make(config, number)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez_compressed(temporary, **arrays)
    os.replace(temporary, path)
    return path.name


def _claim(root: Path, settings: dict[str, Any]) -> None:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    path = root / DATASET_FILE
    if path.exists():
        found = json.loads(path.read_text())
        if found["settings_hash"] != digest:
            differing = sorted(key for key in settings.keys() | found["settings"].keys() if settings.get(key) != found["settings"].get(key))
            raise WbvlaError(f"{root} holds data made with other settings ({', '.join(differing)} differ); choose another folder or delete it")
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps({"settings": settings, "settings_hash": digest}, indent=2) + "\n")
    os.replace(temporary, path)


def read_settings(root: Path) -> dict[str, Any]:
    """Content of ``dataset.json``.

    Raises:
        WbvlaError: with the command that makes the data.
    """
    path = Path(root) / DATASET_FILE
    if not path.exists():
        raise WbvlaError(f"no data set at {root}: {DATASET_FILE} is not there; make it with `wbvla data demos` (see docs/vla.md)")
    return json.loads(path.read_text())


def read_shards(root: Path, keys: tuple[str, ...] | None = None, limit: int | None = None) -> dict[str, np.ndarray]:
    """All shards in the order of their numbers, concatenated along the first axis.

    Raises:
        WbvlaError: none, a damaged one, or numbers that cannot be: named by file, episode and frame.
    """
    paths = sorted(Path(root).glob("shard_*.npz"))[:limit]
    if not paths:
        raise WbvlaError(f"no shards in {root}; make them with `wbvla data demos` (see docs/vla.md)")
    shards = [read_shard(path, keys) for path in paths]
    named = list(keys or shards[0])
    for path, shard in zip(paths, shards, strict=True):
        _require_alike(path, shard, paths[0], shards[0])
        _require_plausible(path, shard)
    return {key: np.concatenate([shard[key] for shard in shards]) for key in named}


def read_shard(path: Path, keys: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """The arrays of one shard, and ``episode`` where it has it.

    Raises:
        WbvlaError: it is damaged, or lacks one of ``keys``.
    """
    try:
        with np.load(path, allow_pickle=False) as shard:
            wanted = [*(keys or shard.files), *(("episode",) if keys and "episode" in shard.files and "episode" not in keys else ())]
            return {key: shard[key] for key in wanted}
    except KeyError as error:
        raise WbvlaError(f"{path} lacks the array {error.args[0].split()[0]!r}; it was made by another version: delete it and make it again") from error
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        if isinstance(error, (FileNotFoundError, PermissionError)):
            raise
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise WbvlaError(f"{path} is damaged ({why}); delete it and make it again: the command that made the data set makes only what is missing") from error


def _require_alike(path: Path, shard: dict[str, np.ndarray], first_path: Path, first: dict[str, np.ndarray]) -> None:
    """Refuse a shard whose arrays have other rows than each other, or another kind of rows than the first shard's."""
    rows = {key: len(value) if value.ndim else 0 for key, value in shard.items()}
    if len(set(rows.values())) != 1 or 0 in rows.values():
        raise WbvlaError(f"{path} must hold arrays of the same number of frames, at least one, got {rows}; delete it and make it again")
    for key in first:
        if key not in shard or shard[key].shape[1:] != first[key].shape[1:] or shard[key].dtype.kind != first[key].dtype.kind:
            came = f"{list(shard[key].shape[1:])} {shard[key].dtype}" if key in shard else "nothing"
            raise WbvlaError(
                f"{path}: expected {key!r} with rows {list(first[key].shape[1:])} {first[key].dtype} as in {first_path.name}, got {came}; "
                "they are of different versions: make the data set again"
            )


def _require_plausible(path: Path, shard: dict[str, np.ndarray]) -> None:
    """Refuse numbers that are not finite or absurd, by file, episode and frame. A loss would only say that it is not a number."""
    for key, value in shard.items():
        if value.dtype.kind != "f":
            continue
        flat = value.reshape(len(value), -1)
        bad = ~np.isfinite(flat) if key in TIMES else ~(np.abs(flat) <= ABSURD)  # NaN compares false
        if bad.any():
            row, column = (int(i) for i in np.argwhere(bad)[0])
            episode, frame = shard.get("episode"), row
            where = f"row {row}"
            if episode is not None:
                frame = row - int(np.argmax(episode == episode[row]))
                where = f"episode {int(episode[row])}, frame {frame} (row {row})"
            rows = int(bad.any(axis=1).sum())
            raise WbvlaError(
                f"{path}: {where}: {key}[{column}] is {flat[row, column]}, expected a finite number of at most {ABSURD:g}; "
                f"{rows} of {len(flat)} frames have such numbers. Delete the shard and make it again, or repair what wrote it"
            )


def parse_shard(text: str) -> tuple[int, int]:
    """A machine's or a process's share of a corpus, as it is typed: "1/4" -> (1, 4).

    Raises:
        WbvlaError: not i/n with 0 <= i < n.
    """
    try:
        index, count = (int(part) for part in text.split("/"))
    except ValueError:
        index, count = -1, 0
    if not 0 <= index < count:
        raise WbvlaError(f"--shard must be i/n with 0 <= i < n, for example 0/4; got {text!r}")
    return index, count

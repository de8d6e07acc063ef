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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from wbvla_core.errors import WbvlaError
from wbvla_core.workers import in_processes

DATASET_FILE = "dataset.json"
Maker = Callable[[Any, int], dict[str, np.ndarray]]  # (settings, shard number) -> arrays; a module-level function


def shard_path(root: Path, number: int) -> Path:
    return root / f"shard_{number:05d}.npz"


def write_shards(root: Path, settings: dict[str, Any], make: Maker, config: Any, count: int, workers: int = 1, log: Callable[[str], None] = print) -> int:
    """Make the shards that are not there yet; returns how many were made.

    Args:
        settings: what the content depends on, written to ``dataset.json``.
        make: called as ``make(config, number)``, in worker processes where ``workers`` > 1.

    Raises:
        ValueError: the folder holds data of other settings.
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
            raise ValueError(f"{root} holds data made with other settings ({', '.join(differing)} differ); choose another folder or delete it")
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps({"settings": settings, "settings_hash": digest}, indent=2) + "\n")
    os.replace(temporary, path)


def read_settings(root: Path) -> dict[str, Any]:
    """Content of ``dataset.json``.

    Raises:
        FileNotFoundError: with the command that makes the data.
    """
    path = Path(root) / DATASET_FILE
    if not path.exists():
        raise FileNotFoundError(f"no data set at {root}: {DATASET_FILE} is not there; make it with `wbvla data demos` (see docs/vla.md)")
    return json.loads(path.read_text())


def read_shards(root: Path, keys: tuple[str, ...] | None = None, limit: int | None = None) -> dict[str, np.ndarray]:
    """All shards in the order of their numbers, concatenated along the first axis."""
    paths = sorted(Path(root).glob("shard_*.npz"))[:limit]
    if not paths:
        raise FileNotFoundError(f"no shards in {root}; make them with `wbvla data demos` (see docs/vla.md)")
    parts: dict[str, list[np.ndarray]] = {}
    for path in paths:
        with np.load(path, allow_pickle=False) as shard:
            for key in keys or shard.files:
                parts.setdefault(key, []).append(shard[key])
    return {key: np.concatenate(values) for key, values in parts.items()}


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

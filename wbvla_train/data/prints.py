"""What tells one state of a data set from another, without reading all of it: names, sizes, and three stretches of each file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

STRETCH = 2**20  # bytes


def stretches(path: Path) -> str:
    """sha256 of a file's size, beginning, middle and end: all of a file of 3 MiB, a sample of a larger one.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start in (0, max(size // 2 - STRETCH // 2, 0), max(size - STRETCH, 0)):
            file.seek(start)
            digest.update(file.read(STRETCH))
    return digest.hexdigest()


def of_files(root: Path, files: Iterable[Path]) -> dict[str, Any]:
    """{files, bytes, sha256} of some files below ``root``; their order and the place of ``root`` do not count."""
    digest, count, size = hashlib.sha256(), 0, 0
    for path in sorted(files):
        digest.update(f"{path.relative_to(root)}\0{stretches(path)}\n".encode())
        count, size = count + 1, size + path.stat().st_size
    return {"files": count, "bytes": size, "sha256": digest.hexdigest()[:16]}


def of_shards(root: Path) -> dict[str, Any]:
    """Of a folder of numbered shards (:mod:`wbvla_train.data.shards`)."""
    return of_files(Path(root), Path(root).glob("shard_*.npz"))


def of_clips(root: Path) -> dict[str, Any]:
    """Of a folder of clips: sidecars, films and labels."""
    return of_files(Path(root), (path for ending in ("json", "mp4", "npz") for path in Path(root).rglob(f"*.{ending}") if ".cache" not in path.parts))


def of_lerobot(root: Path) -> dict[str, Any]:
    """Of a LeRobot v3 data set."""
    root = Path(root)
    inside = ((root / "meta", "json"), (root / "meta", "parquet"), (root / "data", "parquet"), (root / "videos", "mp4"))
    return of_files(root, (path for folder, ending in inside for path in folder.rglob(f"*.{ending}")))

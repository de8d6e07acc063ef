"""Recordings below folders, and what lies there that looks like one and cannot be read: nothing is passed over in silence."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from wbvla_train.data.lerobot.episode import DataError, shown

METADATA = "metadata.yaml"
BAG_SUFFIXES = (".mcap", ".db3", ".bag")
CONTENT = {b"\x89MCAP": "MCAP", b"SQLite format 3": "sqlite3", b"#ROSBAG": "ROS 1", b"\x28\xb5\x2f\xfd": "zstandard-compressed"}  # first bytes of a file
# Files that lie beside recordings and are none: notes, reports, pictures, films
BESIDE = frozenset((
    *(".json", ".jsonl", ".yaml", ".yml", ".toml", ".ini", ".xml", ".urdf", ".txt", ".md", ".rst", ".csv", ".tsv", ".log", ".html", ".css", ".js", ".pdf"),
    *(".svg", ".png", ".jpg", ".jpeg", ".gif", ".mp4", ".webm", ".rrd", ".py", ".sh", ".lock"),
))  # fmt: skip
REINDEX = "`ros2 bag reindex FOLDER` writes it anew"


@dataclass
class Found:
    """What a search came upon.

    Attributes:
        bags: recordings: .mcap and .bag files, and folders with a metadata.yaml (for all the files that it names).
        strays: (path, reason) of what may be a recording and cannot be taken.
        beside: how many files of which suffix were taken for no recordings.
        discarded: recordings that the operator threw away.
    """

    bags: list[Path] = field(default_factory=list)
    strays: list[tuple[Path, str]] = field(default_factory=list)
    beside: Counter[str] = field(default_factory=Counter)
    discarded: list[Path] = field(default_factory=list)

    def add(self, bag: Path) -> None:
        """A recording, unless it was discarded or is in the list already."""
        if _discarded(bag):
            self.discarded.append(bag)
        elif bag not in self.bags:
            self.bags.append(bag)


def find(paths: Iterable[Path]) -> Found:
    """All recordings below ``paths``, folders in the order of their names. Links are followed, each folder once.

    Raises:
        DataError: a path that does not exist.
    """
    found, seen = Found(), set()
    for path in dict.fromkeys(paths):
        if not path.exists():
            raise DataError(f"{shown(path)} does not exist" + (": a link that leads nowhere" if path.is_symlink() else ""))
        if path.is_file():
            _file(path, found, asked_for=True)
            continue
        before = len(found.bags) + len(found.strays) + len(found.discarded)
        _folder(path, found, seen)
        if before == len(found.bags) + len(found.strays) + len(found.discarded):
            found.strays.append((path, "no recording is in this folder"))
    return found


def _folder(folder: Path, found: Found, seen: set[str]) -> None:
    real = os.path.realpath(folder)
    if real in seen:
        found.strays.append((folder, f"leads to {shown(real)}, which was looked into already"))
        return
    seen.add(real)
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        found.strays.append((folder, f"the folder cannot be read: {error.strerror}"))
        return
    if not entries and folder.name != "discarded":
        found.strays.append((folder, "an empty folder"))
    named: set[str] = set()
    if (folder / METADATA).is_file():
        found.add(folder)
        named = _named(folder / METADATA)
    for entry in entries:
        if entry.is_dir():
            _folder(entry, found, seen)
        elif entry.name in named or entry.name == METADATA:
            continue
        elif named and any(suffix in BAG_SUFFIXES for suffix in entry.suffixes):
            found.strays.append((entry, f"{METADATA} beside it does not name this file; {REINDEX}, or move the file away"))
        else:
            _file(entry, found)
    if (folder / "episode.json").is_file() and not named and not any(bag.parent == folder for bag in found.bags) and not _discarded(folder):
        found.strays.append((folder, "an episode without its recording"))


def _named(metadata: Path) -> set[str]:
    """Files that a metadata.yaml of rosbag2 names; all bag files beside it where it cannot be read (opening it will say why)."""
    try:
        files = yaml.safe_load(metadata.read_text())["rosbag2_bagfile_information"]["relative_file_paths"]
        return {Path(str(name)).name for name in files}
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return {path.name for path in metadata.parent.iterdir() if any(suffix in BAG_SUFFIXES for suffix in path.suffixes)}


def _file(path: Path, found: Found, *, asked_for: bool = False) -> None:
    """One file that no metadata.yaml names."""
    if not path.exists():
        found.strays.append((path, "a link that leads nowhere"))
        return
    if path.suffix in (".mcap", ".bag"):
        found.add(path)
        return
    if asked_for and (path.parent / METADATA).is_file() and path.name in _named(path.parent / METADATA) | {METADATA}:
        found.add(path.parent)  # a part of a recording stands for all of it
        return
    kind = _content(path)
    if ".db3" in path.suffixes:
        found.strays.append((path, f"a recording in sqlite3 needs its {METADATA}; {REINDEX}"))
    elif ".mcap" in path.suffixes:
        found.strays.append((path, f"a compressed file needs its {METADATA}; {REINDEX}, or unpack it"))
    elif kind in ("MCAP", "ROS 1"):
        found.strays.append((path, f"by its content a recording ({kind}): name it *{'.mcap' if kind == 'MCAP' else '.bag'}"))
    elif kind == "sqlite3":
        found.strays.append((path, f"by its content a database ({kind}); a recording would be *.db3 beside its {METADATA}"))
    elif not asked_for and (path.suffix.lower() in BESIDE or (path.name.startswith(".") and not kind)):
        found.beside[path.suffix.lower() or path.name] += 1
    else:
        kind = kind or f"unknown suffix {path.suffix!r}"
        found.strays.append((path, f"not a recording that can be read: {kind}; expected .mcap, .bag or a folder of rosbag2"))


def _content(path: Path) -> str:
    """What a file is by its first bytes, "" where they say nothing."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    return next((kind for magic, kind in CONTENT.items() if head.startswith(magic)), "")


def bag_files(bag: Path) -> list[Path]:
    """The files that hold a recording's messages."""
    if bag.is_file():
        return [bag]
    named = _named(bag / METADATA)
    return sorted(path for path in bag.iterdir() if path.is_file() and (path.name in named or any(s in BAG_SUFFIXES for s in path.suffixes)))


def _discarded(path: Path) -> bool:
    """Whether the operator threw this recording away (wbvla_teleop writes it into episode.json)."""
    note = (path if path.is_dir() else path.parent) / "episode.json"
    try:
        return json.loads(note.read_text()).get("state") == "discarded"
    except (OSError, ValueError, AttributeError):
        return False

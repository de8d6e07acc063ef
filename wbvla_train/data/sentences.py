"""Language of action-free video: ``instructions.json`` beside ``clips.json``, sentences per clip.

    {"schema": 1, "clips": [{"file": "clip_00.mp4", "sha256": "…", "source": "annotator", "sentences": ["turn left"]}]}

An entry belongs to a clip by its content: a clip that was renamed, or moved to another folder of its film, keeps its sentences; a clip
whose file holds something else than when it was described has none, and the entry is reported as stale until somebody looks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from wbvla_core.checkpoint import write_json
from wbvla_core.errors import WbvlaError
from wbvla_core.task import check_goal
from wbvla_train.data.clips import SIDECAR

FILE = "instructions.json"
SCHEMA = 1
SOURCES = ("template", "annotator", "dataset")
_KEYS = {"file", "sha256", "source", "sentences"}


@dataclass(frozen=True)
class Described:
    """What is said of one clip.

    Attributes:
        file: of the clip, in its folder. sha256: of that file's content, hexadecimal.
        source: "template" (phrasings of a known primitive), "annotator" (a person looked), "dataset" (came with the video).
        sentences: one or several that mean the same; training draws among them.
    """

    file: str
    sha256: str
    source: str
    sentences: tuple[str, ...]


def checked_sentence(text: str) -> str:
    """A sentence in lower case and single spaces.

    Raises:
        WbvlaError: empty, too long, or with angle brackets (they mark the model's own tokens).
    """
    text = " ".join(check_goal(text, 1.0, 0.0).lower().replace(",", " ").split()).rstrip(" .!?")
    if not any(letter.isalpha() for letter in text) or "<" in text or ">" in text:
        raise WbvlaError(f"a sentence is plain words, for example 'turn left'; got {text!r}")
    return text


def content_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def listed_clips(folder: Path) -> list[str]:
    """Files that a folder's sidecar lists; [] without a sidecar."""
    sidecar = folder / SIDECAR
    return [entry["file"] for entry in json.loads(sidecar.read_text())["clips"]] if sidecar.is_file() else []


def read(folder: Path) -> list[Described]:
    """All entries of a folder, stale ones too; [] where there is no file.

    Raises:
        WbvlaError: the file is not of this form; the text names the entry and what is wrong with it.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    try:
        data = json.loads(path.read_text())
    except ValueError as error:
        raise WbvlaError(f"{path} is no JSON ({error}); mend it, or remove it and annotate again") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get("clips"), list):
        raise WbvlaError(f'{path} must be {{"schema": {SCHEMA}, "clips": [...]}}; mend it, or remove it and annotate again')
    return [_entry(path, number, value) for number, value in enumerate(data["clips"])]


def _entry(path: Path, number: int, value: object) -> Described:
    where = f"{path}, entry {number}"
    if not isinstance(value, dict) or set(value) != _KEYS:
        raise WbvlaError(f"{where}: expected exactly {sorted(_KEYS)}, got {sorted(value) if isinstance(value, dict) else type(value).__name__}")
    file, digest, source, sentences = value["file"], value["sha256"], value["source"], value["sentences"]
    where += f" ({file})"
    if not isinstance(file, str) or not file or Path(file).name != file:
        raise WbvlaError(f"{where}: file must be the name of a clip in this folder")
    if not isinstance(digest, str) or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise WbvlaError(f"{where}: sha256 must be 64 hexadecimal digits, of the clip's file (sha256sum)")
    if source not in SOURCES:
        raise WbvlaError(f"{where}: source must be one of {', '.join(SOURCES)}; got {source!r}")
    if not isinstance(sentences, list) or not sentences or not all(isinstance(text, str) for text in sentences):
        raise WbvlaError(f"{where}: sentences must be a list of at least one sentence")
    try:
        return Described(file, digest, source, tuple(checked_sentence(text) for text in sentences))
    except WbvlaError as error:
        raise WbvlaError(f"{where}: {error}") from None


def write(folder: Path, entries: Iterable[Described]) -> None:
    """Replace the file by rename, entries by name."""
    clips = [asdict(entry) for entry in sorted(entries, key=lambda entry: (entry.file, entry.sha256))]
    write_json(folder / FILE, {"schema": SCHEMA, "clips": clips})


def match(folder: Path, entries: Iterable[Described] | None = None) -> tuple[dict[str, Described], list[Described]]:
    """(clip file -> what is said of it, stale entries) of a folder.

    Args:
        entries: to match instead of the folder's own.
    """
    entries = read(folder) if entries is None else list(entries)
    if not entries:
        return {}, []
    by_hash = {entry.sha256: entry for entry in entries}
    found = {}
    for file in listed_clips(folder):
        path = folder / file
        entry = by_hash.get(content_hash(path)) if path.is_file() else None
        if entry is not None:
            found[file] = entry
    used = {entry.sha256 for entry in found.values()}
    return found, [entry for entry in entries if entry.sha256 not in used]


def follow(folders: list[Path]) -> None:
    """Entries go to where their clips are now, among the folders of one film; what fits nowhere stays where it was, as stale."""
    entries = {folder: read(folder) for folder in folders}
    if all({entry.file for entry in part} <= set(listed_clips(folder)) for folder, part in entries.items()):
        return  # nothing moved
    everything = {entry.sha256: entry for part in entries.values() for entry in part}
    here = {folder: match(folder, everything.values())[0] for folder in folders}
    placed = {entry.sha256 for found in here.values() for entry in found.values()}
    for folder in folders:
        now = [Described(file, entry.sha256, entry.source, entry.sentences) for file, entry in here[folder].items()]
        now += [entry for entry in entries[folder] if entry.sha256 not in placed]
        if now:
            write(folder, now)
        else:
            (folder / FILE).unlink(missing_ok=True)

"""Which films are kept for development: by a number that follows from their names, so that it is the same on every machine and in every run.

Of a small collection chance may leave a domain without any film in one part. Then the film nearest to the border is moved over, whole, as
long as no other domain loses its last one by that. Larger collections, where every part has its share, stay as chance has it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from wbvla_core.checkpoint import write_json
from wbvla_train.data import sentences
from wbvla_train.data.film.gates import LOCO, MANI

TRAIN, DEV = "train", "dev"


def _domains(record: dict) -> set[str]:
    return {entry["domain"] for entry in record["segments"] if not entry["reason"]}


def divide(records: list[dict], dev_share: float) -> dict[str, str]:
    """Film's id -> "train" or "dev", for films with their ``rank`` (0..1) and ``split`` by chance.

    Args:
        records: of all films, duplicates marked. dev_share: 0 asks for no dev part, then none is made.
    """
    films = [record for record in records if _domains(record)]
    parts = {record["id"]: DEV if record["rank"] < dev_share else TRAIN for record in films}
    if dev_share <= 0.0:
        return parts
    for domain in (LOCO, MANI):
        own = sorted((record for record in films if domain in _domains(record)), key=lambda record: (record["rank"], record["id"]))
        if len(own) < 2:
            continue
        for part, nearest in ((DEV, own), (TRAIN, own[::-1])):
            if any(parts[record["id"]] == part for record in own):
                continue
            movable = [record for record in nearest if not _robs(record, domain, films, parts)]
            if movable:
                parts[movable[0]["id"]] = part
    return parts


def _robs(record: dict, domain: str, films: list[dict], parts: dict[str, str]) -> bool:
    """Whether moving a film out of its part takes the last film of another domain from that part."""
    mine = parts[record["id"]]
    rest = [other for other in films if other is not record and parts[other["id"]] == mine]
    return any(not any(lost in _domains(other) for other in rest) for lost in _domains(record) - {domain})


def settle(output: Path, records: list[dict], dev_share: float) -> None:
    """Move films' folders to the part that :func:`divide` gives them, and say so in their records (also in memory)."""
    parts = divide([record for record in records if "rank" in record], dev_share)
    for record in records:
        part = parts.get(record["id"], record["split"])
        if part == record["split"]:
            continue
        for domain in (LOCO, MANI):
            old, new = output / record["split"] / domain / record["id"], output / part / domain / record["id"]
            if old.exists():
                new.mkdir(parents=True, exist_ok=True)
                for path in old.iterdir():
                    if not (new / path.name).exists() or path.name != sentences.FILE:  # sentences in both places are joined by their own rule, later
                        path.replace(new / path.name)
                with contextlib.suppress(OSError):  # not empty: sentences
                    old.rmdir()
        record["split"] = part
        stored = {**record, "segments": [_as_judged(entry) for entry in record["segments"]]}
        write_json(output / "films" / record["id"] / "record.json", stored)


def _as_judged(entry: dict) -> dict:
    """An entry as its film's gating left it: duplicates are marked in memory only."""
    return {**{key: value for key, value in entry.items() if key != "of"}, "reason": ""} if entry["reason"] == "duplicate" else entry


def missing(records: list[dict], dev_share: float) -> list[str]:
    """A sentence for every domain with clips that training cannot begin with, for want of one part."""
    sentences = []
    for domain in (LOCO, MANI):
        films = [record for record in records if domain in _domains(record)]
        have = {record["split"] for record in films}
        for part in {TRAIN, DEV} - have if films else ():
            if dev_share <= 0.0:
                why = "--dev-share 0 asked for it; name another folder's dev clips, or ingest again with a share"
            elif len(films) == 1:
                why = f"all of its clips are of one film ({films[0]['film']}), which is not divided: add a second film of that kind"
            else:
                why = "its films cannot be divided without taking another domain's last one: add a film of that kind"
            sentences.append(f"no clip of {domain} is in {part}, and training that domain on this folder alone cannot begin: {why}")
    return sorted(sentences)

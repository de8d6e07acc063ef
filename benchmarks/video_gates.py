"""Precision and recall of every gate, and of the sorting, on made films.

    python benchmarks/video_gates.py --folder runs/films --seed 102 --good 80 --faulty 70 --workers 2

Thresholds were set on seeds 11 and 101; docs/data.md reports others. A film counts as found by a gate if one of its stretches or instants
has that reason, and lies at the fault (cuts: within 0.25 s). Every film that is not of that kind must not be found by that gate.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import tyro

from wbvla_core.checkpoint import write_json
from wbvla_core.console import program
from wbvla_eval.stats import wilson_interval
from wbvla_train.data.film.duplicates import mark_duplicates
from wbvla_train.data.film.gates import UNSURE
from wbvla_train.data.film.ingest import IngestConfig, ingest, load_records
from wbvla_train.data.film.made import FAULTS, MadeFilm, make_set, truth_path

NEAR_S = 0.25


@dataclass(frozen=True)
class EvaluateConfig:
    """Options.

    Attributes:
        folder: where the films are made (once) and ingested. seed, good, faulty: see :func:`made.make_set`.
        workers: processes of making and of the ingest.
    """

    folder: Path = Path("runs/films")
    seed: int = 102
    good: int = 80
    faulty: int = 70
    workers: int = 2


def score(truth: list[MadeFilm], records: list[dict]) -> dict:
    """Counts per gate, and of the sorting over all clips that were kept."""
    by_film = {record["film"].split("/")[-1]: record for record in records}
    result: dict[str, dict] = {}
    for gate in FAULTS:
        hits = misses = false_alarms = 0
        for film in truth:
            entries = [entry for entry in by_film[film.file]["segments"] if entry["reason"] == gate]
            at_fault = [e for e in entries if e["start_s"] <= film.end_s + NEAR_S and e["end_s"] >= film.start_s - NEAR_S]
            if film.kind == gate:
                partner = [e for e in by_film[film.of]["segments"] if e["reason"] == gate] if film.of else []
                found = bool(at_fault or partner)  # of two copies either may go
                hits, misses = hits + found, misses + (not found)
            elif entries and not any(other.of == film.file for other in truth):
                false_alarms += 1
        result[gate] = {"found": hits, "missed": misses, "false": false_alarms}
    sorting = {"right": 0, "wrong": 0, "unsure": 0}
    for film in truth:
        for entry in by_film[film.file]["segments"]:
            if entry["reason"] in ("", UNSURE):
                sorting[UNSURE if entry["reason"] else "right" if entry["domain"] == film.domain else "wrong"] += 1
    result["sorting"] = sorting
    return result


def table(result: dict) -> list[str]:
    """Markdown, with 95 % Wilson intervals."""

    def rate(part: int, whole: int) -> str:
        low, high = wilson_interval(part, whole)
        return f"{part}/{whole} = {part / max(whole, 1):.3f} [{low:.3f}, {high:.3f}]"

    lines = ["| gate | recall | precision |", "|---|---|---|"]
    for gate in FAULTS:
        counts = result[gate]
        recall, precision = rate(counts["found"], counts["found"] + counts["missed"]), rate(counts["found"], counts["found"] + counts["false"])
        lines.append(f"| {gate} | {recall} | {precision} |")
    sorting = result["sorting"]
    sorted_clips = sorting["right"] + sorting["wrong"]
    unsure = f"{rate(sorting[UNSURE], sorted_clips + sorting[UNSURE])} of the clips unsure"
    return [*lines, "", f"manipulation / locomotion: {rate(sorting['right'], sorted_clips)} of the clips that were sorted; {unsure}"]


def evaluate(config: EvaluateConfig, log=print) -> dict:
    """Make what is missing, ingest, score."""
    cv2.setNumThreads(1)
    films = config.folder / f"made_{config.seed}"
    if not truth_path(films).exists():
        make_set(films, config.seed, config.good, config.faulty, log, config.workers)
    truth = [MadeFilm(**film) for film in json.loads(truth_path(films).read_text())["films"]]
    output = config.folder / f"clips_{config.seed}"
    ingest(IngestConfig((films,), output=output, workers=config.workers), log=lambda text: None)
    records = load_records(output)
    mark_duplicates(output, records)
    result = score(truth, records)
    write_json(config.folder / f"gates_{config.seed}.json", result)
    for line in table(result):
        log(line)
    return result


def main() -> None:
    evaluate(tyro.cli(EvaluateConfig, description=__doc__))


if __name__ == "__main__":
    program(main)

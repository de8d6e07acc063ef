"""Which of the sentences that people type are taken for tasks: counted on a list that was sorted by hand before there
was code.

python benchmarks/sentences.py                                     # the shipped policy's own list of tasks
python benchmarks/sentences.py --policy checkpoints/policy/mine --show

Accepted wrongly: not a task, and accepted; or accepted for another task than it names. Refused wrongly: a task, and
refused. Synonyms and typos are counted apart: they may be refused, with the right task offered first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
import yaml

from wbvla_core.catalogue import TaskCatalogue
from wbvla_core.checkpoint import load_manifest
from wbvla_core.console import program
from wbvla_core.errors import InstructionError

LIST = Path(__file__).resolve().parents[1] / "test" / "fixtures" / "sentences.yaml"
HALVES = ("look", "final")


def read_list(path: Path = LIST) -> list[dict[str, Any]]:
    """The rows of the list, each with its class: in, out or near."""
    return [{"class": name, **row} for name, rows in yaml.safe_load(path.read_text()).items() for row in rows]


def answer(row: dict[str, Any], tasks: TaskCatalogue) -> tuple[str, str]:
    """(what came of one row, the refusal or the task)."""
    try:
        found = tasks.meaning(row["say"]).canonical
    except InstructionError as refused:
        if row["class"] == "in":
            return "refused wrongly", str(refused)
        if row["class"] == "near":
            return "right hint" if refused.nearest[:1] and refused.nearest[0] in row["hint"] else "wrong hint", str(refused)
        why = refused.reason in row["why"]
        hint = not row["hint"] or any(one in row["hint"] for one in refused.nearest)
        return "refused" if why and hint else "refused, wrong reason" if not why else "refused, wrong hint", str(refused)
    if row["class"] == "out":
        return "accepted wrongly", found
    meant = [row["means"]] if row["class"] == "in" else row["hint"]
    return "accepted" if found in meant else "accepted wrongly", found


def count(rows: Iterable[dict[str, Any]], tasks: TaskCatalogue) -> dict[str, Counter[str]]:
    """Class -> how often each answer came."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(row["class"], Counter())[answer(row, tasks)[0]] += 1
    return counts


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    policy: Path = LIST.parents[2] / "checkpoints" / "policy" / "tiny"
    """Policy bundle with a list of tasks."""

    half: Literal["look", "final", "all"] = "all"
    """Rows that were looked at while the code was written, rows that were only counted at the end, or both and all."""

    show: bool = False
    """Print every row that did not come out right."""


def line(name: str, rows: list[dict[str, Any]], tasks: TaskCatalogue) -> str:
    """The counts of some rows."""
    counts = count(rows, tasks)
    inside, outside, near = (counts[name] for name in ("in", "out", "near"))
    accepted = sum(one["accepted wrongly"] for one in counts.values())
    return (
        f"{name:>5}: {outside.total()} out of range: {accepted} accepted wrongly, {outside['refused']} refused with right reason and hint; "
        f"{inside.total()} in range: {inside['refused wrongly']} refused wrongly; "
        f"{near.total()} synonyms and typos: {near['accepted']} accepted, {near['right hint']} refused with the right hint, "
        f"{near['wrong hint']} with a wrong one"
    )


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    tasks = TaskCatalogue.of(load_manifest(options.policy, kind="policy"))
    if tasks is None:
        raise SystemExit(f"{options.policy} has no list of tasks: every sentence of known words is accepted")
    rows = read_list()
    for half in HALVES if options.half == "all" else (options.half,):
        print(line(half, [row for row in rows if row["half"] == half], tasks))
    if options.half == "all":
        print(line("all", rows, tasks))
    for row in rows if options.show else ():
        what, text = answer(row, tasks)
        if "wrong" in what and options.half in (row["half"], "all"):
            print(f"{what}: {row['say']!r}: {text}")


if __name__ == "__main__":
    program(main)

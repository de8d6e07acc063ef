"""Merge, split and filter: new data sets from episodes of old ones (v2.1 or v3); the old ones stay as they are."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from wbvla_train.data.lerobot.assemble import PROVENANCE, assemble
from wbvla_train.data.lerobot.check import check_dataset, digest
from wbvla_train.data.lerobot.episode import DataError, Episode, shown
from wbvla_train.data.lerobot.reader import Dataset, View, open_dataset, stage

SHOWN = 5  # faults in a refusal


def write(views: Sequence[View], output: Path, log: Callable[[str], None] = print, *, checked: bool = False) -> int:
    """A data set from these episodes, in this order; resumable. Returns 1 where an episode was left out.

    Args:
        checked: the episodes were checked just now. Otherwise they are, first: nothing is made of a data set that ``check`` refuses.

    Raises:
        DataError: faults were found, episodes do not fit together, ``output`` exists.
    """
    plan = _plan(views)
    if output.exists():
        return _already(output, plan, log)
    if not views:
        raise DataError("no episode is left")
    types = sorted({str(view.dataset.info.get("robot_type")) for view in views})
    if len(types) > 1:
        raise DataError(f"a data set holds one robot; these hold {types}. Keep them apart")
    staging = _staging(output) / plan
    sound = staging / "checked"
    if not checked and not sound.exists():
        require_sound(views, log)
    staging.mkdir(parents=True, exist_ok=True)
    sound.touch()
    kept: list[Episode] = []
    left: list[str] = []
    seen: dict[str, int] = {}
    for number, view in enumerate(views):
        here = f"episode {view.index} of {shown(view.dataset.root)}"
        try:
            fingerprint = digest(view, view.columns())
            if fingerprint and (before := seen.setdefault(fingerprint, number)) != number:
                raise DataError(f"the same states and actions as episode {views[before].index} of {shown(views[before].dataset.root)}")
            kept.append(stage(view, staging / f"{number:06d}"))
        except DataError as error:
            left.append(f"{here}: {error}")
    made_from = sorted({shown(v.dataset.root.name) for v in views})
    info = assemble(kept, output, robot_type=types[0], provenance={"left_out": left, "made_from": made_from, "plan": plan})
    shutil.rmtree(staging.parent)
    log(f"{shown(output)}: {info['total_episodes']} episodes, {info['total_frames']} frames")
    for line in left:
        log(f"left out: {line}")
    return 1 if left else 0


def _staging(output: Path) -> Path:
    return output.with_name(output.name + ".staging")


def _plan(views: Sequence[View]) -> str:
    """Fingerprint of what a data set is made from."""
    plan = json.dumps([_source(view) for view in views])
    return hashlib.sha256(plan.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _already(output: Path, plan: str, log: Callable[[str], None]) -> int:
    """:func:`write` where ``output`` is there: done by an earlier run of the same command (of a split that was ended, some parts are), or refused."""
    try:
        before = json.loads((output / PROVENANCE).read_text())
        same = before["plan"] == plan
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise DataError(f"{shown(output)} exists already, and was not made from these episodes as they are now; name a folder that does not")
    shutil.rmtree(_staging(output), ignore_errors=True)  # of a run that was ended just before it would have done so
    left = before.get("left_out", [])
    log(f"{shown(output)} is complete already" + (f"; {len(left)} episodes had been left out" if left else ""))
    return 1 if left else 0


def _source(view: View) -> list[object]:
    """What an episode is made from: a run that goes on must find it unchanged."""
    files = sorted({view.data, *(path for path, _ in view.videos.values()), view.dataset.root / "meta" / "info.json"})
    stats = [(path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None for path in files]
    told = [view.tasks, sorted(view.dataset.tasks.items()), sorted((key, from_s) for key, (_, from_s) in view.videos.items()), view.about]
    return [str(view.dataset.root.resolve()), view.index, view.length, stats, told]


def require_sound(views: Sequence[View], log: Callable[[str], None] = print) -> None:
    """Check the episodes; DataError with the first faults where there is an error. Warnings are logged."""
    faults: list[str] = []
    sets = {id(view.dataset): view.dataset for view in views}
    for dataset in sets.values():
        log(f"checking {shown(dataset.root)}")
        for finding in check_dataset(dataset, only={view.index for view in views if view.dataset is dataset}):
            where = f"episode {finding.episode}, frame {finding.frame}: " if finding.episode >= 0 else ""
            line = f"{shown(dataset.root)}: {where}{finding.kind}: {shown(finding.text)}"
            if finding.severity == "error":
                faults.append(line)
            else:
                log(f"warning  {line}")
    if faults:
        more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise DataError(
            f"`wbvla dataset check` finds {len(faults)} faults, and nothing is made of faulty data:\n  " + "\n  ".join(faults[:SHOWN]) + more + "\n"
            "Mend them, or take the sound episodes alone: wbvla dataset filter DATASET --output NEW --drop-faulty"
        )


def sound_views(dataset: Dataset, log: Callable[[str], None] = print) -> list[View]:
    """The episodes without an error. What concerns the data set as a whole is logged: each new data set counts anew."""
    findings = [finding for finding in check_dataset(dataset) if finding.severity == "error"]
    for finding in findings:
        if finding.episode < 0:
            log(f"mended in the new data set, or left out: {finding.kind}: {shown(finding.text)}")
    faulty = sorted({finding.episode for finding in findings if finding.episode >= 0})
    log(f"faulty: {faulty or 'none'}")
    return [view for view in dataset.views if view.index not in faulty]


def merge(roots: Sequence[Path], output: Path, log: Callable[[str], None] = print) -> int:
    """All episodes of all data sets, one after the other."""
    return write([view for root in roots for view in open_dataset(root).views], output, log)


def split(root: Path, output: Path, shares: dict[str, float], seed: int = 0, log: Callable[[str], None] = print) -> int:
    """Parts ``output/<name>`` with these shares of the episodes, drawn by a hash of seed and number: every part keeps every episode once."""
    if not shares or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1.0) > 1e-6:
        raise DataError(f"shares must be positive and add up to 1, got {shares}")
    dataset = open_dataset(root)
    order = sorted(dataset.views, key=lambda view: hashlib.sha256(f"{seed}/{view.index}".encode()).hexdigest())
    parts: dict[str, list[View]] = {}
    start, total = 0.0, 0.0
    for name, share in shares.items():
        total += share
        first, last = round(start * len(order)), round(total * len(order))
        parts[name] = sorted(order[first:last], key=lambda view: view.index)
        start = total
    empty = [name for name, views in parts.items() if not views]
    if empty:
        raise DataError(f"{len(order)} episodes are too few: {empty} would be empty")
    require_sound(dataset.views, log)  # all of it: of two episodes that are the same, one must not train and the other test
    return max(write(views, output / name, log, checked=True) for name, views in parts.items())


def chosen(dataset: Dataset, *, task: str = "", least_s: float = 0.0, drop: Sequence[int] = ()) -> list[View]:
    """Episodes one of whose sentences matches the regular expression, that are long enough and not dropped."""
    try:
        pattern = re.compile(task)
    except re.error as error:
        raise DataError(f"--task must be a regular expression, got {task!r}: {error}") from error
    unknown = sorted(set(drop) - {view.index for view in dataset.views})
    if unknown:
        raise DataError(f"--drop names episodes {unknown}, which are not there (0 to {len(dataset.views) - 1})")
    return [v for v in dataset.views if any(pattern.search(s) for s in v.tasks) and v.length >= least_s * dataset.fps and v.index not in drop]

"""``wbvla eval lmo``: run the suites, show progress, keep what is finished, write results.json, report.md, pictures and videos; compare runs."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wbvla_core.checkpoint import Manifest, find_checkpoint, git_commit, write_json
from wbvla_core.errors import CommandError, ErrorCode
from wbvla_core.machine import describe_machine
from wbvla_core.robot import RobotSpec, RobotSpecError, load_robot
from wbvla_eval.lmo import plots, results, video
from wbvla_eval.lmo.controllers import Checked, Factory, callable_factory, checkpoint_factory
from wbvla_eval.lmo.measures import quality
from wbvla_eval.lmo.options import Options
from wbvla_eval.lmo.programs import SETTLE_S
from wbvla_eval.lmo.runner import Log, make_world, run
from wbvla_eval.lmo.suites import BLOCK, SUITES, Cell, Suite, choose, file_stem
from wbvla_eval.provenance import lineage, versions

SCHEMA = 1
ROUND = 100  # robots in one batch; more of them gain nothing on two cores
QUICK_EPISODES, QUICK_HOURS = 5, 0.05
ENOUGH_FALLS = 300  # the rate is known to 12 % by then; a controller that cannot stand need not fall 10 000 times
FALL_CLIP_S = 6.0  # of a fall, what led to it


@dataclass(frozen=True)
class Subject:
    """What is benchmarked, and how to recognise it."""

    factory: Factory
    source: str
    name: str
    hash: str
    manifest: Manifest | None
    path: Path | None


def load_subject(options: Options, robot: RobotSpec) -> Subject:
    """The controller that the options name.

    Raises:
        CheckpointError, CommandError: it cannot be loaded.
    """
    if options.controller:
        factory = callable_factory(options.controller)
        try:
            source = Path(inspect.getfile(inspect.unwrap(factory))).read_bytes()
        except (TypeError, OSError):
            source = options.controller.encode()
        name = Checked(factory, robot, 1).name
        return Subject(factory, options.controller, name, hashlib.sha256(source).hexdigest(), None, None)
    path = find_checkpoint(options.lmo)
    factory, manifest = checkpoint_factory(path, robot)
    return Subject(factory, f"{manifest.kind}/{manifest.name}", manifest.name, manifest.hash, manifest, path)


class Progress:
    """One line per cell; on a terminal it counts while the cell runs, in a log file every minute."""

    def __init__(self, total_cells: int) -> None:
        self.total, self.done, self._shown_s = total_cells, 0, time.monotonic()
        self.live = sys.stdout.isatty()

    def tick(self, label: str, part: float) -> None:
        now = time.monotonic()
        if now - self._shown_s > (0.5 if self.live else 60.0):
            self._shown_s = now
            start, end = ("\r", "") if self.live else ("", "\n")
            print(f"{start}[{self.done + 1}/{self.total}] {label}: {100 * part:3.0f} %", end=end, flush=True)

    def cell(self, label: str, episodes: int, falls: int, simulated_s: float, wall_s: float) -> None:
        self.done, self._shown_s = self.done + 1, time.monotonic()
        start, speed = "\r" if self.live else "", simulated_s / max(wall_s, 1e-9)
        print(f"{start}[{self.done}/{self.total}] {label}: {episodes} episodes, {falls} falls, {simulated_s:.0f} s at {speed:.0f} x real time", flush=True)


@dataclass
class CellResult:
    """Episodes of a cell, its pictures, its videos."""

    episodes: list[results.Row]
    plots: list[plots.Plot]
    videos: list[tuple[str, str]]
    simulated_s: float
    wall_s: float


def run_cell(suite: Suite, cell: Cell, subject: Subject, robot: RobotSpec, options: Options, out: Path | None, on_tick: Callable[[float], None]) -> CellResult:
    """All episodes of a cell, in rounds of at most ROUND robots."""
    began = time.monotonic()
    episodes, hours = (QUICK_EPISODES, QUICK_HOURS) if options.quick else (options.episodes, options.hours)
    drawn: list[plots.Plot] = []
    clips: list[tuple[str, str]] = []
    rows: list[results.Row] = []
    simulated_s, fall_shown = 0.0, False
    world = controller = None
    while True:
        if cell.by_hours:
            on_clock_s = sum(max(r["seconds"] - SETTLE_S, 0.0) for r in rows)
            per_episode_s = 60.0 if not rows else max(on_clock_s / len(rows), 1.0)
            missing = math.ceil((3600.0 * hours - on_clock_s) / per_episode_s - 1e-9)
            missing = 0 if sum(r["fell"] for r in rows) >= ENOUGH_FALLS else min(missing, BLOCK - len(rows))
        else:
            missing = episodes - len(rows)
        count = min(ROUND, missing)
        if count <= 0:
            break
        if world is None or world.count != count:
            world = make_world(robot, count, threads=options.threads, scenery=cell.scenery)
            controller = Checked(subject.factory, robot, count)
        seeds = cell.seeds(len(rows), count, options.seed_base)
        program = cell.program(robot, seeds, controller.cruise)
        finished, share = len(rows), count / max(count, missing + len(rows))
        log = run(
            world,
            controller,
            program,
            cell.conditions,
            seeds,
            arm_pose=None if cell.hands is None else cell.hands(robot),
            keep_qpos=options.videos and (finished == 0 or not fall_shown),
            on_tick=lambda t, total, base=finished / (missing + finished), share=share: on_tick(base + share * (t + 1) / total),
        )
        numbers = cell.measure(log, robot, controller.cruise) | quality(log, robot) | log.drawn
        rows += results.episodes_of(log.seeds, log.fell, log.seconds, numbers)
        simulated_s += float(log.seconds.sum())
        if finished == 0:
            drawn += plots.cell_plots(suite, cell, log, robot, controller.cruise)
        if options.videos and out is not None:
            clips += _videos(suite, cell, log, robot, out, first=finished == 0, fall=not fall_shown)
        fall_shown |= bool(log.fell.any())
    return CellResult(rows, drawn, clips, simulated_s, time.monotonic() - began)


def _videos(suite: Suite, cell: Cell, log: Log, robot: RobotSpec, out: Path, *, first: bool, fall: bool) -> list[tuple[str, str]]:
    stem = file_stem(suite, cell)
    clips = []
    if first:
        video.write(suite, cell, log, robot, out / "videos" / f"{stem}.mp4")
        clips.append((cell.name, f"videos/{stem}.mp4"))
    if fall and log.fell.any():
        video.write(suite, cell, log, robot, out / "videos" / f"{stem}_fall.mp4", int(np.flatnonzero(log.fell)[0]), last_s=FALL_CLIP_S)
        clips.append((f"{cell.name}, the first fall", f"videos/{stem}_fall.mp4"))
    return clips


def suite_key(suite: Suite, subject: Subject, robot: RobotSpec, options: Options) -> dict[str, Any]:
    """What a finished suite depends on."""
    episodes, hours = (QUICK_EPISODES, QUICK_HOURS) if options.quick else (options.episodes, options.hours)
    key = {
        "schema": SCHEMA,
        "suite": suite.name,
        "controller": subject.source,
        "hash": subject.hash,
        "robot": robot.fingerprint,
        "seed_base": options.seed_base,
    }
    return key | {"episodes": episodes, "cells": [c.name for c in suite.cells]} | ({"hours": hours} if any(c.by_hours for c in suite.cells) else {})


def finished_suite(path: Path, key: dict[str, Any], options: Options) -> dict[str, Any] | None:
    """A suite that is done already, None if it is not.

    Raises:
        CommandError: the folder holds results of something else.
    """
    if options.fresh or not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise CommandError(f"{path} is damaged ({error}); delete it, or use --fresh", ErrorCode.COMMAND_SHAPE) from error
    differs = [name for name in key if stored.get("key", {}).get(name) != key[name]]
    if differs:
        was, now = stored.get("key", {}).get(differs[0]), key[differs[0]]
        raise CommandError(
            f"{path} holds a run with another {differs[0]} ({was!r}, now {now!r}); choose another --out, or --fresh to run it again", ErrorCode.COMMAND_SHAPE
        )
    return stored


def _of_the_same(path: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """A finished suite that nobody asked for, if it belongs into the same report; None if there is none."""
    try:
        stored = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return None
    return stored if stored.get("key") == key else None


def benchmark(options: Options) -> dict[str, Any]:
    """Run everything asked for; returns the report that results.json holds.

    Raises:
        WbvlaError: bad options, controller or folder. KeyboardInterrupt: after what is finished has been written.
    """
    if options.episodes < 1 or options.hours <= 0 or options.threads < 1:
        raise CommandError("--episodes and --threads must be at least 1 and --hours positive", ErrorCode.COMMAND_SHAPE)
    if options.episodes > BLOCK:
        raise CommandError(f"a cell has {BLOCK} seeds, --episodes {options.episodes} are more", ErrorCode.COMMAND_SHAPE)
    suites = choose(options.suites)
    try:
        robot = load_robot(options.robot)
    except RobotSpecError as error:
        raise CommandError(f"--robot: {error}", ErrorCode.COMMAND_SHAPE) from error
    subject = load_subject(options, robot)
    label = options.label or subject.name
    out = options.out or Path("runs/eval/lmo") / label
    (out / "suites").mkdir(parents=True, exist_ok=True)
    stored = {s.name: finished_suite(out / "suites" / f"{s.name}.json", suite_key(s, subject, robot, options), options) for s in suites}
    beside = {s.name: _of_the_same(out / "suites" / f"{s.name}.json", suite_key(s, subject, robot, options)) for s in SUITES.values() if s not in suites}
    stored |= {name: part for name, part in beside.items() if part is not None}  # run before, by a command that named others
    suites = [s for s in SUITES.values() if s in suites or s.name in stored]
    progress = Progress(sum(len(s.cells) for s in suites if stored[s.name] is None))
    cruise = [float(v) for v in Checked(subject.factory, robot, 1).cruise]
    print(f"{subject.source} on {', '.join(s.name for s in suites)} -> {out}", flush=True)
    parts: dict[str, dict[str, Any]] = {}
    interrupted: KeyboardInterrupt | None = None
    try:
        for suite in suites:
            part = stored[suite.name]
            if part is None:
                part = _run_suite(suite, subject, robot, options, out, progress)
                write_json(out / "suites" / f"{suite.name}.json", part)
            else:
                print(f"{suite.name}: already finished, from {out / 'suites' / f'{suite.name}.json'}")
            parts[suite.name] = part
            for costs in (False, True):
                if len((lines := results.table(suite, part["rows"], quality=costs))[0]) > 1:
                    print(results.terminal(lines))
            print(flush=True)
    except KeyboardInterrupt as error:
        interrupted = error
        print(f"\ninterrupted; finished suites are kept: {', '.join(parts) or 'none'}", file=sys.stderr)
    report = _report(options, subject, robot, label, cruise, parts)
    report["interrupted"] = interrupted is not None
    write_json(out / "results.json", report)
    pictures = [tuple(p) for part in parts.values() for p in part["plots"]]
    clips = [tuple(v) for part in parts.values() for v in part["videos"]]
    (out / "report.md").write_text(results.page(report, pictures, clips))
    targets = results.against_targets(report)
    if len(targets) > 1:
        print(results.terminal(targets))
    print(f"written: {out / 'results.json'}, {out / 'report.md'}")
    if interrupted is not None:
        raise interrupted
    return report


def _run_suite(suite: Suite, subject: Subject, robot: RobotSpec, options: Options, out: Path, progress: Progress) -> dict[str, Any]:
    cells: dict[str, list[results.Row]] = {}
    drawn: list[plots.Plot] = []
    clips: list[tuple[str, str]] = []
    simulated_s = wall_s = 0.0
    for cell in suite.cells:
        label = f"{suite.name} / {cell.name}"
        done = run_cell(suite, cell, subject, robot, options, out, lambda part, label=label: progress.tick(label, part))
        progress.cell(label, len(done.episodes), sum(e["fell"] for e in done.episodes), done.simulated_s, done.wall_s)
        cells[cell.name] = done.episodes
        drawn += done.plots
        clips += done.videos
        simulated_s, wall_s = simulated_s + done.simulated_s, wall_s + done.wall_s
    rows = results.rows_of(suite, cells, SETTLE_S)
    if suite.name == "arrival":
        drawn += plots.arrival_plot(cells["arrival"])
    if suite.name == "stress":
        drawn += plots.stress_plot(rows)
    pictures = plots.write(drawn, out / "plots")
    key = suite_key(suite, subject, robot, options)
    return {"key": key, "title": suite.title, "rows": rows, "episodes": cells, "plots": pictures, "videos": clips, "simulated_s": simulated_s, "wall_s": wall_s}


def _report(options: Options, subject: Subject, robot: RobotSpec, label: str, cruise: list[float], parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    simulated_s, wall_s = (sum(part[k] for part in parts.values()) for k in ("simulated_s", "wall_s"))
    checkpoints = lineage([("lmo", subject.path)], subject.path.parents[1]) if subject.path is not None else []
    episodes, hours = (QUICK_EPISODES, QUICK_HOURS) if options.quick else (options.episodes, options.hours)
    return {
        "schema": SCHEMA,
        "label": label,
        "controller": {"source": subject.source, "name": subject.name, "hash": subject.hash, "cruise": cruise},
        "robot": f"{robot.name} {robot.version}",
        "seed_base": options.seed_base,
        "options": {"episodes": episodes, "hours": hours, "quick": options.quick, "threads": options.threads, "round": ROUND},
        "suites": {name: {"title": part["title"], "rows": part["rows"], "episodes": part["episodes"]} for name, part in parts.items()},
        "simulated_hours": simulated_s / 3600.0,
        "wall_s": wall_s,
        "times_real_time": simulated_s / wall_s if wall_s > 0 else 0.0,
        "git_commit": git_commit(),
        "machine": describe_machine(),
        "load_average": os.getloadavg()[0],
        "versions": [list(row) for row in versions()],
        "checkpoints": checkpoints,
    }


def load_report(path: Path) -> dict[str, Any]:
    """results.json, given itself or its folder.

    Raises:
        CommandError: it is not one.
    """
    file = path / "results.json" if path.is_dir() else path
    try:
        report = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise CommandError(f"--compare: {file} does not exist", ErrorCode.COMMAND_SHAPE) from error
    except json.JSONDecodeError as error:
        raise CommandError(f"--compare: {file} is no JSON ({error})", ErrorCode.COMMAND_SHAPE) from error
    if not isinstance(report, dict) or report.get("schema") != SCHEMA or not isinstance(report.get("suites"), dict):
        raise CommandError(f"--compare: {file} was not written by `wbvla eval lmo` of this version (schema {SCHEMA})", ErrorCode.COMMAND_SHAPE)
    return report


def print_comparison(paths: Sequence[Path], out: Path | None) -> None:
    """Rows side by side, on the terminal and in ``out``/comparison.md if given."""
    reports = [load_report(path) for path in paths]
    settings = {(r["seed_base"], r["options"]["episodes"], r["options"]["hours"]) for r in reports}
    if len(settings) > 1:
        print(f"note: the files differ in (seed base, episodes, hours): {sorted(settings)}", file=sys.stderr)
    try:
        tables = results.compare(reports)
    except ValueError as error:
        raise CommandError(f"--compare: {error}", ErrorCode.COMMAND_SHAPE) from error
    overview = results.like_the_paper(reports)
    print(results.terminal(overview) + "\n")
    for name, lines in tables.items():
        print(f"{name}: {SUITES[name].title}\n{results.terminal(lines)}\n")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        head = "# Leg controllers side by side\n\nMean ± standard deviation, over seeds where there are several, else over episodes.\n"
        parts = [head, results.markdown(overview) + "\n", *(f"## {name.capitalize()}\n\n{results.markdown(lines)}\n" for name, lines in tables.items())]
        (out / "comparison.md").write_text("\n".join(parts))
        print(f"written: {out / 'comparison.md'}")

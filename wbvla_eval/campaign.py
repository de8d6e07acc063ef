"""Many trials in several processes, and what is said of them: JSON for machines, markdown for people."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from wbvla_core.checkpoint import find_checkpoint, git_commit, load_manifest, write_json
from wbvla_core.errors import WbvlaError
from wbvla_core.machine import describe_machine
from wbvla_core.robot import load_robot
from wbvla_core.robot_numbers import numbers_of
from wbvla_core.workers import in_processes
from wbvla_eval.journal import TrialJournal
from wbvla_eval.protocol import KINEMATIC, Runner, Setup, TrialSpec, guard_said, policy_tasks, require_tasks
from wbvla_eval.seeds import split_of
from wbvla_eval.stats import poisson_upper_bound, rate_text, spread, wilson_interval
from wbvla_eval.tasks import Criteria, Failure

SCHEMA = 1
_runner: Runner | None = None


def _start_worker(setup: Setup) -> None:
    global _runner
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the pool; workers must not each print a traceback
    _runner = Runner(setup)


def run_one(runner: Runner, trial: TrialSpec) -> dict[str, Any]:
    """A trial's row; one that raises gives a row of kind "error", so that it does not end the campaign."""
    started = time.monotonic()
    try:
        return runner.run(trial)
    except Exception as error:
        return trial.facts() | {
            "ended": "error",
            "success": False,
            "failure": Failure.ERROR.value,
            "reason": f"{type(error).__name__}: {error}",
            "traceback": traceback.format_exc(),
            "measures": {},
            "wall_s": time.monotonic() - started,
        }


def _run(trial: TrialSpec) -> dict[str, Any]:
    assert _runner is not None
    return run_one(_runner, trial)


def run_trials(setup: Setup, trials: Sequence[TrialSpec], processes: int) -> Iterator[dict[str, Any]]:
    """Rows as they finish, in any order. One process: run here, so that debuggers behave.

    Raises:
        WbvlaError: a worker process was killed.
    """
    if processes <= 1 or len(trials) == 1:
        runner = Runner(setup)
        yield from (run_one(runner, trial) for trial in trials)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by the workers: they already fill the cores
    for _, row in in_processes(_run, trials, processes, initializer=_start_worker, initargs=(setup,)):
        yield row


def with_progress(rows: Iterable[dict[str, Any]], total: int, before: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """Print one line per finished trial; returns the rows, those of ``before`` too, in the order of the trials."""
    done: list[dict[str, Any]] = list(before)
    started = time.monotonic()
    for row in rows:
        done.append(row)
        good = sum(r["success"] for r in done)
        left_s = (time.monotonic() - started) / (len(done) - len(before)) * (total - len(done))
        mark = "ok  " if row["success"] else row["failure"]
        print(
            f"[{len(done):>{len(str(total))}}/{total}] seed {row['seed']}  {row['instruction']!r}: {mark}  {row['reason']}"
            f"   ({good}/{len(done)} so far, {left_s:.0f} s to go)",
            flush=True,
        )
    return sorted(done, key=lambda r: r["index"])


def checkpoint_rows(setup: Setup) -> list[dict[str, str]]:
    """Manifest hashes of what was tested, parents included."""
    rows = []
    for role, path in (("policy", setup.policy), ("lmo", setup.lmo)):
        if path in ("expert", "zero", KINEMATIC):
            rows.append({"role": role, "path": path, "hash": "", "commit": "", "parents": ""})
            continue
        manifest = load_manifest(find_checkpoint(path))
        parents = ", ".join(f"{k} {v[:12]}" for k, v in manifest.parents.items())
        rows.append({"role": role, "path": path, "kind": manifest.kind, "hash": manifest.hash[:12], "commit": manifest.git_commit[:12], "parents": parents})
    return rows


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts, proportions and intervals over all rows and per task."""

    def block(part: Sequence[dict[str, Any]]) -> dict[str, Any]:
        n, good = len(part), sum(r["success"] for r in part)
        falls = sum(r["failure"] == Failure.FALL.value for r in part)
        # A trial that raised, or whose simulation broke down, says nothing about falling.
        seen = n - sum(r["failure"] in (Failure.ERROR.value, Failure.DIVERGED.value) for r in part)
        hours = sum(r["measures"].get("duration_s", 0.0) for r in part) / 3600.0
        low, high = wilson_interval(good, n)
        fall_low, fall_high = wilson_interval(seen - falls, seen) if seen else (0.0, 1.0)
        out: dict[str, Any] = {
            "trials": n,
            "successes": good,
            "success_rate": good / n,
            "success_interval_95": [low, high],
            "falls": falls,
            "trials_seen_to_the_end": seen,
            "no_fall_rate": (seen - falls) / seen if seen else None,
            "no_fall_interval_95": [fall_low, fall_high],
            "falls_per_hour_at_most_95": poisson_upper_bound(falls, hours) if hours > 0 else None,
            "failures": dict(Counter(r["failure"] for r in part if r["failure"])),
        }
        for name in ("duration_s", "last_flag_s", "stand_off_error_m", "facing_error_deg", "stance_error_m", "moved", "command_switches_per_s", "max_tilt_deg"):
            values = [r["measures"][name] for r in part if r["success"] and name in r["measures"]]
            if values:
                out[name] = {"mean": spread(values).mean, "sd": spread(values).sd, "median": float(np.median(values)), "max": float(np.max(values))}
        return out

    tasks = list(dict.fromkeys(r["task"] for r in rows))
    return {"all": block(rows), "tasks": {task: block([r for r in rows if r["task"] == task]) for task in tasks}}


def markdown(name: str, report: dict[str, Any]) -> str:
    """The results as a page."""
    setup, summary = report["setup"], report["summary"]
    everything = summary["all"]
    seeds = [r["seed"] for r in report["trials"]]
    lines = [
        f"# {name}",
        "",
        f"Policy `{setup['policy']}`, LMO `{setup['lmo']}`, robot `{setup['robot']}`, {everything['trials']} trials on {report['split']} seeds "
        f"{min(seeds)}–{max(seeds)}, lock-step physics, {20 * setup['decision_delay_ticks']} ms from image to effect, "
        f"sensor noise {'typical' if setup['noise'] else 'off'}. Commit `{report['git_commit'][:12]}`, {report['wall_s'] / 60:.1f} min on {report['machine']}.",
        "",
        f"- Success: **{rate_text(everything['successes'], everything['trials'])}**",
        f"- No fall: **{rate_text(everything['trials_seen_to_the_end'] - everything['falls'], everything['trials_seen_to_the_end'])}**"
        + (f"; at most {everything['falls_per_hour_at_most_95']:.1f} falls per hour of motion (95 %)" if everything["falls_per_hour_at_most_95"] else ""),
        "",
        "| instruction | success (Wilson 95 %) | falls | failures | time moving, s |",
        "|---|---|---|---|---|",
    ]
    for task, block in summary["tasks"].items():
        failures = ", ".join(f"{kind} {count}" for kind, count in sorted(block["failures"].items(), key=lambda kv: -kv[1])) or "–"
        took = block.get("last_flag_s" if "stand_off_error_m" in block else "duration_s")  # a walk: until it was told to stop
        time_text = f"{took['mean']:.1f} ± {took['sd']:.1f}" if took else "–"
        lines.append(f"| {task} | {rate_text(block['successes'], block['trials'])} | {block['falls']} | {failures} | {time_text} |")
    details = [(n, u) for n, u in (("stand_off_error_m", "m"), ("facing_error_deg", "deg"), ("stance_error_m", "m")) if n in everything]
    texts = [f"{n.rsplit('_', 1)[0].replace('_', ' ')} {everything[n]['median']:.3g}, {everything[n]['max']:.3g} {u}" for n, u in details]
    if texts:
        lines += ["", f"Of the successes (median, max): {'; '.join(texts)}."]
    failed = [r for r in report["trials"] if not r["success"]]
    if failed:
        lines += ["", "## Failures", "", "| seed | instruction | kind | what happened | ended | video |", "|---|---|---|---|---|---|"]
        lines += [f"| {r['seed']} | {r['instruction']} | {r['failure']} | {r['reason']} | {r['ended']} | {r.get('video', '–')} |" for r in failed]
    return "\n".join(lines) + "\n"


def campaign(name: str, setup: Setup, trials: Sequence[TrialSpec], *, processes: int, out: Path) -> dict[str, Any]:
    """Run all trials, write ``results.json`` and ``results.md`` below ``out``, print the tables; returns the report.

    Finished trials are kept in ``trials.jsonl`` as they come; called again with the same ``out``, only the others are run.

    Raises:
        WbvlaError: no trials, no process to run them in, or ``out`` holds trials of something else.
        InstructionError: a sentence that is not a task of the policy, refused as the node refuses it.
    """
    if not trials or processes < 1:
        raise WbvlaError(f"expected --trials and --processes of at least 1, got {len(trials)} trials and {processes} processes")
    splits = sorted({split_of(t.seed) for t in trials})
    if splits == ["training"]:
        print("note: these are training seeds; the numbers say nothing about unseen scenes", file=sys.stderr)
    checkpoints = checkpoint_rows(setup)  # refuses before anything is started
    if setup.guarded:
        require_tasks(policy_tasks(setup.policy), trials)
    started = time.monotonic()
    with TrialJournal(out, journal_key(setup, checkpoints)) as journal:
        print(f"{len(trials)} trials on {' and '.join(splits)} seeds in {processes} processes, policy {setup.policy}, LMO {setup.lmo} -> {out}", flush=True)
        print(f"sentences: {guard_said(setup)}", flush=True)
        done, missing = split_done(trials, journal.rows)
        if done:
            print(f"{len(done)} of them are in {journal.path} already", flush=True)

        def kept() -> Iterator[dict[str, Any]]:
            for row in run_trials(setup, missing, processes):
                journal.add(row)
                yield row

        rows = with_progress(kept(), len(trials), done)
    report = {
        "schema": SCHEMA,
        "setup": asdict(setup),
        "split": " and ".join(splits),
        "criteria": asdict(Criteria()),
        "checkpoints": checkpoints,
        "sentences": guard_said(setup),
        "git_commit": git_commit(),
        "machine": describe_machine(),
        "wall_s": time.monotonic() - started,
        "summary": summarise(rows),
        "trials": rows,
    }
    write_json(out / "results.json", report)
    (out / "results.md").write_text(markdown(name, report))
    print("\n" + markdown(name, report).split("\n## Failures")[0])
    print(f"written: {out / 'results.json'}, {out / 'results.md'}")
    errors = summary_errors(report)
    if errors:
        print(f"{errors} of {len(rows)} trials raised an exception and count as failed; the same command runs them again", file=sys.stderr)
    return report


def summary_errors(report: dict[str, Any]) -> int:
    """How many trials of a report raised an exception."""
    return int(report["summary"]["all"]["failures"].get(Failure.ERROR.value, 0))


def journal_key(setup: Setup, checkpoints: Sequence[dict[str, str]]) -> dict[str, Any]:
    """What rows of one journal have in common: everything but the trial itself and what is kept of failures."""
    settings = {name: value for name, value in asdict(setup).items() if name not in ("keep_failures", "directory", "policy", "lmo")}
    hashes = {row["role"]: row["hash"] or row["path"] for row in checkpoints}
    numbers = json.dumps(numbers_of(load_robot(setup.robot)), sort_keys=True)
    robot = {"robot_numbers": hashlib.sha256(numbers.encode()).hexdigest()}  # an edited spec keeps its name
    return settings | hashes | robot | {"criteria": asdict(Criteria())}


def split_done(trials: Sequence[TrialSpec], rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[TrialSpec]]:
    """(rows of trials that are finished, trials still to run). A trial that raised is run again.

    A row belongs to a trial when seed, sentence and time limits agree; its number is the trial's.
    """
    found = {(r["seed"], r["instruction"], r["timeout_s"], r["duration_s"]): r for r in rows if r["failure"] != Failure.ERROR.value}
    done, missing = [], []
    for trial in trials:
        row = found.get((trial.seed, trial.instruction, trial.timeout_s, trial.duration_s))
        if row is None:
            missing.append(trial)
        else:
            done.append(row | {"index": trial.index})
    return done, missing

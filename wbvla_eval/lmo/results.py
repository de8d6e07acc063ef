"""From episodes to rows with intervals, to a table on the terminal, to report.md, to the comparison of several runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from wbvla_eval.lmo.measures import Numbers
from wbvla_eval.lmo.suites import QUALITY, SUITES, Column, Suite
from wbvla_eval.stats import poisson_upper_bound, rate_text, spread

Row = dict[str, Any]
TARGETS = {  # issue and paper: (row, key) -> (paper's LMO, target); both upper limits
    ("accuracy", "forward/back", "position_m"): (0.21, 0.10),
    ("accuracy", "forward/back", "heading_rad"): (0.05, 0.03),
    ("accuracy", "left/right", "position_m"): (0.55, 0.20),
    ("accuracy", "left/right", "heading_rad"): (0.06, 0.04),
    ("accuracy", "turn left/right", "position_m"): (0.05, 0.05),
    ("accuracy", "turn left/right", "heading_rad"): (0.19, 0.10),
    ("stability", "stand", "coms_m"): (0.03, 0.03),
    ("stability", "squat", "coms_m"): (0.03, 0.03),
}
ARRIVAL_TARGET, FALLS_TARGET = 0.95, 1.0


def episodes_of(seeds: np.ndarray, fell: np.ndarray, seconds: np.ndarray, numbers: Numbers) -> list[Row]:
    """One dictionary per episode, None for what does not exist."""
    return [
        {"seed": int(seeds[i]), "fell": bool(fell[i]), "seconds": round(float(seconds[i]), 2)}
        | {k: _number(v[i]) for k, v in numbers.items()}
        for i in range(len(seeds))
    ]  # fmt: skip


def _number(value: float) -> float | None:
    return float(f"{float(value):.5g}") if math.isfinite(value) else None


def summarise(name: str, cells: Sequence[str], episodes: Sequence[Row], settle_s: float) -> Row:
    """One row: counts, falls with bounds, mean and standard deviation of every number over the episodes that have it."""
    falls = sum(e["fell"] for e in episodes)
    hours = sum(max(e["seconds"] - settle_s, 0.0) for e in episodes) / 3600.0
    keys = [k for k in episodes[0] if k not in ("seed", "fell", "seconds")]
    row: Row = {"row": name, "cells": list(cells), "episodes": len(episodes), "falls": falls, "hours": hours}
    if hours > 0:
        row |= {"falls_per_hour": falls / hours, "falls_per_hour_upper_95": poisson_upper_bound(falls, hours)}
    numbers = {}
    for key in keys:
        s = spread(e[key] for e in episodes if e[key] is not None)
        if s.count:
            numbers[key] = {"mean": s.mean, "sd": s.sd, "count": s.count}
    return row | {"numbers": numbers}


def rows_of(suite: Suite, cells: dict[str, list[Row]], settle_s: float) -> list[Row]:
    """Rows of a suite in the order of its table: cells that share a row are pooled, and follow it one by one."""
    pooled: dict[str, list[str]] = {}
    for cell in suite.cells:
        if cell.name in cells:
            pooled.setdefault(cell.row or cell.name, []).append(cell.name)
    rows = []
    for name, members in pooled.items():
        rows.append(summarise(name, members, [e for m in members for e in cells[m]], settle_s))
        if len(members) > 1:
            rows += [summarise(m, [m], cells[m], settle_s) | {"part": True} for m in members]
    return rows


# ------------------------------------------------------------------------------------------------------------------ tables


def cell_text(row: Row, column: Column) -> str:
    """ "0.10 ± 0.03", a rate with its Wilson interval, or "–"."""
    number = row["numbers"].get(column.key)
    if number is None:
        return "–"
    if column.rate:
        return rate_text(round(number["mean"] * row["episodes"]), row["episodes"])
    mean, sd = number["mean"] * column.factor, number["sd"] * column.factor
    return f"{mean:.{column.digits}f} ± {sd:.{column.digits}f}"


def falls_text(suite: Suite, row: Row) -> str:
    """Falls: of episodes with Wilson's interval; per hour with the Poisson bound in a suite that runs by the hour (switching)."""
    if any(cell.by_hours for cell in suite.cells):
        return f"{row['falls']} in {row['hours']:.1f} h, <= {row['falls_per_hour_upper_95']:.2f}/h"
    return rate_text(row["falls"], row["episodes"])


def table(suite: Suite, rows: Sequence[Row], *, quality: bool = False) -> list[list[str]]:
    """Header and rows as text."""
    columns = [c for c in (QUALITY if quality else suite.columns) if any(c.key in r["numbers"] for r in rows)]
    head = ["", *(() if quality else ("falls (95 %)",)), *(c.title for c in columns)]
    body = []
    for row in rows:
        if quality and row.get("part"):
            continue
        name = ("  " if row.get("part") else "") + row["row"]
        body.append([name, *(() if quality else (falls_text(suite, row),)), *(cell_text(row, c) for c in columns)])
    return [head, *body]


def terminal(lines: Sequence[Sequence[str]]) -> str:
    """Aligned columns."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """The same as a Markdown table; pooled cells' parts keep their indent."""
    head, *body = lines
    rows = ["| " + " | ".join(text.replace("  ", "&nbsp;&nbsp;", 1) if text.startswith("  ") else text for text in line) + " |" for line in (head, *body)]
    return "\n".join((rows[0], "|" + "---|" * len(head), *rows[1:]))


def rows_by_name(report: dict[str, Any]) -> dict[tuple[str, str], Row]:
    """(suite, row) -> the row of a report."""
    return {(name, row["row"]): row for name, suite in report["suites"].items() for row in suite["rows"]}


def against_targets(report: dict[str, Any]) -> list[list[str]]:
    """Measured against the paper's Table 3 and the targets of this project."""
    lines = [["", "paper's LMO", "target", "measured", ""]]
    found = rows_by_name(report)
    for (suite, name, key), (paper, target) in TARGETS.items():
        row = found.get((suite, name))
        if row is None:
            continue
        number, unit = row["numbers"].get(key), key.rsplit("_", 1)[1]
        measured = f"{number['mean']:.3f} ± {number['sd']:.3f} {unit}" if number else "–"
        if row["falls"]:
            measured += f"; {row['falls']} of {row['episodes']} fell"
        mark = "met" if number and number["mean"] <= target and not row["falls"] else "not met"
        what = {"position_m": "position", "heading_rad": "heading", "coms_m": "CoMS"}[key]
        lines.append([f"{name}, {what}", f"{paper:.2f} {unit}", f"<= {target:.2f} {unit}", measured, mark])
    if (row := found.get(("arrival", "arrival"))) is not None:
        rate = row["numbers"]["success"]["mean"]
        measured = rate_text(round(rate * row["episodes"]), row["episodes"])
        lines.append(["arrival within 15 cm and 5 deg", "–", f">= {100 * ARRIVAL_TARGET:.0f} %", measured, "met" if rate >= ARRIVAL_TARGET else "not met"])
    if (row := found.get(("switching", "switching"))) is not None and row["hours"] > 0:
        bound = row["falls_per_hour_upper_95"]
        measured = f"{row['falls']} in {row['hours']:.2f} h: <= {bound:.2f} (95 %)"
        lines.append(["falls per hour of switching", "–", f"<= {FALLS_TARGET:g}", measured, "met" if bound <= FALLS_TARGET else "not met"])
    return lines


def page(report: dict[str, Any], plots: Sequence[tuple[str, str]], videos: Sequence[tuple[str, str]]) -> str:
    """report.md. plots and videos: (caption, path relative to the page)."""
    c, o = report["controller"], report["options"]
    cruise = ", ".join(f"{v:g} {unit}" for v, unit in zip(c["cruise"], ("m/s", "m/s", "rad/s"), strict=True))
    short = f" ({c['hash'][:12]})" if c.get("hash") else ""
    speed = f"{report['wall_s'] / 60:.1f} min ({report['times_real_time']:.0f} x real time, {o['threads']} thread(s))"
    lines = [
        f"# Leg controller benchmark: {report['label']}",
        "",
        f"Controller `{c['source']}`{short}, robot `{report['robot']}`, cruise speeds {cruise}. {o['episodes']} episodes a cell, "
        f"seeds from {report['seed_base']}. "
        f"{report['simulated_hours']:.2f} simulated hours in {speed}. Commit `{report['git_commit'][:12]}`, {report['machine']}.",
        "",
        "Mean ± standard deviation over episodes; rates with Wilson 95 % intervals; falls per hour with the one-sided 95 % Poisson bound. "
        "Errors are those of the episodes without a fall. What is measured how: docs/benchmark.md.",
    ]
    targets = against_targets(report)
    if len(targets) > 1:
        lines += ["", "## Against the paper's Table 3", "", markdown(targets)]
    for name, part in report["suites"].items():
        suite = SUITES[name]
        lines += ["", f"## {name.capitalize()}", "", f"{suite.title[0].upper()}{suite.title[1:]}.", "", markdown(table(suite, part["rows"]))]
        if len((costs := table(suite, part["rows"], quality=True))[0]) > 1:
            lines += ["", markdown(costs)]
        lines += [f"\n![{caption}]({path})" for caption, path in plots if path.split("/")[-1].startswith(name)]
        clips = [f"[{caption}]({path})" for caption, path in videos if path.split("/")[-1].startswith(name)]
        if clips:
            lines += ["", "Videos: " + ", ".join(clips)]
    lines += ["", "## Where it comes from", "", markdown([["what", "version"], *([str(k), str(v)] for k, v in report["versions"])])]
    if report["checkpoints"]:
        lines += [
            "",
            markdown([["checkpoint", "hash", "parents", "commit"], *([r["path"], r["hash"], r["parents"] or "–", r["commit"]] for r in report["checkpoints"])]),
        ]
    return "\n".join(lines) + "\n"


# -------------------------------------------------------------------------------------------------------------- comparison


def compare(reports: Sequence[dict[str, Any]]) -> dict[str, list[list[str]]]:
    """Suite -> table of rows by label. Reports with one label are seeds of one thing: mean ± standard deviation over seeds of the seeds' means.

    Raises:
        ValueError: nothing in common.
    """
    labels = list(dict.fromkeys(r["label"] for r in reports))
    groups = {label: [r for r in reports if r["label"] == label] for label in labels}
    out: dict[str, list[list[str]]] = {}
    for name, suite in SUITES.items():
        names = [row["row"] for r in reports if name in r["suites"] for row in r["suites"][name]["rows"] if not row.get("part")]
        lines = []
        for row_name in dict.fromkeys(names):
            for column in (None, *suite.columns):
                cells = [_over_seeds(groups[label], suite, row_name, column) for label in labels]
                if any(c != "–" for c in cells):
                    lines.append([f"{row_name}: {column.title if column else 'falls'}", *cells])
        if lines:
            out[name] = [["", *(f"{label} ({len(group)} seed{'s' * (len(group) > 1)})" for label, group in groups.items())], *lines]
    if not out:
        raise ValueError("the files have no suite in common with this version's table")
    return out


def _over_seeds(group: Sequence[dict[str, Any]], suite: Suite, row_name: str, column: Column | None) -> str:
    rows = [row for r in group if suite.name in r["suites"] for row in r["suites"][suite.name]["rows"] if row["row"] == row_name]
    if not rows:
        return "–"
    if column is None:
        falls, hours = sum(r["falls"] for r in rows), sum(r["hours"] for r in rows)
        pooled = {"falls": falls, "hours": hours, "episodes": sum(r["episodes"] for r in rows)}
        return falls_text(suite, pooled | {"falls_per_hour_upper_95": poisson_upper_bound(falls, max(hours, 1e-9))})
    rows = [r for r in rows if column.key in r["numbers"]]
    if not rows:
        return "–"
    if len(rows) == 1:
        return cell_text(rows[0], column)
    s = spread(r["numbers"][column.key]["mean"] * column.factor for r in rows)
    digits = column.digits if not column.rate else 3
    return f"{s.mean:.{digits}f} ± {s.sd:.{digits}f}"


# Heading, then (suite, row, keys) whose means are written with a slash between them: the layout of the paper's Table 3.
LIKE_THE_PAPER = (
    ("fwd/back m / rad", "accuracy", "forward/back", ("position_m", "heading_rad")),
    ("lateral m / rad", "accuracy", "left/right", ("position_m", "heading_rad")),
    ("turn m / rad", "accuracy", "turn left/right", ("position_m", "heading_rad")),
    ("CoMS stand m", "stability", "stand", ("coms_m",)),
    ("CoMS squat m", "stability", "squat", ("coms_m",)),
)
PAPER_LMO = ("paper's LMO", ".21±.01 / .05±.01", ".55±.01 / .06±.01", ".05±.01 / .19±.01", ".03±.02", ".03±.02", "–", "–", "–")


def like_the_paper(reports: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One line per label in the layout of the paper's Table 3, with arrivals and falls; spread over seeds where there are several, else over episodes."""
    lines = [["", *(c[0] for c in LIKE_THE_PAPER), "fell in these", "arrived", "falls/h switching"], list(PAPER_LMO)]
    for label in dict.fromkeys(r["label"] for r in reports):
        group = [r for r in reports if r["label"] == label]
        found = [rows_by_name(r) for r in group]
        line, fell, of = [label], 0, 0
        for _, suite, name, keys in LIKE_THE_PAPER:
            rows = [f[suite, name] for f in found if (suite, name) in f]
            fell, of = fell + sum(r["falls"] for r in rows), of + sum(r["episodes"] for r in rows)
            line.append(" / ".join(_mean_text([r["numbers"].get(key) for r in rows], 3) for key in keys))
        arrived = [f["arrival", "arrival"] for f in found if ("arrival", "arrival") in f]
        good, tried = sum(round(r["numbers"]["success"]["mean"] * r["episodes"]) for r in arrived), sum(r["episodes"] for r in arrived)
        switched = [f["switching", "switching"] for f in found if ("switching", "switching") in f]
        falls, hours = sum(r["falls"] for r in switched), sum(r["hours"] for r in switched)
        line += [rate_text(fell, of) if of else "–", rate_text(good, tried) if tried else "–"]
        line.append(f"{falls / hours:.2f} (<= {poisson_upper_bound(falls, hours):.2f})" if hours > 0 else "–")
        lines.append(line)
    return lines


def _mean_text(numbers: Sequence[dict[str, float] | None], digits: int) -> str:
    known = [n for n in numbers if n]
    if not known:
        return "–"
    mean, sd = (known[0]["mean"], known[0]["sd"]) if len(known) == 1 else ((s := spread(n["mean"] for n in known)).mean, s.sd)
    return f"{mean:.{digits}f} ± {sd:.{digits}f}"

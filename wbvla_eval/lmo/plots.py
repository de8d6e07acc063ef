"""Pictures of a cell as stand-alone SVG files: paths from above, centre of mass, heights, the cart's way; falls over the stress sweep."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wbvla_core.robot import RobotSpec
from wbvla_eval.charts import smooth
from wbvla_eval.lmo.measures import HEADING_TOLERANCE_RAD, POSITION_TOLERANCE_M, in_frame
from wbvla_eval.lmo.programs import DT_S, SETTLE_S, ticks
from wbvla_eval.lmo.results import Row
from wbvla_eval.lmo.runner import Log
from wbvla_eval.lmo.suites import Cell, Suite, file_stem
from wbvla_eval.stats import wilson_interval
from wbvla_eval.svg import Axes, Level, Series, padded

SHOWN = 20  # robots in one picture
Plot = tuple[str, str, str]  # file stem, caption, SVG

_STYLE = """
svg { background: #fff; font-family: system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
path { fill: none; stroke-width: 1.4; stroke-linejoin: round; }
.s0 { stroke: #d9480f; stroke-width: 2.2; } .s1 { stroke: #1864ab; } .s2 { stroke: #2b8a3e; } .s5 { stroke: #7aa5cc; stroke-width: 0.9; }
.f0 { fill: #d9480f; } .f1 { fill: #1864ab; } .f2 { fill: #2b8a3e; } .f5 { fill: #7aa5cc; }
.grid { stroke: #e6e9eb; } .axis { stroke: #667079; } .level { stroke: #667079; stroke-dasharray: 3 4; }
.ring { fill: none; stroke: #d9480f; stroke-dasharray: 4 3; } .bar { stroke: #1864ab; stroke-width: 1.6; }
text { fill: #4a525a; font-size: 11px; } .title { font-size: 13px; font-weight: 600; fill: #1c1f23; }
"""


def standalone(body: Sequence[str], title: str, width: int, height: int, names: Sequence[tuple[str, int]] = ()) -> str:
    """An SVG document with title and legend above the picture."""
    top, x = 26, width - 12
    keys = []
    for name, color in reversed(names):
        keys.append(f'<text x="{x}" y="17" text-anchor="end">{html.escape(name)}</text>')
        x -= 6 * len(name) + 10
        keys.append(f'<path class="s{color}" d="M{x - 14} 13h14"/>')
        x -= 26
    head = f'<text class="title" x="8" y="17">{html.escape(title)}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + top}" width="{width}" height="{height + top}"><style>{_STYLE}</style>'
        f'{head}{"".join(keys)}<g transform="translate(0 {top})">{"".join(body)}</g></svg>\n'
    )


def lines(
    title: str, series: Sequence[Series], x_label: str, y_label: str, *, levels: Sequence[Level] = (), least: float = 0.0, size: tuple[int, int] = (620, 240)
) -> str:
    """A line chart."""
    axes = Axes(padded([s.x for s in series]), padded([s.y for s in series] + [np.array([v.y]) for v in levels], least=least), *size)
    body = axes.frame(x_label, y_label)
    for level in levels:
        y = axes.py(level.y)
        body.append(f'<line class="level" x1="{axes.LEFT}" x2="{size[0] - axes.RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(f'<text x="{size[0] - axes.RIGHT - 2}" y="{y - 3:.1f}" text-anchor="end">{html.escape(level.name)}</text>')
    for s in series:
        body += axes.line(s)
    return standalone(body, title, *size, names=[(s.name, s.color) for s in series if s.name])


def from_above(title: str, paths: Sequence[np.ndarray], goal: np.ndarray, radius_m: float) -> str:
    """Paths [T, 2] (ahead, left) in the start frame, as seen from above by someone who stands behind the start; the goal with a ring around it."""
    seen = [np.stack((-p[:, 1], p[:, 0]), axis=1) for p in paths]  # (right, ahead)
    at = np.array((-goal[1], goal[0]))
    cloud = np.concatenate([*seen, at[None] + radius_m, at[None] - radius_m])
    middle, half = 0.5 * (cloud.min(axis=0) + cloud.max(axis=0)), max(0.55 * np.ptp(cloud, axis=0).max(), 0.4)
    inner = 340  # px, square
    axes = Axes((middle[0] - half, middle[0] + half), (middle[1] - half, middle[1] + half), inner + Axes.LEFT + Axes.RIGHT, inner + Axes.TOP + Axes.BOTTOM)
    body = axes.frame("to the right, m", "ahead, m")
    for path in seen:
        body += axes.line(Series("", path[:, 0], path[:, 1], color=5))
        body.append(f'<circle class="f1" cx="{axes.px(path[-1, 0]):.1f}" cy="{axes.py(path[-1, 1]):.1f}" r="2.4"/>')
    x, y = axes.px(at[0]), axes.py(at[1])
    body.append(f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="{radius_m / (2 * half) * inner:.1f}"/><circle class="f0" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    return standalone(body, title, axes.width, axes.height)


def cell_plots(suite: Suite, cell: Cell, log: Log, robot: RobotSpec, cruise: np.ndarray) -> list[Plot]:
    """What there is to see of one cell."""
    stem = file_stem(suite, cell)
    start, some = ticks(SETTLE_S), np.flatnonzero(~log.fell)[:SHOWN]
    if not len(some):
        return []
    time_s = np.arange(len(log.xy)) * DT_S - SETTLE_S
    if suite.name == "accuracy" and "randomised" not in cell.name:
        asked = log.flags[:, some[0]].astype(float).sum(axis=0) * DT_S * cruise
        paths = [np.array([in_frame(log.xy[start, i][None], log.yaw[start, i][None], p[None])[0] for p in log.xy[start::10, i]]) for i in some]
        plots = [
            (stem, f"{cell.name}: {len(some)} paths, the ideal end and 0.1 m around it", from_above(f"{cell.name}: pelvis from above", paths, asked[:2], 0.1))
        ]
        axis = int(np.argmax(np.abs(asked)))
        names = ("forward, m/s", "left, m/s", "yaw, rad/s")
        rate = np.diff(log.yaw[:, some], axis=0) / DT_S
        if axis < 2:
            step = np.diff(log.xy[:, some], axis=0) / DT_S
            cos, sin = np.cos(log.yaw[:-1, some]), np.sin(log.yaw[:-1, some])
            rate = cos * step[..., 0] + sin * step[..., 1] if axis == 0 else cos * step[..., 1] - sin * step[..., 0]
        measured = smooth(rate.mean(axis=1), DT_S, 0.72)
        series = [Series("commanded", time_s, log.flags[:, some[0], axis] * cruise[axis], "step", 0)]
        if log.reference is not None:
            series.append(Series("reference", time_s, log.reference[:, some[0], axis], color=2))
        series.append(Series("measured, mean of robots over a stride", time_s[1:], measured, color=1))
        plots.append((f"{stem}_speed", f"{cell.name}: commanded, reference and measured", lines(f"{cell.name}", series, "time since the flag, s", names[axis])))
        return plots
    if suite.name == "stability":
        com = log.com[:, some[:6]] - log.com[ticks(5.0) :, some[:6]].mean(axis=0)
        series = [Series("", time_s, np.linalg.norm(com[:, i], axis=-1), color=5) for i in range(com.shape[1])]
        title = f"{cell.name}: distance of the centre of mass from its mean"
        return [(stem, title, lines(title, series, "time, s", "m", least=0.1))]
    if suite.name == "squat":
        shown = [Series("", time_s, log.height[:, i], color=5) for i in some]
        shown.append(Series("commanded", time_s, log.height_command[:, some[0]].astype(float), "step", 0))
        return [(stem, "stance height", lines("squat cycles: pelvis height", shown, "time, s", "m"))]
    if suite.name == "cart" and log.thing is not None:
        ideal = Series("cruise speed", time_s, np.clip(time_s, 0, 10.0) * cruise[0], "dashed", 0)
        shown = [Series("", time_s, log.thing[:, i] - log.thing[start, i], color=5) for i in some]
        return [(stem, "way of the cart", lines("cart push: way of the cart", [*shown, ideal], "time since the flag, s", "m"))]
    return []


def arrival_plot(episodes: Sequence[Row]) -> list[Plot]:
    """Errors at arrival of all robots, with the tolerances."""
    good = [e for e in episodes if e["position_m"] is not None]
    if not good:
        return []
    x, y = np.array([e["position_m"] for e in good]), np.degrees([e["heading_rad"] for e in good])
    levels = [Level(float(np.degrees(HEADING_TOLERANCE_RAD)), "5 deg")]
    series = [Series("", np.array((0.0, POSITION_TOLERANCE_M)), np.zeros(2), color=5), Series("", x, y, "dots", 1)]
    return [("arrival_errors", "errors at arrival; the right edge is 0.15 m", lines("errors at arrival", series, "position, m", "heading, deg", levels=levels))]


def stress_plot(rows: Sequence[Row]) -> list[Plot]:
    """Falls per cell with Wilson intervals."""
    if not rows:
        return []
    width, height = 620, 30 * len(rows) + 30
    axes = Axes((0.0, 1.0), (0.0, float(len(rows))), width, height)
    axes.LEFT, axes.inner_width = 120, width - 132
    body = axes.frame(
        "part of the episodes that fell, with its 95 % interval", "", y_ticks=[len(rows) - i - 0.5 for i in range(len(rows))], y_names=[r["row"] for r in rows]
    )
    for i, row in enumerate(rows):
        low, high = wilson_interval(row["falls"], row["episodes"])
        y = axes.py(len(rows) - i - 0.5)
        body.append(f'<line class="bar" x1="{axes.px(low):.1f}" x2="{axes.px(high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(f'<circle class="f0" cx="{axes.px(row["falls"] / row["episodes"]):.1f}" cy="{y:.1f}" r="3.5"/>')
    return [("stress_falls", "falls over the stress sweep", standalone(body, "stress: falls in 20 s of switching", width, height))]


def write(plots: Sequence[Plot], folder: Path) -> list[tuple[str, str]]:
    """Write the files; returns (caption, path relative to the folder's parent)."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, _, svg in plots:
        (folder / f"{stem}.svg").write_text(svg)
    return [(caption, f"{folder.name}/{stem}.svg") for stem, caption, _ in plots]

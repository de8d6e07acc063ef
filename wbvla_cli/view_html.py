"""The HTML summary of an episode: one file, no script, no network; drawn with the report's charts."""

from __future__ import annotations

import html
from pathlib import Path

import numpy as np

from wbvla_cli.view_data import EpisodeView
from wbvla_eval.report import STYLE_FILE, image_uri
from wbvla_eval.svg import Level, Series, chart
from wbvla_train.data.lerobot.convert import Limits

PICTURES = 8
PER_CHART = 4  # joints
LIMIT_MS = 1e3 * Limits.skew_s  # beyond it conversion refuses an episode


def posture_svg(view: EpisodeView, frame: int, size: int = 150) -> str:
    """The robot as a stick figure, seen from behind and from its right."""
    segments = view.posture(frame)
    if not segments:
        return ""
    points = np.array([p for segment in segments for p in segment])
    low, high = points[:, 2].min() - 0.05, points[:, 2].max() + 0.05
    scale = size / (high - low)
    parts = []
    for column, (axis, sign) in enumerate(((1, -1.0), (0, 1.0))):  # left on the left; ahead to the right
        middle = size * (0.3 + 0.55 * column)
        for start, end in segments:
            x0, x1 = middle + sign * start[axis] * scale, middle + sign * end[axis] * scale
            y0, y1 = (high - start[2]) * scale, (high - end[2]) * scale
            parts.append(f'<line class="s1" stroke-width="2.5" stroke-linecap="round" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"/>')
    return f'<svg style="max-height:{size}px" viewBox="0 0 {size * 1.15:.0f} {size}" role="img" aria-label="posture">{"".join(parts)}</svg>'


def _strip(view: EpisodeView) -> str:
    wanted = set(np.linspace(0, len(view.time_s) - 1, PICTURES).round().astype(int).tolist())
    shots = []
    for i, image in enumerate(view.images()):
        if i in wanted:
            caption = f"{view.time_s[i]:.1f} s"
            shots.append(
                f"<figure class='shot'><img src='{image_uri(image)}' alt='{caption}'>{posture_svg(view, i)}<figcaption>{caption}</figcaption></figure>"
            )
    return f"<div class='strip'>{''.join(shots)}</div>"


def _joint_charts(view: EpisodeView) -> list[str]:
    """One chart per group of joints: those that moved most, measured and told."""
    groups = {"joints": tuple(view.state)}
    if view.robot is not None:
        groups = {name: view.robot.names(name) for name in ("left_arm", "right_arm", "waist", "left_leg", "right_leg") if name in view.robot.groups}
    charts = []
    for name, joints in groups.items():
        moving = sorted((j for j in joints if j in view.state), key=lambda j: -float(np.ptp(view.state[j])))[:PER_CHART]
        series = [Series(j.replace("_joint", ""), view.time_s, view.state[j], color=i) for i, j in enumerate(moving)]
        series += [Series("", view.time_s, view.target[j], "dashed", i) for i, j in enumerate(moving) if j in view.target]
        dashed = "; dashed: what they were told" if any(j in view.target for j in moving) else ""
        charts.append(chart(series, title=f"{name.replace('_', ' ')}: joints that moved most{dashed}", unit="rad", least=0.1))
    return charts


def _charts(view: EpisodeView) -> list[str]:
    charts = []
    if np.isfinite(view.loco).any():
        flags = [Series(name, view.time_s, view.loco[:, i], "step", i) for i, name in enumerate(("forward", "lateral", "yaw"))]
        charts.append(chart(flags, title="Locomotion command", unit="flag", least=2.4))
        charts.append(chart([Series("commanded", view.time_s, view.loco[:, 3], "step")], title="Stance height", unit="m", least=0.1))
    if np.isfinite(view.gyro).any():
        gyro = [Series(axis, view.time_s, view.gyro[:, i], color=i) for i, axis in enumerate("xyz")]
        charts.append(chart(gyro, title="Angular velocity of the pelvis", unit="rad/s", least=0.2))
    if np.isfinite(view.skew_s).any():
        skew = [Series("joint state against image", view.time_s, 1e3 * view.skew_s, "dots")]
        charts.append(chart(skew, title="Skew by stamps", unit="ms", levels=[Level(LIMIT_MS, "limit"), Level(-LIMIT_MS, "")], least=10))
    steps = np.diff(view.time_s)
    charts.append(chart([Series("", view.time_s[1:], 1e3 * steps, "dots")], title="Time between images", unit="ms", floor=0))
    if view.codes.shape[1]:
        codes = np.where(view.codes >= 0, view.codes, np.nan).astype(float)
        series = [Series(f"token {i}", view.time_s, codes[:, i], "step", i % 6) for i in range(codes.shape[1])]
        charts.append(chart(series, title="Latent codes: manipulation tokens, then locomotion", unit="code"))
    return charts


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    top = "".join(f"<th>{html.escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='scroll'><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def page(view: EpisodeView) -> str:
    """The whole page."""
    errors = [f for f in view.findings if f.severity == "error"]
    duration = float(view.time_s[-1]) if len(view.time_s) else 0.0
    rate = (len(view.time_s) - 1) / duration if duration > 0 else 0.0
    skew = f"{np.nanquantile(np.abs(view.skew_s), 0.99) * 1e3:.1f} ms" if np.isfinite(view.skew_s).any() else "–"
    cards = [("frames", str(len(view.time_s)), f"{duration:.1f} s"), ("rate", f"{rate:.2f} Hz", "images")]
    cards.append(("skew, p99", skew, f"by stamps, limit {LIMIT_MS:g} ms"))
    if view.checked:
        cards.append(("faults in this episode", str(len(errors)), f"{len(view.findings) - len(errors)} warnings"))
    boxes = "".join(f"<div class='card'><b>{html.escape(v)}</b><span>{html.escape(n)}</span><small>{html.escape(h)}</small></div>" for n, v, h in cards)
    found = [(f.severity, str(f.episode), str(f.frame), f.kind, f.text) for f in view.findings]
    sections = [
        f"<div class='cards'>{boxes}</div>",
        _strip(view),
        f"<h2>Commands and timing</h2><div class='grid2'>{''.join(_charts(view))}</div>",
        f"<h2>Joints</h2><div class='grid2'>{''.join(_joint_charts(view))}</div>",
        "<h2>What the check found</h2>" + _table(("severity", "episode", "frame", "kind", "what"), found) if found else "",
        "<h2>Where it comes from</h2>" + _table(("fact", "value"), view.facts),
    ]
    task = f"“{view.task}”" if view.task else "no instruction"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{html.escape(view.title)}</title><style>{STYLE_FILE.read_text()}</style></head>
<body><header class="{"bad" if errors else "good"}"><p class="verdict">{"faults found" if errors else "episode"}</p><h1>{html.escape(task)}</h1>
<p>{html.escape(view.title)}</p></header><main>{"".join(sections)}</main></body></html>
"""


def write(view: EpisodeView, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(view), encoding="utf-8")
    return path

"""The one-page report of an episode: a single HTML file that opens anywhere, now and in ten years.

Everything is inline (CSS, SVG, pictures as data URIs): no network, no script, no fonts to load. Light and dark follow the reader.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from wbvla_eval.charts import arm_charts, code_chart, motion_charts, safety_chart, timing_charts, top_view
from wbvla_eval.recording import Recording
from wbvla_eval.svg import number
from wbvla_eval.tasks import Criteria, Verdict
from wbvla_eval.timing import COMPUTE, FRAMES_LOST, IMAGE_AGE, REAL_TIME, TICK_IN_NODE, timing_rows
from wbvla_sim.instructions import Task

HEADLINES = {t.name for t in (IMAGE_AGE, TICK_IN_NODE, COMPUTE, REAL_TIME, FRAMES_LOST)}  # the rest is in the table
STYLE_FILE = Path(__file__).with_name("report.css")


@dataclass(frozen=True)
class Provenance:
    """What a reader needs to trust and to repeat the episode.

    Attributes:
        facts: (name, value) rows: seed, scene, robot, policy, how the task ended.
        versions: (name, version) rows: wbvla, ROS, Python, MuJoCo, torch, machine.
        checkpoints: rows {role, path, kind, hash, parents, commit}.
        commands: shell lines that make this report again.
        cruise: speeds that flags +-1 ask for (m/s, m/s, rad/s), None where the LMO's manifest does not say.
        stance_range_m: limits of the commanded stance height.
        log: last lines of the process that ended the episode, where one did.
    """

    facts: Sequence[tuple[str, str]] = ()
    versions: Sequence[tuple[str, str]] = ()
    checkpoints: Sequence[dict[str, str]] = ()
    commands: Sequence[str] = ()
    cruise: tuple[float, float, float] | None = None
    stance_range_m: tuple[float, float] | None = None
    frames: Sequence[tuple[str, np.ndarray]] = field(default_factory=tuple)  # (caption, image [H, W, 3] uint8)
    log: Sequence[str] = ()


# -- page --------------------------------------------------------------------------------------------------------------
def image_uri(image: np.ndarray, *, quality: int = 82) -> str:
    """A picture [H, W, 3] uint8 as a JPEG data URI."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def figures(value: float) -> str:
    """Three significant figures, and two decimals of what is near one."""
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.3g}"


def _cards(task: Task, verdict: Verdict, recording: Recording, criteria: Criteria) -> str:
    m = verdict.measures
    cards: list[tuple[str, str, str]] = []
    if task.kind == "walk_to":
        cards.append(("before the face", f"{m['gap_m']:.2f} m", f"stand-off {criteria.stand_off_m:.2f} ± {criteria.stand_off_tolerance_m:.2f} m"))
        cards.append(("facing error", f"{m['facing_error_deg']:.1f}°", f"at most {criteria.facing_tolerance_deg:.0f}°"))
        cards.append(("start", f"{m['start_gap_m']:.2f} m", f"bearing {number(round(m['start_bearing_deg']))}°"))
    elif "moved" in m:
        cards.append(("moved", f"{m['moved']:.2f}", f"at least {m['least']:.2f} ({'rad' if task.kind == 'turn' else 'm'})"))
    elif "stance_error_m" in m:
        cards.append(("stance error", f"{100 * m['stance_error_m']:+.1f} cm", f"at most ±{100 * criteria.stance_tolerance_m:.0f} cm"))
    elif "swings" in m:
        cards.append(("swings", f"{m['swings']:.0f}", f"at least {criteria.wave_swings}"))
    cards.append(("told to stop", f"{m['last_flag_s']:.1f} s", f"of {m['duration_s']:.1f} s; tilt up to {m['max_tilt_deg']:.0f}°"))
    for row in timing_rows(recording):
        if row["name"] not in HEADLINES:
            continue
        sign = "≤" if row["at_most"] else "≥"
        cards.append((str(row["name"]), f"{figures(row['judged'])} {row['unit']}", f"{'✓' if row['ok'] else '✗'} {sign} {row['limit']:g} {row['unit']}"))
    return "".join(f"<div class='card'><b>{html.escape(v)}</b><span>{html.escape(n)}</span><small>{html.escape(h)}</small></div>" for n, v, h in cards)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    top = "".join(f"<th>{html.escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='scroll'><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def render_report(recording: Recording, task: Task, verdict: Verdict, provenance: Provenance, criteria: Criteria | None = None) -> str:
    """The whole page as one string."""
    criteria = criteria or Criteria()
    word = "Reached" if verdict.success and task.kind == "walk_to" else "Done" if verdict.success else f"Failed: {verdict.failure.value.replace('_', ' ')}"
    strip = "".join(
        f"<figure class='shot'><img src='{image_uri(image)}' alt='{html.escape(caption)}'><figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, image in provenance.frames
    )
    timing = [
        (
            row["name"],
            *(figures(row[p]) if p in row else "–" for p in ("p50", "p99", "max")),
            f"{figures(row['judged'])} {row['unit']}",
            f"{'≤' if row['at_most'] else '≥'} {row['limit']:g} {row['unit']}",
            "yes" if row["ok"] else "no",
            row["where"],
        )
        for row in timing_rows(recording)
    ]
    checkpoints = [[row.get(k, "") for k in ("role", "path", "kind", "hash", "parents", "commit")] for row in provenance.checkpoints]
    diagnostics = [(node, key, value) for node, values in sorted(recording.diagnostics.items()) for key, value in values.items()]
    motion = motion_charts(recording, provenance.cruise, provenance.stance_range_m)
    reported = _table(("node", "key", "value"), diagnostics)
    commands = "\n".join(provenance.commands)
    frames = f"{recording.frames.rendered} rendered, {recording.frames.received} through perception, {recording.frames.decided} decided on"
    sections = [
        f"<div class='cards'>{_cards(task, verdict, recording, criteria)}</div>",
        f"<div class='strip'>{strip}</div>" if strip else "",
        "<h2>Motion</h2><div class='grid2'>" + top_view(recording, task, criteria) + "".join(motion) + "</div>",
        f"<h2>Decisions</h2>{code_chart(recording)}{safety_chart(recording)}",
        "<h2>Arms</h2><p class='note'>The four arm joints that moved most.</p><div class='grid2'>" + "".join(arm_charts(recording)) + "</div>",
        "<h2>Timing</h2>"
        + _table(("what", "p50", "p99", "max", "judged", "limit", "kept", "measured by"), timing)
        + f"<p class='note'>Camera frames: {html.escape(frames)}.</p><div class='grid2'>{''.join(timing_charts(recording))}</div>",
        "<h2>Where it comes from</h2>"
        + _table(("fact", "value"), provenance.facts)
        + _table(("role", "path", "kind", "manifest", "parents", "commit"), checkpoints)
        + _table(("software", "version"), provenance.versions)
        + (f"<details><summary>What the nodes reported about themselves</summary>{reported}</details>" if reported else ""),
        f"<h2>Again</h2><pre>{html.escape(commands)}</pre>" if commands else "",
    ]
    sections.insert(1, _last_words(provenance.log))
    return _page(recording.instruction, word, verdict.reason, good=verdict.success, sections=sections)


def _page(instruction: str, word: str, reason: str, *, good: bool, sections: Sequence[str]) -> str:
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>wbvla: {html.escape(instruction)}</title><style>{STYLE_FILE.read_text()}</style></head>
<body><header class="{"good" if good else "bad"}"><p class="verdict">{html.escape(word)}</p><h1>“{html.escape(instruction)}”</h1>
<p>{html.escape(reason.rstrip("."))}.</p></header><main>{"".join(sections)}</main></body></html>
"""


def _last_words(log: Sequence[str]) -> str:
    """The last log lines of the process that ended the episode."""
    return f"<h2>Its last log lines</h2><pre>{html.escape(chr(10).join(log))}</pre>" if log else ""


def write_fault_report(path: Path, instruction: str, what: str, provenance: Provenance) -> Path:
    """The page of an episode of which too little was recorded to judge or draw it: what happened, and where it comes from."""
    commands = "\n".join(provenance.commands)
    sections = [
        _last_words(provenance.log),
        "<h2>Where it comes from</h2>" + _table(("fact", "value"), provenance.facts) + _table(("software", "version"), provenance.versions),
        f"<h2>Again</h2><pre>{html.escape(commands)}</pre>" if commands else "",
    ]
    path.write_text(_page(instruction, "Failed: error", what, good=False, sections=sections), encoding="utf-8")
    return path


def write_report(path: Path, recording: Recording, task: Task, verdict: Verdict, provenance: Provenance, criteria: Criteria | None = None) -> Path:
    """Write :func:`render_report` to ``path``."""
    path.write_text(render_report(recording, task, verdict, provenance, criteria), encoding="utf-8")
    return path

"""The charts of the report: what a person wants to see of an episode, each as one HTML figure with inline SVG."""

from __future__ import annotations

import html
import math

import numpy as np

from wbvla_eval.recording import Recording, Stream
from wbvla_eval.svg import Axes, Level, Series, chart, figure, legend, thin
from wbvla_eval.tasks import Criteria
from wbvla_eval.timing import IMAGE_AGE, REAL_TIME, RESPONSE, TICK
from wbvla_eval.trace import footprint, stand_off_point
from wbvla_sim.instructions import Task

AXES = (("Forward velocity", "m/s"), ("Velocity to the left", "m/s"), ("Yaw rate", "rad/s"))


def smooth(values: np.ndarray, dt_s: float, window_s: float = 0.3) -> np.ndarray:
    """Centred moving average over about one step of the gait; the ends use what there is."""
    width = max(1, int(round(window_s / dt_s)) | 1)
    if width == 1 or len(values) < width:
        return values
    kernel = np.ones(width)
    return np.convolve(values, kernel, mode="same") / np.convolve(np.ones(len(values)), kernel, mode="same")


def motion_charts(recording: Recording, cruise: tuple[float, float, float] | None, stance_range_m: tuple[float, float] | None) -> list[str]:
    """Command against measured motion: three velocities and the stance height.

    Args:
        cruise: speeds that flags of +-1 ask for (m/s, m/s, rad/s); None plots the bare flags.
    """
    trace = recording.trace
    figures = []
    for axis, (title, unit) in enumerate(AXES):
        command = trace.command[:, axis] * (cruise[axis] if cruise else 1.0)
        asked = "commanded" if cruise else "flag (−1, 0, 1)"
        raw = trace.velocity[:, axis]
        figures.append(
            chart(
                [
                    Series("measured", trace.time_s, raw, color=5),
                    Series("measured, 0.3 s mean", trace.time_s, smooth(raw, trace.dt_s), color=1),
                    Series(asked, trace.time_s, command, style="step", color=0),
                ],
                title=title,
                unit=unit,
                least=0.4,
            )
        )
    levels = [Level(h, f"{'lowest' if i == 0 else 'highest'} stance") for i, h in enumerate(stance_range_m or ())]
    figures.append(
        chart(
            [
                Series("measured", trace.time_s, trace.stance_height_m, color=1),
                Series("commanded", trace.time_s, trace.command[:, 3], style="step", color=0),
            ],
            title="Stance height",
            unit="m",
            levels=levels,
            least=0.1,
        )
    )
    return figures


def arm_charts(recording: Recording, columns: int = 4) -> list[str]:
    """The arm joints that moved most, target against measured."""
    index = {name: i for i, name in enumerate(recording.joint_names)}
    if not len(recording.measured) or not len(recording.target):
        return []
    travel = {name: float(np.ptp(recording.measured.values[:, index[name]])) for name in recording.arm_joints}
    most = sorted(travel, key=travel.get, reverse=True)[:columns]
    return [
        chart(
            [
                Series("measured", recording.measured.time_s, recording.measured.values[:, index[name]], color=1),
                Series("target", recording.target.time_s, recording.target.values[:, index[name]], style="step", color=0),
            ],
            title=name.removesuffix("_joint").replace("_", " "),
            unit="rad",
            least=0.2,
            height=160,
        )
        for name in most
    ]


def timing_charts(recording: Recording) -> list[str]:
    def ms(stream: Stream) -> Series:
        return Series("", stream.time_s, stream.values * 1e3, style="dots", color=1)

    charts = []
    for stream, title, target in (
        (recording.image_age_s, "Image to command age", IMAGE_AGE),
        (recording.tick_interval_s, "LMO tick to tick", TICK),
        (recording.response_s, "Joint state to joint command", RESPONSE),
    ):
        if len(stream):
            charts.append(chart([ms(stream)], title=title, unit="ms", floor=0.0, levels=[Level(target.limit, f"p99 limit {target.limit:g} ms")]))
    rtf = recording.real_time_factor
    if len(rtf):
        charts.append(
            chart([Series("", rtf.time_s, rtf.values, color=1)], title="Real-time factor", unit="1", least=0.1, levels=[Level(REAL_TIME.limit, "limit 0.98")])
        )
    return charts


def safety_chart(recording: Recording, width: int = 1140) -> str:
    """The ladder over time, as LMO and as the driver saw it, with who was in control."""
    rows = [("LMO", recording.safety), ("driver", recording.driver)]
    axes = Axes((min(0.0, recording.trace.time_s[0]), recording.end_s), (0.0, float(len(rows))), width, 46 + 26 * len(rows))
    body, seen = [], {}
    for row, (_, samples) in enumerate(rows):
        for span in recording.safety_spans(samples):
            left, right = axes.px(max(span.start, axes.x_range[0])), axes.px(min(span.end, axes.x_range[1]))
            if right <= left:
                continue
            seen[span.name] = span.color
            y = axes.py(len(rows) - row) + 4
            reasons = sorted({s.reason for s in samples if span.start <= s.time_s < span.end and s.reason})
            hint = "; ".join((f"{span.name} {span.start:.1f}–{span.end:.1f} s", *reasons[:3]))
            body.append(
                f'<rect class="rung{span.color}" x="{left:.1f}" y="{y:.1f}" width="{max(right - left, 1.0):.1f}" height="18" rx="3">'
                f"<title>{html.escape(hint)}</title></rect>"
            )
    ticks = [len(rows) - i - 0.5 for i in range(len(rows))]
    body = axes.frame("time, s", "", y_ticks=ticks, y_names=[name for name, _ in rows]) + body
    svg = f'<svg viewBox="0 0 {width} {axes.height}" role="img" aria-label="Safety state">{"".join(body)}</svg>'
    return figure("Safety state", svg, legend([(name, "rung", color) for name, color in seen.items()]))


def code_chart(recording: Recording, width: int = 1140) -> str:
    """Latent codes over time: one row per token, one hue per code."""
    latent = recording.latent
    if not len(latent) or latent.values.ndim != 2 or latent.values.shape[1] == 0:
        return ""
    tokens = latent.values.shape[1]
    axes = Axes((min(0.0, recording.trace.time_s[0]), recording.end_s), (0.0, float(tokens)), width, 40 + 17 * tokens)
    first = recording.manipulation_tokens
    names = [f"mani {i}" if i < first else f"loco {i - first}" for i in range(tokens)]
    body = axes.frame("time, s", "", y_ticks=[tokens - i - 0.5 for i in range(tokens)], y_names=names)
    ends = np.append(latent.time_s[1:], recording.end_s)
    for token in range(tokens):
        values, start = latent.values[:, token], 0
        for i in range(1, len(values) + 1):
            if i < len(values) and values[i] == values[start]:
                continue
            left, right = axes.px(max(latent.time_s[start], axes.x_range[0])), axes.px(min(ends[i - 1], axes.x_range[1]))
            code = int(values[start])
            if right > left and code >= 0:
                y = axes.py(tokens - token) + 1.5
                body.append(
                    f'<rect class="code" style="--h:{code * 137 % 360}" x="{left:.1f}" y="{y:.1f}" width="{right - left:.1f}" height="14">'
                    f"<title>code {code}, {latent.time_s[start]:.1f} s</title></rect>"
                )
                if right - left > 16:
                    body.append(f'<text class="codetext" x="{left + 4:.1f}" y="{y + 11:.1f}">{code}</text>')
            start = i
    svg = f'<svg viewBox="0 0 {width} {axes.height}" role="img" aria-label="Latent codes">{"".join(body)}</svg>'
    return figure("Latent action codes (manipulation above, locomotion below)", svg)


def top_view(recording: Recording, task: Task, criteria: Criteria, size: int = 560) -> str:
    """Path of the pelvis from above with boxes, stand-off point, its tolerance and the heading every second."""
    trace = recording.trace
    points = [trace.xyz[:, :2], *(box.corners()[:, :2] for box in trace.boxes)]
    cloud = np.concatenate(points)
    low, high = cloud.min(axis=0) - 0.35, cloud.max(axis=0) + 0.35
    # World +x points up the page and +y to the left, as a person standing behind the robot's start sees it.
    span_x, span_y = high[0] - low[0], high[1] - low[1]
    scale = (size - 50) / max(span_x, span_y)
    width, height = size, int(span_x * scale) + 50
    margin = (size - span_y * scale) / 2

    def to_px(point: np.ndarray) -> tuple[float, float]:
        return margin + (high[1] - point[1]) * scale, 20 + (high[0] - point[0]) * scale

    body = []
    for tick in np.arange(math.ceil(low[0] * 2) / 2, high[0], 0.5):
        y = to_px((tick, 0.0))[1]
        body.append(f'<line class="grid" x1="0" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"/>')
    for tick in np.arange(math.ceil(low[1] * 2) / 2, high[1], 0.5):
        x = to_px((0.0, tick))[0]
        body.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>')
    for box in trace.boxes:
        outline = " ".join("{:.1f},{:.1f}".format(*to_px(corner)) for corner in footprint(box))
        chosen = " target" if task.kind == "walk_to" and box.color == task.color else ""
        body.append(f'<polygon class="box box-{html.escape(box.color)}{chosen}" points="{outline}"><title>{html.escape(box.color)} box</title></polygon>')
    if task.kind == "walk_to":
        box = trace.box(task.color)
        point = stand_off_point(box, trace.xyz[-1], criteria.stand_off_m)
        x, y = to_px(point)
        body.append(f'<circle class="tolerance" cx="{x:.1f}" cy="{y:.1f}" r="{criteria.stand_off_tolerance_m * scale:.1f}"/>')
        body.append(f'<path class="cross" d="M{x - 6:.1f} {y:.1f}h12M{x:.1f} {y - 6:.1f}v12"><title>stand-off point</title></path>')
    kept = thin(np.arange(len(trace.xyz), dtype=np.float64), trace.xyz[:, 0])[0].astype(int)
    path = "L".join("{:.1f} {:.1f}".format(*to_px(trace.xyz[i])) for i in kept)
    body.append(f'<path class="s1 thick" d="M{path}"/>')
    stride = max(1, int(round(1.0 / trace.dt_s)))
    for i in [*range(0, len(trace.time_s), stride), len(trace.time_s) - 1]:
        tip = trace.xyz[i, :2] + 0.16 * np.array((math.cos(trace.yaw[i]), math.sin(trace.yaw[i])))
        (x0, y0), (x1, y1) = to_px(trace.xyz[i]), to_px(tip)
        last = i == len(trace.time_s) - 1
        name = "heading last" if last else "heading"
        body.append(f'<line class="{name}" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"><title>{trace.time_s[i]:.1f} s</title></line>')
        if last or i == 0:
            body.append(f'<circle class="{"f0" if last else "f5"}" cx="{x0:.1f}" cy="{y0:.1f}" r="5"/>')
    body.append(f'<path class="axis" d="M14 {height - 12}h{0.5 * scale:.1f}m0 -4v8M14 {height - 16}v8"/>')
    body.append(f'<text class="tick" x="{18 + 0.5 * scale:.0f}" y="{height - 8}">0.5 m</text>')
    svg = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Path from above">{"".join(body)}</svg>'
    entries = [("path of the pelvis, heading every second", "line", 1)]
    if task.kind == "walk_to":
        entries.append((f"stand-off point ± {criteria.stand_off_tolerance_m:g} m", "ring", 0))
    return figure("Path from above", svg, legend(entries), "tall")

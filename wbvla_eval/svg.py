"""Small line charts as inline SVG: crisp at any zoom, a few kB each, and they follow the page's light or dark colours.

No plotting library: the report must be one file without network or fonts, and a raster in one theme is unreadable in the
other. Colours are CSS classes (``s0`` ... ``s5`` for series, ``band0`` ... for shaded spans) that the page defines.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_POINTS = 600  # per series: about one per pixel of a chart


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: legend entry, "" for none.
        x, y: [N]; gaps where y is not finite.
        style: "line", "step" (holds each value until the next), "dots" or "dashed".
        color: index of the colour class.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    style: str = "line"
    color: int = 0


@dataclass(frozen=True)
class Span:
    """A shaded part of the x axis (a rung of the safety ladder, a phase of the task)."""

    start: float
    end: float
    name: str
    color: int = 0


@dataclass(frozen=True)
class Level:
    """A horizontal line with a name (a limit, a target)."""

    y: float
    name: str


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) inside [low, high], about ``count`` of them."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1.0, 2.0, 5.0, 10.0) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def thin(x: np.ndarray, y: np.ndarray, limit: int = MAX_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most ``limit`` points that keep every bucket's extremes, so that a single late tick stays visible."""
    if len(x) <= limit:
        return x, y
    keep: set[int] = {0, len(x) - 1}
    for bucket in np.array_split(np.arange(len(x)), limit // 2):
        values = np.where(np.isfinite(y[bucket]), y[bucket], 0.0)
        keep |= {int(bucket[np.argmin(values)]), int(bucket[np.argmax(values)])}
    index = np.array(sorted(keep))
    return x[index], y[index]


def number(value: float) -> str:
    """Shortest text of a coordinate or tick: at most three decimals, no trailing zeros."""
    text = f"{value:.3f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


class Axes:
    """Maps data to pixels of an SVG of ``width`` x ``height`` and draws frame, ticks and labels."""

    LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 30

    def __init__(self, x_range: tuple[float, float], y_range: tuple[float, float], width: int, height: int) -> None:
        self.width, self.height = width, height
        self.x_range, self.y_range = x_range, y_range
        self.inner_width = width - self.LEFT - self.RIGHT
        self.inner_height = height - self.TOP - self.BOTTOM

    def px(self, x: float) -> float:
        low, high = self.x_range
        return self.LEFT + (x - low) / (high - low) * self.inner_width

    def py(self, y: float) -> float:
        low, high = self.y_range
        return self.TOP + (1.0 - (y - low) / (high - low)) * self.inner_height

    def frame(self, x_label: str, y_label: str, *, y_ticks: Sequence[float] | None = None, y_names: Sequence[str] | None = None) -> list[str]:
        """Grid, ticks and labels."""
        parts = []
        for i, tick in enumerate(y_ticks if y_ticks is not None else nice_ticks(*self.y_range, 5)):
            y = self.py(tick)
            text = y_names[i] if y_names else number(tick)
            parts.append(f'<line class="grid" x1="{self.LEFT}" x2="{self.width - self.RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick" x="{self.LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{html.escape(text)}</text>')
        for tick in nice_ticks(*self.x_range, 8):
            x = self.px(tick)
            parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{self.TOP + self.inner_height}" y2="{self.TOP + self.inner_height + 4}"/>')
            parts.append(f'<text class="tick" x="{x:.1f}" y="{self.TOP + self.inner_height + 15}" text-anchor="middle">{number(tick)}</text>')
        base = self.TOP + self.inner_height
        parts.append(f'<line class="axis" x1="{self.LEFT}" x2="{self.width - self.RIGHT}" y1="{base}" y2="{base}"/>')
        if x_label:
            parts.append(f'<text class="label" x="{self.width - self.RIGHT}" y="{self.height - 2}" text-anchor="end">{html.escape(x_label)}</text>')
        if y_label:
            middle = self.TOP + self.inner_height / 2
            parts.append(f'<text class="label" transform="translate(11 {middle:.0f}) rotate(-90)" text-anchor="middle">{html.escape(y_label)}</text>')
        return parts

    def line(self, series: Series) -> list[str]:
        """Path elements of one series; a gap begins a new sub-path. Dots and dashes are styles of the same data."""
        x, y = thin(np.asarray(series.x, dtype=np.float64), np.asarray(series.y, dtype=np.float64))
        if series.style == "dots":
            return [
                f'<circle class="f{series.color}" cx="{self.px(a):.1f}" cy="{self.py(b):.1f}" r="1.8"/>' for a, b in zip(x, y, strict=True) if math.isfinite(b)
            ]
        path, pen_down, previous = [], False, 0.0
        for a, b in zip(x, y, strict=True):
            if not math.isfinite(b):
                pen_down = False
                continue
            if pen_down and series.style == "step":
                path.append(f"L{self.px(a):.1f} {previous:.1f}")
            previous = self.py(b)
            path.append(f"{'L' if pen_down else 'M'}{self.px(a):.1f} {previous:.1f}")
            pen_down = True
        dash = ' stroke-dasharray="5 3"' if series.style == "dashed" else ""
        return [f'<path class="s{series.color}"{dash} d="{"".join(path)}"/>'] if path else []


def legend(entries: Sequence[tuple[str, str, int]]) -> str:
    """HTML legend; entries are (name, "line" | "dashed" | "dots" | "band", colour)."""
    items = "".join(f'<span class="key"><i class="{style} k{color}"></i>{html.escape(name)}</span>' for name, style, color in entries if name)
    return f'<div class="legend">{items}</div>' if items else ""


def padded(values: Sequence[np.ndarray], *, floor: float | None = None, least: float = 0.0) -> tuple[float, float]:
    """(low, high) over all finite values with 6 % air, at least ``least`` wide; ``floor`` fixes the low end."""
    finite = [v[np.isfinite(v)] for v in (np.asarray(v, dtype=np.float64) for v in values)]
    finite = [v for v in finite if v.size]
    if not finite:
        return (0.0, 1.0)
    low, high = min(float(v.min()) for v in finite), max(float(v.max()) for v in finite)
    if floor is not None:
        low = min(floor, low)
    if high - low < least:
        middle = 0.5 * (low + high)
        low, high = (low, low + least) if floor is not None else (middle - least / 2, middle + least / 2)
    air = 0.06 * (high - low) or 0.5
    return (low if floor is not None and low >= floor else low - air, high + air)


def chart(
    series: Sequence[Series],
    *,
    title: str,
    unit: str,
    spans: Sequence[Span] = (),
    levels: Sequence[Level] = (),
    x_label: str = "time, s",
    x_range: tuple[float, float] | None = None,
    floor: float | None = None,
    least: float = 0.0,
    width: int = 560,
    height: int = 190,
) -> str:
    """A figure with title, legend and SVG.

    Args:
        floor: lowest y (durations and ages start at 0).
        least: smallest y range, so that noise of a millimetre does not fill the chart.
    """
    drawn = [s for s in series if len(s.x)]
    x_range = x_range or padded([s.x for s in drawn])
    y_range = padded([s.y for s in drawn] + [np.array([lv.y]) for lv in levels], floor=floor, least=least)
    axes = Axes(x_range, y_range, width, height)
    body = []
    for span in spans:
        left, right = axes.px(max(span.start, x_range[0])), axes.px(min(span.end, x_range[1]))
        if right > left:
            body.append(
                f'<rect class="band{span.color}" x="{left:.1f}" y="{axes.TOP}" width="{right - left:.1f}" height="{axes.inner_height}">'
                f"<title>{html.escape(span.name)}</title></rect>"
            )
    body += axes.frame(x_label, unit)
    for level in levels:
        y = axes.py(level.y)
        body.append(f'<line class="level" x1="{axes.LEFT}" x2="{width - axes.RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(f'<text class="tick" x="{width - axes.RIGHT - 2}" y="{y - 3:.1f}" text-anchor="end">{html.escape(level.name)}</text>')
    for s in drawn:
        body += axes.line(s)
    names = [(s.name, {"dashed": "dashed", "dots": "dots"}.get(s.style, "line"), s.color) for s in series]
    seen: dict[str, int] = {}
    for span in spans:
        seen.setdefault(span.name, span.color)
    names += [(name, "band", color) for name, color in seen.items()]
    return figure(title, f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title)}">{"".join(body)}</svg>', legend(names))


def figure(title: str, svg: str, below: str = "", name: str = "chart") -> str:
    """A titled figure; ``name`` is its CSS class ("tall" takes two rows of the grid)."""
    return f'<figure class="{name}"><figcaption>{html.escape(title)}</figcaption>{svg}{below}</figure>'

"""The picture of one moment: camera view and outside view side by side, with everything that a watcher asks about drawn on it.

Pure Pillow: pictures and numbers in, one picture out. What moves is drawn at twice the size and scaled down, so that arrows
and rounded corners are smooth.
"""

from __future__ import annotations

import colorsys
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 1280, 720
CAMERA_BOX = (16, 80, 448, 404)  # left, top, right, bottom: 432 x 324, 4:3
OUTSIDE_BOX = (464, 80, 1264, 580)  # 800 x 500
PANELS_TOP = 420  # under the camera view
ROW_TOP = 596  # under the outside view
SCALE = 2  # supersampling of the panels

INK, SOFT, FAINT = (236, 239, 242), (150, 160, 170), (58, 66, 74)
BACKGROUND, PANEL = (15, 18, 21), (25, 29, 34)
ACCENT, MEASURED = (255, 138, 76), (116, 192, 252)
GOOD = (92, 214, 143)
RUNG_COLORS = {"follow": (47, 158, 104), "stand": (214, 148, 20), "damping": (217, 83, 74), "waiting": (92, 101, 109)}
BOX_COLORS = {"red": (224, 49, 49), "green": (47, 158, 68), "blue": (48, 120, 224), "yellow": (250, 190, 20)}


@dataclass(frozen=True)
class Moment:
    """What is shown at one instant.

    Attributes:
        time_s: since the goal was sent.
        flags: commanded (forward, lateral, yaw), each -1, 0 or 1.
        stance_height_m, stance_command_m: measured and commanded.
        stance_range_m: ends of the gauge.
        manipulation, locomotion: latent codes, empty where there are none.
        rung: "follow", "stand", "damping", "waiting" or "" before the first.
        reason: why not follow.
        source: who is in control.
        real_time_factor: nan where it was not measured.
        path: pelvis so far [N, 2], m; yaw: heading now, rad.
        boxes: (colour, footprint [4, 2]) of each box; goal: stand-off point [2] or None.
        note: one line beside the time, e.g. the result once it is known; good: whether it is good news.
    """

    time_s: float
    flags: tuple[int, int, int]
    stance_height_m: float
    stance_command_m: float
    stance_range_m: tuple[float, float]
    manipulation: tuple[int, ...]
    locomotion: tuple[int, ...]
    rung: str
    reason: str
    source: str
    real_time_factor: float
    path: np.ndarray
    yaw: float
    boxes: Sequence[tuple[str, np.ndarray]] = ()
    goal: np.ndarray | None = None
    note: str = ""
    good: bool = False


@lru_cache(maxsize=64)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings; Pillow's built-in face without it."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is not None and spec.submodule_search_locations:
        path = Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf" / f"DejaVuSans{'-Bold' if bold else ''}.ttf"
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


def _code_color(code: int) -> tuple[int, int, int]:
    """A hue per code, far apart for neighbours (the report uses the same hues)."""
    r, g, b = colorsys.hls_to_rgb((code * 137 % 360) / 360.0, 0.42, 0.5)
    return int(255 * r), int(255 * g), int(255 * b)


class Panels:
    """Draws what lies around the two pictures. Coordinates are those of the final picture."""

    def __init__(self, instruction: str) -> None:
        self._base = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), BACKGROUND)
        draw = ImageDraw.Draw(self._base)
        size, text = 27, f"“{instruction}”"
        while font(size * SCALE, True).getlength(text) > 940 * SCALE:
            if size > 14:
                size -= 1
            else:
                text = text[: -3 if text.endswith("…”") else -1].rstrip() + "…”"
        draw.text((20 * SCALE, 40 * SCALE), text, INK, font(size * SCALE, True), anchor="lm")
        for left, top, right, bottom in (
            (16, PANELS_TOP, 448, 528),
            (16, 544, 448, 704),
            (464, ROW_TOP, 704, 704),
            (720, ROW_TOP, 896, 704),
            (912, ROW_TOP, 1112, 704),
            (1128, ROW_TOP, 1264, 704),
        ):
            draw.rounded_rectangle([v * SCALE for v in (left, top, right, bottom)], 8 * SCALE, PANEL)
        self._draw = draw
        for x, y, text in (
            (28, 432, "latent action"),
            (28, 556, "from above"),
            (476, 608, "command"),
            (732, 608, "stance height"),
            (924, 608, "safety"),
            (1140, 608, "real time"),
        ):
            self._text(x, y, text, 12, SOFT)
        self._text(28, 463, "manipulation", 13, INK, anchor="lm")
        self._text(28, 503, "locomotion", 13, INK, anchor="lm")

    def _text(self, x: float, y: float, text: str, size: int, color: tuple[int, int, int], *, bold: bool = False, anchor: str = "lm") -> None:
        self._draw.text((x * SCALE, y * SCALE), text, color, font(size * SCALE, bold), anchor=anchor)

    def _polygon(self, points: Sequence[tuple[float, float]], color: tuple[int, int, int]) -> None:
        self._draw.polygon([(x * SCALE, y * SCALE) for x, y in points], color)

    def paint(self, moment: Moment) -> Image.Image:
        """The frame [720, 1280] without the two pictures."""
        image = self._base.copy()
        self._draw = ImageDraw.Draw(image)
        self._text(1260, 40, f"{moment.time_s:5.1f} s", 24, INK, anchor="rm")
        if moment.note:
            self._text(1140, 40, moment.note, 17, GOOD if moment.good else ACCENT, bold=True, anchor="rm")
        self._codes(moment)
        self._map(moment)
        self._command(moment)
        self._stance(moment)
        self._safety(moment)
        value = moment.real_time_factor
        self._text(1196, 660, f"{value:.2f}×" if np.isfinite(value) else "–", 26, INK, bold=True, anchor="mm")
        return image.reduce(SCALE)

    def _codes(self, moment: Moment) -> None:
        for row, codes in enumerate((moment.manipulation, moment.locomotion)):
            y = 447 + 40 * row
            if not codes:
                self._text(140, y + 16, "–", 15, SOFT)
            width = min(70.0, 300.0 / max(len(codes), 1))
            for i, code in enumerate(codes):
                x = 140 + i * width
                self._draw.rounded_rectangle([v * SCALE for v in (x, y, x + width - 6, y + 32)], 5 * SCALE, _code_color(code))
                self._text(x + (width - 6) / 2, y + 16, str(code), 15, INK, bold=True, anchor="mm")

    def _command(self, moment: Moment) -> None:
        forward, lateral, yaw = moment.flags
        cx, cy, reach, half = 540.0, 657.0, 34.0, 13.0
        for dx, dy, active in ((0, -1, forward > 0), (0, 1, forward < 0), (-1, 0, lateral > 0), (1, 0, lateral < 0)):
            tip = (cx + dx * reach, cy + dy * reach)
            base = (cx + dx * 12, cy + dy * 12)
            self._polygon([tip, (base[0] + dy * half, base[1] + dx * half), (base[0] - dy * half, base[1] - dx * half)], ACCENT if active else FAINT)
        for sign, x in ((1, 618.0), (-1, 668.0)):  # +1 turns left: counter-clockwise seen from above
            color = ACCENT if yaw == sign else FAINT
            y, radius = 658.0, 16.0
            # The arc is open at the bottom; its head sits at the end that the turn leads to.
            self._draw.arc([v * SCALE for v in (x - radius, y - radius, x + radius, y + radius)], 150, 390, color, 5 * SCALE)
            end = x - sign * radius * 0.87
            self._polygon([(end - sign * 1 - 9, y + 5), (end - sign * 1 + 9, y + 5), (end + sign * 3, y + 19)], color)
        if not any(moment.flags):
            self._text(cx, cy, "0", 13, SOFT, anchor="mm")

    def _stance(self, moment: Moment) -> None:
        low, high = moment.stance_range_m
        left, right, y = 734.0, 882.0, 672.0

        def px(height: float) -> float:
            return left + (np.clip(height, low - 0.02, high + 0.02) - low) / (high - low) * (right - left)

        self._text(732, 640, f"{moment.stance_height_m:.2f} m", 20, INK, bold=True)
        self._draw.rounded_rectangle([v * SCALE for v in (left, y - 5, right, y + 5)], 5 * SCALE, FAINT)
        self._draw.rounded_rectangle([v * SCALE for v in (left, y - 5, max(px(moment.stance_height_m), left + 10), y + 5)], 5 * SCALE, MEASURED)
        x = px(moment.stance_command_m)
        self._draw.rounded_rectangle([v * SCALE for v in (x - 2, y - 11, x + 2, y + 11)], 2 * SCALE, ACCENT)
        self._text(left, y + 20, f"{low:.2f}", 10, SOFT)
        self._text(right, y + 20, f"{high:.2f}", 10, SOFT, anchor="rm")

    def _safety(self, moment: Moment) -> None:
        if not moment.rung:
            self._text(924, 645, "–", 16, SOFT)
            return
        self._draw.rounded_rectangle([v * SCALE for v in (924, 626, 1030, 654)], 14 * SCALE, RUNG_COLORS.get(moment.rung, FAINT))
        self._text(977, 640, moment.rung, 15, INK, bold=True, anchor="mm")
        self._text(1040, 640, moment.source, 13, SOFT)
        words, line, lines = moment.reason.split(), "", []
        for word in words:
            longer = f"{line} {word}".strip()
            if font(11 * SCALE).getlength(longer) > 180 * SCALE:
                lines.append(line)
                line = word
            else:
                line = longer
        for i, text in enumerate([*lines, line][:3]):
            self._text(924, 668 + 13 * i, text, 11, SOFT)

    def _map(self, moment: Moment) -> None:
        left, top, right, bottom = 120.0, 552.0, 440.0, 698.0
        points = np.concatenate([moment.path, *(corners for _, corners in moment.boxes)])
        low, high = np.minimum(points.min(axis=0), (-0.3, -0.6)) - 0.15, np.maximum(points.max(axis=0), (1.5, 0.6)) + 0.15
        scale = min((right - left) / (high[0] - low[0]), (bottom - top) / (high[1] - low[1]))
        centre = (low + high) / 2

        def px(point: np.ndarray) -> tuple[float, float]:  # room +x to the right, +y up
            return (left + right) / 2 + (point[0] - centre[0]) * scale, (top + bottom) / 2 - (point[1] - centre[1]) * scale

        for color, corners in moment.boxes:
            self._polygon([px(c) for c in corners], BOX_COLORS.get(color, SOFT))
        if moment.goal is not None:
            x, y = px(moment.goal)
            self._draw.ellipse([v * SCALE for v in (x - 5, y - 5, x + 5, y + 5)], outline=ACCENT, width=2 * SCALE)
        if len(moment.path) > 1:
            self._draw.line([tuple(v * SCALE for v in px(p)) for p in moment.path], MEASURED, 2 * SCALE, joint="curve")
        x, y = px(moment.path[-1])
        cos, sin = np.cos(moment.yaw), np.sin(moment.yaw)
        arrow = [(8, 0), (-5, 5), (-5, -5)]
        self._polygon([(x + cos * a - sin * b, y - sin * a - cos * b) for a, b in arrow], INK)
        self._text(28, 680, "0.5 m", 10, SOFT)
        self._draw.line([v * SCALE for v in (28, 692, 28 + 0.5 * scale, 692)], SOFT, 2 * SCALE)


def _caption(image: Image.Image, left: int, top: int, text: str) -> None:
    draw = ImageDraw.Draw(image, "RGBA")
    width = font(13).getlength(text)
    draw.rounded_rectangle((left + 8, top + 8, left + 24 + width, top + 32), 6, (15, 18, 21, 190))
    draw.text((left + 16, top + 20), text, INK, font(13), anchor="lm")


def compose(panels: Panels, moment: Moment, camera: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """One frame of the video.

    Args:
        camera: head camera [H, W, 3] uint8, outside: onlooker's view [H, W, 3] uint8; scaled to their places.

    Returns:
        uint8 [720, 1280, 3].
    """
    image = panels.paint(moment)
    for picture, (left, top, right, bottom), text in ((camera, CAMERA_BOX, "head camera"), (outside, OUTSIDE_BOX, "outside")):
        view = Image.fromarray(picture)
        if view.size != (right - left, bottom - top):
            view = view.resize((right - left, bottom - top), Image.Resampling.BICUBIC)
        image.paste(view, (left, top))
        _caption(image, left, top, text)
    return np.asarray(image)

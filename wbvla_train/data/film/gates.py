"""From measured samples to stretches of film: which are worth learning from, which not and why, and what kind they are.

A film is looked at in blocks that end at a cut, at a gap in its clock or after some seconds, so that memory does not grow with the film.
Within a block every sample gets a reason or none; stretches of one reason become rejections, what is left becomes clips.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from wbvla_train.data.film.measure import Measure  # imports video readers, which help can do without

REASONS = ("dark", "over", "empty", "blur", "freeze", "static", "shake")  # of stretches, in order of precedence: a dark picture is not called blurred
EVENTS = ("cut", "gap", "jump")  # of instants
LOCO, MANI, UNSURE = "loco", "mani", "unsure"
TOO_LITTLE = "what can be followed spans too little of the picture: the camera may move, or a hand before a plain wall"
REPEATED_PEAK = 2.0  # levels: what an encoder adds to a repeated picture


@dataclass(frozen=True)
class Gates:
    """Thresholds. Ours, set on made films of seeds 11 and 101 (:mod:`wbvla_train.data.film.made`); heights = picture heights.

    Attributes:
        dark_luma: mean luma (0-255) below which nothing can be seen.
        burnt_share: share of pixels at 250 or more above which the picture is over-exposed.
        empty_contrast: standard deviation of luma below which, with few edges, there is nothing but a blank wall.
        empty_edges: share of edge pixels below which a picture counts as having few.
        blur: :attr:`Measure.blur` over half a second; sharp film lies at 0.15-0.5.
        shake_heights: root mean square of the change of the camera's movement between samples 0.1 s apart, over a second.
            Walking lies below 0.055.
        still_peak: the 99.5th percentile of the change between samples below which nothing moves; sensor noise lies below 4.
        static_s: how long nothing may move.
        freeze_s: how long a moving picture may stand exactly still.
        frozen_change: mean change of a picture that is repeated (encoders leave a trace).
        cut_match: a cut is where the frame before, however moved, correlates with this one less than this, and ...
        cut_residual: ... differs from it in more than this share of the pixels.
        gap_s: longest step between two samples; a wider one (dropped frames) ends a clip, because no frame pair spans it.
        loco_heights_s: camera speed over a second that gives a score of 0.5.
        loco_score, mani_score: a clip is locomotion above the first and manipulation below the second; in between is unsure.
        loco_share, mani_share: so is locomotion of which less than the first share is faster than ``loco_heights_s``, and manipulation of
            which more than the second is: walking and standing in one clip.
        spread: :attr:`Measure.spread` below which nothing is known of the camera.
        fast_heights_s: camera speed over a second that people do not keep up for a whole clip: a time-lapse, perhaps.
        min_clip_s: shorter stretches are left out.
        max_clip_s: longer stretches are divided evenly.
    """

    dark_luma: float = 20.0
    burnt_share: float = 0.25
    empty_contrast: float = 7.0
    empty_edges: float = 0.004
    blur: float = 0.54
    shake_heights: float = 0.07
    still_peak: float = 5.0
    static_s: float = 1.5
    freeze_s: float = 0.4
    frozen_change: float = 0.15
    cut_match: float = 0.55
    cut_residual: float = 0.45
    gap_s: float = 0.5
    loco_heights_s: float = 0.012
    loco_score: float = 0.8
    mani_score: float = 0.3
    loco_share: float = 0.6
    mani_share: float = 0.25
    spread: float = 0.15
    fast_heights_s: float = 0.7
    min_clip_s: float = 1.5
    max_clip_s: float = 10.0


@dataclass(frozen=True)
class Segment:
    """A stretch of film [start_s, end_s], or an instant (EVENTS: start = end).

    Attributes:
        frame: number of its first frame in the film.
        reason: why it is left out: one of REASONS, EVENTS, "short", "unsure", "duplicate", "override"; "" for a clip.
        value, limit: what was measured there and the threshold it passed (0 where there is none).
        domain: "loco" or "mani", the nearer one where it is unsure; "" where it was not asked.
        loco_score: 0 (still camera) .. 1 (moving camera), 0.5 at ``loco_heights_s``.
        doubt: why a stretch is unsure.
        samples: [first, last) in the block; for the caller.
    """

    start_s: float
    end_s: float
    frame: int
    reason: str
    value: float = 0.0
    limit: float = 0.0
    domain: str = ""
    loco_score: float = 0.0
    doubt: str = ""
    samples: tuple[int, int] = (0, 0)

    def to_json(self) -> dict:
        entry = asdict(self)
        entry.pop("samples")
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in entry.items()}


def event_before(measure: Measure, before: Measure | None, gates: Gates) -> str:
    """ "cut", "gap" or "jump" (the film's clock was set back) between two samples, or ""."""
    if before is None:
        return ""
    if measure.joined:
        return "jump"
    if measure.dt_s > gates.gap_s:
        return "gap"
    unseen = any(m.brightness < gates.dark_luma or m.bright_share > gates.burnt_share for m in (measure, before))
    thaws = before.dt_s > 0.0 and before.change < gates.frozen_change and before.peak_change <= REPEATED_PEAK  # a jump out of a freeze is that freeze's
    cut = measure.match < gates.cut_match and measure.residual > gates.cut_residual and measure.tracked < 0.15
    return "cut" if cut and not unseen and not thaws else ""


def _window(values: np.ndarray, half: int, reduce) -> np.ndarray:
    """[T] ``reduce`` over [t - half, t + half], shorter at the ends."""
    return np.array([reduce(values[max(t - half, 0) : t + half + 1]) for t in range(len(values))])


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """[first, last) of every stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(((0,), flags.astype(np.int8), (0,)))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def camera_speed(block: list[Measure], half: int) -> np.ndarray:
    """[T] how fast the camera goes on average over 2 * ``half`` samples, heights/s: wobble cancels out, walking does not."""
    steps = np.array([m.motion for m in block])
    steps[0] = 0.0
    path, time = np.cumsum(steps, axis=0), np.array([m.stamp_s for m in block])
    first = np.maximum(np.arange(len(block)) - half, 0)
    last = np.minimum(np.arange(len(block)) + half, len(block) - 1)
    return np.linalg.norm(path[last] - path[first], axis=1) / np.maximum(time[last] - time[first], 1e-3)


def _seen_median(values: np.ndarray) -> float:
    seen = values[np.isfinite(values)]
    return float(np.median(seen)) if len(seen) else 0.0


def _shake(block: list[Measure], half: int, unsound: np.ndarray) -> np.ndarray:
    """[T] root mean square change of movement per 0.1 s, heights, over 2 * half + 1 samples. Steps near ``unsound`` samples do not count."""
    dt_s = np.array([m.dt_s for m in block])
    speed = np.array([m.motion for m in block]) / np.maximum(dt_s, 0.03)[:, None] * 0.1
    jerk = np.zeros(len(block))
    sound = np.zeros(len(block), dtype=bool)
    sound[2:] = (dt_s[2:] > 0) & (dt_s[1:-1] > 0)
    sound &= np.convolve(unsound.astype(float), np.ones(5), mode="full")[2:-2] == 0
    jerk[1:] = np.sum(np.diff(speed, axis=0) ** 2, axis=1)
    return np.array([np.sqrt(_mean(jerk[max(t - half, 0) : t + half + 1][sound[max(t - half, 0) : t + half + 1]])) for t in range(len(block))])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) >= 3 else 0.0


def judge(block: list[Measure], gates: Gates, rate_hz: float) -> list[Segment]:
    """Segments of one block, in order of time. Every sample lies in exactly one."""
    half_second, quarter = max(round(0.5 * rate_hz), 1), max(round(0.25 * rate_hz), 1)
    brightness, burnt = np.array([m.brightness for m in block]), np.array([m.bright_share for m in block])
    unseen = (brightness < gates.dark_luma) | (burnt > gates.burnt_share)
    blur = _window(np.where(unseen, np.nan, np.array([m.blur for m in block])), quarter, _seen_median)
    peak = np.array([m.peak_change for m in block])
    peak[0] = peak[1] if len(block) > 1 else np.inf  # the first sample has nothing to be compared with
    change = np.array([m.change for m in block])
    same = (change < gates.frozen_change) & (peak <= REPEATED_PEAK)
    same[0] = False
    frozen = np.zeros(len(block), dtype=bool)
    for first, last in _runs(same):
        before = peak[max(first - max(round(0.3 * rate_hz), 1), 1) : first]
        if block[last - 1].stamp_s - block[max(first - 1, 0)].stamp_s >= gates.freeze_s and len(before) and before.max() > gates.still_peak:
            frozen[first:last] = True
    still = np.zeros(len(block), dtype=bool)
    for first, last in _runs(_window(np.where(unseen, np.inf, peak), quarter, np.median) < gates.still_peak):
        if block[last - 1].stamp_s - block[first].stamp_s >= gates.static_s:
            still[first:last] = True
    contrast = np.array([float(m.thumb.std()) for m in block])
    empty = (contrast < gates.empty_contrast) & (np.array([m.edges for m in block]) < gates.empty_edges)
    shake = _shake(block, half_second, frozen | unseen)
    tests = {
        "dark": (brightness < gates.dark_luma, brightness, gates.dark_luma),
        "over": (burnt > gates.burnt_share, burnt, gates.burnt_share),
        "empty": (empty, contrast, gates.empty_contrast),
        "blur": (blur > gates.blur, blur, gates.blur),
        "freeze": (frozen, change, gates.frozen_change),
        "static": (still, peak, gates.still_peak),
        "shake": (shake > gates.shake_heights, shake, gates.shake_heights),
    }
    label = np.full(len(block), "", dtype=object)
    for reason in reversed(REASONS):
        label[tests[reason][0]] = reason
    _drop_flicker(label, quarter)
    speed = camera_speed(block, half_second)
    segments: list[Segment] = []
    edges = [0, *(np.flatnonzero(label[1:] != label[:-1]) + 1).tolist(), len(block)]
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        if label[first]:
            values = tests[label[first]][1][first:last]
            segments.append(_segment(block, first, last, str(label[first]), float(np.median(values)), tests[label[first]][2], speed, gates))
        else:
            segments.extend(_clips(block, first, last, speed, gates))
    return segments


def _drop_flicker(label: np.ndarray, shortest: int) -> None:
    """A fault shorter than ``shortest`` samples is let pass (a blink of motion blur), or is part of the fault before it; in place. Freezes are exact: kept."""
    edges = [0, *(np.flatnonzero(label[1:] != label[:-1]) + 1).tolist(), len(label)]
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        if label[first] not in ("", "freeze") and last - first < min(shortest, len(label)):
            label[first:last] = label[first - 1] if first > 0 else label[last]


def _segment(block: list[Measure], first: int, last: int, reason: str, value: float, limit: float, speed: np.ndarray, gates: Gates) -> Segment:
    typical = float(np.median(speed[first:last]))
    score = typical**2 / (typical**2 + gates.loco_heights_s**2)
    end_s = block[last - 1].stamp_s
    domain = LOCO if score > 0.5 else MANI
    return Segment(block[first].stamp_s, end_s, block[first].index, reason, value, limit, domain, score, samples=(first, last))


def _doubt(part: list[Measure], speed: np.ndarray, score: float, gates: Gates) -> tuple[str, float, float]:
    """Why it cannot be said what a clip shows, with what was measured and its limit; ("", 0, 0) where it can."""
    spread = float(np.median([m.spread for m in part[1:]])) if len(part) > 1 else 0.0
    moving, typical = float(np.mean(speed > gates.loco_heights_s)), float(np.median(speed))
    if spread < gates.spread:
        return TOO_LITTLE, spread, gates.spread
    if typical > gates.fast_heights_s:
        return "the camera moves faster than people do: a time-lapse?", typical, gates.fast_heights_s
    if gates.mani_score <= score <= gates.loco_score:
        return "the camera moves too much for a still one and too little for a walk", score, gates.loco_score
    if score > gates.loco_score and moving < gates.loco_share:
        return "walking and standing in one clip", moving, gates.loco_share
    if score < gates.mani_score and moving > gates.mani_share:
        return "standing and walking in one clip", moving, gates.mani_share
    return "", 0.0, 0.0


def _clips(block: list[Measure], first: int, last: int, speed: np.ndarray, gates: Gates) -> list[Segment]:
    """A good stretch as clips of at most ``max_clip_s``, or as one "short" rejection."""
    length_s = block[last - 1].stamp_s - block[first].stamp_s
    if length_s < gates.min_clip_s:
        return [_segment(block, first, last, "short", length_s, gates.min_clip_s, speed, gates)]
    count = max(math.ceil(length_s / gates.max_clip_s), 1)
    edges = [first + round(i * (last - first) / count) for i in range(count + 1)]
    clips = []
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        clip = _segment(block, a, b, "", 0.0, 0.0, speed, gates)
        doubt, value, limit = _doubt(block[a:b], speed[a:b], clip.loco_score, gates)
        clips.append(replace(clip, reason=UNSURE, value=value, limit=limit, doubt=doubt) if doubt else clip)
    return clips

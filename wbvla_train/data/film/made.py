"""Films with known faults, rendered: the labelled set that the gates' thresholds are tuned and judged on.

Rooms, wearers and gaits are those of ``wbvla data video``; a film is rendered at its own frame rate, one fault is put in, sensor noise
is added, and it is encoded as cameras do: several sizes, rates, qualities, rotation flags, dropped frames (variable rate).
``truth.json`` beside the films says what is in them; ``benchmarks/video_gates.py`` alone reads it.
"""

from __future__ import annotations

import atexit
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from wbvla_core.checkpoint import write_json
from wbvla_core.workers import in_processes
from wbvla_train.data import motion, rooms
from wbvla_train.data.video import rotation

FAULTS = ("blur", "shake", "cut", "freeze", "dark", "over", "static", "duplicate")
KINDS = ("loco", "mani", *FAULTS)
DURATION_S = 4.0
MAX_IMAGE = (432, 240)
_GL: list = []


@dataclass(frozen=True)
class MadeFilm:
    """What a made film holds.

    Attributes:
        file: name in the folder.
        kind: "loco" or "mani" (nothing wrong), or the fault.
        domain: "loco" or "mani" by the true motion of the camera.
        start_s, end_s: where the fault is; (0, 0) for none.
        of: for a duplicate: the film it is a copy of.
    """

    file: str
    kind: str
    domain: str
    start_s: float = 0.0
    end_s: float = 0.0
    of: str = ""


def _gl():
    if not _GL:
        _GL.append(rooms.mujoco.GLContext(*MAX_IMAGE))
        atexit.register(_GL[0].free)
    return _GL[0]


def _truly_walks(pose: np.ndarray, rate_hz: float) -> bool:
    """Whether the camera moves by 0.1 m or turns by 0.15 rad in at least 80 % of the film's seconds."""
    step = round(rate_hz)
    moved = np.linalg.norm(pose[step:, (0, 1, 3)] - pose[:-step, (0, 1, 3)], axis=1) > 0.1
    return bool(np.mean(moved | (np.abs(pose[step:, 2] - pose[:-step, 2]) > 0.15)) >= 0.8)


def render_take(rng: np.random.Generator, domain: str, rate_hz: float, seconds: float, *, still: bool = False, room_seed: int | None = None) -> np.ndarray:
    """One unbroken take [T, H, W, 3] uint8 of a new room.

    Args:
        domain: "loco": the wearer walks, turns, sinks or rises; "mani": it stands and both hands reach over a table.
        still: nothing moves at all: a camera that was put down.
    """
    kind = "robot" if rng.random() < 0.45 else "human"
    wearer = motion.ROBOT if kind == "robot" else motion.HUMAN
    frames, dt_s = round(seconds * rate_hz), 1.0 / rate_hz
    table = None
    if domain == "mani":
        height = rng.uniform(*wearer.height_m)
        wearer = replace(wearer, height_m=(height, height))
        table = height + wearer.shoulder[2] + motion.REACH_DOWN_M[0] - rng.uniform(0.04, 0.14)
    seed = int(rng.integers(2**31)) if room_seed is None else room_seed
    room = rooms.Room(seed, rooms.Arms.draw(rng, kind), held_out=bool(rng.random() < 0.3), table_ahead=table, gl=_gl(), max_image=MAX_IMAGE)
    aspect = 4 / 3 if kind == "robot" else float(rng.choice((4 / 3, 16 / 9)))
    fovy_deg = 58.0 if kind == "robot" else rng.uniform(50.0, 85.0)
    pitch = np.deg2rad((40.0 if kind == "robot" else rng.uniform(5.0, 30.0) if domain == "loco" else rng.uniform(25.0, 40.0)) + rng.normal(0.0, 1.5))
    start = np.zeros(3)
    if domain == "loco":
        for _ in range(200):
            path = motion.body_path(rng, wearer, frames, dt_s, 0.35)
            start = np.array((*rng.uniform(-1, 1, 2) * (room.half_size - 0.6), rng.uniform(-np.pi, np.pi)))
            cos, sin = np.cos(start[2]), np.sin(start[2])
            xy = start[:2] + path.pose[:, :2] @ np.array(((cos, sin), (-sin, cos)))
            if _truly_walks(path.pose, rate_hz) and room.clear(xy, float(path.pose[:, 3].min())):
                break
        sides = ("left", "right") if rng.random() < 0.6 else ()
        moving = rng.random() < 0.4
    else:
        path = motion.standing_path(rng, wearer, frames, dt_s)
        sides = ("left", "right") if rng.random() < 0.85 else ("left",)
        moving = not still
    hands = {side: motion.hand_path(rng, wearer, 1 if side == "left" else -1, frames, dt_s, moving) for side in sides}
    carrying = {side: bool(rng.random() < 0.4) for side in sides}
    height_px = MAX_IMAGE[1]
    width_px = round(height_px * aspect / 16) * 16
    out = np.empty((frames, height_px, width_px, 3), dtype=np.uint8)
    for t in range(frames):
        pose, wobble = (path.pose[0], np.zeros(6)) if still else (path.pose[t], path.wobble[t])
        yaw = start[2] + pose[2]
        turn = rotation(yaw, 0.0)
        position = (
            np.array((*start[:2], 0.0)) + rotation(start[2], 0.0) @ np.array((pose[0], pose[1], 0.0)) + turn @ (wobble[:3] + (0.07, 0, 0)) + (0, 0, pose[3])
        )
        axes = rotation(yaw + wobble[5], pitch + wobble[4], wobble[3])
        where = {
            side: (position + turn @ hands[side][t], position + turn @ (np.array(wearer.shoulder) * (1, 1 if side == "left" else -1, 1))) for side in sides
        }
        out[t] = room.look(position, axes, fovy_deg, where, carrying, width_px, height_px)
    room.close()
    return out


def _stretch(rng: np.random.Generator, frames: int, rate_hz: float, shortest_s: float) -> tuple[int, int]:
    """Frames [first, last) of a fault: at least ``shortest_s`` long, often to the end."""
    length = round(rng.uniform(shortest_s, DURATION_S) * rate_hz)
    first = int(rng.integers(0, max(frames - length, 0) + 1))
    return first, min(first + length, frames)


def blur(rng: np.random.Generator, take: np.ndarray, first: int, last: int) -> None:
    """Out of focus, or smeared in one direction; strong enough that 180 lines look soft."""
    height = take.shape[1]
    if rng.random() < 0.6:
        sigma = rng.uniform(0.012, 0.03) * height
        for t in range(first, last):
            take[t] = cv2.GaussianBlur(take[t], (0, 0), sigma)
        return
    length = round(rng.uniform(0.06, 0.14) * height) | 1
    angle = rng.uniform(0, np.pi)
    kernel = np.zeros((length, length), np.float32)
    centre = length // 2
    end = np.round((np.cos(angle) * centre, np.sin(angle) * centre)).astype(int)
    cv2.line(kernel, (int(centre - end[0]), int(centre - end[1])), (int(centre + end[0]), int(centre + end[1])), 1.0)
    kernel = cv2.GaussianBlur(kernel, (0, 0), 1.0)
    for t in range(first, last):
        take[t] = cv2.filter2D(take[t], -1, kernel / kernel.sum())


def shake(rng: np.random.Generator, take: np.ndarray, first: int, last: int, rate_hz: float) -> None:
    """Jitter of 2.5 to 7 % of the height between 3 and 9 Hz, and a little roll; the picture is enlarged so that no border shows."""
    height, width = take.shape[1:3]
    amplitude = rng.uniform(0.025, 0.07) * height
    t_s = np.arange(len(take)) / rate_hz
    path = np.zeros((len(take), 3))
    for axis, scale in enumerate((amplitude, amplitude, np.deg2rad(1.0))):
        for _ in range(4):
            path[:, axis] += scale / np.sqrt(2.0) * np.sin(2 * np.pi * rng.uniform(3.0, 9.0) * t_s + rng.uniform(0, 2 * np.pi))
    zoom = 1.0 + 4.0 * amplitude / height
    for t in range(len(take)):
        dx, dy, roll = path[t] if first <= t < last else (0.0, 0.0, 0.0)
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), np.rad2deg(roll), zoom)
        matrix[:, 2] += (dx, dy)
        take[t] = cv2.warpAffine(take[t], matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def encode(path: Path, frames: np.ndarray, stamps_s: np.ndarray, *, rate_hz: float, crf: int, turn_deg: int = 0, height: int | None = None) -> None:
    """Write as a camera does: scaled to ``height``, stored turned by ``turn_deg`` with the flag that turns it back."""
    if height is not None and height != frames.shape[1]:
        width = round(frames.shape[2] * height / frames.shape[1] / 2) * 2
        frames = np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC) for frame in frames])
    stored = np.rot90(frames, -turn_deg // 90, axes=(1, 2))
    time_base = Fraction(1, 90000)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate_hz).limit_denominator(1001), options={"crf": str(crf), "preset": "veryfast"})
        stream.height, stream.width = stored.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        stream.codec_context.time_base = time_base
        if turn_deg:
            stream.set_display_rotation(turn_deg)
        for image, stamp in zip(stored, stamps_s, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = round(float(stamp) * 90000), time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _noisy(rng: np.random.Generator, take: np.ndarray) -> np.ndarray:
    sigma = rng.uniform(0.5, 2.5)
    return np.clip(take + sigma * rng.standard_normal(take.shape, dtype=np.float32), 0, 255).astype(np.uint8)


def _save(rng: np.random.Generator, path: Path, take: np.ndarray, rate_hz: float) -> None:
    """Encode with a random size, quality, turn, and, for a fifth of the films, a third of the frames dropped."""
    stamps = np.arange(len(take)) / rate_hz
    if rng.random() < 0.2:
        kept = np.sort(rng.permutation(len(take))[: round(len(take) * 0.67)])
        kept[0] = 0
        take, stamps = take[kept], stamps[kept]
    encode(
        path,
        take,
        stamps,
        rate_hz=rate_hz,
        crf=int(rng.integers(16, 28)),
        turn_deg=int(rng.choice((0, 0, 0, 90, 180, 270))),
        height=int(rng.choice((240, 240, 360, 480, 720))),
    )


def make_film(folder: Path, seed: int, kind: str, index: int) -> list[MadeFilm]:
    """One film of ``kind`` (a duplicate: the film and its copy). The same arguments give the same bytes."""
    rng = np.random.default_rng((seed, KINDS.index(kind), index))
    rate_hz = float(rng.choice((15, 24, 25, 30, 30)))
    domain = kind if kind in ("loco", "mani") else "mani" if kind == "static" or rng.random() < 0.5 else "loco"
    name = f"{kind}_{index:03d}.mp4"
    take = render_take(rng, domain, rate_hz, DURATION_S, still=kind == "static")
    frames = len(take)
    first = last = 0
    if kind in ("blur", "shake"):
        first, last = _stretch(rng, frames, rate_hz, 1.5)
        blur(rng, take, first, last) if kind == "blur" else shake(rng, take, first, last, rate_hz)
    elif kind in ("dark", "over"):
        first, last = _stretch(rng, frames, rate_hz, 1.0)
        gain = rng.uniform(0.02, 0.09) if kind == "dark" else rng.uniform(5.0, 9.0)
        take[first:last] = np.clip(take[first:last] * np.float32(gain) + (0 if kind == "dark" else 60), 0, 255).astype(np.uint8)
    elif kind == "cut":
        first = last = round(frames * rng.uniform(0.3, 0.7))
        other = render_take(rng, domain, rate_hz, DURATION_S)
        height, width = take.shape[1:3]
        take[first:] = other[first:] if other.shape == take.shape else np.stack([cv2.resize(image, (width, height)) for image in other[first:]])
    noisy = _noisy(rng, take)
    if kind == "freeze":  # the sensor's noise stops too: the same picture comes again and again
        first = round(frames * rng.uniform(0.25, 0.5))
        last = min(first + round(rng.uniform(0.8, 2.0) * rate_hz), frames)
        noisy[first:last] = noisy[first - 1]
    elif kind == "static":
        last = frames
    _save(rng, folder / name, noisy, rate_hz)
    label = "mani" if kind == "static" else domain
    if kind != "duplicate":
        return [MadeFilm(name, kind, label, first / rate_hz, last / rate_hz)]
    skip = int(rng.integers(0, round(0.7 * rate_hz)))  # the copy starts later, and has another size, rate and brightness
    step = 2 if rate_hz >= 30 and rng.random() < 0.5 else 1
    copy = np.clip(noisy[skip::step] * np.float32(rng.uniform(0.93, 1.07)), 0, 255).astype(np.uint8)
    original = f"original_{index:03d}.mp4"
    (folder / name).rename(folder / original)
    _save(rng, folder / name, copy, rate_hz / step)
    return [MadeFilm(original, label, label), MadeFilm(name, kind, label, 0.0, DURATION_S, of=original)]


def _make_film(job: tuple[Path, int, str, int]) -> list[MadeFilm]:
    cv2.setNumThreads(1)
    return make_film(*job)


def make_set(folder: Path, seed: int, good: int, faulty: int, log=lambda text: None, workers: int = 1) -> list[MadeFilm]:
    """``good`` films of each domain and ``faulty`` of each fault, and their ``truth.json`` in a folder beside."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(folder, seed, kind, index) for kind in KINDS for index in range(good if kind in ("loco", "mani") else faulty)]
    made: dict[int, list[MadeFilm]] = {}
    work = enumerate(map(_make_film, jobs)) if workers == 1 else in_processes(_make_film, jobs, workers)
    for number, group in work:
        made[number] = group
        if len(made) % 50 == 0 or len(made) == len(jobs):
            log(f"made films: {len(made)} of {len(jobs)}")
    films = [film for number in sorted(made) for film in made[number]]
    write_json(truth_path(folder), {"schema": 1, "seed": seed, "films": [asdict(film) for film in films]})
    return films


def truth_path(folder: Path) -> Path:
    """Beside the folder, not in it."""
    return folder.with_name(f"{folder.name}_truth.json")

"""How films are sorted into locomotion, manipulation and unsure: a confusion table over films rendered by the project, and real ones.

    python benchmarks/video_sorting.py --folder runs/sorting --seed 202 --count 20 --workers 2

Eight kinds, ``count`` films of 4 s each: rooms (a wearer walks, or stands before a table), errands that lead somewhere and hands that move
things, the X2's head camera (sliding, and walking on its own legs in physics), and a hand before a plain wall that fills the picture. Limits
were set on seed 11; docs/data.md reports others. With Debian's package ``opencv-doc`` installed its four films are sorted too.
"""

from __future__ import annotations

import gzip
import json
import multiprocessing
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro

from wbvla_core.checkpoint import write_json
from wbvla_core.console import program
from wbvla_core.robot import load_robot
from wbvla_eval.stats import wilson_interval
from wbvla_sim.episode import run_episode
from wbvla_sim.expert import ScriptedTeleoperator
from wbvla_train.data import demos, video, video_command, x2_video
from wbvla_train.data.film import made
from wbvla_train.data.film.gates import LOCO, MANI, UNSURE, Gates
from wbvla_train.data.film.info import examine

KINDS = ("room_loco", "room_mani", "goal_loco", "goal_mani", "x2_loco", "x2_mani", "x2_walk", "wall_mani")
SECONDS, RATE_HZ = 4.0, 10.0
LINES = 240
TRUTH = {kind: MANI if kind.endswith("mani") else LOCO for kind in KINDS}
OPENCV_DOC = Path("/usr/share/doc/opencv-doc")
REAL = {  # what a person sees in them
    "box.mp4": "a still camera, a hand turns a box: manipulation",
    "cup.mp4": "a still camera before a plain wall, a hand turns a cup: manipulation",
    "vtest.avi": "a still camera above a street, pedestrians: neither",
    "Megamind.avi": "a cartoon: neither",
}


@dataclass(frozen=True)
class SortingConfig:
    """Options.

    Attributes:
        folder: where the films are made. seed: of everything drawn. count: films of each kind. workers: processes.
    """

    folder: Path = Path("runs/sorting")
    seed: int = 202
    count: int = 20
    workers: int = 2


def _wide(images: np.ndarray, aspect: float) -> np.ndarray:
    """Square pictures [T, S, S, 3] in the shape that their camera had."""
    width = round(LINES * aspect / 16) * 16
    return np.stack([cv2.resize(image, (width, LINES), interpolation=cv2.INTER_CUBIC) for image in images])


def _x2_walk(rng: np.random.Generator, seed: int) -> np.ndarray:
    """The robot's head camera while its leg policy walks to a box in physics, [T, 240, 320, 3]; standing parts are left out."""
    config = demos.DemosConfig()
    for attempt in range(20):
        world, controller = demos.build_world(config, load_robot(config.robot), 30_000_000 + 100 * seed + attempt, "walk_to")
        images: list[np.ndarray] = []
        poses: list[tuple[float, float, float]] = []

        def observe(image: np.ndarray, world=world, images=images, poses=poses) -> np.ndarray:
            truth = world.truth()
            images.append(image.copy())
            poses.append((*truth["pelvis_xyz"][:2], truth["yaw_rad"]))
            return image

        color = world.scene.boxes[int(rng.integers(len(world.scene.boxes)))].color
        run_episode(world, controller, ScriptedTeleoperator(world), f"walk to the {color} box", timeout_s=12.0, observe=observe, seed=int(rng.integers(2**31)))
        pose, step = np.array(poses), round(RATE_HZ)
        moves = np.zeros(len(pose), bool)
        moves[step:] = (np.linalg.norm(pose[step:, :2] - pose[:-step, :2], axis=1) > 0.1) | (np.abs(pose[step:, 2] - pose[:-step, 2]) > 0.15)
        first = int(np.argmax(moves)) if moves.any() else 0
        length = round(SECONDS * RATE_HZ)
        if first and len(pose) >= first + length and moves[first : first + length].mean() >= 0.8:
            return np.stack(images[first : first + length])
    raise RuntimeError(f"no walk of {SECONDS:g} s in 20 scenes from seed {seed}")


def wall_take(rng: np.random.Generator, rate_hz: float = RATE_HZ, seconds: float = SECONDS) -> np.ndarray:
    """A still camera before a plain wall, a forearm and hand that move a striped thing in front of it, [T, 240, 320, 3]; drawn, not rendered."""
    frames, width = round(seconds * rate_hz), 320
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, LINES))
    light = rng.uniform(120, 200) + rng.uniform(-25, 25) * x + rng.uniform(-25, 25) * y - rng.uniform(0, 30) * (x**2 + y**2)
    wall = np.clip(light[..., None] * rng.uniform(0.9, 1.05, 3), 0, 255)
    skin = np.array((205, 155, 125)) * rng.uniform(0.5, 1.1)
    stripes = rng.integers(20, 230, (6, 3))
    side = 1 if rng.random() < 0.5 else -1
    rate, phase, reach = rng.uniform(0.25, 0.7, 3), rng.uniform(0, 2 * np.pi, 3), rng.uniform(25, 70, 2)
    out = np.empty((frames, LINES, width, 3), np.uint8)
    for t in range(frames):
        swing = np.sin(2 * np.pi * rate * t / rate_hz + phase)
        centre = np.array((160.0 + reach[0] * swing[0], 120.0 + reach[1] * swing[1]))
        image = wall.copy()
        cv2.line(image, (160 + side * 230, 190), (int(centre[0] + side * 25), int(centre[1] + 10)), skin.tolist(), 34, cv2.LINE_AA)
        turn = 0.5 * swing[2]
        along, across = np.array((np.sin(turn), np.cos(turn))), np.array((np.cos(turn), -np.sin(turn)))
        for k, color in enumerate(stripes):
            corners = [centre + along * (14 * (k - 3 + u)) + across * v for u, v in ((0, -26), (0, 26), (1, 26), (1, -26))]
            cv2.fillConvexPoly(image, np.round(corners).astype(np.int32), color.tolist(), cv2.LINE_AA)
        for k in range(4):
            finger = tuple(int(v) for v in centre + side * across * 10 + along * (16 * (k - 1.5)))
            cv2.ellipse(image, finger, (20, 7), 20.0, 0, 360, (0.9 * skin).tolist(), -1, cv2.LINE_AA)
        out[t] = np.clip(image, 0, 255)
    return out


def take(kind: str, seed: int, index: int) -> tuple[np.ndarray, float]:
    """Pictures [T, H, W, 3] of one film and their rate, Hz. The same arguments give the same film."""
    rng = np.random.default_rng((seed, KINDS.index(kind), index))
    number, frames = seed * 1000 + index, round(SECONDS * RATE_HZ)
    if kind.startswith("room"):
        return made.render_take(rng, kind[5:], 15.0, SECONDS), 15.0
    if kind.startswith("goal"):
        config = video_command.VideoConfig(image_size=LINES, frames=frames, clips_per_room=1, seed=seed)
        images, view, _, _ = next(iter(video._render_goals(rng, config, video.Shard("train", kind, number))))
        return _wide(images, view.aspect), RATE_HZ
    if kind in ("x2_loco", "x2_mani"):
        images, _ = x2_video.record(rng, kind == "x2_loco", 1, frames, LINES, 100_000 + number)
        return _wide(images[0], 4 / 3), RATE_HZ
    return (_x2_walk(rng, number) if kind == "x2_walk" else wall_take(rng)), RATE_HZ


def make(job: tuple[Path, str, int, int]) -> Path:
    """Render one film, unless it is there: sensor noise, a random quality."""
    folder, kind, seed, index = job
    path = folder / f"{kind}_{index:03d}.mp4"
    if not path.exists():
        cv2.setNumThreads(1)
        images, rate_hz = take(kind, seed, index)
        rng = np.random.default_rng((seed, 77, KINDS.index(kind), index))
        noisy = np.clip(images + rng.uniform(0.5, 2.5) * rng.standard_normal(images.shape, dtype=np.float32), 0, 255).astype(np.uint8)
        part = path.with_suffix(".part")
        made.encode(part, noisy, np.arange(len(noisy)) / rate_hz, rate_hz=rate_hz, crf=int(rng.integers(16, 28)))
        part.rename(path)
    return path


def sort_film(path: Path) -> list[dict]:
    """The clips that the gates keep of a film, or are unsure of: domain ("unsure" too), scores, doubt."""
    _, _, segments = examine(path, RATE_HZ, Gates())
    return [{**s.to_json(), "domain": s.reason or s.domain} for s in segments if s.reason in ("", UNSURE)]


def real_films(folder: Path) -> list[Path]:
    """The films of ``opencv-doc``, unpacked; those that are not there are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name in REAL:
        for source in sorted(OPENCV_DOC.rglob(f"{name}*")) if OPENCV_DOC.exists() else ():
            target = folder / name
            if not target.exists():
                target.write_bytes(gzip.decompress(source.read_bytes()) if source.suffix == ".gz" else source.read_bytes())
            found.append(target)
            break
    return found


def table(counts: dict[str, Counter]) -> list[str]:
    """Markdown: per kind what its clips were called; wrong and unsure ones with 95 % Wilson intervals."""
    lines = ["| films | clips | loco | mani | unsure | wrong | unsure |", "|---|---|---|---|---|---|---|"]

    def row(name: str, count: Counter, wrong: int) -> str:
        total = sum(count.values())
        shares = []
        for part in (wrong, count[UNSURE]):
            low, high = wilson_interval(part, total)
            shares.append(f"{part / max(total, 1):.3f} [{low:.3f}, {high:.3f}]")
        return f"| {name} | {total} | {count[LOCO]} | {count[MANI]} | {count[UNSURE]} | {shares[0]} | {shares[1]} |"

    everything, all_wrong = Counter(), 0
    for kind, count in counts.items():
        wrong = count[MANI if TRUTH[kind] == LOCO else LOCO]
        lines.append(row(kind, count, wrong))
        everything, all_wrong = everything + count, all_wrong + wrong
    return [*lines, row("all", everything, all_wrong)]


def evaluate(config: SortingConfig, log=print) -> dict[str, Counter]:
    """Make what is missing, sort, print the table; returns counts per kind."""
    folder = config.folder / f"films_{config.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(folder, kind, config.seed, index) for index in range(config.count) for kind in KINDS]
    with multiprocessing.get_context("spawn").Pool(config.workers) as pool:
        paths = pool.map(make, jobs, chunksize=1)
        clips = pool.map(sort_film, paths, chunksize=4)
    counts = {kind: Counter() for kind in KINDS}
    for (_, kind, _, _), found in zip(jobs, clips, strict=True):
        counts[kind].update(clip["domain"] for clip in found)
    for line in table(counts):
        log(line)
    for path, (_, kind, _, _), found in zip(paths, jobs, clips, strict=True):
        for clip in found:
            if clip["domain"] != TRUTH[kind]:
                why = f"camera motion {clip['loco_score']:.2f} {clip['doubt']} {clip['value']:.2g}"
                log(f"{path.name} {clip['start_s']:.1f}-{clip['end_s']:.1f} s: {clip['domain']} ({why})")
    for path in real_films(config.folder / "real"):
        names = Counter(clip["domain"] for clip in sort_film(path))
        log(f"{path.name} ({REAL[path.name]}): {', '.join(f'{n} {name}' for name, n in sorted(names.items()))}")
    write_json(config.folder / f"sorting_{config.seed}.json", {"seed": config.seed, "counts": json.loads(json.dumps(counts))})
    return counts


def main() -> None:
    evaluate(tyro.cli(SortingConfig, description=__doc__))


if __name__ == "__main__":
    program(main)

"""``wbvla data video``: action-free egocentric video, rendered; the stand-in for the paper's 300 h of head-camera video.

Layout of the output folder (a room is a shard; a finished shard has its ``clips.json``, written last):

    <output>/<split>/<domain>/room_00007/clip_00.mp4 ... clips.json      what training sees: video, stamps, camera
    <output>/truth/<split>/<domain>/room_00007.npz                       what moved; opened by health and tests only

Splits: ``train``, ``dev`` (tuning) and ``test`` (rooms with surfaces of another family and a wider gait, opened last).
Domains: ``loco`` (the camera walks, turns, squats) and ``mani`` (near-still camera, two arms and a table). About half of the
rooms are seen by a human-like camera, the others by one with the robot's lens, height and pitch. ``x2_loco`` and ``x2_mani``
are the simulated robot's own camera in the scenes of its tasks (:mod:`wbvla_train.data.x2_video`). These four are the default: the
checkpoints that ship were trained on them. On demand ``goal_loco`` and ``goal_mani``: rooms in muted colours, more camera heights and
lenses, walks that lead to things and reach for them, a still camera before hands that move things (:mod:`wbvla_train.data.errands`).
``other_loco`` is another robot's camera, for evaluation alone (``dev`` and ``test``): do the codes mean the same through a lens that no training saw?
"""

from __future__ import annotations

import atexit
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from wbvla_core.checkpoint import write_json
from wbvla_core.console import program
from wbvla_core.errors import require_at_least, require_seed, require_shares
from wbvla_core.robot import load_robot
from wbvla_core.workers import in_processes
from wbvla_train.data import motion
from wbvla_train.data.camera import CameraView, robot_view
from wbvla_train.data.mp4 import write_mp4
from wbvla_train.data.video_command import DOMAINS, SPLITS, Domain, Split, VideoConfig

SIDECAR = "clips.json"
ROBOT_VIEW = robot_view(load_robot("x2"))
# Unitree G1: RealSense D435i colour stream (69 x 42 deg), 47.6 deg down by the robot's published URDF.
OTHER_VIEW = CameraView(fovy_deg=42.0, aspect=1.7904, pitch_deg=47.6)


@dataclass(frozen=True)
class Shard:
    """One room to render."""

    split: Split
    domain: Domain
    index: int

    def folder(self, root: Path) -> Path:
        return root / self.split / self.domain / f"room_{self.index:05d}"

    def truth(self, root: Path) -> Path:
        return root / "truth" / self.split / self.domain / f"room_{self.index:05d}.npz"

    def rng(self, seed: int) -> np.random.Generator:
        return np.random.default_rng((seed, SPLITS.index(self.split), DOMAINS.index(self.domain), self.index))


def squash(image: np.ndarray, size: int) -> np.ndarray:
    """[H, W, 3] -> [size, size, 3] by Pillow's bicubic resize, aspect ratio not kept (what perception does to the robot's image)."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def rotation(yaw: float, pitch: float, roll: float = 0.0) -> np.ndarray:
    """[3, 3] axes (x ahead, y left, z up) of a body turned by yaw, then pitched down, then rolled; rad."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    return (
        np.array(((cy, -sy, 0), (sy, cy, 0), (0, 0, 1))) @ np.array(((cp, 0, sp), (0, 1, 0), (-sp, 0, cp))) @ np.array(((1, 0, 0), (0, cr, -sr), (0, sr, cr)))
    )


def _draw_view(rng: np.random.Generator, domain: Domain, kind: str) -> CameraView:
    if kind != "human":
        return OTHER_VIEW if domain == "other_loco" else ROBOT_VIEW
    pitch = rng.uniform(5.0, 25.0) if domain == "loco" else rng.uniform(25.0, 40.0)
    return CameraView(fovy_deg=round(rng.uniform(55.0, 85.0), 1), aspect=round(float(rng.choice((1.0, 4 / 3))), 4), pitch_deg=round(pitch, 1))


def _render_clip(room, rng: np.random.Generator, config: VideoConfig, shard: Shard, wearer: motion.Wearer) -> tuple[np.ndarray, CameraView, dict]:
    """One clip: frames [T, S, S, 3], the camera as its sidecar states it, and the truth."""
    dt_s, frames = 1.0 / config.rate_hz, config.frames
    view = _draw_view(rng, shard.domain, wearer.kind)
    pitch = np.deg2rad(view.pitch_deg + rng.normal(0.0, 1.5))  # what a sidecar states is never quite true
    start = np.zeros(3)
    if shard.domain != "mani":
        for _ in range(30):
            path = motion.body_path(rng, wearer, frames, dt_s, config.change_rate)
            start = np.array((*rng.uniform(-1, 1, 2) * (room.half_size - 0.6), rng.uniform(-np.pi, np.pi)))
            cos, sin = np.cos(start[2]), np.sin(start[2])
            xy = start[:2] + path.pose[:, :2] @ np.array(((cos, sin), (-sin, cos)))
            if room.clear(xy, float(path.pose[:, 3].min())):
                break
        sides = _draw_sides(rng, rng.random() < 0.25)
        moving = {side: rng.random() < 0.4 for side in sides}
        carrying = {side: rng.random() < 0.2 for side in sides}
    else:
        path = motion.standing_path(rng, wearer, frames, dt_s)
        start[2] = rng.uniform(-0.15, 0.15)
        sides = _draw_sides(rng, False)
        moving = {side: rng.random() < 0.75 for side in sides}
        carrying = {side: rng.random() < 0.6 for side in sides}

    hand_paths = {side: motion.hand_path(rng, wearer, 1 if side == "left" else -1, frames, dt_s, moving[side]) for side in sides}
    held = {side: np.full(frames, carrying[side]) for side in sides}
    images, truth = _shoot(room, wearer, view, pitch, start, path, hand_paths, held, config.image_size)
    return images, view, truth


def _shoot(
    room,
    wearer: motion.Wearer,
    view: CameraView,
    pitch: float,
    start: np.ndarray,
    path: motion.BodyPath,
    hand_paths: dict[str, np.ndarray],
    held: dict[str, np.ndarray],
    size: int,
    things: dict[str, np.ndarray] | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Film what was drawn: frames [T, S, S, 3] and their truth. Draws nothing at random.

    Args:
        pitch: the camera's true one, rad. start: [3] x, y, yaw of the path's frame in the room.
        hand_paths: side -> [T, 3] in the level camera frame. held: side -> [T] whether the hand holds its object.
        things: side -> [T, 3] where the object is, level camera frame; instead of ``held``.
    """
    frames = len(path.pose)
    width = round(size * view.aspect)
    images = np.empty((frames, size, size, 3), dtype=np.uint8)
    positions, rotations = np.empty((frames, 3)), np.empty((frames, 3, 3))
    for t in range(frames):
        pose, wobble = path.pose[t], path.wobble[t]
        yaw = start[2] + pose[2]
        turn = rotation(yaw, 0.0)
        position = np.array((*start[:2], 0.0)) + rotation(start[2], 0.0) @ (pose[0], pose[1], 0.0) + turn @ (wobble[:3] + (0.07, 0.0, 0.0)) + (0, 0, pose[3])
        axes = rotation(yaw + wobble[5], pitch + wobble[4], wobble[3])
        hands = {
            side: (position + turn @ hand[t], position + turn @ (np.array(wearer.shoulder) * (1, 1 if side == "left" else -1, 1)))
            for side, hand in hand_paths.items()
        }
        carrying = {side: bool(held[side][t]) for side in held}
        placed = {side: position + turn @ thing[t] for side, thing in (things or {}).items()}
        image = room.look(position, axes, view.fovy_deg, hands, carrying, width, size, placed)
        images[t] = image if width == size else squash(image, size)
        positions[t], rotations[t] = position, axes
    hand_truth = np.full((frames, 2, 3), np.nan)
    for i, side in enumerate(("left", "right")):
        if side in hand_paths:
            hand_truth[:, i] = hand_paths[side]
    return images, {"pose": path.pose, "command": path.command, "hands": hand_truth, "camera_position": positions, "camera_rotation": rotations}


def _draw_sides(rng: np.random.Generator, none: bool) -> tuple[str, ...]:
    """Which arms exist in this clip: usually both; sometimes one is behind the back."""
    if none:
        return ()
    return ("left", "right") if rng.random() < 0.85 else (("left",) if rng.random() < 0.5 else ("right",))


RenderedClip = tuple[np.ndarray, CameraView, str, dict[str, np.ndarray]]  # frames, camera, source, truth
_GL = None  # one GL context per process: creating it costs more than a room
_GL_SIZE = (0, 0)


def render_shard(job: tuple[VideoConfig, Shard]) -> float:
    """Render one room; returns seconds taken. Does nothing if the shard is complete."""
    config, shard = job
    folder, truth_path = shard.folder(config.output), shard.truth(config.output)
    if (folder / SIDECAR).exists() and truth_path.exists():
        return 0.0
    started = time.perf_counter()
    rng = shard.rng(config.seed)
    rendered = {"x2": _render_x2, "goal": _render_goals}.get(shard.domain.partition("_")[0], _render_room)(rng, config, shard)
    folder.mkdir(parents=True, exist_ok=True)
    truth_path.parent.mkdir(parents=True, exist_ok=True)
    clips, truths = [], []
    stamps = np.round(np.arange(config.frames) / config.rate_hz, 3)
    for i, (images, view, source, truth) in enumerate(rendered):
        name = f"clip_{i:02d}.mp4"
        write_mp4(folder / name, images, stamps)
        clips.append({"file": name, "stamps_s": stamps.tolist(), "camera": view.to_json(), "source": source})
        truths.append(truth)
    temporary = truth_path.with_suffix(f".{os.getpid()}.npz")
    np.savez_compressed(temporary, stamps_s=stamps, **{key: np.stack([t[key] for t in truths]).astype(np.float32) for key in truths[0]})
    os.replace(temporary, truth_path)
    write_json(folder / SIDECAR, {"schema": 1, "clips": clips})
    return time.perf_counter() - started


def _largest(size: int) -> tuple[int, int]:
    """Width and height of the largest picture that clips of ``size`` px are squeezed from (16:9)."""
    from wbvla_train.data import rooms

    return max(rooms.MAX_WIDTH, math.ceil(size * 16 / 9)), max(rooms.MAX_HEIGHT, size)


def _gl(size: int):
    """The GL context of this process, large enough for clips of ``size`` px."""
    from wbvla_train.data import rooms

    global _GL, _GL_SIZE
    wanted = _largest(size)
    if _GL is None or _GL_SIZE[0] < wanted[0] or _GL_SIZE[1] < wanted[1]:
        _GL, _GL_SIZE = rooms.mujoco.GLContext(*wanted), wanted
        atexit.register(_GL.free)  # before MuJoCo unloads EGL
    return _GL


def _render_room(rng: np.random.Generator, config: VideoConfig, shard: Shard) -> Iterator[RenderedClip]:
    """Clips of one procedural room."""
    from wbvla_train.data import rooms  # imports MuJoCo: only in processes that render

    kind = "robot" if rng.random() < config.robot_fraction or shard.domain == "other_loco" else "human"
    wearer = motion.ROBOT if kind == "robot" else motion.HUMAN
    if shard.domain == "other_loco":
        wearer = motion.OTHER_ROBOT
    if shard.split == "test":  # another gait too
        wearer = replace(wearer, cadence_hz=(wearer.cadence_hz[0] - 0.2, wearer.cadence_hz[1] + 0.3), bob_m=(0.0, wearer.bob_m[1] * 1.3))
    table = None
    if shard.domain == "mani":  # one standing height per room, the table just below where hands reach
        height = rng.uniform(*wearer.height_m)
        wearer = replace(wearer, height_m=(height, height))
        table = height + wearer.shoulder[2] + motion.REACH_DOWN_M[0] - rng.uniform(0.04, 0.14)
    look = {"held_out": shard.split == "test", "gl": _gl(config.image_size), "max_image": _largest(config.image_size)}
    room = rooms.Room(int(rng.integers(2**31)), rooms.Arms.draw(rng, kind), table_ahead=table, **look)
    for _ in range(config.clips_per_room):
        images, view, truth = _render_clip(room, rng, config, shard, wearer)
        yield images, view, kind, truth
    room.close()


GOAL_HEIGHTS_M = (1.30, 1.85)  # human-like cameras of the goal domains: from a chest mount to a tall head
GOAL_FOVY_DEG = (45.0, 100.0)
HELD_AHEAD_M = np.array((0.05, 0.0, -0.045))  # an object seen from the hand that holds it, before a table


def _render_goals(rng: np.random.Generator, config: VideoConfig, shard: Shard) -> Iterator[RenderedClip]:
    """Clips of one room in muted colours: one long errand cut into clips, or takes of things moved about on a table."""
    from wbvla_train.data import errands, rooms

    walking, dt_s = shard.domain == "goal_loco", 1.0 / config.rate_hz
    kind = "robot" if rng.random() < config.robot_fraction else "human"
    wearer = motion.ROBOT if kind == "robot" else replace(motion.HUMAN, height_m=GOAL_HEIGHTS_M)
    view = ROBOT_VIEW
    if kind == "human":
        aspect = round(float(rng.choice((1.0, 4 / 3, 16 / 9))), 4)
        view = CameraView(round(rng.uniform(*GOAL_FOVY_DEG), 1), aspect, round(rng.uniform(15.0, 35.0) if walking else rng.uniform(28.0, 45.0), 1))
    pitch = np.deg2rad(view.pitch_deg + rng.normal(0.0, 1.5))
    table, height = None, rng.uniform(*wearer.height_m)
    if not walking:
        wearer = replace(wearer, height_m=(height, height))
        table = height + wearer.shoulder[2] - rng.uniform(0.20, 0.30)
    look = {"held_out": shard.split == "test", "gl": _gl(config.image_size), "max_image": _largest(config.image_size)}
    room = rooms.Room(int(rng.integers(2**31)), rooms.Arms.draw(rng, kind), muted=True, table_ahead=table, **look)
    if walking:
        whole = errands.clear_errand(rng, wearer, room, config.clips_per_room * config.frames, dt_s)
    for i in range(config.clips_per_room):
        if walking:
            part = slice(i * config.frames, (i + 1) * config.frames)
            path = motion.BodyPath(whole.path.pose[part], whole.path.command[part], whole.path.wobble[part])
            hands = {side: whole.hands[part, k] for k, side in enumerate(rooms.LIMBS)}
            held = {side: whole.carrying[part, k] for k, side in enumerate(rooms.LIMBS)}
            images, truth = _shoot(room, wearer, view, pitch, np.zeros(3), path, hands, held, config.image_size)
        else:
            path = motion.standing_path(rng, wearer, config.frames, dt_s)
            path = replace(path, wobble=0.4 * path.wobble)  # on a head that holds still, or on a stand
            work = {
                side: errands.pick_and_place(rng, wearer, sign, table - height, room.thing_half_height(side), config.frames, dt_s, HELD_AHEAD_M)
                for side, sign in (("left", 1), ("right", -1))
            }
            hands, held = {side: h.hand for side, h in work.items()}, {side: h.held for side, h in work.items()}
            things = {side: h.thing for side, h in work.items()}
            images, truth = _shoot(room, wearer, view, pitch, np.zeros(3), path, hands, held, config.image_size, things)
        yield images, view, kind, truth
    room.close()


def _render_x2(rng: np.random.Generator, config: VideoConfig, shard: Shard) -> Iterator[RenderedClip]:
    """Clips of one episode of the simulated robot."""
    from wbvla_train.data import x2_video

    if config.rate_hz != x2_video.RATE_HZ:
        raise ValueError(f"the robot's camera runs at {x2_video.RATE_HZ} Hz, --rate-hz {config.rate_hz} is not possible for {shard.domain}")
    scene_seed = SPLITS.index(shard.split) * 1_000_000 + DOMAINS.index(shard.domain) * 100_000 + shard.index
    images, truth = x2_video.record(rng, shard.domain == "x2_loco", config.clips_per_room, config.frames, config.image_size, scene_seed)
    for i in range(config.clips_per_room):
        yield images[i], ROBOT_VIEW, "x2", {key: value[i] for key, value in truth.items()}


def render(config: VideoConfig, log=print) -> int:
    """Render all missing shards in parallel processes; returns how many were rendered.

    Raises:
        WbvlaError: a clip of one frame, a room without clips, a seed below 0, no process to render in.
    """
    require_at_least(config, clips_per_room=1, frames=2, workers=1, image_size=8, rate_hz=0.1)
    require_at_least(config, train_rooms=0, dev_rooms=0, test_rooms=0, x2_rooms=0, goal_rooms=0)
    require_shares(config, "", "robot_fraction", "change_rate")
    require_seed(config)
    shards = [Shard(split, domain, i) for split in config.splits for domain in config.domains for i in range(config.rooms(split, domain))]
    # Small splits first and domains in turn: an interrupted run leaves a smaller corpus, not half of one.
    shards.sort(key=lambda s: (s.split == "train", s.index, s.domain))
    missing = [s for s in shards if not ((s.folder(config.output) / SIDECAR).exists() and s.truth(config.output).exists())]
    there = len(shards) - len(missing)
    log(f"video: {len(shards)} rooms wanted in {config.output}, {there} are there, {len(missing)} to render with {config.workers} processes")
    if not missing:
        return 0
    config.output.mkdir(parents=True, exist_ok=True)
    settings = {key: (str(value) if isinstance(value, Path) else value) for key, value in vars(config).items()}
    (config.output / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    started = time.perf_counter()
    work = in_processes(render_shard, [(config, s) for s in missing], config.workers)
    for done, _ in enumerate(work, start=1):
        if done % 20 == 0 or done == len(missing):
            elapsed = time.perf_counter() - started
            log(f"video: {done}/{len(missing)} rooms, {elapsed:.0f} s, {elapsed / done * (len(missing) - done):.0f} s to go")
    return len(missing)


if __name__ == "__main__":
    from wbvla_train.data.video_command import main

    program(main)

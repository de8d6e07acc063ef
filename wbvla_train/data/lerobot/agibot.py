"""AgiBot World's raw layout (Alpha, Beta) -> a LeRobot v3 data set. Only the loader is here: the data are CC BY-NC-SA 4.0 and come from their publisher.

task_info/task_327.json                                  per episode: task_name, sub-tasks (action_text, start_frame, end_frame)
proprio_stats/327/648642/proprio_stats.h5                timestamp [N] ns; state/ and action/ with joint, effector, end, head, robot, waist
observations/327/648642/videos/head_color.mp4, ...       one mp4 a camera; depth/ beside it, and parameters/, are not read

How well each field is known stands in docs/data.md. Values are checked against their unit: a file in other units is refused, not guessed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wbvla_train.data.lerobot.assemble import assemble
from wbvla_train.data.lerobot.episode import ABOUT, DataError, Episode, EpisodeWriter, RowError, shown
from wbvla_train.data.lerobot.options import AgibotOptions
from wbvla_train.data.lerobot.pictures import FINER, JITTER, nearest, read_joined, require_picture, scan

SCHEMA = 1  # of what an episode becomes; raise it when the same files would become another
ROBOT = "a2d"  # AgiBot G1, as the published conversions call it
CLOCK_RATE = 0.01  # a camera of nominal 30 fps may run this much faster or slower than its file says
ARMS = tuple(f"{side}_arm_{i}" for side in ("left", "right") for i in range(7))
HANDS = tuple(f"{side}_hand_{i}" for side in ("left", "right") for i in range(6))


@dataclass(frozen=True)
class Field:
    """A dataset of the HDF5 file that becomes a column.

    Attributes:
        path: in the file; column: in the data set; names: of its numbers, with unit where that is not rad.
        low, high: what its values can be, in the file's unit (ours, from the hardware's limits with room to spare).
        scale: from the file's unit to ours (SI). needed: an episode without it is refused; else a data set has it where all its episodes do.
    """

    path: str
    column: str
    names: tuple[str, ...]
    unit: str
    low: float
    high: float
    scale: float = 1.0
    needed: bool = True

    @property
    def feature(self) -> dict[str, Any]:
        return {"dtype": "float32", "shape": [len(self.names)], "names": list(self.names)}


def _sides(*names: str) -> tuple[str, ...]:
    return tuple(f"{side}_{name}" for side in ("left", "right") for name in names)


def fields(hands: bool) -> tuple[Field, ...]:
    """What is read; ``hands``: six-joint hands [N, 12], else grippers [N, 2]."""
    found = []
    for source, column in (("state", "observation.states"), ("action", "actions")):
        found += [
            Field(f"{source}/joint/position", f"{column}.joint.position", ARMS, "rad", -6.3, 6.3),
            Field(f"{source}/head/position", f"{column}.head.position", ("yaw", "pitch"), "rad", -3.2, 3.2),
            Field(f"{source}/waist/position", f"{column}.waist.position", ("pitch", "lift_m"), "rad and m", -3.2, 3.2),
            Field(f"{source}/end/position", f"{column}.end.position", _sides("x_m", "y_m", "z_m"), "m", -3.0, 3.0, needed=False),
            Field(f"{source}/end/orientation", f"{column}.end.orientation", _sides("qx", "qy", "qz", "qw"), "unit quaternions", -1.05, 1.05, needed=False),
        ]
        if hands:
            found.append(Field(f"{source}/effector/position", f"{column}.effector.position", HANDS, "rad", -6.3, 6.3))
    if not hands:
        opening, closed = _sides("gripper_opening_m"), _sides("gripper_closed")
        found.append(Field("state/effector/position", "observation.states.effector.position", opening, "mm", -2.0, 130.0, scale=1e-3))
        found.append(Field("action/effector/position", "actions.effector.position", closed, "0 (open) to 1 (closed)", -0.05, 1.05))
    found.append(Field("action/robot/velocity", "actions.robot.velocity", ("forward_m_s", "yaw_rad_s"), "m/s and rad/s", -5.0, 5.0, needed=False))
    return tuple(found)


@dataclass(frozen=True)
class Source:
    """The files of one episode."""

    root: Path
    task: str
    episode: str

    @property
    def name(self) -> str:
        return f"{self.task}/{self.episode}"

    @property
    def h5(self) -> Path:
        return self.root / "proprio_stats" / self.task / self.episode / "proprio_stats.h5"

    @property
    def info(self) -> Path:
        return self.root / "task_info" / f"task_{self.task}.json"

    def video(self, camera: str) -> Path:
        return self.root / "observations" / self.task / self.episode / "videos" / f"{camera}_color.mp4"


@dataclass(frozen=True)
class Proprio:
    """What an HDF5 file holds: times_s [N] since the first row; columns: name -> [N, D], SI; hands: see :func:`fields`."""

    times_s: np.ndarray
    columns: dict[str, np.ndarray]
    hands: bool


def require_h5py() -> Any:
    """The package that reads HDF5, or one sentence."""
    try:
        import h5py
    except ImportError as error:
        raise DataError("AgiBot World's raw layout is HDF5, and reading it needs h5py: pip install 'wbvla[train]' -c requirements/pins.txt") from error
    return h5py


def find_episodes(root: Path, tasks: Sequence[str] = ()) -> list[Source]:
    """All episodes that have rows or videos, in the order of their numbers.

    Raises:
        DataError: no such layout, or still packed.
    """
    found = {
        Source(root, path.parent.name, path.name)
        for part in ("proprio_stats", "observations")
        for path in (root / part).glob("*/*")
        if path.is_dir() and (not tasks or path.parent.name in tasks)
    }
    if not found:
        packed = len(list(root.glob("*/*.tar"))) + len(list(root.glob("*/*/*.tar")))
        why = f"; it has {packed} .tar files: unpack them first" if packed else ""
        which = f"no episode of the tasks {', '.join(tasks)}" if tasks and (root / "proprio_stats").is_dir() else "no AgiBot World data"
        raise DataError(f"{shown(root)}: {which} (task_info/, proprio_stats/TASK/EPISODE/proprio_stats.h5, observations/TASK/EPISODE/videos expected){why}")
    return sorted(found, key=lambda source: (source.task.zfill(12), source.episode.zfill(12)))


def read_proprio(path: Path) -> Proprio:
    """Read and check one HDF5 file.

    Raises:
        DataError: not readable, fields missing, of other sizes than the rows, or not in the units that are expected.
    """
    h5py = require_h5py()
    if not path.is_file():
        raise DataError(f"{shown(path)} is missing")
    try:
        with h5py.File(path, "r", locking=False) as file:
            times = _times(path, file)
            effector = _array(file, "state/effector/position")
            width = effector.shape[1] if effector is not None and effector.ndim == 2 else 0
            columns = {}
            for field in fields(hands=width == len(HANDS)):
                values = _array(file, field.path)
                if values is not None:
                    columns[field.column] = _checked(path, field, values, len(times))
                elif field.needed:
                    raise DataError(f"{shown(path)} has no {field.path} (missing or empty)")
    except (OSError, KeyError, RuntimeError, TypeError) as error:
        raise DataError(f"{shown(path)} is not readable as HDF5: {str(error).splitlines()[0]}") from error
    return Proprio(times, columns, hands=width == len(HANDS))


def _array(file: Any, path: str) -> np.ndarray | None:
    """A dataset's numbers; None where it is missing or empty, as unused fields are."""
    values = np.asarray(file[path][()]) if path in file and hasattr(file[path], "shape") else np.zeros(0)
    return values if values.size else None


def _times(path: Path, file: Any) -> np.ndarray:
    stamps = _array(file, "timestamp")
    if stamps is None or stamps.ndim != 1 or len(stamps) < 2:
        raise DataError(f"{shown(path)}: timestamp [N] in nanoseconds expected, got {None if stamps is None else stamps.shape}")
    if stamps.dtype.kind not in "iu":
        raise DataError(f"{shown(path)}: timestamp as whole nanoseconds expected, got {stamps.dtype}; is it another release (simulation)?")
    steps = np.diff(stamps.astype(np.int64))  # before floats: they cannot hold nanoseconds since 1970
    if (steps <= 0).any():
        row = int((steps <= 0).argmax()) + 1
        raise RowError(f"{shown(path)}, row {row}: timestamp must go up, got {stamps[row]} after {stamps[row - 1]}", row)
    if not 2e6 <= np.median(steps) <= 2e8:
        raise DataError(f"{shown(path)}: rows 2 to 200 ms apart expected, got {np.median(steps) * 1e-6:g} ms: timestamp is not in nanoseconds?")
    return np.concatenate(([0], np.cumsum(steps))) * 1e-9


def _checked(path: Path, field: Field, values: np.ndarray, rows: int) -> np.ndarray:
    """[N, D] in our unit."""
    size = len(field.names)
    if len(values) != rows or int(np.prod(values.shape[1:])) != size:
        raise DataError(f"{shown(path)}: {field.path} of {rows} x {size} numbers expected, got {values.shape}")
    values = values.reshape(rows, size).astype(np.float64)
    if not np.isfinite(values).all():
        row, entry = np.argwhere(~np.isfinite(values))[0]
        raise RowError(f"{shown(path)}, row {row}: {field.path} {field.names[entry]} is {values[row, entry]}", int(row))
    outside = (values < field.low) | (values > field.high)
    if outside.any():
        row, entry = np.argwhere(outside)[0]
        came = f"{field.names[entry]} is {values[row, entry]:g}"
        raise RowError(f"{shown(path)}, row {row}: {field.path} in {field.unit} ({field.low:g} to {field.high:g}) expected, {came}: other units?", int(row))
    if field.unit == "mm" and 0.0 < values.max() <= 2.0:
        raise DataError(f"{shown(path)}: {field.path} in mm (0 to 120) expected, got at most {values.max():g}: radians, metres or a share?")
    if field.unit.endswith("quaternions") and (off := np.abs(np.linalg.norm(values.reshape(rows, 2, 4), axis=2) - 1.0)).max() > 0.05:
        row = int(off.max(1).argmax())
        raise RowError(f"{shown(path)}, row {row}: {field.path} must be unit quaternions, one has length {1 + off[row].max():.3f} off", row)
    return (values * field.scale).astype(np.float32)


def sentences(source: Source, rows: int, *, subtasks: bool) -> list[str]:
    """Per row of the HDF5 file, what the robot does: the sub-task that began last and has not ended, else the task's name."""
    try:
        entries = json.loads(source.info.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"{shown(source.info)} is missing: it has the sentences") from None
    except ValueError as error:
        raise DataError(f"{shown(source.info)} is damaged: {error}") from error
    try:
        own = [entry for entry in entries if str(entry["episode_id"]) == source.episode]
        if not own:
            raise DataError(f"{shown(source.info)} has no entry of episode {source.episode}")
        entry = own[0]
        if any(other != entry for other in own):
            raise DataError(f"{shown(source.info)} has {len(own)} different entries of episode {source.episode}: which of them holds cannot be told")
        name = entry["task_name"].strip()
        steps = (entry.get("label_info") or {}).get("action_config") or [] if subtasks else []
        parts = sorted((int(step["start_frame"]), int(step["end_frame"]), (step["action_text"] or "").strip()) for step in steps)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{shown(source.info)}, episode {source.episode}: task_name and label_info.action_config expected: {error!r}") from error
    out = [name] * rows
    for start, end, text in parts:
        if not 0 <= start < min(end, rows):
            raise DataError(f"{shown(source.info)}, episode {source.episode}: sub-task {text!r} from frame {start} to {end}, the episode has {rows} rows")
        if text:
            out[start:end] = [text] * (min(end, rows) - start)
    if not all(out):
        raise DataError(f"{shown(source.info)}, episode {source.episode}: row {out.index('')} has no sentence")
    return out


def picture_times(path: Path, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """When the pictures of a video were taken.

    The mp4 has even stamps of its own, from 0; the rows have the recorder's. Both must tell the same course of time: as many pictures as rows, one rate but for
    1 % (a nominal 30 fps), and no pause that the other does not have. Where they do not, which picture belongs to which row cannot be told.

    Returns:
        stamps in the file [N], s; the same on the rows' clock [N], s.

    Raises:
        DataError: they tell different courses.
    """
    video = scan(path)
    own = video.stamps_s - video.stamps_s[0]
    if len(own) != len(times_s):
        raise DataError(f"{shown(path)}: {len(own)} pictures for {len(times_s)} rows: which were lost cannot be told")
    rate = times_s[-1] / own[-1] if own[-1] > 0 else np.inf
    if not abs(rate - 1.0) <= CLOCK_RATE:
        raise DataError(f"{shown(path)}: the pictures last {own[-1]:.2f} s, the rows {times_s[-1]:.2f} s")
    off = np.abs(own * rate - times_s)
    if (limit := JITTER * float(np.median(np.diff(own)))) < off.max():
        row = int((off > limit).argmax())
        raise RowError(f"{shown(path)}: at row {row} ({times_s[row]:.2f} s) its picture's stamp is {off[row]:.3f} s away: a pause in one of the two?", row)
    return video.stamps_s, own * rate


def convert_episode(source: Source, folder: Path, options: AgibotOptions, keep: frozenset[str]) -> Episode:
    """One episode as a finished episode at ``options.fps``: each of its frames has the row and the pictures nearest by time.

    Args:
        keep: columns that the data set has.

    Raises:
        DataError: what is wrong with it.
    """
    proprio = read_proprio(source.h5)
    said = sentences(source, len(proprio.times_s), subtasks=options.subtasks)
    step_s = float(np.median(np.diff(proprio.times_s)))
    if 1.0 / options.fps < FINER * step_s:
        raise DataError(f"{shown(source.h5)} has {1 / step_s:.3g} rows/s: --fps of at most {1 / (FINER * step_s):.3g} expected, got {options.fps:g}")
    wanted = np.arange(int(proprio.times_s[-1] * options.fps + 1e-6) + 1) / options.fps
    rows = nearest(proprio.times_s, wanted)
    off = np.abs(proprio.times_s[rows] - wanted)
    if (off > JITTER * step_s).any():
        row = int(rows[(off > JITTER * step_s).argmax()])
        raise RowError(f"{shown(source.h5)}: a gap of {np.diff(proprio.times_s).max():.2f} s in timestamp near row {row}", row)
    films, taken = {}, np.zeros((len(wanted), len(options.cameras)))
    for i, camera in enumerate(options.cameras):
        stamps, clock = picture_times(source.video(camera), proprio.times_s)
        place = nearest(clock, proprio.times_s[rows])
        films[f"observation.images.{camera}"], taken[:, i] = (source.video(camera), stamps[place]), clock[place]
    kept = [field for field in fields(proprio.hands) if field.column in keep]
    features = {field.column: field.feature for field in kept} | {"observation.stamp_s": {"dtype": "float64", "shape": [1], "names": ["stamp_s"]}}
    features["observation.skew_s"] = {"dtype": "float32", "shape": [len(options.cameras)], "names": list(options.cameras)}
    with EpisodeWriter(folder, features, options.fps) as writer:
        readers = {key: _pictures(path, times, source) for key, (path, times) in films.items()}
        for k, row in enumerate(rows):
            values = {field.column: proprio.columns[field.column][row] for field in kept}
            values |= {"observation.stamp_s": proprio.times_s[row], "observation.skew_s": taken[k] - proprio.times_s[row]}
            writer.add(values, {key: next(reader) for key, reader in readers.items()}, said[row])
        about = {
            "source": source.name,
            "rows": len(proprio.times_s),
            "rows_hz": round(1 / step_s, 3),
            "robot": ROBOT,
            "effector": "hand" if proprio.hands else "gripper",
        }
        return writer.finish(about)


def _pictures(path: Path, stamps_s: np.ndarray, source: Source) -> Iterator[np.ndarray]:
    for row, (stamp, image) in enumerate(read_joined(path, stamps_s, period_s=0.0)):
        yield require_picture(image, stamp, stamps_s[row], path, int(source.episode) if source.episode.isdigit() else 0, row)


def convert(root: Path, output: Path, options: AgibotOptions, log: Callable[[str], None] = print) -> int:
    """All episodes below ``root`` to one data set; resumable. Returns 1 where an episode was left out (each is named with its reason).

    Raises:
        DataError: nothing there, nothing that could be read, or ``output`` exists.
    """
    require_h5py()
    if output.exists():
        raise DataError(f"{shown(output)} exists already; name a folder that does not")
    sources = find_episodes(root, options.tasks)
    left: list[str] = []
    plans: list[tuple[Source, frozenset[str], bool]] = []
    seen: dict[str, str] = {}
    for source in sources:
        try:
            proprio = read_proprio(source.h5)
            numbers = hashlib.sha256(b"".join(proprio.columns[key].tobytes() for key in sorted(proprio.columns))).hexdigest()
            if seen.setdefault(numbers, source.name) != source.name:
                raise DataError(f"the same rows as {seen[numbers]}")
            plans.append((source, frozenset(proprio.columns), proprio.hands))
        except DataError as error:
            left.append(f"{source.name}: {error}")
    if len({hands for _, _, hands in plans}) > 1:
        some = {hands: source.task for source, _, hands in plans}
        raise DataError(f"task {some[False]} has grippers, task {some[True]} has hands: a data set holds one kind; choose with --tasks")
    keep = frozenset.intersection(*(columns for _, columns, _ in plans)) if plans else frozenset()
    dropped = sorted(frozenset().union(*(columns for _, columns, _ in plans)) - keep)
    if dropped:
        log(f"not in every episode, and therefore not in the data set: {', '.join(dropped)}")
    staging, kept = output.with_name(output.name + ".staging"), []
    for number, (source, _, _) in enumerate(plans, 1):
        folder = staging / _key(source, options, keep)
        try:
            kept.append(Episode.load(folder) if (folder / ABOUT).is_file() else convert_episode(source, folder, options, keep))
            log(f"{number}/{len(plans)} {source.name}: {kept[-1].length} frames")
        except DataError as error:
            left.append(f"{source.name}: {error}")
            log(f"{number}/{len(plans)} {source.name}: left out")
    for line in left:
        log(f"left out: {line}")
    if not kept:
        raise DataError(f"none of the {len(sources)} episodes could be read" + (f", the first because: {left[0]}" if left else ""))
    provenance = {"made_from": [root.name], "layout": "AgiBot World, raw", "columns_left_out": dropped, "left_out": left}
    info = assemble(kept, output, robot_type=ROBOT, provenance=provenance)
    shutil.rmtree(staging, ignore_errors=True)
    log(f"{shown(output)}: {info['total_episodes']} episodes, {info['total_frames']} frames ({info['total_frames'] / options.fps:.0f} s)")
    return 1 if left else 0


def _key(source: Source, options: AgibotOptions, keep: frozenset[str]) -> str:
    """Names the staged episode by all that it depends on."""
    files = [source.h5, source.info, *(source.video(camera) for camera in options.cameras)]
    state = [(path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None for path in files]
    text = json.dumps([SCHEMA, source.name, options.cameras, options.fps, options.subtasks, sorted(keep), state])
    return hashlib.sha256(text.encode()).hexdigest()[:24]

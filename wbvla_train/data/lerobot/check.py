"""``wbvla dataset check``: what is wrong in a data set, episode by episode, with the frame where it begins.

Thresholds are ours: on walks of the simulated X2 the legs' joint speeds (root of the mean square over joints and a second) are above 0.25 rad/s while
a flag is set and below 0.2 rad/s from one second after.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wbvla_core.robot import RobotSpecError, load_robot
from wbvla_train.data.lerobot.bag import Loss
from wbvla_train.data.lerobot.check_pictures import Finding, pictures
from wbvla_train.data.lerobot.episode import ARROW, DataError, shown
from wbvla_train.data.lerobot.lag import LagMeter
from wbvla_train.data.lerobot.reader import EMBEDDED, Dataset, View, open_dataset
from wbvla_train.data.lerobot.schema import IMU, LOCO

SKEW_S, LAG_S = 0.02, 0.045
RATE, GAP_PERIODS = 0.05, 2.5
IDLE_RAD_S, BUSY_RAD_S = 0.15, 0.4
STUCK_TOLD, STUCK_MOVED = 0.15, 1e-6  # rad: a joint that was told to move this far and did not move at all
OFF_TRACK_RAD = 0.5
FILLED_MOVED = 0.02  # rad: a joint that moves this far has a velocity
FREEZE_S = 0.5
SAME_IMAGE = 0.05  # mean difference of two images, of 255: below, it is the same image coded again


def check(root: Path, *, images: bool = True, only: Collection[int] | None = None) -> list[Finding]:
    """All findings, ``episode`` -1 for those of the whole data set. DataError where it cannot be opened at all.

    Args:
        images: decode the videos, too; stamps of pictures are compared with the rows' either way.
        only: look into the episodes of these numbers alone.
    """
    return check_dataset(open_dataset(root), images=images, only=only)


def check_dataset(dataset: Dataset, *, images: bool = True, only: Collection[int] | None = None) -> list[Finding]:
    """:func:`check` of an open data set."""
    found: list[Finding] = list(_whole(dataset))
    joined = {camera: pictures(dataset, camera) for camera in dataset.cameras}
    seen: dict[str, int] = {}
    for view in dataset.views:
        if only is not None and view.index not in only:
            continue
        columns: dict[str, np.ndarray] = {}
        found += [Finding(view.index, "not measured", "warning", 0, note) for note in view.about.get("notes", ())]
        found += [Finding(view.index, "lost", "warning", 0, str(Loss(**loss))) for loss in view.about.get("lost_messages", ())]
        try:
            columns = view.columns()
            found += _numbers(dataset, view, columns, seen)
        except DataError as error:
            found.append(Finding(view.index, "unreadable", "error", getattr(error, "frame", 0), str(error)))
        for camera in dataset.cameras:
            mine = joined[camera][view.index]
            found += mine
            if any(finding.severity == "error" for finding in mine):
                continue  # which picture is whose is not known
            try:
                if images and columns and _in_order(view):
                    found += _images(dataset, view, camera, columns)
            except DataError as error:
                found.append(Finding(view.index, "unreadable", "error", getattr(error, "frame", 0), str(error)))
    return found


def _in_order(view: View) -> bool:
    try:
        return len(view.times_s) > 0
    except DataError:
        return False


def digest(view: View, columns: dict[str, np.ndarray]) -> str | None:
    """Fingerprint of an episode's states and actions; None where it has neither."""
    kept = [key for key in (view.dataset.role("state"), view.dataset.role("action")) if key]
    return hashlib.sha256(b"".join(np.ascontiguousarray(columns[key]).tobytes() for key in kept)).hexdigest() if kept else None


def _whole(dataset: Dataset) -> Iterator[Finding]:
    def say(kind: str, text: str, severity: str = "error") -> Finding:
        return Finding(-1, kind, severity, 0, text)

    total = sum(view.length for view in dataset.views)
    for name, said, there in (("episodes", "total_episodes", len(dataset.views)), ("frames", "total_frames", total)):
        if dataset.info.get(said) != there:
            yield say("count", f"meta/info.json says {dataset.info.get(said)} {name}, the list of episodes has {there}")
    numbers = [view.index for view in dataset.views]
    if numbers != list(range(len(numbers))):
        twice = sorted({n for n in numbers if numbers.count(n) > 1})
        why = f"{twice} are listed twice" if twice else f"got {numbers[:8]}{' ...' if len(numbers) > 8 else ''}"
        yield say("count", f"episodes must be numbered 0 to {len(numbers) - 1}: {why}")
    if not dataset.views:
        yield say("count", "no episode")
    for key, feature in dataset.features.items():
        if feature["dtype"] == "image":
            yield say("images", EMBEDDED.format(key=key))
        elif feature["dtype"] != "video" and feature["dtype"] not in ARROW:
            yield say("type", f"{key} is of type {feature['dtype']}; known are {', '.join(ARROW)} and video")
    for key in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        if key not in dataset.features:
            yield say("count", f"meta/info.json names no column {key}, which every data set has")
    if list(dataset.tasks) != list(range(len(dataset.tasks))):
        yield say("task", f"the table of tasks is not in the order of task_index (got {list(dataset.tasks)[:8]}): lerobot takes its rows by place", "warning")
    yield from (say("count", text) for text in _strangers(dataset))
    yield from (say("not read", text, "warning") for text in _unannounced(dataset))


def _unannounced(dataset: Dataset) -> Iterator[str]:
    """What lies in the files and meta/info.json does not name: it is not in what is made of the data set."""
    for path in sorted({view.data for view in dataset.views})[:1]:
        try:
            more = [name for name in pq.read_schema(path).names if name not in dataset.features]
        except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue  # said for each of its episodes
        if more:
            yield f"{shown(path)} has the columns {more}, which meta/info.json does not name"
    owned = {path for view in dataset.views for path, _ in view.videos.values()}
    more = [path for path in sorted((dataset.root / "videos").rglob("*.mp4")) if path not in owned and not path.name.startswith(".")]
    if more:
        yield f"{len(more)} video files belong to no listed episode or camera, the first is {shown(more[0])}"


def _strangers(dataset: Dataset) -> Iterator[str]:
    """Files and rows of the data folder that no listed episode owns: readers that take the whole folder get them, too."""
    owners: dict[Path, set[int]] = {}
    for view in dataset.views:
        owners.setdefault(view.data, set()).add(view.index)
    for path in sorted((dataset.root / "data").rglob("*.parquet")):
        if path not in owners:
            yield f"{shown(path)} belongs to no listed episode; move it away, or restore meta/episodes"
            continue
        try:
            there = set(pq.read_table(path, columns=["episode_index"])["episode_index"].unique().to_pylist())
        except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue  # said for each of its episodes
        if more := sorted(there - owners[path], key=str):
            yield f"{shown(path)} has rows of episodes {more[:8]}, which are not listed; was the recorder killed? Restore meta/episodes"


def _numbers(dataset: Dataset, view: View, columns: dict[str, np.ndarray], seen: dict[str, int]) -> Iterator[Finding]:
    def say(kind: str, severity: str, frame: int, text: str) -> Finding:
        return Finding(view.index, kind, severity, int(frame), text)

    count = len(columns["frame_index"])
    if count != view.length:
        yield say("count", "error", min(count, view.length), f"{view.length} frames announced, {count} in the file")
    if count == 0:
        if view.length == 0:
            yield say("count", "error", 0, "no frame")
        return
    expected = {"frame_index": np.arange(count)}
    if view.first_index is not None:
        expected["index"] = view.first_index + np.arange(count)
    elif np.ptp(columns["index"]) != count - 1 or (np.diff(columns["index"][:, 0]) != 1).any():
        expected["index"] = columns["index"][0, 0] + np.arange(count)
    for key, numbers in expected.items():
        if (wrong := columns[key][:, 0] != numbers).any():
            row = int(wrong.argmax())
            yield say("count", "error", row, f"{key} must count up from {numbers[0]}: {numbers[row]} expected, got {columns[key][row, 0]} (rows out of order?)")
    yield from _tasks(dataset, view, columns)
    not_measured = view.about.get("not_measured", {})  # the converter's note says so already
    for key, values in columns.items():
        bad = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros((1, 1), bool)
        bad = bad & [name not in not_measured[key] for name in dataset.names(key)] if key in not_measured else bad
        if bad.any():
            frame, entry = np.argwhere(bad)[0]
            yield say("nan", "error", frame, f"{key} {dataset.names(key)[entry]} is {values[frame, entry]}")
    stamps = columns["timestamp"][:, 0].astype(np.float64)
    off = np.abs(stamps - np.arange(count) / dataset.fps)
    if not off.max() <= 1e-3 + 1e-6 * count:
        yield say("rate", "error", off.argmax(), f"timestamp is {off.max():.3f} s off frame_index / {dataset.fps:g} Hz")
    yield from _clock(dataset, view, columns)
    fingerprint = digest(view, columns)
    if fingerprint and seen.setdefault(fingerprint, view.index) != view.index:
        yield say("duplicate", "error", 0, f"the same states and actions as episode {seen[fingerprint]}")
    state, action = dataset.role("state"), dataset.role("action")
    if state and action:
        yield from _joints(dataset, view, columns, state, action)
    if state and (velocity := dataset.role("velocity")):
        yield from _velocities(dataset, view, columns, state, velocity)
    yield from _motion(dataset, view, columns)


def _tasks(dataset: Dataset, view: View, columns: dict[str, np.ndarray]) -> Iterator[Finding]:
    """Sentences of the rows against the table of tasks and the list of episodes."""
    try:
        said = view.task_indices
    except DataError as error:
        yield Finding(view.index, "task", "error", getattr(error, "frame", 0), str(error))
        return
    rows = {dataset.tasks[i] for i in np.unique(said).tolist()}
    if any(not text.strip() for text in rows):
        yield Finding(view.index, "task", "warning", 0, "an empty sentence")
    if rows != set(view.tasks):
        text = f"the list of episodes says {sorted(view.tasks)}, the rows' task_index says {sorted(rows)}"
        yield Finding(view.index, "task", "error", 0, text)


def _clock(dataset: Dataset, view: View, columns: dict[str, np.ndarray]) -> Iterator[Finding]:
    skew, stamp = dataset.role("skew"), dataset.role("stamp")
    if skew:
        p99 = np.quantile(np.abs(columns[skew]), 0.99, axis=0)
        for name, value in zip(dataset.names(skew), p99):
            if value > SKEW_S:
                yield Finding(view.index, "skew", "error", int(np.abs(columns[skew]).max(1).argmax()), f"{name} {value * 1e3:.0f} ms from the images")
    if stamp and len(columns[stamp]) > 2:
        steps = np.diff(columns[stamp][:, 0])
        rate = 1.0 / max(float(np.median(steps)), 1e-9)
        if abs(rate - dataset.fps) > RATE * dataset.fps:
            yield Finding(view.index, "rate", "error", 0, f"images came at {rate:.2f} Hz, the data set says {dataset.fps:g} Hz")
        if (steps <= 0).any():
            yield Finding(view.index, "clock", "error", int((steps <= 0).argmax()), "the images' stamps go back")
        if steps.max() > GAP_PERIODS / dataset.fps:
            yield Finding(view.index, "gap", "warning", int(steps.argmax()), f"{steps.max():.2f} s without an image")


def _joints(dataset: Dataset, view: View, columns: dict[str, np.ndarray], state: str, action: str) -> Iterator[Finding]:
    """Joints that are told to move and do not, or go their own way; by the names that state and action share."""
    places = {name: i for i, name in enumerate(dataset.names(state)) if not name.isdigit()}
    for i, name in enumerate(dataset.names(action)):
        if name not in places or "gripper" in name:
            continue
        told, was = columns[action][:, i], columns[state][:, places[name]]
        if np.ptp(told) > STUCK_TOLD and np.ptp(was) < STUCK_MOVED:
            yield Finding(view.index, "stuck", "error", 0, f"{name} is told to move by {np.ptp(told):.2f} rad and stays at {was[0]:.3f}")
        elif (away := np.abs(told - was)).min() > OFF_TRACK_RAD:
            yield Finding(view.index, "off track", "warning", int(away.argmax()), f"{name} is never nearer than {away.min():.2f} rad to its target")


def _velocities(dataset: Dataset, view: View, columns: dict[str, np.ndarray], state: str, velocity: str) -> Iterator[Finding]:
    """Joints that move and whose velocity is exactly zero all the time: drivers fill in what they do not measure."""
    places = {name: i for i, name in enumerate(dataset.names(velocity)) if not name.isdigit()}
    moving = [i for i in np.flatnonzero(np.ptp(columns[state], axis=0) > FILLED_MOVED) if dataset.names(state)[i] in places]
    filled = [name for name in (dataset.names(state)[i] for i in moving) if not columns[velocity][:, places[name]].any()]
    if filled:
        text = f"{velocity} of {len(filled)} of {len(moving)} joints that move ({filled[0]} ...) is zero in every frame: filled in by the sender?"
        yield Finding(view.index, "not measured", "warning", 0, text)


def _motion(dataset: Dataset, view: View, columns: dict[str, np.ndarray]) -> Iterator[Finding]:
    """Flags without walking, walking without flags."""
    action, velocity = dataset.role("action"), dataset.role("velocity")
    if not action or not velocity or tuple(dataset.names(action)[-len(LOCO) :]) != LOCO:
        return
    try:
        robot = load_robot(str(dataset.info.get("robot_type")))
    except RobotSpecError:
        return
    legs = [i for i, name in enumerate(dataset.names(velocity)) if name in robot.names("legs")]
    if not legs:
        return
    window = max(round(dataset.fps), 2)
    square = (columns[velocity][:, legs].astype(np.float64) ** 2).mean(1)
    if len(square) < window:
        return
    speed = np.sqrt(np.convolve(square, np.ones(window) / window, "valid"))  # entry i: frames i .. i + window - 1
    loco = columns[action][:, -len(LOCO) :]
    told = (loco[:, :3] != 0).any(1)
    resting = ~told & (np.abs(loco[:, 3] - np.roll(loco[:, 3], 1)) < 1e-4)
    settle = round(1.5 * dataset.fps)
    for i in range(len(speed)):
        before = slice(max(i - window // 2, 0), i + window)
        if told[before].all() and i >= window // 2 and speed[i] < IDLE_RAD_S:
            yield Finding(view.index, "command without motion", "error", i, f"flags {loco[i, :3].astype(int).tolist()}, but legs move by {speed[i]:.2f} rad/s")
            break
    for i in range(settle, len(speed)):
        if resting[i - settle : i + window].all() and speed[i] > BUSY_RAD_S:
            yield Finding(view.index, "motion without command", "error", i, f"no flag for {settle / dataset.fps:.1f} s, but legs move by {speed[i]:.2f} rad/s")
            break


def _images(dataset: Dataset, view: View, camera: str, columns: dict[str, np.ndarray]) -> Iterator[Finding]:
    imu, stamp = dataset.role("imu"), dataset.role("stamp")
    meter = LagMeter() if imu and stamp and tuple(dataset.names(imu)) == IMU else None
    before, frozen, longest, at = None, 0, 0, 0
    for i, image in enumerate(view.images(camera)):
        thin = image[::4, ::4].astype(np.int16)
        frozen = frozen + 1 if before is not None and np.abs(thin - before).mean() < SAME_IMAGE else 0
        if frozen > longest:
            longest, at = frozen, i - frozen
        before = thin
        if meter and i < len(columns[stamp]):
            meter.add_image(float(columns[stamp][i, 0]), image)
            meter.add_gyro(float(columns[stamp][i, 0]), columns[imu][i, :3])
    moving = meter is not None and float(np.abs(columns[imu][at : at + longest, :3]).max(initial=0.0)) > 0.1
    if longest > FREEZE_S * dataset.fps and (moving or meter is None):
        yield Finding(view.index, "freeze", "error" if moving else "warning", at, f"{camera} shows one image for {longest / dataset.fps:.1f} s")
    if meter:
        measured = view.about.get("camera_lag_s", "absent")  # from the recording's 200 Hz gyro, better than from what the frames keep
        lag = meter.estimate()
        value = lag.lag_s if measured == "absent" and lag.known else measured
        if isinstance(value, float) and abs(value) > LAG_S:
            yield Finding(view.index, "skew", "error", 0, f"{camera} is {value * 1e3:+.0f} ms off the gyro's clock, seen from motion")


def report(root: Path, found: list[Finding], *, as_json: bool = False, log: Callable[[str], None] = print) -> int:
    """Print; 1 where there is an error."""
    errors = sum(finding.severity == "error" for finding in found)
    if as_json:
        log(json.dumps([asdict(finding) for finding in found], indent=1))
        return 1 if errors else 0
    for finding in found:
        where = f"episode {finding.episode}, frame {finding.frame}" if finding.episode >= 0 else "data set"
        log(f"{finding.severity:<8} {where:<22} {finding.kind}: {shown(finding.text)}")
    log(f"{shown(root)}: {errors} errors, {len(found) - errors} warnings")
    return 1 if errors else 0

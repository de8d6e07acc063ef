"""Recordings -> a LeRobot v3 data set, resumable and in parallel.

Each recording becomes one finished episode folder in ``OUTPUT.staging`` (or is refused with a reason); then all are assembled
and appear as ``OUTPUT`` by one rename. Killed at any moment, the same command goes on with the episodes that are not finished
and ends with the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from wbvla_core.console import DISK_FULL
from wbvla_core.robot import RobotSpec, load_robot
from wbvla_train.data.lerobot.assemble import PROVENANCE, assemble
from wbvla_train.data.lerobot.bag import Bag, Loss, TopicMap, joint_skew_s
from wbvla_train.data.lerobot.episode import ABOUT, DataError, Episode, EpisodeWriter, shown
from wbvla_train.data.lerobot.find import Found, bag_files, find
from wbvla_train.data.lerobot.options import Limits
from wbvla_train.data.lerobot.schema import CAMERA, columns

SCHEMA = 2  # of what an episode holds; raise it when the same recording would become another episode


@dataclass(frozen=True)
class Job:
    """What one worker needs to convert one recording."""

    bag: Path
    folder: Path
    robot: str
    topics: TopicMap
    instruction: str
    fps: float
    limits: Limits


@dataclass(frozen=True)
class Outcome:
    """What became of one recording: an episode, or the reason why not, and the camera's lag where motion told it."""

    bag: Path
    folder: Path | None
    reason: str = ""
    lag_s: float | None = None


class CameraLag(DataError):
    """The camera's clock is off."""

    def __init__(self, text: str, lag_s: float) -> None:
        super().__init__(text)
        self.lag_s = lag_s


def fingerprint(path: Path) -> str:
    """Hash of a recording's bytes: the same recording is the same episode wherever it lies."""
    digest = hashlib.sha256()
    for file in bag_files(path):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def source_name(bag: Path) -> str:
    """Folder and name: what tells recordings apart, without the machine's own folders."""
    return shown(Path(bag.absolute().parent.name) / bag.name)


def convert_bag(job: Job, typestore: Callable[[], Any]) -> Outcome:
    """Write one episode, or say why not. Only a full or unwritable disk is raised: it would meet every other recording too."""
    try:
        robot = load_robot(job.robot)
        with Bag(job.bag, robot, job.topics, typestore) as bag:
            _write(job, robot, bag)
        return Outcome(job.bag, job.folder)
    except CameraLag as error:
        return Outcome(job.bag, None, str(error), error.lag_s)
    except DataError as error:
        return Outcome(job.bag, None, str(error))
    except OSError as error:
        if error.errno in (*DISK_FULL, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        return Outcome(job.bag, None, f"{type(error).__name__}: {error}")
    except Exception as error:  # a recording that nobody thought of must not take the others with it
        return Outcome(job.bag, None, f"{type(error).__name__}: {' '.join(str(error).split())}")


def features(robot: RobotSpec, topics: TopicMap) -> dict[str, dict[str, Any]]:
    """Columns of a data set from these topics: what no topic measures has none."""
    out = columns(robot)
    if not topics.imu:
        del out["observation.imu"]
        out["observation.skew_s"] |= {"shape": [1], "names": ["joint_states"]}
    return out


def _write(job: Job, robot: RobotSpec, bag: Bag) -> None:
    bag.require_topics()
    span = bag.decided()
    if span is None and job.topics.loco_command and any(job.topics.loco_command.values()):
        raise DataError(f"no decision on {sorted(job.topics.loco_command.values())}: nothing was commanded in this recording")
    sentences = [job.instruction] if job.instruction else bag.sentences()
    if not sentences:
        raise DataError("no instruction: neither its own topic nor episode.json beside it; give --instruction")
    if len(sentences) > 1:
        raise DataError(f"{len(sentences)} different instructions, an episode has one: {', '.join(map(repr, sentences[:3]))}; cut it, or give --instruction")
    task = sentences[0]
    stamps: list[float] = []
    skews: list[tuple[float, float, float]] = []
    incomplete, gap_s = 0, 0.0
    with EpisodeWriter(job.folder, features(robot, job.topics), job.fps) as writer:
        for frame in bag.frames(1.0 / job.fps):
            if span is not None and not span[0] - 1e-6 <= frame.stamp_s <= span[1] + 1e-6:
                continue
            if frame.steps is None or len(frame.nearest) < 1 + bool(job.topics.imu):
                incomplete += bool(stamps)  # before the first whole frame the robot is still coming up
                continue
            if stamps:
                gap_s = max(gap_s, frame.stamp_s - stamps[-1])
            row = bag.row(frame, task, robot.default_stance_height_m, stamps[0] if stamps else frame.stamp_s)
            writer.add(row.columns, {CAMERA: row.image}, row.task)
            stamps.append(frame.stamp_s)
            skews.append((joint_skew_s(frame), frame.skew_s.get("imu", 0.0), frame.skew_s["joint_command"]))
        about = _judge(job, bag, np.array(stamps), np.array(skews), incomplete, gap_s)
        about |= {"source": source_name(job.bag), "robot": robot.name}
        about |= {"robot_version": robot.version, "fingerprint": robot.fingerprint}
        about |= {"lost_messages": bag.losses(), "notes": bag.notes(), "not_measured": bag.not_measured()}
        writer.finish(about)


def _judge(job: Job, bag: Bag, stamps: np.ndarray, skews: np.ndarray, incomplete: int, gap_s: float) -> dict[str, Any]:
    """What was measured; DataError where it is beyond the limits."""
    limits = job.limits
    if len(stamps) < 2 or stamps[-1] - stamps[0] < limits.least_s:
        length_s = stamps[-1] - stamps[0] if len(stamps) else 0.0
        raise DataError(
            f"{len(stamps)} whole frames over {length_s:.2f} s, at least {limits.least_s:g} s expected ({incomplete} frames lack commands or states)"
            + _clocks_apart(bag)
        )
    p99 = np.quantile(np.abs(skews), 0.99, axis=0)
    for name, value in zip(("joint states", "IMU"), p99):
        if value > limits.skew_s:
            raise DataError(
                f"skew: {name} lie {value * 1e3:.0f} ms from the images (99th percentile), at most {limits.skew_s * 1e3:g} ms; --max-skew-s admits more"
            )
    if bag.lost_images > limits.incomplete * (bag.images + bag.lost_images):
        raise DataError(f"{bag.lost_images} of {bag.images + bag.lost_images} images cannot be used, at most {limits.incomplete:.0%}: {_lost(bag)}")
    if gap_s > limits.gap_s:
        raise DataError(f"gap: {gap_s:.2f} s without an image, at most {limits.gap_s:g} s" + (f" ({_lost(bag)})" if bag.lost_images else ""))
    if incomplete > limits.incomplete * (len(stamps) + incomplete):
        raise DataError(f"{incomplete} of {len(stamps) + incomplete} frames lack commands or states, at most {limits.incomplete:.0%}")
    rate = 1.0 / float(np.median(np.diff(stamps)))
    if abs(rate - job.fps) > 0.05 * job.fps:
        raise DataError(f"rate: images come at {rate:.2f} Hz, {job.fps:g} Hz expected; give --fps")
    return {
        "start_s": float(stamps[0]),
        "skew_p99_s": {"joint_states": float(p99[0]), "imu": float(p99[1]), "joint_command": float(p99[2])},
        "gap_s": round(float(gap_s), 6),
        "rate_hz": round(rate, 4),
        "incomplete_frames": incomplete,
    } | _camera_clock(bag, limits)


def _camera_clock(bag: Bag, limits: Limits) -> dict[str, Any]:
    """How far the camera's clock is off; CameraLag where motion shows beyond doubt that it is too far."""
    if bag.clock.exact():
        return {"camera_clock": "exact", "camera_lag_s": None, "camera_lag_fit": None}
    lag = bag.lag.estimate()
    if lag.known and abs(lag.lag_s) > limits.lag_s:
        raise CameraLag(
            f"skew: the camera's clock is {lag.lag_s * 1e3:+.0f} ms off the body's (pictures against gyro, fit {lag.fit:.2f}), "
            f"at most {limits.lag_s * 1e3:g} ms; "
            "mend the camera's stamps, or --max-lag-s admits more",
            lag.lag_s,
        )
    return {
        "camera_clock": "measured" if lag.known else "unknown",
        "camera_lag_s": round(lag.lag_s, 6) if lag.known else None,
        "camera_lag_fit": round(lag.fit, 4),
    }


def _lost(bag: Bag) -> str:
    """The most frequent fault of the images."""
    return str(max((loss for loss in bag.lost.values() if loss.topic == bag.topics.image), key=lambda loss: loss.count))


def _clocks_apart(bag: Bag) -> str:
    """Why a recording has no whole frame: its topics' stamps are of different clocks."""
    ahead = bag.ahead_s()
    camera_s = ahead.get(bag.topics.image)
    others = {topic: value for topic, value in ahead.items() if topic in bag.topics.several("joint_states")}
    if camera_s is None or not others:
        return ""
    topic, value = max(others.items(), key=lambda item: abs(item[1] - camera_s))
    if abs(value - camera_s) < 1.0:
        return ""
    return f"; the stamps of {bag.topics.image} lie {camera_s - value:+.1f} s from those of {topic} sent at the same time: one clock must stamp both"


def convert(
    paths: list[Path],
    output: Path,
    typestore: Callable[[], Any],
    *,
    robot: str = "x2",
    topics: TopicMap | None = None,
    instruction: str = "",
    fps: float = 10.0,
    limits: Limits | None = None,
    workers: int = 1,
    log: Callable[[str], None] = print,
) -> int:
    """Convert all recordings below ``paths``; returns 0, or 1 where one was left out."""
    topics, limits = topics or TopicMap.ours(), limits or Limits()
    spec = load_robot(robot)
    settings = {"schema": SCHEMA, "robot": spec.fingerprint, "topics": asdict(topics), "instruction": instruction, "fps": fps, "limits": asdict(limits)}
    found = find(paths)
    outcomes = [Outcome(path, None, reason) for path, reason in found.strays]
    if not found.bags:
        _complain(outcomes, log)
        raise DataError(f"no recording (.mcap, .bag, or a folder with metadata.yaml) in {[shown(path) for path in paths]}")
    staging = output.with_name(output.name + ".staging")
    jobs: dict[str, Job] = {}
    for bag in found.bags:
        try:
            note = bag.parent / "episode.json" if bag.is_file() else bag / "episode.json"
            about = note.read_bytes() if note.is_file() else b""
            key = hashlib.sha256((fingerprint(bag) + json.dumps(settings, sort_keys=True)).encode() + about).hexdigest()[:24]
        except OSError as error:
            outcomes.append(Outcome(bag, None, f"not readable: {error.strerror or error}"))
            continue
        if key in jobs:
            outcomes.append(Outcome(bag, None, f"the same recording as {shown(jobs[key].bag)}"))
            continue
        jobs[key] = Job(bag, staging / key, robot, topics, instruction, fps, limits)
    source = {"settings": settings, "recordings": list(jobs)}
    if output.exists():
        return _already(output, source, log)
    staging.mkdir(parents=True, exist_ok=True)
    open_jobs = [job for job in jobs.values() if not (job.folder / ABOUT).is_file()]
    log(f"{len(jobs)} recordings, {len(jobs) - len(open_jobs)} already converted{_beside(found)}")
    done = {job.folder: Outcome(job.bag, job.folder) for job in jobs.values() if job not in open_jobs}
    for job, outcome in _run(open_jobs, typestore, workers):
        done[job.folder] = outcome
        log(f"{shown(job.bag)}: {'ok' if outcome.folder else 'left out: ' + shown(outcome.reason)}")
    outcomes += _by_session([done[job.folder] for job in jobs.values()], limits, log)
    kept = [outcome for outcome in outcomes if outcome.folder]
    refused = [{"source": source_name(o.bag), "reason": shown(o.reason)} for o in outcomes if not o.folder]
    if not kept:
        _complain(outcomes, log)
        raise DataError("no recording could be converted")
    info = assemble([Episode.load(o.folder) for o in kept], output, robot_type=spec.name, provenance=source | {"left_out": refused})
    log(f"{shown(output)}: {info['total_episodes']} episodes, {info['total_frames']} frames ({info['total_frames'] / fps:.0f} s)")
    _tell(kept, log)
    shutil.rmtree(staging)
    _complain(outcomes, log)
    return 1 if refused else 0


def _beside(found: Found) -> str:
    """What lay beside the recordings and is none."""
    files = ", ".join(f"{count} {shown(suffix)}" for suffix, count in sorted(found.beside.items()))
    discarded = f"; {len(found.discarded)} discarded by the operator" if found.discarded else ""
    return discarded + (f"; files beside them: {files}" if files else "")


def _tell(kept: list[Outcome], log: Callable[[str], None]) -> None:
    """Say which messages the written episodes lack, what in them is not measured, and how many cameras' clocks could not be judged."""
    unknown, notes = 0, Counter()
    for outcome in kept:
        about = Episode.load(outcome.folder).about
        for loss in about.get("lost_messages", ()):
            log(f"  {shown(outcome.bag)}: {Loss(**loss)}")
        notes.update(about.get("notes", ()))
        unknown += about.get("camera_clock") == "unknown"
    for note, count in notes.items():
        log(f"  note ({count} of {len(kept)} recordings): {note}")
    if unknown:
        log(f"  the camera's clock could not be measured from motion in {unknown} of {len(kept)} recordings: their stamps are taken as they are")


def _run(jobs: list[Job], typestore: Callable[[], Any], workers: int) -> Any:
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job, convert_bag(job, typestore)
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        futures = [(job, pool.submit(convert_bag, job, typestore)) for job in jobs]
        for job, future in futures:
            try:
                yield job, future.result()
            except BrokenProcessPool as error:
                raise DataError("a worker was ended from outside (memory?); run the same command again, finished episodes are kept") from error


def _by_session(outcomes: list[Outcome], limits: Limits, log: Callable[[str], None]) -> list[Outcome]:
    """Recordings of one folder have one camera: where most of those that move enough to tell say that its clock is off, the others are left out, too."""
    out = []
    lags: dict[Path, list[float]] = {}
    exact: set[Path] = set()
    for outcome in outcomes:
        if outcome.folder:
            about = Episode.load(outcome.folder).about
            outcome = replace(outcome, lag_s=about.get("camera_lag_s"))
            exact |= {outcome.bag} if about.get("camera_clock") == "exact" else set()
        if outcome.lag_s is not None:
            lags.setdefault(outcome.bag.parent, []).append(outcome.lag_s)
        out.append(outcome)
    for place, outcome in enumerate(out):
        known = lags.get(outcome.bag.parent, [])
        if outcome.folder and outcome.bag not in exact and known and abs(lag_s := float(np.median(known))) > limits.lag_s:
            reason = f"skew: in {len(known)} recordings of its folder the camera's clock is {lag_s * 1e3:+.0f} ms off the body's (median)"
            out[place] = Outcome(outcome.bag, None, f"{reason}, at most {limits.lag_s * 1e3:g} ms; mend the camera's stamps, or --max-lag-s admits more")
            log(f"{shown(outcome.bag)}: left out: {shown(out[place].reason)}")
    return out


def _complain(outcomes: list[Outcome], log: Callable[[str], None]) -> None:
    left = [outcome for outcome in outcomes if not outcome.folder]
    if left:
        log(f"left out {len(left)} of {len(outcomes)}:")
        for outcome in left:
            log(f"  {shown(outcome.bag)}: {shown(outcome.reason)}")


def _already(output: Path, source: dict[str, Any], log: Callable[[str], None]) -> int:
    try:
        before = json.loads((output / PROVENANCE).read_text())
    except (OSError, ValueError):
        before = {}
    if {key: before.get(key) for key in source} == json.loads(json.dumps(source)):
        left = before.get("left_out", [])
        log(f"{shown(output)} is complete already" + (f"; {len(left)} recordings had been left out" if left else ""))
        return 1 if left else 0
    raise DataError(f"{shown(output)} exists already and was made from other recordings or settings; name another folder, then `wbvla dataset merge` both")

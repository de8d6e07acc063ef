"""What is kept of one film: its folder, its record and the frames by which duplicates are recognised.

<output>/films/<id>/record.json     what was found, every stretch with its reason; written last: a film with a record is finished
<output>/films/<id>/thumbs.npy      [N, 16, 16] uint8: the samples of its clips, in order
<output>/films/<id>/strip_*.jpg     four pictures of every stretch, for the contact sheet
<output>/<split>/<domain>/<id>/     clip_*.mp4, and clips.json that lists those which training reads; instructions.json where somebody
                                    described them, which outlives the clips
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from wbvla_core.checkpoint import write_json
from wbvla_core.errors import WbvlaError
from wbvla_train.data import sentences
from wbvla_train.data.camera import CameraView
from wbvla_train.data.clips import SIDECAR
from wbvla_train.data.film.gates import LOCO, MANI, TOO_LITTLE, UNSURE, Gates, Segment, event_before, judge
from wbvla_train.data.film.measure import Measure, measure
from wbvla_train.data.film.people import Limits, chosen, watcher
from wbvla_train.data.film.reader import FilmError, FilmReport, Sample, fingerprint, samples
from wbvla_train.data.mp4 import write_mp4

SCHEMA = 1
BLOCK_S = 20.0  # a stretch is judged at the latest after this: memory does not grow with the film
STRIP_PICTURES = 4
LENS_FILE = "camera.json"
LOCKS = ".locks"
DECISIONS = ("keep", "reject", LOCO, MANI)


@dataclass(frozen=True)
class Film:
    """A film to work on.

    Attributes:
        path: where it lies. name: how records and overrides call it: its path below the folder that was given, with that folder's name.
    """

    path: Path
    name: str

    @property
    def id(self) -> str:
        """A folder name of plain letters, also for names that are not UTF-8."""
        plain = re.sub(r"[^A-Za-z0-9]+", "-", Path(self.name).stem.encode(errors="replace").decode()).strip("-")[:40]
        return f"{plain}_{hashlib.sha256(os.fsencode(self.name)).hexdigest()[:10]}"

    @property
    def rank(self) -> float:
        """0..1, by name: the same on every machine and in every run. Films below the dev share are kept for development."""
        return int(hashlib.sha256(os.fsencode(self.name) + b"split").hexdigest()[:8], 16) / 0xFFFFFFFF

    def split(self, dev_share: float) -> str:
        """ "train" or "dev" by chance; :mod:`wbvla_train.data.film.split` has the last word in small collections."""
        return "dev" if self.rank < dev_share else "train"


@dataclass(frozen=True)
class Job:
    """One film and everything that its record follows from."""

    film: Film
    output: Path
    gates: Gates
    rate_hz: float
    image_size: int
    dev_share: float
    fovy_deg: float
    pitch_deg: float
    overrides: tuple[tuple[str, str], ...]  # (segment key, decision) of this film
    threads: int = 1
    hands: Path | None = None  # environment of the detector of hands and faces; None: that gate does not run
    people: Limits = Limits()

    @property
    def folder(self) -> Path:
        return self.output / "films" / self.film.id

    def key(self, content: str) -> str:
        """Changes with the film, the settings and the decisions about it: then, and only then, the film is done again."""
        settings = {**asdict(self.gates), "rate": self.rate_hz, "size": self.image_size, "dev": self.dev_share, "camera": [self.fovy_deg, self.pitch_deg]}
        if self.hands is not None:
            settings["people"] = asdict(self.people)
        text = json.dumps([SCHEMA, content, settings, self.overrides], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def segment_key(name: str, start_s: float) -> str:
    """How overrides call a stretch."""
    return f"{name}@{start_s:.3f}"


def printable(name: str) -> str:
    """A name that any terminal and any HTML page can show."""
    return name.encode(errors="backslashreplace").decode()


def read_record(folder: Path) -> dict | None:
    """The record of a finished film, or None. A damaged one counts as none: the film is then done again."""
    try:
        record = json.loads((folder / "record.json").read_text())
        return record if record.get("schema") == SCHEMA else None
    except (OSError, ValueError):
        return None


def is_done(job: Job) -> bool:
    """Whether the film has a record that follows from the same content, settings and decisions. Failed films are tried again."""
    record = read_record(job.folder)
    if record is None or record["error"]:
        return False
    try:
        return record["key"] == job.key(fingerprint(job.film.path))
    except FilmError:
        return False


def lens(film: Film, fovy_deg: float | None, pitch_deg: float | None) -> tuple[float, float]:
    """Field of view and pitch of a film's camera: from the nearest camera.json beside or above the film, else as given, else the middle of the human range.

    Raises:
        WbvlaError: a camera.json, or an option, that describes no camera.
    """
    stated: dict[str, float] = {}
    where = "--fovy-deg, --pitch-deg"
    for folder in list(film.path.parents)[: film.name.count("/")]:
        path = folder / LENS_FILE
        if path.is_file():
            where = printable(str(path))
            try:
                stated = {key: float(value) for key, value in json.loads(path.read_text()).items() if key in ("fovy_deg", "pitch_deg")}
            except (OSError, ValueError, AttributeError, TypeError):
                raise WbvlaError(f'{where} is not of the form {{"fovy_deg": 70, "pitch_deg": 20}}; mend or remove it') from None
            break
    default = CameraView()
    fovy = stated.get("fovy_deg", default.fovy_deg if fovy_deg is None else fovy_deg)
    pitch = stated.get("pitch_deg", default.pitch_deg if pitch_deg is None else pitch_deg)
    try:
        CameraView(fovy, 1.0, pitch)
    except ValueError as error:
        raise WbvlaError(f"{where}: {error}") from None
    return fovy, pitch


def process_film(job: Job, wait: bool = True) -> dict | None:
    """Gate one film and write all that belongs to it; returns its record. What an interrupted run left of it is removed first.

    A film is worked on by one process at a time, on however many machines: who comes second finds it done.

    Args:
        wait: for another process that works on this film; else None is returned at once.

    Raises:
        OSError: the output cannot be written (disk full, no rights); nothing counts as finished then.
        WbvlaError: the detector of hands ended.
    """
    locks = job.output / LOCKS
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / job.film.id).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return None
        return read_record(job.folder) if is_done(job) else _process(job)


def _process(job: Job) -> dict:
    (job.folder / "record.json").unlink(missing_ok=True)
    shutil.rmtree(job.folder, ignore_errors=True)
    for old in job.output.glob(f"*/*/{job.film.id}/*"):
        if old.name != sentences.FILE and not old.is_dir():
            old.unlink(missing_ok=True)
    job.folder.mkdir(parents=True)
    report = FilmReport()
    record = {"schema": SCHEMA, "film": job.film.name, "id": job.film.id, "key": "", "error": "", "segments": [], "split": job.film.split(job.dev_share)}
    record["rank"] = job.film.rank
    try:
        record["key"] = job.key(fingerprint(job.film.path))
        stream = samples(job.film.path, job.rate_hz, job.image_size, report, threads=job.threads, views=job.hands is not None)
        writer = _SegmentWriter(job)
        for block, event in blocks(stream, job.gates):
            writer.write(block)
            if event is not None:
                writer.note(event)
        record["segments"] = writer.entries
        np.save(job.folder / "thumbs.npy", np.concatenate(writer.thumbs) if writer.thumbs else np.zeros((0, 16, 16), np.uint8))
        aspect = round(float(np.clip(report.width / max(report.height, 1), 0.2, 5.0)), 4)
        record["camera"] = CameraView(job.fovy_deg, aspect, job.pitch_deg).to_json()
        known = {segment_key(job.film.name, entry["start_s"]) for entry in writer.entries}
        report.problems.extend(f"override {printable(key)} names no stretch of this film" for key, _ in job.overrides if key not in known)
    except FilmError as error:
        record["error"] = str(error)
    record["report"] = asdict(report)
    write_json(job.folder / "record.json", record)
    return record


def blocks(stream: Iterator[Sample], gates: Gates) -> Iterator[tuple[list[tuple[Sample, Measure]], Segment | None]]:
    """Walk through a film once, holding one block of it: at most BLOCK_S without cut or gap, and the event that ends it (None: length, or the film's end)."""
    block: list[tuple[Sample, Measure]] = []
    for sample in stream:
        before, last = block[-1] if block else (None, None)
        now = measure(sample, before)
        event = event_before(now, last, gates)
        if event:
            value, limit = {"cut": (now.match, gates.cut_match), "gap": (now.dt_s, gates.gap_s), "jump": (0.0, 0.0)}[event]
            yield block, Segment(now.stamp_s, now.stamp_s, now.index, event, value, limit)
            block = []
        elif block and now.stamp_s - block[0][1].stamp_s >= BLOCK_S:
            yield block, None
            block = []
        block.append((sample, now))
    if block:
        yield block, None


class _SegmentWriter:
    """Judges blocks, applies decisions, writes clips and strips."""

    def __init__(self, job: Job) -> None:
        self.job, self.decisions = job, dict(job.overrides)
        self.entries: list[dict] = []
        self.thumbs: list[np.ndarray] = []
        self.samples = 0

    def note(self, segment: Segment) -> None:
        self.entries.append(segment.to_json())

    def write(self, block: list[tuple[Sample, Measure]]) -> None:
        if not block:
            return
        for segment in judge([m for _, m in block], self.job.gates, self.job.rate_hz):
            entry = segment.to_json()
            first, last = segment.samples
            decision = self.decisions.get(segment_key(self.job.film.name, entry["start_s"]))
            if decision == "reject":
                entry.update(reason="override", judged=segment.reason)
            elif decision and last - first >= 2:
                entry.update(reason="", judged=segment.reason, domain=segment.domain if decision == "keep" else decision)
            part = block[first:last]
            if self.job.hands is not None and not decision:
                self._people(entry, [s.view for s, _ in part if s.view is not None])
            self._strip(entry, [s.picture for s, _ in part])
            if not entry["reason"]:
                self._clip(entry, part)
            self.entries.append(entry)

    def _people(self, entry: dict, views: list[np.ndarray]) -> None:
        """Leave a clip out that shows people from outside, or hands at work without a hand; know what moves before a plain wall."""
        if entry["reason"] not in ("", UNSURE):
            return
        seen = watcher(self.job.hands).look([views[i] for i in chosen(len(views))], self.job.people)
        entry["seen"] = asdict(seen)
        moves = entry["doubt"] == TOO_LITTLE and entry["loco_score"] > self.job.gates.loco_score
        if moves and seen.hands > self.job.people.working_share * seen.looked:
            entry.update(reason="", doubt="", value=0.0, limit=0.0, domain=MANI)
        reason, value, limit = seen.verdict(entry["domain"], self.job.people)
        if reason:
            entry.update(reason=reason, value=round(value, 4), limit=limit)

    def _strip(self, entry: dict, pictures: list[np.ndarray]) -> None:
        chosen = [pictures[i] for i in np.linspace(0, len(pictures) - 1, STRIP_PICTURES).round().astype(int)]
        entry["strip"] = f"strip_{round(entry['start_s'] * 1000):09d}.jpg"
        strip = Image.fromarray(np.concatenate(chosen, axis=1))
        strip.resize((STRIP_PICTURES * 96, 96)).save(self.job.folder / entry["strip"], quality=75)

    def _clip(self, entry: dict, part: list[tuple[Sample, Measure]]) -> None:
        job = self.job
        stamps = np.round([s.stamp_s - part[0][0].stamp_s for s, _ in part], 3)
        folder = job.output / job.film.split(job.dev_share) / entry["domain"] / job.film.id
        folder.mkdir(parents=True, exist_ok=True)
        entry["clip"] = f"clip_{round(entry['start_s'] * 1000):09d}.mp4"
        write_mp4(folder / entry["clip"], np.stack([s.picture for s, _ in part]), stamps, reproducible=True)
        entry["stamps_s"] = stamps.tolist()
        entry["thumbs"] = [self.samples, self.samples + len(part)]
        self.samples += len(part)
        self.thumbs.append(np.stack([m.thumb for _, m in part]))


def write_sidecars(output: Path, records: list[dict]) -> int:
    """``clips.json`` beside the clips of every film, without duplicates, and sentences to where their clips are now; returns how many clips are listed."""
    wanted: dict[Path, list[dict]] = {}
    for record in records:
        for entry in record["segments"]:
            if not entry["reason"]:
                item = {"file": entry["clip"], "stamps_s": entry["stamps_s"], "camera": record["camera"], "source": "film"}
                wanted.setdefault(output / record["split"] / entry["domain"] / record["id"], []).append(item)
    for folder in output.glob("*/*/*"):
        if folder.is_dir() and folder.parent.name in (LOCO, MANI):
            for stale in folder.glob(f".{SIDECAR}.*"):
                stale.unlink(missing_ok=True)
            if folder not in wanted:
                (folder / SIDECAR).unlink(missing_ok=True)
    for folder, clips in wanted.items():
        sidecar = {"schema": 1, "clips": clips}
        try:
            same = json.loads((folder / SIDECAR).read_text()) == sidecar
        except (OSError, ValueError):
            same = False
        if not same:
            write_json(folder / SIDECAR, sidecar)
    for described in {path.parent.name for path in output.glob(f"*/*/*/{sentences.FILE}")}:
        sentences.follow(sorted(folder for folder in output.glob(f"*/*/{described}") if folder.is_dir()))
    return sum(len(clips) for clips in wanted.values())

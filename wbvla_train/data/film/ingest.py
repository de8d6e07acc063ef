"""``wbvla video ingest``: folders of films -> gated, sorted clips in the layout that ``wbvla train lam`` reads.

One process per film at a time; a film that was finished is not touched again, so that a run that was killed goes on where it was and
ends with the same result. Machines that share the output folder take a part each with ``--shard i/n``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

from wbvla_core.checkpoint import write_json
from wbvla_core.console import DISK_FULL, program
from wbvla_core.errors import WbvlaError
from wbvla_train.data.film import sheet, split
from wbvla_train.data.film.duplicates import mark_duplicates
from wbvla_train.data.film.ingest_command import IngestConfig
from wbvla_train.data.film.people import Watcher, default_folder
from wbvla_train.data.film.reader import SUFFIXES, FilmReport
from wbvla_train.data.film.record import (
    DECISIONS,
    LENS_FILE,
    SCHEMA,
    Film,
    Job,
    is_done,
    lens,
    printable,
    process_film,
    read_record,
    write_sidecars,
)
from wbvla_train.data.shards import parse_shard

OVERRIDES = "overrides.json"
SUMMARY = "summary.json"
LISTS_LOCK = ".lock_lists"


def list_films(inputs: tuple[Path, ...]) -> list[Film]:
    """All films below the inputs, by name.

    Raises:
        WbvlaError: an input that does not exist, two inputs of one name, no film at all.
    """
    if not inputs:
        raise WbvlaError("no folder of films was given, for example: wbvla video ingest FOLDER --output data/film")
    films: dict[str, Film] = {}
    for root in inputs:
        root = Path(os.path.abspath(root))
        if not root.exists():
            raise WbvlaError(f"{printable(str(root))} does not exist; give folders with films, or films")
        paths = [root] if root.is_file() else sorted(p for p in _files(root) if p.suffix.lower() in SUFFIXES)
        for path in paths:
            name = f"{root.parent.name if root.is_file() else root.name}/{path.relative_to(root.parent if root.is_file() else root).as_posix()}"
            if name in films and films[name].path != path:
                raise WbvlaError(f"two films are called {printable(name)}: {printable(str(path))} and {printable(str(films[name].path))}; rename one folder")
            films[name] = Film(path, name)
    if not films:
        raise WbvlaError(f"no film ({', '.join(SUFFIXES)}) under {', '.join(printable(str(i)) for i in inputs)}")
    return [films[name] for name in sorted(films)]


def _files(root: Path) -> Iterator[Path]:
    """Everything below a folder that is no folder and not hidden; links to nowhere too, so that they are named."""
    return (path for path in root.rglob("*") if not path.is_dir() and not path.name.startswith("."))


def passed_over(inputs: tuple[Path, ...]) -> dict[str, int]:
    """Suffix -> how many files of the folders are no films by their suffix."""
    files = (path for root in inputs for path in _files(root) if path.suffix.lower() not in SUFFIXES and path.name != LENS_FILE)
    return dict(sorted(Counter(path.suffix.lower() or path.name for path in files).items()))


def read_overrides(path: Path) -> dict[str, str]:
    """Segment key -> decision ("": a decision that was taken back); {} where there is no file.

    Raises:
        WbvlaError: not of the form that the contact sheet saves.
    """
    if not path.exists():
        return {}
    try:
        decisions = json.loads(path.read_text())["segments"]
        wrong = sorted({str(v) for v in decisions.values()} - {"", *DECISIONS})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WbvlaError(f"{printable(str(path))} is no overrides file ({type(error).__name__}: {error}); save it from the contact sheet again") from None
    if wrong:
        raise WbvlaError(f"{printable(str(path))} holds unknown decisions {wrong}; expected {', '.join(DECISIONS)}")
    return decisions


@contextlib.contextmanager
def locked(path: Path, wait_for_it: bool):
    """Hold a lock file; refuse (or wait) where another process of this output holds it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait_for_it else fcntl.LOCK_NB))
        except BlockingIOError:
            raise WbvlaError(f"another `wbvla video ingest` works on this shard of {path.parent}; wait for it, or give another --output") from None
        yield


@contextlib.contextmanager
def _same_settings(path: Path, settings: str):
    """Share an output with other runs of the same settings; refuse where one with others is at work: they would undo each other's films."""
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            file.write(settings)
            file.flush()
        except BlockingIOError:
            pass
        fcntl.flock(file, fcntl.LOCK_SH)
        file.seek(0)
        if file.read() != settings:
            raise WbvlaError(f"another `wbvla video ingest` with other options or decisions works on {path.parent}; wait for it, or give another --output")
        yield


def _settings(config: IngestConfig, overrides: dict[str, str]) -> str:
    """What the records of a run follow from, beside the films."""
    chosen = asdict(config)
    for free in ("inputs", "output", "workers", "shard", "overrides"):
        del chosen[free]
    return json.dumps([chosen, overrides], sort_keys=True, default=str)


def ingest(config: IngestConfig, log=print) -> int:
    """Work through all films; returns the exit status: 0, or 1 where a film or a part of one was left out."""
    index, count = parse_shard(config.shard)
    films = list_films(config.inputs)
    overrides = {key: decision for key, decision in read_overrides(config.overrides or config.output / OVERRIDES).items() if decision}
    if config.workers < 1 or not 0.0 <= config.dev_share < 1.0 or config.rate_hz <= 0 or config.image_size % 2 or config.image_size < 16:
        raise WbvlaError("expected --workers >= 1, 0 <= --dev-share < 1, --rate-hz > 0 and an even --image-size of at least 16")
    try:
        (config.output / "films").mkdir(parents=True, exist_ok=True)
        own = config.output / f".lock_{index}_{count}"
        with locked(own, False), _same_settings(config.output / ".settings", _settings(config, overrides)):
            return _ingest(config, films, films[index::count], overrides, log)
    except OSError as error:
        if error.errno in (*DISK_FULL, errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            raise WbvlaError(f"{config.output} cannot be written: {error.strerror}; films that were finished are kept, make room and run again") from None
        raise


def _ingest(config: IngestConfig, films: list[Film], mine: list[Film], overrides: dict[str, str], log) -> int:
    def job(film: Film, threads: int = 1) -> Job:
        own = tuple(sorted((key, value) for key, value in overrides.items() if key.rpartition("@")[0] == film.name))
        c = config
        settings = (c.gates, c.rate_hz, c.image_size, c.dev_share, *lenses[film])
        return Job(film, Path(os.path.abspath(c.output)), *settings, own, threads, detector, c.people)

    detector = Path(os.path.abspath(config.hands_environment or default_folder())) if config.hands else None
    if detector is not None:
        log(f"video ingest: hands and faces are looked for by MediaPipe {Watcher(detector).version}")  # first: what is missing is said at once
    lenses = {film: lens(film, config.fovy_deg, config.pitch_deg) for film in films}  # first: what has to be mended by hand is said at once
    missing = [film for film in mine if not is_done(job(film))]
    log(f"video ingest: {len(mine)} films, {len(mine) - len(missing)} done before, {len(missing)} to do with {config.workers} processes")
    if other := passed_over(config.inputs):
        log(f"video ingest: passed over, no films by their names: {', '.join(f'{count} {suffix}' for suffix, count in other.items())}")
    threads = max(config.workers // max(len(missing), 1), 1)
    started, seconds = time.perf_counter(), 0.0
    for number, record in enumerate(_run([job(film, threads) for film in missing], config.workers), start=1):
        seconds += record["report"]["duration_s"]
        rate = seconds / (time.perf_counter() - started)
        log(f"[{number}/{len(missing)}] {printable(record['film'])}: {describe(record)}  ({rate:.1f} x real time)")
    unfinished = [film for film in films if not (record := read_record(job(film).folder)) or (record["error"] == "" and not record["key"])]
    if unfinished:
        log(f"video ingest: {len(unfinished)} films belong to other shards that have not ended; the last one writes the lists of clips")
        return 1 if any(_faulty(read_record(job(film).folder)) for film in mine) else 0
    with locked(config.output / LISTS_LOCK, True):
        records = load_records(config.output)
        try:
            duplicates = mark_duplicates(config.output, records)
        except FileNotFoundError:  # another shard removed a film's folder in between
            log("video ingest: another shard does its films again; it writes the lists of clips when it ends")
            return 1 if any(_faulty(read_record(job(film).folder)) for film in mine) else 0
        split.settle(config.output, records, config.dev_share)
        clips = write_sidecars(config.output, records)
        summary = summarise(records)
        write_json(config.output / SUMMARY, summary)
        sheet.write(config.output, records)
    for line in summary_lines(summary):
        log(line)
    for sentence in split.missing(records, config.dev_share):
        log(f"video ingest: {sentence}")
    if detector is None:
        log("video ingest: nobody looked whether hands or people are in view: wbvla video hands sets the detector up, --hands asks it")
    unknown = sorted({key.rpartition("@")[0] for key in overrides} - {film.name for film in films})
    for name in unknown:
        log(f"override for {printable(name)}: no such film among the inputs")
    kept = Counter(f"{record['split']}/{entry['domain']}" for record in records for entry in record["segments"] if not entry["reason"])
    where = ", ".join(f"{count} {part}" for part, count in sorted(kept.items()))
    log(f"video ingest: {clips} clips ({where or 'none'}), {duplicates} duplicates left out; look at {config.output / sheet.FILE}")
    names = {film.name for film in films}
    if gone := [record for record in records if record["film"] not in names]:
        log(f"video ingest: {len(gone)} films of earlier runs are not among these inputs; their clips stay. Delete {config.output / 'films'}/<id> to drop one")
    faulty = [record for record in records if _faulty(record)]
    for record in faulty:
        what = "LEFT OUT" if record["error"] else "LEFT OUT IN PART"
        log(f"{what} {printable(record['film'])}: {record['error'] or '; '.join(record['report']['problems'])}")
    return 1 if faulty or unknown else 0


def _faulty(record: dict | None) -> bool:
    return record is None or bool(record["error"] or record["report"]["problems"])


def _run(jobs: list[Job], workers: int):
    """Records as they are finished. A film at which the decoder itself dies is named, and the others go on; one that another run works on comes last."""
    context = multiprocessing.get_context("spawn")
    waiting, suspects, busy = list(reversed(jobs)), [], []
    while waiting or busy:
        wait_for_others = not waiting
        waiting, busy = (busy, []) if wait_for_others else (waiting, busy)
        running: dict[Future, Job] = {}
        with ProcessPoolExecutor(min(workers, len(waiting)), mp_context=context) as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < workers:
                        job = waiting.pop()
                        running[pool.submit(process_film, job, wait_for_others)] = job
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        record = future.result()
                        job = running.pop(future)
                        if record is None:
                            busy.append(job)
                        else:
                            yield record
            except BrokenProcessPool:
                suspects.extend(running.values())
    for job in suspects:  # alone, so that it is known which one it was
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                yield pool.submit(process_film, job).result()
            except BrokenProcessPool:
                record = {"schema": SCHEMA, "film": job.film.name, "id": job.film.id, "key": "", "segments": [], "split": "train", "rank": 1.0, "camera": None}
                record.update(error="the process that decoded it died (out of memory, or a film that crashes the decoder)", report=asdict(FilmReport()))
                job.folder.mkdir(parents=True, exist_ok=True)
                write_json(job.folder / "record.json", record)
                yield record


def load_records(output: Path) -> list[dict]:
    """Records of all finished films, by name."""
    records = [record for folder in (output / "films").glob("*") if (record := read_record(folder)) is not None]
    return sorted(records, key=lambda record: record["film"])


def describe(record: dict) -> str:
    """One line about one film."""
    if record["error"]:
        return f"left out: {record['error']}"
    counts = Counter(entry["reason"] or entry["domain"] for entry in record["segments"])
    report = record["report"]
    rate = f"{report['fps']:.1f} fps{' variable' if report['variable_rate'] else ''}"
    text = f"{report['duration_s']:.1f} s {report['width']}x{report['height']} {rate}: " + ", ".join(f"{n} {k}" for k, n in sorted(counts.items()))
    return text + "".join(f"; {remark}" for remark in (*report.get("notes", ()), *report["problems"]))


def summarise(records: list[dict]) -> dict:
    """Counts and seconds per domain and reason, over all films."""
    seconds, counts = Counter(), Counter()
    for record in records:
        for entry in record["segments"]:
            label = entry["reason"] or entry["domain"]
            counts[label] += 1
            seconds[label] += entry["end_s"] - entry["start_s"]
    return {
        "films": len(records),
        "films_left_out": sum(bool(record["error"]) for record in records),
        "seconds_of_film": round(sum(record["report"]["duration_s"] for record in records), 1),
        "counts": dict(sorted(counts.items())),
        "seconds": {label: round(value, 1) for label, value in sorted(seconds.items())},
    }


def summary_lines(summary: dict) -> list[str]:
    lines = [f"{summary['films']} films, {summary['seconds_of_film']:.0f} s, {summary['films_left_out']} left out whole"]
    lines += [f"  {label:<10} {summary['counts'][label]:6d} stretches {summary['seconds'][label]:9.1f} s" for label in summary["counts"]]
    return lines


if __name__ == "__main__":
    from wbvla_train.data.film.ingest_command import main

    program(main)

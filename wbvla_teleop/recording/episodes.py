"""A session's folder of episodes: begin, keep, discard; each with its sentence, notes and audit.

    session/episode_0000/{episode_0000.mcap, metadata.yaml, episode.json, audit.json}
    session/discarded/episode_0001/...         a mistaken key costs nothing: what is discarded is moved, never deleted

An episode's folder is there from its beginning, with ``episode.json`` in state "recording"; a recorder that was killed leaves it so, and :func:`recover`, run
before the next session in this folder begins, mends the bag, audits it and says "interrupted".
"""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection

from wbvla_core.errors import WbvlaError
from wbvla_core.ros.tables import TopicTable
from wbvla_teleop.recording.audit import Audit, audit_bag, write_json
from wbvla_teleop.recording.storage import BagError, BagWriter, DiskFullError, bag_file, repair

FACTS, AUDIT, DISCARDED, LOCK = "episode.json", "audit.json", "discarded", ".lock"
SPACE_CHECK_S = 0.5


class EpisodeError(WbvlaError):
    """An episode that cannot be begun or ended now."""


class EpisodeBag:
    """One bag while it is written: messages go to the disk and through the audit.

    Args:
        folder: of the bag; must not exist.
        table: topics, for the audit.
        min_free_bytes: below this much free space the bag is closed.
    """

    def __init__(self, folder: Path, table: TopicTable, *, min_free_bytes: int = 0) -> None:
        if folder.exists():
            raise FileExistsError(f"{folder} exists already; name a folder that does not, or move it away")
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder, self._min_free = folder, min_free_bytes
        self._require_space(folder.parent)
        self._writer = BagWriter(folder)
        self._writer.open()
        self._audit = Audit(table)
        self._checked_s = time.monotonic()
        self.written = 0
        self.open = True

    def _require_space(self, folder: Path) -> None:
        free = shutil.disk_usage(folder).free
        if free < self._min_free:
            raise DiskFullError(f"{folder}: {free / 1e6:.0f} MB are free, at least {self._min_free / 1e6:.0f} MB must be; free some space")

    def connect(self, **arguments: Any) -> Connection:
        """See rosbags' ``add_connection``."""
        return self._writer.add_connection(arguments.pop("topic"), arguments.pop("msgtype"), **arguments)

    def write(self, connection: Connection, at_ns: int, data: bytes) -> None:
        """Raises DiskFullError when the bag must be closed; the message is in it."""
        self._audit.add(connection.topic, connection.msgtype, connection.msgdef.data, at_ns, data)
        self.written += 1
        self._writer.write(connection, at_ns, data)

    def flush(self) -> None:
        """Call at least twice a second. Raises DiskFullError."""
        self._writer.flush()
        if time.monotonic() - self._checked_s > SPACE_CHECK_S:
            self._checked_s = time.monotonic()
            self._require_space(self.folder)

    def close(self, lost: int = 0) -> dict[str, Any]:
        """Close the bag; returns its audit, which lies beside it then, too."""
        self.open = False
        complete = True
        try:
            self._writer.close()
        except OSError:
            self._writer.abort()
            complete = False
        report = self._audit.report(lost=lost, complete=complete)
        try:
            write_json(self.folder / AUDIT, report)
        except OSError as error:
            report["problems"].append(f"audit.json could not be written: {error.strerror}")
        return report


class Session:
    """Which episode is recorded, and what becomes of it. No threads: the caller serialises.

    Args:
        folder: of the session; made if it is not there, continued if it is.
        table: topics, for the audits.
        min_free_bytes: below this much free space no episode begins and a running one ends.
        now: clock for ``episode.json``.
    """

    def __init__(self, folder: Path, table: TopicTable, *, min_free_bytes: int = 0, now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)) -> None:
        self.folder, self._table, self._min_free, self._now = folder, table, min_free_bytes, now
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(folder / LOCK, "w")  # noqa: SIM115  held as long as this session lives, and by the kernel: a killed recorder leaves none
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise EpisodeError(f"another recorder is at work in {folder}; stop it, or name another folder") from error
        self.recovered = recover(folder, table)
        self.bag: EpisodeBag | None = None
        self._last: Path | None = None  # the episode that discard() means when none is recorded
        self._facts: dict[str, Any] = {}

    def close(self) -> None:
        """Let another recorder have the folder. A running episode must have been ended."""
        self._lock.close()

    def begin(self, instruction: str = "", notes: str = "", **facts: Any) -> EpisodeBag:
        """Start the next episode. Raises EpisodeError while one is recorded, DiskFullError where there is no room."""
        if self.bag is not None:
            raise EpisodeError(f"{self.bag.folder.name} is being recorded; stop or discard it first")
        taken = [path.name for place in (self.folder, self.folder / DISCARDED) if place.is_dir() for path in place.glob("episode_*")]
        number = max((int(name.split("_")[1]) for name in taken if name.split("_")[1].isdigit()), default=-1) + 1
        name = f"episode_{number:04d}"
        self.bag = EpisodeBag(self.folder / name, self._table, min_free_bytes=self._min_free)
        self._facts = {"name": name, "state": "recording", "instruction": instruction, "notes": notes, "began": self._now().isoformat(), **facts}
        self._save()
        return self.bag

    def describe(self, **facts: Any) -> None:
        """Change what is known of the running episode: instruction, notes."""
        if self.bag is not None:
            self._facts |= facts
            self._save()

    def _save(self) -> None:
        write_json(self.bag.folder / FACTS, self._facts)

    def end(self, *, lost: int = 0, state: str = "kept", **facts: Any) -> dict[str, Any]:
        """Close the running episode; returns its audit. Raises EpisodeError where none runs."""
        if self.bag is None:
            raise EpisodeError("no episode is being recorded; start one first")
        bag, self.bag = self.bag, None
        report = bag.close(lost)
        self._facts |= {"state": state, "ended": self._now().isoformat(), "messages": bag.written, "problems": len(report["problems"]), **facts}
        try:
            write_json(bag.folder / FACTS, self._facts)
        except OSError:  # a full disk: what was said at the beginning still stands there
            report["problems"].append("episode.json could not be brought up to date")
        self._last = bag.folder
        return report

    def discard(self, *, lost: int = 0) -> Path:
        """Put the running episode aside, or else the one that was kept last. Returns where it lies now."""
        if self.bag is not None:
            self.end(lost=lost, state="discarded")
        elif self._last is None or not self._last.exists():
            raise EpisodeError("no episode is being recorded, and only the one kept last, once, can be discarded afterwards; move others by hand")
        else:
            facts = json.loads((self._last / FACTS).read_text(encoding="utf-8")) | {"state": "discarded"}
            write_json(self._last / FACTS, facts)
        target = self.folder / DISCARDED / self._last.name
        target.parent.mkdir(exist_ok=True)
        self._last.replace(target)
        self._last = None
        return target


def episode_folders(session: Path) -> list[Path]:
    """Folders of a session's kept episodes, in order; other files of such a name may lie beside them."""
    return sorted(path for path in session.glob("episode_*") if path.is_dir())


def recover(session: Path, table: TopicTable) -> list[tuple[str, str]]:
    """Mend what a killed recorder left in a session's folder; (episode, what was done or is wrong with it). Run twice, it changes nothing."""
    done = []
    for folder in episode_folders(session):
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8")) if (folder / FACTS).is_file() else {"name": folder.name, "state": "recording"}
            if facts.get("state") != "recording" and (folder / AUDIT).is_file():
                continue
            count = repair(folder)
            for part in folder.glob("*.part"):
                part.unlink()
            report = audit_bag(bag_file(folder), table)
            report["problems"].insert(0, "the recorder was killed while it wrote this episode; up to the last second may be missing")
            write_json(folder / AUDIT, report)
            write_json(folder / FACTS, facts | {"state": "interrupted", "messages": report["messages"], "problems": len(report["problems"])})
            done.append((folder.name, f"mended: {report['messages']} messages" if count else f"was whole: {report['messages']} messages"))
        except (BagError, OSError, ValueError) as error:
            done.append((folder.name, f"left as it is: {error}"))
    return done

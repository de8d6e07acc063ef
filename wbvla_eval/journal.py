"""Finished trials of a campaign, one JSON line each, written as they come: a killed evaluation loses the trials under way and no more."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from types import TracebackType
from typing import Any

from wbvla_core.errors import WbvlaError

JOURNAL = "trials.jsonl"
SCHEMA = 1
ROW = ("index", "seed", "instruction", "task", "timeout_s", "duration_s", "success", "failure", "reason", "ended", "measures")  # what every row has


class TrialJournal:
    """``trials.jsonl`` of one folder. The first line says what was tested, each later one is a finished trial.

    Args:
        folder: of the campaign; made if missing.
        key: what a row depends on besides its trial: settings, criteria, hashes of the checkpoints. JSON-able.

    Raises:
        WbvlaError: the folder holds trials of something else, or another process writes into it.
    """

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / JOURNAL
        self._file = self.path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise WbvlaError(f"another evaluation is writing into {folder}; wait for it or choose another --out") from error
        self.rows: list[dict[str, Any]] = []
        try:
            self._read(json.loads(json.dumps(key)))
        except BaseException:
            self._file.close()
            raise

    def _read(self, key: dict[str, Any]) -> None:
        self._file.seek(0)
        try:
            text = self._file.read()
        except UnicodeDecodeError as error:
            raise WbvlaError(f"{self.path} is damaged ({error}); delete it or choose another --out") from error
        whole, newline, half = text.rpartition("\n")
        lines = whole.split("\n") if newline else []
        if half:  # a process was killed while it wrote this line
            self._file.truncate(len((whole + newline).encode()))
        if not lines:
            self._write({"schema": SCHEMA, "key": key})
            return
        try:
            head, *self.rows = [json.loads(line) for line in lines]
            found = dict(head["key"])
        except (ValueError, KeyError, TypeError) as error:
            raise WbvlaError(f"{self.path} is damaged ({error}); delete it or choose another --out") from error
        for number, row in enumerate(self.rows, 2):
            lacking = [name for name in ROW if not isinstance(row, dict) or name not in row]
            if lacking:
                raise WbvlaError(f"{self.path} is damaged: line {number} is no trial (it lacks {', '.join(lacking)}); delete that line or choose another --out")
        differing = sorted(name for name in key.keys() | found.keys() if key.get(name) != found.get(name))
        if differing:
            name = differing[0]
            raise WbvlaError(
                f"{self.path} holds trials with another {name}: expected {key.get(name)!r}, found {found.get(name)!r}; choose another --out or delete the file"
            )

    def add(self, row: dict[str, Any]) -> None:
        """Append one finished trial; it is in the file when this returns."""
        self.rows.append(row)
        self._write(row)

    def _write(self, value: dict[str, Any]) -> None:
        self._file.write(json.dumps(value) + "\n")
        self._file.flush()

    def __enter__(self) -> TrialJournal:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

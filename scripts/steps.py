"""Long commands with a sign of life: a title, what the command says at the moment, how long it took. Standard library only."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

HEARTBEAT_S = 15.0  # between signs of life where the output is not a terminal (CI logs)
POLL_S = 0.2
FAILURE_LINES = 25
DISK_FULL = "The disk is full. Make room; the same command goes on where this stopped."


class StepError(RuntimeError):
    """A command failed; the text ends with the last lines that it wrote."""


def run_step(title: str, command: Sequence[str], log: Path, *, cwd: Path, env: Mapping[str, str] | None = None) -> float:
    """Run ``command`` with all its output appended to ``log``; returns the wall time, s.

    Raises:
        StepError: the exit status is not 0.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    progress = _Progress(title)
    with log.open("ab") as handle:
        handle.write(f"\n=== {title}\n$ {shlex.join(command)}\n".encode())
        handle.flush()
        begin = handle.tell()
        process = subprocess.Popen(command, stdout=handle, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env, cwd=cwd)
        try:
            while process.poll() is None:
                time.sleep(POLL_S)
                progress.update(log)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode != 0:
        progress.end("failed")
        tail = log.read_bytes()[begin:].decode(errors="replace").splitlines()[-FAILURE_LINES:]
        full = [DISK_FULL] if any("No space left on device" in line for line in tail) else []
        raise StepError("\n".join((f"{title}: exit status {process.returncode}", *(f"    {line}" for line in tail), f"The whole log is {log}", *full)))
    return progress.end("done")


class _Progress:
    """One line that is rewritten on a terminal, a line every HEARTBEAT_S elsewhere."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.live = sys.stdout.isatty()
        self.start = self.last = time.monotonic()
        if not self.live:
            print(f"  {title} ...", flush=True)

    def update(self, log: Path) -> None:
        now = time.monotonic()
        if self.live:
            text = f"  {self.title} ... {now - self.start:.0f} s  {last_line(log)}"
            print(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
        elif now - self.last >= HEARTBEAT_S:
            self.last = now
            print(f"    {now - self.start:.0f} s  {last_line(log)[:140]}", flush=True)

    def end(self, word: str) -> float:
        wall_s = time.monotonic() - self.start
        print(f"\r\033[K  {self.title}: {word}, {wall_s:.0f} s" if self.live else f"    {word}, {wall_s:.0f} s", flush=True)
        return wall_s


def last_line(path: Path) -> str:
    """The last line with anything on it; pip and ninja rewrite lines with carriage returns."""
    with path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - 8192))
        lines = handle.read().decode(errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")

"""What Fast DDS leaves in shared memory when a process is killed, and its removal. No rclpy.

A participant of Fast DDS keeps its data in segments ``fastrtps_<16 hex digits>`` and its queues in ``fastrtps_port<number>``. Beside each
lies a lock file (``_el``, or ``_sl`` for a shared port) that the process holds by ``flock`` for as long as it lives; the kernel lets go of it
however the process ends. A lock that can be had belongs to nobody: so does what lies beside it. A process that leaves by itself removes its
files; one that is killed leaves up to 70 MB.

    python -m wbvla_core.ros.shared_memory      removes what belongs to no living process
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Collection
from pathlib import Path

from wbvla_core.console import program

FOLDER = Path("/dev/shm")
SEGMENT = re.compile(r"fast(?:rtps|dds)_(?:[0-9a-f]{16}|port\d{1,5})")
LOCKS = ("_el", "_sl")
YOUNGEST_S = 1.0  # a process that begins makes its lock file a moment before it holds the lock


def segments(folder: Path = FOLDER) -> set[str]:
    """Names of all segments and ports, of living processes or not."""
    try:
        return {name for name in os.listdir(folder) if SEGMENT.fullmatch(name)}
    except OSError:  # no such folder: nothing is shared this way
        return set()


def remove_orphans(among: Collection[str] | None = None, folder: Path = FOLDER) -> int:
    """Remove segments and ports that no living process holds; returns how many bytes that were.

    Args:
        among: only these names; None = all. Files of other users are left alone.
    """
    found = segments(folder)
    if among is None:
        return sum(_remove(folder, name) for name in sorted(found))
    chosen = sorted(found & set(among))
    return sum(_remove(folder, name) for name in chosen) + _remove_unlocked_ports(folder, chosen)


def _remove(folder: Path, name: str) -> int:
    """Remove one segment with what belongs to it, if all its locks can be had; bytes that this gave back."""
    locks = [folder / f"{name}{suffix}" for suffix in LOCKS if (folder / f"{name}{suffix}").exists()]
    if not locks:
        return 0  # nothing tells whose it is
    with contextlib.ExitStack() as held:
        try:
            for lock in locks:
                if time.time() - lock.stat().st_ctime < YOUNGEST_S:
                    return 0
                handle = held.enter_context(lock.open("r+"))
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = (folder / name).stat().st_size
            for path in (folder / name, folder / f"sem.{name}_mutex", *locks):  # the locks last, while they are held
                path.unlink(missing_ok=True)
        except OSError:  # held by a living process, of another user, or gone in between
            return 0
    return size


def _remove_unlocked_ports(folder: Path, names: Collection[str]) -> int:
    """Remove ports without a lock that no process has mapped: a sender made them again after their listener was killed.

    Only for names that are known to be of this session: what another container has mapped is not seen from here.
    """
    left = [name for name in names if "_port" in name and (folder / name).exists() and not any((folder / f"{name}{suffix}").exists() for suffix in LOCKS)]
    if not left:
        return 0
    mapped = "\n".join(_read(path) for path in Path("/proc").glob("[0-9]*/maps"))
    size = 0
    for name in left:
        if f"{folder / name}\n" not in mapped:
            with contextlib.suppress(OSError):
                size += (folder / name).stat().st_size
                for path in (folder / name, folder / f"sem.{name}_mutex"):
                    path.unlink(missing_ok=True)
    return size


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # the process has ended, or is another user's
        return ""


def main() -> None:
    count = len(segments())
    size = remove_orphans()
    print(f"{count - len(segments())} of {count} segments of Fast DDS belonged to no living process and are removed: {size / 1e6:.0f} MB")


if __name__ == "__main__":
    program(main)

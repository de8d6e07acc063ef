"""A run's resumable state in one file, and who may write it.

A state is written by rename, so that a kill or a full disk leaves the old one, and read without running code from it. It carries the
sha256 of its own bytes (as the comment of the zip archive that torch writes), so that a damaged one is not continued.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import socket
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from wbvla_core.checkpoint import no_room
from wbvla_core.errors import WbvlaError

LOCK_FILE = ".lock"
_LEFT = re.compile(r"\..+\.\d+(\.npz)?|\.state_\d+")  # names that this project gives to what it has not finished writing
_MARK = b"wbvla sha256 "
_END, _DIGEST = 22, len(_MARK) + 64  # bytes of a zip archive's last record without a comment, and of our comment


class _Sealed:
    """A file that ends with the sha256 of what was written to it. torch writes an archive to it from front to back."""

    def __init__(self, handle: Any) -> None:
        self._handle, self._digest, self._held = handle, hashlib.sha256(), b""
        self.error: OSError | None = None  # torch hides it behind an error of its own

    def write(self, data: Any) -> int:
        """Write all but the last :data:`_END` bytes, which :meth:`seal` changes."""
        data = bytes(data)
        together = self._held + data
        cut = max(len(together) - _END, 0)
        self._held = together[cut:]
        self._put(together[:cut])
        return len(data)

    def seal(self) -> None:
        """Write the last record, with our comment behind it."""
        if not self._held.startswith(b"PK\5\6") or self._held[-2:] != b"\0\0":
            raise RuntimeError("torch.save no longer writes a zip archive without comment: the state's checksum has no place")
        self._put(self._held[:-2] + _DIGEST.to_bytes(2, "little"))
        self._handle.write(_MARK + self._digest.hexdigest().encode())

    def _put(self, data: bytes) -> None:
        try:
            self._handle.write(data)
        except OSError as error:
            self.error = error
            raise
        self._digest.update(data)

    def flush(self) -> None:
        """Part of what torch expects of a file."""
        self._handle.flush()


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values to ``path``; its folder must exist.

    Raises:
        WbvlaError: the disk is full; the state before stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    sealed = None
    try:
        with temporary.open("wb") as handle:
            sealed = _Sealed(handle)
            torch.save(state, sealed)
            sealed.seal()
        os.replace(temporary, path)
    except Exception as error:
        cause = sealed.error if sealed is not None and sealed.error is not None else error
        if (why := no_room(cause)) is None:
            raise
        before = "the state before it stays" if path.exists() else "nothing was there before"
        raise WbvlaError(f"cannot write the training state {path}: {why}; {before}. Make room and run the same command again") from error
    finally:
        temporary.unlink(missing_ok=True)


def copy_state(path: Path, target: Path) -> None:
    """Keep a state under a second name, whole or not at all; a disk that is full loses the copy alone.

    Raises:
        WbvlaError: the disk is full.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.copyfile(path, temporary)
        os.replace(temporary, target)
    except OSError as error:
        if (why := no_room(error)) is None:
            raise
        raise WbvlaError(f"cannot keep a copy of {path} as {target}: {why}; the state itself is whole. Make room and run the same command again") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_state(path: Path, *, holds: Sequence[str] = (), device: str = "cpu") -> dict[str, Any]:
    """The state at ``path``, its tensors on ``device``.

    Args:
        holds: keys that tell this kind of state from another training's.

    Raises:
        WbvlaError: no such file, a damaged or foreign one, or another kind of state.
    """
    if not path.is_file():
        raise WbvlaError(f"no training state at {path}; give the state.pt that a training wrote")
    try:
        _require_whole(path)
        state = torch.load(path, weights_only=True, map_location=device)
    except OSError:
        raise
    except Exception as error:  # an unpickler that is fed with another file raises anything
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise WbvlaError(f"{path} is no training state or a damaged one ({why}); take an older one, or delete it to start anew") from error
    missing = [key for key in holds if key not in state] if isinstance(state, dict) else list(holds)
    if missing or not isinstance(state, dict):
        raise WbvlaError(f"{path} is not a state of this training: it lacks {', '.join(missing) or 'everything'}; give another file")
    return state


def _require_whole(path: Path) -> None:
    """Raise where the bytes are not those that were written. A state from before there was a digest is held to the archive's own checksums."""
    with path.open("rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(size - 2 * _DIGEST - _END, 0))
        tail = handle.read()
        comment = tail[-_DIGEST:]
        if not comment.startswith(_MARK):
            if _MARK in tail or tail[-_DIGEST - _END :].startswith(b"PK\5\6"):
                raise ValueError("its checksum is damaged")
            if bad := zipfile.ZipFile(path).testzip():
                raise ValueError(f"{bad} does not match its checksum")
            return
        handle.seek(0)
        digest, left = hashlib.sha256(), size - _DIGEST
        while left > 0 and (block := handle.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    if digest.hexdigest().encode() != comment[len(_MARK) :]:
        raise ValueError("its bytes do not match their checksum")


@contextmanager
def claim(folder: Path, *, wanted: bool = True) -> Iterator[None]:
    """Be the only training that writes into a run folder; what a killed one left half written is removed.

    The system gives the lock back when the process ends, however it ends: a dead process blocks nobody.

    Args:
        wanted: False where another process of the same training holds the lock.

    Raises:
        WbvlaError: another process trains there; named with its number, machine and start.
    """
    if not wanted:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise WbvlaError(f"another training writes into {folder}: {_holder(lock.read())}; wait for it, stop it, or give another run folder") from None
        lock.truncate(0)
        lock.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n")
        lock.flush()
        for left in [path for path in folder.rglob(".*") if _LEFT.fullmatch(path.name)]:
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        yield


def _holder(text: str) -> str:
    try:
        held = json.loads(text)
        return f"process {held['pid']} on {held['host']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has not said its number yet"


def differences(was: Any, now: Any, where: str = "") -> list[str]:
    """What differs between two settings as JSON, a line each: ``stages[1].share: 0.7 -> 0.35``."""
    if isinstance(was, dict) and isinstance(now, dict):
        keys = [*was, *(key for key in now if key not in was)]
        return [line for key in keys for line in differences(was.get(key), now.get(key), f"{where}.{key}" if where else key)]
    if isinstance(was, list) and isinstance(now, list) and any(isinstance(part, dict) for part in (*was, *now)):
        both = itertools.zip_longest(was, now)
        return [line for i, (a, b) in enumerate(both) for line in differences(a, b, f"{where}[{i}]")]
    return [] if was == now else [f"{where}: {shortened(was)} -> {shortened(now)}"]


def shortened(value: Any, most: int = 80) -> str:
    """A value for one line of a message."""
    text = json.dumps(value)
    return text if len(text) <= most else f"{text[:most]}..."


def require_same(path: Path, was: dict[str, Any], now: dict[str, Any], *, free: Sequence[str] = (), folder: str = "--run-dir") -> list[str]:
    """Refuse to continue a state under other settings.

    Args:
        was, now: settings in the state, and those asked for, as JSON.
        free: settings that may differ. folder: the option that names the run folder.

    Returns:
        differences of ``free`` settings.

    Raises:
        WbvlaError: every other difference, what the state has first.
    """
    found = differences(was, now)
    allowed = [line for line in found if line.split(":")[0] in free]
    if refused := [line for line in found if line not in allowed]:
        more = f" and {len(refused) - 6} more" if len(refused) > 6 else ""
        raise WbvlaError(
            f"{path} is the state of a run with other settings (state -> asked for): {'; '.join(refused[:6])}{more}. "
            f"Give these again to go on with it, another {folder}, or delete it to start anew"
        )
    return allowed


def require_same_data(path: Path, was: dict[str, Any] | None, now: dict[str, Any], log: Any) -> None:
    """Refuse to continue a state on other data than it was trained with.

    Args:
        was, now: name -> :func:`wbvla_train.data.prints.of_files`; None: an older state, which does not say.

    Raises:
        WbvlaError: naming the data that changed.
    """
    if was is None:
        log(f"{path} does not say which data it was trained on: taken to be these")
        return
    if changed := differences(was, now):
        raise WbvlaError(
            f"{path} was trained on other data (state -> here): {'; '.join(changed)}. Restore the data, give another --run-dir, "
            "or delete the state to start anew"
        )

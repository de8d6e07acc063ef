"""The terminal as an operator's device: keys without echo and Enter, and the terminal as it was, whatever happens."""

from __future__ import annotations

import atexit
import os
import select
import sys
import termios
import tty
from collections.abc import Callable
from types import TracebackType


class RawTerminal:
    """Context manager: single keys from the terminal; restored at the end, after exceptions, and at exit of the interpreter.

    cbreak, not raw: Ctrl-C stays a signal, so that an operator can always leave. After SIGKILL only ``stty sane`` (or ``reset``) helps: nobody else is left.

    Args:
        fd: the terminal; default stdin.
    """

    def __init__(self, fd: int | None = None) -> None:
        self.fd = sys.stdin.fileno() if fd is None else fd
        self._before: list | None = None

    def __enter__(self) -> RawTerminal:
        if os.isatty(self.fd):
            self._before = termios.tcgetattr(self.fd)
            atexit.register(self.restore)
            tty.setcbreak(self.fd)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.restore()

    def restore(self) -> None:
        """The terminal as it was found; safe to call twice."""
        before, self._before = self._before, None
        if before is not None:
            termios.tcsetattr(self.fd, termios.TCSADRAIN, before)
            atexit.unregister(self.restore)

    def keys(self, timeout_s: float = 0.0) -> list[str]:
        """The keys that were pressed since the last call, waiting at most ``timeout_s`` for the first; see :func:`split_keys`."""
        if not select.select([self.fd], [], [], timeout_s)[0]:
            return []
        return split_keys(os.read(self.fd, 4096))


class Prompt:
    """One line, typed key by key where the terminal gives single keys: Enter ends it, Escape gives it up, Backspace takes back.

    Args:
        label: what is asked for.
        write: shows text to the operator.
    """

    def __init__(self, label: str, write: Callable[[str], object]) -> None:
        self.label, self.text, self.open = label, "", True
        self._write = write
        write(f"{label}: ")

    def key(self, key: str) -> str | None:
        """Take one key; the line, stripped, once it is ended."""
        if key in ("\n", "\r", "escape"):
            self.open = False
            self._write("\n" if key != "escape" else "  (given up)\n")
            return self.text.strip() if key != "escape" else None
        if key in ("\x7f", "\b"):
            if self.text:
                self.text = self.text[:-1]
                self._write("\b \b")
        elif len(key) == 1 and key.isprintable():
            self.text += key
            self._write(key)
        return None


ESCAPES = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1b[C": "right", b"\x1b[D": "left", b"\x1bOA": "up", b"\x1bOB": "down", b"\x1bOC": "right", b"\x1bOD": "left"}


def split_keys(data: bytes) -> list[str]:
    """Bytes of a terminal -> keys: characters, and "up", "down", "left", "right", "escape". Other escape sequences (mouse, paste, F keys) are dropped."""
    out: list[str] = []
    while data:
        if data[:1] == b"\x1b":
            name = ESCAPES.get(data[:3])
            if name is not None:
                out.append(name)
                data = data[3:]
            elif len(data) > 1 and data[1:2] in (b"[", b"O"):
                end = next((i for i in range(2, len(data)) if 0x40 <= data[i] <= 0x7E), len(data) - 1)
                data = data[end + 1 :]
            else:
                out.append("escape")
                data = data[1:]
        else:
            end = data.find(b"\x1b")
            part, data = (data, b"") if end < 0 else (data[:end], data[end:])
            out.extend(part.decode(errors="ignore"))
    return out

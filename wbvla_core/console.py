"""How every program of this project ends and prints: the command ``wbvla``, ``python -m`` modules, benchmarks and scripts."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from wbvla_core.errors import WbvlaError, WbvlaWarning

REFUSED, CRASHED, INTERRUPTED, PIPE_CLOSED = 2, 1, 130, 141
# Errors of the operating system that say something of the place, not of the program, even without a file name.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def flush_lines() -> None:
    """Send every line as soon as it is printed, through pipes and into files too.

    Python keeps up to 8 KiB back where stdout is not a terminal, so that progress of a long command would not show.
    Only a program may decide this about its own streams: a library that is imported must not.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # tests and notebooks put other objects here
            stream.reconfigure(line_buffering=True)


def run(name: str, main: Callable[[], int | None]) -> int:
    """Call ``main`` and return the exit status. A refusal is one sentence on stderr, never a traceback.

    Args:
        name: how the program was called; begins every sentence.
        main: parses ``sys.argv`` and does the work; None counts as 0.
    """
    flush_lines()
    _notes_in_one_line(name)
    try:
        with _interruptible_imports(name):
            return int(main() or 0)
    except KeyboardInterrupt:
        return _say(name, "interrupted", INTERRUPTED)
    except WbvlaError as error:
        code = f" [{error.code.name} {int(error.code)}]" if error.code else ""
        return _say(name, f"{error}{code}", REFUSED)
    except BrokenPipeError:  # `wbvla ... | head`
        _drop_output()
        return PIPE_CLOSED
    except OSError as error:
        if error.filename is None and error.errno not in DISK_FULL:
            traceback.print_exc()
            return CRASHED
        where = "" if error.filename is None else f": {error.filename}"
        return _say(name, f"{error.strerror}{where}", REFUSED)
    except Exception:
        traceback.print_exc()
        return CRASHED


@contextlib.contextmanager
def _interruptible_imports(name: str) -> Iterator[None]:
    """Ctrl-C during an import ends the program at once.

    As an exception it would pass through foreign modules that take it for a missing package, or go on. Nothing of ours is open while something is imported.
    Everywhere else it is a KeyboardInterrupt as ever.
    """

    def interrupted(number: int, frame: FrameType | None) -> None:
        if importing(frame):
            os.write(2, f"{name}: interrupted\n".encode())  # print may be what is interrupted
            os._exit(INTERRUPTED)
        signal.default_int_handler(number, frame)

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        if ours and signal.getsignal(signal.SIGINT) is interrupted:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def importing(frame: FrameType | None) -> bool:
    """Whether this frame belongs to the import of some module."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib._bootstrap"):
            return True
        frame = frame.f_back
    return False


def program(main: Callable[[], int | None]) -> NoReturn:
    """The last line of every module that is a program: ``if __name__ == "__main__": program(main)``."""
    sys.exit(run(called(), main))


def called() -> str:
    """How this process was started: ``python -m wbvla_train.lam.probe`` or ``python benchmarks/vla.py``."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and spec.name:
        return f"python -m {spec.name.removesuffix('.__main__')}"
    script = Path(sys.argv[0])
    return f"python {script.parent.name}/{script.name}" if script.parent.name else f"python {script.name}"


def _notes_in_one_line(name: str) -> None:
    """Print this project's own warnings as sentences, without file, line and source; the others as ever."""
    before = warnings.showwarning

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        if issubclass(category, WbvlaWarning):
            print(f"{name}: note: {message}", file=file or sys.stderr)
        else:
            before(message, category, filename, lineno, file, line)

    warnings.showwarning = show


def _say(name: str, text: str, status: int) -> int:
    print(f"{name}: {text}", file=sys.stderr)
    return status


def _drop_output() -> None:
    """Nobody reads stdout any more: what the interpreter still flushes at its end goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):  # stdout is no file
        pass
    finally:
        os.close(nowhere)

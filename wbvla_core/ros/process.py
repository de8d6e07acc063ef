"""What every process of the stack does with signals, priorities and its end. No rclpy: the runner uses it, too."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NoReturn

PARENT_VARIABLE = "WBVLA_PARENT_PID"  # set by runner and launch files: a node whose starter is gone must not outlive it
MANAGED_VARIABLE = "WBVLA_MANAGED"  # set by the launch files: SIGINT reaches all processes at once, and the manager takes the nodes down in order
AGAIN_S = 0.1  # how soon loading is abandoned again where the first attempt was swallowed
LAUNCHERS = ("run", "launch")  # verbs of `ros2` that wait for what they started, and so are the operator's hand on it


class Stopped(BaseException):
    """The process is to end while it loads. No Exception: nothing that handles errors may take it for one."""


class Starter:
    """The process that started this one and that it must not outlive, if there is such a process.

    Runner and launch files name themselves in the environment. `ros2 run` does not, and is recognised by its command line. A shell,
    nohup, tmux, systemd or a debugger that started a node is no such process: what they start may outlive them on purpose.
    """

    def __init__(self) -> None:
        named = os.environ.get(PARENT_VARIABLE, "")
        self._pid: int | None = None
        if named.isdigit():
            self._pid = int(named)
        elif waits_for_its_child(_command_line(os.getppid())):
            self._pid = os.getppid()
        self._born = None if self._pid is None else _born(self._pid)

    def gone(self) -> bool:
        """Whether there was a starter and it has ended. A process that took over its number is not it."""
        return self._pid is not None and (self._born is None or _born(self._pid) != self._born)


def waits_for_its_child(command: Sequence[str]) -> bool:
    """Whether a command line, interpreter included, is `ros2 run` or `ros2 launch`."""
    at = next((i for i, word in enumerate(command[:3]) if os.path.basename(word) == "ros2"), None)
    return at is not None and command[at + 1 : at + 2] != [] and command[at + 1] in LAUNCHERS


def _command_line(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _born(pid: int) -> int | None:
    """When a process was started, in clock ticks after the machine's boot; None where it has ended, a zombie included."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


class StopSignal:
    """SIGINT and SIGTERM as a flag. Further ones change nothing, so that leaving in order cannot be interrupted: a terminal's Ctrl-C reaches a node
    twice under ros2 launch, and people press it twice.

    Args:
        managed: SIGINT does not count as a signal to stop, :attr:`interrupted` tells it: the lifecycle manager hears it, too, and takes the nodes down.
    """

    def __init__(self, *, managed: bool = False) -> None:
        self.managed = managed
        self.interrupted = False
        self._signalled = threading.Event()
        self._since_s = math.inf
        self._loading = False
        self._starter = Starter()
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    def _handle(self, number: int, _frame: object) -> None:
        self.interrupted = self.interrupted or number == signal.SIGINT
        if not (self.managed and number == signal.SIGINT):
            self._signalled.set()
        self._abandon()

    def _abandon(self, *_: object) -> None:
        if self._loading:
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)  # a finalizer or a library may swallow it
            raise Stopped

    def is_set(self) -> bool:
        """Whether to stop: signalled, or orphaned."""
        return self._signalled.is_set() or self.orphaned()

    def orphaned(self) -> bool:
        """Whether the process that started this one, and waits for it, is gone."""
        return self._starter.gone()

    def due(self, after_s: float) -> bool:
        """Whether to stop now, where others go first: ``after_s`` after the reason to stop."""
        if not self.is_set():
            return False
        self._since_s = min(self._since_s, time.monotonic())
        return time.monotonic() - self._since_s >= after_s

    @contextlib.contextmanager
    def abandoning(self) -> Iterator[None]:
        """A signal ends this piece of work with :class:`Stopped`, wherever it is: for loading, which nobody waits for any more. Main thread only."""
        if self.is_set() or self.interrupted:
            raise Stopped
        signal.signal(signal.SIGALRM, self._abandon)
        self._loading = True
        try:
            yield
        finally:
            self._loading = False
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        if self.is_set() or self.interrupted:  # whatever swallowed it
            raise Stopped


LOOP_PRIORITY = 2  # SCHED_RR: the 50 Hz loop; below every kernel thread and every driver
LEAVING_PRIORITY = 1  # SCHED_RR: processes on their way out; never before the loop


def go_realtime(priority: int = LOOP_PRIORITY) -> str:
    """Ask for real-time scheduling of this process; returns what it got, for the log.

    On a machine at three times its load, a 50 Hz loop at nice -19 was up to 240 ms late, with SCHED_RR 4 ms (measured). An ordinary user needs an
    ``rtprio`` limit (/etc/security/limits.conf) for it; without, everything runs and the timing is the machine's.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(priority))
        return "real-time scheduling"
    except (OSError, AttributeError):
        return "no right to real-time scheduling: set an rtprio limit for this user, or timing depends on what else runs"


@contextlib.contextmanager
def hurry() -> Iterator[None]:
    """Real-time scheduling for a short piece of work, where this process may have it: the three seconds to stop hold on a busy machine, too."""
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
    except (OSError, AttributeError):
        before = None
    go_realtime(LEAVING_PRIORITY)
    try:
        yield
    finally:
        if before is not None:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(0, *before)


def resident_mb() -> float:
    """Resident memory of this process, MB (10^6 bytes); 0 where /proc does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return 0.0


def leave(status: int) -> NoReturn:
    """End the process now: late signals find nobody, and no library's teardown is waited for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

"""Work in several processes: results as they come, and a killed worker is noticed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wbvla_core.errors import WbvlaError
from wbvla_core.workers import in_processes


def square(number: int) -> int:
    """A job; number 3 kills its own process, as the kernel does when memory runs out."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def test_every_job_comes_back_with_its_number():
    assert dict(in_processes(square, [4, 5, 6], 2)) == {0: 16, 1: 25, 2: 36}


def test_a_killed_worker_is_an_error_and_not_a_wait_for_ever():
    with pytest.raises(WbvlaError, match="a worker process was killed"):
        list(in_processes(square, [3], 1))


KILLED = """
import functools, time
from wbvla_core.workers import in_processes
if __name__ == "__main__":
    list(in_processes(time.sleep, [300.0], 1, initializer=functools.partial(print, "up", flush=True)))
"""


def ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that nobody has fetched yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="asks /proc for the workers")
def test_workers_of_a_killed_process_end_too(tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    with subprocess.Popen([sys.executable, str(tmp_path / "killed.py")], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "up\n"
        workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        process.kill()
    assert workers
    deadline_s = time.monotonic() + 30.0
    while not all(map(ended, workers)) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    left = [pid for pid in workers if not ended(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left

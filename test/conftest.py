"""What a test session leaves behind: nothing. Temporary files lie in one folder, which goes when all tests passed; and tests kill nodes on
purpose, whose shared memory would stay."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest

from wbvla_core.ros import shared_memory

BEFORE = pytest.StashKey[set]()
FOLDER = pytest.StashKey[Path]()


def pytest_sessionstart(session: pytest.Session) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell that starts the tests in the background lets them ignore Ctrl-C, and programs that tests start inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    stash = session.config.stash
    stash[BEFORE] = shared_memory.segments()
    stash[FOLDER] = Path(tempfile.mkdtemp(prefix="wbvla-test-"))
    # For this process and for those that tests start. Short: names of sockets in it may have 107 characters.
    tempfile.tempdir = os.environ["TMPDIR"] = str(stash[FOLDER])


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    new = shared_memory.segments() - session.config.stash.get(BEFORE, set())
    if new:
        time.sleep(shared_memory.YOUNGEST_S)  # of what the last test killed
        shared_memory.remove_orphans(new)


def pytest_unconfigure(config: pytest.Config) -> None:
    """After pytest has looked after its own folders."""
    folder = config.stash.get(FOLDER, None)
    if folder is None:
        return
    tempfile.tempdir = None
    os.environ.pop("TMPDIR", None)
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not reporter.stats.get("failed") and not reporter.stats.get("error"):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        reporter.write_line(f"temporary files of the failed tests: {folder}")

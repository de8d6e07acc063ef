"""Shared memory of processes that were killed is removed; what a living process holds is never touched."""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path

import pytest

from wbvla_core.ros import shared_memory

SEGMENT, PORT = "fastrtps_0a5ef4eb37edad0d", "fastrtps_port7412"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A segment and a port as Fast DDS makes them, and a file of somebody else's."""
    monkeypatch.setattr(shared_memory, "YOUNGEST_S", 0.0)
    for name, size in ((SEGMENT, 700), (f"{SEGMENT}_el", 0), (PORT, 60), (f"{PORT}_el", 0), (f"sem.{PORT}_mutex", 32), ("PulseAudio", 9)):
        (tmp_path / name).write_bytes(b"x" * size)
    return tmp_path


def hold(path: Path) -> int:
    """A living process' lock: flock belongs to the open file, so this process can play the other one."""
    handle = os.open(path, os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def test_what_nobody_holds_is_removed_with_its_locks_and_its_semaphore(folder):
    assert shared_memory.remove_orphans(folder=folder) == 760
    assert os.listdir(folder) == ["PulseAudio"]


def test_what_a_process_holds_stays_until_it_ends(folder):
    handle = hold(folder / f"{SEGMENT}_el")
    assert shared_memory.remove_orphans(folder=folder) == 60
    assert sorted(os.listdir(folder)) == ["PulseAudio", SEGMENT, f"{SEGMENT}_el"]
    os.close(handle)
    assert shared_memory.remove_orphans(folder=folder) == 700


def test_a_port_with_two_locks_needs_both(folder):
    (folder / f"{PORT}_sl").write_bytes(b"")
    handle = hold(folder / f"{PORT}_sl")
    shared_memory.remove_orphans(folder=folder)
    assert (folder / PORT).exists() and (folder / f"sem.{PORT}_mutex").exists()
    os.close(handle)


def test_only_the_named_ones_are_looked_at(folder):
    assert shared_memory.remove_orphans([PORT], folder) == 60
    assert (folder / SEGMENT).exists()


def test_a_segment_without_a_lock_and_one_that_is_just_being_made_stay(folder, monkeypatch):
    (folder / f"{SEGMENT}_el").unlink()
    monkeypatch.setattr(shared_memory, "YOUNGEST_S", 3600.0)
    assert shared_memory.remove_orphans(folder=folder) == 0
    assert (folder / SEGMENT).exists() and (folder / PORT).exists()


def test_a_port_without_a_lock_goes_when_it_is_of_this_session_and_nobody_has_it_mapped(folder):
    """Senders make such ports again after their listener was killed."""
    (folder / f"{PORT}_el").unlink()
    assert shared_memory.remove_orphans(folder=folder) == 700 and (folder / PORT).exists(), "whose it is is not known"
    with (folder / PORT).open("r+b") as file, mmap.mmap(file.fileno(), 0):
        assert shared_memory.remove_orphans([PORT], folder) == 0
    assert shared_memory.remove_orphans([PORT], folder) == 60
    assert os.listdir(folder) == ["PulseAudio"]


def test_without_shared_memory_there_is_nothing_to_do(tmp_path):
    assert shared_memory.remove_orphans(folder=tmp_path / "nowhere") == 0

"""Resumable states: whole or not at all, and what is none is refused in a sentence."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wbvla_core.errors import WbvlaError
from wbvla_train.state_file import claim, copy_state, differences, read_state, require_same, require_same_data, write_state


def test_what_is_written_is_read_again_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "state.pt"
    write_state(path, {"steps": 3, "policy": {"weight": torch.arange(4.0)}})
    write_state(path, {"steps": 4, "policy": {"weight": torch.arange(5.0)}})
    state = read_state(path, holds=("steps", "policy"))
    assert state["steps"] == 4
    assert torch.equal(state["policy"]["weight"], torch.arange(5.0))
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.pt"]


def test_a_process_killed_while_it_writes_leaves_the_old_state(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    write_state(path, {"steps": 3})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_state(path, {"steps": 4})
    assert read_state(path)["steps"] == 3


@pytest.mark.parametrize("text", [b"", b"junk\n", b"PK\x03\x04 a zip's beginning"])
def test_a_file_of_another_kind_is_refused_by_name(text, tmp_path):
    path = tmp_path / "state.pt"
    path.write_bytes(text)
    with pytest.raises(WbvlaError, match="state.pt is no training state or a damaged one .*delete it to start anew"):
        read_state(path)


def test_a_state_cut_short_is_refused_by_name(tmp_path):
    path = tmp_path / "state.pt"
    write_state(path, {"weights": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(WbvlaError, match="damaged one"):
        read_state(path)


def test_another_trainings_state_is_refused_with_what_it_lacks(tmp_path):
    path = tmp_path / "state.pt"
    write_state(path, {"policy": 1, "weights": 2})
    with pytest.raises(WbvlaError, match="it lacks config, steps; give another file"):
        read_state(path, holds=("config", "policy", "steps"))
    torch.save([1, 2], path)
    with pytest.raises(WbvlaError, match="it lacks config"):
        read_state(path, holds=("config",))


def test_a_state_that_would_run_code_is_refused(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    path = tmp_path / "state.pt"
    torch.save({"weights": Harm()}, path)
    with pytest.raises(WbvlaError, match="damaged one"):
        read_state(path)
    assert not (tmp_path / "harm").exists()


def test_no_file_is_refused_by_name(tmp_path):
    with pytest.raises(WbvlaError, match=r"no training state at .*state\.pt"):
        read_state(tmp_path / "state.pt")


STATE = {"step": 7, "weights": {"a": torch.arange(3000.0), "b": torch.full((40, 3), -1.5)}, "settings": "{}"}


def flipped(data: bytes, count: int) -> list[bytes]:
    """Copies with one bit turned, at places drawn from a seed."""
    draw, copies = random.Random(3), []
    for _ in range(count):
        copy = bytearray(data)
        copy[draw.randrange(len(copy))] ^= 1 << draw.randrange(8)
        copies.append(bytes(copy))
    return copies


def test_a_state_with_one_bit_turned_is_refused(tmp_path):
    path = tmp_path / "state.pt"
    write_state(path, STATE)
    whole = path.read_bytes()
    for copy in flipped(whole, 200):
        path.write_bytes(copy)
        with pytest.raises(WbvlaError, match="damaged one"):
            read_state(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(WbvlaError, match="damaged one"):
        read_state(path)


def test_an_older_state_without_a_checksum_is_refused_or_the_same(tmp_path):
    """The archive's own checksums guard what is in it, and not the bytes between."""
    path = tmp_path / "state.pt"
    torch.save(STATE, path)
    refused = 0
    for copy in flipped(path.read_bytes(), 200):
        path.write_bytes(copy)
        try:
            state = read_state(path)
        except WbvlaError:
            refused += 1
            continue
        assert state["step"] == 7 and all(torch.equal(state["weights"][name], value) for name, value in STATE["weights"].items())
    assert refused > 150


def limited(size: int):
    """Files cannot grow beyond ``size`` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    return before


def test_a_full_disk_is_one_sentence_and_the_state_before_stays(tmp_path):
    path = tmp_path / "state.pt"
    write_state(path, STATE)
    before = limited(5000)
    try:
        with pytest.raises(WbvlaError, match=r"cannot write the training state .*state.pt: File too large; the state before it stays. Make room"):
            write_state(path, STATE | {"step": 8})
        with pytest.raises(WbvlaError, match="cannot keep a copy of .*; the state itself is whole"):
            copy_state(path, tmp_path / "state_0001M.pt")
        with pytest.raises(WbvlaError, match="nothing was there before"):
            write_state(tmp_path / "other.pt", STATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert read_state(path)["step"] == 7
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.pt"]


HOLD = """
import sys, time
from pathlib import Path
from wbvla_train.state_file import claim
with claim(Path(sys.argv[1])):
    (Path(sys.argv[1]) / ".state.pt.1").write_bytes(b"half")
    print("holds", flush=True)
    sys.stdin.read()
"""


def test_a_second_training_of_one_folder_is_told_who_trains_there_and_a_dead_one_blocks_nobody(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "holds\n"
        with pytest.raises(WbvlaError, match=rf"another training writes into .*: process {first.pid} on {os.uname().nodename}; wait for it"), claim(tmp_path):
            pass
        with claim(tmp_path, wanted=False):  # another process of the same training
            pass
        first.send_signal(signal.SIGKILL)
    assert (tmp_path / ".state.pt.1").exists()
    (tmp_path / "codes/.state_0000004").mkdir(parents=True)
    (tmp_path / ".grounded.safetensors.77").write_bytes(b"half")
    (tmp_path / ".notes.txt").write_text("of a person")
    with claim(tmp_path):
        assert {path.name for path in tmp_path.rglob(".*")} == {".lock", ".notes.txt"}  # what killed ones left is gone


def test_settings_that_differ_are_named_with_both_values():
    was, now = {"batch": 4, "loop": {"steps": 8, "lr": 0.1}}, {"batch": 8, "loop": {"steps": 16, "lr": 0.1}}
    assert differences(was, now) == ["batch: 4 -> 8", "loop.steps: 8 -> 16"]
    with pytest.raises(WbvlaError, match=r"run/state.pt is the state of a run with other settings \(state -> asked for\): batch: 4 -> 8. Give these again"):
        require_same(Path("run/state.pt"), was, now, free=("loop.steps",))
    assert require_same(Path("run/state.pt"), was, now | {"batch": 4}, free=("loop.steps",)) == ["loop.steps: 8 -> 16"]


def test_other_data_are_refused_and_an_older_state_that_does_not_say_is_taken_on_trust_aloud():
    said: list[str] = []
    data = {"demos": {"files": 2, "bytes": 10, "sha256": "aa"}}
    require_same_data(Path("state.pt"), data, data, said.append)
    assert said == []
    with pytest.raises(WbvlaError, match=r"trained on other data \(state -> here\): demos.files: 2 -> 1"):
        require_same_data(Path("state.pt"), data, {"demos": {"files": 1, "bytes": 10, "sha256": "aa"}}, said.append)
    require_same_data(Path("state.pt"), None, data, said.append)
    assert said == ["state.pt does not say which data it was trained on: taken to be these"]

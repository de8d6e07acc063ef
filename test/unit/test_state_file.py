"""Resumable states: whole or not at all, and what is none is refused in a sentence."""

from __future__ import annotations

import os

import pytest
import torch

from wbvla_core.errors import WbvlaError
from wbvla_train.state_file import read_state, write_state


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

"""`make train-tiny`: the order of the stages, resuming, and (slow) the whole chain in sizes of seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import train_tiny  # noqa: E402
from wbvla_cli.main import find_verb  # noqa: E402


@pytest.mark.parametrize("debug", [False, True])
def test_every_stage_is_a_verb_and_needs_only_stages_before_it(tmp_path, debug):
    seen: set[str] = set()
    for stage in train_tiny.stages(tmp_path, debug):
        assert find_verb(stage.command) is not None, stage.command
        assert set(stage.needs) <= seen, f"{stage.name} needs {set(stage.needs) - seen} first"
        seen.add(stage.name)


def test_no_stage_writes_over_the_checkpoints_that_ship(tmp_path):
    for stage in train_tiny.stages(tmp_path, debug=False):
        outputs = [value for flag, value in zip(stage.command, stage.command[1:], strict=False) if flag in ("--output", "--out", "--export", "--run-dir")]
        assert outputs, f"{stage.name} writes to its default place"
        assert all(Path(value).is_relative_to(tmp_path) for value in outputs), stage.command


def run_fake(monkeypatch, out: Path, chain: tuple[train_tiny.Stage, ...], cores: int = 2) -> tuple[int, list[str]]:
    """Run stages whose commands are Python code instead of verbs; returns the status and the names in order of their end."""
    order: list[str] = []
    monkeypatch.setattr(train_tiny, "POLL_S", 0.01)
    runner = train_tiny.Runner(out, cores)
    monkeypatch.setattr(train_tiny, "MODULE", ("-c",))
    finish = runner.finish
    monkeypatch.setattr(runner, "finish", lambda name, status: (order.append(name), finish(name, status))[1])
    return runner.run(chain), order


def test_a_stage_waits_for_what_it_needs_and_a_finished_one_is_skipped(monkeypatch, tmp_path):
    chain = (
        train_tiny.Stage("slow", ("import time; time.sleep(0.3)",)),
        train_tiny.Stage("quick", ("pass",)),
        train_tiny.Stage("after both", ("pass",), needs=("slow", "quick")),
    )
    status, order = run_fake(monkeypatch, tmp_path, chain)
    assert status == 0 and order == ["quick", "slow", "after both"], "the two first ran side by side"
    status, order = run_fake(monkeypatch, tmp_path, chain)
    assert status == 0 and order == [], "nothing is done twice"
    changed = (*chain[:2], train_tiny.Stage("after both", ("1",), needs=("slow", "quick")))
    assert run_fake(monkeypatch, tmp_path, changed) == (0, ["after both"]), "a changed command runs again"


def test_one_core_runs_one_stage_at_a_time_even_where_a_stage_asks_for_two(monkeypatch, tmp_path):
    touch = "import os, sys, time; p = sys.argv[1]; assert not os.path.exists(p), 'two at once'; open(p, 'w'); time.sleep(0.1); os.remove(p)"
    chain = tuple(train_tiny.Stage(name, (touch, str(tmp_path / "busy")), cores=cores) for name, cores in (("a", 1), ("b", 2), ("c", 1)))
    assert run_fake(monkeypatch, tmp_path, chain, cores=1) == (0, ["a", "b", "c"])


def test_a_failed_stage_ends_the_chain_with_its_last_words(monkeypatch, tmp_path, capfd):
    chain = (train_tiny.Stage("bad", ("raise SystemExit('out of memory')",)), train_tiny.Stage("next", ("pass",), needs=("bad",)))
    assert run_fake(monkeypatch, tmp_path, chain) == (1, ["bad"])
    assert "out of memory" in capfd.readouterr().err
    assert not (tmp_path / "stages.json").exists(), "what failed is not remembered as done"


def test_metrics_of_both_runs_stand_side_by_side(monkeypatch, tmp_path):
    monkeypatch.setattr(train_tiny, "ROOT", tmp_path)
    monkeypatch.setattr(train_tiny, "SHIPPED", ("lmo/x2", "lam/mani"))
    for root, falls in (("checkpoints", 1), ("mine/checkpoints", 3)):
        folder = tmp_path / root / "lmo" / "x2"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"evaluation": {"falls": falls, "note": "text"}, "ok": True}))
    text = train_tiny.compare(tmp_path / "mine")
    assert "lmo/x2 evaluation.falls" in text and text.splitlines()[1].split()[-2:] == ["1", "3"]
    assert "lam/mani: no metrics.json" in text


@pytest.mark.slow
def test_the_whole_chain_runs_from_nothing_in_debug_sizes(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "train_tiny.py"), "--debug", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "MUJOCO_GL": "egl"}, timeout=1800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for label in train_tiny.SHIPPED:
        assert (tmp_path / "checkpoints" / label / "manifest.json").is_file(), label
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0 and again.stdout.count("done before") == len(train_tiny.stages(tmp_path, True))

"""The data-saving curve at debug size: broken off, continued, its table. Minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def start(output: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "benchmarks/data_saving.py", "--preset", "debug", "--output", str(output), *more]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_curve_that_was_killed_goes_on_with_the_next_cell_and_ends_in_a_table(tmp_path):
    lines = tmp_path / "cells.jsonl"
    killed = start(tmp_path)
    while not lines.exists():
        assert killed.poll() is None, killed.stdout.read()
        time.sleep(0.1)
    killed.kill()
    killed.communicate()
    done = lines.read_text()

    output, _ = (second := start(tmp_path)).communicate()
    assert second.returncode == 0, output
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    cells = [(row["cell"]["arm"], row["cell"]["demonstrations"]) for row in rows]
    assert lines.read_text().startswith(done) and cells == [("with", 2), ("without", 2), ("with", 5), ("without", 5)]
    assert [row["steps"] for row in rows] == [[4, 4], [4, 8]] * 2  # stage 1's steps are given to stage 2 where there is no stage 1
    assert rows[0]["stage_1_s"] > 0 and not any(row["stage_1_s"] for row in rows[1:])  # one stage 1 for all cells of a seed
    assert all((len(row["walk_to"]), len(row["posture"])) == (2, 6) for row in rows)
    assert "| with LAM pre-training | " in output and (tmp_path / "curve.png").stat().st_size > 1000

    table, _ = (third := start(tmp_path, "--only-table")).communicate()
    assert third.returncode == 0 and output.endswith(table)
    refused, _ = (fourth := start(tmp_path, "--counterfactual")).communicate()
    assert fourth.returncode == 1 and "holds cells of other settings (stage_2 differ" in refused

"""Ingest at full length: killed again and again, and as data of a latent action model. Minutes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from wbvla_train.data.film.made import make_set
from wbvla_train.data.video import VideoConfig, render
from wbvla_train.lam.config import preset
from wbvla_train.lam.train import train

pytestmark = pytest.mark.slow
KILLS = 50


def command(films: Path, output: Path) -> list[str]:
    return [sys.executable, "-m", "wbvla_cli", "video", "ingest", str(films), "--output", str(output), "--workers", "2", "--dev-share", "0.2"]


def tree(output: Path) -> dict[str, bytes]:
    return {str(p.relative_to(output)): p.read_bytes() for p in sorted(output.rglob("*")) if p.is_file() and not p.name.startswith(".")}


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "films"
    make_set(folder, 21, 2, 1)
    return folder


@pytest.fixture(scope="module")
def timed(films, tmp_path_factory) -> tuple[Path, float]:
    """An unbroken run, and how long it took on this machine as busy as it is."""
    output, started = tmp_path_factory.mktemp("unbroken") / "clips", time.perf_counter()
    assert subprocess.run(command(films, output), check=False).returncode == 0
    return output, time.perf_counter() - started


@pytest.fixture(scope="module")
def unbroken(timed) -> Path:
    return timed[0]


def test_an_ingest_killed_50_times_ends_with_the_same_bytes(films, timed, tmp_path):
    rng = np.random.default_rng(0)
    unbroken, took_s = timed
    expected, output, kills, rounds = tree(unbroken), tmp_path / "clips", 0, 0
    while kills < KILLS:
        process = subprocess.Popen(command(films, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            process.wait(timeout=float(rng.uniform(0.1, 1.0) * took_s))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        assert process.returncode == 0 and tree(output) == expected
        rounds += 1
        for record in sorted((output / "films").glob("*/record.json"))[:: 1 + rounds % 2]:  # finished: some of it has to be made again
            record.unlink()
    assert subprocess.run(command(films, output), check=False).returncode == 0
    assert tree(output) == expected and rounds >= 1


def test_latent_action_training_runs_on_ingested_film_as_extra_data_and_as_data_root(unbroken, tmp_path):
    render(VideoConfig(output=tmp_path / "video", domains=("loco",), splits=("train", "dev"), train_rooms=2, dev_rooms=2, clips_per_room=3, workers=1))
    common = {"data": tmp_path / "video", "robot_video": False, "run_dir": tmp_path / "run", "output": tmp_path / "checkpoints"}
    config = preset("debug", "loco")
    folder = train(dataclasses.replace(config, **common, extra_data=(unbroken / "train" / "loco",)), log=lambda text: None)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["data"]["pairs_available"]["loco"]["robot_and_extra"] > 20
    if list((unbroken / "dev" / "loco").glob("*/clips.json")):
        own = {**common, "data": unbroken, "run_dir": tmp_path / "run2", "output": tmp_path / "checkpoints2"}
        assert (train(dataclasses.replace(config, **own), log=lambda text: None) / "manifest.json").exists()

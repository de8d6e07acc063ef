"""``wbvla eval lmo`` from the command line to its files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from wbvla_eval.lmo import command
from wbvla_eval.lmo.controllers import Standing
from wbvla_eval.lmo.options import main

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "checkpoints" / "lmo" / "x2"


class Trips(Standing):
    """Stands for a while, then answers NaN."""

    def __init__(self, robot, count):
        super().__init__(robot, count)
        self.ticks = 0

    def act(self, *inputs):
        self.ticks += 1
        return self._target if self.ticks < 20 else np.full_like(self._target, np.nan)


def test_a_python_controller_runs_through_a_suite_and_leaves_table_page_pictures_and_json(tmp_path, capsys):
    argv = ["--controller", "wbvla_eval.lmo.controllers:Standing", "--suites", "accuracy", "cart", "--episodes", "2", "--out", str(tmp_path), "--threads", "1"]
    assert main(argv) == 0
    report = json.loads((tmp_path / "results.json").read_text())
    assert report["label"] == "standing" and set(report["suites"]) == {"accuracy", "cart"} and report["git_commit"]
    rows = {r["row"]: r for r in report["suites"]["accuracy"]["rows"]}
    row = rows["forward/back"]
    assert row["falls"] == row["episodes"] == 4 and "position_m" not in row["numbers"]  # springs without balance fall within seconds
    page = (tmp_path / "report.md").read_text()
    assert "forward/back" in page and "Against the paper's Table 3" in page
    for link in [part.split(")")[0] for part in page.split("](")[1:]]:
        assert (tmp_path / link).is_file(), link
    printed = capsys.readouterr().out
    assert "accuracy / forward: 2 episodes" in printed and "not met" in printed
    assert main(argv) == 0  # nothing is run again
    assert "accuracy: already finished" in capsys.readouterr().out
    assert main([*argv[:2], "--suites", "cart", *argv[5:]]) == 0  # a suite at a time makes the same report
    assert set(json.loads((tmp_path / "results.json").read_text())["suites"]) == {"accuracy", "cart"}
    assert main(["--compare", str(tmp_path), str(tmp_path / "results.json")]) == 0
    assert "standing (2 seeds)" in capsys.readouterr().out


def test_a_controller_that_answers_nan_ends_the_run_with_a_sentence(tmp_path):
    import sys

    sys.modules["trips_for_test"] = sys.modules[__name__]
    try:
        with pytest.raises(ValueError, match="controller standing: targets of robot 0 are not finite"):
            main(["--controller", "trips_for_test:Trips", "--suites", "squat", "--episodes", "1", "--out", str(tmp_path)])
    finally:
        del sys.modules["trips_for_test"]


def test_what_was_finished_before_an_interrupt_is_kept(tmp_path, monkeypatch):
    run_suite = command._run_suite

    def interrupted(suite, *rest):
        if suite.name == "cart":
            raise KeyboardInterrupt
        return run_suite(suite, *rest)

    monkeypatch.setattr(command, "_run_suite", interrupted)
    argv = ["--controller", "wbvla_eval.lmo.controllers:Standing", "--suites", "squat", "cart", "--episodes", "1", "--out", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        main(argv)
    report = json.loads((tmp_path / "results.json").read_text())
    assert report["interrupted"] and set(report["suites"]) == {"squat"}


def test_the_shipped_checkpoint_walks_and_a_video_is_drawn_of_it(tmp_path):
    from wbvla_core.robot import load_robot
    from wbvla_eval.lmo import measures, programs, video
    from wbvla_eval.lmo.conditions import NOMINAL
    from wbvla_eval.lmo.controllers import Checked, checkpoint_factory
    from wbvla_eval.lmo.runner import make_world, run
    from wbvla_eval.lmo.suites import SUITES
    from wbvla_sim.video import read_mp4

    robot, seeds = load_robot("x2"), [1_600_000 + i for i in range(8)]
    factory, _ = checkpoint_factory(CHECKPOINT, robot)
    controller = Checked(factory, robot, len(seeds))
    program = programs.hold((1, 0, 0), 3.0, 2.0)(robot, seeds, controller.cruise)
    log = run(make_world(robot, len(seeds)), controller, program, NOMINAL, seeds, keep_qpos=True)
    assert not log.fell.any()
    out = measures.accuracy(log, robot, controller.cruise)
    assert out["position_m"].mean() < 0.3 and out["reference_m"].max() < 0.02
    quality = measures.quality(log, robot)
    assert quality["over_part"].mean() < 0.01 and 0.03 < quality["clearance_m"].mean() < 0.15
    suite = SUITES["accuracy"]
    frames = read_mp4(video.write(suite, suite.cells[0], log, robot, tmp_path / "walk.mp4", last_s=0.5))
    assert frames.shape[0] >= 6 and frames.std() > 10


@pytest.mark.slow
def test_the_quick_benchmark_runs_every_suite_with_videos(tmp_path):
    assert main(["--lmo", str(CHECKPOINT), "--quick", "--videos", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "results.json").read_text())
    assert len(report["suites"]) == 7 and report["simulated_hours"] > 0.7
    assert len(list((tmp_path / "videos").glob("*.mp4"))) >= 34

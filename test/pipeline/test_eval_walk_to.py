"""`wbvla eval` from the command line on the world without physics: seconds, and the same files as the real thing."""

import json

import av
import numpy as np
import pytest

from wbvla_cli.main import main
from wbvla_core.robot import load_robot
from wbvla_eval import hud
from wbvla_eval.chase import chase
from wbvla_eval.episode_video import FPS, HOLD_S
from wbvla_eval.protocol import instruction_trials, walk_to_trials
from wbvla_eval.seeds import DEVELOPMENT_SEEDS, SPLITS, TEST_SEEDS, TRAINING_SEEDS, split_of
from wbvla_sim.instructions import TASKS
from wbvla_sim.scene import random_scene


def run(tmp_path, *arguments):
    out = tmp_path / "out"
    status = main(["eval", *arguments, "--lmo", "kinematic", "--processes", "1", "--out", str(out)])
    return status, json.loads((out / "results.json").read_text()), (out / "results.md").read_text(), out


def test_seed_ranges_are_disjoint_and_ordered():
    assert TRAINING_SEEDS.stop <= DEVELOPMENT_SEEDS.start < DEVELOPMENT_SEEDS.stop <= TEST_SEEDS.start
    assert {split_of(seeds.start) for seeds in SPLITS.values()} == set(SPLITS)
    with pytest.raises(ValueError, match="scene seeds lie in"):
        split_of(TEST_SEEDS.stop)


def test_default_trials_use_test_seeds_only_and_name_boxes_that_are_there():
    trials = walk_to_trials(20, TEST_SEEDS.start)
    assert {split_of(t.seed) for t in trials} == {"test"} and len({t.seed for t in trials}) == 20
    assert all(t.task.color in {b.color for b in random_scene(t.seed).boxes} for t in trials)
    assert len({t.task.color for t in trials}) > 1


def test_instruction_trials_cover_every_instruction_with_seeds_of_their_own():
    trials = instruction_trials(2, TEST_SEEDS.start)
    assert {t.task for t in trials} == set(TASKS) and len({t.seed for t in trials}) == 2 * len(TASKS)


def test_the_scripted_teleoperator_reaches_every_box(tmp_path, capsys):
    status, results, page, _ = run(tmp_path, "walk-to", "--trials", "3", "--policy", "expert", "--require", "1.0", "--seed-base", "1000000")
    assert status == 0
    assert results["summary"]["all"]["successes"] == 3 and results["split"] == "development"
    assert results["summary"]["all"]["success_interval_95"] == pytest.approx([3 / (3 + 3.8415), 1.0], abs=1e-3)
    assert "3/3 = 100 %" in page and "3/3 so far" in capsys.readouterr().out


def test_standing_still_fails_and_leaves_a_video_of_the_right_length(tmp_path):
    status, results, page, out = run(tmp_path, "walk-to", "--trials", "1", "--policy", "zero", "--require", "0.5", "--seed-base", "1000000")
    assert status == 1
    trial = results["trials"][0]
    assert trial["failure"] == "stop_early" and trial["video"] in page
    with av.open(str(out / trial["video"])) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height) == (hud.WIDTH, hud.HEIGHT)
        frames = sum(1 for _ in video.decode(video=0))
    assert frames / FPS == pytest.approx(trial["measures"]["duration_s"] + HOLD_S, abs=0.15)


def test_doing_nothing_succeeds_at_standing_up_only(tmp_path):
    _, results, _, _ = run(
        tmp_path, "instructions", "--trials", "1", "--policy", "zero", "--videos", "0", "--kinds", "turn", "squat", "stand", "wave", "--seed-base", "1000000"
    )
    succeeded = {t["task"] for t in results["trials"] if t["success"]}
    assert succeeded == {"stand up"}


def test_a_missing_checkpoint_is_named_before_anything_runs(tmp_path, capsys):
    assert main(["eval", "walk-to", "--policy", str(tmp_path / "none"), "--lmo", "kinematic", "--out", str(tmp_path / "out")]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_outside_camera_stays_in_the_room_and_keeps_robot_and_box_in_the_picture():
    from wbvla_eval.trace import Trace

    n = 50
    for seed in range(1_000_000, 1_000_020):
        scene = random_scene(seed)
        goal = np.array(scene.boxes[0].xyz[:2])
        path = np.linspace((0.0, 0.0), goal * 0.6, n)
        yaw = np.full(n, np.arctan2(goal[1], goal[0]))
        still = np.zeros(n)
        trace = Trace(np.arange(n) * 0.1, np.column_stack((path, still + 0.64)), yaw, still, still + 0.64, np.zeros((n, 3)), np.zeros((n, 4)))
        shots = chase(scene, trace, goal)
        (cx, cy), (hx, hy) = scene.room_xy, scene.room_half
        for i in (0, n // 2, n - 1):
            shot = shots[i]
            assert abs(shot.position[0] - cx) < hx and abs(shot.position[1] - cy) < hy and shot.position[2] > 0.3
            view = shot.lookat - shot.position
            for point, height in ((path[i], 0.0), (path[i], 1.25), (goal, 0.15)):
                towards = np.array((*point, height)) - shot.position
                forward = view / np.linalg.norm(view)
                right = np.cross(forward, (0, 0, 1))
                right /= np.linalg.norm(right)
                depth = towards @ forward
                tan = np.tan(np.radians(45.0 / 2))  # MuJoCo's default field of view
                assert depth > 0 and abs(towards @ right) < depth * tan * 1.6 and abs(towards @ np.cross(right, forward)) < depth * tan, (seed, i, height)


def test_hud_draws_long_sentences_and_every_state_at_the_size_of_the_video():
    robot = load_robot()
    for rung, codes in (("", ()), ("damping", (0, 15, 3)), ("stand", tuple(range(16)))):
        moment = hud.Moment(
            0.0, (0, -1, -1), 0.4, 0.64, robot.stance_height_range_m, codes, codes, rung, "joint state silent for more than 0.1 s " * 3, "vla", float("nan"),
            np.zeros((1, 2)), 0.0,
        )  # fmt: skip
        frame = hud.compose(hud.Panels("walk to the blue box " * 8), moment, np.zeros((24, 32, 3), np.uint8), np.zeros((50, 80, 3), np.uint8))
        assert frame.shape == (hud.HEIGHT, hud.WIDTH, 3) and frame.dtype == np.uint8
        assert frame.std() > 5

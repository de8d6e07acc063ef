"""Pairs by time stamps, the image transform of both LAMs, cameras and the wearer's motion."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wbvla_core.robot import load_robot
from wbvla_train.data import clips
from wbvla_train.data.camera import CameraView, level_from_camera, robot_view
from wbvla_train.data.clips import Corpus, area_resize, pair_indices
from wbvla_train.data.motion import HUMAN, PRIMITIVES, ROBOT, body_path, hand_path
from wbvla_train.data.mp4 import write_mp4
from wbvla_train.lam import command
from wbvla_train.lam.config import preset


def test_a_gap_in_seconds_gives_the_same_pair_times_at_10_and_30_fps():
    gap_s, times = 0.5, {}
    for rate_hz in (10, 30):
        stamps = np.arange(2 * rate_hz) / rate_hz
        partner, valid = pair_indices(stamps, gap_s)
        times[rate_hz] = {round(float(stamps[t]), 6): round(float(stamps[partner[t]]), 6) for t in np.flatnonzero(valid)}
    assert times[10][0.3] == times[30][0.3] == 0.8
    assert all(times[30][start] == later for start, later in times[10].items() if start in times[30])
    assert len(times[10]) == 15  # 20 frames, the last 5 have no partner


def test_a_partner_too_far_from_the_wanted_time_is_no_partner():
    # a camera that dropped frames between 0.2 and 0.9 s
    stamps = np.array((0.0, 0.1, 0.2, 0.9, 1.0))
    partner, valid = pair_indices(stamps, 0.5, tolerance_s=0.08)
    assert valid.tolist() == [False, False, False, False, False]
    partner, valid = pair_indices(stamps, 0.7, tolerance_s=0.08)
    assert valid.tolist() == [False, False, True, False, False] and partner[2] == 3


def test_an_uneven_rate_takes_the_nearest_frame():
    stamps = np.array((0.0, 0.16, 0.34, 0.47, 0.55))
    partner, valid = pair_indices(stamps, 0.5)
    assert partner[0] == 3 and valid[0]  # 0.47 is nearer to 0.50 than 0.55


@pytest.mark.parametrize("stamps", [[0.0, 0.1, 0.1], [0.2, 0.1], [0.0, float("nan")]])
def test_stamps_that_do_not_increase_are_refused(stamps):
    with pytest.raises(ValueError, match="strictly increasing"):
        pair_indices(np.array(stamps), 0.1)


def test_area_resize_averages_blocks_and_refuses_what_is_no_rgb_frame():
    frame = np.zeros((1, 4, 4, 3), np.uint8)
    frame[0, :2, :2] = ((100, 0, 0), (20, 0, 0)), ((40, 0, 0), (40, 0, 0))
    small = area_resize(frame, 2)
    assert small.shape == (1, 2, 2, 3) and small[0, 0, 0].tolist() == [50, 0, 0] and small[0, 1, 1].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="uint8"):
        area_resize(frame.astype(np.float32), 2)
    with pytest.raises(ValueError, match="smaller"):
        area_resize(frame, 8)


def test_area_resize_gives_the_same_for_whole_and_for_fractional_ratios():
    ramp = np.broadcast_to(np.linspace(0, 255, 96).round().astype(np.uint8)[:, None, None], (96, 96, 3))[None]
    whole, fractional = area_resize(ramp, 48), area_resize(np.ascontiguousarray(ramp[:, :95]), 48)
    assert np.abs(whole.astype(int) - fractional).max() <= 3


def test_the_robots_view_is_58_deg_4_to_3_and_40_deg_down():
    view = robot_view(load_robot("x2"))
    assert view.fovy_deg == 58.0 and view.aspect == pytest.approx(4 / 3, abs=1e-4) and view.pitch_deg == pytest.approx(40.0, abs=0.1)
    ahead = level_from_camera(np.deg2rad(view.pitch_deg))[:, 2]
    assert ahead == pytest.approx((np.cos(np.deg2rad(40)), 0, -np.sin(np.deg2rad(40))), abs=2e-3)


def test_a_camera_view_in_radians_is_refused():
    with pytest.raises(ValueError, match="fovy_deg"):
        CameraView(fovy_deg=1.01)


def test_two_processes_that_decode_the_same_video_do_not_write_into_each_others_cache(tmp_path, monkeypatch):
    frames = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    folder = tmp_path / "dev" / "room_00000"
    folder.mkdir(parents=True)
    write_mp4(folder / "clip_00.mp4", frames, np.arange(6) * 0.1)
    entry = {"file": "clip_00.mp4", "stamps_s": [round(0.1 * i, 1) for i in range(6)], "camera": None, "source": "test"}
    (folder / "clips.json").write_text(json.dumps({"schema": 1, "clips": [entry]}))
    real = clips.read_mp4

    def read_while_another_process_decodes(path):
        if not inside:
            inside.append(True)
            monkeypatch.setattr(clips.os, "getpid", lambda: 4_000_000)
            Corpus([tmp_path / "dev"], 16)
            monkeypatch.undo()
        return real(path)

    inside: list[bool] = []
    monkeypatch.setattr(clips, "read_mp4", read_while_another_process_decodes)
    corpus = Corpus([tmp_path / "dev"], 16)
    assert corpus.frames.shape == (6, 16, 16, 3) and all(f.any() for f in np.asarray(corpus.frames))


def test_the_robots_video_is_read_once_even_if_it_is_named_again():
    config = preset("tiny", "mani")
    again = replace(config, extra_data=(config.data / "train" / "x2_mani", Path("/elsewhere")))
    assert again.extra_folders("mani") == [config.data / "train" / "x2_mani", Path("/elsewhere")]
    assert replace(again, robot_video=False, extra_data=()).extra_folders("mani") == []


@pytest.mark.parametrize("arguments", [[], ["both"], ["loco", "--name", "mani"]])
def test_a_training_must_name_its_model_once(arguments, capsys):
    assert command.main(arguments) == 2
    assert "wbvla train lam" in capsys.readouterr().err


def test_the_recorded_command_is_what_changes_the_result():
    assert command.recorded_command(["loco", "tiny", "--run-dir", "/a/b", "--seed", "3", "--output", "c"]) == "wbvla train lam loco tiny --seed 3"


@pytest.mark.parametrize("wearer", [HUMAN, ROBOT])
def test_a_wearers_path_goes_where_its_command_says(wearer):
    seen = set()
    for seed in range(120):
        path = body_path(np.random.default_rng(seed), wearer, 20, 0.1, change_rate=0.0)
        command = path.command[0]
        moved = path.pose[-1] - path.pose[0]
        for axis, least in ((2, 0.2), (3, 0.02)):
            if command[axis]:
                assert np.sign(moved[axis]) == command[axis] and abs(moved[axis]) > least
            else:
                assert abs(moved[axis]) < 1e-9
        if command[2] == 0:  # without a turn x is forward and y is left
            assert np.sign(np.round(moved[:2], 9)).astype(int).tolist() == command[:2].tolist()
        assert path.pose[:, 3].min() >= wearer.height_m[0] - wearer.squat_m - 1e-9
        seen.add(tuple(command.tolist()))
    assert set(PRIMITIVES.values()) <= seen


def test_a_resting_hand_rests_and_an_active_one_moves_smoothly():
    rest = hand_path(np.random.default_rng(0), ROBOT, 1, 20, 0.1, active=False)
    active = hand_path(np.random.default_rng(0), ROBOT, 1, 20, 0.1, active=True)
    assert np.ptp(rest, axis=0).max() == 0.0
    assert np.ptp(active, axis=0).max() > 0.05
    assert np.abs(np.diff(active, axis=0)).max() < 0.15  # no jump: at most 1.5 m/s

"""Floor, VLA and oracle: numbers by hand, what the oracle is told, what it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wbvla_core.errors import WbvlaError
from wbvla_train.vla.ceiling import OracleConfig, ask, camera_displacement, fit_oracle, read_frames, score, table, true_actions


def pose(x: float, y: float, z: float, yaw: float, pitch_down: float = 0.7) -> np.ndarray:
    """[3, 4] of a camera that looks ``pitch_down`` below the horizon at heading ``yaw``."""
    c, s, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch_down), np.sin(pitch_down)
    right, ahead = np.array((s, -c, 0.0)), np.array((c * cp, s * cp, -sp))
    return np.column_stack(((x, y, z), right, np.cross(ahead, right), ahead))


def test_a_camera_that_steps_ahead_left_and_down_and_turns_is_read_in_its_own_level_frame():
    quarter = np.pi / 2  # looks along +y of the room: 0.3 m along +y is ahead, 0.1 m along -x is to the left
    moved = camera_displacement(pose(1, 2, 1.2, quarter)[None], pose(0.9, 2.3, 1.15, quarter + 0.2)[None])
    np.testing.assert_allclose(moved, [[0.3, 0.1, -0.05, 0.0, 0.0, 0.2]], atol=1e-12)


def test_a_camera_that_nods_turns_about_its_left_axis_whatever_its_heading():
    for yaw in (0.0, 1.0, -2.5):
        moved = camera_displacement(pose(0, 0, 1, yaw, 0.7)[None], pose(0, 0, 1, yaw, 0.75)[None])
        np.testing.assert_allclose(moved, [[0, 0, 0, 0, 0.05, 0]], atol=1e-12)  # left axis up: nose down is positive


def recording(frames: int = 12) -> dict[str, np.ndarray]:
    """One episode at 10 Hz that walks 0.1 m a frame while one joint moves 0.01 a frame; then another that stands."""
    t = np.arange(frames)
    walk = np.stack([pose(0.1 * i, 0, 1.2, 0) for i in t])
    executed = np.tile((1.0, 0.0, 0.0, 0.64), (frames, 1))
    executed[6:, 0] = 0.0
    twice = lambda a, b: np.concatenate((a, b))  # noqa: E731
    return {
        "episode": twice(np.zeros(frames, int), np.ones(frames, int)),
        "stamp_s": twice(0.1 * t, 0.1 * t),
        "camera": twice(walk, np.stack([pose(5, 5, 1.2, 1)] * frames)),
        "arm_state": twice(np.column_stack((0.01 * t, np.zeros(frames))), np.zeros((frames, 2))),
        "executed": twice(executed, np.zeros((frames, 4))),
        "task": np.zeros(2 * frames, int),
    }


def test_the_oracle_is_told_what_happened_within_the_gap_and_never_across_episodes():
    told = true_actions(recording(), (0.5,))
    # arm position, six numbers of the camera, arm displacement
    np.testing.assert_allclose(told["motion"][2], [0.02, 0.5, 0, 0, 0, 0, 0, 0.05], atol=1e-6)
    np.testing.assert_allclose(told["motion"][12:17], 0.0, atol=1e-6)  # the second episode stands
    # flags and height now, no wave, their mean over the next five decisions: frames 3, 4, 5 walk, 6, 7 do not
    np.testing.assert_allclose(told["command"][3], [1, 0, 0, 0.64, 0, 0, 0.6, 0, 0, 0.64], atol=1e-6)


def test_score_by_hand():
    """One token per kind, four frames of two episodes: the majority is right twice, the VLA three times, the oracle always: half of the way."""
    codes = np.zeros((4, 2, 1), int)
    codes[2:, 0] = (1,), (2,)
    vla, oracle = codes.copy(), codes.copy()
    vla[3, 0] = 0
    found = score(codes, vla, oracle, np.array((0, 0, 1, 1)), resamples=50)
    assert [found["mani 1"][key][0] for key in ("floor", "vla", "oracle", "way")] == [0.5, 0.75, 1.0, 0.5]
    assert found["mani"] == found["mani 1"]
    assert found["loco"]["floor"] == (1.0, 1.0, 1.0) and np.isnan(found["loco"]["way"][0])
    assert "| mani 1 | 50.0 (0.0-100.0) | 75.0 (50.0-100.0) | 100.0 (100.0-100.0) |" in table({"a": {"frames": 4, "episodes": 2, "scores": {"motion": found}}})


def test_an_oracle_learns_a_code_that_follows_from_its_action_and_not_one_that_does_not():
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    action = rng.normal(size=(1200, 3)).astype(np.float32)
    codes = np.stack(((action[:, 0] > 0).astype(int), rng.integers(2, size=1200)), axis=1)[:, :, None]  # mani: the sign, loco: a coin
    features = torch.zeros(1200, 2, 4).half()
    stop = np.arange(1200) >= 900
    config = OracleConfig(width=16, dropout=0.1, lr=2e-3, batch=64, steps=200, check_every=50)
    oracle, (mean, deviation) = fit_oracle(config, features, action, codes, stop, 2, lambda _: None)
    guess = ask(oracle, features[stop], torch.from_numpy((action[stop] - mean) / deviation)).argmax(-1).numpy()
    right = (guess == codes[stop]).mean(axis=(0, 2))
    assert right[0] > 0.93 and right[1] < 0.62


def test_recordings_without_camera_poses_are_refused_with_the_way_out(tmp_path):
    from wbvla_train.vla.codes import DEMO_KEYS

    np.savez(tmp_path / "shard_00000.npz", **{key: np.zeros(3) for key in DEMO_KEYS}, arm_state=np.zeros((3, 2)), executed=np.zeros((3, 4)))
    with pytest.raises(WbvlaError, match="lacks the array 'camera'; .* make it again"):
        read_frames(tmp_path, ())

"""Rendered corpora: the default ones stay what the shipped checkpoints were trained on; errands lead somewhere; things lie where they were put."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from wbvla_core.robot import load_robot
from wbvla_train.data import rooms
from wbvla_train.data.errands import ARM_M, errand, pick_and_place
from wbvla_train.data.motion import HUMAN, PRIMITIVES, ROBOT
from wbvla_train.data.mp4 import read_mp4
from wbvla_train.data.video import Shard, _render_goals, _render_room, render_shard
from wbvla_train.data.video_command import DEFAULT_DOMAINS, DOMAINS, VideoConfig

NAMES = {direction: name for name, direction in PRIMITIVES.items()}
THINGS = np.array(((1.6, 0.4, 0.45, 0.75), (-1.2, 1.4, 0.3, 0.3), (0.3, -1.7, 0.25, 0.9), (-1.5, -1.2, 0.35, 0.5)))  # x, y, radius, height


def draw(seed: int, wearer):
    return errand(np.random.default_rng(seed), wearer, THINGS, np.zeros(3), 160, 0.1)


@pytest.mark.parametrize("wearer", [HUMAN, ROBOT])
def test_an_errand_ends_before_its_goal_facing_it_and_low_enough_for_it(wearer):
    used, reaches = set(), 0
    for seed in range(12):
        drawn = draw(seed, wearer)
        pose, command = drawn.path.pose, drawn.path.command
        used |= {NAMES[tuple(row)] for row in command.tolist()}
        assert np.ptp(pose[:, 3]) <= wearer.squat_m + 1e-9
        gap = np.linalg.norm(THINGS[drawn.goal, :2] - pose[:, :2], axis=1) - THINGS[drawn.goal, 2]
        for t in np.flatnonzero((command == 0).all(axis=1))[1:]:  # standing: reaching
            if t < 5 or command[t - 5 : t].any():
                continue  # the body still comes to rest
            reaches += 1
            away = THINGS[drawn.goal[t], :2] - pose[t, :2]
            bearing = (np.arctan2(away[1], away[0]) - pose[t, 2] + np.pi) % (2 * np.pi) - np.pi
            assert 0.05 < gap[t] < 0.6 and abs(bearing) < 0.45
            if THINGS[drawn.goal[t], 3] <= 0.3:
                assert pose[t, 3] < pose[0, 3] - 0.5 * wearer.squat_m
    assert used == set(PRIMITIVES) and reaches > 50


def test_a_hand_on_an_errand_stays_on_its_arm_and_moves_smoothly():
    for seed in range(6):
        drawn = draw(seed, HUMAN)
        for side, sign in ((0, 1), (1, -1)):
            reach = np.linalg.norm(drawn.hands[:, side] - np.array(HUMAN.shoulder) * (1, sign, 1), axis=1)
            assert reach.max() <= ARM_M + 1e-9
            assert np.linalg.norm(np.diff(drawn.hands[:, side], axis=0), axis=1).max() < 0.35


def test_a_thing_on_the_table_moves_with_the_hand_that_holds_it_and_else_not_at_all():
    grip, table_z = np.array((0.05, 0.0, -0.045)), HUMAN.shoulder[2] - 0.25
    moved = 0
    for seed in range(20):
        work = pick_and_place(np.random.default_rng(seed), HUMAN, 1, table_z, 0.04, 60, 0.1, grip)
        step = np.linalg.norm(np.diff(work.thing, axis=0), axis=1)
        free = ~work.held[1:] & ~work.held[:-1]
        assert step[free].max(initial=0.0) == 0.0
        assert step.max() < 0.2  # never from one place to another between two frames
        assert np.allclose(work.thing[work.held], work.hand[work.held] + grip)
        assert work.thing[:, 2].min() >= table_z + 0.04 - 1e-9  # on the table or above it
        moved += np.ptp(work.thing, axis=0).max() > 0.1
    assert moved >= 15


def rendered(tmp_path, domain: str, frames: int = 20, index: int = 0):
    config = VideoConfig(output=tmp_path, clips_per_room=1, frames=frames)
    shard = Shard("train", domain, index)
    render_shard((config, shard))
    images, _ = read_mp4(shard.folder(tmp_path) / "clip_00.mp4")
    return images, np.load(shard.truth(tmp_path)), json.loads((shard.folder(tmp_path) / "clips.json").read_text())["clips"][0]


@pytest.mark.parametrize("domain", ["mani", "goal_mani"])
def test_a_clip_at_full_size_shows_what_the_small_one_shows(domain):
    shots = {}
    for size in (96, 224):  # the larger one does not fit into the small one's buffer
        config, shard = VideoConfig(clips_per_room=1, frames=1, image_size=size), Shard("train", domain, 0)
        render = _render_goals if domain.startswith("goal") else _render_room
        shots[size] = next(iter(render(shard.rng(0), config, shard)))[0][0]
    small = cv2.resize(shots[224], (96, 96), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - shots[96]).mean() < 8.0


def test_a_picture_larger_than_its_buffer_is_refused():
    room = rooms.Room(0, rooms.Arms.draw(np.random.default_rng(0), "human"))
    with pytest.raises(ValueError, match="at most 192x128"):
        room.look(np.array((0.0, 0.0, 1.5)), np.eye(3), 60.0, {}, {}, 320, 240)
    room.close()


# Seed 0, room 0, clip 0: last pose (x, y, yaw, height), sum of the hands, mean colour. Checkpoints name their data by command and seed.
GOLDEN = {
    "loco": ((0.0, 0.0, -1.1465, 1.5714), -10.345, (81.8, 58.4, 67.5)),
    "mani": ((0.0, 0.0, 0.0, 1.1396), -3.928, (78.9, 107.3, 52.8)),
    "x2_loco": ((0.0011, 0.4361, -0.0631, 0.643), -23.002, (94.8, 99.4, 93.2)),
    "x2_mani": ((0.0, 0.0, 0.0, 0.64), 4.836, (65.7, 68.8, 69.6)),
}


@pytest.mark.parametrize("domain", DEFAULT_DOMAINS)
def test_the_default_corpora_are_those_of_the_shipped_checkpoints(tmp_path, domain):
    assert VideoConfig().domains == DOMAINS[:4] == ("loco", "mani", "x2_loco", "x2_mani")
    images, truth, _ = rendered(tmp_path, domain)
    pose, hands, colour = GOLDEN[domain]
    assert truth["pose"][0, -1] == pytest.approx(pose, abs=2e-4)
    assert float(np.nansum(truth["hands"][0])) == pytest.approx(hands, abs=2e-3)
    assert images.mean(axis=(0, 1, 2)) == pytest.approx(colour, abs=2.0)  # rendering and encoding may round otherwise


@pytest.mark.parametrize("domain", ["goal_loco", "goal_mani"])
def test_goal_corpora_have_the_same_form_and_keep_their_truth_apart(tmp_path, domain):
    images, truth, clip = rendered(tmp_path, domain)
    assert images.shape == (20, 96, 96, 3) and images.std() > 10
    assert set(clip) == {"file", "stamps_s", "camera", "source"}  # no pose, no command
    assert sorted(p.name for p in (tmp_path / "train" / domain / "room_00000").iterdir()) == ["clip_00.mp4", "clips.json"]
    travelled = np.linalg.norm(np.diff(truth["camera_position"][0], axis=0), axis=1).sum()
    assert travelled < 0.1 if domain == "goal_mani" else travelled > 0.1
    again, same_truth, _ = rendered(tmp_path / "again", domain)
    other, _, _ = rendered(tmp_path, domain, index=1)
    assert all(np.array_equal(truth[key], same_truth[key], equal_nan=truth[key].dtype.kind == "f") for key in truth)
    apart, repeated = (np.abs(images.astype(int) - pictures).mean() for pictures in (other, again))
    assert repeated < 0.1 * apart, "rendering and encoding may round otherwise, by far less than another room differs"


def test_a_muted_room_has_little_colour_and_the_same_furniture():
    arms = rooms.Arms.draw(np.random.default_rng(0), "robot")
    saturation, furniture = [], []
    for muted in (False, True):
        room = rooms.Room(5, arms, muted=muted)
        eye = np.array((0.0, 0.0, 1.2))
        pictures = [room.look(eye, np.array(((c, -s, 0), (s, c, 0), (0, 0, 1))), 70.0, {}, {}, 128, 96) for c, s in ((1, 0), (-1, 0), (0, 1))]
        saturation.append(np.mean([np.ptp(picture.astype(int), axis=-1).mean() for picture in pictures]))
        furniture.append(room.obstacles)
        room.close()
    assert saturation[1] < 0.5 * saturation[0] and np.array_equal(*furniture)


def test_the_robots_lens_is_that_of_the_spec_in_goal_corpora_too(tmp_path):
    sources = {}
    for index in range(6):
        shard = Shard("train", "goal_mani", index)
        render_shard((VideoConfig(output=tmp_path, clips_per_room=1, frames=2), shard))
        clip = json.loads((shard.folder(tmp_path) / "clips.json").read_text())["clips"][0]
        sources.setdefault(clip["source"], []).append(clip["camera"])
    assert {camera["fovy_deg"] for camera in sources["robot"]} == {load_robot("x2").camera.fovy_deg}
    assert len({camera["fovy_deg"] for camera in sources["human"]}) == len(sources["human"])

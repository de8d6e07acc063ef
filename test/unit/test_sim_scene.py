"""Scenes: the same by seed, boxes in the picture, ways free."""

from __future__ import annotations

import numpy as np
import pytest

from wbvla_core.errors import WbvlaError
from wbvla_core.robot import load_robot
from wbvla_sim.scene import COLORS, DISTRACTOR_COLORS, PATH_CLEARANCE_M, STAND_OFF_M, Box, random_scene
from wbvla_sim.world import World

X2 = load_robot("x2")
SEEDS = range(60)


def box_at(x, y, half=(0.1, 0.2, 0.15), yaw=0.0, color="red"):
    return Box(color, (x, y, half[2]), half, yaw, COLORS[color])


def test_same_seed_same_scene_and_another_seed_another():
    assert random_scene(5) == random_scene(5)
    assert random_scene(5) != random_scene(6)
    assert random_scene(5) != random_scene(5, kind="room")


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'walk_to'.*got 'moon'"):
        random_scene(0, kind="moon")


def test_a_seed_below_zero_is_refused_as_a_wrong_option_and_not_as_a_bug():
    with pytest.raises(WbvlaError, match="a seed of at least 0, got -1"):
        random_scene(-1)


def test_face_distance_by_hand():
    assert box_at(2.0, 0.0).face_distance((0, 0)) == pytest.approx(1.9)  # half depth 0.1 along x
    assert box_at(0.0, 2.0).face_distance((0, 0)) == pytest.approx(1.8)  # half width 0.2 along y
    assert box_at(2.0, 0.0, yaw=np.pi / 2).face_distance((0, 0)) == pytest.approx(1.8)
    assert box_at(2.0, 0.0, half=(0.1, 0.1, 0.1), yaw=np.pi / 4).face_distance((0, 0)) == pytest.approx(2.0 - 0.1 * np.sqrt(2))
    assert box_at(0.05, 0.0).face_distance((0, 0)) == 0.0  # inside


def test_walk_scenes_have_two_to_four_boxes_of_different_colours_and_distractors_of_others():
    counts = set()
    for seed in SEEDS:
        scene = random_scene(seed)
        colors = [b.color for b in scene.boxes]
        assert len(set(colors)) == len(colors) and set(colors) <= set(COLORS)
        assert scene.distractors and {d.color for d in scene.distractors} <= set(DISTRACTOR_COLORS)
        assert scene.table is not None and scene.cart is not None
        counts.add(len(colors))
        for box in scene.boxes:
            assert 1.0 <= np.hypot(*box.xyz[:2]) <= 3.0
    assert counts == {2, 3, 4}


def test_all_boxes_start_wholly_inside_the_head_cameras_picture():
    for seed in list(SEEDS)[:25]:
        scene = random_scene(seed)
        world = World(X2, scene)
        camera = world.model.camera("head").id
        rotation, origin = world.data.cam_xmat[camera].reshape(3, 3), world.data.cam_xpos[camera]
        tan_y = np.tan(np.radians(X2.camera.fovy_deg / 2))
        tan_x = tan_y * X2.camera.width / X2.camera.height
        for box in scene.boxes:
            x, y, z = ((box.corners() - origin) @ rotation).T  # MuJoCo camera: x right, y up, looks along -z
            assert np.all(z < 0)
            assert np.all(np.abs(x / -z) < tan_x) and np.all(np.abs(y / -z) < tan_y)


def test_boxes_do_not_hide_each_other_nor_stand_in_the_way():
    for seed in SEEDS:
        scene = random_scene(seed)
        for target in scene.boxes:
            for other in (*scene.boxes, *scene.distractors):
                if other is target:
                    continue
                # walk the line to the stand-off point in steps of 5 cm
                length = np.hypot(*target.xyz[:2])
                for reach in np.arange(0.0, length - STAND_OFF_M, 0.05):
                    point = np.array(target.xyz[:2]) / length * reach
                    assert np.hypot(*(np.array(other.xyz[:2]) - point)) - other.radius >= PATH_CLEARANCE_M - 1e-6
                bearing = np.arctan2(other.xyz[1], other.xyz[0]) - np.arctan2(target.xyz[1], target.xyz[0])
                widths = np.arcsin(other.radius / np.hypot(*other.xyz[:2])) + np.arcsin(target.radius / length)
                if other in scene.boxes or np.hypot(*other.xyz[:2]) < length:
                    assert abs(bearing) > widths - 1e-6


def test_the_named_colour_is_what_the_head_camera_sees():
    scene = random_scene(3)
    world = World(X2, scene)
    image = world.render("head", 320, 240).astype(float)
    camera, (right, down, forward) = world.camera_pose()[0], world.camera_pose()[1].T
    tan_y = np.tan(np.radians(X2.camera.fovy_deg / 2))
    for box in scene.boxes:
        offset = np.array(box.xyz) - camera
        depth = offset @ forward
        u = 160 + 120 * (offset @ right) / depth / tan_y
        v = 120 + 120 * (offset @ down) / depth / tan_y
        pixel = image[int(v), int(u)]
        hue = {name: np.dot(pixel, rgb) / np.linalg.norm(pixel) / np.linalg.norm(rgb) for name, rgb in COLORS.items()}
        assert max(hue, key=hue.get) == box.color


def test_one_gl_context_draws_every_scene_as_its_own_context_would():
    first, second = World(X2, random_scene(11)), World(X2, random_scene(12))
    first.render("head", 160, 120)
    shared = second.render("head", 160, 120)
    from wbvla_sim import render

    render.close_all()
    np.testing.assert_array_equal(second.render("head", 160, 120), shared)


def test_room_scenes_have_all_colours_around_the_robot():
    scene = random_scene(2, kind="room")
    assert {b.color for b in scene.boxes} == set(COLORS)


def test_held_out_scenes_differ_in_floor_and_walls_alone():
    training = [random_scene(seed) for seed in SEEDS]
    held_out = [random_scene(seed, held_out=True) for seed in SEEDS]
    for plain, other in zip(training, held_out, strict=True):
        assert plain.boxes == other.boxes and plain.table == other.table and plain.look.light_xyz == other.look.light_xyz
    for surface in ("floor", "wall"):
        assert not {getattr(s.look, surface) for s in training} & {getattr(s.look, surface) for s in held_out}
    World(X2, held_out[0])  # the materials are there


def test_empty_scene_is_floor_and_walls():
    scene = random_scene(2, kind="empty")
    assert not scene.boxes and scene.table is None
    with pytest.raises(KeyError, match="has no red box"):
        scene.box("red")

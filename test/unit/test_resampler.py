"""The resampler: image stamps are the clock; each frame gets five command steps, the nearest states and the decision that held."""

from __future__ import annotations

import numpy as np
import pytest

from wbvla_core.timeline import ClockJump, Resampler, nearest_index


def feed(resampler: Resampler, samples):
    """Samples (stream, stamp, value) in this order -> all frames."""
    frames = []
    for stream, stamp_s, value in samples:
        if stream == "image":
            resampler.add_image(stamp_s, value)
        else:
            resampler.add(stream, stamp_s, value)
        frames += list(resampler.frames())
    return frames + list(resampler.frames(final=True))


def recording(seconds: float = 2.0, image_offset_s: float = 0.003):
    """(stream, stamp, value, arrival) of images at 10 Hz, states at 200 Hz, commands at 50 Hz, decisions at 10 Hz; the value is the stamp."""
    rows = [("state", i * 0.005, 0.001) for i in range(int(seconds * 200))]
    rows += [("command", i * 0.02, 0.004) for i in range(int(seconds * 50))]
    rows += [("image", i * 0.1 + image_offset_s, 0.010) for i in range(int(seconds * 10))]
    rows += [("decision", i * 0.1 + image_offset_s, 0.040) for i in range(int(seconds * 10))]
    return [(stream, stamp, stamp, stamp + delay) for stream, stamp, delay in rows]


def resampler() -> Resampler:
    return Resampler(("state",), "command", ("decision",))


def test_the_nearest_of_two_equally_near_stamps_is_the_earlier():
    assert nearest_index([0.0, 1.0, 2.0], 1.5) == 1
    assert nearest_index([0.0, 1.0, 2.0], 1.51) == 2
    assert nearest_index([0.0, 1.0], -5.0) == 0 and nearest_index([0.0, 1.0], 5.0) == 1


def test_a_frame_gets_the_state_at_its_stamp_and_the_five_commands_that_follow():
    frames = feed(resampler(), [row[:3] for row in sorted(recording(), key=lambda row: row[3])])
    frame = frames[3]  # image at 0.303 s
    assert frame.nearest["state"] == pytest.approx(0.305)
    assert frame.skew_s["state"] == pytest.approx(0.002)
    assert frame.steps == pytest.approx((0.30, 0.32, 0.34, 0.36, 0.38))
    assert frame.held["decision"] == pytest.approx(0.303) and frame.held_age_s["decision"] == 0.0


def test_live_order_of_arrival_and_order_of_stamps_give_the_same_frames():
    """A bag is read in the order of arrival, or sorted by stamps, or late by seconds of transport: what belongs together does not change."""
    rows = recording()
    rng = np.random.default_rng(0)
    live = feed(resampler(), [row[:3] for row in sorted(rows, key=lambda row: row[3])])
    by_stamp = feed(resampler(), [row[:3] for row in sorted(rows, key=lambda row: row[1])])
    shaken = feed(resampler(), [row[:3] for row in sorted(rows, key=lambda row: row[3] + rng.uniform(0.0, 0.2))])
    assert len(live) == 20 and live == by_stamp == shaken


def test_a_faster_camera_is_decimated_to_ten_frames_a_second():
    samples = [("state", i * 0.005, 0) for i in range(600)] + [("command", i * 0.02, 0) for i in range(150)]
    frames = feed(resampler(), samples + [("image", 0.5 + i / 30, i) for i in range(60)])
    assert len(frames) == 20 and np.allclose(np.diff([f.stamp_s for f in frames]), 0.1)


def test_a_lost_command_is_bridged_by_its_neighbour_and_a_hole_of_commands_leaves_the_frame_without():
    samples = [("image", 0.5 + 0.1 * i, i) for i in range(4)] + [("state", 0.5, 0)]
    lost = [("command", i * 0.02, i) for i in range(60) if i != 27]
    assert feed(resampler(), samples + lost)[0].steps in ((25, 26, 26, 28, 29), (25, 26, 28, 28, 29))
    hole = [("command", i * 0.02, i) for i in range(60) if not 31 <= i <= 39]
    frames = feed(resampler(), samples + hole)
    assert frames[1].steps is None and frames[0].steps is not None


def test_a_clock_that_goes_back_is_refused_by_name_and_a_repeated_state_is_not():
    r = resampler()
    r.add("state", 10.0, 0)
    r.add("state", 10.0, 1)
    r.add("state", 9.9, 2)  # overtaken on the way
    with pytest.raises(ClockJump, match="clock of state went back by 7.000 s"):
        r.add("state", 3.0, 0)
    with pytest.raises(ClockJump, match="not finite"):
        r.add("state", float("nan"), 0)


def test_memory_does_not_grow_with_the_recording():
    r = resampler()
    for i in range(100 * 200):  # 100 s
        r.add("state", i * 0.005, bytes(8))
        if i % 4 == 0:
            r.add("command", i * 0.005, 0)
        if i % 20 == 0:
            r.add_image(i * 0.005, 0)
            list(r.frames())
    assert len(r._streams["state"].stamps) < 1000 and len(r._images.stamps) < 20

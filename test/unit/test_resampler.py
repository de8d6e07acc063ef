"""The resampler: image stamps are the clock; each frame gets five command steps, the nearest states and the decision that held."""

from __future__ import annotations

import numpy as np
import pytest

from wbvla_core.timeline import ClockJump, Resampler, StampGate, nearest_index


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


def gate(rows, others=None):
    """(stamps that pass, rejected (arrival, why)) of one topic's (stamp, arrival) rows."""
    one = StampGate("/topic", {} if others is None else others)
    passed = [stamp for stamp_s, arrival_s in rows for stamp, _ in one.offer(stamp_s, arrival_s, None)]
    return passed + [stamp for stamp, _ in one.finish()], one.rejected


def test_single_stamps_that_cannot_be_are_rejected_wherever_they_come():
    good = [(100.0 + 0.1 * i, 5.0 + 0.1 * i) for i in range(20)]
    for place in (0, 1, 2, 10, 18, 19):
        for wrong_s in (0.0, 1e9, 3.0):
            rows = list(good)
            rows[place] = (wrong_s, rows[place][1])
            passed, rejected = gate(rows)
            assert passed == [stamp for i, (stamp, _) in enumerate(good) if i != place], (place, wrong_s)
            assert [arrival for arrival, _ in rejected] == [good[place][1]]


def test_a_clock_that_is_set_back_is_a_jump_and_one_that_is_set_ahead_passes():
    step = [(100.0 + 0.1 * i + 3600.0 * (i >= 10), 5.0 + 0.1 * i) for i in range(20)]
    assert gate(step) == ([stamp for stamp, _ in step], [])
    with pytest.raises(ClockJump, match="went back by 3599.900 s at 5000.900 s"):
        gate([(5000.0 + 0.1 * i - 3600.0 * (i >= 10), 5.0 + 0.1 * i) for i in range(20)])


def test_a_slow_or_halted_simulator_a_pause_and_messages_out_of_order_are_no_fault():
    slow = [(100.0 + 0.1 * i, 5.0 + 1.0 * i) for i in range(20)]
    halted = [(100.0 + 0.1 * i, 5.0 + 0.1 * i + 30.0 * (i > 8)) for i in range(20)]
    paused = [(100.0 + 0.1 * i + 30.0 * (i > 8), 5.0 + 0.1 * i + 30.0 * (i > 8)) for i in range(20)]
    shaken = [(100.0 + 0.1 * (i ^ 1), 5.0 + 0.1 * i) for i in range(20)]
    for rows in (slow, halted, paused, shaken):
        assert gate(rows) == ([stamp for stamp, _ in rows], [])


def test_a_rare_topic_is_trusted_by_the_clock_of_the_others_and_a_latched_message_is_old_without_fault():
    offset = {"/joint_states": 95.0}
    assert gate([(101.0, 6.0), (131.0, 36.0)], offset) == ([101.0, 131.0], [])
    latched = [(40.0, 5.0), (101.0, 6.0), (102.0, 7.0)]  # said long before the recording began
    assert gate(latched, offset) == ([40.0, 101.0, 102.0], [])
    assert gate([(101.0, 6.0), (102.0, 7.0)]) == ([101.0, 102.0], []), "where there is nothing to compare with, what is there counts"

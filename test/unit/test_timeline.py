"""Ticks follow stamps; halves of a decision are joined by stamp."""

import pytest

from wbvla_core.timeline import StampPairer, TickFollower


def ticks(follower: TickFollower, stamps) -> list[float]:
    return [stamp for stamp in stamps if follower.due(stamp)]


def test_a_50_hz_loop_answers_every_fourth_sample_of_a_200_hz_stream():
    assert ticks(TickFollower(0.02), [i * 0.005 for i in range(17)]) == [0.0, 0.02, 0.04, 0.06, 0.08]


def test_jitter_below_the_tolerance_does_not_cost_a_sample():
    assert ticks(TickFollower(0.02, tolerance_s=0.001), [0.0, 0.0195, 0.03, 0.0395, 0.0601]) == [0.0, 0.0195, 0.0395, 0.0601]


def test_after_a_gap_missed_ticks_are_skipped_and_not_caught_up_in_a_burst():
    assert ticks(TickFollower(0.02), [0.0, 0.1, 0.105, 0.11, 0.12]) == [0.0, 0.1, 0.12]


def test_a_clock_that_jumps_back_starts_the_ticks_anew():
    assert ticks(TickFollower(0.02), [5.0, 5.02, 1.0, 1.005, 1.02]) == [5.0, 5.02, 1.0, 1.02]


def test_a_period_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="positive"):
        TickFollower(0.0)


def test_halves_with_one_stamp_are_joined_in_either_order():
    pairer = StampPairer()
    assert pairer.add_first(1, "loco") is None
    assert pairer.add_second(1, "arms") == ("loco", "arms")
    assert pairer.add_second(2, "arms2") is None
    assert pairer.add_first(2, "loco2") == ("loco2", "arms2")
    assert pairer.dropped == 0


def test_halves_of_different_decisions_are_never_joined_and_the_older_one_is_dropped():
    pairer = StampPairer()
    assert pairer.add_first(1, "loco1") is None
    assert pairer.add_second(2, "arms2") is None
    assert pairer.add_first(2, "loco2") == ("loco2", "arms2")
    assert pairer.dropped == 1
    assert pairer.add_second(1, "arms1") is None  # its partner is gone: stays alone


def test_a_stream_whose_partner_is_silent_does_not_grow():
    pairer = StampPairer(capacity=3)
    for stamp in range(10):
        pairer.add_first(stamp, stamp)
    assert pairer.dropped == 7

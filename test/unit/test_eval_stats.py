"""Intervals against numbers worked out by hand or printed in textbooks."""

import math

import pytest

from wbvla_eval.stats import percentiles, poisson_upper_bound, rate_text, spread, wilson_interval


def test_wilson_interval_of_48_of_50_by_hand():
    # p = .96, z = 1.96, z^2 = 3.8415: denominator 1 + 3.8415/50 = 1.07683; centre (.96 + .038415)/1.07683 = .92718;
    # half = 1.96 sqrt(.96*.04/50 + 3.8415/10000)/1.07683 = 1.96 sqrt(.000768 + .00038415)/1.07683 = .06178.
    low, high = wilson_interval(48, 50)
    assert low == pytest.approx(0.8654, abs=2e-4)
    assert high == pytest.approx(0.9890, abs=2e-4)


def test_wilson_interval_of_none_and_all_touches_the_ends_and_nothing_else():
    low, high = wilson_interval(0, 10)
    assert low == 0.0 and high == pytest.approx(3.8415 / (10 + 3.8415), abs=1e-4)  # z^2 / (n + z^2)
    low, high = wilson_interval(10, 10)
    assert high == 1.0 and low == pytest.approx(10 / (10 + 3.8415), abs=1e-4)


def test_wilson_interval_of_no_trials_knows_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "trials"), [(-1, 5), (6, 5)])
def test_wilson_interval_refuses_counts_that_cannot_be(successes, trials):
    with pytest.raises(ValueError, match="successes must lie in"):
        wilson_interval(successes, trials)


def test_poisson_bound_of_zero_events_is_minus_log_five_percent():
    assert poisson_upper_bound(0, 1.0) == pytest.approx(-math.log(0.05), rel=1e-6)  # 2.9957, the rule of three
    assert poisson_upper_bound(0, 100.0) == pytest.approx(-math.log(0.05) / 100.0, rel=1e-6)


def test_poisson_bound_of_one_event_is_the_tabled_4_744():
    bound = poisson_upper_bound(1, 1.0)
    assert bound == pytest.approx(4.7439, abs=1e-3)
    assert math.exp(-bound) * (1 + bound) == pytest.approx(0.05, abs=1e-6)


def test_poisson_bound_refuses_no_exposure():
    with pytest.raises(ValueError, match="exposure > 0"):
        poisson_upper_bound(0, 0.0)


def test_spread_divides_by_n_minus_one_and_ignores_what_is_not_finite():
    value = spread([1.0, 2.0, 3.0, math.nan])
    assert (value.mean, value.sd, value.count) == (2.0, 1.0, 3)
    assert spread([5.0]).sd == 0.0
    assert spread([]).count == 0 and spread([]).text() == "–"


def test_percentiles_name_their_points():
    assert percentiles([1.0, 2.0, 3.0], (50.0, 100.0)) == {"p50": 2.0, "max": 3.0}
    assert percentiles([]) == {}


def test_rate_text_carries_count_rate_and_interval():
    assert rate_text(48, 50) == "48/50 = 96 % (87–99 %)"

"""What is saved in demonstrations, by hand; and which demonstrations a subset holds."""

from __future__ import annotations

from collections import Counter
from math import inf, sqrt

import numpy as np
import pytest

from wbvla_core.errors import WbvlaError
from wbvla_eval.saving import curve_of, demonstrations_needed, resampled, saving, saving_text
from wbvla_sim.instructions import TASKS, Task
from wbvla_train.data.shards import read_shards
from wbvla_train.decoder.subsets import held_out_count, nested_order, write_subset
from wbvla_train.vla.codes import held_out_episodes

KINDS = ("walk_to", "turn", "squat")


@pytest.mark.parametrize(
    ("target", "needed"),
    [
        (0.2, 5.0),  # what it has at 5
        (0.4, sqrt(50.0)),  # halfway between 5 and 10 in the logarithm
        (0.6, 10.0),
        (0.8, sqrt(25 * 50)),  # the dip at 25 counts as the 0.6 that was reached before: halfway between 25 and 50
        (0.1, 0.0),  # fewer than the fewest
        (1.01, inf),
    ],
)
def test_demonstrations_needed_are_read_off_the_curve_in_the_logarithm_and_never_beyond_it(target, needed):
    assert demonstrations_needed((5, 10, 25, 50), (0.2, 0.6, 0.5, 1.0), target) == pytest.approx(needed)


def test_a_curve_without_points_or_out_of_order_is_refused():
    for counts, rates in (((), ()), ((10, 5), (0.1, 0.2)), ((5, 10), (0.1,)), ((0, 5), (0.0, 0.1))):
        with pytest.raises(ValueError, match="ascending"):
            demonstrations_needed(counts, rates, 0.5)


def marks(**rates: dict[int, float]) -> dict:
    """Two seeds of ten trials, alike."""
    return {(arm, k): {seed: np.arange(10) < round(10 * rate) for seed in (0, 1)} for arm, curve in rates.items() for k, rate in curve.items()}


def test_saving_is_what_the_baseline_needs_over_what_was_given():
    found = marks(codes={5: 0.4, 10: 0.8}, plain={5: 0.1, 10: 0.4, 20: 0.5, 40: 0.6})
    assert curve_of(found, "plain") == ([5, 10, 20, 40], pytest.approx([0.1, 0.4, 0.5, 0.6]))
    assert saving(found, 5, "codes", "plain") == pytest.approx(2.0)  # 10 for 5
    assert saving(found, 10, "codes", "plain") == inf  # 40 are not enough
    assert saving(found, 20, "codes", "plain") is None  # not measured
    assert saving(marks(codes={5: 0.0}, plain={5: 0.0}), 5, "codes", "plain") is None  # nothing succeeds: nothing is saved
    assert saving_text(found, 10, "codes", "plain").startswith("> 4 (")
    assert saving_text(marks(codes={10: 0.1}, plain={5: 1.0}), 10, "codes", "plain") == "< 0.5 (< 0.5 to < 0.5)"


def test_resampling_draws_the_same_seeds_and_trials_for_all_arms():
    one = {seed: np.random.default_rng(seed).random(30) < 0.5 for seed in range(3)}
    drawn = resampled({("codes", 5): one, ("plain", 5): {seed: ~trials for seed, trials in one.items()}}, np.random.default_rng(1))
    for seed, trials in drawn["codes", 5].items():
        np.testing.assert_array_equal(trials, ~drawn["plain", 5][seed])


def test_every_beginning_of_the_order_has_its_kinds_sides_and_colours_even():
    tasks = [task for task in TASKS for _ in range(6)]
    order = nested_order(tasks, np.random.default_rng(0))
    assert sorted(order) == list(range(len(tasks)))
    kinds = len({task.kind for task in tasks})
    for k in range(1, 30):
        count = Counter(tasks[i].kind for i in order[:k])
        assert max(count.values()) - min(count[task.kind] for task in tasks) <= 1, f"{k} of {kinds} kinds: {count}"
    colours = Counter(tasks[i].color for i in order[: 4 * kinds] if tasks[i].kind == "walk_to")
    assert set(colours.values()) == {1}
    assert order != nested_order(tasks, np.random.default_rng(1))


def test_as_many_episodes_follow_as_training_holds_out():
    for k in (1, 5, 25, 38, 39, 50, 200):
        held = held_out_episodes(np.arange(k + held_out_count(k)))
        assert not held[:k].any() and held[k:].all()


@pytest.fixture
def recording(tmp_path):
    """40 episodes of 2 frames in two shards; the picture of a frame is its episode's number."""
    wanted = [Task("walk_to", color="red"), Task("turn", side="left"), Task("squat"), Task("wave", side="left")]
    episode = np.repeat(np.arange(40), 2)
    task = np.array([TASKS.index(wanted[e % 4]) for e in episode])
    outcome = np.where(episode == 1, "timeout", "still")
    for number in range(2):
        rows = slice(40 * number, 40 * number + 40)
        np.savez(tmp_path / f"shard_{number:05d}.npz", episode=episode[rows], task=task[rows], outcome=outcome[rows], image=episode[rows])
    return tmp_path


def test_a_subset_holds_its_demonstrations_and_those_of_the_smaller_ones_and_nothing_else(recording, tmp_path):
    parts = []
    for k in (3, 6, 12):
        told = write_subset(recording, tmp_path / str(k), k, seed=5, kinds=KINDS)
        data = read_shards(tmp_path / str(k))
        assert len(np.unique(data["episode"])) == k + 1 and not held_out_episodes(data["episode"])[: 2 * k].any()
        assert Counter(sentence.split()[0] for sentence in told) == dict.fromkeys(("walk", "turn", "squat"), k // 3)
        parts.append((data["image"][: 2 * k : 2].tolist(), data["image"][-1]))
    assert parts[1][0][:3] == parts[0][0] and parts[2][0][:6] == parts[1][0]
    checks = {check for _, check in parts}
    assert 1 not in parts[2][0] and not {e % 4 for e in parts[2][0]} & {3}  # cut off; a wave
    assert len(checks) == 1 and not checks & set(parts[2][0])


def test_more_demonstrations_than_there_are_is_refused_with_the_way_out(recording, tmp_path):
    with pytest.raises(WbvlaError, match=r"28 finished demonstrations .* wanted are 60 and 3; record more"):
        write_subset(recording, tmp_path / "many", 60, seed=0, kinds=KINDS)

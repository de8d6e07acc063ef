"""The shipped leg policy in the lock-step world: it does what it is shipped for."""

from pathlib import Path

import pytest

from wbvla_core.checkpoint import load_manifest
from wbvla_eval.lmo.lockstep import CASES, Options, run_trial

CHECKPOINT = Path(__file__).resolve().parents[2] / "checkpoints" / "lmo" / "x2"
OPTIONS = Options(lmo=CHECKPOINT, hold_s=4.0, rest_s=2.0, seed_base=3_000_000)


def trial(name: str, seed: int = 3_000_000) -> dict:
    return run_trial((next(c for c in CASES if c.name == name), seed, OPTIONS))


@pytest.mark.parametrize("name, axis, sign, index", [("forward", "vx", 1, 0), ("left", "vy", 1, 1), ("turn right", "wz", -1, 2)])
def test_shipped_policy_moves_at_its_cruise_speed_with_noise_delay_and_moving_arms_and_stands_again(name, axis, sign, index):
    cruise = load_manifest(CHECKPOINT, kind="lmo").extra["pipeline"]["gating"]["cruise"][index]
    result = trial(name)
    assert not result["fell"]
    assert 0.65 < sign * result[axis] / cruise < 1.35
    assert result["stop_m"] < 0.35


def test_shipped_policy_stands_where_it_is():
    result = trial("stand")
    assert not result["fell"]
    assert abs(result["vx"]) < 0.06 and abs(result["vy"]) < 0.06
    assert abs(result["height_error"]) < 0.03


def test_shipped_policy_squats_and_stays_up():
    result = trial("squat 0.55 m")
    assert not result["fell"] and abs(result["height_error"]) < 0.03

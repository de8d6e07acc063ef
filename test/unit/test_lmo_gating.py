"""Gating of flags and the stance height rate limit."""

import math

import numpy as np
import pytest

from wbvla_lmo.gating import GatingConfig, IntentGate

DT_S = 0.02


def held(gate: IntentGate, flag: float, ticks: int) -> list[float]:
    flags = np.array([[flag, 0.0, 0.0]])
    return [float(gate.step(flags, np.array([0.64]), DT_S)[0][0, 0]) for _ in range(ticks)]


def test_first_ticks_of_a_start_are_the_numbers_worked_out_by_hand():
    gate = IntentGate(GatingConfig(alpha=1.0, lam=0.15, cruise=(0.3, 0.3, 0.4)), 1, 0.64)
    got = held(gate, 1.0, 2)
    # s_bar: 0.15, then 0.85 * 0.15 + 0.15 = 0.2775
    assert got == pytest.approx([0.3 * math.tanh(0.15) / math.tanh(1.0), 0.3 * math.tanh(0.2775) / math.tanh(1.0)])
    assert got[0] == pytest.approx(0.058647, abs=1e-6)


def test_a_held_flag_reaches_exactly_the_cruise_speed_and_a_released_one_goes_to_zero():
    gate = IntentGate(GatingConfig(), 1, 0.64)
    assert held(gate, -1.0, 300)[-1] == pytest.approx(-0.3, abs=1e-9)
    after = held(gate, 0.0, 300)
    assert after[-1] == pytest.approx(0.0, abs=1e-9)
    assert all(a <= 0 for a in after), "a stop must never command the other direction"


def test_reference_path_of_a_flag_held_five_seconds_is_within_2_cm_of_cruise_speed_times_time():
    gate = IntentGate(GatingConfig(), 1, 0.64)
    path = sum(held(gate, 1.0, 250) + held(gate, 0.0, 250)) * DT_S
    assert path == pytest.approx(0.3 * 5.0, abs=0.02)


def test_literal_form_fades_while_held_and_reverses_on_release():
    gate = IntentGate(GatingConfig(literal=True), 1, 0.64)
    on = held(gate, 1.0, 200)
    assert on[0] == pytest.approx(0.3 * math.tanh(1.0))
    assert abs(on[-1]) < 1e-6
    assert held(gate, 0.0, 1)[0] < -0.2


def test_height_reference_moves_no_faster_than_its_rate_and_arrives():
    gate = IntentGate(GatingConfig(height_rate_m_s=0.2), 1, 0.64)
    heights = [float(gate.step(np.zeros((1, 3)), np.array([0.50]), DT_S)[1][0]) for _ in range(40)]
    assert heights[0] == pytest.approx(0.636)
    assert np.abs(np.diff(heights)).max() <= 0.004 + 1e-12
    assert heights[34] == pytest.approx(0.50)  # 0.14 m at 4 mm per tick
    assert heights[-1] == pytest.approx(0.50)


def test_robots_of_a_batch_do_not_touch_each_other_and_reset_is_per_robot():
    gate = IntentGate(GatingConfig(), 3, 0.64)
    flags = np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, -1.0]])
    for _ in range(10):
        velocity, _ = gate.step(flags, np.full(3, 0.64), DT_S)
    assert velocity[1].tolist() == [0, 0, 0]
    assert velocity[0, 0] > 0.2 and velocity[2, 2] < -0.25
    gate.reset(np.array([0]), 0.5)
    assert gate.filtered[0].tolist() == [0, 0, 0] and gate.height_m[0] == 0.5 and gate.filtered[2, 2] < -0.5

"""Reflexes: what the ankles, hips and the landing foot do about a fall, without any policy."""

import dataclasses

import numpy as np
import pytest

from wbvla_core.robot import load_robot
from wbvla_lmo.balance import Balance, BalanceConfig
from wbvla_lmo.gait import GaitConfig, ReferenceGait, Trunk
from wbvla_lmo.pipeline import LegPipeline, PipelineConfig
from wbvla_train.lmo.config import TrainConfig
from wbvla_train.lmo.env import LmoVecEnv
from wbvla_train.lmo.reflexes import equip, falls_per_s, vector, with_gains

ROBOT = load_robot("x2")
DT_S = 0.02
LEFT = ROBOT.names("left_leg")
ON = BalanceConfig(enabled=True, ankle_gain=(10.0, 8.0), hip_gain=(1.5, 0.5), hip_rate_s=(0.1, 0.05), place_gain=1.5, smooth=1.0)


@pytest.fixture
def gait() -> ReferenceGait:
    gait = ReferenceGait(ROBOT, GaitConfig(), 1)
    zero = np.zeros((1, 2))
    gait.trunk = Trunk(zero, zero, np.full((1, 1), 0.15), np.full((1, 2), -0.8), np.full((1, 1), 3.8))
    return gait


def joints(offset: np.ndarray) -> dict[str, float]:
    return {name: float(v) for name, v in zip(ROBOT.names("lmo_action"), offset[0], strict=True) if v}


def sensed(gait: ReferenceGait, feet_ahead_m: float = 0.0, left_m: float = 0.0, config: BalanceConfig = ON, ticks: int = 1) -> Balance:
    """A robot whose feet are elsewhere than the reference asks for."""
    balance = Balance(config, gait, 1, DT_S)
    asked = np.array([[[-0.02, 0.1], [-0.02, -0.1]]])
    balance.sense(asked, np.zeros((1, 2, 2)))
    for _ in range(ticks):
        balance.sense(asked + (feet_ahead_m, left_m), np.zeros((1, 2, 2)))
    return balance


def test_standing_feet_press_the_toes_when_the_body_is_ahead_and_the_right_edge_when_it_is_to_the_right(gait):
    ahead = sensed(gait, feet_ahead_m=-0.05)  # feet 5 cm behind their course: the centre of mass is 0.8 x 5 cm ahead
    np.testing.assert_allclose(ahead.deviation, [[0.04, 0.0]])
    assert joints(ahead.feedback()) == pytest.approx({"left_ankle_pitch_joint": 0.4, "right_ankle_pitch_joint": 0.4})
    right = sensed(gait, left_m=0.05)
    assert joints(right.feedback()) == pytest.approx({"left_ankle_roll_joint": 0.32, "right_ankle_roll_joint": 0.32})


def test_half_of_a_new_deviation_counts_at_once_three_quarters_a_tick_later(gait):
    for ticks, part in ((1, 0.5), (2, 0.75)):
        balance = sensed(gait, feet_ahead_m=-0.05, config=dataclasses.replace(ON, smooth=0.5), ticks=ticks)
        assert balance.deviation[0, 0] == pytest.approx(part * 0.04)


def test_hips_turn_a_trunk_that_falls_forward_back_and_only_over_the_foot_that_stands(gait):
    gait.stepping[:], gait.phase[:] = True, 0.25  # the left foot is in the air
    gait.trunk = dataclasses.replace(gait.trunk, lean=np.array([[0.1, 0.0]]), lean_rate=np.array([[0.5, 0.0]]))
    balance = sensed(gait)
    offset = joints(balance.feedback())
    assert not any(name.startswith("left") for name in offset)
    assert offset["right_hip_pitch_joint"] == pytest.approx(1.5 * 0.1 + 0.1 * 0.5)


def test_no_reflex_moves_a_joint_by_more_than_its_limit(gait):
    assert max(joints(sensed(gait, feet_ahead_m=-0.5).feedback()).values()) == ON.limit_rad


def test_the_swing_foot_lands_where_the_body_falls_to_and_comes_back_as_a_pendulum_swings(gait):
    balance = sensed(gait, feet_ahead_m=-0.1)  # deviation 0.08
    gait.stepping[:], gait.phase[:] = True, 0.25
    for _ in range(40):
        balance.plan()
        balance.land()
    np.testing.assert_allclose(balance.landing[0, 0], (1.5 * (0.08 - 0.02), 0.0), atol=1e-6)
    np.testing.assert_array_equal(balance.landing[0, 1], 0.0)
    gait.phase[:] = 0.5  # on the ground
    for _ in range(10):
        balance.land()
    assert balance.landing[0, 0, 0] == pytest.approx(0.09 * (1 - 0.02 * 3.8) ** 10)


@pytest.mark.parametrize(("phase", "inward", "outward"), [(0.25, -0.03, 0.12), (0.75, 0.03, -0.12)])
def test_a_landing_goes_far_outward_but_hardly_inward_where_the_other_leg_is(gait, phase, inward, outward):
    foot = 0 if phase < 0.5 else 1
    for side, expected in ((-np.sign(outward), inward), (np.sign(outward), outward)):
        balance = sensed(gait, left_m=-side * 0.3)
        gait.stepping[:], gait.phase[:] = True, phase
        for _ in range(60):
            balance.plan()
            balance.land()
        assert balance.landing[0, foot, 1] == pytest.approx(expected)


def test_without_reflexes_the_targets_are_reference_and_action_alone():
    pipeline = LegPipeline(ROBOT, PipelineConfig(), 1)
    assert not pipeline.config.balance.enabled
    q = ROBOT.default_q[None]
    pipeline.observe(np.zeros((1, 3)), np.array([0.64]), np.zeros((1, 3)), np.array([[0.1, 0.0, -1.0]]), q, np.zeros_like(q))
    np.testing.assert_array_equal(pipeline.act(np.zeros((1, 12))), np.clip(pipeline.reference.q, pipeline.lower, pipeline.upper))


def test_reflexes_alone_stand_and_step_through_pushes_that_fell_the_bare_reference():
    """Training's own environment, zero actions, five seconds of commands and pushes at a third of full size."""
    config = TrainConfig()
    env = LmoVecEnv(dataclasses.replace(config, physics=dataclasses.replace(config.physics, threads=1)), 32, seed=3)
    env.curriculum.difficulty = 0.3
    with_reflexes, without = falls_per_s(env, np.stack((vector(config.pipeline.balance), np.zeros(7))), 5.0)
    assert without > 0.4 and with_reflexes < 0.25 * without


def test_gains_go_to_a_row_and_back():
    config = BalanceConfig(place_gain=1.1, ankle_gain=(9.0, 8.0), hip_gain=(0.7, 0.6), hip_rate_s=(0.05, 0.04))
    assert with_gains(BalanceConfig(), vector(config)) == config
    balance = Balance(ON, ReferenceGait(ROBOT, GaitConfig(), 2), 2, DT_S)
    equip(balance, np.stack((vector(config), vector(ON))))
    np.testing.assert_array_equal(balance.ankle_gain, [[9.0, 8.0], [10.0, 8.0]])

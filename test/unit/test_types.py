"""Values are checked where they are born, and refusals carry a code."""

import math

import numpy as np
import pytest

from wbvla_core.errors import CommandError, ErrorCode, StateError
from wbvla_core.numeric import MINIMUM_JERK_PEAK, minimum_jerk, wrap
from wbvla_core.types import ArmChunk, JointCommand, LocoCommand, RobotState, gravity_from_quaternion, pitch_roll_from_gravity, yaw_from_quaternion

RANGE_M = (0.46, 0.66)


def state(**changes) -> RobotState:
    values = dict(stamp_s=0.0, q=np.zeros(3), qd=np.zeros(3), gyro=np.zeros(3), gravity=np.array([0.0, 0.0, -1.0]))
    return RobotState(**{**values, **changes})


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (LocoCommand(forward=2), ErrorCode.COMMAND_FLAG_RANGE),
        (LocoCommand(yaw=300), ErrorCode.COMMAND_FLAG_RANGE),
        (LocoCommand(lateral=0.5), ErrorCode.COMMAND_FLAG_RANGE),
        (LocoCommand(stance_height_m=math.nan), ErrorCode.COMMAND_NOT_FINITE),
        (LocoCommand(stance_height_m=0.3), ErrorCode.COMMAND_HEIGHT_RANGE),
        (LocoCommand(stance_height_m=0.7), ErrorCode.COMMAND_HEIGHT_RANGE),
    ],
)
def test_a_command_outside_its_range_is_refused_with_its_code(command, code):
    with pytest.raises(CommandError) as refusal:
        command.validate(RANGE_M)
    assert refusal.value.code is code


def test_every_flag_combination_inside_the_range_is_accepted():
    for forward in (-1, 0, 1):
        for lateral in (-1, 0, 1):
            for yaw in (-1, 0, 1):
                assert LocoCommand(forward, lateral, yaw, 0.5).validate(RANGE_M).as_array().tolist() == [forward, lateral, yaw, 0.5]


def test_a_stopped_command_keeps_its_stance():
    assert LocoCommand(1, -1, 1, 0.5).stopped() == LocoCommand(0, 0, 0, 0.5)


@pytest.mark.parametrize("gravity", [(0.0, 0.0, 0.0), (100.0, 100.0, 100.0), (0.0, 0.0, -0.9), (0.0, 0.0, -9.81)])
def test_a_gravity_that_is_no_unit_vector_is_refused(gravity):
    with pytest.raises(StateError, match=rf"gravity must be a unit vector, got length {np.linalg.norm(gravity):.3g}") as refusal:
        state(gravity=np.array(gravity)).validate(3)
    assert refusal.value.code is ErrorCode.STATE_SHAPE
    state(gravity=np.array((0.0, 0.0, -1.04))).validate(3)  # an estimator's rounding
    state(gravity=np.array((0.0, 0.0, 1.0))).validate(3)  # upside down is an orientation too


@pytest.mark.parametrize("name", ["q", "qd", "gyro"])
def test_numbers_that_no_body_has_are_refused_by_name(name):
    with pytest.raises(StateError, match=f"robot state {name} must hold numbers below 10000, got 1e\\+300"):
        state(**{name: np.array((0.0, -1e300, 0.0))}).validate(3)


def test_gravity_of_known_orientations():
    half = math.sqrt(0.5)
    assert gravity_from_quaternion(np.array([1.0, 0, 0, 0])) == pytest.approx([0, 0, -1])
    assert gravity_from_quaternion(np.array([half, half, 0, 0])) == pytest.approx([0, -1, 0])  # rolled 90 deg to the right: left side up
    assert gravity_from_quaternion(np.array([half, 0, half, 0])) == pytest.approx([1, 0, 0])  # pitched 90 deg, nose down
    assert gravity_from_quaternion(np.array([half, 0, 0, half])) == pytest.approx([0, 0, -1])  # yaw does not show


def test_headings_of_known_orientations():
    half = math.sqrt(0.5)
    turned = np.array([[1.0, 0, 0, 0], [half, 0, 0, half], [half, 0, 0, -half], [half, half, 0, 0]])
    assert yaw_from_quaternion(turned) == pytest.approx([0, math.pi / 2, -math.pi / 2, 0])  # ahead, left, right; a roll turns nothing
    assert yaw_from_quaternion(np.array([0, 0, 0, 1.0])) == pytest.approx(math.pi)


def test_a_body_that_leans_forward_and_one_that_leans_left():
    assert pitch_roll_from_gravity(np.array([math.sin(0.2), 0.0, -math.cos(0.2)])) == pytest.approx((0.2, 0.0))
    assert pitch_roll_from_gravity(np.array([0.0, math.sin(0.1), -math.cos(0.1)])) == pytest.approx((0.0, 0.1))


def test_angles_come_into_the_half_open_turn_about_zero():
    assert wrap(np.array([0.1, math.pi + 0.1, -math.pi - 0.1, 4 * math.pi + 0.5])) == pytest.approx([0.1, 0.1 - math.pi, math.pi - 0.1, 0.5])
    assert wrap(math.pi) == pytest.approx(-math.pi)


def test_minimum_jerk_starts_and_ends_at_rest_and_is_fastest_half_way():
    s = minimum_jerk(np.array([-1.0, 0.0, 0.001, 0.5, 0.999, 1.0, 2.0]))
    np.testing.assert_allclose(s, [0, 0, 1e-8, 0.5, 1 - 1e-8, 1, 1], atol=1e-8)
    assert (minimum_jerk(0.5 + 1e-4) - minimum_jerk(0.5 - 1e-4)) / 2e-4 == pytest.approx(MINIMUM_JERK_PEAK, rel=1e-6)


def test_tilt_is_the_angle_from_upright():
    tilted = state(gravity=np.array([math.sin(0.3), 0.0, -math.cos(0.3)]))
    assert tilted.tilt_rad == pytest.approx(0.3)


def test_states_of_the_wrong_size_or_with_nan_are_refused_by_name():
    with pytest.raises(StateError, match=r"q must have shape \(4,\), got \(3,\)"):
        state().validate(4)
    with pytest.raises(StateError, match="qd must be finite, but entries \\[1\\]") as refusal:
        state(qd=np.array([0.0, np.nan, 0.0])).validate(3)
    assert refusal.value.code is ErrorCode.STATE_NOT_FINITE


def test_arm_chunks_are_refused_by_shape_names_and_values():
    names = ("a", "b")
    good = ArmChunk(names, np.zeros((5, 2)))
    assert good.validate(names) is good
    for bad, match in [
        (ArmChunk(names, np.zeros((5, 3))), "shape"),
        (ArmChunk(names, np.zeros((0, 2))), "shape"),
        (ArmChunk(("b", "a"), np.zeros((5, 2))), "must name the joints"),
        (ArmChunk(names, np.full((5, 2), np.inf)), "finite"),
        (ArmChunk(names, np.zeros((5, 2)), dt_s=0.0), "dt_s"),
    ]:
        with pytest.raises(CommandError, match=match):
            bad.validate(names)


def test_joint_commands_are_refused_by_shape_values_and_negative_gains():
    z = np.zeros(3)
    assert JointCommand(0.0, z, z, z, z, z).validate(3)
    for changes, match in [({"q": np.zeros(2)}, "shape"), ({"tau_ff": np.array([0, np.nan, 0])}, "finite"), ({"kd": np.array([0, 0, -1.0])}, "negative")]:
        values = dict(stamp_s=0.0, q=z, qd=z, tau_ff=z, kp=z, kd=z)
        with pytest.raises(CommandError, match=match):
            JointCommand(**{**values, **changes}).validate(3)

"""The safety ladder: ages, sessions, latches. All times are made up by hand; no clock is read."""

import math

import pytest

from wbvla_core.errors import CommandError, ErrorCode
from wbvla_core.safety import SafetyLadder, SafetyLimits, SafetyRung

UPRIGHT = 0.0


def ladder_at(now_s: float = 10.0, **limits) -> SafetyLadder:
    ladder = SafetyLadder(SafetyLimits(**limits))
    ladder.note_state(now_s)
    ladder.note_imu(now_s)
    return ladder


def sense(ladder: SafetyLadder, now_s: float, tilt_rad: float = UPRIGHT):
    ladder.note_state(now_s)
    ladder.note_imu(now_s)
    return ladder.evaluate(now_s, tilt_rad)


def test_without_anyone_in_control_the_robot_stands():
    status = sense(ladder_at(), 10.0)
    assert (status.rung, status.code, status.source) == (SafetyRung.STAND, ErrorCode.CONTROL_SESSION_VOID, "")
    assert math.isinf(status.command_age_s)


def test_a_fresh_command_with_a_fresh_image_is_followed_until_a_quarter_second_of_silence():
    ladder = ladder_at()
    ladder.take_control("vla", 10.0)
    assert ladder.note_decision("vla", 10.0, image_age_s=0.05)
    assert sense(ladder, 10.25).rung is SafetyRung.FOLLOW
    status = sense(ladder, 10.26)
    assert (status.rung, status.code) == (SafetyRung.STAND, ErrorCode.COMMAND_STALE)


def test_a_frozen_camera_counts_as_silence_although_commands_keep_coming():
    ladder = ladder_at()
    ladder.take_control("vla", 10.0)
    for i in range(5):  # 10 Hz commands, all from the image that was taken at 9.95 s
        now_s = 10.0 + 0.1 * i
        ladder.note_decision("vla", now_s, image_age_s=now_s - 9.95)
    assert sense(ladder, 10.34).rung is SafetyRung.FOLLOW  # image 0.39 s old
    ladder.note_decision("vla", 10.4, image_age_s=0.45)
    status = sense(ladder, 10.4)
    assert (status.rung, status.code) == (SafetyRung.STAND, ErrorCode.COMMAND_IMAGE_STALE)
    assert status.command_age_s == pytest.approx(0.0) and status.image_age_s == pytest.approx(0.45)


def test_the_image_keeps_ageing_between_commands():
    ladder = ladder_at()
    ladder.take_control("vla", 10.0)
    ladder.note_decision("vla", 10.0, image_age_s=0.3)
    assert sense(ladder, 10.09).rung is SafetyRung.FOLLOW
    assert sense(ladder, 10.11).code is ErrorCode.COMMAND_IMAGE_STALE  # 0.3 + 0.11 > 0.4


def test_after_a_second_of_silence_the_session_is_void_and_late_commands_are_not_followed():
    ladder = ladder_at()
    ladder.take_control("vla", 10.0)
    ladder.note_decision("vla", 10.0, 0.0)
    assert sense(ladder, 10.9).source == "vla"
    assert sense(ladder, 11.01).source == ""
    assert not ladder.note_decision("vla", 11.02, 0.0)
    assert sense(ladder, 11.03).rung is SafetyRung.STAND
    ladder.take_control("vla", 11.1)
    ladder.note_decision("vla", 11.1, 0.0)
    assert sense(ladder, 11.1).rung is SafetyRung.FOLLOW


def test_a_short_silence_ends_with_the_next_command():
    ladder = ladder_at()
    ladder.take_control("vla", 10.0)
    ladder.note_decision("vla", 10.0, 0.0)
    assert sense(ladder, 10.5).rung is SafetyRung.STAND
    ladder.note_decision("vla", 10.6, 0.0)
    assert sense(ladder, 10.6).rung is SafetyRung.FOLLOW


def test_teleoperation_preempts_the_vla_but_not_the_reverse():
    ladder = ladder_at()
    ladder.take_control("vla", 10.0)
    ladder.take_control("teleop", 10.1)
    assert not ladder.note_decision("vla", 10.2, 0.0)
    assert ladder.note_decision("teleop", 10.2, 0.0)
    with pytest.raises(CommandError) as refusal:
        ladder.take_control("vla", 10.3)
    assert refusal.value.code is ErrorCode.CONTROL_HELD_BY_OTHER
    ladder.release_control("teleop")
    ladder.take_control("vla", 10.4)
    assert ladder.source == "vla"


def test_a_new_session_never_follows_a_command_of_the_old_one():
    ladder = ladder_at()
    ladder.take_control("vla", 10.0)
    ladder.note_decision("vla", 10.0, 0.0)
    ladder.take_control("teleop", 10.05)
    assert sense(ladder, 10.05).rung is SafetyRung.STAND


def test_an_unknown_source_is_refused():
    with pytest.raises(CommandError) as refusal:
        ladder_at().take_control("intruder", 10.0)
    assert refusal.value.code is ErrorCode.CONTROL_UNKNOWN_SOURCE


@pytest.mark.parametrize(("silent", "code"), [("state", ErrorCode.STATE_SILENT), ("imu", ErrorCode.IMU_SILENT)], ids=["joint state", "imu"])
def test_a_blind_robot_goes_to_damping_after_a_tenth_of_a_second_and_stays_there(silent, code):
    ladder = ladder_at(10.0)
    (ladder.note_imu if silent == "state" else ladder.note_state)(10.11)
    assert ladder.evaluate(10.1, UPRIGHT).rung is not SafetyRung.DAMPING
    assert ladder.evaluate(10.11, UPRIGHT).code is code
    assert sense(ladder, 10.2).rung is SafetyRung.DAMPING  # it came back: still latched


def test_a_pause_of_this_process_is_no_silence_of_the_robot_but_its_own_commands_age():
    ladder = ladder_at(10.0)
    ladder.take_control("vla", 10.0)
    ladder.note_decision("vla", 10.0, 0.0)
    ladder.note_pause(15.02, 5.0)  # heard at 10.0, slept from 10.02 to 15.02
    status = ladder.evaluate(15.02, UPRIGHT)
    assert (status.rung, status.code) == (SafetyRung.STAND, ErrorCode.CONTROL_SESSION_VOID)
    assert ladder.evaluate(15.09, UPRIGHT).rung is SafetyRung.STAND
    ladder.note_pause(15.09, 60.0)  # a pause longer than the silence grants nothing beyond now
    assert ladder.evaluate(15.18, UPRIGHT).rung is SafetyRung.STAND
    assert ladder.evaluate(15.20, UPRIGHT).code is ErrorCode.STATE_SILENT


def test_tilt_latches_damping_and_losing_the_link_never_does():
    ladder = ladder_at()
    for second in range(3600):
        assert sense(ladder, 10.0 + second, 0.79).rung is SafetyRung.STAND
    assert sense(ladder, 4000.0, 0.81).code is ErrorCode.TILT
    assert sense(ladder, 4001.0).rung is SafetyRung.DAMPING


def test_a_tilt_that_is_not_a_number_latches_damping():
    assert sense(ladder_at(), 10.0, math.nan).code is ErrorCode.STATE_NOT_FINITE


def test_damping_is_left_only_by_rearm_and_then_control_must_be_taken_again():
    ladder = ladder_at()
    ladder.take_control("vla", 10.0)
    ladder.fault(ErrorCode.ESTOP, "e-stop pressed")
    with pytest.raises(CommandError) as refusal:
        ladder.take_control("teleop", 10.1)
    assert refusal.value.code is ErrorCode.CONTROL_WHILE_DAMPING
    sense(ladder, 10.2)
    with pytest.raises(CommandError, match="tilted by 0.50 rad"):
        ladder.rearm(10.2, tilt_rad=0.5)
    with pytest.raises(CommandError, match="silent"):
        ladder.rearm(11.0, tilt_rad=0.0)
    sense(ladder, 11.0)
    ladder.rearm(11.0, tilt_rad=0.1)
    status = sense(ladder, 11.01)
    assert (status.rung, status.source) == (SafetyRung.STAND, "")


def test_the_first_fault_is_the_one_that_is_reported():
    ladder = ladder_at()
    ladder.fault(ErrorCode.MOTOR_FAULT, "left knee")
    ladder.fault(ErrorCode.ESTOP, "later")
    assert sense(ladder, 10.0).reason == "left knee"


@pytest.mark.parametrize("code", [ErrorCode.ESTOP, ErrorCode.TILT, ErrorCode.MOTOR_FAULT])
def test_beginning_again_forgets_ages_and_control_but_never_the_latch(code):
    ladder = ladder_at()
    ladder.take_control("teleop", 10.0)
    ladder.note_decision("teleop", 10.0, 0.0)
    ladder.restart()
    assert (ladder.source, ladder.latched) == ("", "")
    assert ladder.evaluate(1000.0, UPRIGHT).rung is SafetyRung.STAND  # not blind: nothing was heard yet in this life
    ladder.fault(code, "why")
    ladder.restart(SafetyLimits(state_timeout_s=0.5))
    status = sense(ladder, 1000.1)
    assert (status.rung, status.code, status.reason, ladder.latched) == (SafetyRung.DAMPING, code, "why", "why")
    assert ladder.limits.state_timeout_s == 0.5
    ladder.rearm(1000.1, UPRIGHT)
    ladder.restart()
    assert sense(ladder, 1000.2).rung is SafetyRung.STAND and ladder.latched == ""


@pytest.mark.parametrize("bad", [{"command_timeout_s": 0.0}, {"state_timeout_s": math.nan}, {"session_timeout_s": 0.1}])
def test_limits_that_make_no_sense_are_refused(bad):
    with pytest.raises(ValueError):
        SafetyLimits(**bad)

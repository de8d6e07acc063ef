"""Teleoperation without ROS: what hands mean, who may move the robot, keys, gamepads, scripts, and the terminal as it was."""

from __future__ import annotations

import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path

import pytest

from wbvla_cli.notes import Notebook
from wbvla_teleop.gamepad import Gamepad
from wbvla_teleop.joystick import AXES, Hands, TeleopError, load_mapping, parse_mapping
from wbvla_teleop.keyboard import split_keys
from wbvla_teleop.keys import KeyHands
from wbvla_teleop.mapping import DeadMan, Grip, LocoMapper
from wbvla_teleop.script import load_script, parse_script

ROOT = Path(__file__).resolve().parents[2]
MAPPING = load_mapping(ROOT / "config" / "teleop.yaml")


# -- hands and mapping ------------------------------------------------------------------------------------------------------------------
def test_what_is_written_as_joy_is_read_back_and_the_mapping_survives_its_own_text():
    hands = Hands(forward=1.0, lateral=-0.5, yaw=0.25, height=-1.0, deadman=True, episode_stop=True)
    turned = replace(MAPPING, axes=MAPPING.axes | {"yaw": (MAPPING.axes["yaw"][0], -1)})
    for mapping in (MAPPING, turned, parse_mapping(turned.text(), "recorded")):
        assert mapping.read(*mapping.write(hands)) == hands
    assert turned.write(hands)[0] != MAPPING.write(hands)[0]


@pytest.mark.parametrize(
    ("axes", "buttons", "said"),
    [([0.0], [0] * 9, "5 axes"), ([0.0] * 5, [], "9 buttons"), ([float("nan")] * 5, [0] * 9, "deflections"), ([7.0] * 5, [0] * 9, "deflections")],
)
def test_a_device_that_does_not_fit_is_refused_before_it_moves_anything(axes, buttons, said):
    with pytest.raises(TeleopError, match=said):
        MAPPING.read(axes, buttons)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2", "not a mapping"),
        ("axes: {}\nbuttons: {}", "axes must name"),
        (MAPPING.text().replace("deadman: 5", "deadman: 2"), "each once"),
        (MAPPING.text().replace("flag_off: 0.35", "flag_off: 0.7"), "flag_off < flag_on"),
        (MAPPING.text().replace("sign: 1", "sign: 3", 1), "sign"),
        (MAPPING.text().replace("event_silence_s: 2.0", "event_silence_s: 60"), "event_silence_s"),
        (MAPPING.text() + "speed: 9\n", "speed"),
    ],
)
def test_a_mapping_with_a_mistake_is_refused_by_file_and_entry(text, said):
    with pytest.raises(TeleopError, match="^mine.yaml: ") as refused:
        parse_mapping(text, "mine.yaml")
    assert said in str(refused.value)


def test_a_flag_has_hysteresis_and_goes_over_without_a_stop_only_at_full_deflection():
    mapper = LocoMapper(MAPPING, (0.46, 0.66), 0.64)
    wanted = [(0.5, 0), (0.61, 1), (0.4, 1), (0.34, 0), (0.5, 0), (-0.7, -1), (-0.36, -1), (0.5, 0), (-0.7, -1), (0.7, 1)]
    assert [mapper.step(Hands(forward=value), 0.1).forward for value, _ in wanted] == [flag for _, flag in wanted]
    assert mapper.stop().forward == 0 and mapper.step(Hands(forward=0.5), 0.1).forward == 0, "after a stop the stick must be pushed again"


def test_the_stance_height_moves_at_its_rate_outside_of_the_dead_zone_and_stays_in_its_range():
    mapper = LocoMapper(MAPPING, (0.46, 0.66), 0.60)
    assert mapper.step(Hands(height=0.14), 1.0).stance_height_m == 0.60
    assert mapper.step(Hands(height=-1.0), 0.5).stance_height_m == pytest.approx(0.55)
    assert mapper.step(Hands(height=-0.575), 0.2).stance_height_m == pytest.approx(0.54), "half of what is left beyond the dead zone"
    assert mapper.step(Hands(height=-1.0), 9.0).stance_height_m == 0.46
    assert mapper.step(Hands(height=1.0), 9.0).stance_height_m == 0.66
    assert mapper.stop().stance_height_m == 0.66


def test_the_dead_man_asks_is_granted_and_lets_go():
    dead = DeadMan(0.3)
    assert dead.step(0.0) == ""
    dead.hear(True, 1.0)
    assert (dead.step(1.0), dead.step(1.1)) == ("ask", "")
    assert dead.granted() and dead.grip is Grip.HELD
    dead.hear(True, 1.2)
    assert dead.step(1.45) == ""
    dead.hear(False, 1.5)
    assert (dead.step(1.5), dead.step(1.5)) == ("let go", "")


def test_a_device_that_falls_silent_counts_as_released():
    dead = DeadMan(0.3)
    dead.hear(True, 0.0)
    dead.step(0.0)
    dead.granted()
    assert dead.step(0.29) == "" and dead.step(0.31) == "let go"


def held(event_silence_s=2.0):
    """A dead-man that was granted control at 0 s."""
    dead = DeadMan(0.3, event_silence_s)
    dead.hear(True, 0.0)
    assert dead.step(0.0) == "ask" and dead.granted()
    return dead


def test_a_device_that_only_repeats_itself_lets_go_after_two_seconds():
    dead, let_go_s = held(), []
    for tick in range(1, 600):  # 30 s of the pad's last state with fresh stamps, as a receiver without its pad sends it
        dead.hear(True, tick * 0.05, event=False)
        let_go_s += [tick * 0.05] if dead.step(tick * 0.05) == "let go" else []
    assert let_go_s == pytest.approx([2.05])
    assert dead.grip is Grip.LOST and "is its link lost?" in dead.silent(30.0)


def test_an_operator_who_moves_something_every_second_stays_in_control():
    dead = held()
    for tick in range(1, 600):
        dead.hear(True, tick * 0.05, event=tick % 20 == 0)
        assert dead.step(tick * 0.05) == ""


def test_lost_control_does_not_come_back_by_silence_but_by_a_release():
    dead = held()
    dead.lose()  # an e-stop, say
    assert dead.step(5.0) == "", "silent for five seconds"
    dead.hear(True, 5.1)
    assert dead.step(5.1) == "" and dead.grip is Grip.LOST, "the link is back with the button still down"
    dead.hear(False, 5.2)
    dead.hear(True, 5.3)
    assert dead.step(5.3) == "ask"


def test_silence_in_control_ends_it_once_and_wants_a_release_too():
    dead = held()
    assert (dead.step(0.31), dead.step(0.5)) == ("let go", "")
    dead.hear(True, 1.0)
    assert dead.step(1.0) == "" and not dead.granted()
    dead.hear(False, 1.1)
    assert dead.step(1.1) == ""
    dead.hear(True, 1.2)
    assert dead.step(1.2) == "ask"


def test_our_own_pause_is_not_the_devices_silence():
    dead = held()
    dead.excuse(1.5, 1.5)
    assert dead.step(1.7) == "" and dead.step(1.81) == "let go"


def test_a_busy_machine_does_not_put_off_the_end_of_a_repeating_device():
    dead = held()
    for tick in range(1, 42):
        dead.hear(True, tick * 0.05, event=False)
        dead.excuse(0.04, tick * 0.05)
        said = dead.step(tick * 0.05)
    assert said == "let go"


def test_a_button_that_is_down_from_the_start_is_nobodys_decision():
    dead = DeadMan(0.3, grip=Grip.LOST)
    assert dead.step(-0.02) == "" and dead.grip is Grip.LOST, "the node's timer looks before the device's first message"
    dead.hear(True, 0.0)
    assert dead.step(0.0) == ""
    dead.hear(False, 0.1)
    dead.hear(True, 0.2)
    assert dead.step(0.2) == "ask"


def test_a_trigger_that_rests_at_its_end_does_not_raise_the_robot():
    mapper = LocoMapper(MAPPING, (0.46, 0.66), 0.60)
    mapper.rest(Hands(height=1.0))
    assert all(mapper.step(Hands(height=1.0, deadman=True), 0.1).stance_height_m == 0.60 for _ in range(30))
    assert LocoMapper(MAPPING, (0.46, 0.66), 0.60).step(Hands(height=1.0), 1.0).stance_height_m == 0.60, "nor unseen"


def test_an_axis_counts_from_its_centre_on():
    mapper = LocoMapper(MAPPING, (0.46, 0.66), 0.60)
    mapper.rest(Hands(forward=1.0, yaw=0.1))
    assert mapper.step(Hands(forward=1.0, yaw=1.0), 0.1).flags.tolist() == [0, 0, 1], "pushed before the grip"
    assert mapper.step(Hands(forward=0.3), 0.1).forward == 0
    assert mapper.step(Hands(forward=1.0), 0.1).forward == 1
    mapper.rest(Hands())
    assert mapper.step(Hands(forward=1.0, deadman=True), 0.1).forward == 1, "a key goes from nothing to full"


def test_control_that_comes_after_letting_go_is_given_back_and_lost_control_needs_a_new_grip():
    dead = DeadMan(0.3)
    dead.hear(True, 0.0)
    assert dead.step(0.0) == "ask"
    dead.hear(False, 0.1)
    assert dead.step(0.1) == "let go" and not dead.granted()
    dead.hear(True, 1.0)
    dead.step(1.0)
    dead.granted()
    dead.lose()
    for now_s in (1.1, 2.0, 3.0):
        dead.hear(True, now_s)
        assert dead.step(now_s) == "", "held on, it does not grab control again"
    dead.hear(False, 3.1)
    assert dead.step(3.1) == ""
    dead.hear(True, 3.2)
    assert dead.step(3.2) == "ask"


def test_a_refused_request_is_made_again_after_a_while():
    dead, asked = DeadMan(0.3), []
    for tick in range(60):
        dead.hear(True, tick * 0.02)
        asked += [tick * 0.02] if dead.step(tick * 0.02) == "ask" else []
    assert asked == pytest.approx([0.0, 0.52, 1.04])


# -- keys ---------------------------------------------------------------------------------------------------------------------------------
def test_a_repeating_key_holds_axis_and_dead_man_and_silence_lets_both_go():
    keys = KeyHands(hold_s=0.6)
    assert keys.press("w", 0.0) and keys.press("a", 0.3)
    assert keys.hands(0.5) == Hands(forward=1.0, yaw=1.0, deadman=True)
    assert keys.hands(0.7) == Hands(yaw=1.0, deadman=True)
    assert keys.hands(0.95) == Hands()
    keys.press("w", 2.0)
    keys.press("s", 2.1)
    assert keys.hands(2.2).forward == -1.0, "the last one of two counts"
    keys.press(" ", 2.3)
    assert keys.hands(2.3) == Hands(), "space lets go of everything at once"
    assert not keys.press("z", 3.0) and keys.hands(3.0) == Hands()


def test_a_held_key_goes_on_over_the_longest_repeat_delay_and_ends_soon_after_its_last_repeat():
    keys = KeyHands()
    keys.press("w", 0.0)
    assert keys.hands(0.70) == Hands(forward=1.0, deadman=True), "X11 waits 660 ms before the first repeat"
    repeats = [0.66 + 0.04 * i for i in range(20)]
    for now_s in repeats:
        keys.press("w", now_s)
        assert keys.hands(now_s + 0.039).deadman
    assert keys.hands(repeats[-1] + 0.29).forward == 1.0 and keys.hands(repeats[-1] + 0.31) == Hands()


def test_tapping_a_key_is_no_repeating():
    keys = KeyHands()
    for tap in range(5):
        keys.press("w", 0.4 * tap)
        assert keys.hands(0.4 * tap + 0.39).forward == 1.0


@pytest.mark.parametrize("count", [12, 60, 600])
def test_keys_that_burst_out_of_a_stalled_connection_move_nothing(count):
    keys = KeyHands()
    keys.press("w", 0.0)
    for i in range(count):
        keys.press("w", 2.0 + 0.0001 * i)
    assert keys.hands(2.1) == Hands()
    keys.press("w", 3.0)
    assert keys.hands(3.1).forward == 1.0, "a key pressed afterwards counts again"


def test_buttons_go_down_and_up_again_without_gripping_the_dead_man():
    keys = KeyHands()
    keys.press("1", 0.0)
    assert keys.hands(0.05) == Hands(episode_start=True) and keys.hands(0.2) == Hands()


def test_bytes_of_a_terminal_become_keys_whatever_else_comes():
    assert split_keys(b"wa\x1b[A\x1bOD ") == ["w", "a", "up", "left", " "]
    assert split_keys(b"\x1b") == ["escape"]
    assert split_keys(b"\x1b[15~w\x1b[<0;12;7Md") == ["w", "d"], "function keys and the mouse are dropped"
    assert split_keys("ä".encode() + b"\xff" + b"w") == ["ä", "w"], "bytes that are no UTF-8 are dropped"


TERMINAL = """
import os, sys, time
sys.path.insert(0, {root!r})
from wbvla_teleop.keyboard import RawTerminal
with RawTerminal() as terminal:
    print("ready", flush=True)
    while True:
        keys = terminal.keys(5.0)
        print("keys", keys, flush=True)
        if "x" in keys:
            raise RuntimeError("a bug")
"""


@pytest.mark.parametrize("end", ["exception", "SIGINT"])
def test_the_terminal_is_as_it_was_after_an_exception_and_after_ctrl_c(end):
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL.format(root=str(ROOT))],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell that runs the tests in the background lets children ignore it
    )
    assert process.stdout.readline() == "ready\n"
    assert not termios.tcgetattr(slave)[3] & termios.ICANON, "single keys"
    os.write(master, b"w")
    assert process.stdout.readline() == "keys ['w']\n"
    if end == "SIGINT":
        process.send_signal(signal.SIGINT)
    else:
        os.write(master, b"x")
    process.wait(10)
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_a_sentence_typed_while_recording_reaches_the_recorder_and_its_letters_move_nothing():
    said, shown = [], []
    notebook = Notebook(lambda *words: said.append(words), "walk", "", write=shown.append)
    assert not notebook.key("w"), "outside of a prompt w means ahead"
    assert all(notebook.key(key) for key in split_keys("iturn we\x7f\x7fright über 1\n".encode()))
    assert all(notebook.key(key) for key in "nslipped\n")
    assert all(notebook.key(key) for key in ("i", "x", "escape"))
    assert said == [("walk", ""), ("turn right über 1", ""), ("turn right über 1", "slipped")], "told at the start and at each Enter; Escape changes nothing"
    assert "".join(shown).startswith("instruction: turn we\b \b\b \bright") and not notebook.key("1")


# -- gamepad ------------------------------------------------------------------------------------------------------------------------------
def event(value: int, kind: int, number: int) -> bytes:
    return struct.pack("<IhBB", 0, value, kind, number)


def test_a_gamepads_events_become_axes_and_buttons_however_they_are_cut(tmp_path):
    path = tmp_path / "js0"
    os.mkfifo(path)
    pad = Gamepad(path)
    data = event(0, 0x82, 5) + event(-32767, 0x02, 1) + event(1, 0x81, 5) + event(16384, 0x02, 3)
    pad.feed(data[:11])
    pad.feed(data[11:])
    assert pad.axes == pytest.approx([0, 1.0, 0, -0.5, 0, 0], abs=1e-3) and pad.buttons == [0, 0, 0, 0, 0, 1], "up and left are positive, as ROS has it"
    pad.feed(event(0, 0x01, 5))
    assert pad.buttons[5] == 0
    assert pad.events == 3, "two axes and a button moved; what the device told of itself at the start is no event"
    pad.close()


def test_a_gamepad_that_is_pulled_out_and_one_that_is_not_there_are_named(tmp_path):
    path = tmp_path / "js0"
    os.mkfifo(path)
    pad = Gamepad(path)
    other = os.open(path, os.O_WRONLY)
    os.write(other, event(-32767, 0x02, 1))
    pad.poll()
    assert pad.axes[1] == 1.0
    os.close(other)
    with pytest.raises(TeleopError, match="js0 is gone"):
        pad.poll()
    with pytest.raises(TeleopError, match="cannot be opened"):
        Gamepad(tmp_path / "js7")


# -- scripts ------------------------------------------------------------------------------------------------------------------------------
def test_a_held_key_becomes_repeats_and_events_come_in_order():
    events = parse_script('[{t_s: 1, press: "2"}, {t_s: 0.2, hold: w, for_s: 0.1}, {t_s: 0, note: {instruction: wave}}]')
    assert [(round(e.t_s, 2), e.kind, e.value) for e in events] == [
        (0.0, "note", {"instruction": "wave"}),
        (0.2, "press", "w"),
        (0.25, "press", "w"),
        (0.3, "press", "w"),
        (1.0, "press", "2"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a list of events"),
        ("- {t_s: 1}", "one of"),
        ("- {t_s: 1, press: w, hold: w}", "one of"),
        ("- {t_s: 1, pres: w}", "one of"),
        ("- {press: w}", "t_s"),
        ("- {t_s: -1, press: w}", "from 0"),
        ("- {t_s: .nan, press: w}", "from 0"),
        ("- {t_s: 0, press: z}", "no key 'z'"),
        ("- {t_s: 0, wrist: {side: middle, xyz: [0, 0, 0]}}", "side"),
        ("- {t_s: 0, joy: {axes: [a], buttons: []}}", "float"),
        ("- [", "script"),
    ],
)
def test_a_script_with_a_mistake_is_refused_before_anything_moves(text, said):
    with pytest.raises(TeleopError, match=said):
        parse_script(text)


def test_the_rehearsal_that_ships_records_ten_episodes_and_discards_two():
    keys = [e.value for e in load_script(ROOT / "config" / "teleop_rehearsal.yaml") if e.kind == "press"]
    assert (keys.count("1"), keys.count("2"), keys.count("3")) == (10, 8, 2)
    assert set(AXES) == set(MAPPING.axes)


def test_the_command_refuses_a_keyboard_that_is_no_terminal(monkeypatch):
    from wbvla_cli import teleop

    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(TeleopError, match="--script"):
        teleop.main([])

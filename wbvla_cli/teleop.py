"""``wbvla teleop``: a person's hands on the robot, simulated or real, and on the recorder.

Starts the teleoperation node (and with ``--session`` a recorder) beside a stack that runs already (``wbvla run sim``, or the robot), reads keyboard, gamepad or
script here, where the terminal is, and sends what they say as sensor_msgs/Joy. Should this program die, Joy falls silent and the node lets go.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro
import yaml

from wbvla_cli.notes import HELP as NOTES_HELP
from wbvla_cli.notes import Notebook
from wbvla_core.console import program
from wbvla_core.robot import load_robot
from wbvla_core.ros.tables import share_dir
from wbvla_teleop.gamepad import Gamepad
from wbvla_teleop.joystick import Mapping, TeleopError, load_mapping
from wbvla_teleop.keyboard import RawTerminal
from wbvla_teleop.keys import HELP, KeyHands
from wbvla_teleop.script import Event, load_script

if TYPE_CHECKING:
    from wbvla_cli.runner import Stack

PERIOD_S = 0.05  # of Joy messages
SERVICES = {"*": "rearm", "0": "sim_reset"}  # key -> service, whatever the device: for the moments in which nobody holds the robot
SERVICES_HELP = "* rearm after damping   0 lift the simulated robot back onto its gantry"


@dataclass(frozen=True)
class TeleopOptions:
    """Teleoperate the robot or the simulator that runs already."""

    device: Literal["keyboard", "gamepad", "topic"] = "keyboard"
    """what the operator holds; topic: somebody else publishes /wbvla/teleop/joy (ros2 run joy joy_node)"""
    gamepad: Path | None = None
    """device file; default: the first /dev/input/js*"""
    script: Path | None = None
    """timed events in place of a device (see wbvla_teleop/script.py); leaves when they are over"""
    session: Path | None = None
    """record episodes into this folder, begun and ended by keys or buttons"""
    instruction: str = ""
    """stored with each episode"""
    notes: str = ""
    """stored with each episode, too"""
    mapping: Path | None = None
    """what axes and buttons mean; default: config/teleop.yaml"""
    robot: str = "x2"
    """robot spec: a name of config/robots or the path of a YAML file"""
    domain: int | None = None
    """ROS domain id; default: the environment's"""


class Operator:
    """Sends what a device or a script says to the node, until it is over."""

    def __init__(self, stack: Stack, options: TeleopOptions, mapping: Mapping, events: list[Event] | None) -> None:
        from wbvla_core.ros.qos import interface_class, qos, topic

        self._mapping, self._events, self._device = mapping, list(events) if events is not None else None, options.device
        self._root = load_robot(options.robot).root
        self._client, node = stack.client, stack.client.node
        self._out = {
            key: node.create_publisher(interface_class(topic(key).type), topic(key).name, qos(key)) for key in ("teleop_joy", "left_wrist", "right_wrist")
        }
        self._keys = KeyHands()
        self._pad = Gamepad(options.gamepad) if self._events is None and options.device == "gamepad" else None
        self._joy: tuple[tuple[list[float], list[int]], float] | None = None  # a script's own numbers, and until when
        self._began_s = time.monotonic()
        self._event_s, self._pad_events = time.time(), 0  # when the device last said something, and what it had said by then
        self.over = False

    def wait_for_listeners(self, timeout_s: float = 10.0) -> None:
        """Joy sent before the node has found us would be lost. Raises TeleopError."""
        deadline_s = time.monotonic() + timeout_s
        while self._out["teleop_joy"].get_subscription_count() == 0:
            if time.monotonic() > deadline_s:
                raise TeleopError("the teleoperation node does not listen; its log says why")
            time.sleep(0.02)
        self._began_s = time.monotonic()

    def key(self, key: str) -> None:
        """A key of the terminal."""
        if self._device == "keyboard":
            self._event_s = time.time()
        self._keys.press(key, time.monotonic())

    def call(self, key: str) -> None:
        """Call a Trigger service of the table, and say what came of it. No Joy meanwhile: the dead-man counts as released."""
        try:
            answer = self._client.call(key, timeout_s=3.0)
            print(f"[teleop] {key}: {answer.message or ('done' if answer.success else 'refused')}", flush=True)
        except TimeoutError as error:
            print(f"[teleop] {key}: {error}", file=sys.stderr)

    def send(self) -> None:
        """One Joy message of this moment. Raises TeleopError where the gamepad is gone: nothing more is sent, and the node lets go."""
        now_s = time.monotonic()
        if self._events is not None:
            self._play(now_s)
        elif self._device == "topic":
            return
        if self._pad is not None:
            self._pad.poll()
            axes, buttons = self._pad.axes, self._pad.buttons
            if self._pad.events != self._pad_events:
                self._event_s, self._pad_events = time.time(), self._pad.events
            if not axes:
                return
        elif self._joy is not None and now_s < self._joy[1]:
            axes, buttons = self._joy[0]
        else:
            axes, buttons = self._mapping.write(self._keys.hands(now_s))
        from wbvla_teleop.node import joy_msg

        self._out["teleop_joy"].publish(joy_msg(axes, buttons, self._event_s))

    def _play(self, now_s: float) -> None:
        """The script's events that are due."""
        from wbvla_teleop.node import pose_msg

        while self._events and self._events[0].t_s <= now_s - self._began_s:
            event: Event = self._events.pop(0)
            value: Any = event.value
            self._event_s = time.time()
            if event.kind == "press":
                self._keys.press(value, now_s)
            elif event.kind == "joy":
                self._joy = value, now_s + 2 * PERIOD_S
            elif event.kind == "note":
                self._client.note(str(value.get("instruction", "")), str(value.get("notes", "")))
            elif event.kind == "wrist":
                self._out[f"{value[0]}_wrist"].publish(pose_msg(self._root, *value[1:]))
        self.over = not self._events


def main(argv: Sequence[str] | None = None) -> int:
    """``wbvla teleop``. Exit status 0 after Ctrl-C or the script's end, 1 where a process died, 2 refused."""
    options = tyro.cli(TeleopOptions, args=argv, prog="wbvla teleop")
    path = (options.mapping or share_dir() / "config" / "teleop.yaml").absolute()
    mapping = load_mapping(path)
    events = load_script(options.script) if options.script else None
    typing = events is None and options.device == "keyboard"
    if typing and not sys.stdin.isatty():
        raise TeleopError("the keyboard wants a terminal, and this is none; give --script FILE, --device gamepad or --device topic")
    from wbvla_cli.runner import Stack
    from wbvla_core.ros.process import StopSignal

    stop = StopSignal()
    parameters: dict[str, dict[str, Any]] = {"teleop": {"robot": options.robot, "mapping": str(path)}}
    if options.session is not None:
        parameters["record"] = {"session": str(options.session.absolute())}
    groups = ("teleop", "record") if options.session is not None else ("teleop",)
    with Stack(groups, parameters=parameters, domain_id=options.domain, cancelled=stop.is_set) as stack, RawTerminal() as terminal:
        stack.wait_active()
        operator = Operator(stack, options, mapping, events)
        operator.wait_for_listeners()
        notebook = Notebook(stack.client.note, options.instruction, options.notes)
        terminal_keys = events is None and sys.stdin.isatty()
        print(HELP if typing else f"[teleop] {yaml.safe_dump(mapping.buttons, default_flow_style=True).strip()}; Ctrl-C leaves", flush=True)
        if terminal_keys:
            print(SERVICES_HELP if options.session is None else f"{SERVICES_HELP}\n{NOTES_HELP}", flush=True)
        status = 0
        while not stop.is_set() and not operator.over:
            if stack.dead():
                status = 1
                break
            if terminal_keys:
                for key in terminal.keys(PERIOD_S):
                    if options.session is not None and notebook.key(key):
                        key = " "  # who types a sentence does not hold the robot
                    elif key in SERVICES:
                        operator.call(SERVICES[key])
                    operator.key(key)
            else:
                time.sleep(PERIOD_S)
            operator.send()
    return status


if __name__ == "__main__":
    program(main)

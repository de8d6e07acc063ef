"""A gamepad at /dev/input/js*, by Linux' joystick interface (linux/joystick.h): no library needed."""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path

from wbvla_teleop.joystick import TeleopError

EVENT = struct.Struct("<IhBB")  # ms, value, type, number
BUTTON, AXIS, INIT = 0x01, 0x02, 0x80
FULL = 32767


class Gamepad:
    """Axes and buttons as a Joy message has them (forward and left positive, as ROS' joy does it).

    Args:
        path: of the device; the first /dev/input/js* by default.

    Raises:
        TeleopError: none there, or not to be opened.
    """

    def __init__(self, path: Path | None = None) -> None:
        found = [path] if path else sorted(Path("/dev/input").glob("js*"))
        if not found:
            raise TeleopError("no gamepad: /dev/input has no js*; plug one in, load the module joydev, or use the keyboard")
        self.path = found[0]
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise TeleopError(f"{self.path} cannot be opened: {error.strerror}; is the user in group input?") from error
        self.axes: list[float] = []
        self.buttons: list[int] = []
        self.events = 0  # how often the operator did something; the device's own state at the start does not count
        self._rest = b""

    def poll(self) -> None:
        """Take in what happened since the last call. Raises TeleopError where the device is gone."""
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    data = os.read(self._fd, EVENT.size * 64)
                except BlockingIOError:
                    raise
                except OSError as error:
                    raise TeleopError(f"{self.path} is gone: {error.strerror}") from error
                if not data:
                    raise TeleopError(f"{self.path} is gone")
                self.feed(data)

    def feed(self, data: bytes) -> None:
        """Bytes of the device, however they were cut."""
        data = self._rest + data
        whole = len(data) // EVENT.size * EVENT.size
        self._rest = data[whole:]
        for _, value, kind, number in EVENT.iter_unpack(data[:whole]):
            self.events += not kind & INIT
            if kind & ~INIT == AXIS:
                self.axes += [0.0] * (number + 1 - len(self.axes))
                self.axes[number] = max(-1.0, min(1.0, -value / FULL))
            elif kind & ~INIT == BUTTON:
                self.buttons += [0] * (number + 1 - len(self.buttons))
                self.buttons[number] = int(value != 0)

    def close(self) -> None:
        os.close(self._fd)

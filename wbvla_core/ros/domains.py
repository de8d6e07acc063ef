"""Which ROS domains are in use on this machine, and which stack of this checkout runs in which. No rclpy.

Every stack that is started here leaves two marks, names in Linux' abstract socket namespace: one that at most one process can hold and
that reserves its domain, and one that says in which domain a stack of this checkout runs. A mark goes when its process ends, however it
ends, and all users of the machine see it. There is no file that could stay behind. A domain that somebody uses without such a mark, for
example under ROS launch, is known by the UDP ports that DDS derives from its number.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
from collections.abc import Iterable

from wbvla_core.errors import ErrorCode, WbvlaError
from wbvla_core.ros.tables import share_dir

HIGHEST = 232  # DDS: ports of domain 233 would be over 65535
FREE = range(1, 102)  # ports of these lie under Linux' ephemeral ones (32768): no other program is given one by chance
PORT_BASE, PORT_GAIN = 7400, 250  # DDS (RTPS 9.6.1): domain d has the ports from 7400 + 250 d on
MARK = "wbvla"


class DomainError(WbvlaError):
    """A ROS domain id that cannot be used; the text says why."""


def check_domain(domain: int) -> int:
    """``domain`` where it is a ROS domain id. Raises DomainError."""
    if not 0 <= domain <= HIGHEST:
        raise DomainError(f"a ROS domain id is a number from 0 to {HIGHEST}, got {domain}", ErrorCode.NONE)
    return domain


def environment_domain() -> int:
    """The domain that ROS takes where nothing else is said: ROS_DOMAIN_ID, or 0. Raises DomainError."""
    text = os.environ.get("ROS_DOMAIN_ID", "") or "0"
    if not text.isdigit():
        raise DomainError(f"ROS_DOMAIN_ID must be a number from 0 to {HIGHEST}, it is {text!r}", ErrorCode.NONE)
    return check_domain(int(text))


class Marks:
    """The marks of one stack. They are gone when they are closed, when the process ends, or when nobody holds this object."""

    def __init__(self, domain: int, *, reserved: bool) -> None:
        self.domain = domain
        self.reserved = reserved
        self._sockets: list[socket.socket] = []

    def close(self) -> None:
        while self._sockets:
            self._sockets.pop().close()

    def _hold(self, name: str) -> bool:
        held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            held.bind(f"\0{name}")
        except OSError:  # somebody else holds it
            held.close()
            return False
        self._sockets.append(held)
        return True


def _checkout() -> str:
    """What tells this checkout from another one, in a mark's name."""
    return hashlib.sha256(str(share_dir().resolve()).encode()).hexdigest()[:16]


def mark(domain: int, *, alone: bool = True) -> Marks:
    """Say that a stack of this checkout runs in ``domain``.

    Args:
        alone: reserve the domain, too, where nobody has; ``reserved`` of the result tells. A recorder beside a stack does not.
    """
    marks = Marks(check_domain(domain), reserved=False)
    marks.reserved = alone and marks._hold(f"{MARK}/domain/{domain}")
    marks._hold(f"{MARK}/stack/{_checkout()}/{domain}/{os.getpid()}")
    return marks


def reserve(candidates: Iterable[int] | None = None) -> Marks:
    """A domain that nobody on this machine uses, reserved and marked. Two that ask at the same time get different ones.

    Args:
        candidates: domains in the order in which they are tried; None = all that are safe, by chance.

    Raises:
        DomainError: all of them are in use.
    """
    tried = list(candidates) if candidates is not None else random.SystemRandom().sample(FREE, len(FREE))
    ports = udp_ports()
    for domain in tried:
        if in_use(check_domain(domain), ports):
            continue
        marks = mark(domain)
        if marks.reserved:
            return marks
        marks.close()
    raise DomainError(f"every ROS domain of {min(tried)} to {max(tried)} is in use on this machine; end a stack, or name one with --domain", ErrorCode.NONE)


def running() -> list[int]:
    """Domains in which stacks of this checkout run on this machine, in rising order."""
    prefix = f"@{MARK}/stack/{_checkout()}/"
    return sorted({int(name.removeprefix(prefix).split("/")[0]) for name in _marks() if name.startswith(prefix)})


def _marks() -> list[str]:
    try:
        with open("/proc/net/unix") as file:
            return [line.rpartition(" ")[2].strip() for line in file if f"@{MARK}/" in line]
    except OSError:
        return []


def in_use(domain: int, ports: set[int] | None = None) -> bool:
    """Whether some program on this machine has opened a port of this domain."""
    first = PORT_BASE + PORT_GAIN * domain
    return not (udp_ports() if ports is None else ports).isdisjoint(range(first, first + PORT_GAIN))


def udp_ports() -> set[int]:
    """Local UDP ports that are open on this machine, all users' included."""
    out: set[int] = set()
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        with contextlib.suppress(OSError), open(table) as file:
            next(file, None)
            out |= {int(line.split()[1].rpartition(":")[2], 16) for line in file}
    return out

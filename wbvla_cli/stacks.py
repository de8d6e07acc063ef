"""Find the stacks that run on this machine and call a service of each: what `wbvla stop` and `wbvla rearm` share."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from wbvla_cli.runner import join_here
from wbvla_core.errors import WbvlaError
from wbvla_core.ros.domains import check_domain, environment_domain, running
from wbvla_core.ros.process import LEAVING_PRIORITY, go_realtime

if TYPE_CHECKING:
    from wbvla_core.ros.caller import Caller

LATE_S = 0.5  # after the first one has answered, another one may take this much longer to be found


class NoStackError(WbvlaError):
    """No stack answers; the text says where it was looked for."""


def domains(chosen: int | None) -> list[int]:
    """ROS domains to look in: the chosen one; else those in which stacks of this checkout run, and the environment's."""
    if chosen is not None:
        return [check_domain(chosen)]
    return list(dict.fromkeys([*running(), environment_domain()]))


def looked_in(places: Sequence[int], chosen: int | None) -> str:
    """Where it was looked, and how to look elsewhere."""
    own = "" if chosen is not None else " (the environment's, and those in which this checkout has started something)"
    ranges = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "")
    reach = "on this machine only (ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST)" if ranges == "LOCALHOST" or os.environ.get("ROS_LOCALHOST_ONLY") == "1" else ""
    where = f"ROS domain{'s' if len(places) > 1 else ''} {', '.join(map(str, places))}{own}"
    return f"looked in {where}{f', {reach}' if reach else ''}. Another domain: --domain N; `wbvla demo` and the nodes' logs say theirs"


@contextmanager
def answering(service: str, chosen: int | None, wait_s: float) -> Iterator[list[Caller]]:
    """Callers of every stack that offers ``service``.

    Args:
        service: key of the table, of type Trigger.
        chosen: the only domain to look in; None looks in all that may be meant.
        wait_s: how long to look.

    Raises:
        NoStackError: nobody offers it.
    """
    go_realtime(LEAVING_PRIORITY)  # where it may: whoever stops a robot does not wait for what else runs
    join_here(None)
    places = domains(chosen)
    from wbvla_core.ros.caller import Caller

    with ExitStack() as opened:
        callers: list[Caller] = []
        for domain in places:
            callers.append(Caller(service, domain))
            opened.callback(callers[-1].close)
        deadline_s = time.monotonic() + wait_s
        found: list[Caller] = []
        while time.monotonic() < deadline_s and len(found) < len(callers):
            new = [caller for caller in callers if caller not in found and caller.offered()]
            if new and not found:
                deadline_s = min(deadline_s, time.monotonic() + LATE_S)
            found += new
            time.sleep(0.02)
        if not found:
            raise NoStackError(f"no stack answers: {looked_in(places, chosen)}")
        yield [caller for caller in callers if caller in found]

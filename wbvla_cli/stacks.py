"""Find the stacks that run on this machine and call a service of each: what `wbvla stop` and `wbvla rearm` share."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from wbvla_core.errors import WbvlaError
from wbvla_core.ros.domains import check_domain, environment_domain, running

if TYPE_CHECKING:
    from wbvla_core.ros.client import StackClient

LATE_S = 0.5  # after the first one has answered, another one may take this much longer to be found
ASK_AGAIN_S, ATTEMPTS = 1.5, 6  # an answer is lost where the server has not found this client yet; both services may be called twice


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
def answering(service: str, chosen: int | None, wait_s: float) -> Iterator[list[tuple[int, StackClient]]]:
    """(domain, client) of every stack that offers ``service``.

    Args:
        service: key of the table.
        chosen: the only domain to look in; None looks in all that may be meant.
        wait_s: how long to look.

    Raises:
        NoStackError: nobody offers it.
    """
    from wbvla_cli.runner import join_here

    places = domains(chosen)
    join_here(None)
    from wbvla_core.ros.client import StackClient

    with ExitStack() as open_clients:
        clients: dict[int, StackClient] = {}
        for domain in places:
            clients[domain] = StackClient(f"wbvla_cli_{os.getpid()}", domain)
            open_clients.callback(clients[domain].close)
        deadline_s = time.monotonic() + wait_s
        found: list[int] = []
        while time.monotonic() < deadline_s and len(found) < len(clients):
            new = [domain for domain, client in clients.items() if domain not in found and client.offers(service)]
            if new and not found:
                deadline_s = min(deadline_s, time.monotonic() + LATE_S)
            found += new
            time.sleep(0.02)
        if not found:
            raise NoStackError(f"no stack answers: {looked_in(places, chosen)}")
        yield [(domain, clients[domain]) for domain in places if domain in found]


def trigger(domain: int, client: StackClient, service: str) -> tuple[bool, str]:
    """Call a Trigger service; (whether it did what was asked, a line for people)."""
    for _ in range(ATTEMPTS):
        try:
            answer: Any = client.call(service, timeout_s=ASK_AGAIN_S)
        except TimeoutError:
            continue
        return bool(answer.success), f"domain {domain}: {answer.message}"
    return False, f"domain {domain}: a stack is there, but it did not answer within {ATTEMPTS * ASK_AGAIN_S:g} s"

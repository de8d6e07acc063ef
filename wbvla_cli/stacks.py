"""Find the stacks that run on this machine and call a service of each: what `wbvla stop` and `wbvla rearm` share."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from wbvla_cli.runner import join_here
from wbvla_core.errors import WbvlaError
from wbvla_core.ros.domains import check_domain, environment_domain, running
from wbvla_core.ros.process import LEAVING_PRIORITY, go_realtime

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


class Caller:
    """A client of one Trigger service in one domain, and nothing else: what is made here is what a person waits for at an e-stop."""

    def __init__(self, service: str, domain: int) -> None:
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node

        from wbvla_core.ros.qos import interface_class
        from wbvla_core.ros.qos import service as row_of

        row = row_of(service)
        self.domain = domain
        self._request = interface_class(row.type).Request
        self._context = Context()
        self._context.init(domain_id=domain, initialize_logging=False)
        name = f"wbvla_cli_{os.getpid()}"
        self._node = Node(name, context=self._context, start_parameter_services=False, enable_rosout=False)
        self._client = self._node.create_client(interface_class(row.type), row.name)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)

    def offered(self) -> bool:
        """Whether somebody offers the service."""
        return self._client.service_is_ready()

    def call(self) -> tuple[bool, str]:
        """Call it; (whether it did what was asked, a line for people)."""
        for _ in range(ATTEMPTS):
            future = self._client.call_async(self._request())
            self._executor.spin_until_future_complete(future, timeout_sec=ASK_AGAIN_S)
            if future.done():
                return bool(future.result().success), f"domain {self.domain}: {future.result().message}"
        return False, f"domain {self.domain}: a stack is there, but it did not answer within {ATTEMPTS * ASK_AGAIN_S:g} s"

    def close(self) -> None:
        """Leave the graph."""
        self._node.destroy_node()
        self._executor.shutdown()
        del self._client, self._node, self._executor
        gc.collect()  # with the last reference goes the participant, and with it its shared memory
        self._context.try_shutdown()


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
    with ExitStack() as opened:
        callers = []
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

"""The lifecycle manager: brings the nodes of config/nodes.yaml up (LMO first) and down (LMO last).

One small module, two users: the runner calls :class:`LifecycleManager` from its own process, the launch files start this module as a process.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from wbvla_core.errors import WbvlaError

UP = (("configure", Transition.TRANSITION_CONFIGURE, State.PRIMARY_STATE_INACTIVE), ("activate", Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_ACTIVE))
GHOST_S = 25.0  # Fast DDS keeps a participant that vanished without a word for 20 s
LATE_S = 2.0  # without an answer for this long, a node's state is asked for
LOST_S = 8.0  # a request that a node has not carried out by then is sent again


class BringUpError(WbvlaError):
    """A node that did not come up; the text names it, and so does ``node`` where it is one of those to be brought up."""

    def __init__(self, message: str, node: str = "") -> None:
        super().__init__(message)
        self.node = node


class LifecycleManager:
    """Drive other processes' lifecycle nodes through their services. ``node`` must be spun by somebody else (another thread)."""

    def __init__(self, node: Node, names: Sequence[str], *, say: Callable[[str], None] = print) -> None:
        self._node, self.names, self._say = node, tuple(names), say
        self._change = {name: node.create_client(ChangeState, f"/{name}/change_state") for name in self.names}
        self._get = {name: node.create_client(GetState, f"/{name}/get_state") for name in self.names}

    def bring_up(self, timeout_s: float = 60.0, *, alive: Callable[[str], bool] = lambda name: True) -> None:
        """Configure all, then activate all, in the order of ``names``.

        Args:
            timeout_s: for the whole.
            alive: whether the process of a node still runs; a dead one ends the waiting at once.

        Raises:
            BringUpError: a node refused, died or did not answer in time.
        """
        deadline_s = time.monotonic() + timeout_s
        for verb, transition, target in UP:
            for name in self.names:
                if transition == Transition.TRANSITION_CONFIGURE:
                    self._wait_until_alone(name, alive)
                if not self._transition(name, transition, target, deadline_s, alive):
                    raise BringUpError(f"{name} refused to {verb}; its own log line says why", name)
                self._say(f"{name}: {verb}d")

    def _transition(self, name: str, transition: int, target: int, deadline_s: float, alive: Callable[[str], bool]) -> bool:
        """Whether the node went to ``target``.

        While two processes discover each other a request may come late by a heartbeat (3 s) or never, and so may its answer. So the state is asked for
        where the answer is overdue, and only what has not arrived for long is sent again.
        """
        request = ChangeState.Request(transition=Transition(id=transition))
        self._until(self._change[name].service_is_ready, f"{name} did not offer {self._change[name].srv_name} in time", name, deadline_s, alive)
        answer, state, repeated = self._change[name].call_async(request), None, False
        sent_s = asked_s = time.monotonic()
        while not answer.done():
            now_s = time.monotonic()
            if state is not None and state.done() and state.result().current_state.id == target:
                return True
            if now_s - asked_s > LATE_S:
                state, asked_s = self._get[name].call_async(GetState.Request()), now_s
            if now_s - sent_s > LOST_S and state is not None and state.done():  # it answers, but has not done what it was asked for
                answer, sent_s, repeated = self._change[name].call_async(request), now_s, True
            self._check(f"{name} did not answer {self._change[name].srv_name} in time", name, deadline_s, alive)
            time.sleep(0.01)
        return answer.result().success or (repeated and self.state(name) == target)

    def _wait_until_alone(self, name: str, alive: Callable[[str], bool]) -> None:
        """A second node of this name is another stack, or the ghost of one that was killed: ghosts go when their lease ends."""
        deadline_s, said = time.monotonic() + GHOST_S, False
        while self._node.get_node_names().count(name) > 1 and alive(name):
            if time.monotonic() > deadline_s:
                raise BringUpError(f"there are two nodes named {name}: another stack runs in this ROS domain; stop it, or set another ROS_DOMAIN_ID")
            if not said:
                said = True
                self._say(f"there is another node named {name}; if it was killed just now, it is forgotten within {GHOST_S:g} s")
            time.sleep(0.1)

    def state(self, name: str, timeout_s: float = 2.0) -> int:
        """lifecycle_msgs/State id of a node; UNKNOWN if it does not answer."""
        try:
            return self._call(self._get[name], GetState.Request(), name, time.monotonic() + timeout_s).current_state.id
        except BringUpError:
            return State.PRIMARY_STATE_UNKNOWN

    def take_down(self, timeout_s: float = 0.5) -> None:
        """Shut down in reverse order; a node that is gone or does not answer in time is passed over."""
        for name in reversed(self.names):
            if name not in self._node.get_node_names():
                continue
            try:
                request = ChangeState.Request(transition=Transition(label="shutdown"))  # the label fits every state, an id only one
                self._call(self._change[name], request, name, time.monotonic() + timeout_s)
            except BringUpError as error:
                self._say(str(error))

    def _call(self, client: Any, request: Any, name: str, deadline_s: float) -> Any:
        def alive(_name: str) -> bool:
            return True

        self._until(client.service_is_ready, f"{name} did not offer {client.srv_name} in time", name, deadline_s, alive)
        future = client.call_async(request)
        self._until(future.done, f"{name} did not answer {client.srv_name} in time", name, deadline_s, alive)
        return future.result()

    def _until(self, condition: Callable[[], bool], late: str, name: str, deadline_s: float, alive: Callable[[str], bool]) -> None:
        while not condition():
            self._check(late, name, deadline_s, alive)
            time.sleep(0.01)

    def _check(self, late: str, name: str, deadline_s: float, alive: Callable[[str], bool]) -> None:
        if not alive(name):
            raise BringUpError(f"the process of {name} ended before it was up; its last log lines say why", name)
        if time.monotonic() > deadline_s:
            raise BringUpError(f"{late}; does it run, and in this ROS domain?", name)


def main(argv: list[str] | None = None) -> None:
    """Process for the launch files: parameters ``launches`` (groups of the node table) and ``timeout_s``. Stays until it is signalled, then takes all down."""
    from wbvla_core.ros.lifecycle import init_or_leave
    from wbvla_core.ros.process import StopSignal, leave
    from wbvla_core.ros.tables import node_table

    stop = StopSignal()
    init_or_leave("lifecycle_manager", argv)
    node = Node("lifecycle_manager")
    fixed = ParameterDescriptor(read_only=True)  # read once, here: a set that came later would change nothing
    groups = node.declare_parameter("launches", ["sim"], fixed).value
    timeout_s = node.declare_parameter("timeout_s", 120.0, fixed).value
    manager = LifecycleManager(node, [row.name for row in node_table().launch(*groups)], say=node.get_logger().info)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinner = threading.Thread(target=_spin, args=(executor, finished := threading.Event()), daemon=True)
    spinner.start()
    status = 0
    try:
        manager.bring_up(timeout_s, alive=lambda _: not stop.is_set())
        while not stop.is_set():
            time.sleep(0.1)
    except BringUpError as error:
        if not stop.is_set():
            node.get_logger().error(str(error))
            status = 1
    finally:
        manager.take_down()
        finished.set()
        spinner.join(2.0)
        node.destroy_node()
        executor.shutdown()
        del node, manager, executor, spinner
        gc.collect()  # with the last reference goes the participant, and with it its shared memory
        rclpy.try_shutdown()
    leave(status)


def _spin(executor: SingleThreadedExecutor, finished: threading.Event) -> None:
    while not finished.is_set():
        executor.spin_once(timeout_sec=0.05)


if __name__ == "__main__":
    main()

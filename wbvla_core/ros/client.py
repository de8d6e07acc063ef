"""A plain Python program's door to the stack: bring nodes up, send goals, call services. Blocking calls; a thread of its own spins."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import yaml
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future

from wbvla_core.errors import ErrorCode, WbvlaError
from wbvla_core.ros.manager import LifecycleManager
from wbvla_core.ros.qos import action, interface_class, qos, service, topic
from wbvla_core.ros.tables import topic_table
from wbvla_core.task import TaskOutcome, TaskResult

SPINNER_S = 60.0  # only for a machine that stands still: the thread looks every 50 ms
T = TypeVar("T")


class StackClient:
    """Own rclpy context, so that several may live in one program.

    Args:
        name: node name.
        domain_id: ROS domain; None = the environment's.
    """

    def __init__(self, name: str = "wbvla_client", domain_id: int | None = None) -> None:
        self._context = Context()
        self._context.init(domain_id=domain_id, initialize_logging=False) if domain_id is not None else self._context.init(initialize_logging=False)
        self.node = Node(name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._closed = threading.Event()
        self._spinner = threading.Thread(target=self._spin, name="client", daemon=True)
        self._spinner.start()
        # made now, long before they are used: a server that has not yet discovered a client sends its answer to nobody
        self._clients = {key: self.node.create_client(interface_class(row.type), row.name) for key, row in topic_table().services.items()}
        self._note: Any = None
        self._actions = ActionClient(self.node, interface_class(action("execute_task").type), action("execute_task").name)

    def _spin(self) -> None:
        try:
            while not self._closed.is_set():
                self._executor.spin_once(timeout_sec=0.05)
        except (ExternalShutdownException, ShutdownException):
            pass

    def close(self) -> None:
        """Leave the graph."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._executor.wake()
        self._spinner.join(2.0)
        self._actions.destroy()
        self.node.destroy_node()
        self._executor.shutdown()
        del self.node, self._executor, self._actions, self._clients, self._note
        gc.collect()  # with the last reference goes the participant, and with it its shared memory
        self._context.try_shutdown()

    def manager(self, names: Sequence[str], say: Callable[[str], None]) -> LifecycleManager:
        """A lifecycle manager for these nodes."""
        return LifecycleManager(self.node, names, say=say)

    def wait(self, future: Future, timeout_s: float, what: str) -> Any:
        """The future's result. Raises TimeoutError naming ``what``."""
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        if not done.wait(timeout_s):
            raise TimeoutError(f"{what} did not answer within {timeout_s:g} s")
        return future.result()

    def call(self, key: str, request: Any = None, timeout_s: float = 5.0) -> Any:
        """Call service ``key`` of the table."""
        client = self._clients[key]
        deadline_s = time.monotonic() + timeout_s
        if not self._until(client.service_is_ready, timeout_s):
            raise TimeoutError(f"{client.srv_name} is not offered; is its node active?")
        return self.wait(client.call_async(request or interface_class(service(key).type).Request()), deadline_s - time.monotonic(), client.srv_name)

    def note(self, instruction: str, notes: str = "") -> None:
        """Tell the recorder what the next episodes are about; latched, so that it may come up later."""
        if self._note is None:
            self._note = self.node.create_publisher(interface_class(topic("record_note").type), topic("record_note").name, qos("record_note"))
        text = yaml.safe_dump({"instruction": instruction, "notes": notes}, sort_keys=False, allow_unicode=True)
        self._note.publish(interface_class(topic("record_note").type)(data=text))

    def listen(self, key: str, handle: Callable[[Any], None]) -> Any:
        """Subscribe to topic ``key``; ``handle`` runs in the client's thread."""
        return self.node.create_subscription(interface_class(topic(key).type), topic(key).name, handle, qos(key))

    def send_goal(
        self,
        instruction: str,
        timeout_s: float,
        duration_s: float = 0.0,
        *,
        on_feedback: Callable[[Any], None] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        watch: Callable[[], None] = lambda: None,
        grace_s: float = 10.0,
    ) -> TaskResult:
        """Carry out one sentence; blocks until the task's end. Refusals come back as results, too.

        Args:
            on_feedback: called with each ExecuteTask.Feedback, in the client's thread.
            cancelled: polled; True cancels the goal.
            watch: polled; raises where waiting is useless.
            grace_s: how much longer than ``timeout_s`` to wait before the VLA node counts as lost.

        Raises:
            WbvlaError: the action is not offered, or its server is gone; and what ``watch`` raises.
        """

        def ready() -> bool:
            watch()
            return self._actions.server_is_ready()

        if not self._until(ready, grace_s):
            raise WbvlaError(f"{action('execute_task').name} is not offered; is the VLA node active?", ErrorCode.TASK_FAULT)
        goal = interface_class(action("execute_task").type).Goal(instruction=instruction, timeout_s=float(timeout_s), duration_s=float(duration_s))
        relay = (lambda msg: on_feedback(msg.feedback)) if on_feedback else None
        sent = self._in_spinner(lambda: self._actions.send_goal_async(goal, feedback_callback=relay))

        def answered() -> bool:
            watch()
            return sent.done()

        if not self._until(answered, grace_s):
            raise WbvlaError(f"the VLA node did not answer within {grace_s:g} s", ErrorCode.TASK_FAULT)
        handle = sent.result()
        if not handle.accepted:
            raise WbvlaError("the VLA node did not accept the goal", ErrorCode.TASK_FAULT)
        future, done = self._in_spinner(handle.get_result_async), threading.Event()
        future.add_done_callback(lambda _: done.set())
        deadline_s, asked = time.monotonic() + max(timeout_s, 0.0) + grace_s, False
        while not done.wait(0.05):
            watch()
            if cancelled() and not asked:
                self._in_spinner(handle.cancel_goal_async)
                asked = True
            if time.monotonic() > deadline_s or not self._actions.server_is_ready():
                raise WbvlaError("the VLA node is gone; the robot stands", ErrorCode.TASK_FAULT)
        result = future.result().result
        return TaskResult(TaskOutcome(result.outcome), ErrorCode(result.code), result.message, float(result.elapsed_s))

    def _in_spinner(self, function: Callable[[], T]) -> T:
        """Call ``function`` in the thread that spins.

        rclpy's action client (7.1) notes a request after it has sent it, without a lock. An answer that the spinning thread takes in between is dropped
        as unexpected, and whoever waits for it waits for ever.
        """
        task, done = self._executor.create_task(function), threading.Event()
        task.add_done_callback(lambda _: done.set())
        if not done.wait(SPINNER_S):
            raise WbvlaError(f"this process did not get to run its ROS client for {SPINNER_S:g} s", ErrorCode.TASK_FAULT)
        return task.result()

    def _until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.02)
        return True

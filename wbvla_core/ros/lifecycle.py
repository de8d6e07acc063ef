"""The base of every node: a lifecycle node that loads and verifies at configure, publishes only while active, and leaves safely.

Subclasses fill in four hooks and read their parameters from ``self.settings``:

    load()    configure: load and verify everything, create publishers and subscriptions; raise to refuse
    start()   activate: begin to produce
    stop()    deactivate: stop the producer, then send the safe command (publishers are still open)
    unload()  cleanup: free what load() made

:func:`run_node` is the main() of every node: it survives a second SIGINT, stops when the process that started it is gone, and prints
no traceback for anything that an operator can cause.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NoReturn, TypeVar

import rclpy
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from wbvla_core.errors import WbvlaError
from wbvla_core.ros import codec
from wbvla_core.ros.health import Health, Heard, Level
from wbvla_core.ros.misspelt import explain_broken_file, misspelt, parameter_files, sections
from wbvla_core.ros.process import LEAVING_PRIORITY, MANAGED_VARIABLE, Stopped, StopSignal, go_realtime, leave, resident_mb
from wbvla_core.ros.qos import interface_class, qos, service, topic
from wbvla_core.ros.tables import node_table

RCLError = rclpy_implementation.RCLError
T = TypeVar("T")
POLL_S = 0.1  # how long an idle node takes to notice a signal: rcl_wait is C code, Python handlers run when it returns
FAREWELL_S = 0.05  # from the shutdown transition to the end: for its answer to leave
# Where something reaches all nodes at once, between one start order and the next. After launch's SIGTERM its SIGKILL comes a second later;
# nobody hurries nodes whose starter is gone, and on a busy machine the VLA needs longer to stop.
LEAVING_STEP_S, ORPHANED_STEP_S = 0.25, 0.6
SWITCH_INTERVAL_S = 1e-3  # Python's default of 5 ms would let a worker thread delay the executor by a quarter of a 50 Hz tick


@dataclass(frozen=True)
class Parameter:
    """Declaration of one ROS parameter; all are read at configure, and none can be set from then until cleanup.

    Attributes:
        default: value, and by it the type.
        description: what it means, with its unit.
        low, high: inclusive range of a number.
    """

    default: Any
    description: str
    low: float | None = None
    high: float | None = None

    def descriptor(self) -> ParameterDescriptor:
        descriptor = ParameterDescriptor(description=self.description)
        if self.low is not None and self.high is not None:
            if isinstance(self.default, float):
                descriptor.floating_point_range = [FloatingPointRange(from_value=float(self.low), to_value=float(self.high), step=0.0)]
            else:
                descriptor.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high), step=0)]
        return descriptor


class EdgeLog:
    """Log when something turns bad and when it recovers, never in between."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._bad: dict[str, int] = {}

    def bad(self, key: str, text: str) -> None:
        """``key`` is bad now; logged if it was good."""
        if self._bad.get(key, 0) == 0:
            self._logger.error(f"{key}: {text}")
        self._bad[key] = self._bad.get(key, 0) + 1

    def is_bad(self, key: str) -> bool:
        """Whether ``key`` was bad when it was last heard of."""
        return self._bad.get(key, 0) > 0

    def good(self, key: str) -> None:
        """``key`` is good now; logged if it was bad, with how often."""
        count = self._bad.get(key, 0)
        if count:
            self._logger.info(f"{key}: recovered after {count}")
            self._bad[key] = 0


class ManagedNode(LifecycleNode):
    """See the module text. ``NAME`` and ``PARAMETERS`` are the subclass's."""

    NAME: ClassVar[str] = "node"
    PARAMETERS: ClassVar[dict[str, Parameter]] = {}
    DIAGNOSTICS_PERIOD_S: ClassVar[float] = 1.0
    REALTIME: ClassVar[bool] = False  # of the process: the 50 Hz loop goes before images and before everything else where the machine is busy

    def __init__(self, **node_options: Any) -> None:
        super().__init__(self.NAME, **node_options)
        for name, parameter in self.PARAMETERS.items():
            self.declare_parameter(name, parameter.default, parameter.descriptor())
        self.add_on_set_parameters_callback(self._refuse_late_parameters)
        self._guard_transitions()
        self._configured = False
        self.edges = EdgeLog(self.get_logger())
        self.active = False
        self.dropped = 0  # malformed messages refused since configure
        self.failure = ""  # set by fail(): why this process must end
        self.finished = False  # set by the shutdown transition: the process ends
        self.settings: dict[str, Any] = {}
        self._owned: list[tuple[Callable[[Any], Any], Any]] = []
        self._kept: list[Any] = []  # services that live as long as the process
        self.heard = Heard()
        self.abandoning: Callable[[], Any] = contextlib.nullcontext  # around load(): a signal may end it (run_node)
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._dropped_reported = 0
        # A service that awaits another service's answer would, in the node's one exclusive group, lock out that answer and everything else for good.
        # One thread spins each node, so that nothing runs at the same time in a reentrant group either.
        self._calls = ReentrantCallbackGroup()

    def _guard_transitions(self) -> None:
        """A request for a transition that the present state does not have is answered with failure; rclpy (7.1) lets it end the process."""
        service = getattr(self, "_service_change_state", None)
        if service is None:
            return
        change_state = service.callback

        def guarded(request: Any, response: Any) -> Any:
            try:
                return change_state(request, response)
            except RCLError as error:
                self.get_logger().error(f"transition {request.transition.id} {request.transition.label} refused: {str(error).splitlines()[0]}")
                response.success = False
                return response

        service.callback = guarded

    def _refuse_late_parameters(self, parameters: list[Any]) -> SetParametersResult:
        """What is read at configure cannot be changed by a set that comes later: say so instead of "successful"."""
        late = [parameter.name for parameter in parameters if parameter.name in self.PARAMETERS]
        if not (late and self._configured):
            return SetParametersResult(successful=True)
        stage, way = ("active", "deactivate, clean up") if self.active else ("inactive", "clean up")
        text = f"{self.NAME} is {stage} and has read {', '.join(late)} at configure: a new value would change nothing"
        return SetParametersResult(successful=False, reason=f"{text}. To change it: {way}, set, configure")

    # -- hooks -----------------------------------------------------------------------------------------------------------
    def load(self) -> None: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def unload(self) -> None: ...

    def health(self) -> Health:
        """What diagnostics say, once a second while active."""
        return Health()

    # -- what subclasses use -----------------------------------------------------------------------------------------------
    def publisher(self, key: str) -> Any:
        """Lifecycle publisher of topic ``key`` of the table; freed at cleanup."""
        made = self.create_lifecycle_publisher(interface_class(topic(key).type), topic(key).name, qos(key))
        self._owned.append((self.destroy_lifecycle_publisher, made))
        return made

    def listen(self, key: str, decode: Callable[[Any], T], handle: Callable[[T], None], *, inactive: bool = False) -> Any:
        """Subscribe to topic ``key``. Every message passes ``decode``; one that it refuses is dropped, counted and logged on the edge.

        ``inactive``: from configure on, for what must be known when the node is activated. Else only while it is active.
        """

        def receive(msg: Any) -> None:
            if (self.active or inactive) and (value := self.accept(key, decode, msg)) is not None:
                handle(value)

        return self._subscribe(key, receive, raw=False)

    def accept(self, key: str, decode: Callable[[Any], T], msg: Any) -> T | None:
        """What a message of topic ``key`` says, or None where ``decode`` refuses it."""
        try:
            value = decode(msg)
        except ValueError as error:  # WbvlaError is one
            self.refuse(topic(key).name, error)
            return None
        self.edges.good(topic(key).name)
        self.heard.note(key)
        return value

    def listen_raw(self, key: str, handle: Callable[[bytes], None]) -> Any:
        """Subscribe to topic ``key`` without decoding: for topics of which only few messages are looked at."""

        def receive(data: bytes) -> None:
            if self.active:
                self.heard.note(key)
                handle(data)

        return self._subscribe(key, receive, raw=True)

    def _subscribe(self, key: str, receive: Callable[[Any], None], *, raw: bool) -> Any:
        made = self.create_subscription(interface_class(topic(key).type), topic(key).name, receive, qos(key), raw=raw)
        self._owned.append((self.destroy_subscription, made))
        return made

    def say(self, text: str, *, error: bool = False) -> None:
        """Log; rclpy wants one severity per line of code."""
        if error:
            self.get_logger().error(text)
        else:
            self.get_logger().info(text)

    def refuse(self, name: str, error: Exception) -> None:
        """Count a dropped message of topic ``name`` and log the edge."""
        self.dropped += 1
        code = f" [{error.code.name} {int(error.code)}]" if isinstance(error, WbvlaError) else ""
        self.edges.bad(name, f"message dropped: {error}{code}")

    def serve(self, key: str, handle: Callable[[Any, Any], Any], *, always: bool = False) -> Any:
        """Service ``key`` of the table; freed at cleanup, or with the node where it is to be ``always`` there."""
        made = self.create_service(interface_class(service(key).type), service(key).name, handle, callback_group=self._calls)
        if always:
            self._kept.append(made)
        else:
            self._owned.append((self.destroy_service, made))
        return made

    def client(self, key: str) -> Any:
        """Client of service ``key`` of the table; freed at cleanup."""
        made = self.create_client(interface_class(service(key).type), service(key).name, callback_group=self._calls)
        self._owned.append((self.destroy_client, made))
        return made

    def every(self, period_s: float, handle: Callable[[], None]) -> Any:
        """Call ``handle`` every ``period_s`` while active; freed at cleanup.

        By the machine's clock: with use_sim_time the node's stands still with the simulator, and a watchdog must not.
        """
        made = self.create_timer(period_s, lambda: handle() if self.active else None, clock=self._steady)
        self._owned.append((self.destroy_timer, made))
        return made

    # -- transitions -------------------------------------------------------------------------------------------------------
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.settings = {name: self.get_parameter(name).value for name in self.PARAMETERS}
        self.dropped = self._dropped_reported = 0
        self._configured = True
        try:
            self._refuse_misspelt()
            with self.abandoning():
                self.load()
            self._diagnostics = self.publisher("diagnostics")
            self.every(self.DIAGNOSTICS_PERIOD_S, self._report)
        except Exception as error:
            self._explain("refused to configure", error)
            self._free()
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def _refuse_misspelt(self) -> None:
        """ValueError where a parameter file or the command line names a parameter that this node does not have."""
        given = getattr(self, "_parameter_overrides", {})  # what the process was given for this node, declared or not
        unknown = [name for name in given if not self.has_parameter(name)]
        nodes = [row.name for row in node_table().nodes]
        elsewhere = {name for _, _, names in sections([str(node_table().parameter_file)]) for name in names}
        known = [*self.PARAMETERS, "use_sim_time"]
        refusals, remarks = misspelt(self.get_name(), unknown, known, parameter_files(sys.argv), nodes, elsewhere)
        for text in remarks:
            self.say(text)
        if refusals:
            raise ValueError("; ".join(refusals))

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = super().on_activate(state)
        if result is not TransitionCallbackReturn.SUCCESS:
            return result
        try:
            self.heard.begin()
            self.active = True
            self.start()
        except Exception as error:
            self._explain("refused to activate", error)
            self.active = False
            super().on_deactivate(state)
            return TransitionCallbackReturn.FAILURE
        gc.collect()
        gc.freeze()  # what was loaded stays: full collections of it would stall the loop by tens of milliseconds
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.active = False
        try:
            self.stop()
        except Exception as error:
            self._explain("stopping failed", error)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._free()
        return super().on_cleanup(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition raised: end as unconfigured, with nothing that still runs."""
        self.say("a transition failed; this node begins again as unconfigured", error=True)
        if self.active:
            self.on_deactivate(state)
        self._free()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self.active:
            self.on_deactivate(state)
        self._free()
        self.finished = True
        return super().on_shutdown(state)

    def fail(self, what: str, error: Exception) -> None:
        """A worker thread cannot go on: say why and end the process. A node that lives with a dead worker looks like a frozen robot."""
        self._explain(what, error)
        self.failure = what

    def _explain(self, what: str, error: Exception) -> None:
        """An operator's mistake is one sentence; a bug keeps its traceback."""
        if isinstance(error, (ValueError, OSError, RuntimeError, ImportError)):
            self.get_logger().error(f"{what}: {error}")
        else:
            self.get_logger().error(f"{what}:\n{''.join(traceback.format_exception(error))}")

    def _free(self) -> None:
        self._configured = False
        try:
            self.unload()
        except Exception as error:
            self._explain("unloading failed", error)
        while self._owned:
            destroy, entity = self._owned.pop()
            try:
                destroy(entity)
            except Exception as error:
                self._explain("unloading failed", error)

    def _report(self) -> None:
        health, dropped = self.health(), self.dropped - self._dropped_reported
        self._dropped_reported = self.dropped
        if dropped and health.level is Level.OK:
            health = replace(health, level=Level.WARN, message=f"{dropped} malformed messages were dropped since the last report; the log says why")
        health = replace(health, values={"dropped_messages": self.dropped, "rss_mb": resident_mb(), **health.values})
        self._diagnostics.publish(codec.diagnostics_msg(self.get_clock().now().nanoseconds / 1e9, self.NAME, health))


def run_node(make: Callable[[], ManagedNode], argv: list[str] | None = None) -> NoReturn:
    """Spin one node until SIGINT, SIGTERM or the end of the process that started it, then end the process with a status.

    It leaves without Python's own teardown: with torch or MuJoCo loaded that takes longer than the node may take to be gone, and by then the node, its
    threads and its files are closed.
    """
    stop = StopSignal(managed=os.environ.get(MANAGED_VARIABLE) == "1")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    unraisable = sys.unraisablehook
    sys.unraisablehook = lambda what: None if what.exc_type is Stopped else unraisable(what)
    name = getattr(make, "NAME", "node")
    init_or_leave(name, argv)
    status, node, executor = 0, None, SingleThreadedExecutor()
    try:
        scheduling = go_realtime() if getattr(make, "REALTIME", False) else ""
        node = make()
        node.abandoning = stop.abandoning
        if scheduling:
            node.say(scheduling)
        executor.add_node(node)
        _spin(node, executor, stop)
        status = 1 if node.failure else 0
    except (ExternalShutdownException, Stopped):
        pass
    except (ParameterException, WbvlaError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        status = 2
    except Exception:
        traceback.print_exc()
        status = 1
    finally:
        go_realtime(LEAVING_PRIORITY)  # where it may: three seconds for everything to be gone hold on a busy machine, too
        if node is not None:
            _close(node)
        executor.shutdown()
        # Fast DDS removes this process's shared memory when the participant goes, and that is when the last of these objects goes
        del node, executor
        gc.unfreeze()
        gc.collect()
        rclpy.try_shutdown()
    leave(status)


def init_or_leave(name: str, argv: list[str] | None) -> None:
    """rclpy.init without its signal handlers; arguments that ROS refuses end the process with one sentence."""
    try:
        rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # RCLError, or rclpy's own for unknown arguments
        print(f"{name}: {explain_broken_file(parameter_files(argv or sys.argv), error)}", file=sys.stderr)
        leave(2)


def leaving_rank(name: str) -> int:
    """How many start orders of the node table leave before this node: 0 for the VLA, more for LMO, still more for what stands in for the robot."""
    orders = sorted({row.order for row in node_table().nodes}, reverse=True)
    return next((orders.index(row.order) for row in node_table().nodes if row.name == name), 0)


def _spin(node: ManagedNode, executor: SingleThreadedExecutor, stop: StopSignal) -> None:
    """Until there is a reason to end. What is heard by all nodes at once is obeyed in their order; a node that is not active keeps nobody up."""
    rank, said = leaving_rank(node.NAME), False
    while rclpy.ok() and not (node.failure or node.finished):
        if not node.active and (stop.is_set() or stop.interrupted):
            return
        if stop.orphaned() and not said:
            said = True
            node.say("the process that started this node is gone, and so it leaves, too", error=True)
        step_s = ORPHANED_STEP_S if stop.orphaned() else LEAVING_STEP_S if stop.managed else 0.0
        if stop.due(rank * step_s):
            return
        executor.spin_once(timeout_sec=POLL_S)
    if node.finished:
        time.sleep(FAREWELL_S)


def _close(node: ManagedNode) -> None:
    """Leave in order, whatever state the node is in; errors on the way out are one line each."""
    for step in (lambda: node.on_deactivate(LifecycleState("active", 3)) if node.active else None, node._free, node.destroy_node):
        try:
            step()
        except Exception as error:
            print(f"{node.NAME}: while leaving: {error}", file=sys.stderr)

"""``wbvla run``: the process table of config/nodes.yaml without ROS launch, and :class:`Stack`, the same as a library.

Starts the processes, brings their lifecycle nodes up (LMO first), prefixes their logs, names one that dies, and takes everything down in reverse order
(VLA first, LMO last) within three seconds, however often Ctrl-C is pressed.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
import yaml

from wbvla_core.console import program
from wbvla_core.errors import WbvlaError
from wbvla_core.ros import shared_memory
from wbvla_core.ros.domains import Marks, check_domain, environment_domain, mark
from wbvla_core.ros.parameters import file_text, final_parameters
from wbvla_core.ros.process import PARENT_VARIABLE, StopSignal, hurry
from wbvla_core.ros.tables import NodeEntry, node_table, share_dir
from wbvla_core.task import TaskResult

if TYPE_CHECKING:
    from wbvla_core.ros.client import StackClient

STOP_BUDGET_S = 2.4  # everything is gone within 3 s: what still runs by then is killed
STOP_GRACE_S = 0.4  # how long the nodes of one order may keep the next ones waiting
LAST_LINES = 12  # of a process's log are kept for the one who has to say why it ended
ASIDE = ("record", "teleop")  # a task goes on without these


class StackError(WbvlaError):
    """The stack did not come up, or lost a process that it cannot do without. ``names`` are those of the nodes at fault."""

    def __init__(self, message: str, names: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.names = tuple(names)


class ProcessLost(StackError):
    """Processes ended by themselves while they were needed."""


def join_here(domain_id: int | None) -> None:
    """Let this process itself take part in ROS as the processes of a stack do: on this machine only, unless the environment says otherwise."""
    for name, value in ros_environment(domain_id).items():
        if name.startswith(("FAST", "ROS_AUTO", "ROS_LOCALHOST")):
            os.environ.setdefault(name, value)


def ros_environment(domain_id: int | None = None) -> dict[str, str]:
    """Environment of all processes of a stack: this machine only, images through large shared memory, one-line logs. What is set already is kept."""
    environment = dict(os.environ)
    profile = str(share_dir() / "config" / "fastdds.xml")
    defaults = {
        "FASTRTPS_DEFAULT_PROFILES_FILE": profile,  # Fast DDS 2 (Humble, Jazzy)
        "FASTDDS_DEFAULT_PROFILES_FILE": profile,  # Fast DDS 3
        "MUJOCO_GL": "egl",
        "PYTHONUNBUFFERED": "1",
        "RCUTILS_CONSOLE_OUTPUT_FORMAT": "{severity}: {message}",
    }
    if environment.get("ROS_DISTRO") == "humble":
        defaults["ROS_LOCALHOST_ONLY"] = "1"
    else:
        defaults["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    environment = {**defaults, **environment}
    if domain_id is not None:
        environment["ROS_DOMAIN_ID"] = str(check_domain(domain_id))
    root = str(Path(__file__).resolve().parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, (root, *environment.get("PYTHONPATH", "").split(os.pathsep)))))
    environment[PARENT_VARIABLE] = str(os.getpid())
    return environment


class _Process:
    """One node's process: its log lines are prefixed and kept."""

    def __init__(self, row: NodeEntry, arguments: Sequence[str], environment: Mapping[str, str], log: Path, say: Callable[[str], None]) -> None:
        self.row = row
        # a session of its own: a terminal's Ctrl-C reaches the runner alone, which then stops the nodes in order
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "wbvla_core.start", row.module, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._log, self._say = log, say
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        self._reader = threading.Thread(target=self._read, name=f"log of {row.name}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """Keep reading whatever happens: a process whose output nobody takes stands still."""
        try:
            log = self._log.open("w")
        except OSError:
            log = None
        for line in self.popen.stdout:
            self.last.append(line.rstrip())
            if log is not None:
                try:
                    log.write(line)
                    log.flush()
                except OSError as error:  # the disk is full
                    self._say(f"[runner] {self._log}: {error.strerror}; the log of {self.row.name} ends here")
                    log = None
            self._say(f"[{self.row.name}] {line.rstrip()}")
        if log is not None:
            log.close()

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended within the time."""
        try:
            self.popen.wait(max(timeout_s, 0.0))
        except subprocess.TimeoutExpired:
            return False
        return True

    def signal(self, number: int) -> None:
        if self.running:
            self.popen.send_signal(number)

    def finish(self) -> None:
        """Reap it and let the last log lines through."""
        self.popen.wait()
        self._reader.join(0.5)


class Stack:
    """The processes of one or more launch groups, as a context manager.

        with Stack(("sim",), parameters={"sim": {"seed": 7}}, record=Path("runs/x/episode")) as stack:
            stack.wait_active()
            result = stack.send_goal("walk to the blue box", timeout_s=40)

    Args:
        launches: launch groups of config/nodes.yaml.
        parameters: node -> parameter -> value, over config/params.
        record: folder for an MCAP bag of every topic; None = no recorder.
        log_dir: where each process's log goes; default: a temporary folder.
        domain_id: ROS domain; None = the environment's.
        say: takes each line of output.
        aside: processes without which a task goes on.
        cancelled: polled while waiting; True gives up.
    """

    def __init__(
        self,
        launches: Sequence[str] = ("sim",),
        *,
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        record: Path | None = None,
        log_dir: Path | None = None,
        domain_id: int | None = None,
        say: Callable[[str], None] = print,
        aside: Collection[str] = ASIDE,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        groups = (*launches, "record") if record is not None and "record" not in launches else tuple(launches)
        self.rows = node_table().launch(*groups)
        self._groups = groups
        self.parameters = {name: dict(values) for name, values in (parameters or {}).items()}
        if record is not None:
            self.parameters.setdefault("record", {})["output"] = str(Path(record).absolute())
        unknown = set(self.parameters) - {row.name for row in self.rows}
        if unknown:
            raise StackError(f"parameters are given for {sorted(unknown)}, but this stack has {[row.name for row in self.rows]}")
        self.domain_id, self._say, self._cancelled = domain_id, say, cancelled
        self._shared_before = shared_memory.segments()
        self._aside = tuple(aside)
        self._own_folder = log_dir is None
        self._folder = Path(log_dir) if log_dir else Path(tempfile.mkdtemp(prefix="wbvla-"))
        self.processes: dict[str, _Process] = {}
        self._client: StackClient | None = None
        self._marks: Marks | None = None
        self._ended: dict[str, str] = {}  # processes that ended by themselves, and how
        self._last: dict[str, deque[str]] = {}

    def __enter__(self) -> Stack:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop()
        if self._own_folder and kind is None and not self._ended:  # nobody was told to look at the logs
            shutil.rmtree(self._folder, ignore_errors=True)

    # -- up -------------------------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Start all processes; they are unconfigured until :meth:`wait_active`."""
        domain = environment_domain() if self.domain_id is None else self.domain_id
        self._marks = mark(domain, alone=any(row.critical for row in self.rows))  # for `wbvla stop` in another terminal
        self._folder.mkdir(parents=True, exist_ok=True)
        parameters = final_parameters(self._groups, [node_table().parameter_file], self.parameters)
        environment = {**ros_environment(self.domain_id), "ROS_LOG_DIR": str(self._folder / "ros")}
        for row in self.rows:
            own = {**environment, **row.dds_environment(environment)}
            file = self._folder / f"{row.name}.parameters.yaml"
            file.write_text(file_text(row.name, parameters[row.name]))
            arguments = ["--ros-args", "--params-file", str(file)]
            process = self.processes[row.name] = _Process(row, arguments, own, self._folder / f"{row.name}.log", self._say)
            self._last[row.name] = process.last

    @property
    def client(self) -> StackClient:
        """The ROS side of this process, made when first needed: services, goals and topics."""
        if self._client is None:
            join_here(self.domain_id)
            from wbvla_core.ros.client import StackClient

            self._client = StackClient(f"wbvla_runner_{os.getpid()}", self.domain_id)
        return self._client

    def wait_active(self, timeout_s: float = 120.0) -> None:
        """Configure and activate all nodes in start order.

        Raises:
            StackError: a node refused, died or did not answer; named, with its last lines.
            KeyboardInterrupt: it was ``cancelled``.
        """
        manager = self.client.manager([row.name for row in self.rows], lambda text: self._say(f"[runner] {text}"))
        try:
            manager.bring_up(timeout_s, alive=lambda name: self.processes[name].running and not self._cancelled())
        except WbvlaError as error:
            if self._cancelled():
                raise KeyboardInterrupt from error
            self.dead()
            raise StackError(f"{error}; logs are in {self._folder}", [error.node] if getattr(error, "node", "") else []) from error

    # -- in operation ---------------------------------------------------------------------------------------------------------------
    def dead(self) -> list[str]:
        """Names of processes that ended by themselves; each is said once, with its exit status."""
        gone = [name for name, process in self.processes.items() if not process.running]
        for name in gone:
            if name not in self._ended:
                self._ended[name] = describe(self.processes[name].popen.returncode)
                self._say(f"[runner] {name} ended by itself: {self._ended[name]}; its log: {self._folder / name}.log")
        return gone

    def ended(self, name: str) -> str:
        """How a process ended that did so by itself, "" where it did not."""
        return self._ended.get(name, "")

    def last_lines(self, name: str) -> list[str]:
        """The last lines of a process's log, also after its end."""
        return list(self._last.get(name, ()))

    def require(self) -> None:
        """Raise ProcessLost where a process ended by itself without which a task cannot go on."""
        gone = [name for name in self.dead() if name not in self._aside]
        if gone:
            raise ProcessLost(f"{', '.join(f'{name} ({self._ended[name]})' for name in gone)} ended; the task is over", gone)

    def send_goal(self, instruction: str, timeout_s: float, duration_s: float = 0.0, *, on_feedback: Callable[[Any], None] | None = None) -> TaskResult:
        """Carry out one sentence; see :meth:`wbvla_core.ros.client.StackClient.send_goal`.

        Raises:
            ProcessLost: a process ended meanwhile that is not among ``aside``.
        """
        return self.client.send_goal(instruction, timeout_s, duration_s, on_feedback=on_feedback, cancelled=self._cancelled, watch=self.require)

    # -- down -----------------------------------------------------------------------------------------------------------------------
    def stop(self) -> None:
        """Everything down in reverse start order, within 3 s; safe to call twice."""
        if self._marks is not None:
            self._marks.close()
        if not self.processes:
            return
        with hurry():
            self._stop()

    def _stop(self) -> None:
        deadline_s = time.monotonic() + STOP_BUDGET_S
        if self._client is not None:
            self._client.close()
            self._client = None
        for _, rows in itertools.groupby(reversed(self.rows), key=lambda row: row.order):
            leaving = [self.processes[row.name] for row in rows if row.name in self.processes]
            for process in leaving:
                process.signal(signal.SIGTERM)
            grace_s = min(deadline_s, time.monotonic() + STOP_GRACE_S)
            for process in leaving:
                process.wait(grace_s - time.monotonic())
        for process in self.processes.values():
            if not process.wait(deadline_s - time.monotonic()):
                self._say(f"[runner] {process.row.name} did not leave in time and is killed")
                process.signal(signal.SIGKILL)
            process.finish()
        self.processes.clear()
        shared_memory.remove_orphans(shared_memory.segments() - self._shared_before)  # of nodes that were killed


def describe(status: int) -> str:
    """An exit status in words."""
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


@dataclass(frozen=True)
class RunOptions:
    """Start nodes of config/nodes.yaml, bring them up, and take them down at Ctrl-C."""

    launch: Annotated[Literal["sim", "robot", "workstation"], tyro.conf.Positional] = "sim"
    """launch group: sim (everything on this machine), robot (onboard) or workstation"""
    record: Path | None = None
    """folder for an MCAP bag of every topic"""
    set: tuple[str, ...] = ()
    """parameters over config/params: node.parameter=value, for example sim.seed=3 vla.policy=zero"""
    instruction: str | None = None
    """send this goal once the stack is up, then leave when it has ended"""
    timeout_s: float = 60.0
    """of the goal, s"""
    domain: int | None = None
    """ROS domain id; default: the environment's"""


def parse_overrides(items: Sequence[str]) -> dict[str, dict[str, Any]]:
    """node.parameter=value ... -> {node: {parameter: value}}, values as YAML. StackError for another form."""
    out: dict[str, dict[str, Any]] = {}
    for item in items:
        name, equals, value = item.partition("=")
        node, dot, parameter = name.partition(".")
        if not (equals and dot and node and parameter):
            raise StackError(f"--set wants node.parameter=value, got {item!r}")
        try:
            out.setdefault(node, {})[parameter] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise StackError(f"--set {name}: {value!r} is no value that YAML can read") from error
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """``wbvla run``. Exit status 0 after Ctrl-C or a goal that ended by itself, 1 where something failed."""
    options = tyro.cli(RunOptions, args=argv, prog="wbvla run")
    stop = StopSignal()
    status = 0
    try:
        stack = Stack((options.launch,), parameters=parse_overrides(options.set), record=options.record, domain_id=options.domain, cancelled=stop.is_set)
        with stack:
            stack.wait_active()
            print("[runner] all nodes are active; Ctrl-C stops them", flush=True)
            if options.instruction is not None:
                result = stack.send_goal(options.instruction, options.timeout_s)
                print(f"[runner] {result.outcome.name} after {result.elapsed_s:.1f} s: {result.message}", flush=True)
                return 0 if result.outcome.name in ("STILL", "DURATION") else 1
            while not stop.is_set():
                dead = stack.dead()
                critical = [row.name for row in stack.rows if row.critical and row.name in dead]
                if critical or len(dead) == len(stack.rows):
                    raise StackError(f"{', '.join(critical or dead)} ended: the stack stops")
                status = 1 if dead else 0
                time.sleep(0.1)
    except KeyboardInterrupt:  # while it came up: Ctrl-C is how this verb ends
        pass
    except StackError as error:
        if not stop.is_set():
            print(f"wbvla run: {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    program(main)

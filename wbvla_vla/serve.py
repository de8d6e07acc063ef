"""The server of a policy: one thread exchanges messages, the thread of :meth:`PolicyServer.run` decides.

Of each robot only the newest question is kept (newest image wins), robots are answered in the order in which they came, and each has its own memory
(hysteresis, place in a recorded stream). A question that cannot be read is answered with what is wrong with it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq

from wbvla_core.checkpoint import sha256_file
from wbvla_core.errors import CheckpointError, ErrorCode, LinkError
from wbvla_core.robot import RobotSpec
from wbvla_vla import wire
from wbvla_vla.fakes import ReplayPolicy, ZeroPolicy, read_replay
from wbvla_vla.wire import ServedPolicy

if TYPE_CHECKING:
    from wbvla_vla.engine import EngineConfig
    from wbvla_vla.policy import Policy

REPLAY = "replay:"
MAX_ROBOTS = 16  # ours: whose memory is kept; the one that was silent for longest is forgotten first
POLL_MS = 200  # how long a signal may go unnoticed: one that arrives just before a wait, or in another thread, does not end the wait


def needs_network(policy: str) -> bool:
    """Whether ``policy`` names a bundle: "zero" and "replay:FILE" come without torch."""
    return policy != "zero" and not policy.startswith(REPLAY)


def load(policy: str, robot: RobotSpec, engine: EngineConfig | None = None, threads: int = 1) -> tuple[ServedPolicy, Callable[[], Policy]]:
    """What is served, and a function that makes the policy of one more robot. Loaded and warm; torch comes in only with a checkpoint.

    Args:
        policy: "zero", "replay:FILE" or a policy bundle.

    Raises:
        CheckpointError, ValueError: a bundle or a file that cannot be used.
    """
    if needs_network(policy):
        from wbvla_vla.policy import WholeBodyPolicy

        loaded = WholeBodyPolicy.load(policy, robot, threads=threads, engine=engine)
        return ServedPolicy.of(loaded.manifest), loaded.twin
    if policy == "zero":
        return ServedPolicy.without_network("zero", "", robot), lambda: ZeroPolicy(robot)
    path = Path(policy.removeprefix(REPLAY))
    decisions = read_replay(path, robot)
    return ServedPolicy.without_network(policy, sha256_file(path), robot), lambda: ReplayPolicy(decisions)


class PolicyServer:
    """Answers on ``bind`` from its construction on; :meth:`run` decides until :meth:`stop`.

    Args:
        served: the identity that clients are held to.
        make: the policy of one more robot.
        bind: e.g. ``tcp://*:5571``; a port of ``*`` takes a free one, see ``address``.

    Raises:
        LinkError: the address is taken or is none.
    """

    def __init__(self, served: ServedPolicy, make: Callable[[], Policy], robot: RobotSpec, bind: str) -> None:
        self.served, self.robot, self._make = served, robot, make
        self._memory: OrderedDict[bytes, list[Any]] = OrderedDict()  # robot -> [episode, policy]
        self._context = zmq.Context()
        front = self._context.socket(zmq.ROUTER)
        front.setsockopt(zmq.LINGER, 0)
        front.setsockopt(zmq.MAXMSGSIZE, wire.MAX_BYTES)
        front.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a robot that comes back over a new connection is the same robot
        front.setsockopt(zmq.HEARTBEAT_IVL, 1000)
        front.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3000)
        try:
            front.bind(bind)
        except zmq.ZMQError as error:
            front.close()
            self._context.term()
            raise LinkError(f"cannot listen on {bind}: {error}; does another `wbvla serve` run here? --bind takes another port") from error
        self.address = front.getsockopt_string(zmq.LAST_ENDPOINT)
        self._work, inner = self._context.socket(zmq.PAIR), self._context.socket(zmq.PAIR)
        inner.bind("inproc://work")
        self._work.connect("inproc://work")
        self._bell = self._context.socket(zmq.PULL)
        self._bell.bind("inproc://stop")
        self._thread = threading.Thread(target=self._exchange, args=(front, inner), name="exchange", daemon=True)
        self._thread.start()

    def run(self) -> None:
        """Answer until :meth:`stop` or KeyboardInterrupt; then everything is closed."""
        try:
            while True:
                while not self._work.poll(POLL_MS):
                    pass
                if len(frames := self._work.recv_multipart()) != 3:
                    return
                robot, question, came_s = frames
                answer = self._answer(robot, question, float(came_s))
                with suppress(zmq.Again):  # stopped meanwhile: nobody is left to carry it
                    self._work.send_multipart([robot, answer], flags=zmq.DONTWAIT)
        finally:
            self.stop()
            self._thread.join()
            self._work.close(linger=0)
            self._context.term()

    def stop(self) -> None:
        """End :meth:`run` after the decision that it is at; from any thread, any number of times."""
        if self._thread.is_alive():
            with self._context.socket(zmq.PUSH) as ring, suppress(zmq.Again):
                ring.connect("inproc://stop")
                ring.send(b"", flags=zmq.DONTWAIT)

    # -- the exchanging thread ---------------------------------------------------------------------------------------------------------
    def _exchange(self, front: zmq.Socket, inner: zmq.Socket) -> None:
        """Hand the deciding thread one question at a time; meanwhile a robot's newer question replaces its older one."""
        waiting: dict[bytes, tuple[bytes, float]] = {}
        busy = False
        poller = zmq.Poller()
        for socket in (front, inner, self._bell):
            poller.register(socket, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._bell in ready:
                inner.send(b"")
                break
            if inner in ready:
                front.send_multipart(inner.recv_multipart())
                busy = False
            while front.poll(0):
                robot, *frames = front.recv_multipart()
                waiting[robot] = frames[-1] if frames else b"", time.perf_counter()
            if waiting and not busy:
                robot = next(iter(waiting))
                question, came_s = waiting.pop(robot)
                inner.send_multipart([robot, question, repr(came_s).encode()])
                busy = True
        for socket in (front, inner, self._bell):
            socket.close(linger=0)

    # -- the deciding thread -----------------------------------------------------------------------------------------------------------
    def _answer(self, robot: bytes, question: bytes, came_s: float) -> bytes:
        number = None
        try:
            message = wire.unpack(question)
            number = wire.field(message, "number", int)
            return wire.pack(number=number, **self._reply(robot, message, came_s))
        except Exception as error:  # the question's fault or the policy's: this robot hears of it, the others are served on
            return wire.pack(number=number, error=wire.pack_error(error))

    def _reply(self, robot: bytes, message: dict[str, Any], came_s: float) -> dict[str, Any]:
        ask = wire.field(message, "ask", str)
        if ask == "hello":
            return {"served": vars(self.served), "guard": self.guard}
        if ask not in ("check", "decide"):
            raise LinkError(f"field 'ask' must be hello, check or decide, got {ask!r}")
        if (meant := wire.field(message, "policy", str)) != self.served.digest:
            raise CheckpointError(
                f"the question is for another policy ({meant[:12]}…): {self.served.label} ({self.served.digest[:12]}…) is served here now; "
                "configure the node again, or serve the policy that it began with",
                ErrorCode.CHECKPOINT_MISMATCH,
            )
        if ask == "check":
            policy = self._of(robot)[1]
            if hasattr(policy, "check_instruction"):
                policy.check_instruction(wire.field(message, "instruction", str))
            return {}
        inputs, episode = wire.read_input(message, self.robot.joint_count), wire.field(message, "episode", int)
        if episode < 0:
            raise LinkError(f"field 'episode' counts from 0, got {episode}")
        memory = self._of(robot)
        if memory[0] != episode:
            memory[1].reset()
            memory[0] = episode
        begun_s = time.perf_counter()
        decision = memory[1].infer(inputs)
        decision = wire.pack_decision(replace(decision, timing_s=decision.timing_s | {"queue": begun_s - came_s}))
        return {"decision": decision, "server_s": time.perf_counter() - came_s}

    @cached_property
    def guard(self) -> dict[str, Any]:
        """What the policy says of the sentences that it takes: its list of tasks where it has one."""
        policy = self._make()
        tasks = getattr(policy, "tasks", None)
        return {"tasks": tasks.to_json() if tasks else None, "reads_sentences": getattr(policy, "reads_sentences", True)}

    def _of(self, robot: bytes) -> list[Any]:
        """[episode, policy] of one robot, made at its first question."""
        if robot not in self._memory:
            self._memory[robot] = [None, self._make()]
            if len(self._memory) > MAX_ROBOTS:
                self._memory.popitem(last=False)
        self._memory.move_to_end(robot)
        return self._memory[robot]

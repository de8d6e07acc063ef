"""A policy on another machine (``wbvla serve``), with the interface of the one in process. Needs no torch.

One question is in flight. What is not answered in time is given up: its answer, should it still come, carries an older number and stamp and is
thrown away. The link says nothing about the robot's safety: while no decision comes, LMO's ladder stands.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from dataclasses import replace
from typing import Any

import zmq

from wbvla_core.checkpoint import Manifest, require_robot
from wbvla_core.errors import CheckpointError, LinkError
from wbvla_core.robot import RobotSpec
from wbvla_core.types import Decision, PolicyInput
from wbvla_perception.preprocess import ImageSpec, require_camera
from wbvla_vla import wire
from wbvla_vla.wire import ServedPolicy

SCHEME = "tcp://"  # what tells an address from a name or a folder
ANSWER_S = 0.3  # ours: LMO follows no image older than 0.4 s, so an answer after this is of no use
CONNECT_S = 10.0  # ours: a server that is up answers hello behind at most a few decisions of others


class RemotePolicy:
    """The policy that ``wbvla serve`` holds at ``address``, after both sides agreed that they mean the same.

    Args:
        address: ``tcp://host:port``.
        robot: the robot here.
        expected: manifest of the policy that must be served; None = any that fits robot and camera.
        answer_s: how long a decision may take, link included.
        connect_s: how long to wait for a server that is still coming up.

    Raises:
        LinkError: no answer, or one that is none.
        CheckpointError: another policy, robot, joint order or camera.
    """

    def __init__(self, address: str, robot: RobotSpec, expected: Manifest | None = None, *, answer_s: float = ANSWER_S, connect_s: float = CONNECT_S) -> None:
        self.address, self.robot, self.answer_s = address, robot, answer_s
        self.thrown_away = 0  # late answers
        self._turn = threading.Lock()  # goals are checked on another thread than decisions are made, and a socket has one user
        self._numbers, self._episode = itertools.count(1), 0
        self._socket = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, uuid.uuid4().bytes)  # by which the server knows us again after the connection broke
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing is stored for a server that is away: it would be asked about the past
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_BYTES)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 50)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, 500)  # a pulled cable closes no connection
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 1500)
        try:
            self._socket.connect(address)
            hello = self._ask("hello", connect_s)
            self.manifest = wire.read_served(hello)
            self.tasks, self.reads_sentences = wire.read_guard(hello)
            _require_same(self.manifest, expected, robot, address)
        except zmq.ZMQError as error:
            self.close()
            raise LinkError(f"{address} is no address of a policy server ({error}); it looks like tcp://host:5571") from error
        except Exception:
            self.close()
            raise
        self.image_spec = ImageSpec.from_json(self.manifest.image) if self.manifest.image else None

    def close(self) -> None:
        self._socket.close(linger=0)

    def check_instruction(self, instruction: str) -> None:
        """See :meth:`wbvla_vla.policy.WholeBodyPolicy.check_instruction`; LinkError without an answer."""
        self._ask("check", self.answer_s, policy=self.manifest.digest, instruction=instruction)

    def reset(self) -> None:
        """Forget the episode so far: the next question opens a new one on the server too."""
        self._episode += 1

    def infer(self, inputs: PolicyInput) -> Decision:
        """One decision.

        ``timing_s`` has the server's stages, ``queue`` (waited there), ``transfer`` (all that the link and both ends of it took) and ``total``.
        Durations are compared, never the two machines' clocks.

        Raises:
            LinkError: no answer within ``answer_s``. The next call may succeed; this image is lost.
            WbvlaError: what the policy refused, as in process.
        """
        start = time.perf_counter()
        asked = {"policy": self.manifest.digest, "episode": self._episode, "input": wire.pack_input(inputs)}
        answer = self._ask("decide", self.answer_s, **asked)
        decision = wire.read_decision(answer, self.robot)
        if decision.stamp_s != inputs.stamp_s:
            raise LinkError(f"{self.address} answered for the image of {decision.stamp_s}, asked was {inputs.stamp_s}; the decision is dropped")
        total = time.perf_counter() - start
        return replace(decision, timing_s=decision.timing_s | {"transfer": total - wire.field(answer, "server_s", float), "total": total})

    def _ask(self, what: str, timeout_s: float, **fields: Any) -> dict[str, Any]:
        """The answer to one question; late ones to earlier questions are thrown away."""
        end_s = time.monotonic() + timeout_s
        with self._turn:
            number = next(self._numbers)
            if not self._wait(zmq.POLLOUT, end_s):
                raise LinkError(f"{self.address} cannot be reached (tried for {timeout_s:g} s); does `wbvla serve` run there, and is the port open?")
            self._socket.send(wire.pack(ask=what, number=number, **fields))
            while self._wait(zmq.POLLIN, end_s):
                answer = wire.unpack(self._socket.recv())
                if answer.get("number") == number:
                    wire.raise_error(answer)
                    return answer
                self.thrown_away += 1
        raise LinkError(f"{self.address} did not answer within {timeout_s:g} s; the server is too slow, stuck, or the link is")

    def _wait(self, event: int, end_s: float) -> bool:
        return bool(self._socket.poll(max(0.0, end_s - time.monotonic()) * 1e3, event))


def _require_same(served: ServedPolicy, expected: Manifest | None, robot: RobotSpec, address: str) -> None:
    """CheckpointError unless both sides mean the same policy on the same robot with the same camera."""
    require_robot(f"{served.label} at {address}", served.robot, robot)
    if expected is not None and served.hash != expected.hash:
        raise CheckpointError(
            f"{address} serves {served.label} with hash {served.hash[:12] or '(none)'}…, here {expected.label} with hash {expected.hash[:12]}… is expected; "
            "serve that one, copy the served manifest here, or leave the checkpoint open to accept any"
        )
    if served.image is None:
        return
    require_camera(f"{served.label} at {address}", ImageSpec.from_json(served.image), robot)

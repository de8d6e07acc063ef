"""A policy asked over the network: the same answers, late ones thrown away, other policies refused, broken messages survived, restarts too."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgpack
import numpy as np
import pytest
import zmq

from wbvla_core.checkpoint import load_manifest
from wbvla_core.errors import CheckpointError, CommandError, ErrorCode, ImageError, InstructionError, LinkError, StateError, WbvlaError
from wbvla_core.robot import load_robot
from wbvla_core.types import Decision, PolicyInput, RobotState
from wbvla_vla import serve, wire
from wbvla_vla.fakes import ZeroPolicy
from wbvla_vla.guard import NO_LIST, SAME_WHATEVER, guard_of
from wbvla_vla.remote import RemotePolicy
from wbvla_vla.wire import ServedPolicy

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "checkpoints" / "policy" / "tiny"
ROBOT = load_robot("x2")
SOON_S = 20.0  # for what must happen; nothing here waits for so long unless it fails


def seen(stamp_s: float = 1.5, seed: int = 0, size: int = 96, instruction: str = "walk to the red box") -> PolicyInput:
    rng = np.random.default_rng(seed)
    q = ROBOT.default_q + rng.normal(0, 0.01, ROBOT.joint_count)
    state = RobotState(stamp_s - 0.003, q, rng.normal(0, 0.1, ROBOT.joint_count), np.zeros(3), np.array((0.0, 0.0, -1.0)))
    return PolicyInput(stamp_s, rng.integers(0, 256, (size, size, 3), dtype=np.uint8), instruction, state)


def same(one: Decision, other: Decision) -> bool:
    timeless = (dataclasses.replace(d, arms=None, timing_s={}) for d in (one, other))
    return len(set(map(repr, timeless))) == 1 and np.array_equal(one.arms.positions, other.arms.positions) and one.arms.dt_s == other.arms.dt_s


@contextmanager
def serving(served: ServedPolicy, make: Callable[[], object], bind: str = "tcp://127.0.0.1:*") -> Iterator[serve.PolicyServer]:
    server = serve.PolicyServer(served, make, ROBOT, bind)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(SOON_S)
        assert not thread.is_alive()


@contextmanager
def asking(server: serve.PolicyServer | str, expected=None, answer_s: float = SOON_S) -> Iterator[RemotePolicy]:
    policy = RemotePolicy(getattr(server, "address", server), ROBOT, expected, answer_s=answer_s, connect_s=SOON_S)
    try:
        yield policy
    finally:
        policy.close()


@contextmanager
def raw_client(server: serve.PolicyServer) -> Iterator[Callable[[bytes], dict]]:
    with zmq.Context.instance().socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(server.address)

        def ask(message: bytes) -> dict:
            socket.send(message)
            assert socket.poll(SOON_S * 1e3)
            return wire.unpack(socket.recv())

        yield ask


@pytest.fixture
def zero() -> Iterator[serve.PolicyServer]:
    with serving(*serve.load("zero", ROBOT)) as server:
        yield server


@pytest.fixture(scope="module")
def tiny() -> tuple[ServedPolicy, Callable]:
    pytest.importorskip("torch")
    return serve.load(str(TINY), ROBOT)


def test_the_robots_side_loads_neither_torch_nor_a_model():
    code = "import sys, wbvla_vla.remote, wbvla_vla.serve, wbvla_vla.fakes; print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_over_the_network_the_answers_are_those_in_process_to_the_bit(tiny):
    here = tiny[1]()
    with serving(*tiny) as server, asking(server, load_manifest(TINY)) as there:
        for i in range(6):
            inputs = seen(0.1 * i, seed=i, instruction="turn left" if i > 3 else "walk to the red box")
            assert same(here.infer(inputs), there.infer(inputs))
        assert there.manifest.hash == here.manifest.hash and there.image_spec == here.image_spec


def test_an_answer_says_where_its_time_went(tiny):
    with serving(*tiny) as server, asking(server) as policy:
        timing = policy.infer(seen()).timing_s
    assert set(timing) == {"queue", "normalise", "vla", "decoder", "transfer", "total"}
    assert all(value > 0 for value in timing.values())
    assert sum(value for name, value in timing.items() if name != "total") <= timing["total"]


def test_robots_have_memories_of_their_own_and_reset_empties_only_ones_own(tiny):
    with serving(*tiny) as server, asking(server) as first, asking(server) as second:
        inputs = [seen(0.1 * i, seed=i) for i in range(4)]
        alone = [first.infer(one) for one in inputs]
        first.reset()
        interleaved = [(first.infer(one), second.infer(inputs[0]))[0] for one in inputs]
        assert all(map(same, alone, interleaved))


def test_the_served_policy_says_over_the_network_whether_it_is_guarded(tiny, zero, monkeypatch):
    with serving(*tiny) as server, asking(server) as policy:
        assert guard_of(policy) == guard_of(tiny[1]()) == (True, "guarded: 12 tasks in 121 sentences, any other sentence is refused")
    with asking(zero) as policy:
        assert guard_of(policy) == (False, SAME_WHATEVER)
    monkeypatch.setattr(serve.PolicyServer, "guard", None)  # a server of an earlier version says nothing of it
    with serving(*tiny) as server, asking(server) as policy:
        assert guard_of(policy) == (False, NO_LIST)


def test_what_the_policy_refuses_is_refused_with_the_same_error_over_the_network(tiny):
    with serving(*tiny) as server, asking(server) as policy:
        policy.check_instruction("walk to the red box")
        for sentence, words in (("fetch the zeppelin", "not trained to .fetch"), ("take the red box", 'can do: "walk to the red box"')):
            with pytest.raises(InstructionError, match=words) as unknown:
                policy.check_instruction(sentence)
            assert unknown.value.code == ErrorCode.INSTRUCTION_UNKNOWN_WORDS
            with pytest.raises(InstructionError, match=words):  # whoever does not ask first
                policy.infer(seen(instruction=sentence))
        with pytest.raises(ImageError, match="96x96 px, got 64x64"):
            policy.infer(seen(size=64))
        blind = dataclasses.replace(seen(), state=dataclasses.replace(seen().state, gyro=np.full(3, np.nan)))
        with pytest.raises(StateError, match="gyro must be finite"):
            policy.infer(blind)
        policy.infer(seen())


def test_a_recorded_stream_can_be_served(tmp_path):
    stream = tmp_path / "stream.yaml"
    stream.write_text("- {t_s: 0.0, forward: 1}\n- {t_s: 0.1, yaw: -1}\n")
    with serving(*serve.load(f"replay:{stream}", ROBOT)) as server, asking(server) as policy:
        flags = [policy.infer(seen(stamp)).loco.flags.tolist() for stamp in (7.0, 7.1, 7.5)]
        assert flags == [[1, 0, 0], [0, 0, -1], [0, 0, 0]]
        policy.reset()
        assert policy.infer(seen(9.0)).loco.forward == 1


class Gate:
    """A policy that answers when it is let: ``let`` once per answer."""

    def __init__(self) -> None:
        self.let, self.begun, self.stamps = threading.Semaphore(0), threading.Semaphore(0), []

    def reset(self) -> None:
        pass

    def infer(self, inputs: PolicyInput) -> Decision:
        self.stamps.append(inputs.stamp_s)
        self.begun.release()
        assert self.let.acquire(timeout=SOON_S)
        return ZeroPolicy(ROBOT).infer(inputs)


def test_a_late_answer_is_thrown_away_and_a_waiting_question_gives_way_to_a_newer_one():
    gate = Gate()
    with serving(ServedPolicy.without_network("gate", "", ROBOT), lambda: gate) as server, asking(server) as policy:
        policy.answer_s = 0.02
        for stamp in (1.0, 2.0, 3.0):  # the first is being decided, the second waits and is replaced by the third
            with pytest.raises(LinkError, match="did not answer within 0.02 s"):
                policy.infer(seen(stamp))
        assert gate.begun.acquire(timeout=SOON_S)
        policy.answer_s = SOON_S
        opener = threading.Thread(target=lambda: [gate.let.release() for _ in range(3)])
        opener.start()
        assert policy.infer(seen(4.0)).stamp_s == 4.0
        opener.join()
        assert policy.thrown_away >= 1
        assert gate.stamps[0] == 1.0 and 2.0 not in gate.stamps and gate.stamps[-1] == 4.0


def test_a_policy_that_breaks_is_reported_and_served_on():
    class Broken(ZeroPolicy):
        def infer(self, inputs):
            if inputs.stamp_s < 2.0:
                raise ZeroDivisionError("a bug")
            return super().infer(inputs)

    with serving(ServedPolicy.without_network("broken", "", ROBOT), lambda: Broken(ROBOT)) as server, asking(server) as policy:
        with pytest.raises(WbvlaError, match="failed on its server: ZeroDivisionError: a bug") as error:
            policy.infer(seen(1.0))
        assert not isinstance(error.value, LinkError)  # a task ends by this, silence would only be waited for
        assert policy.infer(seen(2.0)).stamp_s == 2.0


def test_another_policy_robot_joint_order_or_camera_is_refused_by_name(zero):
    with pytest.raises(CheckpointError, match="serves zero with hash .none.*policy/tiny with hash"), asking(zero, load_manifest(TINY, verify_files=False)):
        pass
    swapped = ["b", "a", *zero.served.robot["joint_names"][2:]]
    image = load_manifest(TINY, verify_files=False).inputs["image"]["spec"]
    for change, text in (
        ({"robot": zero.served.robot | {"name": "g1"}}, "made for robot g1"),
        ({"robot": zero.served.robot | {"joint_names": swapped}}, "joint 0 is 'b'"),
        ({"robot": zero.served.robot | {"fingerprint": "0" * 64}}, "fingerprint"),
        ({"image": image | {"fovy_deg": 90.0}}, "camera of 320x240 px and 90 deg"),
    ):
        other = dataclasses.replace(zero.served, **change)
        with serving(other, lambda: ZeroPolicy(ROBOT)) as server, pytest.raises(CheckpointError, match=text), asking(server):
            pass


def test_a_malformed_question_is_answered_with_the_field_that_is_wrong(zero):
    good = {"ask": "decide", "number": 7, "policy": zero.served.digest, "episode": 0}
    packed = msgpack.unpackb(wire.pack(input=wire.pack_input(seen())))["input"]
    image = packed["image"]

    def with_input(**change) -> bytes:
        return wire.pack(**good, input=packed | change)

    with raw_client(zero) as ask:
        for message, text in (
            (b"\xc1", "must be one msgpack map"),
            (b"", "must be one msgpack map"),
            (msgpack.packb([1]), "must be one msgpack map, got list"),
            (msgpack.packb({"version": 99}), "field 'version' must be 1, got 99"),
            (wire.pack(ask="decide"), "field 'number' must be int, got nothing"),
            (wire.pack(**good | {"ask": "dance"}), "must be hello, check or decide, got 'dance'"),
            (wire.pack(**good), "field 'input'"),
            (wire.pack(**good | {"policy": "f" * 64}), "question is for another policy"),
            (with_input(stamp_s=float("nan")), "field 'stamp_s' must be float and finite"),
            (with_input(instruction=3), "field 'instruction' must be str, got int 3"),
            (with_input(image=image | {"dtype": "|O"}), "field 'image' must be an array of |u1"),
            (with_input(image=image | {"shape": [96, 96]}), "field 'image' must have shape [None, None, 3]"),
            (with_input(image=image | {"shape": [96, -96, 3]}), "field 'image' must be an array"),
            (with_input(image=image | {"data": image["data"][1:]}), "must hold 27648 bytes, got 27647"),
            (with_input(state=packed["state"] | {"q": packed["state"]["gyro"]}), "field 'q' must have shape"),
            (with_input(state=packed["state"] | {"gravity": packed["state"]["gyro"]}), "gravity must be a unit vector, got length 0"),
            (with_input(stamp_s=-1e18), "field 'stamp_s' must be a time of at most 4.29497e+09 s"),
            (wire.pack(**good | {"episode": -1}, input=packed), "field 'episode' counts from 0, got -1"),
        ):
            answer = ask(message)
            assert text in answer["error"]["text"], (message[:40], answer)
        assert "decision" in ask(wire.pack(**good, input=packed))
    with asking(zero) as policy:
        policy.infer(seen())


def test_an_answer_that_is_no_decision_for_this_image_is_never_used():
    def changed(path: str, value) -> Callable[[bytes], bytes]:
        def change(answer: bytes) -> bytes:
            message = msgpack.unpackb(answer)
            *parents, last = path.split(".")
            inner = message
            for name in parents:
                inner = inner[name]
            inner[last] = value
            return msgpack.packb(message)

        return change

    class Garbling(serve.PolicyServer):
        garble = staticmethod(lambda answer: answer)

        def _answer(self, *question) -> bytes:
            return self.garble(super()._answer(*question))

    server = Garbling(*serve.load("zero", ROBOT), ROBOT, "tcp://127.0.0.1:*")
    thread = threading.Thread(target=server.run)
    thread.start()
    with asking(server) as policy:
        for garble, error, text in (
            (lambda answer: b"\xff" + answer, LinkError, "one msgpack map"),
            (changed("version", 2), LinkError, "'version' must be 1, got 2"),
            (changed("decision.stamp_s", 0.5), LinkError, "answered for the image of 0.5, asked was 1.5"),
            (changed("decision.loco.forward", 300), CommandError, "must be -1, 0 or 1, got 300"),
            (changed("decision.loco.stance_height_m", 9.0), CommandError, "must lie in"),
            (changed("decision.arms.joint_names", ["a"]), CommandError, "must name the joints"),
            (changed("decision.latent.locomotion", ["a"]), LinkError, "indices of codes"),
            (changed("server_s", None), LinkError, "'server_s' must be float"),
        ):
            server.garble = garble
            with pytest.raises(error, match=text):
                policy.infer(seen())
        server.garble = lambda answer: answer
        policy.infer(seen())
    server.stop()
    thread.join(SOON_S)


def test_where_nobody_serves_the_client_says_so():
    with pytest.raises(LinkError, match="cannot be reached .*does `wbvla serve` run there"):
        RemotePolicy("tcp://127.0.0.1:9", ROBOT, connect_s=0.05)
    with pytest.raises(LinkError, match="no address of a policy server"):
        RemotePolicy("tcp://nonsense", ROBOT, connect_s=0.05)


def test_a_second_server_on_the_same_port_is_refused(zero):
    with pytest.raises(LinkError, match="cannot listen on .*another `wbvla serve`"):
        serve.PolicyServer(zero.served, lambda: ZeroPolicy(ROBOT), ROBOT, zero.address)


@contextmanager
def command(*arguments: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """``wbvla serve`` in a process of its own and the address that it names once it answers."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "wbvla_cli", "serve", *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        line = process.stdout.readline()
        assert "serving x2 on tcp://" in line, line + process.stdout.read()
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_server_that_is_killed_and_started_again_is_found_again_and_one_with_another_policy_is_not_used(tmp_path):
    stream = tmp_path / "stream.yaml"
    stream.write_text("- {t_s: 0.0, forward: 1}\n")
    with command("--policy", "zero", "--bind", "tcp://127.0.0.1:*") as (first, address):
        client = RemotePolicy(address, ROBOT, answer_s=SOON_S, connect_s=SOON_S)
        client.infer(seen(1.0))
        first.send_signal(signal.SIGKILL)
        first.wait()
    client.answer_s = 0.05
    with pytest.raises(LinkError):
        client.infer(seen(2.0))
    client.answer_s = SOON_S
    with command("--policy", "zero", "--bind", address) as (second, _):
        assert client.infer(seen(3.0)).stamp_s == 3.0
        second.send_signal(signal.SIGTERM)
        assert second.wait(SOON_S) == 0 and "stopped" in second.stdout.read()
    with command("--policy", f"replay:{stream}", "--bind", address), pytest.raises(CheckpointError, match="question is for another policy.*replay:"):
        client.infer(seen(4.0))
    client.close()

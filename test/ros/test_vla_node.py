"""The 10 Hz node: goals, refusals, endings and what it publishes. The policies are fakes; LMO is real but for its legs."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run `make setup`")

from rclpy.action import ActionClient  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from wbvla_core.catalogue import TaskCatalogue  # noqa: E402
from wbvla_core.errors import ErrorCode, LinkError  # noqa: E402
from wbvla_core.ros import codec  # noqa: E402
from wbvla_core.ros.qos import action  # noqa: E402
from wbvla_core.task import MAX_INSTRUCTION_CHARS  # noqa: E402
from wbvla_core.types import Decision, LocoCommand, PolicyInput, RobotState  # noqa: E402
from wbvla_msgs.action import ExecuteTask  # noqa: E402
from wbvla_msgs.srv import TakeControl  # noqa: E402
from wbvla_vla.fakes import ZeroPolicy  # noqa: E402
from wbvla_vla.guard import NO_LIST  # noqa: E402
from wbvla_vla.node import VlaNode  # noqa: E402
from wbvla_vla.serve import PolicyServer, load  # noqa: E402

from .conftest import until  # noqa: E402
from .fakes import ROBOT, UPRIGHT, HoldLmo, Probe  # noqa: E402

Result = ExecuteTask.Result
SIZE = 32
WALK = LocoCommand(1, 0, 0, ROBOT.default_stance_height_m)


class ScriptedPolicy(ZeroPolicy):
    """Walks or stands as the test says; knows the words of one sentence; remembers what it saw."""

    def __init__(self) -> None:
        super().__init__(ROBOT)
        self.loco = WALK
        self.seen: list[PolicyInput] = []
        self.error: Exception | None = None
        self.gate = threading.Event()  # closed, it thinks for as long as the test wants
        self.gate.set()
        self.tasks: TaskCatalogue | None = TaskCatalogue.of_sentences(["walk to the blue box"])

    def check_instruction(self, instruction: str) -> None:
        self.tasks.meaning(instruction)

    def infer(self, inputs: PolicyInput) -> Decision:
        self.seen.append(inputs)
        if self.error:
            raise self.error
        self.gate.wait(60.0)
        return replace(super().infer(inputs), loco=self.loco)


class ScriptedVla(VlaNode):
    MAKE = ScriptedPolicy

    def make_policy(self, robot):
        return self.MAKE()


class Robot:
    """Publishes robot state at 50 Hz and policy images at 10 Hz of real time."""

    def __init__(self, probe: Probe) -> None:
        self.probe, self.images, self._stop = probe, True, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        count = 0
        while not self._stop.wait(0.018):
            at_s = round(time.time(), 6)
            self.probe.state(at_s)
            count += 1
            if self.images and count % 5 == 0:
                self.probe.send("policy_image", codec.image_msg(np.full((SIZE, SIZE, 3), count % 256, np.uint8), at_s, "head_camera"))

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2.0)


class Bench:
    def __init__(self, graph, policy: type[ScriptedPolicy] = ScriptedPolicy) -> None:
        from rclpy.parameter import Parameter

        self.graph = graph
        # only the vla's own behaviour is under test: LMO is patient, so that a slow machine does not fail it
        patience = [Parameter(name, value=value) for name, value in (("state_timeout_s", 1.0), ("session_timeout_s", 10.0))]
        self.lmo = graph.add(HoldLmo(context=graph.context, parameter_overrides=patience))
        self.vla = graph.add(type("Vla", (ScriptedVla,), {"MAKE": policy})(context=graph.context))
        self.probe = graph.add(Probe(graph.context))
        self.probe.hear("vla_loco", "vla_arms", "latent_action")
        for node in (self.lmo, self.vla):
            node.trigger_configure()
            node.trigger_activate()
        self.policy: ScriptedPolicy = self.vla.policy
        self.robot = Robot(self.probe)
        self.client = ActionClient(self.probe, ExecuteTask, action("execute_task").name)
        assert self.client.wait_for_server(5.0)

    def send(self, instruction: str = "walk to the blue box", timeout_s: float = 20.0, duration_s: float = 0.0):
        """The accepted goal's handle."""
        goal = ExecuteTask.Goal(instruction=instruction, timeout_s=timeout_s, duration_s=duration_s)
        heard = self.probe.heard["feedback"]
        future = self.graph.call(lambda: self.client.send_goal_async(goal, feedback_callback=lambda m: heard.append(m.feedback)))
        until(future.done, 5.0, "the goal to be answered")
        return future.result()

    def result(self, handle, timeout_s: float = 10.0) -> ExecuteTask.Result:
        future = self.graph.call(handle.get_result_async)
        until(future.done, timeout_s, "the result")
        return future.result().result

    def run(self, *args, **kwargs) -> ExecuteTask.Result:
        return self.result(self.send(*args, **kwargs))

    def walking(self):
        """A goal under way."""
        handle = self.send()
        until(lambda: self.lmo.controller.ticks and self.lmo.controller.ticks[-1] == WALK, 8.0, "LMO to walk")
        return handle


@pytest.fixture
def bench(graph):
    made = Bench(graph)
    yield made
    made.robot.close()


def test_goals_that_cannot_be_carried_out_are_refused_with_code_and_sentence_before_anything_moves(bench):
    refusals = (
        (("",), ErrorCode.INSTRUCTION_EMPTY),
        (("   ",), ErrorCode.INSTRUCTION_EMPTY),
        (("walk " * MAX_INSTRUCTION_CHARS,), ErrorCode.INSTRUCTION_TOO_LONG),
        (("juggle the blue box",), ErrorCode.INSTRUCTION_UNKNOWN_WORDS),
        (("take the blue box",), ErrorCode.INSTRUCTION_UNKNOWN_WORDS),
        (("please stop",), ErrorCode.INSTRUCTION_UNKNOWN_WORDS),
        (("walk to the box", 0.0), ErrorCode.TASK_TIMES_INVALID),
        (("walk to the box", float("nan")), ErrorCode.TASK_TIMES_INVALID),
        (("walk to the box", 5.0, 6.0), ErrorCode.TASK_TIMES_INVALID),
    )
    for goal, code in refusals:
        result = bench.run(*goal)
        assert (result.outcome, result.code) == (Result.REFUSED, code), (goal, result)
        assert len(result.message.split()) > 3
    assert "juggle" in bench.run("juggle the blue box").message
    assert '"walk to the blue box"' in bench.run("take the blue box").message and "wbvla stop" in bench.run("please stop").message
    assert not bench.policy.seen and not bench.probe.heard["vla_loco"]


def test_a_policy_without_a_list_of_tasks_says_so_with_every_result(graph):
    class Unguarded(ScriptedPolicy):
        reads_sentences = True

        def __init__(self) -> None:
            super().__init__()
            self.tasks, self.loco = None, WALK.stopped()

        def check_instruction(self, instruction: str) -> None:
            pass

    bench = Bench(graph, Unguarded)
    assert not bench.vla.guarded and bench.vla.health().values["sentences"] == "not guarded"
    assert NO_LIST in bench.run("whatever you like").message
    bench.robot.close()


def test_a_second_goal_is_refused_while_one_runs_and_the_first_goes_on(bench):
    handle = bench.walking()
    result = bench.run()
    assert (result.outcome, result.code) == (Result.REFUSED, ErrorCode.TASK_BUSY)
    seen = len(bench.policy.seen)
    until(lambda: len(bench.policy.seen) > seen + 2, 5.0, "the first task to go on")
    bench.graph.call(handle.cancel_goal_async)
    assert bench.result(handle).outcome == Result.CANCELED


def test_a_canceled_task_leaves_the_robot_standing_and_the_next_goal_is_taken(bench):
    handle = bench.walking()
    bench.graph.call(handle.cancel_goal_async)
    result = bench.result(handle)
    assert (result.outcome, result.code) == (Result.CANCELED, ErrorCode.TASK_CANCELED)
    until(lambda: bench.lmo.controller.ticks[-1] == WALK.stopped(), 1.0, "LMO to stand")
    assert bench.lmo.ladder.source == ""
    bench.policy.loco = WALK.stopped()
    assert bench.run().outcome == Result.STILL


def test_each_task_ends_as_its_goal_says(bench):
    result = bench.run(timeout_s=5.0, duration_s=0.5)
    assert (result.outcome, result.code) == (Result.DURATION, ErrorCode.NONE)
    result = bench.run(timeout_s=0.8)
    assert (result.outcome, result.code) == (Result.TIMEOUT, ErrorCode.TASK_TIMEOUT)
    assert 0.8 <= result.elapsed_s < 2.5
    bench.policy.loco = WALK.stopped()
    result = bench.run()
    assert result.outcome == Result.STILL and result.elapsed_s >= 2.0
    assert result.message.startswith("the robot came to rest") and result.message.endswith("whether the task was done is not judged here")


def test_every_decision_carries_the_stamp_of_its_image_and_the_newest_image_wins(bench):
    handle, seen = bench.walking(), bench.policy.seen
    for _ in range(3):
        bench.policy.gate.clear()
        count = len(seen)
        until(lambda count=count: len(seen) > count, what="it to think")
        skipped = bench.vla._skipped_images
        until(lambda skipped=skipped: bench.vla._skipped_images >= skipped + 2, what="three images while it thinks")
        newest_s = bench.vla._image[0]
        bench.policy.gate.set()
        until(lambda count=count: len(seen) > count + 1, what="the next image")
        assert seen[count + 1].stamp_s >= newest_s, "images that waited were skipped, not queued"
    until(lambda: len(bench.probe.heard["vla_loco"]) >= 4)
    bench.graph.call(handle.cancel_goal_async)
    bench.result(handle)
    stamps = [round(p.stamp_s * 1e6) for p in seen]
    for key in ("vla_loco", "vla_arms", "latent_action"):
        sent = [round(codec.stamp_s(m.header.stamp) * 1e6) for m in bench.probe.heard[key]]
        assert sent and sent == stamps[: len(sent)], key
    for seen in bench.policy.seen:
        assert abs(seen.state.stamp_s - seen.stamp_s) < 0.05
    assert {f.phase for f in bench.probe.heard["feedback"]} >= {"acting"}


class Slow:
    """An action client's handle whose sender is held up right after it has sent a request, as a busy machine does it."""

    def __init__(self, handle) -> None:
        self._handle = handle

    def __getattr__(self, name: str):
        return getattr(self._handle, name)

    def __enter__(self):
        return self._handle.__enter__()

    def __exit__(self, *args):
        return self._handle.__exit__(*args)

    def send_goal_request(self, request) -> int:
        return self._held_up(self._handle.send_goal_request(request))

    def send_result_request(self, request) -> int:
        return self._held_up(self._handle.send_result_request(request))

    def _held_up(self, number: int) -> int:
        time.sleep(0.3)
        return number


def test_an_answer_that_comes_while_the_sender_is_held_up_is_not_lost(bench):
    from wbvla_core.ros.client import StackClient

    client = StackClient("slow_client")
    client._actions._client_handle = Slow(client._actions._client_handle)
    try:
        result = client.send_goal("walk to the blue box", 20.0, 0.1, grace_s=30.0)
    finally:
        client.close()
    assert result.outcome.name == "DURATION"


def test_a_policy_that_raises_ends_the_task_and_not_the_node(bench):
    bench.policy.error = ZeroDivisionError("of the policy")
    result = bench.run()
    assert (result.outcome, result.code) == (Result.FAULT, ErrorCode.TASK_FAULT) and "of the policy" in result.message
    bench.policy.error, bench.policy.loco = None, WALK.stopped()
    assert bench.run().outcome == Result.STILL


def test_a_remote_policy_may_be_silent_for_a_moment_but_not_for_a_second(bench):
    handle = bench.walking()
    bench.policy.error = LinkError("tcp://gpu:5571 did not answer within 0.3 s")
    count, silent_from = len(bench.policy.seen), len(bench.probe.heard["vla_loco"])
    until(lambda: len(bench.policy.seen) >= count + 3, 5.0, "three images without an answer")
    assert len(bench.probe.heard["vla_loco"]) <= silent_from + 1  # nothing is made up: LMO's ladder stands by itself
    bench.policy.error = None
    until(lambda: len(bench.probe.heard["vla_loco"]) > silent_from + 3, 5.0, "decisions to come again")
    bench.policy.error = LinkError("tcp://gpu:5571 cannot be reached")
    result = bench.result(handle)
    assert (result.outcome, result.code) == (Result.FAULT, ErrorCode.TASK_FAULT)
    assert "no decision for 1 s: tcp://gpu:5571 cannot be reached" in result.message
    bench.policy.error = None
    assert bench.run(duration_s=0.5).outcome == Result.DURATION


def test_the_policy_may_be_served_by_another_process(graph):
    from rclpy.parameter import Parameter

    server = PolicyServer(*load("zero", ROBOT), ROBOT, "tcp://127.0.0.1:*")
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        settings = {"policy": server.address, "checkpoint": ""}
        vla = graph.add(VlaNode(context=graph.context, parameter_overrides=[Parameter(name, value=value) for name, value in settings.items()]))
        assert vla.trigger_configure().name == "SUCCESS"
        state = RobotState(1.0, ROBOT.default_q, np.zeros(ROBOT.joint_count), np.zeros(3), UPRIGHT)
        assert vla.policy.infer(PolicyInput(2.5, np.zeros((SIZE, SIZE, 3), np.uint8), "stand", state)).stamp_s == 2.5
        assert vla.trigger_cleanup().name == "SUCCESS" and vla.policy._socket.closed
    finally:
        server.stop()
        thread.join(5.0)


def test_a_decision_that_is_not_a_command_never_leaves_the_node(bench):
    bench.policy.loco = LocoCommand(3, 0, 0, 0.6)
    result = bench.run()
    assert result.outcome == Result.FAULT and "forward" in result.message
    assert not bench.probe.heard["vla_loco"] and not bench.probe.heard["vla_arms"]  # not even the half that could be encoded


def test_without_images_the_task_ends_with_a_fault_that_names_the_camera(bench):
    handle = bench.walking()
    bench.robot.images = False
    result = bench.result(handle)
    assert (result.outcome, result.code) == (Result.FAULT, ErrorCode.IMAGE_STALE) and "camera" in result.message


def test_images_of_another_encoding_are_dropped_and_counted(bench):
    bench.robot.images = False
    for _ in range(3):
        dropped = bench.vla.dropped
        bench.probe.send("policy_image", Image(width=SIZE, height=SIZE, step=SIZE * 2, encoding="16UC1", data=bytes(SIZE * SIZE * 2)))
        until(lambda dropped=dropped: bench.vla.dropped > dropped, 2.0)
    assert bench.vla._image is None


def test_losing_control_or_damping_ends_the_task_with_a_fault(bench):
    handle = bench.walking()
    assert bench.probe.call("take_control", TakeControl.Request(source="teleop", take=True)).success
    result = bench.result(handle)
    assert (result.outcome, result.code) == (Result.FAULT, ErrorCode.TASK_NOT_IN_CONTROL) and "teleop" in result.message
    bench.probe.call("take_control", TakeControl.Request(source="teleop", take=False))
    handle = bench.walking()
    bench.probe.call("estop")
    result = bench.result(handle)
    assert (result.outcome, result.code) == (Result.FAULT, ErrorCode.ESTOP)


def test_deactivated_in_mid_task_it_sends_zero_flags_last(bench):
    handle = bench.walking()
    bench.vla.trigger_deactivate()
    result = bench.result(handle)
    assert (result.outcome, result.code) == (Result.FAULT, ErrorCode.TASK_FAULT) and "deactivated" in result.message
    until(lambda: bench.probe.heard["vla_loco"][-1].forward == 0, 2.0, "the safe command")
    assert [m.forward for m in bench.probe.heard["vla_loco"]].count(0) == 1


def test_without_lmo_the_goal_is_answered_too(bench):
    bench.lmo.trigger_deactivate()
    bench.lmo.trigger_cleanup()
    result = bench.run()
    assert (result.outcome, result.code) == (Result.FAULT, ErrorCode.TASK_NOT_IN_CONTROL) and "LMO" in result.message

"""The 10 Hz node: VLA and decoder in one process, behind the ExecuteTask action.

The executor thread only stores what arrives. A worker thread carries out one task at a time: it takes control of LMO, and then, for each policy image,
newest wins, infers one decision, encodes all of its messages and only then publishes them, all with the stamp of the image. Without a task nothing
is published, and the robot stands.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.task import Future
from sensor_msgs.msg import Image

from wbvla_core.checkpoint import load_manifest
from wbvla_core.errors import ErrorCode, LinkError, WbvlaError
from wbvla_core.robot import RobotSpec, load_robot
from wbvla_core.ros import codec, raw
from wbvla_core.ros.health import Health, Level
from wbvla_core.ros.lifecycle import ManagedNode, Parameter, run_node
from wbvla_core.ros.qos import action
from wbvla_core.ros.tables import share_dir
from wbvla_core.ros.timing import Timings
from wbvla_core.task import AT_REST, NOT_JUDGED, Stillness, check_goal
from wbvla_core.timeline import nearest_index
from wbvla_core.types import Decision, LocoCommand, PolicyInput, RobotState
from wbvla_msgs.action import ExecuteTask
from wbvla_msgs.msg import SafetyState
from wbvla_msgs.srv import TakeControl
from wbvla_vla import guard
from wbvla_vla.fakes import ReplayPolicy, ZeroPolicy, read_replay
from wbvla_vla.remote import SCHEME, RemotePolicy

SOURCE = "vla"
SERVICE_TIMEOUT_S = 1.0
IMAGE_SILENCE_S = 1.0  # LMO has been standing for long by then, and the control session is void
FIRST_IMAGE_S = 5.0  # at the start of a task the camera may still be coming up
CONTROL_SETTLE_S = 0.3  # after control was taken, how long an older safety state may still be on its way
STATE_AGE_S = 0.1  # a robot state further than this from the image is no proprioception of that moment
Result = ExecuteTask.Result


class TaskEnd(Exception):
    """A task is over: outcome, code and sentence of its result."""

    def __init__(self, outcome: int, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.outcome, self.code, self.message = outcome, code, message


@dataclass
class Task:
    """One accepted goal on its way through the worker."""

    handle: Any
    instruction: str
    timeout_s: float
    duration_s: float
    future: Future
    accepted_s: float = field(default_factory=time.monotonic)
    controlled_s: float = float("inf")  # monotonic time since which LMO follows us

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.accepted_s


class VlaNode(ManagedNode):
    """See the module text."""

    NAME = "vla"
    PARAMETERS = {
        "robot": Parameter("x2", "robot spec: a name of config/robots or the path of a YAML file"),
        "policy": Parameter(
            "checkpoint", "what decides: checkpoint, zero (stands still), replay (a recorded command stream), or tcp://host:port of a `wbvla serve`"
        ),
        "checkpoint": Parameter(
            "checkpoints/policy/tiny",
            "policy bundle: a directory, relative to the share folder or absolute; for a served policy its manifest is enough, empty = any",
        ),
        "replay": Parameter("", "YAML file for policy = replay: a list of {t_s, forward, lateral, yaw, stance_height_m}"),
        "threads": Parameter(1, "torch threads", 1, 64),
    }

    # -- configure -------------------------------------------------------------------------------------------------------------
    def make_policy(self, robot: RobotSpec) -> Any:
        """The policy that the parameters name; imports torch only where it is needed."""
        s = self.settings
        if s["policy"] == "checkpoint":
            from wbvla_vla.policy import WholeBodyPolicy

            return WholeBodyPolicy.load(share_dir() / s["checkpoint"], robot, threads=s["threads"])
        if s["policy"].startswith(SCHEME):
            directory = share_dir() / s["checkpoint"]
            expected = load_manifest(directory, kind="policy", robot=robot, verify_files=False) if s["checkpoint"] else None
            return RemotePolicy(s["policy"], robot, expected)
        if s["policy"] == "zero":
            return ZeroPolicy(robot)
        if s["policy"] == "replay":
            return ReplayPolicy(read_replay(Path(s["replay"]), robot))
        raise ValueError(f"parameter policy must be checkpoint, zero, replay or tcp://host:port, got {s['policy']!r}")

    def load(self) -> None:
        self.robot = load_robot(self.settings["robot"])
        self.policy = self.make_policy(self.robot)
        self._read_joints = raw.JointStateReader(self.robot.joint_names)
        self.guarded, said = guard.guard_of(self.policy)
        self._unguarded = "" if self.guarded else f" ({said})"
        (self.get_logger().warning if said == guard.NO_LIST else self.get_logger().info)(f"sentences: {said}")
        self._checkpoint = getattr(getattr(self.policy, "manifest", None), "hash", "")
        spec = getattr(self.policy, "image_spec", None)
        self._image_size = spec.size if spec else None
        self._latent_out, self._arms_out, self._loco_out = self.publisher("latent_action"), self.publisher("vla_arms"), self.publisher("vla_loco")
        self._wake = threading.Condition()
        self._image: tuple[float, np.ndarray] | None = None  # newest, not yet looked at
        self._joints: deque[tuple[float, bytes]] = deque(maxlen=64)  # 0.3 s at 200 Hz
        self._imu: deque[tuple[float, bytes]] = deque(maxlen=64)
        self._safety: SafetyState | None = None
        self._task: Task | None = None
        self._last: Decision | None = None
        self._worker: threading.Thread | None = None
        self._skipped_images = self._decisions = 0
        self._fault = ""  # why the last task ended, where that was a fault
        self._inference, self._image_age = Timings(300), Timings(300)
        self.listen("policy_image", self._decode_image, self._on_image)
        self.listen_raw("joint_states", lambda data: self._joints.append((raw.stamp_s(data), data)))
        self.listen_raw("imu", lambda data: self._imu.append((raw.stamp_s(data), data)))
        self.listen("safety_state", lambda msg: msg, self._on_safety)
        self._take_control = self.client("take_control")
        self._server = ActionServer(
            self,
            ExecuteTask,
            action("execute_task").name,
            execute_callback=self._execute,
            goal_callback=lambda goal: GoalResponse.ACCEPT,  # a rejection carries no reason; a refused goal is aborted with one
            cancel_callback=lambda handle: CancelResponse.ACCEPT,
        )

    def unload(self) -> None:
        server = getattr(self, "_server", None)
        if server is not None:
            server.destroy()
            self._server = None
        if isinstance(getattr(self, "policy", None), RemotePolicy):
            self.policy.close()

    def start(self) -> None:
        self._stopping = False
        self._worker = threading.Thread(target=self._work, name="worker", daemon=True)
        self._worker.start()

    def stop(self) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        busy = self._task is not None
        self._worker.join(2.0)
        if busy and self._last is not None:  # the safe command: stand
            self._send(replace(self._last, loco=self._last.loco.stopped(), latent=None))

    # -- executor thread: store what arrives -------------------------------------------------------------------------------------
    def _decode_image(self, msg: Image) -> tuple[float, np.ndarray]:
        return codec.stamp_s(msg.header.stamp), codec.image_from_msg(msg, width=self._image_size, height=self._image_size)

    def _on_image(self, image: tuple[float, np.ndarray]) -> None:
        with self._wake:
            self._skipped_images += self._image is not None and self._task is not None
            self._image = image
            self._wake.notify_all()

    def _on_safety(self, msg: SafetyState) -> None:
        with self._wake:
            self._safety = msg
            self._wake.notify_all()

    async def _execute(self, handle: Any) -> Result:
        """Check the goal, hand it to the worker and wait for its end without holding the executor."""
        goal = handle.request
        try:
            instruction = check_goal(goal.instruction, goal.timeout_s, goal.duration_s)
            if hasattr(self.policy, "check_instruction"):
                self.policy.check_instruction(instruction)
            with self._wake:
                if not self.active:
                    raise WbvlaError("the VLA node is not active; activate it first", ErrorCode.TASK_FAULT)
                if self._task is not None:
                    raise WbvlaError(f'busy with "{self._task.instruction}"; cancel it or wait for its end', ErrorCode.TASK_BUSY)
                task = self._task = Task(handle, instruction, goal.timeout_s, goal.duration_s, Future(executor=self.executor))
                self._wake.notify_all()
        except WbvlaError as error:
            self.get_logger().warning(f"goal refused: {error} [{error.code.name} {int(error.code)}]")
            handle.abort()
            return Result(outcome=Result.REFUSED, code=int(error.code), message=str(error))
        self.get_logger().info(f'task: "{instruction}"')
        end: TaskEnd = await task.future
        {Result.STILL: handle.succeed, Result.DURATION: handle.succeed, Result.CANCELED: handle.canceled}.get(end.outcome, handle.abort)()
        said = self._unguarded if end.outcome in (Result.STILL, Result.DURATION, Result.TIMEOUT) else ""
        self.get_logger().info(f"task ended after {task.elapsed_s:.1f} s: {end.message}{said}")
        return Result(outcome=end.outcome, code=int(end.code), message=end.message + said, elapsed_s=float(task.elapsed_s))

    # -- worker thread -----------------------------------------------------------------------------------------------------------
    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._task is not None or self._stopping)
                if self._stopping:
                    return
                task = self._task
            try:
                self._carry_out(task)
            except TaskEnd as reached:
                end = reached
            except Exception as error:  # a bug or a broken policy: the robot stands, the client hears of it, the node lives on
                self._explain("task failed", error)
                end = TaskEnd(Result.FAULT, ErrorCode.TASK_FAULT, f"{type(error).__name__}: {error}")
            self._let_go(task)
            self._fault = str(end) if end.outcome == Result.FAULT else ""
            with self._wake:
                self._task = None
            task.future.set_result(end)
            self.executor.wake()

    def _carry_out(self, task: Task) -> None:
        """Take control, then decide on image after image. Leaves only by TaskEnd."""
        self.policy.reset()
        stillness: Stillness | None = None
        start_s, loco = 0.0, LocoCommand(stance_height_m=self.robot.default_stance_height_m)
        with self._wake:
            self._image = None  # decide on what is seen from now on
        self._next_image(task, loco, FIRST_IMAGE_S)  # control is taken only with open eyes: a session without commands is void after a second
        answer = self._ask_control(take=True)
        if not answer.success:
            raise TaskEnd(Result.FAULT, ErrorCode(answer.code), answer.message)
        heard_s = task.controlled_s = time.monotonic()
        while True:
            stamp_s, image = self._next_image(task, loco, IMAGE_SILENCE_S)
            state = self._state_near(stamp_s)
            if state is None:
                continue
            begin_s = time.perf_counter()
            try:
                decision = self.policy.infer(PolicyInput(stamp_s, image, task.instruction, state))
            except LinkError as error:  # nothing is sent, so LMO stands; the next image is another chance
                self._bear_silence(error, heard_s)
                continue
            heard_s = time.monotonic()
            self.edges.good("remote policy")
            self._inference.add(time.perf_counter() - begin_s)
            self._check_on(task)
            self._send(decision)
            loco = decision.loco
            if stillness is None:
                stillness, start_s = Stillness(stamp_s), stamp_s
            still = stillness.note(decision)
            self._feed_back(task, "acting" if np.any(loco.flags) else "settling", loco)
            if task.duration_s > 0:
                if stamp_s - start_s >= task.duration_s:
                    raise TaskEnd(Result.DURATION, ErrorCode.NONE, f"{task.duration_s:g} s are over, the robot stands; {NOT_JUDGED}")
            elif still:
                raise TaskEnd(Result.STILL, ErrorCode.NONE, f"{AT_REST}; {NOT_JUDGED}")

    def _next_image(self, task: Task, loco: LocoCommand, silence_s: float) -> tuple[float, np.ndarray]:
        """The newest image that was not yet looked at; TaskEnd where none comes within ``silence_s``."""
        since_s = time.monotonic()
        while True:
            with self._wake:
                if self._wake.wait_for(lambda: self._image is not None or self._stopping, timeout=0.1) and self._image is not None:
                    image, self._image = self._image, None
                    return image
            self._check_on(task)
            silent_s = time.monotonic() - since_s
            if silent_s > silence_s:
                raise TaskEnd(Result.FAULT, ErrorCode.IMAGE_STALE, f"no policy image for {silence_s:g} s; do camera and perception run?")
            self._feed_back(task, "waiting for image", loco)

    def _bear_silence(self, error: LinkError, heard_s: float) -> None:
        """Log a remote policy's silence on its edge; TaskEnd where it has lasted for as long as a missing camera may."""
        self.refuse("remote policy", error)
        if time.monotonic() - heard_s > IMAGE_SILENCE_S:
            raise TaskEnd(Result.FAULT, error.code, f"no decision for {IMAGE_SILENCE_S:g} s: {error}")

    def _check_on(self, task: Task) -> None:
        """Raise TaskEnd where something outside ends the task."""
        if self._stopping:
            raise TaskEnd(Result.FAULT, ErrorCode.TASK_FAULT, "the VLA node was deactivated")
        if task.handle.is_cancel_requested:
            raise TaskEnd(Result.CANCELED, ErrorCode.TASK_CANCELED, "canceled by the client; the robot stands")
        if task.elapsed_s >= task.timeout_s:
            raise TaskEnd(Result.TIMEOUT, ErrorCode.TASK_TIMEOUT, f"not done after {task.timeout_s:g} s; the robot stands")
        safety = self._safety
        if safety is None:
            return
        if safety.state == SafetyState.DAMPING:
            raise TaskEnd(Result.FAULT, ErrorCode(safety.code), f"the robot is damping: {safety.reason}")
        if safety.source != SOURCE and time.monotonic() - task.controlled_s > CONTROL_SETTLE_S:
            raise TaskEnd(Result.FAULT, ErrorCode.TASK_NOT_IN_CONTROL, f"control was lost to {safety.source or 'nobody'}: {safety.reason or 'preempted'}")

    def _send(self, decision: Decision) -> None:
        """Encode everything, then publish everything: a message that cannot be encoded must not leave half a decision behind."""
        latent = codec.latent_msg(decision.latent, decision.stamp_s, self._checkpoint) if decision.latent else None
        arms = codec.arms_msg(decision.arms, decision.stamp_s)
        loco = codec.loco_msg(decision.loco, decision.stamp_s, self.robot.stance_height_range_m)
        if latent is not None:
            self._latent_out.publish(latent)
        self._arms_out.publish(arms)
        self._loco_out.publish(loco)
        self._decisions += 1
        self._last = decision
        if self._joints:
            self._image_age.add(self._joints[-1][0] - decision.stamp_s)

    def _let_go(self, task: Task) -> None:
        """Give control back: LMO stands at once, and holds stance height and arms."""
        if task.controlled_s < float("inf"):
            try:
                self._ask_control(take=False)
            except TaskEnd as error:
                self.get_logger().warning(f"control was not given back ({error.message}); LMO stands when it hears nothing more")

    def _ask_control(self, *, take: bool) -> TakeControl.Response:
        """Call LMO's take_control and wait for the answer; raises TaskEnd without one."""
        if not self._take_control.service_is_ready():
            raise TaskEnd(Result.FAULT, ErrorCode.TASK_NOT_IN_CONTROL, "LMO does not offer take_control; is it active?")
        answered = threading.Event()
        future = self._take_control.call_async(TakeControl.Request(source=SOURCE, take=take))
        future.add_done_callback(lambda _: answered.set())
        # while deactivating, the executor is busy with stop() and no answer can come
        if self._stopping or not answered.wait(SERVICE_TIMEOUT_S):
            raise TaskEnd(Result.FAULT, ErrorCode.TASK_NOT_IN_CONTROL, "LMO did not answer take_control")
        return future.result()

    def _feed_back(self, task: Task, phase: str, loco: LocoCommand) -> None:
        feedback = ExecuteTask.Feedback(phase=phase, elapsed_s=float(task.elapsed_s), safety_state=self._safety.state if self._safety else SafetyState.STAND)
        feedback.last_command = codec.loco_msg(loco, 0.0, self.robot.stance_height_range_m)
        task.handle.publish_feedback(feedback)

    def _state_near(self, stamp_s: float) -> RobotState | None:
        """Proprioception nearest to the image; None (logged on the edge) where there is none or it is malformed."""
        try:
            joints, imu = (_nearest(samples, stamp_s, name) for samples, name in ((self._joints, "joint states"), (self._imu, "IMU")))
            state = codec.robot_state(self._read_joints(joints), raw.read_imu(imu))
        except ValueError as error:
            self.refuse("robot state", error)
            return None
        self.edges.good("robot state")
        return state

    def health(self) -> Health:
        values: dict[str, object] = {"decisions": self._decisions, "skipped_images": self._skipped_images}
        values["sentences"] = "guarded" if self.guarded else "not guarded"
        values |= self._inference.report("inference") | self._image_age.report("image_age")
        if self.edges.is_bad("remote policy"):
            return Health(values, Level.ERROR, "the remote policy does not answer")
        missing = self.heard.missing("policy_image", "policy image")
        if missing:
            return Health(values, Level.ERROR if self._task is not None else Level.STALE, missing)
        return Health(values, Level.WARN if self._fault else Level.OK, self._fault and f"the last task ended by a fault: {self._fault}")


def _nearest(samples: deque[tuple[float, bytes]], stamp_s: float, name: str) -> bytes:
    """The sample whose stamp is nearest to ``stamp_s``; ValueError where none is near."""
    kept = list(samples)  # a snapshot: the other thread appends meanwhile
    kept.sort(key=lambda sample: sample[0])
    if not kept:
        raise ValueError(f"no {name} yet")
    at_s, data = kept[nearest_index([at_s for at_s, _ in kept], stamp_s)]
    if abs(at_s - stamp_s) > STATE_AGE_S:
        raise ValueError(f"{name} must lie within {STATE_AGE_S:g} s of the image, the nearest is {at_s - stamp_s:+.3f} s away")
    return data


def main(argv: list[str] | None = None) -> None:
    run_node(VlaNode, argv)


if __name__ == "__main__":
    main()

"""A recorded bag -> :class:`~wbvla_eval.recording.Recording`.

Works on any iterable of (topic, time of arrival in ns, message with the field names of the .msg files), so that it needs
neither ROS nor a bag library itself.

Clocks: arrivals are the recorder's wall clock; stamps are the simulator's, which falls behind where it runs slower than real
time. Plots run on simulated seconds since the goal was sent; arrivals are carried there, and stamps to the wall clock, through
the simulator's states. Latencies are differences of wall times.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from wbvla_core.errors import WbvlaError
from wbvla_core.robot import RobotSpec
from wbvla_core.ros.tables import topic_table
from wbvla_core.safety import SafetyRung
from wbvla_eval.recording import Frames, Recording, SafetySample, Stream, empty_stream
from wbvla_eval.states import trace_from_states
from wbvla_sim.scene import Scene, random_scene

IN_FLIGHT_NS = 500_000_000


class BagError(WbvlaError):
    """A bag that cannot be judged; the text says what is missing."""


def _stamp_ns(message: Any) -> int:
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


class Messages:
    """The messages of a bag by topic key of config/qos.yaml."""

    def __init__(self, messages: Iterable[tuple[str, int, Any]], keys: Iterable[str]) -> None:
        names = {topic_table().topics[key].name: key for key in keys}
        self._by_key: dict[str, list[tuple[int, Any]]] = defaultdict(list)
        for name, arrival_ns, message in messages:
            if name in names:
                self._by_key[names[name]].append((arrival_ns, message))

    def __getitem__(self, key: str) -> list[tuple[int, Any]]:
        return self._by_key[key]

    def by_stamp(self, key: str) -> dict[int, int]:
        """stamp ns -> arrival ns."""
        return {_stamp_ns(message): arrival for arrival, message in self[key]}


KEYS = (
    "sim_state", "joint_states", "joint_command", "vla_loco", "latent_action", "safety_state", "driver_state", "camera_image", "policy_image", "diagnostics",
)  # fmt: skip


def recorded_scene(messages: Messages) -> Scene:
    """The scene that the bag was recorded in, built again from its kind and seed."""
    if len(messages["sim_state"]) < 2:
        raise BagError(
            "the bag holds fewer than two simulator states (/wbvla/sim/state): nothing can be judged; did the simulator run and the recorder keep it?"
        )
    first = messages["sim_state"][0][1]
    return random_scene(int(first.seed), kind=str(first.scene))


def decode(messages: Iterable[tuple[str, int, Any]], robot: RobotSpec, instruction: str, *, goal_ns: int, end_ns: int) -> tuple[Recording, Scene]:
    """Decode one episode.

    Args:
        messages: (topic name, arrival ns, message) in any order between topics.
        goal_ns, end_ns: wall time at which the goal was sent and at which the episode counts as over.

    Raises:
        BagError: no simulator states between the two times.
    """
    bag = Messages(messages, KEYS)
    scene = recorded_scene(bag)
    states = [(arrival, m) for arrival, m in bag["sim_state"] if goal_ns <= arrival <= end_ns]
    if len(states) < 2:
        raise BagError("the bag holds no simulator states between goal and end; are the goal's and the recorder's clocks the same?")
    arrival_ns = np.array([arrival for arrival, _ in states], dtype=np.int64)
    sim_s = np.array([float(m.sim_time_s) for _, m in states])
    fresh = np.concatenate(([True], np.diff(sim_s) > 0))
    arrival_ns, sim_s, states = arrival_ns[fresh], sim_s[fresh], [s for s, keep in zip(states, fresh, strict=True) if keep]
    start_s = float(sim_s[0])

    def task_time(ns: np.ndarray | int) -> np.ndarray:
        """Arrival -> simulated seconds since the goal; wall seconds before the first and after the last state."""
        ns = np.asarray(ns, dtype=np.int64)
        inside = np.interp((ns - arrival_ns[0]) * 1e-9, (arrival_ns - arrival_ns[0]) * 1e-9, sim_s - start_s)
        return inside + np.minimum(0, ns - arrival_ns[0]) * 1e-9 + np.maximum(0, ns - arrival_ns[-1]) * 1e-9

    def during(key: str) -> list[tuple[int, Any]]:
        return [(arrival, m) for arrival, m in bag[key] if goal_ns <= arrival <= end_ns]

    safety = _safety(bag["safety_state"], task_time)
    command = _commands(during("vla_loco"), task_time)
    time_s = sim_s - start_s
    qpos = np.array([np.asarray(m.qpos, dtype=np.float64) for _, m in states])
    qvel = np.array([np.asarray(m.qvel, dtype=np.float64) for _, m in states])
    trace = trace_from_states(robot, scene, time_s, qpos, qvel, _in_force(time_s, command, safety, robot))
    latent, manipulation_tokens = _latent(during("latent_action"), task_time)
    recording = Recording(
        instruction=instruction,
        trace=trace,
        qpos=qpos,
        joint_names=robot.joint_names,
        measured=_joints(during("joint_states"), robot, task_time, stride=4),
        target=_joints(during("joint_command"), robot, task_time),
        arm_joints=robot.names("arms"),
        latent=latent,
        manipulation_tokens=manipulation_tokens,
        command=command,
        safety=safety,
        driver=_safety(bag["driver_state"], task_time),
        image_age_s=_image_age(bag, during("vla_loco"), task_time),
        tick_interval_s=_intervals(during("joint_command"), task_time),
        response_s=_response(bag, during("joint_command"), task_time),
        real_time_factor=Stream(time_s, np.array([float(m.real_time_factor) for _, m in states])),
        frames=_frames(bag, goal_ns, end_ns),
        diagnostics=_diagnostics(bag["diagnostics"]),
    )
    return recording, scene


def _safety(messages: list[tuple[int, Any]], task_time: Any) -> tuple[SafetySample, ...]:
    return tuple(
        SafetySample(float(task_time(arrival)), SafetyRung(int(m.state)), int(m.code), str(m.reason), str(m.source))
        for arrival, m in sorted(messages, key=lambda pair: pair[0])
    )


def _commands(messages: list[tuple[int, Any]], task_time: Any) -> Stream:
    if not messages:
        return empty_stream(4)
    values = [(int(m.forward), int(m.lateral), int(m.yaw), float(m.stance_height_m)) for _, m in messages]
    return Stream(task_time(np.array([arrival for arrival, _ in messages])), np.array(values, dtype=np.float64))


def _in_force(time_s: np.ndarray, command: Stream, safety: tuple[SafetySample, ...], robot: RobotSpec) -> np.ndarray:
    """[N, 4] what LMO carried out: the newest command while it followed, flags zero otherwise."""
    out = np.zeros((len(time_s), 4))
    out[:, 3] = robot.default_stance_height_m
    if len(command):
        newest = np.searchsorted(command.time_s, time_s + 1e-9, side="right") - 1
        has = newest >= 0
        out[has] = command.values[newest[has]]
    if safety:
        times = np.array([s.time_s for s in safety])
        newest = np.searchsorted(times, time_s + 1e-9, side="right") - 1
        following = np.array([i >= 0 and safety[i].rung is SafetyRung.FOLLOW for i in newest])
        out[~following, :3] = 0.0
    return out


def _latent(messages: list[tuple[int, Any]], task_time: Any) -> tuple[Stream, int]:
    if not messages:
        return Stream(np.zeros(0), np.zeros((0, 0))), 0
    rows = [(*(int(c) for c in m.manipulation), *(int(c) for c in m.locomotion)) for _, m in messages]
    return Stream(task_time(np.array([arrival for arrival, _ in messages])), np.array(rows)), len(messages[0][1].manipulation)


def _joints(messages: list[tuple[int, Any]], robot: RobotSpec, task_time: Any, stride: int = 1) -> Stream:
    """Positions [M, J] in the robot's order."""
    messages = messages[::stride]
    if not messages:
        return empty_stream(robot.joint_count)
    names = list(messages[0][1].name)
    order = [names.index(name) for name in robot.joint_names]
    values = np.array([np.asarray(m.position, dtype=np.float64)[order] for _, m in messages])
    return Stream(task_time(np.array([arrival for arrival, _ in messages])), values)


def _image_age(bag: Messages, decisions: list[tuple[int, Any]], task_time: Any) -> Stream:
    """Age of the image behind each decision when its LocoCommand arrived.

    The simulator's stamps fall behind the wall clock where it runs slower than real time, so a stamp is first carried to the
    wall time at which the state of that stamp arrived; what is left is transport, rendering, perception and inference.
    """
    states = sorted((_stamp_ns(m), arrival) for arrival, m in bag["sim_state"])
    if not decisions or not states:
        return empty_stream()
    origin = states[0][0]
    stamps_s = np.array([(stamp - origin) * 1e-9 for stamp, _ in states])
    arrivals_s = np.array([(arrival - origin) * 1e-9 for _, arrival in states])
    arrivals = np.array([arrival for arrival, _ in decisions], dtype=np.int64)
    made_s = np.interp([(_stamp_ns(m) - origin) * 1e-9 for _, m in decisions], stamps_s, arrivals_s)
    return Stream(task_time(arrivals), (arrivals - origin) * 1e-9 - made_s)


def _frames(bag: Messages, goal_ns: int, end_ns: int) -> Frames:
    """Camera frames between goal and end by their stamps; the last half second is left out, its frames may still be on the way.

    The recorder itself may miss best-effort images: whatever was decided on has been received, and whatever was received has
    been rendered.
    """

    def stamps(key: str) -> set[int]:
        return {_stamp_ns(m) for arrival, m in bag[key] if goal_ns <= arrival <= end_ns - IN_FLIGHT_NS}

    late = {_stamp_ns(m) for key in ("policy_image", "vla_loco") for _, m in bag[key]}
    rendered = stamps("camera_image")
    decided = {_stamp_ns(m) for _, m in bag["vla_loco"]} & (rendered | stamps("vla_loco"))
    received = (late & rendered) | stamps("policy_image") | decided
    return Frames(len(rendered | received), len(received), len(decided))


def _intervals(messages: list[tuple[int, Any]], task_time: Any) -> Stream:
    arrivals = np.array([arrival for arrival, _ in messages], dtype=np.int64)
    return Stream(task_time(arrivals[1:]), np.diff(arrivals) * 1e-9) if len(arrivals) > 1 else empty_stream()


def _response(bag: Messages, commands: list[tuple[int, Any]], task_time: Any) -> Stream:
    states = bag.by_stamp("joint_states")
    rows = [(arrival, (arrival - states[_stamp_ns(m)]) * 1e-9) for arrival, m in commands if _stamp_ns(m) in states]
    if not rows:
        return empty_stream()
    arrivals, delays = zip(*rows, strict=True)
    return Stream(task_time(np.array(arrivals)), np.maximum(np.array(delays), 0.0))


def _diagnostics(messages: list[tuple[int, Any]]) -> dict[str, dict[str, str]]:
    """Node -> the last value of each key."""
    nodes: dict[str, dict[str, str]] = {}
    for _, message in messages:
        for status in message.status:
            nodes.setdefault(str(status.hardware_id or status.name), {}).update({str(v.key): str(v.value) for v in status.values})
    return nodes

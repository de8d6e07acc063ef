"""The lock-step episode: a 10 Hz policy over a 50 Hz controller over a world, and its log. No ROS, no wall clock.

Data collection and evaluation run this one loop; the ROS nodes run the same policy and controller classes with the same timing.

    log = run_episode(world, controller, policy, "walk to the red box", timeout_s=40, observe=lambda im: policy_image(im, spec))
    log.save("0001.npz"); log = EpisodeLog.load("0001.npz")
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from wbvla_core.task import AT_REST, Stillness
from wbvla_core.types import Decision, JointCommand, LocoCommand, PolicyInput, RobotState
from wbvla_sim.world import World

SCHEMA = 1
TICKS_PER_DECISION = 5  # 50 Hz controller, 10 Hz policy


class Policy(Protocol):
    """A 10 Hz policy. An attribute ``label`` (Decision), if it has one, is logged as what should have been done."""

    def reset(self) -> None: ...
    def infer(self, policy_input: PolicyInput) -> Decision: ...


class Controller(Protocol):
    """A 50 Hz whole-body controller (``wbvla_lmo.controller.LmoController``)."""

    def reset(self, state: RobotState) -> None: ...
    def set_decision(self, decision: Decision, now_s: float) -> None: ...
    def tick(self, state: RobotState, loco: LocoCommand, now_s: float) -> JointCommand: ...


class Outcome(str, enum.Enum):
    """How an episode ended; whether it succeeded is evaluation's affair."""

    STILL = "still"
    DURATION = "duration"
    TIMEOUT = "timeout"
    FAULT = "fault"  # fallen, or the driver in damping
    DIVERGED = "diverged"  # the simulation did; this says nothing about the robot


@dataclass(frozen=True)
class EpisodeLog:
    """Everything of one episode. T decisions, N ticks; K rows and A joints of the arm chunk, J joints of the robot.

    Attributes:
        instruction, outcome, reason: the sentence, how it ended (an Outcome value), and why in words.
        meta: JSON-able facts: scene seed and kind, world seed, robot name and fingerprint, joint names, task start time, boxes.
        stamp_s: image stamp of each decision [T]; 0 = world reset, the task starts at meta["start_s"].
        image: policy images [T, S, S, 3] uint8.
        q, qd, gyro, gravity: proprioception given to the policy [T, J], [T, J], [T, 3], [T, 3].
        loco, arms: decision that was executed [T, 4] (flags, stance height m), [T, K, A].
        label_loco, label_arms: decision that the demonstrator meant (the same but for perturbed demonstrations).
        latent: codes, manipulation then locomotion [T, L]; L = 0 for policies without.
        tick_time_s: start of each 20 ms slot [N].
        tick_qpos, tick_qvel: MuJoCo state at that time [N, nq], [N, nv].
        tick_target: joint targets sent in the slot [N, J].
        tick_torque: motor torques at the end of the slot [N, J], Nm.
        tick_loco: LocoCommand in force [N, 4].
    """

    instruction: str
    outcome: str
    reason: str
    meta: dict[str, Any]
    stamp_s: np.ndarray
    image: np.ndarray
    q: np.ndarray
    qd: np.ndarray
    gyro: np.ndarray
    gravity: np.ndarray
    loco: np.ndarray
    arms: np.ndarray
    label_loco: np.ndarray
    label_arms: np.ndarray
    latent: np.ndarray
    tick_time_s: np.ndarray
    tick_qpos: np.ndarray
    tick_qvel: np.ndarray
    tick_target: np.ndarray
    tick_torque: np.ndarray
    tick_loco: np.ndarray

    def save(self, path: str | Path, *, images: bool = True) -> None:
        """Write one compressed npz: each array under its name, text and meta as JSON in ``header``."""
        header = {"schema": SCHEMA, "instruction": self.instruction, "outcome": self.outcome, "reason": self.reason, "meta": self.meta}
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in header}
        if not images:
            arrays["image"] = arrays["image"][:0]
        np.savez_compressed(path, header=np.array(json.dumps(header)), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> EpisodeLog:
        """Read what :meth:`save` wrote; ValueError for another schema."""
        with np.load(path, allow_pickle=False) as data:
            header = json.loads(str(data["header"]))
            schema = header.pop("schema")
            if schema != SCHEMA:
                raise ValueError(f"{path}: expected episode schema {SCHEMA}, got {schema}; record it again with this version")
            return cls(**header, **{f.name: data[f.name] for f in fields(cls) if f.name not in header})


@dataclass
class _Recorder:
    rows: dict[str, list] = field(default_factory=dict)

    def add(self, **values: Any) -> None:
        for name, value in values.items():
            self.rows.setdefault(name, []).append(np.array(value))

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.stack(rows) for name, rows in self.rows.items()}


def run_episode(
    world: World,
    controller: Controller,
    policy: Policy,
    instruction: str,
    *,
    timeout_s: float,
    duration_s: float | None = None,
    observe: Callable[[np.ndarray], np.ndarray],
    on_step: Callable[[World, LocoCommand], None] | None = None,
    seed: int = 0,
    settle_s: float = 1.0,
    start: LocoCommand | None = None,
    decision_delay_ticks: int = 0,
) -> EpisodeLog:
    """Run one task from reset to its end.

    Args:
        timeout_s, duration_s: of the task, s; a task with a duration ends there and not by standing still.
        observe: head camera image -> policy image (``wbvla_perception.preprocess.policy_image``).
        on_step: called after each 20 ms slot, for videos.
        seed: of the world (noise, pushes).
        settle_s: time under ``start`` before the task begins, in which the gantry lets go.
        start: command while settling (a low stance for "stand up"); default: standing.
        decision_delay_ticks: 20 ms ticks from image to effect (two for 40 ms of inference).
    """
    robot = world.robot
    state = world.reset(seed)
    controller.reset(state)
    policy.reset()
    loco = start or LocoCommand(stance_height_m=robot.default_stance_height_m)
    for _ in range(round(settle_s / world.slot_s)):
        world.slot(controller.tick(world.state(), loco, world.time_s))
        if on_step:
            on_step(world, loco)
    start_s = world.time_s
    record = _Recorder()
    pending: list[tuple[int, Decision]] = []
    stillness, last = Stillness(start_s), None
    outcome, reason = Outcome.TIMEOUT, f"not done after {timeout_s:g} s"
    tick = 0
    while True:
        now_s = world.time_s
        elapsed_s = now_s - start_s
        if world.fault:
            outcome, reason = Outcome.DIVERGED, world.fault
            break
        if world.truth()["fallen"] or world.driver.state.value == "damping":
            outcome, reason = Outcome.FAULT, world.driver.reason or "fallen"
            break
        if duration_s is not None and elapsed_s >= duration_s - 1e-9:
            outcome, reason = Outcome.DURATION, f"{duration_s:g} s are over"
            break
        if elapsed_s >= timeout_s - 1e-9:
            break
        state = world.state()
        if tick % TICKS_PER_DECISION == 0:
            image = observe(world.render("head"))
            decision = policy.infer(PolicyInput(now_s, image, instruction, state))
            decision.loco.validate(robot.stance_height_range_m)
            if stillness.note(decision) and duration_s is None:
                outcome, reason = Outcome.STILL, AT_REST
                break
            last = decision
            label = getattr(policy, "label", None) or decision
            codes = (*decision.latent.manipulation, *decision.latent.locomotion) if decision.latent else ()
            record.add(stamp_s=now_s, image=image, q=state.q, qd=state.qd, gyro=state.gyro, gravity=state.gravity)
            record.add(loco=decision.loco.as_array(), arms=decision.arms.positions, latent=np.array(codes, dtype=np.int16))
            record.add(label_loco=label.loco.as_array(), label_arms=label.arms.positions)
            pending.append((tick + decision_delay_ticks, decision))
        while pending and pending[0][0] <= tick:
            decision = pending.pop(0)[1]
            controller.set_decision(decision, now_s)
            loco = decision.loco
        command = controller.tick(state, loco, now_s)
        record.add(tick_time_s=now_s, tick_qpos=world.data.qpos, tick_qvel=world.data.qvel, tick_target=command.q, tick_loco=loco.as_array())
        world.slot(command)
        record.add(tick_torque=world.torques())
        if on_step:
            on_step(world, loco)
        tick += 1
    if not record.rows:
        raise RuntimeError(f"the robot was down before the task began ({reason}); look at the controller or at settle_s = {settle_s:g}")
    scene = world.scene
    meta = {
        "scene_seed": scene.seed,
        "scene_kind": scene.kind,
        "world_seed": seed,
        "robot": robot.name,
        "robot_fingerprint": robot.fingerprint,
        "joint_names": list(robot.joint_names),
        "arm_names": list(robot.names("upper_body")),
        "arm_dt_s": last.arms.dt_s,
        "start_s": start_s,
        "slot_s": world.slot_s,
        "boxes": [{"color": b.color, "xyz": list(b.xyz), "half_extents": list(map(float, b.half_extents)), "yaw": b.yaw} for b in scene.boxes],
    }
    return EpisodeLog(instruction, outcome.value, reason, meta, **record.arrays())

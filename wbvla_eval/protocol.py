"""Trials: which seeds, which sentences, how long, and one process that carries them out.

Seeds are kept apart by range, so that no scene that was trained on can be tested on:

    training      0 ..         999 999     demonstrations, action-free video, LMO
    development   1 000 000 .. 1 999 999   looking at failures, choosing thresholds and checkpoints
    test          2 000 000 .. 2 999 999   numbers that are reported

A trial is lock-step: the robot waits for its policy, so a slow machine changes nothing but the wall time. What it costs a
real robot to think is put back by ``decision_delay_ticks``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wbvla_core.catalogue import TaskCatalogue
from wbvla_core.checkpoint import find_checkpoint, load_manifest
from wbvla_core.robot import RobotSpec, load_robot
from wbvla_core.sentences import STAGE
from wbvla_core.types import LocoCommand
from wbvla_eval.episode_log import STANCE_TARGET_M, judge_log, recording_of, trace_of
from wbvla_eval.tasks import Criteria
from wbvla_sim.episode import Controller, Policy, run_episode
from wbvla_sim.instructions import TASKS, Task, require_kinds, sample_instruction
from wbvla_sim.scene import random_scene
from wbvla_sim.slots import SensorNoise
from wbvla_sim.world import World, WorldOptions
from wbvla_vla.guard import SAME_WHATEVER, of_list

DURATION_S = {"turn": 4.0, "step": 4.0, "wave": 6.0}  # open-ended motions; a wave first raises the arm
TIMEOUT_S = {"walk_to": 40.0}
DEFAULT_TIMEOUT_S = 15.0
WITHOUT_BUNDLE = ("expert", "zero")  # names of policies that are no checkpoint
KINEMATIC = "kinematic"  # name of the world without physics, in place of an LMO checkpoint


@dataclass(frozen=True)
class TrialSpec:
    """One trial, decided before it runs.

    Attributes:
        seed: of the scene, of the world's noise and of the choice of box and sentence.
        task, instruction: what is meant, and the sentence that the policy is given.
        timeout_s, duration_s: as in ExecuteTask.
    """

    index: int
    seed: int
    task: Task
    instruction: str
    timeout_s: float
    duration_s: float | None = None

    def facts(self) -> dict[str, Any]:
        """What a row of results says of the trial itself."""
        return {
            "index": self.index,
            "seed": self.seed,
            "task": self.task.instruction,
            "kind": self.task.kind,
            "instruction": self.instruction,
            "timeout_s": self.timeout_s,
            "duration_s": self.duration_s,
        }


def _spec(index: int, seed: int, task: Task, paraphrase: bool, timeout_s: float | None) -> TrialSpec:
    rng = np.random.default_rng((seed, 2))
    sentence = sample_instruction(task, rng) if paraphrase else task.instruction
    timeout = timeout_s or TIMEOUT_S.get(task.kind, DEFAULT_TIMEOUT_S)
    return TrialSpec(index, seed, task, sentence, timeout, DURATION_S.get(task.kind))


def walk_to_trials(count: int, seed_base: int, *, paraphrase: bool = False, timeout_s: float | None = None) -> list[TrialSpec]:
    """One trial per scene ``seed_base + i``; the target is drawn from the boxes of the scene, all of which start inside the image."""
    trials = []
    for index in range(count):
        seed = seed_base + index
        boxes = random_scene(seed, kind="walk_to").boxes
        color = boxes[int(np.random.default_rng((seed, 1)).integers(len(boxes)))].color
        trials.append(_spec(index, seed, Task("walk_to", color=str(color)), paraphrase, timeout_s))
    return trials


def instruction_trials(per_task: int, seed_base: int, *, kinds: tuple[str, ...] = (), paraphrase: bool = False) -> list[TrialSpec]:
    """``per_task`` trials of every instruction but those of other ``kinds``; for walk-to, scenes that lack the box are skipped."""
    require_kinds(kinds)
    trials: list[TrialSpec] = []
    seed = seed_base
    for task in TASKS:
        if kinds and task.kind not in kinds:
            continue
        done = 0
        while done < per_task:
            if task.kind != "walk_to" or any(box.color == task.color for box in random_scene(seed, kind="walk_to").boxes):
                trials.append(_spec(len(trials), seed, task, paraphrase, None))
                done += 1
            seed += 1
    return trials


@dataclass(frozen=True)
class Setup:
    """What is tested. Plain values: it travels to the worker processes.

    Attributes:
        robot: name of the robot spec.
        policy: a policy checkpoint directory, "expert" or "zero".
        lmo: an LMO checkpoint directory, or "kinematic" for the world without physics.
        noise: sensor noise of typical size.
        decision_delay_ticks: 20 ms ticks from image to effect.
        keep_failures: how many failed trials of each worker are kept as video and log; directory: where.
        guarded: a sentence that is not in the policy's list of tasks is refused. Off: to measure what it does with tasks that it never saw.
    """

    robot: str = "x2"
    policy: str = "checkpoints/policy/tiny"
    lmo: str = "checkpoints/lmo/x2"
    noise: bool = True
    decision_delay_ticks: int = 2
    keep_failures: int = 0
    directory: str = ""
    guarded: bool = True


def policy_tasks(policy: str) -> TaskCatalogue | None:
    """The list of tasks in a policy bundle, None where it has none; the simulator's own policies take the sentences of this stage."""
    return STAGE if policy in WITHOUT_BUNDLE else TaskCatalogue.of(load_manifest(find_checkpoint(policy), kind="policy", verify_files=False))


def guard_said(setup: Setup) -> str:
    """Whether sentences are refused in these trials, in words."""
    if not setup.guarded:
        return "not guarded: as this evaluation asked"
    return SAME_WHATEVER if setup.policy == "zero" else of_list(policy_tasks(setup.policy))


def require_tasks(tasks: TaskCatalogue | None, trials: Iterable[TrialSpec]) -> None:
    """Raise InstructionError for the first trial whose sentence is not in the list, as the node refuses it; without a list nothing is refused."""
    for trial in trials if tasks is not None else ():
        tasks.meaning(trial.instruction)


class Runner:
    """Carries out trials in this process; checkpoints are loaded once.

    Raises:
        CheckpointError: a checkpoint is missing or does not fit the robot.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.robot: RobotSpec = load_robot(setup.robot)
        self.kept = 0
        self._make_policy, self.observe = load_policy(setup.policy, self.robot, setup.guarded)
        self._world, self.controller = load_body(setup.lmo, self.robot)

    def run(self, trial: TrialSpec) -> dict[str, Any]:
        """One trial -> a row of the results file."""
        started = time.monotonic()
        scene = random_scene(trial.seed, kind="walk_to", robot=self.robot)
        noise = SensorNoise.typical() if self.setup.noise else SensorNoise()
        world = self._world(self.robot, scene, options=WorldOptions(noise=noise))
        # "Stand up" begins where "squat down" ends.
        start = LocoCommand(stance_height_m=STANCE_TARGET_M["squat"]) if trial.task.kind == "stand" else None
        log = run_episode(
            world,
            self.controller,
            self._make_policy(world),
            trial.instruction,
            timeout_s=trial.timeout_s,
            duration_s=trial.duration_s,
            observe=self.observe,
            seed=trial.seed,
            settle_s=2.0 if start else 1.0,
            start=start,
            decision_delay_ticks=self.setup.decision_delay_ticks,
        )
        trace = trace_of(log, self.robot, scene)
        verdict = judge_log(trial.task, log, trace)
        row = trial.facts() | {
            "ended": log.outcome,
            "success": verdict.success,
            "failure": verdict.failure.value if verdict.failure else None,
            "reason": verdict.reason,
            "measures": {name: float(value) for name, value in verdict.measures.items()},
        }
        if not verdict.success and self.kept < self.setup.keep_failures:
            self.kept += 1
            row["video"] = self._keep(trial, log, trace, verdict, scene)
        row["wall_s"] = time.monotonic() - started
        return row

    def _keep(self, trial: TrialSpec, log: Any, trace: Any, verdict: Any, scene: Any) -> str:
        from wbvla_eval.episode_video import render_video

        name = f"{trial.seed}_{verdict.failure.value}"
        directory = Path(self.setup.directory) / "failures"
        directory.mkdir(parents=True, exist_ok=True)
        log.save(directory / f"{name}.npz")
        render_video(directory / f"{name}.mp4", self.robot, scene, recording_of(log, self.robot, trace), trial.task, verdict, Criteria(), stills=0)
        return f"failures/{name}.mp4"


def load_policy(name: str, robot: RobotSpec, guarded: bool = True) -> tuple[Callable[[World], Policy], Callable[[np.ndarray], np.ndarray]]:
    """(how to get the policy for a world, camera frame -> policy image); ``guarded``: see :class:`Setup`."""
    from wbvla_perception.preprocess import ImageSpec, policy_image

    plain = ImageSpec.of(robot.camera)
    if name == "expert":
        from wbvla_sim.expert import ScriptedTeleoperator

        return ScriptedTeleoperator, lambda image: policy_image(image, plain)
    if name == "zero":
        from wbvla_vla.fakes import ZeroPolicy

        zero = ZeroPolicy(robot)
        return lambda world: zero, lambda image: policy_image(image, plain)
    from wbvla_vla.policy import WholeBodyPolicy

    policy = WholeBodyPolicy.load(find_checkpoint(name), robot, threads=1)
    policy.tasks = policy.tasks if guarded else None
    return lambda world: policy, lambda image: policy_image(image, policy.image_spec)


def load_body(name: str, robot: RobotSpec) -> tuple[type[World], Controller]:
    """(class of the world, controller) for an LMO checkpoint directory or "kinematic"."""
    if name == KINEMATIC:
        from wbvla_sim.kinematic import KinematicController, KinematicWorld

        return KinematicWorld, KinematicController(robot)
    from wbvla_lmo.controller import LmoController
    from wbvla_lmo.policy import LmoPolicy

    return World, LmoController(robot, LmoPolicy.load(find_checkpoint(name), robot))

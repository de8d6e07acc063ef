"""Demonstrations by the scripted teleoperator, through the same lock-step loop that evaluation uses.

Every frame carries what the teleoperator would do for *each* task, not only for the one that it is carrying out: asking it is
free in simulation, and the same picture with several sentences and several answers is what teaches a policy to listen
(counterfactual labels; ours. Without them 25 of 30 failures of a prototype were walks to the wrong box).

Bursts of random commands disturb the execution, the labels stay clean (prior work: our prototype). A learned policy can be
put in the driver's seat instead (``--policy``): then the teleoperator corrects what that policy gets itself into (prior work: DAgger).

One row per decision (10 Hz); T rows in a file, 12 tasks, A upper-body joints, K rows of an arm chunk:

    image [T, S, S, 3] uint8 · stamp_s [T] · episode [T] · task [T] (index into TASKS) · clean [T] (executed = label)
    posture [T, 3] · arm_state [T, 2 A] · boxes [T, 4, 4] (:func:`wbvla_train.data.stills.box_labels`)
    flags [T, 12, 3] int8 · height_m [T, 12] · valid [T, 12] (that box is in the room)
    arms [T, 3, K, A] (no wave, left, right) · executed [T, 4] · sentence [T] str · outcome [T] str
    camera [T, 3, 4] head camera's position, m, and optical axes as columns (right, down, forward), room frame: for measuring only, no model may see it
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from wbvla_core.console import program
from wbvla_core.errors import WbvlaError, require_at_least, require_seed, require_shares
from wbvla_core.robot import RobotSpec, load_robot
from wbvla_core.types import Decision, LocoCommand, PolicyInput
from wbvla_decoder.policy import ArmScaling, arm_state, posture
from wbvla_perception.preprocess import ImageSpec, policy_image
from wbvla_sim.episode import EpisodeLog, Outcome, Policy, run_episode
from wbvla_sim.expert import SQUAT_HEIGHT_M, Perturbation, Perturbed, ScriptedTeleoperator
from wbvla_sim.instructions import KINDS, SIDES, TASKS, Task, require_kinds, sample_instruction
from wbvla_sim.kinematic import KinematicController, KinematicWorld
from wbvla_sim.scene import random_scene
from wbvla_sim.slots import SensorNoise
from wbvla_sim.world import World, WorldOptions
from wbvla_train.data.demos_command import DemosConfig
from wbvla_train.data.shards import write_shards
from wbvla_train.data.stills import box_labels, camera_tangents

SEED_BASE = 0  # training scenes lie below 1 000 000: demonstrations in the lower half, stills in the upper; evaluation draws above
HELD_OUT_SEED_BASE = 2_900_000  # the last of the test scenes
WAVES = ("", *SIDES)  # order of the arm labels


class Snapshot:
    """The world as the teleoperators see it at one instant: looked at once, asked once per task."""

    def __init__(self, world: World) -> None:
        self.world, self.robot, self.scene = world, world.robot, world.scene

    def look(self) -> None:
        self._truth, self._camera = self.world.truth(), self.world.camera_pose()

    def truth(self) -> dict:
        return self._truth

    def camera_pose(self) -> tuple[np.ndarray, np.ndarray]:
        return self._camera


class Recorder:
    """Policy wrapper for :func:`run_episode`: lets ``driver`` drive and writes down the teleoperator's answer for every task."""

    def __init__(self, world: World, driver: Policy, task: Task) -> None:
        self.world, self.driver, self.task = world, driver, task
        colors = {box.color for box in world.scene.boxes}
        self.valid = np.array([not t.color or t.color in colors for t in TASKS])
        self._snapshot = Snapshot(world)
        self._teleoperators = [ScriptedTeleoperator(self._snapshot) for _ in TASKS]  # one per task: each has its own hysteresis
        self._tangent = camera_tangents(world.robot)
        self._boxes = {box.color: box for box in world.scene.boxes}
        self.reset()

    def reset(self) -> None:
        self.driver.reset()
        for teleoperator in self._teleoperators:
            teleoperator.reset()
        self.rows: list[dict[str, np.ndarray]] = []

    def infer(self, inputs: PolicyInput) -> Decision:
        decision = self.driver.infer(inputs)
        count = len(TASKS)
        flags, height = np.zeros((count, 3), np.int8), np.full(count, self.world.robot.default_stance_height_m, np.float32)
        arms: dict[str, np.ndarray] = {}
        self._snapshot.look()
        for i, (task, teleoperator) in enumerate(zip(TASKS, self._teleoperators, strict=True)):
            if not self.valid[i]:
                continue
            answer = teleoperator.infer(replace(inputs, instruction=task.instruction))
            flags[i], height[i] = answer.loco.flags, answer.loco.stance_height_m
            arms.setdefault(task.side if task.kind == "wave" else "", answer.arms.positions)
            if task == self.task:
                self.label = answer
        robot, truth, (position, axes) = self.world.robot, self._snapshot.truth(), self._snapshot.camera_pose()
        scaling = ArmScaling.of(robot)
        self.rows.append(
            {
                "image": inputs.image,
                "stamp_s": np.float64(inputs.stamp_s),
                "posture": posture(inputs.state, robot),
                "arm_state": arm_state(inputs.state, robot),
                "boxes": box_labels(self._boxes, truth["pelvis_xyz"][:2], truth["yaw_rad"], (position, axes), self._tangent),
                "flags": flags,
                "height_m": height,
                "valid": self.valid,
                "arms": np.stack([scaling.encode(arms[wave]) for wave in WAVES]).astype(np.float16),
                "executed": decision.loco.as_array().astype(np.float32),
                "camera": np.column_stack((position, axes)).astype(np.float32),
                "clean": np.array_equal(decision.loco.flags, self.label.loco.flags),
            }
        )
        return decision


def build_world(config: DemosConfig, robot: RobotSpec, scene_seed: int, kind: str) -> tuple[World, object]:
    """World and controller for one episode."""
    scene = random_scene(scene_seed, kind=kind, robot=robot, held_out=config.held_out)
    if config.world == "kinematic":
        return KinematicWorld(robot, scene), KinematicController(robot)
    return World(robot, scene, options=WorldOptions(noise=SensorNoise.typical())), _controller(config.robot, config.lmo)


@lru_cache(maxsize=1)
def _controller(robot_name: str, lmo: Path) -> object:
    """One controller per process (its gait tables take seconds to make); episodes reset it."""
    from wbvla_lmo.controller import LmoController
    from wbvla_lmo.policy import LmoPolicy

    robot = load_robot(robot_name)
    return LmoController(robot, LmoPolicy.load(lmo, robot))


def draw_task(config: DemosConfig, colors: list[str], rng: np.random.Generator) -> Task:
    if not config.kinds and rng.random() < config.walk_share or config.kinds == ("walk_to",):
        return Task("walk_to", color=str(rng.choice(colors)))
    others = [task for task in TASKS if task.kind != "walk_to" and task.kind in (config.kinds or KINDS)]
    return others[int(rng.integers(len(others)))]


def record_episode(config: DemosConfig, robot: RobotSpec, number: int, learned: Policy | None = None) -> tuple[dict[str, np.ndarray], EpisodeLog]:
    """Episode ``number`` -> rows (see the module text) and the log of the loop."""
    scene_seed = (HELD_OUT_SEED_BASE if config.held_out else SEED_BASE) + config.seed * 50_000 + number
    rng = np.random.default_rng((scene_seed, 11))
    world, controller = build_world(config, robot, scene_seed, "walk_to")
    task = draw_task(config, [box.color for box in world.scene.boxes], rng)
    teleoperator = ScriptedTeleoperator(world)
    seed = int(rng.integers(2**31))
    driver = learned or Perturbed(teleoperator, Perturbation(rate_per_step=config.burst_rate), seed=seed)
    recorder = Recorder(world, driver, task)
    start, settle_s = None, 1.0
    if task.kind == "stand":
        start = LocoCommand(stance_height_m=SQUAT_HEIGHT_M)
    elif rng.random() < config.turned_share:
        flags = rng.integers(-1, 2, 3)
        start, settle_s = LocoCommand(int(min(flags[0], 0)), int(flags[1]), int(flags[2]), robot.default_stance_height_m), float(rng.uniform(1.0, 3.0))
    spec = ImageSpec.of(robot.camera)
    sentence = sample_instruction(task, rng, config.held_out)
    log = run_episode(
        world,
        controller,
        recorder,
        sentence,
        timeout_s=config.timeout_s,
        duration_s=float(rng.uniform(*config.duration_s)) if task.open_ended else None,
        observe=lambda image: policy_image(image, spec),
        seed=seed,
        settle_s=settle_s,
        start=start,
        decision_delay_ticks=int(rng.integers(config.delay_ticks + 1)),
    )
    rows = {key: np.stack([row[key] for row in recorder.rows]) for key in recorder.rows[0]}
    steps = len(recorder.rows)
    rows |= {
        "task": np.full(steps, TASKS.index(task), np.int16),
        "episode": np.full(steps, number, np.int32),
        "sentence": np.full(steps, sentence, "<U80"),
        "outcome": np.full(steps, log.outcome, "<U16"),
    }
    return rows, log


def make_shard(config: DemosConfig, number: int) -> dict[str, np.ndarray]:
    """One file of ``episodes_per_shard`` episodes."""
    robot = load_robot(config.robot)
    learned = None
    if config.policy:
        from wbvla_vla.policy import WholeBodyPolicy

        learned = WholeBodyPolicy.load(config.policy, robot)
    first = number * config.episodes_per_shard
    parts = []
    for episode in range(first, first + config.episodes_per_shard):
        try:
            rows, episode_log = record_episode(config, robot, episode, learned)
            if episode_log.outcome == Outcome.DIVERGED.value:
                raise RuntimeError(episode_log.reason)
            parts.append(rows)
        except RuntimeError as error:  # fell before the task began, or the physics diverged: no demonstration to keep
            print(f"episode {episode} left out: {error}", flush=True)
    if not parts:
        raise WbvlaError(f"no episode of shard {number} could be recorded; is the leg policy {config.lmo} able to stand?")
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def make(config: DemosConfig, log=print) -> int:
    """Record all shards that are missing; returns how many were made.

    Raises:
        WbvlaError: fewer than one episode, episode per shard or worker.
    """
    require_at_least(config, episodes=1, episodes_per_shard=1, workers=1, timeout_s=0.1, delay_ticks=0)
    require_shares(config, "", "walk_share", "turned_share", "burst_rate")
    require_seed(config)
    require_kinds(config.kinds)
    if not 0.0 < config.duration_s[0] <= config.duration_s[1] < math.inf:
        raise WbvlaError(f"expected --duration-s of two rising positive times, got {config.duration_s[0]} {config.duration_s[1]}")
    return write_shards(config.output, config.settings(), make_shard, config, -(-config.episodes // config.episodes_per_shard), config.workers, log)


if __name__ == "__main__":
    from wbvla_train.data.demos_command import main

    program(main)

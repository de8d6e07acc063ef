"""Four ways of passing from one arm chunk to the next, in closed loop: physics, leg policy, trained policy, "wave ..." on test scenes.

python benchmarks/chunks.py --trials 6

    switch at arrival     a new chunk begins when it arrives, whatever the age of its image
    switch, compensated   rows whose time is over are skipped; the target jumps to the new chunk
    blended (LMO)         the same, and the difference to the old target fades out (wbvla_lmo.arms.ChunkFollower, what the robot runs)
    soft mask             rows until arrival stay the old chunk's, the later ones are mixed from old and new with the exponentially decaying weights
                          of real-time chunking (Black et al. 2025, inference-time variant). There the weights guide the denoising of a flow policy;
                          our decoder regresses its chunk in one pass, so only the mask can be taken over. The training-time variant (a decoder that is
                          given the committed rows) needs another decoder and is not compared.

Per latency from image to effect: the largest step of a joint target in one 20 ms period, where a new chunk takes over and anywhere, as the stitching
alone gives it; then as commanded, under the limit on the speed of arm targets (4 rad/s, 0.08 rad in 20 ms): jerk (root mean square), mean distance from
what the demonstrator, asked at every image, would have commanded without latency (both of the waving arm), and successful waves.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import tyro

from wbvla_core.robot import load_robot
from wbvla_core.types import ArmChunk, Decision, PolicyInput
from wbvla_eval.episode_log import judge_log, trace_of
from wbvla_eval.protocol import TEST_SEEDS, TrialSpec, instruction_trials, load_body, load_policy
from wbvla_eval.stats import rate_text
from wbvla_lmo.arms import ChunkFollower
from wbvla_sim.episode import TICKS_PER_DECISION, EpisodeLog, run_episode
from wbvla_sim.expert import ScriptedTeleoperator
from wbvla_sim.scene import random_scene
from wbvla_sim.world import SLOT_S, SensorNoise, WorldOptions

SEED_OFFSET = 700_000  # apart from the scenes of the other evaluations


class CompensatedSwitch(ChunkFollower):
    """Latency taken out, no blending."""

    def set_chunk(self, chunk: ArmChunk, now_s: float, age_s: float) -> None:
        super().set_chunk(chunk, now_s, age_s)
        self._offset = np.zeros_like(self._offset)


class SwitchAtArrival(CompensatedSwitch):
    """Every chunk is taken to be as new as its arrival."""

    def set_chunk(self, chunk: ArmChunk, now_s: float, age_s: float) -> None:
        super().set_chunk(chunk, now_s, 0.0)


class SoftMask(ChunkFollower):
    """Old and new rows mixed by real-time chunking's weights."""

    def set_chunk(self, chunk: ArmChunk, now_s: float, age_s: float) -> None:
        due_s = now_s - age_s + chunk.dt_s * np.arange(1, len(chunk.positions) + 1)
        fresh = round(TICKS_PER_DECISION * SLOT_S / chunk.dt_s)  # rows of a chunk that no older one has
        later = due_s > now_s + 1e-9
        weight = soft_mask(len(due_s), int(np.sum(~later)), fresh)[:, None]
        rows = weight * np.stack([self._plan(t) for t in due_s]) + (1.0 - weight) * chunk.positions
        self._times, self._rows = np.append(now_s, due_s[later]), np.concatenate((self._plan(now_s)[None], rows[later]))


def soft_mask(rows: int, committed: int, fresh: int) -> np.ndarray:
    """Weight of the old chunk in each row: 1 in the committed ones, 0 in the last ``fresh``, decaying between (Black et al. 2025, equation 5)."""
    i = np.arange(rows)
    c = (rows - fresh - i) / (rows - fresh - committed + 1)
    return np.where(i < committed, 1.0, np.where(i >= rows - fresh, 0.0, c * np.expm1(c) / np.expm1(1.0)))


METHODS: dict[str, type[ChunkFollower]] = {
    "switch at arrival": SwitchAtArrival,
    "switch, compensated": CompensatedSwitch,
    "blended (LMO)": ChunkFollower,
    "soft mask": SoftMask,
}


@dataclass(frozen=True)
class Options:
    """Options of the benchmark.

    Attributes:
        trials: waves per arm, method and latency.
        latency_ms: from image to effect, multiples of 20.
    """

    trials: int = 6
    latency_ms: tuple[int, ...] = (0, 40, 100, 200)
    policy: str = "checkpoints/policy/tiny"
    lmo: str = "checkpoints/lmo/x2"
    robot: str = "x2"
    processes: int = 1


class Watched:
    """A policy, and at every image what the demonstrator would have commanded (``label``)."""

    def __init__(self, policy: Any, demonstrator: ScriptedTeleoperator) -> None:
        self.policy, self.demonstrator = policy, demonstrator

    def reset(self) -> None:
        self.policy.reset()
        self.demonstrator.reset()

    def infer(self, inputs: PolicyInput) -> Decision:
        self.label = self.demonstrator.infer(inputs)
        return self.policy.infer(inputs)


_LOADED: dict[Options, tuple] = {}


def run(job: tuple[Options, str, int, TrialSpec]) -> dict[str, Any]:
    """One wave -> its measures."""
    options, method, delay, trial = job
    if options not in _LOADED:
        robot = load_robot(options.robot)
        _LOADED[options] = robot, *load_policy(options.policy, robot), *load_body(options.lmo, robot)
    robot, make_policy, observe, make_world, controller = _LOADED[options]
    was = controller._follower
    controller._follower = METHODS[method](was.target, was.speed_limit, was.blend_s)
    scene = random_scene(trial.seed, robot=robot)
    world = make_world(robot, scene, options=WorldOptions(noise=SensorNoise.typical()))
    policy = Watched(make_policy(world), ScriptedTeleoperator(world))
    times = {"timeout_s": trial.timeout_s, "duration_s": trial.duration_s}
    log = run_episode(world, controller, policy, trial.instruction, observe=observe, seed=trial.seed, decision_delay_ticks=delay, **times)
    success = judge_log(trial.task, log, trace_of(log, robot, scene)).success
    column = [list(controller.arms).index(joint) for joint in robot.indices(f"{trial.task.side}_arm")]
    return {"success": success, **measure(log, log.tick_target[:, controller.arms], METHODS[method], delay, column)}


def measure(log: EpisodeLog, target: np.ndarray, method: type[ChunkFollower], delay: int, waving: list[int]) -> dict[str, Any]:
    """Steps, jerk and distance from the demonstrator of one episode; target [N, A] as commanded, ``waving``: the waving arm's columns."""
    free = replay(method, log, log.arms, delay, target[0])
    step = np.abs(np.diff(free[delay + TICKS_PER_DECISION - 1 :], axis=0)).max(axis=1)  # from the second chunk on: before the first the arm rests
    border = step[::TICKS_PER_DECISION]
    jerk = np.diff(target[:, waving], n=3, axis=0) / SLOT_S**3
    distance = np.abs(target - replay(CompensatedSwitch, log, log.label_arms, 0, target[0]))[:, waving]
    return {"border": float(border.max()), "anywhere": float(step.max()), "jerk": float(np.sqrt((jerk**2).mean())), "distance": float(distance.mean())}


def replay(method: type[ChunkFollower], log: EpisodeLog, chunks: np.ndarray, delay: int, start: np.ndarray) -> np.ndarray:
    """Targets [N, A] of chunks [T, K, A] that arrive ``delay`` ticks after their images, at any speed."""
    follower = method(start, np.full(len(start), 1e9))
    targets = []
    for tick, now_s in enumerate(log.tick_time_s):
        number = (tick - delay) // TICKS_PER_DECISION
        if tick >= delay and (tick - delay) % TICKS_PER_DECISION == 0:
            chunk = ArmChunk(tuple(log.meta["arm_names"]), chunks[number], log.meta["arm_dt_s"])
            follower.set_chunk(chunk, now_s, now_s - log.stamp_s[number])
        targets.append(follower.step(now_s))
    return np.array(targets)


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    wrong = [value for value in options.latency_ms if value % round(SLOT_S * 1e3)]
    if wrong:
        raise SystemExit(f"--latency-ms must be multiples of {SLOT_S * 1e3:.0f}, got {wrong}")
    trials = instruction_trials(options.trials, TEST_SEEDS.start + SEED_OFFSET, kinds=("wave",))
    delays = [round(value / SLOT_S / 1e3) for value in options.latency_ms]
    print("| latency | passing over | largest step at a border | anywhere | jerk, rad/s3 | from the demonstrator, rad | waves |\n|---|---|---|---|---|---|---|")
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for delay, method in product(delays, METHODS):
            rows = pool.map(run, [(options, method, delay, trial) for trial in trials], chunksize=1)
            border, anywhere = (max(row[key] for row in rows) for key in ("border", "anywhere"))
            jerk, distance = (float(np.mean([row[key] for row in rows])) for key in ("jerk", "distance"))
            waves = rate_text(sum(row["success"] for row in rows), len(rows))
            shown = f"{border:.3f} rad | {anywhere:.3f} rad | {jerk:.0f} | {distance:.3f} | {waves}"
            print(f"| {delay * SLOT_S * 1e3:.0f} ms | {method} | {shown} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

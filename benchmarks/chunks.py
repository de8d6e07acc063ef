"""Four ways of passing from one arm chunk to the next: on recorded decisions, then in closed loop (physics, leg policy, trained policy, "wave ...").

python benchmarks/chunks.py --trials 6
python benchmarks/chunks.py --trials 2 --closed-ms 200

    switch at arrival     a new chunk begins when it arrives, whatever the age of its image
    switch, compensated   rows whose time is over are skipped; the target jumps to the new chunk
    blended (LMO)         the same, and the difference to the old target fades out (wbvla_lmo.arms.ChunkFollower, what the robot runs)
    soft mask             rows until arrival stay the old chunk's, the later ones are mixed from old and new with the exponentially decaying weights
                          of real-time chunking (Black et al. 2025, inference-time variant). There the weights guide the denoising of a flow policy;
                          our decoder regresses its chunk in one pass, so only the mask can be taken over. The training-time variant (a decoder that is
                          given the committed rows) cannot be learnt from chunks whose rows all follow from one state (docs/vla.md) and is not compared.

Recorded decisions are those of the policy under the robot's own stitching at 40 ms; every method is then given the same chunks, every latency late. In
closed loop the policy sees what came of it. Per latency from image to effect: the largest step of a joint target in one 20 ms period, where a new chunk
takes over and anywhere, as the stitching alone gives it; then as commanded, under the limit on the speed of arm targets (4 rad/s, 0.08 rad in 20 ms):
jerk (root mean square), mean distance from what the demonstrator, asked at every image, would have commanded without latency (both of the waving arm).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import tyro

from wbvla_core.console import program
from wbvla_core.robot import load_robot
from wbvla_core.types import ArmChunk, Decision, PolicyInput
from wbvla_eval.episode_log import judge_log, trace_of
from wbvla_eval.protocol import TrialSpec, instruction_trials, load_body, load_policy
from wbvla_eval.seeds import TEST_SEEDS
from wbvla_eval.stats import rate_text
from wbvla_lmo.arms import ChunkFollower
from wbvla_sim.episode import TICKS_PER_DECISION, EpisodeLog, run_episode
from wbvla_sim.expert import ScriptedTeleoperator
from wbvla_sim.scene import random_scene
from wbvla_sim.slots import SLOT_S, SensorNoise
from wbvla_sim.world import WorldOptions

SEED_OFFSET = 700_000  # apart from the scenes of the other evaluations
DEPLOYED_DELAY = 2  # ticks: what evaluation reckons with
FREE = 1e9  # rad/s: no limit
HEAD = "| latency | passing over | largest step at a border | anywhere | jerk, rad/s3 | from the demonstrator, rad "


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
        latency_ms: from image to effect, multiples of 20, on recorded decisions; closed_ms: in closed loop.
    """

    trials: int = 6
    latency_ms: tuple[int, ...] = (0, 40, 100, 200)
    closed_ms: tuple[int, ...] = (0, 40, 100, 200)
    policy: str = "checkpoints/policy/tiny"
    lmo: str = "checkpoints/lmo/x2"
    robot: str = "x2"


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


def run(options: Options, method: type[ChunkFollower], delay: int, trial: TrialSpec) -> tuple[EpisodeLog, bool]:
    """One wave -> its log, and whether it succeeded."""
    if options not in _LOADED:
        robot = load_robot(options.robot)
        _LOADED[options] = robot, *load_policy(options.policy, robot), *load_body(options.lmo, robot)
    robot, make_policy, observe, make_world, controller = _LOADED[options]
    was = controller._follower
    controller._follower = method(was.target, was.speed_limit, was.blend_s)
    scene = random_scene(trial.seed, robot=robot)
    world = make_world(robot, scene, options=WorldOptions(noise=SensorNoise.typical()))
    policy = Watched(make_policy(world), ScriptedTeleoperator(world))
    times = {"timeout_s": trial.timeout_s, "duration_s": trial.duration_s}
    log = run_episode(world, controller, policy, trial.instruction, observe=observe, seed=trial.seed, decision_delay_ticks=delay, **times)
    return log, judge_log(trial.task, log, trace_of(log, robot, scene)).success


def measure(options: Options, log: EpisodeLog, method: type[ChunkFollower], delay: int, side: str, target: np.ndarray | None = None) -> dict[str, float]:
    """Steps, jerk and distance from the demonstrator of one wave; target [N, A] as commanded, None = what ``method`` makes of the recorded chunks."""
    robot, controller = _LOADED[options][0], _LOADED[options][-1]
    waving = [list(controller.arms).index(joint) for joint in robot.indices(f"{side}_arm")]
    start, limit = log.tick_target[0, controller.arms], controller._follower.speed_limit
    if target is None:
        target = replay(method, log, log.arms, delay, start, limit)
    free = replay(method, log, log.arms, delay, start, FREE)
    step = np.abs(np.diff(free[delay + TICKS_PER_DECISION - 1 :], axis=0)).max(axis=1)  # from the second chunk on: before the first the arm rests
    jerk = np.diff(target[:, waving], n=3, axis=0) / SLOT_S**3
    distance = np.abs(target - replay(CompensatedSwitch, log, log.label_arms, 0, start, FREE))[:, waving]
    border = step[::TICKS_PER_DECISION]
    return {"border": float(border.max()), "anywhere": float(step.max()), "jerk": float(np.sqrt((jerk**2).mean())), "distance": float(distance.mean())}


def replay(method: type[ChunkFollower], log: EpisodeLog, chunks: np.ndarray, delay: int, start: np.ndarray, limit: np.ndarray | float) -> np.ndarray:
    """Targets [N, A] of chunks [T, K, A] that arrive ``delay`` ticks after their images; ``limit``: speed, rad/s."""
    follower = method(start, np.broadcast_to(limit, start.shape))
    targets = []
    for tick, now_s in enumerate(log.tick_time_s):
        number = (tick - delay) // TICKS_PER_DECISION
        if tick >= delay and (tick - delay) % TICKS_PER_DECISION == 0:
            chunk = ArmChunk(tuple(log.meta["arm_names"]), chunks[number], log.meta["arm_dt_s"])
            follower.set_chunk(chunk, now_s, now_s - log.stamp_s[number])
        targets.append(follower.step(now_s))
    return np.array(targets)


def row(delay: int, name: str, found: list[dict[str, float]], waves: str = "") -> None:
    border, anywhere = (max(one[key] for one in found) for key in ("border", "anywhere"))
    jerk, distance = (float(np.mean([one[key] for one in found])) for key in ("jerk", "distance"))
    print(f"| {delay * SLOT_S * 1e3:.0f} ms | {name} | {border:.3f} rad | {anywhere:.3f} rad | {jerk:.0f} | {distance:.3f} |{waves}", flush=True)


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    wrong = [value for value in (*options.latency_ms, *options.closed_ms) if value % round(SLOT_S * 1e3)]
    if wrong:
        raise SystemExit(f"latencies must be multiples of {SLOT_S * 1e3:.0f} ms, got {wrong}")
    trials = instruction_trials(options.trials, TEST_SEEDS.start + SEED_OFFSET, kinds=("wave",))
    recorded = [(trial, run(options, ChunkFollower, DEPLOYED_DELAY, trial)[0]) for trial in trials]
    print(f"{len(trials)} waves, recorded decisions\n\n{HEAD}|\n|---|---|---|---|---|---|")
    for value, name in product(options.latency_ms, METHODS):
        delay = round(value / SLOT_S / 1e3)
        row(delay, name, [measure(options, log, METHODS[name], delay, trial.task.side) for trial, log in recorded])
    print(f"\nclosed loop\n\n{HEAD}| waves |\n|---|---|---|---|---|---|---|")
    for value, name in product(options.closed_ms, METHODS):
        delay = round(value / SLOT_S / 1e3)
        logs = [(trial, *run(options, METHODS[name], delay, trial)) for trial in trials]
        arms = _LOADED[options][-1].arms
        found = [measure(options, log, METHODS[name], delay, trial.task.side, log.tick_target[:, arms]) for trial, log, _ in logs]
        row(delay, name, found, f" {rate_text(sum(success for *_, success in logs), len(logs))} |")
    return 0


if __name__ == "__main__":
    program(main)

"""Development evaluation: many robots per command at once, converged solver, seeds that training never draws.

The published numbers come from ``wbvla eval lmo`` (``wbvla_eval.lmo``), which runs the exported policy through the whole
controller in the lock-step world; this one is quick enough to look at after every million steps.

    python -m wbvla_train.lmo.evaluate runs/train/lmo/state.pt
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from wbvla_core.console import program
from wbvla_core.numeric import wrap
from wbvla_core.robot import RobotSpec, load_robot
from wbvla_lmo.arm_motion import ReplayConfig
from wbvla_lmo.pipeline import LegPipeline, PipelineConfig
from wbvla_train.lmo.config import STATE_HOLDS, DisturbanceConfig, PhysicsConfig
from wbvla_train.lmo.network import mlp, weights_of
from wbvla_train.lmo.physics import BatchPhysics
from wbvla_train.lmo.streams import Pushes, RandomReaching, ReplayedArms
from wbvla_train.state_file import read_state

Actor = Callable[[np.ndarray], np.ndarray]

# name, flags, stance height m (None = default)
COMMANDS: tuple[tuple[str, tuple[int, int, int], float | None], ...] = (
    ("stand", (0, 0, 0), None),
    ("squat 0.55", (0, 0, 0), 0.55),
    ("squat 0.46", (0, 0, 0), 0.46),
    ("forward", (1, 0, 0), None),
    ("backward", (-1, 0, 0), None),
    ("left", (0, 1, 0), None),
    ("right", (0, -1, 0), None),
    ("turn left", (0, 0, 1), None),
    ("turn right", (0, 0, -1), None),
    ("forward + turn left", (1, 0, 1), None),
    ("forward + turn right", (1, 0, -1), None),
    ("forward at 0.58", (1, 0, 0), 0.58),
)


def load_actor(state_path: Path) -> tuple[Actor, dict]:
    """Deterministic actor of a training state, and the state."""
    state = read_state(state_path, holds=STATE_HOLDS)
    config = json.loads(state["config"])
    actor = actor_network(weights_of(state), config["ppo"]["layers"])

    def act(observation: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return actor(torch.from_numpy(np.clip(observation, -20.0, 20.0))).numpy()

    return act, state


def actor_network(policy: dict[str, torch.Tensor], layers: list[int]) -> torch.nn.Sequential:
    """The actor alone, [B, D] -> mean action [B, A], from a policy's state dict."""
    first = policy["mlp_extractor.policy_net.0.weight"]
    head = torch.nn.Linear(layers[-1], policy["action_net.weight"].shape[0])
    body = mlp([first.shape[1], *layers])
    body.load_state_dict({k.removeprefix("mlp_extractor.policy_net."): v for k, v in policy.items() if k.startswith("mlp_extractor.policy_net.")})
    head.load_state_dict({"weight": policy["action_net.weight"], "bias": policy["action_net.bias"]})
    return torch.nn.Sequential(*body, head).eval()


@dataclass
class Log:
    """What was recorded at 50 Hz, T ticks of N robots; joint arrays are the legs'."""

    position: np.ndarray
    yaw: np.ndarray
    action: np.ndarray
    q: np.ndarray
    qd: np.ndarray
    torque: np.ndarray
    stepping: np.ndarray
    sole_m: np.ndarray
    tilt: np.ndarray
    alive: np.ndarray
    com: np.ndarray  # centre of mass [T, N, 3]
    path: np.ndarray  # the estimated error to the commanded path [T, N, 3]
    qpos: np.ndarray  # of the training model


def simulate(
    robot: RobotSpec,
    pipeline_config: PipelineConfig,
    actor: Actor,
    flags: np.ndarray,
    height_m: np.ndarray,
    *,
    difficulty: float = 0.5,
    push: bool = True,
    randomise: float = 0.0,
    seed: int = 10_000,
    iterations: int | None = 100,
    physics: PhysicsConfig | None = None,
    packet_loss: float = 0.0,
    disturbance: DisturbanceConfig | None = None,
) -> Log:
    """Run N robots through command streams flags [T, N, 3], height [T, N] from standing at the default height.

    Args:
        difficulty: scales arm motion, pushes and sensor noise. randomise: scales mass, gain and friction randomisation.
        packet_loss: part of the commands that never arrive; the driver holds the last one.
    """
    ticks, n = flags.shape[:2]
    rng = np.random.default_rng(seed)
    d = disturbance or DisturbanceConfig()
    s = BatchPhysics(robot, physics or PhysicsConfig(), n, iterations=iterations)
    pipeline = LegPipeline(robot, pipeline_config, n)
    arms = ReplayedArms(robot, s.joints, d, ReplayConfig(), n, rng) if d.arm_replay else RandomReaching(robot, s.joints, d, n, rng)
    pushes = Pushes(d, n, rng)
    everyone = np.arange(n)
    s.randomise(everyone, d, randomise, rng)
    arms.reset(everyone, 0.0)
    standing = pipeline.gait.reference(np.zeros((n, 3)), np.full(n, robot.default_stance_height_m))
    target = np.tile(robot.default_q, (n, 1))
    target[:, pipeline.legs] = standing.q
    q = np.tile(robot.default_q, (n, 1))
    s.place(everyone, q, np.tile((0, 0, robot.default_stance_height_m + 0.002), (n, 1)), np.tile((1.0, 0, 0, 0), (n, 1)))
    alive = np.ones(n, dtype=bool)
    names = ("position", "yaw", "action", "q", "qd", "torque", "stepping", "sole_m", "tilt", "alive", "com", "path", "qpos")
    rows: dict[str, list[np.ndarray]] = {k: [] for k in names}
    noise = 0.3 + 0.7 * difficulty
    for t in range(ticks):
        gyro, gravity, q, qd = s.sense()
        gyro = gyro + rng.standard_normal((n, 3)) * d.noise_gyro * noise
        gravity = gravity + rng.standard_normal((n, 3)) * d.noise_gravity * noise
        qn = q + rng.standard_normal(s.q.shape) * d.noise_q * noise
        qdn = qd + rng.standard_normal(s.qd.shape) * d.noise_qd * noise
        observation = pipeline.observe(flags[t], height_m[t], gyro, gravity, qn, qdn)
        target[:, pipeline.legs] = pipeline.act(actor(observation))
        target[:, arms.joints] = arms.step(pipeline.dt_s, difficulty)
        ids, delta = pushes.step(pipeline.dt_s, difficulty)
        if push and len(ids):
            s.push(ids, delta)
        lost = rng.random(n) < packet_loss if packet_loss > 0.0 else None
        s.slot(target, lost=lost, wrench=pushes.pulse(pipeline.dt_s, difficulty) if push else None)
        tilt = np.arccos(np.clip(-s.gravity[:, 2], -1, 1))
        alive &= (s.height_m > 0.34) & (tilt < 0.8) & ~s.broken
        for name, value in zip(
            names,
            (
                s.qpos[:, :3],
                s.yaw,
                pipeline.last_action,
                s.q[:, pipeline.legs],
                s.qd[:, pipeline.legs],
                s.torque,
                pipeline.gait.stepping,
                s.sole_low_m,
                tilt,
                alive,
                s.com,
                pipeline.path.error,
                s.qpos,
            ),
            strict=True,
        ):
            rows[name].append(value.copy())
    out = {k: np.array(v) for k, v in rows.items()}
    out["yaw"] = np.unwrap(out["yaw"], axis=0)
    return Log(**out)


def constant_commands(robot: RobotSpec, config: PipelineConfig, actor: Actor, *, each: int = 16, seconds: float = 8.0, **kwargs) -> list[dict]:
    """One row per command: fall rate and what survivors did after the first 2 s."""
    ticks = int(seconds * config.rate_hz)
    flags = np.repeat(np.array([c[1] for c in COMMANDS], dtype=float), each, axis=0)
    height = np.repeat([c[2] or robot.default_stance_height_m for c in COMMANDS], each)
    log = simulate(robot, config, actor, np.tile(flags, (ticks, 1, 1)), np.tile(height, (ticks, 1)), **kwargs)
    dt, skip = 1 / config.rate_hz, int(2 * config.rate_hz)
    rows = []
    for i, (name, _, _) in enumerate(COMMANDS):
        own = slice(i * each, (i + 1) * each)
        ok = log.alive[-1, own]
        row = {"command": name, "falls": round(1 - float(ok.mean()), 3)}
        if ok.any():
            steps = np.diff(log.position[skip:, own], axis=0)[:, ok] / dt
            yaw = log.yaw[skip:-1, own][:, ok]
            vx = np.cos(yaw) * steps[..., 0] + np.sin(yaw) * steps[..., 1]
            vy = np.cos(yaw) * steps[..., 1] - np.sin(yaw) * steps[..., 0]
            wz = np.diff(log.yaw[skip:, own], axis=0)[:, ok] / dt
            rate = np.diff(log.action[skip:, own], axis=0)[:, ok]
            row |= {
                "vx": round(float(vx.mean()), 3),
                "vy": round(float(vy.mean()), 3),
                "wz": round(float(wz.mean()), 3),
                "sd": [round(float(v.mean(axis=0).std()), 3) for v in (vx, vy, wz)],
                "height": round(float(log.position[skip:, own, 2][:, ok].mean()), 3),
                "stepping": round(float(log.stepping[skip:, own][:, ok].mean()), 2),
                "lift": round(float(np.quantile(log.sole_m[skip:, own][:, ok].max(axis=-1), 0.95)), 3),
                "action_rate": round(float(np.abs(rate).mean()), 3),
                "qd_rms": round(float(np.sqrt((log.qd[skip:, own][:, ok] ** 2).mean())), 2),
            }
        rows.append(row)
    return rows


# Sensor noise of the lock-step world's "typical" setting, arms replayed at their own speed, nothing else: the nominal row of the accuracy protocol.
NOMINAL = DisturbanceConfig(noise_gyro=0.02, noise_gravity=0.01, noise_q=0.002, noise_qd=0.05, arm_replay=True, lag=False)


def accuracy(
    robot: RobotSpec, config: PipelineConfig, actor: Actor, *, each: int = 32, hold_s: float = 5.0, rest_s: float = 10.0, seed: int = 30_000, **kwargs
) -> list[dict]:
    """The paper's Table 3 protocol, batched: 1 s stand, a flag for ``hold_s``, ``rest_s`` of rest; errors against cruise x hold in the start frame."""
    rate, moves = config.rate_hz, [c for c in COMMANDS if sum(map(abs, c[1])) == 1][:6]
    begin, on, rest = int(rate), int(hold_s * rate), int(rest_s * rate)
    wish = np.repeat(np.array([m[1] for m in moves], dtype=float), each, axis=0)
    flags = np.zeros((begin + on + rest, len(wish), 3))
    flags[begin : begin + on] = wish
    height = np.full(flags.shape[:2], robot.default_stance_height_m)
    log = simulate(robot, config, actor, flags, height, push=False, seed=seed, **({"difficulty": 1.0, "disturbance": NOMINAL} | kwargs))
    start, yaw = log.position[begin - 1, :, :2], log.yaw[begin - 1]
    delta, c, s = log.position[:, :, :2] - start, np.cos(yaw), np.sin(yaw)
    place = np.stack((c * delta[..., 0] + s * delta[..., 1], c * delta[..., 1] - s * delta[..., 0], wrap(log.yaw - yaw)), axis=-1)
    error = place - wish * np.asarray(config.gating.cruise) * hold_s
    error[..., 2] = wrap(error[..., 2])
    # What the estimate has wrong at the end: its error less the true one, both seen from the body.
    turned = place[-1, :, 2]
    c, s = np.cos(turned), np.sin(turned)
    missing = -error[-1]
    believed = log.path[-1] - np.stack((c * missing[:, 0] + s * missing[:, 1], c * missing[:, 1] - s * missing[:, 0], missing[:, 2]), axis=1)
    rows = []
    for i, (name, _, _) in enumerate(moves):
        own = slice(i * each, (i + 1) * each)
        ok = log.alive[-1, own]
        row: dict = {"command": name, "falls": round(1 - float(ok.mean()), 3)}
        for label, tick in (("release", begin + on - 1), ("end", -1)):
            e = error[tick, own][ok]
            if len(e):
                away, turn = np.hypot(e[:, 0], e[:, 1]), np.abs(e[:, 2])
                row |= {f"{label}_m": round(float(away.mean()), 3), f"{label}_rad": round(float(turn.mean()), 3)}
        if ok.any():
            row |= {
                "bias": error[-1, own][ok].mean(axis=0).round(3).tolist(),
                "stepping": round(float(log.stepping[begin + on + int(rate) :, own][:, ok].mean()), 3),
            }
            row["estimate_m"] = round(float(np.hypot(*believed[own, :2][ok].T).mean()), 3)
            row["estimate_rad"] = round(float(np.abs(believed[own, 2][ok]).mean()), 3)
        rows.append(row)
    return rows


# The paper's stability row: arms at twice the speed and 1.5 times the way, pulses to 150 N and 30 Nm for 0.1 s (when: ours).
SHAKEN = dataclasses.replace(NOMINAL, arm_speed=(2.0, 2.0), arm_scale=1.5, pulse_n=150.0, pulse_nm=30.0, pulse_every_s=(2.0, 5.0), push_m_s=0.0)


def stability(robot: RobotSpec, config: PipelineConfig, actor: Actor, *, each: int = 32, seconds: float = 20.0, seed: int = 50_000, **kwargs) -> list[dict]:
    """Standing and squatting under pulses and fast arms: CoMS = sqrt(mean |c - c_mean|^2), steps, falls."""
    rate, heights = int(config.rate_hz), (robot.default_stance_height_m, 0.5)
    ticks = int(seconds * rate)
    height = np.tile(np.repeat(heights, each), (ticks, 1))
    flags = np.zeros((ticks, height.shape[1], 3))
    log = simulate(robot, config, actor, flags, height, seed=seed, **({"difficulty": 1.0, "disturbance": SHAKEN} | kwargs))
    rows = []
    for i, h in enumerate(heights):
        own = slice(i * each, (i + 1) * each)
        ok = log.alive[-1, own]
        row: dict = {"height": h, "falls": round(1 - float(ok.mean()), 3)}
        if ok.any():
            xy = log.com[2 * rate :, own, :2][:, ok]
            row["coms_m"] = round(float(np.sqrt(np.mean(np.sum((xy - xy.mean(axis=0)) ** 2, axis=-1), axis=0)).mean()), 3)
            row["stepping"] = round(float(log.stepping[2 * rate :, own][:, ok].mean()), 3)
            row["heading_rad"] = round(float(np.abs(log.yaw[-1, own][ok] - log.yaw[2 * rate, own][ok]).mean()), 3)
        rows.append(row)
    return rows


def random_switching(robot: RobotSpec, config: PipelineConfig, actor: Actor, *, robots: int = 64, seconds: float = 20.0, seed: int = 20_000, **kwargs) -> dict:
    """Random commands switched every 0.5 to 4 s; falls."""
    rng = np.random.default_rng(seed)
    ticks = int(seconds * config.rate_hz)
    flags, height = np.zeros((ticks, robots, 3)), np.zeros((ticks, robots))
    for i in range(robots):
        t = 0
        while t < ticks:
            hold = int(rng.uniform(0.5, 4.0) * config.rate_hz)
            flags[t : t + hold, i] = rng.integers(-1, 2, 3) if rng.random() < 0.3 else np.eye(3)[rng.integers(3)] * rng.integers(-1, 2)
            height[t : t + hold, i] = rng.uniform(*robot.stance_height_range_m) if rng.random() < 0.3 else robot.default_stance_height_m
            t += hold
    log = simulate(robot, config, actor, flags, height, seed=seed, **kwargs)
    falls = int((~log.alive[-1]).sum())
    return {"robots": robots, "seconds": seconds, "falls": falls, "falls_per_hour": round(float(falls / (log.alive.sum() / config.rate_hz / 3600.0)), 2)}


def stopping(robot: RobotSpec, config: PipelineConfig, actor: Actor, *, each: int = 16, **kwargs) -> list[dict]:
    """3 s of a command, then zero: how far and how long it goes on."""
    rows, moves = [], [c for c in COMMANDS if any(c[1])][:6]
    on, off = int(3 * config.rate_hz), int(3 * config.rate_hz)
    flags = np.zeros((on + off, each * len(moves), 3))
    flags[:on] = np.repeat(np.array([m[1] for m in moves], dtype=float), each, axis=0)
    log = simulate(robot, config, actor, flags, np.full(flags.shape[:2], robot.default_stance_height_m), push=False, **kwargs)
    for i, (name, _, _) in enumerate(moves):
        own = slice(i * each, (i + 1) * each)
        ok = log.alive[-1, own]
        if not ok.any():
            rows.append({"command": name, "falls": 1.0})
            continue
        p, yaw = log.position[on:, own][:, ok], log.yaw[on:, own][:, ok]
        distance, turn = np.linalg.norm(p[-1, :, :2] - p[0, :, :2], axis=-1), yaw[-1] - yaw[0]
        speed = np.linalg.norm(np.diff(p[..., :2], axis=0), axis=-1) * config.rate_hz
        smooth = np.apply_along_axis(lambda v: np.convolve(v, np.ones(10) / 10, mode="same"), 0, speed)
        quiet = np.array([int(np.max(np.flatnonzero(smooth[:-10, j] > 0.06), initial=-1)) + 1 for j in range(smooth.shape[1])]) / config.rate_hz
        rest = p[-50:, :, :2]
        rows.append(
            {
                "command": name,
                "falls": round(1 - float(ok.mean()), 3),
                "stop_m": round(float(distance.mean()), 3),
                "stop_rad": round(float(turn.mean()), 3),
                "quiet_after_s": round(float(np.median(quiet)), 2),
                "stepping_s": round(float(log.stepping[on:, own][:, ok].sum(axis=0).mean() / config.rate_hz), 2),
                "drift_m_s": round(float(np.linalg.norm(rest[-1] - rest[0], axis=-1).mean()), 3),
            }
        )
    return rows


# name, physics, solver iterations (None = the training's)
SIMULATIONS: tuple[tuple[str, dict, int | None], ...] = (
    ("training: 4 x 5 ms, implicitfast, 4 iterations", {}, None),
    ("4 x 5 ms, implicitfast, 100 iterations", {}, 100),
    ("10 x 2 ms, implicitfast, 100 iterations", {"substeps": 10}, 100),
    ("10 x 2 ms, Euler, 100 iterations", {"substeps": 10, "integrator": "euler"}, 100),
)
LOSSES = (0.0, 0.02, 0.1, 0.2)  # parts of the commands


def sim_to_sim(robot: RobotSpec, config: PipelineConfig, actor: Actor, *, each: int = 16, threads: int = 1, seed: int = 60_000) -> list[tuple[str, list[dict]]]:
    """The accuracy protocol in other simulations of the same robot, and with commands lost on the way to the motors."""
    out = []
    for name, changes, iterations in SIMULATIONS:
        physics = PhysicsConfig(threads=threads, **changes)
        out.append((name, accuracy(robot, config, actor, each=each, seed=seed, physics=physics, iterations=iterations)))
    for loss in LOSSES[1:]:
        physics = PhysicsConfig(threads=threads)
        out.append((f"{loss:.0%} of the commands lost", accuracy(robot, config, actor, each=each, seed=seed, physics=physics, packet_loss=loss)))
    return out


def _sim_table(rows: list[tuple[str, list[dict]]]) -> str:
    """Markdown: one line per simulation, position and heading error at the end per kind of command, falls."""
    pairs = (("forward / back", ("forward", "backward")), ("lateral", ("left", "right")), ("turn", ("turn left", "turn right")))
    lines = ["| simulation | " + " | ".join(f"{p} m, rad" for p, _ in pairs) + " | falls |", "|---|" + "---|" * (len(pairs) + 1)]
    for name, table in rows:
        cells = []
        for _, commands in pairs:
            own = [r for r in table if r["command"] in commands and "end_m" in r]
            cells.append(f"{np.mean([r['end_m'] for r in own]):.3f}, {np.mean([r['end_rad'] for r in own]):.3f}" if own else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {np.mean([r['falls'] for r in table]):.0%} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Arguments:
    """Quick look at a training state."""

    state: tyro.conf.Positional[Path]
    each: int = 16
    difficulty: float = 0.5
    randomise: float = 0.0
    seed: int = 10_000
    threads: int = 1
    no_push: bool = False
    accuracy: bool = False  # only the accuracy protocol
    sim_to_sim: bool = False  # only the accuracy protocol in other simulations and with lost commands


def development_report(
    state_path: Path, *, each: int = 16, difficulty: float = 0.5, randomise: float = 0.0, threads: int = 2, push: bool = True, seed: int = 10_000
) -> dict:
    """Tracking and falls per command, stopping, random switching: {"commands": {name: row}, "stopping": {...}, "switching": {...}}."""
    actor, state = load_actor(state_path)
    stored = json.loads(state["config"])
    config, robot = PipelineConfig.from_json(stored["pipeline"]), load_robot(stored["robot"])
    common = {"difficulty": difficulty, "randomise": randomise, "physics": dataclasses.replace(PhysicsConfig(), threads=threads)}
    return {
        "commands": {row.pop("command"): row for row in constant_commands(robot, config, actor, each=each, seed=seed, push=push, **common)},
        "stopping": {row.pop("command"): row for row in stopping(robot, config, actor, each=each, seed=seed + 1, **common)},
        "accuracy": {row.pop("command"): row for row in accuracy(robot, config, actor, seed=seed + 3, physics=common["physics"])},
        "stability": {str(row.pop("height")): row for row in stability(robot, config, actor, seed=seed + 4, physics=common["physics"])},
        "switching": random_switching(robot, config, actor, seed=seed + 2, **common),
        "robots_per_command": each,
        "difficulty": difficulty,
        "seed": seed,
    }


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(Arguments, args=argv, prog="python -m wbvla_train.lmo.evaluate")
    torch.set_num_threads(1)
    actor, state = load_actor(args.state)
    print(f"{args.state}: {state['steps'] / 1e6:.2f} M steps, {state['wall_s']:.0f} s, curriculum {state['curriculum']}")
    stored = json.loads(state["config"])
    if args.sim_to_sim:
        robot, config = load_robot(stored["robot"]), PipelineConfig.from_json(stored["pipeline"])
        print(_sim_table(sim_to_sim(robot, config, actor, each=args.each, threads=args.threads)))
        return 0
    if args.accuracy:
        physics = dataclasses.replace(PhysicsConfig(), threads=args.threads)
        for row in accuracy(load_robot(stored["robot"]), PipelineConfig.from_json(stored["pipeline"]), actor, each=args.each, physics=physics):
            print(f"{row.pop('command'):22s} " + "  ".join(f"{k} {v}" for k, v in row.items()))
        return 0
    report = development_report(
        args.state, each=args.each, difficulty=args.difficulty, randomise=args.randomise, threads=args.threads, push=not args.no_push, seed=args.seed
    )
    for part in ("commands", "stopping", "accuracy", "stability"):
        for name, row in report[part].items():
            print(f"{name:22s} " + "  ".join(f"{k} {v}" for k, v in row.items()))
    print("switching", report["switching"])
    return 0


if __name__ == "__main__":
    program(main)

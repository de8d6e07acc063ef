"""Train LMO: PPO of stable-baselines3 on the batched environment. ``wbvla train lmo --preset x2``.

One command runs the whole staged curriculum. It may be killed at any time: the same command goes on from the newest
checkpoint in ``--out`` (weights, optimiser, curriculum, counters, random states; loaded with ``weights_only``).
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from torch.utils.tensorboard import SummaryWriter

from wbvla_core.console import program
from wbvla_core.errors import WbvlaError
from wbvla_train.lmo.command import Arguments
from wbvla_train.lmo.config import STATE_FILE, STATE_HOLDS, TrainConfig
from wbvla_train.lmo.env import LmoVecEnv
from wbvla_train.lmo.network import AsymmetricPolicy, weights_of
from wbvla_train.state_file import claim, copy_state, differences, read_state, write_state

HOW_IT_IS_RUN = ("checkpoint_every:", "physics.threads:")  # a run goes on with other values of these


class Trainer:
    """The environment, the learner, and how both are saved together."""

    def __init__(self, config: TrainConfig, out: Path, *, threads: int = 2, tensorboard: bool = False, film_every: int | None = None) -> None:
        torch.set_num_threads(threads)
        self.config, self.out, self.film_every = config, out, film_every
        self.env = LmoVecEnv(config)
        out.mkdir(parents=True, exist_ok=True)
        self.board = SummaryWriter(str(out / "tensorboard")) if tensorboard else None
        self._film: subprocess.Popen | None = None
        self.rate = config.ppo.learning_rate
        p = config.ppo
        self.model = PPO(
            AsymmetricPolicy,
            self.env,
            learning_rate=lambda _: self.rate,
            n_steps=p.steps,
            batch_size=p.envs * p.steps // p.minibatches,
            n_epochs=p.epochs,
            gamma=p.gamma,
            gae_lambda=p.gae_lambda,
            clip_range=p.clip,
            ent_coef=p.entropy,
            vf_coef=1.0,
            max_grad_norm=1.0,
            seed=config.seed,
            device="cpu",
            policy_kwargs={"actor_size": self.env.actor_size, "layers": p.layers, "log_std_init": p.log_std_init},
        )
        self.model.set_logger(Logger(None, []))  # what is said is said here and in TensorBoard; its own would leave a folder in /tmp at each start
        self.averaged = {name: value.clone() for name, value in self.model.policy.state_dict().items()}
        self.steps_before = 0  # of the runs that this one continues
        self.wall_before_s = 0.0
        self.history: list[dict[str, Any]] = []
        self.changes: list[dict[str, Any]] = []  # of settings, on the way

    @property
    def steps(self) -> int:
        return self.steps_before + self.model.num_timesteps

    def save(self, wall_s: float) -> Path:
        """Write the resumable state by rename, so that a kill leaves a whole file."""
        rng = self.env.rng.bit_generator.state
        state = {
            "policy": self.model.policy.state_dict(),
            "averaged": self.averaged,
            "optimizer": self.model.policy.optimizer.state_dict(),
            "curriculum": self.env.curriculum.state(),
            "steps": self.steps,
            "wall_s": self.wall_before_s + wall_s,
            "learning_rate": self.rate,
            "env_rng": json.dumps(rng),
            "torch_rng": torch.get_rng_state(),
            "config": json.dumps(dataclasses.asdict(self.config)),
            "history": json.dumps(self.history),
            "changes": json.dumps(self.changes),
        }
        write_state(self.out / STATE_FILE, state)
        return self.out / STATE_FILE

    def load(self, path: Path, change_settings: bool = False) -> None:
        """Go on from :meth:`save`: robots start new episodes, all else continues.

        Raises:
            WbvlaError: a damaged state; a run with other settings, and ``change_settings`` is off: each one that differs is named.
        """
        state = read_state(path, holds=STATE_HOLDS)
        now = json.loads(json.dumps(dataclasses.asdict(self.config)))
        was = json.loads(state["config"])
        changed = [line for line in differences(was, now) if not line.startswith(HOW_IT_IS_RUN)]
        refused = [line for line in changed if not line.startswith("total_steps:") or now["total_steps"] < was["total_steps"]]
        if refused and not change_settings:
            listed = "\n  ".join(refused)
            raise WbvlaError(
                f"{path} belongs to a run with other settings (state -> asked for); give another --out, or --change-settings to go on with these:\n  {listed}"
            )
        self.changes = json.loads(state.get("changes", "[]"))
        if changed:
            self.changes.append({"steps": int(state["steps"]), "settings": changed})
        self.load_weights(state)
        self.averaged = {name: value.clone() for name, value in weights_of(state).items()}
        self.env.set_stage(self.config.stage_at(int(state["steps"])))
        self.model.policy.optimizer.load_state_dict(state["optimizer"])
        self.env.curriculum.load(state["curriculum"])
        self.env.rng.bit_generator.state = json.loads(state["env_rng"])
        torch.set_rng_state(state["torch_rng"])
        self.steps_before, self.wall_before_s, self.rate = int(state["steps"]), float(state["wall_s"]), float(state["learning_rate"])
        self.history = json.loads(state["history"])
        if now["total_steps"] != was["total_steps"]:
            print(f"  steps {was['total_steps']} -> {now['total_steps']}: stages begin at their share of the new number; this is stage {self.env.stage.name}")

    def load_weights(self, state: dict[str, Any]) -> None:
        self.model.policy.load_state_dict(state["policy"])
        self.averaged = {name: value.clone() for name, value in state["policy"].items()}

    def average(self) -> None:
        """Behind each update: move the running mean of the weights. Exploration and the last updates' noise average out, at no cost."""
        span = min(self.steps, self.config.ppo.average_share * self.config.total_steps)  # until a whole span is over: the mean since the beginning
        part = min(1.0, self.env.num_envs * self.config.ppo.steps / max(span, 1.0))
        with torch.no_grad():
            for name, value in self.model.policy.state_dict().items():
                self.averaged[name].lerp_(value, part)

    def film(self, state: Path) -> None:
        """Film a checkpoint in the background, unless the last film is still being made."""
        if self._film is None or self._film.poll() is not None:
            command = [sys.executable, "-m", "wbvla_train.lmo.film", str(state), str(state.with_suffix(".mp4"))]
            self._film = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=lambda: os.nice(19))

    def run(self, wall_limit_s: float | None = None) -> None:
        """Train up to ``config.total_steps``, or until ``wall_limit_s`` is over."""
        left = self.config.total_steps - self.steps_before
        if left <= 0:
            print(f"nothing to do: {self.steps_before} of {self.config.total_steps} steps are done")
            return
        watch = _Watch(self, wall_limit_s)
        signal.signal(signal.SIGTERM, lambda *_: setattr(watch, "stopped", True))  # a polite kill saves first
        self.model.learn(left, callback=watch, log_interval=10**9)
        self.save(time.monotonic() - watch.began)
        if self.board is not None:
            self.board.close()
        if self._film is not None:
            self._film.wait()


class _Watch(BaseCallback):
    """KL-adaptive learning rate, progress lines, checkpoints."""

    def __init__(self, trainer: Trainer, wall_limit_s: float | None) -> None:
        super().__init__()
        self.trainer, self.wall_limit_s = trainer, wall_limit_s
        self.began = self.last = time.monotonic()
        self.last_steps = 0
        self.saved_at = self.filmed_at = trainer.steps_before
        self.iteration = 0
        self.log_path = trainer.out / "log.jsonl"
        self.stopped = False

    def _on_step(self) -> bool:
        if self.stopped:
            return False
        return self.wall_limit_s is None or time.monotonic() - self.began < self.wall_limit_s

    def _on_rollout_start(self) -> None:
        """Runs right after each update: adapt the rate as legged_gym does, x1.5 or /1.5 outside [KL*/2, 2 KL*]."""
        t, p = self.trainer, self.trainer.config.ppo
        values = self.model.logger.name_to_value
        kl = values.get("train/approx_kl")
        if kl is not None:
            low, high = p.learning_rate_range
            if kl > 2 * p.desired_kl:
                t.rate = max(low, t.rate / 1.5)
            elif 0 < kl < p.desired_kl / 2:
                t.rate = min(high, t.rate * 1.5)
            t.average()
            self.iteration += 1
            every = 10 if t.config.total_steps > 100_000 else 1
            if self.iteration % every == 0:
                self._report(kl, values)
            self._change_stage()
            if t.steps - self.saved_at >= t.config.checkpoint_every:
                self.saved_at = t.steps
                path = t.save(time.monotonic() - self.began)
                numbered = t.out / f"state_{t.steps // 1_000_000:04d}M.pt"
                if t.config.total_steps > 1_000_000:
                    copy_state(path, numbered)
                if t.film_every is not None and t.steps - self.filmed_at >= t.film_every:
                    self.filmed_at = t.steps
                    t.film(numbered if numbered.is_file() else path)

    def _change_stage(self) -> None:
        """Go over to the next stage where its share of the steps begins."""
        t = self.trainer
        index = t.config.stage_at(t.steps)
        if index != t.env.stage_index:
            t.model._last_obs = t.env.set_stage(index)
            t.model._last_episode_starts = np.ones(t.env.num_envs, dtype=bool)
            print(f"{t.steps / 1e6:7.2f} M  stage {t.env.stage.name} begins", flush=True)

    def _report(self, kl: float, values: dict[str, Any]) -> None:
        t, now = self.trainer, time.monotonic()
        steps = t.model.num_timesteps
        speed = (steps - self.last_steps) / (now - self.last)
        self.last, self.last_steps = now, steps
        terms = t.env.take_terms()
        error = np.abs(t.env.rewards.short).mean(axis=0)
        turns, t.env.rewards.turn_errors = t.env.rewards.turn_errors, []
        row = {
            "steps": t.steps,
            "wall_s": round(t.wall_before_s + now - self.began, 1),
            "steps_per_s": round(speed),
            "difficulty": round(t.env.curriculum.difficulty, 3),
            "between_falls_s": round(t.env.curriculum.between_falls_s, 2),
            "reward": round(sum(terms.values()), 3),
            "stage": t.env.stage.name,
            "error": [round(float(e), 3) for e in error],
            "path": [round(float(e), 3) for e in np.abs(t.env.rewards.path).mean(axis=0)],
            "estimate": [round(float(e), 3) for e in np.abs(t.env.pipeline.path.error - t.env.rewards.path).mean(axis=0)],
            "heading_end": round(float(np.mean(turns)), 4) if turns else None,
            "std": round(float(t.model.policy.log_std.detach().exp().mean()), 3),
            "kl": round(float(kl), 4),
            "rate": t.rate,
            "value_loss": round(float(values.get("train/value_loss", 0.0)), 4),
            "terms": {k: round(v, 3) for k, v in terms.items()},
        }
        t.history.append({k: row[k] for k in ("steps", "wall_s", "difficulty", "between_falls_s", "reward")})
        if t.board is not None:
            self._draw(row)
        with self.log_path.open("a") as handle:
            handle.write(json.dumps(row) + "\n")
        print(
            f"{row['steps'] / 1e6:7.2f} M  {row['wall_s']:7.0f} s  {speed:6.0f}/s  reward {row['reward']:6.2f}  falls every {row['between_falls_s']:6.1f} s  "
            f"difficulty {row['difficulty']:.2f}  v-err {row['error']}  path {row['path']}  std {row['std']:.2f}  kl {row['kl']:.4f}  lr {t.rate:.1e}",
            flush=True,
        )

    def _draw(self, row: dict[str, Any]) -> None:
        """The row as TensorBoard scalars."""
        board, steps = self.trainer.board, row["steps"]
        for name in ("difficulty", "between_falls_s", "reward", "steps_per_s", "std", "kl", "rate", "value_loss", "heading_end"):
            if row[name] is not None:
                board.add_scalar(f"train/{name}", row[name], steps)
        board.add_scalar("train/stage", self.trainer.env.stage_index + 1, steps)
        for group in ("error", "path", "estimate"):
            for axis, value in zip(("forward", "lateral", "heading"), row[group], strict=True):
                board.add_scalar(f"{group}/{axis}", value, steps)
        for name, value in row["terms"].items():
            board.add_scalar(f"reward/{name}", value, steps)


def train(args: Arguments, config: TrainConfig) -> int:
    """Train, or go on, in ``args.out``; returns the exit status.

    Raises:
        WbvlaError: another training writes into the folder, or a state that does not fit.
    """
    fresh = args.start_from is not None and not (args.out / STATE_FILE).is_file()
    start = read_state(args.start_from, holds=STATE_HOLDS) if fresh else None
    with claim(args.out):
        return _train(args, config, start)


def _train(args: Arguments, config: TrainConfig, start: dict[str, Any] | None) -> int:
    newest = args.out / STATE_FILE
    trainer = Trainer(config, args.out, threads=args.threads, tensorboard=args.tensorboard, film_every=args.film_every)
    if newest.is_file():
        trainer.load(newest, args.change_settings)
        print(f"continuing {newest}: {trainer.steps_before} of {config.total_steps} steps done")
    elif start is not None:
        trainer.load_weights(start)
        print(f"starting from the weights of {args.start_from}")
    if args.difficulty is not None:
        trainer.env.curriculum.difficulty = args.difficulty
    trainer.run(args.wall_s)
    if args.export is not None and trainer.steps >= config.total_steps:
        from wbvla_train.lmo.evaluate import development_report
        from wbvla_train.lmo.export import export_checkpoint

        development = None if args.preset == "debug" else development_report(newest, threads=args.threads)
        export_checkpoint(args.out, args.export, development=development)
    return 0


if __name__ == "__main__":
    from wbvla_train.lmo.command import main

    program(main)

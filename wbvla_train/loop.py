"""The training loop of the VLA stages: resumable to the bit, one progress line now and then, a record of what it was.

Every random draw of step ``n`` follows from (seed, n) alone. A run that was killed and continued therefore takes the same
batches and gives the same losses as one that was not: only model, optimizer and step number need saving.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from wbvla_core.machine import describe_machine

STATE_FILE = "state.pt"
StepFn = Callable[[np.random.Generator], tuple[torch.Tensor, dict[str, float]]]  # draws a batch -> loss, numbers to show


@dataclass(frozen=True)
class LoopConfig:
    """Optimisation.

    Attributes:
        lr, warmup_steps, final_lr: AdamW, linear warm-up, cosine down to ``final_lr`` of the peak.
        betas, weight_decay, clip_norm: prior work (our prototype).
        bf16: matrix products in bfloat16, weights and sums in float32 (2 x faster on CPUs with AVX512-BF16 or AMX).
        threads: of torch; 1 leaves a core to whatever else runs.
        save_every, log_every: steps.
    """

    steps: int = 1000
    lr: float = 1e-3
    warmup_steps: int = 100
    final_lr: float = 0.02
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    bf16: bool = True
    threads: int = 1
    seed: int = 0
    save_every: int = 250
    log_every: int = 25


def learning_rate(config: LoopConfig, step: int) -> float:
    """Rate of step ``step`` (from 0)."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.lr * (config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


class TrainLoop:
    """Optimiser, schedule, saving and progress for one stage.

    Args:
        module: its trainable parameters are trained; its state dict is saved.
        step: draws a batch from the generator that it is given and returns the loss.
        run_dir: resumable state and log.
        settings: what the run is; a state of other settings (or of another ``config``, but for how it is run) is not continued.
        lr_factors: name of a parameter or of the module that holds it (``"decoder.arms"``) -> factor on its learning rate.

    Raises:
        ValueError: a name in ``lr_factors`` that no trained parameter has.
    """

    def __init__(
        self,
        config: LoopConfig,
        module: nn.Module,
        step: StepFn,
        run_dir: Path,
        settings: dict[str, Any],
        log=print,
        lr_factors: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        torch.set_num_threads(config.threads)
        self.config, self.module, self.run_dir, self.log = config, module, Path(run_dir), log
        loop = {key: value for key, value in asdict(config).items() if key not in ("threads", "save_every", "log_every")}
        self._step_fn, self._settings = step, json.dumps({**settings, "loop": loop}, default=str, sort_keys=True)
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._trained = [name for name, p in module.named_parameters() if p.requires_grad]
        groups = _parameter_groups(module, config.weight_decay, lr_factors)
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)
        self.step = 0
        self.seconds = 0.0
        self._shown: dict[str, float] = {}

    # -- resume ---------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the resumable state by rename."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        weights = {name: value for name, value in self.module.state_dict().items() if name in set(self._trained)}
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "weights": weights,
            "optimizer": self.optimizer.state_dict(),
            "settings": self._settings,
        }
        temporary = self.run_dir / f".{STATE_FILE}.{os.getpid()}"
        torch.save(state, temporary)
        os.replace(temporary, self.run_dir / STATE_FILE)

    def resume(self) -> bool:
        """Continue from ``run_dir`` if it holds a state.

        Raises:
            ValueError: a state of other settings.
        """
        path = self.run_dir / STATE_FILE
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True)
        if state["settings"] != self._settings:
            raise ValueError(f"{path} is the state of a run with other settings; give another --run-dir, or delete it to start anew")
        _, unknown = self.module.load_state_dict(state["weights"], strict=False)
        if unknown:
            raise ValueError(f"{path} holds weights that this model lacks: {unknown[:4]}")
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.log(f"continuing at step {self.step} of {self.config.steps} ({path})")
        return True

    # -- training -------------------------------------------------------------------------------------------------------

    def train_step(self) -> float:
        """One optimiser step; returns the loss."""
        config = self.config
        rng = np.random.default_rng((config.seed, self.step))
        torch.manual_seed(int(rng.integers(2**62)))
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr_factor"] * learning_rate(config, self.step)
        # The CPU's flash attention has a slow backward pass (a third of a step at these lengths): plain attention is faster.
        with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.bf16):
            loss, numbers = self._step_fn(rng)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"loss is {value} at step {self.step}; lower lr (now {config.lr}) or switch bf16 off")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, config.clip_norm)
        self.optimizer.step()
        self.step += 1
        for name, number in {"loss": value, **numbers}.items():
            self._shown[name] = number if name not in self._shown else 0.95 * self._shown[name] + 0.05 * number
        return value

    def run(self, evaluate: Callable[[], dict[str, float]] | None = None, evaluate_every: int = 0) -> dict[str, float]:
        """Train to the end; returns the running means of what the steps report."""
        start, start_step, spent = time.monotonic(), self.step, self.seconds
        previous = _raise_on_terminate()
        try:
            while self.step < self.config.steps:
                self.train_step()
                self.seconds = spent + time.monotonic() - start
                if self.step % self.config.log_every == 0 or self.step == self.config.steps:
                    self._progress((self.step - start_step) / (time.monotonic() - start))
                if self.step % self.config.save_every == 0:
                    self.save()
                if evaluate and evaluate_every and self.step % evaluate_every == 0:
                    self.log("  held out: " + "  ".join(f"{name} {value:.3f}" for name, value in evaluate().items()))
        finally:
            if previous is not None:
                signal.signal(signal.SIGTERM, previous)
            if self.step > start_step:
                self.save()
        return dict(self._shown)

    def _progress(self, rate: float) -> None:
        numbers = "  ".join(f"{name} {value:.3f}" for name, value in self._shown.items())
        left = (self.config.steps - self.step) / max(rate, 1e-9) / 60
        self.log(f"step {self.step}/{self.config.steps}  {numbers}  {rate:.2f} steps/s  {left:.1f} min left")


def _parameter_groups(module: nn.Module, weight_decay: float, lr_factors: Mapping[str, float]) -> list[dict[str, Any]]:
    """Trained parameters by weight decay (matrices only) and factor on the learning rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    unused = set(lr_factors)
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        prefix = next((prefix for prefix in lr_factors if name == prefix or name.startswith(f"{prefix}.")), None)
        unused.discard(prefix)
        factor = lr_factors[prefix] if prefix else 1.0
        groups.setdefault((weight_decay if parameter.ndim >= 2 else 0.0, factor), []).append(parameter)
    if unused:
        raise ValueError(f"no trained parameter is called {sorted(unused)} (a factor on the learning rate was asked for)")
    return [{"params": parameters, "weight_decay": decay, "lr_factor": factor} for (decay, factor), parameters in groups.items()]


def _raise_on_terminate():
    """Turn SIGTERM into KeyboardInterrupt, so that the state is saved on the way out; returns the previous handler."""

    def handler(signum, frame):
        raise KeyboardInterrupt

    try:
        return signal.signal(signal.SIGTERM, handler)
    except ValueError:  # not in the main thread
        return None


def run_record(config: Any, hours: float, **numbers: Any) -> dict[str, Any]:
    """What ``metrics.json`` says about a training: command, settings, hours, machine."""
    return {
        "command": " ".join([sys.argv[0] if sys.argv[0].startswith("wbvla ") else f"python -m {_module_name()}", *sys.argv[1:]]),
        "settings": json.loads(json.dumps(asdict(config), default=str)),
        "hours": round(hours, 3),
        "machine": describe_machine(f"torch {torch.__version__}"),
        **numbers,
    }


def _module_name() -> str:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec.name if spec else Path(sys.argv[0]).name

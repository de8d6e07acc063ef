"""The training loop of the VLA stages, for one core and for many GPUs: resumable to the bit, one progress line now and then, a record of what it was.

Every random draw of step ``n`` follows from (seed, n) alone. A run that was killed and continued therefore takes the same
batches and gives the same losses as one that was not: only model, optimizer and step number need saving. Started by a launcher
(:mod:`wbvla_train.parallel`), each of many processes takes its part of that same batch.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from wbvla_core.errors import WbvlaError
from wbvla_core.machine import describe_machine
from wbvla_train.parallel import Part, Processes, checkpoint_blocks, find_shards, gather_weights, load_shards, save_shards, to_device
from wbvla_train.state_file import read_state, write_state

STATE_FILE = "state.pt"
TERMINATED = "terminated"  # among a step's numbers: whether some process was told to end
HOW_IT_IS_RUN = ("threads", "save_every", "log_every", "accumulate", "checkpointing", "frozen_bf16")  # a state goes on with other values of these


class Step(Protocol):
    """What a stage does in one step."""

    def draw(self, rng: np.random.Generator, step: int, part: Part) -> Any:
        """This part of the batch of step ``step``, on the CPU; every draw from ``rng`` or from ``step``, alike in all parts."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss, a mean over samples, and numbers to show; ``model`` is called once."""
        ...


@dataclass(frozen=True)
class LoopConfig:
    """Optimisation.

    Attributes:
        lr, warmup_steps, final_lr: AdamW, linear warm-up, cosine down to ``final_lr`` of the peak.
        betas, weight_decay, clip_norm: prior work (our prototype).
        bf16: matrix products in bfloat16, weights and sums in float32 (2 x faster on CPUs with AVX512-BF16 or AMX).
        threads: of torch; 1 leaves a core to whatever else runs.
        save_every, log_every: steps.
        accumulate: pieces that a process's batch is computed in, one after the other; the step stays the same, up to the order of float sums.
        checkpointing: activations of the transformer blocks are computed again in the backward pass (a third more work for a fraction of the memory).
        frozen_bf16: weights that are not trained are held in bfloat16, where they are not sharded (FSDP wants one number format).
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
    accumulate: int = 1
    checkpointing: bool = False
    frozen_bf16: bool = False


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
        step: draws batches and computes their loss.
        run_dir: resumable state and log.
        settings: what the run is; a state of other settings (or of another ``config``, but for how it is run) is not continued.
        lr_factors: name of a parameter or of the module that holds it (``"decoder.arms"``) -> factor on its learning rate.
        processes: default: as the launcher says.

    Attributes:
        model: what steps call: ``module``, sharded or wrapped.

    Raises:
        ValueError: a name in ``lr_factors`` that no trained parameter has.
    """

    def __init__(
        self,
        config: LoopConfig,
        module: nn.Module,
        step: Step,
        run_dir: Path,
        settings: dict[str, Any],
        log=print,
        lr_factors: Mapping[str, float] = MappingProxyType({}),
        processes: Processes | None = None,
    ) -> None:
        torch.set_num_threads(config.threads)
        self.processes = processes or Processes.of_launcher()
        self.config, self.module, self.run_dir = config, module, Path(run_dir)
        self.log = self.processes.only_main(log)
        loop = {key: value for key, value in asdict(config).items() if key not in HOW_IT_IS_RUN}
        self._step, self._settings = step, json.dumps({**settings, "loop": loop}, default=str, sort_keys=True)
        if config.frozen_bf16 and not self.processes.blocks:
            for parameter in module.parameters():  # not the buffers: frequencies of rotary positions lose too much in bfloat16
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(torch.bfloat16)
        if config.checkpointing:
            checkpoint_blocks(module)
        self.model = self.processes.prepare(module, config.bf16)
        self._trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        groups = _parameter_groups(module, config.weight_decay, lr_factors)
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)
        self.step = 0
        self.seconds = 0.0
        self._shown: dict[str, float] = {}
        self._terminated = self._ending = False  # this process was told to end; some process was, and all know

    # -- resume ---------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the resumable state by rename; launched, all processes must call it."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        if self.processes.launched:
            about = {"step": self.step, "seconds": self.seconds, "settings": self._settings}
            return save_shards(self.run_dir, self.processes, self._tensors(), about)
        weights = {name: value for name, value in self.module.state_dict().items() if name in self._trained}
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "weights": weights,
            "optimizer": self.optimizer.state_dict(),
            "settings": self._settings,
        }
        write_state(self.run_dir / STATE_FILE, state)

    def resume(self) -> bool:
        """Continue from ``run_dir`` if it holds a state. A launched run's state goes on in any number of processes.

        Raises:
            WbvlaError: a damaged state, or one of other settings.
        """
        if self.processes.launched:
            found = find_shards(self.run_dir)
            if not found:
                return False
            path, state = found
        else:
            path = self.run_dir / STATE_FILE
            if not path.exists():
                return False
            state = read_state(path, holds=("settings", "weights"))
        if state["settings"] != self._settings:
            raise WbvlaError(f"{path} is the state of a run with other settings; give another --run-dir, or delete it to start anew")
        if self.processes.launched:
            load_shards(path, self.processes, self._tensors())
        else:
            _, unknown = self.module.load_state_dict(state["weights"], strict=False)
            if unknown:
                raise WbvlaError(f"{path} holds weights that this model lacks: {unknown[:4]}")
            self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.log(f"continuing at step {self.step} of {self.config.steps} ({path})")
        return True

    def _tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """Trained weights and AdamW's moments by the weights' names. A moment that is not there yet is zero: what AdamW begins with."""
        tensors: dict[str, dict[str, torch.Tensor]] = {"weights": {}, "exp_avg": {}, "exp_avg_sq": {}, "step": {}}
        for name, parameter in self._trained.items():
            state = self.optimizer.state[parameter]
            state.setdefault("step", torch.tensor(0.0))
            for moment in ("exp_avg", "exp_avg_sq"):
                state.setdefault(moment, torch.zeros_like(parameter))
            tensors["weights"][name] = parameter.detach()
            for key in ("exp_avg", "exp_avg_sq", "step"):
                tensors[key][name] = state[key]
        return tensors

    def weights(self, trained_only: bool = False) -> dict[str, torch.Tensor]:
        """The module's weights, whole, for export; launched, on rank 0 alone, and all processes must call it."""
        if self.processes.launched:
            return gather_weights(self.model, trained_only)
        return {name: value for name, value in self.module.state_dict().items() if not trained_only or name in self._trained}

    # -- training -------------------------------------------------------------------------------------------------------

    def train_step(self) -> float:
        """One optimiser step; returns the loss."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr_factor"] * learning_rate(config, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        pieces = [self._backward(piece) for piece in range(config.accumulate)]
        names = list(pieces[0])
        values = self.processes.mean(sum(piece[name] for piece in pieces) / len(pieces) for name in names)
        numbers = dict(zip(names, values, strict=True))
        self._ending = numbers.pop(TERMINATED) > 0
        if not math.isfinite(numbers["loss"]):
            raise FloatingPointError(f"loss is {numbers['loss']} at step {self.step}; lower lr (now {config.lr}) or switch bf16 off")
        nn.utils.clip_grad_norm_(list(self._trained.values()), config.clip_norm)
        self.optimizer.step()
        self.step += 1
        for name, number in numbers.items():
            self._shown[name] = number if name not in self._shown else 0.95 * self._shown[name] + 0.05 * number
        return numbers["loss"]

    def _backward(self, piece: int) -> dict[str, float]:
        """Gradients of one piece of this process's batch are added up; returns its numbers."""
        config, here = self.config, self.processes
        rng = np.random.default_rng((config.seed, self.step))
        part = Part(here.rank * config.accumulate + piece, here.count * config.accumulate)
        torch.manual_seed(int(rng.integers(2**62)) + part.index)
        batch = to_device(self._step.draw(rng, self.step, part), here.device)
        # The CPU's flash attention has a slow backward pass (a third of a step at these lengths): plain attention is faster. The backward pass is
        # inside, too: with checkpointing it computes blocks again, and must do so in the same way.
        attention = sdpa_kernel(SDPBackend.MATH) if here.device.type == "cpu" else nullcontext()
        waiting = here.unsynchronised(self.model) if piece + 1 < config.accumulate else nullcontext()
        with attention, waiting:
            with torch.autocast(here.device.type, dtype=torch.bfloat16, enabled=config.bf16):
                loss, numbers = self._step.loss(self.model, batch)
            (loss / config.accumulate if config.accumulate > 1 else loss).backward()
        return {"loss": float(loss.detach()), **numbers, TERMINATED: float(self._terminated)}

    def run(self, evaluate: Callable[[], dict[str, float]] | None = None, evaluate_every: int = 0) -> dict[str, float]:
        """Train to the end; returns the running means of what the steps report."""
        start, start_step, spent = time.monotonic(), self.step, self.seconds
        previous = self._on_terminate()
        try:
            while self.step < self.config.steps:
                self.train_step()
                self.seconds = spent + time.monotonic() - start
                if self._ending:
                    self.save()
                    raise KeyboardInterrupt
                if self.step % self.config.log_every == 0 or self.step == self.config.steps:
                    self._progress((self.step - start_step) / (time.monotonic() - start))
                if self.step % self.config.save_every == 0:
                    self.save()
                if evaluate and evaluate_every and self.step % evaluate_every == 0:
                    self.log("  held out: " + "  ".join(f"{name} {value:.3f}" for name, value in self.evaluated(evaluate).items()))
            if self.processes.launched and self.step > start_step:
                self.save()
        finally:
            if previous is not None:
                signal.signal(signal.SIGTERM, previous)
            if self.step > start_step and not self.processes.launched:
                self.save()
        return dict(self._shown)

    def evaluated(self, evaluate: Callable[[], dict[str, float]]) -> dict[str, float]:
        """What ``evaluate`` gives: in float32, or in the steps' number format where weights are held in it; launched, all processes must call it."""
        half = self.config.bf16 and (self.processes.launched or self.config.frozen_bf16)
        with torch.autocast(self.processes.device.type, dtype=torch.bfloat16, enabled=half):
            return evaluate()

    def _on_terminate(self):
        """Save the state on SIGTERM: on the way out, or, where many processes must do it together, after the step; returns the previous handler."""

        def handler(signum, frame):
            if not self.processes.launched:
                raise KeyboardInterrupt
            self._terminated = True

        try:
            return signal.signal(signal.SIGTERM, handler)
        except ValueError:  # not in the main thread
            return None

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

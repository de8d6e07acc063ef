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
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from wbvla_core.errors import WbvlaError
from wbvla_core.machine import describe_machine
from wbvla_train.loop_config import LoopConfig
from wbvla_train.parallel import (
    STATE_FILE,
    Part,
    Processes,
    checkpoint_blocks,
    copy_into,
    drop_states,
    find_shards,
    gather_weights,
    load_shards,
    save_shards,
    to_device,
)
from wbvla_train.state_file import read_state, require_same, require_same_data, write_state

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
        data: name -> what the data are told by (:mod:`wbvla_train.data.prints`); a state of other data is not continued.

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
        data: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        torch.set_num_threads(config.threads)
        self.processes = processes or Processes.of_launcher()
        self.config, self.module, self.run_dir = config, module, Path(run_dir)
        self.log = self.processes.only_main(log)
        loop = {key: value for key, value in asdict(config).items() if key not in HOW_IT_IS_RUN}
        self._step, self._settings = step, json.dumps({**settings, "loop": loop}, default=str, sort_keys=True)
        self._data = json.loads(json.dumps(dict(data), sort_keys=True))
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
        self._batch: Any = None  # the last one, for a message about it
        self._terminated = self._ending = False  # this process was told to end; some process was, and all know

    # -- resume ---------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the resumable state by rename, in place of the one before; launched, all processes must call it.

        Raises:
            WbvlaError: the disk is full; the state before stays.
        """
        self.run_dir.mkdir(parents=True, exist_ok=True)
        about = {"step": self.step, "seconds": self.seconds, "settings": self._settings, "data": json.dumps(self._data)}
        if self.processes.sharded:
            return save_shards(self.run_dir, self.processes, self._tensors(), about)
        if self.processes.main:
            tensors = self._tensors()
            weights = tensors.pop("weights")
            write_state(self.run_dir / STATE_FILE, {**about, "weights": weights, "optimizer": tensors})
            drop_states(self.run_dir, keep=self.run_dir / STATE_FILE)
        self.processes.wait()

    def resume(self) -> bool:
        """Continue from ``run_dir`` if it holds a state, whoever wrote it: one process or many, on whole or on sharded weights.

        Raises:
            WbvlaError: a damaged state, one of other settings or data, or one that is beyond the steps asked for.
        """
        path, about = self._find()
        if path is None:
            return False
        was, now = json.loads(about["settings"]), json.loads(self._settings)
        changed = require_same(path, was, now, free=("loop.steps",))
        require_same_data(path, json.loads(about.get("data", "null")), self._data, self.log)
        if about["step"] > self.config.steps:
            raise WbvlaError(
                f"{path} is at step {about['step']} already, {self.config.steps} were asked for; ask for as many or more, or give another --run-dir"
            )
        if path.is_dir():
            load_shards(path, self.processes, self._tensors(), about.get("files"))
        else:
            self._load(path, about)
        self.step, self.seconds = about["step"], about["seconds"]
        self.log(f"continuing at step {self.step} of {self.config.steps} ({path})")
        if changed:
            before = replace(self.config, steps=was["loop"]["steps"])
            self.log(
                f"  steps {before.steps} -> {self.config.steps}: the learning rate goes on as it would have been in a run of {self.config.steps} steps "
                f"(now {learning_rate(self.config, self.step):.2e}, it was {learning_rate(before, max(self.step - 1, 0)):.2e})"
            )
        return True

    def _find(self) -> tuple[Path | None, dict[str, Any]]:
        """The state that went furthest, and what it says; with its tensors where it is one file."""
        shards, path = find_shards(self.run_dir), self.run_dir / STATE_FILE
        if not path.exists():
            return shards or (None, {})
        state = read_state(path, holds=("settings", "weights", "step"))
        return shards if shards and shards[1]["step"] > state["step"] else (path, state)

    def _load(self, path: Path, state: dict[str, Any]) -> None:
        """Copy a state that was written as one file into weights and optimizer."""
        moments = state["optimizer"]
        if "param_groups" in moments:  # of before the states of one and of many processes were the same
            moments = self._by_name(moments)
        for kind, tensors in self._tensors().items():
            stored = state["weights"] if kind == "weights" else moments[kind]
            if missing := sorted(tensors.keys() ^ stored.keys()):
                raise WbvlaError(f"{path} is the state of another model: {missing[0]} and {len(missing) - 1} more are in one of them only")
            for name, tensor in tensors.items():
                if tensor.shape != stored[name].shape:
                    raise WbvlaError(f"{path} is the state of another model: {name} is {list(stored[name].shape)} there, {list(tensor.shape)} here")
                copy_into(tensor, stored[name])

    def _by_name(self, optimizer: dict[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
        """AdamW's own state dict, which counts its parameters, as :meth:`_tensors` names them. What it lacks was never stepped."""
        names = {id(parameter): name for name, parameter in self._trained.items()}
        order = [names[id(parameter)] for group in self.optimizer.param_groups for parameter in group["params"]]
        found = {kind: {name: torch.zeros_like(value) for name, value in values.items()} for kind, values in self._tensors().items() if kind != "weights"}
        for number, state in optimizer["state"].items():
            for kind in found:
                found[kind][order[number]] = state[kind]
        return found

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
            raise WbvlaError(
                f"the loss is {numbers['loss']} at step {self.step}; the largest numbers of the batch are {_largest(self._batch)}: where one of them is "
                f"absurd, look for it in the data; else lower lr (now {config.lr}) or switch bf16 off"
            )
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
        batch = self._batch = to_device(self._step.draw(rng, self.step, part), here.device)
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


def _largest(batch: Any, name: str = "batch") -> str:
    """``arm_state 1e+30, pixels 2.6``: the largest magnitude of each tensor of numbers in a batch, the largest first."""
    found: dict[str, float] = {}

    def visit(part: Any, name: str) -> None:
        if isinstance(part, torch.Tensor) and part.is_floating_point() and part.numel():
            size = float(part.detach().float().abs().max())
            found[name] = math.inf if math.isnan(size) else size
        elif isinstance(part, (tuple, list)):
            for number, value in enumerate(part):
                visit(value, f"{name}[{number}]")
        elif isinstance(part, dict):
            for key, value in part.items():
                visit(value, key)
        elif is_dataclass(part):
            for field in fields(part):
                visit(getattr(part, field.name), field.name)

    visit(batch, name)
    shown = sorted(found.items(), key=lambda item: -item[1])[:4]
    return ", ".join(f"{name} {size:.3g}" for name, size in shown) or "none"


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

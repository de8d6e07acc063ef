"""``wbvla train lam``: train one latent action model on action-free video and export it.

Every random draw of a step (which pairs, how they are augmented, where codes are reset) is a function of (seed, step) alone.
A run that was killed and resumed therefore repeats, to the bit, the losses of one that was not.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from wbvla_core.console import program
from wbvla_core.errors import WbvlaError
from wbvla_core.machine import describe_machine
from wbvla_train.data.clips import Corpus, Pairs
from wbvla_train.data.video import ROBOT_VIEW
from wbvla_train.lam import export as lam_export
from wbvla_train.lam.config import LamTrainConfig, domains_of
from wbvla_train.lam.feature_model import FeatureActionModel, new_model
from wbvla_train.lam.features import RANDOM, FeatureCorpus, FrozenFeatures, load_features
from wbvla_train.lam.geometry import crop_lens, identity_grid, lens_from_view
from wbvla_train.lam.health import CollapseMonitor, measure
from wbvla_train.lam.model import LamOutput, pixels
from wbvla_train.lam.slots import mask_loss
from wbvla_train.state_file import claim, read_state, require_same, require_same_data, write_state
from wbvla_vla.engine import require_device

STATE_FILE = "state.pt"
LOG_FILE = "log.jsonl"
LOOKED_AT = 512  # pairs of which at least one in a hundred must move,
STILL = 0.3  # by this many of 255 grey levels on average (ours: a hand that fills 1 % of the picture and moves by its width makes 0.6)


@dataclass(frozen=True)
class Batch:
    """first, later [B, 3, S, S] float32, or [B, C, h, w] where they are ``extracted`` features; lens [B, 5]."""

    first: torch.Tensor
    later: torch.Tensor
    lens: torch.Tensor
    extracted: bool = False

    def to(self, device: str) -> Batch:
        return replace(self, first=self.first.to(device), later=self.later.to(device), lens=self.lens.to(device))


class PairSampler:
    """Batches of augmented frame pairs, a pure function of (seed, step)."""

    def __init__(self, config: LamTrainConfig, main: tuple[Corpus | FeatureCorpus, Pairs], extra: tuple[Corpus | FeatureCorpus, Pairs] | None) -> None:
        self.config, self.main, self.extra = config, main, extra

    @property
    def data(self) -> dict[str, Any]:
        """What tells the video, by the folder's name; see :attr:`~wbvla_train.data.clips.Corpus.fingerprint`."""
        return {part: source[0].fingerprint for part, source in (("video", self.main), ("robot and extra", self.extra)) if source}

    def batch(self, step: int) -> Batch:
        c = self.config
        rng = np.random.default_rng((c.seed, step, 1))
        n_extra = round(c.batch * c.extra_share) if self.extra else 0
        parts = [self._gather(self.main, rng, c.batch - n_extra)]
        if self.extra and n_extra:
            parts.append(self._gather(self.extra, rng, n_extra))
        first, later, view = (torch.cat(column) for column in zip(*parts, strict=True))
        if c.cache_features:  # whatever else would augment them needs the pixels
            swap = torch.from_numpy(rng.random(len(first)) < 0.5)[:, None, None, None]
            first, later = torch.where(swap, later, first), torch.where(swap, first, later)
            return Batch(first.permute(0, 3, 1, 2), later.permute(0, 3, 1, 2), lens_from_view(view), extracted=True)
        return self._augment(pixels(first), pixels(later), lens_from_view(view), rng)

    @staticmethod
    def _gather(source: tuple[Corpus | FeatureCorpus, Pairs], rng: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        corpus, pairs = source
        index = rng.integers(0, len(pairs), count)
        views = torch.from_numpy(pairs.views[pairs.clip[index]])
        return torch.from_numpy(corpus.frames[pairs.first[index]]), torch.from_numpy(corpus.frames[pairs.later[index]]), views

    def _augment(self, first: torch.Tensor, later: torch.Tensor, lens: torch.Tensor, rng: np.random.Generator) -> Batch:
        """Alike for both frames of a pair: time reversal, left-right flip (a mirrored world, same camera), crop, gain, shift."""
        c, n, size = self.config, len(first), first.shape[-1]

        def flags() -> torch.Tensor:
            return torch.from_numpy(rng.random(n) < 0.5)

        swap, flip = flags()[:, None, None, None], flags()[:, None, None, None]
        first, later = torch.where(swap, later, first), torch.where(swap, first, later)
        both = torch.cat((first, later), dim=1)  # [B, 6, S, S]
        both = torch.where(flip, both.flip(3), both)
        half_width = 1.0 - c.zoom * rng.random(n)
        centre = (2.0 * rng.random((n, 2)) - 1.0) * (1.0 - half_width)[:, None]
        crop = torch.from_numpy(np.concatenate((centre, half_width[:, None]), axis=1).astype(np.float32))  # [B, 3]
        grid = (identity_grid(size) * crop[:, 2, None, None, None] + crop[:, :2, None, None]).permute(0, 2, 3, 1)
        both = F.grid_sample(both, grid, mode="bilinear", padding_mode="border", align_corners=False)
        gain = torch.from_numpy((1.0 + c.gain * (2.0 * rng.random((n, 1, 1, 1)) - 1.0)).astype(np.float32))
        shift = torch.from_numpy((c.offset * (2.0 * rng.random((n, 3, 1, 1)) - 1.0)).astype(np.float32))
        both = both * gain + shift.repeat(1, 2, 1, 1)
        return Batch(both[:, :3], both[:, 3:], crop_lens(lens, crop))


class BalancedSampler:
    """The batches of several samplers side by side: with settings alike but for the domain, the shared model sees in every step
    exactly the pairs that the separate ones see, as many of each domain however much video there is of either."""

    def __init__(self, samplers: list[PairSampler]) -> None:
        self.samplers = samplers

    @property
    def data(self) -> dict[str, Any]:
        return {f"{number} {part}": found for number, sampler in enumerate(self.samplers) for part, found in sampler.data.items()}

    def batch(self, step: int) -> Batch:
        parts = [sampler.batch(step) for sampler in self.samplers]
        return Batch(*(torch.cat([getattr(part, name) for part in parts]) for name in ("first", "later", "lens")), parts[0].extracted)


def reconstruction_loss(prediction: torch.Tensor, batch: Batch, power: float, scales: int) -> torch.Tensor:
    """Multi-scale MSE; pairs in which little moves count relatively more (see ``LamTrainConfig.loss_power``)."""
    weight = ((batch.first - batch.later).square().mean((1, 2, 3)) + 0.01) ** -power
    weight = weight / weight.mean()
    total = prediction.new_zeros(())
    a, b = prediction, batch.later
    for scale in range(scales):
        if scale:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        total = total + ((a - b).square().mean((1, 2, 3)) * weight).mean()
    return total / scales


def learning_rate(config: LamTrainConfig, step: int) -> float:
    """Linear warm-up, then cosine down to ``final_lr`` of the peak."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    u = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.lr * (config.final_lr + (1.0 - config.final_lr) * 0.5 * (1.0 + math.cos(math.pi * min(u, 1.0))))


class LamTrainer:
    """Model, optimiser and step counter; saved and restored whole."""

    def __init__(self, config: LamTrainConfig, sampler: PairSampler | BalancedSampler) -> None:
        torch.manual_seed(config.seed)
        self.config, self.sampler, self.step = config, sampler, 0
        self.data = sampler.data
        self.model = new_model(config.model, config.features).to(config.device)
        if isinstance(self.model, FeatureActionModel):
            batch = sampler.batch(0).to(config.device)
            frames = torch.cat((batch.first, batch.later))
            self.model.fit_standardisation(frames if batch.extracted else self.model.extractor(frames))
        decayed = [p for name, p in self.model.named_parameters() if p.ndim >= 2 and "codebook" not in name]
        others = [p for name, p in self.model.named_parameters() if p.ndim < 2 or "codebook" in name]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))
        self.resets, self.seconds = 0, 0.0

    @property
    def pairs_seen(self) -> int:
        """Of all domains together."""
        return self.step * self.config.batch * len(domains_of(self.config.name))

    def train_step(self) -> dict[str, float]:
        """One optimiser step; returns its losses."""
        c, started = self.config, time.perf_counter()
        self.model.train()
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(c, self.step)
        drawn = self.sampler.batch(self.step).to(c.device)
        with torch.autocast(torch.device(c.device).type, dtype=torch.bfloat16, enabled=c.bf16):
            batch = self._features(drawn)
            out: LamOutput = self.model(batch.first, batch.later, batch.lens, continuous=self.step < c.continuous_steps)
        reconstruction = reconstruction_loss(out.prediction.frame, batch, c.loss_power, c.loss_scales)
        loss = reconstruction + out.quantiser_loss
        if out.prediction.masks is not None:
            loss = loss + c.mask_weight * mask_loss(out.prediction.masks, batch.first, batch.later)
        if not torch.isfinite(loss):
            raise WbvlaError(
                f"the loss is {loss.item()} at step {self.step}; lower --lr (now {c.lr}). Pixels are 8-bit numbers and cannot be the cause"
                + ("; features of published weights can" if c.model.feature_space != "pixels" else "")
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), c.clip_norm)
        self.optimiser.step()
        self._care_for_codes(out)
        self.step += 1
        self.seconds += time.perf_counter() - started
        with torch.no_grad():
            gain = 1.0 - (out.prediction.frame - batch.later).square().sum() / (batch.first - batch.later).square().sum().clamp_min(1e-9)
        return {"loss": loss.item(), "reconstruction": reconstruction.item(), "quantiser": out.quantiser_loss.item(), "rrg_train": gain.item()}

    def _features(self, batch: Batch) -> Batch:
        """The batch in the model's feature space; both frames in one pass."""
        frames = torch.cat((batch.first, batch.later))
        first, later = (self.model.standardise(frames) if batch.extracted else self.model.features(frames)).chunk(2)
        return replace(batch, first=first, later=later)

    def _care_for_codes(self, out: LamOutput) -> None:
        """Usage and resets; a code that was moved forgets its optimiser moments."""
        quantiser, z = self.model.quantiser, out.z.detach()
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.step)
        if self.step + 1 < self.config.continuous_steps:
            return
        if self.step + 1 == self.config.continuous_steps:
            quantiser.start_from(z, generator)
            return
        quantiser.note_usage(out.codes)
        moved = quantiser.reset_unused(z, generator)
        if bool(moved.any()):
            self.resets += int(moved.sum())
            state = self.optimiser.state[quantiser.codebook]
            for key in ("exp_avg", "exp_avg_sq"):
                state[key][moved] = 0.0

    def save(self, path: Path) -> None:
        """Write the whole state by rename."""
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "digest": settings_digest(self.config),
            "settings": json.dumps(_settings(self.config)),
            "data": json.dumps(self.data),
            "step": self.step,
            "seconds": self.seconds,
            "resets": self.resets,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        write_state(path, state)

    def restore(self, path: Path, log=print) -> None:
        """Raises:
        WbvlaError: a damaged state, one of other settings or data, or one that is beyond the steps asked for.
        """
        state = read_state(path, holds=("digest", "model"), device=self.config.device)
        if "settings" in state:
            was = json.loads(state["settings"])
            changed = require_same(path, was, json.loads(json.dumps(_settings(self.config))), free=("steps",))
            require_same_data(path, json.loads(state["data"]), self.data, log)
            if changed:
                log(f"  steps {was['steps']} -> {self.config.steps}: the learning rate goes on as in a run of {self.config.steps} steps")
        elif state["digest"] != (wanted := settings_digest(self.config)):  # an older state, which does not say which
            raise WbvlaError(
                f"{path} was made with other settings (digest {state['digest'][:12]}, wanted {wanted[:12]}); give another --run-dir, or --no-resume"
            )
        if state["step"] > self.config.steps:
            raise WbvlaError(
                f"{path} is at step {state['step']} already, --steps {self.config.steps} were asked for; ask for as many, or give another --run-dir"
            )
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds, self.resets = state["step"], state["seconds"], state["resets"]


def _settings(config: LamTrainConfig) -> dict[str, Any]:
    """Everything that the sequence of losses depends on (but the video itself), as JSON."""
    bookkeeping = ("output", "run_dir", "resume", "threads", "device", "save_every", "health_every", "stop_after", "stop_patience")
    return json.loads(json.dumps({key: value for key, value in asdict(config).items() if key not in bookkeeping}, default=str))


def settings_digest(config: LamTrainConfig) -> str:
    """Identifies the settings of states that do not hold them."""
    return hashlib.sha256(json.dumps(_settings(config), sort_keys=True).encode()).hexdigest()


def train(config: LamTrainConfig, log=print, command: str = "") -> Path:
    """Train to ``config.steps``, checking health on the way, and export. Returns the checkpoint directory.

    Raises:
        CollapseError: the codes carry nothing, lastingly.
        WbvlaError: another training writes into the run folder; settings, video or states that do not fit.
    """
    with claim(config.state_dir):
        return _train(config, log, command)


def _train(config: LamTrainConfig, log, command: str) -> Path:
    if config.features == RANDOM and config.model.backbone != "debug":
        raise WbvlaError(f"--features {RANDOM} says nothing about video: give the published weights, or take the preset debug-dinov2")
    torch.set_num_threads(config.threads)
    require_device(config.device)
    extractor = None
    if config.model.feature_space == "dinov2":
        extractor = load_features(config.features, config.model)  # before any video is decoded: it may not be there
        extractor.to(config.device)
    samplers, available = [], {}
    for domain in domains_of(config.name):
        main, extra = (
            _with_pairs(folders, config, log, extractor if config.cache_features else None)
            for folders in ([config.data / "train" / domain], config.extra_folders(domain))
        )
        _require_motion(config.data / "train" / domain, *main)
        samplers.append(PairSampler(config, main, extra))
        available[domain] = {"rooms": len(main[1]), "robot_and_extra": len(extra[1]) if extra else 0}
    dev = {domain: _with_pairs([config.data / "dev" / domain], config, log) for domain in domains_of(config.name)}
    trainer = LamTrainer(config, samplers[0] if len(samplers) == 1 else BalancedSampler(samplers))
    parameters = sum(p.numel() for p in trainer.model.parameters())
    log(
        f"lam {config.name}: {parameters:,} parameters; pairs {config.gap_s} s apart: "
        + ", ".join(f"{domain} {n['rooms']:,} + {n['robot_and_extra']:,} of the robot's camera and extra" for domain, n in available.items())
        + f"; {config.steps} steps of {config.batch} per domain"
    )
    state_path = config.state_dir / STATE_FILE
    if config.resume and state_path.exists():
        trainer.restore(state_path, log)
        log(f"lam {config.name}: resumed at step {trainer.step}")
    config.state_dir.mkdir(parents=True, exist_ok=True)
    monitors = {domain: CollapseMonitor(config.stop_after, config.stop_patience) for domain in dev}
    with (config.state_dir / LOG_FILE).open("a") as journal:
        while trainer.step < config.steps:
            losses = trainer.train_step()
            last = trainer.step == config.steps
            if trainer.step % config.health_every == 0 or last:
                health = {domain: measure(trainer.model, *of_domain, seed=config.seed) for domain, of_domain in dev.items()}
                rate = trainer.pairs_seen / max(trainer.seconds, 1e-9)
                record = {"step": trainer.step, **losses, "dev": {domain: h.to_json() for domain, h in health.items()}, "pairs_per_s": round(rate, 1)}
                journal.write(json.dumps(record) + "\n")
                journal.flush()
                remaining_s = (config.steps - trainer.step) * trainer.seconds / trainer.step
                shown = "; ".join(f"{domain} {h.line()}" for domain, h in health.items())
                log(f"lam {config.name} {trainer.step}/{config.steps}: {shown}; {rate:.0f} pairs/s, {remaining_s / 60:.0f} min to go")
                for domain, h in health.items():
                    monitors[domain].check(trainer.step, h)
            if trainer.step % config.save_every == 0 or last:
                trainer.save(state_path)
    return _export(trainer, dev, available, command, log)


def _require_motion(folder: Path, corpus: Corpus | FeatureCorpus, pairs: Pairs) -> None:
    """Refuse video in which nothing moves: its training would end hours later, as a collapse of the codes."""
    rows = np.random.default_rng(0).integers(len(pairs), size=min(len(pairs), LOOKED_AT))
    first, later = (np.asarray(corpus.frames[index[rows]], dtype=np.float32) for index in (pairs.first, pairs.later))
    moved = np.abs(later - first).reshape(len(rows), -1).mean(axis=1)
    least = STILL * (1.0 if corpus.frames.dtype == np.uint8 else 1.0 / 255.0)
    if (still := int((moved < least).sum())) > 0.99 * len(rows):
        raise WbvlaError(
            f"{folder}: nothing moves in {still} of {len(rows)} pairs of frames that were looked at (they differ by {moved.mean():.3g} on average): "
            "a still or black film teaches no motion; take other video, or a larger --gap-s"
        )


def _with_pairs(folders: list[Path], config: LamTrainConfig, log, extractor: FrozenFeatures | None = None) -> tuple[Corpus | FeatureCorpus, Pairs] | None:
    """The clips of some folders, if any, or the ``extractor``'s features of them, and their pairs."""
    if not folders:
        return None
    corpus = Corpus(folders, config.model.image_size, log)
    return FeatureCorpus(corpus, extractor, log) if extractor else corpus, corpus.pairs(config.gap_s)


def _export(trainer: LamTrainer, dev: dict[str, tuple[Corpus, Pairs]], available: dict[str, dict[str, int]], command: str, log) -> Path:
    """Measure what will be exported (weights rounded to half precision), then write the checkpoint."""
    config = trainer.config
    rounded = new_model(config.model, config.features)
    rounded.load_state_dict({key: value.float() for key, value in lam_export.half(trainer.model).items()})
    measured = dict(dev)
    for domain in dev:
        robot_dev = config.data / "dev" / f"x2_{domain}"
        if config.robot_video and robot_dev.is_dir():
            measured[robot_dev.name] = _with_pairs([robot_dev], config, log)
    health = {domain: measure(rounded, *of_domain, count=2048, seed=config.seed + 1) for domain, of_domain in measured.items()}
    trained_on = [folder for domain in dev for folder in (config.data / "train" / domain, *config.extra_folders(domain))]
    metrics = {
        "command": command,
        "seed": config.seed,
        "data": {"train": list(map(str, trained_on)), "pairs_available": available},
        "pairs_seen": trainer.pairs_seen,
        "training": {"steps": config.steps, "batch": config.batch, "lr": config.lr},
        "hours": round(trainer.seconds / 3600.0, 3),
        "machine": describe_machine(config.device, f"{config.threads} thread(s)", f"torch {torch.__version__}"),
        "code_resets": trainer.resets,
        "dev": {domain: h.to_json() for domain, h in health.items()},
    }
    lam_export.export(trainer.model, config.name, config.gap_s, ROBOT_VIEW, config.checkpoint_dir, metrics)
    for domain, h in health.items():
        log(f"lam {config.name}: exported to {config.checkpoint_dir}; dev {domain}: {h.line()}")
    return config.checkpoint_dir


if __name__ == "__main__":
    from wbvla_train.lam.command import main

    program(main)

"""Baselines and ablations: each is a change of the configuration, chosen by a word or by some joined by + (``wbvla train lmo --ablation no-jdir``)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace

from wbvla_core.errors import WbvlaError
from wbvla_train.lmo.config import StageConfig, TrainConfig


def _no_jdir(c: TrainConfig) -> TrainConfig:
    return c.each_stage("reward", heading_end=0.0, path_heading=0.0)


def _only(c: TrainConfig, stage: StageConfig) -> TrainConfig:
    return replace(c, stages=(replace(stage, share=1.0),))


def _no_stage_one(c: TrainConfig) -> TrainConfig:
    rest = c.stages[1:]
    whole = sum(s.share for s in rest)
    first = replace(rest[0], curriculum=replace(rest[0].curriculum, start=0.0))
    return replace(c, stages=tuple(replace(s, share=s.share / whole) for s in (first, *rest[1:])))


def _velocity(c: TrainConfig) -> TrainConfig:
    factor = c.stages[0].command.cruise_factor
    c = c.each_stage("command", cruise_factor=factor, per_axis=True).each_stage("reward", heading_end=0.0)
    return replace(c, pipeline=replace(c.pipeline, gating=replace(c.pipeline.gating, enabled=False)))


def _literal(c: TrainConfig) -> TrainConfig:
    p = c.pipeline
    return replace(c, pipeline=replace(p, gating=replace(p.gating, literal=True), observation=replace(p.observation, flags=True)))


def _no_lag(c: TrainConfig) -> TrainConfig:
    return replace(c.each_stage("disturbance", lag=False), physics=replace(c.physics, delay_steps_max=0))


def _no_path(c: TrainConfig) -> TrainConfig:
    p = c.pipeline
    return replace(c, pipeline=replace(p, path=replace(p.path, enabled=False), observation=replace(p.observation, path=False)))


def _no_steer(c: TrainConfig) -> TrainConfig:
    return replace(c, pipeline=replace(c.pipeline, path=replace(c.pipeline.path, corrects=False)))


def _no_reflexes(c: TrainConfig) -> TrainConfig:
    return replace(c, pipeline=replace(c.pipeline, balance=replace(c.pipeline.balance, enabled=False)))


def _no_gait(c: TrainConfig) -> TrainConfig:
    c = _no_reflexes(c).each_stage("reward", contact=0.0, clearance=0.0, no_fly=0.75)
    return replace(c, pipeline=replace(c.pipeline, gait=replace(c.pipeline.gait, enabled=False)))


def _no_mirror(c: TrainConfig) -> TrainConfig:
    return replace(c, pipeline=replace(c.pipeline, observation=replace(c.pipeline.observation, mirror=False)))


# word -> (what it is, change)
ABLATIONS: dict[str, tuple[str, Callable[[TrainConfig], TrainConfig]]] = {
    "none": ("the method", lambda c: c),
    "no-jdir": ("paper's row: no reward on the heading at the end (nor on its dense sister)", _no_jdir),
    "no-stage2": ("paper's row: Stage I for the whole budget", lambda c: _only(c, c.stages[0])),
    "no-stage1": ("paper's row: Stage II from the first step, difficulty from zero", _no_stage_one),
    "velocity": ("paper's baseline: continuous velocity commands in training, flags mapped to the cruise speeds in evaluation, no gating", _velocity),
    "literal": ("the gate as transcribed, tanh(alpha (s - s_bar)); the bare flags are observed beside it, clock and rewards follow s v_goal", _literal),
    "no-replay": ("random reaching in Stage II too", lambda c: c.each_stage("disturbance", arm_replay=False)),
    "no-lag": ("no command delay and no lag of joint states and IMU in training", _no_lag),
    "no-path": ("ours left out: the path error is neither seen nor steered by; its reward stays", _no_path),
    "no-steer": ("ours left out: the path error is seen, the reference gait does not steer by it", _no_steer),
    "no-reflexes": ("ours left out: no feedback at ankles and hips, no displaced landings; the policy alone keeps the balance", _no_reflexes),
    "no-gait": ("ours left out: no clock, no reference, no reflexes, no mirror: residuals on the default pose", _no_gait),
    "no-mirror": ("ours left out: the second half of the gait cycle is shown as it is", _no_mirror),
}


def ablated(config: TrainConfig, name: str) -> TrainConfig:
    """``config`` with one ablation, or with several one after the other ("no-path+no-jdir"); the name travels in the configuration.

    Raises:
        WbvlaError: unknown name.
    """
    changed = config
    for word in name.split("+"):
        if word not in ABLATIONS:
            raise WbvlaError(f"expected an ablation among {', '.join(ABLATIONS)}, or some of them joined by +, got {name!r}")
        changed = ABLATIONS[word][1](changed)
    return dataclasses.replace(changed, ablation=name)

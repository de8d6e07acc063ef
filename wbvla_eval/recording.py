"""One recorded episode, decoded: what the report plots and the video draws.

:mod:`wbvla_eval.bag` fills it from an MCAP file; tests fill it by hand. Times are seconds since the goal was sent (negative
before it) on one clock per stream, as each attribute says.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from wbvla_core.safety import SafetyRung
from wbvla_eval.svg import Span
from wbvla_eval.trace import Trace


@dataclass(frozen=True)
class Stream:
    """A sampled signal: time_s [M], values [M] or [M, K]."""

    time_s: np.ndarray
    values: np.ndarray

    def __post_init__(self) -> None:
        if len(self.time_s) != len(self.values):
            raise ValueError(f"a stream needs one value per time, got {len(self.values)} values and {len(self.time_s)} times")

    def __len__(self) -> int:
        return len(self.time_s)

    def at(self, time_s: float) -> np.ndarray | None:
        """The newest value at ``time_s``, None before the first."""
        index = int(np.searchsorted(self.time_s, time_s + 1e-9, side="right")) - 1
        return None if index < 0 else self.values[index]


def empty_stream(columns: int | None = None) -> Stream:
    return Stream(np.zeros(0), np.zeros((0, columns)) if columns else np.zeros(0))


@dataclass(frozen=True)
class SafetySample:
    """One SafetyState message."""

    time_s: float
    rung: SafetyRung
    code: int
    reason: str
    source: str


@dataclass(frozen=True)
class Frames:
    """Camera images that were rendered, that perception passed on, and that the VLA decided on."""

    rendered: int = 0
    received: int = 0
    decided: int = 0

    @property
    def lost_share(self) -> float:
        """Part that perception never saw, 0..1; 0 without images."""
        return (self.rendered - self.received) / self.rendered if self.rendered else 0.0


@dataclass(frozen=True)
class Recording:
    """Decoded streams of one episode.

    Attributes:
        instruction: the operator's sentence.
        trace: simulator truth, with the LocoCommand in force.
        qpos: MuJoCo positions at the trace's samples [N, nq], to render the episode again.
        joint_names: names of the columns of measured and target joints.
        measured: joint positions [M, J], rad (grippers m).
        target: positions of JointCommand [M', J].
        arm_joints: the joints worth plotting against their targets.
        latent: codes [K, T] (manipulation first), -1 where there is none; manipulation_tokens says where locomotion begins.
        command: LocoCommand as it arrived [K, 4].
        safety, driver: rungs as LMO and the driver (or simulator) saw them.
        image_age_s: per decision, from the image's stamp to the arrival of its LocoCommand, s.
        tick_interval_s: between consecutive JointCommands, s, by arrival.
        response_s: per JointCommand, from the joint state's arrival to the command's, s (transport included).
        real_time_factor: simulated time per wall time.
        frames: what became of the camera's images.
        diagnostics: node -> last values that it reported about itself.
    """

    instruction: str
    trace: Trace
    qpos: np.ndarray
    joint_names: tuple[str, ...]
    measured: Stream
    target: Stream
    arm_joints: tuple[str, ...]
    latent: Stream
    manipulation_tokens: int
    command: Stream
    safety: tuple[SafetySample, ...] = ()
    driver: tuple[SafetySample, ...] = ()
    image_age_s: Stream = field(default_factory=empty_stream)
    tick_interval_s: Stream = field(default_factory=empty_stream)
    response_s: Stream = field(default_factory=empty_stream)
    real_time_factor: Stream = field(default_factory=empty_stream)
    frames: Frames = Frames()
    diagnostics: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def end_s(self) -> float:
        return float(self.trace.time_s[-1])

    def rung_at(self, time_s: float) -> SafetySample | None:
        """The newest state of LMO's ladder, None before the first."""
        before = [s for s in self.safety if s.time_s <= time_s + 1e-9]
        return before[-1] if before else None

    def safety_spans(self, samples: tuple[SafetySample, ...] | None = None) -> list[Span]:
        """The ladder as shaded spans of a chart, neighbours of one rung joined."""
        samples = self.safety if samples is None else samples
        spans: list[Span] = []
        for sample, following in zip(samples, (*samples[1:], None)):
            end = self.end_s if following is None else following.time_s
            name = sample.rung.name.lower()
            if spans and spans[-1].name == name:
                spans[-1] = Span(spans[-1].start, end, name, int(sample.rung))
            else:
                spans.append(Span(sample.time_s, end, name, int(sample.rung)))
        return spans

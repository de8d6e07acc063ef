"""From a recorded bag to everything that a person opens: verdict, video, report, summary. Offline: only the bag is trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wbvla_core.checkpoint import load_manifest, write_json
from wbvla_core.errors import ErrorCode
from wbvla_core.robot import RobotSpec
from wbvla_core.safety import SafetyRung
from wbvla_eval.bag import decode
from wbvla_eval.episode_log import STANCE_TARGET_M
from wbvla_eval.episode_video import FPS, render_video
from wbvla_eval.provenance import cruise_of, lineage, versions
from wbvla_eval.recording import Recording
from wbvla_eval.report import Provenance, write_fault_report, write_report
from wbvla_eval.tasks import Criteria, Failure, Verdict, judge
from wbvla_eval.timing import timing_rows
from wbvla_sim.instructions import Task

VIDEO, REPORT, SUMMARY, BAG = "video.mp4", "report.html", "summary.json", "episode.mcap"
SCHEMA = 1


@dataclass(frozen=True)
class EpisodeFacts:
    """What the bag does not say.

    Attributes:
        instruction: the sentence of the goal; task: what it means.
        goal_ns, end_ns: wall time when the goal was sent and when the recording of its end was over.
        ended: outcome that the robot reported ("still", "timeout", ...), message: its sentence; elapsed_s: its own clock.
        seed: of the scene; duration_s: of an open-ended motion, else None.
        policy, lmo: checkpoint directories; store: the directory that holds all checkpoints.
        commands: shell lines that repeat it.
        fault: what ended the episode from outside, a paragraph; "" where it ended by itself. Such an episode has failed.
        log: last lines of the process that was at fault.
    """

    instruction: str
    task: Task
    goal_ns: int
    end_ns: int
    ended: str
    message: str
    elapsed_s: float
    seed: int
    robot: str
    duration_s: float | None
    policy: Path | None
    lmo: Path | None
    store: Path
    commands: Sequence[str] = field(default_factory=tuple)
    fault: str = ""
    log: Sequence[str] = field(default_factory=tuple)


def judge_recording(facts: EpisodeFacts, recording: Recording) -> Verdict:
    """The verdict on a recorded episode; a driver or LMO in damping at any time is a fall, and a fault of the stack goes before the robot's."""
    damped = [s for s in (*recording.driver, *recording.safety) if s.rung is SafetyRung.DAMPING and 0.0 <= s.time_s <= recording.end_s]
    fault = f"damping ({damped[0].reason})" if damped else ""
    # In simulation the driver's motors have no fault of their own: the code says that the physics broke down.
    diverged = [s.reason for s in recording.driver if s.rung is SafetyRung.DAMPING and s.code == ErrorCode.MOTOR_FAULT]
    target_m = STANCE_TARGET_M.get(facts.task.kind)
    verdict = judge(
        facts.task,
        recording.trace,
        stance_target_m=target_m,
        duration_s=facts.duration_s,
        fault=fault,
        diverged=diverged[0] if diverged else "",
    )
    return Verdict(False, Failure.ERROR, facts.fault, verdict.measures) if facts.fault else verdict


def produce(
    directory: Path,
    messages: Iterable[tuple[str, int, Any]],
    robot: RobotSpec,
    facts: EpisodeFacts,
    *,
    video: bool = True,
    fps: int = FPS,
    progress: Callable[[float], None] | None = None,
) -> tuple[dict[str, Any], Verdict]:
    """Write ``video.mp4``, ``report.html`` and ``summary.json`` into ``directory``; returns the summary and the verdict.

    Raises:
        BagError: the bag cannot be judged.
    """
    recording, scene = decode(messages, robot, facts.instruction, goal_ns=facts.goal_ns, end_ns=facts.end_ns)
    criteria = Criteria()
    verdict = judge_recording(facts, recording)
    frames = render_video(directory / VIDEO, robot, scene, recording, facts.task, verdict, criteria, fps=fps, progress=progress) if video else []
    roots = [(role, path) for role, path in (("policy", facts.policy), ("lmo", facts.lmo)) if path is not None]
    checkpoints = lineage(roots, facts.store)
    fact_rows = [
        ("scene", f"{scene.kind}, seed {scene.seed}; boxes {', '.join(box.color for box in scene.boxes)}; {len(scene.distractors)} distractors"),
        ("robot", f"{robot.name} {robot.version}"),
        ("ended by the robot", f"{facts.ended}: {facts.message} ({facts.elapsed_s:.1f} s)"),
    ]
    provenance = Provenance(
        facts=fact_rows,
        versions=versions(),
        checkpoints=checkpoints,
        commands=facts.commands,
        cruise=cruise_of(load_manifest(facts.lmo, verify_files=False)) if facts.lmo else None,
        stance_range_m=robot.stance_height_range_m,
        frames=frames,
        log=facts.log,
    )
    write_report(directory / REPORT, recording, facts.task, verdict, provenance, criteria)
    rows = {"timing": timing_rows(recording), "frames": asdict(recording.frames), "diagnostics": recording.diagnostics}
    summary = _summary(directory, facts, robot, verdict) | rows
    summary |= {"criteria": asdict(criteria), "checkpoints": checkpoints, "versions": dict(provenance.versions)}
    write_json(directory / SUMMARY, summary)
    return summary, verdict


def produce_without_bag(directory: Path, robot: RobotSpec, facts: EpisodeFacts, why: str) -> tuple[dict[str, Any], Verdict]:
    """The same for an episode of which too little was recorded to judge or draw it: the report says what happened.

    Args:
        why: what the recording lacks, a sentence.
    """
    verdict = Verdict(False, Failure.ERROR, facts.fault or why, {})
    rows = [("seed", str(facts.seed)), ("robot", f"{robot.name} {robot.version}"), ("recording", why)]
    write_fault_report(directory / REPORT, facts.instruction, facts.fault or why, Provenance(rows, versions(), commands=facts.commands, log=facts.log))
    summary = _summary(directory, facts, robot, verdict) | {"timing": [], "recording": why}
    write_json(directory / SUMMARY, summary)
    return summary, verdict


def _summary(directory: Path, facts: EpisodeFacts, robot: RobotSpec, verdict: Verdict) -> dict[str, Any]:
    """What every summary.json holds."""
    return {
        "schema": SCHEMA,
        "instruction": facts.instruction,
        "task": asdict(facts.task),
        "seed": facts.seed,
        "robot": {"name": robot.name, "version": robot.version},
        "success": verdict.success,
        "failure": verdict.failure.value if verdict.failure else None,
        "reason": verdict.reason,
        "measures": {name: float(value) for name, value in verdict.measures.items()},
        "ended": {"outcome": facts.ended, "message": facts.message, "elapsed_s": facts.elapsed_s},
        "goal_ns": facts.goal_ns,
        "end_ns": facts.end_ns,
        "commands": list(facts.commands),
        "files": [name for name in (VIDEO, BAG, REPORT, SUMMARY) if name == SUMMARY or (directory / name).exists()],
    }

"""A lock-step :class:`~wbvla_sim.episode.EpisodeLog` -> trace, verdict and recording: the same judge and the same video as for a bag."""

from __future__ import annotations

import numpy as np

from wbvla_core.robot import RobotSpec
from wbvla_eval.recording import Recording, Stream
from wbvla_eval.states import trace_from_states
from wbvla_eval.tasks import Criteria, Verdict, judge
from wbvla_eval.trace import Trace
from wbvla_sim.episode import EpisodeLog, Outcome
from wbvla_sim.expert import SQUAT_HEIGHT_M, STAND_HEIGHT_M
from wbvla_sim.instructions import Task
from wbvla_sim.scene import Scene

STANCE_TARGET_M = {"squat": SQUAT_HEIGHT_M, "stand": STAND_HEIGHT_M}  # what the demonstrator means by these words


def trace_of(log: EpisodeLog, robot: RobotSpec, scene: Scene) -> Trace:
    """Truth of a lock-step episode from the start of its task."""
    return trace_from_states(robot, scene, log.tick_time_s - log.meta["start_s"], log.tick_qpos, log.tick_qvel, log.tick_loco)


def judge_log(task: Task, log: EpisodeLog, trace: Trace, criteria: Criteria | None = None) -> Verdict:
    """The verdict on a lock-step episode."""
    fault = log.reason if log.outcome == Outcome.FAULT.value else ""
    diverged = log.reason if log.outcome == Outcome.DIVERGED.value else ""
    target_m = STANCE_TARGET_M.get(task.kind)
    return judge(task, trace, criteria, stance_target_m=target_m, fault=fault, diverged=diverged)


def recording_of(log: EpisodeLog, robot: RobotSpec, trace: Trace) -> Recording:
    """What report and video show of a lock-step episode; there is nothing to say about timing."""
    ticks = log.tick_time_s - log.meta["start_s"]
    decisions = log.stamp_s - log.meta["start_s"]
    return Recording(
        instruction=log.instruction,
        trace=trace,
        qpos=log.tick_qpos,
        joint_names=robot.joint_names,
        measured=Stream(decisions, log.q.astype(np.float64)),
        target=Stream(ticks, log.tick_target.astype(np.float64)),
        arm_joints=robot.names("arms"),
        latent=Stream(decisions, log.latent),
        manipulation_tokens=log.latent.shape[1] // 2,
        command=Stream(decisions, log.loco.astype(np.float64)),
    )

"""The video of an episode, drawn afterwards from its recorded states: nothing was rendered for it while the robot moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np

from wbvla_core.robot import RobotSpec
from wbvla_eval import hud
from wbvla_eval.chase import chase
from wbvla_eval.recording import Recording
from wbvla_eval.tasks import Criteria, Verdict
from wbvla_eval.trace import footprint, stand_off_point
from wbvla_sim import render
from wbvla_sim.instructions import Task
from wbvla_sim.scene import Scene, to_mjcf
from wbvla_sim.video import Mp4Writer

FPS = 15
FOR_PEOPLE = 0.5  # headlight of the onlooker's camera: some rooms are dark
HOLD_S = 1.5  # the last picture stays, with the verdict on it


def moment_at(recording: Recording, sample: int, robot: RobotSpec, task: Task, criteria: Criteria) -> hud.Moment:
    """What to write on the frame of one sample of the trace."""
    trace = recording.trace
    time_s = float(trace.time_s[sample])
    codes = recording.latent.at(time_s)
    codes = () if codes is None else tuple(int(c) for c in codes if c >= 0)
    rung = recording.rung_at(time_s)
    factor = recording.real_time_factor.at(time_s)
    command = trace.command[sample]
    stride = max(1, int(0.1 / trace.dt_s))
    goal = None
    if task.kind == "walk_to":
        goal = stand_off_point(trace.box(task.color), trace.xyz[sample], criteria.stand_off_m)
    return hud.Moment(
        time_s=time_s,
        flags=tuple(int(v) for v in command[:3]),
        stance_height_m=float(trace.stance_height_m[sample]),
        stance_command_m=float(command[3]),
        stance_range_m=robot.stance_height_range_m,
        manipulation=codes[: recording.manipulation_tokens],
        locomotion=codes[recording.manipulation_tokens :],
        rung=rung.rung.name.lower() if rung else "",
        reason=rung.reason if rung else "",
        source=rung.source if rung else "",
        real_time_factor=float("nan") if factor is None else float(factor),
        path=trace.xyz[: sample + 1 : stride, :2] if sample else trace.xyz[:1, :2],
        yaw=float(trace.yaw[sample]),
        boxes=[(box.color, footprint(box)) for box in trace.boxes],
        goal=goal,
    )


def render_video(
    path: Path,
    robot: RobotSpec,
    scene: Scene,
    recording: Recording,
    task: Task,
    verdict: Verdict,
    criteria: Criteria | None = None,
    *,
    fps: int = FPS,
    stills: int = 4,
    progress: Callable[[float], None] | None = None,
) -> list[tuple[str, np.ndarray]]:
    """Write the mp4.

    Args:
        stills: how many pictures of the outside view to return, evenly over the episode, with captions.
        progress: called with the part that is done, 0..1.

    Returns:
        [(caption, image [H, W, 3] uint8), ...] for the report.
    """
    criteria = criteria or Criteria()
    trace = recording.trace
    model = to_mjcf(robot, scene)
    data = mujoco.MjData(model)
    head = mujoco.MjvCamera()
    head.type, head.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, model.camera("head").id
    target = np.array(trace.box(task.color).xyz[:2]) if task.kind == "walk_to" else None
    shots = chase(scene, trace, target)
    panels = hud.Panels(recording.instruction)
    samples = np.searchsorted(trace.time_s, np.arange(trace.time_s[0], trace.time_s[-1], 1.0 / fps))
    samples = [*samples.tolist(), len(trace.time_s) - 1]
    keep = {int(i) for i in np.linspace(0, len(samples) - 1, stills)} if stills else set()
    pictures: list[tuple[str, np.ndarray]] = []
    camera_size = (robot.camera.width, robot.camera.height)  # as the robot's own images are
    outside_size = (hud.OUTSIDE_BOX[2] - hud.OUTSIDE_BOX[0], hud.OUTSIDE_BOX[3] - hud.OUTSIDE_BOX[1])
    note = "success" if verdict.success else verdict.failure.value.replace("_", " ")
    as_robot_sees = model.vis.headlight.diffuse.copy()
    with Mp4Writer(path, fps=fps) as writer:
        for i, sample in enumerate(samples):
            data.qpos[:] = recording.qpos[sample]
            mujoco.mj_fwdPosition(model, data)
            model.vis.headlight.diffuse[:] = as_robot_sees
            camera = render.draw(model, data, head, *camera_size)
            model.vis.headlight.diffuse[:] = FOR_PEOPLE
            outside = render.draw(model, data, shots[sample].camera(), *outside_size)
            moment = moment_at(recording, sample, robot, task, criteria)
            last = i == len(samples) - 1
            frame = hud.compose(panels, replace(moment, note=note, good=verdict.success) if last else moment, camera, outside)
            for _ in range(int(HOLD_S * fps) if last else 1):
                writer.add(frame)
            if i in keep:
                pictures.append((f"{trace.time_s[sample]:.1f} s", outside))
            if progress:
                progress((i + 1) / len(samples))
    return pictures

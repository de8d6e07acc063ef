"""A video of one robot of a cell, drawn afterwards from its recorded positions."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import mujoco
import numpy as np
from PIL import Image, ImageDraw

from wbvla_core.robot import RobotSpec
from wbvla_eval.hud import INK, font
from wbvla_eval.lmo.measures import POSITION_TOLERANCE_M
from wbvla_eval.lmo.programs import DT_S, SETTLE_S
from wbvla_eval.lmo.runner import Log
from wbvla_eval.lmo.suites import Cell, Suite
from wbvla_sim import render
from wbvla_sim.scene import random_scene, scene_xml
from wbvla_sim.video import Mp4Writer

FPS = 12.5  # software rendering takes most of the time of a quick run
STRIDE = round(1.0 / FPS / DT_S)
WIDTH, HEIGHT = 640, 400
LONGEST_S = 15.0
SCENE_SEED = 3_000_001  # a bright room
AFTER_FALL_S = 0.6
HEADLIGHT = 0.5  # some rooms are dark
ARROWS = {(1, 0): "forward", (-1, 0): "backward", (1, 1): "left", (-1, 1): "right", (1, 2): "turn left", (-1, 2): "turn right"}


def flags_text(flags: np.ndarray) -> str:
    """Flags [3] in words."""
    words = [ARROWS[int(flag), axis] for axis, flag in enumerate(flags) if flag]
    return " + ".join(words) or "stand"


def pick(log: Log) -> int:
    """The robot to show: the first that stayed up; the first at all where none did."""
    up = np.flatnonzero(~log.fell)
    return int(up[0]) if len(up) else 0


def _mark(root: ET.Element, goal: np.ndarray) -> None:
    """The goal (x, y, heading) as a disc of the tolerance's size and a bar that points where to look."""
    x, y, yaw = (float(v) for v in goal)
    world = root.find("worldbody")
    paint = {"contype": "0", "conaffinity": "0", "rgba": "0.95 0.45 0.1 1"}
    ET.SubElement(world, "geom", paint, type="cylinder", size=f"{POSITION_TOLERANCE_M} 0.002", pos=f"{x} {y} 0.002")
    ET.SubElement(world, "geom", paint, type="box", size="0.15 0.02 0.003", pos=f"{x + 0.15 * np.cos(yaw)} {y + 0.15 * np.sin(yaw)} 0.003", euler=f"0 0 {yaw}")


def write(suite: Suite, cell: Cell, log: Log, robot: RobotSpec, path: Path, index: int | None = None, *, last_s: float | None = None) -> Path:
    """Draw robot ``index`` (default: :func:`pick`) of a log that has ``qpos``: from the beginning, or only the last ``last_s`` on its feet."""
    if log.qpos is None:
        raise ValueError("the log has no qpos; run with keep_qpos=True")
    i = pick(log) if index is None else index
    root = ET.fromstring(scene_xml(robot, random_scene(SCENE_SEED, kind="empty")))
    if cell.scenery is not None:
        cell.scenery(root)
    for wall in [g for g in root.find("worldbody") if g.get("name", "").startswith("wall_")]:
        root.find("worldbody").remove(wall)  # a switching robot walks through where they stand
    goal = getattr(log.program, "goals", None)
    if goal is not None:
        _mark(root, goal[i])
    model = mujoco.MjModel.from_xml_string(ET.tostring(root, encoding="unicode"))
    model.vis.headlight.diffuse[:] = HEADLIGHT
    data = mujoco.MjData(model)
    down = int(log.alive[:, i].sum())
    end = min(down + round(AFTER_FALL_S / DT_S), len(log.xy))
    begin = 0 if last_s is None else max(down - round(last_s / DT_S), 0)
    if last_s is None:
        end = min(end, round((SETTLE_S + LONGEST_S) / DT_S))
    camera = mujoco.MjvCamera()
    camera.distance, camera.azimuth, camera.elevation = 2.3, 140.0 if cell.scenery is None else 50.0, -14.0
    lookat = np.array((*log.xy[begin, i], 0.62))
    with Mp4Writer(path, fps=FPS) as video:
        for t in range(begin, end, STRIDE):
            data.qpos[:] = log.qpos[t, i]
            mujoco.mj_kinematics(model, data)
            mujoco.mj_camlight(model, data)
            lookat[:2] += 0.12 * (log.xy[t, i] - lookat[:2])
            camera.lookat[:] = lookat
            frame = Image.fromarray(render.draw(model, data, camera, WIDTH, HEIGHT))
            draw = ImageDraw.Draw(frame, "RGBA")
            draw.rectangle((0, 0, WIDTH, 30), fill=(15, 18, 21, 200))
            height = log.height_command[t, i]
            text = f"{cell.name}   {max(t * DT_S - SETTLE_S, 0.0):5.1f} s   {flags_text(log.flags[t, i])}, {height:.2f} m"
            if goal is not None and t * DT_S >= SETTLE_S:
                text += f"   to go {np.linalg.norm(log.xy[t, i] - goal[i, :2]):.2f} m"
            if not log.alive[t, i]:
                text += "   FELL"
            draw.text((10, 6), text, font=font(15), fill=INK)
            video.add(np.asarray(frame))
    return path

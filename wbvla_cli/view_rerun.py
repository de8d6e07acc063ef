"""The same episode in rerun: images, posture, joints, commands and codes on one time line. Optional: ``pip install 'wbvla[view]'``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rerun as rr
import rerun.blueprint as rrb

from wbvla_cli.view_data import EpisodeView

TIME = "time"


def _plot(path: str, view: EpisodeView, values: np.ndarray) -> None:
    keep = np.isfinite(values)
    if keep.any():
        rr.send_columns(path, [rr.TimeColumn(TIME, duration=view.time_s[keep])], rr.Scalars.columns(scalars=values[keep].astype(np.float64)))


def show(view: EpisodeView, save: Path | None) -> None:
    """Open the viewer, or write an .rrd file for it."""
    plots = [rrb.TimeSeriesView(name=name, origin=f"/{name}") for name in ("command", "joints", "targets", "gyro", "codes")]
    layout = rrb.Horizontal(rrb.Vertical(rrb.Spatial2DView(origin="/camera"), rrb.Spatial3DView(origin="/robot")), rrb.Vertical(*plots), column_shares=[1, 1])
    rr.init("wbvla", spawn=save is None)
    if save is not None:
        rr.save(save)
    rr.send_blueprint(rrb.Blueprint(layout, collapse_panels=True))
    rr.log("task", rr.TextDocument(f"{view.title}\n\n{view.task}"), static=True)
    rr.log("robot", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
    for i, name in enumerate(("forward", "lateral", "yaw", "stance_height_m")):
        _plot(f"command/{name}", view, view.loco[:, i])
    for name, values in view.state.items():
        _plot(f"joints/{name}", view, values)
    for name, values in view.target.items():
        _plot(f"targets/{name}", view, values)
    for i, axis in enumerate("xyz"):
        _plot(f"gyro/{axis}", view, view.gyro[:, i])
    for i in range(view.codes.shape[1]):
        _plot(f"codes/token_{i}", view, np.where(view.codes[:, i] >= 0, view.codes[:, i], np.nan))
    for i, image in enumerate(view.images()):
        rr.set_time(TIME, duration=float(view.time_s[i]))
        rr.log("camera", rr.Image(image).compress(jpeg_quality=85))
        segments = view.posture(i)
        if segments:
            rr.log("robot/links", rr.LineStrips3D([np.stack(segment) for segment in segments], radii=0.012))
    if save is not None:
        rr.disconnect()  # writes the file's end

"""What the body did, sampled: one form for lock-step episodes and for recorded bags.

Everything that judges, plots or draws reads a :class:`Trace`; whether the samples come from an ``EpisodeLog`` or from
``/wbvla/sim/state`` in an MCAP file makes no difference. All values are simulator truth in the world frame unless a
name says otherwise: x, y on the floor, z up; yaw counter-clockwise from +x.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from wbvla_core.numeric import wrap
from wbvla_sim.scene import Box


@dataclass(frozen=True)
class Trace:
    """Sampled truth of one episode; N samples, evenly spaced.

    Attributes:
        time_s: [N] from the start of the task.
        xyz: pelvis origin [N, 3], m.
        yaw: pelvis heading [N], rad, unwrapped (a full turn counts as 2 pi).
        tilt_rad: [N] angle between the pelvis z axis and up.
        stance_height_m: [N] pelvis origin above the sole plane of the standing foot.
        velocity: [N, 3] forward m/s, left m/s (pelvis frame), yaw rate rad/s.
        command: [N, 4] LocoCommand in force (forward, lateral, yaw, stance height).
        hands: side -> [N, 3] hand position in the level pelvis frame (forward, left, up), m.
        boxes: every named box of the scene (they stand fast).
        in_view: colour -> [N] bool, whether the head camera's image holds the box's centre.
        touched: what the robot touched besides the floor (names of the scene's geoms) -> when first, s.
    """

    time_s: np.ndarray
    xyz: np.ndarray
    yaw: np.ndarray
    tilt_rad: np.ndarray
    stance_height_m: np.ndarray
    velocity: np.ndarray
    command: np.ndarray
    hands: dict[str, np.ndarray] = field(default_factory=dict)
    boxes: tuple[Box, ...] = ()
    in_view: dict[str, np.ndarray] = field(default_factory=dict)
    touched: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.time_s)
        if n < 2:
            raise ValueError(f"a trace needs at least 2 samples, got {n}; was the episode recorded at all?")
        for name, shape in (
            ("xyz", (n, 3)), ("yaw", (n,)), ("tilt_rad", (n,)), ("stance_height_m", (n,)), ("velocity", (n, 3)), ("command", (n, 4)),
        ):  # fmt: skip
            came = np.shape(getattr(self, name))
            if came != shape:
                raise ValueError(f"trace {name} must have shape {shape}, got {came}")
        if np.any(np.diff(self.time_s) <= 0):
            raise ValueError("trace times must rise")

    @property
    def duration_s(self) -> float:
        return float(self.time_s[-1] - self.time_s[0])

    @property
    def dt_s(self) -> float:
        """Mean spacing of the samples."""
        return self.duration_s / (len(self.time_s) - 1)

    def box(self, color: str) -> Box:
        """The box of that colour; ValueError naming those that exist."""
        for box in self.boxes:
            if box.color == color:
                return box
        raise ValueError(f"the scene has no {color} box; it has {[box.color for box in self.boxes]}")

    def tail(self, seconds: float) -> slice:
        """The samples of the last ``seconds``, at least two."""
        start = int(np.searchsorted(self.time_s, self.time_s[-1] - seconds - 1e-9))
        return slice(min(start, len(self.time_s) - 2), len(self.time_s))

    def displacement(self) -> np.ndarray:
        """[3] from start to end in the start's level frame: forward m, left m, yaw rad."""
        delta = self.xyz[-1, :2] - self.xyz[0, :2]
        cos, sin = np.cos(self.yaw[0]), np.sin(self.yaw[0])
        return np.array((cos * delta[0] + sin * delta[1], -sin * delta[0] + cos * delta[1], self.yaw[-1] - self.yaw[0]))


def stand_off_point(box: Box, pelvis_xy: np.ndarray, stand_off_m: float) -> np.ndarray:
    """[2] the point ``stand_off_m`` before the face, on the line pelvis -> box centre: any face may be approached."""
    pelvis_xy = np.asarray(pelvis_xy, dtype=np.float64)[:2]
    towards = np.array(box.xyz[:2]) - pelvis_xy
    distance = float(np.linalg.norm(towards))
    if distance < 1e-9:
        raise ValueError("the pelvis is over the box's centre: there is no line between them")
    return pelvis_xy + towards / distance * (box.face_distance(pelvis_xy) - stand_off_m)


def bearing_to(box: Box, pelvis_xy: np.ndarray, pelvis_yaw: float) -> float:
    """Angle from the pelvis heading to the box's centre, rad in [-pi, pi), left positive."""
    delta = np.array(box.xyz[:2]) - np.asarray(pelvis_xy)[:2]
    return float(wrap(np.arctan2(delta[1], delta[0]) - pelvis_yaw))


def footprint(box: Box) -> np.ndarray:
    """[4, 2] corners of the box on the floor, in order around it."""
    cos, sin = np.cos(box.yaw), np.sin(box.yaw)
    corners = np.array(((1, 1), (1, -1), (-1, -1), (-1, 1))) * box.half_extents[:2]
    return corners @ np.array(((cos, sin), (-sin, cos))) + box.xyz[:2]

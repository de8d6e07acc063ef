"""What a viewer shows of one episode, from a recording or from a data set: the same values for HTML and for rerun."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wbvla_cli.record import typestore
from wbvla_core.robot import RobotSpec, RobotSpecError, load_robot
from wbvla_core.ros.tables import topic_table
from wbvla_lmo.leg_kinematics import link_poses
from wbvla_train.data.lerobot.bag import Bag, TopicMap, joint_skew_s
from wbvla_train.data.lerobot.check import Finding, check
from wbvla_train.data.lerobot.episode import DataError, shown
from wbvla_train.data.lerobot.reader import View, open_dataset
from wbvla_train.data.lerobot.schema import LOCO, action_joints


@dataclass
class EpisodeView:
    """One episode.

    Attributes:
        title, task: for people; facts: rows (name, value).
        time_s: [T] since the first frame; images: opens a fresh pass over its T pictures [H, W, 3].
        state, target: joint name -> [T], rad (grippers: m).
        loco: [T, 4] flags and stance height, NaN where nobody commands; gyro: [T, 3], rad/s; skew_s: [T] state against image.
        codes: [T, K] latent codes, -1 where there are none; empty [T, 0] where the source has none.
        findings: of the check, where ``checked``.
        robot: whose posture can be drawn, None where the joints are nobody's that we know.
    """

    title: str
    task: str
    time_s: np.ndarray
    images: Callable[[], Iterator[np.ndarray]]
    state: dict[str, np.ndarray]
    target: dict[str, np.ndarray]
    loco: np.ndarray
    gyro: np.ndarray
    skew_s: np.ndarray
    codes: np.ndarray
    robot: RobotSpec | None
    facts: list[tuple[str, str]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    checked: bool = False

    def posture(self, frame: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Segments (from [3], to [3]) between the joints of the robot at this frame, pelvis frame, m."""
        if self.robot is None:
            return []
        q = np.array([self.state[name][frame] for name in self.robot.joint_names])
        poses = link_poses(self.robot, q)
        return [(poses[joint.parent][0], poses[joint.child][0]) for joint in self.robot.joints]


def load_bag(path: Path, robot_name: str, topics: TopicMap) -> EpisodeView:
    """All whole frames of a recording, whoever is in control. Pictures are read again when they are shown: memory holds numbers only."""
    robot = load_robot(robot_name)
    with Bag(path, robot, topics, typestore) as bag:
        bag.require_topics()
        task = "; then: ".join(bag.sentences())
        stamps, q, target, loco, gyro, skew = [], [], [], [], [], []
        joints = action_joints(robot)
        places = [robot.joint_names.index(name) for name in joints]
        for frame in bag.frames(0.1):
            if "joint_states" not in frame.nearest:
                continue
            stamps.append(frame.stamp_s)
            q.append(frame.nearest["joint_states"].q)
            target.append(frame.steps[-1][places] if frame.steps else np.full(len(places), np.nan))
            decided = any(frame.held.get(source) is not None for source in topics.loco_command)
            loco.append(bag.loco(frame, np.nan) if decided else np.full(len(LOCO), np.nan))
            gyro.append(frame.nearest["imu"][:3] if "imu" in frame.nearest else np.full(3, np.nan))
            skew.append(joint_skew_s(frame))
        lag, exact, notes, losses = bag.lag.estimate(), bag.clock.exact(), bag.notes(), list(bag.lost.values())
        codes = _codes(bag, np.array(stamps))
    if not stamps:
        raise DataError(f"{shown(path)} has no image with a joint state")
    kept, first = set(stamps), stamps[0]

    def images() -> Iterator[np.ndarray]:
        with Bag(path, robot, topics, typestore) as again:
            for frame in again.frames(0.1):
                if frame.stamp_s in kept:
                    yield frame.image

    measured = "exact: stamps of our simulator" if exact else f"{lag.lag_s * 1e3:+.0f} ms (fit {lag.fit:.2f})" if lag.known else "motion does not tell"
    view = EpisodeView(
        shown(Path(path.absolute().parent.name) / path.name), task, np.array(stamps) - first, images,
        {name: np.array(q)[:, i] for i, name in enumerate(robot.joint_names)}, {name: np.array(target)[:, i] for i, name in enumerate(joints)},
        np.array(loco), np.array(gyro), np.array(skew), codes, robot,
    )  # fmt: skip
    view.facts = [("source", view.title), ("robot", f"{robot.name} {robot.version}"), ("camera against gyro", measured)]
    view.facts += [("note", note) for note in notes] + [("lost", str(loss)) for loss in losses]
    return view


def _codes(bag: Bag, stamps: np.ndarray) -> np.ndarray:
    """[T, K] codes that were decided on at these images, -1 where none were."""
    topic = topic_table().topics["latent_action"].name
    at: dict[int, list[int]] = {}
    for _, _, message in bag.messages({topic}):
        stamp = message.header.stamp
        at[stamp.sec * 1_000_000 + round(stamp.nanosec / 1000)] = [*message.manipulation.tolist(), *message.locomotion.tolist()]
    if not at:
        return np.zeros((len(stamps), 0), int)
    width = len(next(iter(at.values())))
    return np.array([at.get(round(stamp * 1e6), [-1] * width) for stamp in stamps])


def _shots(view: View, camera: str) -> Iterator[np.ndarray]:
    """A picture per row; a grey cross where the row has none, and nothing where none can be told: the findings say why."""
    shape = view.dataset.features[camera]["shape"]
    height, width = (int(n) for n in (shape[:2] if shape[-1] in (1, 3) else shape[1:]))
    none = np.full((height, width, 3), 128, np.uint8)
    size = min(height, width)
    none[np.arange(size), np.arange(size)] = none[np.arange(size), size - 1 - np.arange(size)] = 255
    try:
        for _, image in view.pictures(camera):
            yield none if image is None else image
    except DataError:
        return


def load_dataset(path: Path, episode: int) -> EpisodeView:
    """Episode ``episode`` of a data set, with what the check finds in it."""
    dataset = open_dataset(path)
    if not 0 <= episode < len(dataset.views):
        raise DataError(f"--episode must lie in 0 to {len(dataset.views) - 1}, got {episode}")
    view = dataset.views[episode]
    columns = view.columns()
    count = len(columns["frame_index"])
    role = {name: dataset.role(name) for name in ("state", "action", "imu", "skew", "stamp")}
    state = {n: columns[role["state"]][:, i] for i, n in enumerate(dataset.names(role["state"]))} if role["state"] else {}
    target = {n: columns[role["action"]][:, i] for i, n in enumerate(dataset.names(role["action"]))} if role["action"] else {}
    loco = np.stack([target.pop(n) for n in LOCO], 1) if set(LOCO) <= set(target) else np.full((count, len(LOCO)), np.nan)
    try:
        robot: RobotSpec | None = load_robot(str(dataset.info.get("robot_type")))
    except RobotSpecError:
        robot = None
    if robot is not None and not set(robot.joint_names) <= set(state):
        robot = None
    cameras = dataset.cameras
    time_s = columns[role["stamp"]][:, 0] if role["stamp"] else columns["timestamp"][:, 0]
    shown_view = EpisodeView(
        f"{shown(path.name)}, episode {episode} of {len(dataset.views)}", ", ".join(view.tasks), time_s,
        lambda: _shots(view, cameras[0]) if cameras else iter(()), state, target, loco,
        columns[role["imu"]][:, :3] if role["imu"] else np.full((count, 3), np.nan),
        columns[role["skew"]][:, 0] if role["skew"] else np.full(count, np.nan), np.zeros((count, 0), int), robot,
    )  # fmt: skip
    total = sum(v.length for v in dataset.views)
    shown_view.facts = [
        ("data set", f"LeRobot {dataset.info['codebase_version']}, {len(dataset.views)} episodes, {total} frames, {total / dataset.fps:.0f} s"),
        ("robot", str(dataset.info.get("robot_type"))),
        *((key, f"{value}") for key, value in view.about.items() if isinstance(value, (str, float, int))),
    ]
    shown_view.findings, shown_view.checked = check(path, only={view.index}), True
    return shown_view

"""Recordings (rosbag2: MCAP or sqlite3, ours or anybody's) -> frames of one episode. No ROS: messages are decoded by rosbags.

Which topic is what stands in a :class:`TopicMap`; the default is config/qos.yaml, others' bags bring a YAML file:

    image: /head_camera/color/image_raw            # sensor_msgs/Image or CompressedImage
    joint_states: /joint_states                    # sensor_msgs/JointState
    imu: /imu/data                                 # optional
    joint_command: /joint_targets                  # optional: wbvla_msgs/JointCommand, sensor_msgs/JointState; without it
                                                   # the action is where the joints were at the end of each step
    loco_command: {teleop: /cmd, vla: ""}          # optional: wbvla_msgs/LocoCommand per source of control
    instruction: /task                             # optional: std_msgs/String
    rename: {L_ARM_1: left_shoulder_pitch_joint}   # joint names there -> names of the robot spec
    missing_joints: hold                           # refuse (default), or hold: joints that the bag does not name stay at the default pose
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from PIL import Image
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.typesys.store import Typestore

from wbvla_core.robot import RobotSpec
from wbvla_core.ros.tables import topic_table
from wbvla_core.timeline import ClockJump, Frame, Resampler
from wbvla_core.types import gravity_from_quaternion
from wbvla_train.data.lerobot.episode import DataError, shown
from wbvla_train.data.lerobot.lag import LagMeter
from wbvla_train.data.lerobot.schema import STEPS, action_joints

FOLLOW_AGE_S = 0.25  # as in the safety ladder: an older decision is not followed, the robot stands
STEP_S = 0.02
CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}


@dataclass(frozen=True)
class TopicMap:
    """See the module text."""

    image: str
    joint_states: str
    imu: str = ""
    joint_command: str = ""
    loco_command: dict[str, str] = field(default_factory=dict)
    safety_state: str = ""
    instruction: str = ""
    rename: dict[str, str] = field(default_factory=dict)
    missing_joints: Literal["refuse", "hold"] = "refuse"

    @classmethod
    def ours(cls) -> TopicMap:
        name = {key: row.name for key, row in topic_table().topics.items()}
        loco = {"teleop": name["teleop_loco"], "vla": name["vla_loco"]}
        return cls(name["camera_image"], name["joint_states"], name["imu"], name["joint_command"], loco, name["safety_state"])

    @classmethod
    def load(cls, path: Path) -> TopicMap:
        """From a YAML file; DataError names the entry at fault."""
        data = yaml.safe_load(path.read_text())
        known = {entry.name for entry in fields(cls)}
        if not isinstance(data, dict) or not {"image", "joint_states"} <= set(data) or set(data) - known:
            came = sorted(data) if isinstance(data, dict) else type(data).__name__
            raise DataError(f"{shown(path)}: a topic map has image and joint_states, and may have {sorted(known - {'image', 'joint_states'})}; got {came}")
        if isinstance(data.get("loco_command"), str):
            data["loco_command"] = {"teleop": data["loco_command"]}
        return cls(**data)

    def topics(self) -> set[str]:
        every = (self.image, self.joint_states, self.imu, self.joint_command, self.safety_state, self.instruction, *self.loco_command.values())
        return {topic for topic in every if topic}


@dataclass
class Row:
    """One frame as columns of :mod:`wbvla_train.data.lerobot.schema`, its image and its sentence."""

    columns: dict[str, np.ndarray]
    image: np.ndarray
    task: str


def find_bags(paths: list[Path]) -> list[Path]:
    """Recordings below ``paths``, sorted: .mcap files, and folders with a metadata.yaml of rosbag2 (for all their files). Discarded episodes are none."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{shown(path)} does not exist")
        if path.is_file() or (path / "metadata.yaml").is_file():
            found.append(path)
            continue
        folders = sorted(p.parent for p in path.rglob("metadata.yaml"))
        loose = [p for p in sorted(path.rglob("*.mcap")) if p.parent not in folders]
        found += [*folders, *loose]
    return [path for path in dict.fromkeys(found) if not _discarded(path)]


def _discarded(path: Path) -> bool:
    """Whether the operator threw this recording away (wbvla_teleop writes it into episode.json)."""
    note = (path if path.is_dir() else path.parent) / "episode.json"
    try:
        return json.loads(note.read_text()).get("state") == "discarded"
    except (OSError, ValueError, AttributeError):
        return False


def _stamp_s(message: Any) -> float:
    """Stamp in whole microseconds, as wbvla_core.ros.codec rounds it: the same float on both ways."""
    stamp = message.header.stamp
    return (int(stamp.sec) * 1_000_000 + round(int(stamp.nanosec) / 1000)) / 1e6


def decode_image(message: Any) -> np.ndarray:
    """sensor_msgs/Image or CompressedImage -> [H, W, 3] uint8 RGB."""
    if hasattr(message, "format"):
        return np.asarray(Image.open(io.BytesIO(bytes(message.data))).convert("RGB"))
    channels = CHANNELS.get(message.encoding)
    if channels is None:
        raise DataError(f"image encoding must be one of {sorted(CHANNELS)}, got {message.encoding!r}")
    rows = np.asarray(message.data, dtype=np.uint8).reshape(message.height, -1)[:, : message.width * channels]
    image = rows.reshape(message.height, message.width, channels)
    if message.encoding.startswith("bgr"):
        image = image[..., 2::-1]
    return np.ascontiguousarray(np.broadcast_to(image[..., :3] if channels > 1 else image, (*image.shape[:2], 3)))


class Bag:
    """One recording, open; use as a context.

    Args:
        typestore: message definitions for bags that do not carry their own.
    """

    def __init__(self, path: Path, robot: RobotSpec, topics: TopicMap, typestore: Callable[[], Typestore]) -> None:
        self.path, self.robot, self.topics = path, robot, topics
        try:
            self._reader = AnyReader([path], default_typestore=typestore())
            self._reader.open()
        except (AnyReaderError, OSError, ValueError, KeyError, AssertionError) as error:
            text = str(error).rstrip(".")
            hint = "; cut off while it was written? `wbvla record --audit FOLDER` mends it" if "end magic" in text else ""
            raise DataError(f"not readable: {text}{hint}") from error
        self._order: dict[tuple[str, ...], np.ndarray] = {}
        self.lag = LagMeter()
        self.dropped: dict[str, int] = {}

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *exc: object) -> None:
        self._reader.close()

    def messages(self, topics: set[str]) -> Iterator[tuple[str, int, Any]]:
        """(topic, arrival in ns, message); what cannot be decoded is counted, the rest goes on."""
        connections = [c for c in self._reader.connections if c.topic in topics]
        if not connections:
            return
        try:
            for connection, arrival_ns, data in self._reader.messages(connections=connections):
                try:
                    yield connection.topic, arrival_ns, self._reader.deserialize(data, connection.msgtype)
                except (KeyError, IndexError, UnicodeDecodeError, AssertionError, ValueError) as error:
                    if isinstance(error, DataError):
                        raise
                    self._drop(f"{connection.topic}: {type(error).__name__}")
        except (AnyReaderError, EOFError, OSError, RuntimeError) as error:
            raise DataError(f"breaks off: {error}") from error

    def _drop(self, what: str) -> None:
        self.dropped[what] = self.dropped.get(what, 0) + 1

    def require_topics(self) -> None:
        """Raise where the recording lacks what an episode needs."""
        here = {c.topic for c in self._reader.connections if c.msgcount}
        missing = {self.topics.image, self.topics.joint_states} - here
        if missing:
            raise DataError(f"topics {sorted(missing)} are missing or empty; it has {sorted(here)[:12]}. Recorded by others? Give --topics MAP.yaml")

    def decided(self) -> tuple[float, float] | None:
        """Stamps of the first and last decision, None where the recording has none."""
        stamps = [_stamp_s(message) for _, _, message in self.messages(set(self.topics.loco_command.values()))]
        return (min(stamps), max(stamps)) if stamps else None

    def instruction(self) -> str:
        """The sentence that the recording carries: its own topic, or the recorder's note beside it."""
        if self.topics.instruction:
            for _, _, message in self.messages({self.topics.instruction}):
                return str(message.data)
        folder = self.path if self.path.is_dir() else self.path.parent
        note = folder / "episode.json"
        if note.is_file():
            try:
                return str(json.loads(note.read_text()).get("instruction", ""))
            except (ValueError, AttributeError):
                raise DataError(f"{shown(note)} is not JSON; mend it or give --instruction") from None
        return ""

    def joints(self, message: Any, values: Any) -> np.ndarray:
        """[J] in the robot's order from a message with ``name``; DataError where it is another robot's."""
        names = tuple(self.topics.rename.get(name, name) for name in message.name)
        order = self._order.get(names)
        if order is None:
            place = {name: i for i, name in enumerate(names)}
            missing = [name for name in self.robot.joint_names if name not in place]
            if missing and (self.topics.missing_joints == "refuse" or len(missing) == self.robot.joint_count):
                raise DataError(
                    f"another robot? {len(missing)} of {self.robot.joint_count} joints of {self.robot.name} are not named, {missing[:3]} ...; "
                    f"it has {list(names)[:3]} ... Give --robot, or a topic map with rename or missing_joints: hold"
                )
            order = self._order[names] = np.array([place.get(name, -1) for name in self.robot.joint_names])
        array = np.asarray(values, dtype=np.float64)
        if len(array) != len(names):
            raise DataError(f"joint arrays must have one entry per name ({len(names)}), got {len(array)}")
        return np.where(order >= 0, array[order], self.robot.default_q)

    def frames(self, period_s: float) -> Iterator[Frame]:
        """Images joined with states, commands and decisions by :class:`wbvla_core.timeline.Resampler`. A jump of a clock is a DataError."""
        t, own_commands = self.topics, bool(self.topics.joint_command)
        nearest = ("joint_states", *(("imu",) if t.imu else ()))
        by_topic = {topic: source for source, topic in t.loco_command.items() if topic}
        held = (*by_topic.values(), *(("safety_state",) if t.safety_state else ()))
        resampler = Resampler(nearest, "joint_command", held, count=STEPS, step_s=STEP_S, period_s=period_s)
        try:
            for topic, _, message in self.messages(t.topics() - {t.instruction}):
                stamp_s = _stamp_s(message)
                if topic == t.image:
                    image = decode_image(message)
                    self.lag.add_image(stamp_s, image)
                    resampler.add_image(stamp_s, image)
                    yield from resampler.frames()
                elif topic == t.joint_states:
                    q = self.joints(message, message.position)
                    qd = self.joints(message, message.velocity) if len(message.velocity) else np.full_like(q, np.nan)
                    resampler.add("joint_states", stamp_s, (q, qd))
                    if not own_commands:
                        resampler.add("joint_command", stamp_s - STEP_S, q)
                elif topic == t.imu:
                    o, w = message.orientation, message.angular_velocity
                    gyro = np.array((w.x, w.y, w.z))
                    self.lag.add_gyro(stamp_s, gyro)
                    resampler.add("imu", stamp_s, np.concatenate((gyro, gravity_from_quaternion(np.array((o.w, o.x, o.y, o.z))))))
                elif topic == t.joint_command:
                    resampler.add("joint_command", stamp_s, self.joints(message, message.position))
                elif topic == t.safety_state:
                    resampler.add("safety_state", stamp_s, str(message.source))
                else:
                    command = np.array((message.forward, message.lateral, message.yaw, message.stance_height_m), dtype=np.float64)
                    resampler.add(by_topic[topic], stamp_s, command)
            yield from resampler.frames(final=True)
        except ClockJump as error:
            raise DataError(f"{error}; stamps must rise. Cut the recording there, or mend the sender's clock") from error

    def row(self, frame: Frame, task: str, height_m: float, start_s: float) -> Row:
        """Columns of a complete frame; ``height_m`` is the stance height while nobody commands one, ``start_s`` the stamp of the episode's first frame."""
        q, qd = frame.nearest["joint_states"]
        if np.isnan(qd).all():
            qd = np.zeros_like(q)
        imu = frame.nearest.get("imu", np.array((0.0, 0.0, 0.0, 0.0, 0.0, -1.0)))
        steps = np.stack(frame.steps)  # [5, J]
        places = [self.robot.joint_names.index(name) for name in action_joints(self.robot)]
        columns = {
            "observation.state": q,
            "observation.velocity": qd,
            "observation.imu": imu,
            "observation.stamp_s": np.array([frame.stamp_s - start_s]),
            "observation.skew_s": np.array([frame.skew_s["joint_states"], frame.skew_s.get("imu", 0.0)]),
            "action": np.concatenate((steps[-1, places], self.loco(frame, height_m))),
            "command.position": steps.ravel(),
        }
        return Row(columns, frame.image, task)

    def loco(self, frame: Frame, height_m: float) -> np.ndarray:
        """[4] flags and stance height that the robot followed at this frame: those of the source in control, flags zero where they are too old."""
        sources = [source for source, topic in self.topics.loco_command.items() if topic and frame.held.get(source) is not None]
        if not sources:
            return np.array((0.0, 0.0, 0.0, height_m))
        in_control = frame.held.get("safety_state")
        newest = min(sources, key=lambda source: frame.held_age_s[source])
        command = frame.held[in_control if in_control in sources else newest].copy()
        stands = in_control is not None and in_control not in sources  # nobody, or somebody who never spoke
        if stands or frame.held_age_s[in_control if in_control in sources else newest] > FOLLOW_AGE_S:
            command[:3] = 0.0
        return command

"""Recordings (rosbag2: MCAP or sqlite3, or ROS 1; ours or anybody's) -> frames of one episode. No ROS: messages are decoded by rosbags.

Which topic is what stands in a :class:`TopicMap`; the default is config/qos.yaml, others' bags bring a YAML file:

    image: /head_camera/color/image_raw            # sensor_msgs/Image, CompressedImage (JPEG, PNG, H.264, ...), packets of ffmpeg_image_transport
    joint_states: /joint_states                    # sensor_msgs/JointState; several topics: [/arms/joint_states, /legs/joint_states]
    imu: /imu/data                                 # optional; without it the data set has no observation.imu
    joint_command: /joint_targets                  # optional: wbvla_msgs/JointCommand, sensor_msgs/JointState; without it
                                                   # the action is where the joints were at the end of each step
    loco_command: {teleop: /cmd, vla: ""}          # optional: wbvla_msgs/LocoCommand per source of control
    instruction: /task                             # optional: std_msgs/String
    rename: {L_ARM_1: left_shoulder_pitch_joint}   # joint names there -> names of the robot spec
    missing_joints: hold                           # refuse (default), or hold: joints that the bag does not name stay at the default pose
    image_encoding: mono16                         # optional: overrides what the image messages say of themselves

A message that cannot be used costs its own frame: it is counted in :attr:`Bag.lost`. What was not measured is said in :meth:`Bag.notes`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from rosbags.highlevel import AnyReader
from rosbags.typesys.store import Typestore

from wbvla_core.errors import WbvlaError
from wbvla_core.robot import RobotSpec
from wbvla_core.ros.tables import topic_table
from wbvla_core.timeline import ClockJump, Frame, Resampler, StampGate
from wbvla_core.types import gravity_from_quaternion
from wbvla_train.data.lerobot.camera_messages import PictureReader
from wbvla_train.data.lerobot.episode import DataError, shown
from wbvla_train.data.lerobot.joints import JointJoiner, JointSample
from wbvla_train.data.lerobot.lag import LagMeter
from wbvla_train.data.lerobot.schema import IMU, STEPS, action_joints

FOLLOW_AGE_S = 0.25  # as in the safety ladder: an older decision is not followed, the robot stands
STEP_S = 0.02
LISTED = ("joint_states", "joint_command")  # entries of a topic map that may be several topics


@dataclass(frozen=True)
class TopicMap:
    """See the module text."""

    image: str
    joint_states: str | tuple[str, ...]
    imu: str = ""
    joint_command: str | tuple[str, ...] = ""
    loco_command: dict[str, str] = field(default_factory=dict)
    safety_state: str = ""
    instruction: str = ""
    rename: dict[str, str] = field(default_factory=dict)
    missing_joints: Literal["refuse", "hold"] = "refuse"
    image_encoding: str = ""

    @classmethod
    def ours(cls) -> TopicMap:
        name = {key: row.name for key, row in topic_table().topics.items()}
        loco = {"teleop": name["teleop_loco"], "vla": name["vla_loco"]}
        return cls(name["camera_image"], name["joint_states"], name["imu"], name["joint_command"], loco, name["safety_state"])

    @classmethod
    def load(cls, path: Path) -> TopicMap:
        """From a YAML file; DataError names the entry at fault."""
        try:
            data = yaml.safe_load(path.read_text())
        except OSError as error:
            raise DataError(f"{shown(path)}: {error.strerror}; --topics names the YAML file of a topic map") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DataError(f"{shown(path)} is not YAML: {' '.join(str(error).split())}") from error
        known = {entry.name for entry in fields(cls)}
        if not isinstance(data, dict) or not {"image", "joint_states"} <= set(data) or set(data) - known:
            came = sorted(map(str, data)) if isinstance(data, dict) else type(data).__name__
            raise DataError(f"{shown(path)}: a topic map has image and joint_states, and may have {sorted(known - {'image', 'joint_states'})}; got {came}")
        if isinstance(data.get("loco_command"), str):
            data["loco_command"] = {"teleop": data["loco_command"]}
        for key, value in data.items():
            if key in LISTED and isinstance(value, list):
                value = data[key] = tuple(value)
            kind = dict if key in ("loco_command", "rename") else str
            values = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
            if not isinstance(value, tuple | kind) or not all(isinstance(entry, str) for entry in values):
                raise DataError(f"{shown(path)}: {key} must be {'names and their values' if kind is dict else 'text'}, got {value!r}")
        if data.get("missing_joints", "hold") not in ("refuse", "hold"):
            raise DataError(f"{shown(path)}: missing_joints must be refuse or hold, got {data['missing_joints']!r}")
        return cls(**data)

    def several(self, entry: str) -> tuple[str, ...]:
        """The topics of an entry that may be several."""
        value = getattr(self, entry)
        return tuple(topic for topic in ((value,) if isinstance(value, str) else value) if topic)

    def topics(self) -> set[str]:
        every = (self.image, self.imu, self.safety_state, self.instruction, *self.loco_command.values())
        return {topic for topic in (*every, *self.several("joint_states"), *self.several("joint_command")) if topic}


@dataclass
class Loss:
    """Messages of one topic that could not be used, for one reason; ``first_s`` counts from the recording's first message."""

    topic: str
    what: str
    first_s: float
    count: int = 0

    def __str__(self) -> str:
        more = f" and {self.count - 1} more" if self.count > 1 else ""
        return f"{self.topic}: message at {self.first_s:.3f} s{more} not used: {self.what}"


@dataclass
class Row:
    """One frame as columns of :mod:`wbvla_train.data.lerobot.schema`, its image and its sentence."""

    columns: dict[str, np.ndarray]
    image: np.ndarray
    task: str


def _stamp_s(message: Any) -> float:
    """Stamp in whole microseconds, as wbvla_core.ros.codec rounds it: the same float on both ways."""
    stamp = message.header.stamp if hasattr(message, "header") else message.timestamp  # Foxglove's messages have no header
    return (int(stamp.sec) * 1_000_000 + round(int(stamp.nanosec) / 1000)) / 1e6


class Bag:
    """One recording, open; use as a context.

    Args:
        typestore: message definitions for bags that do not carry their own.
    """

    def __init__(self, path: Path, robot: RobotSpec, topics: TopicMap, typestore: Callable[[], Typestore]) -> None:
        self.path, self.robot, self.topics = path, robot, topics
        if unknown := sorted(set(topics.rename.values()) - set(robot.joint_names)):
            raise DataError(f"topic map: rename leads to {unknown}, which are no joints of {robot.name}; those are named as in its robot spec")
        try:
            self._reader = AnyReader([path], default_typestore=typestore())
            self._reader.open()
        except Exception as error:  # rosbags, sqlite3, zstandard, yaml, struct: whatever a broken file raises in one of them
            raise DataError(_unreadable(path, error)) from error
        self._start_ns = self._reader.start_time  # arrival of the first message
        self._newest_ns = 0
        self._gates: dict[str, StampGate] = {}
        self._ahead: dict[str, float] = {}
        self.lost: dict[tuple[str, str], Loss] = {}
        self.images = 0  # that became pictures
        self._images_passed = 0  # whose stamps were trusted, too
        self.lost_images = 0  # after the first picture: a video may begin between key frames
        self.lag = LagMeter()
        self.clock = SimulatorClock(topics)

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *exc: object) -> None:
        self._reader.close()

    def messages(self, topics: set[str]) -> Iterator[tuple[str, int, Any]]:
        """(topic, arrival in ns, message); what cannot be decoded is counted, the rest goes on."""
        connections = [c for c in self._reader.connections if c.topic in topics]
        if not connections:
            return
        rows = self._reader.messages(connections=connections)
        while True:
            try:
                connection, arrival_ns, data = next(rows)
            except StopIteration:
                return
            except Exception as error:  # see __init__
                raise DataError(f"breaks off after {max(self._since_start(0), 0.0):.1f} s: {_reason(error)}") from error
            self._newest_ns = arrival_ns
            try:
                message = self._reader.deserialize(data, connection.msgtype)
            except Exception as error:  # a message that is not what its type says
                self._lose(connection.topic, arrival_ns, f"not a {connection.msgtype}: {_reason(error)}")
                continue
            yield connection.topic, arrival_ns, message

    def _since_start(self, arrival_ns: int) -> float:
        return ((arrival_ns or self._newest_ns) - self._start_ns) / 1e9

    def _lose(self, topic: str, arrival_ns: int, what: str) -> None:
        """Count a message that cannot be used; reasons that differ in numbers only are one."""
        key = topic, re.sub(r"[-+]?\d+(\.\d+)?", "#", what)
        loss = self.lost.setdefault(key, Loss(topic, what, round(self._since_start(arrival_ns), 3)))
        loss.count += 1
        self.lost_images += topic == self.topics.image and self.images > 0 and "key frame" not in what

    def _gated(self, topic: str, arrival_ns: int, stamp_s: float, value: Any) -> list[tuple[float, Any]]:
        """(stamp, value) of this topic's messages whose stamps can be trusted by now."""
        gate = self._gates.setdefault(topic, StampGate(topic, self._ahead))
        passed = gate.offer(stamp_s, arrival_ns / 1e9, value)
        self._rejected(topic, gate)
        return passed

    def _rejected(self, topic: str, gate: StampGate) -> None:
        for arrival_s, what in gate.rejected:
            self._lose(topic, round(arrival_s * 1e9), what)
        gate.rejected.clear()

    def _ungated(self) -> Iterator[tuple[str, float, Any]]:
        """What the gates held back to the end."""
        for topic, gate in self._gates.items():
            for stamp_s, value in gate.finish():
                yield topic, stamp_s, value
            self._rejected(topic, gate)

    def require_topics(self) -> None:
        """Raise where the recording lacks what an episode needs."""
        here = {c.topic for c in self._reader.connections if c.msgcount}
        missing = {self.topics.image, *self.topics.several("joint_states")} - here
        if missing:
            raise DataError(f"topics {sorted(missing)} are missing or empty; it has {sorted(here)[:12]}. Recorded by others? Give --topics MAP.yaml")

    def decided(self) -> tuple[float, float] | None:
        """Stamps of the first and last decision, None where the recording has none."""
        stamps: list[float] = []
        topics = {topic for topic in self.topics.loco_command.values() if topic}
        gates = {topic: StampGate(topic, {}) for topic in topics}
        for topic, arrival_ns, message in self.messages(topics):
            stamps += [stamp_s for stamp_s, _ in gates[topic].offer(_stamp_s(message), arrival_ns / 1e9, None)]
        stamps += [stamp_s for gate in gates.values() for stamp_s, _ in gate.finish()]
        self.lost.clear()  # they are read again by frames(), which counts
        return (min(stamps), max(stamps)) if stamps else None

    def sentences(self) -> list[str]:
        """The different sentences that the recording carries, in order: of its own topic, or the recorder's note beside it."""
        if self.topics.instruction:
            said = (str(message.data).strip() for _, _, message in self.messages({self.topics.instruction}))
            if found := list(dict.fromkeys(text for text in said if text)):
                return found
        folder = self.path if self.path.is_dir() else self.path.parent
        note = folder / "episode.json"
        if note.is_file():
            try:
                text = json.loads(note.read_text(encoding="utf-8-sig")).get("instruction") or ""
            except (ValueError, AttributeError):
                raise DataError(f"{shown(note)} is not JSON with names and values; mend it or give --instruction") from None
            if not isinstance(text, str):
                raise DataError(f"{shown(note)}: instruction must be a sentence, got {text!r}; mend it or give --instruction")
            return [text.strip()] if text.strip() else []
        return []

    def frames(self, period_s: float) -> Iterator[Frame]:
        """Images joined with states, commands and decisions by :class:`wbvla_core.timeline.Resampler`. A jump of a clock is a DataError."""
        t = self.topics
        nearest = ("joint_states", *(("imu",) if t.imu else ()))
        self._sources = {topic: source for source, topic in t.loco_command.items() if topic}
        held = (*self._sources.values(), *(("safety_state",) if t.safety_state else ()))
        self._resampler = resampler = Resampler(nearest, "joint_command", held, count=STEPS, step_s=STEP_S, period_s=period_s)
        hold = t.missing_joints == "hold"
        self._joiners = {"joint_states": JointJoiner(self.robot, t.rename, hold=hold)}
        if t.several("joint_command"):
            self._joiners["joint_command"] = JointJoiner(self.robot, t.rename, hold=hold, velocities=False)
        self._pictures, self._size = PictureReader(t.image_encoding), None
        self._oriented, self._turned = True, True
        try:
            for topic, arrival_ns, message in self.messages(t.topics() - {t.instruction} | self.clock.topics()):
                self._take(topic, arrival_ns, message)
                if topic == t.image:
                    yield from resampler.frames()
            for (topic, arrival_ns, stamp_s), image in self._pictures.finish():
                self._picture(topic, arrival_ns, stamp_s, image)
            for topic, stamp_s, value in self._ungated():
                self._pass(topic, stamp_s, value)
            for stream, joiner in self._joiners.items():
                self._joined(stream, joiner.finish())
            self._require_samples()
            yield from resampler.frames(final=True)
        except ClockJump as error:
            raise DataError(f"{error}; stamps must rise. Cut the recording there, or mend the sender's clock") from error

    def _take(self, topic: str, arrival_ns: int, message: Any) -> None:
        """One message on its way to the resampler; what cannot be used of it is counted."""
        if topic in self.clock.topics():
            self.clock.add_state(_stamp_s(message), arrival_ns)
            return
        try:
            stamp_s = _stamp_s(message)
            if topic == self.topics.image:
                for (_, arrived_ns, stamped_s), image in self._pictures.read(message, (topic, arrival_ns, stamp_s)):
                    self._picture(topic, arrived_ns, stamped_s, image)
                return
            value = self._value(topic, message)
        except ValueError as error:  # WbvlaError among them
            self._lose(topic, arrival_ns, _reason(error))
            return
        except (AttributeError, TypeError) as error:
            raise DataError(f"{topic} holds {type(message).__name__.split('__')[-1]}, which a topic map cannot use there: {_reason(error)}") from error
        for passed_s, passed in self._gated(topic, arrival_ns, stamp_s, value):
            self._pass(topic, passed_s, passed)

    def _picture(self, topic: str, arrival_ns: int, stamp_s: float, image: np.ndarray) -> None:
        self._size = self._size or image.shape
        if image.shape != self._size:
            self._lose(topic, arrival_ns, f"the picture is {image.shape[1]}x{image.shape[0]} px, not {self._size[1]}x{self._size[0]} as before")
            return
        self.images += 1
        self.clock.add_image(stamp_s, arrival_ns)
        for passed_s, passed in self._gated(topic, arrival_ns, stamp_s, image):
            self._pass(topic, passed_s, passed)

    def _value(self, topic: str, message: Any) -> Any:
        """What a message says, checked; WbvlaError where it cannot be used."""
        t = self.topics
        if topic in t.several("joint_states"):
            return self._newest_ns, list(message.name), message.position, message.velocity
        if topic in t.several("joint_command"):
            return self._newest_ns, list(message.name), message.position, ()
        if topic == t.imu:
            return self._imu(message)
        if topic == t.safety_state:
            return str(message.source)
        command = np.array((message.forward, message.lateral, message.yaw, message.stance_height_m), dtype=np.float64)
        if not np.isfinite(command).all() or np.abs(command[:3]).max() > 1:
            raise WbvlaError(f"flags must be -1, 0 or 1 and the stance height finite, got {command.tolist()}")
        return command

    def _imu(self, message: Any) -> np.ndarray:
        """[6] angular velocity and gravity; NaN where the sensor says that it does not measure it (sensor_msgs/Imu: a covariance that begins with -1)."""
        o, w = message.orientation, message.angular_velocity
        gyro, quaternion = np.array((w.x, w.y, w.z)), np.array((o.w, o.x, o.y, o.z))
        if not (np.isfinite(gyro).all() and np.isfinite(quaternion).all()):
            raise WbvlaError("orientation or angular velocity is not finite")
        if message.angular_velocity_covariance[0] == -1.0:
            gyro, self._turned = np.full(3, np.nan), False
        norm = float(np.linalg.norm(quaternion))
        if message.orientation_covariance[0] == -1.0 or norm == 0.0:
            self._oriented = False
            return np.concatenate((gyro, np.full(3, np.nan)))
        if abs(norm - 1.0) > 0.05:
            raise WbvlaError(f"the orientation must be a unit quaternion, got norm {norm:.3f}")
        return np.concatenate((gyro, gravity_from_quaternion(quaternion / norm)))

    def _pass(self, topic: str, stamp_s: float, value: Any) -> None:
        """A sample whose stamp is trusted."""
        t = self.topics
        if topic == t.image:
            self._images_passed += 1
            self.lag.add_image(stamp_s, value)
            self._resampler.add_image(stamp_s, value)
        elif topic in t.several("joint_states"):
            self._join("joint_states", topic, stamp_s, value)
        elif topic in t.several("joint_command"):
            self._join("joint_command", topic, stamp_s, value)
        elif topic == t.imu:
            if np.isfinite(value[:3]).all():
                self.lag.add_gyro(stamp_s, value[:3])
            self._resampler.add("imu", stamp_s, value)
        else:
            self._resampler.add("safety_state" if topic == t.safety_state else self._sources[topic], stamp_s, value)

    def _join(self, stream: str, topic: str, stamp_s: float, value: tuple) -> None:
        try:
            self._joined(stream, self._joiners[stream].add(stamp_s, *value[1:]))
        except WbvlaError as error:
            self._lose(topic, value[0], str(error))

    def _joined(self, stream: str, samples: list[tuple[float, JointSample]]) -> None:
        for stamp_s, sample in samples:
            if stream == "joint_command":
                self._resampler.add(stream, stamp_s, sample.q)
                continue
            self._resampler.add(stream, stamp_s, sample)
            if "joint_command" not in self._joiners:
                self._resampler.add("joint_command", stamp_s - STEP_S, sample.q)

    def _require_samples(self) -> None:
        """DataError where not one message of a topic could be used: a wrong setting, not bad luck."""
        worst = {topic: max((loss for loss in self.lost.values() if loss.topic == topic), key=lambda loss: loss.count) for topic, _ in self.lost}
        for stream, joiner in self._joiners.items():
            topics = [topic for topic in self.topics.several(stream) if topic in worst]
            if not joiner.emitted and joiner.heard and not joiner.complete:
                raise DataError(joiner.refusal())
            if not joiner.emitted and topics:
                raise DataError(f"no message of {topics[0]} could be used: {worst[topics[0]].what}")
        if not self._images_passed and self.topics.image in worst:
            raise DataError(f"no message of {self.topics.image} could be used: {worst[self.topics.image].what}")

    def notes(self) -> list[str]:
        """What in the frames is assumed or was not measured, in sentences; after :meth:`frames`."""
        t, out = self.topics, list(self._pictures.notes)
        for stream, joiner in self._joiners.items():
            out += joiner.notes(" and ".join(t.several(stream)))
        if not t.imu:
            out.append("no IMU was named: there is no observation.imu")
        elif not (self._oriented and self._turned):
            what = " and ".join(name for name, there in (("gravity", self._oriented), ("angular velocity", self._turned)) if not there)
            out.append(f"{t.imu} does not measure {what} (its covariance begins with -1, or the quaternion is zero): NaN in observation.imu")
        if "joint_command" not in self._joiners:
            out.append("no joint command was named: targets are where the joints were at the end of each step")
        if not self._sources:
            out.append("no decision was named: flags 0 and the default stance height in the action were not measured")
        return out

    def not_measured(self) -> dict[str, list[str]]:
        """Columns and their entries that are NaN because nothing measured them."""
        names = [name for name, there in zip(IMU, [self._turned] * 3 + [self._oriented] * 3) if not there]
        return {"observation.imu": names} if names else {}

    def ahead_s(self) -> dict[str, float]:
        """Stamp minus arrival of each topic's newest message, s."""
        return dict(self._ahead)

    def losses(self) -> list[dict[str, Any]]:
        """:attr:`lost` for a JSON file, by time."""
        return [asdict(loss) for loss in sorted(self.lost.values(), key=lambda loss: loss.first_s)]

    def row(self, frame: Frame, task: str, height_m: float, start_s: float) -> Row:
        """Columns of a complete frame; ``height_m`` is the stance height while nobody commands one, ``start_s`` the stamp of the episode's first frame."""
        joints: JointSample = frame.nearest["joint_states"]
        steps = np.stack(frame.steps)  # [5, J]
        places = [self.robot.joint_names.index(name) for name in action_joints(self.robot)]
        columns = {
            "observation.state": joints.q,
            "observation.velocity": joints.qd,
            "observation.stamp_s": np.array([frame.stamp_s - start_s]),
            "observation.skew_s": np.array([joint_skew_s(frame), *([frame.skew_s["imu"]] if self.topics.imu else [])]),
            "action": np.concatenate((steps[-1, places], self.loco(frame, height_m))),
            "command.position": steps.ravel(),
        }
        if self.topics.imu:
            columns["observation.imu"] = frame.nearest["imu"]
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


def joint_skew_s(frame: Frame) -> float:
    """Stamp of the joint that lies furthest from the image, minus the image's; joints may come in several messages."""
    own, apart = frame.skew_s["joint_states"], frame.nearest["joint_states"].skew_s
    return float(np.copysign(abs(own) + apart, own)) if apart else own


class SimulatorClock:
    """Whether the images' stamps are known to be exact.

    They are where the recording has our simulator's states, every image bears the stamp of one of them, and none was there before the state that it shows.
    """

    SHARE = 0.9  # of the images between the first and the last state; states come best effort, and a busy machine loses some
    EARLY_NS = 20_000_000  # a busy recorder takes messages out of order by as much

    def __init__(self, topics: TopicMap) -> None:
        self._topic = topic_table().topics["sim_state"].name if topics.image == TopicMap.ours().image else ""
        self._states: dict[int, int] = {}  # stamp, us -> arrival, ns
        self._images: list[tuple[int, int]] = []

    def topics(self) -> set[str]:
        return {self._topic} if self._topic else set()

    def add_state(self, stamp_s: float, arrival_ns: int) -> None:
        self._states[round(stamp_s * 1e6)] = arrival_ns

    def add_image(self, stamp_s: float, arrival_ns: int) -> None:
        self._images.append((round(stamp_s * 1e6), arrival_ns))

    def exact(self) -> bool:
        """See the class."""
        if not self._states:
            return False
        first, last = min(self._states), max(self._states)
        images = [(stamp, arrival_ns) for stamp, arrival_ns in self._images if first <= stamp <= last]
        fitting = sum(stamp in self._states and arrival_ns > self._states[stamp] - self.EARLY_NS for stamp, arrival_ns in images)
        return len(images) >= 0.5 * len(self._images) > 0 and fitting >= self.SHARE * len(images)


def _reason(error: BaseException) -> str:
    """One line of what another library said."""
    text = " ".join(str(error).split()).rstrip(".")
    return text or type(error).__name__


def _unreadable(path: Path, error: BaseException) -> str:
    """Why a recording cannot be opened, and what mends it."""
    text = _reason(error)
    if "end magic" in text:
        return f"not readable: {text}; cut off while it was written? `wbvla record --audit FOLDER` mends it"
    if "files are missing" in text:
        return f"not readable: {text}; metadata.yaml names them: give them their names back, or `ros2 bag reindex FOLDER`"
    if "metadata" in text.lower() or "Storage plugin" in text:
        return f"not readable: its metadata.yaml is not rosbag2's ({text}); `ros2 bag reindex FOLDER` writes it anew"
    if isinstance(error, PermissionError):
        return f"not readable: {error.strerror}"
    return f"not readable: {text}"

"""What a remote policy and its server say to each other: one msgpack map per message, every field checked, nothing unpickled.

    question  {version, ask: "hello"}                                               -> {version, served, guard}
              {version, ask: "check", policy, instruction}                          -> {version}
              {version, ask: "decide", policy, number, episode, input}              -> {version, number, decision, server_s}
    refusal   {version, number, error: {type, code, text}}                             in place of any answer

``policy`` is the digest of :class:`ServedPolicy`: each question names the policy that it is meant for, so a server needs no memory of who
said hello, and one that was started again with another policy cannot answer by mistake. An array travels as {dtype, shape, data}, its raw
bytes in little-endian order: an answer over the link is the answer in process, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import msgpack
import numpy as np

from wbvla_core import errors
from wbvla_core.catalogue import TaskCatalogue
from wbvla_core.checkpoint import Manifest, robot_entry
from wbvla_core.errors import ErrorCode, LinkError, WbvlaError
from wbvla_core.robot import RobotSpec
from wbvla_core.types import ArmChunk, Decision, LatentAction, LocoCommand, PolicyInput, RobotState

VERSION = 1
MAX_BYTES = 4 << 20  # of one message; a policy image of 224 px is 147 kB
LAST_STAMP_S = 2.0**32  # what a ROS stamp can hold
STATE_ARRAYS = ("q", "qd", "gyro", "gravity")
REFUSALS = {kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, WbvlaError)}


@dataclass(frozen=True)
class ServedPolicy:
    """Who answers: what both sides must agree on before a decision may be used.

    Attributes:
        label: for people, e.g. "checkpoint policy/tiny" or "zero".
        hash: of the manifest, which covers weights, image and lineage (of the file, for a recorded stream; "" without either).
        robot: {name, version, joint_names, fingerprint}; and the numbers that the policy depends on, where its manifest has them.
        image: :class:`~wbvla_perception.preprocess.ImageSpec` as JSON; None = any 8-bit RGB image.
    """

    label: str
    hash: str
    robot: dict[str, Any]
    image: dict[str, Any] | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> ServedPolicy:
        return cls(manifest.label, manifest.hash, manifest.robot, manifest.inputs["image"]["spec"])

    @classmethod
    def without_network(cls, label: str, hash_: str, robot: RobotSpec) -> ServedPolicy:
        return cls(label, hash_, robot_entry(robot))

    @property
    def digest(self) -> str:
        """sha256 of all fields but the robot's numbers, as :attr:`~wbvla_core.checkpoint.Manifest.hash` is."""
        fields = asdict(self) | {"robot": {key: value for key, value in self.robot.items() if key != "numbers"}}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


# -- messages -----------------------------------------------------------------------------------------------------------------------------


def pack(**fields: Any) -> bytes:
    """One message of this version; numpy arrays may stand anywhere in it."""
    return msgpack.packb({"version": VERSION, **fields}, default=_pack_array)


def unpack(data: bytes) -> dict[str, Any]:
    """The map of one message.

    Raises:
        LinkError: not msgpack, not a map, or of another version.
    """
    try:
        message = msgpack.unpackb(data)
    except Exception as error:  # msgpack has half a dozen kinds; whatever it was, the bytes are no message
        raise LinkError(f"a message must be one msgpack map, got {len(data)} bytes that are not ({type(error).__name__}: {error})") from error
    if not isinstance(message, dict):
        raise LinkError(f"a message must be one msgpack map, got {type(message).__name__}")
    if message.get("version") != VERSION:
        raise LinkError(f"field 'version' must be {VERSION}, got {message.get('version')!r}; run the same wbvla on both machines")
    return message


def field(message: dict[str, Any], name: str, kind: type) -> Any:
    """``message[name]``, or LinkError where it is missing or of another type (an int is a fine float, a bool is no int)."""
    value = message.get(name)
    fits = isinstance(value, (int, float) if kind is float else kind) and not (isinstance(value, bool) and kind is not bool)
    if not fits or (kind is float and not math.isfinite(value)):
        raise LinkError(f"field {name!r} must be {kind.__name__}{' and finite' if kind is float else ''}, got {_brief(value)}")
    return kind(value)


def _brief(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:40]}" if value is not None else "nothing"


def _pack_array(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        little = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
        return {"dtype": little.dtype.str, "shape": list(value.shape), "data": little.tobytes()}
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} does not travel")


def array(message: dict[str, Any], name: str, dtype: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """The array ``message[name]``; None in ``shape`` is any length. LinkError where type, shape or number of bytes differ. Read-only."""
    packed = field(message, name, dict)
    found = packed.get("shape")
    if packed.get("dtype") != dtype or not isinstance(found, list) or not all(type(n) is int and n >= 0 for n in found):
        raise LinkError(f"field {name!r} must be an array of {dtype} with its shape, got {_brief(packed.get('dtype'))}, {_brief(found)}")
    if len(found) != len(shape) or any(want not in (None, n) for want, n in zip(shape, found, strict=True)):
        raise LinkError(f"field {name!r} must have shape {list(shape)} (None: any), got {found}")
    data, size = packed.get("data"), math.prod(found) * np.dtype(dtype).itemsize
    if not isinstance(data, bytes) or len(data) != size:
        raise LinkError(f"field {name!r} with shape {found} must hold {size} bytes, got {len(data) if isinstance(data, bytes) else _brief(data)}")
    return np.frombuffer(data, dtype).reshape(found)


# -- values -------------------------------------------------------------------------------------------------------------------------------


def pack_input(inputs: PolicyInput) -> dict[str, Any]:
    state = {name: np.asarray(getattr(inputs.state, name), np.float64) for name in STATE_ARRAYS}
    return {"stamp_s": inputs.stamp_s, "image": inputs.image, "instruction": inputs.instruction, "state": {"stamp_s": inputs.state.stamp_s, **state}}


def read_input(message: dict[str, Any], joint_count: int) -> PolicyInput:
    """Inverse of :func:`pack_input`; the size of the image is the policy's to judge. LinkError, StateError where a field is wrong."""
    packed = field(message, "input", dict)
    state = field(packed, "state", dict)
    lengths = (joint_count, joint_count, 3, 3)
    arrays = [array(state, name, "<f8", (length,)) for name, length in zip(STATE_ARRAYS, lengths, strict=True)]
    return PolicyInput(
        _stamp(packed),
        array(packed, "image", "|u1", (None, None, 3)),
        field(packed, "instruction", str),
        RobotState(_stamp(state), *arrays).validate(joint_count),
    )


def _stamp(message: dict[str, Any]) -> float:
    """The stamp of a message, s."""
    stamp_s = field(message, "stamp_s", float)
    if abs(stamp_s) > LAST_STAMP_S:
        raise LinkError(f"field 'stamp_s' must be a time of at most {LAST_STAMP_S:g} s, got {stamp_s:g}")
    return stamp_s


def pack_decision(decision: Decision) -> dict[str, Any]:
    positions = np.asarray(decision.arms.positions, np.float64)
    arms = {"joint_names": list(decision.arms.joint_names), "positions": positions, "dt_s": decision.arms.dt_s}
    latent = asdict(decision.latent) if decision.latent else None
    return {"stamp_s": decision.stamp_s, "loco": asdict(decision.loco), "arms": arms, "latent": latent, "timing_s": decision.timing_s}


def read_decision(message: dict[str, Any], robot: RobotSpec) -> Decision:
    """Inverse of :func:`pack_decision`. LinkError where a field is wrong, CommandError where the robot must not follow it."""
    packed = field(message, "decision", dict)
    loco, arms, timing = (field(packed, name, dict) for name in ("loco", "arms", "timing_s"))
    command = LocoCommand(*(field(loco, name, int) for name in ("forward", "lateral", "yaw")), field(loco, "stance_height_m", float))
    names = robot.names("upper_body")
    chunk = ArmChunk(tuple(field(arms, "joint_names", list)), array(arms, "positions", "<f8", (None, len(names))), field(arms, "dt_s", float))
    latent = None
    if packed.get("latent") is not None:
        codes = field(packed, "latent", dict)
        latent = LatentAction(_codes(codes, "manipulation"), _codes(codes, "locomotion"), field(codes, "codebook_size", int))
    return Decision(
        field(packed, "stamp_s", float),
        command.validate(robot.stance_height_range_m),
        chunk.validate(names),
        latent,
        {str(name): field(timing, name, float) for name in timing},
    )


def _codes(message: dict[str, Any], name: str) -> tuple[int, ...]:
    values = field(message, name, list)
    if not all(type(value) is int and value >= 0 for value in values):
        raise LinkError(f"field {name!r} must hold indices of codes, got {_brief(values)}")
    return tuple(values)


def read_served(message: dict[str, Any]) -> ServedPolicy:
    packed = field(message, "served", dict)
    image = field(packed, "image", dict) if packed.get("image") is not None else None
    made_for = field(packed, "robot", dict)
    kinds = {"name": str, "version": str, "joint_names": list, "fingerprint": str} | ({"numbers": dict} if "numbers" in made_for else {})
    robot = {name: field(made_for, name, kind) for name, kind in kinds.items()}
    return ServedPolicy(field(packed, "label", str), field(packed, "hash", str), robot, image)


def read_guard(message: dict[str, Any]) -> tuple[TaskCatalogue | None, bool]:
    """(the tasks of the served policy, whether it reads sentences at all). A server that says nothing of either has no list."""
    if message.get("guard") is None:
        return None, True
    packed = field(message, "guard", dict)
    try:
        tasks = TaskCatalogue.from_json(packed["tasks"]) if packed.get("tasks") is not None else None
    except ValueError as error:
        raise LinkError(f"the served list of tasks cannot be read: {error}") from error
    return tasks, field(packed, "reads_sentences", bool)


def pack_error(error: Exception) -> dict[str, Any]:
    """A refusal keeps its type and code; anything else is a bug behind the server and says so."""
    if isinstance(error, WbvlaError):
        return {"type": type(error).__name__, "code": int(error.code), "text": str(error)}
    return {"type": "WbvlaError", "code": int(ErrorCode.TASK_FAULT), "text": f"the policy failed on its server: {type(error).__name__}: {error}"}


def raise_error(message: dict[str, Any]) -> None:
    """Raise the refusal that ``message`` carries, if any, as what it was on the other side."""
    if message.get("error") is None:
        return
    packed = field(message, "error", dict)
    code = field(packed, "code", int)
    known = ErrorCode(code) if code in set(ErrorCode) else ErrorCode.TASK_FAULT
    raise REFUSALS.get(field(packed, "type", str), WbvlaError)(field(packed, "text", str), known)

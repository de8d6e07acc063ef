"""The messages of the 50 Hz loop by their bytes: the numbers of :mod:`wbvla_core.ros.codec`, without Python objects between.

A joint state makes 33 strings and a hundred checks on its way through rclpy: with the caches of a busy core a quarter of a millisecond, of the 2 that
the loop has. From one message to the next only stamp and float64 numbers change, and they lie in the serialized form (CDR: 4 bytes of encapsulation, then
every field aligned to its size) as numpy has them. A message that is laid out otherwise goes through codec.
"""

from __future__ import annotations

import struct

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Imu, JointState

from wbvla_core.ros import codec
from wbvla_core.types import JointCommand

STAMP = 4  # place of sec and nanosec, behind the encapsulation
FRAME = 12  # of the length of frame_id
LITTLE_ENDIAN = 1  # second byte of the encapsulation
# quaternion x y z w, its covariance (9), angular velocity, its covariance (9)
IMU_DOUBLES, IMU_COVARIANCES, IMU_GYRO = 25, (4, 16), slice(13, 16)


def stamp_s(data: bytes) -> float:
    """Stamp of a serialized message that begins with a Header. At 200 Hz, decoding every sample for the few that count is waste."""
    return codec.seconds(*struct.unpack_from("<iI", data, STAMP))


def _markers(fields: int, count: int) -> np.ndarray:
    """Numbers [fields, count] whose bytes occur nowhere else in a message."""
    return np.arange(fields * count, dtype=np.float64).reshape(fields, count) + np.pi


class JointStateReader:
    """Serialized JointState -> (stamp_s, q [J], qd [J]) in the order of ``joint_names``; refuses what :func:`codec.joint_state_from_msg` refuses.

    What lies before and between the numbers (frame, names, lengths) is compared with what codec has found good. It is not always the same bytes:
    padding is whatever the sender's buffer held.
    """

    MAX_KNOWN = 32

    def __init__(self, joint_names: tuple[str, ...]) -> None:
        self._names, self._count = joint_names, len(joint_names)
        q, qd = _markers(2, self._count)
        example = serialize_message(codec.joint_state_msg(joint_names, 0.0, q, qd))
        self._q, self._qd = example.index(q.tobytes()), example.index(qd.tobytes())
        self._known: set[bytes] = set()

    def __call__(self, data: bytes) -> tuple[float, np.ndarray, np.ndarray]:
        around = data[FRAME : self._q] + data[self._q + 8 * self._count : self._qd]
        if around not in self._known:
            msg = deserialize_message(data, JointState)
            sample = codec.joint_state_from_msg(msg, self._names)
            as_expected = data[1] == LITTLE_ENDIAN and not msg.header.frame_id and tuple(msg.name) == self._names
            if as_expected and len(self._known) < self.MAX_KNOWN:
                self._known.add(around)
            return sample
        q, qd = (np.frombuffer(data, np.float64, self._count, at).copy() for at in (self._q, self._qd))
        return codec.checked_joints(stamp_s(data), q, qd, self._names)


def read_imu(data: bytes) -> tuple[float, np.ndarray, np.ndarray]:
    """Serialized Imu -> (stamp_s, gyro [3], gravity [3]); refuses what :func:`codec.imu_from_msg` refuses."""
    at = FRAME + 4 + int.from_bytes(data[FRAME : FRAME + 4], "little")
    at += (STAMP - at) % 8
    if data[1] != LITTLE_ENDIAN or len(data) < at + 8 * IMU_DOUBLES:
        return codec.imu_from_msg(deserialize_message(data, Imu))
    numbers = np.frombuffer(data, np.float64, IMU_DOUBLES, at)
    codec.require_measured(*(float(numbers[i]) for i in IMU_COVARIANCES))
    return codec.checked_imu(stamp_s(data), numbers[[3, 0, 1, 2]], numbers[IMU_GYRO].copy())


class JointCommandWriter:
    """JointCommand -> serialized message, which a publisher takes as it is; refuses what :func:`codec.joint_command_msg` refuses."""

    FIELDS = ("q", "qd", "tau_ff", "kp", "kd")

    def __init__(self, joint_names: tuple[str, ...]) -> None:
        self._count = len(joint_names)
        markers = _markers(len(self.FIELDS), self._count)
        self._template = serialize_message(codec.joint_command_msg(JointCommand(0.0, *markers), joint_names))
        self._places = [self._template.index(row.tobytes()) for row in markers]

    def __call__(self, command: JointCommand) -> bytes:
        command.validate(self._count)
        data = bytearray(self._template)
        struct.pack_into("<iI", data, STAMP, *codec.sec_nanosec(command.stamp_s))
        for place, name in zip(self._places, self.FIELDS, strict=True):
            data[place : place + 8 * self._count] = np.ascontiguousarray(getattr(command, name), dtype="<f8").tobytes()
        return bytes(data)

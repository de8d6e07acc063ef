"""Messages <-> the types of :mod:`wbvla_core.types`.

Every ``*_from_msg`` checks what came, field by field: rclpy neither range-checks int8 (300 arrives as 44) nor lengths, and
the far side may be anybody. A refusal is a :class:`wbvla_core.errors.WbvlaError` with a code and a sentence.

Stamps are float seconds inside the house and are rounded to whole microseconds on the wire: a float64 of seconds since
1970 resolves 0.24 us, so that a microsecond survives the round trip and stamps can be compared for equality.
"""

from __future__ import annotations

import array
import functools
import math

import numpy as np
from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from sensor_msgs.msg import CameraInfo, Image, Imu, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from wbvla_core import images
from wbvla_core.errors import CommandError, ErrorCode, ImageError, StateError
from wbvla_core.ros.health import Health
from wbvla_core.safety import SafetyStatus
from wbvla_core.types import UNIT_TOLERANCE, ArmChunk, JointCommand, LatentAction, LocoCommand, RobotState, gravity_from_quaternion
from wbvla_msgs.msg import JointCommand as JointCommandMsg
from wbvla_msgs.msg import LatentAction as LatentActionMsg
from wbvla_msgs.msg import LocoCommand as LocoCommandMsg
from wbvla_msgs.msg import SafetyState as SafetyStateMsg

CONVERTED = tuple(name for name, layout in images.LAYOUTS.items() if layout.kind in ("yuv", *images.BAYER) or layout.bits == 16)


# -- time --------------------------------------------------------------------------------------------------------------
def stamp_msg(stamp_s: float) -> Time:
    """Seconds -> Time, rounded to whole microseconds."""
    sec, nanosec = sec_nanosec(stamp_s)
    return Time(sec=sec, nanosec=nanosec)


def sec_nanosec(stamp_s: float) -> tuple[int, int]:
    """The fields of a Time, rounded to whole microseconds; :func:`seconds` is the inverse."""
    micros = round(stamp_s * 1e6)
    return micros // 1_000_000, micros % 1_000_000 * 1000


def stamp_s(stamp: Time) -> float:
    """Time -> seconds, rounded to whole microseconds so that equal stamps stay equal."""
    return seconds(stamp.sec, stamp.nanosec)


def seconds(sec: int, nanosec: int) -> float:
    """The same from the two numbers of a Time."""
    return (sec * 1_000_000 + round(nanosec / 1000)) / 1e6


def stamp_ns(stamp: Time) -> int:
    """Time -> integer nanoseconds, the key by which messages are paired."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def _doubles(values: np.ndarray) -> array.array:
    """float64 array for a message field: an order of magnitude faster than a list."""
    return array.array("d", np.ascontiguousarray(values, dtype=np.float64).tobytes())


# -- state -------------------------------------------------------------------------------------------------------------
def joint_state_msg(joint_names: tuple[str, ...], at_s: float, q: np.ndarray, qd: np.ndarray, effort_nm: np.ndarray | None = None) -> JointState:
    """Joint state of all joints [J]; frame_id empty, values are in joint space."""
    msg = JointState()
    msg.header.stamp = stamp_msg(at_s)
    msg.name = list(joint_names)
    msg.position = _doubles(q)
    msg.velocity = _doubles(qd)
    if effort_nm is not None:
        msg.effort = _doubles(effort_nm)
    return msg


def joint_state_from_msg(msg: JointState, joint_names: tuple[str, ...]) -> tuple[float, np.ndarray, np.ndarray]:
    """(stamp_s, q [J], qd [J]) in the order of ``joint_names``, whatever the order on the wire.

    Raises:
        StateError: joints missing, arrays of another length than the names, or not finite.
    """
    names = list(msg.name)
    for field_name, values in (("position", msg.position), ("velocity", msg.velocity)):
        if len(values) != len(names):
            raise StateError(f"joint state {field_name} must have one entry per name ({len(names)}), got {len(values)}", ErrorCode.STATE_SHAPE)
    q, qd = np.asarray(msg.position, dtype=np.float64), np.asarray(msg.velocity, dtype=np.float64)
    if names != list(joint_names):
        missing = sorted(set(joint_names) - set(names))
        if missing:
            raise StateError(f"joint state must name all {len(joint_names)} joints, missing {missing[:4]}; does the robot spec match?", ErrorCode.STATE_SHAPE)
        order = [names.index(name) for name in joint_names]
        q, qd = q[order], qd[order]
    return checked_joints(stamp_s(msg.header.stamp), q, qd, joint_names)


def checked_joints(at_s: float, q: np.ndarray, qd: np.ndarray, joint_names: tuple[str, ...]) -> tuple[float, np.ndarray, np.ndarray]:
    """Its arguments but the names. Raises StateError where a number is not finite."""
    if not (np.isfinite(q).all() and np.isfinite(qd).all()):
        bad = [name for name, a, b in zip(joint_names, q, qd) if not (math.isfinite(a) and math.isfinite(b))]
        raise StateError(f"joint state must be finite, but {bad[:4]} are not", ErrorCode.STATE_NOT_FINITE)
    return at_s, q, qd


def quaternion_from_gravity(gravity: np.ndarray, yaw_rad: float) -> np.ndarray:
    """[4] (w, x, y, z): an orientation with this heading whose gravity in the body frame is ``gravity`` [3] (unit).

    The inverse of :func:`wbvla_core.types.gravity_from_quaternion` up to the heading.
    """
    x, y, z = gravity
    roll, pitch = math.atan2(-y, -z), math.atan2(x, math.hypot(y, z))
    cr, sr, cp, sp, cy, sy = (f(a / 2) for a in (roll, pitch, yaw_rad) for f in (math.cos, math.sin))
    return np.array((cr * cp * cy + sr * sp * sy, sr * cp * cy - cr * sp * sy, cr * sp * cy + sr * cp * sy, cr * cp * sy - sr * sp * cy))


def imu_msg(frame_id: str, at_s: float, quat_wxyz: np.ndarray, gyro_rad_s: np.ndarray, accel_m_s2: np.ndarray | None = None) -> Imu:
    """IMU sample in its own frame: orientation in the world, angular velocity, linear acceleration (if measured)."""
    msg = Imu()
    msg.header.stamp, msg.header.frame_id = stamp_msg(at_s), frame_id
    msg.orientation.w, msg.orientation.x, msg.orientation.y, msg.orientation.z = (float(v) for v in quat_wxyz)
    msg.angular_velocity.x, msg.angular_velocity.y, msg.angular_velocity.z = (float(v) for v in gyro_rad_s)
    if accel_m_s2 is None:
        msg.linear_acceleration_covariance[0] = -1.0  # sensor_msgs/Imu: the field is not measured
    else:
        msg.linear_acceleration.x, msg.linear_acceleration.y, msg.linear_acceleration.z = (float(v) for v in accel_m_s2)
    return msg


def imu_from_msg(msg: Imu) -> tuple[float, np.ndarray, np.ndarray]:
    """(stamp_s, gyro [3] rad/s, gravity [3] unit, both in the pelvis frame).

    Raises:
        StateError: not finite, not measured, or the orientation is not a unit quaternion.
    """
    o, w = msg.orientation, msg.angular_velocity
    require_measured(msg.orientation_covariance[0], msg.angular_velocity_covariance[0])
    return checked_imu(stamp_s(msg.header.stamp), np.array((o.w, o.x, o.y, o.z)), np.array((w.x, w.y, w.z)))


def require_measured(orientation_covariance: float, gyro_covariance: float) -> None:
    """Raise StateError where an IMU says by -1 in front of a covariance that it does not measure this (sensor_msgs/Imu): its numbers are fillers."""
    for name, first in (("orientation", orientation_covariance), ("angular velocity", gyro_covariance)):
        if first == -1.0:
            raise StateError(f"IMU {name} must be measured, but its covariance begins with -1; is the orientation estimator running?", ErrorCode.STATE_SHAPE)


def checked_imu(at_s: float, quat: np.ndarray, gyro: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """(stamp_s, gyro [3], gravity [3]) from a stamp, an orientation [4] (w, x, y, z) and an angular velocity [3]. Raises StateError."""
    if not (np.isfinite(quat).all() and np.isfinite(gyro).all()):
        raise StateError("IMU orientation and angular velocity must be finite", ErrorCode.STATE_NOT_FINITE)
    norm = float(np.linalg.norm(quat))
    if abs(norm - 1.0) > UNIT_TOLERANCE:
        raise StateError(f"IMU orientation must be a unit quaternion, got norm {norm:.3f}; is the orientation estimator running?", ErrorCode.STATE_SHAPE)
    return at_s, gyro, gravity_from_quaternion(quat / norm)


def robot_state(joints: tuple[float, np.ndarray, np.ndarray], imu: tuple[float, np.ndarray, np.ndarray]) -> RobotState:
    """One RobotState from a decoded joint state and the IMU sample nearest to it; its stamp is the joint state's."""
    return RobotState(stamp_s=joints[0], q=joints[1], qd=joints[2], gyro=imu[1], gravity=imu[2])


# -- decisions ---------------------------------------------------------------------------------------------------------
def loco_msg(command: LocoCommand, at_s: float, height_range_m: tuple[float, float]) -> LocoCommandMsg:
    """LocoCommand -> message; validated here too, because out-of-range flags would wrap silently on the wire."""
    command.validate(height_range_m)
    msg = LocoCommandMsg(forward=int(command.forward), lateral=int(command.lateral), yaw=int(command.yaw), stance_height_m=float(command.stance_height_m))
    msg.header.stamp = stamp_msg(at_s)
    return msg


def loco_from_msg(msg: LocoCommandMsg, height_range_m: tuple[float, float]) -> tuple[int, LocoCommand]:
    """(stamp in ns, command). Raises CommandError.

    The height is a float32 on the wire; to the micrometre it is the number that was sent, so that the node and the lock-step episode see the same.
    """
    command = LocoCommand(msg.forward, msg.lateral, msg.yaw, round(float(msg.stance_height_m), 6))
    return stamp_ns(msg.header.stamp), command.validate(height_range_m)


def arms_msg(chunk: ArmChunk, at_s: float) -> JointTrajectory:
    """ArmChunk -> JointTrajectory: point i is due (i + 1) dt after the stamp."""
    chunk.validate()
    msg = JointTrajectory(joint_names=list(chunk.joint_names))
    msg.header.stamp = stamp_msg(at_s)
    for i, row in enumerate(chunk.positions):
        nanos = round((i + 1) * chunk.dt_s * 1e9)
        msg.points.append(JointTrajectoryPoint(positions=_doubles(row), time_from_start=Duration(sec=nanos // 1_000_000_000, nanosec=nanos % 1_000_000_000)))
    return msg


def arms_from_msg(msg: JointTrajectory, joint_names: tuple[str, ...]) -> tuple[int, ArmChunk]:
    """(stamp in ns, chunk) of exactly these joints, points evenly spaced. Raises CommandError."""
    if not msg.points:
        raise CommandError("arm targets must have at least one point", ErrorCode.COMMAND_SHAPE)
    lengths = {len(point.positions) for point in msg.points}
    if lengths != {len(joint_names)}:
        raise CommandError(f"every point of the arm targets must have {len(joint_names)} positions, got {sorted(lengths)}", ErrorCode.COMMAND_SHAPE)
    due_s = np.array([p.time_from_start.sec + p.time_from_start.nanosec * 1e-9 for p in msg.points])
    dt_s = float(due_s[0])
    if not (dt_s > 0 and np.allclose(due_s, dt_s * np.arange(1, len(due_s) + 1), atol=1e-3)):
        raise CommandError(f"point i of the arm targets must be due (i + 1) dt after the stamp, got {due_s.tolist()[:4]} s", ErrorCode.COMMAND_SHAPE)
    chunk = ArmChunk(tuple(msg.joint_names), np.array([point.positions for point in msg.points], dtype=np.float64), round(dt_s, 6))
    return stamp_ns(msg.header.stamp), chunk.validate(joint_names)


def latent_msg(latent: LatentAction, at_s: float, checkpoint: str) -> LatentActionMsg:
    """LatentAction -> message. Raises CommandError where a code is outside of the codebook."""
    codes = (*latent.manipulation, *latent.locomotion)
    if not all(0 <= code < latent.codebook_size <= 255 for code in codes):
        raise CommandError(f"latent codes must lie in [0, {latent.codebook_size}), got {codes}", ErrorCode.COMMAND_SHAPE)
    msg = LatentActionMsg(
        codebook_size=int(latent.codebook_size),
        manipulation=array.array("B", latent.manipulation),
        locomotion=array.array("B", latent.locomotion),
        checkpoint=checkpoint,
    )
    msg.header.stamp = stamp_msg(at_s)
    return msg


# -- motors ------------------------------------------------------------------------------------------------------------
def joint_command_msg(command: JointCommand, joint_names: tuple[str, ...]) -> JointCommandMsg:
    """JointCommand -> message; validated: nothing that is not finite leaves for the motors."""
    command.validate(len(joint_names))
    msg = JointCommandMsg(name=list(joint_names))
    msg.header.stamp = stamp_msg(command.stamp_s)
    msg.position, msg.velocity, msg.effort = _doubles(command.q), _doubles(command.qd), _doubles(command.tau_ff)
    msg.stiffness, msg.damping = _doubles(command.kp), _doubles(command.kd)
    return msg


def joint_command_from_msg(msg: JointCommandMsg, joint_names: tuple[str, ...]) -> JointCommand:
    """Message -> JointCommand, all joints in the robot's order. Raises CommandError."""
    if tuple(msg.name) != tuple(joint_names):
        raise CommandError(
            f"JointCommand must name all {len(joint_names)} joints in the robot's order, got {len(msg.name)}: {list(msg.name)[:3]}...; "
            "are both sides on the same robot spec?",
            ErrorCode.COMMAND_SHAPE,
        )
    values = (np.asarray(v, dtype=np.float64) for v in (msg.position, msg.velocity, msg.effort, msg.stiffness, msg.damping))
    return JointCommand(stamp_s(msg.header.stamp), *values).validate(len(joint_names))


def safety_msg(status: SafetyStatus, at_s: float, node: str, dropped: int) -> SafetyStateMsg:
    """SafetyStatus -> message; ages that do not exist yet are -1."""
    msg = SafetyStateMsg(state=int(status.rung), code=int(status.code), reason=status.reason, source=status.source, dropped_messages=dropped)
    msg.command_age_s, msg.image_age_s = (float(age) if math.isfinite(age) else -1.0 for age in (status.command_age_s, status.image_age_s))
    msg.header.stamp, msg.header.frame_id = stamp_msg(at_s), node
    return msg


# -- images ------------------------------------------------------------------------------------------------------------
def image_msg(image: np.ndarray, at_s: float, frame_id: str) -> Image:
    """RGB image [H, W, 3] uint8 -> Image, encoding rgb8."""
    height, width, _ = image.shape
    msg = Image(height=height, width=width, encoding="rgb8", is_bigendian=0, step=width * 3)
    msg.data = array.array("B", np.ascontiguousarray(image, dtype=np.uint8).tobytes())  # bytes would cost 7x, a list 200x
    msg.header.stamp, msg.header.frame_id = stamp_msg(at_s), frame_id
    return msg


def image_from_msg(msg: Image, *, width: int | None = None, height: int | None = None) -> np.ndarray:
    """Image of any encoding of :mod:`wbvla_core.images`, any row padding -> RGB [H, W, 3] uint8; a view of the message where it can be.

    Where a ROS installation has cv_bridge, it converts what is more than a view; the numbers are the same.

    Raises:
        ImageError: encoding, size or length of the data is not what was expected.
    """
    if (width is not None and msg.width != width) or (height is not None and msg.height != height):
        raise ImageError(f"image must be {width}x{height}, got {msg.width}x{msg.height}; set the camera or the parameters to match", ErrorCode.IMAGE_SIZE)
    if msg.encoding in CONVERTED and (bridge := cv_bridge()) is not None:
        try:
            return np.asarray(bridge.imgmsg_to_cv2(msg, "rgb8"))
        except Exception:  # whatever it did not take is decoded, or refused in our words, below
            pass
    return images.decode(msg.data, msg.encoding, msg.width, msg.height, msg.step, big_endian=bool(msg.is_bigendian))


@functools.lru_cache(maxsize=1)
def cv_bridge() -> object | None:
    """ROS' own converter of images, None where it is not installed or does not load (built for another numpy)."""
    try:
        import cv_bridge as ros
        from cv_bridge.boost import cv_bridge_boost  # noqa: F401  the compiled part, which conversions load: fail here, not at an image

        return ros.CvBridge()
    except Exception:  # ImportError where it is missing; what a module for another ABI raises is not specified
        return None


def camera_info_msg(width: int, height: int, fovy_rad: float, at_s: float, frame_id: str) -> CameraInfo:
    """Ideal pinhole camera (no distortion, square pixels) with this vertical field of view."""
    f = height / 2 / math.tan(fovy_rad / 2)
    cx, cy = (width - 1) / 2, (height - 1) / 2
    msg = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
    msg.k = [f, 0.0, cx, 0.0, f, cy, 0.0, 0.0, 1.0]
    msg.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    msg.p = [f, 0.0, cx, 0.0, 0.0, f, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    msg.header.stamp, msg.header.frame_id = stamp_msg(at_s), frame_id
    return msg


# -- diagnostics -------------------------------------------------------------------------------------------------------
def diagnostics_msg(at_s: float, node: str, health: Health) -> DiagnosticArray:
    """One status of one node, stamped with the node's clock; units belong into the keys (``compute_p99_ms``)."""
    status = DiagnosticStatus(level=bytes((health.level,)), name=f"wbvla: {node}", message=health.message or "ok", hardware_id=node)
    status.values = [KeyValue(key=key, value=f"{value:.4g}" if isinstance(value, float) else str(value)) for key, value in health.values.items()]
    msg = DiagnosticArray(status=[status])
    msg.header.stamp = stamp_msg(at_s)
    return msg

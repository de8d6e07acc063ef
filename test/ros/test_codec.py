"""Messages <-> types: what goes in comes out, and what must not come in is refused with a code."""

from __future__ import annotations

import array
import sys
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run `make setup`")

from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from sensor_msgs.msg import Image, Imu, JointState  # noqa: E402

from wbvla_core.errors import CommandError, ErrorCode, ImageError, StateError  # noqa: E402
from wbvla_core.images import LAYOUTS, decode  # noqa: E402
from wbvla_core.robot import load_robot  # noqa: E402
from wbvla_core.ros import codec, raw  # noqa: E402
from wbvla_core.types import ArmChunk, JointCommand, LatentAction, LocoCommand, gravity_from_quaternion, yaw_from_quaternion  # noqa: E402
from wbvla_msgs.msg import JointCommand as JointCommandMsg  # noqa: E402
from wbvla_msgs.msg import LocoCommand as LocoCommandMsg  # noqa: E402

ROBOT = load_robot("x2")
NAMES, HEIGHT = ROBOT.joint_names, ROBOT.stance_height_range_m
NOW_S = 1795216389.841677  # of the size that stamps have: seconds since 1970


def refused(code: ErrorCode, kind: type, function, *args) -> str:
    with pytest.raises(kind) as caught:
        function(*args)
    assert caught.value.code is code, caught.value
    return str(caught.value)


def joint_state(**changes) -> JointState:
    msg = codec.joint_state_msg(NAMES, NOW_S, ROBOT.default_q, np.zeros(ROBOT.joint_count))
    for name, value in changes.items():
        setattr(msg, name, value)
    return msg


def test_a_stamp_survives_the_wire_to_the_microsecond_and_compares_equal():
    rng = np.random.default_rng(0)
    for at_s in NOW_S + rng.uniform(0.0, 1e6, 1000):
        once = codec.stamp_s(codec.stamp_msg(at_s))
        assert abs(once - at_s) < 1e-6  # half a microsecond, and two roundings of float64 (0.24 us each at this size)
        assert codec.stamp_s(codec.stamp_msg(once)) == once
        assert codec.stamp_ns(codec.stamp_msg(once)) == round(once * 1e6) * 1000


def test_the_stamp_of_a_serialized_message_is_read_without_decoding_it():
    for msg in (joint_state(), codec.imu_msg("pelvis", NOW_S, np.array((1.0, 0, 0, 0)), np.zeros(3))):
        assert raw.stamp_s(serialize_message(msg)) == codec.stamp_s(msg.header.stamp)


@pytest.mark.parametrize("effort", [None, np.ones(ROBOT.joint_count)])
@pytest.mark.parametrize("frame", ["", "base", "pelvis"])
def test_a_joint_state_read_by_its_bytes_is_the_one_that_codec_reads(frame, effort):
    rng = np.random.default_rng(2)
    msg = codec.joint_state_msg(NAMES, NOW_S, rng.normal(size=len(NAMES)), rng.normal(size=len(NAMES)), effort)
    msg.header.frame_id = frame  # another frame shifts every field behind it
    reader = raw.JointStateReader(NAMES)
    for _ in range(2):  # the first is decoded, the second read
        for got, expected in zip(reader(serialize_message(msg)), codec.joint_state_from_msg(msg, NAMES), strict=True):
            np.testing.assert_array_equal(got, expected)
        msg.position[3], msg.velocity[5] = 0.125, -0.5


def test_joint_states_that_codec_refuses_or_reorders_are_refused_or_reordered_by_their_bytes_too():
    reader, count = raw.JointStateReader(NAMES), ROBOT.joint_count
    reader(serialize_message(joint_state()))
    for changes, code in (
        ({"position": [0.0] * (count - 1)}, ErrorCode.STATE_SHAPE),
        ({"velocity": [0.0] * (count + 1)}, ErrorCode.STATE_SHAPE),
        ({"position": [float("nan")] * count}, ErrorCode.STATE_NOT_FINITE),
        ({"name": ["nobody", *NAMES[1:]]}, ErrorCode.STATE_SHAPE),
    ):
        refused(code, StateError, reader, serialize_message(joint_state(**changes)))
    _, q, _ = reader(serialize_message(joint_state(name=list(NAMES[::-1]), position=[float(i) for i in range(count)])))
    np.testing.assert_array_equal(q, np.arange(count)[::-1])


@pytest.mark.parametrize("frame", ["", "imu", "pelvis", "imu_link", "a_frame_with_a_long_name"])
def test_an_imu_sample_read_by_its_bytes_is_the_one_that_codec_reads(frame):
    msg = codec.imu_msg(frame, NOW_S, np.array((0.8, 0.6, 0.0, 0.0)), np.array((0.1, -0.2, 0.3)), np.array((1.0, 2.0, 3.0)))
    for got, expected in zip(raw.read_imu(serialize_message(msg)), codec.imu_from_msg(msg), strict=True):
        np.testing.assert_array_equal(got, expected)
    msg.orientation.w = 0.0
    refused(ErrorCode.STATE_SHAPE, StateError, raw.read_imu, serialize_message(msg))


def test_a_command_written_by_its_bytes_is_the_message_that_codec_makes():
    values = np.random.default_rng(3).uniform(0.0, 1.0, (5, ROBOT.joint_count))
    command, writer = JointCommand(NOW_S, *values), raw.JointCommandWriter(NAMES)
    for each in (command, JointCommand(NOW_S + 0.02, *values[::-1])):  # nothing of the first is left in the second
        assert deserialize_message(writer(each), JointCommandMsg) == codec.joint_command_msg(each, NAMES)
    values[0, 3] = np.inf
    refused(ErrorCode.COMMAND_NOT_FINITE, CommandError, writer, JointCommand(NOW_S, *values))


def test_joint_state_comes_back_in_the_robots_order_whatever_the_order_on_the_wire():
    q = np.arange(ROBOT.joint_count, dtype=float)
    shuffled = np.random.default_rng(1).permutation(ROBOT.joint_count)
    msg = codec.joint_state_msg(tuple(NAMES[i] for i in shuffled), NOW_S, q[shuffled], -q[shuffled])
    at_s, got_q, got_qd = codec.joint_state_from_msg(msg, NAMES)
    assert at_s == NOW_S
    np.testing.assert_array_equal(got_q, q)
    np.testing.assert_array_equal(got_qd, -q)


def test_a_joint_state_with_nan_or_wrong_size_or_missing_joints_is_refused():
    def decode(msg):
        return codec.joint_state_from_msg(msg, NAMES)

    bad = ROBOT.default_q.copy()
    bad[3] = np.nan
    assert NAMES[3] in refused(ErrorCode.STATE_NOT_FINITE, StateError, decode, joint_state(position=bad.tolist()))
    refused(ErrorCode.STATE_SHAPE, StateError, decode, joint_state(position=[0.0] * (ROBOT.joint_count - 1)))
    refused(ErrorCode.STATE_SHAPE, StateError, decode, joint_state(velocity=[]))
    short = codec.joint_state_msg(NAMES[:-1], NOW_S, ROBOT.default_q[:-1], ROBOT.default_q[:-1])
    assert NAMES[-1] in refused(ErrorCode.STATE_SHAPE, StateError, decode, short)


def test_an_orientation_built_from_gravity_and_heading_has_that_gravity():
    rng = np.random.default_rng(2)
    for _ in range(200):
        gravity = rng.normal(size=3)
        gravity /= np.linalg.norm(gravity)
        heading = rng.uniform(-3, 3)
        quat = codec.quaternion_from_gravity(gravity, heading)
        np.testing.assert_allclose(gravity_from_quaternion(quat), gravity, atol=1e-12)
        assert yaw_from_quaternion(quat) == pytest.approx(heading, abs=1e-9)
    np.testing.assert_allclose(codec.quaternion_from_gravity(np.array((0, 0, -1.0)), np.pi / 2), (np.sqrt(0.5), 0, 0, np.sqrt(0.5)), atol=1e-12)


def test_an_imu_without_a_unit_quaternion_is_refused():
    refused(ErrorCode.STATE_SHAPE, StateError, codec.imu_from_msg, Imu(orientation=Imu().orientation.__class__(w=0.0)))
    msg = codec.imu_msg("pelvis", NOW_S, np.array((1.0, 0, 0, 0)), np.array((0.1, 0.2, np.inf)))
    refused(ErrorCode.STATE_NOT_FINITE, StateError, codec.imu_from_msg, msg)


def test_loco_command_comes_back_and_flags_or_heights_out_of_range_are_refused_on_both_sides():
    command = LocoCommand(1, -1, 0, HEIGHT[1])
    stamp_ns, back = codec.loco_from_msg(codec.loco_msg(command, NOW_S, HEIGHT), HEIGHT)
    assert stamp_ns == round(NOW_S * 1e6) * 1000
    np.testing.assert_allclose(back.as_array(), command.as_array(), atol=1e-7)  # float32 on the wire
    for flags in ((2, 0, 0), (0, -3, 0), (0, 0, 44)):  # 300 arrives as 44: rclpy wraps int8 silently
        refused(
            ErrorCode.COMMAND_FLAG_RANGE,
            CommandError,
            codec.loco_from_msg,
            LocoCommandMsg(forward=flags[0], lateral=flags[1], yaw=flags[2], stance_height_m=0.6),
            HEIGHT,
        )
    refused(ErrorCode.COMMAND_FLAG_RANGE, CommandError, codec.loco_msg, LocoCommand(300, 0, 0, 0.6), NOW_S, HEIGHT)
    for height in (HEIGHT[0] - 0.01, HEIGHT[1] + 0.01):
        refused(ErrorCode.COMMAND_HEIGHT_RANGE, CommandError, codec.loco_from_msg, LocoCommandMsg(stance_height_m=height), HEIGHT)
    refused(ErrorCode.COMMAND_NOT_FINITE, CommandError, codec.loco_from_msg, LocoCommandMsg(stance_height_m=float("nan")), HEIGHT)


def test_an_arm_chunk_comes_back_and_other_joints_shapes_or_spacings_are_refused():
    names = ROBOT.names("upper_body")
    chunk = ArmChunk(names, np.random.default_rng(3).normal(size=(7, len(names))), 0.1)
    _, back = codec.arms_from_msg(codec.arms_msg(chunk, NOW_S), names)
    np.testing.assert_array_equal(back.positions, chunk.positions)
    assert (back.joint_names, back.dt_s) == (names, 0.1)
    refused(ErrorCode.COMMAND_SHAPE, CommandError, codec.arms_from_msg, codec.arms_msg(ArmChunk(names[::-1], chunk.positions), NOW_S), names)
    for spoil in (lambda m: m.points.clear(), lambda m: m.points.pop(2), lambda m: m.points[1].positions.pop(), lambda m: m.points.reverse()):
        msg = codec.arms_msg(chunk, NOW_S)
        spoil(msg)
        refused(ErrorCode.COMMAND_SHAPE, CommandError, codec.arms_from_msg, msg, names)
    msg = codec.arms_msg(chunk, NOW_S)
    msg.points[0].positions[0] = float("nan")
    refused(ErrorCode.COMMAND_NOT_FINITE, CommandError, codec.arms_from_msg, msg, names)


def test_a_joint_command_comes_back_and_nothing_that_is_not_finite_leaves_for_the_motors():
    rng = np.random.default_rng(4)
    command = JointCommand(NOW_S, *(np.abs(rng.normal(size=ROBOT.joint_count)) for _ in range(5)))
    back = codec.joint_command_from_msg(codec.joint_command_msg(command, NAMES), NAMES)
    for name in ("stamp_s", "q", "qd", "tau_ff", "kp", "kd"):
        np.testing.assert_array_equal(getattr(back, name), getattr(command, name))
    command.q[5] = np.nan
    refused(ErrorCode.COMMAND_NOT_FINITE, CommandError, codec.joint_command_msg, command, NAMES)
    msg = codec.joint_command_msg(JointCommand(NOW_S, *(np.ones(ROBOT.joint_count) for _ in range(5))), NAMES)
    msg.name = list(NAMES[::-1])
    refused(ErrorCode.COMMAND_SHAPE, CommandError, codec.joint_command_from_msg, msg, NAMES)


def test_latent_codes_outside_of_the_codebook_are_refused():
    msg = codec.latent_msg(LatentAction((0, 15, 3, 1), (4, 4, 4, 4), 16), NOW_S, "abc")
    assert (list(msg.manipulation), list(msg.locomotion), msg.codebook_size, msg.checkpoint) == ([0, 15, 3, 1], [4, 4, 4, 4], 16, "abc")
    refused(ErrorCode.COMMAND_SHAPE, CommandError, codec.latent_msg, LatentAction((16,), (0,), 16), NOW_S, "")


def test_images_come_back_as_rgb_from_rgb8_bgr8_mono8_and_padded_rows():
    image = np.random.default_rng(5).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    msg = codec.image_msg(image, NOW_S, "camera")
    assert (msg.width, msg.height, msg.step, msg.encoding, len(msg.data)) == (6, 4, 18, "rgb8", 72)
    np.testing.assert_array_equal(codec.image_from_msg(msg, width=6, height=4), image)
    bgr = codec.image_msg(image[..., ::-1], NOW_S, "camera")
    bgr.encoding = "bgr8"
    np.testing.assert_array_equal(codec.image_from_msg(bgr), image)
    padded = np.zeros((4, 20), np.uint8)
    padded[:, :18] = image.reshape(4, 18)
    np.testing.assert_array_equal(codec.image_from_msg(Image(width=6, height=4, step=20, encoding="rgb8", data=padded.tobytes())), image)
    mono = Image(width=6, height=4, step=6, encoding="mono8", data=image[..., 0].tobytes())
    np.testing.assert_array_equal(codec.image_from_msg(mono), np.repeat(image[..., :1], 3, axis=2))


def test_an_image_of_another_size_encoding_or_length_is_refused():
    msg = codec.image_msg(np.zeros((4, 6, 3), np.uint8), NOW_S, "camera")
    text = refused(ErrorCode.IMAGE_SIZE, ImageError, lambda: codec.image_from_msg(msg, width=8, height=4))
    assert "8x4" in text and "6x4" in text
    for change in ({"data": bytes(71)}, {"step": 17}, {"height": 5}, {"width": 0}):
        spoilt = codec.image_msg(np.zeros((4, 6, 3), np.uint8), NOW_S, "camera")
        for name, value in change.items():
            setattr(spoilt, name, value)
        refused(ErrorCode.IMAGE_SIZE, ImageError, codec.image_from_msg, spoilt)
    msg.encoding = "16UC1"
    refused(ErrorCode.IMAGE_ENCODING, ImageError, codec.image_from_msg, msg)


def test_camera_info_has_the_focal_length_of_the_field_of_view():
    info = codec.camera_info_msg(320, 240, np.pi / 2, NOW_S, "camera")  # 90 degrees: f = height / 2
    np.testing.assert_allclose(info.k, (120, 0, 159.5, 0, 120, 119.5, 0, 0, 1))


@pytest.mark.parametrize("encoding", ["bgra8", "mono16", "yuv422_yuy2", "bayer_grbg8", "nv12"])
def test_a_live_image_is_decoded_as_a_recorded_one(encoding):
    layout = LAYOUTS[encoding]
    step = 16 * layout.channels * layout.bits // 8
    data = np.random.default_rng(0).integers(0, 256, step * (12 if encoding == "nv12" else 8)).astype(np.uint8)
    msg = Image(height=8, width=16, encoding=encoding, step=step, data=array.array("B", data.tobytes()))
    np.testing.assert_array_equal(codec.image_from_msg(msg, width=16, height=8), decode(data, encoding, 16, 8, step))
    refused(ErrorCode.IMAGE_SIZE, ImageError, lambda: codec.image_from_msg(msg, width=32))
    msg.encoding = "16UC1"
    assert "depth" in refused(ErrorCode.IMAGE_ENCODING, ImageError, codec.image_from_msg, msg)


def test_cv_bridge_converts_where_it_is_and_what_it_does_not_take_is_decoded_here(monkeypatch):
    class Bridge:
        def imgmsg_to_cv2(self, msg, desired_encoding):
            if msg.is_bigendian:
                raise TypeError("not this one")
            return np.full((msg.height, msg.width, 3), 7, np.uint8)

    module, part = ModuleType("cv_bridge"), ModuleType("cv_bridge.boost")
    module.CvBridge, part.cv_bridge_boost = Bridge, object()
    monkeypatch.setitem(sys.modules, "cv_bridge", module)
    monkeypatch.setitem(sys.modules, "cv_bridge.boost", part)
    codec.cv_bridge.cache_clear()
    try:
        data = array.array("B", [1, 0] * 12)
        msg = Image(height=3, width=4, encoding="mono16", step=8, data=data)
        assert (codec.image_from_msg(msg) == 7).all()
        msg.is_bigendian = 1
        assert (codec.image_from_msg(msg) == 1).all(), "256 of 65535 is 1 of 255"
        monkeypatch.setattr(module, "CvBridge", None)
        codec.cv_bridge.cache_clear()
        msg.is_bigendian = 0
        assert (codec.image_from_msg(msg) == 0).all(), "one that does not load is none"
    finally:
        codec.cv_bridge.cache_clear()


@pytest.mark.parametrize("field", ["orientation_covariance", "angular_velocity_covariance"])
def test_an_imu_that_says_that_it_does_not_measure_is_refused_by_both_readers(field):
    msg = codec.imu_msg("pelvis", NOW_S, np.array((1.0, 0, 0, 0)), np.zeros(3))
    getattr(msg, field)[0] = -1.0
    for read, data in ((codec.imu_from_msg, msg), (raw.read_imu, serialize_message(msg))):
        assert "must be measured" in refused(ErrorCode.STATE_SHAPE, StateError, read, data)

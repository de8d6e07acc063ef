"""Films as cameras, editors and recorders really write them: each is read right, or refused with a sentence."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from film_scenes import film, walk

from wbvla_train.data.film import colour
from wbvla_train.data.film.gates import Gates
from wbvla_train.data.film.info import examine
from wbvla_train.data.film.reader import FilmError, FilmReport, samples
from wbvla_train.data.film.track import plan

SIZE = (120, 160)


def read(path: Path, size: int = 32) -> tuple[list, FilmReport]:
    report = FilmReport()
    return list(samples(path, 10.0, size, report)), report


def write(path: Path, frames: np.ndarray, codec: str = "libx264", pixels: str = "yuv420p", rate: int = 30, container: dict | None = None, **options) -> Path:
    """One video track; ``options`` go to the encoder, ``container`` to the muxer."""
    with av.open(str(path), "w", options=container or {}) as out:
        _encode(out, out.add_stream(codec, rate=rate, options={k: str(v) for k, v in options.items()}), frames, pixels)
    return path


def _encode(out, stream, frames: np.ndarray, pixels: str) -> None:
    if not stream.codec_context.is_open:
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.thread_count = pixels, 1
    for t, image in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.time_base = t, 1 / Fraction(stream.codec_context.rate)
        out.mux(stream.encode(frame))
    out.mux(stream.encode())


def small_walk(seconds: float = 2.0, seed: int = 1) -> np.ndarray:
    return walk(seed, seconds=seconds, speed_px_s=30.0, size=SIZE)


def apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def test_an_avi_with_b_frames_is_read_whole_and_in_the_order_in_which_it_is_shown(tmp_path):
    levels = np.arange(60) * 3 + 30  # a picture tells its number
    path = write(tmp_path / "a.avi", np.broadcast_to(levels[:, None, None, None], (60, *SIZE, 3)).astype(np.uint8), bf=2, crf=8)
    with av.open(str(path)) as container:
        stamps = [frame.pts for frame in container.decode(video=0)]
    assert sum(b <= a for a, b in zip(stamps, stamps[1:], strict=False)) > 10  # the container knows the coding order only
    found, report = read(path)
    assert report.frames == 60 and report.problems == [] and "coding order" in report.notes[0]
    assert [s.index for s in found] == list(range(0, 60, 3)) and [s.stamp_s for s in found] == pytest.approx(np.arange(20) * 0.1, abs=1e-3)
    assert [s.picture.mean() for s in found] == pytest.approx(levels[::3], abs=2.6)  # the next sample: 9 more


def test_of_several_video_tracks_the_film_is_taken_and_the_others_are_named(tmp_path):
    frames, path = small_walk(), tmp_path / "a.mkv"
    little = np.stack([cv2.resize(frame, (64, 48)) for frame in frames[::30]])
    with av.open(str(path), "w") as out:
        preview, whole = out.add_stream("libx264", rate=1), out.add_stream("libx264", rate=30)
        for stream, (height, width) in ((preview, (48, 64)), (whole, SIZE)):
            stream.height, stream.width, stream.pix_fmt, stream.thread_count = height, width, "yuv420p", 1
            stream.codec_context.open()
        _encode(out, whole, frames, "yuv420p")
        _encode(out, preview, little, "yuv420p")
    _, report = read(path)
    assert (report.width, report.height, report.frames) == (160, 120, 60) and report.problems == []
    assert "2 video tracks" in report.notes[0] and "64x48" in report.notes[0]


def cover_tagged(path: Path, frames: np.ndarray) -> Path:
    """An mp4 with a cover picture as music shops and editors tag it: the picture becomes the first video track."""
    data = write(path, frames).read_bytes()

    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(body), kind) + body

    jpeg = cv2.imencode(".jpg", np.zeros((320, 320, 3), np.uint8))[1].tobytes()
    item = box(b"ilst", box(b"covr", box(b"data", struct.pack(">II", 13, 0) + jpeg)))
    meta = box(b"udta", box(b"meta", b"\0" * 4 + box(b"hdlr", b"\0" * 8 + b"mdirappl" + b"\0" * 9) + item))
    at = data.rindex(b"moov") - 4
    (length,) = struct.unpack_from(">I", data, at)
    assert at + length == len(data)
    path.write_bytes(data[:at] + struct.pack(">I4s", length + len(meta), b"moov") + meta + data[at + 8 :])
    return path


def test_a_cover_picture_is_no_film(tmp_path):
    _, report = read(cover_tagged(tmp_path / "a.mp4", small_walk()))
    assert (report.width, report.frames) == (160, 60) and "cover picture" in report.notes[0]


def test_joined_transport_streams_go_on_as_a_new_stretch(tmp_path):
    data = write(tmp_path / "a.ts", walk(1, seconds=2.0, size=SIZE, speed_px_s=30.0), bf=0).read_bytes()
    (tmp_path / "joined.ts").write_bytes(data + data)
    report, _, segments = examine(tmp_path / "joined.ts", 10.0, Gates())
    assert report.frames == 120 and report.problems == [] and "set back at 2.0 s" in report.notes[0]
    assert [s.reason or s.domain for s in segments] == ["loco", "jump", "loco"]
    first, jump, second = segments
    assert jump.start_s == second.start_s == pytest.approx(29.5 / 30 * 2 + 1.0, abs=0.05) and first.end_s < 2.0 and second.frame == 60


def test_pq_and_hlg_signals_become_the_light_that_the_standards_say():
    # BT.2408: diffuse white is 203 cd/m2, a PQ signal of 58 %, an HLG signal of 75 %
    assert colour.pq_light(np.array([0.5807]))[0] == pytest.approx(1.0, abs=0.005)
    assert colour.hlg_light(np.array([0.75]))[0] == pytest.approx(1.0, abs=0.005)
    # ST 2084: 100 cd/m2 is a signal of 0.508; BT.2100: an HLG signal of 0.5 is 1/12 of the peak's light
    assert colour.pq_light(np.array([0.5081]))[0] == pytest.approx(100 / 203, rel=0.005)
    assert colour.hlg_light(np.array([0.5]))[0] == pytest.approx(1 / 12 / 0.265, rel=1e-6)
    assert colour.bt709_signal(np.array([0.18]))[0] == pytest.approx(0.409, abs=0.001)  # 1.099 * 0.18^0.45 - 0.099
    assert colour.roll_off(np.array([0.5, 0.8, 1.0, 1e3])) == pytest.approx([0.5, 0.8, 1 - 0.2 * np.exp(-1), 1.0])
    assert np.allclose(colour._TO_709.sum(axis=1), 1.0, atol=1e-3)  # grey stays grey


def pq_signal(light: np.ndarray) -> np.ndarray:
    y = (np.maximum(light, 0) * 203 / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * y) / (1 + 2392 / 128 * y)) ** (2523 / 32)


def hlg_signal(light: np.ndarray) -> np.ndarray:
    e = np.maximum(light * 0.265, 0)
    return np.where(e <= 1 / 12, np.sqrt(3 * e), 0.17883277 * np.log(np.maximum(12 * e - 0.28466892, 1e-9)) + 0.55991073)


@pytest.mark.parametrize(("curve", "trc", "name"), [(pq_signal, ColorTrc.SMPTE2084, "PQ"), (hlg_signal, ColorTrc.ARIB_STD_B67, "HLG")])
def test_a_film_in_high_dynamic_range_shows_what_the_ordinary_film_of_the_scene_shows(tmp_path, curve, trc, name):
    frames = np.clip(small_walk(seconds=0.4), 0, 220)
    plain = read(write(tmp_path / "sdr.mp4", frames, crf=8))[0][0]
    to_2020 = np.array(((0.6274, 0.3293, 0.0433), (0.0691, 0.9195, 0.0114), (0.0164, 0.0880, 0.8956)))  # BT.2087
    red, green, blue = np.moveaxis(curve(colour.bt709_light(frames / 255.0) @ to_2020.T), 3, 0)
    luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    planes = [64 + 876 * luma, 512 + 896 * (blue - luma) / 1.8814, 512 + 896 * (red - luma) / 1.4746]
    path = tmp_path / "hdr.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=30)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv444p10le"
        codec = stream.codec_context
        codec.color_trc, codec.color_primaries, codec.colorspace, codec.color_range = trc, ColorPrimaries.BT2020, Colorspace.BT2020, ColorRange.MPEG
        for t in range(len(frames)):
            frame = av.VideoFrame(SIZE[1], SIZE[0], "yuv444p10le")
            for plane, values in zip(frame.planes, planes, strict=True):
                stored = np.zeros((SIZE[0], plane.line_size // 2), np.uint16)
                stored[:, : SIZE[1]] = np.round(values[t])
                plane.update(stored.tobytes())
            frame.colorspace, frame.color_range, frame.color_trc, frame.color_primaries = 9, 1, int(trc), 9
            frame.pts, frame.time_base = t, Fraction(1, 30)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    found, report = read(path)
    assert f"{name} colours" in report.notes[0]
    assert apart(found[0].picture, plain.picture) < 4.0  # shown as if it were ordinary: over 14
    assert apart(found[0].grey, colour.luma(cv2.resize(frames[0], (240, 180)))) < 4.0


def test_pixels_that_are_not_square_are_measured_and_described_as_they_are_shown(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30)
        stream.codec_context.sample_aspect_ratio = Fraction(16, 11)
        _encode(out, stream, small_walk(0.5), "yuv420p")
    found, report = read(path)
    assert (report.width, report.height) == (round(160 * 16 / 11), 120) and found[0].grey.shape == (180, 350)


def test_woven_fields_are_separated(tmp_path):
    shown = walk(3, seconds=1.0, rate_hz=50.0, speed_px_s=200.0, size=SIZE)
    woven = shown[::2].copy()
    woven[:, 1::2] = shown[1::2, 1::2]
    path = write(tmp_path / "a.mp4", woven, rate=25, crf=8, flags="+ildct+ilme", **{"x264-params": "tff=1"})
    found, report = read(path, 120)
    assert any("interlaced" in note for note in report.notes) and report.frames == 25 and report.duration_s == pytest.approx(0.96)

    def comb(grey: np.ndarray) -> float:
        grey = grey.astype(float)
        return float(np.abs(grey[1:-1] - 0.5 * (grey[:-2] + grey[2:])).mean())

    whole = cv2.cvtColor(shown[20], cv2.COLOR_RGB2GRAY)
    assert comb(cv2.cvtColor(woven[10], cv2.COLOR_RGB2GRAY)) > 2.0 * comb(whole)
    assert comb(cv2.cvtColor(found[4].picture, cv2.COLOR_RGB2GRAY)) < 1.3 * comb(cv2.resize(whole, (120, 120), interpolation=cv2.INTER_AREA))


def test_of_a_stereo_film_the_first_view_is_used(tmp_path):
    frames = small_walk(0.5)
    plain = read(write(tmp_path / "one.mp4", frames, crf=10))[0]
    for name, axis in (("side by side", 2), ("top and bottom", 1)):
        found, report = read(write(tmp_path / f"{axis}.mp4", np.concatenate((frames, frames), axis=axis), crf=10))
        assert name in report.notes[0] and (report.width, report.height) == (160, 120)
        assert apart(found[0].picture, plain[0].picture) < 4.0 and apart(found[0].grey, plain[0].grey) < 4.0
    assert plan(tmp_path / "one.mp4").stereo == ""


def test_depth_is_refused_and_so_is_an_encrypted_film_and_one_of_cover_pictures(tmp_path):
    deep = np.repeat(np.arange(160, dtype=np.uint16)[None] * 60, 120, axis=0)
    with av.open(str(tmp_path / "depth.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=30)
        stream.height, stream.width, stream.pix_fmt = 120, 160, "gray16le"
        for t in range(5):
            frame = av.VideoFrame.from_ndarray(deep, format="gray16le")
            frame.pts, frame.time_base = t, Fraction(1, 30)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb", "encryption_kid": "a7e61c373e219033c21091fa607bf3b8"}
    write(tmp_path / "drm.mp4", small_walk(0.5), container=key)
    for name, text in (("depth.mkv", "gray16le.*depth"), ("drm.mp4", "encrypted")):
        with pytest.raises(FilmError, match=text):
            read(tmp_path / name)


def stated_capture_rate(path: Path, fps: str) -> Path:
    options = {"movflags": "use_metadata_tags"}
    with av.open(str(path), "w", options=options) as out:
        out.metadata["com.android.capture.fps"] = fps
        _encode(out, out.add_stream("libx264", rate=30), small_walk(2.0), "yuv420p")
    return path


def test_slow_motion_gets_its_true_clock_and_a_time_lapse_is_refused(tmp_path):
    found, report = read(stated_capture_rate(tmp_path / "slow.mp4", "120"))
    assert "4 times slower" in report.notes[0] and report.duration_s == pytest.approx(59 / 120, abs=0.01) and report.problems == []
    assert np.diff([s.stamp_s for s in found]) == pytest.approx(0.1, abs=0.01)
    with pytest.raises(FilmError, match="time-lapse"):
        read(stated_capture_rate(tmp_path / "lapse.mp4", "0.5"))
    assert read(stated_capture_rate(tmp_path / "true.mp4", "30"))[1].notes == []


def test_what_shines_through_is_black_and_odd_sizes_are_read(tmp_path):
    picture = np.zeros((121, 161, 4), np.uint8)
    picture[:, :80] = (200, 200, 200, 255)
    picture[:, 80:] = (200, 200, 200, 0)
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = 121, 161, "bgra"
        for t in range(3):
            frame = av.VideoFrame.from_ndarray(picture, format="bgra")
            frame.pts, frame.time_base = t, Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    found, report = read(tmp_path / "a.mkv")
    assert (report.width, report.height) == (161, 121)
    assert found[0].picture[16, 4].tolist() == [200, 200, 200] and found[0].picture[16, 28].tolist() == [0, 0, 0] and found[0].grey[90, -10] == 0


def test_a_view_for_the_detector_comes_when_it_is_asked_for(tmp_path):
    path = film(tmp_path / "a.mp4", walk(1, seconds=1.0), turn_deg=90)
    found = list(samples(path, 10.0, 32, FilmReport(), views=True))
    assert [s.view is not None for s in found] == [True, False, False] * 3 + [True]
    assert found[0].view.shape == (240, 320, 3) and apart(found[0].view, walk(1, seconds=0.1)[0]) < 6.0

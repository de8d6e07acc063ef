"""LeRobot data sets with faults: rows and pictures are joined by stamps, each fault is named by episode and frame, and nothing sound is made of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_sets import CAMERA, greys, level, lists, shots, write_v3, write_v21, write_video
from robot_sets import write_set

from wbvla_cli import dataset as command
from wbvla_cli.view_data import load_dataset
from wbvla_core.errors import WbvlaError
from wbvla_perception.preprocess import ImageSpec
from wbvla_train.data.lerobot import edit
from wbvla_train.data.lerobot.check import check
from wbvla_train.data.lerobot.episode import DataError, RowError, arrow_column, numpy_column
from wbvla_train.data.lerobot.pictures import allowed, nearest
from wbvla_train.data.lerobot.reader import open_dataset
from wbvla_train.data.lerobot.stream import read_images


def errors(root: Path) -> list[tuple[int, int, str]]:
    """(episode, frame, kind) of all errors."""
    return [(f.episode, f.frame, f.kind) for f in check(root) if f.severity == "error"]


def refused(root: Path, tmp_path: Path) -> str:
    """Merge, split and filter refuse the set and leave nothing behind; returns the reason."""
    for argv in (["merge", str(root)], ["split", str(root), "--shares", "a", "0.5", "b", "0.5"], ["filter", str(root)]):
        assert command.main([*argv, "--output", str(tmp_path / "made")]) == 2
        assert not (tmp_path / "made").exists()
    with pytest.raises(DataError) as refusal:
        edit.merge([root], tmp_path / "made", log=lambda _: None)
    return str(refusal.value)


def shown_by(root: Path) -> list[list[int]]:
    """Per episode, the grey that is read for each row."""
    return [greys(view.images(CAMERA)) for view in open_dataset(root).views]


# -- stamps ------------------------------------------------------------------------------------------------------------------------


def test_each_row_takes_the_nearest_picture_and_rounding_alone_is_forgiven():
    assert nearest(np.array([0.0, 0.1, 0.3]), np.array([-1.0, 0.04, 0.05, 0.06, 0.19, 0.21, 9.0])).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert nearest(np.array([0.5]), np.array([0.0, 0.7])).tolist() == [0, 0]
    exact, most = allowed(np.array([0.0, 3600.0]), period_s=0.1, step_s=0.1, tick_s=1 / 90000)
    assert exact[0] == pytest.approx(1e-4 + 0.5 / 90000)  # lerobot's tolerance and half a tick
    assert exact[1] == pytest.approx(1e-4 + 0.5 / 90000 + 2**-12 + 2e-6 * 3600)  # float32 has steps of 2^-12 s after an hour
    assert most.tolist() == exact.tolist(), "one picture a row: it must be this row's"
    assert allowed(np.array([0.0]), 0.1, 1 / 30, 0.0)[1] == pytest.approx(0.025)  # 30 pictures/s: 3/4 of 33 ms
    assert allowed(np.array([0.0]), 1 / 30, 0.1, 0.0)[1] == pytest.approx(1e-4), "fewer pictures than rows: no row takes another's"


LOST = [s for k, s in enumerate(shots(22)) if k != 5]
FAULTS = {  # video of two episodes of 12 and 10 rows -> (episode, frame) of the faults
    "a picture lost, the stamps say where": (LOST, [(0, 5)]),
    "a picture lost, the rest closed up": ([(k / 10, grey) for k, (_, grey) in enumerate(LOST)], [(0, 0), (1, 9)]),
    "three pictures more": ([*shots(22), (2.2, 9), (2.3, 9), (2.4, 9)], [(0, 0), (1, 10)]),
    "one picture more": ([*shots(22), (2.2, 9)], [(0, 0), (1, 10)]),
    "begins 0.3 s late": (shots(22, begin_s=0.3), [(0, 0), (1, 10)]),
    "begins 20 ms late": (shots(22, begin_s=0.02), [(0, 0), (1, 0)]),
    "10 rows against 30 fps": (shots(22, fps=30.0), [(0, 8), (1, 0)]),
    "10 rows against 25 fps": (shots(22, fps=25.0), [(0, 9), (1, 0)]),
    "one picture too many in between": (sorted([*shots(22), (0.55, 9)]), [(0, 6)]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_rows_and_pictures_that_do_not_fit_are_found_and_nothing_is_made_of_them(name, tmp_path):
    video, expected = FAULTS[name]
    root = write_v3(tmp_path / "set", video=video)
    found = errors(root)
    assert {kind for _, _, kind in found} == {"picture"}
    assert {(episode, frame) for episode, frame, _ in found} == set(expected)
    reason = refused(root, tmp_path)
    assert f"episode {expected[0][0]}, frame {expected[0][1]}: picture: {CAMERA}" in reason


def test_each_video_of_its_own_is_judged_on_its_own(tmp_path):
    """v2.1: one mp4 an episode."""
    videos = {0: shots(12), 1: shots(13), 2: shots(10)[1:], 3: [(k * 1.001 / 10, level(k)) for k in range(40)]}
    root = write_v21(tmp_path / "set", (12, 10, 10, 40), videos=videos.__getitem__)
    found = errors(root)
    assert [(e, f) for e, f, _ in found] == [(1, 10), (2, 0), (3, 2)], "3 more pictures; one lost; 9.99 fps: row 2 is 0.2 ms off"
    said: list[str] = []
    assert edit.write([open_dataset(root).views[0]], tmp_path / "sound", said.append) == 0, "the sound episode alone may be taken"
    assert command.main(["filter", str(root), "--output", str(tmp_path / "kept"), "--drop-faulty"]) == 0
    assert shown_by(tmp_path / "kept") == shown_by(tmp_path / "sound") == [[level(k) for k in range(12)]]
    assert check(tmp_path / "kept") == []


def test_29_97_against_30_is_found_and_a_rounded_29_97_is_not(tmp_path):
    faster = write_v21(tmp_path / "a", (40,), fps=30.0, videos=lambda _: [(k * 1.001 / 30, level(k)) for k in range(40)])
    assert errors(faster) == [(0, 4, "picture")], "row 4 is 4 x 0.033 = 0.13 ms off"
    rounded = write_v21(tmp_path / "b", (300,), fps=29.97, videos=lambda _: [(k * 1001 / 30000, level(k)) for k in range(300)], rate=29.97)
    assert errors(rounded) == [], "29.97 is 30000/1001 to one part in a million"


def test_a_video_finer_than_the_rows_gives_each_row_the_nearest_picture(tmp_path):
    """10 rows/s, 30 pictures/s: every third one; 29.97: the nearest, within half of 33 ms, which is said."""
    exact = write_v21(tmp_path / "exact", (12,), videos=lambda _: [(k / 30, level(k // 3)) for k in range(36)], rate=30)
    assert check(exact) == [] and shown_by(exact) == [[level(k) for k in range(12)]]
    near = write_v21(tmp_path / "near", (12,), videos=lambda _: [(0.012 + k * 1001 / 30000, level((k + 1) // 3)) for k in range(36)], rate=30)
    (finding,) = check(near)
    assert (finding.severity, finding.kind) == ("warning", "picture") and "up to 13 ms" in finding.text
    assert edit.merge([exact], tmp_path / "one", log=print) == 0 and edit.merge([near], tmp_path / "two", log=print) == 0
    for name in ("one", "two"):
        assert check(tmp_path / name) == [], "one picture a row"
        assert shown_by(tmp_path / name) == [[level(k) for k in range(12)]]
    about = json.loads((tmp_path / "two/meta/wbvla.json").read_text())["episodes"][0]
    assert about["picture_off_s"][CAMERA] == pytest.approx(0.0131, abs=1e-4), "that pictures were not taken with their rows stays known"


def test_a_lost_picture_of_a_finer_video_counts_where_a_row_needs_it(tmp_path):
    lost = [(k / 30, level(k // 3)) for k in range(36) if k not in (7, 15)]  # 15 is row 5's
    assert errors(write_v21(tmp_path / "set", (12,), videos=lambda _: lost, rate=30)) == [(0, 5, "picture")]


def test_an_episode_reads_its_own_pictures_whatever_lies_around_it(tmp_path):
    root = write_v3(tmp_path / "set", video=LOST)
    view = open_dataset(root).views[1]
    assert greys(view.images(CAMERA)) == [level(k) for k in range(12, 22)], "by counting, episode 1 would begin one picture late"
    with pytest.raises(RowError, match=r"file-000.mp4: episode 0, frame 5 has no picture: one at 0.5000 s expected, the nearest is at 0.[46]000 s"):
        list(open_dataset(root).views[0].images(CAMERA))


def test_reordered_pictures_are_found_from_anywhere(tmp_path):
    root = write_v3(tmp_path / "set", (30, 30), bf=2)
    assert check(root) == []
    for view in open_dataset(root).views:
        for start in range(0, 30, 7):
            assert greys(view.images(CAMERA, start, 2)) == [level(start + k) for k in range(2)]


def test_training_reads_by_stamps_and_names_the_frame_without_a_picture(tmp_path):
    root = write_v3(tmp_path / "set", video=[s for k, s in enumerate(shots(22)) if k != 14])
    view, spec = open_dataset(root).views[1], ImageSpec(size=16, source_width=32, source_height=24)
    assert greys(read_images(view, CAMERA, 5, 3, spec)) == [level(17), level(18), level(19)]
    with pytest.raises(DataError, match="episode 1, frame 2 has no picture"):
        read_images(view, CAMERA, 0, 5, spec)


def test_an_episode_that_ends_behind_its_place_in_the_video_is_found(tmp_path):
    def shorter(entries):
        entries[0][f"videos/{CAMERA}/to_timestamp"] = 1.1  # one picture short: row 11 would get episode 1's first
        entries[1][f"videos/{CAMERA}/from_timestamp"] = 1.1
        return entries

    assert (0, 11, "picture") in errors(write_v3(tmp_path / "set", listed=shorter))


def test_a_camera_that_an_episode_lacks_a_video_cut_off_and_one_turned_are_said(tmp_path):
    def blind(entries):
        return [entries[0], entries[1] | {f"videos/{CAMERA}/from_timestamp": None}]

    assert (1, 0, "picture") in errors(write_v3(tmp_path / "blind", listed=blind))
    cut = write_v21(tmp_path / "cut")
    path = cut / f"videos/chunk-000/{CAMERA}/episode_000001.mp4"
    path.write_bytes(path.read_bytes()[:-400])
    assert errors(cut) == [(1, 0, "unreadable")]
    other = write_v21(tmp_path / "other", (12,), size=(40, 24))
    assert [(f.severity, f.kind) for f in check(other)] == [("warning", "size")]
    turned = write_v21(tmp_path / "turned", (12,))
    path = turned / f"videos/chunk-000/{CAMERA}/episode_000000.mp4"
    with av.open(str(path)) as source, av.open(str(tmp_path / "turned.mp4"), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0], opaque=True)
        stream.set_display_rotation(90)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    os.replace(tmp_path / "turned.mp4", path)
    assert [(f.severity, f.kind) for f in check(turned)] == [("warning", "size")]


def test_the_viewer_shows_a_faulty_episode_with_crosses_and_findings(tmp_path):
    view = load_dataset(write_v3(tmp_path / "set", video=LOST), 0)
    images = list(view.images())
    assert greys(images[:5]) == [level(k) for k in range(5)] and len(images) == 12
    assert images[5].mean() > 128 and [(f.frame, f.kind) for f in view.findings] == [(5, "picture")]


# -- rows --------------------------------------------------------------------------------------------------------------------------


def with_column(key: str, change):
    """An edit of one column, given as a Python list."""

    def edited(episode: int, columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
        values = columns[key].to_pylist()
        change(values)
        kind = columns[key].type
        return columns | {key: pa.array(values, kind)}

    return edited


def put(values: list, place: int, value) -> None:
    values[place] = value


def shuffled(table: pa.Table) -> pa.Table:
    return table.take(pa.array(np.random.default_rng(0).permutation(len(table))))


ROWS = {  # settings of a set -> (kind, frame of episode 0, words of the reason)
    "rows shuffled": ({"order": shuffled}, "count", 0, "rows out of order"),
    "real stamps": ({"edit": with_column("timestamp", lambda v: put(v, 4, 0.43))}, "rate", 4, "timestamp is 0.030 s off"),
    "stamps that go back": ({"edit": with_column("timestamp", lambda v: put(v, 4, 0.25))}, "rate", 4, "timestamp is 0.150 s off"),
    "a NaN": ({"edit": with_column("action", lambda v: put(v, 7, [0.0, float("nan"), 0.0]))}, "nan", 7, "action b is nan"),
    "no value": ({"edit": with_column("action", lambda v: put(v, 7, None))}, "unreadable", 7, "frame 7 has none"),
    "a joint short": ({"edit": with_column("action", lambda v: (put(v, 3, v[3][:2]), put(v, 4, [*v[4], 0.0])))}, "unreadable", 3, "frame 3 has 2"),
    "index counts otherwise": ({"edit": with_column("index", lambda v: put(v, 6, 99))}, "count", 6, "index must count up"),
    "a sentence that is not there": ({"edit": with_column("task_index", lambda v: put(v, 2, 9))}, "task", 2, "task_index 9 is not in the table"),
    "a sentence of another": ({"edit": with_column("task_index", lambda v: v.__setitem__(slice(None), [1] * len(v)))}, "task", 0, "the rows' task_index says"),
}


@pytest.mark.parametrize("name", ROWS)
def test_faulty_rows_are_found_and_nothing_is_made_of_them(name, tmp_path):
    settings, kind, frame, words = ROWS[name]
    root = write_v3(tmp_path / "set", **settings)
    assert (0, frame, kind) in errors(root)
    assert words in refused(root, tmp_path)


def test_an_episode_is_the_same_however_its_file_is_cut_into_row_groups(tmp_path):
    whole, cut = (open_dataset(write_v3(tmp_path / str(group), (12, 10, 8), group=group)).views for group in (None, 7))
    for one, other in zip(whole, cut, strict=True):
        mine, theirs = one.columns(), other.columns()
        assert all(np.array_equal(mine[key], theirs[key]) for key in mine) and mine["episode_index"].ravel().tolist() == [one.index] * one.length
        assert np.array_equal(one.columns(["action"])["action"], theirs["action"])
    path = whole[0].data
    pq.write_table(pq.read_table(path).slice(0, 12), path)
    assert len(whole[0].table()) == 12 and len(whole[1].table()) == 0, "a file that changed is read anew"


def test_lists_that_do_not_fit_the_data_are_found(tmp_path):
    def twice(entries):
        return [entries[0], entries[1] | {"episode_index": 0}]

    assert (-1, 0, "count") in errors(write_v3(tmp_path / "twice", listed=twice))
    gap = write_v3(tmp_path / "gap", (12, 10, 8), listed=lambda entries: [entries[0], entries[2]])
    reason = refused(gap, tmp_path)
    assert "got [0, 2]" in reason and "rows of episodes [1], which are not listed" in reason
    none = write_v3(tmp_path / "none", listed=lambda entries: [entries[0] | {"length": 0}, entries[1]])
    assert (0, 0, "count") in errors(none)
    unlisted = write_v21(tmp_path / "unlisted", (12, 10))
    lines = (unlisted / "meta/episodes.jsonl").read_text().split("\n")
    (unlisted / "meta/episodes.jsonl").write_text(lines[0] + "\n")
    assert "episode_000001.parquet belongs to no listed episode" in refused(unlisted, tmp_path)
    order = {"task_index": [1, 0], "task": ["place it", "pick it"]}
    (finding,) = check(write_v3(tmp_path / "order", task_table=order))
    assert (finding.severity, finding.kind) == ("warning", "task")
    empty = write_v3(tmp_path / "empty", listed=lambda entries: entries)
    (empty / "meta/episodes/chunk-000/file-000.parquet").unlink()
    assert (-1, 0, "count") in errors(empty)


def test_images_inside_the_parquet_are_refused_with_the_reason(tmp_path):
    extra = {"observation.images.wrist": {"dtype": "image", "shape": [24, 32, 3], "names": ["height", "width", "channels"]}}

    def embedded(_, columns):
        return columns | {"observation.images.wrist": pa.array([{"bytes": b"png", "path": ""}] * len(columns["index"]))}

    reason = refused(write_v21(tmp_path / "set", edit=embedded, extra=extra), tmp_path)
    assert "images inside the parquet file (observation.images.wrist) are not read; convert them to video" in reason


def test_damaged_metadata_is_one_sentence_with_the_file(tmp_path, capsys):
    root = write_v21(tmp_path / "set")
    whole = (root / "meta/episodes.jsonl").read_text()
    (root / "meta/episodes.jsonl").write_text(whole[:-20])
    with pytest.raises(DataError, match=r"episodes.jsonl, line 2 is damaged or cut off"):
        open_dataset(root)
    (root / "meta/episodes.jsonl").write_text(whole)
    info = json.loads((root / "meta/info.json").read_text())
    for change, words in (
        ({"fps": 0}, "fps must be above 0"),
        ({"fps": None}, "info.json is damaged"),
        ({"chunks_size": 0}, "metadata of v2.1 is damaged"),
        ({"data_path": "{nobody}.parquet"}, "nobody"),
        ({"features": info["features"] | {"../../out": info["features"]["action"]}}, "is no name of a column"),
        ({"features": info["features"] | {"x": {"dtype": "float32"}}}, "shape"),
    ):
        (root / "meta/info.json").write_text(json.dumps(info | change))
        assert command.main(["check", str(root)]) == 2
        assert words in (said := capsys.readouterr().err) and said.count("\n") == 1, said
    (root / "meta/info.json").write_text("\ufeff" + json.dumps(info), encoding="utf-8")
    assert errors(root) == [], "a byte order mark is no damage"
    (root / "meta/tasks.jsonl").unlink()
    with pytest.raises(DataError, match=r"metadata of v2.1 is damaged: .*tasks.jsonl is missing"):
        open_dataset(root)
    three = write_v3(tmp_path / "three")
    path = three / "meta/episodes/chunk-000/file-000.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"meta/episodes/chunk-000/file-000.parquet is not readable"):
        open_dataset(three)


def test_a_nan_is_named_by_episode_and_frame_when_training_reads_it(tmp_path):
    root = write_set(tmp_path / "set", (9, 9), size=(32, 32))
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    values = table["observation.velocity"].to_pylist()
    values[9 + 4][2] = float("inf")
    field = table.schema.field("observation.velocity")
    pq.write_table(table.set_column(table.schema.get_field_index(field.name), field, pa.array(values, field.type)), path)
    views = open_dataset(root).views
    assert views[0].finite(["observation.velocity"])["observation.velocity"].shape == (9, 33)
    with pytest.raises(WbvlaError, match=r"file-000.parquet: episode 1, frame 4: observation.velocity left_hip_yaw_joint is inf") as caught:
        views[1].finite(["observation.velocity", "action"])
    assert caught.value.frame == 4
    about = json.loads((root / "meta/wbvla.json").read_text())
    about["episodes"][1]["not_measured"] = {"observation.velocity": ["left_hip_yaw_joint"]}
    (root / "meta/wbvla.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match="episode 1, frame 4: observation.velocity left_hip_yaw_joint was not measured"):
        open_dataset(root).views[1].finite(["observation.velocity"])


# -- what is made ------------------------------------------------------------------------------------------------------------------

MATRIX = {"observation.extra": {"dtype": "float32", "shape": [2, 3], "names": None}}
HALF = {"next.reward": {"dtype": "float16", "shape": [1], "names": None}, "next.done": {"dtype": "bool", "shape": [1], "names": None}}


def matrix(_, columns):
    return columns | {"observation.extra": pa.array([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]] * len(columns["index"]), pa.list_(pa.list_(pa.float32())))}


def half(_, columns):
    count = len(columns["index"])
    return columns | {"next.reward": pa.array(np.full(count, 0.5, np.float16)), "next.done": pa.array([False] * count)}


def doubles(_, columns):
    return columns | {"action": lists(np.array(columns["action"].to_pylist(), np.float64))}


KEPT = {
    "matrices": {"edit": matrix, "extra": MATRIX},
    "half floats": {"edit": half, "extra": HALF},
    "doubles in the file": {"edit": doubles},
    "AV1": {"codec": "libsvtav1"},
    "reordered pictures": {"bf": 2},
    "odd sizes": {"size": (33, 25)},
    "slash and blank in a camera's name": {"cameras": ("observation.images.wrist left/top", CAMERA)},
    "one row": {"lengths": (12, 1)},
    "separators in a sentence": {"tasks": ("pick the cup\u2028then place it", "next line\u0085here")},
}


@pytest.mark.parametrize("name", KEPT)
def test_a_merged_set_has_every_number_sentence_and_picture_and_is_sound(name, tmp_path):
    if name == "AV1" and "libsvtav1" not in av.codec.codecs_available:
        pytest.skip("this PyAV has no AV1 encoder")
    root = write_v21(tmp_path / "set", **KEPT[name])
    assert edit.merge([root], tmp_path / "made", log=print) == 0
    before, after = open_dataset(root), open_dataset(tmp_path / "made")
    assert [f for f in check(tmp_path / "made") if f.severity == "error"] == []
    for old, new in zip(before.views, after.views, strict=True):
        assert old.sentences() == new.sentences()
        mine, theirs = new.columns(), old.columns()
        for key in theirs:
            assert np.array_equal(mine[key], theirs[key].astype(after.features[key]["dtype"])) or key in ("index", "task_index"), key
        for camera in before.cameras:
            assert greys(old.images(camera)) == greys(new.images(camera))
    for key, feature in before.features.items():
        if feature["dtype"] != "video":
            assert after.features[key]["shape"] == feature["shape"], key
    if name == "matrices":
        first = pq.read_table(tmp_path / "made/data/chunk-000/file-000.parquet")["observation.extra"][0].as_py()
        assert first == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], "lists of lists, as in the source"
        assert np.shape(json.loads((tmp_path / "made/meta/stats.json").read_text())["observation.extra"]["mean"]) == (2, 3)
    if name == "AV1":
        with av.open(str(tmp_path / f"made/videos/{CAMERA}/chunk-000/file-000.mp4")) as video:
            assert video.streams.video[0].codec_context.name in ("libdav1d", "av1", "libaom-av1"), "packets are copied, not encoded again"


def test_columns_keep_type_and_shape_through_parquet():
    for dtype, shape in (("float16", (1,)), ("float32", (3,)), ("int16", (2, 2)), ("uint64", (1,)), ("bool", (4,)), ("float64", (2, 1, 3))):
        feature, size = {"dtype": dtype, "shape": shape}, int(np.prod(shape))
        values = (np.arange(5 * size) % 2).reshape(5, size).astype(dtype)
        back = numpy_column(pa.chunked_array([arrow_column(values, feature)]), feature)
        assert back.dtype == values.dtype and np.array_equal(back, values), dtype
    with pytest.raises(DataError, match="columns of type complex64 are not written"):
        arrow_column(np.zeros((2, 1)), {"dtype": "complex64", "shape": (1,)})
    with pytest.raises(RowError, match=r"whole numbers \(int64\) expected, frame 1 has a fraction"):
        numpy_column(pa.chunked_array([[1.0, 1.5]]), {"dtype": "int64", "shape": (1,)})


def test_the_same_episode_twice_is_left_out_and_named(tmp_path):
    root, said = write_v3(tmp_path / "set"), []
    assert edit.merge([root, root], tmp_path / "made", said.append) == 1
    assert len(open_dataset(tmp_path / "made").views) == 2 and check(tmp_path / "made") == []
    assert sum("the same states and actions as episode" in line for line in said) == 2


def test_a_merge_that_was_interrupted_goes_on_but_not_with_a_source_that_changed(tmp_path, monkeypatch):
    root = write_v21(tmp_path / "set")
    real, calls = edit.assemble, []
    monkeypatch.setattr(edit, "assemble", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        edit.merge([root], tmp_path / "made", log=lambda _: None)
    monkeypatch.setattr(edit, "assemble", real)
    monkeypatch.setattr(edit, "require_sound", lambda views, log: calls.append(len(views)))
    write_video(root / f"videos/chunk-000/{CAMERA}/episode_000000.mp4", [(k / 10, level(k + 3)) for k in range(12)])
    assert edit.merge([root], tmp_path / "made", log=lambda _: None) == 0
    assert calls == [2], "what changed is checked again"
    assert shown_by(tmp_path / "made")[0] == [level(k + 3) for k in range(12)]
    assert not (tmp_path / "made.staging").exists()


def test_links_and_unusual_names_are_followed(tmp_path):
    root = write_v21(tmp_path / "set")
    for path in (*root.rglob("*.mp4"), *root.rglob("*.parquet")):  # as a cache of downloads lays them
        kept = tmp_path / "blobs" / path.name.replace("episode", path.suffix[1:])
        kept.parent.mkdir(exist_ok=True)
        os.replace(path, kept)
        path.symlink_to(kept)
    linked = tmp_path / "dätä sèt"
    linked.symlink_to(root)
    assert errors(linked) == []
    assert edit.merge([linked], tmp_path / "made", log=lambda _: None) == 0 and shown_by(tmp_path / "made") == shown_by(root)

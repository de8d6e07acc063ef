"""Sorting into locomotion, manipulation and unsure; hands and faces in view; which part a film goes to; copies; several runs at once."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from film_scenes import before_a_wall, film, reach, walk

from wbvla_core.errors import WbvlaError
from wbvla_train.data.film import people, record, review, sheet, split
from wbvla_train.data.film.duplicates import _Index, change_keys, instants, mark_duplicates
from wbvla_train.data.film.gates import LOCO, MANI, UNSURE, Gates, judge
from wbvla_train.data.film.info import examine
from wbvla_train.data.film.ingest import IngestConfig, _same_settings, _settings, ingest, list_films, load_records
from wbvla_train.data.film.measure import Measure
from wbvla_train.data.film.people import Limits, Seen


def quiet(text: str) -> None:
    pass


def steps(speeds: np.ndarray, spread: float = 0.6) -> list[Measure]:
    """Samples at 10 Hz of a camera that goes to the right at ``speeds``, heights/s."""
    thumb = np.random.default_rng(0).integers(0, 255, (16, 16)).astype(np.uint8)
    shifts = np.concatenate(((0.0,), speeds[1:] * 0.1))
    return [
        Measure(0.1 * t, t, 0.1 if t else 0.0, 120.0, 0.0, 0.2, 0.1, 8.0, 40.0, (-shift, 0.0), 0.0, 0.0, 0.9, 0.95, 0.1, thumb, False, spread)
        for t, shift in enumerate(shifts)
    ]


@pytest.mark.parametrize(
    ("speeds", "spread", "expected", "doubt"),
    [
        (np.full(40, 0.2), 0.6, LOCO, ""),
        (np.full(40, 0.002), 0.6, MANI, ""),
        (np.full(40, 0.012), 0.6, UNSURE, "too much for a still one"),
        (np.full(40, 0.2), 0.1, UNSURE, "too little of the picture"),
        (np.full(40, 0.002), 0.1, UNSURE, "too little of the picture"),
        (np.full(40, 1.1), 0.6, UNSURE, "time-lapse"),
        (np.r_[np.full(18, 0.2), np.full(22, 0.0)], 0.6, UNSURE, "walking and standing"),
        (np.r_[np.full(12, 0.2), np.full(28, 0.0)], 0.6, UNSURE, "standing and walking"),
    ],
)
def test_a_clip_is_sorted_only_where_its_camera_can_be_told(speeds, spread, expected, doubt):
    (clip,) = judge(steps(speeds, spread), Gates(), 10.0)
    assert (clip.reason or clip.domain) == expected and doubt in clip.doubt and bool(clip.doubt) == bool(doubt)


def test_a_hand_before_a_plain_wall_is_not_a_walk(tmp_path):
    (clip,) = (s for s in examine(film(tmp_path / "a.mp4", before_a_wall()), 10.0, Gates())[2])
    assert clip.reason == UNSURE and clip.loco_score > 0.9 and clip.value < 0.1  # what moves is all that can be followed


def test_things_carried_through_a_room_do_not_make_the_camera_stand(tmp_path):
    frames = walk(5)
    for frame in frames:  # a box held before the chest: a third of the features, always at the same place
        frame[150:230, 100:220] = np.kron(np.indices((8, 12)).sum(axis=0) % 2, np.ones((10, 10), int))[..., None] * 150 + 40
    (clip,) = examine(film(tmp_path / "a.mp4", frames), 10.0, Gates())[2]
    assert (clip.reason or clip.domain) == LOCO


def test_what_is_unsure_goes_to_neither_part_and_can_be_overruled(tmp_path):
    root, output = tmp_path / "wall", tmp_path / "clips"
    film(root.mkdir() or root / "a.mp4", before_a_wall())
    lines: list[str] = []
    config = IngestConfig((root,), output=output, workers=1, dev_share=0.0)
    assert ingest(config, log=lines.append) == 0 and not list(output.rglob("clips.json"))
    assert any("unsure" in line for line in lines)
    page = (output / sheet.FILE).read_text()
    assert 'data-label="unsure"' in page and "plain wall" in page
    (output / "saved.json").write_text(json.dumps({"segments": {"wall/a.mp4@0.000": MANI}}))
    review.review(review.ReviewConfig(output, apply=output / "saved.json"), log=quiet)
    ingest(config, log=quiet)
    assert [path.parent.parent.name for path in output.rglob("clips.json")] == [MANI]


def test_the_gate_for_people_knows_what_hands_and_faces_tell():
    limits = Limits()
    assert Seen(8, 5, 0).verdict(MANI, limits)[0] == "" and Seen(8, 0, 0).verdict(MANI, limits)[0] == "no_hands"
    assert Seen(8, 0, 0).verdict(LOCO, limits)[0] == ""  # who walks need not see his hands
    assert Seen(8, 0, 8).verdict(LOCO, limits)[0] == Seen(8, 8, 8).verdict(MANI, limits)[0] == "people"
    assert Seen(8, 1, 3).verdict(LOCO, limits)[0] == "" and Seen(0, 0, 0).verdict(MANI, limits)[0] == ""
    assert people.chosen(0) == [] and people.chosen(2) == [0, 1] and people.chosen(34) == [0, 4, 7, 11, 15, 18, 22, 26, 29, 33]


def test_the_detectors_environment_is_pinned_once():
    lines = (Path(__file__).parents[2] / "requirements" / "pins-hands.txt").read_text().splitlines()
    assert tuple(line for line in lines if not line.startswith("#")) == people.PACKAGES
    assert all(package.count("==") == 1 for package in people.PACKAGES)


SERVER = """import json, sys
print(json.dumps({"mediapipe": "made up"}), flush=True)
while line := sys.stdin.buffer.readline():
    request = json.loads(line)
    size = request["height"] * request["width"] * 3
    pictures = [sys.stdin.buffer.read(size) for _ in range(request["frames"])]
    if pictures[0][0] == 7: sys.exit("the model is gone")
    print(json.dumps([{"hands": [[0.9, 0.2]] if sum(p[: 999]) / 999 > 100 else [], "faces": [[0.9, 0.05]]} for p in pictures]), flush=True)
"""


@pytest.fixture
def detector(tmp_path, monkeypatch) -> Path:
    """An environment whose "detector" sees a hand in bright pictures."""
    folder = tmp_path / "hands"
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    (folder / people.READY).write_text("{}")
    monkeypatch.setattr(people, "SERVER", tmp_path / "server.py")
    people.SERVER.write_text(SERVER)
    people.watcher.cache_clear()
    yield folder
    people.watcher.cache_clear()


def test_the_detector_is_asked_as_a_process_and_its_end_is_one_sentence(detector, tmp_path):
    watcher = people.Watcher(detector)
    assert watcher.version == "made up"
    bright, dark = np.full((24, 32, 3), 200, np.uint8), np.full((24, 32, 3), 20, np.uint8)
    assert watcher.look([bright, dark, bright], Limits()) == Seen(3, 2, 0)
    with pytest.raises(WbvlaError, match="the model is gone.*without --hands"):
        watcher.look([np.full((24, 32, 3), 7, np.uint8)], Limits())
    with pytest.raises(WbvlaError, match="wbvla video hands"):
        people.Watcher(tmp_path / "nothing")


def test_hands_tell_what_moves_before_a_wall_and_their_absence_leaves_a_clip_out(detector, tmp_path):
    found = {}
    for name, frames in (("wall", before_a_wall()), ("table", (0.4 * reach(2)).astype(np.uint8))):
        path = film(tmp_path / f"{name}.mp4", frames)
        job = record.Job(list_films((path,))[0], tmp_path / "out", Gates(), 10.0, 96, 0.0, 70.0, 20.0, (), hands=detector)
        found[name] = record.process_film(job)["segments"]
    assert [(entry["reason"], entry["domain"]) for entry in found["wall"]] == [("", MANI)]
    assert found["wall"][0]["seen"] == {"looked": 4, "hands": 4, "faces": 0}
    assert [entry["reason"] for entry in found["table"]] == ["no_hands"]


def films(*described: tuple[float, str]) -> list[dict]:
    """Records of films by rank and domains ("lm": clips of both)."""
    kinds = {"l": LOCO, "m": MANI}
    return [
        {
            "id": f"f{i}",
            "film": f"f{i}.mp4",
            "rank": rank,
            "split": "dev" if rank < 0.1 else "train",
            "segments": [{"reason": "", "domain": kinds[k]} for k in what],
        }
        for i, (rank, what) in enumerate(described)
    ]


def test_every_domain_of_a_small_collection_has_a_film_in_both_parts():
    assert split.divide(films((0.5, "l"), (0.3, "l"), (0.9, "l"), (0.4, "m"), (0.6, "m")), 0.1) == {
        "f0": "train", "f1": "dev", "f2": "train", "f3": "dev", "f4": "train",
    }  # fmt: skip
    assert split.divide(films((0.05, "l"), (0.02, "l")), 0.1) == {"f0": "train", "f1": "dev"}  # chance left train empty
    chance = films((0.05, "l"), (0.5, "l"), (0.06, "m"), (0.5, "m"), (0.07, "m"))
    assert split.divide(chance, 0.1) == {record["id"]: record["split"] for record in chance}  # larger ones stay as they were
    assert split.divide(films((0.3, "l"), (0.5, "lm"), (0.6, "m")), 0.1) == {"f0": "dev", "f1": "train", "f2": "dev"}


def test_what_cannot_be_divided_is_said():
    alone = films((0.5, "l"), (0.5, "m"), (0.05, "m"))
    (sentence,) = split.missing(alone, 0.1)
    assert "no clip of loco is in dev" in sentence and "one film (f0.mp4)" in sentence and "cannot begin" in sentence
    assert split.missing(films((0.5, "l"), (0.05, "l")), 0.1) == [] and "--dev-share 0" in split.missing(films((0.5, "l")), 0.0)[0]


def test_a_small_folder_lands_in_both_parts_and_the_next_run_leaves_it_there(tmp_path):
    root, output = tmp_path / "a", tmp_path / "clips"
    root.mkdir()
    for seed in (1, 2):
        film(root / f"walk{seed}.mp4", walk(seed, seconds=2.0))
    film(root / "hands.mp4", reach(3, seconds=2.0))
    lines: list[str] = []
    for _ in range(2):
        assert ingest(IngestConfig((root,), output=output, workers=1), log=lines.append) == 0
        listed = sorted("/".join(path.parts[-4:-2]) for path in output.rglob("clips.json"))
        assert listed == ["dev/loco", "train/loco", "train/mani"]
    assert "0 to do" in lines[-6] or any("0 to do" in line for line in lines)
    assert any("no clip of mani is in dev" in line for line in lines)
    assert not [path for path in output.rglob("clip_*.mp4") if not (path.parent / "clips.json").exists()]


def test_copies_are_found_without_comparing_all_with_all():
    rng = np.random.default_rng(0)
    parts = [np.clip(rng.normal(128, 40, (1, 16, 16)) + np.cumsum(rng.normal(0, 9, (60, 16, 16)), axis=0), 0, 255).astype(np.uint8) for _ in range(60)]
    parts.append(np.clip(parts[7][5:50] * 0.95 + rng.normal(0, 1.5, (45, 16, 16)), 0, 255).astype(np.uint8))  # trimmed, darker, noisy
    starts = np.concatenate(((0,), np.cumsum([len(part) for part in parts])))
    keys, sizes = zip(*(change_keys(part) for part in parts), strict=True)
    probes = np.array([start + i for start, size in zip(starts[:-1], sizes, strict=True) for i in sorted(instants(size))])
    found = _Index(np.concatenate(keys), np.concatenate(sizes) > 0, starts, probes).candidates()
    assert (60, 7, 5) in found and len(found) < 60 * 4  # all with all would be 1770 pairs


def test_two_copies_of_a_still_scene_differ_where_other_things_move(tmp_path):
    thumbs, rng = [], np.random.default_rng(1)
    scene = rng.uniform(60, 200, (16, 16))
    for path in (rng.uniform(2, 13, (60, 2)), rng.uniform(2, 13, (60, 2))):
        clip = np.repeat(scene[None], 60, axis=0)
        for t, (x, y) in enumerate(path):
            clip[t, int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2] = 250
        thumbs.append(clip.astype(np.uint8))
    records = []
    for name, clip in (("a", thumbs[0]), ("b", thumbs[1]), ("c", thumbs[0])):
        (tmp_path / "films" / name).mkdir(parents=True)
        np.save(tmp_path / "films" / name / "thumbs.npy", clip)
        entry = {"clip": "c", "reason": "", "start_s": 0.0, "thumbs": [0, 60]}
        records.append({"film": name, "id": name, "report": {"problems": []}, "segments": [entry]})
    assert mark_duplicates(tmp_path, records) == 1 and records[2]["segments"][0]["of"] == "a@0.000"


def test_a_film_at_which_another_run_works_is_left_to_it(tmp_path):
    root, output = tmp_path / "a", tmp_path / "clips"
    film(root.mkdir() or root / "walk.mp4", walk(1, seconds=2.0))
    job = record.Job(list_films((root,))[0], output, Gates(), 10.0, 96, 0.0, 70.0, 20.0, ())
    (output / record.LOCKS).mkdir(parents=True)
    with (output / record.LOCKS / job.film.id).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert record.process_film(job, wait=False) is None and not job.folder.exists()
    first = record.process_film(job, wait=False)
    made = {path: path.stat().st_mtime_ns for path in output.rglob("*.*") if path.is_file()}
    assert record.process_film(job) == first  # who comes second finds it done
    assert made == {path: path.stat().st_mtime_ns for path in output.rglob("*.*") if path.is_file()}


def test_a_run_with_other_options_beside_another_is_refused(tmp_path):
    config, path = IngestConfig((tmp_path,)), tmp_path / ".settings"
    first, other = _settings(config, {}), _settings(replace(config, gates=Gates(blur=0.7)), {})
    assert first == _settings(replace(config, shard="1/2", workers=7), {}) != _settings(config, {"a@0.000": "keep"})
    with _same_settings(path, first):
        with _same_settings(path, first):  # the same options, another part
            pass
        with pytest.raises(WbvlaError, match="other options"), _same_settings(path, other):
            pass
    with _same_settings(path, other):  # it has ended
        assert path.read_text() == other


@pytest.mark.slow
def test_real_films_are_sorted_as_a_person_sorts_them(tmp_path):
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    import video_sorting

    found = video_sorting.real_films(tmp_path)
    if len(found) < len(video_sorting.REAL):
        pytest.skip("the films of Debian's package opencv-doc are not here: apt-get install opencv-doc")
    names = {path.name: [clip["domain"] for clip in video_sorting.sort_film(path)] for path in found}
    assert set(names["box.mp4"]) == {MANI} and set(names["cup.mp4"]) <= {MANI, UNSURE}
    assert LOCO not in names["vtest.avi"] and names["Megamind.avi"].count(UNSURE) >= 3
    report = examine(tmp_path / "box.mp4", 10.0, Gates())[0]
    assert report.frames == 455 and report.problems == []  # half of it was dropped where stamps come in coding order


@pytest.mark.slow
def test_real_films_with_the_real_detector(tmp_path):
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    import video_sorting

    environment = Path(os.environ.get("WBVLA_HANDS") or people.default_folder())
    found = video_sorting.real_films(tmp_path / "real")
    if len(found) < len(video_sorting.REAL) or not (environment / people.READY).exists():
        pytest.skip("needs Debian's package opencv-doc and the detector that `wbvla video hands` sets up")
    ingest(IngestConfig((tmp_path / "real",), output=tmp_path / "clips", workers=1, hands=True, hands_environment=environment), log=quiet)
    kept = {r["film"].split("/")[-1]: {e["reason"] or e["domain"] for e in r["segments"] if "strip" in e} for r in load_records(tmp_path / "clips")}
    assert kept == {"box.mp4": {MANI}, "cup.mp4": {MANI}, "vtest.avi": {"no_hands"}, "Megamind.avi": {"people"}}

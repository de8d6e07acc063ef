"""Gates, sorting, reading and bookkeeping of action-free film, on small films made here."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from film_scenes import film, reach, scene, walk

from wbvla_core.errors import WbvlaError
from wbvla_train.data import annotate, sentences
from wbvla_train.data.clips import Corpus
from wbvla_train.data.film import made, record, review, sheet
from wbvla_train.data.film.duplicates import mark_duplicates, same_change
from wbvla_train.data.film.gates import Gates
from wbvla_train.data.film.info import examine
from wbvla_train.data.film.ingest import IngestConfig, ingest, list_films, load_records
from wbvla_train.data.film.measure import blur_of
from wbvla_train.data.film.reader import FilmError, FilmReport, samples
from wbvla_train.data.shards import parse_shard


def reasons(path: Path) -> list[str]:
    return [s.reason or s.domain for s in examine(path, 10.0, Gates())[2]]


def test_a_walking_camera_is_locomotion_and_a_still_one_with_hands_is_manipulation(tmp_path):
    assert reasons(film(tmp_path / "a.mp4", walk(1))) == ["loco"]
    assert reasons(film(tmp_path / "b.mp4", reach(2))) == ["mani"]


def test_the_measured_camera_speed_is_the_true_one(tmp_path):
    _, measures, _ = examine(film(tmp_path / "a.mp4", walk(1, rate_hz=25.0), 25.0), 10.0, Gates())
    speed = [-m.shift[0] / m.dt_s for m in measures[1:]]
    assert np.median(speed) == pytest.approx(60.0 / 240.0, rel=0.05)  # heights per second, though 25 Hz gives steps of 0.08 and 0.12 s


def faulty(kind: str) -> np.ndarray:
    frames = walk(3)
    rng = np.random.default_rng(0)
    if kind == "blur":
        made.blur(rng, frames, 0, len(frames))
    elif kind == "shake":
        made.shake(rng, frames, 0, len(frames), 30.0)
    elif kind == "dark":
        frames = (frames * 0.05).astype(np.uint8)
    elif kind == "over":
        frames = np.clip(frames.astype(int) * 6 + 60, 0, 255).astype(np.uint8)
    elif kind == "freeze":
        frames[30:60] = frames[30]
    elif kind == "static":
        frames[:] = frames[0]
    elif kind == "cut":
        frames[47:] = walk(4)[47:]
    elif kind == "empty":
        frames[:] = 120
    return frames


@pytest.mark.parametrize("kind", ["blur", "shake", "dark", "over", "freeze", "static", "cut", "empty"])
def test_each_gate_names_its_fault_and_no_other(tmp_path, kind):
    found = set(reasons(film(tmp_path / "a.mp4", faulty(kind)))) - {"loco", "mani", "short"}
    assert found == {kind}


def test_a_cut_and_a_freeze_are_found_at_their_frame(tmp_path):
    cut = next(s for s in examine(film(tmp_path / "a.mp4", faulty("cut")), 10.0, Gates())[2] if s.reason == "cut")
    assert 47 <= cut.frame <= 50 and cut.start_s == pytest.approx(cut.frame / 30.0, abs=0.01)
    freeze = next(s for s in examine(film(tmp_path / "b.mp4", faulty("freeze")), 10.0, Gates())[2] if s.reason == "freeze")
    assert 30 <= freeze.frame <= 36 and 1.7 <= freeze.end_s <= 2.05


def test_a_smear_is_seen_in_whatever_direction_it_goes():
    grey = cv2.cvtColor(scene(5)[:240, :320], cv2.COLOR_RGB2GRAY)
    assert blur_of(grey)[0] < 0.4
    for kernel in (np.full((1, 13), 1 / 13), np.full((13, 1), 1 / 13), np.eye(11) / 11, np.eye(11)[::-1] / 11):
        assert blur_of(cv2.filter2D(grey, -1, kernel))[0] > 0.5


def test_a_frame_is_shown_upright_whatever_way_the_phone_was_held(tmp_path):
    frames = walk(6, seconds=0.5)
    plain = list(samples(film(tmp_path / "0.mp4", frames, crf=12), 10.0, 96, FilmReport()))
    for turn in (90, 180, 270):
        report = FilmReport()
        turned = list(samples(film(tmp_path / f"{turn}.mp4", frames, turn_deg=turn, crf=12), 10.0, 96, report))
        assert (report.width, report.height) == (320, 240) and report.rotation_deg == turn
        assert np.abs(turned[0].picture.astype(int) - plain[0].picture).mean() < 6.0  # the wrong way up: over 20
        assert np.abs(turned[0].grey.astype(int) - plain[0].grey).mean() < 3.0


def test_samples_carry_true_stamps_at_any_rate_and_where_frames_were_dropped(tmp_path):
    frames = walk(7, seconds=2.0)
    kept = np.sort(np.random.default_rng(1).permutation(60)[:40])
    kept[0] = 0
    made.encode(tmp_path / "v.mp4", frames[kept], kept / 30.0, rate_hz=30.0, crf=20)
    report = FilmReport()
    found = list(samples(tmp_path / "v.mp4", 10.0, 32, report))
    assert report.variable_rate and report.frames == 40 and report.problems == []
    assert [s.stamp_s for s in found] == pytest.approx([kept[s.index] / 30.0 for s in found], abs=1e-4)
    assert np.all(np.diff([s.stamp_s for s in found]) > 0.03)
    assert len(list(samples(film(tmp_path / "24.mp4", frames[:48], 24.0), 10.0, 32, FilmReport()))) == 20
    assert len(list(samples(film(tmp_path / "8.mp4", frames[:16], 8.0), 10.0, 32, FilmReport()))) == 16  # slower than asked for: whole


def test_luma_is_the_same_from_8_bit_planes_and_through_the_scaler(tmp_path):
    ramp = np.repeat(np.linspace(0, 255, 320).astype(np.uint8)[None, :, None], 240, axis=0).repeat(3, axis=2)
    sample = next(samples(film(tmp_path / "a.mp4", ramp[None].repeat(3, 0), crf=10), 10.0, 32, FilmReport()))
    assert sample.grey[90, [2, 120, -3]] == pytest.approx([2, 128, 253], abs=6)


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_what_is_no_film_is_refused_with_its_reason(tmp_path):
    good = film(tmp_path / "good.mp4", walk(1, seconds=1.0))
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no film")
    (tmp_path / "cut_off.mp4").write_bytes(good.read_bytes()[: good.stat().st_size // 2])  # its index was at the end
    write_sound(tmp_path / "sound.mp4")
    for name, text in (("empty", "0 bytes"), ("text", "cannot be opened"), ("cut_off", "cut off"), ("sound", "no video track")):
        with pytest.raises(FilmError, match=text):
            list(samples(tmp_path / f"{name}.mp4", 10.0, 32, FilmReport()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A phone's folder: good and bad films, odd names, things that are no film."""
    root = tmp_path_factory.mktemp("films") / "phone"
    root.mkdir()
    film(root / "walk.mp4", walk(1))
    film(root / "walk again.mp4", walk(1)[10::2], 15.0, height=360, turn_deg=90, crf=26)
    film(root / "hands.mov", reach(2))
    film(root / "dark.mp4", faulty("dark"))
    film(root / "x.mp4", walk(8))
    os.rename(root / "x.mp4", os.fsdecode(os.fsencode(str(root)) + b"/caf\xe9.mp4"))
    (root / "broken.mp4").write_text("no film")
    fast = root / "fast.mp4"  # index in front, then cut off
    with av.open(str(root / "dark.mp4")) as source, av.open(str(fast), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    shutil.copy(root / "walk.mp4", root / ".hidden.mp4")
    (root / "gone.mp4").symlink_to(root / "nowhere.mp4")
    (root / "notes.txt").write_text("tuesday")
    (root / "camera.json").write_text('{"fovy_deg": 61, "pitch_deg": 30}')
    return root


def config_for(folder: Path, output: Path, **options) -> IngestConfig:
    return IngestConfig((folder,), output=output, workers=options.pop("workers", 1), dev_share=0.0, **options)


def tree(output: Path) -> dict[str, bytes]:
    return {str(p.relative_to(output)): p.read_bytes() for p in sorted(output.rglob("*")) if p.is_file() and "/." not in f"/{p.relative_to(output)}"}


@pytest.fixture(scope="module")
def ingested(folder, tmp_path_factory) -> tuple[Path, int, list[str]]:
    output, lines = tmp_path_factory.mktemp("out") / "clips", []
    return output, ingest(config_for(folder, output), log=lines.append), lines


def test_a_folder_becomes_clips_and_what_was_left_out_is_named(ingested):
    output, status, lines = ingested
    assert status == 1  # something was left out
    found = {r["film"].encode(errors="surrogateescape"): [e["reason"] or e["domain"] for e in r["segments"]] for r in load_records(output)}
    assert found[b"phone/walk.mp4"] == ["loco"] and found[b"phone/hands.mov"] == ["mani"] and found[b"phone/caf\xe9.mp4"] == ["loco"]
    assert found[b"phone/dark.mp4"] == ["dark"] and found[b"phone/broken.mp4"] == [] and b"phone/.hidden.mp4" not in found
    assert any("LEFT OUT phone/broken.mp4" in line and "cannot be opened" in line for line in lines)
    assert any("LEFT OUT phone/gone.mp4" in line and "link to nowhere" in line for line in lines)
    assert any("passed over" in line and "1 .txt" in line for line in lines)
    listed = {p.parent.name.rsplit("_", 1)[0]: p.parent.parent.name for p in output.rglob("clips.json")}
    assert listed == {"walk-again": "loco", "hands": "mani", "caf": "loco"}  # of two copies the first by name stays


def test_latent_action_training_reads_the_result(ingested):
    corpus = Corpus([ingested[0] / "train" / "loco"], 48)
    pairs = corpus.pairs(0.5)
    assert len(corpus.clips) == 2 and len(pairs) > 30
    assert corpus.clips[0].view.fovy_deg == 61.0 and corpus.clips[0].view.aspect == pytest.approx(4 / 3, abs=0.01)
    stamps = np.concatenate([clip.stamps_s for clip in corpus.clips])
    assert np.abs(stamps[pairs.later] - stamps[pairs.first] - 0.5).max() <= 0.075 + 1e-6


def test_a_second_run_does_nothing_and_a_run_from_nothing_gives_the_same_bytes(folder, ingested, tmp_path):
    output, _, _ = ingested
    before, lines = tree(output), []
    times = {p: p.stat().st_mtime_ns for p in output.rglob("clip_*.mp4")}
    assert ingest(config_for(folder, output), log=lines.append) == 1
    assert "2 to do" in lines[0]  # only the broken one and the dead link are tried again
    assert tree(output) == before and times == {p: p.stat().st_mtime_ns for p in output.rglob("clip_*.mp4")}
    shutil.rmtree(tmp_path / "clips", ignore_errors=True)
    for shard in ("1/2", "0/2"):  # two machines, in any order
        ingest(config_for(folder, tmp_path / "clips", shard=shard), log=lines.append)
    assert tree(tmp_path / "clips") == before


def test_decisions_from_the_sheet_are_carried_out_and_can_be_taken_back(folder, ingested, tmp_path):
    output = tmp_path / "clips"
    shutil.copytree(ingested[0], output)
    saved = tmp_path / "saved.json"
    saved.write_text(json.dumps({"schema": 1, "segments": {"phone/dark.mp4@0.000": "mani", "phone/hands.mov@0.000": "reject", "phone/walk.mp4@0.000": "keep"}}))
    assert review.review(review.ReviewConfig(output, apply=saved), log=lambda text: None) == 0
    ingest(config_for(folder, output), log=lambda text: None)
    names = sorted(p.parent.name.rsplit("_", 1)[0] for p in output.rglob("clips.json"))
    assert names == ["caf", "dark", "walk", "walk-again"]
    (output / "overrides.json").unlink()
    ingest(config_for(folder, output), log=lambda text: None)
    assert tree(output) == tree(ingested[0])
    saved.write_text('{"segments": {"a@0": "perhaps"}}')
    with pytest.raises(WbvlaError, match="perhaps"):
        review.review(review.ReviewConfig(output, apply=saved), log=lambda text: None)


def test_sentences_outlive_their_film_being_done_again_and_follow_a_clip_that_is_sorted_anew(folder, ingested, tmp_path):
    output = tmp_path / "clips"
    shutil.copytree(ingested[0], output)
    hands = next(output.glob("train/mani/hands*"))
    clip = sentences.listed_clips(hands)[0]
    annotate.Clip(hands, clip, None).put("annotator", ("reach round in a circle",))
    (hands / "labels_mani.npz").write_bytes(b"of the clips that were there")
    for domain in ("loco", "mani"):  # sorted anew, and back again: each time the film is done from nothing
        (output / "overrides.json").write_text(json.dumps({"schema": 1, "segments": {"phone/hands.mov@0.000": domain}}))
        ingest(config_for(folder, output), log=lambda text: None)
        found, stale = sentences.match(output / "train" / domain / hands.name)
        assert {file: entry.sentences for file, entry in found.items()} == {clip: ("reach round in a circle",)} and not stale
        assert len(list(output.glob("train/*/*/instructions.json"))) == 1
    assert not (hands / "labels_mani.npz").exists()


def test_the_contact_sheet_needs_no_other_file_and_shows_every_stretch(ingested):
    text = (ingested[0] / sheet.FILE).read_text()
    cards = sum("strip" in entry for r in load_records(ingested[0]) for entry in r["segments"])
    assert text.count('<div class="s ') == cards > 4
    assert not re.search(r'(src|href)="(?!data:)', text) and "caf\\udce9" in text and "cannot be opened" in text


def test_a_decision_that_the_page_takes_back_is_no_longer_in_force(ingested, tmp_path):
    output, saved = tmp_path / "clips", tmp_path / "saved.json"
    shutil.copytree(ingested[0], output)
    for decisions, left in (({"a@0.000": "keep", "b@0.000": "loco"}, {"a@0.000": "keep", "b@0.000": "loco"}), ({"a@0.000": ""}, {"b@0.000": "loco"})):
        saved.write_text(json.dumps({"schema": 1, "segments": decisions}))
        review.review(review.ReviewConfig(output, apply=saved), log=lambda text: None)
        assert json.loads((output / "overrides.json").read_text())["segments"] == left


def test_many_films_make_several_pages_that_lead_to_each_other(ingested, tmp_path, monkeypatch):
    output = tmp_path / "clips"
    shutil.copytree(ingested[0], output)
    records = load_records(output)
    monkeypatch.setattr(sheet, "CARDS_PER_PAGE", 2)
    sheet.write(output, records)
    pages = sorted(output.glob("sheet*.html"))
    assert len(pages) > 1 and pages[0].name == "sheet.html"
    texts = [page.read_text() for page in pages]
    assert all(f'href="{page.name}"' in text for page in pages for text in texts)
    assert sum(text.count('<div class="s ') for text in texts) == sum("strip" in entry for r in records for entry in r["segments"])
    monkeypatch.undo()
    sheet.write(output, records)
    assert [page.name for page in output.glob("sheet*.html")] == ["sheet.html"]


def test_a_lens_that_is_stated_later_is_taken_over_and_a_wrong_one_is_refused(tmp_path):
    root, output = tmp_path / "gopro", tmp_path / "clips"
    film(root.mkdir() or root / "a.mp4", walk(1, seconds=2.0))
    for text, expected in ((None, 70.0), ('{"fovy_deg": 81, "pitch_deg": 10}', 81.0)):
        if text:
            (root / "camera.json").write_text(text)
        assert ingest(config_for(root, output), log=lambda text: None) == 0
        (sidecar,) = output.rglob("clips.json")
        assert json.loads(sidecar.read_text())["clips"][0]["camera"]["fovy_deg"] == expected
    for text in ("[1]", '{"fovy_deg": 1.2}'):
        (root / "camera.json").write_text(text)
        with pytest.raises(WbvlaError, match="camera.json"):
            ingest(config_for(root, output), log=lambda text: None)


def test_of_two_duplicates_the_damaged_film_is_left_out(ingested, tmp_path):
    output = tmp_path / "clips"
    shutil.copytree(ingested[0], output)
    records = load_records(output)
    names = {r["film"]: r for r in records}
    names["phone/walk again.mp4"]["report"]["problems"].append("cut off")  # the first by name, and so far the one that stays
    mark_duplicates(output, records)
    assert names["phone/walk.mp4"]["segments"][0]["reason"] == "" and names["phone/walk again.mp4"]["segments"][0]["reason"] == "duplicate"


def test_a_damaged_record_and_a_half_written_clip_are_made_again(folder, ingested, tmp_path):
    output = tmp_path / "clips"
    shutil.copytree(ingested[0], output)
    first = next(p for p in sorted((output / "films").glob("walk*")))
    (first / "record.json").write_text('{"schema": 1, "film"')
    next(output.glob(f"train/*/{first.name}/clip_*.mp4")).write_bytes(b"half")
    ingest(config_for(folder, output), log=lambda text: None)
    assert tree(output) == tree(ingested[0])


def test_films_cut_off_or_with_broken_packets_are_used_as_far_as_they_go_and_named(folder, tmp_path):
    whole = (folder / "fast.mp4").read_bytes()
    path = tmp_path / "part.mp4"
    path.write_bytes(whole[: int(len(whole) * 0.6)])
    report = FilmReport()
    found = list(samples(path, 10.0, 32, report))
    assert 3 < len(found) < 30 and any("cut off" in problem for problem in report.problems)


def test_a_gap_in_the_clock_ends_a_clip(tmp_path):
    frames = walk(9, seconds=5.0, speed_px_s=40.0)
    keep = np.r_[0:60, 90:150]
    made.encode(tmp_path / "a.mp4", frames[keep], keep / 30.0, rate_hz=30.0, crf=20)
    segments = examine(tmp_path / "a.mp4", 10.0, Gates())[2]
    assert [s.reason or s.domain for s in segments] == ["loco", "gap", "loco"] and segments[2].start_s == pytest.approx(3.0, abs=0.05)


def test_changes_of_two_clips_of_one_room_are_not_alike():
    rng = np.random.default_rng(0)
    room, a, b = rng.uniform(0, 255, 256), rng.normal(0, 3, (20, 256)), rng.normal(0, 3, (20, 256))
    assert same_change(room + a, room + b) < 0.2 and same_change(room + a, 0.9 * (room + a) + rng.normal(0, 0.5, a.shape)) > 0.9


def test_bad_options_are_refused(tmp_path, folder):
    assert parse_shard("1/4") == (1, 4)
    for text in ("4/4", "a", "1", "-1/2"):
        with pytest.raises(WbvlaError, match="shard"):
            parse_shard(text)
    with pytest.raises(WbvlaError, match="does not exist"):
        list_films((tmp_path / "nowhere",))
    with pytest.raises(WbvlaError, match="no film"):
        list_films((tmp_path,))
    (tmp_path / "file").touch()
    with pytest.raises(WbvlaError, match="cannot be written"):
        ingest(config_for(folder, tmp_path / "file"), log=lambda text: None)


def test_a_job_is_done_again_when_film_settings_or_decisions_change(folder, tmp_path):
    job = record.Job(list_films((folder / "walk.mp4",))[0], tmp_path, Gates(), 10.0, 96, 0.1, 70.0, 20.0, ())
    others = (replace(job, gates=Gates(blur=0.6)), replace(job, overrides=(("k", "keep"),)), replace(job, image_size=224))
    keys = {job.key("a"), job.key("b"), *(other.key("a") for other in others)}
    assert len(keys) == 5 and replace(job, threads=4).key("a") == job.key("a")

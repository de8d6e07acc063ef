"""Language of action-free video: primitives and their phrasings, instructions.json, `wbvla annotate`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wbvla_core.errors import WbvlaError
from wbvla_sim.instructions import VOCABULARY, Task, paraphrases
from wbvla_train.data import annotate, primitives, sentences
from wbvla_train.data.annotate import AnnotateConfig
from wbvla_train.data.motion import PRIMITIVES
from wbvla_train.data.mp4 import write_mp4
from wbvla_train.data.sentences import Described
from wbvla_vla.config import tiny


def quiet(text: str) -> None:
    pass


def write_clip(path: Path, value: int) -> None:
    write_mp4(path, np.full((3, 16, 16, 3), value, np.uint8), np.arange(3) * 0.1)


def write_sidecar(folder: Path, files: list[str]) -> None:
    (folder / "clips.json").write_text(json.dumps({"schema": 1, "clips": [{"file": file, "stamps_s": [0.0, 0.1, 0.2]} for file in files]}))


@pytest.fixture
def root(tmp_path) -> Path:
    """Three locomotion clips of a rendered room, whose wearer turned left, walked forward and then did two things."""
    folder = tmp_path / "train" / "loco" / "room_00000"
    folder.mkdir(parents=True)
    files = [f"clip_{i:02d}.mp4" for i in range(3)]
    for i, file in enumerate(files):
        write_clip(folder / file, 60 * i)
    write_sidecar(folder, files)
    command = np.zeros((3, 3, 4), int)
    command[0], command[1], command[2, 1:] = PRIMITIVES["turn_left"], PRIMITIVES["advance"], PRIMITIVES["squat"]
    truth = tmp_path / "truth" / "train" / "loco"
    truth.mkdir(parents=True)
    np.savez(truth / "room_00000.npz", command=command, hands=np.zeros((3, 3, 2, 3)))
    return tmp_path


def room(root: Path) -> Path:
    return root / "train" / "loco" / "room_00000"


def said(root: Path) -> dict[str, tuple[str, ...]]:
    return {file: entry.sentences for file, entry in sentences.match(room(root))[0].items()}


# -- phrasings ---------------------------------------------------------------------------------------------------------------


def test_held_out_phrasings_are_no_training_phrasings_and_use_their_words_only():
    training = {text for name in primitives.NAMES for text in primitives.phrasings(name)}
    held_out = [text for name in primitives.NAMES for text in primitives.held_out_phrasings(name)]
    tasks = {text for template in primitives._TASKS.values() for text in paraphrases(template)}
    assert not training & set(held_out) and len(held_out) == len(set(held_out)) and tasks <= training
    words = {word for text in training for word in text.split()} | set(VOCABULARY)
    assert not {word for text in held_out for word in text.split()} - words
    assert max(len(text.split()) for text in (*training, *held_out)) <= tiny().language.max_words


def test_a_primitive_that_is_a_task_is_worded_as_the_task():
    assert primitives.phrasings("turn_left") == paraphrases(Task("turn", side="left")) and primitives.phrasings("rise")[0] == "stand up"


def test_a_clip_of_one_command_is_that_primitive_and_a_clip_of_two_is_none():
    still = np.zeros((5, 2, 3))
    for name, direction in PRIMITIVES.items():
        assert primitives.of_truth(np.tile(direction, (5, 1)), still) == name
    changing = np.array([PRIMITIVES["advance"]] * 3 + [PRIMITIVES["turn_left"]] * 2)
    assert primitives.of_truth(changing, still) is None
    assert primitives.of_truth(np.tile((1, 0, 1, 0), (5, 1)), still) is None, "forward and left at once"
    hands = still.copy()
    hands[:, 1, 0] = np.linspace(0.0, 0.06, 5)  # 6 cm: further than a resting hand's 5 cm
    assert primitives.of_truth(np.zeros((5, 4)), hands) == "reach_right"
    hands[:, 0] = np.nan  # behind the back
    assert primitives.of_truth(np.zeros((5, 4)), hands) == "reach_right"


def test_a_film_is_the_primitive_of_the_nearest_folder_it_lay_in(tmp_path):
    folder = tmp_path / "train" / "loco" / "GX01_abc"
    for directory in (folder, tmp_path / "films" / "GX01_abc"):
        directory.mkdir(parents=True)
    for film, primitive in (("films/Turn left 2/GX01.MP4", "turn_left"), ("squat/day 1/GX01.MP4", "squat"), ("films/GX01.MP4", None), ("squat.mp4", None)):
        (tmp_path / "films" / "GX01_abc" / "record.json").write_text(json.dumps({"film": film}))
        assert primitives.of_folder(folder, ["a.mp4"]) == ({"a.mp4": primitive} if primitive else {})


# -- instructions.json -------------------------------------------------------------------------------------------------------


def test_a_renamed_clip_keeps_its_sentence_and_a_changed_one_is_stale(root):
    folder = room(root)
    for i in range(2):
        annotate.Clip(folder, f"clip_{i:02d}.mp4", None).put("annotator", (f"sentence {'ab'[i]}",))
    (folder / "clip_00.mp4").rename(folder / "clip_10.mp4")
    write_clip(folder / "clip_01.mp4", 250)
    write_sidecar(folder, ["clip_01.mp4", "clip_10.mp4"])
    found, stale = sentences.match(folder)
    assert {file: entry.sentences for file, entry in found.items()} == {"clip_10.mp4": ("sentence a",)}
    assert [entry.file for entry in stale] == ["clip_01.mp4"]


def test_sentences_follow_their_clips_to_another_folder_of_the_film(root):
    before, after = room(root), root / "train" / "mani" / "room_00000"
    annotate.Clip(before, "clip_00.mp4", None).put("annotator", ("reach out",))
    annotate.Clip(before, "clip_01.mp4", None).put("annotator", ("walk on",))
    after.mkdir(parents=True)
    (before / "clip_00.mp4").rename(after / "clip_00.mp4")
    write_sidecar(before, ["clip_01.mp4"])
    write_sidecar(after, ["clip_00.mp4"])
    sentences.follow([before, after])
    assert [entry.sentences for entry in sentences.read(after)] == [("reach out",)]
    assert [entry.sentences for entry in sentences.read(before)] == [("walk on",)]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"source": "guess"}, "source must be one of template, annotator, dataset; got 'guess'"),
        ({"sha256": "12"}, "64 hexadecimal digits"),
        ({"file": "../clip.mp4"}, "name of a clip in this folder"),
        ({"sentences": []}, "at least one sentence"),
        ({"sentences": [""]}, "instruction is empty"),
        ({"sentences": ["go <ACT_LOCO_1>"]}, "plain words"),
        ({"when": "today"}, "expected exactly"),
    ],
)
def test_a_damaged_entry_is_refused_by_file_and_number(tmp_path, change, complaint):
    entry = {"file": "clip_00.mp4", "sha256": "0" * 64, "source": "annotator", "sentences": ["turn left"]}
    (tmp_path / sentences.FILE).write_text(json.dumps({"schema": 1, "clips": [entry, entry | change]}))
    with pytest.raises(WbvlaError, match=rf"instructions.json, entry 1.*{complaint}"):
        sentences.read(tmp_path)


def test_a_sidecar_that_is_no_json_or_of_another_schema_is_refused(tmp_path):
    for text in ('{"schema": 1, "cli', '{"schema": 2, "clips": []}', "[]"):
        (tmp_path / sentences.FILE).write_text(text)
        with pytest.raises(WbvlaError, match="mend it, or remove it and annotate again"):
            sentences.read(tmp_path)


# -- wbvla annotate ----------------------------------------------------------------------------------------------------------


def talk(root: Path, *lines: str, **options) -> list[str]:
    """Annotate with these answers; returns the prompts."""
    prompts, answers = [], iter(lines)

    def read(prompt: str) -> str:
        prompts.append(prompt)
        line = next(answers, None)
        if line is None:
            raise EOFError
        return line

    annotate.annotate(AnnotateConfig(root, **options), read, quiet)
    return prompts


def test_templates_describe_what_is_known_and_leave_the_rest(root):
    assert annotate.annotate(AnnotateConfig(root, templates=True), log=quiet) == 2
    assert said(root) == {"clip_00.mp4": primitives.phrasings("turn_left"), "clip_01.mp4": primitives.phrasings("advance")}
    assert {entry.source for entry in sentences.read(room(root))} == {"template"}


def test_enter_accepts_a_sentence_replaces_and_s_skips(root):
    prompts = talk(root, "", "Walk on;  keep walking. ", "s")
    assert "(turn left)" in prompts[0] and "(walk forward)" in prompts[1] and "(no suggestion)" in prompts[2]
    assert said(root) == {"clip_00.mp4": primitives.phrasings("turn_left"), "clip_01.mp4": ("walk on", "keep walking")}
    assert (root / "annotate.png").stat().st_size > 0 and "annotate.png" in (root / "annotate.html").read_text()
    assert [prompt.split()[1] for prompt in talk(root)] == ["train/loco/room_00000/clip_02.mp4"], "the next run asks for what is missing"


def test_undo_takes_back_the_last_answer_and_asks_again(root):
    prompts = talk(root, "turn round", "", "u", "go on", "q")
    assert [prompt.split(":")[0][-30:] for prompt in prompts][1] == [prompt.split(":")[0][-30:] for prompt in prompts][3]
    assert said(root) == {"clip_00.mp4": ("turn round",), "clip_01.mp4": ("go on",)}
    talk(root, "first", "u", "q", all=True)
    assert said(root)["clip_00.mp4"] == ("turn round",), "what stood there before is there again"


def test_every_answer_is_on_disk_before_the_next_question(root):
    def read(prompt: str) -> str:
        if "clip_01" in prompt:
            assert said(root) == {"clip_00.mp4": ("turn round",)}
            raise EOFError
        return "turn round"

    annotate.annotate(AnnotateConfig(root), read, quiet)


def test_what_cannot_be_a_sentence_is_asked_for_again(root):
    assert len(talk(root, "go <there>", "x" * 300, ";", "turn round", "q")) == 5
    assert said(root) == {"clip_00.mp4": ("turn round",)}


def test_a_table_is_taken_over_whole_or_not_at_all(root, tmp_path):
    name = "train/loco/room_00000/clip_0{}.mp4"
    table = tmp_path / "table.csv"
    config = AnnotateConfig(root, table=table)
    table.write_text(f"clip,sentence\n{name.format(0)},turn round\n{name.format(0)},look behind you\n{name.format(7)},walk\n")
    with pytest.raises(WbvlaError, match=r"line 4: 'train/loco/room_00000/clip_07.mp4' is no clip under"):
        annotate.annotate(config, log=quiet)
    assert said(root) == {}
    table.write_text(f"clip,sentence\n{name.format(0)},turn round\n{name.format(0)},look behind you\n")
    assert annotate.annotate(replace(config, source="dataset"), log=quiet) == 1
    assert sentences.read(room(root)) == [
        Described("clip_00.mp4", sentences.content_hash(room(root) / "clip_00.mp4"), "dataset", ("turn round", "look behind you"))
    ]
    assert annotate.annotate(config, log=quiet) == 0, "a sentence that is there is not replaced unasked"
    table.write_text("a,b\n")
    with pytest.raises(WbvlaError, match="columns clip and sentence"):
        annotate.annotate(config, log=quiet)


def test_stale_entries_are_reported_and_replaced_by_the_next_answer(root):
    talk(root, "turn round", "q")
    write_clip(room(root) / "clip_00.mp4", 200)
    lines: list[str] = []
    annotate.annotate(AnnotateConfig(root, templates=True), log=lines.append)
    assert any(line.startswith("stale: ") and "clip_00.mp4" in line for line in lines)
    assert len(sentences.read(room(root))) == 2 and not sentences.match(room(root))[1]

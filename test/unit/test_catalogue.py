"""Which sentences are tasks, what is said of the others, and how the list travels in a policy bundle."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from wbvla_cli import inspect
from wbvla_cli import tasks as tasks_verb
from wbvla_core.catalogue import MAX_INSTRUCTION_CHARS, TASKS_FILE, Kind, TaskCatalogue, foreign_signs, plain
from wbvla_core.checkpoint import load_manifest
from wbvla_core.errors import CheckpointError, ErrorCode, InstructionError, WbvlaError
from wbvla_core.refusal import Reason, distance, nearest_word
from wbvla_core.sentences import COLORS, STAGE
from wbvla_vla.guard import NO_LIST, SAME_WHATEVER, guard_of

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "checkpoints" / "policy" / "tiny"
LISTED = runpy.run_path(str(ROOT / "benchmarks" / "sentences.py"))
ROWS = LISTED["read_list"]()


def refused(sentence: str, tasks: TaskCatalogue = STAGE) -> InstructionError:
    with pytest.raises(InstructionError) as caught:
        tasks.meaning(sentence)
    return caught.value


# -- the list of sentences -------------------------------------------------------------------------------------------
def test_the_list_has_half_in_and_half_out_of_range_and_no_sentence_twice():
    classes = Counter(row["class"] for row in ROWS)
    assert classes["in"] + classes["out"] >= 300 and abs(classes["in"] - classes["out"]) <= 0.1 * classes["in"]
    assert all(count == 1 for count in Counter(row["say"] for row in ROWS).values())
    reasons = {reason.value for reason in Reason}
    assert all(set(row.get("why", ())) <= reasons for row in ROWS)
    for name in classes:
        halves = Counter(row["half"] for row in ROWS if row["class"] == name)
        assert set(halves) == {"look", "final"} and abs(halves["look"] - halves["final"]) <= 1


@pytest.mark.parametrize("half", ["look", "final"])
def test_on_the_list_at_most_two_percent_are_accepted_and_five_percent_refused_wrongly(half):
    """By the shipped bundle's own list. Synonyms and typos: nine in ten are sent on to the task that was meant; reasons and hints likewise."""
    tasks = TaskCatalogue.of(load_manifest(TINY, kind="policy", verify_files=False))
    counts = LISTED["count"]([row for row in ROWS if row["half"] == half], tasks)
    inside, outside, near = (counts[name] for name in ("in", "out", "near"))
    assert sum(one["accepted wrongly"] for one in counts.values()) <= 0.02 * outside.total()
    assert inside["refused wrongly"] <= 0.05 * inside.total()
    assert near["accepted"] + near["right hint"] >= 0.9 * near.total()
    assert outside["refused"] >= 0.9 * outside.total()


# -- what is a task --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "said",
    [
        *("turn left", "  Turn LEFT!! ", "turn-left", "\u201cturn left\u201d", "turn\u00a0left\n"),
        *("Turn left, please.", "please, turn left", "please turn left"),
    ],
)
def test_case_punctuation_blanks_and_please_make_no_difference(said):
    assert STAGE.meaning(said).canonical == "turn left"


def test_the_policy_is_given_the_sentence_as_it_was_trained():
    """ "please turn left" is a held-out sentence of its own; where no sentence begins with please, it is left out."""
    assert STAGE.meaning("Please turn LEFT.").spoken == "please turn left" and STAGE.meaning("please turn left").held_out
    assert STAGE.meaning("Please crouch down!").spoken == "crouch down"


def test_what_reaches_the_network_for_a_listed_sentence_is_what_its_tokenizer_made_of_the_typed_one():
    from wbvla_vla.tokens import InstructionTokenizer

    tokenizer = InstructionTokenizer.load(ROOT / "checkpoints" / "vla" / "tiny", 12, "{instruction}")
    typed = [row["say"] for row in ROWS if row["class"] == "in" and plain(row["say"]) in {plain(m.spoken) for m in STAGE.meanings}]
    assert len(typed) > 200
    for say in typed:
        assert tokenizer.encode(STAGE.meaning(say).spoken).tolist() == tokenizer.encode(say).tolist(), say


def test_a_sign_that_is_no_punctuation_is_never_passed_over():
    """Dropped like a comma, each of these would be the task itself."""
    for sign in ("\U0001f6ab", "\u274c", "\u00ac", "\x00", "\u200b", "&", "=", "_", "<"):
        assert foreign_signs(f"turn {sign} left") == [sign]
        assert refused(f"turn {sign} left").reason == "signs"
    assert not foreign_signs("turn left; (please) \u2013 'now'!")


def test_a_sentence_of_more_than_200_characters_is_refused_even_if_the_rest_is_please():
    assert refused("please " * 40 + "turn left").code == ErrorCode.INSTRUCTION_TOO_LONG
    assert STAGE.find("please " * 20 + "turn left") is not None and MAX_INSTRUCTION_CHARS == 200


def test_a_list_in_which_a_sentence_means_two_tasks_is_refused():
    kinds = [Kind("go", ("go {side}",)), Kind("move", ("move {side}", "Go {side}!"))]
    with pytest.raises(ValueError, match="Go left!.*both 'go left' and 'move left'"):
        TaskCatalogue(kinds, [("go", {"side": "left"}), ("move", {"side": "left"})])
    with pytest.raises(ValueError, match="slots .*color.*ask for .*side"):
        TaskCatalogue(kinds[:1], [("go", {"color": "red"})])


def test_the_colours_of_the_sentences_are_those_of_the_scenes():
    pytest.importorskip("mujoco")
    from wbvla_sim import scene

    assert tuple(scene.COLORS) == COLORS


# -- what is said of the others --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("said", "reason", "nearest", "words"),
    [
        ("take the red box", "verb", ["walk to the red box"], '"take" is known to it only as in "take steps to the left"'),
        ("lift the box", "verb", [f"walk to the {color} box" for color in COLORS], 'not trained to "lift"'),
        ("walk to the grey box", "thing", [f"walk to the {color} box" for color in COLORS], 'not trained with "grey"'),
        ("turn lift", "thing", ["turn left", "turn right"], 'not trained with "lift"'),
        ("walk to the box", "object", [f"walk to the {color} box" for color in COLORS], "which one: red, green, blue or yellow?"),
        ("wave", "side", ["wave the left arm", "wave the right arm"], "left or right?"),
        ("walk to the crimson crate", "words", ["walk to the red box"], '"crimson": did you mean "red"?, "crate": did you mean "box"?'),
        ("could you stand up", "words", ["stand up"], "say it plainly"),
        ("wlak to teh blue box", "words", ["walk to the blue box"], '"wlak": did you mean "walk"?'),
        ("do not turn left", "negation", [], "what not to do"),
        ("please stop", "stop", [], "`wbvla stop`"),
        ("turn left and right", "several", ["turn left", "turn right"], '"left" and "right"'),
        ("squat down, then stand up", "several", ["squat down", "stand up"], "one task at a time"),
        ("walk to the orange box", "thing", [f"walk to the {color} box" for color in COLORS], '"orange"'),
        ("", "empty", [], "for example"),
    ],
)
def test_a_refusal_says_why_and_names_the_nearest_task(said, reason, nearest, words):
    error = refused(said)
    assert (error.reason, list(error.nearest)) == (reason, nearest)
    assert words in str(error)


def test_a_refusal_without_a_near_task_says_all_that_can_be_asked():
    assert "It can: walk to the red, green, blue or yellow box; turn left or right;" in str(refused("sing a song"))


def test_a_word_of_english_that_merely_looks_alike_is_no_typo():
    known = ["left", "walk", "red", "box"]
    assert nearest_word("lift", known) is None and nearest_word("wait", known) is None
    assert nearest_word("letf", known) == "left" and nearest_word("crimson", known) == "red"
    assert nearest_word("crimson", ["blue"]) is None  # offered only where the policy knows it
    assert (distance("letf", "left"), distance("lft", "left"), distance("walk", "wave")) == (1, 1, 2)


def test_every_explanation_is_a_sentence_and_offers_only_tasks():
    for row in (row for row in ROWS if row["class"] != "in" and row["half"] == "look"):
        error = refused(row["say"])
        assert set(error.nearest) <= set(STAGE.canonical), row
        assert len(str(error)) < 420 and str(error).isprintable(), row


# -- recorded sentences ----------------------------------------------------------------------------------------------
def test_recordings_make_a_list_of_their_own_sentences():
    tasks = TaskCatalogue.of_sentences(["Pick up the cup.", "hang the coat & hat", "Pick up the cup."])
    assert tasks.canonical == ("Pick up the cup.", "hang the coat & hat")
    assert tasks.meaning("pick up the CUP").spoken == "Pick up the cup." and tasks.find("hang the coat & hat")
    assert "Pick up the cup." in refused("pick up the cap", tasks).nearest
    assert "Pick up the cup." in str(refused("fly", tasks))
    assert TaskCatalogue.from_json(json.loads(json.dumps(tasks.to_json()))).canonical == tasks.canonical


# -- in the bundle ---------------------------------------------------------------------------------------------------
@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The shipped chain without a list of tasks, as bundles were before there was one."""
    shutil.copytree(ROOT / "checkpoints" / "vla" / "tiny", tmp_path / "vla" / "tiny", ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.copytree(TINY, tmp_path / "policy" / "tiny")
    folder = tmp_path / "policy" / "tiny"
    (folder / TASKS_FILE).unlink()
    data = json.loads((folder / "manifest.json").read_text())
    del data["files"][TASKS_FILE]
    (folder / "manifest.json").write_text(json.dumps(data))
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**metrics, "manifest": metrics.pop("manifest_when_trained")}))
    return folder


def test_the_shipped_bundle_lists_the_sentences_of_this_stage():
    tasks = TaskCatalogue.of(load_manifest(TINY, kind="policy"))
    assert tasks.tasks == STAGE.tasks and tasks.kinds == STAGE.kinds
    assert [m.spoken for m in tasks.meanings] == [m.spoken for m in STAGE.meanings]


def test_the_documents_name_the_bundle_as_it_was_trained_and_its_metrics_as_it_is():
    metrics = json.loads((TINY / "metrics.json").read_text())
    assert metrics["manifest"] == load_manifest(TINY, verify_files=False).hash
    assert f"`{metrics['manifest_when_trained'][:12]}` is the bundle" in (ROOT / "docs" / "evaluation.md").read_text()


def test_a_list_is_written_into_a_bundle_and_the_weights_stay_as_they_are(bundle, capsys):
    before, weights = load_manifest(bundle), (bundle / "model.safetensors").read_bytes()
    assert TaskCatalogue.of(before) is None
    assert tasks_verb.main([str(bundle), "--write", "templates"]) == 0
    after = load_manifest(bundle, kind="policy")
    assert after.files == load_manifest(TINY).files and after.hash == load_manifest(TINY).hash
    assert (bundle / "model.safetensors").read_bytes() == weights and after.parents == before.parents
    metrics = json.loads((bundle / "metrics.json").read_text())
    assert (metrics["manifest"], metrics["manifest_when_trained"]) == (after.hash, before.hash)
    shown = capsys.readouterr().out
    assert "12 tasks in 121 sentences" in shown and "walk to the red, green, blue or yellow box" in shown
    with pytest.raises(WbvlaError, match="has a list of tasks already"):
        tasks_verb.main([str(bundle), "--write", "templates"])


def test_a_list_that_would_not_be_true_is_not_written(bundle, tmp_path):
    metrics = json.loads((bundle / "metrics.json").read_text())
    (bundle / "metrics.json").write_text(json.dumps({**metrics, "settings": {**metrics["settings"], "lerobot": ["data/mine"]}}))
    with pytest.raises(WbvlaError, match="does not say that .* was trained on the templates"):
        tasks_verb.main([str(bundle), "--write", "templates"])
    (tmp_path / "mine.txt").write_text("walk to the red box\njuggle oranges\n")
    with pytest.raises(InstructionError, match="not trained on: 'juggle', 'oranges'"):
        tasks_verb.main([str(bundle), "--write", str(tmp_path / "mine.txt")])
    assert TASKS_FILE not in load_manifest(bundle).files
    (tmp_path / "mine.txt").write_text("walk to the red box\n\n")
    assert tasks_verb.main([str(bundle), "--write", str(tmp_path / "mine.txt")]) == 0
    assert TaskCatalogue.of(load_manifest(bundle)).canonical == ("walk to the red box",)


def test_a_damaged_list_is_refused_as_any_damaged_file(bundle):
    tasks_verb.main([str(bundle), "--write", "templates"])
    (bundle / TASKS_FILE).write_text("[]")
    with pytest.raises(CheckpointError, match=f"{TASKS_FILE} does not match its manifest"):
        load_manifest(bundle)
    with pytest.raises(CheckpointError, match="must be an object of schema 1"):
        TaskCatalogue.of(load_manifest(bundle, verify_files=False))


def test_inspect_says_whether_a_policy_is_guarded(bundle, capsys):
    inspect.main([str(TINY)])
    assert "guarded: 12 tasks in 121 sentences" in capsys.readouterr().out
    inspect.main([str(bundle)])
    assert NO_LIST in capsys.readouterr().out


def test_policies_that_read_no_sentence_say_so():
    from wbvla_core.robot import load_robot
    from wbvla_vla.fakes import ReplayPolicy, ZeroPolicy

    assert guard_of(ZeroPolicy(load_robot("x2"))) == (False, SAME_WHATEVER) == guard_of(ReplayPolicy.__new__(ReplayPolicy))
    assert guard_of(object()) == (False, NO_LIST)


def test_the_list_is_read_without_the_simulator_and_without_numpy():
    code = (
        "import sys, wbvla_core.catalogue, wbvla_core.refusal, wbvla_core.refusal_words, wbvla_core.sentences, wbvla_vla.guard; "
        "print([name for name in ('mujoco', 'torch', 'wbvla_sim') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_readme_lists_the_sentences_that_are_accepted():
    """Between the markers, word for word what `wbvla tasks` prints."""
    block = (ROOT / "README.md").read_text().split("<!-- sentences -->")[1]
    assert [line for line in block.strip().splitlines() if not line.startswith("```")] == list(STAGE.summary())

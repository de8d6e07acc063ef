"""`wbvla demo` without starting anything: what it refuses and how it says so, and making the results again from a folder."""

import dataclasses
import shutil
import signal
from pathlib import Path

import pytest

from wbvla_cli import demo
from wbvla_cli.main import main
from wbvla_core.catalogue import TASKS_FILE, TaskCatalogue
from wbvla_core.checkpoint import load_manifest, sha256_file, write_json
from wbvla_core.errors import InstructionError, WbvlaError
from wbvla_core.robot import load_robot
from wbvla_core.sentences import STAGE
from wbvla_eval.produce import EpisodeFacts
from wbvla_sim.instructions import Task
from wbvla_sim.scene import COLORS, random_scene

ROBOT = load_robot()
ROOT = Path(__file__).resolve().parents[2]


def refusal(capsys, *arguments) -> str:
    assert main(["demo", *arguments]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("instruction", "words"),
    [
        ("", "the instruction is empty"),
        ("walk to the blue box " * 20, "at most 200"),
        ("dance with the blue box", 'not trained to "dance"'),
        ("box blue walk", "this sentence is not"),
        ("walk to the box", "which one: red, green, blue or yellow?"),
    ],
)
def test_a_sentence_that_cannot_be_followed_is_refused_with_its_reason(capsys, instruction, words):
    assert words in refusal(capsys, instruction)


def test_a_sentence_needs_no_quotes(capsys):
    with_quotes = refusal(capsys, "please stop", "--seed", "3")
    assert with_quotes == refusal(capsys, "please", "stop", "--seed", "3") == refusal(capsys, "--seed", "3", "please", "stop")
    assert "wbvla stop" in with_quotes


def test_the_help_lists_the_sentences_that_are_accepted(capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    shown = capsys.readouterr().out
    assert all(line in shown for line in STAGE.summary())


def test_the_demo_takes_the_sentences_of_the_bundle_that_it_runs(tmp_path):
    """A bundle that was trained to turn only refuses what another can do, before anything starts."""
    bundle = tmp_path / "policy" / "turns"
    shutil.copytree(ROOT / "checkpoints" / "policy" / "tiny", bundle)
    turns = TaskCatalogue([STAGE.kinds["turn"]], [("turn", {"side": "left"})])
    turns.save(bundle)
    manifest = load_manifest(bundle, verify_files=False)
    files = {**manifest.files, TASKS_FILE: sha256_file(bundle / TASKS_FILE)}
    write_json(bundle / "manifest.json", dataclasses.replace(manifest, files=files).to_json())
    assert demo.understand("turn left", 7, ROBOT, 60.0, bundle) == Task("turn", side="left")
    with pytest.raises(InstructionError, match="It can: turn left"):
        demo.understand("squat down", 7, ROBOT, 60.0, bundle)
    assert demo.understand("squat down", 7, ROBOT, 60.0) == Task("squat")


def test_a_box_that_the_scene_lacks_is_refused_with_those_that_it_has(capsys):
    seed = next(s for s in range(1_000_000, 1_000_100) if len(random_scene(s).boxes) < len(COLORS))
    there = {str(box.color) for box in random_scene(seed).boxes}
    text = refusal(capsys, f"walk to the {(set(COLORS) - there).pop()} box", "--seed", str(seed))
    assert all(color in text for color in there)


def test_the_default_sentence_fits_the_default_scene():
    options = demo.DemoOptions()
    assert demo.understand(options.instruction, options.seed, ROBOT, options.timeout_s) == Task("walk_to", color="blue")


def test_a_missing_checkpoint_is_named(capsys, tmp_path):
    assert "no checkpoint at" in refusal(capsys, "--policy", str(tmp_path), "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_redo_wants_the_folder_of_an_earlier_demo(capsys, tmp_path):
    assert "episode.json" in refusal(capsys, "--redo", str(tmp_path))


def test_without_ros_the_demo_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wbvla_core.ros.qos", None)  # import raises ModuleNotFoundError
    with pytest.raises(WbvlaError, match="make setup"):
        demo.require_ros()


def test_facts_survive_the_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    facts = EpisodeFacts(
        instruction="turn left", task=Task("turn", side="left"), goal_ns=1, end_ns=2, ended="duration", message="4 s are over", elapsed_s=4.0, seed=7,
        robot="x2", duration_s=4.0, policy=None, lmo=Path("checkpoints/lmo/x2"), store=Path("checkpoints"), commands=('wbvla demo "turn left" --seed 7',),
    )  # fmt: skip
    demo.save_facts(tmp_path, facts)
    assert demo.load_facts(tmp_path) == facts


def test_the_recorders_one_file_becomes_the_episode(tmp_path):
    bag = tmp_path / "bag"
    bag.mkdir()
    demo._adopt_bag(bag, tmp_path / "episode.mcap")
    assert not (tmp_path / "episode.mcap").exists()
    (bag / "bag.mcap").write_bytes(b"x")
    (bag / "metadata.yaml").write_text("")
    demo._adopt_bag(bag, tmp_path / "episode.mcap")
    assert (tmp_path / "episode.mcap").read_bytes() == b"x" and not bag.exists()


def test_interrupts_are_a_flag_while_the_stack_is_up_and_end_the_program_afterwards():
    before = signal.getsignal(signal.SIGINT)
    with demo.interrupts() as stopped:
        assert not stopped()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stopped()
    assert signal.getsignal(signal.SIGINT) is before


def test_policies_that_are_no_checkpoints_become_parameters_of_the_vla_node(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert demo.vla_parameters("zero") == ({"policy": "zero"}, None)
    assert demo.vla_parameters("replay:stream.yaml") == ({"policy": "replay", "replay": str(tmp_path / "stream.yaml")}, None)


def test_the_commands_of_the_report_repeat_what_was_asked():
    again, trials = demo._commands(demo.DemoOptions(("turn", "left"), seed=3, policy="zero"))
    assert again == 'wbvla demo "turn left" --seed 3 --policy zero' and trials.endswith("--policy zero")

"""A campaign of trials: each is on disk as it ends, one that raises costs itself alone, and a second call runs only what is missing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from wbvla_core.errors import InstructionError, WbvlaError
from wbvla_core.robot import load_robot
from wbvla_eval import campaign as campaigns
from wbvla_eval.campaign import campaign
from wbvla_eval.journal import JOURNAL, TrialJournal
from wbvla_eval.protocol import Setup, TrialSpec
from wbvla_sim.instructions import Task
from wbvla_vla.guard import SAME_WHATEVER

TASK = Task("turn", side="left")
SETUP = Setup(policy="expert", lmo="kinematic")


def trials(count: int) -> list[TrialSpec]:
    return [TrialSpec(i, 1_000_000 + i, TASK, TASK.instruction, 15.0, 4.0) for i in range(count)]


class Body:
    """Stands in for the simulator: notes which trials it was given; some of them raise, and one is interrupted."""

    ran: list[int] = []
    raises: set[int] = set()
    interrupts: set[int] = set()

    def __init__(self, setup: Setup) -> None:
        pass

    def run(self, trial: TrialSpec) -> dict:
        Body.ran.append(trial.index)
        if trial.index in Body.interrupts:
            raise KeyboardInterrupt
        if trial.index in Body.raises:
            raise RuntimeError("the scene has no floor")
        row = {"ended": "duration", "success": True, "failure": None, "reason": "turned", "measures": {"duration_s": 4.0}}
        return trial.facts() | row | {"wall_s": 0.1}


@pytest.fixture(autouse=True)
def body(monkeypatch):
    monkeypatch.setattr(campaigns, "Runner", Body)
    Body.ran, Body.raises, Body.interrupts = [], set(), set()


def run(out: Path, count: int, setup: Setup = SETUP) -> dict:
    return campaign("Turns", setup, trials(count), processes=1, out=out)


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / JOURNAL).read_text().splitlines()]


def test_a_sentence_that_is_no_task_of_the_policy_is_refused_before_the_first_trial(tmp_path):
    """As the node refuses it; a measurement of tasks that a policy never saw says so in its setup."""
    asked = [*trials(1), TrialSpec(1, 1_000_001, TASK, "take the red box", 15.0, 4.0)]
    for policy in ("expert", "checkpoints/policy/tiny"):
        with pytest.raises(InstructionError, match='Nearest that it can do: "walk to the red box"'):
            campaign("Turns", Setup(policy=policy, lmo="kinematic"), asked, processes=1, out=tmp_path / policy)
    assert not Body.ran and not list(tmp_path.iterdir())
    free = campaign("Turns", Setup(policy="expert", lmo="kinematic", guarded=False), asked, processes=1, out=tmp_path / "free")
    assert Body.ran == [0, 1] and free["sentences"].startswith("not guarded")
    assert campaign("Turns", Setup(policy="zero", lmo="kinematic"), trials(1), processes=1, out=tmp_path / "zero")["sentences"] == SAME_WHATEVER


def test_a_trial_that_raises_is_named_counts_as_failed_and_the_rest_goes_on(tmp_path, capsys):
    Body.raises = {1}
    report = run(tmp_path, 3)
    assert Body.ran == [0, 1, 2]
    summary = report["summary"]["all"]
    assert (summary["trials"], summary["successes"], summary["failures"]) == (3, 2, {"error": 1})
    assert summary["trials_seen_to_the_end"] == 2 and summary["no_fall_rate"] == 1.0  # the third says nothing about falls
    assert report["trials"][1]["reason"] == "RuntimeError: the scene has no floor"
    assert "no floor" in report["trials"][1]["traceback"]
    assert "1 of 3 trials raised an exception" in capsys.readouterr().err


def test_finished_trials_survive_an_interruption_and_are_not_run_again(tmp_path):
    Body.interrupts = {2}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 4)
    assert [row["index"] for row in lines(tmp_path)[1:]] == [0, 1]
    Body.ran, Body.interrupts = [], set()
    report = run(tmp_path, 4)
    assert Body.ran == [2, 3]
    assert [row["index"] for row in report["trials"]] == [0, 1, 2, 3] and report["summary"]["all"]["successes"] == 4


def test_a_trial_that_raised_is_run_again(tmp_path):
    Body.raises = {0}
    run(tmp_path, 2)
    Body.ran, Body.raises = [], set()
    assert run(tmp_path, 2)["summary"]["all"]["successes"] == 2
    assert Body.ran == [0]


def test_more_trials_continue_the_same_folder(tmp_path):
    run(tmp_path, 2)
    Body.ran = []
    assert run(tmp_path, 5)["summary"]["all"]["trials"] == 5
    assert Body.ran == [2, 3, 4]


def test_a_half_written_line_is_dropped_and_that_trial_run_again(tmp_path):
    run(tmp_path, 2)
    path = tmp_path / JOURNAL
    path.write_bytes(path.read_bytes()[:-20])
    Body.ran = []
    run(tmp_path, 2)
    assert Body.ran == [1] and len(lines(tmp_path)) == 3


def test_a_folder_of_another_setup_is_refused_by_name_and_kept(tmp_path):
    run(tmp_path, 1)
    before = (tmp_path / JOURNAL).read_bytes()
    with pytest.raises(WbvlaError, match="another decision_delay_ticks: expected 4, found 2; choose another --out"):
        run(tmp_path, 1, Setup(policy="expert", lmo="kinematic", decision_delay_ticks=4))
    assert (tmp_path / JOURNAL).read_bytes() == before


def test_a_damaged_journal_and_a_second_writer_are_refused_in_one_sentence(tmp_path):
    (tmp_path / JOURNAL).write_text("no json\n")
    with pytest.raises(WbvlaError, match="is damaged .* delete it or choose another --out"):
        run(tmp_path, 1)
    with TrialJournal(tmp_path / "other", {}), pytest.raises(WbvlaError, match="another evaluation is writing into"):
        TrialJournal(tmp_path / "other", {})


@pytest.mark.parametrize("line", ["null", "3", '{"seed": 1}', '"x"'])
def test_a_line_that_is_no_trial_is_named(tmp_path, line):
    run(tmp_path, 1)
    with (tmp_path / JOURNAL).open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(WbvlaError, match="is damaged: line 3 is no trial .*delete that line or choose another --out"):
        run(tmp_path, 2)


@pytest.mark.parametrize("head", [b"[]\n", b'{"key": [1]}\n', b"\xff\xfe\n"])
def test_a_damaged_head_of_a_journal_is_a_sentence(tmp_path, head):
    (tmp_path / JOURNAL).write_bytes(head)
    with pytest.raises(WbvlaError, match="is damaged"):
        run(tmp_path, 1)


def test_trials_of_an_edited_robot_are_not_mixed_with_earlier_ones(tmp_path, monkeypatch):
    run(tmp_path, 1)
    robot = load_robot("x2")
    edited = dataclasses.replace(robot, stance_height_range_m=(0.40, 0.66))
    monkeypatch.setattr("wbvla_eval.campaign.load_robot", lambda name: edited)
    with pytest.raises(WbvlaError, match="another robot_numbers"):
        run(tmp_path, 2)

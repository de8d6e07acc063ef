"""How a demo ends: what it says of a stack that failed and of a machine that was busy, and that it finds a folder of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from wbvla_cli import demo
from wbvla_cli.demo import DemoOptions, Display, Episode, finish, make_directory, over_limits, take_directory
from wbvla_cli.runner import ProcessLost, StackError
from wbvla_core.errors import WbvlaError
from wbvla_core.robot import load_robot
from wbvla_sim.instructions import Task

ROBOT = load_robot("x2")
TASK = Task("walk to the blue box", "walk_to", "blue")


def episode(tmp_path: Path, *, acting: bool = True) -> Episode:
    made = Episode(DemoOptions(policy="zero"), tmp_path, TASK)
    made.goal_ns, made.lost_ns, made.end_ns, made.acting = 10**18, 10**18 + 4_200_000_000, 10**18 + 5_200_000_000, acting
    return made


def stack(ended: dict[str, str], lines: dict[str, list[str]]) -> SimpleNamespace:
    return SimpleNamespace(ended=lambda name: ended.get(name, ""), last_lines=lambda name: lines.get(name, []))


def test_demos_of_one_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = [make_directory("Walk to the blue box!", 7, now_s=1.7e9) for _ in range(3)]
    assert all(path.is_dir() for path in made) and len(set(made)) == 3
    assert re.fullmatch(r"runs/walk-to-the-blue-box-7-\d{8}-\d{6}", str(made[0]))
    assert [str(path)[len(str(made[0])) :] for path in made] == ["", "-2", "-3"]


def test_a_folder_that_is_named_is_taken_once(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name in ("empty", "new/one"):
        take_directory(tmp_path / name)
        with pytest.raises(WbvlaError, match="not empty"):
            take_directory(tmp_path / name)
    with pytest.raises(WbvlaError, match="no folder"):
        take_directory(tmp_path / "file")


def test_times_over_their_limits_are_explained_and_the_result_stands():
    rows = [
        {"name": "LMO tick to tick, p99", "judged": 31.4, "unit": "ms", "limit": 23.0, "ok": False},
        {"name": "real-time factor, mean", "judged": 0.71, "unit": "", "limit": 0.98, "ok": False},
        {"name": "LMO memory", "judged": 150.0, "unit": "MB", "limit": 200.0, "ok": True},
    ]
    good, bad = over_limits(rows, success=True), over_limits(rows, success=False)
    assert "LMO tick to tick, p99 31.4 ms (limit 23)" in good and "factor, mean 0.71 (limit 0.98)" in good and "memory" not in good
    assert "The result stands" in good and "busy" in good
    assert "The result stands" not in bad and "can be the reason" in bad
    assert over_limits(rows[2:], success=True) == ""


def test_a_killed_process_is_told_in_one_paragraph_with_when_how_and_what_it_means(tmp_path):
    lines = {"vla": ["INFO: task", "ERROR: an old complaint"]}
    facts = demo._told(ProcessLost("x", ["vla", "render"]), stack({"vla": "killed by SIGKILL"}, lines), episode(tmp_path))
    assert facts.fault.startswith("The process vla ended 4.2 s after the goal was sent: killed by SIGKILL (by somebody, or")
    assert "keeps the robot standing" in facts.fault and "So did render." in facts.fault and str(tmp_path / "logs" / "vla.log") in facts.fault
    assert "old complaint" not in facts.fault, "what it had said before did not end it"
    assert (facts.ended, facts.elapsed_s, facts.log) == ("fault", 5.2, ("INFO: task", "ERROR: an old complaint"))
    assert "\n" not in facts.fault


def test_a_process_that_ends_with_a_reason_is_told_with_it(tmp_path):
    lines = {"record": ["INFO: x", "ERROR: recording stopped: the disk is full"]}
    facts = demo._told(ProcessLost("x", ["record"]), stack({"record": "exit status 1"}, lines), episode(tmp_path))
    assert "exit status 1; it had said: recording stopped: the disk is full." in facts.fault and "what the robot did afterwards is not in it" in facts.fault


def test_a_node_that_refuses_before_the_goal_is_told_with_its_reason(tmp_path):
    lines = {"lmo": ["ERROR: refused to configure: no such checkpoint"]}
    error = StackError("lmo refused to configure; its own log line says why; logs are in x", ["lmo"])
    facts = demo._told(error, stack({}, lines), episode(tmp_path, acting=False))
    assert facts.fault.startswith("The stack failed before the goal was sent: lmo refused to configure: refused to configure: no such checkpoint.")
    assert facts.elapsed_s == 0.0


@pytest.mark.parametrize("bag", ["none", "garbage"])
def test_a_fault_leaves_a_report_and_a_summary_even_without_a_bag_that_can_be_read(tmp_path, capsys, bag):
    if bag == "garbage":
        (tmp_path / "episode.mcap").write_bytes(b"\x89MCAP0\r\n" + bytes(100))
    facts = episode(tmp_path).facts(fault='The process sim ended: killed by SIGKILL. It was the robot <and its "room">.', log=["FATAL: <oops>"])
    assert finish(tmp_path, facts, ROBOT, Display(), video=True) == 1
    page, summary = (tmp_path / "report.html").read_text(), json.loads((tmp_path / "summary.json").read_text())
    assert "killed by SIGKILL" in page and "FATAL: &lt;oops&gt;" in page and "&lt;and its" in page and "http" not in page.split("</style>")[1]
    assert (summary["success"], summary["failure"], summary["ended"]["outcome"]) == (False, "error", "fault")
    assert summary["reason"] == facts.fault and summary["recording"]
    text = capsys.readouterr().out
    assert "FAILED (error): The process sim ended" in text and str(tmp_path / "report.html") in text and "Traceback" not in text


def test_a_report_that_cannot_be_written_is_a_sentence_and_what_happened_is_said_all_the_same(tmp_path, capsys, monkeypatch):
    def full(*_args, **_kwargs):
        (tmp_path / "report.html").write_text("<!doctype html><html><bo")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo, "produce_without_bag", full)
    facts = episode(tmp_path).facts(fault="The process record ended: the disk is full.")
    with pytest.raises(WbvlaError, match="No space left on device"):
        finish(tmp_path, facts, ROBOT, Display(), video=True)
    assert "FAILED (error): The process record ended" in capsys.readouterr().out
    assert not (tmp_path / "report.html").exists()


def test_without_a_fault_a_missing_bag_is_refused(tmp_path):
    with pytest.raises(WbvlaError, match="there is no bag"):
        finish(tmp_path, episode(tmp_path).facts(), ROBOT, Display(), video=False)

"""wbvla_msgs: error codes equal those of the core, every field says its unit, and what is installed is what the folder says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from wbvla_core.errors import ErrorCode

FOLDER = Path(__file__).resolve().parents[2] / "wbvla_msgs"
INTERFACES = sorted(path for pattern in ("msg/*.msg", "srv/*.srv", "action/*.action") for path in FOLDER.glob(pattern))
LINE = re.compile(r"^(?P<type>[a-zA-Z][\w/]*(\[\d*\])?)\s+(?P<name>[A-Za-z]\w*)\s*(=\s*(?P<value>[^#\s]+))?\s*(#\s*(?P<comment>.+))?$")


@dataclass(frozen=True)
class Entry:
    """A field or a constant of an interface file; ``part`` counts the sections between ``---``."""

    part: int
    type: str
    name: str
    value: str | None
    comment: str | None


def entries(path: Path) -> list[Entry]:
    found, part = [], 0
    for line in path.read_text().splitlines():
        if line.strip() == "---":
            part += 1
        elif line.strip() and not line.startswith("#"):
            match = LINE.match(line)
            assert match, f"{path.name}: cannot read {line!r}"
            found.append(Entry(part, match["type"], match["name"], match["value"], match["comment"]))
    return found


def codes(path: Path) -> dict[str, int]:
    return {entry.name.removeprefix("CODE_"): int(entry.value) for entry in entries(path) if entry.name.startswith("CODE_")}


def test_the_folder_holds_the_interfaces_of_the_design():
    names = {path.name for path in INTERFACES}
    assert names == {
        *("LocoCommand.msg", "LatentAction.msg", "JointCommand.msg", "SafetyState.msg", "SimState.msg"),
        *("TakeControl.srv", "ExecuteTask.action"),
    }
    listed = set(re.findall(r'"(?:msg|srv|action)/([^"]+)"', (FOLDER / "CMakeLists.txt").read_text()))
    assert listed == names, "CMakeLists.txt compiles what the folder holds"


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.stem)
def test_error_codes_in_a_message_equal_those_of_the_core(path):
    for name, value in codes(path).items():
        assert ErrorCode[name] == value, f"{path.name}: CODE_{name}={value}, wbvla_core/errors.py says {int(ErrorCode[name])}"


def test_every_error_code_of_the_core_can_be_told_in_a_message():
    told = {name for path in INTERFACES for name in codes(path)}
    assert told == {code.name for code in ErrorCode}


def test_every_message_with_a_code_field_says_what_zero_means():
    carriers = [path for path in INTERFACES if any(entry.name == "code" for entry in entries(path))]
    assert {path.name for path in carriers} == {"SafetyState.msg", "TakeControl.srv", "ExecuteTask.action"}
    assert all(codes(path)["NONE"] == 0 for path in carriers)


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.stem)
def test_every_field_says_its_unit_or_meaning(path):
    for entry in entries(path):
        if entry.value is None:
            assert entry.comment, f"{path.name}: {entry.name} has no comment"
            if entry.type.startswith("float"):
                assert entry.name.endswith(("_s", "_m", "_factor")) or "MuJoCo" in entry.comment or entry.comment.startswith("["), (
                    f"{path.name}: {entry.name} says no unit"
                )


def test_what_is_installed_is_what_the_folder_says():
    """Fails where the folder was changed and not compiled again. An unbuilt folder imports as an empty namespace, so classes are asked for."""
    import wbvla_msgs.action
    import wbvla_msgs.msg
    import wbvla_msgs.srv

    for path in INTERFACES:
        kind = getattr(getattr(wbvla_msgs, path.suffix[1:]), path.stem)
        parts = {"msg": (kind,), "srv": (getattr(kind, "Request", None), getattr(kind, "Response", None))}.get(path.suffix[1:])
        if parts is None:
            parts = (kind.Goal, kind.Result, kind.Feedback)
        for number, installed in enumerate(parts):
            mine = [entry for entry in entries(path) if entry.part == number]
            assert list(installed.get_fields_and_field_types()) == [entry.name for entry in mine if entry.value is None], path.name
            for entry in mine:
                if entry.value is not None:
                    assert getattr(installed, entry.name) == int(entry.value), f"{path.name}: {entry.name}"


def test_outcome_and_state_constants_are_distinct_and_zero_is_no_outcome():
    outcomes = {entry.name: int(entry.value) for entry in entries(FOLDER / "action" / "ExecuteTask.action") if entry.type == "uint8" and entry.value}
    assert outcomes == {"STILL": 1, "DURATION": 2, "TIMEOUT": 3, "CANCELED": 4, "FAULT": 5, "REFUSED": 6}
    states = {entry.name: int(entry.value) for entry in entries(FOLDER / "msg" / "SafetyState.msg") if entry.type == "uint8" and entry.value}
    assert states == {"FOLLOW": 0, "STAND": 1, "DAMPING": 2, "WAITING": 3}

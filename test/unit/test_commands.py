"""Command lines that the documents show are those that the parsers take, and every benchmark starts and calls only what there is."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro

from wbvla_cli import main
from wbvla_core.checkpoint import find_checkpoint

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))
COMMAND = re.compile(r"(?:wbvla|python -m wbvla\w*(?:\.\w+)*|python benchmarks/\w+\.py) [^/].*")
pytestmark = [
    pytest.mark.timeout(60),  # a program that does without tyro would run
    pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning"),  # python -m of what its package imports, too
]
LAUNCHED = re.compile(r"^taskset -c \S+ |^accelerate launch .*-m (?=wbvla_cli )")


class Parsed(BaseException):
    """The options were taken; nothing was carried out."""


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Words of a command line through the real parser and no further; SystemExit with tyro's text on stderr where they are refused."""
    taken = tyro.cli

    def stop(*args: Any, **kwargs: Any) -> None:
        raise Parsed(taken(*args, **kwargs))

    def parse(program: str, *options: str) -> None:
        monkeypatch.setattr(sys, "argv", [program, *options])
        try:
            if program == "wbvla":
                status = main.main(options)
            elif program.endswith(".py"):
                status = runpy.run_path(str(ROOT / program), run_name="__main__") and None
            else:
                status = runpy.run_module(program, run_name="__main__", alter_sys=True) and None
        except Parsed:
            return
        raise SystemExit(status)  # help does not come back from the parser

    monkeypatch.setattr(tyro, "cli", stop)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # as for a script that is started by its path
    monkeypatch.chdir(tmp_path)
    return parse


# -- what the documents show -------------------------------------------------------------------------------------------
def shown(text: str) -> Iterator[str]:
    """Command lines of a document: in blocks of code, and in a sentence between backquotes, where they may lack what is required."""
    in_block = False
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            in_block = not in_block
            continue
        for piece in [line] if in_block else re.findall(r"`([^`]+)`", line):
            for part in re.split(r" && |; ", LAUNCHED.sub("", piece.strip())):
                part = part.replace("wbvla_cli ", "wbvla ", 1) if part.startswith("wbvla_cli ") else part
                if COMMAND.fullmatch(part) and "──" not in part:  # an arrow: a drawing
                    yield complete(part, in_block)


def complete(command: str, whole: bool) -> str:
    """Without comment and [brackets], of {several,words} the first, without dots; ``--help`` where it is only a name."""
    command = re.sub(r"\{(\w+)[^}]*\}", r"\1", re.sub(r"[\[\]]", "", command))
    words = [word for word in shlex.split(command, comments=True) if word != "..."]
    return shlex.join(words if whole or any(word.startswith("-") for word in words[2:]) else [*words, "--help"])


def documented() -> dict[str, str]:
    """Command line -> where it stands."""
    texts = {path: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
    texts |= {path: f"```\n{inspect.cleandoc(ast.get_docstring(ast.parse(path.read_text())) or '')}\n```" for path in BENCHMARKS}
    found: dict[str, str] = {}
    for path, text in texts.items():
        for command in shown(text):
            found.setdefault(command, path.name)
    return found


def program_of(words: list[str]) -> list[str]:
    return words if words[0] == "wbvla" else words[2:] if words[1] == "-m" else words[1:]


@pytest.mark.parametrize(("command", "where"), documented().items())
def test_a_command_line_of_the_documents_is_taken_by_its_parser(command, where, parse, capsys):
    try:
        parse(*program_of(shlex.split(command)))
    except SystemExit as ended:
        assert not ended.code, f"{where}: {command}\n{capsys.readouterr().err}"


# Paths in the documents that a reader brings along: films, recordings, published weights, tables of sentences, code.
BROUGHT = ("films", "session", "world", "openvla-7b", "smolvlm", "~", "data/more", "checkpoints/policy/mine")
# ... and those that a command writes where no option says otherwise.
DEFAULTS = ("data/video", "data/film", "data/demos", "data/stills", "runs", "docs/img", "checkpoints/vla/7b", "checkpoints/policy/7b")
WRITES = ("--output", "--out", "--export", "--session", "--run-dir", "--folder", "--write")


def places(words: list[str]) -> tuple[set[str], set[str]]:
    """(paths that a command reads, paths that it writes), of those that its words name."""
    reads, writes = set(), set()
    for before, word in zip(["", *words], words, strict=False):
        if "/" not in word or word.startswith("-") or "://" in word or "@" in word or word.endswith(".py"):
            continue
        (writes if before in WRITES else reads).add(re.split(r"[*$]", word)[0].rstrip("/"))
    return reads, writes


def test_what_a_documented_command_reads_is_in_the_clone_or_made_by_another_one_or_brought_along():
    found = {command: places(shlex.split(command)) for command in documented()}
    made = {path for _, writes in found.values() for path in writes} | set(DEFAULTS)

    def known(path: str) -> bool:
        ships = (ROOT / path).exists() or find_checkpoint(path).is_absolute()
        return ships or any(path == place or path.startswith(f"{place}/") for place in (*made, *BROUGHT))

    unknown = {command: lost for command, (reads, _) in found.items() if (lost := sorted(path for path in reads if not known(path)))}
    assert not unknown, unknown


def test_command_lines_are_found_in_blocks_and_sentences():
    text = "`wbvla run sim` and `wbvla eval {lmo,walk-to} [--quick] ...`, not `wbvla` nor `config/x.yaml`\n```\n"
    text += "taskset -c 0 python benchmarks/vla.py \\\n  --frames 3 # few\naccelerate launch --x 1 -m wbvla_cli train plan 7b-lora\nwbvla record ──► MCAP\n```"
    assert list(shown(text)) == [
        "wbvla run sim --help",
        "wbvla eval lmo --quick",
        "python benchmarks/vla.py --frames 3",
        "wbvla train plan 7b-lora",
    ]


@pytest.mark.parametrize(
    "command", ["wbvla eval walkto", "wbvla eval lmo --quik", "wbvla train vla tinny", "benchmarks/vla.py --frames many", "wbvla_train.lam.probe --spilt test"]
)
def test_a_verb_an_option_or_a_value_that_does_not_exist_is_refused(command, parse):
    with pytest.raises(SystemExit) as refused:
        parse(*command.split())
    assert refused.value.code == 2

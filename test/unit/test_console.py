"""Programs print line by line, end with one sentence where they refuse, and all go through the same door."""

from __future__ import annotations

import ast
import os
import selectors
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wbvla_core import console
from wbvla_core.errors import CommandError, ErrorCode

ROOT = Path(__file__).resolve().parents[2]
PLAIN = {"HOME": str(Path.home()), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)}
PATIENCE_S = 60.0  # for a line that never comes; one that comes takes a tenth of a second


def programs() -> list[Path]:
    """Modules that run when they are called by name, ROS nodes and their starter aside: those end as rclpy wants it."""
    places = [path for place in ("wbvla_*", "benchmarks") for path in ROOT.glob(f"{place}/**/*.py")]
    guarded = [path for path in places if '\nif __name__ == "__main__"' in path.read_text() and not path.stem.endswith("node")]
    return [path for path in guarded if path.stem not in ("manager", "main", "start", "people_server")]


def test_progress_reaches_a_pipe_while_the_program_still_works():
    code = "import sys; from wbvla_core.console import run; run('x', lambda: [print('12 of 90'), sys.stdin.read()] and 0)"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=PLAIN, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process, selectors.DefaultSelector() as waiting:
        waiting.register(process.stdout, selectors.EVENT_READ)
        said = os.read(process.stdout.fileno(), 100) if waiting.select(PATIENCE_S) else b""
        process.stdin.close()  # lets it go on
    assert said == b"12 of 90\n"


def test_importing_a_program_does_not_change_the_streams_of_the_importer():
    code = "import sys, wbvla_core.console, wbvla_cli.main; print(sys.stdout.line_buffering)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=PLAIN, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_every_program_goes_through_the_same_door():
    assert len(programs()) > 35
    for path in programs():
        last = ast.parse(path.read_text()).body[-1]
        assert isinstance(last, ast.If) and ast.unparse(last.body[-1]) == "program(main)", path


def refuse() -> None:
    raise CommandError("flags must be -1, 0 or 1, got 3", ErrorCode.COMMAND_FLAG_RANGE)


def interrupt() -> None:
    raise KeyboardInterrupt


def fill_the_disk() -> None:
    raise OSError(28, "No space left on device", "/runs/x")


@pytest.mark.parametrize(
    ("main", "status", "says"),
    [
        (refuse, 2, "x: flags must be -1, 0 or 1, got 3 [COMMAND_FLAG_RANGE 400]\n"),
        (interrupt, 130, "x: interrupted\n"),
        (fill_the_disk, 2, "x: No space left on device: /runs/x\n"),
        (lambda: None, 0, ""),
        (lambda: 3, 3, ""),
    ],
)
def test_a_program_ends_with_its_status_and_at_most_one_sentence(main, status, says, capsys):
    assert console.run("x", main) == status
    assert capsys.readouterr().err == says


def test_a_program_whose_reader_has_left_says_nothing():
    code = "from wbvla_core.console import run; import sys; sys.exit(run('x', lambda: [print('line') for _ in range(100_000)] and 0))"
    done = subprocess.run(["bash", "-c", f'{sys.executable} -c "{code}" | head -1; echo ${{PIPESTATUS[0]}}'], env=PLAIN, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("line\n141\n", "")


@pytest.mark.parametrize(("start", "name"), [("module", "python -m wbvla_train.lmo.figures"), ("path", "python benchmarks/lmo_tick.py")])
def test_a_program_says_how_it_was_started(start, name):
    what = name.split()[-1]
    code = f"import runpy, sys, wbvla_core.console as c; sys.argv = [{what!r}]; c.program = lambda main: sys.exit(print(c.called()))\n"
    code += f"runpy.run_{start}({what!r}, run_name='__main__'{', alter_sys=True' if start == 'module' else ''})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=PLAIN, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == [name], done.stderr


IMPORTS = """
import sys
import time
from wbvla_core.console import run
def main():
    import endless
sys.exit(run("wbvla x", main))
"""
SWALLOWS = """
print("importing", flush=True)
import time
while True:
    try:
        time.sleep(0.01)
    except BaseException as error:  # as lazy importers do
        raise ModuleNotFoundError("could not import it") from error
"""


def test_ctrl_c_during_an_import_ends_the_program_whatever_that_module_makes_of_it(tmp_path):
    (tmp_path / "endless.py").write_text(SWALLOWS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    with subprocess.Popen([sys.executable, "-c", IMPORTS], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        try:
            assert running.stdout.readline() == "importing\n"
            running.send_signal(signal.SIGINT)
            text = running.communicate(timeout=60)[0]
        finally:
            running.kill()
    assert (running.returncode, text) == (130, "wbvla x: interrupted\n")


ELSEWHERE = """
import os, signal, time
from wbvla_core import console

# A shell that starts the tests in the background lets its children ignore Ctrl-C: begin as in the foreground.
signal.signal(signal.SIGINT, signal.default_int_handler)

def main():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
    finally:
        print("cleaned")

print(console.run("wbvla x", main), signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def test_ctrl_c_elsewhere_is_an_ordinary_interrupt_and_the_handler_is_given_back():
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("cleaned\n130 True\n", "wbvla x: interrupted\n")


def test_our_own_warnings_are_one_line_without_source_and_those_of_others_stay():
    code = (
        "import warnings; from wbvla_core import console; from wbvla_core.errors import WbvlaWarning\n"
        "def main():\n    warnings.warn('it does not say', WbvlaWarning)\n    warnings.warn('old', UserWarning)\n"
        "console.run('wbvla x', main)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.splitlines()
    assert said[0] == "wbvla x: note: it does not say"
    assert said[1].endswith("UserWarning: old")

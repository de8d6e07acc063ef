"""Who started a process and may not be outlived by it, and signals that arrive at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from wbvla_core.ros.process import PARENT_VARIABLE, Starter, Stopped, StopSignal, waits_for_its_child


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("command", "waits"),
    [
        ("/usr/bin/python3 /opt/ros/jazzy/bin/ros2 run wbvla lmo_node", True),
        ("/opt/ros/humble/bin/ros2 launch wbvla sim.launch.py seed:=3", True),
        ("python3 -X dev ros2 run wbvla lmo_node", False),  # nobody starts it so; and a word further behind may be anything
        ("/usr/bin/python3 /opt/ros/jazzy/bin/ros2 topic echo /x", False),
        ("bash -c ros2 run wbvla lmo_node", True),  # the shell waits, too
        ("nohup lmo_node", False),
        ("-bash", False),
        ("/usr/lib/systemd/systemd --user", False),
        ("tmux new -s robot", False),
        ("gdb -ex run --args lmo_node", False),
        ("", False),
    ],
)
def test_only_ros2_run_and_launch_are_taken_for_the_operators_hand(command, waits):
    assert waits_for_its_child(command.split()) is waits


def test_a_named_starter_is_missed_when_it_ends_also_as_a_zombie_and_never_before(monkeypatch):
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    monkeypatch.setenv(PARENT_VARIABLE, str(parent.pid))
    starter = Starter()
    assert not starter.gone()
    parent.kill()
    deadline_s = time.monotonic() + 10
    while not starter.gone() and time.monotonic() < deadline_s:  # killed, and nobody has reaped it
        time.sleep(0.01)
    assert starter.gone()
    parent.wait()
    assert starter.gone() and Starter().gone(), "one that is gone from the beginning is gone"


def test_a_process_of_a_shell_has_nobody_to_miss(monkeypatch):
    monkeypatch.delenv(PARENT_VARIABLE, raising=False)
    assert not Starter().gone()  # whoever runs the tests


def test_a_signal_is_a_flag_and_where_launch_has_a_manager_sigint_is_his(monkeypatch):
    monkeypatch.delenv(PARENT_VARIABLE, raising=False)
    for managed, number, stops in ((False, signal.SIGINT, True), (True, signal.SIGINT, False), (True, signal.SIGTERM, True)):
        stop = StopSignal(managed=managed)
        assert not stop.is_set() and not stop.due(0.0)
        os.kill(os.getpid(), number)
        assert stop.is_set() is stops and stop.interrupted is (number == signal.SIGINT)
        assert stop.due(0.0) is stops and not stop.due(60.0)


@pytest.mark.parametrize("managed", [False, True])
def test_loading_is_abandoned_by_a_signal_wherever_it_is(monkeypatch, managed):
    monkeypatch.delenv(PARENT_VARIABLE, raising=False)
    stop = StopSignal(managed=managed)
    with stop.abandoning():
        pass  # nothing came: nothing happens
    with pytest.raises(Stopped), stop.abandoning():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)
        except Exception:  # loaders that try this and that catch what they like
            pytest.fail("no error of the loader")
    with pytest.raises(Stopped), stop.abandoning():
        pytest.fail("what is to end begins nothing new")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_swallows_in_a_finalizer_ends_the_loading_all_the_same(monkeypatch):
    monkeypatch.delenv(PARENT_VARIABLE, raising=False)
    stop = StopSignal()

    class Swallows:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped), stop.abandoning():
        Swallows()
        time.sleep(30)
        pytest.fail("it went on")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_during_the_imports_of_a_node_ends_it_without_a_word(tmp_path, number):
    (tmp_path / "endless.py").write_text("print('importing', flush=True)\nimport time\nwhile True: time.sleep(0.01)\n")
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), root))}
    command = [sys.executable, "-m", "wbvla_core.start", "endless"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        try:
            assert running.stdout.readline() == "importing\n"
            running.send_signal(number)
            assert running.communicate(timeout=60)[0] == ""
        finally:
            running.kill()
    assert running.returncode == 0

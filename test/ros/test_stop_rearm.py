"""`wbvla stop` and `wbvla rearm`: from another terminal, found or said where it was looked."""

from __future__ import annotations

import os

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run `make setup`")

from wbvla_cli import rearm, stacks, stop  # noqa: E402
from wbvla_cli.stacks import NoStackError, domains  # noqa: E402
from wbvla_core.errors import ErrorCode  # noqa: E402
from wbvla_core.ros.domains import mark  # noqa: E402

from .conftest import until  # noqa: E402
from .test_lmo_node import Bench  # noqa: E402

PATIENCE = ["--wait-s", "30"]


def test_stop_latches_the_robot_and_rearm_makes_it_stand_again(graph, hand, capsys):
    bench = Bench(graph, hand).activate()
    bench.slot()
    assert stop.main(PATIENCE) == 0
    text = capsys.readouterr().out
    assert f"domain {os.environ['ROS_DOMAIN_ID']}: damping, latched" in text and "wbvla rearm" in text
    assert bench.lmo.ladder.latched == "e-stop was called" and not np.any(bench.slot().stiffness)
    bench.slot(gravity=np.array((np.sin(0.5), 0.0, -np.cos(0.5))))
    assert rearm.main(PATIENCE) == 1
    assert "tilted" in capsys.readouterr().err
    bench.slot()
    assert rearm.main(PATIENCE) == 0
    assert "take control" in capsys.readouterr().out
    until(lambda: np.any(bench.slot().stiffness), 5.0, "the robot to stand")


@pytest.fixture(autouse=True)
def ordinary_priority(monkeypatch):
    """Of this process, which goes on with other tests."""
    monkeypatch.setattr(stacks, "go_realtime", lambda priority: "")


def test_where_no_stack_answers_it_is_said_where_it_was_looked(capsys):
    with pytest.raises(NoStackError, match=r"no stack answers: looked in ROS domain 199, .*--domain N") as none:
        stop.main(["--domain", "199", "--wait-s", "0.1"])
    assert "199" in str(none.value) and none.value.code == ErrorCode.NONE


def test_it_is_looked_where_this_checkout_runs_something_and_in_the_environments_domain(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "198")
    marks = mark(197)
    assert {197, 198} <= set(domains(None)) and domains(3) == [3]
    marks.close()
    assert 197 not in domains(None)

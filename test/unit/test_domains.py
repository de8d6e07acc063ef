"""ROS domains of this machine: two stacks never get the same one, whoever starts them and whenever."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from wbvla_core.ros import domains
from wbvla_core.ros.domains import DomainError, environment_domain, in_use, mark, reserve, running

ROOT = Path(__file__).resolve().parents[2]
RESERVE = """
import sys
from wbvla_core.ros.domains import reserve
sys.stdin.readline()
marks = reserve([int(word) for word in sys.argv[1:]])
print(marks.domain, flush=True)
sys.stdin.readline()
"""


def quiet_domains(count: int) -> list[int]:
    """Domains that nobody uses just now, from the upper end of those whose ports no program is given by chance."""
    ports = domains.udp_ports()
    return [domain for domain in reversed(domains.FREE) if not in_use(domain, ports)][:count]


def test_processes_that_ask_at_the_same_moment_get_domains_of_their_own_and_give_them_back_when_they_die():
    wanted = quiet_domains(4)
    command = [sys.executable, "-c", RESERVE, *map(str, wanted)]
    askers = [subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        for asker in askers:
            asker.stdin.write("go\n")
            asker.stdin.flush()
        got = [int(asker.stdout.readline()) for asker in askers]
        assert sorted(got) == sorted(wanted)
        assert set(got) <= set(running()), "they are stacks of this checkout"
        with pytest.raises(DomainError, match=f"{min(wanted)} to {max(wanted)} is in use"):
            reserve(wanted)
        askers[got.index(wanted[2])].kill()
        askers[got.index(wanted[2])].wait()
        marks = reserve(wanted)
        assert marks.domain == wanted[2]
        marks.close()
        assert wanted[2] not in running()
    finally:
        for asker in askers:
            asker.kill()
            asker.wait()
            asker.stdin.close()
            asker.stdout.close()


def test_a_domain_that_somebody_uses_without_a_mark_is_left_alone():
    used, other_one = quiet_domains(2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 7400 + 250 * used + 11))  # the data port of a first participant
        assert in_use(used) and not in_use(other_one)
        marks = reserve([used, other_one])
        assert marks.domain == other_one
        marks.close()


def test_a_recorder_beside_a_stack_is_found_and_reserves_nothing():
    beside = mark(207, alone=False)
    assert running().count(207) == 1 and not beside.reserved
    stack = mark(207)
    assert stack.reserved
    assert not mark(207).reserved
    for marks in (stack, beside):
        marks.close()


def test_another_checkout_is_not_taken_for_this_one(monkeypatch, tmp_path):
    marks = mark(208)
    monkeypatch.setattr(domains, "share_dir", lambda: tmp_path)
    assert 208 not in running()
    with pytest.raises(DomainError):
        reserve([208])  # but its domain is taken all the same
    marks.close()


@pytest.mark.parametrize("domain", [-1, 233, 500])
def test_a_number_that_is_no_domain_is_refused(domain):
    with pytest.raises(DomainError, match=f"0 to 232, got {domain}"):
        mark(domain)


@pytest.mark.parametrize(("text", "domain"), [("", 0), ("7", 7)])
def test_the_environments_domain_is_what_ros_takes(monkeypatch, text, domain):
    monkeypatch.setenv("ROS_DOMAIN_ID", text)
    assert environment_domain() == domain


@pytest.mark.parametrize("text", ["seven", "-3", "300"])
def test_an_environment_that_ros_would_refuse_is_a_sentence(monkeypatch, text):
    monkeypatch.setenv("ROS_DOMAIN_ID", text)
    with pytest.raises(DomainError, match="0 to 232"):
        environment_domain()


def test_the_domains_that_are_given_away_have_ports_that_no_program_is_given_by_chance():
    assert 7400 + 250 * domains.FREE[-1] + 249 < 32768 + 250 and domains.FREE[0] > 0
    assert os.path.exists("/proc/net/unix")

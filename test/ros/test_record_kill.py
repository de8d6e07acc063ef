"""The recorder's process, killed at random times: nothing but the last second is lost, and the next one mends what it left."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run `make setup`")

from rosbags.highlevel import AnyReader  # noqa: E402

from wbvla_cli.record import read_messages, typestore  # noqa: E402
from wbvla_cli.runner import Stack  # noqa: E402
from wbvla_core.ros.tables import topic_table  # noqa: E402
from wbvla_teleop.recording.episodes import recover  # noqa: E402
from wbvla_teleop.recording.storage import bag_file, scan  # noqa: E402

from .conftest import until  # noqa: E402
from .fakes import ROBOT, Probe  # noqa: E402

JOINTS = "/wbvla/robot/joint_states"


def joint_arrivals(bag: Path) -> list[int]:
    """Times of arrival [ns] of the joint states that are on the disk."""
    return [at_ns for channel, at_ns, _ in scan(bag_file(bag)) if channel.topic == JOINTS]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_of_the_recorder_lose_at_most_a_second_each_and_the_next_one_mends_the_episode(graph, tmp_path):
    probe, stop = graph.add(Probe(graph.context)), threading.Event()
    probe.out("imu"), probe.out("joint_states")

    def states() -> None:
        from wbvla_core.ros import codec

        while not stop.is_set():
            probe.out("joint_states").publish(codec.joint_state_msg(ROBOT.joint_names, time.time(), ROBOT.default_q, ROBOT.default_q * 0))
            time.sleep(0.005)

    thread = threading.Thread(target=states, daemon=True)
    thread.start()
    rng, lost_s, holes = random.Random(11), [], []
    session = tmp_path / "s"
    for run in range(50):
        parameters = {"record": {"session": str(session), "min_free_mb": 0}}
        with Stack(("record",), parameters=parameters, domain_id=int(os.environ["ROS_DOMAIN_ID"]), say=lambda _: None) as stack:
            stack.wait_active()
            answer = stack.client.call("record_start")
            assert answer.success, answer.message
            folder = session / f"episode_{run:04d}"
            until(lambda folder=folder: joint_arrivals(folder), 20.0, "the recorder to find the publisher, among those that were killed before")
            time.sleep(rng.uniform(0.2, 2.0))
            killed_ns = time.time_ns()
            stack.processes["record"].signal(signal.SIGKILL)
            stack.processes["record"].wait(2.0)
        arrivals = joint_arrivals(folder)
        lost_s.append((killed_ns - arrivals[-1]) / 1e9)
        holes.append(max((b - a) / 1e9 for a, b in zip(arrivals, arrivals[1:], strict=False)))
        assert json.loads((folder / "episode.json").read_text())["state"] == "recording"
    stop.set()
    thread.join()
    print(f"lost at most {max(lost_s):.3f} s, median {sorted(lost_s)[25]:.3f} s; longest hole inside {max(holes):.3f} s")
    assert max(lost_s) < 1.0
    unclosed = session / "episode_0049"  # the last one: nobody has mended it yet
    before = [(topic, at_ns) for topic, at_ns, _ in read_messages(unclosed)]
    assert [name for name, _ in recover(session, topic_table())] == ["episode_0049"], "every other one was mended by the recorder that came after it"
    assert recover(session, topic_table()) == []
    for folder in sorted(session.glob("episode_*")):
        assert json.loads((folder / "episode.json").read_text())["state"] == "interrupted"
        with AnyReader([folder], default_typestore=typestore()) as reader:
            assert reader.message_count > 0
    assert sorted(before) == sorted((topic, at_ns) for topic, at_ns, _ in read_messages(unclosed)), "mending changes nothing"

"""The recorder at work, measured: a VGA camera at 30 Hz and 200 Hz states, nothing lost, at most a quarter of a core, flat memory.

    python benchmarks/recorder.py --seconds 60        # 600 for the long one: 17 GB of disk

This process publishes; the recorder is a process of its own, as always. What was sent is counted here, what was kept is counted in the bag; CPU and memory of
the recorder come from /proc. Exit status 1 where a limit is missed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import tyro
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState
from stack import Row, cpu_seconds, resident_mb

from wbvla_cli.record_node import MAX_QUEUED_BYTES
from wbvla_cli.runner import Stack
from wbvla_core.console import program
from wbvla_core.robot import load_robot
from wbvla_core.ros import codec
from wbvla_core.ros.qos import interface_class, qos, topic
from wbvla_teleop.recording.storage import bag_file, scan

WIDTH, HEIGHT, IMAGE_HZ, STATE_HZ = 640, 480, 30, 200
WARM_S = 2.0  # discovery, first chunks


@dataclass(frozen=True)
class Options:
    """Measure the recorder."""

    seconds: float = 60.0
    """length of the recording, s"""
    folder: Path | None = None
    """where the bag goes (29 MB/s) before it is deleted; default: a temporary folder"""


def main() -> int:
    options = tyro.cli(Options)
    folder = Path(tempfile.mkdtemp(prefix="wbvla-recorder-", dir=options.folder))
    robot = load_robot("x2")
    rng = np.random.default_rng(0)
    pictures = [codec.image_msg(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), 0.0, "head_camera") for _ in range(8)]
    zeros = np.zeros(robot.joint_count)
    joints = codec.joint_state_msg(robot.joint_names, 0.0, robot.default_q, zeros, zeros)
    imu = codec.imu_msg("pelvis", 0.0, np.array((1.0, 0.0, 0.0, 0.0)), np.zeros(3), np.zeros(3))
    sent = dict.fromkeys(("camera_image", "joint_states", "imu"), 0)
    try:
        with Stack(("record",), parameters={"record": {"output": str(folder / "bag")}}, domain_id=os.getpid() % 100 + 100, say=lambda _: None) as stack:
            stack.wait_active()
            node = stack.client.node
            out = {key: node.create_publisher(interface_class(topic(key).type), topic(key).name, qos(key)) for key in sent}
            time.sleep(WARM_S)
            pid = stack.processes["record"].popen.pid
            cpu_s, start_s, tick = cpu_seconds(pid), time.monotonic(), 0
            memory: list[float] = []

            def send(key: str, msg: Image | JointState | object) -> None:
                msg.header.stamp = codec.stamp_msg(time.time())
                out[key].publish(serialize_message(msg))
                sent[key] += 1

            while (now_s := time.monotonic()) < start_s + options.seconds:
                due_s = start_s + tick / STATE_HZ
                if now_s < due_s:
                    time.sleep(due_s - now_s)
                send("joint_states", joints)
                send("imu", imu)
                if tick * IMAGE_HZ // STATE_HZ != (tick - 1) * IMAGE_HZ // STATE_HZ:
                    picture = pictures[sent["camera_image"] % len(pictures)]
                    send("camera_image", picture)
                if tick % STATE_HZ == 0:
                    memory.append(resident_mb(pid))
                tick += 1
            wall_s = time.monotonic() - start_s
            time.sleep(1.0)
            cores = (cpu_seconds(pid) - cpu_s) / wall_s
        kept = dict.fromkeys(sent, 0)
        names = {topic(key).name: key for key in sent}
        for channel, _, _ in scan(bag_file(folder / "bag")):
            if channel.topic in names:
                kept[names[channel.topic]] += 1
        size_mb = bag_file(folder / "bag").stat().st_size / 1e6
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    settled = memory[min(5, len(memory) // 2) :]
    tenth = max(1, len(settled) // 10)
    first_mb, last_mb = median(settled[:tenth]), median(settled[-tenth:])
    rows = [
        *(Row(f"{key}: lost of {sent[key]}", sent[key] - kept[key], "", 0) for key in sent),
        Row("image rate sent", sent["camera_image"] / wall_s, "Hz", 0.99 * IMAGE_HZ, at_least=True),
        Row("CPU of the recorder", 100 * cores, "%", 25.0),
        Row("memory, median of the first tenth", first_mb, "MB"),
        Row("memory, growth to the last tenth", last_mb - first_mb, "MB", 20.0),
        Row("memory, highest second (the disk was slow)", max(settled), "MB", first_mb + (MAX_QUEUED_BYTES >> 20)),
        Row("written", size_mb / wall_s, "MB/s"),
    ]
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"recorder, {options.seconds:g} s of {WIDTH}x{HEIGHT} at {IMAGE_HZ} Hz and two topics at {STATE_HZ} Hz; {load}")
    print("\n".join(str(row) for row in rows))
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    program(main)

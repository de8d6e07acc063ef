"""The demo for real: processes over ROS 2, one goal, a bag, a verdict. The policy is the one that does nothing, which is enough to stand up."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run `make setup`")
pytest.importorskip("mujoco", reason="needs the simulator: run `make setup`")

from wbvla_cli.record import read_messages  # noqa: E402

from .conftest import ROOT, children  # noqa: E402


def demo(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "wbvla_cli", "demo", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def stand_up(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    return demo("stand up", "--policy", "zero", "--no-video", "--timeout-s", "20", "--out", str(out)), out


def test_the_demo_succeeds_by_the_recorded_truth_and_says_where_its_files_are(stand_up):
    done, out = stand_up
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS: stance height 0.6" in done.stdout and str(out / "report.html") in done.stdout
    summary = json.loads((out / "summary.json").read_text())
    assert summary["success"] and summary["ended"]["outcome"] == "still"
    assert {"episode.mcap", "report.html", "summary.json"} <= set(summary["files"])
    assert {row["name"] for row in summary["timing"]} >= {"image to command, p99", "LMO compute, p99", "real-time factor, mean", "camera frames lost"}


def test_the_bag_of_the_demo_holds_every_topic_that_was_alive(stand_up):
    _, out = stand_up
    topics = {topic for topic, _, _ in read_messages(out / "episode.mcap")}
    assert topics >= {
        *("/wbvla/sim/state", "/wbvla/robot/joint_states", "/wbvla/robot/imu", "/wbvla/robot/driver_state", "/wbvla/camera/image_raw"),
        *("/wbvla/perception/image", "/wbvla/vla/loco_command", "/wbvla/vla/arm_targets", "/wbvla/lmo/joint_command", "/wbvla/lmo/safety_state"),
    }


def test_a_demo_whose_vla_is_killed_leaves_at_once_with_a_report_of_what_there_is(tmp_path):
    out, seen = tmp_path / "out", []
    (tmp_path / "turn.yaml").write_text("[{t_s: 0.0, yaw: 1}, {t_s: 600.0, yaw: 0}]")
    policy = f"replay:{tmp_path / 'turn.yaml'}"
    command = [sys.executable, "-m", "wbvla_cli", "demo", "stand up", "--policy", policy, "--no-video", "--timeout-s", "590", "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            for line in process.stdout:
                seen.append(line)
                if "acting: turn left" in line:  # it has begun, and would go on for ten minutes
                    vla = next(pid for pid in children(process.pid) if "wbvla_vla.node" in Path(f"/proc/{pid}/cmdline").read_text().split("\0"))
                    os.kill(vla, signal.SIGKILL)
                    break
            seen += process.stdout.readlines()
            assert process.wait(60) == 1
        finally:
            process.kill()
    text = "".join(seen)
    assert "FAILED (error): The process vla ended" in text and "killed by SIGKILL" in text and "Traceback" not in text, text
    page, summary = (out / "report.html").read_text(), json.loads((out / "summary.json").read_text())
    assert "killed by SIGKILL" in page and "Path from above" in page, "what was recorded is drawn"
    assert summary["failure"] == "error" and 0.0 < summary["ended"]["elapsed_s"] < 100.0
    assert summary["measures"]["max_tilt_deg"] < 45.0, "the robot has not fallen"


def test_the_results_can_be_made_again_from_the_folder(stand_up):
    _, out = stand_up
    before = json.loads((out / "summary.json").read_text())
    (out / "summary.json").unlink()
    (out / "report.html").unlink()
    done = demo("--redo", str(out), "--no-video")
    assert done.returncode == 0, done.stdout + done.stderr
    after = json.loads((out / "summary.json").read_text())
    assert after["measures"] == before["measures"] and (out / "report.html").is_file()

"""The stack as it runs: every node its own process, the simulator in real time, one recorder. Killed, misused and taken down."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2: run `make setup`")
pytest.importorskip("mujoco", reason="needs the simulator: run `make setup`")

from wbvla_cli.record import read_arrays, read_messages  # noqa: E402
from wbvla_cli.runner import ProcessLost, Stack  # noqa: E402
from wbvla_core.errors import ErrorCode  # noqa: E402
from wbvla_core.robot import load_robot  # noqa: E402
from wbvla_core.ros import codec  # noqa: E402
from wbvla_core.ros.tables import share_dir, topic_table  # noqa: E402
from wbvla_core.task import TaskOutcome  # noqa: E402
from wbvla_core.types import LocoCommand  # noqa: E402
from wbvla_lmo.controller import LmoController  # noqa: E402
from wbvla_lmo.policy import LmoPolicy  # noqa: E402
from wbvla_msgs.msg import SafetyState  # noqa: E402
from wbvla_msgs.srv import TakeControl  # noqa: E402

from .conftest import LEGS, ROOT, RUNNER_DOMAIN, STACK_DOMAIN, children, slowdown, until  # noqa: E402

WALK_FOREVER = [{"t_s": 0.0, "forward": 0}, {"t_s": 0.5, "forward": 1}, {"t_s": 600.0, "forward": 0}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("stack")


def parameters(folder: Path) -> dict[str, dict[str, object]]:
    """The whole stack in an empty room, with a VLA that wants to walk ahead for ever."""
    replay = folder / "walk.yaml"
    replay.write_text(yaml.safe_dump(WALK_FOREVER))
    return {"sim": {"scene": "empty"}, "lmo": {"checkpoint": LEGS}, "vla": {"policy": "replay", "replay": str(replay)}}


def stamp_s(msg) -> float:
    return codec.stamp_s(msg.header.stamp)


class Watch:
    """What an onlooker hears, with the monotonic time at which it came."""

    def __init__(self, stack: Stack) -> None:
        self.samples: dict[str, list] = {}
        self.at_s: dict[str, float] = {}
        for key in ("sim_state", "safety_state", "driver_state", "joint_command"):
            self.samples[key] = []
            stack.client.listen(key, lambda msg, key=key: self._take(key, msg))

    def _take(self, key: str, msg) -> None:
        self.samples[key].append((time.monotonic(), msg))

    def last(self, key: str):
        return self.samples[key][-1][1] if self.samples[key] else None

    @property
    def pelvis(self) -> np.ndarray:
        return np.array(self.last("sim_state").qpos[:3])

    @property
    def robot_s(self) -> float:
        """The robot's clock: it halts where a busy machine holds up the simulator."""
        return stamp_s(self.last("sim_state"))

    @property
    def speed(self) -> float:
        return float(np.linalg.norm(self.last("sim_state").qvel[:2]))

    def assert_standing(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            assert self.pelvis[2] > 0.5, f"the pelvis is at {self.pelvis[2]:.2f} m"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def stack(folder):
    with Stack(("sim",), parameters=parameters(folder), record=folder / "bag", log_dir=folder / "logs", domain_id=STACK_DOMAIN) as made:
        made.wait_active()
        yield made


@pytest.fixture(scope="module")
def watch(stack) -> Watch:
    made = Watch(stack)
    until(lambda: all(made.samples.values()), 15.0, "the first message of every watched topic")
    return made


# The tests of this module run in this order on one stack: bringing it up costs more than all of them.
def test_the_robot_stands_on_its_own_legs_and_the_physics_keep_real_time(stack, watch):
    until(lambda: watch.last("driver_state").state == SafetyState.FOLLOW, 10.0, "LMO to take the motors")
    assert watch.last("safety_state").state == SafetyState.STAND
    start = watch.pelvis
    watch.assert_standing(3.0)
    assert np.linalg.norm(watch.pelvis[:2] - start[:2]) < 0.25
    until(lambda: watch.last("sim_state").real_time_factor > 0.9, 10.0, "a second in real time")  # a machine may stand still for a moment


def test_refusals_come_back_with_code_and_sentence(stack, watch):
    result = stack.send_goal("", 10.0)
    assert (result.outcome, result.code) == (TaskOutcome.REFUSED, ErrorCode.INSTRUCTION_EMPTY) and "blue box" in result.message
    answer = stack.client.call("take_control", TakeControl.Request(source="nobody", take=True))
    assert (answer.success, answer.code) == (False, ErrorCode.CONTROL_UNKNOWN_SOURCE)
    watch.assert_standing(0.2)


def test_a_task_with_a_duration_moves_the_robot_and_leaves_it_standing(stack, watch):
    start = watch.pelvis
    result = stack.send_goal("walk ahead", 20.0, 3.5)
    assert result.outcome is TaskOutcome.DURATION, result
    assert np.linalg.norm(watch.pelvis[:2] - start[:2]) > 0.15
    until(lambda: watch.last("safety_state").state == SafetyState.STAND, 1.0)
    until(lambda: watch.speed < 0.15, 2.0, "the robot to stand still")
    watch.assert_standing(1.0)


@pytest.mark.parametrize(
    ("held", "seconds"), [(("sim",), 0.3), (("sim", "lmo", "render", "perception", "vla"), 1.5)], ids=["the simulator", "the whole machine"]
)
def test_what_holds_up_the_simulator_holds_up_its_robot_with_it(stack, watch, held, seconds):
    watch.assert_standing(0.2)
    for name in held:
        stack.processes[name].signal(signal.SIGSTOP)
    frozen = len(watch.samples["sim_state"])
    time.sleep(seconds)
    for name in held:
        stack.processes[name].signal(signal.SIGCONT)
    until(lambda: len(watch.samples["sim_state"]) > frozen + 50, 5.0, "a second of simulated time")
    assert watch.last("safety_state").state == SafetyState.STAND, watch.last("safety_state").reason
    watch.assert_standing(0.2)


def test_the_vla_killed_in_mid_walk_leaves_a_standing_robot(stack, watch):
    ends: list[BaseException] = []
    goal = threading.Thread(target=lambda: _note(lambda: stack.send_goal("walk ahead", 600.0), ends), daemon=True)
    goal.start()
    until(lambda: watch.last("safety_state").state == SafetyState.FOLLOW, 5.0, "LMO to follow")
    until(lambda: watch.speed > 0.12, 6.0, "the robot to walk")
    stack.processes["vla"].signal(signal.SIGKILL)
    killed_s = watch.robot_s
    until(lambda: watch.last("safety_state").state == SafetyState.STAND, 5.0, "STAND")
    stood_s = next(at_s for at_s, m in ((stamp_s(m), m) for _, m in watch.samples["safety_state"]) if at_s > killed_s and m.state == SafetyState.STAND)
    assert stood_s - killed_s < 0.3, "flags are zero within 0.3 s"
    until(lambda: watch.speed < 0.12, 10.0, "the robot to stand still")
    assert watch.robot_s - killed_s < 1.8, "it stands 1.5 s later"
    watch.assert_standing(2.0)
    assert stack.dead() == ["vla"]
    # who waits for the goal hears of it by the process, long before ROS misses the server (20 s) and the goal is over (600 s)
    goal.join(20.0)
    assert isinstance(ends[0], ProcessLost) and ends[0].names == ("vla",)


def _note(function, ends: list[BaseException]) -> None:
    try:
        function()
    except Exception as error:
        ends.append(error)


def test_lmo_killed_makes_the_driver_damp_within_a_tenth_of_a_second_of_the_robots_time_and_say_so(stack, watch):
    states: Counter[int] = Counter()
    stack.client.listen("joint_states", lambda msg: states.update((codec.stamp_ns(msg.header.stamp),)))
    until(lambda: len(states) > 20, 5.0, "joint states")
    stack.processes["lmo"].signal(signal.SIGKILL)
    until(lambda: watch.last("driver_state").state == SafetyState.DAMPING, 10.0, "the driver to damp")
    # Time stands still for 25 waits of 0.02 s, however the machine stretches them: the state that nobody answered is sent as often.
    waiting_ns, sent = max(dict(states).items(), key=lambda item: item[1])
    assert 3 <= sent <= 25  # best effort: a busy listener loses some
    # Then it runs without LMO, and the driver's 0.1 s since the last command, a slot of 0.02 s earlier, are over within five slots.
    assert codec.stamp_s(watch.last("driver_state").header.stamp) - waiting_ns / 1e9 < 0.2
    assert watch.last("driver_state").code == ErrorCode.DRIVER_COMMAND_SILENT
    until(lambda: "damping: no JointCommand for 0.1 s" in (stack._folder / "sim.log").read_text(), 2.0, "the log line")


def test_everything_is_gone_within_three_seconds_and_the_bag_is_readable(stack, folder):
    pids = [process.popen.pid for process in stack.processes.values()]
    start_s, busy = time.monotonic(), slowdown()
    stack.stop()
    assert time.monotonic() - start_s < 3.0 * busy
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    for log in (folder / "logs").glob("*.log"):
        assert "Traceback" not in log.read_text(), log
    arrays = read_arrays(folder / "bag")
    recorded = {"/wbvla/robot/joint_states", "/wbvla/robot/imu", "/wbvla/sim/state", "/wbvla/lmo/joint_command", "/wbvla/lmo/safety_state"}
    recorded |= {"/wbvla/camera/image_raw", "/wbvla/perception/image", "/wbvla/vla/loco_command", "/wbvla/vla/arm_targets", "/wbvla/robot/driver_state"}
    assert recorded <= set(arrays)
    steps_ms = np.round(np.diff(arrays["/wbvla/robot/joint_states"]["stamp_ns"]) / 1e6)
    assert np.mean(steps_ms == 5.0) > 0.8  # 200 Hz in simulated time, but on the gantry and where a slot waited
    # the answer to a state is in the bag under the state's stamp
    assert np.isin(arrays["/wbvla/lmo/joint_command"]["stamp_ns"], arrays["/wbvla/robot/joint_states"]["stamp_ns"]).mean() > 0.98


def test_the_recorded_commands_are_bit_for_bit_what_the_controller_gives_in_lock_step(folder):
    """The node's observation is training's and evaluation's: the same class, fed from the bag, gives the same motor commands."""
    robot = load_robot("x2")
    controller = LmoController(robot, LmoPolicy.load(share_dir() / LEGS, robot))

    def play(states: list) -> np.ndarray:
        controller.reset(states[0])
        return [controller.tick(state, stand, state.stamp_s).q for state in states][-1]

    joints, imus, commands, followed = {}, {}, {}, None
    names = {topic_table().topics[key].name: key for key in ("joint_states", "imu", "joint_command", "safety_state")}
    for name, _, message in read_messages(folder / "bag", list(names)):
        key, stamp = names[name], codec.stamp_ns(message.header.stamp)
        if key == "safety_state" and message.state == SafetyState.FOLLOW:
            followed = followed or stamp
        elif key == "joint_states":
            joints.setdefault(stamp, codec.joint_state_from_msg(message, robot.joint_names))
        elif key == "imu":
            imus.setdefault(stamp, codec.imu_from_msg(message))
        elif key == "joint_command":
            commands.setdefault(stamp, np.array(message.position))
    stand, played, before_ns, lost = LocoCommand(stance_height_m=robot.default_stance_height_m), [], None, ""
    for stamp, target in commands.items():
        if followed is not None and stamp >= followed:
            break  # from here on decisions go in, too
        if stamp not in joints:
            lost = f"the state of {stamp} ns"
            break
        # On a busy machine the newest IMU sample that LMO had may not be the one of this stamp. It takes one of the last 20 ms.
        near = sorted((abs(at - stamp), at) for at in imus if abs(at - stamp) <= 20_000_000)
        states = [codec.robot_state(joints[stamp], imus[at]) for _, at in near]
        if played and states and np.array_equal(controller.tick(states[0], stand, states[0].stamp_s).q, target):
            fitting = states[0]
        else:  # the controller has a memory: play everything again with each of them
            fitting = next((state for state in states if np.array_equal(play([*played, state]), target)), None)
            if fitting is not None:
                play([*played, fitting])
        if fitting is None and before_ns is not None and stamp - before_ns > 25_000_000:
            lost = f"the commands between {before_ns} and {stamp} ns"
            break
        assert fitting is not None, f"tick {len(played)}: no sample of the IMU near {stamp} ns gives this command"
        played.append(fitting)
        before_ns = stamp
    if lost and len(played) <= 50:
        pytest.skip(f"the recorder of this busy machine lost {lost} after {len(played)} ticks, all of them equal")
    assert len(played) > 50


@contextlib.contextmanager
def runner(*arguments: str):
    """``wbvla run`` as a process of its own, with its output in a pipe."""
    command = [sys.executable, "-m", "wbvla_cli", "run", *arguments, "--domain", str(RUNNER_DOMAIN)]
    made = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        yield made
    finally:
        if made.poll() is None:  # the test failed: its nodes notice that the runner is gone
            made.kill()
        made.stdout.close()


def test_a_runner_hit_twice_by_ctrl_c_leaves_nothing_behind(folder):
    bag = folder / "twice"
    overrides = [f"{node}.{name}={value}" for node, values in parameters(folder).items() for name, value in values.items()]
    with runner("sim", "--record", str(bag), "--set", *overrides) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "all nodes are active" in line:
                break
        assert process.poll() is None, "".join(lines)
        nodes = children(process.pid)
        assert len(nodes) == 6
        start_s, busy = time.monotonic(), slowdown()
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
        lines += process.stdout.readlines()
        process.wait(10)
        assert time.monotonic() - start_s < 3.0 * busy
    assert process.returncode == 0
    text = "".join(lines)
    assert "Traceback" not in text and "KeyboardInterrupt" not in text and "killed" not in text and "ERROR" not in text, text
    assert not [pid for pid in nodes if _alive(pid)]
    assert "/wbvla/sim/state" in read_arrays(bag)


def test_a_node_that_refuses_is_named_with_its_reason_and_the_rest_is_taken_down():
    with runner("sim", "--set", f"lmo.checkpoint={LEGS}", "vla.policy=nonsense") as process:
        text, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "vla refused to configure" in text and "'nonsense'" in text and "Traceback" not in text, text


def test_nodes_do_not_outlive_a_runner_that_was_killed():
    with runner("workstation") as process:
        until(lambda: len(children(process.pid)) == 2, 30.0, "the nodes to start")
        nodes = children(process.pid)
        process.kill()
        process.wait()
        until(lambda: not [pid for pid in nodes if _alive(pid)], 20.0, "the nodes to notice")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False

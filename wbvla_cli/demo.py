"""``wbvla demo``: the X2 carries out a sentence in simulation, over real ROS 2, and leaves a video, a bag, a report and a summary.

Starts the same processes as ``wbvla run sim``, records every topic, sends one goal, waits for its end and takes everything down. What follows is offline
and trusts only the bag: success is judged from the recorded truth, the video is drawn from the recorded states.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from wbvla_core.checkpoint import load_manifest, write_json
from wbvla_core.console import program
from wbvla_core.errors import ErrorCode, InstructionError, WbvlaError
from wbvla_core.robot import RobotSpec, load_robot
from wbvla_core.ros.tables import share_dir
from wbvla_core.task import check_goal
from wbvla_eval.produce import BAG, REPORT, SUMMARY, VIDEO, EpisodeFacts, produce
from wbvla_eval.protocol import DURATION_S
from wbvla_eval.provenance import find_checkpoint
from wbvla_sim.instructions import Task, parse_instruction
from wbvla_sim.scene import random_scene

SETTLE_S = 1.0  # between "all active" and the goal: the gantry lets go, the robot finds its stand
AFTER_S = 1.5  # recorded after the end: whether it still stands
EPISODE = "episode.json"  # what the bag does not say, so that video and report can be made again without ROS
STEPS = 4


@dataclass(frozen=True)
class DemoOptions:
    """The X2 carries out a sentence in simulation; writes video.mp4, episode.mcap, report.html and summary.json. Exit status 0 only if it succeeded."""

    instruction: Annotated[str, tyro.conf.Positional] = "walk to the blue box"
    """what the robot is asked to do"""
    seed: int = 7
    """of the scene"""
    out: Path | None = None
    """folder of the results; default runs/<instruction>-<seed>-<time>"""
    policy: str = "checkpoints/policy/tiny"
    """policy checkpoint; or "zero" (stands still), or "replay:FILE" (a recorded command stream)"""
    lmo: str = "checkpoints/lmo/x2"
    """LMO checkpoint"""
    robot: str = "x2"
    """name of the robot spec"""
    timeout_s: float = 60.0
    """time limit of the task, s"""
    domain: int | None = None
    """ROS domain id; default: one of its own, so that other stacks on this machine do not meet this one"""
    video: bool = True
    """draw the video"""
    verbose: bool = False
    """show every line that the nodes log; else only warnings (all of them are in OUT/logs)"""
    redo: Path | None = None
    """judge, draw and report again from this folder's bag; starts nothing"""


class Display:
    """Numbered steps; a line that changes in place on a terminal, and once a second where output goes to a file."""

    def __init__(self) -> None:
        self._tty = sys.stdout.isatty()
        self._said_s = 0.0
        self._open = False

    def step(self, number: int, text: str) -> None:
        self.close()
        print(f"[{number}/{STEPS}] {text}", flush=True)

    def line(self, text: str) -> None:
        """A line of its own."""
        self.close()
        print(f"      {text}", flush=True)

    def update(self, text: str, *, force: bool = False) -> None:
        """Replace the changing line."""
        now_s = time.monotonic()
        if not force and now_s - self._said_s < (0.1 if self._tty else 1.0):
            return
        self._said_s = now_s
        if self._tty:
            print(f"\r\033[K      {text}", end="", flush=True)
            self._open = True
        else:
            print(f"      {text}", flush=True)

    def close(self) -> None:
        if self._open:
            print(flush=True)
            self._open = False


def require_ros() -> None:
    """Raise a WbvlaError that says what to install where ROS 2 or our messages do not import."""
    try:
        from wbvla_core.ros.qos import action, interface_class

        interface_class(action("execute_task").type)
    except RuntimeError as error:  # ROS 2 is there, our messages are not; the text says how to build them
        raise WbvlaError(str(error), ErrorCode.TASK_FAULT) from error
    except ImportError as error:
        raise WbvlaError(
            f"the demo runs over ROS 2, but {error}. Run `make setup` and then `make demo` (it brings ROS 2 into .venv), "
            "or source ROS 2 and the workspace that holds wbvla_msgs. `wbvla eval walk-to` needs no ROS.",
            ErrorCode.TASK_FAULT,
        ) from error


def vla_parameters(policy: str) -> tuple[dict[str, Any], Path | None]:
    """(parameters of the VLA node, checkpoint directory or None) for --policy."""
    if policy == "zero":
        return {"policy": "zero"}, None
    if policy.startswith("replay:"):
        return {"policy": "replay", "replay": str(Path(policy.removeprefix("replay:")).absolute())}, None
    directory = find_checkpoint(policy).absolute()
    return {"policy": "checkpoint", "checkpoint": str(directory)}, directory


def understand(instruction: str, seed: int, robot: RobotSpec, timeout_s: float) -> Task:
    """What the sentence means in this scene.

    Raises:
        InstructionError: not a sentence of this stage, or about a box that the scene lacks.
    """
    duration_s = 0.0
    task = parse_instruction(check_goal(instruction, timeout_s, duration_s))
    scene = random_scene(seed, kind="walk_to", robot=robot)
    colors = [str(box.color) for box in scene.boxes]
    if task.kind == "walk_to" and task.color not in colors:
        raise InstructionError(
            f"the scene of seed {seed} has no {task.color} box, it has {', '.join(colors)}; ask for one of these or choose another --seed",
            ErrorCode.TASK_FAULT,
        )
    return task


def default_directory(instruction: str, seed: int) -> Path:
    slug = re.sub(r"[^a-z0-9]+", "-", instruction.lower()).strip("-")[:40]
    return Path("runs") / f"{slug}-{seed}-{time.strftime('%Y%m%d-%H%M%S')}"


def run_stack(options: DemoOptions, directory: Path, task: Task, display: Display) -> EpisodeFacts:
    """Start everything, carry out the goal, stop everything; the bag is in ``directory`` afterwards.

    Raises:
        WbvlaError: a node refused or died, the goal was refused, or Ctrl-C.
    """
    from wbvla_cli.runner import Stack, StackError

    vla, policy = vla_parameters(options.policy)
    lmo = find_checkpoint(options.lmo).absolute()
    parameters = {
        "sim": {"seed": options.seed, "scene": "walk_to", "robot": options.robot},
        "render": {"robot": options.robot},
        "perception": {"robot": options.robot} | ({"size": _image_size(policy)} if policy else {}),
        "lmo": {"checkpoint": str(lmo), "robot": options.robot},
        "vla": {**vla, "robot": options.robot},
    }

    leaving = False

    def say(line: str) -> None:
        if leaving and not options.verbose:
            return  # the driver notices that LMO has left: as it should be, and no news
        if options.verbose or re.search(r"\b(WARN|ERROR|FATAL)\b|Traceback|ended by itself|killed", line):
            display.line(line)

    def on_feedback(feedback: Any) -> None:
        command = feedback.last_command
        moves = ((command.forward, "forward", "back"), (command.lateral, "left", "right"), (command.yaw, "turn left", "turn right"))
        words = [plus if value > 0 else minus for value, plus, minus in moves if value]
        display.update(f"{feedback.elapsed_s:5.1f} s  {feedback.phase}: {' + '.join(words) or 'stand'}, stance {command.stance_height_m:.2f} m")

    bag = directory / "bag"
    domain = options.domain if options.domain is not None else 20 + os.getpid() % 80
    began_s = time.monotonic()
    with interrupts() as stopped:
        try:
            with Stack(("sim",), parameters=parameters, record=bag, log_dir=directory / "logs", domain_id=domain, say=say, cancelled=stopped) as stack:
                display.step(2, f"starting {', '.join(row.name for row in stack.rows)} over ROS 2, domain {domain}")
                stack.wait_active()
                display.line(f"all active after {time.monotonic() - began_s:.1f} s")
                _sleep(SETTLE_S, stopped)
                display.step(3, f'acting: "{options.instruction}"')
                goal_ns = time.time_ns()
                result = stack.send_goal(options.instruction, options.timeout_s, DURATION_S.get(task.kind, 0.0), on_feedback=on_feedback)
                display.line(f"the robot says: {result.outcome.name.lower()} after {result.elapsed_s:.1f} s ({result.message})")
                if result.outcome.name == "REFUSED":
                    raise WbvlaError(f"the goal was refused: {result.message}", result.code)
                _sleep(AFTER_S, stopped)
                end_ns = time.time_ns()
                leaving = True
        except StackError as error:
            if not stopped():
                raise
            raise KeyboardInterrupt from error
        finally:
            _adopt_bag(bag, directory / BAG)
        if stopped():
            raise KeyboardInterrupt
    return EpisodeFacts(
        instruction=options.instruction,
        task=task,
        goal_ns=goal_ns,
        end_ns=end_ns,
        ended=result.outcome.name.lower(),
        message=result.message,
        elapsed_s=result.elapsed_s,
        seed=options.seed,
        robot=options.robot,
        duration_s=DURATION_S.get(task.kind),
        policy=policy,
        lmo=lmo,
        store=share_dir() / "checkpoints",
        commands=_commands(options),
    )


def _image_size(policy: Path) -> int:
    """Edge of the policy image, px: perception must make what the policy was trained on."""
    return int(load_manifest(policy, verify_files=False).inputs["image"]["shape"][0])


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM as a flag while the stack is up, so that it comes down in order; afterwards they end the program again."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    from wbvla_cli.runner import StopSignal

    try:
        yield StopSignal().is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _sleep(seconds: float, stopped: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s and not stopped():
        time.sleep(0.05)


def _adopt_bag(folder: Path, target: Path) -> None:
    """The one MCAP file of the recorder's folder, under the episode's name; nothing where the recorder never opened one."""
    files = sorted(folder.glob("*.mcap"))
    if len(files) == 1:
        files[0].replace(target)
        shutil.rmtree(folder)


def _commands(options: DemoOptions) -> tuple[str, ...]:
    defaults = DemoOptions()
    changed = [f"--{name} {getattr(options, name)}" for name in ("policy", "lmo", "robot") if getattr(options, name) != getattr(defaults, name)]
    again = " ".join((f'wbvla demo "{options.instruction}" --seed {options.seed}', *changed))
    trials = " ".join(("wbvla eval walk-to --trials 50", *changed))
    return (again, trials)


def save_facts(directory: Path, facts: EpisodeFacts) -> None:
    data = asdict(facts)
    data |= {name: None if data[name] is None else os.path.relpath(data[name]) for name in ("policy", "lmo", "store")}
    write_json(directory / EPISODE, data)


def load_facts(directory: Path) -> EpisodeFacts:
    """Inverse of :func:`save_facts`."""
    path = directory / EPISODE
    if not path.is_file():
        raise WbvlaError(f"{path} is not there: --redo wants the folder of an earlier demo")
    data = json.loads(path.read_text())
    data |= {name: None if data[name] is None else Path(data[name]) for name in ("policy", "lmo", "store")}
    return EpisodeFacts(**{**data, "task": Task(**data["task"]), "commands": tuple(data["commands"])})


def finish(directory: Path, facts: EpisodeFacts, robot: RobotSpec, display: Display, *, video: bool) -> int:
    """Judge, draw and report from the bag; returns the exit status."""
    from wbvla_cli.record import read_messages

    if not (directory / BAG).is_file():
        raise WbvlaError(f"{directory / BAG} is not there: the recorder left no bag; its log is {directory / 'logs' / 'record.log'}")
    display.step(4, "judging, drawing and reporting from the bag")
    began_s = time.monotonic()
    summary, verdict = produce(
        directory, read_messages(directory / BAG), robot, facts, video=video, progress=lambda part: display.update(f"video {100 * part:3.0f} %")
    )
    display.line(f"done in {time.monotonic() - began_s:.1f} s")
    slow = [f"{row['name']} {row['judged']:.3g} {row['unit']} (limit {row['limit']:g})" for row in summary["timing"] if not row["ok"]]
    print()
    print(f"  {'SUCCESS' if verdict.success else 'FAILED (' + verdict.failure.value.replace('_', ' ') + ')'}: {verdict.reason}")
    if slow:
        print(f"  over the time limits: {'; '.join(slow)}")
    print()
    for name in (VIDEO, BAG, REPORT, SUMMARY):
        if (directory / name).exists():
            print(f"  {directory / name}")
    print()
    return 0 if verdict.success else 1


def main(argv: Sequence[str] | None = None) -> int:
    """``wbvla demo``. Exit status 0: succeeded by the recorded truth; 1: did not; 2: refused, with the reason."""
    options = tyro.cli(DemoOptions, args=argv, prog="wbvla demo")
    display = Display()
    if options.redo is not None:
        facts = load_facts(options.redo)
        return finish(options.redo, facts, load_robot(facts.robot), display, video=options.video)
    robot = load_robot(options.robot)
    task = understand(options.instruction, options.seed, robot, options.timeout_s)
    directory = options.out or default_directory(options.instruction, options.seed)
    display.step(1, f'"{options.instruction}", seed {options.seed} -> {directory}')
    _, policy = vla_parameters(options.policy)
    for path, kind in ((policy, "policy"), (find_checkpoint(options.lmo), "lmo")):
        if path is not None:
            manifest = load_manifest(path, kind=kind, robot=robot)
            display.line(f"{manifest.label}, manifest {manifest.hash[:12]}")
    require_ros()
    if directory.exists() and any(directory.iterdir()):
        raise WbvlaError(f"{directory} is not empty; give another --out")
    directory.mkdir(parents=True, exist_ok=True)
    facts = run_stack(options, directory, task, display)
    save_facts(directory, facts)
    return finish(directory, facts, robot, display, video=options.video)


if __name__ == "__main__":
    program(main)

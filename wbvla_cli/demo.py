"""``wbvla demo``: the X2 carries out a sentence in simulation, over real ROS 2, and leaves a video, a bag, a report and a summary.

Starts the same processes as ``wbvla run sim``, records every topic, sends one goal, waits for its end and takes everything down. What follows is offline
and trusts only the bag: success is judged from the recorded truth, the video is drawn from the recorded states.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wbvla_cli.demo_command import DemoOptions
from wbvla_core.catalogue import TaskCatalogue
from wbvla_core.checkpoint import find_checkpoint, load_manifest, write_json
from wbvla_core.console import DISK_FULL, program
from wbvla_core.errors import ErrorCode, InstructionError, WbvlaError
from wbvla_core.robot import RobotSpec, load_robot
from wbvla_core.ros.domains import check_domain, mark, reserve
from wbvla_core.ros.tables import share_dir
from wbvla_core.task import TaskResult, check_goal
from wbvla_eval.produce import BAG, REPORT, SUMMARY, VIDEO, EpisodeFacts, produce, produce_without_bag
from wbvla_eval.protocol import DURATION_S
from wbvla_eval.tasks import Verdict
from wbvla_sim.instructions import Task, parse_instruction
from wbvla_sim.scene import random_scene

SEEN_S = 1.0  # recorded after the VLA or what it sees with was lost: that the robot stands
SETTLE_S = 1.0  # between "all active" and the goal: the gantry lets go, the robot finds its stand
AFTER_S = 1.5  # recorded after the end: whether it still stands
LOGS = "logs"
EPISODE = "episode.json"  # what the bag does not say, so that video and report can be made again without ROS
STEPS = 4
WIDTH = 120  # of the sentences at the end
# What it means that a process is lost, for somebody who has never seen one of them.
MEANING = {
    "sim": "It was the robot and its room: nothing moves any more.",
    "lmo": "It moved every joint and kept the balance. Without it the motor driver damps the joints after 0.1 s, and the robot sinks down.",
    "render": "It drew what the robot's camera sees. The robot stands where it is.",
    "perception": "It made the camera's images ready for the VLA. The robot stands where it is.",
    "vla": "It decided what the robot does. Nobody commands any more, and the leg policy keeps the robot standing where it is.",
    "record": "It wrote the recording: what the robot did afterwards is not in it.",
}


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


def understand(instruction: str, seed: int, robot: RobotSpec, timeout_s: float, policy: Path | None = None) -> Task:
    """What the sentence means in this scene.

    Args:
        policy: the bundle whose list of tasks the sentence must be in; None, or a bundle without a list: any sentence that the demo can judge.

    Raises:
        InstructionError: not a task of the policy, not one that the demo can judge, or about a box that the scene lacks.
    """
    duration_s = 0.0
    check_goal(instruction, timeout_s, duration_s)
    tasks = TaskCatalogue.of(load_manifest(policy, kind="policy", verify_files=False)) if policy else None
    if tasks is not None:
        tasks.meaning(instruction)
    task = parse_instruction(instruction)
    scene = random_scene(seed, kind="walk_to", robot=robot)
    colors = [str(box.color) for box in scene.boxes]
    if task.kind == "walk_to" and task.color not in colors:
        raise InstructionError(
            f"the scene of seed {seed} has no {task.color} box, it has {', '.join(colors)}; ask for one of these or choose another --seed",
            ErrorCode.TASK_FAULT,
        )
    return task


def make_directory(instruction: str, seed: int, now_s: float | None = None) -> Path:
    """A new folder runs/<instruction>-<seed>-<time>; with a number behind it where another demo of this second has that name."""
    slug = re.sub(r"[^a-z0-9]+", "-", instruction.lower()).strip("-")[:40]
    name = f"{slug}-{seed}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(now_s))}"
    for number in itertools.count(1):
        path = Path("runs") / (name if number == 1 else f"{name}-{number}")
        path.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError("unreachable")


def take_directory(path: Path) -> None:
    """Make the folder that --out names; one that is there and empty will do. Two demos cannot take the same one."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(parents=True)
    if not path.is_dir() or any(path.iterdir()):
        raise WbvlaError(f"{path} is {'not empty' if path.is_dir() else 'no folder'}; give another --out")
    try:
        (path / LOGS).mkdir()
    except FileExistsError as error:
        raise WbvlaError(f"{path} is not empty; give another --out") from error


class GoalRefused(WbvlaError):
    """The VLA node did not take the goal: nothing is at fault, and nothing happened."""


class Episode:
    """One run of the stack: what is asked of it, and what came of it until now.

    Attributes:
        goal_ns: wall time at which the goal was sent; of the start before.
        lost_ns: wall time at which something was found lost; end_ns: at which the recording of the end was over; 0 = not yet.
        acting: whether the goal was sent.
        result: how the task ended, None before.
    """

    def __init__(self, options: DemoOptions, directory: Path, task: Task) -> None:
        self.options, self.directory, self.task = options, directory, task
        self.goal_ns = time.time_ns()
        self.lost_ns = self.end_ns = 0
        self.acting = False
        self.result: TaskResult | None = None

    def facts(self, *, fault: str = "", log: Sequence[str] = ()) -> EpisodeFacts:
        """What the bag will not say, as of now."""
        o, result, now_ns = self.options, self.result, self.end_ns or time.time_ns()
        return EpisodeFacts(
            instruction=o.instruction,
            task=self.task,
            goal_ns=self.goal_ns,
            end_ns=now_ns,
            ended=result.outcome.name.lower() if result else "fault",
            message=result.message if result else fault,
            elapsed_s=result.elapsed_s if result else (now_ns - self.goal_ns) * 1e-9 * self.acting,
            seed=o.seed,
            robot=o.robot,
            duration_s=DURATION_S.get(self.task.kind),
            policy=vla_parameters(o.policy)[1],
            lmo=find_checkpoint(o.lmo).absolute(),
            store=share_dir() / "checkpoints",
            commands=_commands(o),
            fault=fault,
            log=tuple(log),
        )


def run_stack(options: DemoOptions, directory: Path, task: Task, display: Display) -> EpisodeFacts:
    """Start everything, carry out the goal, stop everything; the bag is in ``directory`` afterwards.

    A stack that does not come up, or loses a process, is told in the facts that come back, and ends at once.

    Raises:
        GoalRefused: the VLA node did not take the goal.
        KeyboardInterrupt: Ctrl-C.
    """
    from wbvla_cli.runner import Stack

    episode, bag = Episode(options, directory, task), directory / "bag"
    log = NodeLog(display, verbose=options.verbose)
    with interrupts() as stopped, _domain(options) as domain:
        told = {"log_dir": directory / LOGS, "domain_id": domain, "say": log, "cancelled": stopped}
        stack = Stack(("sim",), parameters=_parameters(options), record=bag, aside=(), **told)
        try:
            with stack:
                display.step(2, f"starting {', '.join(row.name for row in stack.rows)} over ROS 2, domain {domain}")
                try:
                    _act(stack, episode, display, stopped)
                except WbvlaError as error:
                    _see_the_end(episode, error, stopped)
                    raise
                finally:
                    episode.end_ns = time.time_ns()
                    log.leaving = True
            facts = episode.facts()
        except GoalRefused:
            raise
        except WbvlaError as error:
            if stopped():
                raise KeyboardInterrupt from error
            facts = _told(error, stack, episode)
        finally:
            _adopt_bag(bag, directory / BAG)
        if stopped():
            raise KeyboardInterrupt
    return facts


def _act(stack: Any, episode: Episode, display: Display, stopped: Callable[[], bool]) -> None:
    """Bring the stack up, send the goal and wait for its end."""
    began_s = time.monotonic()
    stack.wait_active()
    display.line(f"all active after {time.monotonic() - began_s:.1f} s")
    _sleep(SETTLE_S, stopped, stack.require)
    display.step(3, f'acting: "{episode.options.instruction}"')
    episode.goal_ns, episode.acting = time.time_ns(), True
    options = episode.options
    result = stack.send_goal(options.instruction, options.timeout_s, DURATION_S.get(episode.task.kind, 0.0), on_feedback=_feedback(display))
    episode.result = result
    display.line(f"the robot says after {result.elapsed_s:.1f} s: {result.message}")
    if result.outcome.name == "REFUSED":
        raise GoalRefused(f"the goal was refused: {result.message}", result.code)
    _sleep(AFTER_S, stopped, stack.require)


def _see_the_end(episode: Episode, error: WbvlaError, stopped: Callable[[], bool]) -> None:
    """Note when something was lost. Where the robot is still there and recorded, the bag shall show what it does."""
    episode.lost_ns = time.time_ns()
    lost = set(getattr(error, "names", ()))
    if episode.acting and lost and not lost & {"sim", "record"}:
        _sleep(SEEN_S, stopped)


def _told(error: WbvlaError, stack: Any, episode: Episode) -> EpisodeFacts:
    """The facts of an episode that the stack's own fault ended: what happened, in one paragraph, and the last log lines of who was at fault."""
    when = f"{(episode.lost_ns - episode.goal_ns) * 1e-9:.1f} s after the goal was sent" if episode.acting else "before the goal was sent"
    lost = getattr(error, "names", ())
    if not lost:
        return episode.facts(fault=f"The stack failed {when}: {error}")
    name, lines = lost[0], stack.last_lines(lost[0])
    how = stack.ended(name)
    killed = how.startswith("killed")
    said = "" if killed else next((line.partition("ERROR: ")[2] for line in reversed(lines) if "ERROR: " in line), "")
    if how:
        by = " (by somebody, or by the system where memory ran out)" if "SIGKILL" in how else ""
        what = f"The process {name} ended {when}: {how}{by}{f'; it had said: {said}' if said else ''}. {MEANING.get(name, '')}"
    else:
        what = f"The stack failed {when}: {error.args[0].partition(';')[0]}{f': {said}' if said else ''}."
    others = f" So did {', '.join(lost[1:])}." if lost[1:] else ""
    return episode.facts(fault=f"{what}{others} The log of {name} is {episode.directory / LOGS / name}.log.", log=lines)


class NodeLog:
    """Which of the nodes' log lines are shown: warnings and errors, or all. A node that leaves as it should is no news."""

    def __init__(self, display: Display, *, verbose: bool) -> None:
        self._display, self._verbose = display, verbose
        self.leaving = False

    def __call__(self, line: str) -> None:
        news = not self.leaving and re.search(r"\b(WARN|ERROR|FATAL)\b|Traceback|ended by itself|killed", line)
        if self._verbose or news:
            self._display.line(line)


def _feedback(display: Display) -> Callable[[Any], None]:
    """Shows what the robot is told to do."""

    def show(feedback: Any) -> None:
        command = feedback.last_command
        moves = ((command.forward, "forward", "back"), (command.lateral, "left", "right"), (command.yaw, "turn left", "turn right"))
        words = [plus if value > 0 else minus for value, plus, minus in moves if value]
        display.update(f"{feedback.elapsed_s:5.1f} s  {feedback.phase}: {' + '.join(words) or 'stand'}, stance {command.stance_height_m:.2f} m")

    return show


def _parameters(options: DemoOptions) -> dict[str, dict[str, Any]]:
    vla, policy = vla_parameters(options.policy)
    return {
        "sim": {"seed": options.seed, "scene": "walk_to", "robot": options.robot},
        "render": {"robot": options.robot},
        "perception": {"robot": options.robot} | ({"size": _image_size(policy)} if policy else {}),
        "lmo": {"checkpoint": str(find_checkpoint(options.lmo).absolute()), "robot": options.robot},
        "vla": {**vla, "robot": options.robot},
    }


@contextlib.contextmanager
def _domain(options: DemoOptions) -> Iterator[int]:
    """A ROS domain that nobody else on this machine uses, held until the stack is down."""
    marks = reserve() if options.domain is None else mark(options.domain)
    if not marks.reserved:
        marks.close()
        raise WbvlaError(f"another stack runs in ROS domain {options.domain}; leave --domain away, or give another one")
    try:
        yield marks.domain
    finally:
        marks.close()


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


def _sleep(seconds: float, stopped: Callable[[], bool], check: Callable[[], None] = lambda: None) -> None:
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s and not stopped():
        check()
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
    lists = {name: tuple(data.get(name, ())) for name in ("commands", "log")}
    return EpisodeFacts(**{**data, "task": Task(**data["task"]), **lists})


def finish(directory: Path, facts: EpisodeFacts, robot: RobotSpec, display: Display, *, video: bool) -> int:
    """Judge, draw and report from the bag; returns the exit status."""
    display.step(4, "reporting what there is" if facts.fault else "judging, drawing and reporting from the bag")
    began_s = time.monotonic()
    try:
        summary, verdict = _produced(directory, facts, robot, display, video=video)
    except OSError as error:  # the disk is full, for example: what happened is said all the same
        for name in (REPORT, SUMMARY):  # half a page would look like a whole one
            (directory / name).unlink(missing_ok=True)
        print(f"\n{_filled('FAILED (error): ' + (facts.fault or 'the report could not be written'))}\n", flush=True)
        raise WbvlaError(f"the report could not be written into {directory}: {error.strerror or error}") from error
    display.line(f"done in {time.monotonic() - began_s:.1f} s")
    print()
    word = "SUCCESS" if verdict.success else "FAILED (" + verdict.failure.value.replace("_", " ") + ")"
    print(_filled(f"{word}: {verdict.reason}"))
    remark = "" if facts.fault else over_limits(summary["timing"], success=verdict.success)
    if remark:
        print(_filled(remark))
    print()
    for name in (VIDEO, BAG, REPORT, SUMMARY):
        if (directory / name).exists():
            print(f"  {directory / name}")
    print()
    return 0 if verdict.success else 1


def _produced(directory: Path, facts: EpisodeFacts, robot: RobotSpec, display: Display, *, video: bool) -> tuple[dict[str, Any], Verdict]:
    """Everything that can be made of what was recorded. After a fault a bag that cannot be judged, or drawn, costs the picture and not the report."""
    from wbvla_cli.record import read_messages

    if not (directory / BAG).is_file():
        why = f"there is no bag; the recorder's log is {directory / LOGS / 'record.log'}"
        if not facts.fault:
            raise WbvlaError(f"{directory / BAG} is not there: {why}")
        return produce_without_bag(directory, robot, facts, why)

    def made(*, video: bool) -> tuple[dict[str, Any], Verdict]:
        progress = lambda part: display.update(f"video {100 * part:3.0f} %")  # noqa: E731
        return produce(directory, read_messages(directory / BAG), robot, facts, video=video, progress=progress)

    if not facts.fault:
        return made(video=video)
    for drawn in (True, False) if video else (False,):
        try:
            return made(video=drawn)
        except Exception as error:  # a bag that breaks off anywhere, or a renderer that is what failed
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            why = f"{type(error).__name__}: {error}" if not isinstance(error, WbvlaError) else str(error)
            display.line(f"{'no video' if drawn else 'no charts'}: {why}")
    return produce_without_bag(directory, robot, facts, why)


def _filled(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def over_limits(rows: Sequence[dict[str, Any]], *, success: bool) -> str:
    """What times over their limits mean for somebody who only wants to know whether it worked; "" where all were kept."""
    slow = [f"{row['name']} {row['judged']:.3g} {row['unit']} (limit {row['limit']:g})".replace("  ", " ") for row in rows if not row["ok"]]
    if not slow:
        return ""
    measured = f"Measured beside it: {'; '.join(slow)}."
    if success:
        return (
            f"{measured} This machine was too busy to keep its limits of time. The result stands: it is judged from what the robot did, "
            "and the simulated robot waits for its controller."
        )
    return f"{measured} This machine was too busy to keep its limits of time, and that can be the reason. On a quiet machine it may succeed."


def carry_out(options: DemoOptions) -> int:
    """The demo from the checks to the report; returns the exit status."""
    display = Display()
    if options.redo is not None:
        facts = load_facts(options.redo)
        return finish(options.redo, facts, load_robot(facts.robot), display, video=options.video)
    if options.domain is not None:
        check_domain(options.domain)  # before a folder is made
    robot = load_robot(options.robot)
    _, policy = vla_parameters(options.policy)
    task = understand(options.instruction, options.seed, robot, options.timeout_s, policy)
    display.step(1, f'"{options.instruction}", seed {options.seed}')
    for path, kind in ((policy, "policy"), (find_checkpoint(options.lmo), "lmo")):
        if path is not None:
            manifest = load_manifest(path, kind=kind, robot=robot)
            display.line(f"{manifest.label}, manifest {manifest.hash[:12]}")
    require_ros()
    if options.out is None:
        directory = make_directory(options.instruction, options.seed)
    else:
        take_directory(directory := options.out)
    display.line(f"-> {directory}")
    facts = run_stack(options, directory, task, display)
    try:
        save_facts(directory, facts)
    except OSError as error:
        display.line(f"{directory / EPISODE}: {error.strerror}; --redo will not work here")
    return finish(directory, facts, robot, display, video=options.video)


if __name__ == "__main__":
    from wbvla_cli.demo_command import main

    program(main)

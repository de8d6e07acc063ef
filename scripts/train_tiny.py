"""``make train-tiny``: the whole chain from nothing. Video, two LAMs, leg policy, demonstrations, labels, VLA, decoder, evaluation.

Everything is written below one folder (``runs/train-tiny``), nothing over the checkpoints that ship; at the end the metrics of both are
printed side by side. A stage starts when the stages that it needs are done and its cores are free. Ctrl-C or a kill loses little: every
stage resumes by itself, and a finished one is skipped (``stages.json``). Standard library only.

    python scripts/train_tiny.py --cores 2
    python scripts/train_tiny.py --debug          the same commands in sizes of seconds: does the chain hold together?
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from steps import last_line

ROOT = Path(__file__).resolve().parents[1]
HEARTBEAT_S = 60.0
POLL_S = 1.0
MODULE = ("-m", "wbvla_cli")
SHIPPED = ("lmo/x2", "lam/mani", "lam/loco", "vla/tiny", "policy/tiny")


@dataclass(frozen=True)
class Stage:
    """One command of the chain.

    Attributes:
        command: words after ``wbvla``.
        needs: names of the stages whose results it reads.
        cores: how many it keeps busy.
    """

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    cores: int = 1


def stages(out: Path, debug: bool) -> tuple[Stage, ...]:
    """The chain, longest stages first among equals."""
    checkpoints = out / "checkpoints"
    size = "debug" if debug else "tiny"
    lams = {name: checkpoints / "lam" / name for name in ("mani", "loco")}
    small_video = ("--train-rooms", "2", "--dev-rooms", "1", "--test-rooms", "1", "--x2-rooms", "1", "--clips-per-room", "2", "--workers", "1") if debug else ()
    # a leg policy of debug size falls at once, so the small demonstrations slide without legs
    small_demos = ("--episodes", "4", "--episodes-per-shard", "2", "--timeout-s", "4", "--world", "kinematic") if debug else ("--workers", "2")
    trials = ("--trials", "2", "--timeout-s", "2") if debug else ("--trials", "50")

    def lam(name: str) -> Stage:
        command = ("train", "lam", name, size, "--data", str(out / "video"), "--output", str(lams[name]), "--run-dir", str(out / f"lam-{name}"))
        return Stage(f"lam {name}", command, needs=("video",))

    vla = (
        *("train", "vla", size, "--run-dir", str(out / "vla"), "--output", str(checkpoints / "vla" / "tiny")),
        *("--grounding.data", str(out / "stills"), "--codes.demos", str(out / "demos")),
        *("--codes.lam-mani", str(lams["mani"]), "--codes.lam-loco", str(lams["loco"])),
    )
    decoder = (
        *("train", "decoder", size, "--run-dir", str(out / "decoder"), "--output", str(checkpoints / "policy" / "tiny")),
        *("--vla", str(checkpoints / "vla" / "tiny"), "--demos", str(out / "demos")),
        *("--lam-mani", str(lams["mani"]), "--lam-loco", str(lams["loco"])),
    )
    policy_and_legs = ("--policy", str(checkpoints / "policy" / "tiny"), "--lmo", str(checkpoints / "lmo" / "x2"))
    return (
        Stage("video", ("data", "video", "--output", str(out / "video"), *small_video), cores=2),
        Stage("lmo", ("train", "lmo", "--preset", size, "--out", str(out / "lmo"), "--export", str(checkpoints / "lmo" / "x2")), cores=2),
        lam("loco"),
        lam("mani"),
        Stage("demos", ("data", "demos", "--output", str(out / "demos"), "--lmo", str(checkpoints / "lmo" / "x2"), *small_demos), needs=("lmo",), cores=2),
        Stage("vla", vla, needs=("lam mani", "lam loco", "demos")),
        Stage("decoder", decoder, needs=("vla",)),
        Stage("walk-to", ("eval", "walk-to", *trials, "--processes", "2", *policy_and_legs, "--out", str(out / "walk-to")), needs=("decoder",), cores=2),
    )


@dataclass
class Runner:
    """Runs stages as processes, each with a log, and remembers which are done."""

    out: Path
    cores: int
    done: dict[str, dict[str, object]] = field(default_factory=dict)
    running: dict[str, tuple[Stage, subprocess.Popen, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        record = self.out / "stages.json"
        if record.is_file():
            self.done = json.loads(record.read_text())

    def log(self, stage: Stage) -> Path:
        return self.out / f"{stage.name.replace(' ', '-')}.log"

    def run(self, chain: tuple[Stage, ...]) -> int:
        waiting = [stage for stage in chain if self.done.get(stage.name, {}).get("command") != list(stage.command)]
        for stage in chain:
            if stage not in waiting:
                print(f"  {stage.name}: done before, {float(self.done[stage.name]['wall_s']) / 60:.0f} min", flush=True)
        last = time.monotonic()
        while waiting or self.running:
            # in order: a stage for two cores is not overtaken for ever by small ones
            for stage in list(waiting):
                free = self.cores - sum(min(other.cores, self.cores) for other, _, _ in self.running.values())
                ready = all(need in self.done and need not in {w.name for w in waiting} and need not in self.running for need in stage.needs)
                if ready and min(stage.cores, self.cores) <= free:
                    waiting.remove(stage)
                    self.start(stage)
            time.sleep(POLL_S)
            for name in list(self.running):
                if (status := self.running[name][1].poll()) is not None and not self.finish(name, status):
                    return 1
            if time.monotonic() - last >= HEARTBEAT_S:
                last = time.monotonic()
                for stage, _, start in self.running.values():
                    print(f"    {stage.name}, {(last - start) / 60:.0f} min: {last_line(self.log(stage))[:130]}", flush=True)
        return 0

    def start(self, stage: Stage) -> None:
        words = [sys.executable, *MODULE, *stage.command]
        print(f"  {stage.name}: wbvla {shlex.join(stage.command)}", flush=True)
        with self.log(stage).open("ab") as log:
            process = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        self.running[stage.name] = (stage, process, time.monotonic())

    def finish(self, name: str, status: int) -> bool:
        stage, _, start = self.running.pop(name)
        wall_s = time.monotonic() - start
        if status != 0:
            tail = self.log(stage).read_text(errors="replace").splitlines()[-20:]
            print(f"  {name}: exit status {status}\n" + "\n".join(f"    {line}" for line in tail) + f"\nThe whole log is {self.log(stage)}", file=sys.stderr)
            return False
        print(f"  {name}: done, {wall_s / 60:.1f} min", flush=True)
        self.done[name] = {"command": list(stage.command), "wall_s": round(wall_s, 1)}
        temporary = self.out / f".stages.json.{os.getpid()}"
        temporary.write_text(json.dumps(self.done, indent=2) + "\n")
        os.replace(temporary, self.out / "stages.json")
        return True

    def stop(self) -> None:
        """Let every trainer write its state: they resume from it."""
        for _, process, _ in self.running.values():
            process.terminate()
        for _, process, _ in self.running.values():
            try:
                process.wait(timeout=20.0)
            except subprocess.TimeoutExpired:
                process.kill()


def numbers(data: object, prefix: str = "") -> dict[str, float]:
    """The scalar leaves of a metrics file, by dotted name."""
    if isinstance(data, dict):
        return {name: value for key, item in data.items() for name, value in numbers(item, f"{prefix}{key}.").items()}
    return {prefix[:-1]: float(data)} if isinstance(data, (int, float)) and not isinstance(data, bool) else {}


def compare(out: Path) -> str:
    """Metrics of this run beside those that ship."""
    lines = [f"{'metric':<60} {'shipped':>12} {'this run':>12}"]
    for label in SHIPPED:
        files = [root / label / "metrics.json" for root in (ROOT / "checkpoints", out / "checkpoints")]
        if not all(file.is_file() for file in files):
            lines.append(f"{label}: no metrics.json in {' and '.join(str(file.parent) for file in files if not file.is_file())}")
            continue
        shipped, mine = (numbers(json.loads(file.read_text())) for file in files)
        both = [name for name in shipped if name in mine and not name.startswith("settings.")]
        lines += [f"{f'{label} {name}':<60} {shipped[name]:>12.4g} {mine[name]:>12.4g}" for name in both]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="folder of everything that is made (default: runs/train-tiny, with --debug runs/train-debug)")
    parser.add_argument("--cores", type=int, default=min(2, len(os.sched_getaffinity(0))), help="cores to keep busy (default: 2)")
    parser.add_argument("--debug", action="store_true", help="sizes of seconds: checks the chain, trains nothing useful")
    parser.add_argument("--until", help="stop after this stage")
    parser.add_argument("--list", action="store_true", help="print the commands and do nothing")
    arguments = parser.parse_args()
    out = (arguments.out or ROOT / "runs" / ("train-debug" if arguments.debug else "train-tiny")).resolve()
    os.chdir(ROOT)
    if out.is_relative_to(ROOT):
        out = out.relative_to(ROOT)  # the commands end up in the checkpoints' metrics, and shall mean something to others
    chain = stages(out, arguments.debug)
    if arguments.until:
        names = [stage.name for stage in chain]
        if arguments.until not in names:
            parser.error(f"--until must be one of {names}, got {arguments.until!r}")
        chain = chain[: names.index(arguments.until) + 1]
    if arguments.list:
        print("\n".join(f"wbvla {shlex.join(stage.command)}" for stage in chain))
        return 0
    runner = Runner(out, arguments.cores)
    lock = (out / ".lock").open("a+")  # kept open: the system gives it back when this process ends, however it ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        print(f"the chain already runs in {out}, as process {lock.read().strip() or 'unknown'}; wait for it, stop it, or give another --out", file=sys.stderr)
        return 2
    lock.truncate(0)
    print(os.getpid(), file=lock, flush=True)
    start = time.monotonic()
    print(f"Training the whole chain into {out} on {arguments.cores} core(s)", flush=True)
    try:
        status = runner.run(chain)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where this stopped", file=sys.stderr)
        status = 130
    finally:
        runner.stop()
    if status == 0:
        print(f"Done in {(time.monotonic() - start) / 3600:.2f} h\n\n{compare(out)}")
    return status


if __name__ == "__main__":
    sys.exit(main())

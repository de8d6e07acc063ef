"""How fast recordings become a data set, how flat memory stays, how fast frames are read again.

python benchmarks/data.py runs/*/episode.mcap --workers 2
"""

from __future__ import annotations

import resource
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rosbags.highlevel import AnyReader

from wbvla_cli.record import typestore
from wbvla_core.console import program
from wbvla_train.data.lerobot.convert import convert
from wbvla_train.data.lerobot.reader import open_dataset


@dataclass(frozen=True)
class Options:
    """Options of the benchmark.

    Attributes:
        recordings: bags that convert without a refusal.
        workers: processes, one core each.
        least_speed: exit with status 1 below this many seconds of recording per second.
    """

    recordings: Annotated[tuple[Path, ...], tyro.conf.Positional]
    workers: int = 2
    instruction: str = "do what the recording does"
    least_speed: float = 5.0


def seconds_of(bag: Path) -> float:
    with AnyReader([bag], default_typestore=typestore()) as reader:
        return reader.duration / 1e9


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    recorded_s = sum(seconds_of(bag) for bag in options.recordings)
    folder = Path(tempfile.mkdtemp())
    try:
        began = time.perf_counter()
        convert(list(options.recordings), folder / "set", typestore, instruction=options.instruction, workers=options.workers)
        took_s = time.perf_counter() - began
        dataset = open_dataset(folder / "set")
        frames = sum(view.length for view in dataset.views)
        began = time.perf_counter()
        read = sum(1 for view in dataset.views for _ in view.images(dataset.cameras[0]))
        columns = sum(len(view.columns()["index"]) for view in dataset.views)
        read_s = time.perf_counter() - began
        disk_mb = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    finally:
        shutil.rmtree(folder)
    peak_mb = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    speed = recorded_s / took_s
    print(f"recordings      {len(options.recordings)}, {recorded_s:.0f} s; {frames} frames kept, {disk_mb:.1f} MB")
    print(f"conversion      {took_s:.1f} s on {options.workers} processes: {speed:.1f} x real time (at least {options.least_speed:g})")
    print(f"peak memory     {peak_mb:.0f} MB, the largest process")
    print(f"reading again   {read / read_s:.0f} frames/s with pictures and {columns} rows, one thread")
    return 0 if speed >= options.least_speed else 1


if __name__ == "__main__":
    program(main)

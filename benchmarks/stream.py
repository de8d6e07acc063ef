"""How much memory and time reading a LeRobot data set as training goes takes: resident memory must not grow with the data.

python benchmarks/stream.py --episodes 10 --steps 94
python benchmarks/stream.py --episodes 60 --steps 563     # six times the data, twice through it, the same memory
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from wbvla_core.console import program
from wbvla_core.machine import describe_machine
from wbvla_core.robot import load_robot
from wbvla_perception.preprocess import ImageSpec
from wbvla_train.data.lerobot.assemble import assemble
from wbvla_train.data.lerobot.episode import EpisodeWriter
from wbvla_train.data.lerobot.reader import open_dataset
from wbvla_train.data.lerobot.schema import CAMERA
from wbvla_train.data.lerobot.stream import FrameStream, StreamConfig, read_images, recorded_spec


@dataclass(frozen=True)
class Options:
    """What to read.

    Attributes:
        episodes, frames: how many, and frames in each, at 320 x 240 px; made for this run.
        steps, batch, size: of the training; size of the policy image, px.
    """

    episodes: int = 20
    frames: int = 300
    steps: int = 100
    batch: int = 64
    size: int = 224
    stream: StreamConfig = StreamConfig(lanes=16)


def resident_mib() -> float:
    """This process's memory now."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def make(root: Path, options: Options) -> Path:
    """Walls of coloured patches that slide past: pictures that cost a decoder about what a room does."""
    episodes = []
    for number in range(options.episodes):
        wall = np.random.default_rng(number).integers(0, 256, (30, 240, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        with EpisodeWriter(root / "episodes" / f"{number:04d}", {}, 10.0) as writer:
            for t in range(options.frames):
                x = 4 * t % (wall.shape[1] - 320)
                writer.add({}, {CAMERA: wall[:240, x : x + 320]}, "walk to the red box")
            episodes.append(writer.finish({}))
    assemble(episodes, root / "set", robot_type="x2")
    return root / "set"


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        dataset = open_dataset(make(Path(folder), options))
        spec = recorded_spec(dataset, CAMERA, ImageSpec.of(load_robot("x2").camera, options.size))
        usable = [np.ones(view.length, dtype=bool) for view in dataset.views]
        stream = FrameStream(
            dataset.views, usable, lambda view, start, count: {"images": read_images(view, CAMERA, start, count, spec)}, options.stream, options.batch, 0
        )
        frame = 3 * options.size**2
        cache = stream.lanes * options.stream.pool_chunks * options.stream.chunk_frames * frame / 2**20
        print(describe_machine())
        print(f"{options.episodes} episodes, {stream.frames} frames: {stream.frames * frame / 2**20:.0f} MiB of pictures; at most {cache:.0f} MiB in memory")
        before, start_s, seen = resident_mib(), time.perf_counter(), []
        for step in range(options.steps):
            stream.batch(step, slice(0, options.batch))
            seen.append(resident_mib())
        rate = options.steps * options.batch / (time.perf_counter() - start_s)
        quarters = "  ".join(f"{part.max():.0f}" for part in np.array_split(np.array(seen), 4))
        print(f"resident: {before:.0f} MiB before; highest in each quarter of the run: {quarters} MiB")
        print(f"{rate:.0f} frames/s, decoded and resized, one thread")


if __name__ == "__main__":
    program(main)

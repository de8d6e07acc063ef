"""Action-free video: how fast and in how much memory films are gated, and how fast clips reach latent action training.

    taskset -c 0,1 python benchmarks/video.py [--minutes 10]

The film is 720p at 30 fps, H.264, rendered by the project and looped; two processes gate one copy each. Limits of the design: at least
10 x real time on two cores, memory flat in film length (10 s against ``--minutes``), pairs at least 3 x as fast as the tiny model trains (250/s).
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import torch
import tyro

from wbvla_core.console import program
from wbvla_train.data.clips import Corpus
from wbvla_train.data.film.gates import Gates
from wbvla_train.data.film.made import encode, render_take
from wbvla_train.data.film.record import Film, Job, process_film, write_sidecars
from wbvla_train.lam.config import preset
from wbvla_train.lam.train import PairSampler

LIMITS = {"gating": 10.0, "memory": 1.1, "pairs": 750.0}


@dataclass(frozen=True)
class Options:
    """Options of the benchmark.

    Attributes:
        minutes: length of each of the two long films.
    """

    minutes: float = 10.0


def loop(source: Path, target: Path, times: int) -> None:
    """The same packets again and again, stamps going on."""
    with av.open(str(target), "w") as out:
        stream = None
        shift = 0
        for _ in range(times):
            with av.open(str(source)) as film:
                video = film.streams.video[0]
                stream = stream or out.add_stream_from_template(video)
                for packet in film.demux(video):
                    if packet.dts is not None:
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                        out.mux(packet)
                shift += video.duration


def _gate(job: Job, queue) -> None:
    record = process_film(job)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))  # ru_maxrss would be the parent's
    queue.put((record, int(peak.split()[1]) / 1024, usage.ru_utime + usage.ru_stime))


def gate(films: list[Path], output: Path) -> tuple[float, float, list[float], list[dict]]:
    """Wall time with one process per film, CPU time of all, their peak memory in MiB, their records."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    jobs = [Job(Film(path, f"bench/{path.name}"), output, Gates(), 10.0, 96, 0.0, 70.0, 20.0, ()) for path in films]
    started = time.perf_counter()
    processes = [context.Process(target=_gate, args=(job, queue)) for job in jobs]
    for process in processes:
        process.start()
    results = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    wall_s = time.perf_counter() - started
    return wall_s, sum(cpu for _, _, cpu in results), [memory for _, memory, _ in results], [record for record, _, _ in results]


def main() -> None:
    minutes = tyro.cli(Options, description=__doc__).minutes
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        folder, rng = Path(name), np.random.default_rng(3)
        take = np.concatenate([render_take(rng, "loco", 30.0, 5.0)[:, :, :320], render_take(rng, "mani", 30.0, 5.0)[:, :, :320]])
        noisy = np.clip(take + rng.normal(0, 2, take.shape[:3])[..., None], 0, 255).astype(np.uint8)
        source = folder / "ten.mp4"
        wide = np.stack([cv2.resize(frame, (1280, 720), interpolation=cv2.INTER_CUBIC) for frame in noisy])
        encode(source, wide, np.arange(len(wide)) / 30.0, rate_hz=30.0, crf=21)
        del wide, noisy, take
        copies = [folder / "a.mp4", folder / "b.mp4"]
        for path in copies:
            loop(source, path, round(minutes * 6))
        _, _, short_mib, _ = gate([source], folder / "short")
        wall_s, cpu_s, long_mib, records = gate(copies, folder / "long")
        film_s = sum(record["report"]["duration_s"] for record in records)
        bits = source.stat().st_size * 8 / 10.0 / 1e6
        speed, growth = film_s / wall_s, max(long_mib) / short_mib[0]
        print(
            f"gating: {film_s:.0f} s of 720p30 ({bits:.1f} Mbit/s) in {wall_s:.1f} s with two processes: {speed:.1f} x real time (limit {LIMITS['gating']:g}); "
            f"{cpu_s:.1f} s of CPU: {2 * film_s / cpu_s:.1f} x real time on two cores that do nothing else"
        )
        print(f"memory: {short_mib[0]:.0f} MiB for 10 s, {max(long_mib):.0f} MiB for {minutes:g} min: x {growth:.2f} (limit {LIMITS['memory']:g})")
        write_sidecars(folder / "long", records)
        config = preset("tiny", "loco")
        corpus = Corpus([folder / "long" / "train" / "loco"], config.model.image_size)
        sampler = PairSampler(config, (corpus, corpus.pairs(config.gap_s)), None)
        sampler.batch(0)
        started, batches = time.perf_counter(), 100
        for step in range(batches):
            sampler.batch(step)
        rate = batches * config.batch / (time.perf_counter() - started)
        print(f"loader: {rate:.0f} augmented pairs/s of {config.model.image_size} px, one thread (limit {LIMITS['pairs']:g})")


if __name__ == "__main__":
    program(main)

"""``wbvla video info``: what a film is and what the gates would say of it, without writing anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wbvla_core.console import program
from wbvla_train.data.film.gates import UNSURE, Gates, Segment, judge
from wbvla_train.data.film.info_command import InfoConfig
from wbvla_train.data.film.ingest import list_films
from wbvla_train.data.film.measure import Measure
from wbvla_train.data.film.reader import FilmError, FilmReport, fingerprint, samples
from wbvla_train.data.film.record import blocks, printable


def examine(path: Path, rate_hz: float, gates: Gates) -> tuple[FilmReport, list[Measure], list[Segment]]:
    """Read a film once; its report, measures, and stretches and events in order of time."""
    report = FilmReport()
    measures: list[Measure] = []
    segments: list[Segment] = []
    for block, event in blocks(samples(path, rate_hz, 16, report), gates):
        measured = [now for _, now in block]
        segments += judge(measured, gates, rate_hz)
        if event is not None:
            segments.append(event)
        measures += measured
    return report, measures, segments


def info(config: InfoConfig, log=print) -> int:
    """Print a paragraph per film; returns 1 where one cannot be read or is damaged."""
    status = 0
    for film in list_films(config.inputs):
        try:
            fingerprint(film.path)  # says first what is wrong with the file itself
            report, measures, segments = examine(film.path, config.rate_hz, config.gates)
        except FilmError as error:
            log(f"{printable(film.name)}: {error}")
            status = 1
            continue
        rate = f"{report.fps:.2f} fps{' (variable)' if report.variable_rate else ''}, turned by {report.rotation_deg} deg"
        log(f"{printable(film.name)}: {report.duration_s:.2f} s, {report.frames} frames of {report.width}x{report.height} px upright, {rate}")
        typical = {name: float(np.median([getattr(m, name) for m in measures])) for name in ("brightness", "blur", "change", "tracked")}
        log("  median " + ", ".join(f"{name} {value:.2f}" for name, value in typical.items()))
        for s in segments:
            motion = f" (camera motion {s.loco_score:.2f})" if s.reason in ("", UNSURE) else ""
            what = (s.reason or s.domain) + motion
            log(
                f"  {s.start_s:8.2f} - {s.end_s:8.2f} s  frame {s.frame:6d}  {what}"
                + (f"  {s.value:.3g}, limit {s.limit:g}" if s.limit else "")
                + (f": {s.doubt}" if s.doubt else "")
            )
        for note in report.notes:
            log(f"  note: {note}")
        for problem in report.problems:
            log(f"  {problem}")
            status = 1
    return status


if __name__ == "__main__":
    from wbvla_train.data.film.info_command import main

    program(main)

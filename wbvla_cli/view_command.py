"""``wbvla view``: its options. Readers are imported when the work begins, so that help and refusals come at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class ViewOptions:
    """Look at a recording (MCAP, rosbag2) or at an episode of a LeRobot data set."""

    file: Annotated[Path, tyro.conf.Positional]
    """.mcap file, rosbag2 folder, or data set folder"""
    episode: int = 0
    """which episode of a data set"""
    to: Literal["html", "rerun", "rrd"] = "html"
    """html: one page for any browser; rerun: open its viewer; rrd: a file for it"""
    output: Path | None = None
    """where html or rrd is written; default: in the recording's folder, or beside the data set"""
    robot: str = "x2"
    """robot spec of a recording"""
    topics: Path | None = None
    """topic map (YAML) for recordings by others"""


def main(argv: Sequence[str] | None = None) -> int:
    """``wbvla view``; refusals are one sentence on stderr."""
    options = tyro.cli(ViewOptions, args=argv, prog="wbvla view")
    from wbvla_cli.view import view

    return view(options)

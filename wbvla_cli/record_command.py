"""``wbvla record``: its options. The bag reader is imported when the work begins, so that help and refusals come at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from wbvla_core.errors import require_at_least


@dataclass(frozen=True)
class RecordOptions:
    """Record every topic of config/qos.yaml to MCAP until Ctrl-C."""

    output: Annotated[Path, tyro.conf.Positional]
    """folder of the bag, which must not exist yet; with --episodes of the session, which may"""
    episodes: bool = False
    """a session of episodes: keys s start, e end, x discard, q quit; services /wbvla/record/{start,stop,discard}"""
    instruction: str = ""
    """what the operator does in these episodes: stored with each"""
    notes: str = ""
    """stored with each episode, too"""
    audit: bool = False
    """record nothing: mend what a kill left there, and print the audit of each bag"""
    min_free_mb: int = 300
    """with less free space than this recording stops, MB"""
    duration_s: float = 0.0
    """stop by itself after this time, s; 0 = at Ctrl-C"""
    domain: int | None = None
    """ROS domain id; default: the environment's"""


def main(argv: Sequence[str] | None = None) -> int:
    """``wbvla record``."""
    options = tyro.cli(RecordOptions, args=argv, prog="wbvla record")
    require_at_least(options, duration_s=0, min_free_mb=0)
    from wbvla_cli.record import record

    return record(options)

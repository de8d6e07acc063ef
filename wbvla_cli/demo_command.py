"""``wbvla demo``: its options. The simulator is imported when it begins, so that help and refusals come at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from wbvla_core.sentences import STAGE


@dataclass(frozen=True)
class DemoOptions:
    """The X2 carries out a sentence in simulation; writes video.mp4, episode.mcap, report.html and summary.json. Exit status 0 only if it succeeded."""

    words: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SENTENCE")] = ("walk to the blue box",)
    """what the robot is asked to do; quotes may be left out"""
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

    @property
    def instruction(self) -> str:
        """The sentence, whether it came as one word or as several."""
        return " ".join(self.words)


def help_text() -> str:
    """What stands above the options: the sentences that are accepted, from the list that decides."""
    sentences = "\n".join(f"    {line}" for line in STAGE.summary())
    return f"{DemoOptions.__doc__}\n\nSentences (`wbvla tasks --all` lists their other wordings):\n\n{sentences}"


def main(argv: Sequence[str] | None = None) -> int:
    """``wbvla demo``. Exit status 0: succeeded by the recorded truth; 1: did not; 2: refused, with the reason."""
    options = tyro.cli(DemoOptions, args=argv, prog="wbvla demo", description=help_text())
    from wbvla_cli.demo import carry_out

    return carry_out(options)

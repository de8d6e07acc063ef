"""The tasks of this stage as the simulator knows them: which box, which side.

Which sentences mean them is decided in :mod:`wbvla_core.sentences`; this is the same list with the names that scenes, the scripted
teleoperator and the judge use.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from wbvla_core.catalogue import plain
from wbvla_core.errors import WbvlaError
from wbvla_core.sentences import SIDES, STAGE

__all__ = ["INSTRUCTIONS", "KINDS", "SIDES", "TASKS", "VOCABULARY", "Task", "paraphrases", "parse_instruction", "require_kinds", "sample_instruction"]


@dataclass(frozen=True)
class Task:
    """What a sentence means.

    Attributes:
        kind: "walk_to", "turn", "step", "squat", "stand" or "wave".
        color: the box of walk_to, else "".
        side: "left" or "right" of turn, step and wave, else "".
    """

    kind: str
    color: str = ""
    side: str = ""

    @property
    def slots(self) -> dict[str, str]:
        """What the task's sentences fill in."""
        return {slot: getattr(self, slot) for slot in STAGE.kinds[self.kind].slots}

    @property
    def instruction(self) -> str:
        """The canonical sentence."""
        return STAGE.sentences(self.kind, self.slots)[0]

    @property
    def open_ended(self) -> bool:
        """Whether it goes on until the goal's duration is over."""
        return self.kind in ("turn", "step", "wave")


TASKS: tuple[Task, ...] = tuple(Task(kind, **slots) for kind, slots in STAGE.tasks)
INSTRUCTIONS: tuple[str, ...] = tuple(task.instruction for task in TASKS)


KINDS = tuple(dict.fromkeys(task.kind for task in TASKS))


def require_kinds(kinds: Collection[str]) -> None:
    """Raise WbvlaError where ``kinds`` (of a command's --kinds) holds a word that is no kind of task."""
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise WbvlaError(f"expected --kinds out of {', '.join(KINDS)}; got {', '.join(unknown)}")


def paraphrases(task: Task, held_out: bool = False) -> tuple[str, ...]:
    """All training sentences that mean the task, the canonical one first; or all held-out ones."""
    return STAGE.sentences(task.kind, task.slots, held_out)


VOCABULARY: tuple[str, ...] = tuple(sorted({word for task in TASKS for sentence in paraphrases(task) for word in plain(sentence).split()}))


def sample_instruction(task: Task, rng: np.random.Generator, held_out: bool = False) -> str:
    """One of the task's sentences, see :func:`paraphrases`."""
    return str(rng.choice(paraphrases(task, held_out)))


def parse_instruction(instruction: str) -> Task:
    """The task of a sentence; raises InstructionError, with the nearest one, for a sentence that is none."""
    meaning = STAGE.meaning(instruction)
    return Task(meaning.kind, **meaning.slots)

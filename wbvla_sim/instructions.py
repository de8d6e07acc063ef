"""The sentences of this stage: what can be asked, in which words, and what is meant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wbvla_core.errors import ErrorCode, InstructionError
from wbvla_sim.scene import COLORS

SIDES = ("left", "right")


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
    def instruction(self) -> str:
        """The canonical sentence."""
        return TEMPLATES[self.kind][0].format(color=self.color, side=self.side)

    @property
    def open_ended(self) -> bool:
        """Whether it goes on until the goal's duration is over."""
        return self.kind in ("turn", "step", "wave")


# First of each: the canonical sentence. The others are paraphrases for training and for people.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "walk_to": (
        "walk to the {color} box",
        "go to the {color} box",
        "walk up to the {color} box",
        "approach the {color} box",
        "move to the {color} box",
        "walk to the {color} box and stop in front of it",
        "go and stand in front of the {color} box",
        "please walk to the {color} box",
    ),
    "turn": ("turn {side}", "turn to the {side}", "rotate to the {side}", "turn {side} on the spot"),
    "step": ("step {side}", "step to the {side}", "move sideways to the {side}", "take steps to the {side}"),
    "squat": ("squat down", "squat", "crouch down", "go down into a squat", "bend your knees"),
    "stand": ("stand up", "stand up straight", "get up", "rise from the squat"),
    "wave": ("wave the {side} arm", "wave your {side} arm", "wave with the {side} hand", "wave the {side} hand"),
}

TASKS: tuple[Task, ...] = (
    *(Task("walk_to", color=color) for color in COLORS),
    *(Task(kind, side=side) for kind in ("turn", "step") for side in SIDES),
    Task("squat"),
    Task("stand"),
    *(Task("wave", side=side) for side in SIDES),
)
INSTRUCTIONS: tuple[str, ...] = tuple(task.instruction for task in TASKS)

_MEANING: dict[str, Task] = {template.format(color=t.color, side=t.side): t for t in TASKS for template in TEMPLATES[t.kind]}
VOCABULARY: tuple[str, ...] = tuple(sorted({word for sentence in _MEANING for word in sentence.split()}))


def normalise(instruction: str) -> str:
    """Lower case, single spaces, no punctuation at the end."""
    return " ".join(instruction.lower().replace(",", " ").split()).rstrip(" .!?")


def paraphrases(task: Task) -> tuple[str, ...]:
    """All sentences that mean the task, the canonical one first."""
    return tuple(template.format(color=task.color, side=task.side) for template in TEMPLATES[task.kind])


def sample_instruction(task: Task, rng: np.random.Generator) -> str:
    """One of the task's sentences."""
    return str(rng.choice(paraphrases(task)))


def parse_instruction(instruction: str) -> Task:
    """The task of a sentence; raises InstructionError for one that is not among the templates."""
    text = normalise(instruction)
    if not text:
        raise InstructionError("the instruction is empty; say for example 'walk to the red box'", ErrorCode.INSTRUCTION_EMPTY)
    if text not in _MEANING:
        unknown = [word for word in text.split() if word not in VOCABULARY]
        detail = f"unknown words: {', '.join(unknown)}" if unknown else "these words are known, this sentence is not"
        raise InstructionError(f"cannot follow {instruction!r} ({detail}); known: {', '.join(INSTRUCTIONS)}", ErrorCode.INSTRUCTION_UNKNOWN_WORDS)
    return _MEANING[text]

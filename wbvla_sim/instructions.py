"""The sentences of this stage: what can be asked, in which words, and what is meant."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from wbvla_core.errors import ErrorCode, InstructionError, WbvlaError
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

# Never trained on, from known words only: what "unseen phrasings" means in every measurement.
HELD_OUT_TEMPLATES: dict[str, tuple[str, ...]] = {
    "walk_to": (
        "please go to the {color} box",
        "move up to the {color} box",
        "go and stop in front of the {color} box",
        "approach the {color} box and stand in front of it",
        "move to the front of the {color} box",
        "take steps to the {color} box",
    ),
    "turn": ("please turn {side}", "rotate {side} on the spot", "turn to your {side}", "stand and turn {side}"),
    "step": ("please step {side}", "step sideways to the {side}", "move to the {side}", "take a step {side}"),
    "squat": ("please squat", "go down and bend your knees", "crouch", "get down into a squat"),
    "stand": ("please stand up", "rise", "get up from the squat", "go up and stand straight"),
    "wave": ("please wave the {side} hand", "wave your {side} hand", "wave with the {side} arm", "wave with your {side} arm"),
}

TASKS: tuple[Task, ...] = (
    *(Task("walk_to", color=color) for color in COLORS),
    *(Task(kind, side=side) for kind in ("turn", "step") for side in SIDES),
    Task("squat"),
    Task("stand"),
    *(Task("wave", side=side) for side in SIDES),
)
INSTRUCTIONS: tuple[str, ...] = tuple(task.instruction for task in TASKS)


KINDS = tuple(dict.fromkeys(task.kind for task in TASKS))


def require_kinds(kinds: Collection[str]) -> None:
    """Raise WbvlaError where ``kinds`` (of a command's --kinds) holds a word that is no kind of task."""
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise WbvlaError(f"expected --kinds out of {', '.join(KINDS)}; got {', '.join(unknown)}")


def normalise(instruction: str) -> str:
    """Lower case, single spaces, no punctuation at the end."""
    return " ".join(instruction.lower().replace(",", " ").split()).rstrip(" .!?")


def paraphrases(task: Task, held_out: bool = False) -> tuple[str, ...]:
    """All training sentences that mean the task, the canonical one first; or all held-out ones."""
    templates = HELD_OUT_TEMPLATES if held_out else TEMPLATES
    return tuple(template.format(color=task.color, side=task.side) for template in templates[task.kind])


_MEANING: dict[str, Task] = {sentence: task for task in TASKS for held_out in (False, True) for sentence in paraphrases(task, held_out)}
VOCABULARY: tuple[str, ...] = tuple(sorted({word for task in TASKS for sentence in paraphrases(task) for word in sentence.split()}))


def sample_instruction(task: Task, rng: np.random.Generator, held_out: bool = False) -> str:
    """One of the task's sentences, see :func:`paraphrases`."""
    return str(rng.choice(paraphrases(task, held_out)))


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

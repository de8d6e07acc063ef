"""What a clip of action-free video shows, and how people say it: primitives and their phrasings.

A primitive that is also a task of this stage takes that task's sentences (:mod:`wbvla_sim.instructions`); the others are worded here.
Training is given :func:`phrasings`; :func:`held_out_phrasings` are for measuring, made of the same words so that a word-level
vocabulary can read them, and never written into a sidecar (a test holds both).
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from wbvla_sim.instructions import Task, paraphrases
from wbvla_train.data.motion import PRIMITIVES

_TASKS = {
    "turn_left": Task("turn", side="left"),
    "turn_right": Task("turn", side="right"),
    "step_left": Task("step", side="left"),
    "step_right": Task("step", side="right"),
    "squat": Task("squat"),
    "rise": Task("stand"),
}
_WORDED: dict[str, tuple[str, ...]] = {
    "stand": ("stand still", "keep still", "do not move"),
    "advance": ("walk forward", "walk straight ahead", "go forward", "move ahead"),
    "retreat": ("walk backward", "step back", "go backward", "move back"),
    "reach_left": ("reach out with the left hand", "move the left hand", "reach with your left arm"),
    "reach_right": ("reach out with the right hand", "move the right hand", "reach with your right arm"),
    "reach_both": ("reach out with both hands", "move both hands", "reach with both arms"),
}
_HELD_OUT: dict[str, tuple[str, ...]] = {
    "turn_left": ("rotate left", "turn to the left on the spot"),
    "turn_right": ("rotate right", "turn to the right on the spot"),
    "step_left": ("step sideways to the left", "move left"),
    "step_right": ("step sideways to the right", "move right"),
    "squat": ("go down", "bend your knees and go down"),
    "rise": ("rise", "get up from the squat"),
    "stand": ("stand and do not move",),
    "advance": ("walk ahead", "move forward"),
    "retreat": ("walk back", "move backward"),
    "reach_left": ("reach with the left hand", "move your left arm"),
    "reach_right": ("reach with the right hand", "move your right arm"),
    "reach_both": ("reach with both hands", "move both arms"),
}
NAMES: tuple[str, ...] = (*PRIMITIVES, "reach_left", "reach_right", "reach_both")

HAND_MOVED_M = 0.05  # a hand that stays within this rested (ours)


def phrasings(primitive: str) -> tuple[str, ...]:
    """The sentences of training, the plainest first."""
    return paraphrases(_TASKS[primitive]) if primitive in _TASKS else _WORDED[primitive]


def held_out_phrasings(primitive: str) -> tuple[str, ...]:
    """Sentences that mean the same and that no training sees."""
    return _HELD_OUT[primitive]


def of_truth(command: np.ndarray, hands: np.ndarray) -> str | None:
    """The primitive that a rendered clip's wearer was told to carry out, None where it was more than one.

    Args:
        command: [T, 4] directions (forward, left, turn left, rise). hands: [T, 2, 3] left and right, m, NaN where there is none.
    """
    if np.any(command != command[0]):
        return None
    told = next((name for name, direction in PRIMITIVES.items() if np.array_equal(direction, command[0])), None)
    if told != "stand":
        return told
    moved = [bool(np.isfinite(hand).all() and np.ptp(hand, axis=0).max() > HAND_MOVED_M) for hand in np.moveaxis(hands, 1, 0)]
    return {(False, False): "stand", (True, False): "reach_left", (False, True): "reach_right", (True, True): "reach_both"}[tuple(moved)]


def of_folder(folder: Path, files: list[str]) -> dict[str, str]:
    """Clip file -> primitive, as far as somebody said which.

    Rendered video: what the wearer was told (``truth`` beside the splits), which is language here, not a label. Films: the name of the nearest
    folder in which the film lay (``turn_left/``, ``Turn left 2/``): primitives are filmed one by one.

    Args:
        files: the folder's clips, in the sidecar's order.
    """
    if len(folder.absolute().parents) < 4:  # <root>/<split>/<domain>/<room or film>
        return {}
    root = folder.absolute().parents[2]
    truth = root / "truth" / folder.absolute().relative_to(root).with_suffix(".npz")
    if truth.is_file():
        with np.load(truth, allow_pickle=False) as data:
            told = [of_truth(command, hands) for command, hands in zip(data["command"], data["hands"], strict=True)]
        return {file: primitive for file, primitive in zip(files, told, strict=True) if primitive}
    record = root / "films" / folder.name / "record.json"
    if record.is_file():
        for part in reversed(json.loads(record.read_text())["film"].split("/")[:-1]):
            plain = re.sub(r"[^a-z]+", "_", part.lower()).strip("_")
            if plain in NAMES:
                return dict.fromkeys(files, plain)
    return {}

"""The tasks of the models that ship, in words: what can be asked, and how people say it.

Training draws its sentences here, and the list that travels in a policy bundle is made from here
(:mod:`wbvla_core.catalogue`). A new kind of task is one more :class:`~wbvla_core.catalogue.Kind` and its rows of
``STAGE``; what the robot has to do for it is not decided here.
"""

from __future__ import annotations

from wbvla_core.catalogue import Kind, TaskCatalogue

COLORS = ("red", "green", "blue", "yellow")  # of the boxes that a sentence may name
SIDES = ("left", "right")

# First of each: the canonical sentence. The others are paraphrases for training and for people. Held out: never
# trained on, from known words only; what "unseen phrasings" means in every measurement.
KINDS = (
    Kind(
        "walk_to",
        (
            "walk to the {color} box",
            "go to the {color} box",
            "walk up to the {color} box",
            "approach the {color} box",
            "move to the {color} box",
            "walk to the {color} box and stop in front of it",
            "go and stand in front of the {color} box",
            "please walk to the {color} box",
        ),
        (
            "please go to the {color} box",
            "move up to the {color} box",
            "go and stop in front of the {color} box",
            "approach the {color} box and stand in front of it",
            "move to the front of the {color} box",
            "take steps to the {color} box",
        ),
    ),
    Kind(
        "turn",
        ("turn {side}", "turn to the {side}", "rotate to the {side}", "turn {side} on the spot"),
        ("please turn {side}", "rotate {side} on the spot", "turn to your {side}", "stand and turn {side}"),
    ),
    Kind(
        "step",
        ("step {side}", "step to the {side}", "move sideways to the {side}", "take steps to the {side}"),
        ("please step {side}", "step sideways to the {side}", "move to the {side}", "take a step {side}"),
    ),
    Kind(
        "squat",
        ("squat down", "squat", "crouch down", "go down into a squat", "bend your knees"),
        ("please squat", "go down and bend your knees", "crouch", "get down into a squat"),
    ),
    Kind(
        "stand",
        ("stand up", "stand up straight", "get up", "rise from the squat"),
        ("please stand up", "rise", "get up from the squat", "go up and stand straight"),
    ),
    Kind(
        "wave",
        ("wave the {side} arm", "wave your {side} arm", "wave with the {side} hand", "wave the {side} hand"),
        ("please wave the {side} hand", "wave your {side} hand", "wave with the {side} arm", "wave with your {side} arm"),
    ),
)

STAGE = TaskCatalogue(
    KINDS,
    (
        *(("walk_to", {"color": color}) for color in COLORS),
        *((kind, {"side": side}) for kind in ("turn", "step") for side in SIDES),
        ("squat", {}),
        ("stand", {}),
        *(("wave", {"side": side}) for side in SIDES),
    ),
    "the templates that training draws its sentences from",
)

"""What the operator says of the episodes, typed while they are recorded: ``i`` the sentence, ``n`` notes."""

from __future__ import annotations

import sys
from collections.abc import Callable

from wbvla_teleop.keyboard import Prompt

KEYS = {"i": "instruction", "n": "notes"}
HELP = "i instruction of this and the next episodes   n notes"


class Notebook:
    """Holds instruction and notes, asks for new ones at a key, and tells the recorder.

    Args:
        tell: called with instruction and notes, at once where one is given and whenever one changes.
        write: shows text to the operator.
    """

    def __init__(self, tell: Callable[[str, str], None], instruction: str = "", notes: str = "", *, write: Callable[[str], object] | None = None) -> None:
        self._tell, self._write = tell, write or _to_terminal
        self._said = {"instruction": instruction, "notes": notes}
        self._prompt: Prompt | None = None
        if instruction or notes:
            tell(instruction, notes)

    def key(self, key: str) -> bool:
        """Whether this key was meant for the notebook: it opens a prompt, or belongs to the open one."""
        if self._prompt is None:
            if key not in KEYS:
                return False
            self._prompt = Prompt(KEYS[key], self._write)
            return True
        line, what = self._prompt.key(key), self._prompt.label
        if not self._prompt.open:
            self._prompt = None
        if line is not None:
            self._said[what] = line
            self._tell(self._said["instruction"], self._said["notes"])
        return True


def _to_terminal(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()

"""Which sentences are tasks: the one place that decides.

A policy carries out the sentences that it was trained on, and those that were held out to measure it. A
:class:`TaskCatalogue` lists them, and everything that takes a sentence asks it: the 10 Hz node, ``wbvla serve``,
``wbvla demo``, evaluation, and training when it draws sentences. The list travels with the policy as ``tasks.json``,
hashed in its manifest, so that a node needs no simulator for it. The tasks of the models that ship are in
:mod:`wbvla_core.sentences`; why a sentence is refused is said by :mod:`wbvla_core.refusal`.
"""

from __future__ import annotations

import itertools
import json
import string
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from wbvla_core.checkpoint import Manifest, write_json
from wbvla_core.errors import CheckpointError, ErrorCode

TASKS_FILE = "tasks.json"  # in a policy bundle, beside its weights
SCHEMA = 1
MAX_INSTRUCTION_CHARS = 200  # ours: far over any sentence of the vocabulary; longer ones are paste accidents
RECORDED = "recorded"  # kind of tasks that are known by their sentence alone, from somebody's recordings

# What may stand around and between words. Any other sign (an emoji, a control character, "&") may carry meaning that no
# policy reads, so a sentence with one is refused.
PUNCTUATION = frozenset(".,;:!?'\"()[]-*/`" + "\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u2010\u2011\u2012\u2013\u2014\u2015\u2026\u00a1\u00bf\u00ab\u00bb")
POLITE = ("please",)  # may stand before or behind any task: training has it in front of some


@dataclass(frozen=True)
class Kind:
    """One kind of task, in words.

    Attributes:
        name: for example "walk_to".
        templates: sentences of training with ``{slot}`` where the tasks of this kind differ; the first is the canonical one.
        held_out: sentences that mean the same and that no training saw.
    """

    name: str
    templates: tuple[str, ...]
    held_out: tuple[str, ...] = ()

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of what the tasks of this kind differ in, in the order of the canonical sentence."""
        return tuple(field for _, field, _, _ in string.Formatter().parse(self.templates[0]) if field)


@dataclass(frozen=True)
class Meaning:
    """What a sentence means.

    Attributes:
        kind: of the task.
        slots: what the sentence fills in, for example {"color": "red"}.
        canonical: the task's plainest sentence.
        spoken: the sentence as it was trained on; this is what the policy is given.
        held_out: whether no training saw the sentence.
    """

    kind: str
    slots: Mapping[str, str]
    canonical: str
    spoken: str
    held_out: bool = False


def foreign_signs(sentence: str) -> list[str]:
    """Characters of a sentence that are neither letters, digits, blanks nor punctuation."""
    text = unicodedata.normalize("NFKC", sentence)
    return [sign for sign in dict.fromkeys(text) if not (sign.isalnum() or sign.isspace() or sign in PUNCTUATION or unicodedata.category(sign) == "Mn")]


def plain(sentence: str) -> str:
    """Lower case, single blanks, no punctuation: what two sentences have in common that differ in these alone.

    It reads a sentence as the word-level tokenizer of the tiny model does (NFKC, lower case, punctuation is a blank).
    """
    text = unicodedata.normalize("NFKC", sentence).lower()
    return " ".join("".join(sign if sign.isalnum() or unicodedata.category(sign) == "Mn" else " " for sign in text).split())


def without_politeness(words: Sequence[str]) -> list[str]:
    """The words without "please" at either end."""
    kept = list(words)
    while kept and kept[0] in POLITE:
        kept.pop(0)
    while kept and kept[-1] in POLITE:
        kept.pop()
    return kept


class TaskCatalogue:
    """The sentences of one policy, and what each of them means.

    Args:
        kinds: in the order of the list.
        tasks: (kind, slots) of every task, in the order of the list.
        source: for people: where the list comes from.

    Raises:
        ValueError: a task of an unknown kind, a slot that is missing, or a sentence that means two tasks.
    """

    def __init__(self, kinds: Sequence[Kind], tasks: Sequence[tuple[str, Mapping[str, str]]], source: str = "") -> None:
        self.kinds = {kind.name: kind for kind in kinds}
        self.tasks = tuple((kind, dict(slots)) for kind, slots in tasks)
        self.source = source
        self._by_text: dict[str, Meaning] = {}
        self._by_spoken: dict[str, Meaning] = {}  # somebody's recordings may name signs that are no punctuation
        for meaning in self._meanings():
            self._by_spoken.setdefault(" ".join(meaning.spoken.split()), meaning)
            known = self._by_text.setdefault(plain(meaning.spoken) or meaning.spoken, meaning)
            if (known.kind, known.slots) != (meaning.kind, meaning.slots):
                raise ValueError(f"{meaning.spoken!r} cannot mean both {known.canonical!r} and {meaning.canonical!r}")

    @classmethod
    def of_sentences(cls, sentences: Iterable[str], source: str = "") -> TaskCatalogue:
        """Every sentence is a task of its own: what somebody's recordings say about themselves."""
        texts = {plain(text) or text: text for text in sorted(sentences)}
        return cls([Kind(RECORDED, ("{sentence}",))], [(RECORDED, {"sentence": text}) for text in sorted(texts.values())], source)

    def _meanings(self) -> Iterator[Meaning]:
        for name, slots in self.tasks:
            kind = self.kinds.get(name)
            if kind is None:
                raise ValueError(f"a task of kind {name!r} is listed, known are {', '.join(self.kinds)}")
            if set(slots) != set(kind.slots):
                raise ValueError(f"a task of kind {name!r} has the slots {sorted(slots)}, its sentences ask for {sorted(kind.slots)}")
            for template, held_out in (*((t, False) for t in kind.templates), *((t, True) for t in kind.held_out)):
                yield Meaning(name, slots, kind.templates[0].format(**slots), template.format(**slots), held_out)

    # -- asking ------------------------------------------------------------------------------------------------------
    def find(self, sentence: str) -> Meaning | None:
        """The meaning of a sentence that is a task in any case, punctuation and blanks, with or without "please"; else None."""
        if len(sentence.strip()) > MAX_INSTRUCTION_CHARS:
            return None
        exact = self._by_spoken.get(" ".join(sentence.split()))
        if exact is not None:
            return exact
        text = plain(sentence)
        if not text or foreign_signs(sentence):
            return None
        return self._by_text.get(text) or self._by_text.get(" ".join(without_politeness(text.split())))

    def meaning(self, sentence: str) -> Meaning:
        """The meaning of a sentence.

        Raises:
            InstructionError: it is not a task; says why, and which task is nearest.
        """
        found = self.find(sentence)
        if found is None:
            from wbvla_core.refusal import refusal

            raise refusal(sentence, self)
        return found

    def sentences(self, kind: str, slots: Mapping[str, str], held_out: bool = False) -> tuple[str, ...]:
        """All training sentences of a task, the canonical one first; or all held-out ones."""
        known = self.kinds[kind]
        return tuple(template.format(**slots) for template in (known.held_out if held_out else known.templates))

    @cached_property
    def canonical(self) -> tuple[str, ...]:
        """The plainest sentence of every task."""
        return tuple(dict.fromkeys(self.kinds[kind].templates[0].format(**slots) for kind, slots in self.tasks))

    @cached_property
    def meanings(self) -> tuple[Meaning, ...]:
        """Every sentence with its meaning."""
        return tuple(self._by_text.values())

    def values(self, slot: str) -> tuple[str, ...]:
        """What may stand in a slot, in the order of the list."""
        return tuple(dict.fromkeys(slots[slot] for _, slots in self.tasks if slot in slots))

    def summary(self) -> tuple[str, ...]:
        """One line per kind: the canonical sentence with everything that its slots may hold, recorded sentences one by one."""
        lines: list[str] = []
        for name, group in itertools.groupby(self.tasks, key=lambda task: task[0]):
            slots = [slots for _, slots in group]
            template = self.kinds[name].templates[0]
            if name == RECORDED:
                lines += [template.format(**one) for one in slots]
            else:
                lines.append(template.format(**{slot: listed(dict.fromkeys(one[slot] for one in slots)) for slot in self.kinds[name].slots}))
        return tuple(lines)

    # -- on disk -----------------------------------------------------------------------------------------------------
    def to_json(self) -> dict[str, Any]:
        kinds = {kind.name: {"templates": list(kind.templates), "held_out": list(kind.held_out)} for kind in self.kinds.values()}
        return {"schema": SCHEMA, "source": self.source, "kinds": kinds, "tasks": [{"kind": kind, "slots": slots} for kind, slots in self.tasks]}

    @classmethod
    def from_json(cls, data: Any) -> TaskCatalogue:
        """Inverse of :meth:`to_json`; ValueError where ``data`` is not one."""
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise ValueError(f"a list of tasks must be an object of schema {SCHEMA}, got {str(data)[:60]}")
        try:
            kinds = [Kind(name, tuple(entry["templates"]), tuple(entry["held_out"])) for name, entry in data["kinds"].items()]
            return cls(kinds, [(task["kind"], task["slots"]) for task in data["tasks"]], data.get("source", ""))
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"a list of tasks must hold kinds with templates and tasks with slots: {type(error).__name__}: {error}") from error

    def save(self, directory: Path) -> None:
        """Write ``tasks.json``; the manifest that names it is written afterwards."""
        write_json(Path(directory) / TASKS_FILE, self.to_json())

    @classmethod
    def of(cls, manifest: Manifest) -> TaskCatalogue | None:
        """The list of a policy bundle, None where it has none.

        Raises:
            CheckpointError: the file is not a list of tasks.
        """
        if TASKS_FILE not in manifest.files:
            return None
        path = manifest.path(TASKS_FILE)
        try:
            return cls.from_json(json.loads(path.read_text()))
        except OSError as error:
            raise CheckpointError(
                f"{manifest.label}: {path} cannot be read ({error.strerror}); copy the directory again", ErrorCode.CHECKPOINT_MISSING
            ) from error
        except ValueError as error:  # also what json raises
            raise CheckpointError(f"{manifest.label}: {path}: {error}; copy or export the bundle again", ErrorCode.CHECKPOINT_CORRUPT) from error


def listed(values: Iterable[str], last: str = "or") -> str:
    """ "a", "a or b", "a, b or c"."""
    *front, end = values
    return f"{', '.join(front)} {last} {end}" if front else end

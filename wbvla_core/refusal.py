"""Why a sentence is not a task, and which task was probably meant.

Whether a sentence is a task is decided by :class:`~wbvla_core.catalogue.TaskCatalogue` alone. What is said here may
be vague; it must not mislead. The rules look for plain signs, in an order in which the more certain comes first; the
words that they know are in :mod:`wbvla_core.refusal_words`.
"""

from __future__ import annotations

import enum
import functools
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from wbvla_core import refusal_words as english
from wbvla_core.catalogue import MAX_INSTRUCTION_CHARS, RECORDED, TaskCatalogue, foreign_signs, listed, plain, without_politeness
from wbvla_core.errors import ErrorCode, InstructionError

MAX_OFFERED = 4  # sentences that a refusal names
NEAR = 0.85  # of what sentences may differ in and still be called the same in other words, see _Reading.distance
FAR = 2.0  # a difference that no other words explain
RELATED = 0.25  # share of their words that two sentences must have in common to be called near


class Reason(str, enum.Enum):
    """Why a sentence is refused."""

    EMPTY = "empty"
    LONG = "long"
    SIGNS = "signs"
    STOP = "stop"
    LANGUAGE = "language"
    NEGATION = "negation"
    QUESTION = "question"
    CONDITION = "condition"
    NUMBER = "number"
    SEVERAL = "several"
    VERB = "verb"
    OBJECT = "object"
    SIDE = "side"
    THING = "thing"
    WORDS = "words"


HOW_TO_STOP = (
    "a sentence does not stop the robot: cancel the running task (Ctrl-C in the terminal that sent it) and the robot stands still; "
    "in danger use the emergency stop, `wbvla stop`"
)


@dataclass(frozen=True)
class Finding:
    """What one rule found.

    Attributes:
        reason: the kind of refusal.
        why: for people, without capital and full stop.
        nearest: canonical sentences, the best first.
    """

    reason: Reason
    why: str
    nearest: tuple[str, ...] = ()


def refusal(sentence: str, catalogue: TaskCatalogue) -> InstructionError:
    """The error for a sentence that ``catalogue`` does not have."""
    found = explain(sentence, catalogue)
    code = {Reason.EMPTY: ErrorCode.INSTRUCTION_EMPTY, Reason.LONG: ErrorCode.INSTRUCTION_TOO_LONG}.get(found.reason, ErrorCode.INSTRUCTION_UNKNOWN_WORDS)
    shown = sentence if len(sentence) <= 80 else f"{sentence[:60]}…"
    if found.reason is Reason.EMPTY:
        text = found.why
    elif found.reason is Reason.STOP:
        text = f"{_quoted(shown)} is not a task: {found.why}"
    else:
        text = f"{_quoted(shown)} is not a task of this policy: {found.why}"
    text += "" if text.endswith("?") else "."
    if found.nearest:
        text += f" Nearest that it can do: {listed([_quoted(one) for one in found.nearest[:MAX_OFFERED]])}"
    elif found.reason not in (Reason.STOP, Reason.EMPTY):
        text += f" {what_it_can(catalogue)}"
    return InstructionError(text, code, found.reason.value, found.nearest[:MAX_OFFERED])


def what_it_can(catalogue: TaskCatalogue, most: int = 12) -> str:
    """ "It can: ..." in one line; of a long list the first ``most`` kinds of sentence."""
    lines = catalogue.summary()
    return f"It can: {'; '.join(lines[:most])}" + (f"; and {len(lines) - most} more (`wbvla tasks`)" if len(lines) > most else "")


def _quoted(text: str) -> str:
    """In quotes, with whatever a terminal would not show written out."""
    return '"' + "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text) + '"'


def explain(sentence: str, catalogue: TaskCatalogue) -> Finding:
    """Why ``sentence`` is not in ``catalogue``."""
    if not plain(sentence) and not foreign_signs(sentence):
        return Finding(Reason.EMPTY, f"the instruction is empty; say what to do, for example {_quoted(catalogue.canonical[0])}")
    if len(sentence.strip()) > MAX_INSTRUCTION_CHARS:
        return Finding(Reason.LONG, f"it has {len(sentence.strip())} characters, at most {MAX_INSTRUCTION_CHARS} are read; say it in one short sentence")
    signs = foreign_signs(sentence)
    if signs:
        return Finding(Reason.SIGNS, f"{listed(map(_named_sign, signs[:3]), 'and')} stand{'s' if len(signs) == 1 else ''} in it; use plain words only")
    reading = _Reading(sentence, catalogue)
    rules: tuple[Callable[[], Finding | None], ...] = (
        *(reading.polite, reading.stop, reading.other_words, reading.language, reading.negation, reading.question, reading.untrained_verb),
        *(reading.condition, reading.number, reading.several, reading.more_words, reading.unknown_start, reading.missing),
    )
    return next((found for rule in rules if (found := rule()) is not None), None) or reading.anything_else()


def _named_sign(sign: str) -> str:
    name = unicodedata.name(sign, f"U+{ord(sign):04X}").lower()
    return f"{sign!r} ({name})" if sign.isprintable() else f"an invisible sign ({name})"


def distance(a: str, b: str, at_most: int = 1000) -> int:
    """Number of letters that differ: insertions, deletions, replacements and swaps of neighbours (optimal string alignment).

    Above ``at_most`` it is only said that it is above.
    """
    rows: list[list[int]] = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            best = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        if min(min(row), min(rows[-1])) > at_most:
            return at_most + 1
        rows.append(row)
    return rows[-1][-1]


KNOWN_ENGLISH = frozenset().union(
    *(english.STOP_WORDS, english.NEGATIONS, english.QUESTIONS, english.CONDITIONS, english.NUMBERS, english.JOINERS, english.BOTH),
    *(english.DIRECTIONS, english.VERBS, english.IGNORED, english.SYNONYMS, english.VERB_SYNONYMS),
)


def nearest_word(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant: a synonym, or a typo of it; None where a hint would be a guess.

    A word of English that merely looks alike is no typo ("lift" is not "left").
    """
    words = list(known)
    for meant in (*english.SYNONYMS.get(word, ()), *english.VERB_SYNONYMS.get(word, ())):
        if meant in words:
            return meant
    if word in KNOWN_ENGLISH or len(word) < 3:
        return None
    ranked = sorted((distance(word, other, 2), other) for other in words if len(other) >= 3)
    return ranked[0][1] if ranked and ranked[0][0] <= _allowed(word) else None


def _allowed(text: str) -> int:
    """How many letters may be wrong in a word or in a whole sentence without its blanks."""
    return 1 if len(text) <= 10 else 2


class _Words:
    """What the rules need to know of a catalogue.

    Attributes:
        listed: words of every sentence, without "please", and its meaning.
        known: every word of them. leads: those that a sentence begins with. pairs: those that follow one another.
        values: value of a slot -> slot.
        weight: how much a word says about which kind is meant: 1 / number of kinds that use it; a slot's value counts double, articles hardly.
    """

    def __init__(self, catalogue: TaskCatalogue) -> None:
        self.listed = [(without_politeness(plain(meaning.spoken).split()), meaning) for meaning in catalogue.meanings]
        self.known = {word for words, _ in self.listed for word in words}
        self.leads = {words[0] for words, _ in self.listed if words}
        self.pairs = {pair for words, _ in self.listed for pair in zip(words, words[1:], strict=False)}
        self.values: dict[str, str] = {}
        for _, slots in (task for task in catalogue.tasks if task[0] != RECORDED):
            self.values |= {word: slot for slot, value in slots.items() if len(words := plain(value).split()) == 1 for word in words}
        kinds: dict[str, set[str]] = {}
        for words, meaning in self.listed:
            for word in words:
                kinds.setdefault(word, set()).add(meaning.kind)
        self.weight = {word: 1.0 / len(of) for word, of in kinds.items()} | dict.fromkeys(english.IGNORED, 0.05) | dict.fromkeys(self.values, 2.0)


_words_of = functools.lru_cache(maxsize=4)(_Words)


class _Reading:
    """One sentence held against one catalogue; each rule returns what it found, or None."""

    def __init__(self, sentence: str, catalogue: TaskCatalogue) -> None:
        self.catalogue = catalogue
        self.all_words = plain(sentence).replace("side step", "sidestep").split()
        self.asked = sentence.rstrip().endswith("?")
        self.opening, self.core = _without_manners(self.all_words)
        words = _words_of(catalogue)
        self.listed, self.known, self.values = words.listed, words.known, words.values
        self.known_leads, self._pairs, self._weight = words.leads, words.pairs, words.weight
        self._costs: dict[tuple[str, str, bool], float] = {}

    # -- rules, the most certain first -------------------------------------------------------------------------------
    def polite(self) -> Finding | None:
        found = self.catalogue.find(" ".join(self.core))
        extra = " ".join(self.all_words).replace(" ".join(self.core), "…", 1)
        return found and Finding(Reason.WORDS, f"say it plainly, without {_quoted(extra)}", (found.canonical,))

    def stop(self) -> Finding | None:
        text = " ".join(self.core)
        first = self.core[0] if self.core else ""
        if (first in english.STOP_WORDS and first not in self.known_leads) or any(text.startswith(phrase) for phrase in english.STOP_PHRASES):
            return Finding(Reason.STOP, HOW_TO_STOP)
        return None

    def other_words(self) -> Finding | None:
        """Synonyms, typos, an article more or less."""
        phrase = english.PHRASES.get(" ".join(self.core))
        found = phrase and self.catalogue.find(phrase)
        if found:
            return Finding(Reason.WORDS, f"it was trained with other words: {_quoted(found.spoken)}", (found.canonical,))
        best = min(((self._differ(words), meaning) for words, meaning in self.listed), key=lambda pair: pair[0][0], default=None)
        if best is None or best[0][0] > NEAR:
            return None
        (_, fixes), meaning = best
        hints = ", ".join(f"{_quoted(said)}: did you mean {_quoted(meant)}?" for said, meant in fixes.items())
        return Finding(Reason.WORDS, hints or f"it was trained with other words: {_quoted(meaning.spoken)}", (meaning.canonical,))

    def language(self) -> Finding | None:
        foreign = [word for word in self.all_words if not word.isascii() or (word in english.FOREIGN and word not in self.known)]
        if any(not word.isascii() for word in foreign) or len(foreign) > 1:
            return Finding(Reason.LANGUAGE, "it is trained on English sentences only")
        return None

    def negation(self) -> Finding | None:
        said = next((word for word in self.core if word in english.NEGATIONS and word not in self.known), None)
        contracted = next((f"{a}'t" for a, b in zip(self.core, self.core[1:], strict=False) if b == "t" and a in english.NEGATED), None)
        word = contracted or said
        return word and Finding(Reason.NEGATION, f"{_quoted(word)} says what not to do, which it cannot follow; without a task the robot stands still")

    def question(self) -> Finding | None:
        if not self.core:
            return None
        first, second = self.core[0], self.core[1] if len(self.core) > 1 else ""
        asks = first in english.QUESTIONS and first not in self.known and (first not in english.ASKS_ABOUT or second in english.SUBJECTS)
        asks = asks and not (first in english.CONDITIONS and not self.asked)
        sees = first in english.PERCEIVING and any(word in english.QUESTIONS for word in self.opening)
        return Finding(Reason.QUESTION, "it answers no questions, it carries out tasks", self._nearest()) if asks or sees else None

    def untrained_verb(self) -> Finding | None:
        """A verb that begins no sentence, or one that begins some but means something else here ("turn the box over")."""
        if not self.core:
            return None
        first, rest = self.core[0], self.core[1:]
        if first not in self.known_leads:
            return self._cannot(first) if first in english.VERBS else None
        second = rest[0] if rest else ""
        if not rest or (first, second) in self._pairs or (second in ("around", "round") and len(rest) == 1):
            return None
        if second in english.DIRECTIONS:
            return self._cannot(f"{first} {second}")
        if first not in english.VERBS or not (second in english.ARTICLES or second in self.values):
            return None
        example = " ".join(min((one for one in self.listed if one[0][:1] == [first]), key=lambda one: one[1].held_out)[0])
        return Finding(Reason.VERB, f"{_quoted(first)} is known to it only as in {_quoted(example)}", self._nearest())

    def condition(self) -> Finding | None:
        word = next((word for word in self.core if word in english.CONDITIONS and word not in self.known), None)
        why = f"{_quoted(word or '')} makes it depend on something; a task begins when it is sent"
        return word and Finding(Reason.CONDITION, why, self._contained() or self._nearest())

    def number(self) -> Finding | None:
        numbers = [word for word in self.core if (word in english.NUMBERS or any(sign.isdigit() for sign in word)) and word not in self.known]
        if not numbers:
            return None
        rest = self.catalogue.find(" ".join(word for word in self.core if word not in numbers))
        why = f"it knows no distances, angles, times or counts ({_quoted(' '.join(numbers))})"
        return Finding(Reason.NUMBER, why, (rest.canonical,) if rest else self._contained() or self._nearest())

    def several(self) -> Finding | None:
        tasks, words_left = self._tasks_inside()
        joined = any(word in english.JOINERS for word in self.core)
        one_by_one = Finding(Reason.SEVERAL, "it does one task at a time; send them one after the other", tuple(dict.fromkeys(tasks)))
        if len(tasks) > 1:
            return one_by_one
        for slot in dict.fromkeys(self.values.values()):
            named = list(dict.fromkeys(word for word in self.core if self.values.get(word) == slot))
            if len(named) > 1:
                nearest = tuple(best for one in named for best in self._nearest([w for w in self.core if w not in named or w == one])[:1])
                return Finding(Reason.SEVERAL, f"it names {listed(map(_quoted, named), 'and')}; say one of them", nearest)
        if tasks and joined and words_left:
            return one_by_one
        if any(word in english.BOTH and word not in self.known for word in self.core):
            return Finding(Reason.SEVERAL, "it does one thing at a time; name one of them", self._nearest())
        return None

    def more_words(self) -> Finding | None:
        """A task with words before, behind or inside it that no training had there."""
        tasks, left = self._tasks_inside()
        if tasks:
            return Finding(Reason.WORDS, f"it was not trained with {_quoted(' '.join(left))} beside a task", tuple(tasks))
        strange = self._strange()
        kept = self.catalogue.find(" ".join(word for word in self.core if word not in strange)) if strange else None
        return kept and Finding(Reason.WORDS, f"it was not trained with {_quoted(' '.join(strange))}", (kept.canonical,))

    def unknown_start(self) -> Finding | None:
        if not self.core or self.core[0] in self.known or len(self.core) < 2:
            return None
        return self._cannot(self.core[0]) if any(word in self.known and word not in english.IGNORED for word in self.core[1:]) else None

    def missing(self) -> Finding | None:
        """The verb is known, but what it is to be done with is not named, or is something else."""
        if not self.core or self.core[0] not in self.known_leads:
            return None
        strange = self._strange()
        kinds = self._kinds()
        slots = [slot for kind in kinds for slot in self.catalogue.kinds[kind].slots]
        named = {self.values[word] for word in self.core if word in self.values}
        if named - set(slots) or RECORDED in kinds:  # "walk left": the slot of another kind; recorded sentences have none
            return None
        if strange:
            only = self._nearest() if named else self._all_of(kinds)
            return Finding(Reason.THING, f"it was not trained with {_quoted(' '.join(strange))}", only)
        if not slots or named:
            return None
        which = listed(self.catalogue.values(slots[0]))
        reason, what = (Reason.SIDE, "no side is named") if slots[0] == "side" else (Reason.OBJECT, "it does not say which one")
        return Finding(reason, f"{what}: {which}?", self._all_of(kinds))

    def anything_else(self) -> Finding:
        strange = self._strange()
        why = f"it was not trained with {_quoted(' '.join(strange))}" if strange else "these words are known, this sentence is not"
        return Finding(Reason.WORDS, why, self._nearest())

    # -- what the rules look at --------------------------------------------------------------------------------------
    def _cannot(self, what: str) -> Finding:
        return Finding(Reason.VERB, f"it was not trained to {_quoted(what)}", self._nearest())

    def _strange(self) -> list[str]:
        """Words that the policy does not know and that carry meaning."""
        return [
            word
            for word in self.core
            if word not in self.known and word.rstrip("s") not in self.known and not self._is_plural(word) and word not in english.IGNORED
        ]

    def _is_plural(self, word: str) -> bool:
        return word.endswith("es") and word[:-2] in self.known

    def _tasks_inside(self) -> tuple[list[str], list[str]]:
        """Canonical sentences of the tasks that stand in the sentence word by word, the longest first at each place; and the words left over."""
        tasks: list[str] = []
        left: list[str] = []
        place = 0
        while place < len(self.core):
            fitting = [(words, meaning) for words, meaning in self.listed if words and self.core[place : place + len(words)] == words]
            if fitting:
                words, meaning = max(fitting, key=lambda pair: len(pair[0]))
                tasks.append(meaning.canonical)
                place += len(words)
            else:
                left.append(self.core[place])
                place += 1
        return tasks, left

    def _contained(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._tasks_inside()[0]))

    def _overlap(self, said: Sequence[str], words: Sequence[str]) -> float:
        """Share of the weight that two lists of words have in common, 0..1. A word that no sentence has weighs as much as a rare one."""

        def weigh(some: Iterable[str]) -> float:
            return sum(self._weight.get(word, 0.5) for word in some)

        a, b = set(said), set(words)
        return 2.0 * weigh(a & b) / max(weigh(a) + weigh(b), 1e-9)

    def _meant(self, words: Sequence[str]) -> list[str]:
        """The words, with synonyms and typos replaced by words that the policy knows."""
        return [word if word in self.known else nearest_word(word, self.known) or word.rstrip("s") for word in words]

    def _nearest(self, core: Sequence[str] | None = None) -> tuple[str, ...]:
        """Canonical sentences of the tasks that share most with the sentence, as far as they share enough."""
        said = self._meant(self.core if core is None else core)
        named = {self.values[word]: word for word in said if word in self.values}
        scores: dict[str, float] = {}
        for words, meaning in self.listed:
            if all(meaning.slots.get(slot) in (None, value) for slot, value in named.items()):
                unsaid = {value for slot, value in meaning.slots.items() if slot not in named}
                words = [word for word in words if word not in unsaid]
                scores[meaning.canonical] = max(scores.get(meaning.canonical, 0.0), self._overlap(said, words))
        best = max(scores.values(), default=0.0)
        return tuple(one for one, score in scores.items() if score >= max(RELATED, 0.97 * best)) if best >= RELATED else ()

    def _kinds(self) -> list[str]:
        """Kinds whose sentences, without what fills their slots, share most with the sentence."""
        said = [word for word in self._meant(self.core) if word not in self.values]
        scores: dict[str, float] = {}
        for words, meaning in self.listed:
            skeleton = [word for word in words if word not in meaning.slots.values()]
            scores[meaning.kind] = max(scores.get(meaning.kind, 0.0), self._overlap(said, skeleton))
        best = max(scores.values(), default=0.0)
        return [kind for kind, score in scores.items() if score >= 0.97 * best > 0.0]

    def _all_of(self, kinds: Sequence[str]) -> tuple[str, ...]:
        return tuple(self.catalogue.sentences(kind, slots)[0] for kind, slots in self.catalogue.tasks if kind in kinds)

    def _differ(self, words: list[str]) -> tuple[float, dict[str, str]]:
        """How far the sentence is from a listed one, and which words were meant by others; blanks may be set wrongly."""
        joined, other = "".join(self.core), "".join(words)
        aligned = self._align(words)
        if aligned[0] <= NEAR or abs(len(joined) - len(other)) > _allowed(other) or self._other_word(words):
            return aligned
        if len(self.core) == len(words) and sum(said != meant for said, meant in zip(self.core, words, strict=True)) == 1:
            return aligned  # the blanks are right, so the one other word is another word ("grey" is not "red")
        letters = distance(joined, other, _allowed(other))
        return (0.3 * letters, {" ".join(self.core): " ".join(words)}) if letters <= _allowed(other) else aligned

    def _other_word(self, words: list[str]) -> bool:
        """Whether a word of the sentence is plain English of another meaning, so that likeness of letters means nothing."""
        short = len(self.core) <= 2 or len(self.core) != len(words)
        differing = [said for said, meant in zip(self.core, words, strict=False) if said != meant] if len(self.core) == len(words) else []
        return not short and any(word in KNOWN_ENGLISH or word in self.known for word in differing)

    def _align(self, words: list[str]) -> tuple[float, dict[str, str]]:
        """Edit distance word by word -> (cost, said -> meant); (FAR, {}) as soon as it is beyond NEAR."""
        said = self.core
        # Cheap bounds first: a word that is missing needs another in its place, and a word too many needs a place.
        missing = sum(word not in english.ARTICLES for word in words if word not in said)
        extra = [word for word in said if word not in words]
        if missing > len(extra) or sum(word not in english.FILLERS for word in extra) > sum(word not in said for word in words):
            return FAR, {}
        table: list[list[tuple[float, tuple]]] = [[(0.0, ())]]
        for word in words:
            cost, fixes = table[0][-1]
            table[0].append((cost + self._left_out(word), fixes))
        for i, word in enumerate(said):
            row = [(table[i][0][0] + self._added(word), table[i][0][1])]
            for j, meant in enumerate(words):
                replaced = self._replaced(word, meant, first=i == 0)
                fixed = table[i][j][1] + (((word, meant),) if word != meant and word not in english.ARTICLES else ())
                row.append(
                    min(
                        (table[i][j][0] + replaced, fixed),
                        (table[i][j + 1][0] + self._added(word), table[i][j + 1][1]),
                        (row[-1][0] + self._left_out(meant), row[-1][1]),
                        key=lambda pair: pair[0],
                    )
                )
            if min(cost for cost, _ in row) > NEAR:
                return FAR, {}
            table.append(row)
        cost, fixes = table[-1][-1]
        return cost, dict(fixes)

    def _left_out(self, word: str) -> float:
        return 0.2 if word in english.ARTICLES else FAR

    def _added(self, word: str) -> float:
        return 0.2 if word in english.FILLERS and word not in self.values else FAR

    def _replaced(self, said: str, meant: str, first: bool) -> float:
        key = (said, meant, first)
        if key not in self._costs:
            self._costs[key] = self._cost_of(*key)
        return self._costs[key]

    def _cost_of(self, said: str, meant: str, first: bool) -> float:
        if said == meant:
            return 0.0
        if said in english.ARTICLES and meant in english.ARTICLES:
            return 0.05
        if meant in english.SYNONYMS.get(said, ()) or (first and meant in english.VERB_SYNONYMS.get(said, ())):
            return 0.1
        if said in self.known or said in KNOWN_ENGLISH:
            return FAR
        wrong = distance(said, meant, 2)
        return 0.2 * wrong if wrong <= _allowed(meant) and len(meant) > 2 else FAR


def _without_manners(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(what was said before the sentence for politeness, the sentence)."""
    opening: list[str] = []
    core = list(words)
    changed = True
    while changed and core:
        changed = False
        for phrase in english.OPENINGS:
            parts = phrase.split()
            if core[: len(parts)] == parts and len(core) > len(parts):
                opening, core, changed = opening + parts, core[len(parts) :], True
                break
    changed = True
    while changed:
        changed = False
        for phrase in english.CLOSINGS:
            parts = phrase.split()
            if core[-len(parts) :] == parts and len(core) > len(parts):
                core, changed = core[: -len(parts)], True
    return opening, core

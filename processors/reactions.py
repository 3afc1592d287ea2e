"""What a user's next message says about the answer before it: implicit signals, by rule.

Nothing here is stored or sent: the ``assemble`` stage and ``driftwheel signals`` ask the same functions. Every reaction
names the rule that made it and what the rule saw; it never quotes a text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from types import MappingProxyType
from typing import NamedTuple

from processors.likeness import LETTERS, Likeness
from processors.phrases import CORRECTION, ESCALATION, TOLD, flat, is_closing
from processors.text import normal, words

Evidence = Mapping[str, str]
NO_EVIDENCE: Evidence = MappingProxyType({})


class Reaction(NamedTuple):
    """One implicit signal: ``value`` in [-1, 1], ``weight`` in [0, 1] (how much to believe it), what it rests on."""

    name: str
    value: float
    weight: float
    evidence: Evidence = NO_EVIDENCE

    @property
    def score(self) -> float:
        """Value times weight: below 0 speaks of failure."""
        return round(self.value * self.weight, 4)

    def by(self, rule: str, **seen: object) -> Reaction:
        """The same with its evidence; what is None was not seen."""
        return self._replace(evidence={"rule": rule} | {k: str(v) for k, v in seen.items() if v is not None})


REPHRASE = Reaction("rephrase", -1.0, 0.6)
REPEAT = Reaction("repeat", -1.0, 0.6)
REGENERATE = Reaction("regenerate", -1.0, 0.5)
CORRECTED = Reaction("explicit_correction", -1.0, 0.8)
ESCALATED = Reaction("escalation", -1.0, 0.7)
FORGETFUL = Reaction("forgetfulness", -1.0, 0.5)
DWELL = Reaction("dwell", -1.0, 0.1)
COMPLETE = Reaction("task_complete", 1.0, 0.6)
PROCEEDED = Reaction("proceeded", 1.0, 0.2)
ABANDONED = Reaction("abandonment", -1.0, 0.2)
DIVERGED = Reaction("divergence", -1.0, 0.2)
STOPPED = Reaction("stopped", -1.0, 0.5)
TAKEN_OVER = Reaction("manual_takeover", -1.0, 0.6)


@dataclass(frozen=True, slots=True)
class ReactionRules:
    """Thresholds; durations in seconds. A rule that needs a time says nothing without it.

    ``rephrase_at``: likeness of letters from which a message rephrases another, when at most ``rephrase_gap`` apart;
    with a model of meaning also ``meaning_at`` by its measure. ``regenerate_gap``: the very same text so soon is a
    press of the button, not a question asked again. ``restated_at``: likeness with an earlier message from which an
    answer to the agent's question was given before. ``dwell_z``: robust deviations of a pause, for the length of the
    answer, from those of the session before, of which there are at least ``dwell_after``. ``diverged_at``: likeness in
    meaning of the last messages with the first under which the conversation has drifted off (None: what suits
    the model).
    """

    rephrase_at: float = 0.5
    rephrase_gap: float = 300.0
    meaning_at: float | None = None
    regenerate_gap: float = 120.0
    restated_at: float = 0.6
    dwell_z: float = 3.0
    dwell_after: int = 4
    diverged_at: float | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """One exchange: what the user said; whether the agent's answer asks something, and how many words it has.

    Times in seconds, None when they are not known.
    """

    text: str
    asks: bool = False
    length: int = 0
    start: float | None = None
    end: float | None = None
    id: str = ""
    paces: tuple[float, ...] = ()
    """The paces (see ``pace``) of the session before this exchange."""
    whole: str = ""
    """The identity of the whole text where ``text`` is only its beginning."""


def said(text: str, answer: str, start: float | None = None, end: float | None = None, id_: str = "") -> Said:
    """An exchange from its texts."""
    return Said(text, "?" in answer, len(words(answer)), start, end, id_)


def gap_between(before: Said, now: Said) -> float | None:
    """Seconds from an answer to the next message, at least 0; None when either is not known."""
    return None if before.end is None or now.start is None else max(now.start - before.end, 0.0)


def pace(before: Said, now: Said) -> float | None:
    """The logarithm of the pause before a message for the length of the answer that was to be read."""
    gap = gap_between(before, now)
    return None if gap is None else round(math.log((gap + 1.0) / (before.length + 10.0)), 4)


def reactions(
    earlier: Sequence[Said], now: Said, rules: ReactionRules, alike: Likeness = LETTERS
) -> Iterator[Reaction]:
    """What message ``now`` says about the last of the ``earlier`` exchanges (at least one), the newest last.

    >>> asked = Said("reset my vpn")
    >>> [r.name for r in reactions([asked], Said("No, I meant the vpn token reset"), ReactionRules())]
    ['explicit_correction', 'rephrase']
    >>> [r.name for r in reactions([asked], Said("when is payday"), ReactionRules())]
    ['proceeded']
    """
    found = list(_complaints(earlier, now, rules, alike))
    yield from found
    if not found:
        if is_closing(now.text):
            yield COMPLETE.by("phrase:closing")
        elif normal(now.text) and LETTERS(earlier[-1].text, now.text) < rules.rephrase_at:
            yield PROCEEDED.by("another_matter", gap_s=_shown(gap_between(earlier[-1], now)))
    slow = _dwell(earlier[-1], now, rules)
    if slow is not None:
        yield slow


def _complaints(earlier: Sequence[Said], now: Said, rules: ReactionRules, alike: Likeness) -> Iterator[Reaction]:
    spoken = flat(now.text)
    if CORRECTION.search(spoken):
        yield CORRECTED.by("phrase:correction")
    if ESCALATION.search(spoken):
        yield ESCALATED.by("phrase:escalation")
    again = _asked_again(earlier[-1], now, rules, alike)
    if again is not None:
        yield again
    forgot = _forgotten(earlier, now, rules, alike)
    if forgot is not None:
        yield forgot


def _asked_again(before: Said, now: Said, rules: ReactionRules, alike: Likeness) -> Reaction | None:
    gap = gap_between(before, now)
    shown = _shown(gap)
    if normal(before.text) and normal(before.text) == normal(now.text) and before.whole == now.whole:
        soon = gap is not None and gap <= rules.regenerate_gap
        if soon and before.text == now.text and len(words(now.text)) > 1:
            return REGENERATE.by("identical", gap_s=shown)
        return REPEAT.by("same_words", gap_s=shown)
    if gap is not None and gap > rules.rephrase_gap:
        return None
    measured = _alike(before.text, now.text, rules.rephrase_at, _first(rules.meaning_at, alike.at), alike)
    return None if measured is None else REPHRASE.by("alike", similarity=measured[0], measure=measured[1], gap_s=shown)


def _alike(one: str, two: str, at: float, meaning_at: float, alike: Likeness) -> tuple[float, str] | None:
    """The likeness and its measure when it is enough: letters first, since they cost nothing."""
    letters = round(LETTERS(one, two), 4)
    if letters >= at:
        return letters, LETTERS.name
    if not alike.meaning or is_closing(two) or min(len(words(one)), len(words(two))) < 3:
        return None
    meaning = alike(one, two)
    return (meaning, alike.name) if meaning >= meaning_at else None


def _forgotten(earlier: Sequence[Said], now: Said, rules: ReactionRules, alike: Likeness) -> Reaction | None:
    if TOLD.search(flat(now.text)):
        return FORGETFUL.by("phrase:told_before")
    if not earlier[-1].asks or not normal(now.text) or len(words(now.text)) < 2:
        return None
    for one in reversed(earlier[:-1]):
        measured = _alike(one.text, now.text, rules.restated_at, _first(rules.meaning_at, alike.at) + 0.1, alike)
        if measured is not None:
            return FORGETFUL.by("restated", similarity=measured[0], measure=measured[1], first_said=one.id or None)
    return None


def _dwell(before: Said, now: Said, rules: ReactionRules) -> Reaction | None:
    """A pause that is out of line with this user's own earlier ones (median and median deviation)."""
    took = pace(before, now)
    if took is None or len(now.paces) < rules.dwell_after:
        return None
    middle = median(now.paces)
    spread = max(1.4826 * median(abs(one - middle) for one in now.paces), 0.25)
    z = round((took - middle) / spread, 2)
    return DWELL.by("slow", z=z, gap_s=_shown(gap_between(before, now))) if z > rules.dwell_z else None


def abandoned(last: Said, gap: float | None = None) -> Reaction | None:
    """What silence after the last exchange says: nothing when its message only thanked."""
    return None if is_closing(last.text) else ABANDONED.by("silence", gap_s=_shown(gap))


def diverged(first: str, last: Sequence[str], rules: ReactionRules, alike: Likeness) -> Reaction | None:
    """Whether the last two messages have left the first request behind, by meaning; None without a model of it."""
    if not alike.meaning or len(last) < 2 or any(is_closing(text) for text in last):
        return None
    mean = round(sum(alike(first, text) for text in last) / len(last), 4)
    bar = _first(rules.diverged_at, alike.apart)
    return DIVERGED.by("left_first_request", similarity=mean, measure=alike.name) if mean < bar else None


def _first(given: float | None, otherwise: float) -> float:
    return otherwise if given is None else given


def _shown(gap: float | None) -> str | None:
    return None if gap is None else f"{gap:.0f}"

"""Groups of like texts, found in one pass: bounded JSON state, ids that stay, names in words that several people use.

A text joins the group whose mean vector is nearest, when it is near enough, or begins one. Groups whose means have come
close become one: the older id survives. Where there are too many, the one that has faded most is let go. Leader
clustering (Hartigan, "Clustering Algorithms", 1975, chapter 3) with the merging and fading of stream clusterers
(Cao et al., "Density-based clustering over an evolving data stream with noise", SDM 2006). Names are the terms with the
highest class-based TF-IDF (Grootendorst, "BERTopic", 2022): ``tf(t, c) / tf(., c) * log(1 + A / tf(t))``.

A word is part of a name once ``PEOPLE`` different people have used it in the group, so that no one person's words are
shown. Vectors are means of many texts, kept to 16 bits; sums are of whole numbers.
"""

from __future__ import annotations

import base64
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from processors.moments import seconds
from processors.text import content_words
from schemas.events import identity

Array: TypeAlias = NDArray[Any]
Group = dict[str, Any]
"""``c``: mean vector; ``n``: texts ever; ``w``: faded count, as of ``t`` (microseconds); ``who``: some of its people;
``terms``: a word to how many texts hold it and some of the people who used it; ``was``: ids merged into it."""

PEOPLE = 3
NAME = 4
_TERMS, _ALIASES, _STEADY, _FINE = 24, 16, 500, 32_767
_PLACEHOLDER = re.compile(r"<[A-Z][A-Z0-9_]*>")


@dataclass(frozen=True, slots=True)
class GroupRules:
    """Cosines from which a text joins a group (``near``), and two groups become one (``merge``).

    ``most``: groups at once. ``half_life``: seconds after which a text counts half when the weakest group is let go.
    """

    near: float
    merge: float = 0.7
    most: int = 64
    half_life: float = 14 * 86_400.0


def join(groups: dict[str, Group], seed: str, vector: Array, text: str, who: str, time: int, rules: GroupRules) -> str:
    """Put a text into its group, in place; the group's id, which is ``seed`` when it begins one."""
    name, near = _nearest(groups, vector) if groups else ("", -1.0)
    if near < rules.near:
        name = seed
        groups[name] = {"c": _written(vector), "n": 0, "w": 0.0, "t": time, "who": [], "terms": {}, "was": []}
    one = groups[name]
    one["n"] += 1
    mean = _read(one["c"])
    one["c"] = _written(mean + (vector - mean) / min(one["n"], _STEADY))
    one["w"], one["t"] = round(_faded(one, time, rules) + 1.0, 4), max(one["t"], time)
    one["who"] = _also(one["who"], [who], 2 * PEOPLE)
    for word in _telling(text):
        count, people = one["terms"].pop(word, (0, []))
        one["terms"][word] = [count + 1, _also(people, [who], PEOPLE)]
    _prune(one["terms"])
    if len(groups) > rules.most:
        del groups[min((n for n in groups if n != name), key=lambda n: _faded(groups[n], time, rules))]
    return name


def merge(groups: dict[str, Group], name: str, rules: GroupRules) -> tuple[str, list[str]]:
    """Make one of a group and its nearest where they are close: the surviving id, and the ids that now mean it."""
    others = {other: one for other, one in groups.items() if other != name}
    if not others:
        return name, []
    mean = _read(groups[name]["c"])
    nearest, near = _nearest(others, mean / np.linalg.norm(mean))
    if near < rules.merge:
        return name, []
    order = list(groups)
    older, younger = sorted((name, nearest), key=order.index)
    one, two = groups[older], groups.pop(younger)
    total = one["n"] + two["n"]
    one["c"] = _written((_read(one["c"]) * one["n"] + _read(two["c"]) * two["n"]) / total)
    last = max(one["t"], two["t"])
    one.update(n=total, w=round(_faded(one, last, rules) + _faded(two, last, rules), 4), t=last)
    one["who"] = _also(one["who"], two["who"], 2 * PEOPLE)
    for word, (count, people) in two["terms"].items():
        before, known = one["terms"].get(word, (0, []))
        one["terms"][word] = [before + count, _also(known, people, PEOPLE)]
    _prune(one["terms"])
    gone = [younger, *two["was"]]
    one["was"] = [*one["was"], *gone][-_ALIASES:]
    return older, gone


def name_of(groups: dict[str, Group], name: str) -> str:
    """The group's most telling words that ``PEOPLE`` people have used, most telling first; '' while there is none.

    >>> groups, rules = {}, GroupRules(near=0.5)
    >>> for who in "abc":
    ...     _ = join(groups, "g", np.eye(4)[0], f"reset the vpn token of {who * 5}", who, 0, rules)
    >>> name_of(groups, "g")
    'reset, token, vpn'
    """
    overall = Counter[str]()
    for one in groups.values():
        for word, (count, _) in one["terms"].items():
            overall[word] += count
    average = overall.total() / len(groups)
    terms = cast("dict[str, tuple[int, list[str]]]", groups[name]["terms"])
    total = sum(count for count, _ in terms.values())
    shown = [
        (-count / total * math.log(1.0 + average / overall[word]), word)
        for word, (count, people) in terms.items()
        if len(people) >= PEOPLE
    ]
    return ", ".join(word for _, word in sorted(shown)[:NAME])


def forget(groups: dict[str, Group], people: set[str]) -> Iterator[str]:
    """Let go of people, in place: of what they alone said, and that they said it. Yields the groups that are gone."""
    for name, one in list(groups.items()):
        one["who"] = [who for who in one["who"] if who not in people]
        left = {word: [count, [w for w in known if w not in people]] for word, (count, known) in one["terms"].items()}
        one["terms"] = {word: held for word, held in left.items() if held[1]}
        if not one["who"]:
            del groups[name]
            yield name


def witness(subject_hash: str, session_id: str) -> str:
    """Who said something, in six characters: the person, or the session of somebody unknown."""
    return identity("witness", subject_hash or session_id)[:6]


def _telling(text: str) -> list[str]:
    """The words of a text that may become part of a name: no placeholders, numbers or single letters."""
    found = set(content_words(_PLACEHOLDER.sub(" ", text)))
    return sorted(word for word in found if len(word) > 1 and not word[0].isdigit())


def _nearest(groups: dict[str, Group], vector: Array) -> tuple[str, float]:
    means = np.stack([_read(one["c"]) for one in groups.values()])
    cosines = means @ vector / np.maximum(np.linalg.norm(means, axis=1), 1e-9)
    place = int(cosines.argmax())
    return list(groups)[place], float(cosines[place])


def _faded(one: Group, time: int, rules: GroupRules) -> float:
    return float(one["w"]) * 0.5 ** (max(time - one["t"], 0) / seconds(rules.half_life))


def _also(known: list[str], more: list[str], most: int) -> list[str]:
    return [*known, *[one for one in dict.fromkeys(more) if one not in known]][:most]


def _prune(terms: dict[str, Any]) -> None:
    """Keep the words of most texts, of equals the newest."""
    while len(terms) > _TERMS:
        del terms[min(terms, key=lambda word: terms[word][0])]


def _read(text: str) -> Array:
    return np.frombuffer(base64.b64decode(text), dtype="<i2").astype(np.float64) / _FINE


def _written(vector: Array) -> str:
    return base64.b64encode(np.rint(np.asarray(vector, dtype=np.float64) * _FINE).astype("<i2").tobytes()).decode()

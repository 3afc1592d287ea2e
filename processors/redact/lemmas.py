"""Lemmas of spaCy's English pipeline, the same ones, without asking its two hundred patterns about every token.

The patterns of the attribute ruler look at one token (word, tag, dependency) or, a few of them, at two in a row, and
the lemmatiser looks at what the ruler made of one token. So a lemma follows from the token alone, or from those that
such a pattern takes together, and is found once for all places where the same stands. A model whose ruler looks at
anything else goes through its own pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
from spacy.attrs import DEP, ORTH, TAG  # pyright: ignore[reportMissingModuleSource]
from spacy.matcher import Matcher
from spacy.tokens import Doc

Unit = tuple[tuple[int, int, int], ...]
"""Tokens that patterns take together: word, tag and dependency of each, as spaCy's numbers."""
PARTS = ("tagger", "attribute_ruler", "lemmatizer")
"""What finds lemmas in spaCy's pipelines, in this order."""
MAX_KEPT = 100_000
_LOOKED_AT = {"TAG", "LOWER", "DEP", "IS_SPACE", "ORTH"}


class Lemmas:
    """Finds the lemmas of documents that ``nlp`` parsed; its tagger, ruler and lemmatiser have not run on them."""

    def __init__(self, nlp: Any) -> None:
        parts = dict(nlp.components)
        self._vocab = nlp.vocab
        self._tag, self._rule, self._lemmatise = (parts[name] for name in PARTS)
        patterns: list[list[dict[str, Any]]] = [one for rule in self._rule.patterns for one in rule["patterns"]]
        self._alone = all(set(token) <= _LOOKED_AT for token in chain.from_iterable(patterns))
        self._several = Matcher(nlp.vocab)
        self._several.add("several", [one for one in patterns if len(one) > 1])
        self._kept: dict[Unit, list[str]] = {}

    def of(self, doc: Any) -> list[str]:
        """The lemma of every token."""
        doc = self._tag(doc)
        if not self._alone:
            return [token.lemma_ for token in self._lemmatise(self._rule(doc))]
        units = self._units(doc)
        missing = list(dict.fromkeys(unit for unit in units if unit not in self._kept))
        if missing:
            if len(self._kept) > MAX_KEPT:
                self._kept.clear()
                missing = list(dict.fromkeys(units))
            self._kept |= zip(missing, self._found(missing), strict=True)
        return [lemma for unit in units for lemma in self._kept[unit]]

    def _units(self, doc: Any) -> list[Unit]:
        """The tokens one by one, but together where a pattern takes several."""
        rows: list[tuple[int, int, int]] = [tuple(row) for row in doc.to_array([ORTH, TAG, DEP]).tolist()]
        units, place = list[Unit](), 0
        for start, end in self._taken(doc):
            units += [(row,) for row in rows[place:start]]
            units.append(tuple(rows[start:end]))
            place = end
        return units + [(row,) for row in rows[place:]]

    def _taken(self, doc: Any) -> list[tuple[int, int]]:
        """Where patterns of several tokens match, without overlaps."""
        taken: list[tuple[int, int]] = []
        for start, end in sorted((start, end) for _, start, end in self._several(doc)):
            if taken and start < taken[-1][1]:
                taken[-1] = taken[-1][0], max(end, taken[-1][1])
            else:
                taken.append((start, end))
        return taken

    def _found(self, units: Sequence[Unit]) -> list[list[str]]:
        """What the pipeline makes of units, in one document, where none may seem to go with the next."""
        ends = [0, *accumulate(map(len, units))]
        doc = self._doc(list(chain.from_iterable(units)))
        if not {*self._taken(doc)} <= {*pairwise(ends)}:
            half = len(units) // 2
            return self._found(units[:half]) + self._found(units[half:])
        lemmas = [token.lemma_ for token in self._lemmatise(self._rule(doc))]
        return [lemmas[start:end] for start, end in pairwise(ends)]

    def _doc(self, rows: Sequence[tuple[int, int, int]]) -> Any:
        doc = Doc(self._vocab, words=[self._vocab.strings[word] for word, _, _ in rows])
        told: Any = np.array([row[1:] for row in rows], dtype="uint64")
        return doc.from_array([TAG, DEP], told)

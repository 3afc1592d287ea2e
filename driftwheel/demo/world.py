"""The simulated world: who asks what, when, and what is true. The product never sees the truth.

Before the shift, traffic comes from the labels that exist; at the shift, labels that were held back make up a share
of it. Everything is a function of the seed and of the number of the ask, never of what the product answered, so that
two runs with one seed meet the same asks.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from driftwheel.demo.rows import Row
from schemas.errors import UsageError
from schemas.events import identity

START = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
GAP_SECONDS = 20.0
STAFF = 400


@dataclass(frozen=True, slots=True)
class WorldSettings:
    """``shift_at`` and the shares are fractions of 1; ``seed_rows`` train the first model."""

    seed: int = 1
    events: int = 4400
    shift_at: float = 0.32
    shift_labels: float = 0.3
    shift_traffic: float = 0.4
    seed_rows: int = 300
    plant: float = 0.03


@dataclass(frozen=True, slots=True)
class Ask:
    """One session's first question: its text, the hidden truth and the personal data planted in it."""

    index: int
    time: datetime
    session_id: str
    user_id: str
    text: str
    truth: str
    personal: tuple[str, ...]


class World:
    """All asks of one seed."""

    def __init__(self, rows: Sequence[Row], settings: WorldSettings) -> None:
        self.settings = settings
        rng = random.Random(f"world/{settings.seed}")
        labels = sorted({row.label for row in rows})
        held = max(1, min(len(labels) - 2, round(len(labels) * settings.shift_labels)))
        self.new_labels = sorted(rng.sample(labels, held))
        self.old_labels = [label for label in labels if label not in self.new_labels]
        self.seed_rows, decks = _deal(rows, self.old_labels, settings, rng)
        self._decks = {label: _Deck(deck, f"{settings.seed}/{label}") for label, deck in decks.items()}
        self.shift = round(settings.events * settings.shift_at)

    def ask(self, index: int) -> Ask:
        """The ask number ``index``; asks must be drawn in order."""
        rng = random.Random(f"ask/{self.settings.seed}/{index}")
        shifted = index >= self.shift and rng.random() < self.settings.shift_traffic
        label = rng.choice(self.new_labels if shifted else self.old_labels)
        row = self._decks[label].next()
        text, personal = _plant(row, rng, self.settings.plant)
        return Ask(
            index=index,
            time=START + timedelta(seconds=GAP_SECONDS * (index + rng.random())),
            session_id=f"s-{identity('session', str(self.settings.seed), str(index))[:16]}",
            user_id=f"employee-{rng.randrange(STAFF):04d}",
            text=text,
            truth=label,
            personal=personal,
        )


class _Deck:
    """Rows of one label, shuffled anew each time they have all been drawn."""

    def __init__(self, rows: list[Row], seed: str) -> None:
        self._rows, self._seed, self._drawn = rows, seed, 0

    def next(self) -> Row:
        turn, place = divmod(self._drawn, len(self._rows))
        if place == 0:
            random.Random(f"deck/{self._seed}/{turn}").shuffle(self._rows)
        self._drawn += 1
        return self._rows[place]


def _deal(
    rows: Sequence[Row], old: list[str], settings: WorldSettings, rng: random.Random
) -> tuple[list[Row], dict[str, list[Row]]]:
    """Rows for the first model (old labels alone) and, apart from them, the rows that traffic draws from."""
    by_label: dict[str, list[Row]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append(row)
    per_label = settings.seed_rows // len(old)
    seed_rows: list[Row] = []
    for label in sorted(by_label):
        deck = by_label[label]
        rng.shuffle(deck)
        if label in old:
            take = min(per_label, len(deck) // 2)
            seed_rows += deck[:take]
            del deck[:take]
    if len(seed_rows) < 2 * len(old):
        raise UsageError(f"{len(seed_rows)} rows are too few to train a first model on {len(old)} labels")
    return seed_rows, by_label


def _plant(row: Row, rng: random.Random, share: float) -> tuple[str, tuple[str, ...]]:
    """Now and then a person leaves an address or a number behind that the file did not have."""
    if row.personal or rng.random() >= share:
        return row.text, row.personal
    number = rng.randrange(100, 200)
    planted = rng.choice([
        f"{rng.choice(['ana', 'li', 'omar', 'ruth'])}.{rng.randrange(10**5):05d}@example.com",
        f"+1 415 555 0{number}",
        luhn(f"4{rng.randrange(10**14):014d}"),
    ])  # fmt: skip
    return f"{row.text} {rng.choice(['reach me at', 'my contact is', 'it is under'])} {planted}", (planted,)


def luhn(digits: str) -> str:
    """The digits with their Luhn check digit (ISO/IEC 7812-1) behind.

    >>> luhn("411111111111111")
    '4111111111111111'
    """
    doubled = [int(d) * (2 - i % 2) for i, d in enumerate(reversed(digits))]
    return digits + str(-sum(d // 10 + d % 10 for d in doubled) % 10)

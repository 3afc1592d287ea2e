"""Datasets: labelled turns and what the incumbent learnt from, frozen under the hash of their rows.

Near-duplicates are clustered before the split and a cluster goes to one part whole, so that nothing of the test is in
the training, not even reworded. Rows that once were held out never train: they come back as golden rows.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from deploy.clusters import clusters
from processors.text import chance, normal

TRAIN, VALIDATION, TEST = "training/train.jsonl", "validation/validation.jsonl", "testing/test.jsonl"


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """A sample with the answer that would have been right, from people who agreed to its use in training."""

    sample_id: str
    turn_id: str
    session_id: str
    subject_hash: str
    text: str
    label: str
    output: str
    model_version: str
    reason: str
    propensity: float
    verdict: str
    rater: str
    time: datetime


class Library(Protocol):
    """Where labelled samples are kept."""

    def labelled(self, tenant: str, agent: str) -> Sequence[LabelledRow]:
        """Every labelled sample of an agent that may train, each with its newest label. Raises Retry when away."""
        ...


@dataclass(frozen=True, slots=True)
class DatasetSettings:
    """Shares of the labelled clusters; ``alike``: likeness (Jaccard) from which two texts are near-duplicates.

    ``system``: the system message of every row, none when empty. ``golden_rows``: most that are carried on.
    """

    validation: float = 0.1
    test: float = 0.25
    alike: float = 0.7
    system: str = ""
    golden_rows: int = 2_000
    replay_rows: int = 5_000


@dataclass(frozen=True, slots=True)
class Row:
    """A question and its answer. ``sample_id`` is empty for rows of the incumbent's dataset."""

    text: str
    label: str
    sample_id: str = ""
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Replay:
    """What the incumbent's dataset held: ``train`` (with validation) and ``golden`` (what was held out)."""

    train: tuple[Row, ...] = ()
    golden: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class Dataset:
    """A frozen dataset. ``dropped`` counts rows that were left out, by reason."""

    dataset_id: str
    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]
    golden: tuple[Row, ...]
    dropped: Mapping[str, int] = field(default_factory=dict[str, int])
    system: str = ""

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows."""
        return (*self.train, *self.validation, *self.test, *self.golden)

    @property
    def labels(self) -> list[str]:
        """All answers."""
        return sorted({row.label for row in self.rows})

    def files(self) -> dict[str, bytes]:
        """The files of the dataset as NeMo reads them; test rows say whether they are golden."""
        held = [(row, "test") for row in self.test] + [(row, "golden") for row in self.golden]
        return {
            TRAIN: _lines(_message_row(row, self.system) for row in self.train),
            VALIDATION: _lines(_message_row(row, self.system) for row in self.validation),
            TEST: _lines(_message_row(row, self.system) | {"slice": part} for row, part in held),
        }


def freeze(rows: Sequence[LabelledRow], replay: Replay, settings: DatasetSettings | None = None) -> Dataset:
    """A dataset of labelled rows and replay. The same rows in any order give the same dataset and id."""
    chosen = settings or DatasetSettings()
    dropped: Counter[str] = Counter()
    fresh = _one_label_each(rows, dropped)
    golden = _kept(_not_superseded(replay.golden, fresh, dropped), chosen.golden_rows)
    old = _kept(_not_superseded(replay.train, fresh, dropped), chosen.replay_rows)
    parts = _split(fresh, old, golden, chosen, dropped)
    named = {name: tuple(sorted(part, key=_sort_key)) for name, part in parts.items()}
    return Dataset(
        _identity(named, chosen.system),
        **named,
        dropped={name: dropped[name] for name in sorted(dropped) if dropped[name]},
        system=chosen.system,
    )


def _sort_key(row: Row) -> tuple[str, str, str]:
    return row.text, row.label, row.sample_id


def _identity(parts: Mapping[str, Sequence[Row]], system: str) -> str:
    named = [(name, row) for name in sorted(parts) for row in parts[name]]
    lines = [json.dumps([name, row.text, row.label, row.sample_id], ensure_ascii=True) for name, row in named]
    return hashlib.sha256("\n".join([system, *lines]).encode()).hexdigest()


def _one_label_each(rows: Iterable[LabelledRow], dropped: Counter[str]) -> list[Row]:
    """One row for each text: the label most raters gave, the newest among equals. Conflicts are counted."""
    by_text: dict[str, list[LabelledRow]] = {}
    for row in rows:
        if normal(row.text) and row.label.strip():
            by_text.setdefault(normal(row.text), []).append(row)
        else:
            dropped["empty"] += 1
    return [_settled(same, dropped) for _, same in sorted(by_text.items())]


def _settled(same: Sequence[LabelledRow], dropped: Counter[str]) -> Row:
    votes = Counter(row.label.strip() for row in same)
    newest = max(same, key=lambda row: (votes[row.label.strip()], row.time, row.sample_id))
    label = newest.label.strip()
    dropped["conflicting"] += sum(row.label.strip() != label for row in same)
    dropped["repeated"] += votes[label] - 1
    return Row(newest.text, label, newest.sample_id, newest.subject_hash)


def _not_superseded(rows: Iterable[Row], fresh: Sequence[Row], dropped: Counter[str]) -> list[Row]:
    """One row for each text, without those that a fresh label contradicts."""
    newer = {normal(row.text): row.label for row in fresh}
    kept: dict[str, Row] = {}
    for row in sorted(rows, key=_sort_key):
        if newer.get(normal(row.text), row.label) == row.label:
            kept[normal(row.text)] = row
        else:
            dropped["superseded"] += 1
    return list(kept.values())


def _kept(rows: Sequence[Row], most: int) -> list[Row]:
    """At most so many rows, the same ones every time."""
    if len(rows) <= most:
        return list(rows)
    return sorted(rows, key=lambda row: chance("keep", normal(row.text), row.label))[:most]


def _split(
    fresh: Sequence[Row], old: Sequence[Row], golden: Sequence[Row], settings: DatasetSettings, dropped: Counter[str]
) -> dict[str, list[Row]]:
    """Parts by name. A cluster with a golden row never trains; one with an old training row is never tested on."""
    parts: dict[str, list[Row]] = {"train": [], "validation": [], "test": [], "golden": list(golden)}
    every = [*golden, *old, *fresh]
    first_old, first_fresh = len(golden), len(golden) + len(old)
    for members in clusters([row.text for row in every], settings.alike):
        held = any(i < first_old for i in members)
        known = any(first_old <= i < first_fresh for i in members)
        kept = [every[i] for i in members if i >= (first_fresh if held else first_old)]
        if held:
            dropped["near_golden"] += sum(first_old <= i < first_fresh for i in members)
        parts["test" if held else _part(kept, known, settings)] += kept
    return {name: [row for row in part if normal(row.text)] for name, part in parts.items()}


def _part(cluster: Sequence[Row], known: bool, settings: DatasetSettings) -> str:
    draw = chance("split", min((normal(row.text) for row in cluster), default=""))
    if draw < settings.test and not known:
        return "test"
    return "validation" if draw > 1.0 - settings.validation else "train"


def replay_of(files: Mapping[str, bytes]) -> Replay:
    """What an earlier dataset held, read back from its files; files that are missing count as empty."""
    train = [*_read(files.get(TRAIN, b"")), *_read(files.get(VALIDATION, b""))]
    return Replay(tuple(train), tuple(_read(files.get(TEST, b""))))


def slices_of(content: bytes) -> list[bool]:
    """For every row of a test file, in order, whether it is golden."""
    return [json.loads(line).get("slice") == "golden" for line in content.decode().splitlines() if line.strip()]


def _read(content: bytes) -> list[Row]:
    found: list[Row] = []
    for line in content.decode().splitlines():
        if line.strip():
            messages = json.loads(line)["messages"]
            found.append(Row(messages[-2]["content"], messages[-1]["content"]))
    return found


def _message_row(row: Row, system: str) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": row.text}, {"role": "assistant", "content": row.label}]
    return {"messages": messages}


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=True, sort_keys=True).encode() + b"\n" for row in rows)

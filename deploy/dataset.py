"""Datasets: labelled turns and what the incumbent learnt from, frozen under the hash of their rows.

Near-duplicates are clustered before the split and a cluster goes to one part whole, so that nothing of the test is in
the training, not even reworded. Rows that once were held out never train: they come back as golden rows.

A manifest beside the rows says which sample and whose each is, also of rows that a later dataset takes over, so that a
person can be taken out of the files. Such a dataset keeps its id, and its manifest counts what is gone.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from deploy.clusters import clusters
from processors.agreement import RATER, Standing
from processors.text import chance, normal
from schemas.subjects import Subject

TRAIN, VALIDATION, TEST = "training/train.jsonl", "validation/validation.jsonl", "testing/test.jsonl"
MANIFEST = "manifest.json"
PARTS = (TRAIN, VALIDATION, TEST)
FILES = (*PARTS, MANIFEST)
"""Every file of a dataset."""


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """A sample with the answer that would have been right, from people who agreed to its use in training.

    ``evaluate``: and to models being judged by it.
    """

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
    evaluate: bool = True


class Library(Protocol):
    """Where labelled samples are kept."""

    def labelled(self, tenant: str, agent: str) -> Sequence[LabelledRow]:
        """Every labelled sample of an agent that may train, each with its newest label. Raises Retry when away."""
        ...

    def standings(self, tenant: str) -> Mapping[str, Standing]:
        """How the tenant's judges stand now, by their ids. Raises Retry when away."""
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
    """A question and its answer. ``sample_id`` is empty for seed rows, which are nobody's.

    ``evaluate`` False: it may train, and is never held out. ``judge``: the judge that alone says so, '' for people.
    """

    text: str
    label: str
    sample_id: str = ""
    subject: str = ""
    evaluate: bool = True
    judge: str = ""


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
        """The files of the dataset as NeMo reads them, and the manifest; test rows say whether they are golden."""
        held = [(row, "test") for row in self.test] + [(row, "golden") for row in self.golden]
        parts = {TRAIN: self.train, VALIDATION: self.validation, TEST: (*self.test, *self.golden)}
        return {
            MANIFEST: _manifest(self.dataset_id, 0, {p: [_owner(row) for row in parts[p]] for p in PARTS}),
            TRAIN: _lines(_message_row(row, self.system) for row in self.train),
            VALIDATION: _lines(_message_row(row, self.system) for row in self.validation),
            TEST: _lines(_message_row(row, self.system) | {"slice": part} | _judged(row) for row, part in held),
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
    lines = [
        json.dumps([name, row.text, row.label, row.sample_id, *([row.judge] if row.judge else [])], ensure_ascii=True)
        for name, row in named
    ]
    return hashlib.sha256("\n".join([system, *lines]).encode()).hexdigest()


def _one_label_each(rows: Iterable[LabelledRow], dropped: Counter[str]) -> list[Row]:
    """One row for each text: the label most raters gave, the newest among equals. Conflicts are counted.

    Where a person has said anything, judges are not asked.
    """
    by_text: dict[str, list[LabelledRow]] = {}
    for row in rows:
        if normal(row.text) and row.label.strip():
            by_text.setdefault(normal(row.text), []).append(row)
        else:
            dropped["empty"] += 1
    return [_settled(same, dropped) for _, same in sorted(by_text.items())]


def _settled(same: Sequence[LabelledRow], dropped: Counter[str]) -> Row:
    heard = [row for row in same if not row.rater.startswith(RATER)] or same
    votes = Counter(row.label.strip() for row in heard)
    newest = max(heard, key=lambda row: (votes[row.label.strip()], row.time, row.sample_id))
    label = newest.label.strip()
    wrong = sum(row.label.strip() != label for row in same)
    dropped["conflicting"] += wrong
    dropped["repeated"] += len(same) - wrong - 1
    judge = newest.rater.removeprefix(RATER) if newest.rater.startswith(RATER) else ""
    return Row(newest.text, label, newest.sample_id, newest.subject_hash, newest.evaluate, judge)


def _not_superseded(rows: Iterable[Row], fresh: Sequence[Row], dropped: Counter[str]) -> list[Row]:
    """One row for each text, without those that a fresh label contradicts; a judge contradicts no person."""
    newer = {normal(row.text): row for row in fresh}
    kept: dict[str, Row] = {}
    for row in sorted(rows, key=_sort_key):
        other = newer.get(normal(row.text), row)
        if other.label == row.label or (other.judge and not row.judge):
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
        part = "test" if held else _part(kept, known, settings)
        parts[part] += kept if part == "train" else _judging(kept, dropped)
    return {name: [row for row in part if normal(row.text)] for name, part in parts.items()}


def _judging(rows: Sequence[Row], dropped: Counter[str]) -> list[Row]:
    """Those by which models may be judged. The others cannot train either, as their like is held out."""
    kept = [row for row in rows if row.evaluate]
    dropped["not_evaluated"] += len(rows) - len(kept)
    return kept


def _part(cluster: Sequence[Row], known: bool, settings: DatasetSettings) -> str:
    if not any(row.evaluate for row in cluster):
        return "train"
    draw = chance("split", min((normal(row.text) for row in cluster), default=""))
    if draw < settings.test and not known:
        return "test"
    return "validation" if draw > 1.0 - settings.validation else "train"


def replay_of(files: Mapping[str, bytes]) -> Replay:
    """What an earlier dataset held, read back from its files; files that are missing count as empty."""
    train = [*_read(files, TRAIN), *_read(files, VALIDATION)]
    return Replay(tuple(train), tuple(_read(files, TEST)))


def slices_of(content: bytes) -> list[bool]:
    """For every row of a test file, in order, whether it is golden."""
    return [body.get("slice") == "golden" for body in _bodies(content)]


def judges_of(content: bytes) -> list[str]:
    """For every row of a test file, in order, the judge that alone gave its label; '' for people."""
    return [_judge(body) for body in _bodies(content)]


def without(files: Mapping[str, bytes], about: Subject, texts: Collection[str] = ()) -> dict[str, bytes]:
    """The files that change when a person is taken out, manifest included; none when the person is in none.

    ``texts``: what the person said, as ``normal`` has it, to find the rows in files that have no manifest.
    """
    known, changed = _known(files), dict[str, bytes]()
    owners: dict[str, list[Owner]] = {}
    for part in PARTS:
        lines, whose = _texts(files.get(part, b"")), _owners(files, part)
        kept = [n for n, line in enumerate(lines) if not _is_theirs(line, whose[n], about, () if known else texts)]
        owners[part] = [whose[n] for n in kept]
        if len(kept) < len(lines):
            changed[part] = b"".join(lines[n].encode() + b"\n" for n in kept)
    if changed:
        gone = sum(len(_texts(files[part])) - len(owners[part]) for part in changed)
        changed[MANIFEST] = _manifest(str(known.get("dataset_id", "")), erased_of(files) + gone, owners)
    return changed


def emptied(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files that change when every row goes, manifest included; none when there is none."""
    held = {part: len(_texts(files.get(part, b""))) for part in PARTS}
    if not any(held.values()):
        return {}
    gone = erased_of(files) + sum(held.values())
    empty = {part: b"" for part, rows in held.items() if rows}
    return {**empty, MANIFEST: _manifest(str(_known(files).get("dataset_id", "")), gone, {part: [] for part in PARTS})}


def erased_of(files: Mapping[str, bytes]) -> int:
    """How many rows have been taken out of a dataset since it was frozen."""
    return int(_known(files).get("erased", 0))


Owner = tuple[str, str, bool]
"""A row's sample and subject, both '' when it is nobody's, and whether models may be judged by it."""
_NOBODY: Owner = ("", "", True)


def _owner(row: Row) -> Owner:
    return row.sample_id, row.subject, row.evaluate


def _is_theirs(line: str, owner: Owner, about: Subject, texts: Collection[str]) -> bool:
    if owner[1] == about.hash or owner[0] in about.samples:
        return True
    return bool(texts) and normal(_asked(json.loads(line))[0]) in texts


def _known(files: Mapping[str, bytes]) -> dict[str, Any]:
    return json.loads(files.get(MANIFEST) or b"{}")


def _owners(files: Mapping[str, bytes], part: str) -> list[Owner]:
    """Whose each row of a part is; nobody's where no manifest says."""
    said: list[Owner] = [(one[0], one[1], one[2]) for one in _known(files).get("rows", {}).get(part, [])]
    lines = _texts(files.get(part, b""))
    return said if len(said) == len(lines) else [_NOBODY] * len(lines)


def _manifest(dataset_id: str, erased: int, rows: Mapping[str, Sequence[Owner]]) -> bytes:
    body = {"dataset_id": dataset_id, "erased": erased, "rows": rows}
    return json.dumps(body, ensure_ascii=True, sort_keys=True).encode() + b"\n"


def _texts(content: bytes) -> list[str]:
    return [line for line in content.decode().splitlines() if line.strip()]


def _bodies(content: bytes) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in _texts(content))


def _asked(body: Mapping[str, Any]) -> tuple[str, str]:
    messages = body["messages"]
    return messages[-2]["content"], messages[-1]["content"]


def _judge(body: Mapping[str, Any]) -> str:
    return str(body.get("judge", ""))


def _read(files: Mapping[str, bytes], part: str) -> list[Row]:
    pairs = zip(_bodies(files.get(part, b"")), _owners(files, part), strict=True)
    return [Row(*_asked(body), *owner, judge=_judge(body)) for body, owner in pairs]


def _judged(row: Row) -> dict[str, Any]:
    return {"judge": row.judge} if row.judge else {}


def _message_row(row: Row, system: str) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": row.text}, {"role": "assistant", "content": row.label}]
    return {"messages": messages}


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=True, sort_keys=True).encode() + b"\n" for row in rows)

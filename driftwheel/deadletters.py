"""Dead letters: what there is, and how a message that could not be read or written gets its further chance.

A replay appends the message once more, as its first delivery (see ``processors.replay``), for those consumers alone
that could not read it. Raw payloads come from the quarantine, clean messages from the log while it keeps them. Nothing
here shows a payload.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from connectors.clickhouse.store import Store
from connectors.log import Entry, Log, Stored, entry_of
from connectors.quarantine import Payloads
from connectors.sqlite_log import SqliteLog
from driftwheel.letters import LetterFilter
from processors.replay import Replay, letter_of, mark, replay_headers
from processors.stage import UNKNOWN
from schemas import codec
from schemas.errors import Invalid, Refused, Reject, UsageError
from schemas.events import DeadLetter
from schemas.topics import BY_NAME, Topic

Group = list[DeadLetter]
"""Letters about one message."""


class Messages(Protocol):
    """The log as it is read by offset."""

    def at(self, topic: str, partition: int, offset: int) -> Stored | None:
        """One message; None when it is not there (any more)."""
        ...

    def since(self, topic: str, partition: int, offset: int) -> Iterator[Stored]:
        """The messages from an offset on."""
        ...


class LogMessages:
    """The embedded log's messages. It has one partition of each topic."""

    def __init__(self, log: SqliteLog) -> None:
        self._log = log

    def at(self, topic: str, partition: int, offset: int) -> Stored | None:
        """See Messages."""
        return None if partition else self._log.at(BY_NAME[topic], offset)

    def since(self, topic: str, partition: int, offset: int) -> Iterator[Stored]:
        """See Messages."""
        del partition
        return (entry for entry in self._log.scan(BY_NAME[topic]) if entry.offset >= offset)


@dataclass(frozen=True, slots=True)
class Behind:
    """Where letters' messages are and go: quarantine, log to read, log to append to."""

    payloads: Payloads
    messages: Messages
    log: Log


class DeadLetters:
    """See ``driftwheel.letters.Letters``: over the store that lists them; ``behind`` is asked for when it is needed."""

    def __init__(self, store: Store, behind: Callable[[], Behind], clock: Callable[[], datetime]) -> None:
        self._store, self._behind, self._clock = store, behind, clock

    def find(self, chosen: LetterFilter) -> list[dict[str, Any]]:
        """See Letters."""
        return [_shown(row) for row in self._rows(chosen)]

    def _rows(self, chosen: LetterFilter, ids: Sequence[str] = (), start: str = "") -> list[dict[str, Any]]:
        values = _parameters(chosen)
        return self._store.named("dead_letters", **values, ids=list(ids), start=start)

    def counts(self, chosen: LetterFilter) -> list[dict[str, Any]]:
        """See Letters."""
        return self._store.named("dead_letters_counts", **_parameters(chosen))

    def show(self, name: str) -> dict[str, Any]:
        """See Letters."""
        row = self._one(name)
        where, until = self._payload_of(_letter(row))
        return _shown(row) | {"payload": where, "payload_until": until}

    def _one(self, name: str) -> dict[str, Any]:
        found = self._rows(LetterFilter(limit=2), start=name) if name else []
        if len(found) != 1:
            problem = "more than one dead letter has an id that begins" if found else "no dead letter has the id"
            raise UsageError(f"{problem} {name!r}; see: driftwheel deadletters list")
        return found[0]

    def _payload_of(self, letter: DeadLetter) -> tuple[str, datetime | None]:
        """Where the payload is, and until when (None: for good, or it is nowhere)."""
        topic = BY_NAME.get(letter.topic)
        if topic is None or (topic.raw and not letter.quarantine):
            return "not kept", None
        if topic.raw:
            until = self._behind().payloads.until(letter.quarantine)
            return ("gone", None) if until is None else ("in the quarantine", until)
        stored = self._behind().messages.at(topic.name, letter.partition, letter.offset)
        if stored is None:
            return "gone", None
        return "in the log", None if topic.compacted else stored.time + topic.retention

    # Replay.

    def plan(self, ids: Sequence[str], chosen: LetterFilter, again: bool) -> dict[str, Any]:
        """See Letters."""
        rows = [self._one(name) for name in ids] if ids else self._rows(chosen)
        if not ids and not chosen.state:
            rows = [row for row in rows if row["state"] != "settled"]
        groups, left_out = _sorted(rows, again)
        messages = [
            {
                "topic": letters[0].topic,
                "partition": letters[0].partition,
                "offset": letters[0].offset,
                "time": letters[0].received_time,
                "reasons": sorted({letter.reason for letter in letters}),
                "letters": [letter.event_id for letter in letters],
            }
            for letters in groups
        ]
        return {"messages": messages, "left_out": left_out}

    def replay(self, ids: Sequence[str], again: bool) -> dict[str, Any]:
        """See Letters."""
        wanted = [letter_id for letter_id in dict.fromkeys(ids) if letter_id]
        groups, left_out = _sorted(self._rows(LetterFilter(), wanted) if wanted else [], again)
        beside = self._beside(wanted) if groups else {}
        replayed: list[str] = []
        messages = 0
        for letters in groups:
            try:
                self._append(letters, beside.get(_place(letters[0]), letters))
            except (Refused, Reject, Invalid) as error:
                left_out += [_without(letter, str(error)) for letter in letters]
            else:
                messages += 1
                replayed += [letter.event_id for letter in letters]
        return {"messages": messages, "replayed": replayed, "left_out": left_out}

    def _beside(self, ids: Sequence[str]) -> dict[tuple[str, int, int], list[DeadLetter]]:
        """Every letter about the messages of these letters, by message."""
        found: dict[tuple[str, int, int], list[DeadLetter]] = {}
        for row in self._store.named("dead_letters_beside", ids=list(ids)):
            letter = _letter(row)
            found.setdefault(_place(letter), []).append(letter)
        return found

    def _append(self, letters: Sequence[DeadLetter], known: Sequence[DeadLetter]) -> None:
        """The message of these letters with their marks, at once."""
        topic, now = BY_NAME[letters[0].topic], self._clock()
        name, entry = self._raw_entry(letters, now) if topic.raw else ("", self._clean_entry(topic, letters[0], now))
        chosen = {letter.event_id for letter in letters}
        replay = Replay(
            tuple(letter_of(letter) for letter in letters),
            letters[0].partition,
            letters[0].offset,
            letters[0].received_time,
            tuple(letter_of(letter) for letter in known if letter.event_id not in chosen),
            tuple(sorted({letter.stage for letter in letters})),
            name,
        )
        headers = entry.headers | replay_headers(replay)
        again = Entry(entry.topic, entry.key, entry.value, entry.time, headers, entry.identity)
        marks = [entry_of(mark("sent", letter.event_id, letter), now) for letter in letters]
        self._behind().log.append([again, *marks])

    def _raw_entry(self, letters: Sequence[DeadLetter], now: datetime) -> tuple[str, Entry]:
        """From the quarantine, with the payload's name there; tenant and agent are the letter's."""
        tenant, agent = letters[0].tenant, letters[0].agent
        given = {"tenant": tenant, "agent": agent}
        headers = {name: value for name, value in given.items() if value != UNKNOWN}
        names = dict.fromkeys(letter.quarantine for letter in letters if letter.quarantine)
        refused: Refused | None = None
        for name in names:
            try:
                payload = self._behind().payloads.read(name)
                return name, Entry(letters[0].topic, f"{tenant}/{agent}", payload, now, headers)
            except Refused as error:
                refused = error
        raise refused or Refused("its payload was not kept")

    def _clean_entry(self, topic: Topic, letter: DeadLetter, now: datetime) -> Entry:
        """From the log, with its own headers."""
        stored = self._behind().messages.at(topic.name, letter.partition, letter.offset)
        if stored is None:
            raise Refused(f"its message has left the log, where {topic.name} keeps {_kept(topic)}")
        try:
            record = codec.decode(stored.value, topic.record)
        except Invalid:
            return Entry(topic.name, stored.key, stored.value, now, stored.headers)
        identity = topic.identity(record) if topic.compacted else ""
        if identity and identity != record.event_id and self._is_replaced(topic, stored, identity):
            raise Refused(f"a newer record of {topic.name} has replaced its message")
        return Entry(topic.name, topic.key(record), stored.value, now, stored.headers, identity)

    def _is_replaced(self, topic: Topic, stored: Stored, identity: str) -> bool:
        for later in self._behind().messages.since(topic.name, stored.partition, stored.offset + 1):
            try:
                if topic.identity(codec.decode(later.value, topic.record)) == identity:
                    return True
            except Invalid:
                continue
        return False


def _kept(topic: Topic) -> str:
    return "the newest of each kind" if topic.compacted else f"messages for {topic.retention.days} days"


def _parameters(chosen: LetterFilter) -> dict[str, Any]:
    """A filter as parameters of the store's queries."""
    since = chosen.since.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    return {
        "tenant": chosen.tenant,
        "stage": chosen.stage,
        "reason": chosen.reason,
        "topic": chosen.topic,
        "state": chosen.state,
        "since": since,
        "limit": chosen.limit,
    }


def _letter(row: Mapping[str, Any]) -> DeadLetter:
    return DeadLetter.model_validate(row)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    replayed = int(row["replayed_time"])
    return {**row, "replayed_time": datetime.fromtimestamp(replayed, UTC) if replayed else None}


def _place(letter: DeadLetter) -> tuple[str, int, int]:
    return letter.topic, letter.partition, letter.offset


def _sorted(rows: Sequence[Mapping[str, Any]], again: bool) -> tuple[list[Group], list[dict[str, str]]]:
    """The letters that can be replayed, by message, the oldest first; and the others."""
    groups: dict[tuple[str, int, int], Group] = {}
    left_out: list[dict[str, str]] = []
    for row in rows:
        letter = _letter(row)
        why = _why_not(letter, str(row["state"]), again)
        if why:
            left_out.append(_without(letter, why))
        else:
            groups.setdefault(_place(letter), []).append(letter)
    return sorted(groups.values(), key=lambda letters: (letters[0].received_time, _place(letters[0]))), left_out


def _why_not(letter: DeadLetter, state: str, again: bool) -> str:
    topic = BY_NAME.get(letter.topic)
    if topic is None:
        return f"{letter.topic} is no topic of this Driftwheel"
    if topic.raw and not letter.quarantine:
        return "its payload was not kept"
    if state != "open" and not again:
        return f"it was replayed before ({state}): --again replays it once more"
    return ""


def _without(letter: DeadLetter, why: str) -> dict[str, str]:
    return {"event_id": letter.event_id, "why": why}

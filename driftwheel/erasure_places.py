"""Where a person may be besides the store's tables: dataset files, the quarantine, the embedded log and its state."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from connectors.clickhouse.store import Store
from connectors.log import Log, Stored, entry_of
from connectors.nemo.port import NemoPort
from connectors.quarantine import Payloads
from connectors.sqlite_log import SqliteLog
from deploy.dataset import FILES, erased_of, without
from deploy.names import dataset_name, group_name
from driftwheel.erasure import Order
from processors.redact.drafts import Draft
from processors.redact.otlp import logs_of, spans_of
from processors.redact.settings import subject_hash, tenant_key
from processors.redact.signals import signal_of
from processors.stage import Message, Stage
from processors.state import KeyState
from schemas import codec
from schemas.errors import Invalid, Refused
from schemas.events import DatasetVersion, DeadLetter, RawSignal, Record
from schemas.topics import BY_NAME, DATASETS, ERASURES, OTLP_LOGS, OTLP_SPANS, TOPICS, Topic

_WORD = re.compile(rb"[\w.@+:|-]{2,200}")
_CUTS = [(first, after) for first in (0, 1) for after in (0, 1, 2)]
"""What stands before and after a text in protobuf may look like a part of it: lengths and tags."""
_CLOCK = 3e9
_OTLP = {OTLP_SPANS.name: spans_of, OTLP_LOGS.name: logs_of}
"""Any producer's clock is good enough here."""
Models = Callable[[], NemoPort | None]
"""The training platform; None when there is none to be asked."""


class DatasetFiles:
    """Rows of the person leave the files of every dataset version that holds them; the version says how many.

    The version's new record goes to the log, where it replaces the old one, and to the store.
    """

    quiet = False

    def __init__(self, store: Store, log: Log, models: Models, clock: Callable[[], datetime]) -> None:
        self._store, self._log, self._models, self._clock = store, log, models, clock

    def find(self, order: Order) -> dict[str, int]:
        """See Place: the store's dataset versions tell."""
        del order
        return {}

    def erase(self, order: Order) -> dict[str, str]:
        """See Place."""
        versions = self._store.named("dataset_versions", tenant=order.subject.tenant, datasets=list(order.datasets))
        if not versions:
            return {}
        port = self._models()
        if port is None:
            return {"dataset files": "NeMo is not there: start the product that trains"}
        for row in versions:
            self._version(port, DatasetVersion.model_validate(row), order)
        return {}

    def _version(self, port: NemoPort, version: DatasetVersion, order: Order) -> None:
        name = dataset_name(group_name(version.tenant, version.agent), version.dataset_id)
        files = {path: port.download(name, path) for path in FILES}
        changed = without(files, order.subject, order.texts)
        if changed:
            port.upload_dataset(name, changed)
        record = version.model_copy(
            update={
                "subjects": [one for one in version.subjects if one != order.subject.hash],
                "samples": [one for one in version.samples if one not in order.subject.samples],
                "erased": max(version.erased, erased_of(files | changed)),
            }
        )
        if record != version:
            self._log.append([entry_of(record, self._clock())])
            self._store.write([record])


class QuarantinedPayloads:
    """Sealed payloads that are the person's, or hold something of theirs: opened, looked at in memory, and deleted.

    What cannot be read is searched for words that are the person's id. What hides them better goes with its retention.
    """

    quiet = False

    def __init__(self, store: Store, payloads: Callable[[], Payloads], key: bytes) -> None:
        self._store, self._payloads, self._key = store, payloads, key

    def find(self, order: Order) -> dict[str, int]:
        """See Place."""
        return {"quarantine": sum(1 for _ in self._theirs(order))}

    def erase(self, order: Order) -> dict[str, str]:
        """See Place."""
        for name in list(self._theirs(order)):
            self._payloads().delete(name)
        return {}

    def _theirs(self, order: Order) -> Iterator[str]:
        letters = self._store.named("quarantined", tenant=order.subject.tenant)
        seen: set[str] = set()
        for row in letters:
            name = str(row["quarantine"])
            if name not in seen and self._payloads().until(name) is not None and self._is_theirs(name, row, order):
                yield name
            seen.add(name)

    def _is_theirs(self, name: str, row: dict[str, object], order: Order) -> bool:
        try:
            payload = self._payloads().read(name)
        except Refused:  # damaged, or of a key that is gone: nobody can read it
            return False
        letter = DeadLetter.model_validate(row)
        message = Message(letter.topic, letter.offset, "", payload, letter.received_time, partition=letter.partition)
        return mentions(message, order, tenant_key(self._key, order.subject.tenant))


def mentions(message: Message, order: Order, key: bytes) -> bool:
    """Whether a raw message holds something of a person. ``key``: their tenant's."""
    about = order.subject
    for draft in _drafts(message, about.tenant):
        if subject_hash(key, draft.user) == about.hash:
            return True
        if not draft.user and (draft.facts.get("trace_id") in about.traces or _names(draft, order)):
            return True
    words = {match.group() for match in _WORD.finditer(message.value)}
    tries = {word[first : len(word) - after] for word in words for first, after in _CUTS}
    return any(subject_hash(key, word.decode("utf-8", "replace")) == about.hash for word in tries)


def _names(draft: Draft, order: Order) -> bool:
    return any(
        draft.ids.get(field) in held
        for field, held in (
            ("turn_id", order.subject.turns),
            ("trace_id", order.subject.traces),
            ("sample_id", order.subject.samples),
        )
    )


def _drafts(message: Message, tenant: str) -> list[Draft]:
    try:
        if message.topic in _OTLP:
            read = _OTLP[message.topic](message, tenant, _CLOCK)
            return [one for one in read.drafts if isinstance(one, Draft)]
        raw = codec.decode(message.value, RawSignal)
        return [signal_of(raw, message, tenant, _CLOCK)] if isinstance(raw, RawSignal) else []
    except Invalid:
        return []


class EmbeddedLog:
    """Entries of the person, and what stages keep of them. Nothing else may work on the log meanwhile.

    Raw entries that redaction has read are dropped whole, as nobody needs them any more. What somebody has not read
    yet waits for them: the ledger would miss it.
    """

    quiet = True

    def __init__(self, log: SqliteLog, stages: Sequence[Stage], clock: Callable[[], datetime]) -> None:
        self._log, self._stages, self._clock = log, stages, clock

    def find(self, order: Order) -> dict[str, int]:
        """See Place."""
        entries = sum(len(self._entries(topic, order)) for topic in TOPICS if not topic.raw)
        return {"log": entries, "state": sum(1 for _ in self._states(order))}

    def erase(self, order: Order) -> dict[str, str]:
        """See Place."""
        with self._log.shredding():
            return self._erase(order)

    def _erase(self, order: Order) -> dict[str, str]:
        waiting: dict[str, str] = {}
        for topic in TOPICS:
            read = self._log.read_by_all(topic)
            if topic.raw:
                self._log.drop_consumed(topic)
                unread = any(entry.time <= order.since for entry in self._log.scan(topic, read))
            else:
                offsets = self._entries(topic, order)
                self._log.delete(topic, [offset for offset in offsets if offset < read])
                if topic is DATASETS:
                    offsets += [offset for offset, newest in self._versions(order) if newest]
                unread = any(offset >= read for offset in offsets)
            if unread:
                waiting[topic.name] = "entries that somebody has still to read: the product has to run"
        for stage, key, state, records in list(self._states(order)):
            with self._log.transaction() as transaction:
                if state.data or state.memo or state.due:
                    transaction.put_state(stage, key, state.dump(), state.due)
                else:
                    transaction.delete_state(stage, key)
                transaction.append([entry_of(record, self._clock()) for record in records])
        return waiting

    def _entries(self, topic: Topic, order: Order) -> list[int]:
        """Offsets of what is the person's; of dataset versions those that a stripped one has replaced."""
        if topic is ERASURES:
            return []
        if topic is DATASETS:
            return [offset for offset, newest in self._versions(order) if not newest]
        found = [(entry, self._record(entry)) for entry in self._log.scan(topic)]
        return [entry.offset for entry, record in found if record is not None and order.subject.owns(record)]

    def _versions(self, order: Order) -> list[tuple[int, bool]]:
        """Offsets of dataset versions that hold the person, and whether each is the newest of its version."""
        found = [(entry.offset, self._record(entry)) for entry in self._log.scan(DATASETS)]
        newest = {record.event_id: offset for offset, record in found if record is not None}
        return [
            (offset, offset == newest[record.event_id]) for offset, record in found
            if isinstance(record, DatasetVersion) and record.tenant == order.subject.tenant
            and (order.subject.hash in record.subjects or order.subject.samples & set(record.samples))
        ]  # fmt: skip

    @staticmethod
    def _record(entry: Stored) -> Record | None:
        try:
            return codec.decode(entry.value, BY_NAME[entry.topic].record)
        except Invalid:
            return None

    def _states(self, order: Order) -> Iterator[tuple[str, str, KeyState, list[Record]]]:
        """Every state that holds something of the person, as it is without, with what follows."""
        for stage in self._stages:
            for key, text in self._log.states(stage.name):
                found = stage.erased(key, text, order.subject)
                if found is not None:
                    yield stage.name, key, *found

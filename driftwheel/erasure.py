"""Erasure: everything about one person leaves the store and the log, and the models that learnt from it are named."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from connectors.clickhouse.store import Store
from connectors.log import Log, entry_of
from connectors.sqlite_log import SqliteLog
from processors.redact.settings import subject_hash, tenant_key
from schemas import codec
from schemas.errors import Invalid
from schemas.events import Erasure, identity
from schemas.topics import TOPICS


def erase(store: Store, log: Log, key: bytes, tenant: str, user_id: str, now: datetime) -> dict[str, Any]:
    """Delete a person's rows and log entries; returns what was deleted and the models that were trained on it.

    On Kafka the entries stay for their retention. Raw entries that redaction has read are dropped whole, since they
    are not needed any more. Session state and the curator's buffer keep a turn for half an hour at most and for the
    next 500 turns.
    """
    subject = subject_hash(tenant_key(key, tenant), user_id)
    deleted, datasets, models = store.erase_subject(tenant, subject)
    entries = _erase_log(log, tenant, subject) if isinstance(log, SqliteLog) else 0
    if entries:
        deleted["log"] = entries
    record = Erasure(
        event_id=identity("erasure", tenant, subject, now.isoformat()),
        tenant=tenant,
        agent="*",
        subject_hash=subject,
        event_time=now,
        requested_by="command line",
        deleted=deleted,
        dataset_versions=datasets,
        models=models,
    )
    log.append([entry_of(record, now)])
    return {"subject_hash": subject, "deleted": deleted, "dataset_versions": datasets, "models": models}


def _erase_log(log: SqliteLog, tenant: str, subject: str) -> int:
    erased = 0
    for topic in TOPICS:
        if topic.raw:
            log.drop_consumed(topic)
            continue
        offsets: list[int] = []
        for entry in log.scan(topic):
            try:
                record = codec.decode(entry.value, topic.record)
            except Invalid:
                continue
            if record.tenant == tenant and record.subject_hash == subject and topic.name != "flywheel.erasures":
                offsets.append(entry.offset)
        log.delete(topic, offsets)
        erased += len(offsets)
    return erased

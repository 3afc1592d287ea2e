"""A lane's table: keyed state on this machine's disk (RocksDB), with its truth in a compacted topic.

The topic is written in the same transaction as everything else that a batch causes; the disk follows after the commit,
with the offset up to which it follows. So the disk may lag behind the topic, never lead, and opening a table reads what
the disk lacks: after a crash a moment's worth, on a new machine everything. A folder that is lost, or that has not been
opened for so long that deletions may have left the topic, is built anew.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, WriteBatch, WriteBufferManager

from connectors.kafka.settings import KafkaSettings, client_options
from schemas.errors import Retry
from schemas.events import EPOCH

POSITIONS = "\0positions"
"""The key of a lane's input positions: by topic, the next offset that has not been worked on."""
Change = tuple[str, datetime | None] | None
"""A key's new text and when its timer runs out; None: the key is deleted."""
DueOf = Callable[[str], datetime | None]
"""When the timer of a key with this text runs out."""
_CHECKPOINT = b"\0checkpoint"
_DUE = b"\0due"
"""Begins the keys of the timers' index: this, the time as eight bytes, the key. A state's value begins with its time,
too, so that the entry of the time before is found."""
_FIRST = b"\1"
"""What is the table's own begins with a zero."""
_NEVER = b"\0" * 8
_FORMAT = "2"
_STALE_SECONDS = 3 * 86_400
"""Half of what the topic keeps deletions for, and some."""
_SILENCE = 60.0
_WRITE_BUFFER = 4 << 20
_MEMORY = 32 << 20
_BUFFERS = 16 << 20
"""Of ``_MEMORY``, bytes that wait to be written to disk. Both are of all tables of a process together."""


class Table:
    """One lane's keys and texts in ``folder``. Raises Retry while it is open elsewhere.

    Not thread-safe: a lane works on one batch at a time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if folder.exists() and time.time() - _opened_at(folder) > _STALE_SECONDS:
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._db = _opened(folder)
        _mark_open(folder)

    def get(self, key: str) -> str | None:
        """A key's text."""
        found = self._db.get(_bytes(key))
        return None if found is None else cast("bytes", found)[len(_NEVER) :].decode()

    def items(self) -> Iterator[tuple[str, str]]:
        """Every key of a stage with its text."""
        for name, found in cast("Iterator[tuple[bytes, bytes]]", self._db.items(from_key=_FIRST)):
            yield name.decode(), found[len(_NEVER) :].decode()

    def timers(self, first: tuple[datetime, str]) -> Iterator[tuple[datetime, str]]:
        """When keys' timers run out, and the keys, in order, from ``first`` on."""
        start = _DUE + _time_bytes(first[0]) + _bytes(first[1])
        for found in cast("Iterator[bytes]", self._db.keys(from_key=start)):
            if not found.startswith(_DUE):
                return
            at, key = found[len(_DUE) : len(_DUE) + 8], found[len(_DUE) + 8 :]
            yield _moment(at), key.decode()

    @property
    def checkpoint(self) -> int:
        """The next offset of the topic that the disk does not have."""
        found = self._db.get(_CHECKPOINT)
        return 0 if found is None else int(found)

    @property
    def positions(self) -> dict[str, int]:
        """Where each input topic goes on."""
        return json.loads(self.get(POSITIONS) or "{}")

    def write(self, changes: Mapping[str, Change], checkpoint: int) -> None:
        """What a committed transaction changed, whole or not at all."""
        batch = WriteBatch(raw_mode=True)
        for key, change in changes.items():
            name = _bytes(key)
            old = cast("bytes", self._db.get(name) or _NEVER)[: len(_NEVER)]
            new = _NEVER if change is None or change[1] is None else _time_bytes(change[1])
            if old not in (_NEVER, new):
                batch.delete(_DUE + old + name)
            if new not in (_NEVER, old):
                batch.put(_DUE + new + name, b"")
            if change is None:
                batch.delete(name)
            else:
                batch.put(name, new + _bytes(change[0]))
        batch.put(_CHECKPOINT, str(checkpoint).encode())
        self._db.write(batch)

    def close(self) -> None:
        """Let go of the folder."""
        _mark_open(self._folder)
        self._db.close()


def _opened(folder: Path) -> Rdict:
    try:
        return Rdict(str(folder), _options())
    except Exception as error:
        if "lock" in str(error).lower():
            raise Retry(f"{folder} is still open elsewhere") from error
        raise


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _time_bytes(time: datetime) -> bytes:
    """In the order of times."""
    return ((time - EPOCH) // timedelta(microseconds=1) + (1 << 63)).to_bytes(8)


def _moment(time: bytes) -> datetime:
    return EPOCH + timedelta(microseconds=int.from_bytes(time) - (1 << 63))


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(_WRITE_BUFFER)
    options.set_max_write_buffer_number(2)
    options.set_max_open_files(64)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(1 << 20)
    options.set_compression_type(DBCompressionType.lz4())
    blocks_in_memory, buffers = _memory()
    options.set_write_buffer_manager(buffers)
    blocks = BlockBasedOptions()
    blocks.set_block_cache(blocks_in_memory)
    options.set_block_based_table_factory(blocks)
    return options


@cache
def _memory() -> tuple[Cache, WriteBufferManager]:
    """A process has dozens of tables: what they may hold in memory must not count up."""
    blocks = Cache(_MEMORY)
    return blocks, WriteBufferManager.new_write_buffer_manager_with_cache(_BUFFERS, False, blocks)


def _mark_open(folder: Path) -> None:
    (folder / "OPENED").write_text(f"{_FORMAT} {time.time():.0f}")


def _opened_at(folder: Path) -> float:
    """When it was last in use; 0 if what is there is not such a folder."""
    with suppress(OSError, ValueError):
        format_, at = (folder / "OPENED").read_text().split()
        return float(at) if format_ == _FORMAT else 0.0
    return 0.0


def recover(
    settings: KafkaSettings, stage: str, partition: int, table: Table, due_of: DueOf, alive: Callable[[], None]
) -> int:
    """Bring a table up to the end of its topic; returns how many records that took. ``alive`` is called as it goes.

    To be called by the partition's only writer, once no transaction of an earlier one is open any more. Raises Retry
    when the brokers are silent.
    """
    options = client_options(settings) | {
        "group.id": settings.group(stage),
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        "queued.max.messages.kbytes": 16_384,
    }
    consumer = Consumer(options)
    try:
        consumer.assign([TopicPartition(settings.state_topic(stage), partition, table.checkpoint)])
        return _follow(consumer, table, due_of, alive)
    finally:
        consumer.close()


def _follow(consumer: Consumer, table: Table, due_of: DueOf, alive: Callable[[], None]) -> int:
    count, silent_since = 0, time.monotonic()
    while True:
        messages = consumer.consume(1000, 1.0)
        alive()
        changes, checkpoint, ended = _sorted(messages, due_of)
        if checkpoint:
            table.write(changes, checkpoint)
            count, silent_since = count + len(messages), time.monotonic()
        if ended:
            return count
        if time.monotonic() - silent_since > _SILENCE:
            raise Retry(f"the brokers have not sent a stage's state for {_SILENCE:.0f} s")


def _sorted(messages: list[Message], due_of: DueOf) -> tuple[dict[str, Change], int, bool]:
    changes: dict[str, Change] = {}
    checkpoint, ended = 0, False
    for message in messages:
        error = message.error()
        if error is None:
            key, value = (message.key() or b"").decode(), message.value()
            changes[key] = None if value is None else _change(key, value.decode(), due_of)
            checkpoint = (message.offset() or 0) + 1
        elif error.code() == KafkaError._PARTITION_EOF:
            ended = True
        elif not error.retriable() and error.code() >= 0:
            raise KafkaException(error)
    return changes, checkpoint, ended


def _change(key: str, text: str, due_of: DueOf) -> Change:
    return text, None if key == POSITIONS else due_of(text)

"""Events on their way through an inbox."""

from __future__ import annotations

from datetime import timedelta

from driftwheel.routing import INBOX, arrive, dispatch
from processors.detect_drift import DetectDrift
from processors.stage import Message
from processors.state import MemoryState
from schemas import codec
from schemas.events import DeadLetter, Outcome, Record
from schemas.topics import DEPLOYMENTS, OUTCOMES
from tests.driftwheel.engine_kit import T0, Tally, raw
from tests.schemas.test_contract import example


def message(offset: int, value: bytes, topic: str) -> Message:
    return Message(topic, offset, "", value, T0 + timedelta(milliseconds=offset), {}, 2)


def arrived(stage: DetectDrift | Tally, messages: list[Message]) -> tuple[list[Record], list[Record], list[bytes]]:
    """What leaves at once, what follows from the inbox, and the inbox's messages."""
    left, parcels = dispatch(stage, messages, 3)
    inbox = [Message(INBOX, n, "", parcel.value, T0, {}, parcel.partition) for n, parcel in enumerate(parcels)]
    return left, arrive(stage, inbox, MemoryState()), [parcel.value for parcel in parcels]


def test_what_arrives_gives_what_the_sources_would_have_given() -> None:
    messages = [message(n, codec.encode(raw(n, f"a{n % 5}")), Tally.sources[0].name) for n in range(40)]
    left, found, _ = arrived(Tally(), messages)
    assert not left
    ids = sorted(record.event_id for record in found)
    assert ids == sorted(record.event_id for record in Tally().process(messages, MemoryState()))


def test_a_record_that_is_as_it_came_travels_as_it_came() -> None:
    counts: Outcome = example(Outcome).model_copy(update={"session_value": 0})
    values = [codec.encode(one) for one in (counts, counts.model_copy(update={"session_value": None}))]
    _, _, parcels = arrived(DetectDrift(), [message(n, value, OUTCOMES.name) for n, value in enumerate(values)])
    assert [[value in parcel for value in values] for parcel in parcels] == [[True, False]]


def test_what_cannot_be_read_is_a_dead_letter_before_the_inbox() -> None:
    left, found, parcels = arrived(DetectDrift(), [message(7, b"\xc3\x01 no record", DEPLOYMENTS.name)])
    assert (len(left), found, parcels) == (1, [], [])
    assert isinstance(left[0], DeadLetter)
    assert (left[0].topic, left[0].partition, left[0].offset) == (DEPLOYMENTS.name, 2, 7)
    assert left[0].reason == "unknown_schema"

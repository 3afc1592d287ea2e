"""What holds for every stage of the pipeline, whatever it does: a new stage is tested once it is registered."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from processors import PIPELINE
from processors.stage import Event, Message, Stage
from processors.state import KeyState, MemoryState, plain
from schemas import codec
from schemas.events import (
    Alarm,
    Calibration,
    DeadLetter,
    Deployment,
    Job,
    Record,
    Sample,
    identity,
)  # fmt: skip
from schemas.subjects import Subject
from schemas.topics import BY_NAME, DEAD_LETTERS, SAMPLES, SCORES, TURNS, topic_of
from tests.world import AGENT, START, TENANT, World, label, message, numbered, run_in_memory, turn

FACTORIES: dict[type[Stage], Callable[[], Stage]] = {}
"""How to make stages that need more than their defaults."""

STAGES: tuple[type[Stage], ...] = PIPELINE
STEP = 40
"""Messages in a batch: a redelivered batch lies well inside the memo."""


MODEL = json.dumps({
    "v": 1, "columns": {"doubt": [0.2, 0.1, 1.0]}, "absent": {}, "intercept": -1.0, "platt": [1.0, 0.0],
    "categories": {"it": -1.5}, "other": -2.0,
})  # fmt: skip


@cache
def build(stage: type[Stage]) -> Stage:
    return FACTORIES.get(stage, stage)()


@cache
def world_topics() -> dict[str, list[Message]]:
    """Every topic's messages, as the pipeline makes them of a small world."""
    world = World(seed=11, sessions=30, shift=15)
    stages = [build(stage) for stage in PIPELINE if not stage.heavy and stage.name != "redact"]
    run = run_in_memory(stages, world.clean(), world.ticks(120.0))
    topics = dict(run.topics)
    for one in world.raw():
        topics.setdefault(one.topic, []).append(one)
    for one in numbered(message(record) for record in control_records(run.records(SAMPLES))):
        topics.setdefault(one.topic, []).append(one)
    return topics


def control_records(samples: Sequence[Any]) -> Iterator[Record]:
    """What reviewers, jobs and releases add to a world that is too small to raise an alarm by itself."""
    common: dict[str, Any] = {"tenant": TENANT, "agent": AGENT, "event_time": START + timedelta(minutes=2)}
    cohort = f"{TENANT}/{AGENT}/router-v1/*"
    for level in ("warn", "alarm"):
        yield Alarm.model_validate(
            {**common, "event_id": level, "cohort": cohort, "model_version": "router-v1", "category": "*",
             "detector": "d", "signal": "s", "level": level, "statistic": 9.0, "threshold": 8.6, "baseline": 0.1,
             "current": 0.4, "sessions": 300}
        )  # fmt: skip
    for one in samples:
        yield label(sample_id=one.event_id, event_time=one.event_time, value="legal")
    for number, model in enumerate(("", MODEL), 1):
        yield Calibration.model_validate(
            {**common, "event_id": f"c-{number}", "number": number, "lessons": 200, "audited": 50, "model": model,
             "forces": {"rephrase": -0.2}}
        )  # fmt: skip
    for state in ("queued", "failed"):
        yield Job.model_validate(
            {**common, "event_id": state, "job_id": "j1", "trigger_id": identity("x"), "state": state}
        )
    for state in ("shadow", "live"):
        yield Deployment.model_validate(
            {**common, "event_id": f"d-{state}", "release_id": "r1", "job_id": "j1", "candidate": "router-v2",
             "incumbent": "router-v1", "state": state, "weight": 1.0, "reason": ""}
        )  # fmt: skip


def inputs(stage: type[Stage]) -> list[Message]:
    """The messages of a stage's topics, by time, with a seeded order among equals."""
    found = [one for topic in stage.sources for one in world_topics().get(topic.name, [])]
    random.Random(5).shuffle(found)
    return sorted(found, key=lambda one: one.time)[:400]


def batches(messages: Sequence[Message], size: int = STEP) -> Iterator[Sequence[Message]]:
    for place in range(0, len(messages), size):
        yield messages[place : place + size]


def dump(store: MemoryState) -> dict[str, str]:
    return {key: plain(state.dump()) for key, state in store}


def ids(records: Sequence[Record]) -> list[str]:
    return [one.event_id for one in records]


def end_of(messages: Sequence[Message]) -> list[Any]:
    """Two ticks long after the last message."""
    last = max(one.time for one in messages)
    return [last + timedelta(minutes=10), last + timedelta(days=2)]


every_stage = pytest.mark.parametrize("stage", STAGES, ids=[stage.name for stage in STAGES])


@every_stage
def test_has_something_to_do(stage: type[Stage]) -> None:
    """The other tests mean nothing for a stage that the world leaves cold."""
    made = build(stage)
    names = {one.topic for one in inputs(stage)}
    assert names == {topic.name for topic in stage.sources}
    store, found = MemoryState(), list[Record]()
    for batch in batches(inputs(stage)):
        found += made.process(batch, store)
    for now in end_of(inputs(stage)):
        found += made.expire(store, now)
    assert found or list(store)


@every_stage
def test_a_redelivered_batch_changes_nothing_and_emits_the_same(stage: type[Stage]) -> None:
    made, once, twice = build(stage), MemoryState(), MemoryState()
    for batch in batches(inputs(stage)):
        expected = ids(made.process(batch, once))
        assert ids(made.process(batch, twice)) == expected
        before = dump(twice)
        assert ids(made.process(batch, twice)) == expected
        assert dump(twice) == before == dump(once)


@every_stage
def test_ticks_come_once(stage: type[Stage]) -> None:
    if stage.effects:
        pytest.skip("a tick that acts on other systems has tests of its own")
    made, store = build(stage), MemoryState()
    for batch in batches(inputs(stage)):
        made.process(batch, store)
    for now in end_of(inputs(stage)):
        for _ in range(20):
            made.expire(store, now)
        settled = dump(store)
        assert made.expire(store, now) == []
        assert dump(store) == settled


@every_stage
def test_one_big_batch_is_many_small_ones(stage: type[Stage]) -> None:
    """Also holds state to survive JSON bit for bit: between batches of one it goes through text."""
    made, big, small = build(stage), MemoryState(), MemoryState()
    whole = made.process(inputs(stage), big)
    pieces = [one for batch in batches(inputs(stage), 1) for one in made.process(batch, small)]
    assert whole == pieces
    assert dump(big) == dump(small)


@every_stage
def test_state_is_plain_json(stage: type[Stage]) -> None:
    made, store = build(stage), MemoryState()
    made.process(inputs(stage), store)
    for _, state in store:
        text = state.dump()
        json.dumps(json.loads(plain(text)), allow_nan=False)
        assert KeyState.load(text).dump() == text


@every_stage
@pytest.mark.parametrize("seed", [1, 2])
def test_late_and_shuffled_input_is_no_failure(stage: type[Stage], seed: int) -> None:
    made, store = build(stage), MemoryState()
    chance = random.Random(seed)
    messages = chance.sample(inputs(stage), len(inputs(stage)))
    found: list[Record] = []
    middle = START + timedelta(minutes=5)
    for batch in batches(messages, chance.choice((7, 60))):
        found += made.process(batch, store)
        if not stage.effects:
            found += made.expire(store, middle)
    assert not [one for one in found if isinstance(one, DeadLetter)]


@every_stage
def test_emits_only_what_it_says(stage: type[Stage]) -> None:
    made, store = build(stage), MemoryState()
    found = list(made.process(inputs(stage), store))
    if not stage.effects:
        found += [one for now in end_of(inputs(stage)) for one in made.expire(store, now)]
    allowed = {topic.name for topic in (*stage.emits, DEAD_LETTERS)}
    assert {topic_of(one).name for one in found} <= allowed
    assert all(codec.decode(codec.encode(one)) == one for one in found)


@every_stage
def test_a_poisoned_record_is_a_dead_letter_and_its_neighbours_pass(stage: type[Stage]) -> None:
    made, good = build(stage), inputs(stage)[:STEP]
    expected = ids(made.process(good, MemoryState()))
    for place, bad in enumerate(poison(stage)):
        found = made.process([*good[:20], bad, *good[20:]], MemoryState())
        letters = [one for one in found if isinstance(one, DeadLetter)]
        assert [(one.topic, one.offset, one.stage) for one in letters] == [(bad.topic, bad.offset, stage.name)], place
        assert letters[0].reason
        assert ids([one for one in found if not isinstance(one, DeadLetter)]) == expected


def poison(stage: type[Stage]) -> Iterator[Message]:
    """Of every source: noise, a record cut short, a record with a damaged middle, a record of another topic."""
    chance = random.Random(9)
    for topic in stage.sources:
        one = next(m for m in inputs(stage) if m.topic == topic.name)
        values = [chance.randbytes(40), one.value[: len(one.value) // 2]]
        if topic.record is not None:
            values += [b"", codec.encode(next(control_records([])))[:-3], one.value[:10] + b"\xff" * 40]
        for number, value in enumerate(values):
            yield Message(topic.name, 10_000 + number, one.key, value, one.time, one.headers)


@every_stage
def test_fields_of_a_newer_writer_are_tolerated(stage: type[Stage]) -> None:
    for topic in stage.sources:
        one = next(m for m in inputs(stage) if m.topic == topic.name)
        if topic.record is None:
            newer = one.value + bytes([0xC0, 0x3E, 0x07])  # field 1000, a varint, as protobuf writes it
            known = build(stage).process([one], MemoryState())
            moved = Message(one.topic, one.offset, one.key, newer, one.time, one.headers)
            assert ids(build(stage).process([moved], MemoryState())) == ids(known)
        else:
            body = codec.decode(one.value).model_dump() | {"invented_tomorrow": {"deep": [1]}}
            assert codec.validate(topic.record, body) == codec.decode(one.value)


@every_stage
def test_is_documented_and_tested(stage: type[Stage], root: Path) -> None:
    page = (root / "docs" / "stages" / f"{stage.name}.md").read_text()
    for topic in (*stage.sources, *stage.emits):
        assert f"`{topic.name}`" in page, f"docs/stages/{stage.name}.md does not name the topic {topic.name}"
    settings = build(stage).settings
    if is_dataclass(settings):
        for one in fields(settings):
            assert f"`{one.name}`" in page, f"docs/stages/{stage.name}.md does not name the setting {one.name}"
    tests = root / "tests"
    assert any((*tests.rglob(f"test_{stage.name}.py"), *tests.rglob(f"{stage.name}/test_*.py")))
    assert all(BY_NAME[topic.name] is topic for topic in (*stage.sources, *stage.emits))


class Careless(Stage):
    """The control: it counts what it has seen, without a memo, and numbers what it emits."""

    name = "careless"
    sources = (TURNS,)
    emits = (SCORES,)
    memo_size = 1

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        del event
        seen = state.data.get("seen", ())
        state.data["seen"] = (*seen, len(seen))
        yield turn(event_id=f"{type(seen).__name__}-{len(seen)}")


@pytest.mark.parametrize(
    "check",
    [
        test_a_redelivered_batch_changes_nothing_and_emits_the_same,
        test_one_big_batch_is_many_small_ones,
        test_emits_only_what_it_says,
    ],
)
def test_these_checks_catch_a_careless_stage(check: Callable[[type[Stage]], None]) -> None:
    with pytest.raises(AssertionError):
        check(Careless)


def test_stage_names_are_different() -> None:
    assert len({stage.name for stage in STAGES}) == len(STAGES)


def everybody(messages: Sequence[Message]) -> list[Subject]:
    """Everybody whom messages are about, with the ids that are theirs."""
    records = [codec.decode(one.value) for one in messages]
    return [
        Subject(
            TENANT, one,
            turns=frozenset(getattr(r, "turn_id", "") for r in records if r.subject_hash == one) - {""},
            samples=frozenset(r.event_id for r in records if r.subject_hash == one and isinstance(r, Sample)),
        )
        for one in sorted({record.subject_hash for record in records} - {""})
    ]  # fmt: skip


def names(about: Subject) -> list[str]:
    return [about.hash, *about.samples]


@pytest.mark.parametrize(
    "stage", [one for one in STAGES if one.by is not None and one.name not in ("redact", "detect_drift", "score")],
    ids=lambda stage: stage.name,
)  # fmt: skip
def test_an_erased_person_leaves_the_state_and_the_stage_goes_on(stage: type[Stage]) -> None:
    """In the middle of its work, and the others stay."""
    made, store, messages = build(stage), MemoryState(), inputs(stage)
    half = len(messages) * 3 // 4
    made.process(messages[:half], store)
    before = dump(store)
    people = [
        about for about in everybody(messages) if any(one in text for one in names(about) for text in before.values())
    ]
    about, others = people[0], [one.hash for one in people[1:]]
    for key, text in before.items():
        found = made.erased(key, text, about)
        if found is not None:
            store.put(key, found[0])
    after = dump(store)
    assert not any(one in text for one in names(about) for text in after.values())
    for you in others:
        assert sum(text.count(you) for text in after.values()) == sum(text.count(you) for text in before.values())
    assert all(made.erased(key, text, about) is None for key, text in after.items())
    assert not [one for one in made.process(messages[half:], store) if isinstance(one, DeadLetter)]
    for now in end_of(messages):
        made.expire(store, now)

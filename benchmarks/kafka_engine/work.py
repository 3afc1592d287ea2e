"""What the benchmark of the Kafka engine works on: the stages, and their inputs as bytes, the same for every engine.

The inputs of a stage are what the stages before it make of the load of the chaos runs.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from benchmarks.chaos.load import Load, Part, trace_request
from connectors.kafka.partition import partition_of
from connectors.log import entry_of
from driftwheel.buffered import BufferedState
from driftwheel.config import Config
from driftwheel.pipeline import pure_stages
from processors.stage import Message, Stage
from processors.state import KeyState
from schemas.events import Outcome, Record, Score, Turn
from schemas.topics import LEDGER, SIGNALS_RAW
from tests.driftwheel.engine_kit import Echo, Tally, raw, tally

PARTITIONS = 6
BATCH = 500
NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)
AFTER = NOW + timedelta(days=30)
_TEXT = (
    "the order still waits and nobody answers my calls about this delivery but our team needs help with access to "
    "shared drives before Monday because every report fails again after login while screen freezes during meetings so "
    "please check which license expired or tell me who may approve new hardware for colleagues in another building"
)
NAMES = ("redact", "assemble", "score", "attribute", "detect_drift", "curate", "echo", "tally")


@dataclass(frozen=True, slots=True)
class Input:
    """One record of a source topic, before it has an offset."""

    topic: str
    partition: int
    key: str
    value: bytes
    headers: dict[str, str]


def make_stage(name: str) -> Stage:
    """The stage of this name, as the configuration makes it by default; redaction has a fixed key."""
    stages = {stage.name: stage for stage in pure_stages(Config(), b"k" * 32)}
    return (stages | {"echo": Echo(), "tally": Tally()})[name]


def inputs(events: int) -> dict[str, list[Input]]:
    """The inputs of every stage, for about so many spans."""
    work = {"redact": list(_requests(events))}
    spans = _outputs("redact", work["redact"])
    work["assemble"] = [_input(one) for one in spans if type(one).__name__ in ("Span", "Signal")]
    turns = _of(Turn, _outputs("assemble", work["assemble"]))
    work["score"] = turns
    work["attribute"] = [*turns, *_of(Score, _outputs("score", turns))]
    outcomes = _of(Outcome, _outputs("attribute", work["attribute"]))
    work |= {"detect_drift": outcomes, "curate": [*turns, *outcomes]}
    work["echo"] = [_input(tally(f"e{n}", f"a{n % 600}", n)) for n in range(events)]
    work["tally"] = [_input(raw(n, f"a{n % 600}")) for n in range(events // 2)]
    assert work["echo"][0].topic == LEDGER.name
    assert work["tally"][0].topic == SIGNALS_RAW.name
    return work


def _of(kind: type[Record], records: Iterable[Record]) -> list[Input]:
    return [_input(one) for one in records if isinstance(one, kind)]


def _requests(events: int) -> Iterator[Input]:
    load = Load(7, events, poison=0, width=3)
    start = int(NOW.timestamp() * 1e9)
    parts = [step for sender in range(load.senders) for step in load.steps(sender)]
    chance = random.Random(7)
    chance.shuffle(parts)
    told: dict[str, str] = {}
    traces = (
        trace_request([_told(part, told, chance) for part in step if isinstance(part, Part)], start)
        for step in parts
        if isinstance(step[0], Part)
    )
    for number, value in enumerate(traces):
        yield Input("otlp_spans", number % PARTITIONS, "", value, {"tenant": "acme"})


def _told(part: Part, told: dict[str, str], chance: random.Random) -> Part:
    """The part with a message that nobody sent before: what redaction has seen costs it next to nothing."""
    turn = part.turn
    if turn.trace not in told:
        words = " ".join(chance.choice(_TEXT.split()) for _ in range(chance.randint(4, 12)))
        told[turn.trace] = f"{turn.text}, {words} since {chance.randint(1, 28)}.{chance.randint(1, 12)}."
    return replace(part, turn=replace(turn, text=told[turn.trace]))


def _input(record: Record) -> Input:
    entry = entry_of(record, NOW)
    return Input(entry.topic, partition_of(entry.key, PARTITIONS), entry.key, entry.value, dict(entry.headers))


def messages(given: Iterable[Input]) -> list[Message]:
    """The inputs as a stage sees them."""
    offsets: dict[tuple[str, int], int] = {}
    found: list[Message] = []
    for one in given:
        place = (one.topic, one.partition)
        offset = offsets[place] = offsets.get(place, -1) + 1
        found.append(Message(one.topic, offset, one.key, one.value, NOW, one.headers, one.partition))
    return found


def batches(given: Sequence[Message]) -> Iterator[list[Message]]:
    """The same by partition, in batches of the engine's size."""
    for partition in range(PARTITIONS):
        mine = [message for message in given if message.partition == partition]
        for first in range(0, len(mine), BATCH):
            yield mine[first : first + BATCH]


class Texts:
    """State as the engines hold it: texts by key, put together anew for each batch."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def begin(self, due: Sequence[str] = ()) -> BufferedState:
        """The state of one batch."""
        return BufferedState(self.texts.get, lambda _: list(due))

    def end(self, state: BufferedState) -> None:
        """Keep what a batch changed."""
        for key, put in state.changes.items():
            if put is None:
                self.texts.pop(key, None)
            else:
                self.texts[key] = put[0]


def _outputs(name: str, given: Sequence[Input]) -> list[Record]:
    stage, texts, out = make_stage(name), Texts(), list[Record]()
    for batch in batches(messages(given)):
        state = texts.begin()
        out += stage.process(batch, state)
        texts.end(state)
    for _ in range(5):
        due = [key for key, text in texts.texts.items() if (at := KeyState.load(text).due) and at <= AFTER]
        state = texts.begin(due)
        out += stage.expire(state, AFTER)
        texts.end(state)
    return out

"""What is understood of real frameworks' traces: ``python -m benchmarks.frameworks FOLDER`` writes the table of docs.

FOLDER has ``langfuse_framework_traces.jsonl.gz`` (downloads of traces from Langfuse) and
``openinference_fixture_spans.jsonl.gz`` (attributes of spans, and spans as OpenTelemetry's SDK for JavaScript keeps
them). Every trace goes through the importer, redaction and assembly.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from connectors.imports.langfuse import langfuse_spans
from connectors.imports.phoenix import phoenix_spans
from connectors.imports.rows import rows_of
from connectors.imports.spans import SpanRow, requests_of
from processors.assemble import Assemble
from processors.redact import Redact
from processors.stage import Message
from processors.state import MemoryState
from schemas import codec
from schemas.events import Record, Span, Turn
from schemas.topics import OTLP_SPANS, SPANS

TRACES, FIXTURES = "langfuse_framework_traces.jsonl.gz", "openinference_fixture_spans.jsonl.gz"
PAGE = Path(__file__).parent.parent / "docs" / "frameworks.md"
MARK = "<!-- table -->"
NOW = datetime(2026, 6, 1, tzinfo=UTC)
COLUMNS = ("framework", "traces", "spans", "turns", "input", "output", "model", "tokens", "cost", "tools", "session")


@dataclass(slots=True)
class Found:
    """One trace: its raw form, and what was made of it."""

    name: str
    framework: str
    raw: dict[str, Any]
    spans: list[Span] = field(default_factory=list[Span])
    turns: list[Turn] = field(default_factory=list[Turn])


def found_in(folder: Path) -> list[Found]:
    """Every trace of both files."""
    return [*_traces(folder / TRACES), *_fixtures(folder / FIXTURES)]


def _traces(path: Path) -> Iterator[Found]:
    for row in rows_of(path):
        yield _passed(Found(row.value["name"], row.value["framework"], row.value), langfuse_spans(row.value, ""))


def _fixtures(path: Path) -> Iterator[Found]:
    for number, row in enumerate(rows_of(path)):
        raw = row.value if "attributes" in row.value else {"attributes": row.value}
        framework = _framework(raw)
        yield _passed(Found(f"{framework} {number}", framework, raw), phoenix_spans(row.value, ""))


def _framework(raw: dict[str, Any]) -> str:
    if "spanContext" in raw:
        return "vercel-aisdk 6"
    return "openinference" if "openinference.span.kind" in raw["attributes"] else "gen_ai conventions"


def _passed(found: Found, rows: Iterable[SpanRow]) -> Found:
    redact, assemble = Redact(), Assemble()
    raw = [
        Message(OTLP_SPANS.name, n, "t/a", request.SerializeToString(), NOW, {"tenant": "t", "ledger": "gateway"})
        for n, request in enumerate(requests_of(rows))
    ]
    found.spans = [one for one in _all(redact, raw) if isinstance(one, Span)]
    clean = [
        Message(SPANS.name, n, f"t/{span.session_id}", codec.encode(span), NOW, {"tenant": "t"})
        for n, span in enumerate(found.spans)
    ]
    newest = {one.event_id: one for one in _all(assemble, clean) if isinstance(one, Turn)}
    found.turns = list(newest.values())
    return found


def _all(stage: Redact | Assemble, messages: list[Message]) -> list[Record]:
    state = MemoryState()
    return [*stage.process(messages, state), *stage.expire(state, NOW + timedelta(minutes=5))]


def table(found: Iterable[Found]) -> str:
    """A line for each framework: how many traces gave turns, and how many turns have what."""
    groups: dict[str, list[Found]] = {}
    for one in found:
        groups.setdefault(one.framework, []).append(one)
    lines = [f"| {' | '.join(COLUMNS)} |", f"| {' | '.join('---' for _ in COLUMNS)} |"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, _cells(name, groups[name])))} |" for name in sorted(groups))])


def _cells(name: str, some: list[Found]) -> Iterator[str | int]:
    turns = [turn for one in some for turn in one.turns]
    yield from (name, len(some), sum(len(one.spans) for one in some), len(turns))
    yield from (sum(bool(getattr(turn, field)) for turn in turns) for field in ("input", "output", "model"))
    yield sum(turn.input_tokens + turn.output_tokens > 0 for turn in turns)
    yield sum(turn.cost is not None for turn in turns)
    yield sum(turn.tool_calls > 0 for turn in turns)
    yield sum(not turn.session_id.startswith("trace:") for turn in turns)


def main() -> None:
    """Write the table into the page of docs."""
    head, _, rest = PAGE.read_text().partition(MARK)
    tail = rest.partition(MARK)[2]
    PAGE.write_text(f"{head}{MARK}\n\n{table(found_in(Path(sys.argv[1])))}\n\n{MARK}{tail}")


if __name__ == "__main__":
    main()

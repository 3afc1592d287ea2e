"""``driftwheel redact`` and ``driftwheel policy test``: files of texts, and what a policy would do."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from driftwheel.config import Config
from driftwheel.files import placed_lines, writing
from driftwheel.folder import DataFolder
from driftwheel.keys import redaction_key
from driftwheel.pipeline import stage_settings
from processors.redact import Redact, RedactSettings
from processors.redact.policy import Policy, policies_of, read_policy
from processors.redact.texts import Redacted, TextRedactor
from schemas.errors import Invalid, UsageError

BATCH = 256
SAMPLES = (
    "Hi, I am Maria Keller, my order is W4711823, write to maria.keller@example.com or call +49 170 5550132.",
    "Card 4111 1111 1111 1111, born 12 May 1988, 58 Storgata 140\nSuite 763\nTromsø\nNorway 52199",
    '{"user_id": "maria_keller_4711", "password": "hunter2", "cardLast4": "1907", "city": "Tromsø"}',
    "curl -u admin:s3cret https://example.com/?token=abcdef123456 for Acme Air in Berlin",
)
"""What ``policy test`` shows when it is given nothing else."""


class Row(NamedTuple):
    """One line of the input; texts of one ``session`` share their placeholders."""

    id: Any
    session: str
    text: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to redact a file: by a policy file or the ``tenant``'s own policy, in so many processes.

    ``parity``: by Presidio's own findings alone, without a proof.
    """

    policy: Path | None = None
    tenant: str = "default"
    jobs: int = 1
    parity: bool = False


def redact_file(config: Config, source: str, target: str, wanted: Wanted, console: Console) -> int:
    """Redact JSON Lines from one file to another; returns how many texts could not be proved clean.

    UsageError names the line that cannot be read, before anything is written.
    """
    settings = _settings(config)
    chosen = read_policy(wanted.policy) if wanted.policy else policies_of(settings).of(wanted.tenant)
    rows = _rows(source)
    failed = 0
    with writing(target) as out, _bar(console, len(rows)) as advance:
        work = partial(answer, settings, chosen, wanted.tenant, parity=wanted.parity)
        for done in _answers(work, _batches(rows), wanted.jobs):
            for line in done:
                failed += "error" in line
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
            advance(len(done))
    return failed


def _settings(config: Config) -> RedactSettings:
    key = redaction_key(config, DataFolder(config.data_dir))
    settings: RedactSettings = stage_settings(Redact, config, key=key)
    return settings


def _rows(source: str) -> list[Row]:
    return [_row(line, place) for line, place in placed_lines(source)]


def _row(line: str, place: str) -> Row:
    try:
        body = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{place}: no JSON: {error}") from error
    if not isinstance(body, dict) or "id" not in body:
        raise UsageError(f'{place}: expected {{"id": ..., "text": ...}}')
    text = body.get("text")
    if not isinstance(text, str):
        raise UsageError(f'{place}: "text" has to be a string')
    return Row(body["id"], str(body.get("session", body["id"])), text.encode("utf-8", "replace").decode())


def _batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    some = iter(rows)
    while batch := list(islice(some, BATCH)):
        yield batch


def _answers(
    work: Callable[[list[Row]], list[dict[str, Any]]], batches: Iterable[list[Row]], jobs: int
) -> Iterator[list[dict[str, Any]]]:
    if jobs == 1:
        yield from map(work, batches)
        return
    with ExitStack() as stack:
        pools = [stack.enter_context(ProcessPoolExecutor(1)) for _ in range(jobs)]
        asked = [_shared_out(work, batch, pools) for batch in batches]
        for number, parts in enumerate(asked):
            asked[number] = []
            answers = [iter(future.result()) if future else iter(()) for future, _ in parts]
            whose = sorted((place, job) for job, (_, places) in enumerate(parts) for place in places)
            yield [next(answers[job]) for _, job in whose]


def _shared_out(
    work: Callable[[list[Row]], list[dict[str, Any]]], batch: Sequence[Row], pools: Sequence[Executor]
) -> list[tuple[Future[list[dict[str, Any]]] | None, list[int]]]:
    """A batch by process, with the places of its rows; a session stays in one, whose cache knows its texts."""
    places: list[list[int]] = [[] for _ in pools]
    for place, row in enumerate(batch):
        places[crc32(row.session.encode()) % len(pools)].append(place)
    return [
        (pool.submit(work, [batch[place] for place in mine]) if mine else None, mine)
        for pool, mine in zip(pools, places, strict=True)
    ]


def answer(
    settings: RedactSettings, policy: Policy, tenant: str, rows: Sequence[Row], *, parity: bool = False
) -> list[dict[str, Any]]:
    """The lines of the output for these rows. A text that is not proved clean is left out, and the line says why."""
    redactor = TextRedactor(settings, policy, tenant, parity=parity)
    done = redactor.redact([(row.session, row.text) for row in rows])
    return [_line(row, one) for row, one in zip(rows, done, strict=True)]


def _line(row: Row, one: Redacted | Invalid) -> dict[str, Any]:
    if isinstance(one, Invalid):
        return {"id": row.id, "text": None, "findings": [], "error": one.reason, "detail": one.detail}
    findings = [
        {"start": find.start, "end": find.end, "type": find.entity, "score": round(find.score, 3)}
        for find in one.findings
    ]
    return {"id": row.id, "text": one.text, "findings": findings}


@contextmanager
def _bar(console: Console, total: int) -> Generator[Any]:
    columns = (TextColumn("redacting"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)
        yield partial(progress.advance, task)


def try_policy(
    config: Config, file: Path, source: str | None, texts: Sequence[str], console: Console, *, as_json: bool
) -> None:
    """Say what a policy is, and what it does to texts: given ones, those of a file, or samples."""
    policy = read_policy(file)
    rows = [Row(number, "test", text) for number, text in enumerate(texts or ([] if source else SAMPLES), 1)]
    rows += _rows(source) if source else []
    lines = answer(_settings(config), policy, "test", rows)
    if as_json:
        console.print_json(data={"policy": _summary(policy), "texts": lines}, ensure_ascii=False)
        return
    told = Table("", "", show_header=False, box=None, title=escape(str(file)), title_justify="left")
    for name, value in _summary(policy).items():
        told.add_row(name, escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    console.print(told)
    for row, line in zip(rows, lines, strict=True):
        console.rule(style="dim")
        console.print(f"[dim]before[/dim]  {escape(row.text)}", highlight=False)
        after = f"[red]{line['error']}: {line['detail']}[/red]" if "error" in line else escape(line["text"])
        console.print(f"[dim]after[/dim]   {after}", highlight=False)
        found = ", ".join(f"{find['type']} {row.text[find['start'] : find['end']]!r}" for find in line["findings"])
        console.print(f"[dim]found[/dim]   {escape(found) or 'nothing'}", highlight=False)


def _summary(policy: Policy) -> dict[str, Any]:
    return {
        "version": policy.version,
        "models": dict(policy.models),
        "types": ", ".join(policy.entities),
        "threshold": policy.threshold,
        "actions": {"default": policy.action, **dict(policy.actions)},
        "stays": [*policy.allow, *policy.allow_patterns],
        "own rules": [f"{one.entity}: {one.pattern or ', '.join(one.keys)}" for one in policy.custom],
        "store": f"{policy.store} consent",
        "train": "never" if policy.train == "never" else f"{policy.train} consent",
        "evaluate": "never" if policy.evaluate == "never" else f"{policy.evaluate} consent",
        "retention": {name: f"{days} days" for name, days in policy.retention},
        "dropped": [*policy.drop_fields, *(f"attributes {one}" for one in policy.drop_attributes)],
    }

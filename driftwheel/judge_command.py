"""``driftwheel judge``: files of answers judged, judges probed, and how far they agree with people."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from connectors.judge.budget import Budget
from connectors.judge.cache import FileCache
from connectors.judge.judge import Judge, Opinion
from connectors.judge.probes import KINDS, Kind, own_items, probe
from connectors.judge.prompts import Case, score_prompt, tokens_of
from connectors.judge.rubrics import Rubric, rubrics
from driftwheel.api import Table
from driftwheel.clock import utc_now
from driftwheel.config import Config
from driftwheel.desk import open_desk
from driftwheel.files import placed_lines, writing
from driftwheel.folder import DataFolder
from driftwheel.judge_rows import standings
from driftwheel.judge_setup import PolicyRedactor, endpoint_of, floor_of, judges_of
from driftwheel.keys import redaction_key
from driftwheel.tables import show
from processors.agreement import Rate, Standing, kappa, pairs_of
from schemas.errors import Refused, UsageError

_WORDS = {"pass": True, "true": True, "yes": True, "1": True, "fail": False, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to judge a file. ``redacted``: its texts are clean already. ``cache``: a file of scores to keep and reuse."""

    tenant: str = "default"
    redacted: bool = False
    dry_run: bool = False
    cache: Path | None = None
    as_json: bool = False


class Row(NamedTuple):
    """One line of the input."""

    id: Any
    case: Case


def with_rubrics(config: Config, names: str) -> Config:
    """The configuration with these rubrics, named with commas; '' leaves it."""
    chosen = tuple(name.strip() for name in names.split(",") if name.strip())
    return (
        config.model_copy(update={"judge": config.judge.model_copy(update={"rubrics": chosen})}) if chosen else config
    )


def judge_file(config: Config, source: str, target: str, wanted: Wanted, console: Console) -> dict[str, Any]:
    """Judge JSON Lines from one file to another, or with ``dry_run`` write the prompts; returns what was done.

    UsageError names the line that cannot be read, before anything is sent; Refused when it would cost too much.
    """
    rows = list(_rows(source))
    if not wanted.redacted:
        rows = list(_redacted(config, rows, wanted.tenant, console))
    chosen = rubrics(config.judge.rubrics, config.judge.folder)
    asked = [(row, one) for row in rows for one in chosen if row.case.fits(one)]
    summary: dict[str, Any] = {
        "cases": len(rows),
        "prompts": len(asked),
        "estimated_tokens": sum(tokens_of(score_prompt(one, row.case)) for row, one in asked),
    }
    if wanted.dry_run:
        _write_prompts(asked, target)
    else:
        _check_cost(config, summary)
        summary |= _judge(config, rows, target, wanted, console)
    _tell(summary, wanted)
    return summary


def _tell(summary: dict[str, Any], wanted: Wanted) -> None:
    if wanted.as_json:
        typer.echo(json.dumps(summary))
        return
    said = ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in summary.items())
    typer.echo(f"driftwheel: {said}" + ("; nothing was sent" if wanted.dry_run else ""), err=True)


def _write_prompts(asked: Sequence[tuple[Row, Rubric]], target: str) -> None:
    with writing(target) as out:
        for row, one in asked:
            messages = score_prompt(one, row.case)
            line = {"id": row.id, "rubric": one.name, "version": one.version, "tokens": tokens_of(messages)}
            out.write(json.dumps({**line, "messages": messages}, ensure_ascii=False) + "\n")


def _check_cost(config: Config, summary: dict[str, Any]) -> None:
    most = summary["estimated_tokens"] + summary["prompts"] * config.judge.max_tokens
    if most > config.judge.tokens_per_day:
        raise Refused(
            f"{summary['prompts']} prompts may cost {most} tokens, judge.tokens_per_day is "
            f"{config.judge.tokens_per_day}: judge fewer cases or rubrics, or raise it; --dry-run shows what there is"
        )


def _judge(config: Config, rows: Sequence[Row], target: str, wanted: Wanted, console: Console) -> dict[str, Any]:
    counts = {"pass": 0, "fail": 0, "neither": 0, "abstained": 0, "cached": 0, "tokens": 0}
    with ExitStack() as stack:
        judges = stack.enter_context(_judges(config, wanted.cache))
        redactor = PolicyRedactor(config, _key(config))
        out = stack.enter_context(writing(target))
        advance = stack.enter_context(_bar(console, "judging", len(rows)))
        for row in rows:
            clean = redactor.cleaner(wanted.tenant, str(row.id))
            found = [one.assess(row.case, clean) for one in judges if row.case.fits(one.rubric)]
            for one in found:
                _count(counts, one)
            line = {"id": row.id, "verdicts": [_verdict(one) for one in found]}
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
            advance(1)
    return counts


def _count(counts: dict[str, int], one: Opinion) -> None:
    counts["abstained" if one.score is None else one.label or "neither"] += 1
    counts["cached"] += one.cached
    counts["tokens"] += one.tokens


def _verdict(one: Opinion) -> dict[str, Any]:
    said = {"rubric": one.rubric, "version": one.version, "model": one.model, "score": one.score, "label": one.label}
    return {**said, "rationale": one.rationale} | ({"abstained": one.abstained} if one.abstained else {})


@contextmanager
def _judges(config: Config, cache: Path | None) -> Generator[list[Judge]]:
    """Judges for one run, which has its own budget of calls."""
    with ExitStack() as stack:
        endpoint = endpoint_of(config)
        stack.callback(endpoint.close)
        kept = FileCache(cache, utc_now) if cache is not None else None
        if kept is not None:
            stack.callback(kept.close)
        budget = Budget(1_000_000_000, config.judge.tokens_per_day, utc_now)
        yield judges_of(config, endpoint, budget, secret=_key(config) if kept else b"", cache=kept)


def _key(config: Config) -> bytes:
    return redaction_key(config, DataFolder(config.data_dir))


# Reading.


def _rows(source: str) -> Iterator[Row]:
    return (_row(line, place) for line, place in placed_lines(source))


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        body = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place}: no JSON that can be read") from error
    if not isinstance(body, dict):
        raise UsageError(f"{place}: expected a JSON object")
    return body


def _row(line: str, place: str) -> Row:
    body = _object(line, place)
    for field in ("id", "input", "output"):
        if field not in body:
            raise UsageError(f'{place}: "{field}" is missing; expected {{"id", "input", "output"}}')
    documents = body.get("documents", [])
    if not isinstance(documents, list):
        raise UsageError(f'{place}: "documents" has to be a list of texts')
    texts = [_text(body.get(field, ""), field, place) for field in ("input", "output", "reference")]
    shown = tuple(_text(one, "documents", place) for one in documents)
    return Row(body["id"], Case(texts[0], texts[1], texts[2], shown))


def _text(value: Any, field: str, place: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f'{place}: "{field}" has to be text')
    return value.encode("utf-8", "replace").decode()


def _redacted(config: Config, rows: Sequence[Row], tenant: str, console: Console) -> Iterator[Row]:
    redactor = PolicyRedactor(config, _key(config))
    with _bar(console, "redacting", len(rows)) as advance:
        for row in rows:
            clean = redactor.cleaner(tenant, str(row.id))
            question, answer, reference, *documents = map(clean, row.case.parts())
            yield Row(row.id, Case(question, answer, reference, tuple(documents)))
            advance(1)


@contextmanager
def _bar(console: Console, what: str, total: int) -> Generator[Any]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        yield partial(progress.advance, task)


# Probes.


def probe_judges(config: Config, source: str, wanted: Wanted, console: Console) -> bool:
    """Probe every configured judge on a file's cases, or on those that come along; whether all pass."""
    cases = list(own_items())
    if source:
        rows = list(_rows(source))
        cases = [row.case for row in (rows if wanted.redacted else _redacted(config, rows, wanted.tenant, console))]
    floor, table = floor_of(config), Table(["judge", "probe", "run", "failed", "abstained", "share", "limit", "ok"], [])
    with _judges(config, None) as judges, _bar(console, "probing", len(judges) * len(KINDS) * len(cases)) as advance:
        for one in judges:
            fitting = [case for case in cases if case.fits(one.rubric)]
            for kind in KINDS:
                rate, silent = _probed(one, fitting, kind, advance)
                limit = getattr(floor, kind)
                ok = rate.total >= min(floor.probes, max(1, len(fitting))) and rate.share <= limit
                table.rows.append([one.id, kind, rate.total, rate.hits, silent, round(rate.share, 4), limit, ok])
    show(table, as_json=wanted.as_json)
    return all(row[-1] for row in table.rows)


def _probed(judge: Judge, cases: Sequence[Case], kind: Kind, advance: Any) -> tuple[Rate, int]:
    failed = told = 0
    for case in cases:
        found = probe(judge, case, kind)
        told += found.failed is not None
        failed += bool(found.failed)
        advance(1)
    return Rate(failed, told), len(cases) - told


# Agreement.

_COLUMNS = [
    "judge", "turns", "kappa", "low", "high", "expired", "abstained", "position", "verbosity", "may_gate", "why_not",
]  # fmt: skip


def show_agreement(config: Config, tenant: str, *, as_json: bool) -> bool:
    """Print how every judge in the store stands; whether all of them may gate."""
    with open_desk(config) as desk:
        found = standings(desk.sql, tenant, utc_now(), floor_of(config))
    show(Table(_COLUMNS, [_standing(one) for one in found.values()]), as_json=as_json)
    return all(one.may_gate for one in found.values())


def _standing(one: Standing) -> list[Any]:
    tally = one.tally
    rates = [f"{rate.hits}/{rate.total}" for rate in (tally.abstained, tally.position, tally.verbosity)]
    return [tally.judge, tally.pairs.total, *one.kappa, tally.expired, *rates, one.may_gate, "; ".join(one.reasons)]


def show_file_agreement(source: str, *, as_json: bool) -> None:
    """Print kappa with its interval of two columns of a file: {"judge": "pass", "person": "fail"} a line."""
    verdicts: list[tuple[bool, bool]] = []
    for line, place in placed_lines(source):
        body = _object(line, place)
        verdicts.append((_said(body, "judge", place), _said(body, "person", place)))
    pairs = pairs_of(verdicts)
    found = kappa(pairs)
    columns = ["turns", "kappa", "low", "high", "both_pass", "only_judge_passes", "only_person_passes", "both_fail"]
    show(Table(columns, [[pairs.total, *found, *pairs]]), as_json=as_json)


def _said(body: dict[str, Any], field: str, place: str) -> bool:
    found = _WORDS.get(str(body.get(field, "")).lower())
    if found is None:
        raise UsageError(f'{place}: "{field}" has to be pass or fail')
    return found

"""What has been released: every form in which a record may lie in a topic.

``<version>/<Record>.avsc`` is the form with which a version was released, kept when it differs from the form before;
``<version>/values.json`` lists the words that its fields were limited to, which an Avro schema does not say. Nothing
here is ever changed: topics keep records for years. ``python -m schemas.released <version>`` adds a release.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from schemas.avro_schema import avro_schema
from schemas.compatibility import problems
from schemas.errors import UsageError
from schemas.events import RECORDS

FOLDER = Path(__file__).parent
VALUES = "values.json"


@dataclass(frozen=True, slots=True)
class Form:
    """The Avro schema (as JSON value) with which ``version`` was released of the record named ``record``."""

    version: str
    record: str
    schema: Any


def versions(folder: Path = FOLDER) -> list[str]:
    """Every released version, oldest first."""
    return sorted((path.parent.name for path in folder.glob(f"*/{VALUES}")), key=_order)


def forms(folder: Path = FOLDER) -> list[Form]:
    """Every released form, oldest first."""
    return [
        Form(version, path.stem, json.loads(path.read_text()))
        for version in versions(folder)
        for path in sorted((folder / version).glob("*.avsc"))
    ]


def values(folder: Path = FOLDER) -> dict[str, dict[str, list[str]]]:
    """By version: the words that each limited field (``Record.field``) might hold."""
    return {version: json.loads((folder / version / VALUES).read_text()) for version in versions(folder)}


def broken(folder: Path = FOLDER) -> list[str]:
    """Why current records cannot take the place of released ones, each with its version; empty: they can."""
    current, words, limits = _current(), current_values(), values(folder)
    found: list[str] = []
    for form in forms(folder):
        if form.record not in current:
            found.append(f"{form.version}: {form.record}: is gone")
            continue
        reasons = [
            *problems(current[form.record], form.schema),
            *_narrowed(form, words, limits[form.version]),
        ]
        found += [f"{form.version}: {text}" for text in reasons]
    return found


def _narrowed(form: Form, words: dict[str, list[str]], were: dict[str, list[str]]) -> Iterator[str]:
    """Fields of a released form that may hold less than then. Of nested records: of those that were limited then."""
    whole = {f"{form.record}.{field['name']}" for field in form.schema["fields"]}
    for field, now in words.items():
        if field.partition(".")[0] != form.record:
            continue
        if gone := sorted(set(were.get(field, ())) - set(now)):
            yield f"{field}: may no longer be {', '.join(gone)}"
        elif field in whole and field not in were:
            yield f"{field}: might be any text, may now be {', '.join(now)} only"


def freeze(version: str, folder: Path = FOLDER) -> list[str]:
    """Keep the current forms as those of a release; returns the names of the records that have changed.

    Raises UsageError for a version that is not X.Y.Z, is not after the last one, or cannot read what was released.
    """
    if _order(version) <= max(map(_order, versions(folder)), default=(-1,)):
        raise UsageError(f"{version} is not after {versions(folder)[-1]}; what was released stays as it is")
    if found := broken(folder):
        raise UsageError("records that were released could not be read:\n" + "\n".join(f"  {text}" for text in found))
    last = {form.record: form.schema for form in forms(folder)}
    changed = {name: schema for name, schema in _current().items() if last.get(name) != schema}
    (folder / version).mkdir()
    for name, schema in changed.items():
        (folder / version / f"{name}.avsc").write_text(json.dumps(schema, indent=2) + "\n")
    (folder / version / VALUES).write_text(json.dumps(current_values(), indent=2) + "\n")
    return sorted(changed)


def _current() -> dict[str, Any]:
    return {record.__name__: avro_schema(record) for record in RECORDS}


def current_values() -> dict[str, list[str]]:
    """The words that each limited field may hold now, sorted."""
    return {name: words for record in RECORDS for name, words in _limited(record, record.__name__)}


def _limited(model: type[BaseModel], at: str) -> Iterator[tuple[str, list[str]]]:
    for name, info in model.model_fields.items():
        for part in _parts(info.annotation):
            if typing.get_origin(part) is typing.Literal:
                yield f"{at}.{name}", sorted(map(str, typing.get_args(part)))
            elif isinstance(part, type) and issubclass(part, BaseModel):
                yield from _limited(part, f"{at}.{name}")


def _parts(annotation: Any) -> Iterator[Any]:
    """A type and those inside of it: of lists, maps, unions."""
    yield annotation
    if typing.get_origin(annotation) in (list, dict, typing.Union, types.UnionType, typing.Annotated):
        for inside in typing.get_args(annotation):
            yield from _parts(inside)


def _order(version: str) -> tuple[int, ...]:
    parts = version.split(".")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise UsageError(f"{version!r} is not a version: X.Y.Z, three numbers")
    return tuple(map(int, parts))

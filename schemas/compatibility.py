"""Whether records of one Avro schema can be read as another: schema resolution (Avro 1.12 specification).

Stricter than Avro in one point: a number of the writer that has a logical type (a time in microseconds) has to have
the same one for the reader, because Avro would read it in the wrong unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastavro.schema import parse_schema

_NUMBERS = frozenset({"int", "long"})
_PROMOTIONS = {
    "int": frozenset({"long", "float", "double"}),
    "long": frozenset({"float", "double"}),
    "float": frozenset({"double"}),
    "string": frozenset({"bytes"}),
    "bytes": frozenset({"string"}),
}
_PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})


def problems(reader: Any, writer: Any) -> list[str]:
    """Why ``reader`` cannot read what ``writer`` wrote, each beginning with the field's path; empty: it can.

    Both are schemas as JSON values, or parsed. Raises what fastavro raises for a value that is no schema.

    >>> old = {"type": "record", "name": "R", "fields": [{"name": "x", "type": "long"}]}
    >>> new = {"type": "record", "name": "R", "fields": [{"name": "y", "type": "long"}]}
    >>> problems(new, old)
    ['R.y: is new and has no default']
    """
    named: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    reader, writer = parse_schema(reader, named[0]), parse_schema(writer, named[1])
    return list(_Comparison(*named).compare(reader, writer, _name(reader)))


def _kind(schema: Any) -> str:
    if isinstance(schema, list):
        return "union"
    return schema if isinstance(schema, str) else str(schema["type"])


def _name(schema: Any) -> str:
    """What a schema is called in messages: the name without its namespace, else the type."""
    if isinstance(schema, dict):
        return str(schema.get("name", schema["type"])).rpartition(".")[2]
    return " or ".join(_name(branch) for branch in schema) if isinstance(schema, list) else str(schema)


class _Comparison:
    """One walk through two schemas with their named types."""

    def __init__(self, reader: dict[str, Any], writer: dict[str, Any]) -> None:
        self._reader, self._writer = reader, writer
        self._known: dict[tuple[str, str], list[str]] = {}

    def compare(self, reader: Any, writer: Any, at: str) -> Iterator[str]:
        reader = self._reader.get(reader, reader) if isinstance(reader, str) else reader
        writer = self._writer.get(writer, writer) if isinstance(writer, str) else writer
        kinds = _kind(reader), _kind(writer)
        if kinds[1] == "union":
            for branch in writer:
                yield from self.compare(reader, branch, at)
        elif kinds[0] == "union":
            yield from self._into_union(reader, writer, at)
        elif kinds[1] in _PRIMITIVES:
            yield from _primitives(reader, writer, at)
        elif kinds[0] != kinds[1]:
            yield f"{at}: was {_name(writer)}, is {_name(reader)}"
        elif kinds[0] in ("array", "map"):
            inside = "items" if kinds[0] == "array" else "values"
            yield from self.compare(reader[inside], writer[inside], f"{at}.{inside}")
        else:
            yield from self._once(reader, writer, at)

    def _into_union(self, reader: list[Any], writer: Any, at: str) -> Iterator[str]:
        tries = [list(self.compare(branch, writer, at)) for branch in reader]
        if all(tries):
            deeper = [found for found in tries if any(not text.startswith(f"{at}:") for text in found)]
            yield from deeper[0] if deeper else [f"{at}: was {_name(writer)}, is {_name(reader)}"]

    def _once(self, reader: Any, writer: Any, at: str) -> Iterator[str]:
        """Named types may hold themselves: a pair under comparison counts as fitting."""
        pair = (str(reader["name"]), str(writer["name"]))
        if pair not in self._known:
            self._known[pair] = []
            self._known[pair] = list(self._named(reader, writer, at))
        yield from self._known[pair]

    def _named(self, reader: Any, writer: Any, at: str) -> Iterator[str]:
        aliases = {str(alias).rpartition(".")[2] for alias in reader.get("aliases", ())}
        if _name(writer) not in {_name(reader), *aliases}:
            yield f"{at}: was the {_kind(writer)} {_name(writer)}, is {_name(reader)}"
        elif _kind(reader) == "record":
            yield from self._records(reader, writer, at)
        elif _kind(reader) == "enum":
            gone = set(writer["symbols"]) - set(reader["symbols"])
            if gone and "default" not in reader:
                yield f"{at}: has lost the symbols {', '.join(sorted(gone))} and has no default"
        elif reader["size"] != writer["size"]:
            yield f"{at}: was {writer['size']} bytes, is {reader['size']}"

    def _records(self, reader: Any, writer: Any, at: str) -> Iterator[str]:
        written = {field["name"]: field for field in writer["fields"]}
        for field in reader["fields"]:
            place = f"{at}.{field['name']}"
            names = [field["name"], *field.get("aliases", ())]
            found = next((written[name] for name in names if name in written), None)
            if found is not None:
                yield from self.compare(field["type"], found["type"], place)
            elif "default" not in field:
                yield f"{place}: is new and has no default"


def _primitives(reader: Any, writer: Any, at: str) -> Iterator[str]:
    was, now = _kind(writer), _kind(reader)
    if now != was and now not in _PROMOTIONS.get(was, ()):
        yield f"{at}: was {_name(writer)}, is {_name(reader)}"
    elif was in _NUMBERS and isinstance(writer, dict):
        unit = writer.get("logicalType")
        if unit and unit != (reader.get("logicalType") if isinstance(reader, dict) else None):
            yield f"{at}: was {unit}, is {_logical(reader)}"


def _logical(schema: Any) -> str:
    return str(schema.get("logicalType", schema["type"])) if isinstance(schema, dict) else str(schema)

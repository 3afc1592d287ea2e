"""Avro bodies to mappings: for each schema a reader in plain Python, made once (see ``schemas.avro_writer``).

What it gives is what fastavro gives, in half of the time or less. It is for bodies as our writer makes them; at
anything else it gives up, and fastavro has the word: on damage, and on what is rare but allowed (blocks with their
size).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from schemas.avro_writer import Code
from schemas.events import EPOCH

Reader = Callable[[bytes, int], Any]
"""Gives the value whose body starts at a place. What follows the body is not looked at."""
GIVES_UP = (IndexError, ValueError, OverflowError, struct.error)
"""What a reader raises: the body is cut or damaged, or of a form that it does not know."""


def reader(schema: Any) -> Reader:
    """The reader of a parsed schema. TypeError for a schema that has other types than the writer's, int and bytes."""
    code = Code("def read(b, p):")
    _read(code, schema, "v")
    code.add("if p > len(b):", " raise ValueError('cut')", "return v")
    return code.compiled("read", _NAMES)


def _long(b: bytes, place: int) -> tuple[int, int]:
    """The number of several bytes that starts at ``place``, still zig-zag, and the place behind it."""
    value = shift = 0
    while True:
        byte = b[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    if value >> 64:
        raise ValueError("more than 64 bits")
    return value, place


def _damaged() -> None:
    raise ValueError("not as the writer makes it")


_NAMES: dict[str, Any] = {
    "long": _long, "double": struct.Struct("<d").unpack_from, "EPOCH": EPOCH, "timedelta": timedelta,
    "damaged": _damaged,
}  # fmt: skip


def _read(code: Code, schema: Any, name: str) -> None:
    """Code that reads a value at ``p`` into the variable ``name``, and moves ``p`` behind it."""
    kind = "union" if isinstance(schema, list) else schema
    if isinstance(schema, dict):
        kind = schema.get("logicalType") or schema["type"]
    if kind not in _KINDS:
        raise TypeError(f"no code for the Avro type {kind}")
    _KINDS[kind](code, schema, name)


def _number(code: Code) -> None:
    """The next number into ``n``, still zig-zag: the odd ones are negative."""
    code.add("n = b[p]", "p += 1", "if n > 127:", " n, p = long(b, p - 1)")


def _integer(code: Code, _: Any, name: str) -> None:
    _number(code)
    code.add(f"{name} = n >> 1 ^ -(n & 1)")


def _time(code: Code, _: Any, name: str) -> None:
    _integer(code, _, "n")
    code.add(f"{name} = EPOCH + timedelta(0, 0, n)")


def _bytes(code: Code, _: Any, name: str, more: str = "", empty: str = "b''") -> None:
    code.add("n = b[p]", "p += 1")
    code.add(
        "if n:", " if n > 127:", "  n, p = long(b, p - 1)", " if n & 1:", "  damaged()", " q = p + (n >> 1)",
        f" {name} = b[p:q]{more}", " p = q", "else:", f" {name} = {empty}",
    )  # fmt: skip


def _string(code: Code, _: Any, name: str) -> None:
    _bytes(code, _, name, ".decode()", "''")


def _double(code: Code, _: Any, name: str) -> None:
    code.add(f"{name}, = double(b, p)", "p += 8")


def _boolean(code: Code, _: Any, name: str) -> None:
    code.add("n = b[p]", "p += 1", "if n > 1:", " damaged()", f"{name} = n == 1")


def _record(code: Code, schema: Any, name: str) -> None:
    parts = [(one["name"], one["type"], code.fresh()) for one in schema["fields"]]
    for _, kind, part in parts:
        _read(code, kind, part)
    code.add(f"{name} = {{{', '.join(f'{field!r}: {part}' for field, _, part in parts)}}}")


def _array(code: Code, schema: Any, name: str) -> None:
    item = code.fresh()
    code.add(f"{name} = []")

    def one() -> None:
        _read(code, schema["items"], item)
        code.add(f"{name}.append({item})")

    _blocks(code, one)


def _map(code: Code, schema: Any, name: str) -> None:
    key, item = code.fresh(), code.fresh()
    code.add(f"{name} = {{}}")

    def one() -> None:
        _string(code, None, key)
        _read(code, schema["values"], item)
        code.add(f"{name}[{key}] = {item}")

    _blocks(code, one)


def _blocks(code: Code, one: Callable[[], None]) -> None:
    """Items in blocks, each after its count, until a count of 0."""
    left = code.fresh()

    def block() -> None:
        code.add("if n & 1:", " damaged()", f"{left} = n >> 1")
        code.inside(f"for _ in range({left}):", one)
        _number(code)

    _number(code)
    code.inside("while n:", block)


def _union(code: Code, schema: Any, name: str) -> None:
    if schema[0] != "null" or len(schema) != 2:  # null and another
        raise TypeError(f"no code for the Avro union {schema}")
    code.add("n = b[p]", "p += 1")
    code.inside("if n == 2:", lambda: _read(code, schema[1], name))
    code.add("elif n:", " damaged()", "else:", f" {name} = None")


_KINDS: dict[Any, Callable[[Code, Any, str], None]] = {
    "string": _string, "bytes": _bytes, "int": _integer, "long": _integer, "timestamp-micros": _time,
    "double": _double, "boolean": _boolean, "record": _record, "array": _array, "map": _map, "union": _union,
}  # fmt: skip

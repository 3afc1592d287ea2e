"""Records to Avro bodies: for each schema a writer in plain Python, made once.

fastavro asks for a value's type whenever it writes one, and has to be given dicts, which takes three times the CPU.
Here the types are in the code, and records are written as they are. The bytes are fastavro's (a test holds them equal),
which reads them. There is what ``schemas.avro_schema`` makes: string, long, timestamp-micros, double, boolean, array,
map, record, and a union of null and one of them (Avro 1.12 specification, "Binary encoding").
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import datetime
from typing import Any

from schemas.avro_code import Code
from schemas.events import EPOCH

Writer = Callable[[Any, Callable[[bytes], object]], None]
"""Gives the bytes of a record, piece by piece, to a function."""


def writer(schema: Any) -> Writer:
    """The writer of a parsed record schema. TypeError for a schema that has other types than those above.

    Half of a character becomes '?'. The writer raises OverflowError for a number of more than 64 bits.
    """
    code = Code("v, a")  # the value, and what takes the pieces
    _write(code, schema, "v")
    return code.compiled(_NAMES)


def long_bytes(value: int) -> bytes:
    """A number as zig-zag bytes.

    >>> [long_bytes(n).hex() for n in (0, -1, 1, 64)]
    ['00', '01', '02', '8001']
    """
    if not -(1 << 63) <= value < 1 << 63:
        raise OverflowError(f"{value} has more than 64 bits")
    left, out = (value << 1) ^ (value >> 63), bytearray()
    while left > 0x7F:  # seven bits in a byte
        out.append(left & 0x7F | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out)


def micros_of(time: datetime) -> int:
    """Microseconds since 1970."""
    since = time - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


_SMALL = 4096
_NAMES: dict[str, Any] = {
    "small": [long_bytes(n) for n in range(_SMALL)], "long_bytes": long_bytes, "micros_of": micros_of,
    "double_bytes": struct.Struct("<d").pack,
}  # fmt: skip


def _write(code: Code, schema: Any, value: str) -> None:
    """Code that writes what the expression ``value`` gives."""
    kind = "union" if isinstance(schema, list) else schema
    if isinstance(schema, dict):
        kind = schema.get("logicalType") or schema["type"]
    if kind not in _KINDS:
        raise TypeError(f"no code for the Avro type {kind}")
    _KINDS[kind](code, schema, value)


def _long(code: Code, _: Any, value: str) -> None:
    code.add(f"n = {value}", f"a(small[n] if 0 <= n < {_SMALL} else long_bytes(n))")


def _string(code: Code, _: Any, value: str) -> None:
    code.add(f"e = {value}.encode('utf-8', 'replace')")
    _long(code, _, "len(e)")
    code.add("a(e)")


def _time(code: Code, _: Any, value: str) -> None:
    code.add(f"a(long_bytes(micros_of({value})))")


def _double(code: Code, _: Any, value: str) -> None:
    code.add(f"a(double_bytes({value}))")


def _boolean(code: Code, _: Any, value: str) -> None:
    code.add(f"a(b'\\x01' if {value} else b'\\x00')")


def _record(code: Code, schema: Any, value: str) -> None:
    held = code.fresh()
    code.add(f"{held} = {value}.__dict__")
    for one in schema["fields"]:
        _write(code, one["type"], f"{held}[{one['name']!r}]")


def _array(code: Code, schema: Any, value: str) -> None:
    _items(code, value, value, lambda item: _write(code, schema["items"], item))


def _map(code: Code, schema: Any, value: str) -> None:
    def write(item: str) -> None:
        _string(code, None, f"{item}[0]")
        _write(code, schema["values"], f"{item}[1]")

    _items(code, value, f"{value}.items()", write)


def _items(code: Code, value: str, items: str, write: Callable[[str], None]) -> None:
    item = code.fresh()

    def block() -> None:
        _long(code, None, f"len({value})")
        code.inside(f"for {item} in {items}:", lambda: write(item))

    code.inside(f"if {value}:", block)
    code.add("a(b'\\x00')")


def _union(code: Code, schema: Any, value: str) -> None:
    if schema[0] != "null" or len(schema) != 2:  # null and another
        raise TypeError(f"no code for the Avro union {schema}")

    def there() -> None:
        code.add("a(b'\\x02')")
        _write(code, schema[1], value)

    code.inside(f"if {value} is None:", lambda: code.add("a(b'\\x00')"))
    code.inside("else:", there)


_KINDS: dict[Any, Callable[[Code, Any, str], None]] = {
    "string": _string, "long": _long, "timestamp-micros": _time, "double": _double, "boolean": _boolean,
    "record": _record, "array": _array, "map": _map, "union": _union,
}  # fmt: skip

"""Avro bodies to records: for each record a reader in plain Python, made once of its fields.

fastavro makes a dict and pydantic looks at every value of it again. Here the types are in the code, which takes half of
the CPU, and of a record that is as it should be makes the same (a test holds them equal). It judges nothing: what is
damaged, wrong or only unusual it leaves to those two, by raising one of ``UNSURE``.
"""

from __future__ import annotations

import builtins
import struct
import types
import typing
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any

from pydantic import AwareDatetime, BaseModel

from schemas.avro_code import Code
from schemas.events import EPOCH, Record, Time

Reader = Callable[[bytes, int], Any]
"""The record whose body begins at an offset of some bytes; what follows it is not looked at."""
UNSURE = (ValueError, IndexError, OverflowError, struct.error)

_EXACT = 4_000_000_000_000_000
"""Microseconds up to which a float of seconds is exact to less than half of one: until 2096."""
_TIME = list(typing.get_args(Time)[1:])


def reader(record: type[Record]) -> Reader:
    """The reader of what the record's own schema wrote (see ``schemas.avro_schema``, which derives it from the fields).

    It raises one of ``UNSURE`` for what may be no record. TypeError for fields of other types than the records have
    now, and for validators and constraints that it does not know.
    """
    code = Code("d, p")  # the bytes, and where to read on
    names = dict(_NAMES)
    _record(code, names, record, "made")
    code.add("if p > len(d): raise ValueError", "return made")
    return code.compiled(names)


def number_at(data: bytes, place: int) -> tuple[int, int]:
    """A zig-zag number of at most nine bytes, and where it ends.

    >>> number_at(bytes.fromhex("01ff8001"), 0), number_at(bytes.fromhex("8001"), 0)
    ((-1, 1), (64, 2))
    """
    raw = shift = 0
    for byte in data[place : place + 9]:
        raw |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (raw >> 1) ^ -(raw & 1), place + shift // 7
    raise ValueError


def count_at(data: bytes, place: int) -> tuple[int, int]:
    """How many there are, and where that ends. ValueError for less than none."""
    count, place = number_at(data, place)
    if count < 0:
        raise ValueError
    return count, place


def time_at(data: bytes, place: int) -> tuple[datetime, int]:
    """The instant of so many microseconds since 1970, and where they end.

    >>> [time_at(bytes.fromhex(n), 0)[0].isoformat() for n in ("01", "8289e6a1eee7a306")]
    ['1969-12-31T23:59:59.999999+00:00', '2026-01-05T08:00:00.123457+00:00']
    """
    a, b, c, d, e, f, g, h = data[place : place + 8].ljust(8)
    if h < 0x80 and a & b & c & d & e & f & g & 0x80 and not a & 1:  # of our days: eight bytes of seven bits, no sign
        low = (a & 0x7F | (b & 0x7F) << 7 | (c & 0x7F) << 14 | (d & 0x7F) << 21) >> 1
        micros, place = low | (e & 0x7F | (f & 0x7F) << 7 | (g & 0x7F) << 14 | h << 21) << 27, place + 8
    else:
        micros, place = number_at(data, place)
    if 0 <= micros < _EXACT:
        return datetime.fromtimestamp(micros / 1_000_000, UTC), place  # a third quicker than the sum
    return EPOCH + timedelta(microseconds=micros), place


def maker(model: type[BaseModel]) -> Callable[[dict[str, Any]], BaseModel]:
    """Makes ``model``s of checked values, one for every field: ``model_construct`` without its search for defaults."""
    new, put, given = model.__new__, object.__setattr__, set(model.model_fields)

    def make(values: dict[str, Any]) -> BaseModel:
        made = new(model)
        put(made, "__dict__", values)
        put(made, "__pydantic_fields_set__", given)
        put(made, "__pydantic_extra__", None)
        put(made, "__pydantic_private__", None)
        return made

    return make


_NAMES: dict[str, Any] = {
    "number_at": number_at, "count_at": count_at, "time_at": time_at, "isfinite": isfinite,
    "double_at": struct.Struct("<d").unpack_from,
}  # fmt: skip


def _zero(kind: Any) -> Any:
    """What stands in a value's place before it is read: what a zero byte means, or anything where that says more."""
    return "" if typing.get_origin(kind) is typing.Literal else {str: "", int: 0, bool: False}.get(kind)


def _read(code: Code, names: dict[str, Any], kind: Any, to: str) -> None:
    """Code that puts the next value, of the type ``kind``, where the expression ``to`` says and its zero is."""
    args = typing.get_args(kind)
    match typing.get_origin(kind):
        case None if kind in _PLAIN:
            _PLAIN[kind](code, to)
        case None if isinstance(kind, type) and issubclass(kind, BaseModel):
            _record(code, names, kind, to)
        case typing.Literal:
            _literal(code, names, args, to)
        case builtins.list:
            _list(code, names, args[0], to)
        case builtins.dict if args[0] is str:
            _map(code, names, args[1], to)
        case typing.Union | types.UnionType if args[1:] == (types.NoneType,):
            _optional(code, names, args[0], to)
        case _:
            raise TypeError(f"no code for the type {kind}")


def _record(code: Code, names: dict[str, Any], model: type[BaseModel], to: str) -> None:
    decorators = model.__pydantic_decorators__
    if decorators.field_validators or decorators.model_validators:
        raise TypeError(f"no code for the validators of {model.__name__}")
    blank, values, make = code.fresh(), code.fresh(), code.fresh()
    names[blank] = {name: _zero(info.annotation) for name, info in model.model_fields.items()}
    names[make] = maker(model)
    code.add(f"{values} = {blank}.copy()")
    for name, info in model.model_fields.items():
        if info.metadata and list(info.metadata) != _TIME:
            raise TypeError(f"no code for the constraints of {model.__name__}.{name}: {info.metadata}")
        _read(code, names, info.annotation, f"{values}[{name!r}]")
    code.add(f"{to} = {make}({values})")


def _string(code: Code, to: str) -> None:
    def there() -> None:
        code.add("if n & 129: n, p = count_at(d, p - 1)", "else: n >>= 1")  # of several bytes, or less than none
        code.add("e = p + n", f"{to} = d[p:e].decode()", "p = e")

    code.add("n = d[p]", "p += 1")
    code.inside("if n:", there)


def _literal(code: Code, names: dict[str, Any], allowed: tuple[Any, ...], to: str) -> None:
    known = code.fresh()
    names[known] = frozenset(allowed)
    _string(code, to)
    code.add(f"if {to} not in {known}: raise ValueError")


def _long(code: Code, to: str) -> None:
    def there() -> None:
        code.add(f"if n & 129: {to}, p = number_at(d, p - 1)", f"else: {to} = n >> 1")

    code.add("n = d[p]", "p += 1")
    code.inside("if n:", there)


def _time(code: Code, to: str) -> None:
    code.add(f"{to}, p = time_at(d, p)")


def _double(code: Code, to: str) -> None:
    code.add("f, = double_at(d, p)", "p += 8", "if not isfinite(f): raise ValueError", f"{to} = f")


def _boolean(code: Code, to: str) -> None:
    code.add(f"if d[p]: {to} = True", "p += 1")


def _blocks(code: Code, read: Callable[[], None]) -> None:
    """Items in blocks with their number before each, up to one that has none."""

    def block() -> None:
        code.add("n, p = count_at(d, p)", "if not n: raise ValueError")  # a zero of two bytes
        code.inside("for _ in range(n):", read)

    code.inside("while d[p]:", block)
    code.add("p += 1")


def _list(code: Code, names: dict[str, Any], kind: Any, to: str) -> None:
    items, item = code.fresh(), code.fresh()

    def read() -> None:
        code.add(f"{item} = {_zero(kind)!r}")
        _read(code, names, kind, item)
        code.add(f"{items}.append({item})")

    code.add(f"{items} = {to} = []")
    _blocks(code, read)


def _map(code: Code, names: dict[str, Any], kind: Any, to: str) -> None:
    items, key, item = code.fresh(), code.fresh(), code.fresh()

    def read() -> None:
        code.add(f"{key}, {item} = '', {_zero(kind)!r}")
        _string(code, key)
        _read(code, names, kind, item)
        code.add(f"{items}[{key}] = {item}")

    code.add(f"{items} = {to} = {{}}")
    _blocks(code, read)


def _optional(code: Code, names: dict[str, Any], kind: Any, to: str) -> None:
    def there() -> None:
        code.add("if n != 2: raise ValueError", f"{to} = {_zero(kind)!r}")
        _read(code, names, kind, to)

    code.add("n = d[p]", "p += 1")
    code.inside("if n:", there)


_PLAIN: dict[Any, Callable[[Code, str], None]] = {
    str: _string, int: _long, float: _double, bool: _boolean, AwareDatetime: _time,
}  # fmt: skip

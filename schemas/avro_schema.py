"""The Avro schema of a record, derived from its pydantic model. ``python -m schemas.avro_schema`` writes them all.

The files in ``schemas/avro`` are the published contract; a test holds them equal to what this derives. Every
field with a default has that default in Avro too, which is what BACKWARD compatibility needs.
"""

from __future__ import annotations

import builtins
import json
import types
import typing
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel

from schemas.events import RECORDS, Record

NAMESPACE = "io.driftwheel"
FOLDER = Path(__file__).parent / "avro"

_PRIMITIVE: dict[Any, Any] = {
    str: "string",
    int: "long",
    float: "double",
    bool: "boolean",
    AwareDatetime: {"type": "long", "logicalType": "timestamp-micros"},
}


def _avro_type(annotation: Any) -> Any:
    if annotation in _PRIMITIVE:
        return _PRIMITIVE[annotation]
    args = typing.get_args(annotation)
    match typing.get_origin(annotation):
        case typing.Annotated:
            made = _avro_type(args[0])
        case typing.Literal:
            made = "string"
        case builtins.list:
            made = {"type": "array", "items": _avro_type(args[0])}
        case builtins.dict:
            made = {"type": "map", "values": _avro_type(args[1])}
        case typing.Union | types.UnionType:
            made = ["null", *(_avro_type(a) for a in args if a is not type(None))]
        case _:
            made = avro_schema(annotation)
    return made


def _default(value: Any) -> Any:
    return int(value.timestamp() * 1_000_000) if isinstance(value, datetime) else value


def avro_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The Avro record schema of ``model``; nested models become nested records."""
    fields: list[dict[str, Any]] = []
    for name, info in model.model_fields.items():
        field: dict[str, Any] = {"name": name, "type": _avro_type(info.annotation)}
        if not info.is_required():
            field["default"] = _default(info.get_default(call_default_factory=True))
        fields.append(field)
    doc = (model.__doc__ or "").strip().splitlines()[0]
    return {"type": "record", "name": model.__name__, "namespace": NAMESPACE, "doc": doc, "fields": fields}


def path_of(record: type[Record]) -> Path:
    """Where the published schema of a record lies."""
    return FOLDER / f"{record.__name__}.avsc"


def main() -> None:
    """Write every schema file anew."""
    FOLDER.mkdir(exist_ok=True)
    for record in RECORDS:
        path_of(record).write_text(json.dumps(avro_schema(record), indent=2) + "\n")


if __name__ == "__main__":
    main()

"""What was released can be read for ever, and what decides that agrees with Avro."""

from __future__ import annotations

import copy
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import avro.compatibility
import avro.schema
import fastavro
import pytest
from fastavro.utils import generate_many
from fastavro.validation import validate
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from schemas import codec, released
from schemas.avro_schema import avro_schema
from schemas.compatibility import problems
from schemas.errors import Invalid, UsageError
from schemas.events import RECORDS, DeadLetter, LedgerEntry, Record, Span
from schemas.released import Form
from tests.schemas.test_contract import example

BY_NAME = {record.__name__: record for record in RECORDS}
FORMS = released.forms()
DEAD_LETTER = next(form.schema for form in FORMS if form.record == "DeadLetter" and form.version == "0.1.0")


def named(form: Form) -> str:
    return f"{form.version}-{form.record}"


def single_object(schema: Any, value: Any) -> bytes:
    parsed = fastavro.parse_schema(schema)
    out = io.BytesIO()
    out.write(codec.prefix_of(parsed))
    fastavro.schemaless_writer(out, parsed, value)
    return out.getvalue()


# The released forms.


def test_nothing_released_is_broken() -> None:
    assert released.broken() == []


def test_there_is_a_release_of_every_record_but_the_new_ones() -> None:
    assert {form.record for form in FORMS} <= set(BY_NAME)
    assert {form.version for form in FORMS} <= set(released.versions())
    assert "0.1.0" in released.versions()


@pytest.mark.parametrize("form", FORMS, ids=named)
def test_the_current_schema_reads_the_released_form(form: Form) -> None:
    assert problems(avro_schema(BY_NAME[form.record]), form.schema) == []


@pytest.mark.parametrize("form", FORMS, ids=named)
def test_avros_own_checker_agrees(form: Form) -> None:
    assert apache(avro_schema(BY_NAME[form.record]), form.schema)


@pytest.mark.parametrize("form", FORMS, ids=named)
def test_data_of_the_released_form_is_resolved(form: Form) -> None:
    """With fastavro's resolution, and with ours to the current single object."""
    record, old = BY_NAME[form.record], fastavro.parse_schema(form.schema)
    for value in generate_many(old, 20):
        out = io.BytesIO()
        fastavro.schemaless_writer(out, old, value)
        read: Any = fastavro.schemaless_reader(io.BytesIO(out.getvalue()), old, codec.schema_of(record))
        ours = codec.Writer(record, form.schema).current(out.getvalue())
        again: Any = fastavro.schemaless_reader(io.BytesIO(ours[codec.HEADER :]), codec.schema_of(record), None)
        assert {name: again[name] for name in value} == {name: read[name] for name in value}
        assert set(again) == {field["name"] for field in avro_schema(record)["fields"]}


@pytest.mark.parametrize("form", FORMS, ids=named)
def test_a_record_of_the_released_form_decodes(form: Form) -> None:
    record = BY_NAME[form.record]
    whole = example(record)
    known = {field["name"] for field in form.schema["fields"]}
    body = {name: value for name, value in whole.model_dump().items() if name in known}
    data = single_object(form.schema, body)
    assert codec.record_of(data) is record
    assert codec.decode(data, record) == whole
    assert codec.current(data) == codec.encode(whole)


def test_the_dead_letter_has_changed_since() -> None:
    data = single_object(DEAD_LETTER, example(DeadLetter).model_dump(exclude={"partition"}))
    assert data[: codec.HEADER] != codec.encode(example(DeadLetter))[: codec.HEADER]
    assert codec.decode(data) == example(DeadLetter)


def test_a_released_form_keeps_its_values_not_the_defaults() -> None:
    made = example(DeadLetter).model_copy(
        update={"detail": "why", "items": 7, "received_time": example(Span).event_time}
    )
    data = single_object(DEAD_LETTER, made.model_dump(exclude={"partition"}))
    assert codec.decode(data) == made


def test_every_cut_of_a_released_form_is_invalid() -> None:
    data = single_object(DEAD_LETTER, example(DeadLetter).model_dump(exclude={"partition"}))
    for end in range(len(data)):
        with pytest.raises(Invalid):
            codec.decode(data[:end])


def test_a_released_form_of_another_record_is_the_wrong_record() -> None:
    data = single_object(DEAD_LETTER, example(DeadLetter).model_dump(exclude={"partition"}))
    with pytest.raises(Invalid, match="wrong_record"):
        codec.decode(data, Span)


@pytest.mark.parametrize("record", RECORDS)
def test_every_default_is_a_value_of_its_type(record: type[Record]) -> None:
    for field in avro_schema(record)["fields"]:
        if "default" in field:
            assert validate(field["default"], fastavro.parse_schema(field["type"]), raise_errors=False), field["name"]


# Controls: what must be found.


def edited(change: Any) -> Any:
    """The current dead letter's schema, changed in place by ``change(fields by name, schema)``."""
    schema = copy.deepcopy(avro_schema(DeadLetter))
    change({field["name"]: field for field in schema["fields"]}, schema)
    return schema


CONTROLS = {
    "removed default": (lambda fields, _: fields["partition"].pop("default"), "partition: is new and has no default"),
    "changed type": (lambda fields, _: fields["offset"].update(type="string"), "offset: was long, is string"),
    "narrowed type": (lambda fields, _: fields["offset"].update(type="int"), "offset: was long, is int"),
    "changed unit": (
        lambda fields, _: fields["received_time"].update(type={"type": "long", "logicalType": "timestamp-millis"}),
        "received_time: was timestamp-micros, is timestamp-millis",
    ),
    "lost unit": (lambda fields, _: fields["received_time"].update(type="long"), "received_time: was timestamp-micros"),
    "new field": (lambda _, schema: schema["fields"].append({"name": "new", "type": "long"}), "new: is new"),
    "renamed field": (lambda fields, _: fields["stage"].update(name="step"), "step: is new and has no default"),
    "renamed record": (lambda _, schema: schema.update(name="Dead"), "was the record DeadLetter"),
    "another union": (
        lambda fields, _: fields["detail"].update(type=["null", "long"], default=None),
        "detail: was string",
    ),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_what_breaks_readers_is_found(name: str) -> None:
    change, reason = CONTROLS[name]
    found = problems(edited(change), DEAD_LETTER)
    assert any(reason in text for text in found), found
    assert not apache(edited(change), DEAD_LETTER) or "unit" in name


@pytest.mark.parametrize("name", [name for name in CONTROLS if "unit" not in name])
def test_what_breaks_readers_does_break_fastavro(name: str) -> None:
    data = single_object(DEAD_LETTER, example(DeadLetter).model_dump(exclude={"partition"}))
    reader, writer = fastavro.parse_schema(edited(CONTROLS[name][0])), fastavro.parse_schema(DEAD_LETTER)
    with pytest.raises(fastavro.read.SchemaResolutionError):
        fastavro.schemaless_reader(io.BytesIO(data[codec.HEADER :]), writer, reader)


SYMBOLS: dict[str, Any] = {"type": "enum", "name": "E", "symbols": ["A", "B"]}


def test_a_narrowed_enum_is_found() -> None:
    narrow = SYMBOLS | {"symbols": ["A"]}
    assert problems(narrow, SYMBOLS) == ["E: has lost the symbols B and has no default"]
    assert problems(narrow | {"default": "A"}, SYMBOLS) == []
    assert problems(SYMBOLS, narrow) == []


def test_what_does_not_break_readers_is_let_through() -> None:
    def widen(fields: Any, schema: Any) -> None:
        fields["items"].update(type="double")
        fields["detail"].update(type=["null", "string"])
        fields["stage"].update(name="step", aliases=["stage"])
        schema["fields"].remove(fields["topic"])
        schema["fields"].reverse()

    assert problems(edited(widen), DEAD_LETTER) == []


def test_a_record_that_holds_itself_ends() -> None:
    tree = {"type": "record", "name": "T", "fields": [{"name": "down", "type": ["null", "T"]}]}
    assert problems(tree, tree) == []
    other = copy.deepcopy(tree)
    other["fields"].append({"name": "x", "type": "long"})
    assert problems(other, tree) == ["T.x: is new and has no default"]


# A release.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(released.FOLDER, tmp_path / "released", ignore=shutil.ignore_patterns("*.py", "__*")))


def test_a_release_keeps_what_has_changed(folder: Path) -> None:
    last = {form.record: form.schema for form in released.forms(folder)}
    changed = sorted(name for name, record in BY_NAME.items() if last.get(name) != avro_schema(record))
    assert released.freeze("9.0.0", folder) == changed
    assert released.versions(folder)[-1] == "9.0.0"
    assert sorted(form.record for form in released.forms(folder) if form.version == "9.0.0") == changed
    assert released.freeze("9.0.1", folder) == []
    assert released.freeze("10.0.0", folder) == []
    assert released.versions(folder)[-2:] == ["9.0.1", "10.0.0"]


@pytest.mark.parametrize("version", ["0.1.0", "0.0.9", "1", "1.0.0rc1", "../1.0.0", ""])
def test_a_version_that_cannot_be_is_a_usage_error(folder: Path, version: str) -> None:
    with pytest.raises(UsageError):
        released.freeze(version, folder)
    assert released.versions(folder) == released.versions()


def planted(folder: Path, record: str, schema: Any) -> list[str]:
    """What is broken when this had been released at 8.0.0."""
    released.freeze("8.0.0", folder)
    (folder / "8.0.0" / f"{record}.avsc").write_text(json.dumps(schema))
    return released.broken(folder)


def test_a_broken_form_is_found_and_not_released(folder: Path) -> None:
    old = copy.deepcopy(avro_schema(DeadLetter))
    old["fields"] = [field for field in old["fields"] if field["name"] != "offset"]
    assert planted(folder, "DeadLetter", old) == ["8.0.0: DeadLetter.offset: is new and has no default"]
    with pytest.raises(UsageError, match=r"DeadLetter\.offset"):
        released.freeze("9.0.0", folder)
    assert "9.0.0" not in released.versions(folder)


def test_a_record_that_is_gone_is_found(folder: Path) -> None:
    assert planted(folder, "Gone", avro_schema(DeadLetter)) == ["8.0.0: Gone: is gone"]


def test_a_narrowed_choice_is_found(folder: Path) -> None:
    """Avro sees a string; the record takes fewer of them than it did."""
    path = folder / "0.1.0" / released.VALUES
    words = json.loads(path.read_text())
    assert words["LedgerEntry.entry"] == sorted(LedgerEntry.model_fields["entry"].annotation.__args__)  # type: ignore[union-attr]  # a Literal
    words["LedgerEntry.entry"].append("vanished")
    del words["Span.kind"]
    path.write_text(json.dumps(words))
    assert released.broken(folder) == [
        "0.1.0: LedgerEntry.entry: may no longer be vanished",
        "0.1.0: Span.kind: might be any text, may now be agent, chain, evaluator, llm, other, retrieval, tool only",
    ]


def test_limited_fields_are_found_wherever_they_are() -> None:
    class Inner(Record):
        word: Literal["a", "b"] | None = None

    class Outer(Record):
        words: list[Literal["c"]]
        inner: dict[str, Inner]
        free: str

    assert dict(released._limited(Outer, "Outer")) == {"Outer.words": ["c"], "Outer.inner.word": ["a", "b"]}


def test_the_command_says_what_is_wrong(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "schemas.released", "0.1.0"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "is not after 0.1.0" in done.stderr


# Ours against Avro's own implementation, on any two schemas.


def apache(reader: Any, writer: Any) -> bool:
    result = avro.compatibility.ReaderWriterCompatibilityChecker().get_compatibility(
        avro.schema.parse(json.dumps(reader)), avro.schema.parse(json.dumps(writer))
    )
    return result.compatibility is avro.compatibility.SchemaCompatibilityType.compatible


PRIMITIVES = st.sampled_from(["null", "boolean", "int", "long", "float", "double", "bytes", "string"])
ENUMS = st.sets(st.sampled_from("ABC"), min_size=1).map(lambda s: {"type": "enum", "name": "E", "symbols": sorted(s)})
FIXED = st.integers(1, 2).map(lambda size: {"type": "fixed", "name": "F", "size": size})


def _inside(types: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        types.map(lambda inner: {"type": "array", "items": inner}),
        types.map(lambda inner: {"type": "map", "values": inner}),
        st.sets(st.sampled_from(["null", "long", "double", "string"]), min_size=2).map(sorted),
    )


TYPES = st.recursive(PRIMITIVES, _inside, max_leaves=3)


@st.composite
def schemas(draw: st.DrawFn) -> Any:
    fields = draw(st.dictionaries(st.sampled_from("abc"), TYPES, max_size=3))
    made: list[Any] = [{"name": name, "type": kind} for name, kind in fields.items()]
    if draw(st.booleans()):
        made.append({"name": "d", "type": "long", "default": 1})
    if draw(st.booleans()):
        made.append({"name": "e", "type": draw(st.one_of(ENUMS, FIXED))})
    return {"type": "record", "name": draw(st.sampled_from("RRRRRS")), "namespace": "n", "fields": made}


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Any, Any]:
    """A schema and one that came of it by a change or two."""
    old = draw(schemas())
    new = copy.deepcopy(old)
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(new["fields"])))
        match draw(st.sampled_from(["drop", "type", "union", "add", "default"])):
            case "add":
                new["fields"].insert(at, {"name": f"n{at}{len(new['fields'])}", "type": "string"})
            case "default":
                more = {"name": f"n{at}{len(new['fields'])}", "type": "string", "default": ""}
                new["fields"].insert(at, more)
            case "drop":
                del new["fields"][at:]
            case "type" if at < len(new["fields"]):
                new["fields"][at] = {"name": new["fields"][at]["name"], "type": draw(TYPES)}
            case "union" if at < len(new["fields"]) and "default" not in new["fields"][at]:
                kind = new["fields"][at]["type"]
                new["fields"][at]["type"] = kind if isinstance(kind, list) or kind == "null" else ["null", kind]
    return new, old


@settings(max_examples=400, deadline=None)
@given(st.one_of(pairs(), st.tuples(schemas(), schemas())))
def test_ours_and_apaches_checker_agree(pair: tuple[Any, Any]) -> None:
    assert (problems(*pair) == []) is apache(*pair)


@settings(max_examples=200, deadline=None)
@given(pairs())
def test_what_fits_is_read_by_fastavro(pair: tuple[Any, Any]) -> None:
    assume(problems(*pair) == [])
    reader, writer = map(fastavro.parse_schema, pair)
    for value in generate_many(writer, 3):
        out = io.BytesIO()
        fastavro.schemaless_writer(out, writer, value)
        fastavro.schemaless_reader(io.BytesIO(out.getvalue()), writer, reader)

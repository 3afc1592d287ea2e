"""The Confluent wire format, against Confluent's own serializers and a real registry."""

from __future__ import annotations

import io
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fastavro
import httpx
import pytest
from confluent_kafka.schema_registry import (
    SchemaRegistryClient,
    header_schema_id_serializer,
    prefix_schema_id_serializer,
)
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from connectors.kafka.wire import Headers
from connectors.registry.client import RegistryClient, RegistrySettings
from connectors.registry.framing import HEADER, RegistryFraming
from connectors.registry.subjects import register_all, schema_text, subject_of
from schemas import codec
from schemas.avro_schema import avro_schema
from schemas.errors import Invalid, Refused, Retry, UsageError
from schemas.events import DeadLetter, Span
from schemas.released import forms
from schemas.topics import BY_NAME, DEAD_LETTERS, SPANS, TOPICS
from tests.certificates import Authority
from tests.machine import NotHere, free_ports
from tests.registries import Twin, open_registry
from tests.schemas.test_contract import example

FORMS = ("prefix", "headers")
SINGLE = codec.encode(example(Span))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    try:
        with open_registry(tmp_path_factory.mktemp("registry")) as address:
            yield address
    except NotHere as no:
        pytest.skip(str(no))


@pytest.fixture
def twin() -> Iterator[Twin]:
    with Twin() as started:
        yield started


@pytest.fixture(params=["real", "twin"])
def url(request: pytest.FixtureRequest) -> str:
    """A registry's address."""
    found = request.getfixturevalue(request.param)
    return found if isinstance(found, str) else found.url


@pytest.fixture
def settings(url: str) -> RegistrySettings:
    """Under topic names of this test's own."""
    return RegistrySettings(url, topic_prefix=f"t{uuid.uuid4().hex[:8]}.")


@pytest.fixture
def client(settings: RegistrySettings) -> Iterator[RegistryClient]:
    made = RegistryClient(settings)
    yield made
    made.close()


@pytest.fixture
def framing() -> Iterator[Callable[..., RegistryFraming]]:
    made: list[RegistryFraming] = []

    def make(settings: RegistrySettings | str, **more: Any) -> RegistryFraming:
        given = RegistrySettings(settings, **more) if isinstance(settings, str) else settings
        made.append(RegistryFraming(given))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def oracle() -> Iterator[Callable[[str], SchemaRegistryClient]]:
    made: list[SchemaRegistryClient] = []

    def make(url: str) -> SchemaRegistryClient:
        made.append(SchemaRegistryClient({"url": url, "timeout": 60}))
        return made[-1]

    yield make
    for one in made:
        one._rest_client.session.close()


def context(topic: str, headers: Headers | None = None) -> SerializationContext:
    return SerializationContext(topic, MessageField.VALUE, headers if headers is not None else [])


def theirs(client: SchemaRegistryClient, schema: Any, header: str, topic: str, body: Any) -> tuple[bytes, Headers]:
    """What Confluent's serializer produces for another producer's schema."""
    named = header_schema_id_serializer if header == "headers" else prefix_schema_id_serializer
    text = schema if isinstance(schema, str) else json.dumps(schema)
    conf = {"schema.id.serializer": named, "auto.register.schemas": True}
    headers: Headers = []
    data = AvroSerializer(client, text, conf=conf)(body, context(topic, headers))
    assert data is not None
    return data, headers


def body_of(record: Any) -> Any:
    return fastavro.schemaless_reader(
        io.BytesIO(codec.encode(record)[codec.HEADER :]), codec.schema_of(type(record)), None
    )


def changed(schema: Any, **edits: Any) -> Any:
    """A copy of a schema with fields replaced (``name={...}``), added, or removed (``name=None``)."""
    fields = [edits.pop(field["name"], field) for field in schema["fields"]]
    return schema | {"fields": [field for field in (*fields, *edits.values()) if field is not None]}


# What we write they read, and the reverse.


@pytest.mark.parametrize("topic", [topic.name for topic in TOPICS if topic.record])
def test_their_deserializer_reads_what_we_write(url: str, settings: Any, framing: Any, oracle: Any, topic: str) -> None:
    record = example(BY_NAME[topic].record)
    value, headers = framing(settings).wrap(topic, codec.encode(record))
    assert value[0] == 0
    assert headers == []
    read = AvroDeserializer(oracle(url))(value, context(settings.topic_prefix + topic))
    assert read == body_of(record)


def test_their_deserializer_reads_our_header_form(twin: Twin, framing: Any, oracle: Any) -> None:
    value, headers = framing(twin.url, header="headers").wrap(SPANS.name, SINGLE)
    assert value == SINGLE[codec.HEADER :]
    assert [(name, held[0], len(held)) for name, held in headers] == [(HEADER, 1, 17)]
    assert AvroDeserializer(oracle(twin.url))(value, context(SPANS.name, headers)) == body_of(example(Span))


@pytest.mark.parametrize("topic", [topic.name for topic in TOPICS if topic.record])
def test_we_read_what_their_serializer_writes(url: str, settings: Any, framing: Any, oracle: Any, topic: str) -> None:
    record = example(BY_NAME[topic].record)
    text = schema_text(BY_NAME[topic].record)
    value, headers = theirs(oracle(url), text, "prefix", settings.topic_prefix + topic, body_of(record))
    assert framing(settings).unwrap(topic, value, headers) == codec.encode(record)


def test_we_read_their_header_form(twin: Twin, framing: Any, oracle: Any) -> None:
    value, headers = theirs(oracle(twin.url), schema_text(Span), "headers", SPANS.name, body_of(example(Span)))
    assert framing(twin.url).unwrap(SPANS.name, value, headers) == SINGLE


@pytest.mark.parametrize("header", FORMS)
def test_both_sides_write_the_same_bytes(twin: Twin, framing: Any, oracle: Any, header: str) -> None:
    ours = framing(twin.url, header=header).wrap(SPANS.name, SINGLE)
    assert theirs(oracle(twin.url), schema_text(Span), header, SPANS.name, body_of(example(Span))) == ours


def test_one_topic_may_hold_all_forms(twin: Twin, framing: Any) -> None:
    values = [(SINGLE, [])] + [framing(twin.url, header=header).wrap(SPANS.name, SINGLE) for header in FORMS]
    reader = framing(twin.url)
    assert [reader.unwrap(SPANS.name, *one) for one in values] == [SINGLE] * 3


def test_an_id_may_stand_in_the_header(twin: Twin, framing: Any) -> None:
    value, _ = framing(twin.url).wrap(SPANS.name, SINGLE)
    assert framing(twin.url).unwrap(SPANS.name, value[5:], [(HEADER, value[:5])]) == SINGLE


def test_the_last_header_counts_and_others_stay_out_of_it(twin: Twin, framing: Any) -> None:
    value, [(name, held)] = framing(twin.url, header="headers").wrap(SPANS.name, SINGLE)
    headers = [(name, b"\x01" + bytes(16)), ("__key_schema_id", b"\x01" + bytes(16)), (name, held), ("a", b"b")]
    assert framing(twin.url).unwrap(SPANS.name, value, headers) == SINGLE


def test_a_stale_header_does_not_hide_a_single_object(twin: Twin, framing: Any) -> None:
    assert framing(twin.url).unwrap(SPANS.name, SINGLE, [(HEADER, b"\x01" + bytes(16))]) == SINGLE
    assert twin.requests == []


# Writers that are not ours.


@pytest.mark.parametrize("header", FORMS)
def test_a_newer_producer_is_read(twin: Twin, framing: Any, oracle: Any, header: str) -> None:
    newer = changed(avro_schema(Span), later={"name": "later", "type": ["null", "string"], "default": None})
    value, headers = theirs(oracle(twin.url), newer, header, SPANS.name, body_of(example(Span)) | {"later": "x"})
    assert framing(twin.url).unwrap(SPANS.name, value, headers) == SINGLE


def test_another_producers_form_is_read(url: str, settings: Any, framing: Any, oracle: Any) -> None:
    """Its own namespace, fewer fields, another order, int for long."""
    required = [field for field in avro_schema(Span)["fields"] if "default" not in field]
    fields = [field | {"type": "int"} if field["type"] == "long" else field for field in reversed(required)]
    schema = avro_schema(Span) | {"namespace": "com.example", "fields": fields}
    body = {name: held for name, held in body_of(example(Span)).items() if name in {field["name"] for field in fields}}
    value, headers = theirs(oracle(url), schema, "prefix", settings.topic_prefix + SPANS.name, body)
    read = framing(settings).unwrap(SPANS.name, value, headers)
    assert codec.decode(read, Span) == example(Span)


def test_a_released_form_is_read(twin: Twin, framing: Any) -> None:
    [old] = [form.schema for form in forms() if form.record == "DeadLetter" and form.version == "0.1.0"]
    number, out = twin.put(old), io.BytesIO()
    assert old != avro_schema(DeadLetter)
    fastavro.schemaless_writer(out, old, body_of(example(DeadLetter)))
    read = framing(twin.url).unwrap(DEAD_LETTERS.name, b"\0" + number.to_bytes(4) + out.getvalue(), [])
    assert codec.decode(read) == example(DeadLetter)


def test_a_released_single_object_is_written_in_the_current_form(twin: Twin, framing: Any) -> None:
    [old] = [form.schema for form in forms() if form.record == "DeadLetter" and form.version == "0.1.0"]
    out = io.BytesIO(codec.prefix_of(fastavro.parse_schema(old)))
    out.seek(0, io.SEEK_END)
    fastavro.schemaless_writer(out, old, body_of(example(DeadLetter)))
    ours = framing(twin.url)
    assert ours.wrap(DEAD_LETTERS.name, out.getvalue()) == ours.wrap(
        DEAD_LETTERS.name, codec.encode(example(DeadLetter))
    )


@pytest.mark.parametrize(
    "schema",
    [
        changed(avro_schema(Span), trace_id={"name": "trace_id", "type": "long"}),
        changed(avro_schema(Span), trace_id=None),
        avro_schema(Span) | {"name": "Stranger"},
        avro_schema(DeadLetter),
        "string",
        ["null", "string"],
        {"type": "record", "name": "Broken"},
        {"no": "schema"},
    ],
    ids=["type", "missing", "name", "record", "string", "union", "broken", "nonsense"],
)
def test_an_incompatible_writer_becomes_a_dead_letter(twin: Twin, framing: Any, schema: Any) -> None:
    value = b"\0" + twin.put(json.dumps(schema)).to_bytes(4) + SINGLE[codec.HEADER :]
    read = framing(twin.url).unwrap(SPANS.name, value, [])
    assert read == value
    with pytest.raises(Invalid):
        codec.decode(read, Span)


def test_a_damaged_body_becomes_a_dead_letter(twin: Twin, framing: Any) -> None:
    ours, theirs_ = framing(twin.url), changed(avro_schema(Span), more={"name": "more", "type": "string"})
    whole, _ = ours.wrap(SPANS.name, SINGLE)
    for value in (
        whole[:40],
        b"\0" + twin.put(theirs_).to_bytes(4) + SINGLE[codec.HEADER :][:40],
        whole[:5],
        b"\0\0",
        b"",
    ):
        with pytest.raises(Invalid):
            codec.decode(ours.unwrap(SPANS.name, value, []), Span)


def test_an_unknown_id_becomes_a_dead_letter(settings: RegistrySettings, framing: Any) -> None:
    value = b"\0\0\xff\xff\xff" + SINGLE
    assert framing(settings).unwrap(SPANS.name, value, []) == value


def test_an_unknown_id_is_not_asked_for_again_at_once(twin: Twin, framing: Any) -> None:
    reader, value = framing(twin.url), b"\0\0\0\0\x09" + SINGLE
    assert [reader.unwrap(SPANS.name, value, []) for _ in range(3)] == [value] * 3
    assert twin.requests == ["GET /schemas/ids/9"]


def test_an_id_that_was_unknown_is_asked_for_again_later(twin: Twin) -> None:
    now = [0.0]
    reader = RegistryFraming(RegistrySettings(twin.url), clock=lambda: now[0])
    value = b"\0\0\0\0\x01" + SINGLE[codec.HEADER :]
    assert reader.unwrap(SPANS.name, value, []) == value
    twin.put(schema_text(Span))
    assert reader.unwrap(SPANS.name, value, []) == value
    now[0] = 31.0
    assert reader.unwrap(SPANS.name, value, []) == SINGLE
    reader.close()


def test_an_unknown_guid_becomes_a_dead_letter(url: str, settings: Any, framing: Any) -> None:
    body = SINGLE[codec.HEADER :]
    assert framing(settings).unwrap(SPANS.name, body, [(HEADER, b"\x01" + uuid.uuid4().bytes)]) == body


@pytest.mark.parametrize("held", [b"", b"\x01", b"\x02" + bytes(16), b"\x00" + bytes(16), b"\x01" + bytes(4)])
def test_a_header_that_says_nothing_becomes_a_dead_letter(twin: Twin, framing: Any, held: bytes) -> None:
    body = SINGLE[codec.HEADER :]
    assert framing(twin.url).unwrap(SPANS.name, body, [(HEADER, held)]) == body
    assert twin.requests == []


@pytest.mark.parametrize("topic", ["otlp_spans", "driftwheel.redact.state", "none of ours"])
def test_topics_without_a_record_are_left_alone(twin: Twin, framing: Any, topic: str) -> None:
    value = b"\0\0\0\0\x01 protobuf"
    assert framing(twin.url).unwrap(topic, value, []) == value
    assert framing(twin.url).wrap(topic, value) == (value, [])
    assert twin.requests == []


# The registry away, or saying no.


def test_nobody_there_is_retry(framing: Any) -> None:
    away = framing(f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(Retry, match="is away"):
        away.wrap(SPANS.name, SINGLE)
    with pytest.raises(Retry, match="is away"):
        away.unwrap(SPANS.name, b"\0\0\0\0\x01" + SINGLE, [])


def test_a_registry_that_never_answers_is_retry(framing: Any) -> None:
    def silent(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("", request=request)

    settings = RegistrySettings("http://registry")
    with pytest.raises(Retry, match="ReadTimeout"):
        RegistryFraming(settings, RegistryClient(settings, httpx.MockTransport(silent))).wrap(SPANS.name, SINGLE)


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_an_answer_that_will_be_another_later_is_retry(twin: Twin, framing: Any, status: int) -> None:
    reader, value = framing(twin.url), b"\0" + twin.put(schema_text(Span)).to_bytes(4) + SINGLE[codec.HEADER :]
    twin.answer = status
    for _ in range(2):
        with pytest.raises(Retry, match=str(status)):
            reader.unwrap(SPANS.name, value, [])
    twin.answer = None
    assert reader.unwrap(SPANS.name, value, []) == SINGLE


def test_known_schemas_need_no_network(twin: Twin, framing: Any) -> None:
    one = framing(twin.url)
    value, headers = one.wrap(SPANS.name, SINGLE)
    one.unwrap(SPANS.name, value, headers)
    asked = list(twin.requests)
    twin.answer = 503
    assert one.wrap(SPANS.name, SINGLE) == (value, headers)
    assert one.unwrap(SPANS.name, value, headers) == SINGLE
    assert twin.requests == asked


def test_threads_share_what_is_known(twin: Twin, framing: Any) -> None:
    one, together = framing(twin.url), threading.Barrier(8)

    def work(_: int) -> bytes:
        together.wait()
        for _ in range(50):
            value = one.unwrap(SPANS.name, *one.wrap(SPANS.name, SINGLE))
        return value

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(work, range(8))) == {SINGLE}
    assert twin.requests.count("GET /schemas/ids/1") <= 8


@pytest.mark.parametrize("status", [401, 403])
def test_wrong_credentials_are_refused(twin: Twin, framing: Any, status: int) -> None:
    twin.answer = status
    with pytest.raises(Refused, match=r"registry\.password"):
        framing(twin.url).wrap(SPANS.name, SINGLE)


def test_name_and_password_are_sent_and_never_shown(twin: Twin, framing: Any) -> None:
    twin.credentials = httpx.BasicAuth("me", "open sesame")
    settings = RegistrySettings(twin.url, username="me", password="open sesame")
    value, headers = framing(settings).wrap(SPANS.name, SINGLE)
    assert framing(settings).unwrap(SPANS.name, value, headers) == SINGLE
    assert "sesame" not in repr(settings)
    with pytest.raises(Refused):
        framing(twin.url, username="me", password="open").wrap(SPANS.name, SINGLE)


def test_a_wrong_path_is_refused_and_no_dead_letter(url: str, framing: Any) -> None:
    for path in ("/nowhere", "/apis/nothing"):
        with pytest.raises(Refused, match=r"registry\.url"):
            framing(url + path).unwrap(SPANS.name, b"\0\0\0\0\x01" + SINGLE, [])


@pytest.mark.parametrize("url", ["", "registry:8081", "ftp://registry", "http://", "http://me:sesame@registry"])
def test_an_address_that_cannot_be_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match=r"registry\.url") as caught:
        RegistryClient(RegistrySettings(url))
    assert "sesame" not in str(caught.value)


def test_tls_needs_a_certificate_that_is_trusted(tmp_path: Path, framing: Any) -> None:
    ours, strangers = (Authority(tmp_path, name) for name in ("ours", "strangers"))
    with Twin(tls=ours.issue("registry", hosts=["127.0.0.1"])) as twin:
        value, headers = framing(twin.url, ca_file=str(ours.file)).wrap(SPANS.name, SINGLE)
        assert framing(twin.url, ca_file=str(ours.file)).unwrap(SPANS.name, value, headers) == SINGLE
        for ca_file in ("", str(strangers.file)):
            with pytest.raises(Refused, match=r"registry\.ca_file"):
                framing(twin.url, ca_file=ca_file).wrap(SPANS.name, SINGLE)


def test_a_ca_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"registry\.ca_file"):
        RegistryClient(RegistrySettings("https://registry", ca_file=str(tmp_path / "none.pem")))


def test_the_header_form_needs_a_registry_with_guids(framing: Any) -> None:
    with Twin(guids=False) as old, pytest.raises(Refused, match="GUID"):
        framing(old.url, header="headers").wrap(SPANS.name, SINGLE)


# Registration.


def test_register_all_may_be_repeated(settings: RegistrySettings, client: RegistryClient) -> None:
    first = register_all(client, TOPICS, settings.topic_prefix)
    assert set(first) == {subject_of(topic.name, settings.topic_prefix) for topic in TOPICS if topic.record}
    assert register_all(client, TOPICS, settings.topic_prefix) == first
    for subject in first:
        assert client.compatibility(subject) == "BACKWARD"
        assert len(client.schemas(subject)) == 1


def test_a_newer_form_is_registered_beside_the_released_one(settings: RegistrySettings, client: RegistryClient) -> None:
    subject = subject_of(DEAD_LETTERS.name, settings.topic_prefix)
    [old] = [form.schema for form in forms() if form.record == "DeadLetter" and form.version == "0.1.0"]
    client.register(subject, json.dumps(old))
    register_all(client, [DEAD_LETTERS], settings.topic_prefix)
    assert [json.loads(text) for text in client.schemas(subject)] == [avro_schema(DeadLetter), old]


def test_an_incompatible_form_is_refused_with_subject_and_field(
    settings: RegistrySettings, client: RegistryClient
) -> None:
    subject = subject_of(SPANS.name, settings.topic_prefix)
    client.register(subject, json.dumps(changed(avro_schema(Span), trace_id=None)))
    with pytest.raises(Refused, match=rf"{subject}: Span\.trace_id: is new and has no default"):
        register_all(client, [SPANS], settings.topic_prefix)


@pytest.mark.parametrize(
    ("level", "after"), [("FULL", "FULL"), ("BACKWARD_TRANSITIVE",) * 2, ("NONE", "BACKWARD"), ("FORWARD", "BACKWARD")]
)
def test_a_stricter_level_stays(settings: RegistrySettings, client: RegistryClient, level: str, after: str) -> None:
    subject = subject_of(SPANS.name, settings.topic_prefix)
    for one in ("BACKWARD", level):
        client.set_compatibility(subject, one)
    register_all(client, [SPANS], settings.topic_prefix)
    assert client.compatibility(subject) == after

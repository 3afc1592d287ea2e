"""The redact stage: sessions, consent, duplicates, the ledger, and input that is not what it should be."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from processors.redact import Redact, RedactSettings
from processors.redact.settings import subject_hash, tenant_key
from processors.stage import Message
from processors.state import MemoryState
from schemas import codec
from schemas.events import DeadLetter, Label, LedgerEntry, Record, Signal, Span
from schemas.subjects import Subject
from schemas.topics import OTLP_SPANS
from tests.processors.redacting import ROOT, TRACE, otlp, otlp_message, redacted, signal_message, span_of
from tests.world import AGENT, START, TENANT

MAIL = "anna.petrov@example.com"
ASKED = {"openinference.span.kind": "LLM", "input.value": "reset my vpn", "output.value": "it", "session.id": "s1"}
RATING = {"name": "rating", "agent": AGENT, "session_id": "s1", "value": -1}


def dead(records: list[Record]) -> DeadLetter:
    (found,) = [record for record in records if isinstance(record, DeadLetter)]
    return found


def spans(records: list[Record]) -> list[Span]:
    return [record for record in records if isinstance(record, Span)]


def ledger(records: list[Record]) -> list[tuple[str, int]]:
    return [(record.entry, record.count) for record in records if isinstance(record, LedgerEntry)]


def test_a_span_comes_out_clean_and_complete() -> None:
    found = span_of(
        ASKED
        | {
            "input.value": f"I am Anna Petrov, write to {MAIL}",
            "user.id": "u-17",
            "llm.model_name": "gpt-4o",
            "llm.token_count.prompt": 97,
            "driftwheel.logprobs.top1": -0.25,
            "driftwheel.category": "it",
            "shop.basket": 3,
            "shop.mail": MAIL,
        },
        status=(1, ""),
    )
    assert MAIL not in found.model_dump_json()
    assert "Petrov" not in found.input
    assert found.input.startswith("I am <PERSON_")
    assert (found.session_id, found.trace_id, found.kind, found.status) == ("s1", TRACE, "llm", "ok")
    assert (found.model, found.model_version, found.input_tokens) == ("gpt-4o", "gpt-4o", 97)
    assert (found.logprob_top1, found.category, found.output) == (-0.25, "it", "it")
    assert (found.duration_us, found.event_time) == (1_500_000, START)
    assert found.attributes["shop.basket"] == "3"
    assert found.attributes["shop.mail"].startswith("<EMAIL_ADDRESS_")
    assert "u-17" not in found.model_dump_json()
    assert len(found.subject_hash) == 32
    assert found.redaction.counts["EMAIL_ADDRESS"] == 2
    assert found.redaction.policy_version == "1"


def test_placeholders_are_the_same_within_a_session_and_differ_between_sessions() -> None:
    def shown(session: str, text: str) -> str:
        return span_of(ASKED | {"session.id": session, "input.value": text}).input

    first = shown("s1", f"my mail is {MAIL}").split()[-1]
    assert shown("s1", f"mail {MAIL.upper()}").split()[-1] == first
    assert shown("s2", f"my mail is {MAIL}").split()[-1] != first


def test_another_key_unlinks() -> None:
    request = otlp_message(otlp({"attributes": ASKED | {"user.id": "u1", "input.value": f"mail {MAIL}"}}))
    (one,), (two,) = spans(redacted(request)), spans(redacted(request, settings=RedactSettings(key=b"other")))
    assert one.subject_hash != two.subject_hash
    assert one.input != two.input


def test_children_inherit_from_the_root_of_their_request() -> None:
    root = {"span": "00" * 7 + "09", "attributes": {**ASKED, "user.id": "u1", "gen_ai.agent.name": "desk"}}
    child = {"parent": "00" * 7 + "09", "attributes": {"gen_ai.tool.name": "find"}, "name": "execute_tool find"}
    one, two = spans(redacted(otlp_message(otlp(child, root))))
    assert (one.kind, one.tool_name, one.session_id, one.agent) == ("tool", "find", "s1", "desk")
    assert one.subject_hash == two.subject_hash != ""


def test_a_sub_agent_does_not_name_the_trace() -> None:
    child = {"parent": "00" * 7 + "09", "attributes": {**ASKED, "gen_ai.agent.name": "helper"}}
    root = {"span": "00" * 7 + "09", "attributes": ASKED}
    assert [span.agent for span in spans(redacted(otlp_message(otlp(child, root))))] == ["helper", AGENT]


def test_a_session_named_by_a_later_request_is_found() -> None:
    stage, store = Redact(), MemoryState()
    bare = {"attributes": {"gen_ai.tool.name": "find"}}
    assert stage.process([otlp_message(otlp(bare))], store) == []
    named = otlp_message(otlp({"span": "00" * 7 + "09", "attributes": ASKED}), 1)
    out = spans(stage.process([named], store))
    assert [span.session_id for span in out] == ["s1", "s1"]
    again = spans(stage.process([named], store))
    assert again == out, "the same delivery again emits the same, what was let go included"
    late = spans(stage.process([otlp_message(otlp({**bare, "span": "00" * 7 + "0a"}), 2)], store))
    assert [span.session_id for span in late] == ["s1"]


def test_a_trace_without_a_session_becomes_its_own() -> None:
    stage, store = Redact(), MemoryState()
    request = otlp_message(otlp({"attributes": {"gen_ai.tool.name": "find"}}))
    assert stage.process([request], store) == []
    assert stage.expire(store, request.time + timedelta(seconds=9)) == []
    (out,) = spans(stage.expire(store, request.time + timedelta(seconds=10)))
    assert out.session_id == f"trace:{TRACE}"
    assert stage.expire(store, request.time + timedelta(seconds=899)) == []
    assert list(store)
    stage.expire(store, request.time + timedelta(seconds=86_400))
    assert not list(store), "the trace is forgotten"


def test_the_same_span_twice_is_counted_once() -> None:
    stage, store = Redact(), MemoryState()
    request = otlp({"attributes": ASKED})
    (first,) = stage.process([otlp_message(request)], store)
    assert stage.process([otlp_message(request)], store) == [first]
    (second,) = stage.process([otlp_message(request, 1)], store)
    assert ledger([second]) == [("duplicate", 1)]
    twice = otlp({"attributes": ASKED, "span": "00" * 7 + "0b"}, {"attributes": ASKED, "span": "00" * 7 + "0b"})
    out = stage.process([otlp_message(twice, 2)], store)
    assert (len(spans(out)), ledger(out)) == (1, [("duplicate", 1)])


def test_what_no_gateway_counted_is_counted_here() -> None:
    bare = Message(OTLP_SPANS.name, 0, "", otlp({"attributes": ASKED}, {"trace": "00"}).SerializeToString(), START)
    out = redacted(bare)
    assert ledger(out) == [("accepted", 2)]
    assert (len(spans(out)), dead(out).items) == (1, 1)
    junk = redacted(Message(OTLP_SPANS.name, 0, "", b"junk", START))
    assert ledger(junk) == [("accepted", dead(junk).items)]


def test_denied_consent_drops_the_trace() -> None:
    root = {"attributes": ASKED | {"driftwheel.consent.store": False}}
    child = {"parent": "00" * 7 + "01", "attributes": {"gen_ai.tool.name": "find"}}
    assert ledger(redacted(otlp_message(otlp(root, child)))) == [("dropped", 1), ("dropped", 1)]
    stage, store = Redact(), MemoryState()
    held = otlp_message(otlp({**child, "span": "00" * 7 + "09"}))
    assert stage.process([held], store) == []
    assert ledger(stage.process([otlp_message(otlp(root), 1)], store)) == [("dropped", 1), ("dropped", 1)]
    late = otlp_message(otlp({**child, "span": "00" * 7 + "0a"}), 2)
    assert ledger(stage.process([late], store)) == [("dropped", 1)]
    assert ledger(redacted(signal_message(RATING | {"consent": {"store": False}}))) == [("dropped", 1)]


def test_consent_to_train_is_carried() -> None:
    assert span_of(ASKED).consent_train
    assert not span_of(ASKED | {"driftwheel.consent.train": "false"}).consent_train
    strict = RedactSettings(require_consent=True)
    request = otlp_message(otlp({"attributes": ASKED}))
    assert ledger(redacted(request, settings=strict)) == [("dropped", 1)]
    agreed = otlp_message(otlp({"attributes": ASKED | {"driftwheel.consent.store": True}}))
    assert not spans(redacted(agreed, settings=strict))[0].consent_train


def test_consent_to_be_judged_by_is_carried() -> None:
    assert span_of(ASKED).consent_evaluate
    assert not span_of(ASKED | {"driftwheel.consent.evaluate": "false"}).consent_evaluate
    (found,) = redacted(signal_message(RATING | {"consent": {"evaluate": False}}))
    assert isinstance(found, Signal)
    assert (found.consent_train, found.consent_evaluate) == (True, False)


PAIR = {"name": "comparison", "source": "shadow", "agent": AGENT, "session_id": "s1", "trace_id": TRACE,
        "turn_id": f"{TRACE}.{ROOT}", "text": "it", "text_before": "hr"}  # fmt: skip


def comparisons(records: Sequence[Record]) -> int:
    return sum(isinstance(one, Signal) and one.name == "comparison" for one in records)


@pytest.mark.parametrize("pair_first", [True, False])
@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("named", ["trace_id", "turn_id"])
def test_a_pair_of_a_shadow_shares_the_consent_of_its_trace(pair_first: bool, allowed: bool, named: str) -> None:
    stage, store = Redact(), MemoryState()
    said = {} if allowed else {"driftwheel.consent.store": False}
    body = {name: value for name, value in PAIR.items() if name not in {"trace_id", "turn_id"} - {named}}
    messages = [otlp_message(otlp({"attributes": ASKED | {"session.id": "s1"} | said})), signal_message(body)]
    found = [one for m in (messages[::-1] if pair_first else messages) for one in stage.process([m], store)]
    found += stage.expire(store, START + timedelta(minutes=1))
    assert (len(spans(found)), comparisons(found)) == ((1, 1) if allowed else (0, 0))
    assert ledger(found) == ([] if allowed else [("dropped", 1), ("dropped", 1)])


def test_a_pair_of_a_trace_that_nobody_stored_is_dropped_in_time() -> None:
    stage, store = Redact(RedactSettings(require_consent=True)), MemoryState()
    assert stage.process([signal_message(PAIR)], store) == []
    (dropped,) = stage.expire(store, START + timedelta(minutes=1))
    assert ledger([dropped]) == [("dropped", 1)]
    assert stage.process([signal_message(PAIR)], store) == [dropped]
    late = otlp_message(otlp({"attributes": ASKED | {"driftwheel.consent.store": True}}))
    assert len(spans(stage.process([late], store))) == 1, "it says nothing of the trace"
    assert ledger(redacted(signal_message(PAIR | {"consent": {"store": False}}))) == [("dropped", 1)]


def test_an_erased_person_is_dropped_from_what_waits() -> None:
    stage, store = Redact(), MemoryState()
    key = tenant_key(RedactSettings().key, TENANT)
    mine = {"attributes": {**{k: v for k, v in ASKED.items() if "session" not in k}, "user.id": "me"}}
    assert stage.process([otlp_message(otlp(mine))], store) == []
    ((name, state),) = list(store)
    found = stage.erased(name, state.dump(), Subject(TENANT, subject_hash(key, "me")))
    assert found is not None
    assert ledger(found[1]) == [("dropped", 1)]
    assert subject_hash(key, "me") not in found[0].dump()
    assert stage.erased(name, state.dump(), Subject(TENANT, subject_hash(key, "you"))) is None


def test_signals_and_labels() -> None:
    (found,) = redacted(signal_message(RATING | {"text": f"ask {MAIL}", "user_id": "u1", "attributes": {"a": "b"}}))
    assert isinstance(found, Signal)
    assert (found.value, found.weight, found.kind, found.attributes) == (-1, 1.0, "explicit", {"a": "b"})
    assert found.text.startswith("ask <EMAIL_ADDRESS_")
    (span,) = spans(redacted(otlp_message(otlp({"attributes": ASKED | {"user.id": "u1"}}))))
    assert found.subject_hash == span.subject_hash
    body = {"name": "label", "agent": AGENT, "sample_id": "x1", "value": "leave_holiday", "rater": MAIL}
    (label,) = redacted(signal_message(body))
    assert isinstance(label, Label)
    assert label.cause == ""
    (caused,) = redacted(signal_message(body | {"cause": "routing"}))
    assert isinstance(caused, Label)
    assert caused.cause == "routing"
    assert (label.value, label.sample_id) == ("leave_holiday", "x1")
    assert "@" not in label.rater


@pytest.mark.parametrize(
    ("name", "value", "weight"),
    [("escalation", -1, 0.6), ("copy", 1, 0.6), ("edited", -0.5, 0.6), ("correction", -1, 1), ("dwell", 0, 0.6)],
)
def test_signal_defaults(name: str, value: float, weight: float) -> None:
    (found,) = redacted(signal_message({"name": name, "session_id": "s1"}))
    assert isinstance(found, Signal)
    assert (found.value, found.weight) == (value, weight)


LONG = "The canteen is open until three on weekdays and closed on Sundays, ask the desk for the menu."


@pytest.mark.parametrize(
    ("name", "before", "after", "size", "value"),
    [
        ("edited", LONG, LONG + " ", "none", 1.0),
        ("edited", LONG, LONG.replace("three", "four"), "light", -0.25),
        ("edited", LONG, LONG[:60], "medium", -0.5),
        ("edited", LONG, "No idea, sorry.", "rewrite", -1.0),
        ("correction", LONG, LONG.replace("three", "four"), "light", -0.5),
        ("correction", LONG, "No idea, sorry.", "rewrite", -1.0),
        ("correction", "it_help", "hr_help", "medium", -1.0),
        ("edited", "it_help", "hr_help", "medium", -0.5),
    ],
)
def test_how_much_was_edited_is_told_and_weighed(name: str, before: str, after: str, size: str, value: float) -> None:
    body = {"name": name, "session_id": "s1", "text": after, "text_before": before}
    (found,) = redacted(signal_message(body))
    assert isinstance(found, Signal)
    assert (found.attributes["driftwheel.edit.size"], found.value) == (size, value)
    assert 0 <= float(found.attributes["driftwheel.edit.distance"]) <= 1
    (told,) = redacted(signal_message(body | {"value": -0.1}))
    assert isinstance(told, Signal)
    assert told.value == -0.1, "what the producer says goes first"
    for missing in ("text", "text_before"):
        (half,) = redacted(signal_message(body | {missing: ""}))
        assert isinstance(half, Signal)
        assert (half.value, half.attributes) == (-0.5 if name == "edited" else -1, {})


def test_placeholders_that_a_text_has_already_stay() -> None:
    (found,) = redacted(signal_message(RATING | {"text": "call <PERSON_12> about <ORGANIZATION_4071>"}))
    assert isinstance(found, Signal)
    assert found.text == "call <PERSON_12> about <ORGANIZATION_4071>"


GOOD = otlp({"attributes": ASKED}).SerializeToString()


@pytest.mark.parametrize("data", [GOOD[:-7], b"\xff\xff not protobuf", b"{}", GOOD + b"\x0a\xff"])
def test_bytes_that_are_no_request(data: bytes) -> None:
    found = dead(redacted(otlp_message(data)))
    assert found.reason == "damaged_otlp"
    assert "bytes" in found.detail


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"trace": ""}, "trace_id"),
        ({"trace": "0af7"}, "trace_id"),
        ({"trace": "00" * 16}, "trace_id"),
        ({"span": "b7ad"}, "span_id"),
        ({"parent": "b7"}, "parent_span_id"),
    ],
)
def test_a_bad_span_goes_alone(wrong: dict[str, str], field: str) -> None:
    other = {"span": "00" * 7 + "09", "attributes": ASKED}
    out = redacted(otlp_message(otlp({"attributes": ASKED, **wrong}, other, {"attributes": ASKED, **wrong})))
    letters = [record for record in out if isinstance(record, DeadLetter)]
    assert [letter.reason for letter in letters] == ["invalid_span", "invalid_span"]
    assert len({letter.event_id for letter in letters}) == 2
    assert field in letters[0].detail
    assert len(spans(out)) == 1


@pytest.mark.parametrize("days", [-10_000, 1.5, 10_000])
def test_a_clock_that_is_off(days: float) -> None:
    start = int((START.timestamp() + days * 86_400) * 1e9)
    found = span_of(ASKED, start=start, end=start + 1_000)
    assert found.event_time == found.received_time
    assert round(int(found.attributes["driftwheel.clock_skew"]) / 86_400, 1) == pytest.approx(days, abs=0.1)
    assert "driftwheel.clock_skew" not in span_of(ASKED).attributes
    (signal,) = redacted(signal_message(RATING | {"time": "1999-01-01T00:00:00Z"}))
    assert isinstance(signal, Signal)
    assert signal.event_time == START
    assert "driftwheel.clock_skew" in signal.attributes


def test_the_past_is_kept() -> None:
    start = int((START.timestamp() - 400 * 86_400) * 1e9)
    found = span_of(ASKED, start=start, end=start + 1_000)
    assert (found.received_time - found.event_time).days == 400
    assert "driftwheel.clock_skew" not in found.attributes


def test_empty_text_and_no_attributes() -> None:
    assert span_of({"session.id": "s1"}).input == ""
    assert span_of(ASKED | {"input.value": ""}).output == "it"


def test_lone_surrogates() -> None:
    body = json.dumps([{"role": "user", "content": "caf\ud800 \udfff now"}])
    found = span_of(ASKED | {"gen_ai.operation.name": "chat", "input.value": body})
    assert found.input == "caf? ? now"
    codec.encode(found)
    (signal,) = redacted(signal_message(json.dumps(RATING)[:-1] + ', "text": "\\ud800"}'))
    assert isinstance(signal, Signal)
    assert signal.text == "?"


def test_a_megabyte_of_text() -> None:
    line = "the printer on floor two is jammed again and nobody came\n"
    text = line * (1_000_000 // len(line)) + f"mail {MAIL}"
    found = span_of(ASKED | {"input.value": text})
    assert len(found.input) > 990_000
    assert MAIL not in found.input


def test_a_text_over_the_limit() -> None:
    small = RedactSettings(max_text=1_000)
    other = {"span": "00" * 7 + "09", "attributes": ASKED}
    request = otlp_message(otlp({"attributes": ASKED | {"input.value": "x " * 600}}, other))
    out = redacted(request, settings=small)
    assert dead(out).reason == "text_too_long"
    assert "field input: 1200 characters, the limit is 1000" in dead(out).detail
    assert len(spans(out)) == 1


@pytest.mark.parametrize(
    ("payload", "reason", "field"),
    [
        ("[1, 2]", "invalid_json", "payload"),
        ("{", "invalid_json", "payload"),
        ("[" * 50_000, "invalid_json", "payload"),
        (json.dumps(RATING | {"name": "anna@example.com"}), "unknown_signal", "name"),
        (json.dumps(RATING | {"value": 7}), "invalid_field", "value"),
        (json.dumps(RATING | {"value": "anna@example.com"}), "invalid_field", "value"),
        (json.dumps(RATING | {"value": None}), "invalid_field", "value"),
        (json.dumps(RATING | {"value": float("nan")}), "invalid_field", "value"),
        (json.dumps(RATING | {"value": 10**400}), "invalid_field", "value"),
        (json.dumps(RATING | {"weight": -1}), "invalid_field", "weight"),
        (json.dumps(RATING | {"session_id": ""}), "invalid_field", "session_id"),
        (json.dumps(RATING | {"session_id": {}}), "invalid_field", "session_id"),
        (json.dumps(RATING | {"time": "yesterday"}), "invalid_field", "time"),
        (json.dumps(RATING | {"time": "2026-01-05T09:00:00"}), "invalid_field", "time"),
        (json.dumps(RATING | {"attributes": 3}), "invalid_field", "attributes"),
        (json.dumps({"name": "label", "value": "x", "rater": "r"}), "invalid_field", "sample_id"),
        (
            json.dumps({"name": "label", "sample_id": "x", "value": "x", "rater": "r", "cause": "anna"}),
            "invalid_field",
            "cause",
        ),
    ],
)
def test_signals_that_are_wrong(payload: str, reason: str, field: str) -> None:
    out = redacted(signal_message(payload), signal_message(RATING, 1))
    assert dead(out).reason == reason
    assert f"field {field}" in dead(out).detail
    assert "anna" not in dead(out).model_dump_json()
    assert any(isinstance(record, Signal) for record in out), "the neighbour passes"


def test_a_batch_is_what_single_messages_are() -> None:
    bodies: list[dict[str, Any]] = [
        {"span": f"{n + 1:016x}", "attributes": ASKED | {"input.value": f"ring Priya Novak on 415-555-01{n:02}"}}
        for n in range(6)
    ]
    messages = [otlp_message(otlp(body), n) for n, body in enumerate(bodies)]
    together, alone = MemoryState(), MemoryState()
    out = Redact().process(messages, together)
    assert out == [record for one in messages for record in Redact().process([one], alone)]
    assert dict(together) == dict(alone)


def test_settings_go_to_workers_and_hide_the_key() -> None:
    settings = RedactSettings(key=b"a secret", threshold=0.5)
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert "secret" not in repr(settings)


def test_ids_that_are_personal_are_hashed() -> None:
    found = span_of(ASKED | {"session.id": MAIL, "gen_ai.agent.name": "desk"})
    assert "@" not in found.session_id
    (signal,) = redacted(signal_message(RATING | {"session_id": MAIL}))
    assert isinstance(signal, Signal)
    assert signal.session_id == found.session_id, "signals still meet their session"
    assert span_of(ASKED).tenant == TENANT

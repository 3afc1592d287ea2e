"""Feedback in every form that platforms send becomes signals, clean, linked, and one of each."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from processors.redact import Redact, RedactSettings
from processors.redact.feedback import Verdict, value_of
from processors.stage import Message
from processors.state import MemoryState, plain
from schemas.events import DeadLetter, LedgerEntry, Record, Signal, Span
from schemas.topics import OTLP_LOGS
from tests.processors.redacting import TRACE, any_value, key_values, otlp, otlp_message, redacted, signal_message
from tests.processors.test_redact_fuzz import SECRETS, damaged, disguised, leaks, shown
from tests.world import AGENT, START, TENANT

MAIL, CARD = "anna.petrov@example.com", "4111 1111 1111 1111"
ROOT = "00" * 7 + "01"
OTHER = "11" * 16
ASKED = {"openinference.span.kind": "LLM", "input.value": "reset my vpn", "output.value": "it", "session.id": "s1"}
RESULT = {"gen_ai.evaluation.name": "correctness", "gen_ai.evaluation.score.value": 0.25}
EVENT = "gen_ai.evaluation.result"
NANOS = int(START.timestamp() * 1e9)


def logs(*records: dict[str, Any], offset: int = 0, **headers: str) -> Message:
    """A logs request. A record: ``attributes`` plain, ``trace`` and ``span`` hex, ``name``, ``time``, ``body``."""
    request = ExportLogsServiceRequest()
    top = request.resource_logs.add()
    top.resource.attributes.extend(key_values({"service.name": "judge"}))
    scope = top.scope_logs.add()
    for given in records:
        one = scope.log_records.add(
            event_name=given.get("name", EVENT),
            time_unix_nano=given.get("time", NANOS),
            trace_id=bytes.fromhex(given.get("trace", TRACE)),
            span_id=bytes.fromhex(given.get("span", ROOT)),
            attributes=key_values(given.get("attributes", RESULT)),
        )
        if "body" in given:
            one.body.CopyFrom(any_value(given["body"]))
    headers = {"tenant": TENANT, "ledger": "gateway"} | headers
    return Message(OTLP_LOGS.name, offset, "k", request.SerializeToString(), START + timedelta(seconds=3), headers)


def linked(attributes: dict[str, Any], links: Sequence[tuple[str, str]] = ((TRACE, ROOT),), **given: Any) -> Message:
    """A request with one span that links others."""
    request = otlp({"trace": OTHER, "name": "feedback", "attributes": attributes} | given)
    for trace, span in links:
        span_of = request.resource_spans[0].scope_spans[0].spans[0]
        span_of.links.add(trace_id=bytes.fromhex(trace), span_id=bytes.fromhex(span))
    return otlp_message(request, given.get("offset", 1))


def signals(records: Sequence[Record]) -> list[Signal]:
    return [record for record in records if isinstance(record, Signal)]


def fates(records: Sequence[Record]) -> list[tuple[str, int, str]]:
    return [(one.entry, one.count, one.reason) for one in records if isinstance(one, LedgerEntry)]


def balance(records: Sequence[Record], accepted: int) -> int:
    """Accepted less stored, quarantined and dropped; ``accepted``: what a gateway has counted."""
    for one in records:
        match one:
            case LedgerEntry(entry="accepted", count=count):
                accepted += count
            case LedgerEntry(count=count):
                accepted -= count
            case DeadLetter(items=items):
                accepted -= items
            case _:
                accepted -= 1
    return accepted


ASKING = otlp_message(otlp({"span": ROOT, "attributes": ASKED | {"user.id": "u1"}}))


# Log events.


def test_an_evaluation_event_is_a_signal_about_its_span() -> None:
    found = redacted(ASKING, logs({"attributes": RESULT | {"gen_ai.evaluation.explanation": f"write to {MAIL}"}}))
    (span,) = [one for one in found if isinstance(one, Span)]
    (one,) = signals(found)
    assert (one.name, one.kind, one.source) == ("evaluation", "explicit", "evaluator")
    assert (one.value, one.weight, one.event_time) == (-0.5, 0.4, START)
    assert (one.trace_id, one.span_id, one.session_id) == (TRACE, ROOT, "s1")
    assert (one.agent, one.subject_hash) == (AGENT, span.subject_hash)
    assert one.text.startswith("write to <EMAIL_ADDRESS_")
    assert one.attributes["gen_ai.evaluation.name"] == "correctness"
    assert one.attributes["gen_ai.evaluation.score.value"] == "0.25"
    assert balance(found, 2) == 0


def test_a_signal_waits_for_its_trace_to_name_a_session() -> None:
    stage, store = Redact(), MemoryState()
    early = logs({})
    assert stage.process([early], store) == []
    first = stage.process([ASKING], store)
    assert [(type(one).__name__, getattr(one, "session_id", "")) for one in first] == [("Span", "s1"), ("Signal", "s1")]
    assert stage.process([early], store) == []
    assert stage.process([ASKING], store) == first
    (late,) = stage.process([logs({"attributes": RESULT | {"gen_ai.evaluation.name": "style"}}, offset=7)], store)
    assert isinstance(late, Signal)
    assert late.session_id == "s1"
    alone = redacted(early)
    assert [(one.session_id, one.agent) for one in signals(alone)] == [(f"trace:{TRACE}", "judge")]


def test_a_plain_signal_about_a_trace_finds_its_session_too() -> None:
    for about in ({"trace_id": TRACE}, {"turn_id": f"{TRACE}.{ROOT}"}):
        found = redacted(ASKING, signal_message({"name": "rejection", "agent": AGENT} | about))
        assert [(one.session_id, one.trace_id) for one in signals(found)] == [("s1", TRACE)]
    by_turn_alone = signals(redacted(signal_message({"name": "rejection", "agent": AGENT, "turn_id": "7"})))
    assert by_turn_alone[0].session_id == ""


def test_other_log_records_are_counted_and_not_kept() -> None:
    message = logs(
        {"name": "", "body": f"user {MAIL} logged in"}, {"name": "gen_ai.user.message", "body": {"content": MAIL}},
        {"name": "gen_ai.choice"}, {},
    )  # fmt: skip
    found = redacted(message)
    assert fates(found) == [("dropped", 1, "not_feedback"), ("dropped", 2, "message_event")]
    assert len(signals(found)) == 1
    assert balance(found, 4) == 0
    assert MAIL not in "".join(one.model_dump_json() for one in found)
    bare = Message(message.topic, 0, "", message.value, message.time)
    assert fates(redacted(bare))[0] == ("accepted", 4, "")


def test_older_names_and_a_body_are_read() -> None:
    old = {"name": "", "attributes": {"event.name": EVENT}, "body": RESULT}
    assert [one.value for one in signals(redacted(logs(old)))] == [-0.5]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"attributes": {"gen_ai.evaluation.name": "x"}}, "invalid_evaluation"),
        ({"attributes": {"gen_ai.evaluation.score.value": 1.0}}, "invalid_evaluation"),
        ({"trace": "", "span": ""}, "nothing_to_link"),
    ],
)
def test_a_wrong_event_is_a_letter_and_its_neighbours_pass(record: dict[str, Any], reason: str) -> None:
    found = redacted(ASKING, logs({}, record))
    (letter,) = [one for one in found if isinstance(one, DeadLetter)]
    assert (letter.reason, letter.detail.split(",")[0]) == (reason, "item 1")
    assert balance(found, 3) == 0


def test_without_a_trace_a_session_or_a_response_is_enough() -> None:
    nowhere = {"trace": "", "span": ""}
    (one,) = signals(redacted(logs(nowhere | {"attributes": RESULT | {"gen_ai.conversation.id": "s9"}})))
    assert (one.session_id, one.trace_id) == ("s9", "")
    (one,) = signals(redacted(logs(nowhere | {"attributes": RESULT | {"gen_ai.response.id": "resp-1"}})))
    assert one.attributes["gen_ai.response.id"] == "resp-1"


@pytest.mark.parametrize("data", [b"\xff\xff no protobuf", b"{}", logs({}).value[:-5]])
def test_bytes_that_are_no_request(data: bytes) -> None:
    (letter,) = redacted(Message(OTLP_LOGS.name, 0, "", data, START, {"tenant": TENANT, "ledger": "gateway"}))
    assert isinstance(letter, DeadLetter)
    assert letter.reason == "damaged_otlp"


def test_consent_of_the_trace_and_of_the_signal() -> None:
    denied = otlp_message(otlp({"span": ROOT, "attributes": ASKED | {"driftwheel.consent.store": False}}))
    found = redacted(denied, logs({}))
    assert fates(found) == [("dropped", 1, ""), ("dropped", 1, "")]
    refusing = logs({"attributes": RESULT | {"driftwheel.consent.store": False}})
    found = redacted(refusing, ASKING)
    assert fates(found) == [("dropped", 1, "")]
    assert len(found) == 2, "who denies a remark does not deny the trace"
    untaught = otlp_message(otlp({"span": ROOT, "attributes": ASKED | {"driftwheel.consent.train": False}}))
    assert [one.consent_train for one in signals(redacted(untaught, logs({})))] == [False]


# Spans: events, annotations, carriers.


def test_span_events_and_annotations_of_a_span_are_signals_beside_it() -> None:
    given = ASKED | {
        "annotations.0.annotation.name": "thumbs", "annotations.0.annotation.label": "Thumbs down",
        "annotations.0.annotation.annotator_kind": "HUMAN", "annotations.0.annotation.explanation": f"mail {MAIL}",
        "annotations.0.annotation.metadata": json.dumps({"card": CARD}),
        "trace.evaluations.0.evaluation.name": "grounded", "trace.evaluations.0.evaluation.score": 0.9,
        "trace.evaluations.0.evaluation.annotator_kind": "CODE",
        "session.annotations.0.annotation.name": "coherence", "session.annotations.0.annotation.label": "coherent",
        "annotations.1.annotation.name": "nothing said", "annotations.2.annotation.score": 1,
    }  # fmt: skip
    message = otlp_message(otlp({"span": ROOT, "attributes": given, "events": [(EVENT, RESULT), (EVENT, {})]}))
    found = redacted(message)
    (span,) = [one for one in found if isinstance(one, Span)]
    assert not any("annotation" in name or "evaluation" in name for name in span.attributes)
    told = {one.attributes["gen_ai.evaluation.name"]: one for one in signals(found)}
    assert {name: (one.value, one.weight, one.source) for name, one in told.items()} == {
        "thumbs": (-1.0, 1.0, "human"), "grounded": (0.8, 0.4, "code"), "coherence": (1.0, 0.4, "evaluator"),
        "correctness": (-0.5, 0.4, "evaluator"),
    }  # fmt: skip
    assert (told["thumbs"].span_id, told["grounded"].span_id, told["coherence"].trace_id) == (ROOT, "", "")
    assert {one.session_id for one in told.values()} == {"s1"}
    assert fates(found) == [("accepted", 4, "")]
    assert balance(found, 1) == 0
    text = "".join(one.model_dump_json() for one in found)
    assert MAIL not in text
    assert "4111" not in text


def annotation(form: str = "annotations", scope: str = "", **more: Any) -> dict[str, Any]:
    fields = {"name": "correctness", "score": 0.25, "identifier": "judge-2"} | more
    return {f"{scope}{form}.0.{form[:-1]}.{name}": value for name, value in fields.items()}


@pytest.mark.parametrize("form", ["annotations", "evaluations"])
@pytest.mark.parametrize("kind", ["", "EVALUATOR"])
def test_a_carrier_speaks_of_what_it_links(form: str, kind: str) -> None:
    found = redacted(ASKING, linked(annotation(form) | ({"openinference.span.kind": kind} if kind else {})))
    (one,) = signals(found)
    assert (one.trace_id, one.span_id, one.session_id, one.agent) == (TRACE, ROOT, "s1", AGENT)
    spans = [span.kind for span in found if isinstance(span, Span)]
    assert spans == ["llm", "evaluator"] if kind else ["llm"]
    assert balance(found, 2) == 0
    (traced,) = signals(redacted(linked(annotation(form, "trace."))))
    assert (traced.trace_id, traced.span_id) == (TRACE, "")
    (session,) = signals(redacted(linked(annotation(form, "session.") | {"session.id": "s4"})))
    assert (session.session_id, session.trace_id) == ("s4", "")


def test_a_working_span_with_a_link_speaks_of_itself() -> None:
    (one,) = signals(redacted(linked(ASKED | annotation())))
    assert (one.trace_id, one.session_id) == (OTHER, "s1")


def test_a_carrier_of_two_links_or_without_a_session_says_nothing() -> None:
    two = linked(annotation() | {"openinference.span.kind": "EVALUATOR"}, [(TRACE, ROOT), (OTHER, ROOT)])
    none = linked(annotation(scope="session.") | {"openinference.span.kind": "EVALUATOR"})
    for message in (two, none):
        found = redacted(message)
        (letter,) = [one for one in found if isinstance(one, DeadLetter)]
        assert (letter.reason, letter.detail.split(",")[0]) == ("nothing_to_link", "item 1")
        assert balance(found, 1) == 0


def test_both_forms_and_the_event_of_one_result_are_one() -> None:
    (one,) = signals(redacted(linked(annotation() | annotation("evaluations"))))
    later = START + timedelta(minutes=5)
    (event,) = signals(redacted(logs({
        "attributes": RESULT | {"annotation.identifier": "judge-2"}, "time": int(later.timestamp() * 1e9),
    })))  # fmt: skip
    assert one.feedback_id == event.feedback_id
    assert one.event_id != event.event_id


def test_a_repeat_is_a_duplicate_and_a_change_is_a_revision() -> None:
    stage, store = Redact(), MemoryState()
    (_, first) = stage.process([ASKING, linked(annotation())], store)
    assert fates(stage.process([linked(annotation(), offset=5)], store)) == [("duplicate", 1, "")]
    (changed,) = stage.process([linked(annotation(score=1.0), offset=6)], store)
    (other,) = stage.process([linked(annotation(identifier="judge-3"), offset=7)], store)
    assert isinstance(first, Signal)
    assert isinstance(changed, Signal)
    assert isinstance(other, Signal)
    assert first.feedback_id == changed.feedback_id != other.feedback_id
    assert len({first.event_id, changed.event_id, other.event_id}) == 3
    secret = redacted(ASKING, linked(annotation()), settings=RedactSettings(key=b"other"))
    assert signals(secret)[0].event_id != first.event_id, "ids tell nobody what they are made of"


def test_what_we_said_ourselves_and_what_failed_is_no_evidence() -> None:
    own = linked(annotation(identifier="driftwheel:outcome"))
    failed = logs({"attributes": RESULT | {"error.type": "timeout"}})
    assert [(one.weight, one.attributes.get("error.type")) for one in signals(redacted(own, failed))] == [
        (0.0, None), (0.0, "timeout"),
    ]  # fmt: skip


# Langfuse scores.


def score(**fields: Any) -> dict[str, Any]:
    return {"name": "score", "agent": "unknown", "score_name": "helpful", "score_id": "one", "trace_id": TRACE} | fields


@pytest.mark.parametrize(
    ("fields", "value", "source", "weight"),
    [
        ({"score": 0.0}, -1.0, "evaluator", 0.4),
        ({"score": 1.0, "data_type": "BOOLEAN", "score_name": "user-feedback"}, 1.0, "human", 1.0),
        ({"score": 1.0, "data_type": "BOOLEAN", "score_name": "hallucination"}, -1.0, "evaluator", 0.4),
        ({"score": 1.0, "score_name": "hallucination"}, 0.0, "evaluator", 0.4),
        ({"label": "partially correct"}, 0.0, "evaluator", 0.4),
        ({"label": "not toxic", "score_name": "toxicity", "judge": "LLM"}, 1.0, "llm", 0.4),
    ],
)
def test_scores(fields: dict[str, Any], value: float, source: str, weight: float) -> None:
    found = redacted(ASKING, signal_message(score(**fields, text=f"says {MAIL}", metadata=json.dumps({"cc": CARD}))))
    (one,) = signals(found)
    assert (one.value, one.source, one.weight, one.agent, one.session_id) == (value, source, weight, AGENT, "s1")
    assert one.text.startswith("says <EMAIL_ADDRESS_")
    assert "4111" not in one.model_dump_json()


def test_scores_of_one_id_are_revisions_and_a_correction_is_one() -> None:
    first, second, other = (
        signals(redacted(signal_message(score(**one))))[0]
        for one in ({"score": 1.0}, {"score": 0.0}, {"score": 1.0, "score_id": "two"})
    )
    assert first.feedback_id == second.feedback_id != other.feedback_id
    assert first.event_id != second.event_id
    (one,) = signals(redacted(signal_message(score(correction="it_help", text="it moved", span_id=ROOT))))
    assert (one.name, one.text, one.value, one.weight, one.span_id) == ("correction", "it_help", -1.0, 1.0, ROOT)


@pytest.mark.parametrize(
    ("verdict", "value"),
    [
        (Verdict("x", 0.9, "Fail"), -1.0),
        (Verdict("x", label="PASS"), 1.0),
        (Verdict("toxicity", label="yes"), -1.0),
        (Verdict("polite", label="yes"), 1.0),
        (Verdict("x", label="blue"), 0.0),
        (Verdict("x", 0.5, "blue"), 0.0),
        (Verdict("harmlessness", 1.0), 1.0),
        (Verdict("harm", 1.0), 0.0),
        (Verdict("stars", 4.0), 0.0),
        (Verdict("x", 1.0, error="timeout"), 0.0),
    ],
)
def test_what_a_verdict_is_worth(verdict: Verdict, value: float) -> None:
    assert value_of(verdict) == value


# Hostile feedback.


def hostile(number: int, chance: random.Random) -> Message:
    """Feedback in some form with secrets in some of its places, now and then damaged."""
    text = lambda: disguised(chance.choice(SECRETS), chance)  # noqa: E731
    fields = ("name", "label", "explanation", "annotator_kind", "identifier", "metadata")
    said = {"name": "x", "score": 1.0} | {field: text() for field in chance.sample(fields, 3)}
    span = number.to_bytes(8, "big").hex()
    match chance.randrange(3):
        case 0:
            scope = chance.choice(["", "trace.", "session."])
            given = {f"{scope}annotations.0.annotation.{name}": value for name, value in said.items()}
            message = linked(given | {"session.id": text(), "user.id": text()}, span=span, offset=number)
        case 1:
            names = {"name": "name", "label": "score.label", "explanation": "explanation", "score": "score.value"}
            names = {name: f"gen_ai.evaluation.{place}" for name, place in names.items()}
            given = {names.get(name, f"annotation.{name}"): value for name, value in said.items()}
            more = {"error.type": text(), "gen_ai.response.id": text(), "gen_ai.agent.name": text(), text(): text()}
            message = logs({"attributes": given | more, "span": span}, {"name": text(), "body": text()}, offset=number)
        case _:
            body = score(score_id=text(), score_name=text(), label=text(), metadata=text(), judge=text()[:40])
            return signal_message(body | {"text": text(), "environment": text(), "span_id": text()}, number)
    value = message.value if chance.random() < 0.8 else damaged(message.value, chance)
    return replace(message, value=value)


def test_nothing_planted_comes_out() -> None:
    chance, stage, store, kinds = random.Random(3), Redact(), MemoryState(), Counter[str]()
    for first in range(1, 121, 40):
        found = stage.process([hostile(number, chance) for number in range(first, first + 40)], store)
        for key, state in store:
            assert not leaks(key.casefold() + plain(state.dump()).casefold())
        for record in [*found, *stage.expire(store, START + timedelta(minutes=first))]:
            kinds[type(record).__name__] += 1
            assert not leaks(shown(record)), record
    assert kinds["Signal"] > 50
    assert kinds["DeadLetter"] > 5

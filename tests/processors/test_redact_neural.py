"""Names by GLiNER and transformers: libraries of the same interface stand in, which find what a list says."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from processors.redact.detect import Detector, Find, Query
from processors.redact.neural import recogniser, shown
from processors.redact.policy import Policy, read_policy
from processors.redact.settings import MODEL, RedactSettings
from schemas.errors import Invalid, Refused

PEOPLE = re.compile("Oyelaran Adeyemi|Wanjiru")
LONGEST = 950
"""Characters that the models see at a time: what is longer they would cut without a word."""


class FakeGLiNER:
    @staticmethod
    def from_pretrained(folder: str, *, local_files_only: bool) -> FakeGLiNER:
        assert local_files_only, "nothing is downloaded"
        if not (Path(folder) / "gliner_config.json").exists():
            raise FileNotFoundError(f"no config in {folder}\nand more")
        return FakeGLiNER()

    def predict_entities(self, text: str, labels: list[str], flat_ner: bool, threshold: float) -> list[dict[str, Any]]:
        assert (flat_ner, threshold, "person" in labels, len(text) <= LONGEST) == (True, 0.3, True, True)
        if "broken" in text:
            raise RuntimeError(text)
        return [
            {"start": m.start(), "end": m.end(), "text": m.group(), "label": "person", "score": 0.8}
            for m in PEOPLE.finditer(text)
        ]


def fake_pipeline(task: str, *, model: str, tokenizer: str, aggregation_strategy: str, device: int) -> Any:
    assert (task, model, aggregation_strategy, device) == ("token-classification", tokenizer, "simple", -1)

    def predict(text: str) -> list[dict[str, Any]]:
        assert len(text) <= LONGEST
        told = [("PER", 0.9, m) for m in PEOPLE.finditer(text)] + [("MISC", 0.9, m) for m in re.finditer("Java", text)]
        told += [("ORG", 0.1, m) for m in re.finditer("Acme", text)]
        return [{"entity_group": g, "score": s, "start": m.start(), "end": m.end()} for g, s, m in told]

    return predict


@pytest.fixture(params=["gliner", "transformers"])
def model(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setitem(sys.modules, "gliner", SimpleNamespace(GLiNER=FakeGLiNER))
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(pipeline=fake_pipeline))
    recogniser.cache_clear()
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "gliner_config.json").touch()
    yield f"{request.param}:{tmp_path / 'names'}"
    recogniser.cache_clear()


def people(policy: Policy, text: str) -> list[str]:
    (found,) = Detector(RedactSettings(), policy).find([Query(text)])
    assert not isinstance(found, Invalid)
    return [text[find.start : find.end] for find in found if find.entity == "PERSON"]


def test_names_come_from_the_model_beside_the_patterns(model: str) -> None:
    policy = Policy(models=(("any", model),))
    text = "Oyelaran Adeyemi of Acme writes Java, mail him at oa@example.com"
    (found,) = Detector(RedactSettings(), policy).find([Query(text)])
    assert {find[:3] for find in found} == {(0, 16, "PERSON"), (50, 64, "EMAIL_ADDRESS")}
    assert people(Policy(), "Ask Wanjiru") == [], "which spaCy's small model does not know"
    assert people(Policy(models=(("en", MODEL), ("any", model))), "Ask Wanjiru, or Maria Keller in Berlin") == [
        "Wanjiru", "Maria Keller",
    ]  # fmt: skip


def test_long_texts_go_through_in_pieces(model: str) -> None:
    text = "we waited for an answer. " * 33 + "Oyelaran Adeyemi came. " + "nobody else did. " * 200 + "Wanjiru left"
    assert people(Policy(models=(("any", model),)), text) == ["Oyelaran Adeyemi", "Wanjiru"]
    for shift in range(0, 900, 7):
        found = recogniser(model)("x " * (shift // 2) + text)
        assert len(found) == 2, shift


def test_what_the_model_cannot_read_is_not_passed_on(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Detector(RedactSettings(), Policy(models=(("any", model),)))
    if model.startswith("gliner"):
        good, bad = detector.find([Query("Ask Wanjiru"), Query("a broken text of Wanjiru")])
        assert good == (Find(4, 11, "PERSON", 0.8),)
        assert isinstance(bad, Invalid)
        assert (bad.reason, "Wanjiru" in bad.detail) == ("redaction_failed", False)
    assert people(Policy(models=(("any", model),)), "") == []


def test_the_envelope_names_the_model_and_not_its_place(model: str, tmp_path: Path) -> None:
    kind = model.partition(":")[0]
    (tmp_path / "acme.toml").write_text(f'[languages]\nen = "{MODEL}"\nany = "{model}"\n')
    policy = read_policy(tmp_path / "acme.toml")
    assert policy.detector == f"presidio+{MODEL}+{kind}:names"
    assert shown(model) == f"{kind}:names"


def test_what_is_missing_is_named(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = model.partition(":")[0]
    with pytest.raises(Refused, match=f"{kind}:.*nowhere is not there"):
        recogniser(f"{kind}:{tmp_path / 'nowhere'}")
    with pytest.raises(Refused, match=f"{kind}:: no folder is not there"):
        recogniser(f"{kind}:")
    if kind == "gliner":
        (tmp_path / "empty").mkdir()
        with pytest.raises(Refused, match=r"cannot be loaded: no config in \S+$"):
            recogniser(f"gliner:{tmp_path / 'empty'}")
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(Refused, match=f"needs a library that is not installed: pip install {kind}"):
        Detector(replace(RedactSettings(), model=model))

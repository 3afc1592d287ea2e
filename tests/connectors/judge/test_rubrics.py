from __future__ import annotations

from pathlib import Path

import pytest

from connectors.judge.rubrics import FOLDER, NAMES, judge_id, rubric, rubrics
from processors.agreement import RATER
from processors.redact.clean import _opaque
from schemas.errors import UsageError


def test_every_rubric_that_comes_along_can_be_read() -> None:
    found = rubrics(NAMES)
    assert [one.name for one in found] == list(NAMES)
    assert len({one.version for one in found}) == len(NAMES)
    assert {one.name for one in found if one.needs} == {"factuality", "retrieval_relevance"}
    assert {path.stem for path in FOLDER.glob("*.toml")} == set(NAMES)


def test_another_text_is_another_version_and_another_judge(tmp_path: Path) -> None:
    own = (FOLDER / "tone.toml").read_text()
    (tmp_path / "tone.toml").write_text(own)
    assert rubric("tone", tmp_path) == rubric("tone")
    (tmp_path / "tone.toml").write_text("# another comment\n" + own)
    assert rubric("tone", tmp_path) == rubric("tone"), "a comment is not what the judge reads"
    (tmp_path / "tone.toml").write_text(own.replace("wordy", "long-winded"))
    changed = rubric("tone", tmp_path)
    assert changed.version != rubric("tone").version
    assert judge_id(changed, "m") != judge_id(rubric("tone"), "m")
    assert rubric("factuality", tmp_path) == rubric("factuality"), "those that are not there are the product's own"


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no rubric 'kindness'; there are: factuality"):
        rubric("kindness", tmp_path)
    with pytest.raises(UsageError, match="no name of a rubric"):
        rubric("../tone")
    (tmp_path / "tone.toml").write_text('version = 0\ncriteria = "long enough to be one"')
    with pytest.raises(UsageError, match=r"tone\.toml: version"):
        rubric("tone", tmp_path)
    (tmp_path / "tone.toml").write_text("version = ")
    with pytest.raises(UsageError, match=r"tone\.toml cannot be read"):
        rubric("tone", tmp_path)


@pytest.mark.parametrize("model", ["meta-llama/Llama-3.1-8B-Instruct", "gpt-4o-2024-08-06", "own model: 7b & more"])
def test_a_judge_is_known_by_its_name_as_the_rater_of_a_label_after_redaction(model: str) -> None:
    name = RATER + judge_id(rubric("safety_refusal"), model)
    assert _opaque(b"key", name) == name

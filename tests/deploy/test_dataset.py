"""Datasets: the same rows give the same dataset, nothing leaks, golden rows never train."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from deploy.clusters import clusters, likeness, pieces
from deploy.dataset import (
    TEST,
    TRAIN,
    VALIDATION,
    DatasetSettings,
    LabelledRow,
    Replay,
    Row,
    freeze,
    replay_of,
    slices_of,
)
from processors.text import normal

START = datetime(2026, 1, 5, tzinfo=UTC)
THINGS = ["laptop", "payslip", "flight", "contract", "badge", "printer", "holiday", "hotel", "licence", "desk"]
DEEDS = ["renew", "cancel", "find", "replace", "explain", "order", "approve", "move", "archive", "print"]
PLACES = ["in Oslo", "for Ana", "by Friday", "on floor two", "at home", "for the audit", "next week", "again"]


def labelled(text: str, label: str, number: int = 0, hours: float = 0) -> LabelledRow:
    return LabelledRow(
        sample_id=f"s{number}",
        turn_id=f"t{number}",
        session_id=f"c{number}",
        subject_hash=f"u{number % 7}",
        text=text,
        label=label,
        output="?",
        model_version="m",
        reason="failed",
        propensity=0.5,
        verdict="failure",
        rater="r",
        time=START + timedelta(hours=hours),
    )


def many(count: int, seed: int = 1) -> list[LabelledRow]:
    rng = random.Random(seed)
    texts = [f"{deed} the {thing} {place}" for deed in DEEDS for thing in THINGS for place in PLACES]
    chosen = rng.sample(texts, count)
    return [labelled(text, rng.choice(["it", "hr", "travel"]), number) for number, text in enumerate(chosen)]


def test_order_does_not_matter_and_content_does() -> None:
    rows, shuffled = many(100), many(100)
    random.Random(3).shuffle(shuffled)
    assert freeze(rows, Replay()) == freeze(shuffled, Replay())
    assert freeze(rows[:-1], Replay()).dataset_id != freeze(rows, Replay()).dataset_id
    changed = [*rows[:-1], labelled(rows[-1].text, "another", 99)]
    assert freeze(changed, Replay()).dataset_id != freeze(rows, Replay()).dataset_id


def test_shares_are_about_as_asked() -> None:
    made = freeze(many(600), Replay(), DatasetSettings(alike=1.0))
    assert len(made.rows) == 600
    assert 80 <= len(made.test) <= 160
    assert 30 <= len(made.validation) <= 90


def test_near_duplicates_never_cross_the_split() -> None:
    rows: list[LabelledRow] = []
    for number, row in enumerate(many(150)):
        loud = labelled(f"{row.text.upper()}!!", row.label, 1000 + number)
        rows += [row, loud, labelled(f"{row.text} pls", "x", 2000 + number)]
    made = freeze(rows, Replay())
    held = [pieces(row.text) for row in made.test]
    learnt = [pieces(row.text) for row in (*made.train, *made.validation)]
    assert held
    assert max(likeness(one, two) for one in held for two in learnt) < DatasetSettings().alike
    assert made.dropped["repeated"] == 150


def test_golden_rows_never_train_and_replay_is_never_tested() -> None:
    rows = many(200)
    golden = tuple(Row(f"{row.text} please", row.label) for row in rows[:40])
    old = tuple(Row(f"{row.text} now", row.label) for row in rows[40:90])
    made = freeze(rows, Replay(old, golden))
    assert {row.text for row in golden} == {row.text for row in made.golden}
    learnt = [pieces(row.text) for row in (*made.train, *made.validation)]
    assert max(likeness(pieces(one.text), two) for one in golden for two in learnt) < 0.7
    assert not {row.text for row in old} & {row.text for row in made.test}


def test_replay_that_is_nearly_golden_is_left_out() -> None:
    made = freeze([], Replay((Row("renew the badge", "it"),), (Row("renew the badge!", "it"),)))
    assert (made.train, made.dropped) == ((), {"near_golden": 1})


def test_most_raters_win_then_the_newest() -> None:
    same = "where is my payslip"
    votes = [labelled(same, "hr", 1), labelled(same, "it", 2, 1), labelled(same, "hr", 3, 2)]
    made = freeze(votes, Replay())
    assert [row.label for row in made.rows] == ["hr"]
    assert made.dropped == {"conflicting": 1, "repeated": 1}
    made = freeze(votes[:2], Replay())
    assert [row.label for row in made.rows] == ["it"]


def test_a_fresh_label_supersedes_an_old_one() -> None:
    made = freeze([labelled("order a desk", "facilities")], Replay((Row("Order a desk.", "it"),)))
    assert [(row.text, row.label) for row in made.rows] == [("order a desk", "facilities")]
    assert made.dropped == {"superseded": 1}


def test_empty_rows_are_counted() -> None:
    made = freeze([labelled("", "it", 1), labelled(" .. ", "it", 2), labelled("a text", " ", 3)], Replay())
    assert (made.rows, made.dropped) == ((), {"empty": 3})
    assert freeze([], Replay()).rows == ()


def test_files_are_nemo_rows_and_read_back() -> None:
    rows = many(100)
    made = freeze(rows, Replay((), (Row("who signs my reference letter", "hr"),)), DatasetSettings(system="Route."))
    files = made.files()
    first = json.loads(files[TRAIN].splitlines()[0])
    assert [message["role"] for message in first["messages"]] == ["system", "user", "assistant"]
    assert sum(slices_of(files[TEST])) == 1
    replay = replay_of(files)
    assert {row.text for row in replay.train} == {row.text for row in (*made.train, *made.validation)}
    assert {row.text for row in replay.golden} == {row.text for row in (*made.test, *made.golden)}
    assert set(files) == {TRAIN, VALIDATION, TEST}
    assert replay_of({}) == Replay()


def test_odd_text_is_kept_whole() -> None:
    texts = ["größe ändern \u2028 zeile", "emoji 🙂 laptop", "tab\tand\nline", "日本語 の 質問"]
    made = freeze([labelled(text, "it", n) for n, text in enumerate(texts)], Replay())
    replay = replay_of(made.files())
    assert {row.text for row in (*replay.train, *replay.golden)} == set(texts)


def test_clusters_find_what_comparing_all_finds() -> None:
    texts = [row.text for row in many(150, 5)]
    found = {i: number for number, group in enumerate(clusters(texts, 0.7)) for i in group}
    cut = [pieces(text) for text in texts]
    pairs = [(i, j) for i in range(150) for j in range(i) if likeness(cut[i], cut[j]) >= 0.7]
    assert pairs
    missed = [pair for pair in pairs if found[pair[0]] != found[pair[1]]]
    assert not missed


def texts_of(rows: Sequence[Row]) -> set[str]:
    return {normal(row.text) for row in rows}


def test_no_text_is_in_two_parts() -> None:
    made = freeze(many(300), Replay(tuple(Row(r.text, r.label) for r in many(100, 9))))
    parts = [texts_of(part) for part in (made.train, made.validation, made.test, made.golden)]
    assert sum(map(len, parts)) == len(set().union(*parts))

"""Datasets: the same rows give the same dataset, nothing leaks, golden rows never train."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from deploy.clusters import clusters, likeness, pieces
from deploy.dataset import (
    FILES,
    MANIFEST,
    TEST,
    TRAIN,
    VALIDATION,
    DatasetSettings,
    LabelledRow,
    Replay,
    Row,
    erased_of,
    freeze,
    judges_of,
    replay_of,
    slices_of,
    without,
)
from processors.text import normal
from schemas.subjects import Subject

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
    assert set(files) == {TRAIN, VALIDATION, TEST, MANIFEST} == set(FILES)
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


def test_what_models_may_not_be_judged_by_is_never_held_out() -> None:
    rows = [replace(row, evaluate=number % 2 == 0) for number, row in enumerate(many(300))]
    made = freeze(rows, Replay(), DatasetSettings(alike=1.0))
    assert not [row for row in (*made.validation, *made.test, *made.golden) if not row.evaluate]
    assert len([row for row in made.train if not row.evaluate]) == 150
    again = freeze([], replay_of(made.files()), DatasetSettings(alike=1.0))
    assert not [row for row in (*again.validation, *again.test, *again.golden) if not row.evaluate]
    assert len([row for row in again.train if not row.evaluate]) == 150
    near = [replace(labelled(f"renew the badge{'!' * n}", "it", n), evaluate=n == 0) for n in range(4)]
    held = freeze(near, Replay((), (Row("renew the badge", "it"),)))
    assert held.train == () or all(row.evaluate for row in (*held.test, *held.golden))


ME = Subject("t", "u3")


def test_a_row_keeps_its_sample_and_subject_when_it_is_taken_over() -> None:
    rows = many(80)
    first = freeze(rows, Replay())
    assert {(row.sample_id, row.subject) for row in replay_of(first.files()).train} == {
        (row.sample_id, row.subject) for row in (*first.train, *first.validation)
    }
    second = freeze([labelled("a new question about desks", "hr", 500)], replay_of(first.files()))
    assert {row.subject for row in second.rows} == {row.subject for row in first.rows} | {f"u{500 % 7}"}


def test_a_person_leaves_the_files_and_the_manifest_counts_the_rows() -> None:
    made = freeze(many(80), Replay())
    files = made.files()
    gone = [row for row in made.rows if row.subject == "u3"]
    changed = without(files, ME)
    left = files | changed
    assert erased_of(files) == 0 < erased_of(left) == len(gone)
    assert set(changed) <= set(FILES)
    assert not [row for row in gone if row.text.encode() in b"".join(left.values())]
    assert b"u3" not in left[MANIFEST]
    kept = replay_of(left)
    assert {row.text for row in (*kept.train, *kept.golden)} == {row.text for row in made.rows} - {r.text for r in gone}
    assert len(slices_of(left[TEST])) == len(kept.golden)
    assert without(left, ME) == {}
    assert without(files, Subject("t", "nobody")) == {}


def test_a_sample_of_theirs_goes_though_the_row_names_nobody() -> None:
    made = freeze(many(40), Replay())
    sample = made.train[0].sample_id
    changed = without(made.files(), Subject("t", "x", samples=frozenset({sample})))
    assert erased_of(changed) == 1


def test_without_a_manifest_rows_are_found_by_what_was_said() -> None:
    made = freeze(many(40), Replay())
    files = {path: content for path, content in made.files().items() if path != MANIFEST}
    said = frozenset({normal(made.train[0].text.upper())})
    changed = without(files, ME, said)
    assert erased_of(changed) == 1
    assert without(made.files(), Subject("t", "x"), said) == {}, "a manifest knows better"


def test_a_judge_is_heard_where_no_person_is_and_named() -> None:
    person, machine = labelled("renew the badge", "it", 1), labelled("renew the badge", "hr", 2, hours=9)
    by = replace(machine, rater="judge:tone:1-0af7/m")
    made = freeze([person, by, replace(by, sample_id="s3")], Replay())
    (row,) = made.rows
    assert (row.label, row.judge, made.dropped["conflicting"]) == ("it", "", 2)
    (alone,) = freeze([by], Replay()).rows
    assert (alone.label, alone.judge) == ("hr", "tone:1-0af7/m")
    assert freeze([by], Replay()).dataset_id != freeze([machine], Replay()).dataset_id


def test_the_test_file_says_who_decided_and_so_do_golden_rows_later() -> None:
    rows = many(120)
    judged = [replace(row, rater="judge:j/m") if n % 2 else row for n, row in enumerate(rows)]
    made = freeze(judged, Replay())
    files = made.files()
    by_text = {row.text: "j/m" if row.rater.startswith("judge:") else "" for row in judged}
    assert judges_of(files[TEST]) == [by_text[row.text] for row in made.test]
    assert set(judges_of(files[TEST])) == {"", "j/m"}
    later = freeze([], replay_of(files))
    assert {row.text: row.judge for row in later.golden} == {row.text: by_text[row.text] for row in made.test}
    assert judges_of(files[TRAIN]) == [""] * len(made.train), "what trains needs no right"


def test_a_judge_does_not_overrule_what_people_said_before() -> None:
    golden = (Row("renew the badge", "it"), Row("cancel the flight", "travel"))
    by = replace(labelled("renew the badge", "hr", 1), rater="judge:j/m")
    made = freeze([by, labelled("cancel the flight", "hr", 2)], Replay((), golden))
    assert [row.text for row in made.golden] == ["renew the badge"]
    assert made.dropped["superseded"] == 1

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from connectors.judge.budget import DAY, HOUR, Budget
from connectors.judge.cache import KEPT, Cache, FileCache, MemoryCache, cache_key
from connectors.judge.endpoint import Endpoint, EndpointSettings
from connectors.judge.judge import Judge
from connectors.judge.probes import KINDS, Kind, half, own_items, padded, probe
from connectors.judge.prompts import Case
from connectors.judge.rubrics import NAMES, rubric
from schemas.errors import Refused, Reject
from tests.driftwheel.engine_kit import Clock
from tests.judging import (
    KEY,
    Mind,
    Server,
    chat,
    choice,
    first_wins,
    honest,
    longer_wins,
    noise,
    rambling,
    serving,
    verdict,
)

SECRET = "4111 1111 1111 1111"
ITEMS = list(own_items())


def judge(
    server: Server, name: str = "factuality", *, budget: Budget | None = None, cache: Cache | None = None
) -> Judge:
    one = Endpoint(EndpointSettings(server.url, "m", KEY), lambda _: None)
    return Judge(rubric(name), one, budget or Budget(10**6, 10**9, Clock()), secret=b"s", cache=cache)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(honest(lambda question, answer: "portal" in answer)) as found:
        yield found


def test_a_verdict(server: Server) -> None:
    found = judge(server).assess(Case("q", "in the portal", "the portal"), str.upper)
    assert (found.score, found.label, found.rationale) == (0.9, "pass", "IT FOLLOWS FROM THE MATERIAL")
    assert found.judge == f"factuality:{rubric('factuality').version}/m"
    assert judge(server).assess(Case("q", "no idea", "the portal")).label == "fail"
    assert judge(server).assess(Case("q", "a", "r")).rationale == "", "nothing is kept that nobody redacts"


def test_what_cannot_be_read_is_an_abstention(server: Server) -> None:
    one, case = judge(server, cache=MemoryCache()), Case("q", "a", "r")
    for text, why in (("9/10", "unparsable"), ("", "empty"), (verdict(None), "unsure")):
        server.answers = [(200, {}, chat(text))]
        found = one.assess(case)
        assert (found.score, found.label, found.abstained, found.tokens) == (None, "", why, 120)
    server.answers = [(400, {}, "too long"), (200, {}, chat(choice(1))), (413, {}, "")]
    assert (one.assess(case).abstained, one.compare(case, "a", "b").consistent) == ("refused", None)
    assert one.assess(case).score == 0.1, "an abstention is not remembered as a verdict"
    server.answers = [(200, {}, chat(verdict(0.5)))]
    assert one.assess(Case("q", "b", "r")).label == "", "right in the middle is neither"


def test_the_same_case_is_paid_for_once(server: Server, tmp_path: Path) -> None:
    clock = Clock()
    cache = FileCache(tmp_path / "scores.db", clock)
    one, case = judge(server, cache=cache), Case(f"my card is {SECRET}", "in the portal", "r")
    first, second = one.assess(case, str), one.assess(case, str)
    assert (first.cached, second.cached, second.score, second.tokens) == (False, True, first.score, 0)
    for other in (Case("q", "in the portal", "r"), Case(case.question, "in the", "portal r")):
        assert not one.assess(other).cached
    assert not judge(server, "tone", cache=cache).assess(case).cached, "another rubric is another judge"
    cache.close()
    again = FileCache(tmp_path / "scores.db", clock)
    assert judge(server, cache=again).assess(case).cached, "it outlives the process"
    clock.now += KEPT + timedelta(seconds=1)
    assert not judge(server, cache=again).assess(case).cached
    again.close()


def test_no_text_is_in_the_cache(server: Server, tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "scores.db", Clock())
    server.answers = [(200, {}, chat(verdict(0.9, f"the card {SECRET} is right")))]
    found = judge(server, cache=cache).assess(Case(f"my card is {SECRET}", "in the portal", "Storgata 140"), str)
    assert SECRET in found.rationale
    raw = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for text in (SECRET, "card", "portal", "Storgata", KEY):
        assert text.encode() not in raw
    assert cache_key(b"s", "j", ["a", "b"]) != cache_key(b"s", "j", ["ab", ""]) != cache_key(b"t", "j", ["ab", ""])
    assert (tmp_path / "scores.db").stat().st_mode & 0o077 == 0
    cache.close()


def test_a_cache_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scores.db").write_text("this is no database at all, is it" * 100)
    with pytest.raises(Refused, match="it may be deleted"):
        FileCache(tmp_path / "scores.db", Clock())


def test_the_budget_holds_and_comes_back(server: Server) -> None:
    clock = Clock()
    budget = Budget(3, 10**6, clock)
    one = judge(server, budget=budget)
    for number in range(3):
        one.assess(Case(f"q{number}", "a", "r"))
        clock.now += timedelta(minutes=10)
    with pytest.raises(Reject, match=r"judge\.calls_per_hour") as rejected:
        one.assess(Case("q", "a", "r"))
    assert rejected.value.retry_after == timedelta(minutes=30).total_seconds()
    assert len(server.requests) == 3, "the budget is asked before anything is sent"
    clock.now += timedelta(minutes=30)
    one.assess(Case("q", "a", "r"))
    tokens = Budget(100, 900, clock)
    two = judge(server, budget=tokens)
    two.assess(Case("q", "a", "r"))
    with pytest.raises(Reject) as rejected:
        two.assess(Case("q2", "a", "r"))
    assert HOUR.total_seconds() < rejected.value.retry_after <= DAY.total_seconds()
    with pytest.raises(Reject) as rejected:
        judge(server, budget=Budget(0, 10**6, clock)).assess(Case("q3", "a", "r"))
    assert rejected.value.retry_after == HOUR.total_seconds()


def test_repeated_attempts_are_paid_for_too(server: Server) -> None:
    clock = Clock()
    server.answers = [(503, {}, ""), (503, {}, "")]
    one = judge(server, budget=Budget(3, 10**6, clock))
    one.assess(Case("q", "a", "r"))
    with pytest.raises(Reject):
        one.assess(Case("q2", "a", "r"))


def test_a_comparison_asks_both_orders(server: Server) -> None:
    one, case = judge(server, "tone"), Case("q", "a")
    found = one.compare(case, "open the portal and wait", "open")
    assert (found.winner, found.consistent, found.tokens) == (1, True, 240)
    assert one.compare(case, "open", "open the portal and wait").winner == 2
    assert one.compare(case, "same", "same").consistent
    server.mind = first_wins
    assert one.compare(case, "open the portal", "open") == one.compare(case, "open", "open the portal")
    assert one.compare(case, "open the portal", "open").winner == 0
    server.mind = rambling
    assert one.compare(case, "a", "b").consistent is None


# Biases that are known, and what the probes say of them.


def rates(mind: Mind, name: str = "instruction_following") -> dict[Kind, float | None]:
    """The share of the probes of each kind that a mind fails; None when none tells anything."""
    found: dict[Kind, float | None] = {}
    with serving(mind) as server:
        one = judge(server, name)
        for kind in KINDS:
            told = [done.failed for case in ITEMS if (done := probe(one, case, kind)).failed is not None]
            found[kind] = sum(told) / len(told) if told else None
    return found


@pytest.mark.parametrize("name", NAMES)
def test_an_honest_judge_passes_every_probe(name: str) -> None:
    assert rates(honest(), name) == {"position": 0.0, "verbosity": 0.0}


def test_who_prefers_the_first_is_found() -> None:
    assert rates(first_wins) == {"position": 1.0, "verbosity": 0.0}


def test_who_prefers_the_longer_is_found() -> None:
    assert rates(longer_wins) == {"position": 0.0, "verbosity": 1.0}


def test_who_throws_coins_is_found() -> None:
    found = rates(noise(1.0))
    assert found["position"] is not None
    assert 0.25 < found["position"] < 0.75
    mild = rates(noise(0.05))
    assert mild["position"] is not None
    assert mild["position"] <= 0.2, "a little noise is no bias"


def test_who_cannot_be_read_is_not_judged_by_probes() -> None:
    assert rates(rambling) == {"position": None, "verbosity": None}


def test_probes_are_what_they_say() -> None:
    for case in ITEMS:
        assert padded(case.answer).startswith(case.answer)
        assert len(padded(case.answer)) > 2 * len(case.answer)
        assert case.answer.split()[: len(half(case.answer).split())] == half(case.answer).split()
        assert all(case.fits(rubric(name)) for name in NAMES)
    assert len({case.question for case in ITEMS}) == len(ITEMS) >= 20

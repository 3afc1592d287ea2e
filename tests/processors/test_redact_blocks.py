"""Addresses over several lines and commas, and what only looks like one."""

from __future__ import annotations

import pytest

from processors.redact.blocks import blocks

ADDRESSES = [
    "760 Elm Avenue, Suite 564, Houston, TX 77034",
    "58 Kval\u00f8yv\u00e5gvegen 140\n Suite 763\n Kval\u00f8ysletta\n\n Mexico 52199",
    "26 Veres P\u00e1ln\u00e9 u. 91.\nToftlund\n, SY\n 04828",
    "PSC 6695, Box 2353\nAPO AP 20849",
    "Unit 4502 Box 4881\nDPO AA 19766",
    "USNS Mercy\nFPO AE 08653",
    "17224 \u00deverbraut 66 Suite 991, Gda\u0144sk, Poland 52096",
    "Augsburger Strasse 36\nApt. 5\nSchuld\nGermany 53520",
    "36 ul. Asnyka 82 Apt. 168 Rzesz\u00f3w",
]


def found(text: str) -> list[str]:
    return [text[block.start : block.end] for block in blocks(text)]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("around", ["{}", "Please send it to {} tomorrow.", "The address is: {}\nThank you very much!"])
def test_an_address_is_found_whole(address: str, around: str) -> None:
    text = around.format(address)
    assert address in "".join(found(text))


@pytest.mark.parametrize(
    "text",
    [
        "3 passengers, economy, 2 bags",
        "Flight HAT 136 from New York, arriving at 12345",
        "I was charged 1500 dollars, which is wrong, for order 77034",
        "The suite is nice, the view too, and 5 people fit in",
        "Steps: 1. open the app, 2. log in, 3. choose Plan B",
        "status 200, took 35 ms, cache miss, id 90210",
        "",
        "no digits at all, New York, please",
    ],
)
def test_other_lists_are_no_addresses(text: str) -> None:
    assert found(text) == []


def test_lines_over_an_address_say_whose_it_is() -> None:
    who = ["Maika van Noort", "Employment manager", "Fritz-Armstrong"]
    text = "\n".join(["Dear all,", "we moved!", "", *who, "12 Elm Street", "Apt. 4", "Utrecht 35110", ""])
    (block,) = blocks(text)
    assert [text[start:end] for start, end in block.above] == who[::-1]


def test_two_addresses_stay_two() -> None:
    text = "here they are: 60 Gosposka ulica 47\nMelo, CA 13241, and 93 Via Pisanelli 2\nApt. 6\nRoma 00196"
    assert found(text) == ["60 Gosposka ulica 47\nMelo, CA 13241", "93 Via Pisanelli 2\nApt. 6\nRoma 00196"]


def test_a_long_list_takes_linear_work() -> None:
    """Nothing to be found in a table of numbers, a thousand times as long as an address."""
    assert found("17 22 31, 4 5 6, Total 7\n" * 20_000) == []

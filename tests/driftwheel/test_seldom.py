"""Logs that repeat themselves."""

from __future__ import annotations

import logging

from driftwheel.seldom import Seldom


def said(name: str, text: str, *values: object) -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "", 1, text, values, None)


def test_one_of_a_kind_now_and_then() -> None:
    time = [0.0]
    seldom = Seldom("aiokafka", 10.0, lambda: time[0])
    assert seldom.filter(said("aiokafka", "no %s", 1))
    assert not seldom.filter(said("aiokafka", "no %s", 2))
    assert seldom.filter(said("aiokafka", "other %s", 1))
    assert seldom.filter(said("aiokafka.consumer", "no %s", 1))
    time[0] = 10.0
    assert seldom.filter(said("aiokafka", "no %s", 3))


def test_everybody_else_says_all() -> None:
    seldom = Seldom("aiokafka", 10.0)
    assert all(seldom.filter(said("driftwheel", "a")) for _ in range(3))
    assert all(seldom.filter(said("aiokafkaesque", "a")) for _ in range(3))

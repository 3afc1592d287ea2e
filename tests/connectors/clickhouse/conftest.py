"""A store for every test, and one that tests share: each in a tenant of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from connectors.clickhouse.store import Store
from tests.store import on_server, temporary_store, why_no_server

ENGINES = ["embedded"] if why_no_server() else ["embedded", "server"]


@pytest.fixture(scope="package", params=ENGINES, autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test of this folder runs on chDB, and on a ClickHouse server too when there is one."""
    if request.param == "embedded":
        yield request.param
        return
    with on_server(request.getfixturevalue("clickhouse_url")):
        yield request.param


@pytest.fixture(scope="package")
def shared(engine: str) -> Iterator[Store]:
    with temporary_store() as store:
        yield store


@pytest.fixture
def store(engine: str) -> Iterator[Store]:
    with temporary_store() as made:
        yield made


@pytest.fixture
def tenant(request: pytest.FixtureRequest) -> str:
    return request.node.name.replace("'", "")

"""A store for every test, and one that tests share: each in a tenant of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from connectors.clickhouse.store import Store
from tests.store import temporary_store


@pytest.fixture(scope="package")
def shared() -> Iterator[Store]:
    with temporary_store() as store:
        yield store


@pytest.fixture
def store() -> Iterator[Store]:
    with temporary_store() as made:
        yield made


@pytest.fixture
def tenant(request: pytest.FixtureRequest) -> str:
    return request.node.name.replace("'", "")

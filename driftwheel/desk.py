"""Questions to a data folder, whoever has it open: the running product by its API, else this process itself.

The embedded store has one owner process, so a second one must ask the first.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, urlencode

import httpx

from driftwheel.api import ERASURES, Table
from driftwheel.config import Config
from driftwheel.erasing import Erasing
from driftwheel.folder import DataFolder, Owner
from driftwheel.letters import LetterFilter, Letters
from driftwheel.vault import RemoteVault, Vault
from schemas.errors import DriftwheelError, Refused, Retry, UsageError

Asked = TypeVar("Asked")
TIMEOUT = httpx.Timeout(300.0, connect=5.0)


class Questions(Protocol):
    """What the command line asks."""

    def sql(self, query: str) -> Table:
        """A read-only query."""
        ...

    def ledger(self) -> Table:
        """The ledger by minute and tenant."""
        ...

    @property
    def erasing(self) -> Erasing:
        """The erasures."""
        ...

    @property
    def letters(self) -> Letters:
        """The dead letters."""
        ...

    @property
    def vault(self) -> Vault:
        """The sealed payloads."""
        ...


class RemoteDesk:
    """The running product, by its API."""

    def __init__(self, owner: Owner) -> None:
        headers = {"authorization": f"Bearer {owner.token}"}
        self._client = httpx.Client(base_url=owner.url, headers=headers, timeout=TIMEOUT, trust_env=False)
        self._owner = owner

    def sql(self, query: str) -> Table:
        """See Questions."""
        return self._table(self._call("POST", "/v1/sql", {"query": query}))

    def ledger(self) -> Table:
        """See Questions."""
        return self._table(self._call("GET", "/v1/ledger", None))

    @property
    def erasing(self) -> Erasing:
        """See Questions."""
        return RemoteErasing(self._call)

    @property
    def letters(self) -> Letters:
        """See Questions."""
        return RemoteLetters(self.ask)

    @property
    def vault(self) -> Vault:
        """See Questions."""
        return RemoteVault(self.ask, self.letters)

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """A question of the API by POST."""
        return self._call("POST", path, body)

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    @staticmethod
    def _table(body: dict[str, Any]) -> Table:
        return Table(body["columns"], body["rows"])

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        try:
            response = self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise Retry(
                f"process {self._owner.pid} has the data folder open but does not answer at {self._owner.url}: {error}"
            ) from error
        if response.is_success:
            return response.json()
        detail = str(_detail(response))
        raise {422: UsageError, 500: DriftwheelError}.get(response.status_code, Refused)(detail)


class RemoteLetters:
    """The running product's dead letters, by its API. See ``Letters``."""

    def __init__(self, ask: Callable[[str, dict[str, Any]], dict[str, Any]]) -> None:
        self._ask = ask

    def find(self, chosen: LetterFilter) -> list[dict[str, Any]]:
        """See Letters."""
        return self._ask("/v1/deadletters/find", {"filter": chosen.texts()})["letters"]

    def counts(self, chosen: LetterFilter) -> list[dict[str, Any]]:
        """See Letters."""
        return self._ask("/v1/deadletters/counts", {"filter": chosen.texts()})["counts"]

    def show(self, name: str) -> dict[str, Any]:
        """See Letters."""
        return self._ask("/v1/deadletters/show", {"ids": [name]})

    def plan(self, ids: Sequence[str], chosen: LetterFilter, again: bool) -> dict[str, Any]:
        """See Letters."""
        body = {"ids": list(ids), "filter": chosen.texts(), "again": again}
        return self._ask("/v1/deadletters/plan", body)

    def replay(self, ids: Sequence[str], again: bool) -> dict[str, Any]:
        """See Letters."""
        return self._ask("/v1/deadletters/replay", {"ids": list(ids), "again": again})


class RemoteErasing:
    """The running product's erasures, by its API. See ``Erasing``."""

    def __init__(self, call: Callable[[str, str, dict[str, Any] | None], dict[str, Any]]) -> None:
        self._call = call

    @property
    def goes_on(self) -> bool:
        """See Erasing."""
        return True

    def plan(self, tenant: str, user_id: str) -> dict[str, Any]:
        """See Erasing."""
        return self._call("POST", f"{ERASURES}?dry_run=true", {"tenant": tenant, "user_id": user_id})

    def request(self, tenant: str, user_id: str, by: str) -> dict[str, Any]:
        """See Erasing; who asks is the API's to say."""
        del by
        return self._call("POST", ERASURES, {"tenant": tenant, "user_id": user_id})

    def show(self, name: str) -> dict[str, Any]:
        """See Erasing."""
        return self._call("GET", f"{ERASURES}/{quote(name, safe='')}", None)

    def find(self, tenant: str, state: str) -> list[dict[str, Any]]:
        """See Erasing."""
        return self._call("GET", f"{ERASURES}?{urlencode({'tenant': tenant, 'state': state})}", None)["erasures"]


def _detail(response: httpx.Response) -> Any:
    try:
        return response.json()["detail"]
    except (ValueError, KeyError):
        return f"HTTP {response.status_code}"


@contextmanager
def open_desk(config: Config) -> Generator[Questions]:
    """The right desk for ``config.data_dir``. Refused when there is nothing in it: a question makes no folder."""
    if not config.data_dir.is_dir() or not any(config.data_dir.iterdir()):
        raise Refused(
            f"there is no Driftwheel data in {config.data_dir}: start with `driftwheel up`, or name another --data-dir"
        )
    folder = DataFolder(config.data_dir)
    owner = folder.owner()
    if owner is not None:
        remote = RemoteDesk(owner)
        try:
            yield remote
        finally:
            remote.close()
        return
    from driftwheel.offline import OfflineDesk

    desk = OfflineDesk(config, folder)
    try:
        yield desk
    finally:
        desk.close()


def open_letters(config: Config) -> AbstractContextManager[Letters]:
    """The dead letters of this configuration: by the running product, by the Kafka cluster, or by the data folder."""

    def on_kafka() -> AbstractContextManager[Letters]:
        from driftwheel.deadletters_kafka import kafka_letters

        return kafka_letters(config)

    return _answering(config, on_kafka, lambda desk: desk.letters)


def open_vault(config: Config) -> AbstractContextManager[Vault]:
    """The sealed payloads of this configuration; see ``open_letters``."""

    def on_kafka() -> AbstractContextManager[Vault]:
        from driftwheel.deadletters_kafka import kafka_vault

        return kafka_vault(config)

    return _answering(config, on_kafka, lambda desk: desk.vault)


def open_erasing(config: Config) -> AbstractContextManager[Erasing]:
    """The erasures of this configuration; see ``open_letters``."""

    def on_kafka() -> AbstractContextManager[Erasing]:
        from driftwheel.erasure_kafka import kafka_erasing

        return kafka_erasing(config)

    return _answering(config, on_kafka, lambda desk: desk.erasing)


@contextmanager
def _answering(
    config: Config, on_kafka: Callable[[], AbstractContextManager[Asked]], here: Callable[[Questions], Asked]
) -> Generator[Asked]:
    """Whoever answers: the cluster where there is one and no product runs on the data folder, else its desk."""
    if config.kafka.brokers and not _has_owner(config):
        with on_kafka() as found:
            yield found
    else:
        with open_desk(config) as desk:
            yield here(desk)


def _has_owner(config: Config) -> bool:
    there = config.data_dir.is_dir() and (config.data_dir / "VERSION").exists()
    return there and DataFolder(config.data_dir).owner() is not None

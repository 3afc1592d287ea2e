from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.abc import AbstractTokenProvider
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from connectors.kafka.admin import Admin
from connectors.kafka.oauth import OAuthTokens
from connectors.kafka.settings import KafkaSettings, Mechanism, OAuth, client_options, ssl_context
from connectors.kafka.topics import Wanted, apply, check, describe, lags, plan
from schemas.errors import Refused, Retry, UsageError
from tests import kafka_jars
from tests.certificates import Authority
from tests.cluster import Cluster
from tests.connectors.kafka_security import (
    CLIENT,
    KEY_PASSWORD,
    PASSWORD,
    SECRET,
    STRANGER,
    STRANGER_PASSWORD,
    USER,
    WORKER,
    WORKER_PASSWORD,
    Signer,
    TokenServer,
    listeners,
    scram_users,
    token_server,
)
from tests.machine import NotHere, free_ports

SCRAM: tuple[Mechanism, ...] = ("SCRAM-SHA-256", "SCRAM-SHA-512")
PASSWORDS: tuple[Mechanism, ...] = ("PLAIN", *SCRAM)
TOPIC = "agent.spans"


@dataclass
class Secured:
    """One broker of Apache Kafka with a listener for each way in."""

    cluster: Cluster
    ca: Authority
    other_ca: Authority
    tokens: TokenServer
    client: tuple[Path, Path]
    plain_client: Path

    def way(self, name: str) -> KafkaSettings:
        """Settings that get in; the name is the listener's, with the mechanism if it has several."""
        listener, _, mechanism = name.partition(" ")
        settings = KafkaSettings(self.cluster.address(listener), partitions=2)
        if listener == "PLAINTEXT":
            return settings
        if listener != "PASSWORDS":
            settings = replace(settings, protocol="SSL", ca_file=str(self.ca.file))
        if listener == "MUTUAL":
            certificate, key = map(str, self.client)
            return replace(settings, cert_file=certificate, key_file=key, key_password=KEY_PASSWORD)
        if listener == "TOKENS":
            oauth = OAuth(self.tokens.url, CLIENT, SECRET, "kafka")
            return replace(settings, protocol="SASL_SSL", mechanism="OAUTHBEARER", oauth=oauth)
        if listener == "TLS":
            return settings
        protocol: Any = "SASL_PLAINTEXT" if listener == "PASSWORDS" else "SASL_SSL"
        chosen: Any = mechanism
        return replace(settings, protocol=protocol, mechanism=chosen, username=USER, password=PASSWORD)


WAYS = [
    "PLAINTEXT", "TLS", "MUTUAL", "TOKENS",
    *(f"{listener} {mechanism}" for listener in ("PASSWORDS", "SECURE") for mechanism in PASSWORDS),
]  # fmt: skip


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    try:
        kafka_jars.fetched()
    except NotHere as no:
        pytest.skip(str(no))
    folder = tmp_path_factory.mktemp("secured")
    ca, signer, jwks = Authority(folder, "ca"), Signer(), folder / "jwks.json"
    jwks.write_text(signer.jwks)
    super_users = ("ANONYMOUS", USER, CLIENT, f"CN={CLIENT}")
    with (
        token_server(signer) as tokens,
        Cluster(
            folder / "kafka",
            listeners=listeners(folder, ca, jwks),
            format_arguments=scram_users(),
            java_options=[f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={jwks.as_uri()}"],
            extra_properties={
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": ";".join(f"User:{name}" for name in super_users),
            },
        ) as cluster,
    ):
        client = ca.issue(CLIENT, password=KEY_PASSWORD)
        together = folder / "client.both.pem"
        certificate, key = ca.issue("both")
        together.write_bytes(certificate.read_bytes() + key.read_bytes())
        made = Secured(cluster, ca, Authority(folder, "other-ca"), tokens, client, together)
        admin = Admin(made.way("PLAINTEXT"))
        apply(admin, plan(admin, wish()))
        yield made


@pytest.fixture(autouse=True)
def as_it_was(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "secured" in request.fixturenames:
        request.getfixturevalue("secured").tokens.answer = None


def wish() -> list[Wanted]:
    return [Wanted(TOPIC, 2, 0)]


def refusal(settings: KafkaSettings, seconds: float = 10) -> str:
    """What is said at the start of a worker; no secret is in it, nor in what the settings look like."""
    with pytest.raises(Refused) as caught:
        check(Admin(settings, seconds), wish())
    for secret in (settings.password, settings.oauth.client_secret, settings.key_password):
        assert not secret or (secret not in str(caught.value) and secret not in repr(settings))
    return str(caught.value)


# Whoever may come in does.


@pytest.mark.parametrize("way", WAYS)
def test_librdkafka_gets_in(secured: Secured, way: str) -> None:
    settings = secured.way(way)
    check(Admin(settings), wish())
    assert read(settings, sent(settings, way)) == way


def sent(settings: KafkaSettings, text: str) -> tuple[int, int]:
    """Where a record with this text landed."""
    landed: list[Any] = []
    producer = Producer(client_options(settings) | {"acks": "all", "enable.idempotence": True})
    producer.produce(TOPIC, text, on_delivery=lambda error, message: landed.append(error or message))
    assert producer.flush(30) == 0
    return landed[0].partition(), landed[0].offset()


def read(settings: KafkaSettings, place: tuple[int, int]) -> str:
    from confluent_kafka import TopicPartition

    consumer = Consumer(client_options(settings) | {"group.id": settings.group("test")})
    try:
        consumer.assign([TopicPartition(TOPIC, *place)])
        [message] = consumer.consume(1, 30)
        assert message.error() is None
        return (message.value() or b"").decode()
    finally:
        consumer.close()


class _Tokens(AbstractTokenProvider):
    def __init__(self, tokens: OAuthTokens) -> None:
        self._tokens = tokens

    async def token(self) -> str:
        return await asyncio.to_thread(self._tokens.token)


async def read_by_aiokafka(settings: KafkaSettings, place: tuple[int, int]) -> str:
    from aiokafka import TopicPartition

    sasl: dict[str, Any] = {}
    if settings.sasl and settings.mechanism == "OAUTHBEARER":
        sasl["sasl_oauth_token_provider"] = _Tokens(OAuthTokens(settings.oauth))
    elif settings.sasl:
        sasl |= {"sasl_plain_username": settings.username, "sasl_plain_password": settings.password}
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.brokers,
        security_protocol=settings.protocol,
        sasl_mechanism=settings.mechanism,
        ssl_context=ssl_context(settings),
        **sasl,
    )
    try:
        await consumer.start()
        where = TopicPartition(TOPIC, place[0])
        consumer.assign([where])
        consumer.seek(where, place[1])
        return (await asyncio.wait_for(consumer.getone(), 30)).value.decode()
    finally:
        await consumer.stop()


@pytest.mark.parametrize("way", WAYS)
def test_aiokafka_gets_in(secured: Secured, way: str) -> None:
    settings = secured.way(way)
    place = sent(secured.way("PLAINTEXT"), way)
    assert asyncio.run(read_by_aiokafka(settings, place)) == way


def test_a_key_may_stand_in_the_file_of_its_certificate(secured: Secured) -> None:
    settings = replace(secured.way("MUTUAL"), cert_file=str(secured.plain_client), key_file="", key_password="")
    context = ssl_context(settings)
    assert context is not None
    with pytest.raises(Refused, match="Describe"):  # it is let in, as somebody without rights
        check(Admin(settings), wish())


# Whoever may not come in is told why, at once.


@pytest.mark.parametrize("way", [way for way in WAYS if " " in way])
def test_a_wrong_password_is_refused_naming_mechanism_and_user(secured: Secured, way: str) -> None:
    said = refusal(replace(secured.way(way), password="a wrong guess"), seconds=60)
    assert way.split()[1] in said
    assert f"the user {USER}" in said
    assert "kafka.password" in said


def test_a_mechanism_that_the_listener_does_not_have_is_refused(secured: Secured) -> None:
    settings = replace(secured.way("TOKENS"), mechanism="PLAIN", username=USER, password=PASSWORD)
    assert re.search(r"by PLAIN: .*supported mechanisms: OAUTHBEARER.*kafka.mechanism", refusal(settings, 60))


@pytest.mark.parametrize("way", ["TLS", "MUTUAL", "TOKENS", "SECURE PLAIN"])
@pytest.mark.parametrize("trust", ["another authority", "the machine's authorities"])
def test_a_broker_that_is_not_trusted_is_refused(secured: Secured, way: str, trust: str) -> None:
    other = str(secured.other_ca.file) if trust == "another authority" else ""
    settings = replace(secured.way(way), ca_file=other)
    assert re.search(r"certificate verify failed.*kafka.ca_file", refusal(settings, 60))


def test_a_broker_under_another_name_than_its_certificate_is_refused(secured: Secured) -> None:
    settings = secured.way("TLS")
    elsewhere = replace(settings, brokers=settings.brokers.replace("127.0.0.1", "localhost"))
    assert re.search(r"made out to the host name in kafka.brokers", refusal(elsewhere, 60))
    with pytest.raises(Exception, match=r"doesn't match|Hostname mismatch|Unable to bootstrap"):
        asyncio.run(read_by_aiokafka(elsewhere, (0, 0)))


def test_a_missing_or_strange_client_certificate_is_refused(secured: Secured) -> None:
    settings = secured.way("MUTUAL")
    assert "kafka.cert_file" in refusal(replace(settings, cert_file="", key_file=""), 60)
    certificate, key = map(str, secured.other_ca.issue("stranger"))
    assert "kafka.cert_file" in refusal(replace(settings, cert_file=certificate, key_file=key), 60)


def test_files_that_cannot_be_used_are_named(secured: Secured) -> None:
    settings = secured.way("MUTUAL")
    cases: list[tuple[str, KafkaSettings]] = [
        ("kafka.ca_file", replace(settings, ca_file="/no/such.pem")),
        ("kafka.cert_file", replace(settings, cert_file="/no/such.pem")),
        ("kafka.key_file", replace(settings, key_file="/no/such.pem")),
        ("kafka.key_password", replace(settings, key_password="wrong")),
        ("kafka.key_password", replace(settings, key_password="")),
    ]
    for name, broken in cases:
        with pytest.raises(UsageError, match=name):
            Admin(broken)
        with pytest.raises(UsageError, match=name):
            ssl_context(broken)
    with pytest.raises(UsageError, match=r"kafka\.username"):
        Admin(replace(secured.way("PASSWORDS PLAIN"), username="", password=""))


def test_the_wrong_protocol_is_worth_a_look_at_its_setting(secured: Secured) -> None:
    plain, tls = secured.way("PLAINTEXT"), secured.way("TLS")
    for settings in (replace(plain, brokers=tls.brokers), replace(tls, brokers=plain.brokers)):
        with pytest.raises(Retry, match=r"kafka.protocol \((PLAINTEXT|SSL)\)"):
            check(Admin(settings, seconds=1), wish())


# Tokens.


def test_a_wrong_client_secret_is_refused_with_the_endpoint_s_words(secured: Secured) -> None:
    settings = secured.way("TOKENS")
    wrong = replace(settings, oauth=replace(settings.oauth, client_secret="a wrong guess"))
    said = refusal(wrong, 60)
    assert f"gives the client {CLIENT} no token: 401 invalid_client: no such client" in said
    assert "kafka.oauth" in said


def test_a_token_endpoint_that_is_away_is_worth_another_try(secured: Secured) -> None:
    settings = secured.way("TOKENS")
    [port] = free_ports(1)
    away = replace(settings, oauth=replace(settings.oauth, token_url=f"http://127.0.0.1:{port}/token"))
    with pytest.raises(Retry, match=rf"no token from http://127.0.0.1:{port}/token"):
        check(Admin(away, 60), wish())


def test_a_token_that_the_broker_does_not_accept_is_refused(secured: Secured) -> None:
    forged = json.dumps({"access_token": Signer().token(CLIENT), "token_type": "Bearer", "expires_in": 3600})
    secured.tokens.answer = (200, forged)
    assert f"the client {CLIENT} in by OAUTHBEARER" in refusal(secured.way("TOKENS"), 60)


# Rights.


def test_a_right_that_is_missing_is_named_with_its_acl(secured: Secured) -> None:
    settings = replace(secured.way("PASSWORDS PLAIN"), username=STRANGER, password=STRANGER_PASSWORD)
    admin = Admin(settings)
    told = refusal(settings)
    assert f"topic {TOPIC}: the user {STRANGER} lacks the right to Describe" in told
    assert f"--allow-principal User:{STRANGER} --operation Describe --topic {TOPIC}" in told
    new = Wanted("flywheel.new", 2, 0)
    with pytest.raises(Refused, match=r"topic flywheel.new: .*right to Create"):
        admin_create(admin, new)
    with pytest.raises(Refused, match=rf"topic {TOPIC}: .*right to DescribeConfigs"):
        admin.configs([TOPIC])
    with pytest.raises(Refused, match=rf"topic {TOPIC}: .*right to AlterConfigs"):
        admin.alter({TOPIC: {"retention.ms": "1"}})
    with pytest.raises(Refused, match=r"group driftwheel.score: .*right to Describe.*--group driftwheel.score"):
        admin.committed("driftwheel.score", [(TOPIC, 0)])
    assert describe(Admin(secured.way("PLAINTEXT")), [new.name])[0].partitions == 0


def admin_create(admin: Admin, topic: Wanted) -> None:
    from connectors.kafka.topics import Change

    apply(admin, [Change("create", topic)])


def test_the_documented_rights_are_enough_and_each_is_needed(secured: Secured) -> None:
    """A worker may check, work in transactions and tell its lag; ``topics apply`` takes more."""
    settings = replace(secured.way("PASSWORDS PLAIN"), prefix="acme.", username=WORKER, password=WORKER_PASSWORD)
    owner = Admin(replace(secured.way("PLAINTEXT"), prefix="acme."))
    topics = [Wanted("acme.agent.spans", 2, 0, {"retention.ms": "1000000"})]
    apply(owner, plan(owner, topics))
    rights = AdminClient(client_options(secured.way("PLAINTEXT")))
    wanted_rights: list[tuple[Any, str, AclOperation]] = [
        (ResourceType.TOPIC, "acme.", AclOperation.READ),
        (ResourceType.TOPIC, "acme.", AclOperation.WRITE),
        (ResourceType.GROUP, "acme.driftwheel.", AclOperation.READ),
        (ResourceType.TRANSACTIONAL_ID, "acme.driftwheel.", AclOperation.WRITE),
    ]
    for number, right in enumerate(wanted_rights):
        given = [_acl(*one) for one in wanted_rights if one is not right]
        grant(rights, given)
        with pytest.raises((KafkaException, Refused)):
            work(settings, topics, f"without-{number}")
        grant(rights, given, take=True)
    grant(rights, [_acl(*one) for one in wanted_rights])
    work(settings, topics, "all")
    with pytest.raises(Refused, match="right to DescribeConfigs"):
        plan(Admin(settings), topics)
    more = [AclOperation.CREATE, AclOperation.DESCRIBE_CONFIGS, AclOperation.ALTER_CONFIGS]
    grant(rights, [_acl(ResourceType.TOPIC, "acme.", operation) for operation in more])
    new = [replace(topics[0], config={"retention.ms": "2000000"}), Wanted("acme.agent.turns", 2, 0)]
    apply(Admin(settings), plan(Admin(settings), new))
    assert plan(Admin(settings), new) == []


def _acl(resource: Any, name: str, operation: AclOperation) -> AclBinding:
    prefixed, allow = ResourcePatternType.PREFIXED, AclPermissionType.ALLOW
    return AclBinding(resource, name, prefixed, f"User:{WORKER}", "*", operation, allow)


def grant(rights: AdminClient, acls: list[AclBinding], *, take: bool = False) -> None:
    """Give or take rights; on return the broker tells them so."""
    if take:
        filters = [
            AclBindingFilter(a.restype, a.name, a.resource_pattern_type, a.principal, a.host, a.operation,
                             a.permission_type)
            for a in acls
        ]  # fmt: skip
        for done in rights.delete_acls(filters).values():
            done.result()
    else:
        for done in rights.create_acls(acls).values():
            done.result()
    anything = AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, f"User:{WORKER}", None, AclOperation.ANY,
        AclPermissionType.ANY,
    )  # fmt: skip
    for _ in range(200):
        there = set(rights.describe_acls(anything).result())
        if not there & set(acls) if take else set(acls) <= there:
            return
        threading.Event().wait(0.05)
    raise AssertionError("the broker does not take the rights in")


def work(settings: KafkaSettings, topics: list[Wanted], name: str) -> None:
    """What a worker does: look, read, write in a transaction with the group's position, tell how far it is."""
    from confluent_kafka import TopicPartition

    admin, place = Admin(settings), TopicPartition(topics[0].name, 0, 0)
    check(admin, topics)
    options = client_options(settings) | {"group.id": settings.group(name), "log_level": 0}
    reader = Consumer(options | {"isolation.level": "read_committed", "enable.partition.eof": True})
    writer = Producer(client_options(settings) | {"transactional.id": settings.group(f"{name}.0"), "log_level": 0})
    try:
        reader.assign([place])
        [message] = reader.consume(1, 30)
        error = message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            raise KafkaException(error)
        writer.init_transactions(30)
        writer.begin_transaction()
        writer.produce(place.topic, b"x", partition=0)
        place.offset = 1
        writer.send_offsets_to_transaction([place], reader.consumer_group_metadata(), 30)
        writer.commit_transaction(30)
        assert lags(admin, {settings.group(name): [place.topic]})
    finally:
        reader.close()
        writer.purge()


# The tokens of clients that do not fetch them themselves.


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer()


@pytest.fixture
def endpoint(signer: Signer) -> Iterator[TokenServer]:
    with token_server(signer) as server:
        yield server


def test_a_token_is_fetched_once_and_again_shortly_before_it_expires(endpoint: TokenServer) -> None:
    now = [1000.0]
    tokens = OAuthTokens(OAuth(endpoint.url, CLIENT, SECRET, "kafka all"), clock=lambda: now[0])
    first = tokens.token()
    assert endpoint.asked == [{"grant_type": "client_credentials", "scope": "kafka all"}]
    now[0] += 3600 - 61
    assert tokens.token() == first
    now[0] += 2
    tokens.token()
    assert len(endpoint.asked) == 2


def test_a_short_lived_token_is_not_used_to_its_last_second(endpoint: TokenServer) -> None:
    now = [0.0]
    endpoint.lifetime = 10
    tokens = OAuthTokens(OAuth(endpoint.url, CLIENT, SECRET), clock=lambda: now[0])
    for now[0] in (0.0, 7.9, 8.1, 16.0, 16.2):
        tokens.token()
    assert len(endpoint.asked) == 3


def test_many_threads_ask_for_one_token(endpoint: TokenServer) -> None:
    tokens, start = OAuthTokens(OAuth(endpoint.url, CLIENT, SECRET)), threading.Barrier(8)

    def ask(_: int) -> str:
        start.wait(30)
        return tokens.token()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(8)))) == 1
    assert len(endpoint.asked) == 1


def test_what_the_endpoint_says_is_told_without_the_secret(endpoint: TokenServer) -> None:
    oauth = OAuth(endpoint.url, CLIENT, SECRET)
    cases: list[tuple[int, str, type[Exception], str]] = [
        (401, json.dumps({"error": "invalid_client"}), Refused, "401 invalid_client"),
        (400, json.dumps({"error": "invalid_scope", "error_description": "what?"}), Refused, "invalid_scope: what"),
        (404, "<html>", Refused, "404.*kafka.oauth"),
        (503, "", Retry, "503"),
        (429, "{}", Retry, "429"),
        (200, "<html>", Refused, "without an access_token"),
        (200, "[]", Refused, "without an access_token"),
        (200, json.dumps({"access_token": ""}), Refused, "without an access_token"),
    ]
    for status, text, kind, words in cases:
        endpoint.answer = (status, text)
        with pytest.raises(kind, match=words) as caught:
            OAuthTokens(oauth).token()
        assert SECRET not in str(caught.value)
    assert SECRET not in repr(oauth)


def test_after_a_failure_the_next_call_asks_again(endpoint: TokenServer) -> None:
    tokens = OAuthTokens(OAuth(endpoint.url, CLIENT, SECRET))
    endpoint.answer = (503, "")
    with pytest.raises(Retry):
        tokens.token()
    endpoint.answer = None
    assert tokens.token().count(".") == 2


def test_an_endpoint_that_does_not_say_how_long_is_asked_again_after_minutes(endpoint: TokenServer) -> None:
    now = [0.0]
    for odd in ({}, {"expires_in": "soon"}, {"expires_in": None}):
        endpoint.answer = (200, json.dumps({"access_token": "t"} | odd))
        endpoint.asked.clear()
        tokens = OAuthTokens(OAuth(endpoint.url, CLIENT, SECRET), clock=lambda: now[0])
        for now[0] in (0.0, 200.0, 400.0):
            assert tokens.token() == "t"
        assert len(endpoint.asked) == 2, odd


@pytest.mark.parametrize(
    ("oauth", "words"),
    [
        (OAuth(), "needs token_url, client_id and client_secret"),
        (OAuth("nowhere", CLIENT, SECRET), "token_url: nowhere is no address"),
        (OAuth("http://x:y/", CLIENT, SECRET), "is no address"),
        (OAuth("https://127.0.0.1:1", CLIENT, SECRET, ca_file="/no/such.pem"), "kafka.oauth.ca_file"),
    ],
)
def test_what_cannot_be_asked_is_a_wrong_setting(oauth: OAuth, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        OAuthTokens(oauth).token()


def test_an_endpoint_with_a_certificate_of_its_own_authority(signer: Signer, tmp_path: Path, secured: Secured) -> None:
    ca = Authority(tmp_path, "endpoint-ca")
    broker_signer = secured.tokens.signer
    with token_server(broker_signer, ca.issue("endpoint", hosts=["127.0.0.1"])) as server:
        trusted = OAuth(server.url, CLIENT, SECRET, ca_file=str(ca.file))
        assert OAuthTokens(trusted).token()
        settings = replace(secured.way("TOKENS"), oauth=trusted)
        check(Admin(settings), wish())
        blind = replace(trusted, ca_file="")
        with pytest.raises(Refused, match=r"CERTIFICATE_VERIFY_FAILED.*kafka.oauth.ca_file"):
            OAuthTokens(blind).token()
        assert "kafka.oauth.ca_file" in refusal(replace(settings, oauth=blind), 60)

"""How to reach a Kafka cluster, as values, and the same as options of librdkafka (confluent-kafka)."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any, Literal

from schemas.errors import UsageError
from schemas.topics import Topic

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]


@dataclass(frozen=True, slots=True)
class OAuth:
    """Where tokens for OAUTHBEARER come from: the client credentials grant of OpenID Connect.

    ``ca_file`` is for ``token_url``, which is seldom signed by the brokers' authority; empty: the machine's own.
    """

    token_url: str = ""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    scope: str = ""
    ca_file: str = ""


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """``brokers``: ``host:port,host:port``. ``prefix`` goes before every topic, group and transactional id.

    ``partitions``: of every topic; all have the same number, so that partition *n* of one stage's topics is worked on
    in one place. ``replication`` 0: the broker's default; ``min_insync`` 0: the same. ``ca_file``, ``cert_file`` and
    ``key_file`` are paths to PEM files; the key may stand in ``cert_file``.
    """

    brokers: str
    prefix: str = ""
    partitions: int = 6
    replication: int = 0
    min_insync: int = 0
    protocol: Protocol = "PLAINTEXT"
    mechanism: Mechanism = "SCRAM-SHA-512"
    username: str = ""
    password: str = field(default="", repr=False)
    oauth: OAuth = field(default_factory=OAuth)
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    key_password: str = field(default="", repr=False)

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.protocol in ("SSL", "SASL_SSL")

    @property
    def sasl(self) -> bool:
        """Whether the client says who it is."""
        return self.protocol in ("SASL_PLAINTEXT", "SASL_SSL")

    def topic(self, topic: Topic | str) -> str:
        """The name of a topic on this cluster."""
        return self.prefix + (topic if isinstance(topic, str) else topic.name)

    def group(self, consumer: str) -> str:
        """The consumer group of a stage or sink."""
        return f"{self.prefix}driftwheel.{consumer}"

    def state_topic(self, stage: str) -> str:
        """The compacted topic that holds a stage's state and positions."""
        return f"{self.prefix}driftwheel.{stage}.state"

    def inbox(self, stage: str) -> str:
        """The topic through which a stage's events reach the partition of their key."""
        return f"{self.prefix}driftwheel.{stage}.inbox"


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """What every client of confluent-kafka is made with: address, TLS, SASL."""
    options: dict[str, Any] = {
        "bootstrap.servers": settings.brokers,
        "security.protocol": settings.protocol,
        "client.id": "driftwheel",
        "topic.metadata.refresh.interval.ms": 30_000,
        "reconnect.backoff.max.ms": 2_000,
    }
    if settings.tls:
        options |= _given({
            "ssl.ca.location": settings.ca_file,
            "ssl.certificate.location": settings.cert_file,
            "ssl.key.location": settings.key_file or settings.cert_file,
            "ssl.key.password": settings.key_password,
        })  # fmt: skip
    if settings.sasl:
        options["sasl.mechanisms"] = settings.mechanism
        options |= _oauth(settings.oauth) if settings.mechanism == "OAUTHBEARER" else _password(settings)
    return options


def ssl_context(settings: KafkaSettings) -> ssl.SSLContext | None:
    """The same TLS for clients in Python (aiokafka); None without TLS. Raises UsageError naming the file at fault."""
    if not settings.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
    except OSError as error:
        raise UsageError(f"kafka.ca_file: {settings.ca_file} cannot be read: {error}") from error
    if settings.cert_file:
        key = settings.key_file or settings.cert_file
        try:
            context.load_cert_chain(settings.cert_file, key, settings.key_password)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"kafka.cert_file, kafka.key_file or kafka.key_password: {settings.cert_file} and {key} "
                f"cannot be used: {error}"
            ) from error
    return context


def _password(settings: KafkaSettings) -> dict[str, Any]:
    return {"sasl.username": settings.username, "sasl.password": settings.password}


def _oauth(oauth: OAuth) -> dict[str, Any]:
    method = {"sasl.oauthbearer.method": "oidc"}
    return method | _given({
        "sasl.oauthbearer.token.endpoint.url": oauth.token_url,
        "sasl.oauthbearer.client.id": oauth.client_id,
        "sasl.oauthbearer.client.secret": oauth.client_secret,
        "sasl.oauthbearer.scope": oauth.scope,
        "https.ca.location": oauth.ca_file,
    })  # fmt: skip


def _given(options: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in options.items() if value}

"""The Kafka cluster that the configuration names."""

from __future__ import annotations

from connectors.kafka.settings import KafkaSettings, OAuth
from connectors.kafka.wire import Framing, Plain
from connectors.registry.client import RegistrySettings
from connectors.registry.framing import RegistryFraming
from driftwheel.config import Config
from schemas.errors import UsageError


def registry_settings(config: Config) -> RegistrySettings | None:
    """The Schema Registry's settings; None without one."""
    registry = config.registry
    if not registry.url:
        return None
    password = registry.password.get_secret_value()
    return RegistrySettings(
        registry.url, registry.username, password, registry.ca_file, registry.header, config.kafka.prefix
    )


def framing_of(config: Config) -> Framing:
    """How values travel: as they are, or with a Schema Registry."""
    settings = registry_settings(config)
    return Plain() if settings is None else RegistryFraming(settings)


def kafka_settings(config: Config) -> KafkaSettings:
    """The cluster's settings. UsageError when no cluster is named."""
    kafka = config.kafka
    if not kafka.brokers:
        raise UsageError(
            'kafka.brokers is not set: name the brokers in driftwheel.toml ([kafka] brokers = "host:9092") or as '
            "DRIFTWHEEL__KAFKA__BROKERS, or use `driftwheel up`, which needs none"
        )
    oauth = OAuth(
        kafka.oauth.token_url,
        kafka.oauth.client_id,
        kafka.oauth.client_secret.get_secret_value(),
        kafka.oauth.scope,
        kafka.oauth.ca_file,
    )
    return KafkaSettings(
        brokers=kafka.brokers,
        prefix=kafka.prefix,
        partitions=kafka.partitions,
        replication=kafka.replication,
        min_insync=kafka.min_insync,
        protocol=kafka.protocol,
        mechanism=kafka.mechanism,
        username=kafka.username,
        password=kafka.password.get_secret_value(),
        oauth=oauth,
        ca_file=kafka.ca_file,
        cert_file=kafka.cert_file,
        key_file=kafka.key_file,
        key_password=kafka.key_password.get_secret_value(),
    )

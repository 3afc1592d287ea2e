"""The Kafka cluster that the configuration names."""

from __future__ import annotations

from connectors.kafka.settings import KafkaSettings, OAuth
from driftwheel.config import Config
from schemas.errors import UsageError


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

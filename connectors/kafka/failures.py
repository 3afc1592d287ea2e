"""What librdkafka's errors mean for whoever runs Driftwheel: Retry, Refused or UsageError, with the setting to look at.

librdkafka tries for ever, and tells why only a callback (``error_cb``): a wrong password looks like a broker that is
away. ``is_final`` tells them apart.
"""

from __future__ import annotations

import re

from confluent_kafka import KafkaError

from connectors.kafka.oauth import OAuthTokens
from connectors.kafka.settings import KafkaSettings
from schemas.errors import DriftwheelError, Refused, Retry, UsageError

_UNAUTHORIZED = frozenset({
    KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
})  # fmt: skip
AWAY = frozenset({
    KafkaError._TIMED_OUT, KafkaError._TIMED_OUT_QUEUE, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE, KafkaError._WAIT_COORD, KafkaError._DESTROY_BROKER, KafkaError.REQUEST_TIMED_OUT,
    KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.NOT_COORDINATOR,
    KafkaError.NOT_CONTROLLER, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.BROKER_NOT_AVAILABLE, KafkaError.NETWORK_EXCEPTION, KafkaError.THROTTLING_QUOTA_EXCEEDED,
})  # fmt: skip
_BROKEN_OFF = re.compile(r"Local: |Disconnected|timed out", re.IGNORECASE)
"""In an authentication error: the connection went, and nobody has said no."""
_OUR_CERTIFICATE = re.compile(r"alert (?:bad certificate|certificate|unknown ca|unsupported certificate)")
_OWN_WORDS = re.compile(r"^\S+/(?:bootstrap|\d+): | \(after \d+ms in state \w+\)")


def is_final(error: KafkaError) -> bool:
    """Whether what a client's ``error_cb`` was told will not pass by itself: a password, a certificate."""
    text = error.str()
    if error.code() == KafkaError._AUTHENTICATION:
        return not _BROKEN_OFF.search(text)
    if error.code() == KafkaError._SSL:
        return "certificate verify failed" in text
    return bool(_OUR_CERTIFICATE.search(text))


def shut_out(settings: KafkaSettings, error: KafkaError) -> DriftwheelError:
    """The meaning of a final error: Refused that names mechanism and user, or the certificate's setting.

    A token that could not be had is asked for once more, so that its own error is told (which may be Retry).
    """
    text = _OWN_WORDS.sub("", error.str())
    if error.code() != KafkaError._AUTHENTICATION:
        return Refused(f"TLS with {settings.brokers}: {text}. {_certificate_advice(text)}")
    if "acquire SASL OAUTHBEARER token" in text:
        return _token_error(settings) or Retry(text)
    return Refused(
        f"{settings.brokers} does not let {who(settings)} in by {settings.mechanism}: {text}. "
        f"See {_credentials(settings)} and kafka.mechanism"
    )


def _token_error(settings: KafkaSettings) -> DriftwheelError | None:
    try:
        OAuthTokens(settings.oauth).token()
    except (Retry, Refused, UsageError) as error:
        return error
    return None


def _certificate_advice(text: str) -> str:
    if _OUR_CERTIFICATE.search(text):
        return "The broker wants a client certificate that it trusts: kafka.cert_file and kafka.key_file"
    return (
        "kafka.ca_file must hold the authority that signed the broker's certificate, and the certificate must be made "
        "out to the host name in kafka.brokers"
    )


def away(settings: KafkaSettings, error: KafkaError | None, seconds: float) -> Retry:
    """No broker answered."""
    said = f" ({_OWN_WORDS.sub('', error.str())})" if error is not None else ""
    return Retry(
        f"no Kafka broker at {settings.brokers} answered in {seconds:.0f} s{said}; is it up, and are kafka.brokers "
        f"and kafka.protocol ({settings.protocol}) right?"
    )


def unusable(error: KafkaError) -> UsageError:
    """A client could not even be made."""
    text = re.sub(r"^Failed to create [\w ]+: ", "", error.str())
    settings = {
        "ssl.ca.location": "kafka.ca_file",
        "ssl.certificate.location": "kafka.cert_file",
        "ssl.key.location": "kafka.key_file (or kafka.key_password)",
        "sasl.oauthbearer": "kafka.oauth",
        "sasl.username": "kafka.username and kafka.password",
    }
    named = [ours for theirs, ours in settings.items() if theirs in text]
    return UsageError(f"{named[0] if named else 'kafka'}: {text}")


def meaning(settings: KafkaSettings, error: KafkaError, subject: str, operation: str) -> DriftwheelError:
    """A broker's no to one request about ``subject`` (``topic x``, ``group y``), which needs ``operation``.

    Refused when it is final, naming the ACL that is missing; Retry when it may pass.
    """
    if error.code() in _UNAUTHORIZED:
        return Refused(
            f"{subject}: {who(settings)} lacks the right to {operation} ({error.str()}). "
            f"Grant it: kafka-acls --add --allow-principal {principal(settings)} --operation {operation} "
            f"--{subject}"
        )
    if error.code() in AWAY or error.retriable():
        return Retry(f"{subject}: {error.str()}")
    return Refused(f"{subject}: the cluster refuses it: {error.str()}")


def who(settings: KafkaSettings) -> str:
    """Whom the brokers take us for, in words without secrets."""
    if settings.sasl and settings.mechanism == "OAUTHBEARER":
        return f"the client {settings.oauth.client_id}"
    if settings.sasl:
        return f"the user {settings.username}"
    if settings.cert_file:
        return f"the certificate {settings.cert_file}"
    return "an anonymous client"


def principal(settings: KafkaSettings) -> str:
    """The same as a principal of Kafka's ACLs, as far as it can be known here."""
    if settings.sasl and settings.mechanism == "OAUTHBEARER":
        return f"'User:<the token's subject, client {settings.oauth.client_id}>'"
    if settings.sasl:
        return f"User:{settings.username}"
    if settings.cert_file:
        return f"'User:<the subject of {settings.cert_file}>'"
    return "User:ANONYMOUS"


def _credentials(settings: KafkaSettings) -> str:
    return "kafka.oauth" if settings.mechanism == "OAUTHBEARER" else "kafka.username, kafka.password"

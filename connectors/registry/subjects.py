"""Which schema belongs to which topic in the registry: a topic's records under ``<topic>-value`` (TopicNameStrategy).

Subjects get the compatibility BACKWARD, so that whoever registers a form that could not read what lies in the topic is
told so by the registry. A stricter level that somebody has set stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from connectors.registry.client import Incompatible, Registered, RegistryClient
from schemas.avro_schema import path_of
from schemas.compatibility import problems
from schemas.errors import Refused
from schemas.events import Record
from schemas.topics import Topic

BACKWARD = "BACKWARD"
_STRICT_ENOUGH = frozenset({BACKWARD, "BACKWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE"})


def subject_of(topic: str, prefix: str = "") -> str:
    """The subject of a topic's values; ``prefix`` is what its name on the cluster begins with."""
    return f"{prefix}{topic}-value"


def register_all(client: RegistryClient, topics: Iterable[Topic], prefix: str = "") -> dict[str, Registered]:
    """Register the current schema of every topic that has a record; by subject, what the registry calls it.

    May be repeated. Raises Refused, naming subject and field, when the registry finds a schema incompatible; what
    was registered before that stays.
    """
    return {
        (subject := subject_of(topic.name, prefix)): register(client, subject, topic.record)
        for topic in topics
        if topic.record is not None
    }


def register(client: RegistryClient, subject: str, record: type[Record]) -> Registered:
    """Register a record's current schema under a subject. See ``register_all``."""
    text = schema_text(record)
    if client.compatibility(subject) not in _STRICT_ENOUGH:
        client.set_compatibility(subject, BACKWARD)
    try:
        client.register(subject, text)
    except Incompatible as error:
        raise Refused(f"{subject}: {_reason(client, subject, text)}. {error}") from error
    found = client.lookup(subject, text)
    if found is None:
        raise Refused(f"{subject}: the registry took the schema of {record.__name__} and does not know it now")
    return found


def schema_text(record: type[Record]) -> str:
    """A record's current schema as it is registered."""
    return json.dumps(json.loads(path_of(record).read_text()), separators=(",", ":"))


def _reason(client: RegistryClient, subject: str, text: str) -> str:
    """Which field it is, found out here: every registry says it in its own way, some not at all."""
    for registered in client.schemas(subject):
        if found := problems(json.loads(text), json.loads(registered)):
            return found[0]
    return "the registry finds the current schema incompatible"

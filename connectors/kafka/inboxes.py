"""What lanes are told from outside: a message in the inbox of a stage, in every partition that has state.

A lane commits where its inbox goes on together with what a message of it changed: a group that stands past a message
has carried it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from connectors.kafka.admin import Admin
from connectors.kafka.failures import meaning
from connectors.kafka.settings import KafkaSettings, client_options
from schemas.errors import Retry

_SECONDS = 30.0
Told = Mapping[tuple[str, int], int]
"""By stage and partition: the offset behind the last message that its lane was told."""


class Inboxes:
    """The inboxes of a cluster's stages. Every method raises Retry when the brokers are away."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings, self._admin = settings, Admin(settings)

    def tell(self, stages: Sequence[str], values: Sequence[bytes]) -> Told:
        """Put messages into every inbox of these stages whose lane has, or had, any state; durable on return."""
        settings = self._settings
        lanes = [(stage, number) for stage in stages for number in range(settings.partitions)]
        ends = self._admin.last([(settings.state_topic(stage), number) for stage, number in lanes])
        told = {lane: 0 for lane in lanes if ends.get((settings.state_topic(lane[0]), lane[1]), 1) > 0}
        self._produce(told, values)
        return told

    def _produce(self, told: dict[tuple[str, int], int], values: Sequence[bytes]) -> None:
        options = {"acks": "all", "enable.idempotence": True, "log_level": 0}
        producer = Producer(client_options(self._settings) | options)
        errors: list[tuple[str, KafkaError]] = []
        left = len(told) * len(values)

        def hear(lane: tuple[str, int], error: KafkaError | None, message: Message) -> None:
            nonlocal left
            left -= 1
            if error is not None:
                errors.append((message.topic() or "", error))
            else:
                told[lane] = max(told[lane], (message.offset() or 0) + 1)

        try:
            for lane in told:
                for value in values:
                    topic = self._settings.inbox(lane[0])
                    producer.produce(
                        topic, value, b"", partition=lane[1], on_delivery=lambda e, m, lane=lane: hear(lane, e, m)
                    )
            producer.flush(_SECONDS)
        except (KafkaException, BufferError) as error:
            raise Retry(f"the brokers did not take what lanes are to be told: {error}") from error
        for topic, error in errors[:1]:
            raise meaning(self._settings, error, f"topic {topic}", "WRITE")
        if left:
            producer.purge()
            raise Retry(f"the brokers did not take what lanes are to be told in {_SECONDS:.0f} s")

    def unread(self, told: Told) -> list[tuple[str, int]]:
        """The lanes that have not carried out all that they were told."""
        by_stage: dict[str, list[int]] = {}
        for stage, number in told:
            by_stage.setdefault(stage, []).append(number)
        left: list[tuple[str, int]] = []
        for stage, numbers in by_stage.items():
            inbox = self._settings.inbox(stage)
            at = self._admin.committed(self._settings.group(stage), [(inbox, number) for number in numbers])
            left += [(stage, number) for number in numbers if at.get((inbox, number), 0) < told[stage, number]]
        return left

"""Whose a record is: what erasures look for, in logs and in the state of stages.

A record is a person's when it names them. One that names nobody is theirs when it is about a trace, a turn or a sample
of theirs, or stands in a session in which nobody else does. A label is about the person whose answer was labelled,
whoever gave it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from schemas.events import Label, Record

KINDS = {"trace": "trace_id", "turn": "turn_id", "session": "session_id", "sample": "sample_id"}
"""What tells a person's records that do not name them, and the field that holds it."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One person of one tenant: their hash, and the ids of what is theirs alone."""

    tenant: str
    hash: str
    traces: frozenset[str] = frozenset()
    turns: frozenset[str] = frozenset()
    sessions: frozenset[str] = frozenset()
    samples: frozenset[str] = frozenset()

    def owns(self, record: Record) -> bool:
        """Whether a record is this person's."""
        if record.tenant != self.tenant:
            return False
        if record.subject_hash == self.hash:
            return True
        return self._about(record) if isinstance(record, Label) or not record.subject_hash else False

    def _about(self, record: Record) -> bool:
        return any(
            getattr(record, field, None) in held
            for field, held in (
                ("trace_id", self.traces),
                ("turn_id", self.turns),
                ("session_id", self.sessions),
                ("sample_id", self.samples),
            )
        )

    def has_turn(self, turn_id: Any) -> bool:
        """Whether a turn, or the trace of a turn, is this person's."""
        return turn_id in self.turns or turn_id in self.traces or str(turn_id).partition(".")[0] in self.traces

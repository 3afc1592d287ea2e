"""What the demo sees of the control topics, with the ask at which each record appeared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from schemas.events import Alarm, Deployment, Job, Record, Trigger
from schemas.topics import ALARMS, DEPLOYMENTS, EVALUATIONS, JOBS, TRIGGERS


class Witness:
    """A Sink that remembers; the newest delivery of an event id wins, its first place stays."""

    name = "demo-witness"
    topics = (ALARMS, TRIGGERS, JOBS, EVALUATIONS, DEPLOYMENTS)

    def __init__(self, place: Callable[[], int]) -> None:
        self._place = place
        self._seen: dict[str, tuple[int, Record]] = {}

    def write(self, records: Sequence[Record]) -> None:
        """See Sink."""
        for record in records:
            if record.event_id not in self._seen:
                self._seen[record.event_id] = (self._place(), record)

    def of(self, kind: type[Record]) -> list[tuple[int, Any]]:
        """Records of one kind with the ask at which they appeared, in order."""
        return [(place, record) for place, record in self._seen.values() if type(record) is kind]

    def rows(self, kind: type[Record]) -> list[dict[str, Any]]:
        """The same as JSON objects with an ``event``."""
        return [{"event": place, **record.model_dump(mode="json")} for place, record in self.of(kind)]

    def alarm_count(self) -> int:
        """Alarms, warnings left out."""
        return sum(record.level == "alarm" for _, record in self.of(Alarm))

    def last(self, kind: type[Record]) -> Any:
        """The newest record of a kind, or None."""
        found = self.of(kind)
        return found[-1][1] if found else None

    def live_at(self) -> int | None:
        """The ask at which the first candidate went live."""
        for place, release in self.of(Deployment):
            if release.state == "live" and release.incumbent:
                return place
        return None

    def stayed_live(self) -> bool:
        """Whether a candidate went live and was not taken back."""
        states: dict[str, str] = {r.release_id: r.state for _, r in self.of(Deployment) if r.incumbent}
        return "live" in states.values()

    def story(self) -> list[dict[str, Any]]:
        """What happened, in plain words, for the report."""
        lines: list[dict[str, Any]] = []
        for place, record in self._seen.values():
            said = _say(record)
            if said is not None:
                lines.append({"event": place, "what": said[0], "why": said[1]})
        return sorted(lines, key=lambda line: line["event"])


def _say(record: Record) -> tuple[str, str] | None:
    match record:
        case Alarm() if record.level == "alarm":
            where = f"answers {record.category}" if record.category else "all answers"
            change = f"sessions that failed {record.baseline:.0%} before, {record.current:.0%} now"
            model = record.model_version.rpartition("/")[2]
            return (
                "alarm",
                f"{where} of {model}: {change}; {record.detector} {record.statistic:.1f} over {record.threshold:.1f}",
            )
        case Trigger():
            return "trigger: fine-tune", record.reason
        case Job() if record.state in {"passed", "refused", "failed"}:
            return f"job {record.state}", record.message or record.candidate
        case Deployment():
            share = f" at {record.weight:.0%}" if record.state == "canary" else ""
            return f"release {record.state.replace('_', ' ')}{share}", record.reason
        case _:
            return None

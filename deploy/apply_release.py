"""Apply releases: what a deploy event says becomes the platform's traffic, and is read back.

While a shadow is on, its pairs are fetched and sent in as raw signals, so that they are redacted like all else. A
pair without a session and a turn is of no use and left out. Applying the same twice changes nothing; a pair fetched
twice has the same ``event_id``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from connectors.nemo.port import NemoPort, Pair, Split
from deploy.names import group_name, mark
from processors.stage import Event, Stage
from processors.state import KeyState
from schemas.errors import Refused, Retry
from schemas.events import Deployment, RawSignal, Record, identity
from schemas.topics import DEPLOYMENTS, SIGNALS_RAW


@dataclass(frozen=True, slots=True)
class ApplyReleaseSettings:
    """``poll``: seconds of the engine's clock between fetches of shadow pairs; ``page`` of them at a time."""

    poll: float = 5.0
    page: int = 500


class ApplyRelease(Stage):
    """Deploy events to traffic weights, and shadow pairs to raw signals, per agent."""

    name = "apply_release"
    sources = (DEPLOYMENTS,)
    emits = (SIGNALS_RAW,)
    effects = True

    def __init__(self, port: NemoPort, settings: ApplyReleaseSettings | None = None) -> None:
        self._settings = settings or ApplyReleaseSettings()
        self._port = port
        super().__init__(self._settings)

    def step(self, event: Event, state: KeyState) -> Iterable[Record]:
        """Note what traffic should be from now on."""
        release = event.record
        if isinstance(release, Deployment):
            state.data.setdefault("after", 0)
            state.data.update(
                version=1,
                tenant=release.tenant,
                agent=release.agent,
                release_id=release.release_id,
                split=asdict(split_of(release)),
                applied=False,
            )
            state.due = release.event_time
        return ()

    def tick(self, key: str, state: KeyState, now: datetime) -> Iterable[Record]:
        """Apply and read back; then fetch pairs for as long as the shadow is on.

        Raises Retry, with nothing changed, when the platform is away, refuses, or does not do as it was told.
        """
        del key
        data, split = state.data, Split(**state.data["split"])
        records: list[Record] = []
        try:
            if not data["applied"]:
                self._apply(group_name(data["tenant"], data["agent"]), split)
                data["applied"] = True
            elif split.shadow:
                records = list(self._fetch(data, split, now))
        except Refused as error:
            raise Retry(f"release of {data['tenant']}/{data['agent']}: {error}") from error
        state.due = now + timedelta(seconds=self._settings.poll) if split.shadow else None
        return records

    def _apply(self, group: str, split: Split) -> None:
        self._port.apply(group, split)
        found = self._port.observe(group)
        if found != split:
            raise Retry(f"group {group} was told {split} and says {found}")

    def _fetch(self, data: dict[str, Any], split: Split, now: datetime) -> Iterator[Record]:
        group = group_name(data["tenant"], data["agent"])
        pairs = self._port.pairs(group, data["after"], self._settings.page)
        while pairs:
            data["after"] = pairs[-1].number
            for pair in pairs:
                if pair.shadow == split.candidate and (pair.session_id or pair.turn_id):
                    yield _comparison(pair, data, now)
            full = len(pairs) >= self._settings.page
            pairs = self._port.pairs(group, data["after"], self._settings.page) if full else []


def split_of(release: Deployment) -> Split:
    """The traffic that a deploy event asks for."""
    match release.state:
        case "shadow":
            return Split(release.incumbent, release.candidate, 0.0, shadow=True)
        case "canary":
            return Split(release.incumbent, release.candidate, release.weight)
        case "live":
            return Split(release.candidate)
        case _:
            return Split(release.incumbent)


def _comparison(pair: Pair, data: dict[str, Any], now: datetime) -> RawSignal:
    """A pair as a raw signal: what the live model said is ``text_before``, what the shadow said ``text``."""
    about = "turn_id" if "." in pair.turn_id else "trace_id"
    event_id = identity("pair", data["tenant"], data["release_id"], pair.session_id, pair.turn_id, str(pair.number))
    body = {
        "id": event_id,
        "name": "comparison",
        "agent": data["agent"],
        "session_id": pair.session_id,
        about: pair.turn_id,
        "value": 0.0,
        "weight": 0.0,
        "text": pair.shadow_answer,
        "text_before": pair.live_answer,
        "source": "shadow",
        "attributes": {"live": pair.live, "shadow": pair.shadow, "release": mark(data["release_id"])},
    }
    return RawSignal(
        event_id=event_id,
        tenant=data["tenant"],
        agent=data["agent"],
        event_time=now,
        payload=json.dumps(body, sort_keys=True),
    )

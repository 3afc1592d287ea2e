"""Judges from the configuration: the endpoint, the rubrics, the cache, and what redacts their words."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from connectors.judge.budget import Budget
from connectors.judge.cache import Cache, FileCache
from connectors.judge.endpoint import Endpoint, EndpointSettings
from connectors.judge.judge import Clean, Judge
from connectors.judge.rubrics import rubrics
from connectors.log import Log
from driftwheel.config import Config
from driftwheel.judging import JudgeStore, Judging, JudgingRules
from driftwheel.pipeline import stage_settings
from driftwheel.telemetry import JudgeMetrics
from processors.agreement import Floor
from processors.redact import Redact
from processors.redact.policy import policies_of
from processors.redact.settings import RedactSettings
from processors.redact.texts import TextRedactor
from schemas.errors import Invalid, UsageError
from schemas.events import Redaction

CACHE = "scores.db"


def endpoint_of(config: Config) -> Endpoint:
    """The configured endpoint. Raises UsageError when there is none."""
    judge = config.judge
    if not judge.url:
        raise UsageError(
            "judge.url is not set: name an OpenAI-compatible endpoint, such as "
            "DRIFTWHEEL__JUDGE__URL=http://127.0.0.1:8000/v1, and the model it serves as DRIFTWHEEL__JUDGE__MODEL"
        )
    return Endpoint(
        EndpointSettings(
            judge.url, judge.model, judge.key.get_secret_value(), timeout=judge.timeout, attempts=judge.attempts,
            max_tokens=judge.max_tokens, json_mode=judge.json_mode, extra=judge.extra,
        )
    )  # fmt: skip


def budget_of(config: Config, clock: Callable[[], datetime]) -> Budget:
    """The configured budget."""
    return Budget(config.judge.calls_per_hour, config.judge.tokens_per_day, clock)


def judges_of(
    config: Config, endpoint: Endpoint, budget: Budget, *, secret: bytes = b"", cache: Cache | None = None
) -> list[Judge]:
    """A judge for each configured rubric. Raises UsageError for a rubric that cannot be read."""
    found = rubrics(config.judge.rubrics, config.judge.folder)
    return [Judge(rubric, endpoint, budget, secret=secret, cache=cache) for rubric in found]


def floor_of(config: Config) -> Floor:
    """The configured floor."""
    return Floor(**config.judge.floor.model_dump())


def rules_of(config: Config) -> JudgingRules:
    """What is chosen, and how much it counts."""
    judge = config.judge
    return JudgingRules(
        judge.share, judge.uncertain, judge.probe_share, judge.weight, judge.weight_unproven, floor=floor_of(config)
    )


class PolicyRedactor:
    """See ``driftwheel.judging.Redactor``: by the policy of each tenant, as the stage would."""

    def __init__(self, config: Config, key: bytes) -> None:
        self._settings: RedactSettings = stage_settings(Redact, config, key=key)
        self._policies = policies_of(self._settings)

    def cleaner(self, tenant: str, session: str) -> Clean:
        """See Redactor."""
        redactor = TextRedactor(self._settings, self._policies.of(tenant), tenant)

        def clean(text: str) -> str:
            (found,) = redactor.redact([(session, text)])
            return "" if isinstance(found, Invalid) else found.text

        return clean

    def envelope(self, tenant: str) -> Redaction:
        """See Redactor."""
        policy = self._policies.of(tenant)
        return Redaction(policy_version=policy.version, detector=policy.detector)


@contextmanager
def open_judging(
    config: Config, key: bytes, folder: Path, store: JudgeStore, log: Log, metrics: JudgeMetrics,
    clock: Callable[[], datetime],
) -> Generator[Judging]:  # fmt: skip
    """Judging as configured; without ``judge.url`` one that does nothing. ``folder`` holds the cache."""
    with ExitStack() as stack:
        judges: list[Judge] = []
        endpoint = endpoint_of(config) if config.judge.url else None
        if endpoint is not None:
            stack.callback(endpoint.close)
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            cache = FileCache(folder / CACHE, clock)
            stack.callback(cache.close)
            budget = budget_of(config, clock)
            for row in store.named("judge_spent", since=int(clock().timestamp()) - 86_400):
                budget.note(int(row["calls"]), int(row["tokens"]), row["time"])
            judges = judges_of(config, endpoint, budget, secret=key, cache=cache)
        made = Judging(judges, store, log, PolicyRedactor(config, key), clock, metrics, rules_of(config))
        if endpoint is not None:
            endpoint.wait = made.pause
        yield made

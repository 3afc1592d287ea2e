"""Invented values in place of real ones, for training data that has to read like language.

The same value has the same surrogate in one session, chosen by a keyed hash. Mail addresses are of ``.invalid`` and
phone numbers of the block that is kept for fiction, so that nobody is written to or called.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from schemas.errors import Refused


@cache
def _faker() -> Any:
    try:
        from faker import Faker  # noqa: PLC0415  # only who wants surrogates needs it
    except ImportError as error:
        raise Refused("surrogates need the package faker: pip install 'driftwheel[surrogates]'") from error
    return Faker("en_US")


def surrogate(entity: str, value: str, seed: int) -> str | None:
    """An invented value of this type, always the same for a seed; None for types that have none."""
    made = _MAKERS.get(entity)
    if made is None:
        return None
    faker = _faker()
    faker.seed_instance(seed)
    return made(faker, value)


def _person(faker: Any, value: str) -> str:
    return str(faker.name_nonbinary() if " " in value.strip() else faker.first_name())


_MAKERS: dict[str, Callable[[Any, str], str]] = {
    "PERSON": _person,
    "EMAIL_ADDRESS": lambda faker, _: f"{faker.user_name()}{faker.random_int(10, 99)}@surrogate.invalid",
    "PHONE_NUMBER": lambda faker, _: f"555-01{faker.random_int(0, 99):02d}",
    "ADDRESS": lambda faker, _: str(faker.street_address()),
    "LOCATION": lambda faker, _: str(faker.city()),
    "ORGANIZATION": lambda faker, _: str(faker.company()),
    "USERNAME": lambda faker, _: f"{faker.user_name()}_{faker.random_int(100, 999)}",
    "DATE_OF_BIRTH": lambda faker, _: str(faker.date_of_birth(minimum_age=18, maximum_age=90)),
}

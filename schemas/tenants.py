"""Names that stand where redaction has not been: tenants, also the product's own, and agents of the raw zone."""

from __future__ import annotations

import re

from schemas.errors import UsageError

UNKNOWN = "unknown"
TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""Names of tenants."""
TENANT_RULE = "must be 1 to 63 of a-z, 0-9 and '-', starting with a letter or digit"
_AGENT = re.compile(r"(?!(?:[^0-9]*[0-9]){7})[A-Za-z0-9][A-Za-z0-9._\-]{0,62}")
CANARY = "driftwheel-canary"
"""Who planted values belong to; ``driftwheel-canary.acme`` for those that go by acme's policy. A dot stands in no
tenant's name that the gateway takes, so that nobody else has such a name."""


def tenant_option(name: str) -> str:
    """A tenant's name from the command line. Raises UsageError for one that cannot be."""
    if not TENANT.fullmatch(name):
        raise UsageError(f"--tenant: {name!r} {TENANT_RULE}")
    return name


def is_canary(tenant: str) -> bool:
    """Whether records of a tenant are planted ones, of which nothing is learnt."""
    return tenant == CANARY or tenant.startswith(f"{CANARY}.")


def canary_of(tenant: str) -> str:
    """The canary that goes by a tenant's policy; '' is the default policy."""
    return f"{CANARY}.{tenant}" if tenant else CANARY


def policy_tenant(tenant: str) -> str:
    """Whose policy a tenant's records go by.

    >>> policy_tenant("acme"), policy_tenant("driftwheel-canary.acme"), policy_tenant("driftwheel-canary")
    ('acme', 'acme', 'driftwheel-canary')
    """
    return tenant.removeprefix(f"{CANARY}.") if is_canary(tenant) else tenant


def plain_agent(name: str) -> str:
    """An agent's name for ledger, letters and keys: as it is when it reads like one, else ``unknown``.

    What could be an address, a number or a sentence of somebody's does not read like one: at most 63 letters, digits,
    dots, dashes and underscores, with six digits at most.

    >>> plain_agent("support-desk_v2.1"), plain_agent("anna@example.com"), plain_agent("desk 5550132555")
    ('support-desk_v2.1', 'unknown', 'unknown')
    """
    return name if _AGENT.fullmatch(name) else UNKNOWN

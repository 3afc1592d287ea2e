"""Whose a raw message is.

The gateway says it in the message's headers. What others write to the raw topics themselves may name the tenant as a
request to the gateway would, or not at all: a signal's record names it too, and spans are the default tenant's.
"""

from __future__ import annotations

from dataclasses import replace

from processors.stage import Message
from schemas.errors import Invalid
from schemas.tenants import TENANT, TENANT_RULE, policy_tenant
from schemas.topics import SIGNALS_RAW

DEFAULT = "default"
_NAMES = ("tenant", "x-driftwheel-tenant")


def of_tenant(message: Message) -> Message:
    """The message with its tenant in its headers, if it is known. Raises Invalid for a name that cannot be."""
    named = next((message.headers[name] for name in _NAMES if name in message.headers), None)
    if named is None:
        return message if message.topic == SIGNALS_RAW.name else _with(message, {"tenant": DEFAULT})
    return _with(message, {"tenant": checked(named)})


def of_nobody(message: Message) -> Message:
    """The message without the tenant that its headers name."""
    return _with(message, {})


def checked(tenant: str) -> str:
    """A tenant's name, or its canary's. Raises Invalid for one that the gateway would not take."""
    if not TENANT.fullmatch(policy_tenant(tenant)):
        raise Invalid("invalid_tenant", f"tenant: {TENANT_RULE}")
    return tenant


def _with(message: Message, headers: dict[str, str]) -> Message:
    others = {name: value for name, value in message.headers.items() if name not in _NAMES}
    return replace(message, headers=others | headers)

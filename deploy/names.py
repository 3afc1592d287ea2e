"""Names of what is made on the platform: derived from content, so that a second try meets what the first one made."""

from __future__ import annotations

import re

_FOREIGN = re.compile(r"[^A-Za-z0-9._-]+")
_SHORT = 12
_LETTERS = str.maketrans("0123456789", "ghijklmnop")


def plain(agent: str) -> str:
    """An agent's name as platforms allow it.

    >>> plain("support router/2")
    'support-router-2'
    """
    return _FOREIGN.sub("-", agent).strip("-._")[:100] or "agent"


def group_name(tenant: str, agent: str) -> str:
    """The name under which an agent's models are asked: the agent's own, for other tenants than the default theirs too.

    >>> group_name("default", "support-router"), group_name("acme", "support-router")
    ('support-router', 'acme.support-router')
    """
    return plain(agent) if tenant == "default" else f"{plain(tenant)}.{plain(agent)}"


def dataset_name(group: str, dataset_id: str) -> str:
    """The dataset's name in the data store."""
    return f"{group}-{dataset_id[:_SHORT]}"


def model_name(namespace: str, group: str, dataset_id: str) -> str:
    """The model trained on a dataset. Its name tells the dataset, so that what it learnt can always be found."""
    return f"{namespace}/{group}@{dataset_id[:_SHORT]}"


def dataset_of(model: str) -> str:
    """The name in the data store of the dataset that a model was trained on; '' for a model from elsewhere.

    >>> dataset_of("driftwheel/support-router@0123456789ab")
    'support-router-0123456789ab'
    """
    group, at, short = model.rpartition("/")[2].rpartition("@")
    return f"{group}-{short}" if at else ""


def mark(release_id: str) -> str:
    """A release's id in letters alone: a run of digits in a text may be taken for a card number and masked.

    >>> mark("4111a")
    'khhha'
    """
    return release_id.translate(_LETTERS)

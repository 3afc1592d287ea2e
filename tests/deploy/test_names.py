"""Names are what platforms allow, and tell where a model came from."""

from __future__ import annotations

import pytest

from deploy.names import dataset_name, dataset_of, group_name, model_name, plain

ID = "0123456789abcdef0123"


@pytest.mark.parametrize("agent", ["support-router", "support router/2", "größe", "..", "a" * 300, "日本"])
def test_names_are_allowed(agent: str) -> None:
    import re

    group = group_name("acme corp", agent)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,190}", dataset_name(group, ID))
    assert re.fullmatch(r"[a-z]+/[A-Za-z0-9][A-Za-z0-9._@+-]{0,190}", model_name("ns", group, ID))
    assert plain(agent) == plain(agent)


def test_a_model_names_its_dataset() -> None:
    assert dataset_of(model_name("ns", "acme.desk", ID)) == dataset_name("acme.desk", ID)
    assert dataset_of("meta/llama-3.1-8b-instruct") == ""

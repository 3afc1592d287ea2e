"""Whether people whom a data set knows survive in the clean records of their conversations.

``python benchmarks/redact/known_users.py`` reads ``../shared/data/agent_trajectories``: every name, mail address,
street, zip, birth date, payment id and user id of the profile that a conversation is about, and that its text holds,
must be gone from the records that the redact stage's cleaner makes of it. A conversation is one trace; its texts and
tool arguments are cleaned together, as spans of one request.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from rich.console import Console
from rich.progress import track

from processors.redact import RedactSettings
from processors.redact.clean import Cleaner
from schemas.errors import Invalid
from schemas.events import Span
from tests.processors.redacting import drafts_of, packed_rows, texts_of

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "agent_trajectories"


def values_of(user: str, profile: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Kinds and values that identify a person."""
    name, place = profile.get("name") or {}, profile.get("address") or {}
    yield "user id", user
    yield "name", f"{name.get('first_name', '')} {name.get('last_name', '')}".strip()
    yield "mail address", profile.get("email") or ""
    yield "birth date", profile.get("dob") or profile.get("date_of_birth") or ""
    for part in ("address1", "address2", "zip"):
        yield ("zip" if part == "zip" else "street"), str(place.get(part) or "")
    methods = profile.get("payment_methods") or {}
    for payment in methods if isinstance(methods, dict) else ():
        yield "payment", str(payment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--conversations", type=int, default=100_000, help="of each file, at most")
    parser.add_argument("--show", action="store_true", help="print what survived")
    given = parser.parse_args()
    files = [path for path in sorted(given.data.glob("*.jsonl.gz")) if path.name != "known_user_profiles.jsonl.gz"]
    if not files:
        sys.exit(f"{given.data} is not there: this benchmark needs the shared data beside the repository")
    profiles = {row["user_id"]: row["profile"] for row in packed_rows(given.data / "known_user_profiles.jsonl.gz")}
    chosen = [
        row
        for path in files
        for n, row in enumerate(packed_rows(path))
        if n < given.conversations and row.get("messages")
    ]
    cleaner, there, gone, failed = Cleaner(RedactSettings()), Counter[str](), Counter[str](), 0
    for conversation in track(chosen, "conversations", console=Console(stderr=True), transient=True):
        raw = "\n".join(texts_of(conversation)).casefold()
        known = [(user, profile) for user, profile in profiles.items() if user.casefold() in raw]
        if not known:
            continue
        records = cleaner.clean(drafts_of(conversation))
        failed += sum(isinstance(one, Invalid) for one in records)
        clean = "\n".join(one.input for one in records if isinstance(one, Span)).casefold()
        for user, profile in known:
            for kind, value in values_of(user, profile):
                if len(value) > 2 and value.casefold() in raw:
                    there[kind] += 1
                    gone[kind] += value.casefold() not in clean
                    if given.show and value.casefold() in clean:
                        at = clean.index(value.casefold())
                        print(f"{kind}: {value!r} in {clean[max(0, at - 60) : at + 60]!r}")
    print(f"{len(chosen)} conversations, {failed} records that could not be proved clean\n")
    print("| | in conversations | gone | share |\n| --- | --- | --- | --- |")
    for kind, count in [*there.most_common(), ("all", there.total())]:
        found = gone.total() if kind == "all" else gone[kind]
        print(f"| {kind} | {count} | {found} | {found / max(1, count):.4f} |")


if __name__ == "__main__":
    main()

"""How much of annotated personal data is found, beside vanilla Presidio with the same model, in the same run.

``python benchmarks/redact/quality.py`` reads ``../shared/data/pii_presidio`` (``--data`` names another folder of
``*.jsonl.gz`` with ``text`` and ``spans``). Tokens are runs of letters and digits; a token is personal when a span
touches it, whatever the types. A span is covered when every token of it is found. ``--errors FILE`` writes down what
was missed or wrongly found.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from rich.console import Console
from rich.progress import track

from benchmarks.redact.peers import Span, analyzed, vanilla
from processors.redact.detect import Detector, Query
from processors.redact.mask import resolved
from processors.redact.settings import RedactSettings
from schemas.errors import Invalid
from tests.processors.redacting import packed_rows

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "pii_presidio"
TOKEN = re.compile(r"[^\W_]+")
THRESHOLD = 0.4
Finder = Callable[[Sequence[str]], list[list[Span]]]


@dataclass(slots=True)
class Score:
    """Counts over texts: tokens rightly and wrongly found or missed, and spans covered, by their type."""

    right: int = 0
    wrong: int = 0
    missed: int = 0
    spans: Counter[str] = field(default_factory=Counter[str])
    covered: Counter[str] = field(default_factory=Counter[str])
    errors: list[str] = field(default_factory=list[str])

    def add(self, text: str, gold: Sequence[Span], found: Sequence[Span]) -> None:
        """Count one text."""
        tokens = [match.span() for match in TOKEN.finditer(text)]
        hit, wanted = touched(tokens, found), touched(tokens, gold)
        self.right += len(wanted & hit)
        self.wrong += len(hit - wanted)
        self.missed += len(wanted - hit)
        for span in gold:
            self.spans[span.type] += 1
            if touched(tokens, [span]) <= hit:
                self.covered[span.type] += 1
            else:
                self.errors.append(f"missed {span.type}: {shown(text, span)}")
        false = [span for span in found if not any(one.start < span.end and span.start < one.end for one in gold)]
        self.errors += [f"wrong {span.type}: {shown(text, span)}" for span in false]

    def row(self, name: str, seconds: float) -> str:
        """A line of the table."""
        recall, precision = self.right / max(1, self.right + self.missed), self.right / max(1, self.right + self.wrong)
        covered = sum(self.covered.values()) / max(1, sum(self.spans.values()))
        return f"| {name} | {recall:.3f} | {precision:.3f} | {covered:.3f} | {seconds:.1f} |"


def touched(tokens: Sequence[tuple[int, int]], spans: Iterable[Span]) -> set[int]:
    """The numbers of the tokens that spans touch."""
    return {n for span in spans for n, (start, end) in enumerate(tokens) if start < span.end and end > span.start}


def shown(text: str, span: Span) -> str:
    """A span in its surroundings."""
    return f"{text[span.start : span.end]!r} in {text[max(0, span.start - 40) : span.end + 20]!r}"


def ours(texts: Sequence[str]) -> list[list[Span]]:
    """What the redact stage finds, as it comes."""
    found = Detector(RedactSettings()).find([Query(text) for text in texts])
    return [
        [] if isinstance(finds, Invalid) else [Span(*find) for find in resolved(text, finds)]
        for text, finds in zip(texts, found, strict=True)
    ]


def presidio(texts: Sequence[str]) -> list[list[Span]]:
    """What vanilla Presidio finds."""
    engine = vanilla()
    console = Console(stderr=True)
    return [analyzed(engine, text, THRESHOLD) for text in track(texts, "vanilla Presidio", console=console)]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The annotated texts of a folder."""
    files = sorted(folder.glob("*.jsonl.gz"))
    if not files:
        sys.exit(f"{folder}: no *.jsonl.gz there; --data names the folder")
    return [row for path in files for row in packed_rows(path)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--errors", type=Path, help="write what was missed or wrongly found here")
    parser.add_argument("--alone", action="store_true", help="without Presidio beside it")
    given = parser.parse_args()
    rows = rows_of(given.data)
    finders: dict[str, Finder] = {"driftwheel": ours} | ({} if given.alone else {"vanilla Presidio": presidio})
    scores: dict[str, Score] = {}
    print(f"{len(rows)} texts\n\n| | recall | precision | spans covered | CPU, s |\n| --- | --- | --- | --- | --- |")
    for name, find in finders.items():
        began = time.process_time()
        found = find([row["text"] for row in rows])
        took, score = time.process_time() - began, Score()
        for row, spans in zip(rows, found, strict=True):
            score.add(row["text"], [Span(one["start"], one["end"], one["type"]) for one in row["spans"]], spans)
        print(score.row(name, took), flush=True)
        scores[name] = score
    print(f"\n| type | spans | {' | '.join(scores)} |\n| --- | --- |{' --- |' * len(scores)}")
    for kind, count in scores["driftwheel"].spans.most_common():
        shares = " | ".join(f"{score.covered[kind] / count:.3f}" for score in scores.values())
        print(f"| {kind} | {count} | {shares} |")
    if given.errors:
        given.errors.write_text("\n".join(scores["driftwheel"].errors), encoding="utf-8")


if __name__ == "__main__":
    main()

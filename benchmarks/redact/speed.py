"""How fast personal data is found, beside vanilla Presidio on the same model and core, in the same run.

``python benchmarks/redact/speed.py`` measures CPU seconds of one thread on two loads from ``../shared/data``: unique
short texts (``pii_presidio``), and agents' spans that carry their whole history (``agent_trajectories``, the first
``--conversations`` of each file), where texts come again and again. Models are loaded before. "names" is spaCy's entity
recogniser alone on the unique texts: what any detector with this model has to spend. "whole stage" is not the detector
alone but all that ``redact`` does with such spans: OTLP and JSON read, texts masked, records checked and made.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import spacy
from rich.console import Console
from rich.progress import track

from benchmarks.redact.peers import MODEL, vanilla
from processors.redact.detect import Detector, Query
from processors.redact.parity import ParityDetector
from processors.redact.settings import RedactSettings
from processors.redact.stage import Redact
from schemas.errors import Invalid
from schemas.events import identity
from tests.processors.redacting import otlp, otlp_message, packed_rows

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data"
SPANS = 128
"""Spans that come together: a busy worker takes up to 500 at a time."""
NOT_NAMES = ["tok2vec", "tagger", "attribute_ruler", "lemmatizer", "parser", "senter"]
Span = list[str]
Finds = list[list[tuple[Any, ...]]]
Work = Callable[[Sequence[Span]], Finds]


def lines(folder: str) -> Iterator[dict[str, Any]]:
    """The rows of a data set, file by file."""
    paths = sorted(path for path in (DATA / folder).glob("*.jsonl.gz"))
    if not paths:
        sys.exit(f"{DATA / folder} is not there: this benchmark needs the shared data beside the repository")
    for path in paths:
        for row in packed_rows(path):
            yield row | {"file": path.name}


def conversations(count: int) -> list[Span]:
    """LLM calls as agents trace them: each with every message before it."""
    spans: list[Span] = []
    taken: dict[str, int] = {}
    for row in lines("agent_trajectories"):
        if not row.get("messages") or taken.get(row["file"], 0) >= count:
            continue
        taken[row["file"]] = taken.get(row["file"], 0) + 1
        texts = [message.get("content") or "" for message in row["messages"]]
        calls = [n for n, message in enumerate(row["messages"]) if message["role"] == "assistant"]
        spans += [[text for text in texts[: n + 1] if isinstance(text, str) and text] for n in calls]
    return spans


def presidio() -> Work:
    """Every text of every span, as it comes."""
    engine = vanilla()
    engine.analyze("warm", language="en")

    def work(spans: Sequence[Span]) -> Finds:
        texts = [text for span in spans for text in span]
        shown = track(texts, "vanilla Presidio", console=Console(stderr=True), transient=True)
        found = (engine.analyze(text, language="en") for text in shown)
        return [sorted((one.start, one.end, one.entity_type, one.score) for one in some) for some in found]

    return work


def batches(spans: Sequence[Span]) -> Iterator[list[str]]:
    """The texts of some spans at a time."""
    for first in range(0, len(spans), SPANS):
        yield [text for span in spans[first : first + SPANS] for text in span]


def parity() -> Work:
    """Presidio's findings, our way."""
    detector = ParityDetector(RedactSettings())
    return lambda spans: [[tuple(find) for find in some] for batch in batches(spans) for some in detector.find(batch)]


def ours() -> Work:
    """The stage's detector, with all of its rules."""
    detector = Detector(RedactSettings())

    def work(spans: Sequence[Span]) -> Finds:
        found = (one for batch in batches(spans) for one in detector.find([Query(text) for text in batch]))
        return [[] if isinstance(one, Invalid) else [tuple(find) for find in one] for one in found]

    return work


def names() -> Work:
    """The entity recogniser alone, each text once."""
    nlp = spacy.load(MODEL, exclude=NOT_NAMES)

    def work(spans: Sequence[Span]) -> Finds:
        unique = sorted({text for span in spans for text in span}, key=len)
        return [
            [(ent.start_char, ent.end_char, ent.label_) for ent in doc.ents] for doc in nlp.pipe(unique, batch_size=64)
        ]

    return work


def stage(spans: Sequence[Span]) -> Work:
    """All of the stage, on requests of one span each, whose messages are as the GenAI conventions have them."""
    requests = [
        otlp_message(
            otlp({
                "name": "chat",
                "trace": identity("trace", str(number // 10)),
                "span": identity("span", str(number))[:16],
                "attributes": {"gen_ai.operation.name": "chat", "gen_ai.input.messages": json.dumps(_messages(span))},
            }),
            number,
        )
        for number, span in enumerate(spans)
    ]  # fmt: skip
    redact = Redact(RedactSettings())

    def work(_: Sequence[Span]) -> Finds:
        for first in range(0, len(requests), SPANS):
            for told in redact.prepare(requests[first : first + SPANS]):
                if isinstance(told, Invalid):
                    sys.exit(f"a span was refused: {told.detail}")
        return []

    return work


def _messages(span: Span) -> list[dict[str, object]]:
    return [{"role": "user", "parts": [{"type": "text", "content": text}]} for text in span]


def timed(work: Work, spans: Sequence[Span]) -> tuple[float, Finds]:
    """CPU seconds of this process, and the result."""
    began = time.process_time()
    found = work(spans)
    return time.process_time() - began, found


def show(title: str, spans: Sequence[Span]) -> None:
    """One load, all detectors."""
    size = sum(len(text) for span in spans for text in span) / 1e6
    unique = sum(len(text) for text in {text for span in spans for text in span}) / 1e6
    print(f"\n{title}: {len(spans)} spans, {size:.2f} MB, of which {unique:.2f} MB unique\n", flush=True)
    makers: dict[str, Callable[[], Work]] = {
        "vanilla Presidio": presidio, "parity": parity, "driftwheel": ours, "whole stage": lambda: stage(spans),
        "names": names,
    }  # fmt: skip
    told = {name: timed(make(), spans) for name, make in makers.items()}
    (slow, wanted), floor = told["vanilla Presidio"], told["names"][0]
    same = sum(one == other for one, other in zip(told["parity"][1], wanted, strict=True))
    print("| | CPU, s | times as fast | beside names | finds the same |\n| --- | --- | --- | --- | --- |")
    for name, (seconds, _) in told.items():
        told_same = f"{same} of {len(wanted)} texts" if name == "parity" else ""
        print(f"| {name} | {seconds:.2f} | {slow / seconds:.1f} | {seconds / floor:.2f} | {told_same} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=100_000, help="how many short texts at most")
    parser.add_argument("--conversations", type=int, default=2, help="of each file of agent_trajectories")
    given = parser.parse_args()
    show("Unique short texts", [[row["text"]] for row in lines("pii_presidio")][: given.texts])
    show("Agents' spans with their history", conversations(given.conversations))


if __name__ == "__main__":
    main()

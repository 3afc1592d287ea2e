"""An OpenAI-compatible server on this machine whose judgement, and its biases, are known.

``Honest`` knows which answers are right, as it is told; the others are as it is, with one fault each.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from processors.text import chance, words

KEY = "sk-planted-key-4711"
Mind = Callable[[str, dict[str, Any]], str]
"""What a model answers to a rubric's name and the material."""


@dataclass
class Server:
    """``answers`` come before the mind's, one a request: a status, headers and a body (None: the mind's own)."""

    mind: Mind
    url: str = ""
    answers: list[tuple[int, dict[str, str], str | None]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, str], str]:
        self.requests.append(body)
        status, headers, text = self.answers.pop(0) if self.answers else (200, {}, None)
        return status, headers, chat(said(self.mind, body)) if text is None else text


def chat(content: str | None, tokens: int = 120) -> str:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": {"total_tokens": tokens}})


def said(mind: Mind, body: Mapping[str, Any]) -> str:
    text = body["messages"][-1]["content"]
    name = text.split("\n", 1)[0].removeprefix("RUBRIC ")
    return mind(name, json.loads(text.split("\nMATERIAL\n", 1)[1]))


@contextmanager
def serving(mind: Mind) -> Generator[Server]:
    server = Server(mind)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            server.keys.append(self.headers.get("authorization", ""))
            server.paths.append(self.path)
            status, headers, text = server.answer(body)
            content = text.encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *words: Any) -> None:
            """Quiet."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


# Minds. Material has "candidate_1" and "candidate_2" in comparisons.


def verdict(score: float | None, rationale: str = "it follows from the material") -> str:
    return json.dumps({"score": score, "rationale": rationale})


def choice(winner: int) -> str:
    return json.dumps({"winner": winner, "rationale": "it says more of what was asked"})


def _worth(text: str) -> int:
    """How much a text says: its different words, without those that only say that something was said."""
    empty = set(words(
        "to put it another way, the above is what there is to say about this, and it has been said above. As was "
        "mentioned, this is the answer to what was asked, and it answers it. It is worth repeating that the points "
        "above are the points that were made. In summary, the foregoing covers what was covered in the foregoing."
    ))  # fmt: skip
    return len(set(words(text)) - empty)


def honest(right: Callable[[str, str], bool] = lambda question, answer: True) -> Mind:
    """Scores by the truth; prefers what says more, whatever its place and its length."""

    def mind(name: str, material: dict[str, Any]) -> str:
        if "candidate_1" in material:
            one, two = _worth(material["candidate_1"]), _worth(material["candidate_2"])
            return choice(0 if one == two else 1 if one > two else 2)
        answer = material.get("answer", "".join(material.get("documents", ())))
        return verdict(0.9 if right(material["question"], answer) else 0.1)

    return mind


def first_wins(name: str, material: dict[str, Any]) -> str:
    return choice(1) if "candidate_1" in material else honest()(name, material)


def longer_wins(name: str, material: dict[str, Any]) -> str:
    if "candidate_1" not in material:
        return honest()(name, material)
    return choice(1 if len(material["candidate_1"]) > len(material["candidate_2"]) else 2)


def noise(share: float, seed: str = "noise") -> Mind:
    """Honest but for a share of its answers, which say anything."""

    def mind(name: str, material: dict[str, Any]) -> str:
        text = json.dumps(material, sort_keys=True)
        if chance(seed, text) >= share:
            return honest()(name, material)
        coin = chance(seed, "coin", text)
        return choice(1 + (coin < 0.5)) if "candidate_1" in material else verdict(float(coin < 0.5))

    return mind


def rambling(name: str, material: dict[str, Any]) -> str:
    return "I would rate this answer 9 out of 10, because it is helpful."

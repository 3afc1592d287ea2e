"""Models and chat completions: the completion is one label, its log-probability the model's own.

Requests that arrive while a batch is being embedded form the next batch. The last texts' vectors are remembered
by digest. Nothing of a request is logged or stored.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.embeddings import Array, Embedder
from deploy.local_nemo.classifier import Head, load_head, zero_shot
from deploy.local_nemo.entities import deleted, target_labels
from deploy.local_nemo.rollout import Rollout, Turn
from deploy.local_nemo.rows import question
from deploy.local_nemo.storage import Store
from deploy.local_nemo.wire import Body, Doc, Problem, field_problem, listing, new_id, parse, require

BATCH = 32


class ChatBody(Body):
    """``POST /v1/chat/completions``; sampling settings are accepted and change nothing: there is no sampling."""

    model: str
    messages: list[dict[str, Any]] = Field(min_length=1)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=1000)
    n: int = Field(default=1, ge=1, le=1)
    stream: bool = False
    user: str | None = Field(default=None, max_length=512)
    metadata: dict[str, Any] | None = None


@dataclass(frozen=True)
class Answer:
    """Labels by falling log-probability."""

    labels: list[str]
    log_probs: list[float]


def answer(head: Head, row: Array) -> Answer:
    """What a model says to one vector."""
    values = head.log_probs(row[None, :])[0]
    order = (-values).argsort(kind="stable")
    return Answer([head.labels[i] for i in order], [float(values[i]) for i in order])


class Models:
    """Every model by name: base models are the targets that have labels, trained models lie in files."""

    def __init__(self, store: Store, embedder: Embedder, folder: Path) -> None:
        self._store = store
        self._embedder = embedder
        self._folder = folder
        self._heads: dict[tuple[str, str], Head] = {}

    def head(self, name: str) -> Head:
        """The model, or 404; 422 for a base model without labels; 409 when it was trained on other vectors."""
        if trained := self._store.get("model", name):
            return self._trained(name, trained)
        target = require(self._store.get("target", name), f"Model {name}")
        labels = target_labels(target)
        if not labels:
            raise Problem(422, f"Model {name} has no labels yet: set custom_fields.labels of its target, or train it")
        key = (name, target["updated_at"])
        if key not in self._heads:
            self._heads[key] = zero_shot(labels, self._embedder)
        return self._heads[key]

    def _trained(self, name: str, model: Doc) -> Head:
        key = (name, model["custom_fields"]["sha256"])
        if key not in self._heads:
            self._heads[key] = load_head(self._folder / model["custom_fields"]["file"])
        head = self._heads[key]
        if head.embedder != self._embedder.name:
            raise Problem(
                409, f"Model {name} is for {head.embedder}, this server runs {self._embedder.name}: train it again"
            )
        return head

    def docs(self) -> dict[str, Doc]:
        """Every model that can answer, as both NeMo's entity store and the OpenAI API show it."""
        bases = {key: base_model(key, doc) for key, doc in self._store.all("target").items() if target_labels(doc)}
        return {key: openai(key, doc) for key, doc in {**bases, **self._store.all("model")}.items()}

    def remove(self, name: str) -> None:
        """Delete a trained model with its file."""
        model = require(self._store.get("model", name), f"Model {name}")
        self._store.delete("model", name)
        (self._folder / model["custom_fields"]["file"]).unlink(missing_ok=True)
        self._heads = {key: head for key, head in self._heads.items() if key[0] != name}


def base_model(key: str, target: Doc) -> Doc:
    """A target seen as a model."""
    namespace, _, name = key.partition("/")
    times = {"created_at": target["created_at"], "updated_at": target["updated_at"]}
    return {"name": name, "namespace": namespace, "custom_fields": target.get("custom_fields"), **times}


def openai(key: str, model: Doc) -> Doc:
    """A model with the fields of OpenAI's list."""
    return {**model, "id": key, "object": "model", "created": 0, "owned_by": model["namespace"]}


class Batcher:
    """Embeds what several requests ask for at the same time together."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._waiting: list[tuple[str, asyncio.Future[Array]]] = []
        self._task: asyncio.Task[None] | None = None

    async def embed(self, text: str) -> Array:
        """One text's vector."""
        future: asyncio.Future[Array] = asyncio.get_running_loop().create_future()
        self._waiting.append((text, future))
        if self._task is None:
            self._task = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                rows = await run_in_threadpool(self._embedder.embed, [text for text, _ in batch])
                for (_, future), row in zip(batch, rows, strict=True):
                    if not future.done():
                        future.set_result(row)
        finally:
            self._task = None


class Serving:
    """The routes of models and completions."""

    def __init__(self, models: Models, batcher: Batcher, rollout: Rollout, store: Store) -> None:
        self._models = models
        self._batcher = batcher
        self._rollout = rollout
        self._store = store

    def routes(self) -> list[Route]:
        """All routes of serving."""
        one = "/v1/models/{namespace}/{name}"
        return [
            Route("/v1/models", self.list),
            Route(one, self.get, methods=["GET"]),
            Route(one, self.delete, methods=["DELETE"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
        ]

    async def list(self, request: Request) -> Response:
        """One page of models; OpenAI clients read the same."""
        return listing(request, [*self._models.docs().values()])

    async def get(self, request: Request) -> Response:
        """One model."""
        name = f"{request.path_params['namespace']}/{request.path_params['name']}"
        return JSONResponse(require(self._models.docs().get(name), f"Model {name}"))

    async def delete(self, request: Request) -> Response:
        """A trained model; 409 while a group or a deployment uses it."""
        name = f"{request.path_params['namespace']}/{request.path_params['name']}"
        self.check_unused(name)
        self._models.remove(name)
        return deleted(name, f"Model {name} deleted")

    def check_unused(self, name: str) -> None:
        """409 while somebody counts on this model."""
        groups = [key for key, doc in self._store.all("group").items() if name in {doc["live"], doc["candidate"]}]
        deployments = [key for key, doc in self._store.all("deployment").items() if doc["config"]["model"] == name]
        if groups or deployments:
            raise Problem(409, f"Model {name} is in use by {', '.join(groups + deployments)}")

    async def chat(self, request: Request) -> Response:
        """One completion; a group's name as model is resolved to one of its models, by session."""
        body = await parse(request, ChatBody)
        text = question(body.messages)
        if text is None:
            raise field_problem(("messages",), "needs a message of role user with text")
        if body.stream:
            raise field_problem(("stream",), "a completion is one token here: streaming is not offered")
        number = new_id("chatcmpl")
        turn = Turn(number, session(request, body), str((body.metadata or {}).get("turn_id") or "") or None)
        model = self._rollout.resolve(body.model, turn)
        head = self._models.head(model)
        row = await self._batcher.embed(text)
        said = answer(head, row)
        self._rollout.served(body.model, model, turn, (said.labels[0], said.log_probs[0]), row)
        usage = {"prompt_tokens": len(text.split()), "completion_tokens": 1, "total_tokens": len(text.split()) + 1}
        fields = {"id": number, "object": "chat.completion", "created": int(time.time()), "model": model}
        return JSONResponse({**fields, "choices": [choice(said, body)], "usage": usage})


def session(request: Request, body: ChatBody) -> str | None:
    """The session a request belongs to: the most particular name it gives."""
    named = (body.metadata or {}).get("session_id") or request.headers.get("x-session-id") or body.user
    return str(named)[:512] if named else None


def choice(said: Answer, body: ChatBody) -> Doc:
    """The one choice of a completion."""
    tokens = [
        {"token": label, "logprob": value, "bytes": list(label.encode())}
        for label, value in zip(said.labels, said.log_probs, strict=True)
    ]
    logprobs = {"content": [{**tokens[0], "top_logprobs": tokens[: body.top_logprobs]}]} if body.logprobs else None
    message = {"role": "assistant", "content": said.labels[0]}
    return {"index": 0, "message": message, "finish_reason": "stop", "logprobs": logprobs}

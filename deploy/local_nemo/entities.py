"""Named things that are created, listed, changed and deleted: one class, one line of settings for each kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deploy.local_nemo.settings import BASE
from deploy.local_nemo.storage import Store
from deploy.local_nemo.wire import NAME, Body, Doc, Problem, check, field_problem, listing, new_id, now, parse, require

Name = Annotated[str, StringConstraints(pattern=NAME)]
TrainingType = Literal["sft"]
FinetuningType = Literal["lora", "lora_merged"]


class NamespaceBody(Body):
    """``/v1/namespaces``."""

    id: Name


class NamedBody(Body):
    """What every entity in a namespace has."""

    name: Name | None = None
    namespace: Name = "default"
    description: str | None = None
    custom_fields: dict[str, Any] | None = None


class DatasetBody(NamedBody):
    """``/v1/datasets``."""

    files_url: str = Field(pattern=r"^hf://(datasets/)?[^/]+/[^/]+")


class TargetBody(NamedBody):
    """``/v1/customization/targets``; ``custom_fields.labels`` maps each label to its description."""

    num_parameters: int = Field(default=0, ge=0)
    precision: str = "fp32"
    enabled: bool = True


class TrainingOption(Body):
    """One way of training; what is not offered is refused by name."""

    training_type: TrainingType
    finetuning_type: FinetuningType
    num_gpus: int = Field(default=0, ge=0)
    micro_batch_size: int = Field(default=1, ge=1)


class ConfigBody(NamedBody):
    """``/v1/customization/configs``."""

    target: str
    max_seq_length: int = Field(default=128, ge=1)
    training_options: list[TrainingOption] = Field(min_length=1)


class DeploymentConfig(Body):
    """The part of a deployment config that matters here: the model."""

    model: str


class DeploymentBody(NamedBody):
    """``/v1/deployment/model-deployments``."""

    config: DeploymentConfig


@dataclass(frozen=True)
class Kind:
    """One kind of entity. ``complete`` fills in what the server knows, or refuses; ``release`` may forbid deletion."""

    kind: str
    title: str
    path: str
    body: type[Body]
    complete: Callable[[Doc, Request], None] = lambda _doc, _request: None
    release: Callable[[str], None] = lambda _key: None
    flat: bool = False


class Collection:
    """The five routes of one kind."""

    def __init__(self, store: Store, kind: Kind) -> None:
        self._store = store
        self._kind = kind

    def routes(self) -> list[Route]:
        """POST and GET on the path; GET, PATCH and DELETE on one entity."""
        one = f"{self._kind.path}/{{name}}" if self._kind.flat else f"{self._kind.path}/{{namespace}}/{{name}}"
        return [
            Route(self._kind.path, self.create, methods=["POST"]),
            Route(self._kind.path, self.list, methods=["GET"]),
            Route(one, self.get, methods=["GET"]),
            Route(one, self.update, methods=["PATCH"]),
            Route(one, self.delete, methods=["DELETE"]),
        ]

    async def create(self, request: Request) -> Response:
        """201-less on purpose: NeMo answers 200. 409 when the name is taken."""
        body = await parse(request, self._kind.body)
        doc = {**body.model_dump(exclude_none=True), "created_at": now(), "updated_at": now()}
        doc.setdefault("id", new_id(self._kind.kind))
        if not self._kind.flat:
            doc.setdefault("name", doc["id"])
        self._kind.complete(doc, request)
        key = doc["id"] if self._kind.flat else f"{doc['namespace']}/{doc['name']}"
        if not self._store.add(self._kind.kind, key, doc):
            raise Problem(409, f"{self._kind.title} {key} already exists")
        return JSONResponse(doc)

    async def list(self, request: Request) -> Response:
        """One page."""
        return listing(request, [*self._store.all(self._kind.kind).values()])

    async def get(self, request: Request) -> Response:
        """One entity, or 404."""
        key = self._key(request)
        return JSONResponse(require(self._store.get(self._kind.kind, key), f"{self._kind.title} {key}"))

    async def update(self, request: Request) -> Response:
        """Top-level fields are replaced; the outcome must be as valid as a new one; names never change."""
        key = self._key(request)
        old = require(self._store.get(self._kind.kind, key), f"{self._kind.title} {key}")
        changes = (await parse(request, Body)).model_dump(exclude_none=True)
        fixed = {name: old[name] for name in ("id", "name", "namespace", "created_at") if name in old}
        doc = {**old, **changes, **fixed, "updated_at": now()}
        validate(self._kind.body, doc)
        self._kind.complete(doc, request)
        self._store.put(self._kind.kind, key, doc)
        return JSONResponse(doc)

    async def delete(self, request: Request) -> Response:
        """One entity, or 404; 409 while something depends on it."""
        key = self._key(request)
        doc = require(self._store.get(self._kind.kind, key), f"{self._kind.title} {key}")
        self._kind.release(key)
        self._store.delete(self._kind.kind, key)
        return deleted(doc["id"], f"{self._kind.title} {key} deleted")

    def _key(self, request: Request) -> str:
        params = request.path_params
        return params["name"] if self._kind.flat else f"{params['namespace']}/{params['name']}"


def deleted(number: str, message: str) -> JSONResponse:
    """The answer to a deletion."""
    return JSONResponse({"id": number, "deleted_at": now(), "message": message})


def target_labels(target: Doc) -> dict[str, str]:
    """The labels of a target with their descriptions; 422 when they are not strings."""
    labels = (target.get("custom_fields") or {}).get("labels", {})
    if not isinstance(labels, dict) or not all(isinstance(v, str) and k for k, v in labels.items()):
        raise field_problem(("custom_fields", "labels"), "must map each label to its description, both strings")
    return dict(labels)


def complete_target(doc: Doc, _: Request) -> None:
    """A target is ready at once: there is nothing to download."""
    target_labels(doc)
    doc["model_path"] = doc.get("model_path", "all-minilm-l6-v2")
    doc["status"] = "ready" if doc["enabled"] else "created"


def base_entities(store: Store, labels: dict[str, str]) -> None:
    """The target and config that are there from the start; the labels may change from start to start."""
    namespace, _, name = BASE.partition("/")
    common = {"name": name, "namespace": namespace, "created_at": now(), "updated_at": now()}
    target = {**common, "id": "target-local", "num_parameters": 22_713_216, "precision": "fp32", "enabled": True}
    target |= {"model_path": "all-minilm-l6-v2", "status": "ready", "custom_fields": {"labels": labels}}
    option = {"training_type": "sft", "finetuning_type": "lora", "num_gpus": 0, "micro_batch_size": 1}
    config = {**common, "id": "config-local", "target": BASE, "max_seq_length": 128, "training_options": [option]}
    store.add("target", BASE, target)
    if labels:
        store.put("target", BASE, target)
    store.add("config", BASE, config)


def validate(model: type[Body], doc: Doc) -> None:
    """422 unless the document, as it would be stored, is valid."""
    check(model, json.dumps(doc).encode())

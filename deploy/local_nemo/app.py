"""Puts the parts together: one Starlette application, one lifespan."""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import AsyncGenerator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from connectors.embeddings import Array, Cached, load_embedder
from deploy.local_nemo.customizer import Customizer
from deploy.local_nemo.datastore import DataStore
from deploy.local_nemo.entities import (
    Collection,
    ConfigBody,
    DatasetBody,
    DeploymentBody,
    Kind,
    NamespaceBody,
    TargetBody,
    base_entities,
    complete_target,
)
from deploy.local_nemo.evaluator import Evaluator
from deploy.local_nemo.rollout import Rollout, Said
from deploy.local_nemo.serving import Batcher, Models, Serving, answer
from deploy.local_nemo.settings import BASE, Settings
from deploy.local_nemo.storage import Blobs, Store
from deploy.local_nemo.wire import Doc, Problem, answer_problem, require

HEALTH = ("/health", "/v1/health/live", "/v1/health/ready")


def create_app(settings: Settings) -> Starlette:
    """The whole service on ``settings.data_dir``, which one server at a time may use.

    Loads the embedding model; raises ``Refused`` when its files are not there. Jobs run while the lifespan does.
    """
    embedder = Cached(load_embedder(settings.model_folder), settings.cache_size)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    store = Store(settings.data_dir / "local_nemo.sqlite")
    blobs = Blobs(settings.data_dir / "blobs")
    base_entities(store, dict(settings.labels))
    data = DataStore(settings, store, blobs)
    models = Models(store, embedder, settings.data_dir / "models")

    def ask(name: str, row: Array) -> Said:
        said = answer(models.head(name), row)
        return said.labels[0], said.log_probs[0]

    rollout = Rollout(store, ask, lambda name: name in models.docs(), settings.shadow_queue, settings.pairs_kept)
    serving = Serving(models, Batcher(embedder), rollout, store)
    customizer = Customizer(settings, store, blobs, data)
    evaluator = Evaluator(settings, store, data, models, embedder)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        for part in (customizer, evaluator, rollout.shadow):
            part.start()
        yield
        for part in (rollout.shadow, evaluator, customizer):
            part.stop()
        store.close()

    parts = (data, customizer, evaluator, rollout, serving)
    routes = [route for part in parts for route in part.routes()]
    routes += [route for kind in kinds(store, models, serving) for route in Collection(store, kind).routes()]
    routes += [Route(path, health) for path in HEALTH]
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(Bearer, token=settings.token)] if settings.token else [],
        exception_handlers={Problem: answer_problem, HTTPException: answer_http},
    )


def kinds(store: Store, models: Models, serving: Serving) -> list[Kind]:
    """Every kind of named entity."""

    def complete_config(doc: Doc, _: Request) -> None:
        require(store.get("target", doc["target"]), f"Customization target {doc['target']}")

    def complete_deployment(doc: Doc, request: Request) -> None:
        models.head(doc["config"]["model"])
        status = {"status": "ready", "description": "served by this process, like every model"}
        doc.update(url=str(request.base_url), deployed=True, status_details=status)

    def release_target(key: str) -> None:
        if key == BASE:
            raise Problem(409, f"Target {BASE} is always there")
        serving.check_unused(key)

    customization, deployment = "/v1/customization", "/v1/deployment"
    return [
        Kind("namespace", "Namespace", "/v1/namespaces", NamespaceBody, flat=True),
        Kind("dataset", "Dataset", "/v1/datasets", DatasetBody),
        Kind("target", "Customization target", f"{customization}/targets", TargetBody, complete_target, release_target),
        Kind("config", "Customization config", f"{customization}/configs", ConfigBody, complete_config),
        Kind("deployment", "Model deployment", f"{deployment}/model-deployments", DeploymentBody, complete_deployment),
    ]


async def health(_: Request) -> Response:
    """Ready as soon as it answers: the model is loaded before the port opens."""
    return JSONResponse({"status": "ready"})


async def answer_http(_: Request, error: Exception) -> Response:
    """Unknown paths and methods, in NeMo's form."""
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"detail": error.detail}, error.status_code)


class Bearer:
    """401 unless the token is right. Health checks and signed uploads need none."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look at the header, then pass on."""
        if scope["type"] == "http" and not self._allowed(scope):
            answer = JSONResponse({"detail": "a valid bearer token is needed"}, 401, {"WWW-Authenticate": "Bearer"})
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _allowed(self, scope: Scope) -> bool:
        path, headers = scope["path"], dict(scope["headers"])
        free = path in HEALTH or (path.startswith("/v1/lfs/") and scope["method"] == "PUT")
        return free or hmac.compare_digest(headers.get(b"authorization", b""), self._expected)

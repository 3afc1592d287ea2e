"""The data store: the calls of Hugging Face's hub that upload, list, read and delete dataset files.

A file arrives inside the commit (small) or before it by Git LFS (large); the server decides which in
``preupload``. An upload is checked against its announced sha256. The place for it is signed, because hub
clients send no credentials there.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from deploy.local_nemo.settings import Settings
from deploy.local_nemo.storage import Blobs, Store
from deploy.local_nemo.wire import Doc, Problem, check, now, number, parse, read_body, require

HF = "/v1/hf"
REPO = "/{namespace}/{name}"
LFS_TYPE = "application/vnd.git-lfs+json"
COMMIT_PAGE = "https://huggingface.co/datasets"
"""Hub clients up to 0.36 parse the commit's address and know this host only; nothing is sent there."""


class RepoBody(BaseModel):
    """``repos/create`` and ``repos/delete``."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+/-]{0,190}$")
    organization: str | None = None
    type: str = "dataset"

    def key(self) -> str:
        """``namespace/name``, whichever way it was said."""
        return self.name if "/" in self.name else f"{self.organization or 'default'}/{self.name}"


class UploadFile(BaseModel):
    """One file that a client is about to upload."""

    path: str
    size: int = 0


class PreuploadBody(BaseModel):
    """``preupload``."""

    files: list[UploadFile]


class LfsObject(BaseModel):
    """One object of an LFS batch."""

    oid: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class LfsBody(BaseModel):
    """``info/lfs/objects/batch``."""

    operation: str = "upload"
    objects: list[LfsObject]


class FileValue(BaseModel):
    """A file inside a commit: content (base64), or the sha256 of an object that LFS brought."""

    path: str
    content: str | None = None
    oid: str | None = None


class CommitLine(BaseModel):
    """One line of a commit."""

    key: str
    value: dict[str, Any]


class DataStore:
    """The routes, and ``files`` for the parts of the server that read datasets."""

    def __init__(self, settings: Settings, store: Store, blobs: Blobs) -> None:
        self._settings = settings
        self._store = store
        self._blobs = blobs
        self._key = secrets.token_bytes(32)
        blobs.sweep(self._used())

    def routes(self) -> list[Route]:
        """All routes of the data store."""
        api = f"{HF}/api/datasets{REPO}"
        files = f"{HF}/datasets{REPO}"
        return [
            Route("/v1/datastore/namespaces", self.create_namespace, methods=["POST"]),
            Route(f"{HF}/api/repos/create", self.create_repo, methods=["POST"]),
            Route(f"{HF}/api/repos/delete", self.delete_repo, methods=["DELETE"]),
            Route(f"{api}/preupload/{{revision}}", self.preupload, methods=["POST"]),
            Route(f"{api}/commit/{{revision}}", self.commit, methods=["POST"]),
            Route(f"{api}/tree/{{revision}}", self.tree),
            Route(f"{api}/tree/{{revision}}/{{path:path}}", self.tree),
            Route(f"{api}/revision/{{revision}}", self.info),
            Route(api, self.info),
            Route(f"{files}.git/info/lfs/objects/batch", self.lfs_batch, methods=["POST"]),
            Route(f"{files}/resolve/{{revision}}/{{path:path}}", self.resolve),
            Route("/v1/lfs/{oid}", self.lfs_put, methods=["PUT"]),
        ]

    def files(self, files_url: str, default: str) -> dict[str, str]:
        """Path to sha256 of the ``.jsonl`` files under ``hf://datasets/namespace/name[/path]``.

        ``default`` is the folder meant when the address names none. Raises 404 for an unknown repository.
        """
        namespace, _, rest = files_url.removeprefix("hf://").removeprefix("datasets/").partition("/")
        name, _, path = rest.partition("/")
        repo = require(self._store.get("repo", f"{namespace}/{name}"), f"Repository of {files_url}")
        wanted = path.rstrip("/") or default
        found = {p: f["oid"] for p, f in sorted(repo["files"].items()) if p.endswith(".jsonl")}
        return {p: oid for p, oid in found.items() if p == wanted or p.startswith(f"{wanted}/")}

    def read(self, oid: str) -> bytes:
        """The content of one file."""
        return self._blobs.path(oid).read_bytes()

    def _used(self) -> set[str]:
        return {f["oid"] for repo in self._store.all("repo").values() for f in repo["files"].values()}

    def _forget(self, files: Doc) -> None:
        """Remove those of these files' contents that no repository names any more."""
        for oid in {f["oid"] for f in files.values()} - self._used():
            self._blobs.drop(oid)

    async def create_namespace(self, request: Request) -> Response:
        """``POST /v1/datastore/namespaces``: a form, not JSON."""
        form = parse_qs((await read_body(request, 4096)).decode("utf-8", "replace"))
        name = (form.get("namespace") or [""])[0]
        if not name:
            raise Problem(422, "the form field 'namespace' is missing")
        if not self._store.add("datastore namespace", name, {"created_at": now()}):
            raise Problem(409, f"Namespace {name} already exists")
        return JSONResponse({"namespace": name}, 201)

    async def create_repo(self, request: Request) -> Response:
        """``POST /repos/create``."""
        body = await parse(request, RepoBody)
        if body.type != "dataset":
            raise Problem(422, [{"loc": ["body", "type"], "msg": "only dataset is kept here", "type": "value_error"}])
        url = f"{str(request.base_url).rstrip('/')}{HF}/datasets/{body.key()}"
        if not self._store.add("repo", body.key(), {"files": {}, "created_at": now(), "updated_at": now()}):
            return JSONResponse({"error": f"{body.key()} exists", "detail": f"{body.key()} exists", "url": url}, 409)
        return JSONResponse({"url": url, "name": body.key(), "id": body.key()})

    async def delete_repo(self, request: Request) -> Response:
        """``DELETE /repos/delete``: the files' contents go too."""
        body = await parse(request, RepoBody)
        repo = require(self._store.get("repo", body.key()), f"Repository {body.key()}")
        self._store.delete("repo", body.key())
        self._forget(repo["files"])
        return JSONResponse({})

    async def preupload(self, request: Request) -> Response:
        """Which way each file should come."""
        self._repo(request)
        body = await parse(request, PreuploadBody)
        modes = ["lfs" if file.size > self._settings.lfs_threshold else "regular" for file in body.files]
        ways = [
            {"path": file.path, "uploadMode": mode, "shouldIgnore": False, "oid": None}
            for file, mode in zip(body.files, modes, strict=True)
        ]
        return JSONResponse({"files": ways})

    async def lfs_batch(self, request: Request) -> Response:
        """Where to upload large objects to; objects that are here already need no upload."""
        self._repo(request)
        body = check(LfsBody, await read_body(request, self._settings.max_body))
        if body.operation != "upload":
            raise Problem(422, "only the LFS operation upload is kept here; read files by /resolve/")
        objects = [self._lfs_object(request, item) for item in body.objects]
        return JSONResponse({"transfer": "basic", "objects": objects}, media_type=LFS_TYPE)

    def _lfs_object(self, request: Request, item: LfsObject) -> Doc:
        answer: Doc = {"oid": item.oid, "size": item.size, "authenticated": True}
        if not self._blobs.path(item.oid).exists():
            href = f"{request.base_url}v1/lfs/{item.oid}?size={item.size}&sig={self._sign(item.oid, item.size)}"
            answer["actions"] = {"upload": {"href": href, "header": {}}}
        return answer

    def _sign(self, oid: str, size: int) -> str:
        return hmac.new(self._key, f"{oid}:{size}".encode(), hashlib.sha256).hexdigest()

    async def lfs_put(self, request: Request) -> Response:
        """The upload itself: signed, at most as long as announced, and of the announced sha256."""
        oid, size = request.path_params["oid"], number(request, "size", 0, self._settings.max_file, least=0)
        if not hmac.compare_digest(self._sign(oid, size), request.query_params.get("sig", "")):
            raise Problem(403, "this upload address was not given out by this server; ask for a new LFS batch")
        await self._blobs.receive(request.stream(), oid, size)
        return Response()

    async def commit(self, request: Request) -> Response:
        """Add and delete files, all or nothing."""
        key = self._repo(request)[0]
        lines = commit_lines(await read_body(request, self._settings.max_body))
        changes = {path: value for line in lines for path, value in self._change(line)}

        before: Doc = {}

        def edit(repo: Doc) -> None:
            before.update(repo["files"])
            files = {**before, **changes}
            repo["files"] = {path: value for path, value in files.items() if value is not None}
            repo["updated_at"] = now()

        repo = require(self._store.change("repo", key, edit), f"Repository {key}")
        self._forget(before)
        oid = revision(repo)
        address = f"{COMMIT_PAGE}/{key}/commit/{oid}"
        return JSONResponse(
            {"success": True, "commitOid": oid, "commitUrl": address, "hookOutput": "", "pullRequestUrl": None}
        )

    def _change(self, line: CommitLine) -> Iterator[tuple[str, Doc | None]]:
        """Path and new content of one line; None deletes."""
        if line.key == "header":
            return
        value = check(FileValue, json.dumps(line.value).encode())
        path = safe(value.path)
        if line.key == "deletedFile":
            yield path, None
        elif line.key in {"file", "lfsFile"}:
            oid = self._content(value)
            yield path, {"oid": oid, "size": self._blobs.path(oid).stat().st_size}
        else:
            raise Problem(422, f"commit lines of kind {line.key!r} are not known here")

    def _content(self, value: FileValue) -> str:
        if value.content is not None:
            try:
                return self._blobs.write(base64.b64decode(value.content, validate=True))
            except binascii.Error:
                raise Problem(422, f"{value.path}: the content is not base64") from None
        if value.oid is None or len(value.oid) != 64 or not self._blobs.path(value.oid).exists():
            raise Problem(422, f"{value.path}: its LFS object was not uploaded")
        return value.oid

    async def info(self, request: Request) -> Response:
        """The repository with its file names."""
        key, repo = self._repo(request)
        siblings = [{"rfilename": path} for path in repo["files"]]
        fields = {"id": key, "sha": revision(repo), "siblings": siblings, "lastModified": repo["updated_at"]}
        return JSONResponse({**fields, "private": False, "tags": [], "downloads": 0, "likes": 0})

    async def tree(self, request: Request) -> Response:
        """The files under a path, with sizes; always the whole depth."""
        _, repo = self._repo(request)
        under = request.path_params.get("path", "").strip("/")
        return JSONResponse([
            {"type": "file", "path": path, "oid": value["oid"], "size": value["size"]}
            for path, value in sorted(repo["files"].items())
            if not under or path == under or path.startswith(f"{under}/")
        ])  # fmt: skip

    async def resolve(self, request: Request) -> Response:
        """One file's content, with the headers hub clients look for."""
        key, repo = self._repo(request)
        path = request.path_params["path"]
        value = require(repo["files"].get(path), f"{path} in {key}")
        headers = {"ETag": f'"{value["oid"]}"', "X-Repo-Commit": revision(repo), "X-Linked-Size": str(value["size"])}
        return FileResponse(self._blobs.path(value["oid"]), media_type="application/octet-stream", headers=headers)

    def _repo(self, request: Request) -> tuple[str, Doc]:
        """Key and document of the repository that the path names, or 404."""
        key = f"{request.path_params['namespace']}/{request.path_params['name']}"
        return key, require(self._store.get("repo", key), f"Repository {key}")


def commit_lines(body: bytes) -> list[CommitLine]:
    """The lines of a commit body, checked one by one."""
    return [check(CommitLine, line) for line in body.splitlines() if line.strip()]


def safe(path: str) -> str:
    """A path inside a repository, or 422."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or len(path) > 512:
        raise Problem(422, "a file path must be relative, without '..', of at most 512 characters")
    return str(PurePosixPath(path))


def revision(repo: Doc) -> str:
    """The commit id: a hash of the paths and contents, so that equal data has an equal id."""
    return hashlib.sha256(json.dumps(repo["files"], sort_keys=True).encode()).hexdigest()[:40]

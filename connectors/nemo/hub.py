"""NeMo's data store: the few calls of Hugging Face's hub that put and get files of a dataset.

Small files travel inside the commit, large ones by Git LFS before it; the server says which in ``preupload``. The
same content committed again changes nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from connectors.nemo.wire import Wire

HF = "/v1/hf"
_NDJSON = {"content-type": "application/x-ndjson"}
_LFS = {"content-type": "application/vnd.git-lfs+json", "accept": "application/vnd.git-lfs+json"}


class Hub:
    """Dataset repositories of one namespace."""

    def __init__(self, wire: Wire, namespace: str) -> None:
        self._wire, self._namespace = wire, namespace

    def ensure_namespace(self) -> None:
        """Make the namespace in the data store, unless it is there."""
        fine = frozenset({409, 422})
        self._wire.call("POST", "/v1/datastore/namespaces", data={"namespace": self._namespace}, fine=fine)

    def ensure_repository(self, name: str) -> None:
        """Make a dataset repository, unless it is there."""
        body = {"name": name, "organization": self._namespace, "type": "dataset"}
        self._wire.call("POST", f"{HF}/api/repos/create", json=body, fine=frozenset({409}))

    def upload(self, name: str, files: Mapping[str, bytes]) -> None:
        """Commit files under their paths, all or none."""
        lines: list[dict[str, Any]] = [
            {"key": "header", "value": {"summary": f"{len(files)} files", "description": ""}}
        ]
        modes = self._modes(name, files)
        large = {path: content for path, content in files.items() if modes.get(path) == "lfs"}
        self._upload_large(name, large)
        for path, content in files.items():
            lines.append(_large_line(path, content) if path in large else _small_line(path, content))
        body = b"\n".join(json.dumps(line).encode() for line in lines)
        self._wire.call("POST", f"{self._api(name)}/commit/main", content=body, headers=_NDJSON)

    def _api(self, name: str) -> str:
        return f"{HF}/api/datasets/{self._namespace}/{name}"

    def _modes(self, name: str, files: Mapping[str, bytes]) -> dict[str, str]:
        asked = [
            {"path": path, "sample": base64.b64encode(content[:512]).decode(), "size": len(content)}
            for path, content in files.items()
        ]
        made = self._wire.json("POST", f"{self._api(name)}/preupload/main", json={"files": asked})
        return {str(one["path"]): str(one.get("uploadMode")) for one in made.get("files", [])}

    def _upload_large(self, name: str, files: Mapping[str, bytes]) -> None:
        if not files:
            return
        by_oid = {hashlib.sha256(content).hexdigest(): content for content in files.values()}
        body = {
            "operation": "upload",
            "transfers": ["basic"],
            "objects": [{"oid": oid, "size": len(content)} for oid, content in by_oid.items()],
            "hash_algo": "sha256",
            "ref": {"name": "main"},
        }
        path = f"{HF}/datasets/{self._namespace}/{name}.git/info/lfs/objects/batch"
        made = self._wire.json("POST", path, content=json.dumps(body).encode(), headers=_LFS)
        for one in made.get("objects", []):
            upload = one.get("actions", {}).get("upload")
            if upload is not None:
                self._wire.put_elsewhere(upload["href"], by_oid[one["oid"]])

    def download(self, name: str, path: str) -> bytes:
        """A file; b'' when repository or file does not exist."""
        place = f"{HF}/datasets/{self._namespace}/{name}/resolve/main/{path}"
        response = self._wire.call("GET", place, fine=frozenset({404}), follow_redirects=True)
        return b"" if response.status_code == 404 else response.content


def _small_line(path: str, content: bytes) -> dict[str, Any]:
    encoded = base64.b64encode(content).decode()
    return {"key": "file", "value": {"content": encoded, "path": path, "encoding": "base64"}}


def _large_line(path: str, content: bytes) -> dict[str, Any]:
    oid = hashlib.sha256(content).hexdigest()
    return {"key": "lfsFile", "value": {"path": path, "algo": "sha256", "oid": oid, "size": len(content)}}

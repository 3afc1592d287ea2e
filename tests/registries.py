"""A Schema Registry for tests: a real one, found or started on this machine, and a twin that knows GUIDs.

The real one, in this order: the address in ``DRIFTWHEEL_TEST_REGISTRY`` (with the path of its Confluent API);
Apicurio Registry, fetched by Maven into the user's cache folder, its data in memory. :func:`why_not` says what to
install. No registry that package registries offer knows GUIDs (Confluent's does, since 8.0): the twin stands in.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import ssl
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from platformdirs import user_cache_path

from schemas.compatibility import problems
from schemas.errors import Refused
from tests.machine import NotHere, free_ports

ADDRESS = "DRIFTWHEEL_TEST_REGISTRY"
# The newest release for each Java, newest first: (Java, version, the path of the Confluent API, the jar to run).
APICURIO = (
    (21, "3.3.3", "apis/ccompat/v8", "quarkus-run.jar"),
    (17, "2.6.13.Final", "apis/ccompat/v7", "apicurio-registry-app-2.6.13.Final-runner.jar"),
)
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
FETCH_SECONDS = 900
READY_SECONDS = 120
INSTALL = "Java 17 or newer and Maven (Debian and Ubuntu: apt-get install openjdk-17-jre-headless maven)"
# Ends a process when this one is gone, however it went: the pipe closes.
KEEPER = 'trap "" INT TERM HUP; read -r line || kill -9 "$0"'


def why_not() -> str:
    """Why there is no real registry for tests, and what to install; empty when there is one, or it can be fetched."""
    if os.environ.get(ADDRESS):
        return ""
    java, version = _java()
    missing = f"{java} is Java {version}, 17 is needed" if java else "there is no `java`"
    missing = "" if version >= 17 else missing
    if not missing and not _home(version).is_dir() and not shutil.which("mvn"):
        missing = f"it is not in {_home(version)} and there is no `mvn` on the PATH to fetch it"
    why = f"no schema registry for tests: {ADDRESS} names none, and Apicurio Registry cannot be run: {missing}"
    return f"{why}. Install {INSTALL}, or set {ADDRESS}=http://host:port/path" if missing else ""


@contextmanager
def open_registry(folder: Path) -> Iterator[str]:
    """The address of a real registry, found or started; what was started is gone afterwards.

    Raises NotHere with :func:`why_not`, Refused when it does not answer.
    """
    if why := why_not():
        raise NotHere(why)
    if address := os.environ.get(ADDRESS):
        _await(address, lambda: True)
        yield address
    else:
        with _apicurio(folder) as started:
            yield started


@contextmanager
def _apicurio(folder: Path) -> Iterator[str]:
    java, version = _java()
    _, _, path, jar = _release(version)
    home = _fetched(version)
    port, management = free_ports(2)
    options = {
        "quarkus.http.host": "127.0.0.1",
        "quarkus.http.port": port,
        "quarkus.management.host": "127.0.0.1",
        "quarkus.management.port": management,
        "java.io.tmpdir": folder,
    }
    command = [java, "-Xmx512m", "-XX:TieredStopAtLevel=1", *(f"-D{name}={value}" for name, value in options.items())]
    with (folder / "registry.log").open("wb") as out:
        process = subprocess.Popen(
            [*command, "-jar", str(home / jar)], cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
    keeper = subprocess.Popen(
        ["/bin/sh", "-c", KEEPER, str(process.pid)], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        address = f"http://127.0.0.1:{port}/{path}"
        _await(address, lambda: process.poll() is None)
        yield address
    finally:
        process.kill()
        process.wait()
        keeper.communicate(b"gone\n")


def _await(address: str, running: Callable[[], bool]) -> None:
    until = time.monotonic() + READY_SECONDS
    with httpx.Client(trust_env=False, timeout=5) as client:
        while running() and time.monotonic() < until:
            try:
                if client.get(f"{address}/subjects").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
    raise Refused(f"the schema registry at {address} does not answer")


def _release(java: int) -> tuple[int, str, str, str]:
    return next(release for release in APICURIO if java >= release[0])


def _home(java: int) -> Path:
    return user_cache_path("driftwheel") / f"apicurio-{_release(java)[1]}"


@cache
def _java() -> tuple[str, int]:
    """The newest Java of this machine and its number; ('', 0) without one."""
    homes = [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else []
    places = [home / "bin" / "java" for home in (*homes, *sorted(Path("/usr/lib/jvm").glob("*")))]
    found = {str(path): _number(str(path)) for path in places if path.is_file()}
    if on_path := shutil.which("java"):
        found[on_path] = _number(on_path)
    return max(found.items(), key=lambda one: one[1], default=("", 0))


def _number(java: str) -> int:
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False).stderr
    except OSError:
        return 0
    match = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(match[1]) if match else 0


def _fetched(java: int) -> Path:
    """The folder of Apicurio Registry; it is fetched when it is not there. Two at once wait for each other."""
    target = _home(java)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            _fetch(target, _release(java)[1])
    return target


def _fetch(target: Path, version: str) -> None:
    artifact = f"io.apicurio:apicurio-registry-app:{version}:tar.gz:all"
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}-") as name:
        part = Path(name)
        arguments = ["mvn", "-q", "-B", COPY, f"-Dartifact={artifact}", f"-DoutputDirectory={part}"]
        try:
            done = subprocess.run(
                arguments, cwd=part, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise NotHere(f"Maven did not fetch Apicurio Registry {version} in {FETCH_SECONDS} s") from None
        if done.returncode:
            said = " ".join(line for line in done.stdout.splitlines() if "ERROR" in line)[:600]
            raise NotHere(f"Maven could not fetch Apicurio Registry {version}: {said}")
        [archive] = part.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(part / "app", filter="data")
        (part / "app").rename(target)


class Twin:
    """The part of Confluent's API that is used, over HTTP on loopback, data in memory.

    ``guids`` False: as registries before Confluent's 8.0. ``tls``: with this certificate and key. ``requests``: every
    method and path that was asked for. ``answer``: a status to answer everything with; ``credentials``: the only ones
    that are let in.
    """

    def __init__(self, *, guids: bool = True, tls: tuple[Path, Path] | None = None) -> None:
        self.guids = guids
        self.requests: list[str] = []
        self.answer: int | None = None
        self.credentials: httpx.BasicAuth | None = None
        self.levels: dict[str, str] = {}
        self._schemas: list[str] = []
        self._subjects: dict[str, list[int]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Twin:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def put(self, schema: Any, subject: str = "others-value") -> int:
        """The id of a schema, registered without any check."""
        text = schema if isinstance(schema, str) else json.dumps(schema)
        if text not in self._schemas:
            self._schemas.append(text)
        number = self._schemas.index(text) + 1
        if number not in self._subjects.setdefault(subject, []):
            self._subjects[subject].append(number)
        return number

    def guid(self, number: int) -> UUID:
        """As in Confluent's: from the schema's content."""
        return UUID(bytes=hashlib.md5(self._schemas[number - 1].encode(), usedforsecurity=False).digest())

    def _shown(self, number: int, **more: Any) -> tuple[int, Any]:
        known: dict[str, Any] = {"id": number, "schema": self._schemas[number - 1], **more}
        return 200, known | ({"guid": str(self.guid(number))} if self.guids else {})

    def reply(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        self.requests.append(f"{method} {path}")
        if self.answer is not None:
            return self.answer, {"error_code": self.answer, "message": "as told"}
        match [method, *path.strip("/").split("/")]:
            case ["GET", "schemas", "ids", text]:
                return self._shown(int(text)) if int(text) <= len(self._schemas) else _none(40403)
            case ["GET", "schemas", "guids", text] if self.guids:
                found = [n for n in range(1, len(self._schemas) + 1) if str(self.guid(n)) == text]
                return self._shown(found[0]) if found else _none(40403)
            case ["GET", "config", subject]:
                level = self.levels.get(subject)
                return (200, {"compatibilityLevel": level}) if level else _none(40408)
            case ["PUT", "config", subject]:
                self.levels[subject] = body["compatibility"]
                return 200, body
            case ["GET", "subjects"]:
                return 200, list(self._subjects)
            case [_, "subjects", subject, *rest]:
                return self._subject(method, subject, rest, body)
            case _:
                return 404, "<html>no such page</html>"

    def _subject(self, method: str, subject: str, rest: list[str], body: Any) -> tuple[int, Any]:
        numbers = self._subjects.get(subject, [])
        match method, rest:
            case "POST", ["versions"]:
                old = numbers and problems(json.loads(body["schema"]), json.loads(self._schemas[numbers[-1] - 1]))
                if old and self.levels.get(subject) != "NONE":
                    return 409, {"error_code": 409, "message": "Schema being registered is incompatible"}
                return self._shown(self.put(body["schema"], subject))
            case "POST", []:
                known = [n for n in numbers if self._schemas[n - 1] == body["schema"]]
                return (
                    self._shown(known[0], subject=subject, version=numbers.index(known[0]) + 1)
                    if known
                    else _none(40403)
                )
            case "GET", ["versions"] if numbers:
                return 200, list(range(1, len(numbers) + 1))
            case "GET", ["versions", version] if numbers:
                at = len(numbers) if version == "latest" else int(version)
                return self._shown(numbers[at - 1], subject=subject, version=at)
            case _:
                return _none(40401)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        twin = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                status, answer = 401, {"error_code": 401, "message": "who are you"}
                if twin.credentials is None or self.headers.get("authorization") == twin.credentials._auth_header:
                    path = self.path.partition("?")[0]
                    status, answer = twin.reply(self.command, path, json.loads(body) if body else None)
                data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "text/html" if isinstance(answer, str) else "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = _serve  # noqa: N815  # the base class's names

            def log_message(self, *args: object) -> None:
                pass

        return Handler


def _none(code: int) -> tuple[int, Any]:
    return 404, {"error_code": code, "message": "not found"}

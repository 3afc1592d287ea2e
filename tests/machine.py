"""What this machine offers to tests: free ports, a Docker engine."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

from schemas.errors import Refused


class NotHere(Refused):
    """This machine lacks what a test needs; the text says what to install. Fixtures skip on it."""


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on, from below the range of outgoing connections, so that they stay free."""
    found: list[int] = []
    for port in random.sample(range(15_000, 32_000), 5_000):
        if len(found) == count:
            return found
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if probe.connect_ex(("127.0.0.1", port)) and _binds(probe, port):
                found.append(port)
    raise Refused(f"no {count} free ports on 127.0.0.1 between 15000 and 32000")


def docker_answers() -> bool:
    """Whether a Docker engine of this machine answers where ``DOCKER_HOST`` says, within two seconds.

    One elsewhere does not count: the ports of its containers are not on this loopback.
    """
    where = urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    if where.scheme == "unix":
        return _pings(socket.AF_UNIX, where.path)
    here = where.hostname in ("127.0.0.1", "localhost")
    return here and _pings(socket.AF_INET, ("127.0.0.1", where.port or 2375))


@contextmanager
def container(image: str, port: int, host_port: int, **variables: str) -> Iterator[None]:
    """A container of testcontainers whose port is bound to one of this machine's loopback.

    Raises NotHere when the engine cannot start it, for example when it cannot fetch the image.
    """
    from docker.errors import DockerException
    from testcontainers.core.container import DockerContainer

    with ExitStack() as stack:
        try:
            made = DockerContainer(image).with_envs(**variables)
            made.ports[f"{port}/tcp"] = ("127.0.0.1", host_port)
            stack.enter_context(made)
        except (DockerException, OSError) as error:
            raise NotHere(f"Docker did not start {image}: {str(error)[:500]}") from error
        yield


def _pings(family: socket.AddressFamily, address: str | tuple[str, int]) -> bool:
    try:
        with socket.socket(family) as engine:
            engine.settimeout(2)
            engine.connect(address)
            engine.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in engine.recv(64)
    except OSError:
        return False


def _binds(probe: socket.socket, port: int) -> bool:
    try:
        probe.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True

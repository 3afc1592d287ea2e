"""``python -m deploy.local_nemo --data-dir DIR --models DIR [--port N] [--labels FILE]``: run the service."""

from __future__ import annotations

import argparse
import json
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from deploy.local_nemo.app import create_app
from deploy.local_nemo.settings import Settings
from schemas.errors import DriftwheelError, Refused, UsageError


def main(words: Sequence[str] | None = None) -> int:
    """Serve until interrupted; 2 for a wrong option, 1 when the service cannot start."""
    options = parser().parse_args(words)
    try:
        settings = Settings(
            data_dir=options.data_dir,
            model_folder=options.models,
            labels=read_labels(options.labels) if options.labels else {},
            token=options.token_file.read_text().strip() if options.token_file else None,
        )
        app, listener = create_app(settings), listen(options.host, options.port)
    except (DriftwheelError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, UsageError) else 1
    sys.stdout.write(f"local NeMo on http://{options.host}:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    # Longer than clients keep an idle connection (httpx: 5 s): none sends into one that is being closed.
    uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_keep_alive=75)).run(sockets=[listener])
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(prog="python -m deploy.local_nemo", description=__doc__)
    out.add_argument("--data-dir", type=Path, required=True, help="where datasets, models and jobs are kept")
    out.add_argument("--models", type=Path, help="folder of all-MiniLM-L6-v2; without it spelling only is seen")
    out.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    out.add_argument("--port", type=int, default=8085, help="port; 0 takes a free one (default: 8085)")
    out.add_argument("--labels", type=Path, help="JSON file: the base model's labels and their descriptions")
    out.add_argument("--token-file", type=Path, help="file with the bearer token that requests must carry")
    return out


def listen(host: str, port: int) -> socket.socket:
    """A socket that already listens: who is told its address may call at once. ``Refused`` when the port is taken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)  # asyncio sets TCP_NODELAY only where the protocol is said
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        raise Refused(f"cannot listen on {host}:{port}: {error}; choose another --port") from error
    return listener


def read_labels(path: Path) -> dict[str, str]:
    """The labels file, or ``UsageError`` that says what it should look like."""
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: not JSON ({error})") from error
    if not isinstance(labels, dict) or not all(isinstance(v, str) for v in labels.values()):
        raise UsageError(f"{path}: must be a JSON object of label to one-line description")
    return labels


if __name__ == "__main__":
    sys.exit(main())

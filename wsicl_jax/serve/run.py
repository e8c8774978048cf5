"""Start the service: load the network, listen, and open the browser."""

import secrets
import socket
import threading
import webbrowser
from pathlib import Path

import uvicorn

from wsicl_jax.config import ServeConfig
from wsicl_jax.errors import DataError
from wsicl_jax.serve.app import make_app
from wsicl_jax.serve.engine import KeepingSegmenter
from wsicl_jax.serve.folder import STATE
from wsicl_jax.serve.service import Service
from wsicl_jax.storage.lock import locked

LOCALHOST = "127.0.0.1"


def serve(
    folder: Path,
    network: str,
    config: ServeConfig,
    *,
    host: str | None = None,
    browser: bool = True,
    reading: dict[str, object] | None = None,
) -> None:
    """Serve a folder until interrupted. With `host`, a token is required, and printed once.

    Raises:
        CheckpointError: there is no such network.
        DataError: the folder cannot be used, or the port is taken.
        LockedError: another process serves the folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give one with images")
    token = None if host is None else secrets.token_urlsafe(24)
    with _listening(host or LOCALHOST, config.port) as listener:
        place = listener.getsockname()
        with locked(folder / STATE / "lock", f"the folder {folder}"):
            segmenter = KeepingSegmenter.load(network, **(reading or {}))
            service = Service(folder, network, segmenter, config)
            name = f"[{place[0]}]" if ":" in place[0] else place[0]
            name = "localhost" if host is None else name
            address = f"http://{name}:{place[1]}/" + (f"?token={token}" if token else "")
            print(f"{len(service.folder.images)} images in {folder}; {address}", flush=True)
            if browser:
                threading.Timer(0.5, webbrowser.open, (address,)).start()
            settings = uvicorn.Config(
                make_app(service, token),
                log_config=None,  # warnings and errors alone, on stderr
                server_header=False,
                timeout_graceful_shutdown=2,
            )
            uvicorn.Server(settings).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # who opens the address too early waits instead of being refused
    except (OSError, UnicodeError) as error:
        listener.close()
        raise DataError(
            f"cannot listen on {host}, port {port}: {error}; give another --port, or --port 0"
        ) from error
    return listener

"""Serving the application with uvicorn, on a socket that is bound before anything else happens."""

from __future__ import annotations

import socket

import uvicorn

from registry.http.app import create_app
from registry.http.backend import Backend


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises `OSError` where the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def url_of(listening: socket.socket) -> str:
    """The URL under which a listening socket is reached."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server(backend: Backend, *, public_url: str | None = None, log_level: str = "warning") -> uvicorn.Server:
    """A server of `backend`; `server.run(sockets=[bind(...)])` serves until told to stop."""
    app = create_app(backend, public_url=public_url)
    config = uvicorn.Config(
        app,
        log_level=log_level,
        access_log=False,  # the audit log says who changed what
        server_header=False,
        limit_concurrency=1000,
        timeout_graceful_shutdown=10,
    )
    return uvicorn.Server(config)

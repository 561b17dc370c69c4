"""`python -m registry.http`: the server as a process of its own, which loads the registry and nothing else.

`matinee registry serve` becomes this process, so that a server does not carry the feature store in its memory.
The database's URL comes by environment: it may hold a password, and arguments are for everybody to read.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
from pathlib import Path

from registry.dispatch import Dispatcher, in_background
from registry.http.backend import open_backend
from registry.http.limits import Limits
from registry.http.server import bind, server, url_of
from registry.posting import Poster

URL = "MATINEE_REGISTRY_URL"


def parser() -> argparse.ArgumentParser:
    """The options, which are those of `matinee registry serve`."""
    options = argparse.ArgumentParser(prog="python -m registry.http", description=__doc__)
    options.add_argument("--artifacts", required=True, help="a folder, or any URL fsspec understands")
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, default=5000, help="0 takes a free one")
    options.add_argument("--public-url", help="where clients reach it, if behind a proxy")
    options.add_argument("--import-root", type=Path, action="append", default=[])
    options.add_argument("--rate", type=float, default=Limits.rate, help="requests per second and token")
    options.add_argument("--burst", type=int, default=Limits.burst, help="requests at once and token")
    options.add_argument("--body", type=int, default=Limits.body, help="bytes of a request's body")
    options.add_argument("--upload", type=int, default=Limits.upload, help="bytes of an uploaded file")
    return options


def main() -> None:
    """Serve and deliver events to webhooks, until interrupted."""
    asked = parser().parse_args()
    if URL not in os.environ:
        raise SystemExit(f"set {URL} to the ledger's database, as in sqlite:///path/to/registry.db.")
    limits = Limits(asked.rate, asked.burst, asked.body, asked.upload)
    backend = open_backend(os.environ[URL], asked.artifacts, limits=limits, imports=asked.import_root)
    poster, rng = Poster(), random.SystemRandom()
    dispatcher = Dispatcher(backend.database, poster, backend.clock, rng)
    serving = server(backend, public_url=asked.public_url)
    for number in (signal.SIGTERM, signal.SIGINT):  # raised as an exception, one in a callback would be lost
        signal.signal(number, serving.handle_exit)
    with backend, bind(asked.host, asked.port) as listening, in_background(dispatcher):
        if not any(token.revoked_at is None for token in backend.tokens.all()):
            sys.stderr.write("nobody can call yet: matinee registry token create NAME --role viewer\n")
        sys.stdout.write(f"registry at {url_of(listening)}\n")
        sys.stdout.flush()
        serving.run(sockets=[listening])


if __name__ == "__main__":
    main()

"""A built Bento as a process: started by its tag, waited for, and stopped gracefully."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO

import httpx

LOG_TAIL_LINES = 25


class ServeFailed(RuntimeError):
    """The process ended, or was not ready in time; the message ends with the tail of its log."""

    def __init__(self, tag: str, problem: str, log: Path) -> None:
        tail = log.read_text("utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:] if log.exists() else []
        super().__init__("\n  ".join([f"{tag} {problem}. The end of {log}:", *tail]))


@dataclass(frozen=True)
class Serving:
    """How to serve one Bento. `home` is the workspace, `bento_store` the BENTOML_HOME it was built into.

    For simulated sessions, `starts_at` is what the served process takes the time to be when it starts; `settings` are
    more of its environment.
    """

    tag: str
    home: Path
    bento_store: Path
    host: str = "127.0.0.1"
    port: int = 3000
    starts_at: datetime | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def base_url(self) -> str:
        """Where clients find it."""
        return f"http://{self.host}:{self.port}"

    @property
    def command(self) -> list[str]:
        """Stock `bentoml serve`."""
        return [
            sys.executable,
            "-m",
            "bentoml",
            "serve",
            self.tag,
            "--host",
            self.host,
            "--port",
            str(self.port),
        ]

    def environment(self, inherited: dict[str, str]) -> dict[str, str]:
        """The process's environment: where things are, one thread a library, no telemetry."""
        simulated = {} if self.starts_at is None else {"MATINEE_STARTS_AT": self.starts_at.isoformat()}
        return (
            inherited
            | simulated
            | dict(self.settings)
            | {
                "MATINEE_HOME": str(self.home.resolve()),
                "BENTOML_HOME": str(self.bento_store.resolve()),
                "BENTOML_DO_NOT_TRACK": "True",
                "OMP_NUM_THREADS": "1",
                "PYTHONSAFEPATH": "1",  # the Bento's sources, not those of the folder we stand in
            }
        )


def serve(serving: Serving) -> int:
    """Serve in the foreground until interrupted or terminated, either gracefully; returns the exit code."""
    process = _started(serving)
    before = {
        which: signal.signal(which, signal.default_int_handler) for which in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        return process.wait()
    except KeyboardInterrupt:
        stop(process)  # whoever told only us to stop must not leave workers behind
        return process.returncode
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def _started(serving: Serving, output: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603  (our own words)
        serving.command,
        env=serving.environment(dict(os.environ)),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches us, and we stop it in order
    )


@contextmanager
def served(serving: Serving, *, log: Path, timeout: float = 60.0) -> Iterator[str]:
    """Serve a Bento while the block runs; yields its base URL once it is ready.

    Output goes to `log`. On leaving, accepted requests are finished first.

    Raises:
        ServeFailed: the process refused to start, or was not ready within `timeout` seconds.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = _started(serving, output)
    try:
        wait_until_ready(serving, process, log, timeout)
        yield serving.base_url
    finally:
        stop(process)


def wait_until_ready(serving: Serving, process: subprocess.Popen[bytes], log: Path, timeout: float) -> None:
    """Return when `/readyz` says so.

    Raises:
        ServeFailed: the process ended first, or `timeout` seconds went by.
    """
    give_up = time.monotonic() + timeout
    while time.monotonic() < give_up:
        if (code := process.poll()) is not None:
            raise ServeFailed(serving.tag, f"refused to start (exit code {code})", log)
        if _is_ready(serving.base_url):
            return
        time.sleep(0.05)
    raise ServeFailed(serving.tag, f"was not ready within {timeout:.0f} s", log)


def stop(process: subprocess.Popen[bytes], timeout: float = 15.0) -> None:
    """End a process started here and its workers: asked first, forced after `timeout` seconds."""
    process.terminate()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port(host: str = "127.0.0.1") -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _is_ready(base_url: str) -> bool:
    try:
        return httpx.get(f"{base_url}/readyz", timeout=2).status_code == httpx.codes.OK
    except httpx.TransportError:  # nobody listens yet
        return False

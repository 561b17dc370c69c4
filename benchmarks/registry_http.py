"""The registry over HTTP beside a real `mlflow server`: alias lookups, searches by tag, a page of models, memory.

Both servers are processes of their own, with one worker, on SQLite, over the same models, versions and tags, and
answer the same requests of MLflow's protocol to the same client. MLflow is installed into a virtual environment
under a temporary folder (or taken from --peer-python), and never into ours. Data is made up, and written straight
into both databases: it is the answering that is measured. 50,000 versions is the size the targets speak of.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil

from matinee.session import print_table
from registry.database import Database, migrate
from registry.http import Role, open_backend

PROTOCOL = "/api/2.0/mlflow"
NOW = "2026-01-01 00:00:00.000000"
MILLISECONDS = 1_767_225_600_000
TAGS = 5


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    models: int
    versions: int
    requests: int

    def of(self, place: int) -> tuple[str, int]:
        """The model and number of a version, by its place in the order of writing."""
        return f"model-{place % self.models:04d}", place // self.models + 1

    def tags(self, place: int) -> list[tuple[str, str]]:
        """Five tags: the first has a thousandth of the versions for each value, the others are there to be passed over."""
        return [(f"k{n}", f"v{(place * (n + 1)) % 1000}") for n in range(TAGS)]


def fill_ours(path: Path, size: Size) -> None:
    """Versions in the ledger's own tables, past its Python but not past its triggers."""
    database = Database(f"sqlite:///{path}")
    migrate(database)
    database.close()
    with contextlib.closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("PRAGMA recursive_triggers = ON")  # the ledger's triggers want it
        for pragma in ("recursive_triggers", "foreign_keys"):  # else the ledger's triggers refuse every row
            raw.execute(f"PRAGMA {pragma} = ON")
        raw.execute("INSERT INTO artifact VALUES (?, 2, 'application/json', ?)", ("0" * 64, NOW))
        for model in range(size.models):
            raw.execute(
                "INSERT INTO registered_model VALUES (?, ?, '', 1, ?, NULL)",
                (model + 1, size.of(model)[0], NOW),
            )
        for place in range(size.versions):
            model, number, row = place % size.models + 1, place // size.models + 1, place + 1
            raw.execute("UPDATE registered_model SET next_version = next_version + 1 WHERE id = ?", (model,))
            raw.execute(
                "INSERT INTO model_version (id, model_id, number, digest, created_at, created_by, source, config, signature,"
                " file_count, parameter_count, input_count, upstream_count)"
                " VALUES (?, ?, ?, ?, ?, 'bench', '', '{}', '{}', 1, 0, 0, 0)",
                (row, model, number, f"{place:064d}", NOW),
            )
            raw.execute("INSERT INTO version_file VALUES (?, 'model.json', ?)", (row, "0" * 64))
            raw.executemany("INSERT INTO tag VALUES (?, ?, ?)", [(row, *tag) for tag in size.tags(place)])
        raw.executemany(
            "INSERT INTO alias VALUES (?, 'live', 1, ?)", [(model + 1, NOW) for model in range(size.models)]
        )


def fill_mlflow(path: Path, size: Size) -> None:
    """The same versions in MLflow's tables, which `mlflow db upgrade` has made."""
    with contextlib.closing(sqlite3.connect(path)) as raw, raw:
        insert_into(raw, "registered_models", [
            {"name": size.of(model)[0], "creation_time": MILLISECONDS, "last_updated_time": MILLISECONDS}
            for model in range(size.models)
        ])  # fmt: skip
        insert_into(raw, "model_versions", [
            {"name": name, "version": number, "creation_time": MILLISECONDS, "last_updated_time": MILLISECONDS,
             "current_stage": "None", "source": "/nowhere", "status": "READY", "user_id": "bench"}
            for name, number in map(size.of, range(size.versions))
        ])  # fmt: skip
        insert_into(raw, "model_version_tags", [
            {"name": size.of(place)[0], "version": size.of(place)[1], "key": key, "value": value}
            for place in range(size.versions) for key, value in size.tags(place)
        ])  # fmt: skip
        insert_into(raw, "registered_model_aliases", [
            {"name": size.of(model)[0], "alias": "live", "version": 1} for model in range(size.models)
        ])  # fmt: skip


def insert_into(raw: sqlite3.Connection, table: str, rows: list[dict[str, object]]) -> None:
    """Rows into a table, by the names of their columns."""
    columns = list(rows[0])
    marks = ", ".join("?" for _ in columns)
    raw.executemany(
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", [tuple(row.values()) for row in rows]
    )


@dataclass(frozen=True)
class Server:
    """A server that is up: a client for it, and its process."""

    client: httpx.Client
    process: psutil.Process

    def megabytes(self) -> float:
        """Resident memory of the process and its children."""
        family = [self.process, *self.process.children(recursive=True)]
        return sum(process.memory_info().rss for process in family) / 2**20


@contextlib.contextmanager
def running(
    command: list[str], environment: dict[str, str], port: int, headers: dict[str, str]
) -> Iterator[Server]:
    """A server's process, up once it answers /health."""
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            with httpx.Client(base_url=url, headers=headers, timeout=600) as client:
                for _ in range(600):
                    with contextlib.suppress(httpx.TransportError):
                        if client.get("/health").is_success:
                            break
                    if process.poll() is not None:
                        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}.")
                    time.sleep(0.2)
                yield Server(client, psutil.Process(process.pid))
        finally:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.terminate()
            process.terminate()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


@contextlib.contextmanager
def ours(home: Path, size: Size) -> Iterator[Server]:
    """`matinee registry serve` over a filled ledger."""
    root = home / "workspaces" / "world"
    root.mkdir(parents=True)
    fill_ours(root / "registry.db", size)
    with open_backend(f"sqlite:///{root}/registry.db", str(root / "artifacts")) as backend:
        token = backend.tokens.create("bench", Role.VIEWER, secrets.token_bytes)
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "matinee",
        "registry",
        "serve",
        "--port",
        str(port),
        "--rate",
        "1e6",
        "--burst",
        "1000000",
    ]
    environment = {**os.environ, "MATINEE_WORKSPACES": str(home / "workspaces"), "MATINEE_WORLD": "tiny"}
    with running(command, environment, port, {"Authorization": f"Bearer {token}"}) as server:
        yield server


@contextlib.contextmanager
def mlflow(home: Path, size: Size, python: Path) -> Iterator[Server]:
    """`mlflow server` over the same."""
    path, port = home / "mlflow.db", free_port()
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    subprocess.run(
        [python, "-m", "mlflow", "db", "upgrade", f"sqlite:///{path}"],
        env=environment,
        check=True,
        capture_output=True,
    )
    fill_mlflow(path, size)
    command = [
        str(python), "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{path}", "--artifacts-destination",
        str(home / "mlflow-artifacts"), "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    with running(command, environment, port, {}) as server:
        yield server


def peer_python(home: Path, version: str) -> Path:
    """An interpreter with MLflow, in a virtual environment of its own."""
    venv.create(home / "peer", with_pip=True)
    python = home / "peer" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", f"mlflow=={version}"], check=True)
    return python


def questions(size: Size) -> dict[str, Callable[[httpx.Client, int], httpx.Response]]:
    """What is asked, each time with another value."""
    stride = max(size.versions // 1000, 1)
    return {
        "alias": lambda client, n: client.get(
            f"{PROTOCOL}/registered-models/alias", params={"name": size.of(n * 7)[0], "alias": "live"}
        ),
        "tag": lambda client, n: client.get(
            f"{PROTOCOL}/model-versions/search",
            params={"filter": f"tags.k0 = 'v{(n * stride) % 1000}'", "max_results": 100},
        ),
        "models": lambda client, _: client.get(
            f"{PROTOCOL}/registered-models/search", params={"max_results": 100}
        ),
    }


def measure(server: Server, size: Size) -> dict[str, dict[str, float]]:
    """p50 and p99 in milliseconds of each question; and memory once all are answered."""
    found: dict[str, dict[str, float]] = {}
    for name, ask in questions(size).items():
        times = []
        count = size.requests if name == "alias" else max(size.requests // 10, 5)
        for n in range(count + count // 10):  # the first tenth warms up
            began = time.perf_counter()
            answer = ask(server.client, n)
            times.append((time.perf_counter() - began) * 1000)
            answer.raise_for_status()
        p50, p99 = np.percentile(times[count // 10 :], [50, 99])
        found[name] = {"p50": float(p50), "p99": float(p99), "rows": float(rows_in(answer))}
    found["memory_mb"] = {"p50": server.megabytes()}
    return found


def rows_in(answer: httpx.Response) -> int:
    """How many versions or models an answer holds; both servers must agree on it."""
    body = answer.json()
    return len(body.get("model_versions") or body.get("registered_models") or [body])


def main() -> None:
    """Measure, print, and end with RESULT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--versions", type=int, default=50_000)
    parser.add_argument("--requests", type=int, default=500, help="alias lookups; searches are a tenth of it")
    parser.add_argument(
        "--peer-python", type=Path, help="an interpreter that has mlflow; installed if left out"
    )
    parser.add_argument("--peer-version", default="3.17.2")
    parser.add_argument("--no-peer", action="store_true", help="measure ours only")
    asked = parser.parse_args()
    size = Size(asked.models, asked.versions, asked.requests)
    results: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        with ours(home, size) as server:
            results["matinee"] = measure(server, size)
        if not asked.no_peer:
            python = asked.peer_python or peer_python(home, asked.peer_version)
            with mlflow(home, size, python) as server:
                results["mlflow"] = measure(server, size)
    report(results, size)


def report(results: dict[str, dict[str, dict[str, float]]], size: Size) -> None:
    """The table, and the same as JSON on the last line."""
    shown = {"alias": "alias lookup, ms", "tag": "search by tag, ms", "models": "100 models with versions, ms",
             "memory_mb": "server memory, MB"}  # fmt: skip
    peer = results.get("mlflow")
    lines, ratios = [], {}
    for name, label in shown.items():
        mine = results["matinee"][name]
        theirs = peer[name]["p50"] if peer else None
        if peer and mine.get("rows") != peer[name].get("rows"):
            raise RuntimeError(
                f"{label}: {mine['rows']} rows here and {peer[name]['rows']} there; not the same question."
            )
        ratios[name] = theirs / mine["p50"] if theirs else None
        lines.append([label, mine["p50"], mine.get("p99"), theirs, ratios[name]])
    title = f"{size.versions:,} versions of {size.models} models, {TAGS} tags each, SQLite"
    print_table(title, ("question", "matinee p50", "p99", "mlflow p50", "ratio"), lines)
    print(
        "RESULT "
        + json.dumps({"models": size.models, "versions": size.versions, "results": results, "ratios": ratios})
    )


if __name__ == "__main__":
    main()

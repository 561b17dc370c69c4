"""The ledger asked in process: where a version comes from, what a feature reaches, and every kind of search.

The ledger is filled straight into its tables, past its Python and not past its triggers, with made-up data of a few
years: models that are trained again every day from a training set of their own, on services of 550 features of which
a few are declared anew now and then, daily Bentos, and experiments of two arms with a read-out each. Two questions
bound what an impact costs: a feature that every version there ever was has read, and one meaning of a feature, which
the versions of some weeks have read. No peer is measured: MLflow has no lineage; see registry_http.py for what it has.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from matinee.session import print_table
from registry import Registry, open_registry
from registry.database import Database, migrate
from registry.schema import Base

BEGAN = datetime(2024, 1, 1, tzinfo=UTC)
NOTE = "simulated"


@dataclass(frozen=True)
class Size:
    """How much of everything; each of `models` is declared anew `epochs` times, some features otherwise."""

    versions: int
    features: int
    experiments: int
    models: int = 10
    epochs: int = 20

    def rows(self) -> Iterator[tuple[str, list[dict[str, object]]]]:
        """Rows of every table, in the order in which they may be inserted."""
        yield from self._features()
        yield from self._versions()
        yield from self._in_use()

    def meaning(self, feature: int, epoch: int) -> str:
        """The digest of a feature in an epoch: one in ten is declared anew in each, in turn."""
        return f"f{feature:04d}-{sum(feature % 10 == e % 10 for e in range(1, epoch + 1)):02d}"

    def _features(self) -> Iterator[tuple[str, list[dict[str, object]]]]:
        known = {self.meaning(f, e): f for e in range(self.epochs) for f in range(self.features)}
        yield "feature", [
            {"digest": digest, "name": f"feature_{f}", "view": f"view_{f % 7}", "dtype": "FLOAT", "definition": {}, "created_at": BEGAN}
            for digest, f in known.items()
        ]  # fmt: skip
        services = [(m, e) for m in range(self.models) for e in range(self.epochs)]
        yield (
            "feature_service",
            [
                {
                    "digest": f"s{m}-{e}",
                    "name": f"service_{m}",
                    "feature_count": self.features,
                    "created_at": BEGAN,
                }
                for m, e in services
            ],
        )
        for m, e in services:
            yield (
                "feature_service_member",
                [
                    {"service_digest": f"s{m}-{e}", "position": f, "feature_digest": self.meaning(f, e)}
                    for f in range(self.features)
                ],
            )

    def place(self, n: int) -> tuple[int, int, int]:
        """(model, number, epoch) of the n-th version."""
        number = n // self.models + 1
        return n % self.models, number, (number - 1) * self.epochs // (self.versions // self.models)

    def _versions(self) -> Iterator[tuple[str, list[dict[str, object]]]]:
        day = timedelta(days=1)
        yield "training_set", [
            {"digest": f"{n:064d}", "source": "world", "interval_start": BEGAN + n * day / self.models, "interval_end": BEGAN + n * day / self.models + 7 * day,
             "rows": 100_000, "as_of": BEGAN + n * day / self.models + 8 * day, "event_digests": {"plays": "x", "titles": "y"}, "created_at": BEGAN, "service_count": 1}
            for n in range(self.versions)
        ]  # fmt: skip
        yield (
            "training_set_service",
            [
                {
                    "training_set_digest": f"{n:064d}",
                    "position": 0,
                    "service_digest": "s{0}-{2}".format(*self.place(n)),
                }
                for n in range(self.versions)
            ],
        )
        yield (
            "artifact",
            [{"sha256": "0" * 64, "size": 2, "media_type": "application/json", "created_at": BEGAN}],
        )
        yield (
            "registered_model",
            [
                {"id": m + 1, "name": f"model_{m}", "description": "", "next_version": 1, "created_at": BEGAN}
                for m in range(self.models)
            ],
        )
        for number in range(1, self.versions // self.models + 1):
            yield "UPDATE registered_model SET next_version = next_version + 1", []
            mine = [(n, *self.place(n)) for n in range((number - 1) * self.models, number * self.models)]
            yield "model_version", [
                {"id": n + 1, "model_id": m + 1, "number": number, "digest": f"{n:064d}", "created_at": BEGAN + number * day, "created_by": "bench",
                 "source": "world", "config": {}, "signature": {}, "file_count": 1, "parameter_count": 1, "input_count": 1, "upstream_count": 0,
                 "training_set_digest": f"{n:064d}"}
                for n, m, number, _ in mine
            ]  # fmt: skip
            yield (
                "version_input",
                [
                    {
                        "version_id": n + 1,
                        "position": 0,
                        "name": "features",
                        "dtype": "float32",
                        "service_digest": f"s{m}-{e}",
                    }
                    for n, m, _, e in mine
                ],
            )
        every = range(self.versions)
        yield "version_file", [{"version_id": n + 1, "path": "model.json", "sha256": "0" * 64} for n in every]
        yield "parameter", [
            {"version_id": n + 1, "key": "learning_rate", "value": str(rate), "number": rate}
            for n in every for rate in [(n % 50 + 1) / 1000]
        ]  # fmt: skip
        yield "metric", [
            {"version_id": n + 1, "name": name, "dataset": "world", "split": "test", "key": name, "value": ((n * 7919) % 10_007) / 10_007, "created_at": BEGAN}
            for n in every for name in ("auc", "ndcg_at_20", "recall_at_200")
        ]  # fmt: skip
        yield "tag", [
            {"version_id": n + 1, "key": key, "value": f"v{(n * step) % 1000}"}
            for n in every for step, key in enumerate(("team", "run", "day", "host", "owner"), 1)
        ]  # fmt: skip

    def _in_use(self) -> Iterator[tuple[str, list[dict[str, object]]]]:
        newest = self.versions // self.models
        yield "alias", [
            {"model_id": m + 1, "alias": alias, "number": newest - back, "since": BEGAN}
            for m in range(self.models) for alias, back in (("champion", 1), ("challenger", 0))
        ]  # fmt: skip
        days = range(1, newest + 1, 2)
        yield (
            "bento",
            [
                {"id": d, "tag": f"homepage:{d}", "digest": "b", "version_count": 3, "created_at": BEGAN}
                for d in days
            ],
        )
        yield (
            "bento_version",
            [{"bento_id": d, "version_id": (d - 1) * self.models + m + 1} for d in days for m in range(3)],
        )
        runs = range(1, self.experiments + 1)
        yield "experiment", [
            {"id": x, "name": f"experiment_{x}", "layer": "page", "state": "draft", "config": {}, "digest": "x", "created_at": BEGAN}
            for x in runs
        ]  # fmt: skip
        yield (
            "experiment_state",
            [
                {"experiment_id": x, "state": "running", "at": BEGAN, "by": "bench", "reason": NOTE}
                for x in runs
            ],
        )
        arms = [(2 * x + a - 1, x, a) for x in runs for a in range(2)]
        yield (
            "arm",
            [
                {
                    "id": arm,
                    "experiment_id": x,
                    "name": ("control", "treated")[a],
                    "position": a,
                    "requested": {},
                }
                for arm, x, a in arms
            ],
        )
        yield "binding", [
            {"arm_id": arm, "parameter": "model", "version_id": self.versions - self.models * (x % 40 * 2 + a) - x % self.models}
            for arm, x, a in arms
        ]  # fmt: skip
        yield "UPDATE experiment SET state = 'running'", []
        yield (
            "readout",
            [
                {
                    "experiment_id": x,
                    "verdict": {"verdict": "inconclusive"},
                    "digest": "x",
                    "created_at": BEGAN,
                }
                for x in runs
            ],
        )


def fill(url: str, size: Size) -> None:
    """A migrated database with all rows of `size`."""
    database = Database(url)
    migrate(database)
    tables = {table.name: table for table in Base.metadata.sorted_tables}
    with database.connection() as connection:
        for name, rows in size.rows():
            if name in tables:
                connection.execute(sa.insert(tables[name]), rows)
            else:
                connection.exec_driver_sql(name)
    with database.connection() as connection:
        connection.exec_driver_sql("ANALYZE")
    database.close()


def questions(ledger: Registry, size: Size) -> dict[str, Callable[[int], object]]:
    """What is asked, each time of something else where there is something else."""
    newest = size.versions // size.models
    return {
        "explain a champion": lambda n: ledger.explain(f"model_{n % size.models}@champion"),
        "explain an arm": lambda n: ledger.explain(f"experiment_{n % size.experiments + 1}/treated"),
        "impact of one meaning of a feature": lambda n: ledger.impact(f"feature {size.meaning(n % size.features, n % size.epochs)}"),
        "impact of a feature that every version has read": lambda n: ledger.impact(f"feature feature_{n % size.features}"),
        "impact of a version": lambda n: ledger.impact(f"model_{n % size.models}/{newest - n % 50}"),
        "get by alias": lambda n: ledger.get(f"model_{n % size.models}@champion"),
        "what is live where": lambda _: ledger.live(),
        **{f"search {text}{''.join(f' ORDER BY {o}' for o in order)}": lambda _, t=text, o=order: ledger.search(t, o, 100)
           for text, order in SEARCHES},
    }  # fmt: skip


SEARCHES: list[tuple[str, tuple[str, ...]]] = [
    ("tags.team = 'v7'", ()),
    ("tags.team != 'v7'", ()),
    ("tags.team LIKE '%77%'", ()),
    ("", ("created_at DESC",)),
    ("", ("metrics.auc DESC",)),
    ("metrics.auc > 0.999", ()),
    ("metrics.auc > 0.5 AND metrics.ndcg_at_20 < 0.6", ("metrics.recall_at_200 DESC",)),
    ("params.learning_rate >= 0.05", ()),
    ("", ("params.learning_rate", "tags.team")),
    ("aliases = 'champion'", ()),
    ("features = 'feature_3'", ()),
    ("NOT features = 'f0003-01'", ("tags.day DESC",)),
    ("arms LIKE 'experiment_1%'", ()),
    ("name ILIKE '%_3' AND (version < 9 OR created_at > '2026-01-01')", ()),
    ("training_set LIKE '%99'", ("metrics.auc[split = 'test'] DESC", "tags.run")),
]
"""One of every kind that the grammar knows."""


def measure(ledger: Registry, size: Size, repeats: int) -> dict[str, dict[str, float]]:
    """p50 and p99 in milliseconds of each question, and how much an answer holds."""
    found = {}
    for name, ask in questions(ledger, size).items():
        times, answer = [], None
        for n in range(repeats + 2):  # the first two warm up
            began = time.perf_counter()
            answer = ask(n * 13)
            times.append((time.perf_counter() - began) * 1000)
        p50, p99 = np.percentile(times[2:], [50, 99])
        found[name] = {"p50": float(p50), "p99": float(p99), "things": float(things_in(answer))}
    return found


def things_in(answer: object) -> int:
    """How many versions, training sets, services, Bentos, arms and read-outs an answer holds."""
    kinds = ("versions", "training_sets", "services", "bentos", "arms", "readouts")
    held = [getattr(answer, kind, ()) for kind in kinds]
    return sum(map(len, held)) if any(held) else len(answer) if isinstance(answer, tuple) else 1


@contextlib.contextmanager
def databases(home: Path) -> Iterator[dict[str, str]]:
    """URLs by name: SQLite, and a schema of its own on PostgreSQL where MATINEE_TEST_POSTGRES says where that is."""
    urls = {"SQLite": f"sqlite:///{home}/registry.db"}
    if not (server := os.environ.get("MATINEE_TEST_POSTGRES")):
        yield urls
        return
    engine, schema = sa.create_engine(server, isolation_level="AUTOCOMMIT"), f"bench_{os.getpid()}"
    with engine.connect() as connection:
        connection.execute(sa.schema.CreateSchema(schema))
        yield {**urls, "PostgreSQL": f"{server}?options=-csearch_path%3D{schema}"}
        connection.execute(sa.schema.DropSchema(schema, cascade=True))
    engine.dispose()


def main() -> None:
    """Measure, print, and end with RESULT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=550)
    parser.add_argument("--experiments", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=30)
    asked = parser.parse_args()
    size = Size(asked.versions, asked.features, asked.experiments)
    results = {}
    with tempfile.TemporaryDirectory() as folder, databases(Path(folder)) as urls:
        for name, url in urls.items():
            fill(url, size)
            with open_registry(url, str(Path(folder) / "artifacts")) as ledger:
                results[name] = measure(ledger, size, asked.repeats)
    title = f"{size.versions:,} versions × {size.features} features × {size.experiments} experiments ({NOTE})"
    for name, found in results.items():
        rows = [[question, int(one["things"]), one["p50"], one["p99"]] for question, one in found.items()]
        print_table(f"{title}, {name}", ("question", "holds", "p50 ms", "p99 ms"), rows)
    print("RESULT " + json.dumps({"size": vars(size), "results": results}))


if __name__ == "__main__":
    main()

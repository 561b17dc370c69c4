"""Served as computed? What models were given, as the sample log has it, beside the offline computation.

The offline side is computed again from raw events into a folder of its own: stored and user × title features as of
the snapshot that was served, session features at the moment of the request.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.arithmetic import Ref, references
from feature_repo.compute import Step, offline_path, plan, run
from feature_repo.declarations import Derived, FeatureService, FeatureTable, InSession
from feature_repo.past_sessions import past_sessions
from feature_repo.session import OfLastTitle
from feature_repo.snapshot import NothingPublished, current
from feature_repo.training_set import snapshot_matrix, training_set
from matinee.comparing import Finding, Served, Tally
from matinee.context import Day
from matinee.desk import Desk
from matinee.lineage import service_record
from matinee.progress import Stage
from registry import ConsistencyRecord
from serving.samples import Sample, newest

Float32 = NDArray[np.float32]

VISIBLE_WITHIN = timedelta(seconds=1)
"""A push is seen by every process within this; a request meanwhile may or may not have seen it."""

ALL = "all"


class NothingToVerify(LookupError):
    """No request was logged that could be computed again."""

    def __init__(self, folder: Path, wanted: str) -> None:
        super().__init__(
            f"no logged request{wanted} in {folder}. Serve pages first (`matinee bento serve`): a share of them is "
            "logged, as the Bento's defaults or MATINEE_SAMPLE_SHARE say."
        )


@dataclass(frozen=True)
class Wanted:
    """Which logged requests: the newest `limit` from `since` on, of one generation, of all (`ALL`), or of the live one."""

    limit: int = 500
    since: datetime | None = None
    generation: str = ""

    def of(self, samples: Iterable[Sample]) -> list[Sample]:
        """Those among `samples`, which come newest first."""
        mine = (
            sample for sample in samples
            if self.generation in {ALL, sample.generation} and (self.since is None or sample.at >= self.since)
        )  # fmt: skip
        return list(islice(mine, self.limit))


@dataclass(frozen=True)
class Verdict:
    """What came of one service: `findings`, worst first, over `compared` values of `requests` requests.

    `in_flight` counts session values that differ by a push which was under way when the request was answered; they
    are no findings.
    """

    source: str
    service: FeatureService
    generations: tuple[str, ...]
    requests: int
    rows: int
    compared: int
    tolerance: float
    newest_request: datetime
    findings: tuple[Finding, ...]
    in_flight: int = 0

    @property
    def passed(self) -> bool:
        """Whether every value was served as computed."""
        return not self.findings

    def to_record(self) -> ConsistencyRecord:
        """As the ledger keeps it."""
        digest, found = service_record(self.service).digest, [f.to_dict() for f in self.findings]
        return ConsistencyRecord(
            self.source, digest, self.requests, self.compared, self.newest_request, found
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        plain = {
            **vars(self),
            "service": self.service.name,
            "newest_request": self.newest_request.isoformat(),
        }
        return {**plain, "passed": self.passed, "findings": [f.to_dict() for f in self.findings]}


def verify_day(day: Day, wanted: Wanted, stage: Stage, *, stored: bool = False) -> tuple[Verdict, ...]:
    """Verify what a workspace has served; with `stored`, against its computed files as they lie there.

    Raises:
        NothingToVerify: no request that is wanted was logged.
        DamagedSamples: the sample log is damaged.
    """
    samples = _logged(day, wanted)
    stage.step(0, 1, f"{len(samples):,} requests")
    verifier = Verifier(day.desk, progress=lambda step: stage.step(0, 1, f"computing {step.table.name}"))
    verdicts = verifier.verify(samples, day.workspace.offline if stored else None)
    wrong = sum(len(verdict.findings) for verdict in verdicts)
    values = sum(verdict.compared for verdict in verdicts)
    stage.note = (
        f"{values:,} values of {len(samples):,} requests, {wrong:,} features served otherwise than computed"
    )
    return verdicts


def _logged(day: Day, wanted: Wanted) -> list[Sample]:
    """Of the live generation; if none was logged of it, of the one that was logged last."""
    folder = day.workspace.root / "samples"
    if wanted.generation:
        found = wanted.of(newest(folder))
    else:
        found = (
            wanted.of(newest(folder))
            if (live := _live(day)) is None
            else replace(wanted, generation=live).of(newest(folder))
        )
        if not found and (last := next(newest(folder), None)) is not None:
            found = replace(wanted, generation=last.generation).of(newest(folder))
    if not found:
        since = "" if wanted.since is None else f" since {wanted.since.isoformat()}"
        of = f" of generation {wanted.generation}" if wanted.generation not in {"", ALL} else ""
        raise NothingToVerify(folder, of + since)
    return found


def _live(day: Day) -> str | None:
    try:
        return current(day.workspace.online)
    except NothingPublished:
        return None


@dataclass(frozen=True)
class Verifier:
    """Computes again what was served. `tolerance` (relative) holds for user × title arithmetic and nothing else."""

    desk: Desk
    tolerance: float = 0.0
    progress: Callable[[Step], None] = lambda _: None

    def verify(self, samples: Sequence[Sample], folder: Path | None = None) -> tuple[Verdict, ...]:
        """One verdict for each declared service that the samples hold, by name.

        Args:
            samples: what was served.
            folder: of computed tables, to compare with instead of computing them again.
        """
        named = {vectors.layout.service for sample in samples for vectors in sample.vectors}
        services = [s for s in self.desk.declarations.services if s.name in named]
        if folder is not None:
            return tuple(self._verdict(service, samples, folder) for service in services)
        with tempfile.TemporaryDirectory(prefix="matinee-verify-") as private:
            self._compute(services, {sample.as_of for sample in samples}, Path(private))
            return tuple(self._verdict(service, samples, Path(private)) for service in services)

    def _compute(self, services: Sequence[FeatureService], as_ofs: Iterable[datetime], folder: Path) -> None:
        """The stored tables that the services read, from raw events."""
        tables = sorted({name for service in services for name in tables_read(service)})
        steps = plan(self.desk.declarations, sorted(as_ofs), lambda _: "verify", folder, tables)
        run(
            steps, self.desk.source.name, self.desk.lake.register, threads=self.desk.threads,
            progress=self.progress,
        )  # fmt: skip

    def _verdict(self, service: FeatureService, samples: Sequence[Sample], folder: Path) -> Verdict:
        given = [(s, v) for s in samples for v in s.vectors if v.layout.service == service.name]
        tally, in_flight = Tally.of(service, self.tolerance), 0
        for as_of in sorted({s.as_of for s, _ in given}):
            of_day = [(s, v) for s, v in given if s.as_of == as_of]
            served = Served(as_of, tuple(s for s, _ in of_day), tuple(v for _, v in of_day))
            offline = self._computed(served, service, folder)
            in_flight += self._excuse(served, service, folder, offline)
            tally.add(served, offline)
        return Verdict(
            source=self.desk.source.name,
            service=service,
            generations=tuple(sorted({s.generation for s, _ in given})),
            requests=len(given),
            rows=sum(len(v.values) for _, v in given),
            compared=tally.compared,
            tolerance=self.tolerance,
            newest_request=max(s.at for s, _ in given),
            findings=tally.findings(),
            in_flight=in_flight,
        )

    def _computed(self, served: Served, service: FeatureService, folder: Path) -> Float32:
        """(N, F) in declared order."""
        of_day = replace(service, tables=tuple(t for t in service.tables if not t.of_sessions))
        spine = served.spine([served.as_of] * len(served.samples))
        made = training_set(
            spine, of_day, self.desk.declarations, folder, [served.as_of], threads=self.desk.threads
        )
        blocks = dict(_blocks(of_day, made.features))
        for table in service.tables:
            if table.of_sessions:
                blocks[table.name] = self._sessions(served, table, folder, self.desk.lake.register)
        return np.concatenate([blocks[table.name] for table in service.tables], axis=1)

    def _sessions(self, served: Served, table: FeatureTable, folder: Path,
                  events: Callable[[duckdb.DuckDBPyConnection], None]) -> Float32:  # fmt: skip
        """(N, F) of a table of sessions, each at its request's moment."""
        spine = served.spine([sample.at for sample in served.samples])
        computed = [f.computation for f in table.features if isinstance(f.computation, InSession)]
        of_titles = _Titles(self.desk, folder, served.as_of)
        return past_sessions(spine, computed, events, of_titles, self.desk.threads)[0]

    def _excuse(self, served: Served, service: FeatureService, folder: Path, offline: Float32) -> int:
        """Put what a push under way explains in place of what was computed; how many values that were.

        The plays of the last second before a request may not have reached the process that answered.
        """
        start, excused = 0, 0
        for table in service.tables:
            block = offline[:, start : start + len(table.features)]
            start += len(table.features)
            if not table.of_sessions or not len(wrong := served.rows_unlike(table, block)):
                continue
            without = self._sessions(served, table, folder, self._before_pushes)
            mended = np.setdiff1d(wrong, served.rows_unlike(table, without))
            excused += int((block[mended].view(np.uint32) != without[mended].view(np.uint32)).sum())
            block[mended] = without[mended]
        return excused

    def _before_pushes(self, connection: duckdb.DuckDBPyConnection) -> None:
        """The raw events as they would have been known had each play taken as long as a push may take."""
        self.desk.lake.register(connection)
        seconds = VISIBLE_WITHIN.total_seconds()
        connection.execute(
            "ALTER VIEW plays RENAME TO plays_as_created; CREATE VIEW plays AS SELECT * REPLACE"
            f" (created_timestamp + to_seconds({seconds}) AS created_timestamp) FROM plays_as_created"
        )


@dataclass(frozen=True)
class _Titles:
    """Stored features of titles as of one moment, whenever they are asked for."""

    desk: Desk
    folder: Path
    as_of: datetime

    def __call__(self, asked: pa.Table, refs: Sequence[Ref]) -> Float32:
        found = np.full((len(asked), len(refs)), np.nan, dtype=np.float32)
        wanted = asked["title_id"].to_numpy()
        for name in dict.fromkeys(ref.table for ref in refs):
            table = self.desk.declarations.table(name)
            ids, values = snapshot_matrix(offline_path(self.folder, name, self.as_of), table)
            rows = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
            there = ids[rows] == wanted
            for place, ref in enumerate(refs):
                if ref.table == name:
                    column = values[:, table.names.index(ref.feature)]
                    found[there, place] = column[rows[there]]
        return found


def tables_read(service: FeatureService) -> Iterator[str]:
    """The stored tables a service reads, directly, through arithmetic, or of a session's last title."""
    for table in service.tables:
        if table.stored:
            yield table.name
        for feature in table.features:
            match feature.computation:
                case Derived(expression) if not table.stored:
                    yield from (ref.table for ref in references(expression))
                case InSession(OfLastTitle(ref)):
                    yield ref.table


def _blocks(service: FeatureService, features: Float32) -> Mapping[str, Float32]:
    """Table → its columns."""
    found, start = {}, 0
    for table in service.tables:
        found[table.name] = features[:, start : start + len(table.features)]
        start += len(table.features)
    return found

"""The ledger as data engineers use it: one object, one method per thing to record, ask or move."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import sqlalchemy as sa

from registry import (
    deletion,
    deployment,
    documents,
    fsck,
    outbox,
    promotion,
    reading,
    recording,
    registration,
    search,
    tracing,
)
from registry.artifacts import ArtifactStore
from registry.canonical import JSON
from registry.database import Database, migrate
from registry.edges import KnownEdges
from registry.errors import ArtifactRefused, InvalidRecord
from registry.findings import FsckReport
from registry.lineage import Lineage
from registry.media import check_path
from registry.outbox import Event
from registry.promotion import ANYWHERE, Expected
from registry.records import (
    BentoRecord,
    ConsistencyRecord,
    ExperimentRecord,
    FeatureRecord,
    GateRecord,
    Metric,
    ServiceRecord,
    TrainingSetRecord,
    VersionDraft,
    check_pair,
)
from registry.refs import parse_ref
from registry.results import (
    AliasMove,
    Bento,
    Consistency,
    Document,
    Experiment,
    Live,
    ModelVersion,
    Page,
    Readout,
    RegisteredModel,
)
from registry.schema import TagRow
from registry.signature import Column
from registry.states import Outcome, RunState

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The clock on the wall, in UTC."""
    return datetime.now(UTC)


def open_registry(
    url: str, artifacts: str, *, clock: Clock = utc_now, protected: Sequence[str] = ("champion",)
) -> Registry:
    """Open the ledger at a database URL, bringing its schema up to date first.

    Args:
        url: `sqlite:///path/to/registry.db` or `postgresql+psycopg://…`.
        artifacts: a folder, or any URL fsspec understands.
        clock: what time it is; every row says when it was made.
        protected: aliases that move on evidence only.
    """
    database = Database(url)
    migrate(database)
    return Registry(database, ArtifactStore(artifacts), clock, frozenset(protected))


class Registry:
    """The ledger. Every method is one transaction: all of it happens, or none.

    A reference (`ref`) is `ranker/3`, `ranker@champion`, or `ranker` for its newest version. Recording is
    idempotent: the same value again changes nothing, so a day's pipeline can be repeated without harm.
    """

    def __init__(
        self, database: Database, artifacts: ArtifactStore, clock: Clock, protected: frozenset[str]
    ) -> None:
        self._database = database
        self._artifacts = artifacts
        self._clock = clock
        self._protected = protected
        self._edges = KnownEdges()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the database's connections back."""
        self._database.close()

    # --- what comes before a model ---------------------------------------------------------------------

    def record_features(self, features: Sequence[FeatureRecord]) -> None:
        """Record features by digest. Raises `DefinitionConflict` where a digest means something else already."""
        with self._database.write() as session:
            recording.record_features(session, features, self._clock())

    def record_service(self, service: ServiceRecord) -> str:
        """Record a feature service and return its digest. Raises `NotRecorded` for an unknown feature."""
        with self._database.write() as session:
            recording.record_service(session, service, self._clock())
        return service.digest

    def record_training_set(self, training_set: TrainingSetRecord) -> None:
        """Record a training set. Raises `NotRecorded`, `DefinitionConflict`."""
        with self._database.write() as session:
            recording.record_training_set(session, training_set, self._clock())

    def features(self, digests: Sequence[str]) -> dict[str, FeatureRecord]:
        """The features among some digests (32,000 at most) that are recorded, by digest."""
        with self._database.read() as session:
            return reading.features(session, digests)

    def service(self, digest: str) -> ServiceRecord:
        """The feature service with a digest. Raises `NotRecorded`."""
        with self._database.read() as session:
            return reading.service(session, digest)

    def training_set(self, digest: str) -> TrainingSetRecord:
        """The training set with a digest. Raises `NotRecorded`."""
        with self._database.read() as session:
            return reading.training_set(session, digest)

    def record_gate(self, gate: GateRecord) -> None:
        """Record the gate's verdict on one table; the newest on a table and `as_of` is the one that counts."""
        with self._database.write() as session:
            recording.record_gate(session, gate, self._clock())

    def gates(self, source: str, as_of: datetime) -> dict[str, GateRecord]:
        """The gate's newest verdict on each table of a source and `as_of`, by table."""
        with self._database.read() as session:
            return reading.gates(session, source, as_of)

    def record_consistency(self, verdict: ConsistencyRecord) -> None:
        """Record whether a service's features are served as computed. Raises `NotRecorded` for an unknown service.

        While the newest verdict on a source and a service of that name has findings, no version that reads a
        feature found may take a protected alias.
        """
        with self._database.write() as session:
            recording.record_consistency(session, verdict, self._clock())

    def consistency(self, source: str) -> dict[str, Consistency]:
        """The newest consistency verdict on each service of a source, by the service's name."""
        with self._database.read() as session:
            return reading.consistency(session, source)

    # --- model versions --------------------------------------------------------------------------------

    def register(self, draft: VersionDraft) -> ModelVersion:
        """Register a model version: files into the store first, then everything else in one transaction.

        The same contents, configuration and lineage again give the version there is: no new number, and the
        metrics, documents and tags recorded first stay (see `log_metrics`, `add_documents`, `tag`).

        Raises:
            ArtifactRefused: a pickle, a link, a path with `..`, or bytes that are not what the name says.
            NotRecorded: the training set, a service or a version it stands behind was not recorded before.
        """
        if not draft.files:
            raise InvalidRecord(f"model {draft.name!r}: a version without files could never be loaded.")
        documents.check_documents(draft.documents)
        contents = {check_path(path): self._artifacts.put(held, path) for path, held in draft.files.items()}
        beside = {name: self._artifacts.put(held, name) for name, held in draft.documents.items()}
        with self._database.referring() as session:
            for path, artifact in contents.items():
                self._artifacts.keep(artifact, draft.files[path], path)
            for name, artifact in beside.items():
                self._artifacts.keep(artifact, draft.documents[name], name)
            row_id = registration.register(session, draft, contents, beside, self._clock())
            return reading.by_ids(session, [row_id])[0]

    def get(self, ref: str) -> ModelVersion:
        """The version a reference means. Raises `NotRecorded`, naming what there is."""
        with self._database.read() as session:
            return reading.model_version(session, parse_ref(ref))

    def columns(self, ref: str) -> dict[str, tuple[Column, ...]]:
        """Every input of a version by name, and the feature behind each of its columns, in order."""
        with self._database.read() as session:
            return reading.columns(session, reading.version(session, parse_ref(ref)))

    def search(
        self, query: str = "", order_by: Sequence[str] = (), limit: int = 100, page_token: str | None = None
    ) -> Page:
        """The versions a query holds for, a page at a time; all of them, by name and newest first, without one.

        Args:
            query: for instance `metrics.recall_at_200 > 0.3 and tags.source = 'kuairand'` (`search.lark`).
            order_by: sort keys such as `metrics.recall_at_200 DESC`; what a version lacks sorts last.
            limit: how many on a page, 1 to 1000.
            page_token: `next_page_token` of the page before.

        Raises:
            QuerySyntax: shows where, with a caret, and what was expected there.
            InvalidPageToken: it belongs to another query or order.
        """
        with self._database.read() as session:
            return search.search(session, query, order_by, limit, page_token)

    def models(self) -> tuple[RegisteredModel, ...]:
        """Every model by name, with its newest version and its aliases."""
        with self._database.read() as session:
            return reading.models(session)

    def fetch(self, ref: str, destination: Path) -> Path:
        """Write the files of a version under `destination`, each checked against its digest; returns it.

        Raises:
            ArtifactCorrupt: stored bytes have changed.
            ArtifactRefused: `destination` holds files that are not this version's.
        """
        version = self.get(ref)
        expected = {destination / file.path for file in version.files}
        if strangers := {path for path in destination.rglob("*") if not path.is_dir()} - expected:
            raise ArtifactRefused(
                f"{destination} holds files that are not of {version.ref}, among them {min(strangers).name!r}. "
                "Give a folder of its own, so that two versions never mix."
            )
        for file in version.files:
            self._artifacts.materialize(file.sha256, destination / check_path(file.path))
        return destination

    def read(self, ref: str, path: str) -> bytes:
        """One file of a version, checked against its digest. Raises `NotRecorded`, `ArtifactCorrupt`."""
        return self._artifacts.read(reading.file_digest(self.get(ref), path))

    def add_documents(self, ref: str, given: Mapping[str, bytes]) -> tuple[Document, ...]:
        """Set documents beside a version, and say which it has now; the same again changes nothing.

        Raises:
            ArtifactRefused: a name, a kind, a size or a number of documents that does not go.
            DefinitionConflict: there is a document of that name with other bytes; documents do not change.
        """
        documents.check_documents(given)
        contents = {name: self._artifacts.put(held, name) for name, held in given.items()}
        with self._database.referring() as session:
            for name, artifact in contents.items():
                self._artifacts.keep(artifact, given[name], name)
            row = reading.version(session, parse_ref(ref), lock=True)
            documents.add(session, row, contents, self._clock())
            session.flush()
            return documents.beside(session, row)

    def documents(self, ref: str) -> tuple[Document, ...]:
        """What stands beside a version, by name. Raises `NotRecorded`."""
        with self._database.read() as session:
            return documents.beside(session, reading.version(session, parse_ref(ref)))

    def document(self, ref: str, name: str) -> bytes:
        """One document of a version, checked against its digest. Raises `NotRecorded`, `ArtifactCorrupt`."""
        with self._database.read() as session:
            found = documents.one(session, reading.version(session, parse_ref(ref)), name)
        return self._artifacts.read(found.sha256)

    def fetch_documents(self, ref: str, destination: Path) -> tuple[Path, ...]:
        """Write the documents of a version into `destination`, over older ones; their paths. Raises as `document`."""
        return tuple(
            self._artifacts.materialize(document.sha256, destination / document.name)
            for document in self.documents(ref)
        )

    def log_metrics(self, ref: str, metrics: Sequence[Metric]) -> ModelVersion:
        """Add metrics to a version. Raises `DefinitionConflict` where one is recorded with another value."""
        with self._database.write() as session:
            row = reading.version(session, parse_ref(ref))
            registration.add_metrics(session, row, metrics, self._clock())
            session.flush()
            return reading.by_ids(session, [row.id])[0]

    def tag(self, ref: str, key: str, value: str | None) -> None:
        """Set a tag, or remove it with None."""
        check_pair(key, value or "")
        with self._database.write() as session:
            row = reading.version(session, parse_ref(ref))
            if value is None:
                session.execute(sa.delete(TagRow).where(TagRow.version_id == row.id, TagRow.key == key))
            else:
                session.merge(TagRow(version_id=row.id, key=key, value=value))

    def delete(self, ref: str) -> None:
        """Delete a version by number. Raises `StillReferenced` with the list of what refers to it."""
        with self._database.write() as session:
            deletion.delete_version(session, parse_ref(ref), self._clock())

    def delete_model(self, name: str) -> None:
        """Delete a model without versions; should the name return, its numbers go on. Raises `StillReferenced`."""
        with self._database.write() as session:
            deletion.delete_model(session, name, self._clock())

    # --- aliases ---------------------------------------------------------------------------------------

    def promote(
        self,
        ref: str,
        alias: str = "champion",
        *,
        expect: Expected = ANYWHERE,
        by: str,
        reason: str,
        evidence: Mapping[str, JSON] | None = None,
    ) -> ModelVersion:
        """Point an alias at a version.

        Args:
            ref: the version that is to have it.
            alias: the alias; a protected one (`champion`) wants metrics, a training set whose tables passed the gate,
                and that no feature it reads was last found to be served otherwise than computed.
            expect: the number it stands on now, None for nowhere: compare-and-set. Left out: from anywhere.
            by: who moves it.
            reason: why.
            evidence: anything to keep beside the metrics and gate reports that history records by itself.

        Raises:
            AliasMoved: the alias is not where `expect` says.
            NoEvidence: names what is missing.
        """
        target = parse_ref(ref)
        protected = alias in self._protected
        with self._database.write() as session:
            promotion.promote(
                session,
                target,
                alias,
                expect=expect,
                protected=protected,
                by=by,
                reason=reason,
                evidence=evidence or {},
                at=self._clock(),
            )
            return reading.model_version(session, parse_ref(f"{target.name}@{alias}"))

    def rollback(self, name: str, alias: str = "champion", *, by: str, reason: str) -> ModelVersion:
        """Take back an alias's last move; again, the one before. Raises `NothingToRollBack`."""
        with self._database.write() as session:
            promotion.rollback(session, name, alias, by=by, reason=reason, at=self._clock())
            return reading.model_version(session, parse_ref(f"{name}@{alias}"))

    def remove_alias(self, name: str, alias: str, *, by: str, reason: str) -> None:
        """Take an alias away; its history stays."""
        with self._database.write() as session:
            promotion.remove(session, name, alias, by=by, reason=reason, at=self._clock())

    def alias_history(self, name: str, alias: str = "champion") -> tuple[AliasMove, ...]:
        """Every move of an alias, oldest first: when, who, from, to, why, on what evidence."""
        with self._database.read() as session:
            return promotion.history(session, name, alias)

    # --- where versions go to work ---------------------------------------------------------------------

    def record_bento(self, bento: BentoRecord) -> Bento:
        """Record a built Bento and the versions in it, pinned. Raises `NotRecorded`, `DefinitionConflict`."""
        with self._database.write() as session:
            return deployment.record_bento(session, bento, self._clock())

    def record_experiment(self, experiment: ExperimentRecord, *, by: str) -> Experiment:
        """Record an experiment as a draft. Raises `ExperimentState` while another of its name is open."""
        with self._database.write() as session:
            deployment.record_experiment(session, experiment, by=by, at=self._clock())
            return deployment.experiments(session, [experiment.name])[-1]

    def start_experiment(self, name: str, *, by: str, reason: str = "") -> Experiment:
        """Start it: what its arms refer to is pinned to version numbers now. Raises `ExperimentState`."""
        with self._database.write() as session:
            deployment.start_experiment(session, name, by=by, reason=reason, at=self._clock())
            session.expire_all()
            return deployment.experiments(session, [name])[-1]

    def stop_experiment(self, name: str, *, by: str, reason: str = "") -> Experiment:
        """Stop it; the name may be used again, and what came of it said later. Raises `ExperimentState`."""
        with self._database.write() as session:
            deployment.stop_experiment(session, name, by=by, reason=reason, at=self._clock())
            session.expire_all()
            return deployment.experiments(session, [name])[-1]

    def conclude_experiment(self, name: str, outcome: Outcome, *, by: str, reason: str = "") -> Experiment:
        """Say what came of its newest run, launched or killed, for good; one that runs stops by it. Raises `ExperimentState`."""
        with self._database.write() as session:
            deployment.conclude_experiment(session, name, outcome, by=by, reason=reason, at=self._clock())
            session.expire_all()
            return deployment.experiments(session, [name])[-1]

    def experiments(
        self, names: Sequence[str] | None = None, *, state: RunState | None = None
    ) -> tuple[Experiment, ...]:
        """Every run of the experiments called `names` (None: of all), oldest first, whole; those in `state` if it is given."""
        with self._database.read() as session:
            return deployment.experiments(session, names, state)

    def record_readout(self, experiment: str, verdict: Mapping[str, JSON]) -> Readout:
        """Record what came out of the newest run of an experiment. Raises `NotRecorded`, `ExperimentState`."""
        with self._database.write() as session:
            return deployment.record_readout(session, experiment, verdict, self._clock())

    def readouts(self, experiment: str) -> tuple[Readout, ...]:
        """Every read-out of an experiment, oldest first."""
        with self._database.read() as session:
            return deployment.readouts(session, experiment)

    def live(self) -> tuple[Live, ...]:
        """Which version is live where: behind an alias, in the newest Bento of a name, in a running arm."""
        with self._database.read() as session:
            return deployment.live(session)

    # --- what happened ---------------------------------------------------------------------------------

    def events(self, after: int = 0, limit: int = 100, kinds: Sequence[str] = ()) -> tuple[Event, ...]:
        """What happened to the ledger, oldest first; whoever reads on from the last id seen misses nothing.

        Args:
            after: the last id already seen.
            limit: how many at most, 1 to 1000.
            kinds: the kinds wanted (`registry.outbox.Kind`); of every kind without one.

        Raises:
            InvalidRecord: a kind there is not, or a limit out of bounds.
        """
        with self._database.read() as session:
            return outbox.events(session, after, limit, kinds)

    # --- the chain, both ways --------------------------------------------------------------------------

    def explain(self, target: str | int) -> Lineage:
        """Where something comes from, from raw events on, and where its versions serve.

        Args:
            target: a version (`ranker@champion`), an arm (`experiment/arm`), `experiment NAME`, or a read-out
                (its id, or `readout 7`). Of an experiment's runs the newest is meant.

        Raises:
            NotRecorded: the ledger has no such thing.
        """
        with self._database.read() as session:
            return tracing.explain(session, target, self._edges)

    def impact(self, target: str) -> Lineage:
        """Everything that something reaches: services, training sets, versions, Bentos, arms, read-outs.

        Args:
            target: `feature NAME`, `service DIGEST`, `training_set DIGEST`, a version's reference, or a bare
                digest or feature name.

        Raises:
            NotRecorded: the ledger has no such thing.
        """
        with self._database.read() as session:
            return tracing.impact(session, target, self._edges)

    # --- the ledger itself -----------------------------------------------------------------------------

    def fsck(
        self,
        *,
        sweep: bool = False,
        older_than: timedelta = fsck.OLDER_THAN,
        uploads_older_than: timedelta = fsck.UPLOADS_OLDER_THAN,
        content: bool = True,
    ) -> FsckReport:
        """Check database and store together: what is lost, harmed or tampered with, and what is nobody's.

        Args:
            sweep: delete what is nobody's, unless there are errors. The store must be this ledger's alone.
            older_than: leave out orphans younger than this, by the store's own clock; they may be about to be recorded.
            uploads_older_than: files sent ahead count as somebody's for this long.
            content: read and hash every artifact; otherwise only look that it is there, of the right size.

        Raises:
            InvalidRecord: an age below zero.
        """
        if min(older_than, uploads_older_than) < timedelta(0):
            raise InvalidRecord("fsck: an age below zero would take what is not written yet for an orphan.")
        grace = fsck.Grace(self._clock(), older_than, uploads_older_than)
        return fsck.fsck(self._database, self._artifacts, grace, content=content, sweep=sweep)

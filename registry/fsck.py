"""Looking at the ledger's database and its artifact store together, and deleting what is nobody's.

A check takes no lock, so it looks in an order in which what others do meanwhile does not pass for damage: first at
what lies in the store, then at one state of the ledger, then at each file that state speaks of. Only what is amiss
there is looked at once more, under the lock that keeps sweeps out. A sweep decides and deletes under the ledger's lock (docs/decisions/0018).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session, contains_eager

from registry import findings, invariants, safeguards
from registry.access import UploadRow
from registry.artifacts import ArtifactStore, Entry
from registry.database import Database
from registry.deletion import referrers
from registry.errors import ArtifactCorrupt, NotRecorded
from registry.findings import Finding, FsckReport, Kind, Swept
from registry.schema import ArtifactRow, DocumentRow, FileRow, ModelRow, VersionRow

OLDER_THAN = timedelta(hours=1)
UPLOADS_OLDER_THAN = timedelta(days=1)
_WRITING = timedelta(hours=1)
"""However young orphans may be to be swept: a write that has not ended after this long never will."""
_BATCH = 500
"""Orphans deleted under one lock, so that writers get their turn in a long sweep."""


@dataclass(frozen=True)
class Grace:
    """How old something must be, at the moment `now`, before it counts as nobody's."""

    now: datetime
    older_than: timedelta = OLDER_THAN
    uploads_older_than: timedelta = UPLOADS_OLDER_THAN

    @property
    def recorded_before(self) -> datetime:
        """Rows of artifacts made after this are left alone."""
        return self.now - self.older_than

    @property
    def sent_before(self) -> datetime:
        """Uploads sent after this are as good as a reference."""
        return self.now - self.uploads_older_than

    def over(self, entry: Entry, modified: datetime | None) -> bool:
        """Whether an entry of the store is old enough; one of unknown age is not."""
        least = max(self.older_than, _WRITING) if entry.unfinished else self.older_than
        return modified is not None and modified <= self.now - least


@dataclass(frozen=True)
class _Orphans:
    entries: tuple[Entry, ...]
    rows: tuple[str, ...]
    uploads: tuple[UploadRow, ...]


def fsck(database: Database, store: ArtifactStore, grace: Grace, *, content: bool, sweep: bool) -> FsckReport:
    """Check the database and the store; with `sweep`, delete the orphans unless there are errors.

    Bytes that a damaged ledger no longer speaks of may be what it will be mended with, so then nothing is deleted.
    """
    entries = tuple(store.entries())
    with database.read() as session:
        expected = referenced(session, grace.sent_before)
        in_ledger = tuple(_of_ledger(session))
        gone = invariants.gone(session)
        rows, uploads = _unused_rows(session, grace), _stale_uploads(session, grace)
    read_bytes, in_store = _of_artifacts(database, store, grace, expected, content=content)
    adrift = [
        entry for entry in entries if entry.unfinished or (entry.sha256 and entry.sha256 not in expected)
    ]
    old = tuple(entry for entry in adrift if grace.over(entry, store.modified(entry)))
    orphans = _Orphans(old, rows, uploads)
    report = FsckReport(
        findings=(*in_ledger, *in_store, *_out_of_place(entries), *_adrift(orphans)),
        artifacts=len(expected),
        read_bytes=read_bytes,
        files=len(entries),
        young=len(adrift) - len(old),
        gone=gone,
    )
    if sweep and not report.errors:
        return replace(report, swept=_sweep(database, store, grace, orphans))
    return report


def referenced(
    session: Session, sent_after: datetime, among: Collection[str] | None = None
) -> dict[str, int]:
    """SHA-256 and size of every artifact that a version or its documents refer to, or an upload sent since; `among` some, or all."""
    of_versions = sa.select(ArtifactRow.sha256, ArtifactRow.size).where(_in_use())
    of_uploads = sa.select(UploadRow.sha256, UploadRow.size).where(UploadRow.at > sent_after)
    if among is not None:
        of_versions = of_versions.where(ArtifactRow.sha256.in_(among))
        of_uploads = of_uploads.where(UploadRow.sha256.in_(among))
    return {sha256: size for query in (of_uploads, of_versions) for sha256, size in session.execute(query)}


def _in_use() -> sa.ColumnElement[bool]:
    """Whether a version has an artifact as a file or beside it as a document."""
    return sa.or_(*(sa.exists().where(row.sha256 == ArtifactRow.sha256) for row in (FileRow, DocumentRow)))


def _of_ledger(session: Session) -> Iterator[Finding]:
    yield from safeguards.examine(session.connection())
    yield from invariants.half(session)
    yield from invariants.counters(session)
    yield from invariants.aliases(session)


def _of_artifacts(
    database: Database, store: ArtifactStore, grace: Grace, expected: Mapping[str, int], *, content: bool
) -> tuple[int, list[Finding]]:
    """Bytes read, and what is wrong with the artifacts that something refers to."""
    read_bytes, found = 0, []
    for sha256, size in sorted(expected.items()):
        read, problem = _look(store, sha256, size, content=content)
        read_bytes += read
        if problem is None:
            continue
        with (
            database.referring() as session
        ):  # its version may have been deleted, and it swept, since we looked
            _, again = _look(store, sha256, size, content=content)
            if again and referenced(session, grace.sent_before, [sha256]):
                found.append(Finding(again[0], f"artifact {sha256}", again[1], _broken(session, sha256)))
    return read_bytes, found


def _look(
    store: ArtifactStore, sha256: str, size: int, *, content: bool
) -> tuple[int, tuple[Kind, str] | None]:
    """Bytes read, and what is wrong with one artifact if anything is."""
    if not content and store.holds(sha256, size):
        return 0, None
    try:
        there, digest = store.measure(sha256)
    except NotRecorded:
        return 0, (findings.ARTIFACT_MISSING, "the store has no such file")
    except ArtifactCorrupt:
        return 0, (findings.ARTIFACT_CORRUPT, "a symlink stands in its place")
    if digest != sha256:
        return there, (
            findings.ARTIFACT_CORRUPT,
            f"its {there} bytes ({size} recorded) have the digest {digest}",
        )
    if there != size:
        return there, (findings.ARTIFACT_SIZE, f"has {there} bytes, and {size} are recorded")
    return there, None


def _broken(session: Session, sha256: str) -> tuple[str, ...]:
    """What cannot be used without an artifact: versions, what refers to them, and uploads."""
    versions = sa.select(VersionRow).join(VersionRow.model).options(contains_eager(VersionRow.model))
    holding = versions.where(sa.exists().where(FileRow.version_id == VersionRow.id, FileRow.sha256 == sha256))
    broken: list[str] = []
    for row in session.scalars(holding.order_by(ModelRow.name, VersionRow.number)):
        ref = f"{row.model.name}/{row.number}"
        broken += [ref, *(f"{ref} as {referrer}" for referrer in referrers(session, row))]
    beside = (
        sa.select(ModelRow.name, VersionRow.number, DocumentRow.name)
        .join(VersionRow, VersionRow.model_id == ModelRow.id)
        .join(DocumentRow, DocumentRow.version_id == VersionRow.id)
        .where(DocumentRow.sha256 == sha256)
        .order_by(ModelRow.name, VersionRow.number, DocumentRow.name)
    )
    broken += [f"document {name!r} of {model}/{number}" for model, number, name in session.execute(beside)]
    uploads = sa.select(UploadRow.folder + "/" + UploadRow.path).where(UploadRow.sha256 == sha256)
    return (*broken, *(f"upload {path}" for path in session.scalars(uploads)))


def _out_of_place(entries: Iterable[Entry]) -> Iterator[Finding]:
    for entry in entries:
        if entry.kind == "link":
            yield Finding(findings.LINK, entry.path, "is a symlink")
        elif not (entry.sha256 or entry.unfinished):
            yield Finding(findings.MISPLACED, entry.path, f"{entry.size} bytes under no digest of its own")


def _adrift(orphans: _Orphans) -> Iterator[Finding]:
    for entry in orphans.entries:
        kind = findings.UNFINISHED if entry.unfinished else findings.ORPHAN_FILE
        yield Finding(kind, entry.path, f"{entry.size} bytes")
    for sha256 in orphans.rows:
        yield Finding(findings.ORPHAN_ROW, f"artifact {sha256}", "a row in the ledger")
    for upload in orphans.uploads:
        yield Finding(
            findings.STALE_UPLOAD, f"upload {upload.folder}/{upload.path}", f"sent {upload.at:%Y-%m-%d %H:%M}"
        )


def _unused_rows(session: Session, grace: Grace) -> tuple[str, ...]:
    query = sa.select(ArtifactRow.sha256).where(
        ArtifactRow.created_at <= grace.recorded_before,
        ~_in_use(),
        ~sa.exists().where(UploadRow.sha256 == ArtifactRow.sha256, UploadRow.at > grace.sent_before),
    )
    return tuple(session.scalars(query.order_by(ArtifactRow.sha256)))


def _stale_uploads(session: Session, grace: Grace) -> tuple[UploadRow, ...]:
    stale = sa.select(UploadRow).where(UploadRow.at <= grace.sent_before)
    return tuple(session.scalars(stale.order_by(UploadRow.folder, UploadRow.path)))


def _sweep(database: Database, store: ArtifactStore, grace: Grace, orphans: _Orphans) -> Swept:
    """Delete orphans that still are: under the lock, files before rows, so that what a kill leaves is an orphan."""
    swept = Swept(uploads=_forget_uploads(database, grace))
    unfinished = [entry for entry in orphans.entries if entry.unfinished]
    for entry in unfinished:
        store.delete(entry)
    swept += Swept(files=len(unfinished), bytes=sum(entry.size for entry in unfinished))
    files = {entry.sha256: entry for entry in orphans.entries if entry.sha256}
    digests = sorted({*files, *orphans.rows})
    for start in range(0, len(digests), _BATCH):
        swept += _sweep_batch(database, store, grace, files, digests[start : start + _BATCH])
    return swept


def _sweep_batch(
    database: Database, store: ArtifactStore, grace: Grace, files: Mapping[str, Entry], digests: Sequence[str]
) -> Swept:
    with database.sweeping() as session:
        kept = referenced(session, grace.sent_before, digests)
        nobodys = [sha256 for sha256 in digests if sha256 not in kept]
        deleted = [files[sha256] for sha256 in nobodys if sha256 in files]
        for entry in deleted:
            store.delete(entry)
        rows = sa.delete(ArtifactRow).where(ArtifactRow.sha256.in_(nobodys)).returning(ArtifactRow.sha256)
        artifacts = len(session.scalars(rows).all())
    return Swept(len(deleted), sum(entry.size for entry in deleted), artifacts)


def _forget_uploads(database: Database, grace: Grace) -> int:
    stale = sa.delete(UploadRow).where(UploadRow.at <= grace.sent_before).returning(UploadRow.path)
    with database.sweeping() as session:
        return len(session.scalars(stale).all())

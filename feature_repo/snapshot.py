"""Snapshots of the online store: immutable generations of packed vectors, checksummed, published by rename.

Layout under the root: `snapshots/<generation>/` holds one Arrow IPC file a table, `catalogue.arrow` and, written
last, `manifest.json`; `CURRENT` names the generation that readers should map and the last write to the record it
holds, after which the delta log continues (`feature_repo.deltas`). A generation's id is its `as_of` and a digest of its
content, so equal content has the same id and nothing is ever written over; `covers` beside the content repeats the write.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.durable import sync_folder
from feature_repo.packed import pack

FORMAT = 3
PUBLISHER_WAIT_S = 60.0
_RETRY_S = 0.02
KEEP = 3
"""Generations that stay on disk, the current one among them."""

PROJECT = "matinee"
"""The Feast project whose views are served, as `feature_store.yaml` names it."""

UNKNOWN = int(np.iinfo(np.int64).min)
"""A moment or integer that is not known; as `datetime64[us]` it is NaT."""


class SnapshotError(Exception):
    """Base of what can be wrong with a snapshot."""


class NothingPublished(SnapshotError):
    """Nothing has been published under this root."""

    def __init__(self, root: Path) -> None:
        super().__init__(f"no snapshot under {root}: publish one first (`matinee features materialize`).")


class CorruptSnapshot(SnapshotError):
    """A generation whose files are missing, cut short or altered."""

    def __init__(self, folder: Path, problem: str) -> None:
        super().__init__(f"snapshot {folder.name} in {folder.parent} is not whole: {problem}.")


class PublisherBusy(SnapshotError, TimeoutError):
    """Another process is publishing under this root and did not finish in time."""

    def __init__(self, root: Path, waited_s: float) -> None:
        super().__init__(
            f"another process is publishing under {root}; gave up after {waited_s:g} s. The current snapshot stands: try"
            " again when it is done."
        )


class NotPublished(SnapshotError, OSError):
    """A generation that could not be written, as when the disk is full."""

    def __init__(self, root: Path, problem: OSError) -> None:
        super().__init__(f"no snapshot was published under {root}, and the last one still serves: {problem}.")


class OtherFormat(CorruptSnapshot):
    """A generation that another version of this program wrote."""

    def __init__(self, folder: Path, found: object) -> None:
        super().__init__(
            folder,
            f"it is written in format {found} and this version reads {FORMAT}; publish again (`matinee features"
            " materialize`)",
        )


class CorruptPointer(CorruptSnapshot):
    """`CURRENT` names nothing."""

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(path, f"it says {found[:60]!r}, which is not a generation and a number")


@dataclass(frozen=True)
class Described:
    """What a generation says of one table: everything a reader needs that is not data.

    `as_of` is the moment the table was computed for, that of the whole generation where it is None.
    """

    name: str
    entity: str
    features: tuple[str, ...]
    digests: tuple[str, ...]
    ttl_days: int
    keep: int = 1
    slo_hours: float = 30.0
    as_of: datetime | None = None


@dataclass(frozen=True)
class Vectors:
    """Float features of one entity, one row an id. Without `moments` every row is as of the whole."""

    of: Described
    ids: NDArray[np.int64]  # (n,) ascending
    values: NDArray[np.float32]  # (n, F) in declared order
    known: NDArray[np.bool_]  # (n, F) False where null
    moments: NDArray[np.int64] | None = None  # (n,) event_timestamp, µs since 1970 UTC


@dataclass(frozen=True)
class Lists:
    """One list of ids for each entity, such as a watch history. `moments` as in `Vectors`."""

    of: Described
    ids: NDArray[np.int64]  # (n,) ascending
    items: pa.ListArray  # of int64
    moments: NDArray[np.int64] | None = None  # (n,)


@dataclass(frozen=True)
class Recents:
    """The newest rows of each entity, by ascending id and then time; integers, `UNKNOWN` where null."""

    of: Described
    ids: NDArray[np.int64]  # (m,) of each row, ascending, up to `of.keep` times each
    moments: NDArray[np.int64]  # (m,) event_timestamp, µs
    created: NDArray[np.int64]  # (m,) created_timestamp, µs
    columns: tuple[NDArray[np.int64], ...]  # (m,) each, in declared order


@dataclass(frozen=True)
class Pairs:
    """Features of a user with a title: no data, only what to compute (`arithmetic.to_data`)."""

    of: Described
    expressions: tuple[Any, ...]


@dataclass(frozen=True)
class Sessions:
    """Features of the plays kept of a user at the moment of a request: no data, only what to read off (`session.to_data`).

    The `newest` plays known by then count.
    """

    of: Described
    readings: tuple[Any, ...]
    newest: int


@dataclass(frozen=True)
class Service:
    """The tables one model reads, in model order."""

    name: str
    tables: tuple[str, ...]
    description: str


@dataclass(frozen=True)
class Contents:
    """All that one generation holds.

    `catalogue` has one row a title, ascending by `title_id`: title_id, name, release_year, genres,
    available_from, artworks (ids). `sequence` is the last write to the record that is in it; it is not part of the
    generation's id.
    """

    source: str
    as_of: datetime
    vectors: tuple[Vectors, ...]
    lists: tuple[Lists, ...]
    pairs: tuple[Pairs, ...]
    services: tuple[Service, ...]
    catalogue: pa.Table
    recents: tuple[Recents, ...] = ()
    sessions: tuple[Sessions, ...] = ()
    project: str = PROJECT
    sequence: int = 0


CATALOGUE_SCHEMA = pa.schema([
    pa.field("title_id", pa.int64(), nullable=False),
    pa.field("name", pa.string(), nullable=False),
    pa.field("release_year", pa.int32()),
    pa.field("genres", pa.list_(pa.string())),
    pa.field("available_from", pa.timestamp("us", "UTC"), nullable=False),
    pa.field("artworks", pa.list_(pa.int64()), nullable=False),
])  # fmt: skip


@dataclass(frozen=True)
class Generation:
    """One published generation; `manifest` is the parsed `manifest.json`."""

    folder: Path
    manifest: Mapping[str, Any] = field(repr=False)

    @property
    def id(self) -> str:
        """The `as_of` and the first 12 hex digits of the sha256 of the content."""
        return str(self.manifest["generation"])

    @property
    def as_of(self) -> datetime:
        """Features in it were computed from what was known before this moment."""
        return datetime.fromisoformat(self.manifest["as_of"])


@dataclass(frozen=True)
class Pointer:
    """What `CURRENT` says: the generation to map, and the last write to the record that it holds."""

    generation: str
    sequence: int

    def __str__(self) -> str:
        return f"{self.generation} {self.sequence}"


def publish(root: Path, contents: Contents, keep: int = KEEP) -> Generation:
    """Write `contents` as a generation and make it the current one, atomically and durably.

    Until the pointer is replaced readers see the previous generation, afterwards this one. Publishing
    equal contents again changes nothing. Only the last `keep` generations stay. Raises as `publish_made` does.
    """
    return publish_made(root, lambda: contents, keep)


def publish_made(
    root: Path, make: Callable[[], Contents], keep: int = KEEP, wait_s: float = PUBLISHER_WAIT_S
) -> Generation:
    """As `publish`, the contents being made when no one else is publishing, so that older ones never come later.

    Raises:
        PublisherBusy: someone else was publishing for longer than `wait_s`.
        NotPublished: it could not be put on disk.
    """
    folder = root / "snapshots"
    folder.mkdir(parents=True, exist_ok=True)
    with _only_publisher(root, wait_s):
        _sweep(root)
        contents = make()
        try:
            return _published(root, contents, keep)
        except OSError as problem:
            _sweep(root)
            raise NotPublished(root, problem) from problem


def _published(root: Path, contents: Contents, keep: int) -> Generation:
    folder = root / "snapshots"
    partial = folder / f".partial-{os.getpid()}"
    partial.mkdir()
    manifest = _write_files(partial, contents)
    _write_durably(partial / "covers", f"{contents.sequence}\n".encode())
    generation = _settle(partial, folder / manifest["generation"], manifest)
    pointing = Pointer(generation.id, contents.sequence)
    _replace_durably(root / "CURRENT", f"{pointing}\n".encode())
    _prune(folder, generation.id, keep)
    return generation


def _sweep(root: Path) -> None:
    """Remove what publishers that did not come to an end have left."""
    for orphan in (root / "snapshots").glob(".partial-*"):
        shutil.rmtree(orphan)
    for orphan in root.glob(".CURRENT-*"):
        orphan.unlink()


def current(root: Path) -> str:
    """The id of the generation readers should map; raises as `pointer` does."""
    return pointer(root).generation


def pointer(root: Path) -> Pointer:
    """What `CURRENT` says.

    Raises:
        NothingPublished: nothing has been published here.
        CorruptPointer: it does not say it.
    """
    path = root / "CURRENT"
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise NothingPublished(root) from None
    except (UnicodeDecodeError, OSError) as problem:
        raise CorruptPointer(path, str(problem)) from problem
    generation, _, sequence = text.strip().partition(" ")
    if not generation or "/" in generation or not (sequence or "0").isdecimal():
        raise CorruptPointer(path, text)
    return Pointer(generation, int(sequence or 0))


def covered(folder: Path) -> int:
    """The last write to the record that the generation in `folder` holds.

    Raises:
        CorruptSnapshot: it does not say.
    """
    try:
        return int((folder / "covers").read_text())
    except (OSError, ValueError) as problem:
        raise CorruptSnapshot(folder, f"covers cannot be read ({problem})") from problem


def covers(root: Path) -> tuple[int, ...]:
    """The last write that each generation on disk holds, and the current one is said to hold."""
    found = []
    with suppress(NothingPublished, CorruptSnapshot):
        found.append(pointer(root).sequence)
    for name in generations(root):
        with suppress(CorruptSnapshot):
            found.append(covered(root / "snapshots" / name))
    return tuple(found)


def generations(root: Path) -> tuple[str, ...]:
    """Ids of the generations on disk, the newest published first."""
    folders = (path for path in (root / "snapshots").glob("[!.]*") if (path / "manifest.json").exists())
    return tuple(path.name for path in sorted(folders, key=_published_at, reverse=True))


def verified(folder: Path) -> Generation:
    """The generation in `folder`, every byte of it checked.

    Raises:
        CorruptSnapshot: a file is missing, cut short or altered.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        expected = _generation_id(manifest)
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise CorruptSnapshot(folder, f"manifest.json cannot be read ({problem})") from problem
    if manifest.get("format", FORMAT) != FORMAT:
        raise OtherFormat(folder, manifest["format"])
    if not folder.name == manifest.get("generation") == expected:
        raise CorruptSnapshot(folder, "manifest.json has been altered")
    for entry in (*manifest["tables"], manifest["catalogue"]):
        if "file" in entry and (found := _sha256(folder / entry["file"])) != entry["sha256"]:
            raise CorruptSnapshot(folder, f"{entry['file']} has been altered (sha256 {found[:12]}…)")
    return Generation(folder, manifest)


def _write_files(folder: Path, contents: Contents) -> dict[str, Any]:
    tables = [
        *(_write_vectors(folder, table, contents.as_of) for table in contents.vectors),
        *(_write_lists(folder, table, contents.as_of) for table in contents.lists),
        *(_write_recents(folder, table) for table in contents.recents),
        *(_entry(table.of, "pairs", expressions=table.expressions) for table in contents.pairs),
        *(_entry(t.of, "session", readings=t.readings, newest=t.newest) for t in contents.sessions),
    ]
    for entry in tables:
        entry["as_of"] = (entry["as_of"] or contents.as_of).astimezone(UTC).isoformat()
    catalogue = contents.catalogue.cast(CATALOGUE_SCHEMA)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "project": contents.project,
        "source": contents.source,
        "as_of": contents.as_of.astimezone(UTC).isoformat(),
        "tables": tables,
        "services": [
            {"name": s.name, "tables": s.tables, "description": s.description} for s in contents.services
        ],
        "catalogue": _write_arrow(folder / "catalogue.arrow", catalogue),
    }
    manifest["generation"] = _generation_id(manifest)
    _write_durably(folder / "manifest.json", json.dumps(manifest, indent=1).encode())
    sync_folder(folder)
    return manifest


def _write_vectors(folder: Path, table: Vectors, as_of: datetime) -> dict[str, Any]:
    """`pack` puts NaN under every null, so that readers may map the raw buffer as it is."""
    _refuse_disorder(table.of, table.ids, table.values.shape)
    moments = _moments(table.moments, len(table.ids), as_of)
    columns = pa.table({
        "id": pa.array(table.ids), "moment": moments, "values": pack(table.values, table.known),
    })  # fmt: skip
    written = _write_arrow(folder / f"{table.of.name}.arrow", columns)
    nulls = (~table.known).sum(axis=0).tolist()
    return _entry(table.of, "vectors", **written, nulls=nulls)


def _write_lists(folder: Path, table: Lists, as_of: datetime) -> dict[str, Any]:
    _refuse_disorder(table.of, table.ids, (len(table.items), 1))
    moments = _moments(table.moments, len(table.ids), as_of)
    items = table.items.cast(pa.list_(pa.int64()))
    columns = pa.table({"id": pa.array(table.ids), "moment": moments, "items": items})
    return _entry(table.of, "lists", **_write_arrow(folder / f"{table.of.name}.arrow", columns))


def _write_recents(folder: Path, table: Recents) -> dict[str, Any]:
    if len(table.ids) > 1 and not bool((np.diff(table.ids) >= 0).all()):
        raise ValueError(f"table {table.of.name!r}: ids must ascend.")
    columns = {"id": table.ids, "moment": table.moments, "created": table.created}
    columns |= {f"f:{name}": column for name, column in zip(table.of.features, table.columns, strict=True)}
    arrays = pa.table({name: pa.array(column) for name, column in columns.items()})
    return _entry(table.of, "recent", **_write_arrow(folder / f"{table.of.name}.arrow", arrays))


def _moments(moments: NDArray[np.int64] | None, count: int, as_of: datetime) -> pa.Array:
    if moments is None:
        moments = np.full(count, microseconds(as_of))
    if len(moments) != count:
        raise ValueError(f"{len(moments)} moments for {count} rows.")
    return pa.array(moments)


def microseconds(moment: datetime) -> int:
    """µs since 1970 UTC, exactly."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _refuse_disorder(of: Described, ids: NDArray[np.int64], shape: tuple[int, ...]) -> None:
    if shape != (len(ids), len(of.features)):
        wanted = (len(ids), len(of.features))
        raise ValueError(f"table {of.name!r}: values are {shape}, ids and features make it {wanted}.")
    if len(ids) > 1 and not bool((np.diff(ids) > 0).all()):
        raise ValueError(f"table {of.name!r}: ids must ascend, each once.")


def _entry(of: Described, kind: str, **more: object) -> dict[str, Any]:
    return {
        "name": of.name, "kind": kind, "entity": of.entity, "features": of.features, "digests": of.digests,
        "ttl_days": of.ttl_days, "keep": of.keep, "slo_hours": of.slo_hours, "as_of": of.as_of, **more,
    }  # fmt: skip


def _write_arrow(path: Path, table: pa.Table) -> dict[str, Any]:
    """One record batch, so that each column is one contiguous buffer in the file."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        for batch in table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], table.schema)]:
            writer.write_batch(batch)
    _sync_file(path)
    return {"file": path.name, "rows": table.num_rows, "sha256": _sha256(path)}


def _generation_id(manifest: Mapping[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "generation"}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    moment = datetime.fromisoformat(manifest["as_of"]).astimezone(UTC)
    return f"{moment:%Y-%m-%dT%H%M%SZ}-{digest[:12]}"


def _settle(partial: Path, folder: Path, manifest: Mapping[str, Any]) -> Generation:
    """Give the finished folder its name, or keep the one that is there if it is whole."""
    if folder.exists():
        try:
            generation = verified(folder)
        except CorruptSnapshot:
            shutil.rmtree(folder)
        else:
            (partial / "covers").replace(folder / "covers")
            shutil.rmtree(partial)
            os.utime(folder / "manifest.json")
            return generation
    partial.rename(folder)
    sync_folder(folder.parent)
    return Generation(folder, manifest)


def _prune(folder: Path, published: str, keep: int) -> None:
    """Remove all but the last `keep` generations; who has mapped one of them keeps the mapping."""
    others = [name for name in generations(folder.parent) if name != published]
    for name in others[max(keep - 1, 0) :]:
        shutil.rmtree(folder / name)


def _published_at(folder: Path) -> tuple[int, str]:
    try:
        return (folder / "manifest.json").stat().st_mtime_ns, folder.name
    except FileNotFoundError:  # pruned while we looked
        return 0, folder.name


@contextmanager
def _only_publisher(root: Path, wait_s: float) -> Iterator[None]:
    """Publishers take turns; the lock goes with the process, so a crash leaves none behind."""
    deadline = time.monotonic() + wait_s
    with (root / ".publishing").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise PublisherBusy(root, wait_s) from None
                time.sleep(_RETRY_S)
        yield


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise CorruptSnapshot(path.parent, f"{path.name} cannot be read ({problem})") from problem


def _replace_durably(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}-{os.getpid()}")
    _write_durably(fresh, content)
    fresh.replace(path)
    sync_folder(path.parent)


def _write_durably(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    _sync_file(path)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())

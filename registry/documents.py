"""Documents beside a version: its report page, figures, evaluation. They say how a version did, and are no part of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from registry import recording
from registry.artifacts import Artifact
from registry.errors import ArtifactRefused, DefinitionConflict, NotRecorded
from registry.media import media_type
from registry.results import Document
from registry.schema import ArtifactRow, DocumentRow, VersionRow

SUFFIXES = (".html", ".svg", ".json", ".md", ".png")
LARGEST = 8 << 20
"""Bytes in one document."""
MOST = 32
"""Documents of one version."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


def check_documents(documents: Mapping[str, bytes]) -> None:
    """Refuse what cannot stand beside a version; that the bytes are what the name says, the store sees.

    Raises:
        ArtifactRefused: a name that is no plain file name of a known kind, a document too large, or too many.
    """
    for name, content in documents.items():
        if not _NAME.fullmatch(name) or not name.endswith(SUFFIXES):
            raise ArtifactRefused(
                f"{name!r} cannot be a document of a version. Use a plain file name in lower case, at most 100 of "
                f"a-z, 0-9, '.', '_' and '-', that ends in {', '.join(SUFFIXES)}: such as 'report.html'."
            )
        if len(content) > LARGEST:
            raise ArtifactRefused(
                f"document {name!r} has {len(content):,} bytes; the limit is {LARGEST:,}. Draw fewer points, or keep "
                "the data as a file of the model."
            )
    check_number(documents)


def check_number(names: Collection[str]) -> None:
    """Refuse more documents than one version may have. Raises `ArtifactRefused`."""
    if len(names) > MOST:
        raise ArtifactRefused(f"{len(names)} documents of one version; the limit is {MOST}.")


def add(session: Session, row: VersionRow, contents: Mapping[str, Artifact], at: datetime) -> None:
    """Set documents beside a version. The same again is no change.

    Raises:
        DefinitionConflict: one of that name is there and says something else.
        ArtifactRefused: with these there would be too many.
    """
    recorded = {document.name: document.sha256 for document in beside(session, row)}
    for name in recorded.keys() & contents.keys():
        if recorded[name] != contents[name].sha256:
            raise DefinitionConflict("document", name, ["its bytes"])
    check_number(recorded.keys() | contents.keys())
    recording.insert_new(session, ArtifactRow, recording.artifact_rows(contents, at))
    session.add_all(
        DocumentRow(version_id=row.id, name=name, sha256=contents[name].sha256, created_at=at)
        for name in contents.keys() - recorded.keys()
    )


def beside(session: Session, row: VersionRow) -> tuple[Document, ...]:
    """The documents of a version by name. What kind each is its name says: the same bytes may be filed as another."""
    query = (
        sa.select(DocumentRow.name, DocumentRow.sha256, ArtifactRow.size)
        .join(ArtifactRow, ArtifactRow.sha256 == DocumentRow.sha256)
        .where(DocumentRow.version_id == row.id)
        .order_by(DocumentRow.name)
    )
    return tuple(
        Document(name, media_type(name), size, sha256) for name, sha256, size in session.execute(query)
    )


def one(session: Session, row: VersionRow, name: str) -> Document:
    """One document of a version.

    Raises:
        NotRecorded: it has none of that name; says which it has.
    """
    found = {document.name: document for document in beside(session, row)}
    if name not in found:
        raise NotRecorded(f"document of {row.model.name}/{row.number}", name, found)
    return found[name]

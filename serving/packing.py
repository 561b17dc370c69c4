"""Model versions copied into a Bento, each checked against the features that are online."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from models import artifact
from serving.manifest import NEEDS, Defaults, Kind, PackedVersion, ServiceName, VersionNotPacked

VERSIONS = "versions"


class MissingDefault(ValueError):
    """A service has no version to fall back on for a kind of model that it needs."""

    def __init__(self, service: str, kind: str, versions: Mapping[str, Path]) -> None:
        super().__init__(
            f"service {service!r} needs a default {kind}. Versions given: {', '.join(sorted(versions)) or 'none'}."
        )


def pack_versions(
    service: ServiceName, versions: Mapping[str, Path], defaults: Defaults, context: Path
) -> tuple[PackedVersion, ...]:
    """Copy `versions` (pinned ref → artifact folder) into `context`, ordered by ref.

    Raises:
        MissingDefault: the service needs a kind of model for which `defaults` names none.
        VersionNotPacked: `defaults` names a version that is not given.
        ArtifactError: a folder is no model.
    """
    refs = defaults.refs()
    for kind in NEEDS[service]:
        if kind not in refs:
            raise MissingDefault(service, kind, versions)
        if refs[kind] not in versions:
            raise VersionNotPacked(kind, refs[kind], "the defaults", versions)
    return tuple(_packed(ref, versions[ref], context) for ref in sorted(versions))


def _packed(ref: str, source: Path, context: Path) -> PackedVersion:
    folder = f"{VERSIONS}/{ref}"
    digest = artifact.digest(source)
    shutil.copytree(source, context / folder)
    return PackedVersion(ref=ref, kind=_kind(source), digest=digest, folder=folder)


def _kind(source: Path) -> Kind:
    kind: Kind = json.loads((source / artifact.MANIFEST).read_text("utf-8"))["kind"]
    if kind not in get_args(Kind):
        raise artifact.ArtifactError(source, f"is a {kind!r}; a Bento holds {', '.join(get_args(Kind))}.")
    return kind

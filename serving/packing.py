"""Model versions copied into a Bento, each with what it reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import get_args

from models import artifact
from serving.manifest import REQUIRES, Defaults, Kind, PackedVersion, ServiceName, VersionNotPacked
from serving.versions import Models, load, reads

VERSIONS = "versions"
Frameworks = Mapping[str, Mapping[str, str]]
"""Pinned ref → library → version."""
NOT_RECORDED: Frameworks = MappingProxyType({})


class MissingDefault(ValueError):
    """There is no default version of the kind of model that a service cannot do without."""

    def __init__(self, service: str, kind: str, versions: Mapping[str, Path]) -> None:
        super().__init__(
            f"service {service!r} needs a default {kind}. Versions given: {', '.join(sorted(versions)) or 'none'}."
        )


def pack_versions(
    service: ServiceName,
    versions: Mapping[str, Path],
    defaults: Defaults,
    context: Path,
    frameworks: Frameworks = NOT_RECORDED,
) -> tuple[PackedVersion, ...]:
    """Copy `versions` (pinned ref → artifact folder) into `context`, ordered by ref.

    `frameworks` says which libraries made each version, where that is known.

    Raises:
        MissingDefault: `defaults` names no model of the kind that the service cannot do without.
        VersionNotPacked: `defaults` names a version that is not given.
        ArtifactError: a folder is not one whole model.
    """
    refs = defaults.refs()
    if REQUIRES[service] not in refs:
        raise MissingDefault(service, REQUIRES[service], versions)
    for kind, ref in refs.items():
        if ref not in versions:
            raise VersionNotPacked(kind, ref, "the defaults", versions)
    packed = [_copied(ref, versions[ref], context) for ref in sorted(versions)]
    trained_on = reads(load(packed, context, Models()))
    return tuple(
        version.model_copy(
            update={"reads": trained_on[version.ref], "framework": dict(frameworks.get(version.ref, {}))}
        )
        for version in packed
    )


def _copied(ref: str, source: Path, context: Path) -> PackedVersion:
    folder = f"{VERSIONS}/{ref}"
    shutil.copytree(source, context / folder)
    return PackedVersion(ref=ref, kind=_kind(source), digest=artifact.digest(source), folder=folder, reads={})


def _kind(source: Path) -> Kind:
    kind: Kind = json.loads((source / artifact.MANIFEST).read_text("utf-8"))["kind"]
    if kind not in get_args(Kind):
        raise artifact.ArtifactError(source, f"is a {kind!r}; a Bento holds {', '.join(get_args(Kind))}.")
    return kind

"""Model versions copied into a Bento, each with what it reads."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from serving.manifest import REQUIRES, Defaults, PackedVersion, ServiceName, VersionNotPacked
from serving.versions import Models, described, kind_of, load

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
    packed = [_copied(ref, versions[ref], context, frameworks.get(ref, {})) for ref in sorted(versions)]
    load(packed, context, Models())  # each is one whole model
    return tuple(packed)


def _copied(ref: str, source: Path, context: Path, framework: Mapping[str, str]) -> PackedVersion:
    folder = f"{VERSIONS}/{ref}"
    kind_of(source)
    shutil.copytree(source, context / folder)
    return described(ref, context / folder, framework).model_copy(update={"folder": folder})

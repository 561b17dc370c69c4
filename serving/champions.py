"""The champions as the ledger has them now, published for services that run: versions that stand where a Bento's defaults stood."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from feature_repo.durable import replace_file
from serving.manifest import Kind, Manifest, PackedVersion


class ChampionNotHere(LookupError):
    """A champion is neither in the Bento nor where the workspace is said to hold its files."""

    def __init__(self, ref: str, folder: Path, held: Iterable[str]) -> None:
        super().__init__(
            f"champion {ref!r} is not in this Bento, which holds {', '.join(sorted(held)) or 'nothing'}, and its files are "
            f"not in {folder}. Promote it again to publish them, or build and serve a Bento with that version."
        )


class AnotherLedger(ValueError):
    """The Bento and the champions' file mean different versions by one reference."""

    def __init__(self, ref: str, packed: str, published: str) -> None:
        super().__init__(
            f"champion {ref} is {published[:12]}…, and {packed[:12]}… in this Bento: they come of different ledgers. "
            "Build and serve a Bento of this workspace."
        )


class Champions(BaseModel):
    """At most one version of each kind. Their folders lie in the workspace."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    versions: tuple[PackedVersion, ...] = Field((), description="folders relative to the workspace")

    @model_validator(mode="after")
    def _one_a_kind_inside_the_workspace(self) -> Self:
        for kind, number in Counter(version.kind for version in self.versions).items():
            if number > 1:
                raise ValueError(f"{number} champions are {kind}s; a kind has one.")
        for version in self.versions:
            folder = PurePosixPath(version.folder)
            if folder.is_absolute() or ".." in folder.parts:
                raise ValueError(
                    f"champion {version.ref}: its folder {version.folder!r} leaves the workspace."
                )
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """The value in a file; no file means that a Bento's defaults hold."""
        return cls.model_validate_json(path.read_bytes()) if path.exists() else cls()

    def write(self, path: Path) -> None:
        """Replace the file at `path` in one step."""
        replace_file(path, self.model_dump_json(indent=1) + "\n")

    def over(self, manifest: Manifest, kinds: Iterable[Kind], home: Path) -> Manifest:
        """What `manifest` becomes where these champions, of the `kinds` a service uses, are its defaults.

        A champion that the Bento does not hold is one more version, in its folder under `home`.

        Raises:
            ChampionNotHere: its files are nowhere.
            AnotherLedger: the Bento holds something else under its reference.
        """
        mine = [version for version in self.versions if version.kind in kinds]
        packed = {version.ref: version for version in manifest.versions}
        brought = []
        for version in mine:
            if (held := packed.get(version.ref)) is None:
                brought.append(_in_place(version, home, packed))
            elif (held.kind, held.digest) != (version.kind, version.digest):
                raise AnotherLedger(version.ref, held.digest, version.digest)
        defaults = manifest.defaults.model_copy(update={version.kind: version.ref for version in mine})
        return manifest.model_copy(update={"versions": (*manifest.versions, *brought), "defaults": defaults})


def _in_place(version: PackedVersion, home: Path, held: Iterable[str]) -> PackedVersion:
    folder = home / version.folder
    if not folder.is_dir():
        raise ChampionNotHere(version.ref, folder, held)
    return version.model_copy(update={"folder": str(folder.resolve())})

"""Packing a service, its sources and its model versions into a Bento, under a digest of all of it."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import bentoml
from bentoml._internal.bento import BentoStore
from bentoml._internal.configuration.containers import BentoMLContainer

from feature_repo.reader import OnlineReader
from serving.manifest import MANIFEST, NEEDS, Defaults, Manifest, ServiceName
from serving.packing import NOT_RECORDED, Frameworks, pack_versions
from serving.versions import check

PACKAGES = ("serving", "models", "experiments", "feature_repo", "events", "validations")
"""Our packages that a Bento carries as sources: serving, and all that these import."""
_ENTRY = {name: f"serving.service:{name.capitalize()}" for name in NEEDS}


@dataclass(frozen=True)
class BuiltBento:
    """A Bento in its store. `digest` (sha256) covers sources, requirements, versions and manifest."""

    tag: str
    digest: str
    path: Path
    manifest: Manifest
    reused: bool


class UnknownService(LookupError):
    """There is no such service to build."""

    def __init__(self, service: str) -> None:
        super().__init__(f"no service {service!r}. There are: {', '.join(NEEDS)}.")


def build(
    service: ServiceName,
    versions: Mapping[str, Path],
    defaults: Defaults,
    home: Path,
    bento_store: Path,
    frameworks: Frameworks = NOT_RECORDED,
) -> BuiltBento:
    """Build `service` with `versions` (pinned ref → artifact folder) into `bento_store` (a BENTOML_HOME).

    `frameworks` says which libraries made each version, so that a service can say when it runs with others.

    `home` is the workspace whose online features it is to be served on: a version trained on others is refused
    here already. Equal inputs give an equal digest and tag, and
    a Bento that exists is not built again.

    Raises:
        UnknownService: `service` is none of ours.
        MissingDefault, VersionNotPacked: `defaults` and `versions` do not fit the service.
        ArtifactError: a folder is not one whole model.
        FeaturesDiffer: a version reads other features than are online.
    """
    if service not in _ENTRY:
        raise UnknownService(service)
    with tempfile.TemporaryDirectory(prefix="matinee-bento-") as name:
        context = Path(name)
        reader = OnlineReader.open(home / "online")
        manifest = stage(service, versions, defaults, reader, context, frameworks)
        digest = folder_digest(context)
        tag = f"{service}:{digest[:16]}"
        path = bento_store / "bentos" / service / digest[:16]
        if (path / "bento.yaml").exists():
            return BuiltBento(tag, digest, path, manifest, reused=True)
        _build(service, digest, context, bento_store)
    return BuiltBento(tag, digest, path, manifest, reused=False)


def stage(
    service: ServiceName,
    versions: Mapping[str, Path],
    defaults: Defaults,
    reader: OnlineReader,
    context: Path,
    frameworks: Frameworks = NOT_RECORDED,
) -> Manifest:
    """Lay out in `context` all that the Bento will hold."""
    packed = pack_versions(service, versions, defaults, context, frameworks)
    check(packed, reader)
    manifest = Manifest(service=service, versions=packed, defaults=defaults)
    (context / MANIFEST).write_text(manifest.model_dump_json(indent=1), "utf-8")
    (context / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements()), "utf-8")
    for package in PACKAGES:
        shutil.copytree(
            _source(package), context / package, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    return manifest


def requirements(distribution: str = "matinee") -> list[str]:
    """What `pyproject.toml` pins, without the extras."""
    return sorted(line for line in metadata.requires(distribution) or () if "extra ==" not in line)


def folder_digest(folder: Path) -> str:
    """SHA-256 (64 hex digits) over the relative path and content of every file in `folder`."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = (f"{name} {hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n" for name in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _build(service: ServiceName, digest: str, context: Path, bento_store: Path) -> None:
    with _bentoml_home(bento_store):
        bentoml.build(
            _ENTRY[service],
            name=service,
            version=digest[:16],
            labels={"digest": digest},
            description=f"matinee {service}, built from {digest}.",
            include=["**"],
            # Bounds from pyproject, not a lock: locking asks the network.
            python={"requirements_txt": "requirements.txt", "lock_packages": False},
            build_ctx=str(context),
            _bento_store=BentoStore(str(bento_store.resolve() / "bentos")),
        )


@contextmanager
def _bentoml_home(bento_store: Path) -> Iterator[None]:
    """Let BentoML work inside `bento_store` and nowhere else."""
    for name in ("bentos", "models", "envs", "tmp"):
        (bento_store / name).mkdir(parents=True, exist_ok=True)
    BentoMLContainer.bentoml_home.set(str(bento_store.resolve()))
    try:
        yield
    finally:
        BentoMLContainer.bentoml_home.reset()


def _source(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"package {package!r} is not installed beside serving.", name=package)
    return Path(spec.submodule_search_locations[0])

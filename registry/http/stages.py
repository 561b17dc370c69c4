"""MLflow's stages on our aliases. The ledger has no stages: Production is `champion`, Staging is `challenger`."""

from __future__ import annotations

from registry import promotion, reading
from registry.errors import InvalidRecord
from registry.http import catalogue
from registry.http.backend import Backend
from registry.http.mlflow_words import STAGE, STAGES, canonical_stage
from registry.refs import parse_ref
from registry.results import ModelVersion


def transition(backend: Backend, ref: str, stage: str, *, archive: bool, by: str) -> ModelVersion:
    """Move a version to a stage, and with `archive` the one that was there to Archived.

    The promotion comes first, as it is what may be refused; each step is a transaction of its own.

    Raises:
        InvalidRecord: no such stage, or `archive` where nothing is to be archived.
        NoEvidence: Production is a protected alias.
    """
    stage = canonical_stage(stage)
    alias = STAGES[stage]
    if archive and alias is None:
        raise InvalidRecord("archive_existing_versions goes with stage Staging or Production only.")
    ledger, version = backend.registry, backend.registry.get(ref)
    name, reason = version.name, f"MLflow stage {stage}"
    if alias is not None:
        before = _holder(backend, name, alias)
        ledger.promote(ref, alias, by=by, reason=reason)
        if archive and before not in {None, version.number}:
            ledger.tag(f"{name}/{before}", STAGE, "Archived")
    for other in filter(None, STAGES.values()):
        if other != alias:
            _leave(backend, version, other, by=by, reason=reason)
    ledger.tag(ref, STAGE, "Archived" if stage == "Archived" else None)
    return ledger.get(ref)


def _holder(backend: Backend, name: str, alias: str) -> int | None:
    with backend.database.read() as session:
        return catalogue.entry(session, name).model.aliases.get(alias)


def _leave(backend: Backend, version: ModelVersion, alias: str, *, by: str, reason: str) -> None:
    """Take `alias` from this version; where another version has it by now, it stays there."""
    with backend.database.write() as session:
        reading.model(session, version.name, lock=True)
        held = reading.model_version(session, parse_ref(version.ref)).aliases
        if alias in held:
            promotion.remove(session, version.name, alias, by=by, reason=reason, at=backend.clock())

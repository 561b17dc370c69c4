"""The ledger: which features made which model, which version is live where, and what came of it.

>>> import tempfile
>>> from datetime import UTC, datetime, timedelta
>>> from registry import GateRecord, Metric, TrainingSetRecord, VersionDraft, open_registry
>>> home = tempfile.TemporaryDirectory()
>>> ledger = open_registry(f"sqlite:///{home.name}/registry.db", f"{home.name}/artifacts")
>>> today = datetime(2026, 2, 5, tzinfo=UTC)
>>> ledger.record_training_set(TrainingSetRecord("9b74", "world", today - timedelta(days=7), today, 1000, as_of=today))
>>> ledger.record_gate(GateRecord("user_profile", today, passed=True, source="world"))
>>> metrics = [Metric("auc", 0.71, dataset="world", split="test")]
>>> ledger.register(VersionDraft("ranker", {"config.json": b"{}"}, metrics, training_set="9b74")).ref
'ranker/1'
>>> ledger.promote("ranker/1", expect=None, by="ada", reason="first version").aliases
('champion',)
>>> [version.ref for version in ledger.search("metrics.auc > 0.7 AND aliases = 'champion'").versions]
['ranker/1']
>>> ledger.close(); home.cleanup()
"""

from registry.artifacts import Artifact, ArtifactStore
from registry.errors import (
    AliasMoved,
    ArtifactCorrupt,
    ArtifactRefused,
    DefinitionConflict,
    ExperimentState,
    InvalidPageToken,
    InvalidRecord,
    InvalidReference,
    LedgerBusy,
    NewerLedger,
    NoEvidence,
    NothingToRollBack,
    NotRecorded,
    QuerySyntax,
    RegistryError,
    StillReferenced,
)
from registry.findings import Finding, FsckReport
from registry.ledger import Registry, open_registry
from registry.lineage import Lineage
from registry.outbox import Event
from registry.promotion import ANYWHERE
from registry.records import (
    ArmRecord,
    BentoRecord,
    ConsistencyRecord,
    ExperimentRecord,
    FeatureRecord,
    GateRecord,
    Metric,
    ServiceRecord,
    TrainingSetRecord,
    VersionDraft,
)
from registry.results import (
    AliasMove,
    Arm,
    Bento,
    Binding,
    Consistency,
    Document,
    Experiment,
    File,
    Live,
    ModelVersion,
    Page,
    Readout,
    RegisteredModel,
    StateChange,
)
from registry.signature import Column, Input, Output, Signature
from registry.states import RunState

__all__ = [
    "ANYWHERE",
    "AliasMove",
    "AliasMoved",
    "Arm",
    "ArmRecord",
    "Artifact",
    "ArtifactCorrupt",
    "ArtifactRefused",
    "ArtifactStore",
    "Bento",
    "BentoRecord",
    "Binding",
    "Column",
    "Consistency",
    "ConsistencyRecord",
    "DefinitionConflict",
    "Document",
    "Event",
    "Experiment",
    "ExperimentRecord",
    "ExperimentState",
    "FeatureRecord",
    "File",
    "Finding",
    "FsckReport",
    "GateRecord",
    "Input",
    "InvalidPageToken",
    "InvalidRecord",
    "InvalidReference",
    "LedgerBusy",
    "Lineage",
    "Live",
    "Metric",
    "ModelVersion",
    "NewerLedger",
    "NoEvidence",
    "NotRecorded",
    "NothingToRollBack",
    "Output",
    "Page",
    "QuerySyntax",
    "Readout",
    "RegisteredModel",
    "Registry",
    "RegistryError",
    "RunState",
    "ServiceRecord",
    "Signature",
    "StateChange",
    "StillReferenced",
    "TrainingSetRecord",
    "VersionDraft",
    "open_registry",
]

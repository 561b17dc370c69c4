"""The ledger: which features made which model, which version is live where, and what came of it.

>>> import tempfile
>>> from registry import Metric, VersionDraft, open_registry
>>> home = tempfile.TemporaryDirectory()
>>> ledger = open_registry(f"sqlite:///{home.name}/registry.db", f"{home.name}/artifacts")
>>> draft = VersionDraft("ranker", {"config.json": b"{}"}, metrics=[Metric("auc", 0.71, split="test")])
>>> ledger.register(draft).ref
'ranker/1'
>>> ledger.promote("ranker/1", expect=None, by="ada", reason="first version").aliases
('champion',)
>>> ledger.get("ranker@champion").number
1
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
    Experiment,
    File,
    Live,
    ModelVersion,
    Page,
    Readout,
    RegisteredModel,
    StateChange,
)

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
    "Consistency",
    "ConsistencyRecord",
    "DefinitionConflict",
    "Experiment",
    "ExperimentRecord",
    "ExperimentState",
    "FeatureRecord",
    "File",
    "Finding",
    "FsckReport",
    "GateRecord",
    "InvalidPageToken",
    "InvalidRecord",
    "InvalidReference",
    "LedgerBusy",
    "Lineage",
    "Live",
    "Metric",
    "ModelVersion",
    "NoEvidence",
    "NotRecorded",
    "NothingToRollBack",
    "Page",
    "QuerySyntax",
    "Readout",
    "RegisteredModel",
    "Registry",
    "RegistryError",
    "ServiceRecord",
    "StateChange",
    "StillReferenced",
    "TrainingSetRecord",
    "VersionDraft",
    "open_registry",
]

"""What a check of the ledger can find, as values: what is wrong, where, why it matters, and what mends it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """Whether something recorded is lost or in doubt, or only room is wasted."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Kind:
    """One kind of finding; why it matters and what mends it are the same for all of a kind."""

    name: str
    severity: Severity
    why: str
    mend: str


def _error(name: str, why: str, mend: str) -> Kind:
    return Kind(name, Severity.ERROR, why, mend)


def _warning(name: str, why: str, mend: str) -> Kind:
    return Kind(name, Severity.WARNING, why, mend)


_FROM_BACKUP = "Bring it back from a backup of the database."
_AGAIN = "Hand in the same bytes again (register them under any name: they are filed by digest), or restore the file."
_SWEEP = "`matinee models fsck --sweep` deletes it."

ARTIFACT_MISSING = _error("artifact-missing", "What refers to it cannot be loaded.", _AGAIN)
ARTIFACT_CORRUPT = _error("artifact-corrupt", "What refers to it is refused on reading.", _AGAIN)
ARTIFACT_SIZE = _error(
    "artifact-size",
    "The bytes are right and the ledger's figure is not: its row was tampered with.",
    _FROM_BACKUP,
)
LINK = _error(
    "link",
    "Whoever owns what it points to can change or delete it.",
    "Put the file or folder itself in its place.",
)
HALF = _error(
    "half", "Something recorded with it is gone, and what is left would pass for the whole.", _FROM_BACKUP
)
COUNTER_BEHIND = _error(
    "counter-behind", "The next version would take a number that is, or was, another's.",
    "Raise next_version above every number of the model; the database lets a counter go up.",
)  # fmt: skip
ALIAS_UNEXPLAINED = _error(
    "alias-unexplained", "Somebody moved it past the ledger: no one knows who, why, or on what evidence.",
    "Look where it should stand, then move it away and back with `matinee models promote`, which writes history.",
)  # fmt: skip
HISTORY_BROKEN = _error(
    "history-broken", "Moves are missing, or were slipped in: what was served when is in doubt.", _FROM_BACKUP
)
DAMAGED = _error(
    "database-damaged", "The file itself is harmed; what it answers cannot be relied on.",
    "Stop writing to it, and restore it from a backup.",
)  # fmt: skip
DANGLING = _error("dangling", "An edge of the chain leads nowhere.", _FROM_BACKUP)
NOT_VALIDATED = _error(
    "constraint-not-validated", "Rows from before it was added may break it.",
    "ALTER TABLE … VALIDATE CONSTRAINT, and mend the rows it names.",
)  # fmt: skip
UNGUARDED = _error(
    "unguarded", "Immutability rests on this trigger: rows may have been changed since it went, and can be now.",
    "Find out who removed it; compare with a backup; create it again as the migration has it.",
)  # fmt: skip
SCHEMA_DIFFERS = _error(
    "schema-differs", "Keys and constraints keep the chain whole, whoever writes.",
    "Find out who changed it, and put it back as the migrations have it.",
)  # fmt: skip
ORPHAN_FILE = _warning(
    "orphan-file", "No row speaks of it: a process was killed between storing and recording, or its version was "
    "deleted. It takes room.", _SWEEP,
)  # fmt: skip
ORPHAN_ROW = _warning("orphan-row", "No version uses it any more.", _SWEEP)
UNFINISHED = _warning("unfinished", "A process was killed while it wrote this. It takes room.", _SWEEP)
STALE_UPLOAD = _warning("stale-upload", "It was sent ahead of a version that never came.", _SWEEP)
MISPLACED = _warning(
    "misplaced", "The store never reads it there, and a sweep leaves alone what it does not know.",
    "Look at what it is, then move or delete it by hand.",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be; `breaks` are the versions, aliases, Bentos and arms it makes useless."""

    kind: Kind
    where: str
    what: str
    breaks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As it is printed for programs."""
        return {
            "kind": self.kind.name,
            "severity": self.kind.severity.value,
            "where": self.where,
            "what": self.what,
            "why": self.kind.why,
            "mend": self.kind.mend,
            "breaks": list(self.breaks),
        }


@dataclass(frozen=True)
class Swept:
    """What a sweep deleted: stored files and their bytes, rows of artifacts, uploads."""

    files: int = 0
    bytes: int = 0
    artifacts: int = 0
    uploads: int = 0

    def __add__(self, other: Swept) -> Swept:
        return Swept(
            self.files + other.files,
            self.bytes + other.bytes,
            self.artifacts + other.artifacts,
            self.uploads + other.uploads,
        )


@dataclass(frozen=True)
class FsckReport:
    """What a check looked at and what it found.

    `gone` are, by model, the numbers that were given out and have no version now. They were deleted: number and
    version are written in one transaction, so no crash leaves a gap. By whom, the ledger does not record, so a
    deletion past it looks the same; that is why they are told and not counted as findings.
    """

    findings: tuple[Finding, ...]
    artifacts: int
    """Artifacts that versions and young uploads refer to, each looked at."""
    read_bytes: int
    """Bytes that were hashed anew; 0 without `content`."""
    files: int
    """Everything that lies in the store."""
    young: int
    """Orphans left out for their age: whoever stored them may be about to record them."""
    gone: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    swept: Swept | None = None
    """None: no sweep was asked for, or there were errors."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are more than wasted room."""
        return tuple(found for found in self.findings if found.kind.severity is Severity.ERROR)

    @property
    def counts(self) -> dict[str, int]:
        """How many findings of each kind."""
        return dict(Counter(found.kind.name for found in self.findings))

    def to_dict(self) -> dict[str, Any]:
        """As it is printed for programs."""
        return {
            "findings": [found.to_dict() for found in self.findings],
            "counts": self.counts,
            "errors": len(self.errors),
            "artifacts": self.artifacts,
            "read_bytes": self.read_bytes,
            "files": self.files,
            "young": self.young,
            "gone": {model: ranges(numbers) for model, numbers in self.gone.items()},
            "swept": None if self.swept is None else vars(self.swept),
        }


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers, runs of them shortened.

    >>> ranges([1, 2, 3, 7, 9, 10])
    '1–3, 7, 9–10'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first}–{last}" for first, last in runs)

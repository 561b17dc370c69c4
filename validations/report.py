"""What the gate says of a table: frozen values that travel as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from validations.expectations import SEVERITIES, Severity

SAMPLE_SIZE = 10
"""How many offending rows a finding names at most."""


@dataclass(frozen=True)
class Sample:
    """One offending row: where it stands, its key, and the value as text (None where it is null)."""

    row: int  # 0 is the first row of the table
    key: tuple[int | str | None, ...]
    value: str | None


@dataclass(frozen=True)
class Finding:
    """One expectation that a column does not meet.

    `unexpected_share` is of all rows of the table. Both figures are None where the finding is about
    the table's shape (a column missing, one too many, the number of rows) and not about cells.
    """

    column: str
    expectation: str
    observed: str
    severity: Severity = "error"
    unexpected_count: int | None = None
    unexpected_share: float | None = None
    sample: tuple[Sample, ...] = ()

    def __str__(self) -> str:
        return f"{self.column}: expected {self.expectation}, found {self.observed}"

    def to_dict(self) -> dict[str, Any]:
        """The finding as JSON values; `from_dict` is its inverse."""
        sample = [{"row": one.row, "key": list(one.key), "value": one.value} for one in self.sample]
        return {**vars(self), "sample": sample}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild what `to_dict` wrote."""
        sample = tuple(Sample(one["row"], tuple(one["key"]), one["value"]) for one in values["sample"])
        return cls(**{**values, "sample": sample})


@dataclass(frozen=True)
class GateReport:
    """The verdict on one table at one `as_of`; it passed when no finding is an error."""

    table: str
    as_of: datetime
    contract_digest: str
    rows: int
    passed: bool
    findings: tuple[Finding, ...]
    elapsed_seconds: float
    evaluated: int  # expectations held against the table
    at: datetime | None = None  # when the gate ran
    digest: str = ""  # of the file's bytes, where it was a file
    reference: str = ""  # what drift was measured from; empty where it was not
    quarantined: int = 0  # rows set aside, which are not among `rows`
    null_shares: Mapping[str, float] = field(default_factory=dict)  # column → share of its rows, 0..1

    @property
    def worst_first(self) -> tuple[Finding, ...]:
        """The findings, the worst first."""
        return worst_first(self.findings)

    @property
    def warned(self) -> bool:
        """Whether a person should look at it although nothing stops it."""
        return any(finding.severity == "warning" for finding in self.findings)

    @property
    def summary(self) -> str:
        """One sentence for people."""
        day = self.as_of.strftime("%Y-%m-%d %H:%M UTC")
        aside = f" and {self.quarantined:,} set aside" if self.quarantined else ""
        scope = f"{self.evaluated:,} expectations, {self.rows:,} rows{aside}, as of {day}"
        if not self.findings:
            return f"{self.table} passed: {scope}."
        verdict = "failed" if not self.passed else "passed with warnings" if self.warned else "passed"
        named = "; ".join(str(finding) for finding in self.worst_first[:3])
        more = f"; and {len(self.findings) - 3} more" if len(self.findings) > 3 else ""
        return f"{self.table} {verdict} ({scope}): {named}{more}."

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values; `from_dict` is its inverse."""
        findings = [finding.to_dict() for finding in self.findings]
        return {
            **vars(self),
            "as_of": self.as_of.isoformat(),
            "at": self.at.isoformat() if self.at else None,
            "findings": findings,
            "null_shares": dict(self.null_shares),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild what `to_dict` wrote, now or before reports said when, of which bytes and against what."""
        findings = tuple(Finding.from_dict(finding) for finding in values["findings"])
        as_of, at = datetime.fromisoformat(values["as_of"]), values.get("at")
        return cls(
            **{
                **values,
                "as_of": as_of,
                "at": datetime.fromisoformat(at) if at else None,
                "findings": findings,
            }
        )


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors before warnings before infos; of one severity, what concerns more of the table first."""
    return tuple(sorted(findings, key=_badness))


def _badness(finding: Finding) -> tuple[int, float]:
    share = 1.0 if finding.unexpected_share is None else finding.unexpected_share
    return SEVERITIES.index(finding.severity), -share

"""Has a column moved since the reference: PSI, Kolmogorov–Smirnov and the share of nulls, column by column.

The first two are read off the sorted values, with no histogram in between: sorting float32 in NumPy took a tenth of
the time DuckDB's quantile and histogram aggregates took on the same columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.stats

from validations.checks import number
from validations.expectations import SEVERITIES, DriftLimits, Severity, TableContract
from validations.report import Finding

Values = npt.NDArray[np.floating[Any]] | npt.NDArray[np.integer[Any]]
Counts = npt.NDArray[np.int64]
Limited = DriftLimits | Mapping[str, DriftLimits]

BLOCK = 64
"""Values of the first sample that the Kolmogorov–Smirnov statistic looks at, or leaves out, together."""


@dataclass(frozen=True)
class Drift:
    """How far one column has moved; `ks` is None where either side has no value at all."""

    column: str
    psi: float  # nats
    psi_by_chance: float  # exceeded with probability `chance` if nothing moved
    ks: float | None  # 0..1
    ks_by_chance: float | None
    null_share: tuple[float, float]  # reference, current
    null_by_chance: float  # what the change of the null share exceeds with that probability
    median: tuple[float | None, float | None]  # reference, current

    @property
    def null_change(self) -> float:
        """How much more, or less, of the column is null than was: 0..1."""
        return abs(self.null_share[1] - self.null_share[0])

    def severity(self, limits: DriftLimits) -> Severity | None:
        """The worst that any of the three figures says, each beyond its limit and beyond chance; None: no drift."""
        found = {severity for _, severity in self.exceeded(limits)}
        return next((severity for severity in SEVERITIES if severity in found), None)

    def exceeded(self, limits: DriftLimits) -> Iterator[tuple[str, Severity]]:
        """Each figure that drifted, by name, with its severity."""
        figures = (
            ("PSI", limits.psi, self.psi, self.psi_by_chance),
            ("KS", limits.ks, self.ks, self.ks_by_chance),
            ("null share", limits.null_share, self.null_change, self.null_by_chance),
        )
        for name, limit, figure, by_chance in figures:
            if figure is not None and by_chance is not None and figure > by_chance:
                severity = limit.exceeded(figure)
                if severity is not None:
                    yield name, severity


class NothingToCompare(ValueError):
    """A table without rows, or a column that is no number or not in both tables, has no drift."""


def drifts(
    reference: pa.Table, current: pa.Table, columns: Sequence[str], limits: Limited | None = None
) -> tuple[Drift, ...]:
    """Compare the named numeric columns of two tables; NaN counts as null.

    `limits` are one for all columns, or one a column by name.

    Raises:
        NothingToCompare: if a table has no rows, or a column is missing or no number.
    """
    for side, table in (("reference", reference), ("current", current)):
        if not table.num_rows:
            raise NothingToCompare(f"the {side} table has no rows.")
        for column in columns:
            _require_numbers(side, table, column)
    return tuple(_drift(name, reference[name], current[name], _of(limits, name)) for name in columns)


def drift_findings(measured: Sequence[Drift], limits: Limited | None = None) -> Iterator[Finding]:
    """What moved further than its limits and chance allow, each column with the worst severity it reached."""
    for drift in measured:
        declared = _of(limits, drift.column)
        severity = drift.severity(declared)
        if severity is not None:
            reached = [name for name, worst in drift.exceeded(declared) if worst == severity]
            limit = {"PSI": declared.psi, "KS": declared.ks, "null share": declared.null_share}
            ks = "no values to compare" if drift.ks is None else f"KS {drift.ks:.3f}"
            yield Finding(
                drift.column,
                expectation=" and ".join(_allowed(name, limit[name].of(severity)) for name in reached),
                observed=f"PSI {drift.psi:.3f}, {ks}; {_change(drift)}",
                severity=severity,
            )


def limits_of(contract: TableContract) -> dict[str, DriftLimits]:
    """Column → how far it may move: its own declaration, or else its table's."""
    return {column.name: column.drift or contract.drift for column in contract.columns}


def comparable_columns(contract: TableContract, reference: pa.Table, current: pa.Table) -> tuple[str, ...]:
    """The declared columns besides the key that are numbers in both tables."""
    names = (column.name for column in contract.columns if column.name not in contract.key)
    return tuple(name for name in names if has_numbers(reference, name) and has_numbers(current, name))


def _of(limits: Limited | None, column: str) -> DriftLimits:
    if isinstance(limits, DriftLimits):
        return limits
    return (limits or {}).get(column, DriftLimits())


def _allowed(name: str, limit: float | None) -> str:
    match name:
        case "null share":
            return f"a null share within {limit:g} of the reference's"
        case _:
            return f"{name} at most {limit:g} from the reference"


def population_stability_index(reference: Counts, current: Counts) -> float:
    """PSI in nats between two histograms over the same bins (Siddiqi, 2006).

        PSI = Σ_b (q_b − p_b) ln(q_b / p_b)

    with p and q the shares of the reference and the current histogram. Half a row is added to every
    bin, so that a bin empty on one side counts for much and not for infinity.
    """
    p = (reference + 0.5) / (reference.sum() + 0.5 * len(reference))
    q = (current + 0.5) / (current.sum() + 0.5 * len(current))
    return float(np.sum((q - p) * np.log(q / p)))


def kolmogorov_smirnov(reference: Values, current: Values) -> float:
    """The supremum of |F − G| of two samples, each sorted and not empty.

    Between two neighbours of the first sample F is constant while G grows, so the supremum lies at, or
    just before, a value of the first sample: at x_(i), i/n − G(x_(i)) or G(x_(i)−) − (i−1)/n.
    Exact: blocks of the first sample that cannot hold the supremum are left out, the others gone through.
    """
    n, m = len(reference), len(current)
    first = np.arange(0, n, BLOCK)
    last = np.minimum(first + BLOCK, n) - 1
    below = np.searchsorted(current, reference[first], side="left") / m
    upto = np.searchsorted(current, reference[last], side="right") / m
    found = max(np.max((last + 1) / n - upto), np.max(below - first / n))
    # Over a block F rises by at most its share of rows and G from `below` to `upto`: most cannot hold more.
    open_blocks = first[np.maximum((last + 1) / n - below, upto - first / n) > found]
    at = (open_blocks[:, None] + np.arange(BLOCK)).ravel()
    at = at[at < n]
    if len(at):
        over = np.max((at + 1) / n - np.searchsorted(current, reference[at], side="right") / m)
        under = np.max(np.searchsorted(current, reference[at], side="left") / m - at / n)
        found = max(found, over, under)
    return float(found)


def _drift(name: str, reference: pa.ChunkedArray, current: pa.ChunkedArray, limits: DriftLimits) -> Drift:
    before, after = _sorted_values(reference), _sorted_values(current)
    expected = _histogram(before, before, limits.bins, len(reference))
    found = _histogram(after, before, limits.bins, len(current))
    comparable = len(before) > 0 and len(after) > 0
    return Drift(
        name,
        psi=population_stability_index(expected, found),
        psi_by_chance=_psi_by_chance(expected, found, limits.chance),
        ks=kolmogorov_smirnov(before, after) if comparable else None,
        ks_by_chance=_ks_by_chance(len(before), len(after), limits.chance) if comparable else None,
        null_share=(1 - len(before) / len(reference), 1 - len(after) / len(current)),
        null_by_chance=_share_by_chance(
            len(reference) - len(before),
            len(reference),
            len(current) - len(after),
            len(current),
            limits.chance,
        ),
        median=(_median(before), _median(after)),
    )


def _histogram(values: Values, like: Values, bins: int, rows: int) -> Counts:
    """Sorted `values` counted in bins that hold equally many of `like`, which is sorted too, ties allowing.

    Before those bins comes one for values below all of `like`, and after them one for values above,
    then the rows that are null. A value as frequent as zero often is ends a bin of its own. Where `like`
    is empty, one bin holds whatever values there are.
    """
    ranks = -(-np.arange(1, bins + 1) * len(like) // bins) - 1  # the k/bins quantile, rounded up to a value
    edges = np.unique(like[ranks]) if len(like) else like
    below = np.searchsorted(values, like[:1], side="left")
    upto = np.searchsorted(values, edges, side="right")
    return np.diff(np.concatenate(([0], below, upto, [len(values)], [rows])))


def _psi_by_chance(reference: Counts, current: Counts, chance: float) -> float:
    """What PSI exceeds with this probability between samples of one distribution.

    PSI / (1/N + 1/M) then follows χ² with one degree of freedom less than bins (Yurdakul and
    Naranjo, 2020); bins empty on both sides do not count.
    """
    freedom = int(np.count_nonzero(reference + current)) - 1
    scale = 1 / int(reference.sum()) + 1 / int(current.sum())
    return scale * float(scipy.stats.chi2.isf(chance, freedom)) if freedom else 0.0


def _ks_by_chance(n: int, m: int, chance: float) -> float:
    """What the statistic exceeds with this probability, by Smirnov's asymptotic one-term formula."""
    return math.sqrt(-math.log(chance / 2) / 2 * (n + m) / (n * m))


def _share_by_chance(some: int, n: int, others: int, m: int, chance: float) -> float:
    """What the difference of two shares exceeds with this probability, by the pooled two-proportion z-test."""
    pooled = (some + others) / (n + m)
    return float(scipy.stats.norm.isf(chance / 2)) * math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))


def _sorted_values(column: pa.ChunkedArray) -> Values:
    values = column.drop_null().to_numpy()
    if values.dtype.kind == "f":
        values = values[~np.isnan(values)]
    return np.sort(values.astype(np.int8) if values.dtype.kind == "b" else values)


def _median(values: Values) -> float | None:
    return float(np.median(values)) if len(values) else None


def has_numbers(table: pa.Table, column: str) -> bool:
    """Whether the table has this column, of values with an order and a distance; booleans are 0 and 1."""
    if column not in table.column_names:
        return False
    dtype = table.schema.field(column).type
    return bool(pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_boolean(dtype))


def _require_numbers(side: str, table: pa.Table, column: str) -> None:
    if column not in table.column_names:
        near = get_close_matches(column, table.column_names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else f" It has: {', '.join(table.column_names)}."
        raise NothingToCompare(f"the {side} table has no column {column!r}.{hint}")
    if not has_numbers(table, column):
        found = table.schema.field(column).type
        raise NothingToCompare(f"{column!r} of the {side} table is {found}, which is no number.")


def _change(drift: Drift) -> str:
    before, after = (number(median) for median in drift.median)
    lost, missing = drift.null_share
    return f"median {before} → {after}, null {lost:.1%} → {missing:.1%}"

"""Daily sufficient statistics: what one scan keeps of every arm and day, merged exactly; the rest is arithmetic.

A unit belongs to the day it was first exposed on, so days share no unit, and sizes, means and co-moments of any set of
days add up (Chan, Golub & LeVeque 1979). Quantiles keep the counts of their rounded values, which add up as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from experiments.definitions import Metric
from experiments.metrics import ArmStatistics, Statistics, covariance_key
from experiments.quantiles import OrderStatistics, order_statistics

MOMENTS = pa.schema({
    "segment": pa.string(),  # "" for all units, else attribute=value
    "arm": pa.string(), "day": pa.date32(), "first": pa.string(), "second": pa.string(), "n": pa.int64(),
    "mean_first": pa.float64(), "mean_second": pa.float64(), "comoment": pa.float64(),
})  # fmt: skip
"""A row for every pair of columns that some metric reads together, a column with itself included."""
HISTOGRAMS = pa.schema({"arm": pa.string(), "day": pa.date32(), "column": pa.string(), "value": pa.float64(), "n": pa.int64()})  # fmt: skip
TREND = "(trend)"
"""The segment under which `moments` keep units' slopes over the days since exposure, as column `slope`."""
UNITS = pa.schema({"arm": pa.string(), "day": pa.date32(), "n": pa.int64()})
TENURES = pa.schema({"arm": pa.string(), "day": pa.date32(), "tenure": pa.int32(), "total": pa.float64(), "squares": pa.float64()})  # fmt: skip


def mature_days(metric: Metric, days: Sequence[date], as_of: datetime) -> frozenset[date]:
    """The days of first exposure whose units' windows are all over at `as_of`."""
    window = 0 if metric.definition is None else metric.definition.window_days + 1
    return frozenset(d for d in days if _midnight(d) + timedelta(days=window) <= as_of)


def ready_at(metric: Metric, first_day: date) -> datetime:
    """When the units first exposed on `first_day` can be read."""
    window = 0 if metric.definition is None else metric.definition.window_days + 1
    return _midnight(first_day) + timedelta(days=window)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


@dataclass(frozen=True)
class DailyStatistics:
    """What is kept of an experiment's units; `caps` are the values at which columns were winsorised."""

    units: pa.Table
    moments: pa.Table
    histograms: pa.Table
    tenures: pa.Table
    crossovers: int = 0
    caps: Mapping[str, float] = field(default_factory=dict)

    @property
    def days(self) -> tuple[date, ...]:
        """The days on which units were first exposed."""
        return tuple(sorted(set(self.units["day"].to_pylist())))

    @property
    def segments(self) -> tuple[str, ...]:
        """The segments there are, `attribute=value`."""
        return tuple(sorted(set(self.moments["segment"].to_pylist()) - {"", TREND}))

    def statistics(self, metrics: Sequence[Metric], arms: Sequence[str], as_of: datetime) -> Statistics:
        """All days merged, each metric over the days that are mature at `as_of`; the first is also kept by segment and day."""
        exposed = [d for d in self.days if _midnight(d) < as_of]
        parts = {metric.name: mature_days(metric, exposed, as_of) for metric in metrics}
        first, mature = metrics[0], parts[metrics[0].name]
        slope = Metric(name="slope", value="slope")
        return Statistics(
            arms=self._arms(metrics, arms, exposed, parts),
            crossovers=self.crossovers,
            strangers={arm: n for arm, n in _total(self.units, exposed).items() if arm not in arms},
            segments={s: self._arms([first], arms, exposed, parts, s) for s in self.segments},
            tenures=_by_tenure(self.units, self.tenures, arms, mature),
            trend=self._arms([slope], arms, sorted(mature), {"slope": mature}, TREND) if mature else (),
            waiting={m.name: ready_at(m, min(exposed)) for m in metrics if exposed and not parts[m.name]},
        )

    def _arms(
        self,
        metrics: Sequence[Metric],
        arms: Sequence[str],
        exposed: Sequence[date],
        mature: Mapping[str, frozenset[date]],
        segment: str = "",
    ) -> tuple[ArmStatistics, ...]:
        whole = _total(self.units, exposed)
        found = {arm: _Arm(arm, whole.get(arm, 0)) for arm in arms}
        moments = self.moments.filter(pc.equal(self.moments["segment"], segment))
        for metric in metrics:
            for arm in found.values():
                arm.counts.update(dict.fromkeys(metric.columns, 0))  # while the metric waits
            if metric.quantile is None:
                _take_moments(found, moments, metric, mature[metric.name])
            elif not segment:
                _take_quantiles(found, self.histograms, metric, mature[metric.name])
        return tuple(found[arm].frozen(segment) for arm in arms)

    @classmethod
    def together(cls, parts: Sequence[DailyStatistics]) -> Self:
        """Of units that were scanned in parts, no unit in two of them; all but the first with the caps of the first."""
        units, moments, histograms, tenures = (
            pa.concat_tables(getattr(part, name) for part in parts)
            for name in ("units", "moments", "histograms", "tenures")
        )
        return cls(units, moments, histograms, tenures, sum(part.crossovers for part in parts), parts[0].caps)

    def write(self, folder: Path) -> None:
        """Four Parquet files; what is not a table is in the metadata of `units`."""
        folder.mkdir(parents=True, exist_ok=True)
        meta = {"crossovers": self.crossovers, "caps": dict(self.caps)}
        units = self.units.replace_schema_metadata({"matinee": json.dumps(meta)})
        tables = {
            "units": units,
            "moments": self.moments,
            "histograms": self.histograms,
            "tenures": self.tenures,
        }
        for name, table in tables.items():
            pq.write_table(table, folder / f"{name}.parquet")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What `write` wrote."""
        names = ("units", "moments", "histograms", "tenures")
        units, *others = (pq.read_table(folder / f"{name}.parquet") for name in names)
        meta = json.loads((units.schema.metadata or {}).get(b"matinee", b"{}"))
        return cls(units.replace_schema_metadata(None), *others, **meta)


@dataclass
class _Arm:
    """An arm's statistics while they are gathered."""

    name: str
    units: int
    counts: dict[str, int] = field(default_factory=dict)
    mean: dict[str, float] = field(default_factory=dict)
    variance: dict[str, float | None] = field(default_factory=dict)
    covariance: dict[str, float | None] = field(default_factory=dict)
    order: dict[str, OrderStatistics] = field(default_factory=dict)

    def frozen(self, segment: str = "") -> ArmStatistics:
        if segment:  # its units are those that its columns are of
            self.units = max(self.counts.values(), default=0)
        return ArmStatistics(
            arm=self.name, units=self.units, mean=self.mean, variance=self.variance, covariance=self.covariance,
            counts={c: n for c, n in self.counts.items() if n != self.units}, order=self.order,
        )  # fmt: skip


def _total(units: pa.Table, days: Sequence[date]) -> dict[str, int]:
    kept = units.filter(pc.is_in(units["day"], pa.array(days, pa.date32())))
    summed = kept.group_by("arm").aggregate([("n", "sum")])
    return dict(zip(summed["arm"].to_pylist(), summed["n_sum"].to_pylist(), strict=True))


def _by_tenure(
    units: pa.Table, tenures: pa.Table, arms: Sequence[str], mature: frozenset[date]
) -> tuple[tuple[ArmStatistics, ...], ...]:
    """For each day since first exposure the arms, over the units whose whole window is over."""
    sizes = _total(units, sorted(mature))
    rows = tenures.filter(pc.is_in(tenures["day"], pa.array(sorted(mature), pa.date32())))
    sums = rows.group_by(["arm", "tenure"]).aggregate([("total", "sum"), ("squares", "sum")]).to_pylist()
    found = {(row["arm"], row["tenure"]): (row["total_sum"], row["squares_sum"]) for row in sums}
    days = max((tenure for _, tenure in found), default=-1) + 1
    return tuple(
        tuple(_sums(arm, sizes.get(arm, 0), *found.get((arm, day), (0.0, 0.0))) for arm in arms)
        for day in range(days)
    )


def _sums(arm: str, n: int, total: float, squares: float) -> ArmStatistics:
    mean = {"value": total / n} if n else {}
    variance = {"value": max(squares - total**2 / n, 0.0) / (n - 1)} if n > 1 else {}
    return ArmStatistics(arm=arm, units=n, mean=mean, variance=variance, covariance={})


def _take_moments(
    found: Mapping[str, _Arm], moments: pa.Table, metric: Metric, days: frozenset[date]
) -> None:
    columns = pa.array(metric.columns)
    chosen = pc.and_(
        pc.is_in(moments["day"], pa.array(sorted(days), pa.date32())),
        pc.and_(pc.is_in(moments["first"], columns), pc.is_in(moments["second"], columns)),
    )
    rows = moments.filter(chosen)
    for arm, into in found.items():
        theirs = rows.filter(pc.equal(rows["arm"], arm))
        for first, second in {
            tuple(p) for p in zip(theirs["first"].to_pylist(), theirs["second"].to_pylist(), strict=True)
        }:
            _merge(
                into,
                theirs.filter(pc.and_(pc.equal(theirs["first"], first), pc.equal(theirs["second"], second))),
            )


def _merge(into: _Arm, rows: pa.Table) -> None:
    """Days of one pair of columns: n = Σn, mean = Σnm/n, C = Σ(C + n (a - ā)(b - b̄))."""
    first, second = rows["first"][0].as_py(), rows["second"][0].as_py()
    n, a, b, c = (np.asarray(rows[name]) for name in ("n", "mean_first", "mean_second", "comoment"))
    total = int(n.sum())
    mean_a, mean_b = float(n @ a) / total, float(n @ b) / total
    comoment = float(c.sum() + n @ ((a - mean_a) * (b - mean_b)))
    spread = comoment / (total - 1) if total > 1 else None
    if first == second:
        into.mean[first], into.variance[first], into.counts[first] = mean_a, spread, total
    else:
        into.covariance[covariance_key(first, second)] = spread


def _take_quantiles(
    found: Mapping[str, _Arm], histograms: pa.Table, metric: Metric, days: frozenset[date]
) -> None:
    mature = pc.is_in(histograms["day"], pa.array(sorted(days), pa.date32()))
    rows = histograms.filter(pc.and_(mature, pc.equal(histograms["column"], metric.value)))
    for arm, into in found.items():
        theirs = rows.filter(pc.equal(rows["arm"], arm))
        if len(theirs) and metric.quantile is not None:
            values, place = np.unique(np.asarray(theirs["value"]), return_inverse=True)
            counts = np.bincount(place, np.asarray(theirs["n"])).astype(np.int64)  # exact below 2**53
            into.order[metric.value] = order_statistics(values, counts, metric.quantile)
            into.counts[metric.value] = int(counts.sum())

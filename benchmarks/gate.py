"""The gate at full width beside plain Great Expectations: tables that pass, that fail in part, that fail everywhere.

Ours reads a Parquet file, holds it against its contract and writes its pages, in one process with what threads DuckDB
takes. Plain Great Expectations gets one stock expectation per column and rule over a pandas frame that is in memory
already, and writes no pages: a head start. It runs at a smaller size unless `--plain-full` is given.
The data are random numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("GX_ANALYTICS_ENABLED", "False")

import great_expectations as gx
import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from great_expectations.data_context.types.base import ProgressBarsConfig

from validations.expectations import Between, ColumnContract, DType, NullShare, TableContract
from validations.gate import Reference, check

AS_OF = datetime(2026, 3, 1, tzinfo=UTC)
AT_MOST = 0.1


@dataclass(frozen=True)
class Case:
    """A share of the columns that fail, by their range alone or by every rule there is."""

    name: str
    failing: float
    every_rule: bool = False


CASES = (
    Case("passing", 0),
    Case("10 % of columns failing", 0.1),
    Case("every column failing", 1),
    Case("every column failing every rule", 1, every_rule=True),
)


@dataclass(frozen=True)
class Took:
    """Seconds of wall clock and of CPU, best of several, and what was found."""

    wall: float
    cpu: float
    failed: frozenset[str]  # columns


def contract_of(columns: int) -> TableContract:
    """A key, and float columns that lie in 0..1 and are null in at most a tenth of rows."""
    rules = (Between(0, 1), NullShare(AT_MOST))
    floats = tuple(ColumnContract(f"f{i}", DType.FLOAT, rules) for i in range(columns))
    return TableContract("wide", ("user_id",), (ColumnContract("user_id", DType.BIGINT), *floats))


def table_of(case: Case, columns: int, rows: int, seed: int) -> pa.Table:
    """The first columns fail: half of their values too high; with every rule, some NaN and a fifth null too."""
    rng = np.random.default_rng(seed)
    cells = {"user_id": pa.array(np.arange(rows))}
    for i in range(columns):
        values, ill = rng.random(rows, dtype=np.float32), i < round(case.failing * columns)
        if ill:
            values *= 2
        if ill and case.every_rule:
            values[::7] = np.nan
        null = rng.random(rows) < (0.2 if ill and case.every_rule else 0.05)
        cells[f"f{i}"] = pa.array(values, mask=null)
    return pa.table(cells)


def timed(work: Callable[[], frozenset[str]], repeat: int) -> Took:
    """The best of `repeat` runs."""
    runs = []
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        failed = work()
        runs.append((time.perf_counter() - wall, time.process_time() - cpu, failed))
    wall, cpu, failed = min(runs, key=lambda run: run[0])
    return Took(wall, cpu, failed)


def ours(path: Path, columns: int, docs: Path | None, reference: Path | None, repeat: int) -> Took:
    """Our gate on a Parquet file."""
    contract = contract_of(columns)
    learned = Reference("the reference", reference) if reference else None

    def run() -> frozenset[str]:
        report = check(contract, path, as_of=AS_OF, docs=docs, reference=learned)
        return frozenset(one.column for one in report.findings if one.severity == "error")

    return timed(run, repeat)


def plain(table: pa.Table, repeat: int) -> tuple[Took, int]:
    """Stock expectations on pandas, one per column and rule; and how many they are."""
    frame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    names = [name for name in table.column_names if name != "user_id"]
    expectations = [
        gxe.ExpectColumnValuesToNotBeNull(column="user_id"),
        gxe.ExpectColumnValuesToBeUnique(column="user_id"),
        *(one for name in names for one in (
            gxe.ExpectColumnValuesToBeOfType(column=name, type_="float32"),
            gxe.ExpectColumnValuesToNotBeNull(column=name, mostly=1 - AT_MOST),
            gxe.ExpectColumnValuesToBeBetween(column=name, min_value=0, max_value=1))),
    ]  # fmt: skip
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("plain").add_dataframe_asset("wide")
    batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})
    suite = gx.ExpectationSuite(name="plain", expectations=expectations)

    def run() -> frozenset[str]:
        results = batch.validate(suite).results
        return frozenset(one.expectation_config.kwargs["column"] for one in results if not one.success)

    return timed(run, repeat), len(expectations)


def measure(asked: argparse.Namespace, folder: Path) -> Iterator[dict[str, object]]:
    """Every case at full size, then each side by side with plain Great Expectations."""
    for case in CASES:
        path = folder / "wide.parquet"
        pq.write_table(table_of(case, asked.columns, asked.rows, seed=1), path, use_dictionary=False)
        for docs in (None, folder / "docs"):
            took = ours(path, asked.columns, docs, None, asked.repeat)
            yield row("ours" + (", with pages" if docs else ""), case, asked.columns, asked.rows, took)
    path, earlier = folder / "wide.parquet", folder / "reference.parquet"
    for file, seed in ((path, 1), (earlier, 2)):
        pq.write_table(table_of(CASES[0], asked.columns, asked.rows, seed), file, use_dictionary=False)
    took = ours(path, asked.columns, folder / "docs", earlier, asked.repeat)
    yield row("ours, with pages and drift from as many rows", CASES[0], asked.columns, asked.rows, took)
    size = (asked.columns, asked.rows) if asked.plain_full else (asked.plain_columns, asked.plain_rows)
    for case in CASES[:3]:
        table = table_of(case, *size, seed=1)
        pq.write_table(table, path, use_dictionary=False)
        took = ours(path, size[0], None, None, asked.repeat)
        stock, count = plain(table, 1)
        if took.failed != stock.failed:
            raise SystemExit(f"{case.name}: verdicts differ in {sorted(took.failed ^ stock.failed)[:5]}")
        yield row("ours", case, *size, took)
        yield row(f"plain Great Expectations, {count:,} expectations", case, *size, stock) | {
            "times_ours": round(stock.wall / took.wall, 1)
        }


def row(who: str, case: Case, columns: int, rows: int, took: Took) -> dict[str, object]:
    """A line of the table."""
    made = {"who": who, "case": case.name, "columns": columns, "rows": rows, "failed_columns": len(took.failed),
            "wall_s": round(took.wall, 2), "cpu_s": round(took.cpu, 2)}  # fmt: skip
    print(f"{who:<52} {case.name:<32} {columns:>4} x {rows:>7,} {len(took.failed):>4} failed "
          f"{took.wall:>8.2f} s wall {took.cpu:>8.2f} s CPU", flush=True)  # fmt: skip
    return made


def main() -> None:
    """Measure, print, and end with RESULT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, default=550)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--plain-columns", type=int, default=55)
    parser.add_argument("--plain-rows", type=int, default=20_000)
    parser.add_argument(
        "--plain-full", action="store_true", help="plain Great Expectations at full size: minutes"
    )
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines = list(measure(asked, Path(folder)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    worst = max(
        float(str(line["wall_s"]))
        for line in lines
        if line["rows"] == asked.rows and str(line["who"]).startswith("ours")
    )
    print(
        f"slowest of ours at {asked.columns} x {asked.rows:,}: {worst:.2f} s (target < 10 s); peak {peak:.2f} GB"
    )
    print(
        "RESULT "
        + json.dumps({"lines": lines, "slowest_ours_s": worst, "peak_gb": round(peak, 2), "target_s": 10})
    )


if __name__ == "__main__":
    main()

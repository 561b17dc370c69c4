"""The gate against plain Great Expectations: one stock expectation per column and rule, same verdicts."""

import math
from datetime import UTC, datetime, timedelta

import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from validations.checks import Before, Finite, OfType, checks, describe
from validations.expectations import Between, ColumnContract, DType, NullShare, OneOf, TableContract
from validations.gate import check
from validations.inspection import uniqueness
from validations.run import _context

AS_OF = datetime(2026, 3, 1, tzinfo=UTC)
ROWS = 40
PANDAS_NAME = {
    DType.FLOAT: "float32",
    DType.DOUBLE: "float64",
    DType.BIGINT: "int64",
    DType.VARCHAR: "str",
    DType.TIMESTAMP: "Timestamp",
}
CONTRACT = TableContract(
    "poisoned",
    key=("user_id", "title_id"),
    columns=(
        ColumnContract("user_id", DType.BIGINT, (Between(low=0),)),
        ColumnContract("title_id", DType.BIGINT, (Between(0, 9),)),
        ColumnContract("completed_share", DType.FLOAT, (Between(0, 1), NullShare(0.25))),
        ColumnContract("watch_minutes", DType.DOUBLE, (Between(high=100), NullShare(0.5))),
        ColumnContract("position", DType.BIGINT, (Between(0.5, 20), NullShare(0), OneOf(range(18)))),
        ColumnContract("device", DType.VARCHAR, (OneOf(["phone", "tv"]), NullShare(0.125))),
        ColumnContract("event_timestamp", DType.TIMESTAMP, (NullShare(0),)),
    ),
    not_after=("event_timestamp",),
    row_count=Between(30, 50),
)


def poisoned(seed):
    """A random table in which every rule of the contract is broken in about half of all seeds.

    No NaN: stock expectations over pandas cannot tell it from null.
    """
    rng = np.random.default_rng(seed)

    def ill():
        return rng.random() < 0.5

    def holes(most):
        return rng.random(ROWS) < (most if ill() else 0)

    n = ROWS if ill() else 25
    share = rng.random(ROWS).astype(np.float32) + np.float32(0.1 if ill() else -0.0)
    share[share > 1] = np.float32(np.inf) if ill() else np.float32(1.1 if ill() else 1)
    days = np.sort(rng.integers(0, 60 if ill() else 27, ROWS))
    moments = [AS_OF - timedelta(days=28) + timedelta(days=int(day)) for day in days]
    return pa.table(
        {
            "user_id": pa.array(rng.integers(-1 if ill() else 0, 60, ROWS), mask=holes(0.05)),
            "title_id": pa.array(rng.integers(0, 11 if ill() else 10, ROWS), mask=holes(0.05)),
            "completed_share": pa.array(share, mask=holes(0.5)),
            "watch_minutes": pa.array(rng.normal(60, 20 if ill() else 1, ROWS), mask=holes(1)),
            "position": pa.array(rng.integers(0 if ill() else 1, 23 if ill() else 18, ROWS), mask=holes(0.1)),
            "device": pa.array(
                rng.choice(["phone", "tv", "fridge"] if ill() else ["phone", "tv"], ROWS), mask=holes(0.25)
            ),
            "event_timestamp": pa.array(moments, pa.timestamp("us", "UTC"), mask=holes(0.1)),
        }
    ).slice(0, n)


def stock(column, rule, dtype):
    """The expectation of Great Expectations' own that says what a rule of ours says."""
    match rule:
        case OfType():
            return gxe.ExpectColumnValuesToBeOfType(column=column, type_=PANDAS_NAME[dtype])
        case Finite():
            most = float(np.finfo(np.float32 if dtype is DType.FLOAT else np.float64).max)
            return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=-most, max_value=most)
        case Before():
            return gxe.ExpectColumnValuesToBeBetween(column=column, max_value=AS_OF, strict_max=True)
        case NullShare(at_most):
            least = float(
                np.nextafter(1 - at_most, 0)
            )  # 1 - 1/3 is rounded up: above the two of three that are enough
            return gxe.ExpectColumnValuesToNotBeNull(column=column, mostly=least)
        case OneOf(values):
            return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(values))
        case Between(low, high):
            return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high)


def plain_batch(table):
    """The table as Great Expectations usually sees one: a NumPy-backed frame, its null floats NaN."""
    frame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    asset = _context(None).data_sources.add_pandas("plain").add_dataframe_asset("poisoned")
    return asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})


def plain_verdicts(table):
    """Column and rule → (met, number of unexpected values), each by a stock expectation of its own."""
    batch = plain_batch(table)
    dtypes = {column.name: column.dtype for column in CONTRACT.columns}
    verdicts = {}
    for one in checks(CONTRACT, AS_OF):
        result = batch.validate(stock(one.column, one.rule, dtypes[one.column]))
        verdicts[one.column, describe(one.rule)] = (result.success, result.result.get("unexpected_count", 0))
    unique = gxe.ExpectCompoundColumnsToBeUnique(
        column_list=list(CONTRACT.key), ignore_row_if="any_value_is_missing"
    )
    result = batch.validate(unique)
    verdicts["user_id, title_id", "unique together"] = (result.success, result.result["unexpected_count"])
    count = gxe.ExpectTableRowCountToBeBetween(min_value=30, max_value=50)
    verdicts["(rows)", "between 30 and 50"] = (batch.validate(count).success, None)
    return verdicts


@pytest.mark.parametrize("seed", range(12))
def test_one_expectation_over_all_columns_agrees_with_a_stock_expectation_for_each(seed):
    table = poisoned(seed)
    plain = plain_verdicts(table)
    found = {(one.column, one.expectation): one for one in check(CONTRACT, table, as_of=AS_OF).findings}
    assert set(found) == {rule for rule, (met, _) in plain.items() if not met}
    for rule, finding in found.items():
        assert finding.unexpected_count == plain[rule][1], rule


def test_the_poison_of_these_seeds_breaks_every_rule_at_least_once_and_spares_it_at_least_once():
    broken = [
        {(one.column, one.expectation) for one in check(CONTRACT, poisoned(seed), as_of=AS_OF).findings}
        for seed in range(12)
    ]
    untyped = {
        (one.column, describe(one.rule))
        for one in checks(CONTRACT, AS_OF)
        if not isinstance(one.rule, OfType)
    }
    never = untyped - set.union(*broken)
    assert never == {("watch_minutes", "finite numbers")}  # a normal draw is finite
    assert set.intersection(*broken) == set()


def test_a_column_of_another_type_fails_as_plain_great_expectations_fails_it():
    table = poisoned(0)
    other = {
        "completed_share": pa.array(["0.5"] * len(table)),
        "watch_minutes": pa.array([1.0] * len(table), pa.float32()),
        "device": pa.array([1] * len(table)),
        "event_timestamp": pa.array(["yesterday"] * len(table)),
    }
    for name, cells in other.items():
        table = table.set_column(table.column_names.index(name), name, cells)
    batch = plain_batch(table)
    plain = {
        column.name
        for column in CONTRACT.columns
        if not batch.validate(stock(column.name, OfType(column.dtype), column.dtype)).success
    }
    ours = {
        one.column
        for one in check(CONTRACT, table, as_of=AS_OF).findings
        if one.expectation.startswith("type ")
    }
    assert ours == plain == set(other)


# Any table, any contract. Frames of Arrow's own types, in which pandas keeps null apart from NaN.

ARROW = {
    DType.FLOAT: pa.float32(),
    DType.DOUBLE: pa.float64(),
    DType.BIGINT: pa.int64(),
    DType.BOOLEAN: pa.bool_(),
    DType.VARCHAR: pa.string(),
    DType.TIMESTAMP: pa.timestamp("us", "UTC"),
}
SECOND = timedelta(seconds=1)
numbers = st.one_of(
    st.integers(-4, 4).map(float), st.sampled_from([0.1, -0.1, 3e38, math.nan, math.inf, -math.inf])
)
values = {
    DType.FLOAT: numbers.map(lambda x: float(np.float32(x))),
    DType.DOUBLE: numbers,
    DType.BIGINT: st.one_of(st.integers(-4, 4), st.sampled_from([2**53, 2**53 + 1, -(2**62)])),
    DType.BOOLEAN: st.booleans(),
    DType.VARCHAR: st.sampled_from(["tv", "phone", "it's", "", "☂"]),
    DType.TIMESTAMP: st.integers(-3, 3).map(lambda s: AS_OF + s * SECOND),
}
edges = st.one_of(st.integers(-3, 3).map(float), st.sampled_from([0.1, 0.5, -0.1]))
ranges = st.one_of(
    st.tuples(edges, edges).map(lambda pair: Between(min(pair), max(pair))),
    edges.map(lambda low: Between(low=low)),
    edges.map(lambda high: Between(high=high)),
)
shares = st.sampled_from([0, 1 / 3, 0.25, 0.5, 1]).map(NullShare)
rules = {
    DType.FLOAT: st.one_of(ranges, shares),
    DType.DOUBLE: st.one_of(ranges, shares),
    DType.BIGINT: st.one_of(ranges, shares, st.lists(st.integers(-3, 3), min_size=1).map(OneOf)),
    DType.BOOLEAN: shares,
    DType.VARCHAR: st.one_of(shares, st.lists(values[DType.VARCHAR], min_size=1).map(OneOf)),
    DType.TIMESTAMP: shares,
}


@st.composite
def contracts_with_tables(draw):
    rows = draw(st.sampled_from([0, 1, 2, 3, 7, 12]))
    dtypes = [DType.BIGINT, *draw(st.lists(st.sampled_from(list(ARROW)), min_size=1, max_size=4))]
    columns, cells = [], {}
    for i, dtype in enumerate(dtypes):
        declared = draw(st.lists(rules[dtype], max_size=2, unique_by=describe))
        columns.append(ColumnContract(f"c{i}", dtype, tuple(declared)))
        cell = st.one_of(st.none(), values[dtype]) if draw(st.booleans()) else values[dtype]
        cells[f"c{i}"] = pa.array(draw(st.lists(cell, min_size=rows, max_size=rows)), ARROW[dtype])
    contract = TableContract(
        "any",
        key=tuple(f"c{i}" for i in range(draw(st.integers(1, 2)))),
        columns=tuple(columns),
        not_after=tuple(c.name for c in columns if c.dtype is DType.TIMESTAMP),
        row_count=Between(draw(st.integers(0, 2)), 7),
    )
    return contract, pa.table(cells)


AS_MANY_AS_ALLOWED = (
    TableContract(
        "any", key=("c0",), row_count=Between(0, 7),
        columns=(ColumnContract("c0", DType.BIGINT, ()), ColumnContract("c1", DType.BOOLEAN, (NullShare(1 / 3),))),
    ),
    pa.table({"c0": [1, 2, 3], "c1": pa.array([None, False, False])}),
)  # fmt: skip
"""One null of three rows, where a third may be null."""


def stock_in_the_columns_type(column, rule, dtype):
    """As `stock`, with bounds rounded to float32 where values were, and finite as the sum of nothing but numbers."""
    match rule:
        case Between(low, high) if dtype is DType.FLOAT:
            low, high = (None if bound is None else float(np.float32(bound)) for bound in (low, high))
            return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high)
        case _:
            return stock(column, rule, dtype)


def arrow_batch(table):
    asset = _context(None).data_sources.add_pandas("arrow").add_dataframe_asset("any")
    frame = table.to_pandas(types_mapper=pd.ArrowDtype)
    return asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})


def verdicts_of_plain_great_expectations(contract, table):
    """(Column, rule) → (met, unexpected values), for everything a contract says of cells, keys and rows."""
    batch = arrow_batch(table)
    dtypes = {column.name: column.dtype for column in contract.columns}
    verdicts = {}
    for one in checks(contract, AS_OF):
        if not isinstance(
            one.rule, OfType
        ):  # every column is of its type here; other types have a test above
            result = batch.validate(stock_in_the_columns_type(one.column, one.rule, dtypes[one.column]))
            assert "'raised_exception': True" not in str(result.exception_info), result.exception_info
            verdicts[one.column, describe(one.rule)] = (
                result.success,
                result.result.get("unexpected_count", 0),
            )
    if len(contract.key) > 1:
        unique = gxe.ExpectCompoundColumnsToBeUnique(
            column_list=list(contract.key), ignore_row_if="any_value_is_missing"
        )
    else:
        unique = gxe.ExpectColumnValuesToBeUnique(column=contract.key[0])
    result = batch.validate(unique)
    verdicts[", ".join(contract.key), uniqueness(contract)] = (
        result.success,
        result.result.get("unexpected_count", 0),
    )
    low, high = contract.row_count.low, contract.row_count.high
    counted = batch.validate(gxe.ExpectTableRowCountToBeBetween(min_value=low, max_value=high))
    verdicts["(rows)", describe(contract.row_count)] = (counted.success, None)
    return verdicts


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(contracts_with_tables())
@example(AS_MANY_AS_ALLOWED)
def test_whatever_the_table_and_the_contract_plain_great_expectations_says_the_same(drawn):
    contract, table = drawn
    plain = verdicts_of_plain_great_expectations(contract, table)
    report = check(contract, table, as_of=AS_OF)
    found = {(one.column, one.expectation): one.unexpected_count for one in report.findings}
    assert found == {rule: count for rule, (met, count) in plain.items() if not met}
    assert report.passed == all(met for met, _ in plain.values())

"""Rows at fault are set aside with their reasons, and only rows at fault, and only a few."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validations.expectations import (
    Between,
    ColumnContract,
    DType,
    NullShare,
    OneOf,
    Quarantine,
    TableContract,
)
from validations.gate import check
from validations.quarantine import read_quarantine, sift, write_quarantine

AS_OF = datetime(2026, 3, 1, tzinfo=UTC)
ROWS = 100
CONTRACT = TableContract(
    "users",
    key=("user_id",),
    columns=(
        ColumnContract("user_id", DType.BIGINT),
        ColumnContract("plays", DType.BIGINT, (Between(0, 50), NullShare(0))),
        ColumnContract("share", DType.FLOAT, (Between(0, 1), NullShare(0.5))),
        ColumnContract("device", DType.VARCHAR, (OneOf(["tv", "phone"]),)),
        ColumnContract("event_timestamp", DType.TIMESTAMP),
    ),
    not_after=("event_timestamp",),
    quarantine=Quarantine(at_most=0.05),
)


def users(**replaced):
    """A hundred users as they should be, but for cells replaced by (row, value)."""
    columns = {
        "user_id": list(range(1000, 1000 + ROWS)),
        "plays": [3] * ROWS,
        "share": [0.5] * ROWS,
        "device": ["tv"] * ROWS,
        "event_timestamp": [AS_OF - timedelta(days=1)] * ROWS,
    }
    for name, cells in replaced.items():
        for row, value in cells.items():
            columns[name][row] = value
    types = [pa.int64(), pa.int64(), pa.float32(), pa.string(), pa.timestamp("us", "UTC")]
    return pa.table(
        {name: pa.array(cells, dtype) for (name, cells), dtype in zip(columns.items(), types, strict=True)}
    )


@pytest.mark.parametrize(
    ("column", "cell", "reason"),
    [
        pytest.param("plays", -1, ("plays", "between 0 and 50", "-1"), id="out of range"),
        pytest.param("plays", None, ("plays", "never null", None), id="null where none may be"),
        pytest.param("share", math.inf, ("share", "finite numbers", "inf"), id="not finite"),
        pytest.param("device", "fridge", ("device", "one of phone, tv", "fridge"), id="not among those allowed"),
        pytest.param("event_timestamp", AS_OF, ("event_timestamp", "before 2026-03-01T00:00:00Z", "2026-03-01 00:00:00+00"), id="from the future"),
        pytest.param("user_id", None, ("user_id", "never null", None), id="without a key"),
    ],
)  # fmt: skip
def test_a_row_at_fault_is_set_aside_with_what_it_does_not_meet(column, cell, reason):
    table = users(**{column: {7: cell}})
    sifted = sift(CONTRACT, table, AS_OF)
    assert sifted.kept.equals(pa.concat_tables([table.slice(0, 7), table.slice(8)]))
    (row,) = sifted.aside.rows.to_pylist()
    assert row["_row"] == 7
    assert tuple(row["_reasons"][0].values()) == reason
    assert {name: row[name] for name in table.column_names} == table.slice(7, 1).to_pylist()[0]
    assert check(CONTRACT, sifted.kept, as_of=AS_OF).passed


def test_a_row_is_set_aside_once_with_everything_it_breaks():
    sifted = sift(CONTRACT, users(plays={7: 51}, share={7: math.nan}, device={7: "fridge", 9: "oven"}), AS_OF)
    told = {
        row["_row"]: [(r["column"], r["value"]) for r in row["_reasons"]]
        for row in sifted.aside.rows.to_pylist()
    }
    assert told == {
        7: [("plays", "51"), ("share", "nan"), ("share", "nan"), ("device", "fridge")],
        9: [("device", "oven")],
    }
    assert sifted.kept.num_rows == ROWS - 2


def test_of_rows_that_share_a_key_none_is_kept():
    sifted = sift(CONTRACT, users(user_id={1: 1000, 5: 1000}), AS_OF)
    assert sifted.aside.rows["_row"].to_pylist() == [0, 1, 5]
    assert sifted.aside.rows["_reasons"].to_pylist()[0] == [
        {"column": "user_id", "expectation": "unique", "value": "1000"}
    ]
    assert check(CONTRACT, sifted.kept, as_of=AS_OF).passed
    assert sift(CONTRACT, users(user_id={5: 1000}), AS_OF).aside.rows["_row"].to_pylist() == [0, 5]


@pytest.mark.parametrize(("bad", "set_aside"), [(4, True), (5, True), (6, False), (100, False)])
def test_more_rows_than_declared_stop_the_table(bad, set_aside):
    sifted = sift(CONTRACT, users(plays=dict.fromkeys(range(bad), -1)), AS_OF)
    assert (sifted is not None) == set_aside
    if set_aside:
        assert sifted.aside.rows.num_rows == bad


def test_the_share_is_of_rows_and_not_of_what_each_rule_finds():
    """Three rules, three rows each: nine rows are at fault although none of the rules finds more than five."""
    three = {"plays": {0: -1, 1: -1, 2: -1}, "share": {3: 2, 4: 2, 5: 2}, "device": {6: "x", 7: "x", 8: "x"}}
    assert sift(CONTRACT, users(**three), AS_OF) is None


def test_without_a_declaration_nothing_is_set_aside():
    assert sift(replace(CONTRACT, quarantine=None), users(plays={7: -1}), AS_OF) is None


def test_a_sound_table_and_an_empty_one_have_nothing_to_set_aside():
    assert sift(CONTRACT, users(), AS_OF) is None
    assert sift(CONTRACT, users().slice(0, 0), AS_OF) is None


def test_what_is_the_tables_fault_is_no_rows():
    """Too many nulls and a wrong type stay in the table, which then fails as a whole."""
    holed = users(share=dict.fromkeys(range(60)))
    assert sift(CONTRACT, holed, AS_OF) is None
    few = tuple(
        replace(c, expectations=(NullShare(0.01),)) if c.name == "share" else c for c in CONTRACT.columns
    )
    assert sift(replace(CONTRACT, columns=few), users(share={1: None, 2: None}), AS_OF) is None
    retyped = users(device={7: "fridge"})
    retyped = retyped.set_column(1, "plays", retyped["plays"].cast(pa.int32()))
    sifted = sift(CONTRACT, retyped, AS_OF)
    assert sifted.aside.rows["_row"].to_pylist() == [7]
    assert not check(CONTRACT, sifted.kept, as_of=AS_OF).passed


def test_what_was_set_aside_is_a_warning_with_its_rows_in_the_report_of_the_rest():
    sifted = sift(CONTRACT, users(plays={7: -1, 9: -2}), AS_OF)
    report = check(CONTRACT, sifted.kept, as_of=AS_OF, aside=sifted.aside)
    (finding,) = report.findings
    assert (report.passed, report.rows, report.quarantined) == (True, 98, 2)
    assert (finding.severity, finding.column, finding.unexpected_count, finding.unexpected_share) == (
        "warning",
        "plays",
        2,
        0.02,
    )
    assert finding.observed == "2 of 100 rows set aside"
    assert [(one.row, one.key, one.value) for one in finding.sample] == [
        (7, (1007,), "-1"),
        (9, (1009,), "-2"),
    ]
    assert "98 rows and 2 set aside" in report.summary


def test_what_was_set_aside_is_read_back_for_the_file_it_was_taken_out_of_and_for_no_other(tmp_path):
    sifted = sift(CONTRACT, users(plays={7: -1}), AS_OF)
    kept, aside = tmp_path / "kept.parquet", tmp_path / "aside" / "kept.parquet"
    pq.write_table(sifted.kept, kept)
    assert read_quarantine(CONTRACT, aside, kept) is None
    write_quarantine(aside, sifted.aside, passed=check(CONTRACT, kept, as_of=AS_OF).digest)
    read = read_quarantine(CONTRACT, aside, kept)
    assert read.findings == sifted.aside.findings
    assert read.rows.equals(sifted.aside.rows)
    pq.write_table(users(), kept)
    assert read_quarantine(CONTRACT, aside, kept) is None
    assert list(aside.parent.iterdir()) == [aside]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, ROWS - 1), st.sampled_from(["plays", "share", "device", "event_timestamp", "user_id"])),
        max_size=12,
    )
)  # fmt: skip
def test_rows_kept_and_rows_set_aside_are_all_the_rows_and_those_at_fault_are_never_kept(poison):
    ill = {
        "plays": 51,
        "share": 1.5,
        "device": "x",
        "event_timestamp": AS_OF + timedelta(days=1),
        "user_id": None,
    }
    replaced = {}
    for row, column in poison:
        replaced.setdefault(column, {})[row] = ill[column]
    table, at_fault = users(**replaced), {row for row, _ in poison}
    sifted = sift(CONTRACT, table, AS_OF)
    assert (sifted is None) == (not at_fault or len(at_fault) > 5)
    if sifted is not None:
        assert sifted.aside.rows["_row"].to_pylist() == sorted(at_fault)
        assert sifted.kept.equals(table.take(np.setdiff1d(np.arange(ROWS), sorted(at_fault))))

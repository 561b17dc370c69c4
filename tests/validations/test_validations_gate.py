"""Poison stopped at the gate: each kind of damage is found, and the finding names the column and the rows."""

import hashlib
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from validations.contracts import contract_digest
from validations.expectations import (
    Between,
    ColumnContract,
    DriftLimits,
    DType,
    Limits,
    NullShare,
    OneOf,
    TableContract,
)
from validations.gate import GateBroken, Reference, check
from validations.inspection import AT_ONCE, FIRST_ROWS, AmbiguousColumns
from validations.report import GateReport, Sample

AS_OF = datetime(2026, 3, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
WHEN = pa.timestamp("us", "UTC")

CONTRACT = TableContract(
    "user_activity",
    key=("user_id",),
    columns=(
        ColumnContract("user_id", DType.BIGINT, (Between(low=0),)),
        ColumnContract("completed_share_28d", DType.FLOAT, (Between(0, 1), NullShare(0.25))),
        ColumnContract("plays_28d", DType.BIGINT, (Between(0, 40_320),)),
        ColumnContract("device", DType.VARCHAR, (OneOf(["phone", "tv"]),)),
        ColumnContract("is_kid", DType.BOOLEAN),
        ColumnContract("genres", DType.VARCHARS, (NullShare(0),)),
        ColumnContract("event_timestamp", DType.TIMESTAMP, (NullShare(0),)),
    ),
    not_after=("event_timestamp",),
    row_count=Between(1, 6),
)


def sound(**replaced):
    """Four users that meet the contract exactly, null share at its limit, with columns replaced."""
    columns = {
        "user_id": pa.array([7, 8, 9, 10], pa.int64()),
        "completed_share_28d": pa.array([0.0, 0.5, 1.0, None], pa.float32()),
        "plays_28d": pa.array([0, 40_320, None, 3], pa.int64()),
        "device": pa.array(["tv", "phone", None, "tv"]),
        "is_kid": pa.array([True, False, None, False]),
        "genres": pa.array([["drama"], [], ["drama", "noir"], ["noir"]]),
        "event_timestamp": pa.array([AS_OF - SECOND, AS_OF - timedelta(microseconds=1)] * 2, WHEN),
    }
    return pa.table({**columns, **replaced})


def gate(table, contract=CONTRACT, **options):
    return check(contract, table, as_of=AS_OF, **options)


def only_finding(table, contract=CONTRACT):
    report = gate(table, contract)
    assert not report.passed
    (finding,) = report.findings
    return finding


def test_a_table_that_meets_its_contract_passes_without_findings():
    report = gate(sound())
    assert report.passed
    assert report.findings == ()
    assert (report.table, report.as_of, report.rows) == ("user_activity", AS_OF, 4)
    assert report.contract_digest == contract_digest(CONTRACT)
    # rows + columns; 7 types, a key without nulls, a finite float, 3 ranges, 3 null shares, a set, a time, a unique key
    assert report.evaluated == 2 + 7 + 1 + 1 + 3 + 3 + 1 + 1 + 1


def test_more_nulls_than_allowed_are_found_with_the_rows_they_are_in():
    finding = only_finding(sound(completed_share_28d=pa.array([0.1, None, 0.2, None], pa.float32())))
    assert (finding.column, finding.expectation) == ("completed_share_28d", "null in at most 0.25 of rows")
    assert (finding.unexpected_count, finding.unexpected_share) == (2, 0.5)
    assert finding.sample == (Sample(1, (8,), None), Sample(3, (10,), None))


@pytest.mark.parametrize(
    ("nulls", "rows", "at_most"), [(29, 100, 0.29), (7, 10, 0.7), (3, 10, 0.3), (1, 3, 1 / 3)]
)
def test_a_null_share_at_its_limit_passes_whatever_binary_fractions_do_to_it(nulls, rows, at_most):
    contract = TableContract("one", (), (ColumnContract("x", DType.FLOAT, (NullShare(at_most),)),))
    cells = [None] * nulls + [1.0] * (rows - nulls)
    assert gate(pa.table({"x": pa.array(cells, pa.float32())}), contract).passed
    cells[-1] = None
    assert not gate(pa.table({"x": pa.array(cells, pa.float32())}), contract).passed


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [DType.FLOAT, DType.DOUBLE])
def test_a_float_that_is_not_finite_is_found_even_where_nothing_is_declared(poison, dtype):
    contract = TableContract("one", (), (ColumnContract("x", dtype),))
    arrow = pa.float32() if dtype is DType.FLOAT else pa.float64()
    finding = only_finding(pa.table({"x": pa.array([1.0, poison, None], arrow)}), contract)
    assert (finding.column, finding.expectation, finding.unexpected_count) == ("x", "finite numbers", 1)
    assert finding.sample == (Sample(1, (), str(poison)),)


@pytest.mark.parametrize("bounds", [Between(0, 1), Between(low=0), Between(high=1)])
def test_nan_lies_outside_every_range(bounds):
    contract = TableContract("one", (), (ColumnContract("x", DType.FLOAT, (bounds,)),))
    report = gate(pa.table({"x": pa.array([0.5, math.nan], pa.float32())}), contract)
    assert [finding.unexpected_count for finding in report.findings] == [1, 1]
    assert report.findings[0].expectation == "finite numbers"
    assert report.findings[1].sample == (Sample(1, (), "nan"),)


@pytest.mark.parametrize(
    ("plays", "outside"),
    [
        pytest.param([-1, 0, 1, 2], [-1], id="just below"),
        pytest.param([0, 1, 40_321, 40_322], [40_321, 40_322], id="just above"),
    ],
)
def test_values_outside_their_range_are_found_and_the_ends_are_inside(plays, outside):
    finding = only_finding(sound(plays_28d=pa.array(plays, pa.int64())))
    assert (finding.column, finding.expectation) == ("plays_28d", "between 0 and 40320")
    assert finding.unexpected_count == len(outside)
    assert [one.value for one in finding.sample] == [str(value) for value in outside]
    assert f"values from {min(plays)} to {max(plays)}" in finding.observed


@pytest.mark.parametrize("bounds", [Between(-1, math.inf), Between(-1, 1e300)])
def test_a_bound_no_float32_can_reach_bounds_nothing(bounds):
    contract = TableContract("one", (), (ColumnContract("x", DType.FLOAT, (bounds,)),))
    assert gate(pa.table({"x": pa.array([-1, 3e38], pa.float32())}), contract).passed
    assert only_finding(pa.table({"x": pa.array([-2, 3e38], pa.float32())}), contract).unexpected_count == 1


def test_a_bound_is_rounded_to_float32_like_the_values_it_bounds():
    contract = TableContract("one", (), (ColumnContract("x", DType.FLOAT, (Between(-0.1, 0.1),)),))
    tenth = np.float32(0.1)
    assert float(tenth) > 0.1  # so that comparing in double precision would fail an honest 0.1
    assert gate(pa.table({"x": pa.array([tenth, -tenth])}), contract).passed
    beyond = np.nextafter(tenth, np.float32(1))
    assert not gate(pa.table({"x": pa.array([beyond])}), contract).passed


def test_whole_numbers_are_compared_exactly_where_a_double_would_round():
    limit = 2**53
    contract = TableContract("one", (), (ColumnContract("x", DType.BIGINT, (Between(0, limit),)),))
    assert gate(pa.table({"x": [limit]}), contract).passed
    assert not gate(pa.table({"x": [limit + 1]}), contract).passed  # equal to the limit as a double


def test_a_value_that_is_not_among_those_allowed_is_found():
    finding = only_finding(sound(device=pa.array(["tv", "toaster", None, "fridge"])))
    assert (finding.column, finding.expectation) == ("device", "one of phone, tv")
    assert finding.sample == (Sample(1, (8,), "toaster"), Sample(3, (10,), "fridge"))


def test_an_allowed_value_may_contain_a_quote():
    contract = TableContract("one", (), (ColumnContract("x", DType.VARCHAR, (OneOf(["it's", "x' OR 'x"]),)),))
    assert gate(pa.table({"x": ["it's", "x' OR 'x"]}), contract).passed
    assert not gate(pa.table({"x": ["its"]}), contract).passed


def test_text_where_a_float_is_declared_is_found_and_cells_that_are_no_number_are_counted():
    finding = only_finding(sound(completed_share_28d=pa.array(["0.5", "a lot", None, "1"])))
    assert (finding.column, finding.expectation) == ("completed_share_28d", "type FLOAT")
    assert finding.observed == "VARCHAR, in which 1 of 4 cells cannot be read as FLOAT"
    assert finding.sample == (Sample(1, (8,), "a lot"),)


def test_the_values_of_a_column_of_another_type_are_held_against_its_expectations_too():
    report = gate(sound(completed_share_28d=pa.array(["0.5", "1.5", None, "nan"])))
    assert [(finding.expectation, finding.unexpected_count) for finding in report.findings] == [
        ("type FLOAT", 0),
        ("finite numbers", 1),
        ("between 0 and 1", 2),
    ]


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        pytest.param("completed_share_28d", pa.array([0.5] * 4, pa.float64()), id="double for float"),
        pytest.param("plays_28d", pa.array([1] * 4, pa.int32()), id="int32 for int64"),
        pytest.param("plays_28d", pa.array([1.0] * 4, pa.float64()), id="double for int64"),
        pytest.param("is_kid", pa.nulls(4), id="nothing but nulls, without a type"),
        pytest.param("event_timestamp", pa.array([0] * 4, pa.timestamp("ns", "UTC")), id="nanoseconds"),
        pytest.param("event_timestamp", pa.array([0] * 4, pa.timestamp("us")), id="no time zone"),
        pytest.param("genres", pa.array(["drama"] * 4), id="text for a list"),
    ],
)
def test_a_column_of_another_type_is_found_even_if_every_cell_could_be_cast(column, cells):
    finding = next(one for one in gate(sound(**{column: cells})).findings if one.column == column)
    assert finding.expectation.startswith("type ")


@pytest.mark.parametrize(
    "cells", [pa.array(["tv"] * 4).dictionary_encode(), pa.array(["tv"] * 4, pa.large_string())]
)
def test_how_text_is_encoded_is_not_its_type(cells):
    assert gate(sound(device=cells)).passed


def test_a_missing_and_an_undeclared_column_are_found():
    missing, extra = gate(sound().rename_columns({"plays_28d": "Plays_28d"})).findings
    assert (missing.column, missing.observed) == ("plays_28d", "no such column")
    assert (extra.column, extra.expectation) == ("Plays_28d", "only declared columns")
    assert missing.unexpected_count is None


def test_a_missing_key_column_is_found_and_samples_then_go_by_row():
    report = gate(sound(is_kid=pa.array([1, 2, 3, 4])).drop_columns("user_id"))
    assert [finding.column for finding in report.findings] == ["user_id", "is_kid"]
    wild = gate(sound(plays_28d=pa.array([-1, 0, 0, 0])).drop_columns("user_id")).findings[1]
    assert wild.sample == (Sample(0, (), "-1"),)


def test_rows_that_share_a_key_are_found_together():
    finding = only_finding(sound(user_id=pa.array([7, 8, 7, 8], pa.int64())))
    assert (finding.column, finding.expectation) == ("user_id", "unique")
    assert (finding.unexpected_count, finding.unexpected_share) == (4, 1.0)
    assert finding.observed == "4 of 4 rows share 2 keys"
    assert [one.row for one in finding.sample] == [0, 1, 2, 3]


PAIRS = TableContract(
    "pairs",
    key=("user_id", "title_id"),
    columns=(ColumnContract("user_id", DType.BIGINT), ColumnContract("title_id", DType.BIGINT)),
)


def test_a_key_of_two_columns_is_unique_together_and_not_apart():
    assert gate(pa.table({"user_id": [1, 1, 2], "title_id": [1, 2, 1]}), PAIRS).passed
    finding = only_finding(pa.table({"user_id": [1, 1, 1], "title_id": [1, 2, 1]}), PAIRS)
    assert (finding.column, finding.expectation) == ("user_id, title_id", "unique together")
    assert finding.sample == (Sample(0, (1, 1), "1, 1"), Sample(2, (1, 1), "1, 1"))


def test_half_a_key_need_not_be_unique():
    finding = only_finding(pa.table({"user_id": [1, 1]}), PAIRS)
    assert (finding.column, finding.observed) == ("title_id", "no such column")


def test_a_null_in_a_key_is_found_as_a_null_and_not_as_a_duplicate():
    table = pa.table({"user_id": pa.array([1, None, None]), "title_id": [1, 2, 2]})
    finding = only_finding(table, PAIRS)
    assert (finding.column, finding.expectation, finding.unexpected_count) == ("user_id", "never null", 2)
    assert finding.sample == (Sample(1, (None, 2), None), Sample(2, (None, 2), None))


@pytest.mark.parametrize(
    ("moment", "passes"),
    [
        pytest.param(AS_OF - timedelta(microseconds=1), True, id="just before as_of"),
        pytest.param(AS_OF, False, id="exactly at as_of"),
        pytest.param(AS_OF + SECOND, False, id="after as_of"),
    ],
)
def test_nothing_may_come_from_the_future_and_as_of_is_the_future(moment, passes):
    before = AS_OF - SECOND
    report = gate(sound(event_timestamp=pa.array([before, before, moment, before], WHEN)))
    assert report.passed == passes
    if not passes:
        (finding,) = report.findings
        assert (finding.column, finding.expectation) == ("event_timestamp", "before 2026-03-01T00:00:00Z")
        text = moment.strftime("%Y-%m-%d %H:%M:%S+00")  # whatever the machine's own time zone
        assert finding.sample == (Sample(2, (9,), text),)


@pytest.mark.parametrize("moment", [2**63 - 1, 300_000 * 10**12])
def test_a_timestamp_too_great_for_a_calendar_is_from_the_future(moment):
    """DuckDB reads the greatest microsecond as infinity, which has no epoch; it must not pass as null."""
    endless = pa.array([0, 0, moment, 0], WHEN)
    assert only_finding(sound(event_timestamp=endless)).observed.endswith("the latest after the year 9999")


def test_as_of_may_be_given_in_any_time_zone_but_must_have_one():
    elsewhere = AS_OF.astimezone(timezone(timedelta(hours=9)))
    report = check(CONTRACT, sound(), as_of=elsewhere)
    assert report.passed
    assert "as of 2026-03-01 00:00 UTC" in report.summary
    assert report.to_dict()["as_of"] == "2026-03-01T00:00:00+00:00"
    with pytest.raises(ValueError, match="has no time zone"):
        check(CONTRACT, sound(), as_of=datetime(2026, 3, 1))


@pytest.mark.parametrize(("rows", "passes"), [(0, False), (1, True), (3, True), (4, True)])
def test_too_few_rows_are_found(rows, passes):
    report = gate(sound(completed_share_28d=pa.array([0.5] * 4, pa.float32())).slice(0, rows))
    assert report.passed == passes
    assert [finding.column for finding in report.findings] == [] if passes else ["(rows)"]


@pytest.mark.parametrize(("rows", "passes"), [(6, True), (7, False)])
def test_too_many_rows_are_found(rows, passes):
    full = pa.array([0.5] * 4, pa.float32())
    more = sound(completed_share_28d=full, user_id=pa.array([1, 2, 3, 4], pa.int64()))
    report = gate(pa.concat_tables([sound(completed_share_28d=full), more]).slice(0, rows))
    assert report.passed == passes
    if not passes:
        (finding,) = report.findings
        assert (finding.expectation, finding.observed) == ("between 1 and 6", "7 rows")


def test_a_table_without_rows_passes_where_the_contract_allows_none():
    empty = sound().slice(0, 0)
    anything_goes = TableContract(
        "empty", CONTRACT.key, CONTRACT.columns, ("event_timestamp",), Between(low=0)
    )
    assert gate(empty, anything_goes).passed


def test_a_wrong_type_is_found_in_a_table_without_rows_where_no_share_can_be_named():
    finding = gate(sound(plays_28d=pa.array(["3"] * 4)).slice(0, 0)).findings[1]
    assert (finding.column, finding.expectation) == ("plays_28d", "type BIGINT")
    assert (finding.unexpected_count, finding.unexpected_share) == (0, None)


def test_a_column_of_nothing_but_nulls_passes_where_nulls_are_allowed():
    assert gate(sound(plays_28d=pa.nulls(4, pa.int64()), device=pa.nulls(4, pa.string()))).passed


def test_a_finding_names_at_most_ten_rows_and_they_are_the_first():
    contract = TableContract("many", ("x",), (ColumnContract("x", DType.BIGINT, (Between(high=0),)),))
    finding = only_finding(pa.table({"x": range(5_000)}), contract)
    assert finding.unexpected_count == 4_999
    assert finding.sample == tuple(Sample(i, (i,), str(i)) for i in range(1, 11))


def test_two_columns_of_one_name_are_refused():
    twice = sound().append_column("device", pa.array(["tv"] * 4))
    with pytest.raises(AmbiguousColumns, match="'user_activity' has several columns called 'device'"):
        gate(twice)


def test_an_expectation_that_breaks_neither_passes_nor_fails_the_table(monkeypatch):
    def broken(*_):
        raise ArithmeticError("out of memory, say")

    monkeypatch.setattr("validations.suite.inspect", broken)
    with pytest.raises(GateBroken, match=r"'user_activity'.*expect_cells_to_meet_contract.*out of memory"):
        gate(sound())


def test_a_parquet_file_and_a_folder_of_them_are_read_as_the_table(tmp_path):
    day = tmp_path / "day=2026-02-28"
    day.mkdir()
    pq.write_table(sound().slice(0, 2), day / "part-a.parquet")
    pq.write_table(sound().slice(2, 2), day / "part-b.parquet")
    assert gate(tmp_path).passed
    assert gate(tmp_path).rows == 4
    assert gate(day / "part-a.parquet").rows == 2


def test_a_report_survives_json():
    report = gate(sound(user_id=pa.array([7, None, 7, 8], pa.int64()), device=pa.array(["a", "b", "c", "d"])))
    assert len(report.findings) == 3
    assert GateReport.from_dict(report.to_dict()) == report


def test_the_summary_says_what_happened_in_a_sentence():
    assert gate(sound()).summary == (
        "user_activity passed: 20 expectations, 4 rows, as of 2026-03-01 00:00 UTC."
    )
    assert gate(sound(device=pa.array(["a", "b", "c", "d"]))).summary == (
        "user_activity failed (20 expectations, 4 rows, as of 2026-03-01 00:00 UTC): "
        "device: expected one of phone, tv, found 4 of 4 something else."
    )


DRIFTING = TableContract(
    "drifting",
    ("user_id",),
    (
        ColumnContract("user_id", DType.BIGINT),
        ColumnContract("steady", DType.FLOAT),
        ColumnContract("moved", DType.FLOAT),
        ColumnContract("device", DType.VARCHAR),
    ),
)


def drifting(first_user, moved_by=0.0, lost=0):
    rng = np.random.default_rng(5 + first_user)
    moved = rng.normal(moved_by, size=2_000).astype(np.float32)
    return pa.table(
        {
            "user_id": range(first_user, first_user + 2_000),
            "steady": rng.normal(size=2_000).astype(np.float32),
            "moved": pa.array(moved, mask=np.arange(2_000) < lost),
            "device": ["tv"] * 2_000,
        }
    )


def test_drift_from_a_reference_is_a_warning_and_stops_nothing():
    earlier = Reference("ranker/1", drifting(0))
    report = gate(drifting(9_000, moved_by=1), DRIFTING, reference=earlier)
    assert report.passed
    assert [(one.column, one.severity) for one in report.findings] == [("moved", "warning")]
    assert "drifting passed with warnings" in report.summary
    assert report.reference == "ranker/1"


def test_drift_that_is_declared_critical_stops_the_table():
    report = gate(drifting(9_000, lost=1_100), DRIFTING, reference=Reference("earlier", drifting(0)))
    assert not report.passed  # more than half of a column is unknown that was known
    assert [(one.column, one.severity) for one in report.findings] == [("moved", "error")]
    tolerant = replace(DRIFTING, drift=DriftLimits(null_share=Limits(warning=0.5)))
    assert gate(drifting(9_000, lost=1_100), tolerant, reference=Reference("earlier", drifting(0))).passed


def test_a_column_may_be_held_to_other_limits_than_its_table():
    strict = DriftLimits(ks=Limits(error=0.3))
    columns = tuple(replace(c, drift=strict if c.name == "moved" else None) for c in DRIFTING.columns)
    earlier = Reference("earlier", drifting(0))
    report = gate(drifting(9_000, moved_by=1), replace(DRIFTING, columns=columns), reference=earlier)
    assert [(one.column, one.severity) for one in report.findings] == [("moved", "error")]
    assert not report.passed


def test_an_info_is_for_the_record_and_no_warning():
    quiet = replace(DRIFTING, drift=DriftLimits(psi=Limits(info=0.1), ks=Limits()))
    report = gate(drifting(9_000, moved_by=1), quiet, reference=Reference("earlier", drifting(0)))
    assert [(one.column, one.severity) for one in report.findings] == [("moved", "info")]
    assert (report.passed, report.warned) == (True, False)
    assert report.summary.startswith("drifting passed (")


def test_findings_are_told_the_worst_first():
    table = drifting(9_000, moved_by=1).set_column(
        1, "steady", pa.array([np.nan] * 3 + [0.0] * 1_997, pa.float32())
    )
    report = gate(table, DRIFTING, reference=Reference("earlier", drifting(0)))
    assert [one.severity for one in report.worst_first] == ["error", "warning", "warning"]
    assert report.worst_first[0].column == "steady"
    assert "steady: expected finite numbers" in report.summary


def test_a_reference_or_a_table_without_rows_gives_no_warning_of_drift():
    assert gate(sound(), reference=Reference("empty", sound().slice(0, 0))).findings == ()
    report = gate(sound().slice(0, 0), reference=Reference("earlier", sound()))
    assert [one.column for one in report.findings] == ["(rows)"]


def test_a_reference_that_is_no_longer_there_is_said_to_be_gone(tmp_path):
    report = gate(sound(), reference=Reference("user_activity of May", tmp_path / "gone.parquet"))
    (finding,) = report.findings
    assert (finding.severity, finding.column) == ("warning", "(drift)")
    assert (
        str(finding) == "(drift): expected a file of user_activity of May, found none: drift was not measured"
    )


def test_a_report_says_of_which_bytes_it_is_when_and_how_much_is_null(tmp_path):
    path = tmp_path / "table.parquet"
    pq.write_table(sound(), path)
    report = gate(path, at=AS_OF)
    assert report.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.at == AS_OF
    assert report.null_shares["completed_share_28d"] == 0.25
    assert report.null_shares["user_id"] == 0


def test_samples_beyond_the_first_rows_are_found_as_well():
    """The first ten offenders, whether all, some or none of them stand where samples are looked for first."""
    contract = TableContract(
        "many", ("x",), tuple(ColumnContract(n, DType.BIGINT, (Between(high=0),)) for n in "xabc")
    )
    rows = 3 * FIRST_ROWS
    where = {
        "x": list(range(rows)),
        "a": [FIRST_ROWS - 2, FIRST_ROWS - 1, FIRST_ROWS, FIRST_ROWS + 1, rows - 1],
        "b": [rows - 1],
        "c": list(range(FIRST_ROWS - 3, rows, 2)),
    }
    cells = {name: np.isin(np.arange(rows), places).astype(np.int64) for name, places in where.items()}
    table = pa.table({**cells, "x": np.arange(rows)})
    found = {one.column: one for one in gate(table, contract).findings}
    assert [s.row for s in found["x"].sample] == list(range(1, 11))
    for name in "abc":
        assert [s.row for s in found[name].sample] == where[name][:10]
        assert [s.key for s in found[name].sample] == [(row,) for row in where[name][:10]]
        assert {s.value for s in found[name].sample} == {"1"}


def test_more_columns_than_are_asked_about_at_once_are_all_looked_at():
    names = [f"f{i}" for i in range(2 * AT_ONCE + 3)]
    contract = TableContract(
        "wide", (), tuple(ColumnContract(n, DType.BIGINT, (Between(0, i),)) for i, n in enumerate(names))
    )
    report = gate(pa.table({name: [i + 1, -i] for i, name in enumerate(names)}), contract)
    assert [(one.column, one.unexpected_count) for one in report.findings] == [
        (n, 2 - (i == 0)) for i, n in enumerate(names)
    ]
    assert [one.sample[0].value for one in report.findings] == [str(i + 1) for i in range(len(names))]
